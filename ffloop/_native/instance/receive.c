/*
 * receive.c - the receive pump: reads from the stack into receive buffers, and completes them.
 *
 * Callers: data.c, serve.c (buffers that come back). What another reference had read ahead comes
 * before what the stack has.
 */
#include "endpoint.h"
#include "group.h"
#include "life.h"
#include "pump.h"
#include "session.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <string.h>
#include <sys/socket.h>

#define READS_PER_ITERATION 4 /* then the next socket is read */
#define DGRAM_MAX 65507

struct dgram { /* as it is in a buffer; without control messages the data follows the address */
    struct ffl_addr from;
    struct ffl_ctl ctl;
    uint8_t data[DGRAM_MAX];
};
_Static_assert(offsetof(struct dgram, data) == sizeof(struct ffl_addr) + sizeof(struct ffl_ctl),
               "what comes before the data is one piece");

static void post_data(struct endpoint *e, uint32_t buf, uint32_t len, uint8_t flags)
{
    struct ffl_session *s = e->s;
    uint32_t slot = ffl_buf_slot(&s->rx.geo, buf);
    s->rx_owner[slot] = e->serial;
    s->rx_handle[slot] = e->handle;
    e->rx_outstanding += ffl_buf_size(buf);
    uint32_t bytes = len - ffl_front_bytes(flags);
    ffl_stat_add(&s->map.seg->inst.bytes_in, bytes);
    ffl_stat_add(&e->st->bytes_in, bytes);
    e->rx_posted += bytes;
    e->tx_begins = true;
    stats_outstanding(e);
    session_post(s, (struct ffl_entry){.op = FFL_OP_RECV,
                                       .flags = flags,
                                       .handle = e->handle,
                                       .arg = (int32_t)len,
                                       .buf = buf});
}

/* The last byte was read. Where a send met a reset, the stack told only the send of the reset: the
 * end is false. EPIPE, an error after the end, does not concern the reader. */
static void end_of_stream(struct endpoint *e)
{
    if (e->send_error && e->send_error != EPIPE) {
        data_fail(e, e->send_error);
        return;
    }
    e->rx_done = true;
    e->readable = false;
    stats_state(e);
    session_post(e->s,
                 (struct ffl_entry){.op = FFL_OP_RECV, .handle = e->handle, .buf = FFL_NO_BUF});
}

/* May this socket hold more of the receive pool? */
static bool rx_room(const struct endpoint *e)
{
    uint64_t share = ffl_pool_share(&e->s->rx, e->s->in->o.rx_cap);
    return e->rx_outstanding == 0 || e->rx_outstanding < share;
}

/* One read. False: the socket is drained, stalled or finished. */
static bool read_stream(struct endpoint *e)
{
    struct ffl_session *s = e->s;
    struct ffl_instance *in = s->in;
    uint32_t want = e->rx_big ? ffl_class_size(2) : ffl_class_size(1);
    uint32_t buf = rx_room(e) ? ffl_pool_get(&s->rx, want) : FFL_NO_BUF;
    uint8_t flags = group_settings(e)->stamped ? FFL_F_CTL : 0;
    uint32_t front = ffl_front_bytes(flags);
    if (buf != FFL_NO_BUF && ffl_buf_size(buf) <= front) { /* only the smallest are left */
        (void)ffl_pool_put(&s->rx, buf);
        buf = FFL_NO_BUF;
    }
    if (buf == FFL_NO_BUF) {
        endpoint_stall(e);
        return false;
    }
    struct ffl_ctl ctl;
    uint8_t *to = session_buf(s, &s->rx.geo, buf);
    struct iovec iov = {to + front, ffl_buf_size(buf) - front};
    int n = OPS(in)->recv(ST(in), e->fd, &iov, 1, NULL, front ? &ctl : NULL, NULL);
    slice_spend_call(&in->slice, n > 0 ? (size_t)n : 0);
    if (n > 0) {
        bool full = (size_t)n == iov.iov_len;
        e->rx_big = full || n > (int)ffl_class_size(1);
        memcpy(to, &ctl, front);
        post_data(e, buf, front + (uint32_t)n, flags);
        /* a short read has drained a stream, unless the stack told of more bytes (a read stops at
         * an urgent byte) or of the end */
        e->rx_due -= n < e->rx_due ? n : e->rx_due;
        e->readable = full || e->eof_hint || e->rx_due;
        return e->readable;
    }
    (void)ffl_pool_put(&s->rx, buf); /* just taken: cannot fail */
    if (n == 0 || (n == -EAGAIN && e->send_error))
        end_of_stream(e);
    else if (n == -EAGAIN || n == -EINTR)
        e->readable = n == -EINTR;
    else {
        data_fail(e, -n);
        if (n != -ENOTCONN) /* the stack tells it once: the other references cannot send either */
            data_fail_sends(e, -n);
    }
    return false;
}

/* UDP_GRO: the bytes of each datagram in a piece that came as one; 0: it is one datagram. */
static uint32_t segment_size(const struct ffl_ctl *ctl)
{
    struct cmsghdr c;
    int size = 0;
    for (uint32_t at = 0; at + CMSG_LEN(sizeof(size)) <= ctl->len;
         at += (uint32_t)CMSG_ALIGN(c.cmsg_len)) {
        memcpy(&c, ctl->data + at, sizeof(c));
        if (c.cmsg_level == IPPROTO_UDP && c.cmsg_type == UDP_GRO)
            memcpy(&size, ctl->data + at + CMSG_LEN(0), sizeof(size));
    }
    return (uint32_t)size;
}

/* Address, control messages if there are any, and `n` bytes from `data` on; or nothing, where no
 * buffer holds them, as the kernel without memory. */
static void post_piece(struct endpoint *e, const struct dgram *d, const uint8_t *data, uint32_t n,
                       uint8_t flags)
{
    uint32_t front = ffl_front_bytes(flags), buf;
    uint8_t *to = answer_room(e->s, front + n, &buf);
    if (!to)
        return;
    memcpy(to, d, front);
    memcpy(to + front, data, n);
    post_data(e, buf, front + n, flags);
}

/* Beside the largest datagrams there is no room for control messages; many that came as one are
 * told in two pieces. */
static void post_dgram(struct endpoint *e, const struct dgram *d, uint32_t n, int msg_flags)
{
    uint8_t flags = FFL_F_ADDR | (msg_flags & MSG_TRUNC ? FFL_F_TRUNC : 0) |
                    (msg_flags & MSG_CTRUNC ? FFL_F_CTL_CUT : 0) | (d->ctl.len ? FFL_F_CTL : 0);
    uint32_t room = ffl_class_size(2) - ffl_front_bytes(flags), first = n;
    if (n > room) {
        uint32_t size = segment_size(&d->ctl);
        first = size && size <= room ? room - room % size : n;
    }
    if (first > room)
        flags = (uint8_t)((flags & ~FFL_F_CTL) | FFL_F_CTL_CUT);
    post_piece(e, d, d->data, first, flags);
    if (first < n)
        post_piece(e, d, d->data + first, n - first, flags);
}

/* One datagram, through a private buffer, since its size is not known beforehand. */
static bool read_dgram(struct endpoint *e)
{
    static struct dgram d;
    struct ffl_session *s = e->s;
    struct ffl_instance *in = s->in;
    if (!rx_room(e) || s->rx.n[2] < (group_settings(e)->stamped ? 2 : 1)) {
        endpoint_stall(e);
        return false;
    }
    struct iovec iov = {d.data, sizeof(d.data)};
    int msg_flags = 0;
    d.from = (struct ffl_addr){0};
    d.ctl.len = 0;
    int n = OPS(in)->recv(ST(in), e->fd, &iov, 1, &d.from, &d.ctl, &msg_flags);
    slice_spend_call(&in->slice, n > 0 ? (size_t)n : 0);
    if (n < 0) {
        e->readable = n != -EAGAIN;
        bool error = n != -EAGAIN && n != -EINTR; /* ICMP: told, and the socket goes on */
        if (error && !(group_settings(e)->reporting && report_pump(e)))
            data_dgram_error(e, n);
        return n != -EAGAIN;
    }
    if (n == 0 && !d.from.family) { /* no sender: it is shut down, and F-Stack says so for ever */
        e->readable = false;
        return false;
    }
    post_dgram(e, &d, (uint32_t)n, msg_flags);
    return true;
}

/* Bytes that another reference had read ahead come before the stack's. */
static bool read_given(struct endpoint *e)
{
    struct ffl_session *s = e->s;
    bool room = rx_room(e) && (!e->dgram || s->rx.n[2] > 0); /* a datagram stays whole */
    uint32_t buf = room ? ffl_pool_get(&s->rx, group_size(e)) : FFL_NO_BUF;
    uint8_t flags;
    if (buf == FFL_NO_BUF) {
        endpoint_stall(e);
        return false;
    }
    uint32_t n = group_take(e, session_buf(s, &s->rx.geo, buf), ffl_buf_size(buf), &flags);
    slice_spend_call(&s->in->slice, n);
    post_data(e, buf, n, flags);
    return true;
}

bool data_receive(struct endpoint *e)
{
    bool given = group_has_bytes(e);
    if (!endpoint_armed(e) || !(e->readable || given) || e->rx_done || e->failed)
        return false;
    if (e->s->dying)
        return false; /* not armed: bytes given back are for other references */
    for (int i = 0; i < READS_PER_ITERATION; i++) {
        if (session_stuffed(e->s))
            return true;
        if (given) {
            if (!read_given(e))
                return false;
            given = group_has_bytes(e);
            continue;
        }
        if (!(e->dgram ? read_dgram(e) : read_stream(e)))
            return e->readable && !e->in_stalled && !e->rx_done && !e->failed;
    }
    return true;
}

static int take_back(void *arg, uint32_t buf)
{
    struct ffl_session *s = arg;
    if (ffl_pool_put(&s->rx, buf) < 0)
        return -EPROTO;
    uint32_t slot = ffl_buf_slot(&s->rx.geo, buf);
    struct endpoint *e = s->rx_owner[slot] ? s->table[s->rx_handle[slot]] : NULL;
    if (e && e->serial == s->rx_owner[slot]) {
        e->rx_outstanding -= ffl_buf_size(buf);
        stats_outstanding(e);
    }
    return 0;
}

int data_rxfree(struct ffl_session *s)
{
    int n = ffl_channel_reclaim(&s->ch, take_back, s);
    if (n <= 0)
        return n;
    struct endpoint *e;
    while ((e = TAILQ_FIRST(&s->stalled))) /* pumped again in the order in which they stalled */
        endpoint_ready(e);
    return n;
}
