/* spin.c - the spin limit's default, and yielding. See spin.h. */
#include "spin.h"

#include <sched.h>

#define AUTO_LIMIT_US 50
#define LONG_NS 1000000 /* a time slice is longer, a turn of a busy peer shorter */
#define SKIP_IDLE 15
#define VAIN 8 /* yields that bring nothing make skip one more */
#define SKIP_LONG 1023

void ffl_spin_init(struct ffl_spin *s, int64_t limit_us)
{
    if (limit_us == FFL_SPIN_AUTO)
        limit_us = ffl_cpu_count() >= 3 ? AUTO_LIMIT_US : 0;
    *s = (struct ffl_spin){
        .limit_ns = limit_us < 0 ? FFL_SPIN_FOREVER : limit_us * 1000,
        .gap_ns = INT64_MAX / 16, /* not before events have come close together */
        .last_ns = ffl_now_ns(),
    };
    if (s->limit_ns > 0)
        s->gap_ns = 8 * s->limit_ns;
}

int64_t ffl_yield(void)
{
    int64_t began = ffl_now_ns();
    (void)sched_yield(); /* it has no errors */
    return ffl_now_ns() - began;
}

void ffl_yield_done(struct ffl_yield *y, int64_t took_ns, bool came)
{
    if (took_ns > LONG_NS)
        y->skip = y->skip < SKIP_LONG ? 2 * y->skip + 1 : SKIP_LONG;
    else if (came || y->skip >= 2 * SKIP_IDLE)
        y->skip /= 2;
    else if (y->skip < SKIP_IDLE && ++y->vain % VAIN == 0)
        y->skip++;
    y->left = y->skip;
}
