/*
 * transmit.c - the transmit pump: each endpoint's queue of transmit buffers, and its sends.
 *
 * Callers: control.c, data.c, drain.c, endpoint.c, shutdown.c. A shutdown or a close that waits for
 * the queue follows its last byte.
 */
#include "endpoint.h"
#include "group.h"
#include "life.h"
#include "pump.h"
#include "session.h"
#include "option.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define GATHER 64 /* buffers in one send, */
/* And bytes, a body of 1 MiB and its head: bounds the time of one copy. */
#define GATHER_BYTES (1088u * 1024)
#define SENDS_PER_ITERATION 4

/* Adds `bytes` (wrapped round: subtracts) to the session's bytes that wait for the stack. */
static void unwritable_bytes(struct ffl_session *s, uint64_t bytes)
{
    s->tx_unwritable += bytes;
    if (s->dying || !bytes)
        return;
    atomic_store_explicit(&s->map.seg->inst.tx_unwritable, s->tx_unwritable, memory_order_seq_cst);
    ffl_channel_touch(&s->ch, FFL_WAIT_FREE);
}

void data_unwritable(struct endpoint *e, bool on)
{
    struct ffl_session *s = e->s;
    if (e->unwritable == on)
        return;
    e->unwritable = on;
    unwritable_bytes(s, on ? e->tx_outstanding : -(uint64_t)e->tx_outstanding);
}

void data_queue(struct endpoint *e, uint32_t buf)
{
    struct ffl_session *s = e->s;
    if (e->tx_tail == FFL_NO_BUF)
        e->tx_head = buf;
    else
        s->tx[ffl_buf_slot(&s->map.geo.tx, e->tx_tail)].next = buf;
    e->tx_tail = buf;
    e->tx_outstanding += ffl_buf_size(buf);
    if (e->unwritable)
        unwritable_bytes(s, ffl_buf_size(buf));
}

static void tx_pop(struct endpoint *e)
{
    struct ffl_session *s = e->s;
    uint32_t buf = e->tx_head;
    const struct tx_slot *t = &s->tx[ffl_buf_slot(&s->map.geo.tx, buf)];
    e->tx_outstanding -= ffl_buf_size(buf);
    if (e->unwritable)
        unwritable_bytes(s, -(uint64_t)ffl_buf_size(buf));
    stats_queued(e, 0, t->len - e->tx_off - ffl_front_bytes(t->flags));
    e->tx_head = t->next;
    if (e->tx_head == FFL_NO_BUF)
        e->tx_tail = FFL_NO_BUF;
    e->tx_off = 0;
    session_tx_release(s, buf);
}

void data_drop_tx(struct endpoint *e)
{
    while (e->tx_head != FFL_NO_BUF)
        tx_pop(e);
    if (e->shut >= 0)
        endpoint_ready(e);
}

/* Gathers the queue's head into iov; returns the count and the bytes. *more: are they to wait for
 * what comes after them? Of all the bytes or none, so that no byte waits that need not. */
static int gather(struct endpoint *e, struct iovec *iov, size_t *bytes, bool *more)
{
    struct ffl_session *s = e->s;
    const struct ffl_pool_geo *p = &s->map.geo.tx;
    int n = 0;
    uint32_t off = e->tx_off;
    bool first = e->tx_begins && e->tx_outstanding > 2 * FFL_FIRST_BYTES;
    size_t most = first ? FFL_FIRST_BYTES : GATHER_BYTES;
    *bytes = 0;
    *more = false;
    for (uint32_t b = e->tx_head; b != FFL_NO_BUF && n < GATHER && *bytes < most; off = 0) {
        const struct tx_slot *t = &s->tx[ffl_buf_slot(p, b)];
        bool waits = t->flags & FFL_F_MORE;
        if (n && waits && !*more)
            break;
        *more = waits;
        iov[n].iov_base = (char *)session_buf(s, p, b) + off;
        iov[n].iov_len = t->len - off;
        *bytes += iov[n++].iov_len;
        b = t->next;
    }
    return n;
}

static void tx_sent(struct endpoint *e, size_t sent)
{
    ffl_stat_add(&e->s->map.seg->inst.bytes_out, sent);
    ffl_stat_add(&e->st->bytes_out, sent);
}

static void tx_advance(struct endpoint *e, size_t sent)
{
    struct ffl_session *s = e->s;
    tx_sent(e, sent);
    while (e->tx_head != FFL_NO_BUF) {
        uint32_t left = s->tx[ffl_buf_slot(&s->map.geo.tx, e->tx_head)].len - e->tx_off;
        if (sent < left) {
            e->tx_off += (uint32_t)sent;
            stats_queued(e, 0, (uint32_t)sent);
            return;
        }
        sent -= left;
        tx_pop(e);
    }
}

/* Sends the head datagram. As UDP does, an error is reported and the datagram is gone. */
static int send_dgram(struct endpoint *e)
{
    struct ffl_session *s = e->s;
    struct ffl_instance *in = s->in;
    const struct tx_slot *t = &s->tx[ffl_buf_slot(&s->map.geo.tx, e->tx_head)];
    uint8_t *data = session_buf(s, &s->map.geo.tx, e->tx_head);
    struct ffl_addr to;
    struct ffl_ctl ctl = {0}; /* a copy: the application may write to the buffer meanwhile */
    size_t skip = t->flags & FFL_F_ADDR ? sizeof(to) : 0, front = ffl_front_bytes(t->flags);
    memcpy(&to, data, skip);
    memcpy(&ctl, data + skip, front - skip);
    struct iovec iov = {data + front, t->len - front};
    if (group_settings(e)->reporting)
        (void)report_pump(e);
    int n = ffl_ctl_check(&ctl);
    if (n == 0)
        n = OPS(in)->send(ST(in), e->fd, &iov, 1, skip ? &to : NULL, ctl.len ? &ctl : NULL, 0);
    in->unsent |= n > 0;
    slice_spend_call(&in->slice, n > 0 ? (size_t)n : 0);
    if (n == -EAGAIN || n == -EINTR)
        return n;
    if (n < 0)
        data_dgram_error(e, n);
    else
        tx_sent(e, (size_t)n);
    bool placed = e->group && e->group->placed;
    if (!placed && group_place(e) < 0) /* the datagram gave it a port */
        data_fail(e, ENOMEM);
    if (e->tx_head != FFL_NO_BUF)
        tx_pop(e);
    return 0;
}

static int send_stream(struct endpoint *e)
{
    struct ffl_instance *in = e->s->in;
    struct iovec iov[GATHER];
    size_t bytes;
    bool more;
    int n = gather(e, iov, &bytes, &more);
    e->tx_begins = false;
    int sent = bytes ? OPS(in)->send(ST(in), e->fd, iov, n, NULL, NULL, more ? MSG_MORE : 0) : 0;
    in->unsent |= sent > 0;
    slice_spend_call(&in->slice, sent > 0 ? (size_t)sent : 0);
    if (sent < 0)
        return sent;
    tx_advance(e, (size_t)sent);
    return (size_t)sent < bytes ? -EAGAIN : 0;
}

/* Sends queued buffers until the stack takes no more; then does a shutdown or close that waits. */
void data_flush(struct endpoint *e)
{
    struct ffl_instance *in = e->s->in;
    if (e->connecting || e->dead || e->fd < 0)
        return;
    for (int i = 0; i < SENDS_PER_ITERATION && e->tx_head != FFL_NO_BUF && !e->unwritable; i++) {
        if (i && slice_over(&in->slice))
            return;
        int rc = e->dgram ? send_dgram(e) : send_stream(e);
        if (rc == -EAGAIN)
            data_unwritable(e, true); /* until a WRITE event */
        else if (rc < 0 && rc != -EINTR)
            data_fail_sends(e, -rc); /* of a stream: send_dgram reports a datagram's errors */
    }
    if (e->tx_head != FFL_NO_BUF)
        return;
    if (e->shut >= 0 && !shutdown_waits(e))
        shutdown_now(e);
    if (e->closing)
        endpoint_close(e);
}
