/*
 * channel.h - one side's end of a session: entries out, entries in, sleep and doorbells.
 *
 * Callers: client/, instance/, bench/. A commit makes visible the entries put and the buffers given
 * back, then looks at the other side's wait word and rings its doorbell. A side that goes to sleep
 * commits, raises its wait word, then looks at its rings: nothing stays uncommitted or unseen while
 * both sleep. Entries that find their ring full are queued here, in order. One thread at a time.
 *
 * Returns: 0 or a count; -EPROTO where the other side's words are impossible; else as said.
 */
#ifndef FFL_CHANNEL_H
#define FFL_CHANNEL_H

#include "fifo.h"
#include "segment.h"

/* Counters of the stats page that the channel keeps. */
struct ffl_channel_counters {
    _Atomic uint64_t *sent, *received, *full, *wakes;
};

struct ffl_channel {
    /* to the other side */
    struct ffl_ring out;  /* entries */
    struct ffl_ring back; /* the other side's buffers, free again */
    struct ffl_fifo over; /* entries that found `out` full */
    uint32_t fresh;       /* FFL_WAIT_*: changed since the other side's wait word was read */
    uint32_t counted;     /* out.tail when `sent` was last counted */
    _Atomic uint32_t *peer_waits;
    int peer_bell;
    int (*ring_bell)(int fd); /* 0, or -errno for commit to return */
    /* from the other side */
    struct ffl_ring in;
    struct ffl_ring freed; /* this side's buffers */
    _Atomic uint32_t *waits;
    struct ffl_channel_counters n;
};

enum ffl_side { FFL_SIDE_APP, FFL_SIDE_INST };

/* The segment stays mapped as long as the channel is used. */
void ffl_channel_open(struct ffl_channel *ch, const struct ffl_map *m, enum ffl_side side,
                      int peer_bell, int (*ring_bell)(int fd));
void ffl_channel_close(struct ffl_channel *ch);

/* ---- wait words ---------------------------------------------------------------------------- */

/* True when the other side sleeps on one of `bits`: the caller must ring its doorbell, once. */
static inline bool ffl_wait_take(_Atomic uint32_t *word, uint32_t bits)
{
    uint32_t w = atomic_load_explicit(word, memory_order_seq_cst); /* R3 */
    if (w == FFL_WAIT_SPINS && bits & FFL_WAIT_QUEUE) /* by now it may sleep: no plain store */
        atomic_compare_exchange_strong_explicit(word, &w, 0, memory_order_seq_cst,
                                                memory_order_seq_cst);
    if (ffl_likely((w & bits) == 0))
        return false;
    atomic_store_explicit(word, 0, memory_order_relaxed); /* the sleeper stores it anew each time */
    return true;
}

static inline void ffl_wait_raise(_Atomic uint32_t *word, uint32_t bits)
{
    atomic_store_explicit(word, bits, memory_order_seq_cst); /* R3: look at the rings after this */
}

/* Before and after a spin: says it to the other side, unless another thread sleeps. */
static inline void ffl_wait_spin(_Atomic uint32_t *word, bool begins)
{
    uint32_t was = begins ? 0 : FFL_WAIT_SPINS;
    atomic_compare_exchange_strong_explicit(word, &was, begins ? FFL_WAIT_SPINS : 0,
                                            memory_order_relaxed, memory_order_relaxed);
}

static inline void ffl_wait_lower(_Atomic uint32_t *word)
{
    atomic_store_explicit(word, 0, memory_order_relaxed);
}

/* ---- sending to the other side ------------------------------------------------------------- */

/* Puts an entry. -ENOMEM: the ring is full, and there is no memory to queue the entry here. */
static inline int ffl_channel_put(struct ffl_channel *ch, struct ffl_entry e)
{
    ch->fresh |= FFL_WAIT_QUEUE;
    int room = ch->over.n ? 0 : ffl_ring_room(&ch->out, 1);
    if (ffl_unlikely(room <= 0)) {
        ffl_stat_add(ch->n.full, 1);
        return room < 0 ? room : ffl_fifo_push(&ch->over, e);
    }
    ffl_ring_put_entry(&ch->out, e);
    return 0;
}

/* Gives a buffer back to the other side. The ring has a slot per buffer: where it looks full, the
 * other side's head is false. */
static inline int ffl_channel_give(struct ffl_channel *ch, uint32_t buf)
{
    ch->fresh |= FFL_WAIT_FREE;
    if (ffl_unlikely(ffl_ring_room(&ch->back, 1) <= 0))
        return -EPROTO;
    ffl_ring_put_id(&ch->back, buf);
    return 0;
}

/* The caller has changed another shared word (seq_cst) for which the other side waits with these
 * bits. */
static inline void ffl_channel_touch(struct ffl_channel *ch, uint32_t bits)
{
    ch->fresh |= bits;
}

/* Does the other side sleep, or say that it spins, until an entry comes? The answer may be stale on
 * return. */
static inline bool ffl_channel_peer_waits(const struct ffl_channel *ch)
{
    return atomic_load_explicit(ch->peer_waits, memory_order_relaxed) &
           (FFL_WAIT_QUEUE | FFL_WAIT_SPINS);
}

/* In a long batch: lets the other side begin if it is awake. A commit must still end the batch. */
static inline void ffl_channel_show(struct ffl_channel *ch)
{
    ffl_ring_commit_quiet(&ch->out);
}

int ffl_channel_do_commit(struct ffl_channel *ch);

/* Makes visible all that was put and given, and wakes the other side if it waits for that. On
 * -errno of the doorbell's write the entries are visible all the same. */
static inline int ffl_channel_commit(struct ffl_channel *ch)
{
    return ch->fresh || ch->over.n ? ffl_channel_do_commit(ch) : 0;
}

/* ---- receiving from the other side --------------------------------------------------------- */

#define FFL_CHANNEL_LATER 2 /* from `on`: the entry is to come again, in the next drain */

/* Calls `on` with at most `most` entries, in order, until `on` returns other than 0, and gives the
 * slots back (the next commit wakes the other side if it waits for room). Returns the count, or
 * `on`'s negative result. */
static inline int ffl_channel_drain(struct ffl_channel *ch, int most,
                                    int (*on)(void *arg, struct ffl_entry e), void *arg)
{
    int n = ffl_ring_avail(&ch->in), i = 0, rc = 0;
    if (n <= 0)
        return n;
    while (i < n && i < most && rc == 0) {
        rc = on(arg, ffl_ring_get_entry(&ch->in));
        i++;
    }
    if (ffl_unlikely(rc == FFL_CHANNEL_LATER)) {
        ch->in.head--;
        i--;
    }
    ffl_ring_consumed(&ch->in);
    ffl_stat_add(ch->n.received, (uint64_t)i);
    ch->fresh |= FFL_WAIT_SPACE;
    return rc < 0 ? rc : i;
}

/* The same for all of this side's buffers that came back. Neither side waits for room in that
 * ring. */
static inline int ffl_channel_reclaim(struct ffl_channel *ch, int (*on)(void *arg, uint32_t buf),
                                      void *arg)
{
    int n = ffl_ring_avail(&ch->freed), rc = 0;
    if (n <= 0)
        return n;
    for (int i = 0; i < n && rc >= 0; i++)
        rc = on(arg, ffl_ring_get_id(&ch->freed));
    ffl_ring_consumed(&ch->freed);
    return rc < 0 ? rc : n;
}

/* ---- going to sleep ------------------------------------------------------------------------ */

/* Have entries or returned buffers come, as `bits` asks, or room for queued entries? */
static inline bool ffl_channel_pending(const struct ffl_channel *ch, uint32_t bits)
{
    return (bits & FFL_WAIT_QUEUE && ffl_ring_pending(&ch->in)) ||
           (bits & FFL_WAIT_FREE && ffl_ring_pending(&ch->freed)) ||
           (ch->over.n && ffl_ring_given(&ch->out));
}

/* Commits, raises this side's wait word for `bits` (and for room, when entries are queued), and
 * looks at the rings. 1: block on the doorbell; 0: work has come, or the queue has become shorter,
 * for which the caller may have held work back; or commit's -errno. ffl_channel_rouse lowers the
 * word. */
static inline int ffl_channel_doze(struct ffl_channel *ch, uint32_t bits)
{
    uint32_t queued = ch->over.n;
    int rc = ffl_channel_commit(ch);
    if (rc < 0 || ch->over.n < queued)
        return rc;
    ffl_wait_raise(ch->waits, bits | (ch->over.n ? FFL_WAIT_SPACE : 0));
    return !ffl_channel_pending(ch, bits);
}

static inline void ffl_channel_rouse(struct ffl_channel *ch)
{
    ffl_wait_lower(ch->waits);
}

#endif
