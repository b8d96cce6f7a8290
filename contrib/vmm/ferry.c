/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * All that makes this VMM migratable: it describes its RAM blocks, disk and VM to libferry, and
 * gives callbacks of a few lines each.  They run on libferry's thread.  What they rest on is
 * what a VMM needs for pause and snapshot anyway: vCPUs that can be parked (gate.c) and a state
 * that can be written and read back (state.c).
 *
 * The disk (disk.c) writes guest RAM by itself, and tells so with ferry_mark_dirty after each such
 * write.  It does so on the vCPU's thread: with the vCPUs parked there is nothing to drain.  A VMM
 * with I/O threads would drain them in link_stop.
 */
#include "ferry.h"

#include "state.h"

#include <string.h>

static int link_stop(void *opaque)
{
    struct vmm *vmm = opaque;

    gate_close_wait(&vmm->vcpus.gate, GATE_STOPPED);
    return 0;
}

/*
 * Whoever resumes a guest through ferryd wants it to run: this ends an operator's pause as well.
 */
static int link_resume(void *opaque)
{
    struct vmm *vmm = opaque;

    state_tell_resumed(vmm);
    gate_open(&vmm->vcpus.gate, GATE_STOPPED | GATE_PAUSED);
    return 0;
}

static int link_save_state(void *opaque, int fd)
{
    struct vmm *vmm = opaque;
    struct fault fault;

    int rc = state_save(vmm, fd, &fault);
    if (rc != 0) {
        ferry_set_error(vmm->ferry, "%s", fault.text);
    }
    return rc;
}

static int link_load_state(void *opaque, int fd)
{
    struct vmm *vmm = opaque;
    struct fault fault;

    int rc = state_load(vmm, fd, &fault);
    if (rc != 0) {
        ferry_set_error(vmm->ferry, "%s", fault.text);
    }
    return rc;
}

static int link_throttle(void *opaque, unsigned percent)
{
    struct vmm *vmm = opaque;

    log_message(LOG_DEBUG, "throttled by %u percent", percent);
    throttle_set(&vmm->throttle, percent);
    return 0;
}

static void link_released(void *opaque)
{
    vmm_end(opaque, END_RELEASED);
}

static void link_attached(void *opaque)
{
    struct vmm *vmm = opaque;

    log_message(LOG_INFO, "guest '%s' is known to ferryd", vmm->options.name);
}

static void link_detached(void *opaque, const char *reason)
{
    struct vmm *vmm = opaque;

    log_message(LOG_INFO, "guest '%s' has lost ferryd: %s", vmm->options.name, reason);
}

/* There is no network device whose address could be told to a switch: this says when it would be.
 */
static void link_announce(void *opaque)
{
    struct vmm *vmm = opaque;

    log_message(LOG_INFO, "guest '%s' is announced", vmm->options.name);
}

/* A guest that suspends itself after this look arrives awake all the same. */
static int link_wakeup(void *opaque)
{
    struct vmm *vmm = opaque;

    if ((gate_reasons(&vmm->vcpus.gate) & GATE_SUSPENDED) != 0) {
        log_message(LOG_INFO, "guest '%s' is woken to be migrated", vmm->options.name);
        gate_open(&vmm->vcpus.gate, GATE_SUSPENDED);
    }
    return 0;
}

static void link_migration(void *opaque, enum ferry_migration_status status, bool outgoing)
{
    static const char *const names[] = {
        [FERRY_MIGRATION_SETUP] = "setup",
        [FERRY_MIGRATION_ACTIVE] = "active",
        [FERRY_MIGRATION_PRE_SWITCHOVER] = "pre-switchover",
        [FERRY_MIGRATION_DEVICE] = "device",
        [FERRY_MIGRATION_COMPLETED] = "completed",
        [FERRY_MIGRATION_FAILED] = "failed",
        [FERRY_MIGRATION_CANCELLING] = "cancelling",
        [FERRY_MIGRATION_CANCELLED] = "cancelled",
    };
    struct vmm *vmm = opaque;

    if (status < sizeof(names) / sizeof(names[0])) {
        log_message(LOG_INFO, "guest '%s': %s migration %s", vmm->options.name,
                    outgoing ? "outgoing" : "incoming", names[status]);
    }
}

static const struct ferry_ops link_ops = {
    .size = sizeof(struct ferry_ops),
    .stop = link_stop,
    .resume = link_resume,
    .save_state = link_save_state,
    .load_state = link_load_state,
    .throttle = link_throttle,
    .released = link_released,
    .attached = link_attached,
    .detached = link_detached,
    .announce = link_announce,
    .wakeup = link_wakeup,
    .migration = link_migration,
};

static int add_ram(struct vmm *vmm)
{
    int rc = 0;

    for (unsigned i = 0; i < vmm->memory.count && rc == 0; i++) {
        const struct memory_block *block = &vmm->memory.blocks[i];
        struct ferry_ram_block described = {
            .size = sizeof(described),
            .name = block->name,
            .fd = block->fd,
            .length = block->length,
            .gpa = block->gpa,
            .hva = block->hva,
            .slot = block->slot,
        };
        rc = ferry_add_ram(vmm->ferry, &described);
    }
    return rc;
}

int ferry_link_create(struct vmm *vmm, struct fault *fault)
{
    struct ferry_config config = {
        .size = sizeof(config),
        .name = vmm->options.name,
        .socket_path = vmm->options.ferry_path,
        .incoming = vmm->options.incoming,
        .plain_log = vmm->options.plain_log,
        .ops = &link_ops,
        .opaque = vmm,
    };

    int rc = ferry_new(&config, &vmm->ferry);
    if (rc == 0) {
        rc = add_ram(vmm);
    }
    if (rc == 0) {
        rc = disk_register(&vmm->ports.disk, vmm->ferry);
    }
    if (rc == 0) {
        rc = ferry_set_kvm(vmm->ferry, vmm->machine.vm_fd);
    }
    return rc == 0 ? 0 : fault_set(fault, rc, "cannot set up libferry: %s", strerror(-rc));
}

int ferry_link_start(struct vmm *vmm, struct fault *fault)
{
    int rc = ferry_start(vmm->ferry);

    if (rc != 0) {
        return fault_set(fault, rc, "cannot start libferry: %s", strerror(-rc));
    }
    if (vmm->options.paused) {
        ferry_guest_paused(vmm->ferry);
    }
    return 0;
}

void ferry_link_end(struct vmm *vmm)
{
    ferry_free(vmm->ferry);
    vmm->ferry = NULL;
}
