/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An RDMA peer that says whatever a test wants: one connection, driven by lines on standard input,
 * each answered by "ok ..." or "error ...".
 *
 *   connect HOST PORT HELLO     calls; the callee's hello
 *   listen HOST                 the port
 *   accept HELLO                waits for a call; the caller's hello
 *   send BYTES                  one message
 *   receive                     waits for one message
 *   write ADDRESS RKEY LENGTH   that many 0xaa by RDMA WRITE
 *   quit
 *
 * HELLO, BYTES and what comes are in hexadecimal; "-" is none.
 */
#include <arpa/inet.h>
#include <rdma/rdma_cma.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BUFFER   32768u
#define BUFFERS  32u
#define LINE     (4 * BUFFER)
#define PATIENCE 10000 /* ms */

static struct rdma_event_channel *events;
static struct rdma_cm_id *listener, *id;
static struct ibv_cq *cq;
static struct ibv_mr *mr;
static uint8_t memory[BUFFER * (BUFFERS + 1)]; /* the last one is sent from */
static uint8_t *const outgoing = memory + (size_t)BUFFER * BUFFERS;
static uint8_t bytes[BUFFER]; /* of the line's hexadecimal */
static struct ibv_wc arrived[BUFFERS];
static unsigned arrived_count;

static void answer_hex(const uint8_t *from, size_t length)
{
    printf("ok ");
    for (size_t i = 0; i < length; i++) {
        printf("%02x", from[i]);
    }
    printf("\n");
}

static size_t take_hex(const char *text)
{
    size_t length = 0;
    unsigned byte;
    while (text && length < sizeof(bytes) && sscanf(text + 2 * length, "%2x", &byte) == 1) {
        bytes[length++] = (uint8_t)byte;
    }
    return length;
}

static void post_receive(uint64_t buffer)
{
    struct ibv_sge sge = {
        .addr = (uintptr_t)(memory + BUFFER * buffer), .length = BUFFER, .lkey = mr->lkey};
    struct ibv_recv_wr wr = {.wr_id = buffer, .sg_list = &sge, .num_sge = 1}, *bad;
    ibv_post_recv(id->qp, &wr, &bad);
}

static bool make_queues(void)
{
    struct ibv_qp_init_attr attr = {
        .cap = {.max_send_wr = 4, .max_recv_wr = BUFFERS, .max_send_sge = 1, .max_recv_sge = 1},
        .qp_type = IBV_QPT_RC,
    };
    cq = ibv_create_cq(id->verbs, 64, NULL, NULL, 0);
    attr.send_cq = attr.recv_cq = cq;
    if (!cq || rdma_create_qp(id, NULL, &attr) != 0) {
        return false;
    }
    mr = ibv_reg_mr(id->pd, memory, sizeof(memory), IBV_ACCESS_LOCAL_WRITE);
    for (uint64_t i = 0; mr && i < BUFFERS; i++) {
        post_receive(i);
    }
    return mr != NULL;
}

/* The next event of the connection manager; its private data is answered when that is asked for. */
static bool expect(enum rdma_cm_event_type type, bool tell)
{
    struct rdma_cm_event *event;
    if (rdma_get_cm_event(events, &event) != 0) {
        printf("error no event\n");
        return false;
    }
    bool ok = event->event == type;
    if (type == RDMA_CM_EVENT_CONNECT_REQUEST && ok) {
        id = event->id;
    }
    if (!ok) {
        printf("error %s\n", rdma_event_str(event->event));
    } else if (tell) {
        answer_hex(event->param.conn.private_data, event->param.conn.private_data_len);
    }
    rdma_ack_cm_event(event);
    return ok;
}

static struct sockaddr_in address(const char *host, const char *port)
{
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)(port ? atoi(port) : 0))};
    inet_pton(AF_INET, host, &addr.sin_addr);
    return addr;
}

static struct rdma_conn_param parameters(size_t hello)
{
    return (struct rdma_conn_param){.private_data = bytes,
                                    .private_data_len = (uint8_t)hello,
                                    .responder_resources = 1,
                                    .initiator_depth = 1,
                                    .retry_count = 7,
                                    .rnr_retry_count = 7};
}

static bool resolve(const char *host, const char *port)
{
    struct sockaddr_in addr = address(host, port);
    struct rdma_cm_event *event;
    bool found = false;
    rdma_create_id(events, &id, NULL, RDMA_PS_TCP);
    for (int i = 0; i < 20 && !found; i++) {
        if (rdma_resolve_addr(id, NULL, (struct sockaddr *)&addr, 200) != 0 ||
            rdma_get_cm_event(events, &event) != 0) {
            return false;
        }
        found = event->event == RDMA_CM_EVENT_ADDR_RESOLVED;
        rdma_ack_cm_event(event);
    }
    return found && rdma_resolve_route(id, 2000) == 0;
}

static void do_connect(char **word)
{
    struct rdma_conn_param param = parameters(take_hex(word[3]));
    if (!resolve(word[1], word[2])) {
        printf("error not resolved\n");
    } else if (expect(RDMA_CM_EVENT_ROUTE_RESOLVED, false)) {
        if (!make_queues() || rdma_connect(id, &param) != 0) {
            printf("error not connected\n");
        } else {
            expect(RDMA_CM_EVENT_ESTABLISHED, true);
        }
    }
}

static void do_listen(char **word)
{
    struct sockaddr_in addr = address(word[1], NULL);
    if (rdma_create_id(events, &listener, NULL, RDMA_PS_TCP) != 0 ||
        rdma_bind_addr(listener, (struct sockaddr *)&addr) != 0 || rdma_listen(listener, 1) != 0) {
        printf("error not listening\n");
    } else {
        printf("ok %u\n", ntohs(rdma_get_src_port(listener)));
    }
}

static void do_accept(char **word)
{
    struct rdma_conn_param param = parameters(take_hex(word[1]));
    if (!expect(RDMA_CM_EVENT_CONNECT_REQUEST, false)) {
        return;
    }
    if (!make_queues() || rdma_accept(id, &param) != 0) {
        printf("error not accepted\n");
    } else if (expect(RDMA_CM_EVENT_ESTABLISHED, false)) {
        printf("ok\n");
    }
}

/* The next completion of a send, those of receives are kept; or the other way round. */
static bool complete(bool of_send, struct ibv_wc *wc)
{
    for (int ms = 0; ms < PATIENCE; ms++) {
        if (!of_send && arrived_count) {
            *wc = arrived[0];
            memmove(arrived, arrived + 1, --arrived_count * sizeof(*arrived));
            return true;
        }
        while (ibv_poll_cq(cq, 1, wc) == 1) {
            bool is_send = wc->wr_id == BUFFERS;
            if (is_send == of_send) {
                return true;
            }
            if (!is_send && arrived_count < BUFFERS) {
                arrived[arrived_count++] = *wc;
            }
        }
        usleep(1000); /* how often is asked */
    }
    printf("error nothing came\n");
    return false;
}

static void answer_status(const struct ibv_wc *wc)
{
    if (wc->status == IBV_WC_SUCCESS) {
        printf("ok\n");
    } else {
        printf("error %s\n", ibv_wc_status_str(wc->status));
    }
}

static void post(struct ibv_send_wr *wr, uint32_t length)
{
    struct ibv_sge sge = {.addr = (uintptr_t)outgoing, .length = length, .lkey = mr->lkey};
    struct ibv_send_wr *bad;
    struct ibv_wc wc;
    wr->wr_id = BUFFERS;
    wr->sg_list = &sge;
    wr->num_sge = 1;
    wr->send_flags = IBV_SEND_SIGNALED;
    ibv_post_send(id->qp, wr, &bad);
    if (complete(true, &wc)) {
        answer_status(&wc);
    }
}

static void do_send(char **word)
{
    struct ibv_send_wr wr = {.opcode = IBV_WR_SEND};
    size_t length = take_hex(word[1]);
    memcpy(outgoing, bytes, length);
    post(&wr, (uint32_t)length);
}

static void do_write(char **word)
{
    struct ibv_send_wr wr = {.opcode = IBV_WR_RDMA_WRITE};
    wr.wr.rdma.remote_addr = strtoull(word[1], NULL, 0);
    wr.wr.rdma.rkey = (uint32_t)strtoul(word[2], NULL, 0);
    memset(outgoing, 0xaa, BUFFER);
    post(&wr, (uint32_t)strtoul(word[3], NULL, 0));
}

static void do_receive(char **word)
{
    struct ibv_wc wc;
    (void)word;
    if (!complete(false, &wc)) {
        return;
    }
    if (wc.status != IBV_WC_SUCCESS) {
        answer_status(&wc);
        return;
    }
    answer_hex(memory + BUFFER * wc.wr_id, wc.byte_len);
    post_receive(wc.wr_id);
}

static const struct {
    const char *name;
    void (*run)(char **word);
    int words;
} commands[] = {
    {"connect", do_connect, 4}, {"listen", do_listen, 2},   {"accept", do_accept, 2},
    {"send", do_send, 2},       {"receive", do_receive, 1}, {"write", do_write, 4},
};

static void run_line(char *line)
{
    char *word[8] = {0}, *rest = line;
    int count = 0;
    while (count < 7 && (word[count] = strtok_r(rest, " \n", &rest))) {
        count++;
    }
    for (size_t i = 0; count && i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(word[0], commands[i].name) == 0 && count == commands[i].words) {
            commands[i].run(word);
            return;
        }
    }
    printf("error not understood\n");
}

int main(void)
{
    static char line[LINE];
    setvbuf(stdout, NULL, _IOLBF, 0);
    events = rdma_create_event_channel();
    printf(events ? "ok ready\n" : "error no RDMA here\n");
    while (events && fgets(line, sizeof(line), stdin) && strcmp(line, "quit\n") != 0) {
        run_line(line);
    }
    return 0;
}
