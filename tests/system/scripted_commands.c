/* SPDX-License-Identifier: BSD-3-Clause */
/* The commands of scripted-vmm: a table of names, and what each does with its words. */
#include "scripted_commands.h"

#include "scripted_state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORDS_MAX      8
#define STATE_SIZE_MAX (2ull << 30)

/* A command line in words, the first of them the command. */
struct words {
    char *word[WORDS_MAX];
    unsigned count;
};

static bool number(const char *text, uint64_t *value)
{
    char *end = NULL;

    if (text == NULL || text[0] < '0' || text[0] > '9') {
        return false;
    }
    errno = 0;
    *value = strtoull(text, &end, 0);
    return errno == 0 && *end == '\0';
}

/* Answers; for commands that give nothing back but their success. */
static void answer(int rc)
{
    if (rc == 0) {
        say("ok");
    } else {
        say("error %s", strerror(-rc));
    }
}

/* What a command is about: those that begin with "disk-" are about disks. */
static struct ram *target_of(struct guest *guest, const struct words *words)
{
    return strncmp(words->word[0], "disk-", 5) == 0 ? &guest->disks : &guest->ram;
}

/* The words BLOCK OFFSET LENGTH that several commands begin with; answers when they are wrong. */
struct span {
    struct ram *ram;
    struct ram_block *block;
    uint64_t offset;
    uint64_t length;
};

static bool take_span(struct guest *guest, const struct words *words, struct span *span)
{
    span->ram = target_of(guest, words);
    span->block = ram_find(span->ram, words->word[1]);
    if (span->block == NULL) {
        say("error no block %s", words->word[1]);
        return false;
    }
    if (!number(words->word[2], &span->offset) || !number(words->word[3], &span->length)) {
        say("error not a number");
        return false;
    }
    return true;
}

/* fill BLOCK OFFSET LENGTH random SEED | pattern BYTE | zero */
static void do_fill(struct guest *guest, const struct words *words)
{
    const char *what = words->word[4];
    struct span span;
    uint64_t value = 0;

    if (!take_span(guest, words, &span)) {
        return;
    }
    if (strcmp(what, "zero") == 0) {
        answer(ram_fill_byte(span.ram, span.block, span.offset, span.length, 0));
    } else if (words->count < 6 || !number(words->word[5], &value)) {
        say("error what to fill it with");
    } else if (strcmp(what, "random") == 0) {
        answer(ram_fill_random(span.ram, span.block, span.offset, span.length, value));
    } else if (strcmp(what, "pattern") == 0 && value <= UINT8_MAX) {
        answer(ram_fill_byte(span.ram, span.block, span.offset, span.length, (uint8_t)value));
    } else {
        say("error what to fill it with");
    }
}

static void punch(struct guest *guest, const struct words *words, bool quietly)
{
    struct span span;

    if (take_span(guest, words, &span)) {
        answer(ram_punch(span.ram, span.block, span.offset, span.length, quietly));
    }
}

static void do_punch(struct guest *guest, const struct words *words)
{
    punch(guest, words, false);
}

static void do_punch_quietly(struct guest *guest, const struct words *words)
{
    punch(guest, words, true);
}

static void do_shrink(struct guest *guest, const struct words *words)
{
    struct ram_block *block = ram_find(target_of(guest, words), words->word[1]);
    uint64_t length = 0;

    if (block == NULL || !number(words->word[2], &length)) {
        answer(-EINVAL);
    } else {
        answer(ram_shrink(block, length));
    }
}

/* dirty FIRST COUNT RATE [BYTES], the last being how much of each page is changed */
static void do_dirty(struct guest *guest, const struct words *words)
{
    struct work work = {.target = target_of(guest, words), .page_bytes = sizeof(uint64_t)};

    if (!number(words->word[1], &work.first_page) || !number(words->word[2], &work.pages) ||
        !number(words->word[3], &work.rate) ||
        (words->count > 4 && !number(words->word[4], &work.page_bytes))) {
        answer(-EINVAL);
    } else {
        answer(guest_dirty(guest, &work));
    }
}

static void do_dirty_stop(struct guest *guest, const struct words *words)
{
    (void)words;
    say("ok %" PRIu64, guest_dirty_stop(guest));
}

/* Calls `ask` on one block or on all, and puts the results together with `join`. */
static void over_blocks(struct guest *guest, const struct words *words,
                        int (*ask)(const struct ram_block *block, uint64_t *value),
                        uint64_t (*join)(uint64_t all, uint64_t one), const char *format)
{
    const struct ram *ram = target_of(guest, words);
    uint64_t all = 0;
    unsigned matched = 0;

    for (unsigned i = 0; i < ram->count; i++) {
        const struct ram_block *block = &ram->blocks[i];
        uint64_t one = 0;
        if (words->count > 1 && strcmp(words->word[1], block->name) != 0) {
            continue;
        }
        int rc = ask(block, &one);
        if (rc != 0) {
            answer(rc);
            return;
        }
        all = join(all, one);
        matched++;
    }
    if (matched == 0) {
        say("error no block %s", words->count > 1 ? words->word[1] : "at all");
    } else {
        say(format[0] == 'x' ? "ok %016" PRIx64 : "ok %" PRIu64, all);
    }
}

static uint64_t join_hash(uint64_t all, uint64_t one)
{
    return (all << 1 | all >> 63) ^ one;
}

static uint64_t join_sum(uint64_t all, uint64_t one)
{
    return all + one;
}

static void do_hash(struct guest *guest, const struct words *words)
{
    over_blocks(guest, words, ram_hash, join_hash, "x");
}

static void do_allocated(struct guest *guest, const struct words *words)
{
    over_blocks(guest, words, ram_allocated, join_sum, "u");
}

static void do_state(struct guest *guest, const struct words *words)
{
    static const char *const names[] = {
        [FERRY_GUEST_RUNNING] = "running",   [FERRY_GUEST_PAUSED] = "paused",
        [FERRY_GUEST_STOPPED] = "stopped",   [FERRY_GUEST_GIVEN_AWAY] = "given-away",
        [FERRY_GUEST_INCOMING] = "incoming",
    };

    (void)words;
    say("ok %s", names[ferry_guest_state(guest->ferry)]);
}

static int index_of(const char *text, const char *const *names, unsigned count, size_t length)
{
    for (unsigned i = 0; i < count; i++) {
        if (strlen(names[i]) == length && strncmp(text, names[i], length) == 0) {
            return (int)i;
        }
    }
    return -1;
}

/* behave CALLBACK=HOW ...; all are looked at before one is set. */
static void do_behave(struct guest *guest, const struct words *words)
{
    static const char *const callbacks[] = {"stop", "resume", "save", "load", "announce", "wakeup"};
    static const char *const hows[] = {"ok", "fail", "hang"};
    int which[WORDS_MAX];
    int how[WORDS_MAX];

    for (unsigned i = 1; i < words->count; i++) {
        const char *text = words->word[i];
        size_t name = strcspn(text, "=");
        const char *value = text[name] == '=' ? text + name + 1 : "";
        which[i] = index_of(text, callbacks, CALLBACKS, name);
        how[i] = index_of(value, hows, 3, strlen(value));
        if (which[i] < 0 || how[i] < 0) {
            say("error not understood: %s", text);
            return;
        }
    }
    for (unsigned i = 1; i < words->count; i++) {
        guest_behave(guest, (enum callback)which[i], (enum behaviour)how[i]);
    }
    say("ok");
}

static void do_set_state_size(struct guest *guest, const struct words *words)
{
    uint64_t bytes = 0;

    if (!number(words->word[1], &bytes) || bytes < STATE_SIZE_MIN || bytes > STATE_SIZE_MAX ||
        bytes % sizeof(uint64_t) != 0) {
        answer(-EINVAL);
        return;
    }
    guest_set_state_size(guest, bytes);
    say("ok");
}

/* add-blocker WORDS: the reason; answers its id. */
static void do_add_blocker(struct guest *guest, const struct words *words)
{
    char reason[FERRY_REASON_MAX + 1] = "";
    uint64_t id = 0;

    for (unsigned i = 1; i < words->count; i++) {
        size_t used = strlen(reason);
        snprintf(reason + used, sizeof(reason) - used, "%s%s", i > 1 ? " " : "", words->word[i]);
    }
    int rc = ferry_add_blocker(guest->ferry, reason, &id);
    if (rc != 0) {
        answer(rc);
    } else {
        say("ok %" PRIu64, id);
    }
}

static void do_remove_blocker(struct guest *guest, const struct words *words)
{
    uint64_t id = 0;

    answer(number(words->word[1], &id) ? ferry_remove_blocker(guest->ferry, id) : -EINVAL);
}

static void do_pause(struct guest *guest, const struct words *words)
{
    (void)words;
    guest_pause(guest, true);
    say("ok");
}

static void do_unpause(struct guest *guest, const struct words *words)
{
    (void)words;
    guest_pause(guest, false);
    say("ok");
}

static void do_shutdown(struct guest *guest, const struct words *words)
{
    (void)words;
    ferry_guest_shutdown(guest->ferry);
    say("ok");
}

static const struct {
    const char *name;
    unsigned least; /* words, with the command itself */
    unsigned most;
    void (*run)(struct guest *guest, const struct words *words);
} commands[] = {
    {"fill", 5, 6, do_fill},
    {"punch", 4, 4, do_punch},
    {"punch-quietly", 4, 4, do_punch_quietly},
    {"shrink", 3, 3, do_shrink},
    {"dirty", 4, 5, do_dirty},
    {"dirty-stop", 1, 1, do_dirty_stop},
    {"hash", 1, 2, do_hash},
    {"allocated", 1, 2, do_allocated},
    {"disk-fill", 5, 6, do_fill},
    {"disk-punch", 4, 4, do_punch},
    {"disk-shrink", 3, 3, do_shrink},
    {"disk-dirty", 4, 4, do_dirty},
    {"disk-hash", 1, 2, do_hash},
    {"disk-allocated", 1, 2, do_allocated},
    {"state", 1, 1, do_state},
    {"behave", 2, WORDS_MAX, do_behave},
    {"set-state-size", 2, 2, do_set_state_size},
    {"add-blocker", 2, WORDS_MAX, do_add_blocker},
    {"remove-blocker", 2, 2, do_remove_blocker},
    {"pause", 1, 1, do_pause},
    {"unpause", 1, 1, do_unpause},
    {"shutdown", 1, 1, do_shutdown},
};

static struct words split(char *line)
{
    struct words words = {.count = 0};
    char *rest = line;
    char *word = NULL;

    while (words.count < WORDS_MAX && (word = strtok_r(rest, " \t\n", &rest)) != NULL) {
        words.word[words.count++] = word;
    }
    return words;
}

static void run_words(struct guest *guest, const struct words *words)
{
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(words->word[0], commands[i].name) != 0) {
            continue;
        }
        if (words->count < commands[i].least || words->count > commands[i].most) {
            say("error %s takes other arguments", commands[i].name);
            return;
        }
        commands[i].run(guest, words);
        return;
    }
    say("error no command %s", words->word[0]);
}

bool command_run(struct guest *guest, char *line)
{
    struct words words = split(line);

    if (words.count == 0) {
        return true;
    }
    if (strcmp(words.word[0], "quit") == 0) {
        say("ok");
        return false;
    }
    run_words(guest, &words);
    return true;
}
