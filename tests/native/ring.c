/*
 * ring.c - the SPSC ring: order, wrap-around, a hostile peer. (Waking is channel.c's.)
 *
 * The two ends are two threads here, as ThreadSanitizer can only see one process; test_native.py
 * always runs this file under it too.
 */
#include "harness.h"

#include "ring.h"

#include <pthread.h>
#include <sched.h>

#define SLOTS 64u

struct shared {
    struct ffl_ring_ctl ctl;
    struct ffl_entry slots[SLOTS];
    uint32_t ids[SLOTS];
};

static struct shared *shared_new(void)
{
    struct shared *sh = aligned_alloc(64, (sizeof(*sh) + 63) / 64 * 64);
    CHECK(sh);
    memset(sh, 0, sizeof(*sh));
    return sh;
}

static struct ffl_entry entry(uint32_t i)
{
    return (struct ffl_entry){.op = (uint8_t)i,
                              .flags = (uint8_t)(i >> 8),
                              .tag = (uint16_t)~i,
                              .handle = i,
                              .arg = (int32_t)(i * 2654435761u),
                              .buf = ~i};
}

static void check_entry(struct ffl_entry e, uint32_t i)
{
    struct ffl_entry want = entry(i);
    if (memcmp(&e, &want, sizeof(e)) != 0)
        FAIL("entry %u came as %u", i, e.handle);
}

/* ---- one thread ---------------------------------------------------------------------------- */

TEST(fill_and_drain)
{
    struct shared *sh = shared_new();
    struct ffl_ring p, c;
    ffl_ring_init(&p, &sh->ctl, sh->slots, SLOTS);
    ffl_ring_init(&c, &sh->ctl, sh->slots, SLOTS);
    for (uint32_t i = 0; i < SLOTS; i++) {
        CHECK_EQ(ffl_ring_room(&p, 1), SLOTS - i);
        ffl_ring_put_entry(&p, entry(i));
    }
    CHECK_EQ(ffl_ring_room(&p, 1), 0);
    CHECK_EQ(ffl_ring_avail(&c), 0); /* nothing is visible before the commit */
    CHECK(!ffl_ring_pending(&c));
    ffl_ring_commit(&p);
    CHECK(ffl_ring_pending(&c));
    CHECK_EQ(ffl_ring_avail(&c), SLOTS);
    for (uint32_t i = 0; i < SLOTS; i++)
        check_entry(ffl_ring_get_entry(&c), i);
    CHECK_EQ(ffl_ring_avail(&c), 0);
    CHECK_EQ(ffl_ring_room(&p, 1), 0); /* read, but not given back */
    ffl_ring_consumed(&c);
    CHECK_EQ(ffl_ring_room(&p, 1), SLOTS);
    free(sh);
}

TEST(room_looks_again_only_when_it_must)
{
    struct shared *sh = shared_new();
    struct ffl_ring p;
    ffl_ring_init(&p, &sh->ctl, sh->slots, SLOTS);
    for (uint32_t i = 0; i < 10; i++)
        ffl_ring_put_entry(&p, entry(i));
    atomic_store(&sh->ctl.head, 10);
    CHECK_EQ(ffl_ring_room(&p, 54), 54); /* its own copy is enough */
    CHECK_EQ(ffl_ring_room(&p, 55), 64);
    free(sh);
}

TEST(counters_wrap)
{
    struct shared *sh = shared_new();
    struct ffl_ring p, c;
    ffl_ring_init(&p, &sh->ctl, sh->slots, SLOTS);
    ffl_ring_init(&c, &sh->ctl, sh->slots, SLOTS);
    uint32_t start = 0u - 1000;
    p.tail = p.head = c.tail = c.head = start;
    atomic_store(&sh->ctl.tail, start);
    atomic_store(&sh->ctl.head, start);
    uint32_t out = 0, in = 0;
    while (in < 5000) {
        while (ffl_ring_room(&p, 1) > 0)
            ffl_ring_put_entry(&p, entry(out++));
        ffl_ring_commit(&p);
        for (int n = ffl_ring_avail(&c); n > 0; n--)
            check_entry(ffl_ring_get_entry(&c), in++);
        ffl_ring_consumed(&c);
    }
    CHECK_EQ(in, out);
    free(sh);
}

/* Whatever the peer writes, a count is within the ring or the session ends. */
TEST(hostile_tail)
{
    struct shared *sh = shared_new();
    uint64_t seed = 1;
    for (int i = 0; i < 2000000 / TEST_SLOW; i++) {
        struct ffl_ring c;
        ffl_ring_init(&c, &sh->ctl, sh->slots, SLOTS);
        c.head = c.tail = test_random(&seed);
        uint32_t lie = test_random(&seed);
        if (i & 1)
            lie = c.head + lie % 131 - 1;
        atomic_store_explicit(&sh->ctl.tail, lie, memory_order_relaxed);
        int n = ffl_ring_avail(&c);
        if (lie - c.head > SLOTS)
            CHECK_EQ(n, -EPROTO);
        else
            CHECK_EQ(n, lie - c.head);
    }
    free(sh);
}

TEST(hostile_head)
{
    struct shared *sh = shared_new();
    uint64_t seed = 2;
    for (int i = 0; i < 2000000 / TEST_SLOW; i++) {
        struct ffl_ring p;
        ffl_ring_init(&p, &sh->ctl, sh->slots, SLOTS);
        p.tail = test_random(&seed);
        p.head = p.tail - SLOTS; /* full, as far as it knows */
        uint32_t lie = test_random(&seed);
        if (i & 1)
            lie = p.tail - lie % 131 + 1;
        atomic_store_explicit(&sh->ctl.head, lie, memory_order_relaxed);
        int n = ffl_ring_room(&p, 1);
        if (p.tail - lie > SLOTS)
            CHECK_EQ(n, -EPROTO);
        else
            CHECK_EQ(n, SLOTS - (p.tail - lie));
    }
    free(sh);
}

/* ---- two threads --------------------------------------------------------------------------- */

#define MANY (3000000u / TEST_SLOW)

static void *produce(void *arg)
{
    struct shared *sh = arg;
    struct ffl_ring p;
    uint64_t seed = 3;
    ffl_ring_init(&p, &sh->ctl, sh->slots, SLOTS);
    for (uint32_t i = 0; i < MANY;) {
        uint32_t batch = 1 + test_random(&seed) % 7;
        int room = ffl_ring_room(&p, batch);
        CHECK(room >= 0 && room <= (int)SLOTS);
        if (room == 0)
            sched_yield();
        for (; room > 0 && batch > 0 && i < MANY; room--, batch--)
            ffl_ring_put_entry(&p, entry(i++));
        if (i & 8)
            ffl_ring_commit(&p);
        else
            ffl_ring_commit_quiet(&p);
    }
    return NULL;
}

TEST(spsc_entries)
{
    struct shared *sh = shared_new();
    pthread_t t;
    CHECK_EQ(pthread_create(&t, NULL, produce, sh), 0);
    struct ffl_ring c;
    ffl_ring_init(&c, &sh->ctl, sh->slots, SLOTS);
    for (uint32_t i = 0; i < MANY;) {
        int n = ffl_ring_avail(&c);
        CHECK(n >= 0 && n <= (int)SLOTS);
        if (n == 0)
            sched_yield();
        for (; n > 0; n--) {
            check_entry(ffl_ring_get_entry(&c), i++);
            if (i % 5 == 0)
                ffl_ring_consumed(&c);
        }
        ffl_ring_consumed(&c);
    }
    pthread_join(t, NULL);
    free(sh);
}

static void *produce_ids(void *arg)
{
    struct shared *sh = arg;
    struct ffl_ring p;
    ffl_ring_init(&p, &sh->ctl, sh->ids, SLOTS);
    for (uint32_t i = 0; i < MANY;) {
        int room = ffl_ring_room(&p, 1);
        if (room == 0)
            sched_yield();
        for (; room > 0 && i < MANY; room--)
            ffl_ring_put_id(&p, i++ * 7);
        ffl_ring_commit(&p);
    }
    return NULL;
}

TEST(spsc_ids)
{
    struct shared *sh = shared_new();
    pthread_t t;
    CHECK_EQ(pthread_create(&t, NULL, produce_ids, sh), 0);
    struct ffl_ring c;
    ffl_ring_init(&c, &sh->ctl, sh->ids, SLOTS);
    for (uint32_t i = 0; i < MANY;) {
        int n = ffl_ring_avail(&c);
        if (n == 0)
            sched_yield();
        for (; n > 0; n--)
            CHECK_EQ(ffl_ring_get_id(&c), i++ * 7);
        ffl_ring_consumed(&c);
    }
    pthread_join(t, NULL);
    free(sh);
}
