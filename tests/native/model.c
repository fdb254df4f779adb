/*
 * model.c - the ring, the private queue before it and the pool, for test_model.py to call.
 *
 * A shared object of its own: ring.h and fifo.h are inline, so this is where their code is. Both
 * sides of the ring are here, in one thread; ring.c tests them against each other.
 */
#include "fifo.h"
#include "pool.h"

#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))

struct model {
    struct ffl_ring_ctl ctl;
    struct ffl_ring producer, consumer;
    struct ffl_fifo over;
    struct ffl_entry slots[];
};

/* `start`: what the words begin at, since they run freely and come round. */
EXPORT struct model *model_new(uint32_t size, uint32_t start)
{
    struct model *m =
        aligned_alloc(FFL_CACHELINE, sizeof(*m) + (size_t)size * sizeof(struct ffl_entry));
    if (!m)
        abort();
    memset(m, 0, sizeof(*m));
    ffl_ring_init(&m->producer, &m->ctl, m->slots, size);
    ffl_ring_init(&m->consumer, &m->ctl, m->slots, size);
    m->producer.tail = m->producer.head = m->consumer.tail = m->consumer.head = start;
    m->ctl.tail = m->ctl.head = start;
    return m;
}

EXPORT void model_free(struct model *m)
{
    ffl_fifo_free(&m->over);
    free(m);
}

static struct ffl_entry entry(uint32_t value)
{
    return (struct ffl_entry){.op = 1, .handle = value, .arg = -(int32_t)value, .buf = ~value};
}

EXPORT int model_room(struct model *m, uint32_t want)
{
    return ffl_ring_room(&m->producer, want);
}

EXPORT void model_put(struct model *m, uint32_t value)
{
    ffl_ring_put_entry(&m->producer, entry(value));
}

EXPORT int model_queue(struct model *m, uint32_t value)
{
    return ffl_fifo_push(&m->over, entry(value));
}

EXPORT int model_drain(struct model *m)
{
    return ffl_fifo_drain(&m->over, &m->producer);
}

EXPORT void model_commit(struct model *m, int quiet)
{
    if (quiet)
        ffl_ring_commit_quiet(&m->producer);
    else
        ffl_ring_commit(&m->producer);
}

EXPORT int model_avail(struct model *m)
{
    return ffl_ring_avail(&m->consumer);
}

EXPORT int model_pending(struct model *m)
{
    return ffl_ring_pending(&m->consumer);
}

/* The value, or -1: the slot is torn. */
EXPORT int64_t model_get(struct model *m)
{
    struct ffl_entry e = ffl_ring_get_entry(&m->consumer);
    struct ffl_entry whole = entry(e.handle);
    return memcmp(&e, &whole, sizeof(e)) ? -1 : (int64_t)e.handle;
}

EXPORT void model_consumed(struct model *m)
{
    ffl_ring_consumed(&m->consumer);
}

/* Moves a shared word by `by`, as a hostile peer may, and returns what it was. */
EXPORT void model_lie(struct model *m, int head, uint32_t by)
{
    atomic_fetch_add(head ? &m->ctl.head : &m->ctl.tail, by);
}

/* ---- the pool ------------------------------------------------------------------------------ */

EXPORT struct ffl_pool *pool_new(uint32_t n0, uint32_t n1, uint32_t n2)
{
    struct ffl_pool *p = malloc(sizeof(*p));
    const struct ffl_pool_geo geo = {.count = {n0, n1, n2}};
    if (!p || ffl_pool_init(p, &geo) < 0)
        abort();
    return p;
}

EXPORT void pool_free(struct ffl_pool *p)
{
    ffl_pool_fini(p);
    free(p);
}

EXPORT uint32_t pool_get(struct ffl_pool *p, uint32_t want, int spare)
{
    return spare ? ffl_pool_get_spare(p, want) : ffl_pool_get(p, want);
}

EXPORT int pool_put(struct ffl_pool *p, uint32_t id)
{
    return ffl_pool_put(p, id);
}

EXPORT uint64_t pool_free_bytes(const struct ffl_pool *p)
{
    return p->free_bytes;
}

EXPORT uint64_t pool_share(const struct ffl_pool *p, uint64_t cap)
{
    return ffl_pool_share(p, cap);
}
