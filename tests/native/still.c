/*
 * still.c - a machine that stands still: the clock goes on, no process does, and nobody gives up.
 *
 * The clock of all but base/ is this file's (--wrap): real time, and what a test adds. Either an
 * application waits, in a thread, for an instance that the test's thread does not step; or an
 * instance gives other processes time, and an hour goes by between two of its iterations.
 */
#include "lab.h"

#include "../../ffloop/_native/instance/peers.h"

#include <stdatomic.h>

#define HOUR_NS (3600 * FFL_NS_PER_SEC)

int64_t __real_ffl_now_ns(void);
int64_t __wrap_ffl_now_ns(void);

static _Atomic int64_t added;
static _Atomic int looks; /* of the application's thread */
static _Thread_local bool application;

int64_t __wrap_ffl_now_ns(void)
{
    looks += application;
    return __real_ffl_now_ns() + added;
}

static struct ffl_client *c;
static _Atomic bool done;
static int result;

static void *attaches(void *arg)
{
    char why[256];
    struct ffl_client_opts o = {.path = lab.path, .timeout_ms = 10000};
    application = true;
    result = ffl_client_attach(&c, &o, why, sizeof(why));
    done = true;
    return arg;
}

static void *pings(void *arg)
{
    application = true;
    result = ffl_client_ping(c);
    done = true;
    return arg;
}

/* Until the application has looked n times more, or is done. */
static void looked(int n)
{
    for (int before = looks; looks - before < n && !done;)
        (void)usleep(100);
}

/* Runs `call`; the machine stands still for an hour while it waits, and only then does the
 * instance run. Returns its result. */
static int hour_in(void *(*call)(void *))
{
    pthread_t t;
    looks = 0;
    done = false;
    CHECK_EQ(pthread_create(&t, NULL, call, NULL), 0);
    looked(4);
    added += HOUR_NS;
    looked(4);
    while (!done)
        (void)iterate();
    CHECK_EQ(pthread_join(t, NULL), 0);
    return result;
}

TEST(a_handshake_waits_on)
{
    lab_defaults("sim");
    lab_start("");
    CHECK_EQ(hour_in(attaches), 0);
    ffl_client_detach(c);
    iterations(3);
    lab_stop();
}

TEST(a_call_waits_on)
{
    lab_defaults("sim");
    lab_start("");
    c = lab_attach_stepped();
    CHECK_EQ(hour_in(pings), 0);
    ffl_client_detach(c);
    iterations(3);
    lab_stop();
}

/* An instance that does not run while the application does: the limit is reached. The doorbell ends
 * the application's sleeps, so that its looks follow each other at once. */
TEST(a_limit_is_reached)
{
    pthread_t t;
    lab_defaults("sim");
    lab_start("");
    c = lab_attach_stepped();
    CHECK_EQ(pthread_create(&t, NULL, pings, NULL), 0);
    while (!done) {
        added += FFL_LOOK_NS;
        CHECK_EQ(bell_ring(TAILQ_FIRST(&lab.in->sessions)->app_bell), 0);
        (void)usleep(100);
    }
    CHECK_EQ(pthread_join(t, NULL), 0);
    CHECK_EQ(result, -ETIMEDOUT);
    ffl_client_detach(c);
    iterations(3);
    lab_stop();
}

/* ---- the instance's limits ------------------------------------------------------------------ */

static void hour(void)
{
    added += HOUR_NS;
    iterations(3);
}

/* Enough looks, far enough apart, for every limit. */
static bool minutes(bool (*over)(void))
{
    for (int i = 0; i < 200 && !over(); i++) {
        added += FFL_LOOK_NS;
        iterations(3);
    }
    return over();
}

static bool no_sockets(void)
{
    return ffl_instance_sockets(lab.in) == 0;
}

#define REST 5000 /* more than the window */

/* A peer whose window is full of what a closed socket had to send. */
static void closed_with_a_rest(struct raw *r, int *peer, bool gone)
{
    static const char data[REST];
    raw_server(r, "window=1000", 0);
    quiet();
    uint32_t h = raw_accepted(r, 0, 80, peer);
    raw_send(r, h, data, sizeof(data));
    if (gone) {
        raw_gone(r);
    } else {
        raw_op(r, FFL_OP_CLOSE, h, 0, 0);
        raw_op(r, FFL_OP_CLOSE, 0, 0, 0);
    }
    iterations(3);
    CHECK_EQ(ffl_instance_sockets(lab.in), 1);
}

static int taken(int peer)
{
    char got[REST];
    int n, all = 0;
    for (int i = 0; i < 100; i++) {
        while ((n = sim_take(peer, got, sizeof(got))) > 0)
            all += n;
        iterations(3);
    }
    return all;
}

static void rest_is_sent(bool gone)
{
    struct raw r;
    int peer;
    closed_with_a_rest(&r, &peer, gone);
    hour();
    CHECK_EQ(taken(peer), REST);
    CHECK(no_sockets());
    sim_shut(peer);
    if (!gone)
        raw_gone(&r);
    iterations(3);
    lab_stop();
}

TEST(a_closed_sockets_rest_is_sent)
{
    rest_is_sent(false);
}

TEST(a_gone_applications_rest_is_sent)
{
    rest_is_sent(true);
}

/* A peer that takes nothing while the instance runs. */
TEST(a_rest_does_not_wait_for_ever)
{
    struct raw r;
    int peer;
    closed_with_a_rest(&r, &peer, true);
    CHECK(minutes(no_sockets));
    CHECK(taken(peer) < REST);
    sim_shut(peer);
    lab_stop();
}

TEST(a_listener_is_kept_on)
{
    struct raw r;
    lab_defaults("sim");
    lab.o.keep_ns = 30 * FFL_NS_PER_SEC;
    lab_start_manual("");
    quiet();
    raw_attach(&r);
    CHECK_EQ(raw_bind(&r, 0, "10.0.0.1", 80, true), 0);
    raw_put(&r, (struct ffl_entry){.op = FFL_OP_LISTEN, .tag = 1, .arg = 8, .buf = FFL_NO_BUF});
    CHECK_EQ(raw_expect(&r, FFL_OP_LISTEN, 0).arg, 0);
    raw_gone(&r);
    iterations(3);
    hour();
    CHECK_EQ(ffl_instance_sockets(lab.in), 1);
    CHECK(minutes(no_sockets));
    lab_stop();
}

static bool ended;

static bool has_ended(void)
{
    ended |= iterate() < 0;
    return ended;
}

TEST(a_drain_goes_on)
{
    struct raw r;
    int peer;
    raw_server(&r, "", 0);
    quiet();
    (void)raw_accepted(&r, 0, 80, &peer);
    ffl_instance_drain(lab.in);
    iterations(3);
    added += HOUR_NS;
    CHECK(!has_ended());
    CHECK(!has_ended());
    while (!has_ended())
        added += FFL_LOOK_NS;
    sim_shut(peer);
    raw_gone(&r);
    lab_stop();
}

static bool nobody_waits(void)
{
    return lab.in->ledger.n[CHARGE_PENDING] == 0;
}

TEST(a_hello_may_come_later)
{
    struct raw r;
    lab_defaults("sim");
    lab_start_manual("");
    quiet();
    int silent = lab_dial();
    iterations(3);
    hour();
    CHECK(!nobody_waits());
    CHECK(minutes(nobody_waits));
    close(silent);
    raw_attach(&r);
    raw_finish(&r);
}

TEST(an_embedded_instance_waits_for_its_application)
{
    lab_defaults("sim");
    lab.o.embedded = true;
    lab_start_manual("");
    CHECK(!has_ended());
    added += HOUR_NS;
    CHECK(!has_ended());
    while (!has_ended())
        added += FFL_LOOK_NS;
    lab_stop();
}
