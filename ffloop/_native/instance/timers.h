/*
 * timers.h - timers: a pairing heap of nodes that lie in their owners, and their clock.
 *
 * Callers: the files of instance/, on its one thread. Setting a timer cannot fail. Reading the
 * first and setting a timer take constant time, cancelling a timer logarithmic, amortized. The
 * clock stands still with the process (limit.h): what other processes have time for is not over
 * because none could run.
 */
#ifndef FFL_TIMERS_H
#define FFL_TIMERS_H

#include "limit.h"

struct timer {
    struct timer *child, *next, *prev; /* prev: the elder sibling, or the parent */
    int64_t due;                       /* on the timers' clock */
    void (*fire)(struct timer *t);     /* called with the timer unset; may set it, may free it */
    bool set;
};

struct timers {
    struct timer *first;
    int64_t now; /* the clock, at the last look; never 0 after a look */
    int64_t looked;
};

/* Brings the clock up to date; `now` is ffl_now_ns's. */
static inline void timers_look(struct timers *ts, int64_t now)
{
    ts->now += ffl_counted(&ts->looked, now);
}

void timers_set(struct timers *ts, struct timer *t, int64_t ns); /* to `ns` from now, if set anew */
void timers_cancel(struct timers *ts, struct timer *t);          /* if it is set */

/* For how long the process may sleep: until the first is due, and no longer than the clock may go
 * without a look; INT64_MAX: none is set. */
static inline int64_t timers_sleep(const struct timers *ts)
{
    int64_t left = ts->first ? ts->first->due - ts->now : INT64_MAX;
    return ts->first && left > FFL_LOOK_NS ? FFL_LOOK_NS : left;
}

/* Fires the due timers, but stops at `until` (ffl_now_ns's): the rest stay due. */
void timers_run(struct timers *ts, int64_t until);

#endif
