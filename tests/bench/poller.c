/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * poller PATH CLIENTS RATE: CLIENTS sessions that together ask query-migrate RATE times a second,
 * evenly spaced, until standard input ends.  Prints "ANSWERS MEDIAN_US P99_US".
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define SAMPLES_MAX (1u << 20)
#define CLIENTS_MAX 64

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void sleep_until(double us)
{
    double left = us - now_us();
    if (left > 0) {
        struct timespec t = {.tv_sec = (time_t)(left / 1e6),
                             .tv_nsec = (long)((left - (double)(long)(left / 1e6) * 1e6) * 1e3)};
        nanosleep(&t, NULL);
    }
}

/* Reads one line; its end is the end of what has come, as each answer is awaited. */
static void read_line(int fd)
{
    char buf[16384];
    ssize_t n;
    do {
        n = read(fd, buf, sizeof(buf));
    } while (n > 0 && buf[n - 1] != '\n');
    if (n <= 0) {
        fprintf(stderr, "poller: the session ended\n");
        exit(1);
    }
}

static void ask(int fd, const char *request)
{
    if (write(fd, request, strlen(request)) < 0) {
        perror("poller");
        exit(1);
    }
    read_line(fd);
}

static int open_session(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    strncpy(addr.sun_path, path, sizeof(addr.sun_path) - 1);
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        perror("poller: connect");
        exit(1);
    }
    read_line(fd);
    ask(fd, "{\"execute\": \"qmp_capabilities\"}\n");
    return fd;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int input_ended(void)
{
    struct pollfd fd = {.fd = STDIN_FILENO, .events = POLLIN};
    return poll(&fd, 1, 0) > 0;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: poller PATH CLIENTS RATE\n");
        return 2;
    }
    int clients = atoi(argv[2]);
    double interval = 1e6 / atof(argv[3]);
    int fds[CLIENTS_MAX];
    double *samples = malloc(SAMPLES_MAX * sizeof(*samples));
    size_t count = 0;
    if (!samples || clients < 1 || clients > CLIENTS_MAX) {
        return 2;
    }
    prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL);
    for (int i = 0; i < clients; i++) {
        fds[i] = open_session(argv[1]);
    }
    double due = now_us();
    while (count < SAMPLES_MAX && !input_ended()) {
        double start = now_us();
        ask(fds[count % (size_t)clients], "{\"execute\": \"query-migrate\"}\n");
        samples[count++] = now_us() - start;
        due += interval;
        sleep_until(due);
    }
    qsort(samples, count, sizeof(*samples), compare);
    printf("%zu %.0f %.0f\n", count, samples[count / 2], samples[count - 1 - count / 100]);
    free(samples);
    return 0;
}
