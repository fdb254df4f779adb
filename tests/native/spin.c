/* spin.c - whether to spin: only while events come closer together than the limit, or while
 * spinning finds something; when to yield. */
#include "harness.h"

#include "spin.h"

#include <limits.h>
#include <sys/stat.h>

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

/* ---- CPUs ------------------------------------------------------------------------------------ */

static void put_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "we");
    CHECK(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

/* In the working folder, which is the test's own. */
static void put_cgroup(const char *dir, const char *file, const char *text)
{
    char path[100];
    snprintf(path, sizeof(path), "%s/%s", dir, file);
    put_file(path, text);
}

TEST(a_cgroups_quota_counts)
{
    char top[] = "cgroup-XXXXXX", sub[64], deep[64], v1[64], list[64];
    CHECK(mkdtemp(top));
    snprintf(sub, sizeof(sub), "%s/a", top);
    snprintf(deep, sizeof(deep), "%s/a/b", top);
    snprintf(v1, sizeof(v1), "%s/cpu", top);
    snprintf(list, sizeof(list), "%s/list", top);
    CHECK(mkdir(sub, 0700) == 0 && mkdir(deep, 0700) == 0 && mkdir(v1, 0700) == 0);
    CHECK_EQ(ffl_cpu_quota(list, top), INT_MAX); /* no cgroups */
    put_file(list, "4:cpuset:/a\n1:name=systemd:/\n0::/a/b\n");
    CHECK_EQ(ffl_cpu_quota(list, top), INT_MAX);
    put_cgroup(deep, "cpu.max", "max 100000\n");
    CHECK_EQ(ffl_cpu_quota(list, top), INT_MAX);
    put_cgroup(sub, "cpu.max", "350000 100000\n"); /* of the one above */
    CHECK_EQ(ffl_cpu_quota(list, top), 3);
    put_cgroup(deep, "cpu.max", "20000 100000\n");
    CHECK_EQ(ffl_cpu_quota(list, top), 1);
    put_file(list, "2:cpuacct,cpu:/not/seen/in/here\n0::/\n"); /* the first version of cgroups */
    CHECK_EQ(ffl_cpu_quota(list, top), INT_MAX);
    put_cgroup(v1, "cpu.cfs_period_us", "50000\n");
    put_cgroup(v1, "cpu.cfs_quota_us", "-1\n");
    CHECK_EQ(ffl_cpu_quota(list, top), INT_MAX);
    put_cgroup(v1, "cpu.cfs_quota_us", "100000\n");
    CHECK_EQ(ffl_cpu_quota(list, top), 2);
    CHECK(ffl_cpu_count() >= 1);
}

/* ---- trying -------------------------------------------------------------------------------- */

struct looked {
    unsigned looks;
    bool finds;
};

static bool look(void *arg, bool yields)
{
    struct looked *l = arg;
    CHECK(!yields);
    l->looks++;
    return l->finds;
}

/* How many of `sleeps` spin first, when every spin ends so. */
static int spins_of(struct ffl_try *t, int sleeps, bool finds)
{
    int n = 0;
    for (int i = 0; i < sleeps; i++) {
        struct looked l = {0, finds};
        int64_t left = -1;
        CHECK_EQ(ffl_try_spin(t, &left, look, &l), finds && l.looks);
        CHECK_EQ(left, -1);
        n += l.looks > 0;
    }
    return n;
}

TEST(who_finds_nothing_tries_ever_less)
{
    struct ffl_try t;
    ffl_try_init(&t, 1);
    CHECK_EQ(spins_of(&t, 1 + 1 + 1 + 3 + 1 + 7 + 1, false), 4); /* at once; after 1, 3 and 7 */
    CHECK(spins_of(&t, 6400, false) <= 6400 / 64 + 3);
    CHECK(spins_of(&t, 200, true) > 80); /* and again, ever more, once that finds something */
    CHECK_EQ(spins_of(&t, 100, true), 100);
}

TEST(who_may_not_spin_does_not_look)
{
    struct ffl_try t;
    ffl_try_init(&t, 0);
    CHECK_EQ(spins_of(&t, 100, true), 0);
    ffl_try_init(&t, 1);
    int64_t none = 0;
    struct looked l = {0, true};
    CHECK(!ffl_try_spin(&t, &none, look, &l)); /* it will not sleep */
    CHECK_EQ(l.looks, 0);
}

TEST(a_spin_is_part_of_the_sleep)
{
    struct ffl_try t;
    struct looked l = {0, false};
    int64_t left = 3600 * FFL_NS_PER_SEC, short_one = 1;
    ffl_try_init(&t, 100);
    CHECK(!ffl_try_spin(&t, &left, look, &l));
    CHECK(left <= 3600 * FFL_NS_PER_SEC - 100 * US);
    ffl_try_init(&t, FFL_SPIN_FOREVER);
    for (int i = 0; i < 3; i++) { /* it tries each time */
        CHECK(!ffl_try_spin(&t, &short_one, look, &l));
        CHECK_EQ(short_one, 0);
        short_one = 1;
    }
}
