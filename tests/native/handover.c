/*
 * handover.c - listeners of one address: who accepts has it, and what one leaves the next one gets.
 * Stepped, the instance alone; with the client library: handed.c.
 */
#include "lab.h"

#include "internal.h"

#include <errno.h>
#include <linux/filter.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>

static void sim_lab(void)
{
    lab_defaults("sim");
    lab_start_manual("");
    quiet();
}

static void listens(struct raw *r, uint32_t handle, int backlog)
{
    raw_op(r, FFL_OP_LISTEN, handle, backlog, 0);
    struct ffl_entry e = raw_expect(r, FFL_OP_LISTEN, handle);
    CHECK_EQ(e.arg, 0);
    raw_give(r, e.buf);
}

static void listen_at_port(struct raw *r, uint32_t handle, int port, uint32_t credits, bool shared)
{
    CHECK_EQ(raw_bind(r, handle, "10.0.0.1", port, shared), shared ? 0 : -EADDRINUSE);
    if (!shared)
        return;
    listens(r, handle, 64);
    raw_op(r, FFL_OP_ARM, handle, (int32_t)credits, FFL_F_ARM_NEW);
    iterations(2);
}

static void listen_at(struct raw *r, uint32_t handle, uint32_t credits, bool shared)
{
    listen_at_port(r, handle, 80, credits, shared);
}

static uint32_t take_accept(struct raw *r, uint32_t listener)
{
    struct ffl_entry e = raw_expect(r, FFL_OP_ACCEPT, listener);
    raw_give(r, e.buf);
    return (uint32_t)e.arg;
}

static void dial(int *peer, int n)
{
    for (int i = 0; i < n; i++) {
        peer[i] = sim_dial("10.0.0.1", 80);
        iterations(3);
    }
}

static void shut(const int *peer, int n)
{
    for (int i = 0; i < n; i++)
        sim_shut(peer[i]);
}

static uint32_t take(struct raw *r, uint32_t handle, enum ffl_take what, uint8_t flags)
{
    uint32_t taken = 0;
    raw_put(r,
            (struct ffl_entry){
                .op = FFL_OP_TAKE, .flags = flags, .tag = 7, .handle = handle, .buf = FFL_NO_BUF});
    if (what != FFL_TAKE_NONE)
        taken = take_accept(r, handle);
    CHECK_EQ(raw_expect(r, FFL_OP_TAKE, handle).arg, what);
    return taken;
}

/* Each is told; nobody has a connection before it takes it. */
TEST(who_takes_it_has_it)
{
    struct raw a, b;
    int peer[4];
    sim_lab();
    raw_attach(&a);
    raw_attach(&b);
    listen_at(&a, 0, 8, true);
    listen_at(&b, 3, 2, true);
    listen_at(&b, 4, 8, false); /* both have to ask for it */
    take(&a, 0, FFL_TAKE_NONE, 0);
    dial(peer, 1);
    (void)raw_expect(&a, FFL_OP_OFFER, 0);
    (void)raw_expect(&b, FFL_OP_OFFER, 3);
    raw_nothing(&a);
    take(&b, 3, FFL_TAKE_LAST, 0);
    take(&a, 0, FFL_TAKE_NONE, 0);
    dial(peer + 1, 3); /* and of these: each is told once until it asks again */
    (void)raw_expect(&a, FFL_OP_OFFER, 0);
    (void)raw_expect(&b, FFL_OP_OFFER, 3);
    raw_nothing(&a);
    raw_nothing(&b);
    take(&a, 0, FFL_TAKE_MORE, 0);
    take(&b, 3, FFL_TAKE_MORE, 0);
    raw_op(&b, FFL_OP_ARM, 3, 0, FFL_F_ARM_NEW);
    raw_nothing(&b); /* it was told that there is more */
    raw_op(&a, FFL_OP_ARM, 0, 0, FFL_F_ARM_NEW);
    (void)raw_expect(&a, FFL_OP_OFFER, 0); /* the third, which it did not know of */
    take(&a, 0, FFL_TAKE_LAST, 0);
    shut(peer, 4);
    raw_gone(&a);
    iterations(3);
    raw_finish(&b);
}

/* Asks anew as a loop does: takes at once what it is told of. Counts its connections. */
static uint32_t serve(struct raw *r, int *won)
{
    struct ffl_entry e;
    uint32_t last = 0;
    while (raw_next(r, &e)) {
        if (e.op == FFL_OP_OFFER)
            raw_op(r, FFL_OP_TAKE, e.handle, 0, FFL_F_ALONE | FFL_F_ARM_NEW);
        if (e.op == FFL_OP_ACCEPT) {
            won[e.handle]++;
            last = (uint32_t)e.arg;
            raw_give(r, e.buf);
        }
    }
    return last;
}

/* Loops that are awake: handles 0 and 1 of `a`, 2 and 3 of `b`. */
static void four_loops(struct raw *a, struct raw *b, int32_t credits)
{
    sim_lab();
    raw_attach(a);
    raw_attach(b);
    for (uint32_t h = 0; h < 4; h++) {
        listen_at(h < 2 ? a : b, h, 0, true);
        raw_op(h < 2 ? a : b, FFL_OP_ARM, h, credits, FFL_F_ALONE | FFL_F_ARM_NEW);
    }
    iterations(2);
}

/* A loop that could not take what it was told of (no descriptor, its quota used up) is told again,
 * and by then it may: it has asked once, and does not ask again. */
TEST(a_shortage_passes)
{
    struct raw r;
    int peer[3], won[2] = {0};
    uint32_t last = 0;
    sim_lab();
    raw_attach_sized(&r, 2, 64); /* and two that are accepted */
    for (uint32_t h = 0; h < 2; h++) {
        listen_at(&r, h, 0, true);
        raw_op(&r, FFL_OP_ARM, h, 4, FFL_F_ALONE | FFL_F_ARM_NEW);
    }
    iterations(2);
    dial(peer, 3);
    for (int i = 0; won[0] + won[1] < 2; i++, iterations(1)) {
        CHECK(i < 1000);
        uint32_t new = serve(&r, won);
        last = new ? new : last;
    }
    for (int i = 0; i < 10; i++, iterations(1))
        (void)serve(&r, won);
    CHECK_EQ(won[0] + won[1], 2);
    raw_op(&r, FFL_OP_CLOSE, last, 0, FFL_F_ABORT);
    for (int64_t end = ffl_now_ns() + 60 * FFL_NS_PER_SEC; won[0] + won[1] < 3; iterations(1)) {
        CHECK(ffl_now_ns() < end); /* in a second */
        (void)serve(&r, won);
    }
    shut(peer, 3);
    raw_finish(&r);
}

static void end_two(struct raw *a, struct raw *b, const int *peer, int n)
{
    shut(peer, n);
    raw_gone(a);
    iterations(3);
    raw_finish(b);
}

/* Though none of them sleeps, one is told, by round robin. */
TEST(those_that_are_awake_get_equal_parts)
{
    enum { EACH = 10, N = 4 * EACH };
    struct raw a, b;
    int peer[N], won[4] = {0};
    four_loops(&a, &b, N);
    for (int i = 0; i < N; i++) {
        dial(peer + i, 1);
        for (int k = 0; k < 2; k++, iterations(2)) {
            serve(&a, won);
            serve(&b, won);
        }
    }
    for (int h = 0; h < 4; h++)
        CHECK_EQ(won[h], EACH);
    end_two(&a, &b, peer, N);
}

/* So many are told as connections wait: one that is busy delays only its own. */
TEST(each_connection_tells_one)
{
    struct raw a, b;
    int peer[3];
    four_loops(&a, &b, 8);
    dial(peer, 2);
    (void)raw_expect(&a, FFL_OP_OFFER, 0);
    (void)raw_expect(&a, FFL_OP_OFFER, 1);
    dial(peer + 2, 1);
    CHECK(!raw_avail(&a));
    (void)raw_expect(&b, FFL_OP_OFFER, 2);
    CHECK(!raw_avail(&b));
    while (!raw_avail(&b)) /* nobody comes for them */
        iterations(1);
    (void)raw_expect(&b, FFL_OP_OFFER, 3);
    end_two(&a, &b, peer, 3);
}

/* Of those for whom one is enough one that sleeps or spins is told, then the others;
 * and when that one goes, too. */
static void one_is_told(uint32_t how)
{
    for (int goes = 0; goes < 2; goes++) {
        struct raw a, b;
        int peer[1];
        sim_lab();
        raw_attach(&a);
        raw_attach(&b);
        listen_at(&a, 0, 8, true);
        listen_at(&b, 3, 8, true);
        listen_at(&a, 1, 0, true); /* one more that has it, and asks for nothing */
        raw_op(&a, FFL_OP_DISARM, 1, 0, 0);
        take(&a, 0, FFL_TAKE_NONE, FFL_F_ALONE);
        take(&b, 3, FFL_TAKE_NONE, FFL_F_ALONE);
        ffl_wait_raise(&b.map.seg->waits.app, how);
        peer[0] = sim_dial("10.0.0.1", 80);
        (void)raw_expect(&b, FFL_OP_OFFER, 3);
        CHECK(!raw_avail(&a));
        if (goes)
            raw_gone(&b);
        while (!raw_avail(&a)) /* it does not come for it */
            iterations(1);
        (void)raw_expect(&a, FFL_OP_OFFER, 0);
        take(&a, 0, FFL_TAKE_LAST, 0);
        shut(peer, 1);
        if (!goes)
            raw_gone(&b);
        iterations(3);
        raw_finish(&a);
    }
}

TEST(one_that_sleeps_is_told)
{
    one_is_told(FFL_WAIT_QUEUE);
}

TEST(one_that_spins_is_told)
{
    one_is_told(FFL_WAIT_SPINS);
}

static _Atomic uint32_t *_Atomic dozes_at; /* NULL: no more */

static void *falls_asleep(void *arg)
{
    _Atomic uint32_t *word;
    (void)arg;
    while ((word = atomic_load(&dozes_at))) {
        atomic_store(word, FFL_WAIT_SPINS);
        atomic_store(word, 0);
    }
    return NULL;
}

/* One that is awake at the instance's first look, and asleep at the next one, is told, too. */
TEST(one_that_falls_asleep_is_told)
{
    enum { ROUNDS = 100000 };
    struct raw a, b;
    int peer[1];
    pthread_t t;
    sim_lab();
    raw_attach(&a);
    raw_attach(&b);
    listen_at(&a, 0, 8, true);
    listen_at(&b, 3, 0, true); /* one more that has it, and asks for nothing */
    raw_op(&b, FFL_OP_DISARM, 3, 0, 0);
    atomic_store(&dozes_at, &a.map.seg->waits.app);
    CHECK_EQ(pthread_create(&t, NULL, falls_asleep, NULL), 0);
    for (int i = 0; i < ROUNDS; i++) {
        take(&a, 0, FFL_TAKE_NONE, FFL_F_ALONE);
        peer[0] = sim_dial("10.0.0.1", 80);
        (void)raw_expect(&a, FFL_OP_OFFER, 0);
        uint32_t h = take(&a, 0, FFL_TAKE_LAST, FFL_F_ALONE);
        raw_op(&a, FFL_OP_CLOSE, h, 0, FFL_F_ABORT);
        raw_op(&a, FFL_OP_ARM, 0, 1, 0);
        (void)raw_expect(&a, FFL_OP_CLOSED, h);
        shut(peer, 1);
    }
    atomic_store(&dozes_at, NULL);
    CHECK_EQ(pthread_join(t, NULL), 0);
    raw_gone(&b);
    iterations(3);
    raw_finish(&a);
}

/* Of one that has not accepted yet everything stays in the backlog,
 * and it is told of each that comes. */
TEST(nothing_is_accepted_ahead_before_the_first)
{
    struct raw r;
    int peer[4];
    sim_lab();
    raw_attach(&r);
    raw_listen(&r, 0, "10.0.0.1", 80, 1, 0);
    raw_op(&r, FFL_OP_ARM, 0, 8, FFL_F_OFFER);
    dial(peer, 1);
    (void)raw_expect(&r, FFL_OP_OFFER, 0);
    raw_op(&r, FFL_OP_ARM, 0, 0, FFL_F_OFFER);
    raw_nothing(&r); /* of the same one */
    dial(peer + 1, 1);
    (void)raw_expect(&r, FFL_OP_OFFER, 0);
    dial(peer + 2, 2);
    take(&r, 0, FFL_TAKE_MORE, FFL_F_OFFER);
    raw_op(&r, FFL_OP_ARM, 0, 0, 0);
    for (int i = 1; i < 4; i++)
        (void)take_accept(&r, 0);
    raw_nothing(&r);
    shut(peer, 4);
    raw_finish(&r);
}

/* The only one that is left has what comes without asking for each. */
TEST(the_last_one_accepts_ahead)
{
    struct raw a, b;
    int peer[3];
    sim_lab();
    raw_attach(&a);
    raw_attach(&b);
    listen_at(&a, 0, 8, true);
    listen_at(&b, 3, 8, true);
    dial(peer, 3);
    (void)raw_expect(&b, FFL_OP_OFFER, 3);
    raw_gone(&a);
    for (int i = 0; i < 3; i++)
        (void)take_accept(&b, 3);
    shut(peer, 3);
    raw_finish(&b);
}

/* Accepted for one that ended before it looked: the other gets them, with every byte. */
static void never_heard_of(int64_t slice_ns)
{
    enum { N = 48 };
    struct raw a, b;
    int peer[N];
    static uint8_t data[200], got[sizeof(data)];
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 7 + i / 251);
    lab_defaults("sim");
    lab.o.slice_ns = slice_ns;
    lab_start_manual("");
    quiet();
    raw_attach(&a);
    raw_attach(&b);
    listen_at(&a, 0, N, true);
    dial(peer, N);
    for (int i = 0; i < N; i++)
        CHECK_EQ(sim_put(peer[i], data, sizeof(data) / 2), sizeof(data) / 2);
    for (int i = 0; i < 1000 && raw_avail(&a) < 2 * N; i++)
        iterations(1);
    CHECK_EQ(raw_avail(&a), 2 * N); /* the connections, and what came on them */
    listen_at(&b, 0, N, true);
    raw_gone(&a);
    iterations(3);
    for (int i = 0; i < N; i++)
        CHECK_EQ(sim_put(peer[i], data + sizeof(data) / 2, sizeof(data) / 2), sizeof(data) / 2);
    uint32_t first = 0;
    size_t have[N] = {0};
    struct ffl_entry e;
    for (int silent = 0; silent < 400;) {
        iterations(1);
        if (!raw_next(&b, &e)) {
            silent++;
            continue;
        }
        silent = 0;
        if (e.op == FFL_OP_ACCEPT) {
            first = first ? first : (uint32_t)e.arg;
        } else {
            CHECK_EQ(e.op, FFL_OP_RECV);
            uint32_t i = e.handle - first;
            CHECK(i < N && e.arg > 0 && have[i] + (size_t)e.arg <= sizeof(data));
            CHECK_EQ(memcmp(data + have[i], raw_rx(&b, e.buf), (size_t)e.arg), 0);
            have[i] += (size_t)e.arg;
        }
        raw_give(&b, e.buf);
    }
    for (int i = 0; i < N; i++) { /* and they are whole connections */
        CHECK_EQ(have[i], sizeof(data));
        raw_send(&b, first + (uint32_t)i, "answer", 6);
        iterations(8);
        CHECK_EQ(sim_take(peer[i], got, sizeof(got)), 6);
    }
    for (int i = 0; i < N; i++)
        raw_op(&b, FFL_OP_CLOSE, first + (uint32_t)i, 0, FFL_F_ABORT);
    shut(peer, N);
    iterations(4 * N); /* a slice each */
    raw_finish(&b);
}

TEST(what_an_application_never_heard_of)
{
    never_heard_of(0);
}

/* Nor does it read that again while it ends, a slice per iteration. */
TEST(what_an_application_never_heard_of_by_slices)
{
    never_heard_of(1);
}

/* What came before the close, and nobody has read, is the next one's. */
static void given_back_with_bytes(bool gone)
{
    struct raw a, b;
    int peer[1];
    uint8_t got[8];
    sim_lab();
    raw_attach(&a);
    raw_attach(&b);
    CHECK_EQ(raw_bind(&a, 0, "10.0.0.1", 80, true), 0);
    listens(&a, 0, 64);
    raw_op(&a, FFL_OP_ARM, 0, 8, 0); /* nothing is read ahead */
    dial(peer, 1);
    for (int i = 0; i < 100 && !raw_avail(&a); i++)
        iterations(1);
    struct ffl_entry e = {0};
    if (!gone)
        e = raw_expect(&a, FFL_OP_ACCEPT, 0);
    CHECK_EQ(sim_put(peer[0], "hello", 5), 5);
    iterations(3);
    listen_at(&b, 0, 8, true);
    if (gone) {
        raw_gone(&a);
    } else {
        raw_op(&a, FFL_OP_CLOSE, (uint32_t)e.arg, 0, FFL_F_ABORT | FFL_F_RETURN);
        raw_op(&a, FFL_OP_CLOSE, 0, 0, 0);
    }
    uint32_t h = take_accept(&b, 0);
    e = raw_expect(&b, FFL_OP_RECV, h);
    CHECK_EQ(e.arg, 5);
    CHECK_EQ(memcmp(raw_rx(&b, e.buf), "hello", 5), 0);
    raw_give(&b, e.buf);
    raw_send(&b, h, "answer", 6);
    iterations(8);
    CHECK_EQ(sim_take(peer[0], got, sizeof(got)), 6);
    shut(peer, 1);
    if (!gone)
        raw_gone(&a);
    iterations(8);
    raw_finish(&b);
}

TEST(what_came_before_the_close_of_one_that_ends)
{
    given_back_with_bytes(true);
}

TEST(what_came_before_the_close_of_one_that_is_given_back)
{
    given_back_with_bytes(false);
}

/* What it has seen it may have answered: nobody else gets that. */
TEST(what_an_application_has_taken_over)
{
    struct raw a, b;
    int peer[1];
    uint8_t got[8];
    sim_lab();
    raw_attach(&a);
    raw_attach(&b);
    listen_at(&a, 0, 8, true);
    dial(peer, 1);
    (void)take_accept(&a, 0);
    ffl_ring_consumed(&a.cq);
    listen_at(&b, 0, 8, true);
    raw_gone(&a);
    raw_nothing(&b);
    CHECK(sim_take(peer[0], got, sizeof(got)) <= 0); /* its end, or a reset */
    shut(peer, 1);
    raw_finish(&b);
}

/* The completions lay where the application could write: lies about them harm only itself. */
TEST(lies_about_what_was_taken)
{
    for (int lie = 0; lie < 4; lie++) {
        struct raw a, b;
        int peer[2];
        sim_lab();
        raw_attach(&a);
        raw_attach(&b);
        listen_at(&a, 0, 8, true);
        listen_at(&b, 0, 0, true);
        dial(peer, 2);
        CHECK_EQ(sim_put(peer[0], "hello", 5), 5);
        iterations(3);
        struct ffl_entry *slots = a.cq.slots;
        uint32_t head = atomic_load(&a.cq.ctl->head), n = a.cq.size;
        if (lie == 0) /* more than there is */
            atomic_store(&a.cq.ctl->head, head + 1000000);
        if (lie == 1) /* all that ever was */
            atomic_store(&a.cq.ctl->head, head - n + (uint32_t)raw_avail(&a));
        for (uint32_t i = 0; i < n && lie >= 1; i++) {
            struct ffl_entry e = slots[i];
            if (lie == 2)
                e = (struct ffl_entry){.op = FFL_OP_RECV,
                                       .handle = a.map.geo.max_sockets,
                                       .arg = INT32_MAX - (int32_t)i,
                                       .buf = i * 977};
            else
                e = (struct ffl_entry){.op = (uint8_t)(i % FFL_OP_COUNT),
                                       .handle = i * 331,
                                       .arg = (int32_t)(i * 7919),
                                       .buf = i << (i % 32)};
            slots[i] = e;
        }
        raw_gone(&a);
        iterations(3);
        CHECK(raw_alive(&b));
        shut(peer, 2);
        raw_finish(&b);
    }
}

/* ---- nobody listens for a while ------------------------------------------------------------ */

static void keeping_lab(int64_t keep_ns)
{
    lab_defaults("sim");
    lab.o.keep_ns = keep_ns;
    lab_start_manual("");
    quiet();
}

/* Two that the first had not looked at, one that came when there was nobody. */
TEST(a_listener_is_kept)
{
    struct raw a, b;
    int peer[3];
    keeping_lab(3600 * FFL_NS_PER_SEC);
    raw_attach(&a);
    listen_at(&a, 0, 8, true);
    dial(peer, 2);
    CHECK_EQ(sim_put(peer[0], "question", 8), 8);
    iterations(3);
    raw_gone(&a);
    iterations(3);
    CHECK_EQ(ffl_instance_sockets(lab.in), 1);
    dial(peer + 2, 1);
    raw_attach(&b);
    listen_at(&b, 0, 8, true);
    uint32_t first = take_accept(&b, 0);
    struct ffl_entry e = raw_expect(&b, FFL_OP_ACCEPT, 0);
    while (e.op != FFL_OP_RECV) {
        raw_give(&b, e.buf);
        while (!raw_next(&b, &e))
            iterations(1);
    }
    CHECK_EQ(e.handle, first);
    CHECK_EQ(e.arg, 8);
    raw_give(&b, e.buf);
    iterations(3);
    CHECK_EQ(ffl_instance_sockets(lab.in), 4);
    shut(peer, 3);
    raw_gone(&b);
    iterations(3);
    CHECK_EQ(ffl_instance_sockets(lab.in), 1); /* b's, in its turn */
    lab_stop();
}

TEST(its_time_is_up)
{
    struct raw a;
    int peer[1];
    uint8_t got[8];
    keeping_lab(FFL_NS_PER_SEC / 100);
    raw_attach(&a);
    listen_at(&a, 0, 8, true);
    dial(peer, 1);
    raw_gone(&a);
    iterations(3);
    while (ffl_instance_sockets(lab.in))
        (void)iterate();
    CHECK(sim_take(peer[0], got, sizeof(got)) <= 0); /* nobody came for it */
    CHECK(sim_dial("10.0.0.1", 80) >= 0);            /* refused, or it would be answered */
    iterations(3);
    CHECK_EQ(ffl_instance_sockets(lab.in), 0);
    shut(peer, 1);
    lab_stop();
}

/* No quota knows of them: of one user there are a few. */
TEST(few_are_kept)
{
    struct raw a;
    keeping_lab(3600 * FFL_NS_PER_SEC);
    raw_attach(&a);
    for (uint32_t h = 0; h < 100; h++)
        listen_at_port(&a, h, 1000 + (int)h, 1, true);
    raw_gone(&a);
    iterations(3);
    CHECK_EQ(ffl_instance_sockets(lab.in), 64);
    lab_stop();
}

TEST(it_is_not_kept_in_a_drain)
{
    struct raw a;
    keeping_lab(3600 * FFL_NS_PER_SEC);
    raw_attach(&a);
    listen_at(&a, 0, 8, true);
    raw_gone(&a);
    iterations(3);
    CHECK_EQ(ffl_instance_sockets(lab.in), 1);
    ffl_instance_drain(lab.in);
    CHECK(iterate() < 0 || iterate() < 0);
    lab_stop();
}

/* As in the kernel: the backlog is that of the last listen(), whichever process called it. */
TEST(a_process_listens_anew)
{
    struct raw a, b;
    struct tcp_info info;
    socklen_t len = sizeof(info);
    lab_defaults("host");
    lab_start("");
    raw_attach(&a);
    raw_attach(&b);
    CHECK_EQ(raw_bind(&a, 0, "127.0.0.1", 0, true), 0);
    listens(&a, 0, 64);
    struct endpoint *e = TAILQ_FIRST(&lab.in->sessions)->table[0];
    CHECK_EQ(raw_bind(&b, 3, "127.0.0.1", ntohs(e->group->at.port_be), true), 0);
    static const int backlogs[] = {5, 0, 9};
    for (size_t i = 0; i < FFL_COUNT(backlogs); i++) {
        listens(i % 2 ? &a : &b, i % 2 ? 0 : 3, backlogs[i]);
        CHECK_EQ(getsockopt(e->fd, IPPROTO_TCP, TCP_INFO, &info, &len), 0);
        CHECK_EQ(info.tcpi_sacked, backlogs[i]); /* a listener's: its backlog */
    }
    raw_gone(&a);
    iterations(3);
    raw_finish(&b);
}

/* Bound, it was refused elsewhere, and was watched for that: it is then told of connections. */
TEST(a_listener_that_was_refused_shares)
{
    struct raw a, b;
    int peer[1];
    sim_lab();
    raw_attach(&a);
    raw_attach(&b);
    listen_at(&a, 0, 8, true);
    CHECK_EQ(raw_bind(&b, 3, "10.0.0.1", 80, true), 0);
    raw_at(&b, FFL_OP_CONNECT, 3, "10.9.9.9", 80);
    struct ffl_entry e = raw_expect(&b, FFL_OP_CONNECT, 3);
    CHECK_EQ(e.arg, -ECONNREFUSED);
    raw_give(&b, e.buf);
    listens(&b, 3, 64);
    raw_op(&b, FFL_OP_ARM, 3, 8, FFL_F_ARM_NEW);
    iterations(2);
    raw_gone(&a);
    iterations(3);
    dial(peer, 1);
    (void)take_accept(&b, 3);
    shut(peer, 1);
    raw_finish(&b);
}

static int filters(void *st, int fd, int level, int name, const void *val, uint32_t len)
{
    return name == SO_ATTACH_FILTER ? 0 : ffl_sim_ops.setsockopt(st, fd, level, name, val, len);
}

/* The socket that a listener had before it shared another's is closed, and its filter with it. */
TEST(a_listener_with_a_filter_shares)
{
    struct raw a, b;
    struct ffl_stack_ops stack = ffl_sim_ops;
    struct {
        struct ffl_filter f;
        struct sock_filter code;
    } all = {{.level = SOL_SOCKET, .name = SO_ATTACH_FILTER, .len = 1}, {.code = BPF_RET}};
    stack.setsockopt = filters;
    lab_defaults("sim");
    lab.o.stack = &stack;
    lab_start_manual("");
    raw_attach(&a);
    raw_attach(&b);
    listen_at(&a, 0, 8, true);
    CHECK_EQ(raw_bind(&b, 3, "10.0.0.1", 80, true), 0);
    raw_put(&b,
            (struct ffl_entry){
                .op = FFL_OP_FILTER, .tag = 1, .handle = 3, .buf = raw_arg(&b, &all, sizeof(all))});
    CHECK_EQ(raw_expect(&b, FFL_OP_FILTER, 3).arg, 0);
    CHECK_EQ(lab.in->ledger.n[CHARGE_FILTER], 1);
    listens(&b, 3, 64);
    CHECK_EQ(lab.in->ledger.n[CHARGE_FILTER], 0);
    raw_gone(&a);
    iterations(3);
    raw_finish(&b);
}

static int left; /* connections in the backlog of the listener that was closed last */

static int noting_close(void *st, int fd)
{
    int n = ffl_sim_ops.backlog(st, fd);
    left = n < 0 ? left : n;
    return ffl_sim_ops.close(st, fd);
}

/* In a drain too: who waits in the backlog is let go a few at a time, by whoever has it last. */
static void drained(int64_t keep_ns)
{
    enum { MANY = 100 };
    struct raw a, b;
    int peer[MANY];
    struct ffl_stack_ops stack = ffl_sim_ops;
    stack.close = noting_close;
    lab_defaults("sim");
    lab.o.stack = &stack;
    lab.o.keep_ns = keep_ns;
    lab_start_manual("");
    quiet();
    raw_attach(&a);
    raw_attach(&b);
    listen_at(&a, 0, 0, true);
    CHECK_EQ(raw_bind(&b, 3, "10.0.0.1", 80, true), 0);
    listens(&b, 3, MANY);
    dial(peer, MANY);
    if (keep_ns) {
        raw_gone(&a);
        iterations(3);
        raw_gone(&b);
        iterations(3);
        CHECK(!TAILQ_EMPTY(&lab.in->kept));
    }
    left = -1;
    ffl_instance_drain(lab.in);
    while (iterate() >= 0)
        ;
    CHECK(left >= 0 && left < MANY / 4);
    if (!keep_ns) {
        raw_gone(&a);
        raw_gone(&b);
    }
    shut(peer, MANY);
    lab_stop();
}

TEST(a_shared_listener_is_drained)
{
    drained(0);
}

TEST(a_kept_listener_is_drained)
{
    drained(3600 * FFL_NS_PER_SEC);
}
