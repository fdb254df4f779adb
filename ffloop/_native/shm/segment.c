/*
 * segment.c - makes, checks and maps a session's memfd. See segment.h.
 *
 * Callers: instance/session.c, client/attach.c. What the other side wrote is checked here before
 * a pointer is made of it.
 */
#include "segment.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MFD_HUGETLB
#define MFD_HUGETLB 0x0004U
#endif

#define HUGE_PAGE (2u << 20)
#define SEGMENT_MAX (1u << 30)
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static const uint8_t slot_shift[FFL_RINGS] = {
    [FFL_SQ] = 4, [FFL_RXFREE] = 2, [FFL_CQ] = 4, [FFL_TXFREE] = 2};

static uint32_t round_up(uint32_t n, uint32_t to)
{
    return (n + to - 1) / to * to;
}

static uint32_t pow2_at_least(uint32_t n)
{
    uint32_t p = 64;
    while (p < n)
        p <<= 1;
    return p;
}

/* A quarter of the bytes in pages, three quarters in bulk, and one small buffer per page. */
static void pool_default(struct ffl_pool_geo *p, uint32_t kib)
{
    p->count[1] = kib / 4 / 4 < 64 ? 64 : kib / 4 / 4;
    p->count[2] = kib * 3 / 4 / 64 < 8 ? 8 : kib * 3 / 4 / 64;
    p->count[0] = p->count[1];
}

/* A small buffer per socket: each can send something, however much the others hold. */
#define RESERVE_MOST (1u << 17)

void ffl_geo_default(struct ffl_geo *geo, uint32_t max_sockets, uint32_t pool_kib)
{
    memset(geo, 0, sizeof(*geo));
    geo->magic = FFL_MAGIC;
    geo->version = FFL_ABI_VERSION;
    geo->max_sockets = max_sockets;
    pool_default(&geo->rx, pool_kib);
    pool_default(&geo->tx, pool_kib);
    geo->tx.reserve = max_sockets < RESERVE_MOST ? max_sockets : RESERVE_MOST;
    geo->tx.count[0] += geo->tx.reserve;
    geo->ring_size[FFL_SQ] = 4096;
    geo->ring_size[FFL_CQ] = 4096;
    /* a free ring can hold every buffer of its pool, so giving one back cannot fail */
    geo->ring_size[FFL_RXFREE] = pow2_at_least(ffl_pool_total(&geo->rx));
    geo->ring_size[FFL_TXFREE] = pow2_at_least(ffl_pool_total(&geo->tx));
}

/* Buffers begin in the middle of a page: AMD's `rep movsb`, which the kernel and libc copy by,
 * takes ten times as long where the target is up to 20 bytes ahead of its source, modulo 4096. The
 * kernel's own data begins with a page, a large block of malloc's soon behind its start. */
#define PAGE 4096
#define MIDDLE (PAGE / 2)

static uint64_t lay_out_pool(struct ffl_pool_geo *p, uint64_t at)
{
    for (int c = 0; c < FFL_CLASSES; c++) {
        at = (at + PAGE - 1) / PAGE * PAGE + MIDDLE;
        p->off[c] = (uint32_t)at;
        at += (uint64_t)p->count[c] << ffl_class_shift[c];
    }
    return at;
}

static uint64_t lay_out(struct ffl_geo *geo)
{
    uint64_t at = sizeof(struct ffl_segment);
    for (int r = 0; r < FFL_RINGS; r++) {
        geo->ring_off[r] = (uint32_t)at;
        at += (uint64_t)geo->ring_size[r] << slot_shift[r];
    }
    at = lay_out_pool(&geo->rx, at);
    return lay_out_pool(&geo->tx, at);
}

static int check_span(uint64_t *at, uint64_t off, uint64_t len, uint64_t size)
{
    if (off < *at || off > size || len > size - off || (off & 63))
        return -EPROTO;
    *at = off + len;
    return 0;
}

static int check_pool(const struct ffl_pool_geo *p, uint64_t *at, uint32_t free_ring, uint64_t size)
{
    uint64_t total = 0;
    if (p->reserve > p->count[0])
        return -EPROTO;
    for (int c = 0; c < FFL_CLASSES; c++) {
        if (p->count[c] == 0 || p->count[c] > (1u << 20))
            return -EPROTO;
        total += p->count[c];
        if (check_span(at, p->off[c], (uint64_t)p->count[c] << ffl_class_shift[c], size) < 0)
            return -EPROTO;
    }
    return total <= free_ring ? 0 : -EPROTO;
}

int ffl_geo_check(const struct ffl_geo *geo, uint64_t size)
{
    if (geo->magic != FFL_MAGIC || geo->version != FFL_ABI_VERSION)
        return -EPROTO;
    if (geo->size != size || size > SEGMENT_MAX)
        return -EPROTO;
    if (geo->max_sockets == 0 || geo->max_sockets > (1u << 20))
        return -EPROTO;
    uint64_t at = sizeof(struct ffl_segment);
    for (int r = 0; r < FFL_RINGS; r++) {
        uint32_t n = geo->ring_size[r];
        if (n < 64 || n > (1u << 20) || (n & (n - 1)))
            return -EPROTO;
        if (check_span(&at, geo->ring_off[r], (uint64_t)n << slot_shift[r], size) < 0)
            return -EPROTO;
    }
    if (check_pool(&geo->rx, &at, geo->ring_size[FFL_RXFREE], size) < 0)
        return -EPROTO;
    return check_pool(&geo->tx, &at, geo->ring_size[FFL_TXFREE], size);
}

static int map_fd(struct ffl_map *m, int fd, uint64_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return -errno;
    madvise(p, size, MADV_DONTFORK); /* a forked child never touches its parent's session */
    m->seg = p;
    m->memfd = fd;
    return 0;
}

static int create_fd(struct ffl_map *m, uint64_t size, unsigned flags)
{
    int fd = memfd_create("ffloop-segment", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);
    if (fd < 0)
        return -errno;
    int rc = ftruncate(fd, (off_t)size) < 0 || fcntl(fd, F_ADD_SEALS, SEALS) < 0 ? -errno : 0;
    if (rc == 0)
        rc = map_fd(m, fd, size);
    if (rc < 0)
        close(fd);
    return rc;
}

int ffl_segment_create(struct ffl_map *m, struct ffl_geo *geo, bool huge)
{
    uint64_t size = lay_out(geo);
    if (size > SEGMENT_MAX)
        return -E2BIG;
    int rc = -EINVAL;
    *m = (struct ffl_map){.memfd = -1};
    if (huge) {
        geo->size = round_up((uint32_t)size, HUGE_PAGE);
        rc = create_fd(m, geo->size, MFD_HUGETLB);
    }
    if (rc < 0) {
        geo->size = round_up((uint32_t)size, PAGE);
        rc = create_fd(m, geo->size, 0);
    }
    if (rc < 0)
        return rc;
    m->seg->geo = *geo;
    m->geo = *geo;
    return 0;
}

int ffl_segment_map(struct ffl_map *m, int memfd)
{
    struct stat st;
    *m = (struct ffl_map){.memfd = -1};
    if (fstat(memfd, &st) < 0)
        return -errno;
    int seals = fcntl(memfd, F_GET_SEALS);
    if (seals < 0 || (seals & SEALS) != SEALS)
        return -EPROTO;
    if (st.st_size < (off_t)sizeof(struct ffl_segment) || st.st_size > (off_t)SEGMENT_MAX)
        return -EPROTO;
    int rc = map_fd(m, memfd, (uint64_t)st.st_size);
    if (rc < 0)
        return rc;
    memcpy(&m->geo, &m->seg->geo, sizeof(m->geo));
    rc = ffl_geo_check(&m->geo, (uint64_t)st.st_size);
    if (rc < 0) {
        munmap(m->seg, (size_t)st.st_size);
        *m = (struct ffl_map){.memfd = -1};
    }
    return rc;
}

void ffl_segment_drop(struct ffl_map *m)
{
    if (!m->seg)
        return;
    munmap(m->seg, m->geo.size);
    if (m->memfd >= 0)
        close(m->memfd);
    *m = (struct ffl_map){.memfd = -1};
}

void ffl_segment_ring(const struct ffl_map *m, enum ffl_ring_id id, struct ffl_ring *out)
{
    ffl_ring_init(out, &m->seg->ring[id], (char *)m->seg + m->geo.ring_off[id],
                  m->geo.ring_size[id]);
}
