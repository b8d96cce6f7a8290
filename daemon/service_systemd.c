/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/service.h"

#include "common/clock.h"
#include "common/log.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <syslog.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

/* ---- the journal ---- */

#define FIELDS_MAX 8u
#define FIELD_SIZE 256 /* but for the text, which log.c has cut */

struct message {
    struct iovec fields[FIELDS_MAX];
    char text[FIELDS_MAX][FIELD_SIZE];
    unsigned count;
};

static void add_field(struct message *m, const char *name, const char *value)
{
    if (value) {
        char *text = m->text[m->count];
        snprintf(text, FIELD_SIZE, "%s=%s", name, value);
        m->fields[m->count++] = (struct iovec){.iov_base = text, .iov_len = strlen(text)};
    }
}

static bool send_to_journal(enum log_level level, const struct log_fields *fields, const char *text)
{
    static const int priorities[] = {
        [LOG_LEVEL_ERROR] = LOG_ERR,
        [LOG_LEVEL_WARNING] = LOG_WARNING,
        [LOG_LEVEL_INFO] = LOG_INFO,
        [LOG_LEVEL_DEBUG] = LOG_DEBUG,
    };
    struct message m = {.count = 0};
    char priority[4], line[2048];
    snprintf(priority, sizeof(priority), "%d", priorities[level]);
    snprintf(line, sizeof(line), "MESSAGE=%s", text);
    m.fields[m.count++] = (struct iovec){.iov_base = line, .iov_len = strlen(line)};
    add_field(&m, "PRIORITY", priority);
    add_field(&m, "SYSLOG_IDENTIFIER", "ferryd");
    add_field(&m, "FERRY_GUEST", fields->guest);
    add_field(&m, "FERRY_JOB", fields->job);
    add_field(&m, "FERRY_STATE", fields->state);
    add_field(&m, "FERRY_CODE", fields->code);
    add_field(&m, "MESSAGE_ID", fields->message_id);
    return sd_journal_sendv(m.fields, (int)m.count) == 0;
}

/* systemd.exec(5): it names the device and inode of what stderr was, which may be redirected. */
void service_open_log(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    uintmax_t device, inode;
    struct stat st;
    if (stream && sscanf(stream, "%" SCNuMAX ":%" SCNuMAX, &device, &inode) == 2 &&
        fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device && st.st_ino == inode) {
        log_set_sink(send_to_journal);
    }
}

/* ---- sockets ---- */

/* As passed, by name; taken ones have lost theirs. */
static char **names;
static int count = -1;

/* Its place among them; -1: it is not there. */
static int find_socket(const char *name)
{
    if (count < 0) {
        count = sd_listen_fds_with_names(1, &names);
    }
    for (int i = 0; i < count; i++) {
        if (names[i] && strcmp(names[i], name) == 0) {
            return i;
        }
    }
    return -1;
}

bool service_has_socket(const char *name)
{
    return find_socket(name) >= 0;
}

int service_socket(const char *name)
{
    int i = find_socket(name);
    if (i < 0) {
        return -1;
    }
    free(names[i]);
    names[i] = NULL;
    return SD_LISTEN_FDS_START + i;
}

/* ---- the manager ---- */

uint64_t service_watchdog_ns(void)
{
    uint64_t us = 0;
    return sd_watchdog_enabled(0, &us) > 0 ? us * 1000 : 0;
}

void service_is_alive(void)
{
    sd_notify(0, "WATCHDOG=1");
}

void service_is_ready(void)
{
    sd_notify(0, "READY=1");
}

void service_reloads(void)
{
    sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, clock_ns() / 1000);
}

void service_ends(void)
{
    sd_notify(0, "STOPPING=1");
}
