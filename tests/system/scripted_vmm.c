/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * scripted-vmm: a VMM for tests that has no KVM and no guest, only RAM and a script.  Commands come
 * as lines on stdin, each answered by one line, "ok ..." or "error ...", on stdout; what libferry
 * does appears there as "event ..." lines at any time.  It proves the RAM engine where there is no
 * /dev/kvm, and fails in ways that a real VMM would rather not.
 */
#include "scripted_commands.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Until "quit" or the end of stdin. */
static void run_script(struct guest *guest)
{
    char *line = NULL;
    size_t room = 0;

    while (getline(&line, &room, stdin) > 0 && command_run(guest, line)) {
    }
    free(line);
}

struct choices {
    struct ferry_config config;
    const char *blocks[RAM_BLOCKS_MAX];
    unsigned block_count;
    const char *disks[RAM_BLOCKS_MAX];
    unsigned disk_count;
    bool paused;
};

static bool parse_choices(struct choices *choices, int argc, char **argv)
{
    static const struct option list[] = {
        {"name", required_argument, NULL, 'n'},
        {"ferry", required_argument, NULL, 'f'},
        {"block", required_argument, NULL, 'b'},
        {"incoming", no_argument, NULL, 'i'},
        {"paused", no_argument, NULL, 'p'},
        {"disk", required_argument, NULL, 'd'},
        {NULL, 0, NULL, 0},
    };
    int choice = 0;

    while ((choice = getopt_long(argc, argv, "", list, NULL)) != -1) {
        if (choice == 'n') {
            choices->config.name = optarg;
        } else if (choice == 'f') {
            choices->config.socket_path = optarg;
        } else if (choice == 'b' && choices->block_count < RAM_BLOCKS_MAX) {
            choices->blocks[choices->block_count++] = optarg;
        } else if (choice == 'd' && choices->disk_count < RAM_BLOCKS_MAX) {
            choices->disks[choices->disk_count++] = optarg;
        } else if (choice == 'i') {
            choices->config.incoming = true;
        } else if (choice == 'p') {
            choices->paused = true;
        } else {
            return false;
        }
    }
    return optind == argc && choices->block_count > 0;
}

static int start(struct guest *guest, const struct choices *choices)
{
    int rc = guest_init(guest, choices->config.incoming || choices->paused);

    for (unsigned i = 0; i < choices->block_count && rc == 0; i++) {
        rc = ram_add(&guest->ram, choices->blocks[i]);
    }
    for (unsigned i = 0; i < choices->disk_count && rc == 0; i++) {
        rc = ram_add_disk(&guest->disks, choices->disks[i]);
    }
    if (rc == 0) {
        rc = guest_start(guest, &choices->config);
    }
    if (rc == 0 && choices->paused) {
        ferry_guest_paused(guest->ferry);
    }
    return rc;
}

int main(int argc, char **argv)
{
    struct choices choices = {
        .config = {.size = sizeof(choices.config), .name = "scripted"},
    };
    struct guest guest;

    if (!parse_choices(&choices, argc, argv)) {
        fprintf(stderr, "Usage: scripted-vmm --block NAME:MIB[:GPA] ... "
                        "[--disk NAME:MIB[:FILE[:BASE]]] ... [--name NAME] "
                        "[--ferry PATH] [--incoming] [--paused]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    int rc = start(&guest, &choices);
    if (rc == 0) {
        say("ok ready");
        run_script(&guest);
    } else {
        say("error cannot start: %s", strerror(-rc));
    }
    guest_free(&guest);
    return rc == 0 ? 0 : 1;
}
