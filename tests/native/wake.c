/*
 * wake.c - rules 5 and 6: committing and waking, iterations and sleep.
 *
 * Stepped, but for the cases that say `running`: falling asleep is met by chance only, many times.
 */
#include "lab.h"

#include "../../ffloop/_native/client/internal.h"
#include "../../ffloop/_native/instance/internal.h"

#include <sched.h>
#include <time.h>

/* ---- 5: committing and waking -------------------------------------------------------------- */

TEST(r5_the_bell_is_rung_once_a_sleep)
{
    struct raw r;
    lab_start_manual("");
    raw_attach(&r);
    raw_op(&r, FFL_OP_NOP, 0, 1, 0);
    (void)raw_expect(&r, FFL_OP_NOP, 0);
    CHECK(!raw_rung(r.app_bell)); /* awake: no system call for it */
    ffl_wait_raise(&r.map.seg->waits.app, FFL_WAIT_QUEUE);
    for (int i = 0; i < 5; i++) {
        raw_op(&r, FFL_OP_NOP, 0, 1, 0);
        (void)raw_expect(&r, FFL_OP_NOP, 0);
    }
    uint64_t n = 0;
    CHECK_EQ(read(r.app_bell, &n, sizeof(n)), sizeof(n));
    CHECK_EQ(n, 1);
    CHECK_EQ(atomic_load(&r.map.seg->waits.app), 0);
    raw_finish(&r);
}

static struct ffl_stack_ops hooked;
static struct raw *hook_raw;
static uint32_t hook_reads, hook_base;
static int hook_lag;

static int hooked_recv(void *st, int fd, const struct iovec *iov, int n, struct ffl_addr *from,
                       struct ffl_ctl *ctl, int *flags)
{
    if (hook_raw) {
        uint32_t seen = atomic_load(&hook_raw->cq.ctl->tail) - hook_base;
        int lag = (int)(hook_reads++ - seen);
        if (lag > hook_lag)
            hook_lag = lag;
    }
    return ffl_sim_ops.recv(st, fd, iov, n, from, NULL, flags);
}

/* Within one iteration the completions become visible every few entries, not at its end. */
TEST(r5_completions_are_published_every_few)
{
    struct raw r;
    int peer[64];
    hooked = ffl_sim_ops;
    hooked.recv = hooked_recv;
    lab_defaults("sim");
    lab.o.stack = &hooked;
    lab_start_manual("");
    raw_attach(&r);
    raw_listen(&r, 0, "10.0.0.1", 80, 64, FFL_F_ARM_NEW);
    for (int i = 0; i < 64; i++)
        (void)raw_accepted(&r, 0, 80, &peer[i]);
    for (int i = 0; i < 64; i++)
        CHECK_EQ(sim_put(peer[i], "x", 1), 1);
    hook_raw = &r;
    hook_base = atomic_load(&r.cq.ctl->tail);
    hook_reads = 0;
    hook_lag = 0;
    iterations(1);
    CHECK_EQ(hook_reads, 64);
    CHECK(hook_lag <= 16);
    CHECK_EQ(raw_avail(&r), 64); /* and all of them at the end of the iteration */
    hook_raw = NULL;
    for (int i = 0; i < 64; i++)
        sim_shut(peer[i]);
    raw_finish(&r);
}

/* The client commits each entry at once, and rings only a sleeping instance, once. */
TEST(r5_client_publishes_at_once)
{
    struct ffl_map m;
    struct ffl_session_stats s;
    lab_start_manual("");
    struct ffl_client *c = lab_attach_stepped();
    CHECK_EQ(ffl_segment_map(&m, dup(ffl_client_memfd(c))), 0);
    uint32_t tail = atomic_load(&m.seg->ring[FFL_SQ].tail);
    int h[6];
    for (uint32_t i = 0; i < 3; i++) {
        h[i] = ffl_client_socket(c, AF_INET, SOCK_STREAM, 0, 0);
        CHECK(h[i] >= 0);
        CHECK_EQ(atomic_load(&m.seg->ring[FFL_SQ].tail), tail + i + 1);
    }
    ffl_client_stats(c, &s);
    CHECK_EQ(s.app_wakes, 0); /* it is awake */
    ffl_wait_raise(&m.seg->waits.inst, FFL_WAIT_QUEUE);
    for (uint32_t i = 3; i < 6; i++)
        h[i] = ffl_client_socket(c, AF_INET, SOCK_STREAM, 0, 0);
    ffl_client_stats(c, &s);
    CHECK_EQ(s.app_wakes, 1);
    for (int i = 0; i < 6; i++)
        CHECK_EQ(ffl_client_close(c, h[i], false), 0);
    iterations(2);
    ffl_segment_drop(&m);
    ffl_client_detach(c);
    iterations(3);
    CHECK_EQ(ffl_instance_sockets(lab.in), 0);
    lab_stop();
}

static void ping_many(int64_t client_spin, int64_t instance_spin, int count)
{
    struct ffl_client *c;
    char why[256];
    lab_defaults("host");
    lab.o.spin_us = instance_spin;
    lab_start("");
    lab_run();
    struct ffl_client_opts o = {.path = lab.path, .timeout_ms = 60000, .spin_us = client_spin};
    CHECK_EQ(ffl_client_attach(&c, &o, why, sizeof(why)), 0);
    for (int i = 0; i < count; i++) {
        for (uint32_t pause = (uint32_t)(i * 2654435761u) % 500; pause > 0; pause--)
            ffl_cpu_relax(); /* so that the instance is met at every point of falling asleep */
        int rc = ffl_client_ping(c);
        if (rc < 0)
            FAIL("ping %d of %d: %s", i, count, strerror(-rc));
    }
    ffl_client_detach(c);
    lab_stop();
}

/* Running: both sides fall asleep between pings; a lost wake-up is a ping without an answer. */
TEST(r5_no_ping_is_lost)
{
    ping_many(0, 0, 30000 / TEST_SLOW);
}

/* Running: the instance answers at once, so that its answer meets the client falling asleep. */
TEST(r5_no_answer_is_lost)
{
    if (ffl_cpu_count() >= 2) /* on one CPU a spinning instance only takes the client's time */
        ping_many(0, FFL_SPIN_FOREVER, 20000 / TEST_SLOW);
}

/* ---- 6: iterations and sleep ----------------------------------------------------------------- */

/* A stack that polls by nature: its loop calls the iteration. */
static int polling_run(void *st, ffl_iterate_fn iterate, void *arg)
{
    while (iterate(arg) >= 0)
        ;
    return 0;
}

static struct raw *asker_raw;
static _Atomic int asker_done;
static int asker_rounds;

/* The application: each answer brings the next question; then it sleeps. */
static void *asker(void *arg)
{
    struct raw *r = asker_raw;
    for (int i = 0; i < asker_rounds; i++) {
        raw_op(r, FFL_OP_NOP, 0, i, 0);
        struct ffl_entry e;
        while (!raw_next(r, &e))
            sched_yield();
        CHECK_EQ(e.arg, i);
    }
    atomic_store(&asker_done, 1);
    ffl_wait_raise(&r->map.seg->waits.app, FFL_WAIT_QUEUE);
    return arg;
}

/* The iteration goes on looking at the SQs after it has polled the stack, until all are asleep. */
TEST(r6_a_polling_stack_lingers_on_the_sqs)
{
    struct raw r;
    pthread_t t;
    hooked = ffl_sim_ops;
    hooked.run = polling_run;
    lab_defaults("sim");
    lab.o.stack = &hooked;
    lab.o.sq_poll_us = 0;
    lab_start_manual("");
    raw_attach(&r);
    lab.in->o.sq_poll_us = 20 * 1000000; /* no limit, for this test */
    asker_raw = &r;
    asker_rounds = 100;
    CHECK_EQ(pthread_create(&t, NULL, asker, NULL), 0);
    int used = 0;
    while (!atomic_load(&asker_done)) {
        (void)iterate();
        used++;
    }
    pthread_join(t, NULL);
    CHECK(used <= 2); /* all round trips in one iteration, or in two by the start */
    int64_t before = ffl_now_ns();
    iterations(10);
    CHECK(ffl_now_ns() - before < 20 * FFL_NS_PER_SEC); /* asleep, nothing asked: it ends at once */
    raw_gone(&r);
    lab.in->o.sq_poll_us = 0;
    iterations(3);
    lab_stop();
}

/* Bounded: an application that neither sleeps nor asks keeps the iteration no longer than the
 * limit. */
TEST(r6_lingering_is_bounded)
{
    struct raw r;
    hooked = ffl_sim_ops;
    hooked.run = polling_run;
    lab_defaults("sim");
    lab.o.stack = &hooked;
    lab.o.sq_poll_us = 2000;
    lab_start_manual("");
    raw_attach(&r);
    int64_t before = ffl_now_ns();
    iterations(10);
    int64_t took = ffl_now_ns() - before;
    CHECK(took > 10 * 1500000LL);
    CHECK(took < 60 * FFL_NS_PER_SEC);
    raw_finish(&r);
}

static int entered;

/* A stack whose loop ends after a few iterations, with 1. */
static int few_run(void *st, ffl_iterate_fn iterate, void *arg)
{
    entered++;
    for (int i = 0; i < 5; i++)
        if (iterate(arg) < 0)
            return 0;
    return 1;
}

/* A stack that polls gathers packets for a delay: its loop is entered again, which sends them, when
 * the application sleeps after what it sent; once. */
TEST(r6_a_polling_stack_sends_for_who_sleeps)
{
    struct raw r;
    int peer;
    hooked = ffl_sim_ops;
    hooked.run = few_run;
    lab_defaults("sim");
    lab.o.stack = &hooked;
    raw_server(&r, "", FFL_F_ARM_NEW);
    lab.in->o.sq_poll_us = 0;
    uint32_t h = raw_accepted(&r, 0, 80, &peer);
    raw_send(&r, h, "x", 1);
    CHECK_EQ(ffl_instance_run(lab.in), 1);
    CHECK_EQ(entered, 1); /* it may send more at once */
    ffl_wait_raise(&r.map.seg->waits.app, FFL_WAIT_QUEUE);
    CHECK_EQ(ffl_instance_run(lab.in), 1);
    CHECK_EQ(entered, 3);
    CHECK_EQ(ffl_instance_run(lab.in), 1);
    CHECK_EQ(entered, 4); /* nothing was sent since */
    sim_shut(peer);
    raw_finish(&r);
}

static int slow_reads;

static int slow_recv(void *st, int fd, const struct iovec *iov, int n, struct ffl_addr *from,
                     struct ffl_ctl *ctl, int *flags)
{
    int64_t until = ffl_now_ns() + 60000;
    slow_reads++;
    while (ffl_now_ns() < until)
        ffl_cpu_relax();
    return ffl_sim_ops.recv(st, fd, iov, n, from, NULL, flags);
}

/* An iteration that a polling stack waits for is bounded too:
 * what is ready has its turns in order. */
TEST(r6_a_polling_stack_is_not_kept_waiting)
{
    struct raw r;
    int peer[32];
    hooked = ffl_sim_ops;
    hooked.run = polling_run;
    hooked.recv = slow_recv;
    lab_defaults("sim");
    lab.o.stack = &hooked;
    lab.o.sq_poll_us = 0;
    lab.o.slice_ns = 0; /* the stack's own */
    lab_start_manual("");
    raw_attach(&r);
    raw_listen(&r, 0, "10.0.0.1", 80, 32, FFL_F_ARM_NEW);
    for (int i = 0; i < 32; i++)
        (void)raw_accepted(&r, 0, 80, &peer[i]);
    for (int i = 0; i < 32; i++)
        CHECK_EQ(sim_put(peer[i], "x", 1), 1);
    slow_reads = 0;
    iterations(1);
    CHECK(slow_reads >= 2 && slow_reads < 32); /* events, then the rest of the ready list */
    for (int i = 0; i < 32 && slow_reads < 32; i++)
        iterations(1);
    CHECK_EQ(slow_reads, 32); /* each was read, and none twice */
    for (int i = 0; i < 32; i++)
        sim_shut(peer[i]);
    close(r.sock);
    r.sock = -1;
    while (ffl_instance_sockets(lab.in)) /* closing takes slices, too */
        iterations(1);
    raw_finish(&r);
}

static int64_t cpu_ns(pthread_t t)
{
    clockid_t id;
    struct timespec ts;
    CHECK_EQ(pthread_getcpuclockid(t, &id), 0);
    CHECK_EQ(clock_gettime(id, &ts), 0);
    return ts.tv_sec * FFL_NS_PER_SEC + ts.tv_nsec;
}

/* Running: idle means asleep, with a session, an idle connection and the spin at its default. */
TEST(r6_idle_means_asleep)
{
    struct ffl_client *c;
    char why[256];
    lab_defaults("host");
    lab.o.spin_us = FFL_SPIN_AUTO;
    lab_start("");
    lab_run();
    struct ffl_client_opts o = {.path = lab.path, .spin_us = FFL_SPIN_AUTO};
    struct ffl_addr a = addr4("127.0.0.1", 0);
    struct ffl_event ev[8];
    CHECK_EQ(ffl_client_attach(&c, &o, why, sizeof(why)), 0);
    int h = ffl_client_socket(c, AF_INET, SOCK_STREAM, 0, 0);
    CHECK_EQ(ffl_client_bind(c, h, &a), 0);
    CHECK_EQ(ffl_client_listen(c, h, 8, 0), 0);
    CHECK_EQ(ffl_client_accepting(c, h, 8, 0), 0);
    for (int i = 0; i < 1000; i++)
        CHECK_EQ(ffl_client_ping(c), 0); /* busy: it may spin now */
    CHECK_EQ(ffl_client_wait(c, ev, 8, -1, 100000000), 0);
    struct timespec mine;
    int64_t before = cpu_ns(lab.thread);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &mine);
    int64_t mine_before = mine.tv_sec * FFL_NS_PER_SEC + mine.tv_nsec;
    CHECK_EQ(ffl_client_wait(c, ev, 8, -1, FFL_NS_PER_SEC), 0);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &mine);
    int64_t used = cpu_ns(lab.thread) - before;
    int64_t mine_used = mine.tv_sec * FFL_NS_PER_SEC + mine.tv_nsec - mine_before;
    if (used > 10000000 * TEST_SLOW || mine_used > 10000000 * TEST_SLOW)
        FAIL("a second of idleness cost the instance %lld us, the application %lld us",
             (long long)used / 1000, (long long)mine_used / 1000);
    ffl_client_detach(c);
    lab_stop();
}

/* Running: the loop's waits have been in vain, its calls have not. */
TEST(r6_calls_spin_whatever_waits_find)
{
    struct ffl_client *c;
    char why[256];
    lab_defaults("host");
    lab_start("");
    lab_run();
    struct ffl_client_opts o = {.path = lab.path, .timeout_ms = 60000, .spin_us = 50};
    CHECK_EQ(ffl_client_attach(&c, &o, why, sizeof(why)), 0);
    c->sleeper.idle.spin.left = 1000;
    c->sleeper.idle.found = 1;
    for (int i = 0; i < 900 && !atomic_load(&c->map.seg->app.spins); i++)
        CHECK_EQ(ffl_client_ping(c), 0);
    CHECK(atomic_load(&c->map.seg->app.spins) > 0);
    CHECK_EQ(c->sleeper.idle.found, 1);
    ffl_client_detach(c);
    lab_stop();
}

/* ---- a doorbell that is lost ----------------------------------------------------------------- */

static int deaf(int fd)
{
    return 0;
}

/* Committed, and not rung: found by the sleeper's own look, which is counted. An entry that comes
 * between the raised word and the look before the sleep is found at once: then another one is
 * sent. */
TEST(r5_a_lost_doorbell_is_counted_by_the_instance)
{
    struct raw r;
    struct ffl_entry e;
    lab_start("");
    raw_attach(&r);
    lab_run();
    while (!atomic_load(&lab.in->page->late_looks)) {
        while (!atomic_load(&r.map.seg->waits.inst))
            (void)sched_yield();
        raw_op(&r, FFL_OP_NOP, 0, 1, 0);
        while (!raw_next(&r, &e))
            (void)sched_yield();
    }
    lab_stop();
    raw_gone(&r);
}

static void *ping(void *c)
{
    CHECK_EQ(ffl_client_ping(c), 0);
    return NULL;
}

TEST(r5_a_lost_doorbell_is_counted_by_the_client)
{
    lab_start("");
    struct ffl_client *c = lab_attach_stepped();
    TAILQ_FIRST(&lab.in->sessions)->ch.ring_bell = deaf;
    while (!atomic_load(&c->map.seg->app.late_looks)) {
        pthread_t t;
        CHECK_EQ(pthread_create(&t, NULL, ping, c), 0);
        while (!atomic_load(&c->map.seg->waits.app))
            (void)sched_yield();
        iterations(2);
        pthread_join(t, NULL);
    }
    ffl_client_detach(c);
    lab_stop();
}
