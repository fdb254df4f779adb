/*
 * segment.h - making and mapping a session's memory, and finding buffers in it.
 *
 * Callers: instance/session.c (create), client/attach.c (map). The instance makes the memfd and
 * seals its size, so that neither side can make the other fault by truncating it; holes can be
 * punched all the same (instance/lost.c).
 */
#ifndef FFL_SEGMENT_H
#define FFL_SEGMENT_H

#include "layout.h"
#include "ring.h"

struct ffl_map {
    struct ffl_segment *seg;
    struct ffl_geo geo; /* the private, checked copy */
    int memfd;
};

/* The default geometry for at most max_sockets sockets and about pool_kib KiB of buffers per
 * side. */
void ffl_geo_default(struct ffl_geo *geo, uint32_t max_sockets, uint32_t pool_kib);

/* Checks every size and offset of a geometry against `size`. 0 or -EPROTO. */
int ffl_geo_check(const struct ffl_geo *geo, uint64_t size);

/*
 * Creates, sizes, seals and maps a segment of geometry `geo` (its size and offsets are filled in).
 * huge: try MFD_HUGETLB first. Returns 0 or -errno with nothing left open.
 */
int ffl_segment_create(struct ffl_map *m, struct ffl_geo *geo, bool huge);

/* Maps a received memfd and checks its seals, size, magic, version and geometry. Takes the
 * descriptor over on success only. 0, -EPROTO or -errno. */
int ffl_segment_map(struct ffl_map *m, int memfd);

/* Unmaps and closes. Safe on a zeroed map and twice. */
void ffl_segment_drop(struct ffl_map *m);

/* This side's view of one ring of the map. */
void ffl_segment_ring(const struct ffl_map *m, enum ffl_ring_id id, struct ffl_ring *out);

/* Is `id` a buffer of this pool? */
static inline bool ffl_buf_ok(const struct ffl_pool_geo *p, uint32_t id)
{
    uint32_t cls = id >> FFL_BUF_CLASS_SHIFT;
    return cls < FFL_CLASSES && (id & FFL_BUF_INDEX_MASK) < p->count[cls];
}

/* Bytes from the segment's start to a buffer that ffl_buf_ok accepted. */
static inline uint32_t ffl_buf_off(const struct ffl_pool_geo *p, uint32_t id)
{
    uint32_t cls = id >> FFL_BUF_CLASS_SHIFT;
    return p->off[cls] + ((id & FFL_BUF_INDEX_MASK) << ffl_class_shift[cls]);
}

static inline uint32_t ffl_buf_size(uint32_t id)
{
    return ffl_class_size(id >> FFL_BUF_CLASS_SHIFT);
}

/* A buffer's index in private arrays of ffl_pool_total entries. */
static inline uint32_t ffl_buf_slot(const struct ffl_pool_geo *p, uint32_t id)
{
    uint32_t cls = id >> FFL_BUF_CLASS_SHIFT, slot = id & FFL_BUF_INDEX_MASK;
    for (uint32_t c = 0; c < cls; c++)
        slot += p->count[c];
    return slot;
}

static inline uint32_t ffl_pool_total(const struct ffl_pool_geo *p)
{
    return p->count[0] + p->count[1] + p->count[2];
}

#endif
