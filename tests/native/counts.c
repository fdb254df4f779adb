/*
 * counts.c - how much of a session's is done in one iteration: entries, calls of the stack, bytes,
 * closed sockets.
 */
#include "attacker.h"

/* However often it is asked, and whatever is spent after that. */
TEST(a_slice_stays_over)
{
    struct slice s;
    slice_open(&s, FFL_NS_PER_SEC);
    s.end = 0;
    CHECK(!slice_over(&s)); /* too little to look at the clock */
    slice_spend(&s, SLICE_CLOCK_NS);
    CHECK(slice_over(&s) && slice_over(&s));
    slice_spend(&s, SLICE_ENTRY_NS);
    CHECK(slice_over(&s));
}

#define ENTRIES (SLICE_NS / SLICE_ENTRY_NS) /* of the cheapest */
#define CALLS (SLICE_NS / SLICE_CALL_NS)

/* Iterates until nothing is left: no iteration does more than `most` of it, and none but the last
 * says that it may sleep. */
static void falls(uint64_t (*left)(void), uint64_t most)
{
    uint64_t before = left(), now;
    CHECK(before > 2 * most); /* else nothing is shown */
    for (int i = 0; before; before = now, i++) {
        CHECK(i < 100000);
        int64_t next = iterate();
        now = left();
        CHECK(before - now <= most);
        CHECK(next == 0 || now == 0);
    }
}

static uint64_t waiting(const struct raw *r)
{
    return atomic_load(&r->sq.ctl->tail) - atomic_load(&r->sq.ctl->head);
}

static struct raw crowd[64];

static uint64_t crowd_waiting(void)
{
    uint64_t n = 0;
    for (size_t i = 0; i < FFL_COUNT(crowd); i++)
        n += waiting(&crowd[i]);
    return n;
}

/* A neighbour waits for eight of them, however many there are. */
TEST(a_crowd)
{
    start_lab("sim");
    for (size_t i = 0; i < FFL_COUNT(crowd); i++)
        raw_attach_sized(&crowd[i], 16, 256);
    for (size_t i = 0; i < FFL_COUNT(crowd); i++)
        while (ffl_ring_room(&crowd[i].sq, 1) > 0)
            raw_op(&crowd[i], FFL_OP_NOP, 0, 0, 0);
    falls(crowd_waiting, WHOLE_SLICES * ENTRIES);
    for (size_t i = 0; i < FFL_COUNT(crowd); i++)
        raw_gone(&crowd[i]);
    lab_stop();
}

static uint64_t bad_waiting(void)
{
    return waiting(&bad);
}

TEST(calls)
{
    start_lab("sim");
    raw_attach(&bad);
    for (uint32_t h = 0; h < 4 * CALLS; h++)
        open_socket(h, SOCK_STREAM);
    falls(bad_waiting, CALLS);
    raw_gone(&bad);
    lab_stop();
}

static uint64_t to_send;

static uint64_t unsent(void)
{
    return to_send - atomic_load(&bad.map.seg->inst.bytes_out);
}

TEST(bytes)
{
    static uint8_t much[60000];
    struct ffl_addr a = addr4("10.0.0.3", 9);
    memcpy(much, &a, sizeof(a));
    start_lab("sim");
    raw_attach(&bad);
    for (uint32_t h = 0; h < 64; h++)
        open_socket(h, SOCK_DGRAM);
    settle();
    for (uint32_t h = 0; bad.tx.n[2] > 1; h++) {
        raw_put(&bad, (struct ffl_entry){.op = FFL_OP_SEND,
                                         .flags = FFL_F_ADDR,
                                         .handle = h % 64,
                                         .arg = sizeof(much),
                                         .buf = raw_arg(&bad, much, sizeof(much))});
        to_send += sizeof(much) - sizeof(a);
    }
    falls(unsent, SLICE_NS / SLICE_KIB_NS * 1024);
    raw_gone(&bad);
    lab_stop();
}

/* Datagrams before an option, and before a connect: they are sent as they were submitted. */
TEST(datagrams_before_an_option)
{
    const struct ffl_addr to = addr4("10.0.0.3", 9);
    const uint8_t text[sizeof(to) + 1] = {0};
    struct ffl_optarg o = {.level = SOL_SOCKET, .name = SO_BROADCAST, .len = sizeof(int)};
    start_lab("sim");
    raw_attach(&bad);
    open_socket(0, SOCK_DGRAM);
    settle();
    for (to_send = 0; to_send < 4 * CALLS; to_send++) {
        uint32_t buf = raw_arg(&bad, text, sizeof(text));
        memcpy(raw_tx(&bad, buf), &to, sizeof(to));
        raw_put(&bad, (struct ffl_entry){
                          .op = FFL_OP_SEND, .flags = FFL_F_ADDR, .arg = sizeof(text), .buf = buf});
    }
    with_block(FFL_OP_SETSOCKOPT, 0, &o, ffl_optarg_bytes(o.len));
    falls(unsent, CALLS + 2); /* one more from the ready list, before and after the stack's poll */
    struct ffl_entry e = raw_expect(&bad, FFL_OP_SETSOCKOPT, 0);
    CHECK_EQ(e.arg, 0);
    raw_gone(&bad);
    lab_stop();
}

static uint64_t shutdowns(void)
{
    uint64_t n = bad_waiting();
    for (uint32_t h = 0; h < many; h++)
        n += TAILQ_FIRST(&lab.in->sessions)->table[h]->shut >= 0;
    return n;
}

/* Each is a call of the stack, besides the entry that asks for it. */
TEST(shutdowns)
{
    start_lab("sim");
    many = 4 * CALLS;
    raw_attach(&bad);
    for (uint32_t h = 0; h < many; h++)
        open_socket(h, SOCK_STREAM);
    settle();
    for (uint32_t h = 0; h < many; h++)
        raw_op(&bad, FFL_OP_SHUTDOWN, h, SHUT_RD, 0);
    falls(shutdowns, CALLS);
    raw_gone(&bad);
    lab_stop();
}

/* Whom a shutdown is told to is paid for by who asked: its next entries wait. */
TEST(those_that_a_shutdown_tells)
{
    enum { BEHIND = 8 }; /* too few for a look at the clock */
    start_lab("sim");
    raw_attach(&bad);
    CHECK(lab_ticket(&ticket));
    struct ffl_import x = {.key = ticket.key, .ticket = ticket.id};
    open_socket(0, SOCK_STREAM);
    for (uint32_t h = 1; h <= ENTRIES; h++) {
        with_block(FFL_OP_EXPORT, 0, &x, sizeof(x));
        with_block(FFL_OP_IMPORT, h, &x, sizeof(x));
    }
    settle();
    raw_op(&bad, FFL_OP_SHUTDOWN, 0, SHUT_WR, 0);
    for (int i = 0; i < BEHIND; i++)
        raw_op(&bad, FFL_OP_NOP, 0, 0, 0);
    (void)iterate();
    CHECK_EQ(bad_waiting(), BEHIND);
    settle();
    all_gone(0);
    lab_stop();
}

static uint64_t sockets(void)
{
    return ffl_instance_sockets(lab.in);
}

TEST(a_drain)
{
    start_lab("sim");
    many = 8 * CALLS;
    raw_attach(&bad);
    listeners();
    settle();
    ffl_instance_drain(lab.in);
    falls(sockets, CALLS);
    raw_gone(&bad);
    lab_stop();
}

TEST(a_death)
{
    start_lab("sim");
    many = 8 * CALLS;
    raw_attach(&bad);
    listeners();
    settle();
    raw_gone(&bad);
    falls(sockets, CALLS);
    lab_stop();
}

/* What a sweep costs ends the slice of the control messages: the next one waits. */
TEST(a_sweep)
{
    start_lab("sim");
    raw_attach(&bad);
    CHECK(lab_ticket(&ticket));
    struct ffl_import x = {.key = ticket.key, .ticket = ticket.id};
    for (uint32_t h = 0; h < ENTRIES; h++) {
        open_socket(h, SOCK_STREAM);
        with_block(FFL_OP_EXPORT, h, &x, sizeof(x));
    }
    settle();
    const uint32_t none = 0;
    CHECK_EQ(ffl_ticket_send(ticket.fd, FFL_TICKET_SWEEP, &none, 0), 0);
    CHECK_EQ(ffl_ticket_send(ticket.fd, FFL_TICKET_SWEEP + 1, &none, 0), 0); /* ends the ticket */
    while (TAILQ_EMPTY(&lab.in->dropped))
        (void)iterate();
    CHECK_EQ(lab.in->ledger.n[CHARGE_TICKET], 1);
    while (lab.in->ledger.n[CHARGE_TICKET])
        (void)iterate();
    all_gone(0);
    lab_stop();
}

/* ---- what a listener's close resets ---------------------------------------------------------- */

static int listener;

static uint64_t backlog(void)
{
    int n = OPS(lab.in)->backlog(ST(lab.in), listener);
    return n > 0 ? (uint64_t)n : 0; /* closed: none */
}

static void listen_to_many(uint32_t credits)
{
    start_lab("sim");
    raw_attach(&bad);
    raw_listen(&bad, 0, "10.0.0.3", 80, credits, 0);
    plain(FFL_OP_LISTEN, 0, 4096, 0);
    settle();
    listener = TAILQ_FIRST(&lab.in->sessions)->table[0]->fd;
    for (uint32_t i = 0; i < 4 * CALLS; i++)
        (void)sim_dial("10.0.0.3", 80);
}

TEST(a_closed_backlog)
{
    listen_to_many(0);
    plain(FFL_OP_CLOSE, 0, 0, 0);
    falls(backlog, CALLS);
    CHECK_EQ(raw_expect(&bad, FFL_OP_CLOSED, 0).arg, 0);
    raw_finish(&bad);
}

TEST(a_backlog_that_is_left)
{
    listen_to_many(0);
    raw_gone(&bad);
    falls(backlog, CALLS);
    lab_stop();
}

TEST(a_backlog_in_a_ticket)
{
    listen_to_many(0);
    CHECK(lab_ticket(&ticket));
    raw_export(&bad, 0, &ticket);
    settle();
    for (uint32_t i = 0; i < HELD_LISTS; i++)
        if (!LIST_EMPTY(&lab.in->held[i]))
            listener = LIST_FIRST(&lab.in->held[i])->fd;
    plain(FFL_OP_CLOSE, 0, 0, 0);
    settle();
    CHECK_EQ(backlog(), 4 * CALLS); /* another may still accept them */
    close(ticket.fd);
    falls(backlog, CALLS);
    raw_finish(&bad);
}

static uint64_t charged(void)
{
    return lab.in->ledger.n[CHARGE_SOCKET];
}

/* Connections that were accepted ahead and given back to a listener, which then closes. */
TEST(connections_given_back)
{
    static uint32_t accepted[4 * CALLS];
    struct ffl_entry e;
    listen_to_many(4 * CALLS);
    for (uint32_t n = 0; n < 4 * CALLS;) {
        (void)iterate();
        while (raw_next(&bad, &e)) {
            CHECK_EQ(e.op, FFL_OP_ACCEPT);
            raw_give(&bad, e.buf);
            accepted[n++] = (uint32_t)e.arg;
        }
    }
    for (uint32_t n = 0; n < 4 * CALLS; n++)
        plain(FFL_OP_CLOSE, accepted[n], 0, FFL_F_RETURN);
    settle();
    plain(FFL_OP_CLOSE, 0, 0, 0);
    falls(charged, CALLS);
    raw_finish(&bad);
}
