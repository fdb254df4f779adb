/*
 * bell.c - rings an application's doorbell, and never waits for it.
 *
 * Callers: session.c. The application holds the same eventfd: it can clear O_NONBLOCK on it and fill
 * its counter, and then a write would wait for ever. So a timer's signal runs while bells are rung,
 * and a write that waits is interrupted (one that need not wait never is). Process-wide, since
 * timers and signals are; for the thread that rings.
 */
#include "internal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define TICK_NS 10000000L
#define TICK_SIGNAL SIGURG /* ignored unless somebody wants it */

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static timer_t timer;
static pthread_t owner; /* the timer is for this thread */
static bool made;
static volatile sig_atomic_t ticking, rung;

static int set(long ns)
{
    const struct itimerspec t = {.it_interval.tv_nsec = ns, .it_value.tv_nsec = ns};
    return timer_settime(timer, 0, &t, NULL);
}

/* A tick without a ring since the one before: no bell is being rung, and the timer rests. */
static void tick(int sig)
{
    (void)sig;
    int saved = errno;
    if (!rung) {
        ticking = 0;
        (void)set(0);
    }
    rung = 0;
    errno = saved;
}

static int make(void)
{
    struct sigaction on = {.sa_handler = tick}; /* no SA_RESTART: that is the point */
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = TICK_SIGNAL};
    ev.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
    if (made)
        (void)timer_delete(timer);
    made = false;
    ticking = 0;
    if (sigaction(TICK_SIGNAL, &on, NULL) < 0 || timer_create(CLOCK_MONOTONIC, &ev, &timer) < 0)
        return -errno;
    owner = pthread_self();
    made = true;
    return 0;
}

int bell_ring(int fd)
{
    uint64_t one = 1;
    rung = 1;
    if (ffl_unlikely(!made || !pthread_equal(owner, pthread_self()))) {
        int rc = make();
        if (rc < 0)
            ffl_log(FFL_LOG_WARNING, "no timer to guard doorbells: %s", strerror(-rc));
    }
    if (!ticking && made) {
        ticking = 1;
        (void)set(TICK_NS);
    }
    return write(fd, &one, sizeof(one)) < 0 ? -errno : 0;
}
