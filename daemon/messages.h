/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The kinds of messages that programs look for in the journal, each by its MESSAGE_ID
 * (sd_journal(3)); ferryd(8) lists them.  An id is never given to another kind.
 */
#ifndef FERRY_DAEMON_MESSAGES_H
#define FERRY_DAEMON_MESSAGES_H

#define MESSAGE_ATTACHED "370662460c1c801f709ec28080366339"
#define MESSAGE_DETACHED "45380819ecbe69f7547be18ed7c11a22"
#define MESSAGE_STATE                                                                              \
    "fd3be65af94010e6b9977a2776f1217c" /* a migration's, which is in FERRY_STATE */
#define MESSAGE_FAILED "097f700d7206049d520be10333d06107" /* why a migration failed; FERRY_CODE */
#define MESSAGE_UNDECIDED                                                                          \
    "08d9b5f1e8629f2afba39378291577f9" /* of a handover: an operator may have to decide */

#endif
