/*
 * spin.h - what a side does before it sleeps: it spins, or yields its CPU once.
 *
 * Callers: client/sleep.c, instance/serve.c, hot/direct.c; each has a state of its own. A sleep and
 * its wake take longer than most answers, so a spin of some ten us pays where something comes
 * within that time. Only trying tells: a side spins, and after a spin that found nothing its next
 * sleeps come without one: one sleep, then 3, 7, up to 63.
 *
 * Application, instance and the requests' sender are three processes, perhaps on two CPUs. So a
 * side that spins at the rings yields its CPU every few looks, and a side that does not spin yields
 * once before it sleeps. Where another process waited for the CPU, entries then come several at a
 * time and without a wake, which costs less than finding each at once: a side that finds several
 * without a sleep does not spin (the shim does not count them). Where yielding brings nothing it is
 * done less often, and where another process keeps the CPU for whole time slices a side hardly ever
 * spins or yields.
 */
#ifndef FFL_SPIN_H
#define FFL_SPIN_H

#include "base.h"

#define FFL_SPIN_FOREVER (-1)
#define FFL_SPIN_AUTO (-2) /* 50 us where there are two CPUs or more, else 0 */

/* Looks whether work has come. Of the looks of a spin every few are `whole`: they may take a system
 * call or two, let others run, and look at what the quick ones leave out. */
typedef bool ffl_came_fn(void *arg, bool whole);

/* ---- spinning ------------------------------------------------------------------------------ */

struct ffl_spin {
    int64_t limit_ns;    /* 0: never; INT64_MAX: until something comes */
    unsigned skip, left; /* sleeps without a spin; how many of them are still to come */
    uint64_t spins, hits;
};

/* limit_us: microseconds, FFL_SPIN_FOREVER or FFL_SPIN_AUTO. */
void ffl_spin_init(struct ffl_spin *s, int64_t limit_us);
/* Before a sleep of *left_ns (negative: without end). True: work has come. False: *left_ns is less
 * by the time that it took. */
bool ffl_spin_try(struct ffl_spin *s, int64_t *left_ns, ffl_came_fn *came, void *arg);

/* ---- yielding ------------------------------------------------------------------------------ */

struct ffl_yield {
    unsigned skip, left; /* as above */
    unsigned vain;
};

/* Before a sleep: yield first? */
static inline bool ffl_yield_due(struct ffl_yield *y)
{
    if (ffl_likely(y->left == 0))
        return true;
    y->left--;
    return false;
}

/* Yielding took so long; `came`: there was work afterwards. */
void ffl_yield_done(struct ffl_yield *y, int64_t took_ns, bool came);

/* ---- both ---------------------------------------------------------------------------------- */

struct ffl_idle { /* of one sleeper */
    struct ffl_spin spin;
    struct ffl_yield yield;
    unsigned found; /* by the caller, without a sleep: events, or turns of ready sockets */
};

/* Before a sleep, with the wait word not yet raised so that the other side does not ring: spins
 * where `found` is two at most, or yields (a whole look), or neither.
 * True: work has come. *left_ns as in ffl_spin_try. */
bool ffl_idle(struct ffl_idle *i, int64_t *left_ns, ffl_came_fn *came, void *arg);

#endif
