/*
 * limit.h - the time limit of a wait for another process, which runs only while this one looks.
 *
 * Callers: client/, instance/ (timers.h). Of the time between two looks FFL_LOOK_NS counts at most.
 * So a process that was stopped, or whose machine stood still (as a virtual one does while it
 * moves), has not waited meanwhile: it looks again before it gives up, and loses no socket. No
 * sleep between two looks may be longer than that.
 */
#ifndef FFL_LIMIT_H
#define FFL_LIMIT_H

#include "base.h"

struct ffl_limit {
    int64_t left_ns, looked_ns;
};

/* The time that counts since the last look, at *looked; this is the next look. */
static inline int64_t ffl_counted(int64_t *looked, int64_t now)
{
    int64_t past = now - *looked;
    *looked = now;
    return past < FFL_LOOK_NS ? past : FFL_LOOK_NS;
}

static inline struct ffl_limit ffl_limit(int64_t ms)
{
    return (struct ffl_limit){.left_ns = ms * 1000000, .looked_ns = ffl_now_ns()};
}

/* A look: what is left, or 0. */
static inline int64_t ffl_limit_left(struct ffl_limit *l)
{
    l->left_ns -= ffl_counted(&l->looked_ns, ffl_now_ns());
    return l->left_ns > 0 ? l->left_ns : 0;
}

/* A look: for how many milliseconds the next sleep may last; 0: nothing is left. */
static inline int ffl_limit_sleep_ms(struct ffl_limit *l)
{
    int64_t left = ffl_limit_left(l);
    return (int)(((left < FFL_LOOK_NS ? left : FFL_LOOK_NS) + 999999) / 1000000);
}

#endif
