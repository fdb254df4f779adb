/* spin.c - the spin limit's default, and yielding. See spin.h. */
#include "spin.h"

#include <sched.h>

#define AUTO_LIMIT_US 50
#define LONG_NS 1000000 /* a time slice is longer, the other side's work shorter */
#define SKIP_IDLE 15
#define VAIN 8 /* yields that bring nothing and raise `skip` by one */
#define SKIP_LONG 1023
#define SKIP_VAIN 63 /* sleeps between two spins that find nothing */

void ffl_spin_init(struct ffl_spin *s, int64_t limit_us)
{
    if (limit_us == FFL_SPIN_AUTO)
        limit_us = ffl_cpu_count() >= 3 ? AUTO_LIMIT_US : 0;
    *s = (struct ffl_spin){
        .limit_ns = limit_us < 0 ? FFL_SPIN_FOREVER : limit_us * 1000,
        .gap_ns = INT64_MAX / 16, /* no spinning before events come close together */
        .last_ns = ffl_now_ns(),
    };
    if (s->limit_ns > 0)
        s->gap_ns = 8 * s->limit_ns;
}

int64_t ffl_yield(void)
{
    int64_t began = ffl_now_ns();
    (void)sched_yield(); /* cannot fail */
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

/* Of spinning; then the caller looks at the kernel's events and at signals. */
#define SLICE_NS 50000

static bool yield_once(struct ffl_idle *i, ffl_came_fn *came, void *arg)
{
    int64_t began = ffl_now_ns();
    bool hit = came(arg, true);
    ffl_yield_done(&i->yield, ffl_now_ns() - began, hit);
    return hit;
}

static bool spin(int64_t until, ffl_came_fn *came, void *arg)
{
    do
        for (int k = 0; k < 16; k++) {
            if (came(arg, false))
                return true;
            ffl_cpu_relax();
        }
    while (ffl_now_ns() < until);
    return false;
}

bool ffl_idle(struct ffl_idle *i, int64_t most_ns, bool may_spin, ffl_came_fn *came, void *arg,
              enum ffl_idled *how)
{
    /* Reading the clock costs, too. */
    int64_t now = may_spin && i->spin.limit_ns ? ffl_now_ns() : 0;
    int64_t until = now ? ffl_spin_until(&i->spin, now) : 0;
    bool spins = until > now;
    *how = spins ? FFL_IDLED_SPIN : ffl_yield_due(&i->yield) ? FFL_IDLED_YIELD : FFL_IDLED_NOT;
    if (!spins)
        return *how == FFL_IDLED_YIELD && yield_once(i, came, arg);
    if (most_ns < 0 || most_ns > SLICE_NS)
        most_ns = SLICE_NS;
    if (until > now + most_ns)
        until = now + most_ns;
    return spin(until, came, arg);
}

void ffl_try_init(struct ffl_try *t, int64_t limit_us)
{
    if (limit_us == FFL_SPIN_AUTO)
        limit_us = ffl_cpu_count() >= 2 ? AUTO_LIMIT_US : 0;
    *t = (struct ffl_try){.limit_ns = limit_us < 0 ? INT64_MAX : limit_us * 1000};
}

bool ffl_try_spin(struct ffl_try *t, int64_t *left_ns, ffl_came_fn *came, void *arg)
{
    if (!t->limit_ns || !*left_ns)
        return false;
    if (t->left) {
        t->left--;
        return false;
    }
    int64_t most = *left_ns < 0 || *left_ns > t->limit_ns ? t->limit_ns : *left_ns;
    int64_t began = ffl_now_ns();
    t->spins++;
    bool hit = spin(most == INT64_MAX ? most : began + most, came, arg);
    t->hits += hit;
    if (hit)
        t->skip /= 2;
    else if (t->skip < SKIP_VAIN)
        t->skip = 2 * t->skip + 1;
    if (t->limit_ns != INT64_MAX)
        t->left = t->skip;
    int64_t took = hit || *left_ns < 0 ? 0 : ffl_now_ns() - began;
    *left_ns = *left_ns > took || *left_ns < 0 ? *left_ns - took : 0;
    return hit;
}
