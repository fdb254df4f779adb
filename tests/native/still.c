/*
 * still.c - a machine that stands still: the clock goes on, no process does, and nobody gives up.
 *
 * The clock of all but base/ is this file's (--wrap): real time, and what a test adds. An
 * application waits, in a thread, for an instance that the test's thread does not step.
 */
#include "lab.h"

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

/* An instance that does not run while the application does: the limit is reached. */
TEST(a_limit_is_reached)
{
    pthread_t t;
    lab_defaults("sim");
    lab_start("");
    c = lab_attach_stepped();
    CHECK_EQ(pthread_create(&t, NULL, pings, NULL), 0);
    while (!done) {
        added += FFL_LOOK_NS;
        looked(1);
    }
    CHECK_EQ(pthread_join(t, NULL), 0);
    CHECK_EQ(result, -ETIMEDOUT);
    ffl_client_detach(c);
    iterations(3);
    lab_stop();
}
