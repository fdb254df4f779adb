/*
 * ids.h - small numbers that are taken and given back: handles, slots of a table.
 *
 * Callers: client, instance; one thread. Returned numbers are taken before fresh ones. Taking makes
 * room for the return, which therefore cannot fail.
 */
#ifndef FFL_IDS_H
#define FFL_IDS_H

#include "base.h"

#include <errno.h>
#include <stdlib.h>

struct ffl_ids {
    /* Numbers are [first, end); those from `fresh` on were never used. */
    uint32_t first, fresh, end;
    uint32_t *freed, nfreed, cap;
};

static inline void ffl_ids_init(struct ffl_ids *ids, uint32_t first, uint32_t end)
{
    *ids = (struct ffl_ids){.first = first, .fresh = first, .end = end};
}

static inline void ffl_ids_fini(struct ffl_ids *ids)
{
    free(ids->freed);
    ids->freed = NULL;
}

/* A number; -EMFILE when all are taken, -ENOMEM. */
static inline int ffl_ids_take(struct ffl_ids *ids)
{
    if (ids->nfreed)
        return (int)ids->freed[--ids->nfreed];
    if (ids->fresh >= ids->end)
        return -EMFILE;
    if (ids->fresh - ids->first >= ids->cap) {
        uint32_t cap = ids->cap ? ids->cap * 2 : 64;
        uint32_t *grown = realloc(ids->freed, cap * sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        ids->freed = grown;
        ids->cap = cap;
    }
    return (int)ids->fresh++;
}

static inline void ffl_ids_give(struct ffl_ids *ids, uint32_t id)
{
    if (ids->nfreed < ids->cap) /* always true of a number that was taken */
        ids->freed[ids->nfreed++] = id;
}

#endif
