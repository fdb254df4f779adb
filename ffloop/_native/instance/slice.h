/*
 * slice.h - how much of an iteration one session gets.
 *
 * Callers: the files of instance/. A slice ends by a tariff, so that the number of its
 * operations does not depend on the clock; and by the clock, since some operations cost more. At
 * least one operation is done.
 */
#ifndef FFL_INSTANCE_SLICE_H
#define FFL_INSTANCE_SLICE_H

#include "base.h"

#define SLICE_ENTRY_NS 100  /* an entry that only queues or sets a flag */
#define SLICE_CALL_NS 1000  /* a call of the stack */
#define SLICE_KIB_NS 100    /* a copy of 1 KiB */
#define SLICE_CLOCK_NS 1600 /* between looks at the clock, which cost 25 ns */

struct slice {
    int64_t end;  /* by the clock */
    int64_t left; /* by the tariff */
    int64_t unlooked;
};

static inline void slice_open(struct slice *s, int64_t ns)
{
    *s = (struct slice){.end = ffl_now_ns() + ns, .left = ns};
}

static inline void slice_spend(struct slice *s, int64_t ns)
{
    s->left -= ns;
    s->unlooked += ns;
}

static inline void slice_spend_call(struct slice *s, size_t bytes)
{
    slice_spend(s, SLICE_CALL_NS + (int64_t)bytes * SLICE_KIB_NS / 1024);
}

/* A slice that is over stays over. */
static inline bool slice_over(struct slice *s)
{
    if (s->left > 0 && s->unlooked >= SLICE_CLOCK_NS) {
        s->unlooked = 0;
        if (ffl_now_ns() >= s->end)
            s->left = 0;
    }
    return s->left <= 0;
}

#endif
