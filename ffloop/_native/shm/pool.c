/* pool.c - the owner's free lists of a buffer pool. See pool.h. */
#include "pool.h"

#include <errno.h>
#include <stdlib.h>

static uint32_t reserve_of(const struct ffl_pool_geo *geo, unsigned c)
{
    return c ? 0 : geo->reserve;
}

int ffl_pool_init(struct ffl_pool *p, const struct ffl_pool_geo *geo)
{
    *p = (struct ffl_pool){.geo = *geo};
    p->out = calloc(ffl_pool_total(geo), 1);
    if (!p->out)
        goto fail;
    for (unsigned c = 0; c < FFL_CLASSES; c++) {
        p->stack[c] = malloc(sizeof(uint32_t) * geo->count[c]);
        if (!p->stack[c])
            goto fail;
        for (uint32_t i = 0; i < geo->count[c]; i++) /* the lowest index on top */
            p->stack[c][i] = c << FFL_BUF_CLASS_SHIFT | (geo->count[c] - 1 - i);
        p->n[c] = geo->count[c];
        p->total_bytes += (uint64_t)(geo->count[c] - reserve_of(geo, c)) << ffl_class_shift[c];
    }
    p->free_bytes = p->total_bytes;
    return 0;
fail:
    ffl_pool_fini(p);
    return -ENOMEM;
}

void ffl_pool_fini(struct ffl_pool *p)
{
    for (unsigned c = 0; c < FFL_CLASSES; c++)
        free(p->stack[c]);
    free(p->out);
    *p = (struct ffl_pool){0};
}

static unsigned class_for(uint32_t want)
{
    unsigned c = 0;
    while (c < FFL_CLASSES - 1 && want > ffl_class_size(c))
        c++;
    return c;
}

/* Has the class a free buffer? `spare`: beyond those that are kept for sockets that hold
 * nothing. */
static bool has(const struct ffl_pool *p, unsigned c, bool spare)
{
    uint32_t reserve = reserve_of(&p->geo, c);
    return p->n[c] > (spare ? reserve + (p->geo.count[c] - reserve) / 4 : 0);
}

/* The class to take from: that which fits, else a larger, else a smaller. */
static int class_free(const struct ffl_pool *p, unsigned fit, bool spare)
{
    for (unsigned c = fit; c < FFL_CLASSES; c++)
        if (has(p, c, spare))
            return (int)c;
    for (unsigned c = fit; c-- > 0;)
        if (has(p, c, spare))
            return (int)c;
    return -1;
}

static uint32_t get(struct ffl_pool *p, uint32_t want, bool spare)
{
    int c = class_free(p, class_for(want), spare);
    if (ffl_unlikely(c < 0))
        return FFL_NO_BUF;
    uint32_t id = p->stack[c][--p->n[c]];
    if (p->n[c] >= reserve_of(&p->geo, (unsigned)c))
        p->free_bytes -= ffl_class_size((unsigned)c);
    p->out[ffl_buf_slot(&p->geo, id)] = 1;
    return id;
}

uint32_t ffl_pool_get(struct ffl_pool *p, uint32_t want)
{
    return get(p, want, false);
}

uint32_t ffl_pool_get_spare(struct ffl_pool *p, uint32_t want)
{
    return get(p, want, true);
}

int ffl_pool_put(struct ffl_pool *p, uint32_t id)
{
    if (ffl_unlikely(!ffl_buf_ok(&p->geo, id)))
        return -EPROTO;
    uint8_t *out = &p->out[ffl_buf_slot(&p->geo, id)];
    if (ffl_unlikely(!*out))
        return -EPROTO;
    *out = 0;
    unsigned c = id >> FFL_BUF_CLASS_SHIFT;
    if (p->n[c] >= reserve_of(&p->geo, c))
        p->free_bytes += ffl_class_size(c);
    p->stack[c][p->n[c]++] = id;
    return 0;
}
