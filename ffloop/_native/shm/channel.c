/* channel.c - opening a channel, and the commit. See channel.h. */
#include "channel.h"

void ffl_channel_open(struct ffl_channel *ch, const struct ffl_map *m, enum ffl_side side,
                      int peer_bell, int (*ring_bell)(int fd))
{
    struct ffl_segment *seg = m->seg;
    bool app = side == FFL_SIDE_APP;
    *ch = (struct ffl_channel){.peer_waits = app ? &seg->waits.inst : &seg->waits.app,
                               .waits = app ? &seg->waits.app : &seg->waits.inst,
                               .peer_bell = peer_bell,
                               .ring_bell = ring_bell};
    if (app)
        ch->n = (struct ffl_channel_counters){&seg->app.submitted, &seg->app.reaped,
                                              &seg->app.sq_full, &seg->app.wakes};
    else
        ch->n = (struct ffl_channel_counters){&seg->inst.posted, &seg->inst.consumed,
                                              &seg->inst.cq_full, &seg->inst.wakes};
    ffl_segment_ring(m, app ? FFL_SQ : FFL_CQ, &ch->out);
    ffl_segment_ring(m, app ? FFL_RXFREE : FFL_TXFREE, &ch->back);
    ffl_segment_ring(m, app ? FFL_CQ : FFL_SQ, &ch->in);
    ffl_segment_ring(m, app ? FFL_TXFREE : FFL_RXFREE, &ch->freed);
}

void ffl_channel_close(struct ffl_channel *ch)
{
    ffl_fifo_free(&ch->over);
}

int ffl_channel_do_commit(struct ffl_channel *ch)
{
    int moved = ffl_fifo_drain(&ch->over, &ch->out);
    if (moved < 0)
        return moved;
    uint32_t bits = ch->fresh | (moved ? FFL_WAIT_QUEUE : 0);
    ch->fresh = 0;
    ffl_stat_add(ch->n.sent, ch->out.tail - ch->counted);
    ch->counted = ch->out.tail;
    /* Each tail is stored again, even where ffl_channel_show stored it:
     * R3 needs a seq_cst store. */
    if (bits & FFL_WAIT_QUEUE)
        ffl_ring_commit(&ch->out);
    if (bits & FFL_WAIT_FREE)
        ffl_ring_commit(&ch->back);
    if (!bits || !ffl_wait_take(ch->peer_waits, bits))
        return 0;
    ffl_stat_add(ch->n.wakes, 1);
    return ch->ring_bell(ch->peer_bell);
}
