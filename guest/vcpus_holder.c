/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The holding itself: a loop that goes from moment to moment, the earliest at which something is to
 * be done, and looks meanwhile for orders and for threads that have stopped.
 */
#include "guest/vcpus_holder.h"

#include "common/clock.h"
#include "guest/helper.h"
#include "guest/tracee.h"

#include <errno.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* The shorter of a period's two parts. */
#define SLICE_NS NS_PER_MS
/* How often it is looked for signals of threads that are held, and threads are asked again. */
#define LOOK_NS (NS_PER_MS / 5)
/* Signals of a queue that are looked at. */
#define SIGNALS 16

enum vcpu_state {
    VCPU_FREE,  /* not traced */
    VCPU_ASKED, /* seized; its stop has not been seen */
    VCPU_HELD,
    VCPU_EXCUSED, /* not traced, and not asked again before the next stop */
    VCPU_ENDED,
};

struct vcpu {
    pid_t tid;
    enum vcpu_state state;
    uint64_t mask; /* its blocked signals, while held */
};

struct holder {
    int sock;
    int children; /* signalfd of SIGCHLD: a thread has stopped */
    unsigned percent;
    bool ending;
    bool stopping;    /* in a period's stop */
    uint64_t part_ns; /* when this part ends */
    uint64_t look_ns; /* in a stop: when to look at the threads next */
    unsigned count;
    struct vcpu vcpus[VCPUS_MAX];
};

/* ---- one thread ---- */

static void ask(struct vcpu *v)
{
    int rc = tracee_seize(v->tid, 0);
    if (rc == -ESRCH) {
        v->state = VCPU_ENDED;
    } else if (rc == 0) {
        v->state = VCPU_ASKED;
        ptrace(PTRACE_INTERRUPT, v->tid, NULL, NULL);
    }
}

static void let_go(struct vcpu *v, int status, enum vcpu_state state)
{
    tracee_let_go(v->tid, status);
    v->state = state;
}

static bool in_kvm_run(pid_t tid)
{
    struct user_regs_struct regs;
    return tracee_read(tid, &regs) && regs.orig_rax == SYS_ioctl && (uint32_t)regs.rsi == KVM_RUN;
}

/* Whether a signal that is not in `ignored` waits in the thread's queue, or the process's. */
static bool is_queued(pid_t tid, uint32_t queue, uint64_t ignored)
{
    siginfo_t infos[SIGNALS];
    struct __ptrace_peeksiginfo_args args = {.flags = queue, .nr = SIGNALS};
    long n = ptrace(PTRACE_PEEKSIGINFO, tid, &args, infos);
    for (long i = 0; i < n; i++) {
        if (!(ignored >> (infos[i].si_signo - 1) & 1)) {
            return true;
        }
    }
    return false;
}

/*
 * A signal sent to the thread counts even where it blocks it: KVM_SET_SIGNAL_MASK may let it
 * through in KVM_RUN only.
 */
static bool is_wanted(const struct vcpu *v)
{
    return is_queued(v->tid, 0, 0) || is_queued(v->tid, PTRACE_PEEKSIGINFO_SHARED, v->mask);
}

static void take(const struct holder *h, struct vcpu *v, int status)
{
    if (!h->stopping || tracee_state(status) != TRACEE_EVENT || !in_kvm_run(v->tid) ||
        ptrace(PTRACE_GETSIGMASK, v->tid, sizeof(v->mask), &v->mask) < 0) {
        let_go(v, status, VCPU_FREE);
    } else if (is_wanted(v)) {
        let_go(v, status, VCPU_EXCUSED);
    } else {
        v->state = VCPU_HELD;
    }
}

/* ---- all of them ---- */

/* Whatever waitpid() tells of is one of ours: a helper has no children. */
static struct vcpu *find(struct holder *h, pid_t tid)
{
    unsigned i = 0;
    while (i < h->count - 1 && h->vcpus[i].tid != tid) {
        i++;
    }
    return &h->vcpus[i];
}

static void take_stopped(struct holder *h)
{
    int status;
    for (pid_t tid; (tid = tracee_next(&status, 0)) > 0;) {
        struct vcpu *v = find(h, tid);
        if (tracee_state(status) == TRACEE_GONE) {
            v->state = VCPU_ENDED;
        } else {
            take(h, v, status);
        }
    }
}

static void release_held(struct holder *h)
{
    for (unsigned i = 0; i < h->count; i++) {
        struct vcpu *v = &h->vcpus[i];
        if (v->state == VCPU_HELD) {
            let_go(v, 0, VCPU_FREE);
        } else if (v->state == VCPU_EXCUSED) {
            v->state = VCPU_FREE;
        }
    }
}

/* Looking takes a tenth of the time, or less, however many they are. */
static uint64_t look_pause(uint64_t took_ns)
{
    return 9 * took_ns > LOOK_NS ? 9 * took_ns : LOOK_NS;
}

/* In a stop: holds who runs, and lets go who is wanted. */
static void look(struct holder *h)
{
    uint64_t begun = clock_ns();
    for (unsigned i = 0; i < h->count; i++) {
        struct vcpu *v = &h->vcpus[i];
        if (v->state == VCPU_FREE) {
            ask(v);
        } else if (v->state == VCPU_HELD && is_wanted(v)) {
            let_go(v, 0, VCPU_EXCUSED);
        }
    }
    h->look_ns = clock_ns() + look_pause(clock_ns() - begun);
}

/* ---- the time ---- */

/* The stop's, or the run's part of a period. */
static uint64_t part_of(const struct holder *h, bool stop)
{
    unsigned share = stop ? h->percent : 100 - h->percent;
    unsigned smaller = h->percent < 50 ? h->percent : 100 - h->percent;
    return SLICE_NS * share / smaller;
}

static void begin_part(struct holder *h, bool stop)
{
    if (!stop) {
        release_held(h);
    }
    h->stopping = stop;
    h->look_ns = 0;
    h->part_ns = clock_ns() + part_of(h, stop);
}

static void set_percent(struct holder *h, unsigned percent)
{
    h->percent = percent;
    if (percent) {
        begin_part(h, true);
    } else {
        release_held(h);
        h->stopping = false;
    }
}

static void read_orders(struct holder *h)
{
    struct vcpus_order order;
    ssize_t n;
    while ((n = recv(h->sock, &order, sizeof(order), MSG_DONTWAIT)) == sizeof(order)) {
        set_percent(h, order.percent);
    }
    h->ending = n == 0 || errno != EAGAIN;
}

/* Until something happens, or the next moment; negative: none. */
static int64_t time_left(const struct holder *h)
{
    uint64_t now = clock_ns();
    uint64_t until = h->stopping && h->look_ns < h->part_ns ? h->look_ns : h->part_ns;
    return !h->percent ? -1 : until > now ? (int64_t)(until - now) : 0;
}

static void await(struct holder *h)
{
    struct pollfd fds[] = {{.fd = h->sock, .events = POLLIN},
                           {.fd = h->children, .events = POLLIN}};
    int64_t left = time_left(h);
    struct timespec timeout = {.tv_nsec = (long)left};
    struct signalfd_siginfo info;
    ppoll(fds, 2, left < 0 ? NULL : &timeout, NULL);
    if (fds[0].revents) {
        read_orders(h);
    }
    while (read(h->children, &info, sizeof(info)) > 0) {
    }
}

void vcpus_main(int sock, const void *plan)
{
    /* Too large for a stack; a helper is a process of its own. */
    static struct holder h;
    const struct vcpus_plan *p = plan;
    sigset_t children;
    prctl(PR_SET_NAME, HELPER_NAME "vcpus");
    sigemptyset(&children);
    sigaddset(&children, SIGCHLD);
    h.sock = sock;
    h.children = signalfd(-1, &children, SFD_NONBLOCK | SFD_CLOEXEC);
    for (h.count = 0; h.count < p->count; h.count++) {
        h.vcpus[h.count].tid = p->tids[h.count];
    }
    while (!h.ending) {
        take_stopped(&h);
        if (h.percent && clock_ns() >= h.part_ns) {
            begin_part(&h, !h.stopping);
        }
        if (h.stopping && clock_ns() >= h.look_ns) {
            look(&h);
        }
        await(&h);
    }
}
