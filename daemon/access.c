/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/access.h"

#include <errno.h>
#include <pwd.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool find_user(const char *text, uid_t *uid)
{
    char *end;
    errno = 0;
    unsigned long number = strtoul(text, &end, 10);
    if (text[0] >= '0' && text[0] <= '9' && !*end && !errno && number < (uid_t)-1) {
        *uid = (uid_t)number;
        return true;
    }
    const struct passwd *found = getpwnam(text);
    if (found) {
        *uid = found->pw_uid;
    }
    return found;
}

bool users_add(struct users *users, const char *text, struct error **errp)
{
    uid_t uid = 0;
    if (strcmp(text, "none") == 0) {
        *users = (struct users){0};
        return true;
    }
    if (strcmp(text, "any") == 0) {
        users->any = true;
        return true;
    }
    if (!find_user(text, &uid)) {
        error_set(errp, "option-invalid", "there is no user '%s'", text);
        return false;
    }
    if (users->count == USERS_MAX) {
        error_set(errp, "option-invalid", "more than %u users: use a group", USERS_MAX);
        return false;
    }
    users->uids[users->count++] = uid;
    return true;
}

bool users_has(const struct users *users, uid_t uid)
{
    for (unsigned i = 0; i < users->count; i++) {
        if (users->uids[i] == uid) {
            return true;
        }
    }
    return users->any;
}

bool access_check_session(const struct access *a, uid_t uid, bool read_only, struct error **errp)
{
    if (read_only || uid == 0 || uid == geteuid() || users_has(&a->control, uid)) {
        return true;
    }
    error_set(errp, "session-forbidden",
              "User %u may not use the control socket: ferryd's configuration does not name it "
              "(allow-user)",
              (unsigned)uid);
    return false;
}

bool access_check_uri(const struct access *a, uid_t uid, const char *uri, struct error **errp)
{
    const struct {
        const char *scheme;
        const struct users *users;
    } guarded[] = {{"exec", &a->exec}, {"fd", &a->fd}};
    for (size_t i = 0; i < sizeof(guarded) / sizeof(guarded[0]); i++) {
        size_t n = strlen(guarded[i].scheme);
        if (strncmp(uri, guarded[i].scheme, n) == 0 && uri[n] == ':' &&
            !users_has(guarded[i].users, uid)) {
            error_set(errp, "uri-forbidden",
                      "User %u may not use %s: ferryd's configuration does not name it (allow-%s)",
                      (unsigned)uid, guarded[i].scheme, guarded[i].scheme);
            return false;
        }
    }
    return true;
}
