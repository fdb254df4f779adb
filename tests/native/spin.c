/* spin.c - whether to spin: only while spinning finds something; when to yield. */
#include "harness.h"

#include "spin.h"

#include <limits.h>
#include <sys/stat.h>

#define US 1000

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

TEST(auto_depends_on_the_machine)
{
    struct ffl_spin s;
    ffl_spin_init(&s, FFL_SPIN_AUTO);
    CHECK_EQ(s.limit_ns, ffl_cpu_count() >= 2 ? 50 * US : 0);
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

/* ---- spinning ------------------------------------------------------------------------------ */

struct looked {
    unsigned looks, whole;
    int64_t whole_ns; /* how long a whole look keeps the CPU away */
    bool finds;
};

static bool look(void *arg, bool whole)
{
    struct looked *l = arg;
    l->looks++;
    l->whole += whole;
    for (int64_t until = whole && l->whole_ns ? ffl_now_ns() + l->whole_ns : 0;
         until && ffl_now_ns() < until;)
        continue;
    return l->finds && (whole || !l->whole_ns);
}

/* How many of `sleeps` spin first, when every spin ends so. */
static int spins_of(struct ffl_spin *s, int sleeps, bool finds)
{
    int n = 0;
    for (int i = 0; i < sleeps; i++) {
        struct looked l = {.finds = finds};
        int64_t left = -1;
        CHECK_EQ(ffl_spin_try(s, &left, look, &l), finds && l.looks);
        CHECK_EQ(left, -1);
        n += l.looks > 0;
    }
    return n;
}

TEST(who_finds_nothing_spins_ever_less)
{
    struct ffl_spin s;
    ffl_spin_init(&s, 1);
    CHECK_EQ(spins_of(&s, 1 + 1 + 1 + 3 + 1 + 7 + 1, false), 4); /* at once; after 1, 3 and 7 */
    CHECK(spins_of(&s, 6400, false) <= 6400 / 64 + 3);
    CHECK_EQ(s.hits, 0);
    int found = spins_of(&s, 200, true); /* and again, ever more, once that finds something */
    CHECK(found > 80);
    CHECK_EQ(spins_of(&s, 100, true), 100);
    CHECK_EQ(s.hits, (uint64_t)found + 100);
}

TEST(who_may_not_spin_does_not_look)
{
    struct ffl_spin s;
    ffl_spin_init(&s, 0);
    CHECK_EQ(spins_of(&s, 100, true), 0);
    ffl_spin_init(&s, 1);
    int64_t none = 0;
    struct looked l = {.finds = true};
    CHECK(!ffl_spin_try(&s, &none, look, &l)); /* it will not sleep */
    CHECK_EQ(l.looks, 0);
}

TEST(a_spin_is_part_of_the_sleep)
{
    struct ffl_spin s;
    struct looked l = {0};
    int64_t left = 3600 * FFL_NS_PER_SEC, short_one = 1;
    ffl_spin_init(&s, 100);
    CHECK(!ffl_spin_try(&s, &left, look, &l));
    CHECK(left <= 3600 * FFL_NS_PER_SEC - 100 * US);
    CHECK(l.whole > 0 && l.whole < l.looks);
    ffl_spin_init(&s, FFL_SPIN_FOREVER);
    for (int i = 0; i < 3; i++) { /* it tries each time */
        CHECK(!ffl_spin_try(&s, &short_one, look, &l));
        CHECK_EQ(short_one, 0);
        short_one = 1;
    }
}

/* A neighbour that takes the CPU for whole time slices: spins become rare, whatever they find. */
TEST(who_loses_the_cpu_spins_hardly_ever)
{
    struct ffl_spin s;
    ffl_spin_init(&s, 50);
    int spins = 0;
    for (int i = 0; i < 2500; i++) {
        struct looked l = {.finds = true, .whole_ns = 1100 * US};
        int64_t left = -1;
        (void)ffl_spin_try(&s, &left, look, &l);
        spins += l.looks > 0;
    }
    CHECK_EQ(spins, 5); /* at once, after 127, 255, 511 and 1023 sleeps */
    CHECK_EQ(s.hits, 5);
    CHECK(spins_of(&s, 5000, true) <= 5); /* what it finds at once says nothing of the neighbour */
    struct looked alone = {.finds = true, .whole_ns = 1};
    for (int i = 0; i < 1024 + 512 + 256 + 128 + 64; i++) {
        int64_t left = -1;
        (void)ffl_spin_try(&s, &left, look, &alone);
    }
    CHECK(s.skip < 63); /* it is alone again */
}

/* ---- spinning or yielding -------------------------------------------------------------------- */

/* One call that finds nothing: does it spin (1), yield (0) or neither (-1)? */
static int idles(struct ffl_idle *i, unsigned found)
{
    struct looked l = {0};
    int64_t left = -1;
    i->found += found;
    CHECK(!ffl_idle(i, &left, look, &l));
    CHECK_EQ(i->found, 0);
    return l.looks > 1 ? 1 : l.whole == 1 ? 0 : -1;
}

TEST(who_finds_several_at_a_time_yields)
{
    struct ffl_idle i = {0};
    ffl_spin_init(&i.spin, 1);
    CHECK_EQ(idles(&i, 3), 0);
    CHECK_EQ(idles(&i, 100), 0);
    CHECK_EQ(i.spin.spins, 0);
    CHECK_EQ(idles(&i, 1), 1);
    CHECK_EQ(idles(&i, 1), 0); /* it has found nothing: not at once again */
    ffl_spin_init(&i.spin, 0);
    CHECK_EQ(idles(&i, 1), 0); /* never */
}
