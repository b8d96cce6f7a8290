/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the machine can do: a sender and a receiver that move a memfd's bytes into another, fresh
 * one over loopback TCP in the fastest way known, and nothing else.  write from the mapping; read
 * to a warm buffer, pwrite.  Prints "SECONDS SENDER_CPU RECEIVER_CPU".
 *
 * plain_pair MIB; plain_pair MIB warm only touches that much memory and frees it.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PIECE (1u << 20)

static void check(int ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double cpu(int who)
{
    struct rusage r;
    getrusage(who, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) +
           (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

static int make_memfd(size_t size)
{
    int fd = memfd_create("pair", MFD_CLOEXEC);
    check(fd >= 0 && ftruncate(fd, (off_t)size) == 0, "memfd");
    return fd;
}

static void fill_random(int fd, size_t size)
{
    char *buf = malloc(PIECE);
    check(buf != NULL, "malloc");
    for (size_t got = 0; got < PIECE; got += 256) {
        check(getrandom(buf + got, 256, 0) == 256, "getrandom");
    }
    for (size_t at = 0; at < size; at += PIECE) {
        check(pwrite(fd, buf, PIECE, (off_t)at) == PIECE, "pwrite");
    }
    free(buf);
}

static void write_all(int sock, const char *at, size_t length)
{
    while (length) {
        ssize_t n = write(sock, at, length);
        check(n > 0, "write");
        at += n;
        length -= (size_t)n;
    }
}

static void send_all(const struct sockaddr_in *addr, int fd, size_t size)
{
    char byte;
    int sock = socket(AF_INET, SOCK_STREAM, 0);
    check(connect(sock, (const struct sockaddr *)addr, sizeof(*addr)) == 0, "connect");
    const char *map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    check(map != MAP_FAILED, "mmap");
    for (size_t at = 0; at < size; at += PIECE) {
        write_all(sock, map + at, PIECE);
    }
    check(read(sock, &byte, 1) == 1, "acknowledgement");
}

static void receive_all(int sock, int fd, size_t size)
{
    char *buf = malloc(PIECE);
    check(buf != NULL, "malloc");
    for (size_t at = 0; at < size; at += PIECE) {
        for (size_t got = 0; got < PIECE;) {
            ssize_t n = read(sock, buf + got, PIECE - got);
            check(n > 0, "read");
            got += (size_t)n;
        }
        check(pwrite(fd, buf, PIECE, (off_t)at) == PIECE, "pwrite");
    }
    check(write(sock, "", 1) == 1, "acknowledge");
    free(buf);
}

/*
 * Virtual machines give free memory back to their host, and taking it again costs more than all
 * that is measured here.  Touching as much just before makes both of a pair find it at hand.
 */
static void warm_memory(size_t size)
{
    int fd = make_memfd(size);
    fill_random(fd, size);
    close(fd);
}

int main(int argc, char **argv)
{
    size_t size = (argc > 1 ? strtoul(argv[1], NULL, 10) : 2048) << 20;
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(addr);
    if (argc > 2) {
        warm_memory(size);
        return 0;
    }
    int from = make_memfd(size);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    fill_random(from, size);
    check(bind(listener, (struct sockaddr *)&addr, sizeof(addr)) == 0 && listen(listener, 1) == 0 &&
              getsockname(listener, (struct sockaddr *)&addr, &length) == 0,
          "listen");
    warm_memory(size);
    double start = now();
    pid_t pid = fork();
    check(pid >= 0, "fork");
    if (pid == 0) {
        send_all(&addr, from, size);
        _exit(0);
    }
    double before = cpu(RUSAGE_SELF);
    int sock = accept(listener, NULL, NULL);
    receive_all(sock, make_memfd(size), size);
    double seconds = now() - start;
    double receiver = cpu(RUSAGE_SELF) - before;
    int status = 0;
    waitpid(pid, &status, 0);
    check(status == 0, "sender");
    printf("%.4f %.3f %.3f\n", seconds, cpu(RUSAGE_CHILDREN), receiver);
    return 0;
}
