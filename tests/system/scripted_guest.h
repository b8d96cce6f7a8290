/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef FERRY_TESTS_SCRIPTED_GUEST_H
#define FERRY_TESTS_SCRIPTED_GUEST_H

#include "scripted_ram.h"

#include <pthread.h>

/* What a callback does when it is called next. */
enum behaviour { BEHAVE_OK, BEHAVE_FAIL, BEHAVE_HANG };

enum callback {
    CALLBACK_STOP,
    CALLBACK_RESUME,
    CALLBACK_SAVE,
    CALLBACK_LOAD,
    CALLBACK_ANNOUNCE,
    CALLBACK_WAKEUP,
    CALLBACKS
};

/* What the writer writes, over and over. */
struct work {
    struct ram *target; /* the guest's ram or disks */
    uint64_t first_page;
    uint64_t pages;
    uint64_t rate;       /* pages a second; 0: as fast as it goes */
    uint64_t page_bytes; /* changed in each */
};

struct guest {
    struct ram ram;
    struct ram disks;
    struct ferry *ferry;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    enum behaviour behaviours[CALLBACKS];
    uint64_t state_size; /* bytes of device state that save writes */
    bool stopped;
    bool ending;
    /* The writer: whether it is to write, and whether it is at it, with the lock dropped. */
    pthread_t writer;
    bool writer_started;
    bool writing;
    bool busy;
    struct work work;
    uint64_t started; /* nanoseconds; what is due counts from here */
    uint64_t done;    /* pages since then */
    uint64_t written;
    unsigned throttle;
};

int guest_init(struct guest *guest, bool stopped);
int guest_start(struct guest *guest, const struct ferry_config *config);

/* Lets a callback that hangs go on, ends the threads, frees all. */
void guest_free(struct guest *guest);

void guest_behave(struct guest *guest, enum callback which, enum behaviour how);
void guest_set_state_size(struct guest *guest, uint64_t bytes);

/* Starts and ends the background writer; -ERANGE, -EBUSY. */
int guest_dirty(struct guest *guest, const struct work *work);
uint64_t guest_dirty_stop(struct guest *guest);

/* The operator's own pause. */
void guest_pause(struct guest *guest, bool paused);

/* One line on stdout, whole, whichever thread prints. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
