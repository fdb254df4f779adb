/*
 * rules.c - rules 1, 2 and 4 of docs/architecture.md: order, receive, full rings. 3: sends.c; 5 and
 * 6: wake.c; 7: hostile.c and those that it names; 8 and 9: faults.c; the heavy cases: heavy.c.
 *
 * Each case fails when its rule is broken in the instance or the client: that was tried, rule by
 * rule, by breaking it. All of them are stepped.
 */
#include "lab.h"

#include "../../ffloop/_native/client/internal.h"

#include <sched.h>

#define NOBUF FFL_NO_BUF

/* ---- 1: order ------------------------------------------------------------------------------ */

/* Sends, a shutdown behind them, through a window that opens bit by bit. */
TEST(r1_operations_take_effect_in_order)
{
    struct raw r;
    int peer;
    uint8_t chunk[3000];
    uint64_t sent = 0, got = 0;
    raw_server(&r, "window=1000", 0);
    uint32_t h = raw_accepted(&r, 0, 80, &peer);
    for (int i = 0; i < 60; i++) {
        uint32_t n = 1 + (uint32_t)(i * 977) % sizeof(chunk);
        for (uint32_t k = 0; k < n; k++)
            chunk[k] = pattern(sent + k);
        raw_send(&r, h, chunk, n);
        sent += n;
    }
    raw_op(&r, FFL_OP_SHUTDOWN, h, SHUT_WR, 0);
    int n = -EAGAIN;
    for (int i = 0; i < 1000 && n == -EAGAIN; i++) {
        (void)iterate();
        n = sim_drain(peer, &got);
    }
    CHECK_EQ(n, 0); /* the end of the stream, after all of it */
    CHECK_EQ(got, sent);
    CHECK_EQ(sim_put(peer, "still", 5), 5); /* the other half is open */
    raw_op(&r, FFL_OP_ARM, h, 0, 0);
    struct ffl_entry e = raw_expect(&r, FFL_OP_RECV, h);
    CHECK_EQ(e.arg, 5);
    sim_shut(peer);
    raw_finish(&r);
}

TEST(r1_completions_keep_stream_order)
{
    struct raw r;
    int peer;
    uint8_t chunk[700];
    uint64_t sent = 0, got = 0, seed = 1;
    struct ffl_entry e;
    raw_server(&r, "window=8000", FFL_F_ARM_NEW);
    uint32_t h = raw_accepted(&r, 0, 80, &peer);
    bool end = false;
    while (!end) {
        if (sent < 300000) {
            uint32_t n = 1 + test_random(&seed) % sizeof(chunk);
            for (uint32_t k = 0; k < n; k++)
                chunk[k] = pattern(sent + k);
            int rc = sim_put(peer, chunk, n);
            sent += rc > 0 ? (uint64_t)rc : 0;
            if (sent >= 300000)
                CHECK_EQ(ffl_sim_ops.shutdown(sim, peer, SHUT_WR), 0);
        }
        if (test_random(&seed) % 3 == 0)
            (void)iterate();
        while (raw_next(&r, &e)) {
            CHECK(e.op == FFL_OP_RECV && e.handle == h);
            CHECK(!end); /* the end comes after the data, once */
            end = e.buf == NOBUF;
            if (end)
                break;
            const uint8_t *p = raw_rx(&r, e.buf);
            for (int i = 0; i < e.arg; i++, got++)
                CHECK_EQ(p[i], pattern(got));
            raw_give(&r, e.buf);
        }
    }
    CHECK_EQ(got, sent);
    raw_nothing(&r);
    sim_shut(peer);
    raw_finish(&r);
}

/* A close waits for the sends before it; CLOSED says that they are with the stack. */
TEST(r1_closed_is_last)
{
    struct raw r;
    int peer;
    uint8_t data[4000];
    uint64_t got = 0;
    struct ffl_entry e;
    raw_server(&r, "window=1000", FFL_F_ARM_NEW);
    uint32_t h = raw_accepted(&r, 0, 80, &peer);
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = pattern(i);
    CHECK_EQ(sim_put(peer, data, 500), 500);
    raw_send(&r, h, data, sizeof(data));
    raw_op(&r, FFL_OP_CLOSE, h, 0, 0);
    iterations(5);
    while (raw_next(&r, &e)) /* what was read ahead before the close, but not CLOSED */
        CHECK_EQ(e.op, FFL_OP_RECV);
    CHECK_EQ(sim_put(peer, data, 100), 100);
    while (sim_drain(peer, &got) == -EAGAIN && got < sizeof(data))
        (void)iterate();
    CHECK_EQ(got, sizeof(data));
    e = raw_expect(&r, FFL_OP_CLOSED, h);
    (void)sim_put(peer, data, 100);
    raw_nothing(&r); /* it was the last */
    sim_shut(peer);
    raw_finish(&r);
}

TEST(r1_abort_drops_what_was_not_sent)
{
    struct raw r;
    int peer;
    uint8_t data[4000] = {0};
    raw_server(&r, "window=1000", 0);
    uint32_t h = raw_accepted(&r, 0, 80, &peer);
    raw_send(&r, h, data, sizeof(data));
    iterations(2);
    raw_op(&r, FFL_OP_CLOSE, h, 0, FFL_F_ABORT);
    (void)raw_expect(&r, FFL_OP_CLOSED, h); /* though the peer reads nothing */
    CHECK_EQ(ffl_instance_sockets(lab.in), 1);
    sim_shut(peer);
    raw_finish(&r);
}

TEST(r1_handle_is_reused_only_after_closed)
{
    struct raw r;
    int a, b, c;
    static uint8_t data[4000], sink[4000];
    struct ffl_entry e;
    raw_server(&r, "window=1000", 0);
    uint32_t first = raw_accepted(&r, 0, 80, &a);
    raw_send(&r, first, data, sizeof(data));
    raw_op(&r, FFL_OP_CLOSE, first, 0, 0);
    iterations(3);
    uint32_t second = raw_accepted(&r, 0, 80, &b); /* while the first still sends */
    CHECK(second != first);
    while (sim_take(a, sink, sizeof(sink)) > 0)
        iterations(1);
    (void)raw_expect(&r, FFL_OP_CLOSED, first);
    /* CLOSED of the second and the ACCEPT that reuses its handle, in one iteration:
     * in this order */
    raw_op(&r, FFL_OP_CLOSE, second, 0, FFL_F_ABORT);
    c = sim_dial("10.0.0.1", 80);
    bool closed = false;
    for (int i = 0; i < 10; i++) {
        (void)iterate();
        while (raw_next(&r, &e)) {
            closed |= e.op == FFL_OP_CLOSED && e.handle == second;
            if (e.op == FFL_OP_ACCEPT && (uint32_t)e.arg == second)
                CHECK(closed);
        }
    }
    CHECK(closed);
    sim_shut(a);
    sim_shut(b);
    sim_shut(c);
    raw_finish(&r);
}

/* The application may not use a handle again before its CLOSED either: that is a lie. */
TEST(r1_socket_on_a_handle_that_still_closes)
{
    struct raw r;
    int l, peer;
    static uint8_t data[4000];
    lab_start_manual("window=1000");
    l = sim_listen("10.0.0.9", 99);
    raw_attach(&r);
    raw_connect(&r, 5, "10.0.0.9", 99);
    struct ffl_entry e = raw_expect(&r, FFL_OP_CONNECT, 5);
    CHECK_EQ(e.arg, 0);
    peer = sim_answer(l);
    raw_send(&r, 5, data, sizeof(data));
    raw_op(&r, FFL_OP_CLOSE, 5, 0, 0);
    iterations(2);
    CHECK(raw_alive(&r));
    raw_socket(&r, 5, SOCK_STREAM);
    CHECK(!raw_alive(&r));
    sim_shut(peer);
    sim_shut(l);
    raw_finish(&r);
}

/* ---- 2: receive ---------------------------------------------------------------------------- */

TEST(r2_a_socket_that_merely_exists_is_not_read)
{
    struct raw r;
    int peer;
    struct ffl_sim_counts n;
    raw_server(&r, "", 0);
    uint32_t h = raw_accepted(&r, 0, 80, &peer);
    CHECK_EQ(sim_put(peer, "waiting", 7), 7);
    iterations(2);
    raw_send(&r, h, "sending is not reading", 22);
    raw_nothing(&r);
    ffl_sim_count(sim, &n);
    CHECK_EQ(n.recvs, 0);
    raw_op(&r, FFL_OP_ARM, h, 0, 0);
    struct ffl_entry e = raw_expect(&r, FFL_OP_RECV, h);
    CHECK_EQ(e.arg, 7);
    CHECK(memcmp(raw_rx(&r, e.buf), "waiting", 7) == 0);
    sim_shut(peer);
    raw_finish(&r);
}

TEST(r2_a_listener_takes_no_more_than_was_asked_for)
{
    struct raw r;
    int peer[5];
    lab_start_manual("");
    raw_attach(&r);
    raw_listen(&r, 0, "10.0.0.1", 80, 2, 0);
    for (int i = 0; i < 5; i++)
        peer[i] = sim_dial("10.0.0.1", 80);
    (void)raw_expect(&r, FFL_OP_ACCEPT, 0);
    (void)raw_expect(&r, FFL_OP_ACCEPT, 0);
    raw_nothing(&r); /* the others are a sibling's, perhaps */
    raw_op(&r, FFL_OP_ARM, 0, 1, 0);
    (void)raw_expect(&r, FFL_OP_ACCEPT, 0);
    raw_nothing(&r);
    for (int i = 0; i < 5; i++)
        sim_shut(peer[i]);
    raw_finish(&r);
}

/* Reads ahead to the cap and stops, so that the peer's window closes;
 * goes on when buffers return. */
TEST(r2_reads_ahead_to_a_cap)
{
    struct raw r;
    int peer;
    static uint8_t chunk[50000];
    uint64_t sent = 0, got = 0, posted = 0;
    struct ffl_entry held[64];
    int nheld = 0;
    lab_defaults("sim");
    lab.o.rx_cap = 100000;
    lab.o.pool_kib = 4096;
    raw_server(&r, "window=30000", FFL_F_ARM_NEW);
    uint32_t h = raw_accepted(&r, 0, 80, &peer);
    for (int idle = 0; idle < 10;) {
        for (size_t i = 0; i < sizeof(chunk); i++)
            chunk[i] = pattern(sent + i);
        int n = sim_put(peer, chunk, sizeof(chunk));
        sent += n > 0 ? (uint64_t)n : 0;
        idle = n > 0 ? 0 : idle + 1;
        (void)iterate();
        CHECK(sent < 1000000);
    }
    while (raw_next(&r, &held[nheld])) {
        CHECK(held[nheld].op == FFL_OP_RECV && held[nheld].handle == h);
        posted += (uint64_t)held[nheld++].arg;
    }
    CHECK(posted > 4096);
    CHECK(posted <= 100000 + 65536); /* the cap, and the buffer that crossed it */
    CHECK(sent <= posted + 30000);   /* the rest is in the peer's window: it is slowed */
    for (int i = 0; i < nheld; i++) {
        const uint8_t *p = raw_rx(&r, held[i].buf);
        for (int k = 0; k < held[i].arg; k++, got++)
            CHECK_EQ(p[k], pattern(got));
        raw_give(&r, held[i].buf);
    }
    CHECK_EQ(got, posted);
    while (got < sent) { /* and on it goes, in order */
        struct ffl_entry e = raw_expect(&r, FFL_OP_RECV, h);
        const uint8_t *p = raw_rx(&r, e.buf);
        for (int k = 0; k < e.arg; k++, got++)
            CHECK_EQ(p[k], pattern(got));
        raw_give(&r, e.buf);
    }
    CHECK(sim_put(peer, chunk, 10) == 10);
    (void)raw_expect(&r, FFL_OP_RECV, h);
    sim_shut(peer);
    raw_finish(&r);
}

/* Many sockets that are not read leave something for one that is. */
TEST(r2_slow_readers_do_not_take_the_whole_pool)
{
    struct raw r;
    int peer[40], fast;
    static uint8_t chunk[65536];
    struct ffl_entry e;
    lab_defaults("sim");
    lab.o.rx_cap = 1 << 20;
    lab_start_manual("");
    raw_attach(&r); /* 1 MiB a side: less than the forty would like to hold */
    raw_listen(&r, 0, "10.0.0.1", 80, 64, FFL_F_ARM_NEW);
    for (int i = 0; i < 40; i++)
        (void)raw_accepted(&r, 0, 80, &peer[i]);
    for (int k = 0; k < 20; k++) {
        for (int i = 0; i < 40; i++)
            (void)sim_put(peer[i], chunk, sizeof(chunk));
        iterations(2);
    }
    while (raw_next(&r, &e)) /* never given back */
        CHECK_EQ(e.op, FFL_OP_RECV);
    uint32_t h = raw_accepted(&r, 0, 80, &fast);
    for (int i = 0; i < 50; i++) {
        CHECK_EQ(sim_put(fast, "quick", 5), 5);
        do
            e = raw_expect(&r, FFL_OP_RECV, h);
        while (e.handle != h);
        CHECK_EQ(e.arg, 5);
        raw_give(&r, e.buf);
    }
    for (int i = 0; i < 40; i++)
        sim_shut(peer[i]);
    sim_shut(fast);
    raw_finish(&r);
}

TEST(r2_disarm_stops_arm_goes_on)
{
    struct raw r;
    int peer;
    raw_server(&r, "", FFL_F_ARM_NEW);
    uint32_t h = raw_accepted(&r, 0, 80, &peer);
    CHECK_EQ(sim_put(peer, "one", 3), 3);
    iterations(3); /* posted, not reaped: delivered on resume before newer data */
    raw_op(&r, FFL_OP_DISARM, h, 0, 0);
    iterations(1);
    CHECK_EQ(sim_put(peer, "two", 3), 3);
    struct ffl_entry e = raw_expect(&r, FFL_OP_RECV, h);
    CHECK(memcmp(raw_rx(&r, e.buf), "one", 3) == 0);
    raw_nothing(&r);
    raw_op(&r, FFL_OP_ARM, h, 0, 0);
    e = raw_expect(&r, FFL_OP_RECV, h);
    CHECK(e.arg == 3 && memcmp(raw_rx(&r, e.buf), "two", 3) == 0);
    sim_shut(peer);
    raw_finish(&r);
}

static unsigned reads;

/* As FreeBSD's: after SHUT_RD a read gives nothing, of nobody, again and again. */
static int shut_recv(void *st, int fd, const struct iovec *iov, int n, struct ffl_addr *from,
                     struct ffl_ctl *ctl, int *flags)
{
    reads++;
    if (from)
        *from = (struct ffl_addr){0};
    return 0;
}

TEST(a_shut_datagram_socket_has_no_end)
{
    struct ffl_stack_ops shut;
    struct raw r;
    lab_defaults("sim");
    shut = *lab.o.stack;
    shut.recv = shut_recv;
    lab.o.stack = &shut;
    lab_start_manual("");
    raw_attach(&r);
    raw_socket(&r, 0, SOCK_DGRAM);
    struct ffl_addr a = addr4("10.0.0.1", 53);
    raw_at(&r, FFL_OP_BIND, 0, "10.0.0.1", 53);
    raw_give(&r, raw_expect(&r, FFL_OP_BIND, 0).buf);
    raw_op(&r, FFL_OP_ARM, 0, 0, 0);
    raw_op(&r, FFL_OP_SHUTDOWN, 0, SHUT_RD, 0);
    int from = ffl_sim_ops.socket(sim, AF_INET, SOCK_DGRAM, 0);
    struct iovec iov = {.iov_base = "x", .iov_len = 1};
    CHECK_EQ(ffl_sim_ops.send(sim, from, &iov, 1, &a, NULL, 0), 1);
    iterations(3);
    raw_nothing(&r); /* recv() without waiting is EAGAIN, as the kernel's */
    CHECK_EQ(reads, 1);
    sim_shut(from);
    raw_finish(&r);
}

/* ---- 4: full rings ------------------------------------------------------------------------- */

/* SQ and CQ full at once: iterations end, others are served, and all answers come, in order. */
TEST(r4_full_both_ways)
{
    struct raw r, other;
    lab_start_manual("");
    raw_attach(&r);
    raw_attach(&other);
    int32_t put = 0, got = 0;
    for (int idle = 0; idle < 5;) {
        idle++;
        while (ffl_ring_room(&r.sq, 1) > 0) {
            raw_op(&r, FFL_OP_NOP, 0, put++, 0);
            idle = 0;
        }
        (void)iterate(); /* one that waits for room would never end */
        CHECK(put < 100000);
    }
    CHECK(put >= (int32_t)(r.map.geo.ring_size[FFL_SQ] + r.map.geo.ring_size[FFL_CQ]));
    CHECK_EQ(raw_avail(&r), r.map.geo.ring_size[FFL_CQ]);
    for (int i = 0; i < 10; i++) {
        raw_op(&other, FFL_OP_NOP, 0, i, 0);
        CHECK_EQ(raw_expect(&other, FFL_OP_NOP, 0).arg, i);
    }
    struct ffl_entry e;
    for (int quiet = 0; got < put && quiet < 100; quiet++) {
        while (raw_next(&r, &e)) {
            CHECK_EQ(e.arg, got++);
            quiet = 0;
        }
        (void)iterate();
    }
    CHECK_EQ(got, put);
    raw_gone(&other);
    raw_finish(&r);
}

/* Answers that waited behind a full CQ are not overtaken by later ones. */
TEST(r4_order_through_a_full_cq)
{
    struct raw r;
    struct ffl_entry e;
    uint64_t seed = 7;
    int32_t put = 0, got = 0;
    lab_start_manual("");
    raw_attach(&r);
    int32_t cq = (int32_t)r.map.geo.ring_size[FFL_CQ];
    for (int i = 0; i < 3000; i++) {
        /* always a little more under way than the CQ holds */
        for (uint32_t n = test_random(&seed) % 200; n > 0 && put - got < cq + 700; n--)
            raw_op(&r, FFL_OP_NOP, 0, put++, 0);
        (void)iterate();
        for (uint32_t n = test_random(&seed) % 100; n > 0 && put - got > cq + 300; n--) {
            CHECK(raw_next(&r, &e));
            CHECK_EQ(e.arg, got++);
        }
    }
    CHECK(got > 10000);
    while (got < put) {
        iterations(1);
        while (raw_next(&r, &e))
            CHECK_EQ(e.arg, got++);
    }
    raw_finish(&r);
}

/* A sleeper that waits for room is woken when there is some, on either side. */
TEST(r4_room_wakes)
{
    struct raw r;
    lab_start_manual("");
    raw_attach(&r);
    while (ffl_ring_room(&r.sq, 1) > 0)
        raw_op(&r, FFL_OP_NOP, 0, 1, 0);
    (void)raw_rung(r.app_bell);
    ffl_wait_raise(&r.map.seg->waits.app, FFL_WAIT_SPACE);
    iterations(1);
    CHECK(raw_rung(r.app_bell));
    raw_finish(&r);
}
