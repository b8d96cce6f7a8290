/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A device state for scripted-vmm: a head with a magic, its size, the writer's count and a
 * checksum, and noise that follows from the size, so that the loader knows each byte without having
 * it.
 */
#include "scripted_state.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#define STATE_MAGIC 0x6574617473746775u

struct state_head {
    uint64_t magic;
    uint64_t size;
    uint64_t written;
    uint64_t checksum;
};

static uint64_t sum_word(uint64_t sum, uint64_t word)
{
    return (sum ^ word) * 0x100000001b3u;
}

static uint64_t noise(uint64_t size, uint64_t at)
{
    uint64_t x = (size ^ at) * 0x9e3779b97f4a7c15u;

    return x ^ x >> 31;
}

static uint64_t checksum_of(const struct state_head *head)
{
    uint64_t sum = sum_word(sum_word(head->magic, head->size), head->written);

    for (uint64_t at = sizeof(*head); at < head->size; at += sizeof(uint64_t)) {
        sum = sum_word(sum, noise(head->size, at));
    }
    return sum;
}

static int put_all(int fd, const void *data, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t put = write(fd, (const char *)data + done, length - done);
        if (put < 0 && errno != EINTR) {
            return -errno;
        }
        done += put > 0 ? (size_t)put : 0;
    }
    return 0;
}

static int put_noise(int fd, uint64_t size)
{
    uint64_t words[512];
    int rc = 0;

    for (uint64_t at = sizeof(struct state_head); rc == 0 && at < size; at += sizeof(words)) {
        for (size_t i = 0; i < 512; i++) {
            words[i] = noise(size, at + i * sizeof(uint64_t));
        }
        rc = put_all(fd, words, size - at < sizeof(words) ? size - at : sizeof(words));
    }
    return rc;
}

int state_put(int fd, uint64_t size, uint64_t written)
{
    struct state_head head = {.magic = STATE_MAGIC, .size = size, .written = written};

    head.checksum = checksum_of(&head);
    int rc = put_all(fd, &head, sizeof(head));
    return rc == 0 ? put_noise(fd, size) : rc;
}

static int get_all(int fd, void *data, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t got = read(fd, (char *)data + done, length - done);
        if (got == 0) {
            return -ENODATA;
        }
        if (got < 0 && errno != EINTR) {
            return -errno;
        }
        done += got > 0 ? (size_t)got : 0;
    }
    return 0;
}

static int check_noise(int fd, uint64_t size)
{
    uint64_t words[512];

    for (uint64_t at = sizeof(struct state_head); at < size; at += sizeof(words)) {
        uint64_t part = size - at < sizeof(words) ? size - at : sizeof(words);
        int rc = get_all(fd, words, part);
        if (rc != 0) {
            return rc;
        }
        for (size_t i = 0; i < part / sizeof(uint64_t); i++) {
            if (words[i] != noise(size, at + i * sizeof(uint64_t))) {
                return -EBADMSG;
            }
        }
    }
    return 0;
}

int state_check(int fd, uint64_t *written)
{
    struct state_head head = {0};
    struct stat info;
    int rc = get_all(fd, &head, sizeof(head));

    if (rc == 0 && (fstat(fd, &info) != 0 || head.magic != STATE_MAGIC ||
                    head.size != (uint64_t)info.st_size || head.size % sizeof(uint64_t) != 0)) {
        rc = -EINVAL;
    }
    if (rc == 0 && head.checksum != checksum_of(&head)) {
        rc = -EBADMSG;
    }
    if (rc == 0) {
        rc = check_noise(fd, head.size);
    }
    *written = head.written;
    return rc;
}
