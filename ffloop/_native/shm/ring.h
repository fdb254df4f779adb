/*
 * ring.h - a single-producer single-consumer ring, as one side sees it.
 *
 * Callers: channel.h. Each side keeps a private struct ffl_ring; the shared words are in struct
 * ffl_ring_ctl. The other side is hostile: its word is copied once, the copy is checked against the
 * ring's size and used; a distance beyond the size is -EPROTO and ends the session.
 * No call blocks or makes a system call.
 *
 * Ordering pairs:
 *   R1 producer's store of tail (commit)  -> consumer's load of tail (avail): slots are visible.
 *   R2 consumer's store of head (consumed) -> producer's load of head (room): slots may be reused.
 *   R3 commit is seq_cst and so is the load of the sleeper's wait word after it; the sleeper stores
 *      its wait word seq_cst and then loads tail seq_cst. One of the two must see the other's store
 *      (the store buffer is drained in between), so no wake-up is lost. Sequentially consistent
 *      accesses rather than fences: the same instruction on x86, and ThreadSanitizer knows them.
 */
#ifndef FFL_RING_H
#define FFL_RING_H

#include "layout.h"

#include <errno.h>

struct ffl_ring {
    struct ffl_ring_ctl *ctl;
    void *slots;
    uint32_t size; /* a power of two */
    uint32_t tail; /* producer: private, ahead of ctl->tail until committed; consumer: last seen */
    uint32_t head; /* consumer: private, ahead of ctl->head until given back; producer: last seen */
};

static inline void ffl_ring_init(struct ffl_ring *r, struct ffl_ring_ctl *ctl, void *slots,
                                 uint32_t size)
{
    *r = (struct ffl_ring){.ctl = ctl, .slots = slots, .size = size};
}

/* ---- producer ------------------------------------------------------------------------------ */

/* Free slots, or -EPROTO. Looks at the shared head only when its copy shows fewer than `want`. */
static inline int ffl_ring_room(struct ffl_ring *r, uint32_t want)
{
    uint32_t used = r->tail - r->head;
    if (ffl_likely(r->size - used >= want))
        return (int)(r->size - used);
    uint32_t head = atomic_load_explicit(&r->ctl->head, memory_order_acquire); /* R2 */
    used = r->tail - head;
    if (ffl_unlikely(used > r->size))
        return -EPROTO;
    r->head = head;
    return (int)(r->size - used);
}

/* Writes the next slot; the caller has seen room. Not visible before a commit. */
static inline void ffl_ring_put_entry(struct ffl_ring *r, struct ffl_entry e)
{
    ((struct ffl_entry *)r->slots)[r->tail++ & (r->size - 1)] = e;
}

static inline void ffl_ring_put_id(struct ffl_ring *r, uint32_t id)
{
    ((uint32_t *)r->slots)[r->tail++ & (r->size - 1)] = id;
}

/* R1 alone: more will follow, and the batch ends with ffl_ring_commit. */
static inline void ffl_ring_commit_quiet(struct ffl_ring *r)
{
    atomic_store_explicit(&r->ctl->tail, r->tail, memory_order_release);
}

/* R1 and R3. The caller looks at the other side's wait word next (channel.h). */
static inline void ffl_ring_commit(struct ffl_ring *r)
{
    atomic_store_explicit(&r->ctl->tail, r->tail, memory_order_seq_cst);
}

/* ---- consumer ------------------------------------------------------------------------------ */

/* Entries to read, or -EPROTO. */
static inline int ffl_ring_avail(struct ffl_ring *r)
{
    uint32_t tail = atomic_load_explicit(&r->ctl->tail, memory_order_acquire); /* R1 */
    uint32_t n = tail - r->head;
    if (ffl_unlikely(n > r->size))
        return -EPROTO;
    r->tail = tail;
    return (int)n;
}

/* The same look by a side that has just raised its wait word (R3). */
static inline bool ffl_ring_pending(const struct ffl_ring *r)
{
    return atomic_load_explicit(&r->ctl->tail, memory_order_seq_cst) != r->head;
}

/* The producer's look: have slots come back since it last saw the ring full? */
static inline bool ffl_ring_given(const struct ffl_ring *r)
{
    return atomic_load_explicit(&r->ctl->head, memory_order_seq_cst) != r->head;
}

/* Copies the entry at position `at` (free-running). */
static inline struct ffl_entry ffl_ring_peek_entry(const struct ffl_ring *r, uint32_t at)
{
    const volatile uint64_t *p =
        (const volatile uint64_t *)&((struct ffl_entry *)r->slots)[at & (r->size - 1)];
    union {
        uint64_t w[2];
        struct ffl_entry e;
    } u = {.w = {p[0], p[1]}};
    return u.e;
}

/* Copies the next entry; the caller has seen avail > 0. */
static inline struct ffl_entry ffl_ring_get_entry(struct ffl_ring *r)
{
    return ffl_ring_peek_entry(r, r->head++);
}

static inline uint32_t ffl_ring_get_id(struct ffl_ring *r)
{
    return ((const volatile uint32_t *)r->slots)[r->head++ & (r->size - 1)];
}

/* Gives the slots read back to the producer (R2); seq_cst so that a wait for space (R3) holds. */
static inline void ffl_ring_consumed(struct ffl_ring *r)
{
    atomic_store_explicit(&r->ctl->head, r->head, memory_order_seq_cst);
}

/* Adds to a counter of the stats page: one writer, so no read-modify-write. */
static inline void ffl_stat_add(_Atomic uint64_t *c, uint64_t n)
{
    atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

#endif
