/*
 * sends.c - rule 3 of docs/architecture.md, stepped: what is gathered, who is told of room, which
 * writer has its turn. As rules.c.
 */
#include "lab.h"

#include "../../ffloop/_native/client/internal.h"

#include <sched.h>

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
        CHECK_EQ(sim_drain(peer, &got), -EAGAIN);
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
