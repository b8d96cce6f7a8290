/* SPDX-License-Identifier: BSD-3-Clause */
#include "transports/allow.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UNIX_SCHEME "unix:"

/* Of the list in an error's text; longer ones are cut. */
#define TEXT_MAX 256

struct allowed {
    char *text; /* as given */
    int family; /* AF_UNIX: what follows the scheme in `text` counts */
    uint8_t net[sizeof(struct in6_addr)];
    unsigned bits;
};

struct allow_list {
    _Atomic int refs;
    unsigned count;
    struct allowed *entries;
};

struct allow_list *allow_list_new(void)
{
    struct allow_list *list = calloc(1, sizeof(*list));
    if (!list) {
        abort();
    }
    list->refs = 1;
    return list;
}

struct allow_list *allow_list_ref(struct allow_list *list)
{
    if (list) {
        atomic_fetch_add(&list->refs, 1);
    }
    return list;
}

void allow_list_unref(struct allow_list *list)
{
    if (!list || atomic_fetch_sub(&list->refs, 1) > 1) {
        return;
    }
    for (unsigned i = 0; i < list->count; i++) {
        free(list->entries[i].text);
    }
    free(list->entries);
    free(list);
}

/* ---- what an entry says ---- */

/* The bits behind the slash, all without one; false when they are no number up to `most`. */
static bool parse_bits(const char *slash, unsigned most, unsigned *bits)
{
    char *end;
    *bits = most;
    if (!slash) {
        return true;
    }
    unsigned long value = strtoul(slash + 1, &end, 10);
    *bits = (unsigned)value;
    return slash[1] >= '0' && slash[1] <= '9' && !*end && value <= most;
}

static bool parse_network(const char *text, struct allowed *a)
{
    static const struct {
        int family;
        unsigned bits;
    } kinds[] = {{AF_INET, 32}, {AF_INET6, 128}};
    char address[INET6_ADDRSTRLEN];
    const char *slash = strchr(text, '/');
    size_t n = slash ? (size_t)(slash - text) : strlen(text);
    if (n >= sizeof(address)) {
        return false;
    }
    memcpy(address, text, n);
    address[n] = '\0';
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (inet_pton(kinds[i].family, address, a->net) == 1) {
            a->family = kinds[i].family;
            return parse_bits(slash, kinds[i].bits, &a->bits);
        }
    }
    return false;
}

static bool parse_entry(const char *text, struct allowed *a)
{
    if (strncmp(text, UNIX_SCHEME, strlen(UNIX_SCHEME)) == 0) {
        a->family = AF_UNIX;
        return text[strlen(UNIX_SCHEME)];
    }
    return parse_network(text, a);
}

bool allow_list_add(struct allow_list *list, const char *text, struct error **errp)
{
    struct allowed a = {0};
    if (!parse_entry(text, &a)) {
        error_set(errp, "option-invalid",
                  "'%s' is neither an IP address, alone or with /BITS, nor unix:PREFIX", text);
        return false;
    }
    a.text = strdup(text);
    list->entries = realloc(list->entries, (list->count + 1) * sizeof(a));
    if (!a.text || !list->entries) {
        abort();
    }
    list->entries[list->count++] = a;
    return true;
}

/* ---- what is in the list ---- */

static bool is_in_network(const struct allowed *a, const uint8_t *address)
{
    unsigned whole = a->bits / 8, rest = a->bits % 8;
    uint8_t mask = (uint8_t)(0xff00u >> rest);
    return memcmp(a->net, address, whole) == 0 &&
           (!rest || (a->net[whole] & mask) == (address[whole] & mask));
}

static bool is_wildcard(const uint8_t *address, size_t length)
{
    static const uint8_t zeroes[sizeof(struct in6_addr)];
    return memcmp(address, zeroes, length) == 0;
}

bool allow_list_has_address(const struct allow_list *list, const struct addrinfo *ai)
{
    bool v6 = ai->ai_family == AF_INET6;
    const void *in = &((const struct sockaddr_in *)(const void *)ai->ai_addr)->sin_addr;
    const void *in6 = &((const struct sockaddr_in6 *)(const void *)ai->ai_addr)->sin6_addr;
    const uint8_t *address = v6 ? in6 : in;
    bool wild = is_wildcard(address, v6 ? sizeof(struct in6_addr) : sizeof(struct in_addr));
    for (unsigned i = 0; list && i < list->count; i++) {
        const struct allowed *a = &list->entries[i];
        if (a->family == ai->ai_family && (!wild || !a->bits) && is_in_network(a, address)) {
            return true;
        }
    }
    return !list;
}

/* One that climbs up may end anywhere. */
static bool climbs(const char *path)
{
    size_t n = strlen(path);
    return strstr(path, "/../") || strncmp(path, "../", 3) == 0 ||
           (n >= 3 && strcmp(path + n - 3, "/..") == 0);
}

bool allow_list_has_path(const struct allow_list *list, const char *path)
{
    for (unsigned i = 0; list && i < list->count; i++) {
        const struct allowed *a = &list->entries[i];
        const char *prefix = a->text + strlen(UNIX_SCHEME);
        if (a->family == AF_UNIX && !climbs(path) && strncmp(path, prefix, strlen(prefix)) == 0) {
            return true;
        }
    }
    return !list;
}

void allow_list_refuse(const struct allow_list *list, const char *uri, struct error **errp)
{
    char text[TEXT_MAX] = "";
    for (unsigned i = 0; i < list->count; i++) {
        size_t n = strlen(text);
        snprintf(text + n, sizeof(text) - n, "%s%s", n ? ", " : "", list->entries[i].text);
    }
    error_set(errp, "listen-forbidden",
              "'%s' is not where ferryd's configuration lets it listen (allow-listen: %s)", uri,
              text);
}
