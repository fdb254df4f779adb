/* spin.c - the spin limit's default. See spin.h. */
#include "spin.h"

#define AUTO_LIMIT_US 50

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
