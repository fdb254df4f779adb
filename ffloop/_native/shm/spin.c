/* spin.c - spinning and yielding, and how often. See spin.h. */
#include "spin.h"

#define AUTO_LIMIT_US 50
#define LOOKS 32 /* quick ones, between two whole ones */
#define FEW 2
#define LONG_NS 1000000 /* a time slice is longer, the other side's work shorter */
#define SKIP_LONG 1023
#define SKIP_VAIN 63 /* sleeps between two spins that find nothing */
#define SKIP_IDLE 15 /* and between two yields */
#define VAIN 8       /* yields that bring nothing and raise `skip` by one */

static void shorten(int64_t *left_ns, int64_t took)
{
    if (*left_ns >= 0)
        *left_ns = *left_ns > took ? *left_ns - took : 0;
}

/* ---- spinning ------------------------------------------------------------------------------ */

void ffl_spin_init(struct ffl_spin *s, int64_t limit_us)
{
    if (limit_us == FFL_SPIN_AUTO)
        limit_us = ffl_cpu_count() >= 2 ? AUTO_LIMIT_US : 0;
    *s = (struct ffl_spin){.limit_ns = limit_us < 0 ? INT64_MAX : limit_us * 1000};
}

struct spun {
    bool hit, whole; /* there were whole looks */
    bool took_long;  /* others had the CPU for a time slice */
};

static struct spun spin(int64_t now, int64_t most, ffl_came_fn *came, void *arg)
{
    int64_t until = most == INT64_MAX ? most : now + most;
    struct spun r = {0};
    while (!r.hit && now < until) {
        for (int i = 0; i < LOOKS; i++) {
            if (came(arg, false)) {
                r.hit = true;
                return r;
            }
            ffl_cpu_relax();
        }
        r.hit = came(arg, true);
        r.whole = true;
        int64_t before = now;
        now = ffl_now_ns();
        r.took_long |= now - before > LONG_NS;
    }
    return r;
}

/* Above SKIP_VAIN another process wants the CPU, of which a hit without a whole look says
 * nothing. */
static unsigned next_skip(unsigned skip, struct spun r)
{
    if (r.took_long && skip < SKIP_VAIN)
        return 2 * SKIP_VAIN + 1;
    if (r.took_long)
        return skip < SKIP_LONG ? 2 * skip + 1 : skip;
    if (skip > SKIP_VAIN)
        return r.whole ? skip / 2 : skip;
    if (r.hit)
        return skip / 2;
    return skip < SKIP_VAIN ? 2 * skip + 1 : skip;
}

bool ffl_spin_try(struct ffl_spin *s, int64_t *left_ns, ffl_came_fn *came, void *arg)
{
    if (!s->limit_ns || !*left_ns)
        return false;
    if (s->left) {
        s->left--;
        return false;
    }
    struct spun r = {.hit =
                         came(arg, false)}; /* what is there already costs no look at the clock */
    int64_t began = r.hit ? 0 : ffl_now_ns();
    int64_t most = *left_ns < 0 || *left_ns > s->limit_ns ? s->limit_ns : *left_ns;
    if (!r.hit)
        r = spin(began, most, came, arg);
    s->spins++;
    s->hits += r.hit;
    if (s->limit_ns != INT64_MAX)
        s->left = s->skip = next_skip(s->skip, r);
    if (!r.hit)
        shorten(left_ns, ffl_now_ns() - began);
    return r.hit;
}

/* ---- yielding ------------------------------------------------------------------------------ */

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

/* ---- both ---------------------------------------------------------------------------------- */

bool ffl_idle(struct ffl_idle *i, int64_t *left_ns, ffl_came_fn *came, void *arg)
{
    uint64_t spins = i->spin.spins;
    bool may_spin = i->found <= FEW;
    i->found = 0;
    bool hit = may_spin && ffl_spin_try(&i->spin, left_ns, came, arg);
    if (i->spin.spins != spins || !ffl_yield_due(&i->yield))
        return hit;
    int64_t began = ffl_now_ns();
    hit = came(arg, true);
    int64_t took = ffl_now_ns() - began;
    ffl_yield_done(&i->yield, took, hit);
    shorten(left_ns, took);
    return hit;
}
