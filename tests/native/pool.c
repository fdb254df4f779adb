/* pool.c - the buffer pool: what comes back is checked, classes fall back, shares shrink. */
#include "harness.h"

#include "pool.h"

static struct ffl_pool_geo small_geo(void)
{
    return (struct ffl_pool_geo){.count = {4, 3, 2}, .off = {0, 4096, 16384}};
}

static uint32_t id(unsigned cls, uint32_t index)
{
    return cls << FFL_BUF_CLASS_SHIFT | index;
}

static unsigned cls(uint32_t buf)
{
    return buf >> FFL_BUF_CLASS_SHIFT;
}

TEST(sizes)
{
    struct ffl_pool p;
    struct ffl_pool_geo g = small_geo();
    CHECK_EQ(ffl_pool_init(&p, &g), 0);
    CHECK_EQ(p.total_bytes, 4 * 256 + 3 * 4096 + 2 * 65536);
    CHECK_EQ(cls(ffl_pool_get(&p, 0)), 0);
    CHECK_EQ(cls(ffl_pool_get(&p, 256)), 0);
    CHECK_EQ(cls(ffl_pool_get(&p, 257)), 1);
    CHECK_EQ(cls(ffl_pool_get(&p, 4096)), 1);
    CHECK_EQ(cls(ffl_pool_get(&p, 4097)), 2);
    CHECK_EQ(cls(ffl_pool_get(&p, 1u << 30)), 2); /* the largest there is */
    CHECK_EQ(p.free_bytes, p.total_bytes - 2 * (256 + 4096 + 65536));
    ffl_pool_fini(&p);
}

TEST(class_fallback)
{
    struct ffl_pool p;
    struct ffl_pool_geo g = small_geo();
    CHECK_EQ(ffl_pool_init(&p, &g), 0);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(cls(ffl_pool_get(&p, 4096)), 1);
    CHECK_EQ(cls(ffl_pool_get(&p, 4096)), 2); /* a larger one when its own class is empty */
    CHECK_EQ(cls(ffl_pool_get(&p, 65536)), 2);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(cls(ffl_pool_get(&p, 65536)), 0); /* else the largest that is free */
    CHECK_EQ(ffl_pool_get(&p, 1), FFL_NO_BUF);
    CHECK_EQ(p.free_bytes, 0);
    ffl_pool_fini(&p);
}

/* Whoever holds something leaves the last quarter of each class to those who hold nothing. */
TEST(the_last_quarter_is_kept)
{
    struct ffl_pool p;
    struct ffl_pool_geo g = {.count = {32, 16, 8}, .off = {0, 8192, 73728}};
    CHECK_EQ(ffl_pool_init(&p, &g), 0);
    int got = 0;
    while (ffl_pool_get_spare(&p, 1) != FFL_NO_BUF)
        got++;
    CHECK_EQ(got, 24 + 12 + 6);
    CHECK_EQ(cls(ffl_pool_get(&p, 1)), 0);
    while (ffl_pool_get(&p, 1) != FFL_NO_BUF)
        got++;
    CHECK_EQ(got, 55);
    ffl_pool_fini(&p);
}

TEST(put_checks_what_the_peer_gives)
{
    struct ffl_pool p;
    struct ffl_pool_geo g = small_geo();
    CHECK_EQ(ffl_pool_init(&p, &g), 0);
    uint32_t buf = ffl_pool_get(&p, 100);
    uint64_t before = p.free_bytes;
    CHECK_EQ(ffl_pool_put(&p, FFL_NO_BUF), -EPROTO);
    CHECK_EQ(ffl_pool_put(&p, id(3, 0)), -EPROTO); /* no such class */
    CHECK_EQ(ffl_pool_put(&p, id(15, 1)), -EPROTO);
    for (unsigned c = 0; c < FFL_CLASSES; c++) {
        CHECK_EQ(ffl_pool_put(&p, id(c, g.count[c])), -EPROTO); /* one beyond */
        CHECK_EQ(ffl_pool_put(&p, id(c, FFL_BUF_INDEX_MASK)), -EPROTO);
    }
    CHECK_EQ(ffl_pool_put(&p, id(2, 1)), -EPROTO); /* never given */
    CHECK_EQ(p.free_bytes, before);
    CHECK_EQ(ffl_pool_put(&p, buf), 0);
    CHECK_EQ(ffl_pool_put(&p, buf), -EPROTO); /* twice */
    CHECK_EQ(p.free_bytes, p.total_bytes);
    ffl_pool_fini(&p);
}

TEST(last_in_first_out)
{
    struct ffl_pool p;
    struct ffl_pool_geo g = small_geo();
    CHECK_EQ(ffl_pool_init(&p, &g), 0);
    uint32_t a = ffl_pool_get(&p, 1), b = ffl_pool_get(&p, 1);
    CHECK(a != b);
    CHECK_EQ(ffl_pool_put(&p, a), 0);
    CHECK_EQ(ffl_pool_put(&p, b), 0);
    CHECK_EQ(ffl_pool_get(&p, 1), b); /* still in the cache */
    CHECK_EQ(ffl_pool_get(&p, 1), a);
    ffl_pool_fini(&p);
}

/* Ids are unique while out, and the books balance, over a long random run. */
TEST(random_use)
{
    struct ffl_pool p;
    struct ffl_pool_geo g = {.count = {32, 16, 8}, .off = {0, 8192, 73728}};
    CHECK_EQ(ffl_pool_init(&p, &g), 0);
    uint32_t out[56], n = 0;
    uint64_t seed = 5;
    for (int i = 0; i < 200000; i++) {
        if (test_random(&seed) % 2) {
            uint32_t buf = ffl_pool_get(&p, test_random(&seed) % 70000);
            if (buf == FFL_NO_BUF) {
                CHECK_EQ(n, 56);
                continue;
            }
            CHECK(ffl_buf_ok(&g, buf));
            for (uint32_t k = 0; k < n; k++)
                CHECK(out[k] != buf);
            out[n++] = buf;
        } else if (n > 0) {
            uint32_t k = test_random(&seed) % n;
            CHECK_EQ(ffl_pool_put(&p, out[k]), 0);
            out[k] = out[--n];
        }
    }
    while (n > 0)
        CHECK_EQ(ffl_pool_put(&p, out[--n]), 0);
    CHECK_EQ(p.free_bytes, p.total_bytes);
    ffl_pool_fini(&p);
}

TEST(share_shrinks_with_the_pool)
{
    struct ffl_pool p;
    struct ffl_pool_geo g = {.count = {16, 16, 16}, .off = {0, 4096, 69632}};
    CHECK_EQ(ffl_pool_init(&p, &g), 0);
    CHECK_EQ(ffl_pool_share(&p, 1000), 1000);
    CHECK_EQ(ffl_pool_share(&p, UINT64_MAX), p.total_bytes / 4);
    uint64_t before = ffl_pool_share(&p, UINT64_MAX);
    for (int i = 0; i < 16; i++)
        (void)ffl_pool_get(&p, 65536);
    CHECK(ffl_pool_share(&p, UINT64_MAX) < before / 8);
    while (ffl_pool_get(&p, 1) != FFL_NO_BUF)
        ;
    CHECK_EQ(ffl_pool_share(&p, UINT64_MAX), 0);
    ffl_pool_fini(&p);
}

/* Every buffer has its own bytes and its own slot. */
TEST(buffers_do_not_overlap)
{
    struct ffl_geo geo;
    struct ffl_map m;
    ffl_geo_default(&geo, 16, 1024);
    CHECK_EQ(ffl_segment_create(&m, &geo, false), 0);
    const struct ffl_pool_geo *pools[] = {&m.geo.rx, &m.geo.tx};
    uint8_t *used = calloc(1, m.geo.size);
    CHECK(used);
    for (int k = 0; k < 2; k++) {
        uint32_t total = ffl_pool_total(pools[k]), slots = 0;
        uint8_t *slot = calloc(1, total);
        for (unsigned c = 0; c < FFL_CLASSES; c++)
            for (uint32_t i = 0; i < pools[k]->count[c]; i++) {
                uint32_t buf = id(c, i), off = ffl_buf_off(pools[k], buf);
                CHECK(ffl_buf_ok(pools[k], buf));
                CHECK(off >= sizeof(struct ffl_segment));
                CHECK(off + ffl_buf_size(buf) <= m.geo.size);
                CHECK_EQ(used[off], 0);
                memset(used + off, 1, ffl_buf_size(buf));
                CHECK(ffl_buf_slot(pools[k], buf) < total);
                CHECK_EQ(slot[ffl_buf_slot(pools[k], buf)]++, 0);
                slots++;
            }
        CHECK_EQ(slots, total);
        free(slot);
    }
    free(used);
    ffl_segment_drop(&m);
}

/* However much some hold, each socket that holds nothing finds a small buffer;
 * the shares do not count on those. */
TEST(the_reserve_is_for_those_who_hold_nothing)
{
    struct ffl_pool p;
    struct ffl_geo geo;
    enum { SOCKETS = 5000 };
    static uint32_t got[SOCKETS], more[SOCKETS];
    ffl_geo_default(&geo, SOCKETS, 1024);
    CHECK_EQ(ffl_pool_init(&p, &geo.tx), 0);
    uint64_t total = p.total_bytes;
    CHECK(total <= 2u << 20);
    for (int round = 0; round < 2; round++) {
        unsigned n = 0;
        for (unsigned i = 0; i < SOCKETS; i++) { /* none of them ever gives anything back */
            got[i] = ffl_pool_get(&p, 65536);
            CHECK(got[i] != FFL_NO_BUF);
            more[i] = ffl_pool_get_spare(&p, 1);
            n += more[i] != FFL_NO_BUF;
        }
        CHECK(n < SOCKETS / 2);
        CHECK_EQ(p.free_bytes, 0);
        for (unsigned i = 0; i < SOCKETS; i++) {
            CHECK_EQ(ffl_pool_put(&p, got[i]), 0);
            if (more[i] != FFL_NO_BUF)
                CHECK_EQ(ffl_pool_put(&p, more[i]), 0);
        }
        CHECK_EQ(p.free_bytes, total);
    }
    ffl_pool_fini(&p);
}
