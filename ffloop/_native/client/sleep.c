/*
 * sleep.c - sleeping: spin or yield, raise the wait words, look at the rings; after it, lower them.
 *
 * Callers: wait.c and selector.c for one client, the shim for a list of clients. See client.h.
 */
#include "internal.h"

#include "route.h"

#include <poll.h>
#include <sched.h>
#include <unistd.h>

#define EACH_ATTACHED(c, first)                                                                    \
    for (struct ffl_client *c = (first); c; c = c->beside)                                         \
        if (!c->detached)

void ffl_client_join(struct ffl_client **first, struct ffl_client *c)
{
    c->beside = *first;
    *first = c;
}

void ffl_client_part(struct ffl_client **first, struct ffl_client *c)
{
    while (*first && *first != c)
        first = &(*first)->beside;
    if (*first)
        *first = c->beside;
}

/* ---- before the sleep ------------------------------------------------------------------------ */

static bool attached(const struct ffl_client *first)
{
    EACH_ATTACHED(c, (struct ffl_client *)first)
    return true;
    return false;
}

/* A stack that polls sends what it has gathered when its applications sleep or spin. */
static void tell_of_spin(struct ffl_client *first, bool begins)
{
    EACH_ATTACHED(c, first)
    if (ffl_route_polls(c->stack))
        ffl_wait_spin(c->ch.waits, begins);
}

/* Spins or yields. `came` may change the list. */
static bool idle(struct ffl_idle *i, struct ffl_client *const *first, int64_t *left_ns,
                 ffl_came_fn *came, void *arg)
{
    struct ffl_spin before = i->spin;
    tell_of_spin(*first, true);
    bool hit = ffl_idle(i, left_ns, came, arg);
    if (hit) /* else the sleep says more */
        tell_of_spin(*first, false);
    EACH_ATTACHED(c, i->spin.spins != before.spins ? *first : NULL)
    {
        ffl_stat_add(&c->map.seg->app.spins, 1);
        ffl_stat_add(&c->map.seg->app.spin_hits, i->spin.hits - before.hits);
    }
    return hit;
}

static bool doze(struct ffl_client *c)
{
    int rc = ffl_channel_doze(&c->ch, client_wait_bits(c));
    if (rc < 0)
        client_lose(c, EPROTO, "SQ head out of range");
    return rc > 0 && !(c->waiters && tx_unwritable(c) != c->tx_unwritable);
}

bool ffl_sleep_doze(struct ffl_client *first)
{
    EACH_ATTACHED(c, first)
    if (!doze(c))
        return false;
    return true;
}

bool ffl_sleep_prepare(struct ffl_sleeper *s, struct ffl_client *const *first, int64_t *left_ns,
                       ffl_came_fn *came, void *arg)
{
    s->whole = false;
    if (!attached(*first))
        return true;
    if (idle(&s->idle, first, left_ns, came, arg) || !ffl_sleep_doze(*first))
        return false;
    EACH_ATTACHED(c, *first)
    ffl_stat_add(&c->map.seg->app.sleeps, 1);
    s->whole = *left_ns < 0 || *left_ns > FFL_LOOK_NS;
    if (s->whole)
        *left_ns = FFL_LOOK_NS;
    return true;
}

/* ---- after the sleep ------------------------------------------------------------------------- */

void ffl_sleep_woken(const struct ffl_sleeper *s, struct ffl_client *first, bool timed_out)
{
    EACH_ATTACHED(c, timed_out && s->whole ? first : NULL)
    if (client_pending(c)) /* without a doorbell */
        ffl_stat_add(&c->map.seg->app.late_looks, 1);
}

static void rouse(struct ffl_client *c)
{
    if (!c->shown)
        ffl_channel_rouse(&c->ch);
    else if (!doze(c)) /* pollers of the doorbell are to look */
        client_ring(c->app_bell);
}

void ffl_sleep_rouse(struct ffl_client *first)
{
    EACH_ATTACHED(c, first)
    rouse(c);
}

/* ---- one client ------------------------------------------------------------------------------ */

struct look {
    struct ffl_client *c;
    struct epoll_event *ev;
    int max, epfd;
    int n; /* kernel events, or -1 with errno */
};

static bool came(void *arg, bool whole)
{
    struct look *l = arg;
    if (whole && !ffl_confined) {
        (void)sched_yield(); /* cannot fail */
        l->n = ffl_epoll_wait(l->epfd, l->ev, l->max, 0);
    }
    return l->n || client_pending(l->c);
}

/* Without epfd, whose events take epoll_wait: on the doorbell, then a look at the session
 * socket. */
static int confined_wait(const struct ffl_client *c, struct epoll_event *ev, int64_t timeout_ns)
{
    uint64_t rung;
    if (ffl_poll_one(c->app_bell, POLLIN, timeout_ns))
        (void)!read(c->app_bell, &rung, sizeof(rung)); /* EAGAIN: another thread has */
    if (!ffl_poll_one(c->sock, POLLIN | POLLRDHUP, 0))
        return 0;
    *ev = (struct epoll_event){.events = EPOLLIN, .data.fd = c->sock};
    return 1;
}

static int wait_for_events(struct ffl_client *c, struct epoll_event *ev, int max, int epfd,
                           int64_t timeout_ns)
{
    return ffl_unlikely(ffl_confined) ? confined_wait(c, ev, timeout_ns)
                                      : ffl_epoll_wait(epfd, ev, max, timeout_ns);
}

int ffl_client_sleep(struct ffl_client *c, struct epoll_event *ev, int max, int epfd,
                     int64_t timeout_ns, bool looks)
{
    if (c->driver && timeout_ns && !c->detached)
        return client_drive_until(c, ev, max, epfd, timeout_ns);
    int64_t left = timeout_ns;
    struct ffl_sleeper *s = c->call.tag ? &c->caller : &c->sleeper;
    struct look l = {c, ev, max, epfd, 0};
    bool sleeps = timeout_ns && ffl_sleep_prepare(s, &c, &left, came, &l);
    if (!l.n && (sleeps || looks))
        l.n = wait_for_events(c, ev, max, epfd, sleeps ? left : 0);
    int err = errno;
    if (sleeps)
        ffl_sleep_woken(s, c, l.n == 0);
    if (timeout_ns)
        ffl_sleep_rouse(c);
    return l.n < 0 ? -err : l.n;
}
