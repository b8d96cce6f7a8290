/* SPDX-License-Identifier: BSD-3-Clause */
#include "ram/fault.h"

#include <setjmp.h>
#include <signal.h>
#include <stddef.h>

static _Thread_local sigjmp_buf *volatile landing;

static void on_sigbus(int sig)
{
    sigjmp_buf *jump = landing;
    if (jump) {
        siglongjmp(*jump, 1);
    }
    /* Not ours: with the default action back, the faulting access ends the process. */
    signal(sig, SIG_DFL);
}

void fault_init(void)
{
    /* SA_NODEFER: the jump leaves the handler without the signal mask having changed. */
    struct sigaction action = {.sa_handler = on_sigbus, .sa_flags = SA_NODEFER};
    sigaction(SIGBUS, &action, NULL);
}

bool fault_guarded(void (*fn)(void *arg), void *arg)
{
    sigjmp_buf jump;
    if (sigsetjmp(jump, 0)) {
        landing = NULL;
        return false;
    }
    landing = &jump;
    fn(arg);
    landing = NULL;
    return true;
}
