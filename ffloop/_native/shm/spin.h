/*
 * spin.h - whether to look at the ring a little longer before sleeping.
 *
 * Callers: client/wait.c, instance/serve.c. Each side owns one. Spinning pays while events come
 * closer together than the limit; the gap is an exponentially weighted mean, so that one long
 * pause does not turn it off and one burst does not turn it on.
 */
#ifndef FFL_SPIN_H
#define FFL_SPIN_H

#include "base.h"

#define FFL_SPIN_FOREVER (-1)
#define FFL_SPIN_AUTO                                                                              \
    (-2) /* 50 us where there are three CPUs or more and the sides do not share
                              one, else 0 */

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

#endif
