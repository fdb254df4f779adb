/*
 * pool.h - the free buffers of one pool, kept by the pool's owner in private memory.
 *
 * Owner: the instance for the receive pool, the application for the transmit pool. The other side
 * sees buffer ids only. LIFO per class, so that the same few pages stay in the cache. `out` marks
 * the outstanding buffers: an id that comes back twice, or was never given, is -EPROTO.
 */
#ifndef FFL_POOL_H
#define FFL_POOL_H

#include "segment.h"

struct ffl_pool {
    struct ffl_pool_geo geo;
    uint32_t *stack[FFL_CLASSES];
    uint32_t n[FFL_CLASSES];          /* free buffers */
    uint64_t free_bytes, total_bytes; /* without the reserve */
    uint8_t *out;                     /* ffl_pool_total flags */
};

/* 0 or -ENOMEM. */
int ffl_pool_init(struct ffl_pool *p, const struct ffl_pool_geo *geo);
void ffl_pool_fini(struct ffl_pool *p);

/* The smallest free buffer that holds `want` bytes, else the largest free buffer, else FFL_NO_BUF.
 * Marks the buffer outstanding. */
uint32_t ffl_pool_get(struct ffl_pool *p, uint32_t want);
/* The same, but leaves the reserve and the last quarter of each class to sockets that hold
 * nothing. */
uint32_t ffl_pool_get_spare(struct ffl_pool *p, uint32_t want);

static inline bool ffl_pool_has_any(const struct ffl_pool *p)
{
    return p->n[0] || p->n[1] || p->n[2];
}

/* Takes back an id that came from the other side (or was never sent). 0 or -EPROTO. */
int ffl_pool_put(struct ffl_pool *p, uint32_t id);

/*
 * Bytes that one socket may hold: `cap`, or its share if less, so that slow sockets leave buffers
 * to others. The share is a quarter of the pool while all is free, and falls with the cube of the
 * free bytes: k sockets that return nothing leave 1 / sqrt(1 + k / 2) of the pool, not (3/4)^k.
 */
static inline uint64_t ffl_pool_share(const struct ffl_pool *p, uint64_t cap)
{
    uint64_t f = p->free_bytes, total = p->total_bytes;
    if (ffl_likely(f > total / 2 && total / 32 >= cap)) /* the share would be no less */
        return cap;
    uint64_t share = f * f / total * f / total / 4;
    return share < cap ? share : cap;
}

#endif
