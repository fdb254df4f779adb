/*
 * sleep.c - sleeping: spin or yield, raise the wait words, look at the rings; after it, lower them.
 *
 * Callers: wait.c and selector.c for one client, the shim for a list of clients. See client.h.
 */
#include "internal.h"

#include <sched.h>

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

static bool shares_core(struct ffl_client *first)
{
    uint32_t cpu = (uint32_t)sched_getcpu();
    EACH_ATTACHED(c, first)
    if (atomic_load_explicit(&c->map.seg->inst.cpu, memory_order_relaxed) == cpu)
        return true;
    return false;
}

/* Spins or yields. `came` may change the list. */
static bool idle(struct ffl_idle *i, struct ffl_client *const *first, int64_t most_ns,
                 ffl_came_fn *came, void *arg)
{
    enum ffl_idled how;
    int64_t limit = i->spin.limit_ns;
    bool may_spin = limit < 0 || (limit > 0 && !shares_core(*first));
    bool hit = ffl_idle(i, most_ns, may_spin, came, arg, &how);
    EACH_ATTACHED(c, how == FFL_IDLED_SPIN ? *first : NULL)
    {
        ffl_stat_add(&c->map.seg->app.spins, 1);
        ffl_stat_add(&c->map.seg->app.spin_hits, hit);
    }
    if (hit && limit)
        ffl_spin_hit(&i->spin, ffl_now_ns());
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
    int64_t began = ffl_now_ns();
    s->whole = false;
    if (!attached(*first))
        return true;
    if (idle(&s->idle, first, *left_ns, came, arg) || !ffl_sleep_doze(*first))
        return false;
    uint32_t cpu = (uint32_t)sched_getcpu();
    EACH_ATTACHED(c, *first)
    {
        ffl_stat_add(&c->map.seg->app.sleeps, 1);
        atomic_store_explicit(&c->map.seg->app.cpu, cpu, memory_order_relaxed);
    }
    int64_t spent = ffl_now_ns() - began;
    if (*left_ns >= 0)
        *left_ns = *left_ns > spent ? *left_ns - spent : 0;
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

static bool came(void *arg, bool yields)
{
    if (yields)
        (void)sched_yield(); /* cannot fail */
    return client_pending(arg);
}

int ffl_client_sleep(struct ffl_client *c, struct epoll_event *ev, int max, int epfd,
                     int64_t timeout_ns, bool looks)
{
    if (c->driver && timeout_ns && !c->detached)
        return client_drive_until(c, ev, max, epfd, timeout_ns);
    int64_t left = timeout_ns;
    bool sleeps = timeout_ns && ffl_sleep_prepare(&c->sleeper, &c, &left, came, c);
    int n = sleeps || looks ? ffl_epoll_wait(epfd, ev, max, sleeps ? left : 0) : 0, err = errno;
    if (sleeps)
        ffl_sleep_woken(&c->sleeper, c, n == 0);
    if (timeout_ns)
        ffl_sleep_rouse(c);
    return n < 0 ? -err : n;
}
