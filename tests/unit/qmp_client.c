/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/unit/qmp_client.h"

#include "tests/unit/qmp_stub.h"

#include <check.h>
#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Rounds of the loop without any progress after which nothing more is expected to come. */
#define IDLE_ROUNDS 8
#define READ_SIZE   ((size_t)64 * 1024)

/* The request is answered by the test, or when the stage is closed. */
static void stub_hold(struct qmp_request *req, json_t *args, void *opaque)
{
    (void)args;
    struct stage *stage = opaque;
    ck_assert_uint_lt(stage->held_count, STAGE_HELD_MAX);
    stage->held[stage->held_count++] = req;
}

static void stub_getfd(struct qmp_request *req, json_t *args, void *opaque)
{
    (void)args;
    struct stage *stage = opaque;
    int fd = qmp_request_take_fd(req);
    if (fd < 0) {
        struct error *err = NULL;
        error_set(&err, "parameter-missing", "No file descriptor came along");
        qmp_fail(req, err);
        return;
    }
    ck_assert_uint_lt(stage->fd_count, STAGE_HELD_MAX);
    stage->fds[stage->fd_count++] = fd;
    qmp_return(req, NULL);
}

/* All other commands return their arguments. */
static void stub_run(struct qmp_request *req, json_t *args, void *opaque)
{
    (void)opaque;
    qmp_return(req, json_incref(args));
}

static void set_stub(struct stage *stage, const char *name, qmp_handler *run)
{
    for (struct qmp_command *command = stage->commands; command->name; command++) {
        if (strcmp(command->name, name) == 0) {
            command->run = run;
        }
    }
}

/* Bound to an address that the kernel chose in the abstract namespace: nothing to clean up. */
static int listen_anywhere(struct stage *stage)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(fd, 0);
    stage->address = (struct sockaddr_un){.sun_family = AF_UNIX};
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&stage->address, sizeof(sa_family_t)), 0);
    stage->address_len = sizeof(stage->address);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&stage->address, &stage->address_len), 0);
    ck_assert_int_eq(listen(fd, SOMAXCONN), 0);
    return fd;
}

void stage_open(struct stage *stage)
{
    *stage = (struct stage){.base = event_base_new()};
    ck_assert(schema_init(&stage->schema, NULL));
    stage->commands = stub_commands(&stage->schema, stub_run);
    set_stub(stage, "stop", stub_hold);
    set_stub(stage, "getfd", stub_getfd);
    struct qmp_config config = {
        .base = stage->base,
        .version = {1, 2, 3},
        .package = "ferryd 1.2.3",
        .commands = stage->commands,
        .opaque = stage,
    };
    struct error *err = NULL;
    stage->server = qmp_server_new(&config, &err);
    ck_assert_msg(stage->server != NULL, "%s", err ? err->text : "");
    ck_assert(qmp_server_listen(stage->server, listen_anywhere(stage), false, &err));
}

void stage_close(struct stage *stage)
{
    qmp_server_free(stage->server);
    for (size_t i = 0; i < stage->held_count; i++) {
        qmp_return(stage->held[i], NULL);
    }
    for (size_t i = 0; i < stage->fd_count; i++) {
        close(stage->fds[i]);
    }
    free(stage->commands);
    schema_destroy(&stage->schema);
    event_base_free(stage->base);
}

void stage_run(struct stage *stage)
{
    for (int round = 0; round < IDLE_ROUNDS; round++) {
        ck_assert_int_ge(event_base_loop(stage->base, EVLOOP_NONBLOCK), 0);
    }
}

void stage_answer(struct stage *stage)
{
    ck_assert_uint_gt(stage->held_count, 0);
    struct qmp_request *req = stage->held[0];
    stage->held_count--;
    memmove(stage->held, stage->held + 1, stage->held_count * sizeof(stage->held[0]));
    qmp_return(req, NULL);
}

void client_connect(struct client *client, struct stage *stage)
{
    *client = (struct client){.stage = stage};
    client->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    ck_assert_int_ge(client->fd, 0);
    ck_assert_int_eq(connect(client->fd, (struct sockaddr *)&stage->address, stage->address_len),
                     0);
}

void client_open(struct client *client, struct stage *stage)
{
    client_connect(client, stage);
    json_t *greeting = client_line(client);
    ck_assert_ptr_nonnull(json_object_get(greeting, "QMP"));
    json_decref(greeting);
}

void client_negotiated(struct client *client, struct stage *stage, const char *enable)
{
    client_open(client, stage);
    json_t *request = json_pack("{s:s}", "execute", "qmp_capabilities");
    if (enable) {
        json_object_set_new(request, "arguments", json_pack("{s:[s]}", "enable", enable));
    }
    char *text = json_dumps(request, 0);
    client_send(client, text);
    client_expect(client, "{\"return\": {}}");
    free(text);
    json_decref(request);
}

void client_close(struct client *client)
{
    close(client->fd);
    free(client->bytes);
}

bool client_send_bytes(struct client *client, const void *bytes, size_t len)
{
    const char *rest = bytes;
    while (len > 0) {
        ssize_t sent = send(client->fd, rest, len, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) {
            return false;
        }
        if (sent > 0) {
            rest += sent;
            len -= (size_t)sent;
        }
        ck_assert_int_ge(event_base_loop(client->stage->base, EVLOOP_NONBLOCK), 0);
    }
    return true;
}

void client_send(struct client *client, const char *text)
{
    ck_assert(client_send_bytes(client, text, strlen(text)));
}

void client_send_fds(struct client *client, const char *text, int fd, size_t count)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(STAGE_HELD_MAX * sizeof(int))];
    } control;
    memset(&control, 0, sizeof(control));
    struct iovec iov = {.iov_base = (char *)text, .iov_len = strlen(text)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control};
    msg.msg_controllen = CMSG_SPACE(count * sizeof(int));
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
    *cmsg = (struct cmsghdr){.cmsg_len = CMSG_LEN(count * sizeof(int)),
                             .cmsg_level = SOL_SOCKET,
                             .cmsg_type = SCM_RIGHTS};
    for (size_t i = 0; i < count; i++) {
        memcpy(CMSG_DATA(cmsg) + i * sizeof(fd), &fd, sizeof(fd));
    }
    ck_assert_int_eq(sendmsg(client->fd, &msg, 0), (ssize_t)strlen(text));
    stage_run(client->stage);
}

/* Takes in what the server has sent; false when that was nothing. */
static bool fetch(struct client *client)
{
    ck_assert_int_ge(event_base_loop(client->stage->base, EVLOOP_NONBLOCK), 0);
    client->bytes = realloc(client->bytes, client->len + READ_SIZE);
    ck_assert_ptr_nonnull(client->bytes);
    ssize_t got = recv(client->fd, client->bytes + client->len, READ_SIZE, 0);
    client->len += got > 0 ? (size_t)got : 0;
    return got > 0;
}

static json_t *decode(const char *line, size_t len)
{
    ck_assert_msg(len >= 2 && line[len - 2] == '\r', "a line does not end in CR LF");
    size_t ascii = 0;
    while (ascii < len && (unsigned char)line[ascii] < 0x80) {
        ascii++;
    }
    ck_assert_msg(ascii == len, "a line is not ASCII");
    json_t *json = json_loadb(line, len, JSON_REJECT_DUPLICATES, NULL);
    ck_assert_ptr_nonnull(json);
    return json;
}

json_t *client_line(struct client *client)
{
    size_t seen = 0;
    int idle = 0;
    while (idle < IDLE_ROUNDS) {
        const char *start = client->bytes ? client->bytes + seen : NULL;
        const char *newline = start ? memchr(start, '\n', client->len - seen) : NULL;
        if (newline) {
            size_t len = (size_t)(newline - client->bytes) + 1;
            json_t *json = decode(client->bytes, len);
            client->len -= len;
            memmove(client->bytes, client->bytes + len, client->len);
            return json;
        }
        seen = client->len;
        idle = fetch(client) ? 0 : idle + 1;
    }
    return NULL;
}

bool client_at_end(struct client *client)
{
    stage_run(client->stage);
    char byte;
    ssize_t got = recv(client->fd, &byte, 1, MSG_PEEK);
    return got == 0 || (got < 0 && errno != EAGAIN);
}

void client_expect(struct client *client, const char *text)
{
    json_t *wanted = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    ck_assert_msg(wanted != NULL, "the test's own JSON is wrong: %s", text);
    json_t *line = client_line(client);
    char *shown = line ? json_dumps(line, 0) : NULL;
    ck_assert_msg(json_equal(line, wanted), "got %s instead of %s", shown ? shown : "nothing",
                  text);
    free(shown);
    json_decref(line);
    json_decref(wanted);
}

void client_expect_error(struct client *client, const char *class, const char *code, const char *id)
{
    json_t *line = client_line(client);
    char *shown = line ? json_dumps(line, 0) : NULL;
    json_t *error = json_object_get(line, "error");
    ck_assert_msg(error != NULL, "got %s instead of the error %s", shown ? shown : "nothing", code);
    ck_assert_str_eq(json_string_value(json_object_get(error, "class")), class);
    ck_assert_str_eq(json_string_value(json_object_get(error, "code")), code);
    ck_assert(json_is_string(json_object_get(error, "desc")));
    const char *given = json_string_value(json_object_get(line, "id"));
    ck_assert_msg(id ? given && strcmp(given, id) == 0 : !json_object_get(line, "id"),
                  "the id is wrong in %s", shown);
    free(shown);
    json_decref(line);
}

void client_expect_silence(struct client *client)
{
    json_t *line = client_line(client);
    char *shown = line ? json_dumps(line, 0) : NULL;
    ck_assert_msg(line == NULL, "got %s unexpectedly", shown ? shown : "nothing");
    json_decref(line);
}
