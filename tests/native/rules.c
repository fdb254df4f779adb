/*
 * rules.c - the nine rules of docs/architecture.md, 1 to 4 (5 and 6: wake.c, 7: hostile.c and those
 * that it names, 8 and 9 and the heavy cases: faults.c).
 *
 * Each case fails when its rule is broken in the instance or the client: that was tried, rule by
 * rule, by breaking it. All of them are stepped.
 */
#include "lab.h"

#include "../../ffloop/_native/client/internal.h"

#include <sched.h>

#define NOBUF FFL_NO_BUF

static uint8_t pattern(uint64_t i)
{
    return (uint8_t)(i * 167 + i / 256 * 13);
}

/* Reads what is there; checks it against the pattern from *at on. Last result of recv. */
static int drain_peer(int fd, uint64_t *at)
{
    uint8_t buf[5000];
    int n;
    while ((n = sim_take(fd, buf, sizeof(buf))) > 0)
        for (int i = 0; i < n; i++, (*at)++)
            if (buf[i] != pattern(*at))
                FAIL("byte %llu of the stream differs", (unsigned long long)*at);
    return n;
}

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
        n = drain_peer(peer, &got);
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
    while (drain_peer(peer, &got) == -EAGAIN && got < sizeof(data))
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

/* ---- 3: send ------------------------------------------------------------------------------- */

TEST(r3_consecutive_sends_are_gathered)
{
    struct raw r;
    int peer;
    struct ffl_sim_counts before, after;
    uint8_t data[100] = {0};
    raw_server(&r, "", 0);
    uint32_t h = raw_accepted(&r, 0, 80, &peer);
    ffl_sim_count(sim, &before);
    for (int i = 0; i < 60; i++)
        raw_send(&r, h, data, sizeof(data));
    iterations(1);
    ffl_sim_count(sim, &after);
    CHECK_EQ(after.sends - before.sends, 1);
    sim_shut(peer);
    raw_finish(&r);
}

/* Freed space wakes whoever waits for it, though no completion comes. */
TEST(r3_freed_space_wakes)
{
    struct raw r;
    int peer;
    static uint8_t data[60000], sink[70000];
    raw_server(&r, "window=20000", 0);
    uint32_t h = raw_accepted(&r, 0, 80, &peer);
    raw_send(&r, h, data, sizeof(data));
    iterations(3);
    int before = ffl_ring_avail(&r.txfree);
    (void)raw_rung(r.app_bell);
    ffl_wait_raise(&r.map.seg->waits.app, FFL_WAIT_FREE);
    iterations(3);
    CHECK(!raw_rung(r.app_bell)); /* nothing was freed: the window is closed */
    for (int got = 0, n; got < 60000; iterations(1))
        if ((n = sim_take(peer, sink, sizeof(sink))) > 0)
            got += n;
    CHECK_EQ(ffl_ring_avail(&r.txfree), before + 1);
    CHECK_EQ(raw_avail(&r), 0);
    CHECK(raw_rung(r.app_bell));
    sim_shut(peer);
    raw_finish(&r);
}

TEST(r3_errors_are_completions)
{
    struct raw r;
    int peer;
    uint8_t data[100] = {0};
    raw_server(&r, "", FFL_F_ARM_NEW);
    uint32_t h = raw_accepted(&r, 0, 80, &peer);
    struct linger l = {.l_onoff = 1};
    CHECK_EQ(ffl_sim_ops.setsockopt(sim, peer, SOL_SOCKET, SO_LINGER, &l, sizeof(l)), 0);
    sim_shut(peer);
    struct ffl_entry e = raw_expect(&r, FFL_OP_ERROR, h);
    CHECK_EQ(e.arg, -ECONNRESET);
    for (int i = 0; i < 5; i++) /* what follows is dropped, and its buffers come back */
        raw_send(&r, h, data, sizeof(data));
    raw_nothing(&r);
    raw_op(&r, FFL_OP_CLOSE, h, 0, 0);
    (void)raw_expect(&r, FFL_OP_CLOSED, h);
    (void)raw_arg(&r, data, 1); /* reaps */
    CHECK_EQ(r.tx.free_bytes, r.tx.total_bytes - 256);
    raw_finish(&r);
}

TEST(r3_send_meets_a_reset)
{
    struct raw r;
    int peer;
    uint8_t data[100] = {0};
    raw_server(&r, "", 0);
    uint32_t h = raw_accepted(&r, 0, 80, &peer);
    sim_shut(peer);
    iterations(2);
    raw_send(&r, h, data, sizeof(data)); /* taken; the reset comes back */
    iterations(2);
    raw_send(&r, h, data, sizeof(data));
    struct ffl_entry e = raw_expect(&r, FFL_OP_ERROR, h);
    CHECK(e.arg == -EPIPE || e.arg == -ECONNRESET);
    raw_finish(&r);
}

/* A peer that has shut its side still reads: room to send then comes with that end told again. */
TEST(r3_a_peer_that_is_done_is_sent_everything)
{
    struct raw r;
    int peer;
    uint8_t data[4000];
    uint64_t got = 0;
    raw_server(&r, "window=1000", FFL_F_ARM_NEW);
    uint32_t h = raw_accepted(&r, 0, 80, &peer);
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = pattern(i);
    CHECK_EQ(ffl_sim_ops.shutdown(sim, peer, SHUT_WR), 0);
    struct ffl_entry e = raw_expect(&r, FFL_OP_RECV, h);
    CHECK_EQ(e.buf, FFL_NO_BUF);
    raw_send(&r, h, data, sizeof(data));
    for (int i = 0; i < 100 && got < sizeof(data); i++) {
        iterations(2);
        CHECK_EQ(drain_peer(peer, &got), -EAGAIN);
    }
    CHECK_EQ(got, sizeof(data));
    sim_shut(peer);
    raw_finish(&r);
}

/* A closed socket waits for room to send its rest, and its peer, which is done, resets instead. */
TEST(r8_a_reset_ends_a_socket_that_closes)
{
    struct raw r;
    int peer;
    static uint8_t data[4000];
    raw_server(&r, "window=1000", FFL_F_ARM_NEW);
    uint32_t h = raw_accepted(&r, 0, 80, &peer);
    CHECK_EQ(ffl_sim_ops.shutdown(sim, peer, SHUT_WR), 0);
    (void)raw_expect(&r, FFL_OP_RECV, h);
    raw_send(&r, h, data, sizeof(data));
    raw_op(&r, FFL_OP_CLOSE, h, 0, 0);
    raw_nothing(&r);
    struct linger l = {.l_onoff = 1};
    CHECK_EQ(ffl_sim_ops.setsockopt(sim, peer, SOL_SOCKET, SO_LINGER, &l, sizeof(l)), 0);
    sim_shut(peer);
    CHECK_EQ(raw_expect(&r, FFL_OP_ERROR, h).arg, -EPIPE); /* as Linux says after an end */
    (void)raw_expect(&r, FFL_OP_CLOSED, h);
    raw_finish(&r);
}

struct writer {
    int h, peer;
    bool may; /* no call has said EAGAIN since the last WRITABLE */
    uint32_t sent, got;
};

/* Writers through a pool that is too small for them: whoever was told to wait is told again
 * when there is room, also when another has taken the room it was woken for. */
static void writers(int count, uint64_t seed, unsigned pool_kib)
{
    enum { N = 24, EACH = 1500000 };
    static struct writer w[N];
    static uint8_t data[300000], sink[70000];
    struct ffl_event ev[64];
    memset(w, 0, sizeof(w));
    lab_defaults("sim");
    lab.o.pool_kib = pool_kib;
    lab_start_manual("window=20000");
    int l = sim_listen("10.0.0.9", 90);
    struct ffl_client *c = lab_attach_stepped();
    struct ffl_addr a = addr4("10.0.0.9", 90);
    for (int i = 0; i < count; i++) {
        w[i].h = ffl_client_socket(c, AF_INET, SOCK_STREAM, 0, 0);
        CHECK_EQ(ffl_client_connect(c, w[i].h, &a), -EINPROGRESS);
        iterations(3);
        w[i].peer = sim_answer(l);
        w[i].may = true;
    }
    for (int i = 0; i < 10; i++, iterations(1))
        CHECK(ffl_client_wait(c, ev, 64, -1, 0) >= 0);
    int left = count;
    for (int quiet = 0; left > 0; quiet++) {
        if (quiet > 2000)
            FAIL("%d writers were never told", left);
        for (int k = 0; k < 6; k++) { /* writers come before they have looked at their events */
            struct writer *x = &w[test_random(&seed) % (uint32_t)count];
            uint32_t want = 1 + test_random(&seed) % sizeof(data);
            if (want > EACH - x->sent)
                want = EACH - x->sent;
            if (!x->may || !want)
                continue;
            int64_t n = ffl_client_send(c, x->h, data, want);
            CHECK(n > 0 || n == -EAGAIN);
            x->may = n == want;
            x->sent += n > 0 ? (uint32_t)n : 0;
        }
        for (int k = 0; k < 3; k++) {
            struct writer *x = &w[test_random(&seed) % (uint32_t)count];
            int n = sim_take(x->peer, sink, test_random(&seed) % 3 ? sizeof(sink) : 1000);
            x->got += n > 0 ? (uint32_t)n : 0;
            if (n > 0)
                quiet = 0;
            if (n > 0 && x->got == EACH)
                left--;
        }
        iterations(test_random(&seed) % 3);
        int n = test_random(&seed) % 2 ? ffl_client_wait(c, ev, 64, -1, 0) : 0;
        for (int i = 0; i < n; i++)
            for (int k = 0; k < count && ev[i].kind == FFL_EV_WRITABLE; k++)
                w[k].may |= ev[i].handle == (uint32_t)w[k].h;
    }
    ffl_client_detach(c);
    iterations(3);
    CHECK_EQ(ffl_instance_sockets(lab.in), 0);
    lab_stop();
}

TEST(r3_every_writer_is_told)
{
    static const int counts[] = {2, 3, 4, 6, 10, 24};
    for (size_t i = 0; i < FFL_COUNT(counts); i++)
        for (uint64_t seed = 1; seed <= 4; seed++)
            writers(counts[i], seed, seed % 2 ? 512 : 16 * 1024);
}

/* The instance says how much waits for slow peers, and that too wakes whoever waits for room. */
TEST(r3_blocked_bytes_are_told)
{
    struct raw r;
    int peer;
    static uint8_t data[60000], sink[70000];
    raw_server(&r, "window=20000", 0);
    uint32_t h = raw_accepted(&r, 0, 80, &peer);
    (void)raw_rung(r.app_bell);
    ffl_wait_raise(&r.map.seg->waits.app, FFL_WAIT_FREE);
    raw_send(&r, h, data, sizeof(data));
    iterations(3);
    CHECK_EQ(r.map.seg->inst.tx_unwritable, 65536);
    CHECK(raw_rung(r.app_bell));
    raw_send(&r, h, data, 100);
    iterations(3);
    CHECK_EQ(r.map.seg->inst.tx_unwritable, 65536 + 256);
    for (int got = 0, n; got < 60100; iterations(1))
        if ((n = sim_take(peer, sink, sizeof(sink))) > 0)
            got += n;
    CHECK_EQ(r.map.seg->inst.tx_unwritable, 0);
    raw_send(&r, h, data, sizeof(data));
    iterations(3);
    CHECK_EQ(r.map.seg->inst.tx_unwritable, 65536);
    raw_op(&r, FFL_OP_CLOSE, h, 1, FFL_F_ABORT);
    (void)raw_expect(&r, FFL_OP_CLOSED, h);
    CHECK_EQ(r.map.seg->inst.tx_unwritable, 0);
    sim_shut(peer);
    raw_finish(&r);
}

/* `n` sockets, connected to peers that do not read. */
static void connect_all(struct ffl_client *c, int *h, int n)
{
    struct ffl_event ev[64];
    struct ffl_addr a = addr4("10.0.0.9", 90);
    int l = sim_listen("10.0.0.9", 90);
    for (int i = 0; i < n; i++) {
        h[i] = ffl_client_socket(c, AF_INET, SOCK_STREAM, 0, 0);
        CHECK_EQ(ffl_client_connect(c, h[i], &a), -EINPROGRESS);
        iterations(3);
        (void)sim_answer(l);
    }
    for (int i = 0; i < 10; i++, iterations(1))
        CHECK(ffl_client_wait(c, ev, 64, -1, 0) >= 0);
}

/* Large writes wait for their turn, first come first served; small ones pass; and what slow peers
 * do not take uses up nobody's turn. */
TEST(r3_large_writes_take_turns)
{
    enum { PART = 520 * 1024, FULL = 16, N = FULL + 5, LARGE = 4 * 1024 * 1024, FIRST = 65536 };
    static uint8_t data[LARGE]; /* FULL times PART are half of the pool */
    struct ffl_event ev[64];
    int h[N];
    lab_defaults("sim");
    lab.o.pool_kib = 16 * 1024;
    lab_start_manual("window=20000");
    struct ffl_client *c = lab_attach_stepped();
    connect_all(c, h, N);
    for (int i = 0; i < FULL; i++)
        CHECK_EQ(ffl_client_send(c, h[i], data, PART), PART);
    for (int i = FULL; i < N - 1; i++) {
        CHECK_EQ(ffl_client_send(c, h[i], data, LARGE), FIRST);
        CHECK_EQ(ffl_client_send(c, h[i], data, LARGE - FIRST), -EAGAIN);
    }
    CHECK_EQ(ffl_client_send(c, h[N - 1], data, 1000), 1000);
    CHECK_EQ(ffl_client_wait(c, ev, 64, -1, 0), 0);
    iterations(3); /* the first are blocked now; nothing has come back */
    CHECK_EQ(ffl_client_wait(c, ev, 64, -1, 0), 3);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(ev[i].kind, FFL_EV_WRITABLE);
        CHECK_EQ(ev[i].handle, h[FULL + i]);
    }
    CHECK_EQ(ffl_client_wait(c, ev, 64, -1, 0), 1); /* they have not used it: the next one's turn */
    CHECK_EQ(ev[0].handle, h[FULL + 3]);
    for (int i = FULL; i < N - 1; i++)
        CHECK(ffl_client_send(c, h[i], data, LARGE - FIRST) > 0);
    ffl_client_detach(c);
    iterations(3);
    lab_stop();
}

/* As many buffers as an instance has by default. */
static struct ffl_client *usual_pool(const char *options)
{
    struct ffl_instance_opts usual;
    ffl_instance_opts_default(&usual);
    lab_defaults("sim");
    lab.o.pool_kib = usual.pool_kib;
    lab_start_manual(options);
    return lab_attach_stepped();
}

enum { BODY = 1024 * 1024 + 200 }; /* of 1 MiB, and its head */

/* A body and its head go in one call, of many sockets at a time: what is left over keeps the
 * application's memory, and costs a wake. */
TEST(r3_bodies_go_whole)
{
    enum { N = 32 };
    static uint8_t data[BODY];
    int h[N];
    struct ffl_client *c = usual_pool("window=20000");
    connect_all(c, h, N);
    for (int i = 0; i < N; i++)
        CHECK_EQ(ffl_client_send(c, h[i], data, BODY), BODY);
    ffl_client_detach(c);
    iterations(3);
    lab_stop();
}

TEST(r3_a_body_and_its_head_are_one_send)
{
    static uint8_t data[BODY];
    struct ffl_sim_counts before, after;
    struct ffl_event ev[64];
    int h;
    struct ffl_client *c = usual_pool("window=4000000");
    connect_all(c, &h, 1);
    ffl_sim_count(sim, &before);
    CHECK_EQ(ffl_client_send(c, h, data, BODY), BODY);
    iterations(2);
    ffl_sim_count(sim, &after);
    CHECK_EQ(after.sends - before.sends, 1);
    CHECK_EQ(ffl_client_wait(c, ev, 64, -1, 0), 0);
    CHECK_EQ(ffl_client_unsent(c, h), 0);
    ffl_client_detach(c);
    iterations(3);
    lab_stop();
}

/* The peer reads the beginning of a large answer while the rest is copied, and a congestion control
 * measures the rate by it; an answer of one buffer and its head is one send. */
TEST(r3_a_large_answer_begins_with_a_send_of_its_own)
{
    static const struct {
        uint32_t size, sends;
    } answers[] = {{BODY, 2}, {65536 + 100, 1}, {1000, 1}};
    static uint8_t data[BODY];
    struct ffl_sim_counts before, after;
    struct ffl_event ev[64];
    struct ffl_addr a = addr4("10.0.0.9", 90);
    struct ffl_client *c = usual_pool("window=4000000");
    int l = sim_listen("10.0.0.9", 90), h = ffl_client_socket(c, AF_INET, SOCK_STREAM, 0, 0);
    CHECK_EQ(ffl_client_connect(c, h, &a), -EINPROGRESS);
    CHECK_EQ(ffl_client_push(c, h, true), 0);
    iterations(3);
    int peer = sim_answer(l);
    for (size_t i = 0; i < FFL_COUNT(answers); i++) {
        CHECK_EQ(sim_put(peer, "x", 1), 1);
        iterations(3);
        CHECK(ffl_client_wait(c, ev, 64, -1, 0) > 0);
        ffl_sim_count(sim, &before);
        CHECK_EQ(ffl_client_send(c, h, data, answers[i].size), answers[i].size);
        iterations(3);
        ffl_sim_count(sim, &after);
        CHECK_EQ(after.sends - before.sends, answers[i].sends);
    }
    ffl_client_detach(c);
    iterations(3);
    lab_stop();
}

/* Bodies to as many sockets as it takes until a further one had better wait. */
static void write_ahead(struct ffl_client *c, const int *h, int n)
{
    static uint8_t data[BODY];
    int i = 0;
    for (; !ffl_client_ahead(c, BODY); i++) {
        CHECK(i < n);
        CHECK_EQ(ffl_client_send(c, h[i], data, BODY), BODY);
    }
    CHECK(i > 1);
    CHECK(!ffl_client_ahead(c, 65536 + 200)); /* of one buffer and its head */
}

static void *iterate_once_it_sleeps(void *client)
{
    struct ffl_client *c = client;
    while (!(atomic_load(&c->map.seg->waits.app) & FFL_WAIT_FREE))
        (void)sched_yield();
    iterations(10);
    return NULL;
}

TEST(r3_a_large_write_lets_the_instance_catch_up)
{
    enum { N = 32 };
    int h[N];
    pthread_t t;
    struct ffl_client *c = usual_pool("window=4000000");
    connect_all(c, h, N);
    write_ahead(c, h, N);
    CHECK_EQ(pthread_create(&t, NULL, iterate_once_it_sleeps, c), 0);
    ffl_client_pace(c, 3600 * FFL_NS_PER_SEC);
    CHECK_EQ(pthread_join(t, NULL), 0);
    CHECK(!ffl_client_ahead(c, BODY));
    CHECK_EQ(atomic_load(&c->map.seg->waits.app), 0);
    ffl_client_detach(c);
    iterations(3);
    lab_stop();
}

/* Slow peers' bytes are not waited for, nor, for a while, an instance that does nothing. */
TEST(r3_a_large_write_waits_for_nobody_else)
{
    enum { N = 32 };
    int h[N];
    struct ffl_client *c = usual_pool("window=20000");
    connect_all(c, h, N);
    write_ahead(c, h, N);
    ffl_client_pace(c, 1);
    CHECK(c->paces_from);
    c->paces_from = INT64_MAX; /* a machine may stand still */
    CHECK(!ffl_client_ahead(c, BODY));
    c->paces_from = 0;
    CHECK(ffl_client_ahead(c, BODY));
    iterations(3);
    CHECK(!ffl_client_ahead(c, BODY));
    ffl_client_detach(c);
    iterations(3);
    lab_stop();
}

/* Nor, for a while, where a sleep took far too long; nor without end between two waits. */
TEST(r3_large_writes_wait_for_so_long)
{
    enum { N = 32 };
    int h[N];
    struct ffl_event ev[64];
    struct ffl_client *c = usual_pool("window=4000000");
    connect_all(c, h, N);
    write_ahead(c, h, N);
    int64_t most = ffl_client_ahead(c, BODY);
    ffl_client_paced(c, most);
    CHECK_EQ(ffl_client_ahead(c, BODY), most);
    CHECK_EQ(c->paces_from, 0);
    for (int i = 0; i < 100; i++)
        ffl_client_paced(c, most);
    CHECK_EQ(ffl_client_ahead(c, BODY), 0);
    CHECK(ffl_client_wait(c, ev, 64, -1, 0) >= 0);
    CHECK_EQ(ffl_client_ahead(c, BODY), most);
    ffl_client_paced(c, 5 * most);
    CHECK(c->paces_from);
    c->paces_from = INT64_MAX; /* a machine may stand still */
    CHECK_EQ(ffl_client_ahead(c, BODY), 0);
    ffl_client_detach(c);
    iterations(3);
    lab_stop();
}

TEST(r9_a_large_write_does_not_wait_for_a_lost_instance)
{
    enum { N = 32 };
    int h[N];
    struct ffl_client *c = usual_pool("window=4000000");
    connect_all(c, h, N);
    write_ahead(c, h, N);
    lab_stop();
    ffl_client_pace(c, 3600 * FFL_NS_PER_SEC);
    ffl_client_detach(c);
}

/* However many readers are slow, who has nothing unsent can send something:
 * an answer is on its way. */
TEST(r3_slow_readers_leave_room_for_others)
{
    enum { N = 400 };
    static uint8_t data[65536];
    struct ffl_event ev[64];
    int h[N], last = 0, peer = 0;
    char byte;
    lab_defaults("sim");
    lab.o.pool_kib = 256;
    lab.o.max_sockets = N + 1;
    lab_start_manual("window=200");
    int l = sim_listen("10.0.0.9", 90);
    struct ffl_client *c = lab_attach_stepped();
    struct ffl_addr a = addr4("10.0.0.9", 90);
    for (int i = 0; i <= N; i++) {
        last = ffl_client_socket(c, AF_INET, SOCK_STREAM, 0, 0);
        CHECK_EQ(ffl_client_connect(c, last, &a), -EINPROGRESS);
        iterations(3);
        peer = sim_answer(l);
        if (i < N)
            h[i] = last;
    }
    for (int i = 0; i < 10; i++, iterations(1))
        CHECK(ffl_client_wait(c, ev, 64, -1, 0) >= 0);
    for (int k = 0; k < 20; k++, iterations(2)) /* until the stack takes no more, nor the pool */
        for (int i = 0; i < N; i++) {
            int64_t n = ffl_client_send(c, h[i], data, sizeof(data));
            CHECK(n > 0 || n == -EAGAIN);
        }
    for (int k = 0; k < 3; k++) {
        CHECK_EQ(ffl_client_send(c, last, "x", 1), 1);
        iterations(2);
        CHECK_EQ(sim_take(peer, &byte, 1), 1);
        CHECK(ffl_client_wait(c, ev, 64, -1, 0) >= 0);
    }
    ffl_client_detach(c);
    iterations(3);
    lab_stop();
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

/* ---- a datagram socket that is shut ---------------------------------------------------------- */

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
