/* spin.c - whether to spin: only while events come closer together than the limit;
 * when to yield. */
#include "harness.h"

#include "spin.h"

#define US 1000

TEST(never)
{
    struct ffl_spin s;
    ffl_spin_init(&s, 0);
    for (int i = 0; i < 100; i++)
        ffl_spin_hit(&s, s.last_ns + 10);
    CHECK_EQ(ffl_spin_until(&s, 12345), 12345);
}

TEST(for_ever)
{
    struct ffl_spin s;
    ffl_spin_init(&s, FFL_SPIN_FOREVER);
    CHECK_EQ(ffl_spin_until(&s, 1), INT64_MAX);
}

TEST(only_while_events_are_close)
{
    struct ffl_spin s;
    ffl_spin_init(&s, 50);
    int64_t now = s.last_ns;
    CHECK_EQ(ffl_spin_until(&s, now), now); /* not before it has seen any */
    for (int i = 0; i < 100; i++)
        ffl_spin_hit(&s, now += 10 * US);
    CHECK_EQ(ffl_spin_until(&s, now), now + 50 * US);
    for (int i = 0; i < 100; i++)
        ffl_spin_hit(&s, now += 200 * US);
    CHECK_EQ(ffl_spin_until(&s, now), now);
}

TEST(one_pause_does_not_turn_it_off_one_burst_not_on)
{
    struct ffl_spin s;
    ffl_spin_init(&s, 50);
    int64_t now = s.last_ns;
    ffl_spin_hit(&s, now += 1 * US);
    ffl_spin_hit(&s, now += 1 * US);
    CHECK_EQ(ffl_spin_until(&s, now), now);
    for (int i = 0; i < 100; i++)
        ffl_spin_hit(&s, now += 1 * US);
    CHECK(ffl_spin_until(&s, now) > now);
    ffl_spin_hit(&s, now += 10000000 * (int64_t)US); /* ten seconds of nothing */
    ffl_spin_hit(&s, now += 1 * US);
    ffl_spin_hit(&s, now += 1 * US);
    ffl_spin_hit(&s, now += 1 * US);
    ffl_spin_hit(&s, now += 1 * US);
    CHECK(ffl_spin_until(&s, now) > now); /* a few events later it spins again */
}

/* How many of `sleeps` yield first, when every yield ends so. */
static int yields_of(struct ffl_yield *y, int sleeps, int64_t took_ns, bool came)
{
    int n = 0;
    for (int i = 0; i < sleeps; i++)
        if (ffl_yield_due(y)) {
            ffl_yield_done(y, took_ns, came);
            n++;
        }
    return n;
}

TEST(yields_as_long_as_it_brings_something)
{
    const int64_t turn = 400 * US, slice = 4000 * (int64_t)US;
    struct ffl_yield y = {0};
    CHECK_EQ(yields_of(&y, 1000, turn, true), 1000);
    CHECK(yields_of(&y, 1600, US, false) < 200);   /* alone: rarer and rarer, */
    CHECK_EQ(yields_of(&y, 1600, US, false), 100); /* one in 16 */
    CHECK(yields_of(&y, 1000, turn, true) > 900);  /* not alone any more */
    CHECK(yields_of(&y, 4096, slice, true) < 15);  /* somebody takes whole time slices */
    CHECK(yields_of(&y, 4096, turn, true) > 2000); /* and does not any more */
    CHECK(yields_of(&y, 4096, slice, true) < 15);
    (void)yields_of(&y, 10240, US, false); /* nobody does, and nobody asks */
    CHECK(yields_of(&y, 1600, US, false) <= 100);
}

/* Two CPUs or fewer: a spinning side only keeps its peer from running. */
TEST(auto_depends_on_the_machine)
{
    struct ffl_spin s;
    ffl_spin_init(&s, FFL_SPIN_AUTO);
    CHECK_EQ(s.limit_ns, ffl_cpu_count() >= 3 ? 50 * US : 0);
}
