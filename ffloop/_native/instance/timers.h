/*
 * timers.h - timers: a pairing heap of nodes that lie in their owners.
 *
 * Callers: the files of instance/, on its one thread. Setting a timer cannot fail. Reading the
 * first and setting a timer take constant time, cancelling a timer logarithmic, amortized.
 */
#ifndef FFL_TIMERS_H
#define FFL_TIMERS_H

#include "base.h"

struct timer {
    struct timer *child, *next, *prev; /* prev: the elder sibling, or the parent */
    int64_t due;                       /* on ffl_now_ns's clock */
    void (*fire)(struct timer *t);     /* called with the timer unset; may set it, may free it */
    bool set;
};

struct timers {
    struct timer *first;
};

void timers_set(struct timers *ts, struct timer *t, int64_t due); /* anew, if it is set */
void timers_cancel(struct timers *ts, struct timer *t);           /* if it is set */

/* When the first is due; INT64_MAX: never. */
static inline int64_t timers_due(const struct timers *ts)
{
    return ts->first ? ts->first->due : INT64_MAX;
}

/* Fires the due timers, but stops at `until`: the rest stay due. */
void timers_run(struct timers *ts, int64_t now, int64_t until);

#endif
