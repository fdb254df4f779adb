/* segment.c - the memfd: sealed, checked before it is believed, and let go of completely. */
#include "harness.h"

#include "segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

static void create(struct ffl_map *m)
{
    struct ffl_geo geo;
    ffl_geo_default(&geo, 64, 256);
    CHECK_EQ(ffl_segment_create(m, &geo, false), 0);
}

TEST(create_and_map)
{
    struct ffl_map a, b;
    create(&a);
    CHECK_EQ(ffl_segment_map(&b, dup(a.memfd)), 0);
    CHECK(memcmp(&a.geo, &b.geo, sizeof(a.geo)) == 0);
    atomic_store(&a.seg->waits.app, 7);
    CHECK_EQ(atomic_load(&b.seg->waits.app), 7);
    struct ffl_ring p, c;
    ffl_segment_ring(&a, FFL_CQ, &p);
    ffl_segment_ring(&b, FFL_CQ, &c);
    ffl_ring_put_entry(&p, (struct ffl_entry){.handle = 42});
    ffl_ring_commit(&p);
    CHECK_EQ(ffl_ring_avail(&c), 1);
    CHECK_EQ(ffl_ring_get_entry(&c).handle, 42);
    ffl_segment_drop(&b);
    ffl_segment_drop(&a);
    ffl_segment_drop(&a); /* twice is harmless */
}

TEST(sizes)
{
    static const struct {
        uint32_t sockets, kib;
    } want[] = {{1, 1}, {64, 64}, {1024, 4096}, {65536, 16384}, {1u << 20, 65536}};
    for (size_t i = 0; i < FFL_COUNT(want); i++) {
        struct ffl_geo geo;
        struct ffl_map m;
        struct stat st;
        ffl_geo_default(&geo, want[i].sockets, want[i].kib);
        CHECK_EQ(ffl_segment_create(&m, &geo, false), 0);
        CHECK_EQ(fstat(m.memfd, &st), 0);
        CHECK_EQ(st.st_size, m.geo.size);
        CHECK_EQ(ffl_geo_check(&m.geo, m.geo.size), 0);
        CHECK(ffl_pool_total(&m.geo.rx) <= m.geo.ring_size[FFL_RXFREE]);
        CHECK(ffl_pool_total(&m.geo.tx) <= m.geo.ring_size[FFL_TXFREE]);
        CHECK(fcntl(m.memfd, F_GETFD) & FD_CLOEXEC);
        for (unsigned c = 0; c < FFL_CLASSES; c++) { /* copies at page starts may be slow */
            CHECK_EQ(m.geo.rx.off[c] % 4096, 2048);
            CHECK_EQ(m.geo.tx.off[c] % 4096, 2048);
        }
        ffl_segment_drop(&m);
    }
}

TEST(too_large_is_an_error)
{
    struct ffl_geo geo;
    struct ffl_map m;
    ffl_geo_default(&geo, 64, 1u << 20);
    int rc = ffl_segment_create(&m, &geo, false);
    CHECK_EQ(rc, -E2BIG);
}

/* Huge pages where there are some, ordinary ones in silence where there are none. */
TEST(huge_or_not)
{
    struct ffl_geo geo;
    struct ffl_map m, n;
    ffl_geo_default(&geo, 64, 256);
    CHECK_EQ(ffl_segment_create(&m, &geo, true), 0);
    CHECK_EQ(ffl_segment_map(&n, dup(m.memfd)), 0);
    ffl_segment_drop(&n);
    ffl_segment_drop(&m);
}

TEST(size_is_sealed)
{
    struct ffl_map m;
    create(&m);
    CHECK(ftruncate(m.memfd, 4096) < 0 && errno == EPERM);
    CHECK(ftruncate(m.memfd, (off_t)m.geo.size * 2) < 0 && errno == EPERM);
    CHECK(fcntl(m.memfd, F_ADD_SEALS, F_SEAL_WRITE) < 0 && errno == EPERM);
    ffl_segment_drop(&m);
}

/* A copy of a sound segment with other seals, size or geometry. */
static int forge(const struct ffl_geo *geo, off_t size, int seals)
{
    int fd = memfd_create("forged", MFD_ALLOW_SEALING | MFD_CLOEXEC);
    CHECK(fd >= 0);
    CHECK_EQ(ftruncate(fd, size), 0);
    if (size >= (off_t)sizeof(*geo))
        CHECK_EQ(pwrite(fd, geo, sizeof(*geo), 0), sizeof(*geo));
    if (seals)
        CHECK_EQ(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

static int map_forged(const struct ffl_geo *geo, off_t size, int seals)
{
    struct ffl_map m;
    int fd = forge(geo, size, seals);
    int rc = ffl_segment_map(&m, fd);
    if (rc == 0)
        ffl_segment_drop(&m);
    else
        close(fd); /* it is still the caller's */
    return rc;
}

#define ALL (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

TEST(unsealed_is_rejected)
{
    struct ffl_map m;
    create(&m);
    CHECK_EQ(map_forged(&m.geo, m.geo.size, ALL), 0); /* the forger's copy is sound */
    CHECK_EQ(map_forged(&m.geo, m.geo.size, 0), -EPROTO);
    CHECK_EQ(map_forged(&m.geo, m.geo.size, F_SEAL_GROW | F_SEAL_SEAL), -EPROTO);
    CHECK_EQ(map_forged(&m.geo, m.geo.size, F_SEAL_SHRINK | F_SEAL_GROW), -EPROTO);
    ffl_segment_drop(&m);
}

TEST(what_is_no_memfd_is_rejected)
{
    struct ffl_map m;
    int p[2];
    CHECK_EQ(pipe(p), 0);
    CHECK(ffl_segment_map(&m, p[0]) < 0);
    close(p[0]);
    close(p[1]);
    CHECK(ffl_segment_map(&m, -1) < 0);
    int fd = open("/proc/self/exe", O_RDONLY);
    CHECK(ffl_segment_map(&m, fd) < 0);
    close(fd);
}

TEST(lying_sizes_are_rejected)
{
    struct ffl_map m;
    create(&m);
    CHECK_EQ(map_forged(&m.geo, 0, ALL), -EPROTO);
    CHECK_EQ(map_forged(&m.geo, 100, ALL), -EPROTO);
    CHECK_EQ(map_forged(&m.geo, sizeof(struct ffl_segment) - 1, ALL), -EPROTO);
    CHECK_EQ(map_forged(&m.geo, m.geo.size - 4096, ALL), -EPROTO);
    CHECK_EQ(map_forged(&m.geo, m.geo.size + 4096, ALL), -EPROTO);
    CHECK_EQ(map_forged(&m.geo, (off_t)5 << 30, ALL), -EPROTO);
    ffl_segment_drop(&m);
}

/* What a geometry that passed the check may name: all within the segment and nothing twice. */
static void check_harmless(const struct ffl_geo *g, uint8_t *used)
{
    static const unsigned shift[FFL_RINGS] = {4, 2, 4, 2};
    memset(used, 0, g->size);
    memset(used, 1, sizeof(struct ffl_segment));
    for (int r = 0; r < FFL_RINGS; r++) {
        uint64_t len = (uint64_t)g->ring_size[r] << shift[r];
        CHECK(g->ring_off[r] + len <= g->size);
        CHECK((g->ring_size[r] & (g->ring_size[r] - 1)) == 0);
        CHECK_EQ(memchr(used + g->ring_off[r], 1, len) != NULL, false);
        memset(used + g->ring_off[r], 1, len);
    }
    for (int k = 0; k < 2; k++) {
        const struct ffl_pool_geo *p = k ? &g->tx : &g->rx;
        for (unsigned c = 0; c < FFL_CLASSES; c++) {
            uint64_t len = (uint64_t)p->count[c] << ffl_class_shift[c];
            CHECK(p->off[c] + len <= g->size);
            CHECK_EQ(memchr(used + p->off[c], 1, len) != NULL, false);
            memset(used + p->off[c], 1, len);
        }
    }
}

/* One field at a time takes edge values and random ones: rejected, or harmless. */
TEST(lying_geometry_is_rejected)
{
    struct ffl_map m;
    create(&m);
    static const uint32_t edge[] = {
        0,        1,          3,          63,         64,        65, 4095, 1u << 20, (1u << 20) + 1,
        1u << 28, 0x7fffffff, 0x80000000, 0xfffff000, 0xffffffff};
    uint8_t *used = malloc(m.geo.size);
    CHECK(used);
    uint64_t seed = 9;
    int accepted = 0, rejected = 0;
    for (size_t word = 0; word < sizeof(struct ffl_geo) / 4; word++)
        for (int i = 0; i < 200; i++) {
            struct ffl_geo g = m.geo;
            uint32_t old, lie;
            memcpy(&old, (char *)&g + word * 4, 4);
            if (i < (int)FFL_COUNT(edge))
                lie = edge[i];
            else if (i % 2)
                lie = old + (test_random(&seed) % 129 - 64) * (i % 4 == 1 ? 1 : 64);
            else
                lie = test_random(&seed) << (i & 1);
            memcpy((char *)&g + word * 4, &lie, 4);
            if (ffl_geo_check(&g, m.geo.size) == 0) {
                check_harmless(&g, used);
                accepted++;
            } else {
                rejected++;
            }
        }
    free(used);
    CHECK(accepted > 0);
    CHECK(rejected > 1000);
    struct ffl_geo g = m.geo;
    g.version++;
    CHECK_EQ(map_forged(&g, m.geo.size, ALL), -EPROTO);
    g = m.geo;
    g.magic ^= 1;
    CHECK_EQ(map_forged(&g, m.geo.size, ALL), -EPROTO);
    ffl_segment_drop(&m);
}

/* Both sides copied the geometry: scribbling over it later changes nothing. */
TEST(geometry_is_read_once)
{
    struct ffl_map a, b;
    create(&a);
    CHECK_EQ(ffl_segment_map(&b, dup(a.memfd)), 0);
    memset(&a.seg->geo, 0xff, sizeof(a.seg->geo));
    struct ffl_ring r;
    ffl_segment_ring(&b, FFL_SQ, &r);
    CHECK_EQ(r.size, 4096);
    CHECK(ffl_buf_ok(&b.geo.rx, 0));
    ffl_segment_drop(&b);
    ffl_segment_drop(&a);
}

/* A forked child has no mapping: it cannot touch its parent's session by accident. */
TEST(not_inherited_by_fork)
{
#if defined(__SANITIZE_THREAD__)
    return; /* its run-time maps memory of its own into the hole, in the child */
#endif
    struct ffl_map m;
    create(&m);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        unsigned char vec;
        int rc = mincore(m.seg, 4096, &vec);
        _exit(rc < 0 && errno == ENOMEM ? 0 : 1);
    }
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
    ffl_segment_drop(&m);
}
