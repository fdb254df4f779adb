/*
 * fifo.h - the private queue of entries that found their ring full: neither side waits for room.
 *
 * Owner: one side of a session, in private memory. While the queue has entries, new entries go
 * behind them, not into the ring.
 */
#ifndef FFL_FIFO_H
#define FFL_FIFO_H

#include "ring.h"

#include <stdlib.h>
#include <string.h>

struct ffl_fifo {
    struct ffl_entry *e; /* the oldest at head */
    uint32_t head, n, cap;
};

/* 0 or -ENOMEM. */
static inline int ffl_fifo_push(struct ffl_fifo *f, struct ffl_entry e)
{
    if (f->head + f->n == f->cap && f->head) {
        memmove(f->e, f->e + f->head, f->n * sizeof(e));
        f->head = 0;
    } else if (f->head + f->n == f->cap) {
        uint32_t cap = f->cap ? f->cap * 2 : 256;
        struct ffl_entry *grown = realloc(f->e, cap * sizeof(e));
        if (!grown)
            return -ENOMEM;
        f->e = grown;
        f->cap = cap;
    }
    f->e[f->head + f->n++] = e;
    return 0;
}

/* Moves as many entries as fit into the ring, uncommitted. The count, or -EPROTO
 * (ffl_ring_room). */
static inline int ffl_fifo_drain(struct ffl_fifo *f, struct ffl_ring *to)
{
    int moved = 0;
    for (; f->n; moved++) {
        int room = ffl_ring_room(to, 1);
        if (room < 0)
            return room;
        if (room == 0)
            break;
        ffl_ring_put_entry(to, f->e[f->head++]);
        if (--f->n == 0)
            f->head = 0;
    }
    return moved;
}

static inline void ffl_fifo_free(struct ffl_fifo *f)
{
    free(f->e);
    *f = (struct ffl_fifo){0};
}

#endif
