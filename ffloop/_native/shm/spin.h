/*
 * spin.h - whether to look a little longer before sleeping.
 *
 * Callers: client/sleep.c, instance/serve.c, hot/direct.c; each has a state of its own. Spinning
 * pays while events come closer together than the limit. The gap is an exponentially weighted mean:
 * one long pause does not end spinning, and one burst does not begin it.
 *
 * A side that does not spin yields its CPU once before it sleeps: where the other side, or the
 * requests' sender, waits for this CPU, entries then come several at a time, without a wake. A side
 * yields less often where that brings nothing, and hardly ever where another process keeps the CPU.
 *
 * In direct mode the gap says little: most of it may be the time that the sleep and the wake take.
 * So the loop tries: it spins, and after a spin that found nothing sleeps at once the next times,
 * ever more of them.
 */
#ifndef FFL_SPIN_H
#define FFL_SPIN_H

#include "base.h"

#define FFL_SPIN_FOREVER (-1)
/* 50 us where there are three CPUs or more and the sides do not share a CPU, else 0. */
#define FFL_SPIN_AUTO (-2)

struct ffl_spin {
    int64_t limit_ns; /* 0: never; FFL_SPIN_FOREVER */
    int64_t gap_ns;   /* mean gap between events */
    int64_t last_ns;  /* the last event */
};

/* limit_us: microseconds, FFL_SPIN_FOREVER or FFL_SPIN_AUTO. */
void ffl_spin_init(struct ffl_spin *s, int64_t limit_us);

/* An event was found at `now`. */
static inline void ffl_spin_hit(struct ffl_spin *s, int64_t now)
{
    int64_t gap = now - s->last_ns;
    s->last_ns = now;
    if (s->limit_ns > 0 && gap > 8 * s->limit_ns)
        gap = 8 * s->limit_ns;
    s->gap_ns += (gap - s->gap_ns) / 8;
}

/* Until when to spin, from `now`: a time, `now` for not at all, INT64_MAX for ever. */
static inline int64_t ffl_spin_until(const struct ffl_spin *s, int64_t now)
{
    if (s->limit_ns == 0)
        return now;
    if (s->limit_ns < 0)
        return INT64_MAX;
    return s->gap_ns < s->limit_ns ? now + s->limit_ns : now;
}

struct ffl_yield {
    unsigned skip, left; /* sleeps without a yield; how many of them are still to come */
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

/* Yields. Returns the time that yielding took, in ns, for ffl_yield_done. */
int64_t ffl_yield(void);
/* `came`: there was work afterwards. */
void ffl_yield_done(struct ffl_yield *y, int64_t took_ns, bool came);

struct ffl_idle { /* of one sleeper */
    struct ffl_spin spin;
    struct ffl_yield yield;
};

/* Before a sleep, with the wait word still down so that the other side does not ring: spins for a
 * slice of time (at most `most_ns`), or yields, or neither. `came` looks whether work has come.
 * True: work has come. */
enum ffl_idled { FFL_IDLED_NOT, FFL_IDLED_YIELD, FFL_IDLED_SPIN };
typedef bool ffl_came_fn(void *arg, bool yields);
bool ffl_idle(struct ffl_idle *i, int64_t most_ns, bool may_spin, ffl_came_fn *came, void *arg,
              enum ffl_idled *how);

struct ffl_try {
    int64_t limit_ns;    /* 0: never; INT64_MAX: until something comes */
    unsigned skip, left; /* sleeps without a spin; how many of them are still to come */
    uint64_t spins, hits;
};

/* As ffl_spin_init; auto: 50 us where there are two CPUs or more. */
void ffl_try_init(struct ffl_try *t, int64_t limit_us);
/* Before a sleep of *left_ns (negative: without end), which it shortens by the time that it took.
 * True: work has come. */
bool ffl_try_spin(struct ffl_try *t, int64_t *left_ns, ffl_came_fn *came, void *arg);

#endif
