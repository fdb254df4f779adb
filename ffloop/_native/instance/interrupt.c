/*
 * interrupt.c - ends system calls that a peer can make wait: a doorbell's write, a close.
 *
 * Callers: session.c, closer.c. An application can clear O_NONBLOCK on its doorbell and fill
 * the counter: the instance's write would wait for ever. So a periodic timer's signal interrupts
 * such a call if it waits. The timer is per thread, the signal's action per process.
 */
#include "peers.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define TICK_NS 5000000L
#define TICK_SIGNAL SIGURG /* ignored by default */

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static _Thread_local struct {
    timer_t timer;
    bool made;
    volatile sig_atomic_t ticking;
    volatile sig_atomic_t inside; /* a call is under way, and a tick will come */
    volatile sig_atomic_t used;   /* there was a call since the last tick */
} guard;

static void set(long ns)
{
    const struct itimerspec t = {.it_interval.tv_nsec = ns, .it_value.tv_nsec = ns};
    (void)timer_settime(guard.timer, 0, &t, NULL); /* timer and time are valid: cannot fail */
}

/* Stops the timer where no call was made since the last tick, and none runs. */
static void tick(int sig)
{
    (void)sig;
    int saved = errno;
    if (!guard.inside && !guard.used) {
        guard.ticking = 0;
        set(0);
    }
    guard.used = 0;
    errno = saved;
}

static void make(void)
{
    struct sigaction on = {.sa_handler = tick}; /* no SA_RESTART: the call is to fail with EINTR */
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = TICK_SIGNAL};
    ev.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
    guard.made = sigaction(TICK_SIGNAL, &on, NULL) == 0 &&
                 timer_create(CLOCK_MONOTONIC, &ev, &guard.timer) == 0;
    if (!guard.made)
        ffl_log(FFL_LOG_WARNING, "no timer to cut calls short: %s", strerror(errno));
}

void interrupt_begin(void)
{
    guard.inside = 1; /* first: from here on no tick stops the timer */
    if (ffl_unlikely(!guard.made))
        make();
    if (!guard.ticking && guard.made) {
        guard.ticking = 1;
        set(TICK_NS);
    }
}

void interrupt_end(void)
{
    guard.used = 1;
    guard.inside = 0;
}

int bell_ring(int fd)
{
    uint64_t one = 1;
    interrupt_begin();
    int rc = write(fd, &one, sizeof(one)) < 0 ? -errno : 0;
    interrupt_end();
    return rc;
}
