/*
 * data.c - moves data between the stack and a session: the receive and transmit pumps.
 *
 * Callers: serve.c (ready endpoints, events) and the other files of instance/. An endpoint in its
 * session's ready list is pumped. It leaves the list when the stack, the application's credit or
 * the pool has no more to give; an event, an ARM or SEND, or a returned buffer puts it back.
 */
#include "internal.h"

#include "option.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <string.h>
#include <sys/socket.h>

#define READS_PER_ITERATION 4 /* then the next socket is read */
#define GATHER 64             /* buffers in one send, */
/* And bytes, a body of 1 MiB and its head: bounds the time of one copy. */
#define GATHER_BYTES (1088u * 1024)
#define SENDS_PER_ITERATION 4
#define DGRAM_MAX 65507

struct dgram { /* as it is in a buffer; without control messages the data follows the address */
    struct ffl_addr from;
    struct ffl_ctl ctl;
    uint8_t data[DGRAM_MAX];
};
_Static_assert(offsetof(struct dgram, data) == sizeof(struct ffl_addr) + sizeof(struct ffl_ctl),
               "what comes before the data is one piece");

/* ---- the receive pump ---------------------------------------------------------------------- */

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
    stats_outstanding(e);
    session_post(s, (struct ffl_entry){.op = FFL_OP_RECV,
                                       .flags = flags,
                                       .handle = e->handle,
                                       .arg = (int32_t)len,
                                       .buf = buf});
}

void data_fail(struct endpoint *e, int err)
{
    e->failed = err;
    e->readable = false;
    stats_state(e);
    data_drop_tx(e);
    session_post(e->s,
                 (struct ffl_entry){
                     .op = FFL_OP_ERROR, .handle = e->handle, .arg = -err, .buf = FFL_NO_BUF});
}

void data_fail_sends(struct endpoint *e, int err)
{
    if (e->send_error || e->failed)
        return;
    e->send_error = err;
    data_drop_tx(e);
    session_post(e->s, (struct ffl_entry){.op = FFL_OP_ERROR,
                                          .flags = FFL_F_SENDING,
                                          .handle = e->handle,
                                          .arg = -err,
                                          .buf = FFL_NO_BUF});
    if (e->rx_done)
        return;
    e->readable = true;
    endpoint_ready(e);
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
    else
        data_fail(e, -n);
    return false;
}

static void dgram_error(struct endpoint *e, int rc)
{
    session_post(e->s, (struct ffl_entry){
                           .op = FFL_OP_ERROR, .handle = e->handle, .arg = rc, .buf = FFL_NO_BUF});
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
            dgram_error(e, n);
        return n != -EAGAIN;
    }
    if (n == 0 &&
        !d.from.family) { /* no sender: the socket is shut down, and would return 0 for ever */
        end_of_stream(e);
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

static bool pump_rx(struct endpoint *e)
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

/* ---- the transmit pump --------------------------------------------------------------------- */

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
    *bytes = 0;
    *more = false;
    for (uint32_t b = e->tx_head; b != FFL_NO_BUF && n < GATHER && *bytes < GATHER_BYTES; off = 0) {
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
        dgram_error(e, n);
    else
        tx_sent(e, (size_t)n);
    if (!e->group && group_place(e) < 0) /* its first datagram gave it a port */
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

/* ---- events of the stack ------------------------------------------------------------------- */

/* A stream is in error, which the stack reports once. The reader hears of the error after the bytes
 * before it, and not at all after the end. */
static void take_error(struct endpoint *e)
{
    struct ffl_instance *in = e->s->in;
    int err = 0;
    uint32_t len = sizeof(err);
    if (OPS(in)->getsockopt(ST(in), e->fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0 || !err)
        return;
    if (e->group && e->group->connecting) /* of the connect that another reference waits for */
        e->group->connect_error = err;
    else
        data_fail_sends(e, e->fin ? EPIPE : err);
}

void data_event(struct endpoint *e, const struct ffl_stack_event *ev)
{
    if (e->dead)
        return;
    if (ev->error && !e->s->dying) {
        e->reports = true;
        endpoint_ready(e);
    }
    if (ev->filter & FFL_READ) {
        e->readable = true;
        e->rx_due = ev->data;
    }
    if (ev->filter & FFL_WRITE)
        data_unwritable(e, false);
    if (e->connecting) {
        if (!(ev->filter & FFL_WRITE || ev->eof))
            return;
        control_connected(e);
        if (e->failed)
            return;
    }
    if (ev->error && !e->dgram && !e->listener)
        take_error(e);
    else if (ev->eof && !group_settings(e)->shut_rd)
        e->fin = true;
    if (ev->eof && !e->rx_done)
        e->eof_hint = e->readable = true;
    if ((e->readable && (endpoint_armed(e) || e->listener)) || e->tx_head != FFL_NO_BUF ||
        e->closing)
        endpoint_ready(e);
}

bool data_pump(struct endpoint *e)
{
    if (e->reports)
        (void)report_pump(e);
    if (e->tx_head != FFL_NO_BUF || e->shut >= 0 || e->closing)
        data_flush(e);
    if (e->dead)
        return false;
    bool sends = e->tx_head != FFL_NO_BUF && !e->unwritable && !e->connecting;
    bool more = e->reports || sends || (e->shut >= 0 && shutdown_waits(e));
    if (e->listener)
        return accept_pump(e) || more;
    return pump_rx(e) || more;
}
