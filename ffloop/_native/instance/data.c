/*
 * data.c - moves data between the stack and a session: the receive, accept and transmit pumps.
 *
 * Callers: serve.c (ready endpoints, events), control.c. An endpoint is pumped when it is in its
 * session's ready list; it leaves the list when the stack, the application's credit or the pool
 * has no more to give, and something puts it back: an event, an ARM or SEND, a returned buffer.
 */
#include "internal.h"

#include "option.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define READS_A_TURN 4 /* then the next socket's turn */
#define ACCEPTS_A_TURN 64
#define GATHER 64                   /* buffers in one sendmsg, */
#define GATHER_BYTES (1024u * 1024) /* and bytes: the copy is not to take long */
#define SENDS_A_TURN 4
#define DGRAM_MAX 65507

struct dgram { /* as it is in a buffer; without control messages the data follows the address */
    struct ffl_addr from;
    struct ffl_ctl ctl;
    uint8_t data[DGRAM_MAX];
};
_Static_assert(offsetof(struct dgram, data) == sizeof(struct ffl_addr) + sizeof(struct ffl_ctl),
               "what comes before the data is one piece");

/* ---- receive ------------------------------------------------------------------------------- */

static void post_data(struct ep *e, uint32_t buf, uint32_t len, uint8_t flags)
{
    struct ffl_session *s = e->s;
    uint32_t slot = ffl_buf_slot(&s->rx.geo, buf);
    s->rx_owner[slot] = e->serial;
    s->rx_handle[slot] = e->handle;
    e->rx_held += ffl_buf_size(buf);
    uint32_t bytes = len - ffl_front_bytes(flags);
    ffl_stat_add(&s->map.seg->inst.bytes_in, bytes);
    ffl_stat_add(&e->st->bytes_in, bytes);
    e->rx_posted += bytes;
    stats_held(e);
    session_post(s, (struct ffl_entry){.op = FFL_OP_RECV,
                                       .flags = flags,
                                       .handle = e->handle,
                                       .arg = (int32_t)len,
                                       .buf = buf});
}

void data_fail(struct ep *e, int err)
{
    e->failed = true;
    e->readable = false;
    stats_state(e);
    data_drop_tx(e);
    session_post(e->s,
                 (struct ffl_entry){
                     .op = FFL_OP_ERROR, .handle = e->handle, .arg = -err, .buf = FFL_NO_BUF});
}

void data_fail_sends(struct ep *e, int err)
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
    ep_ready(e);
}

/* The last byte was read. Where a reset was met by a send first, the stack has told of it and gives
 * an end that it never had; one after the end (EPIPE) is none of the reader's business. */
static void end_of_stream(struct ep *e)
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
static bool rx_room(const struct ep *e)
{
    uint64_t share = ffl_pool_share(&e->s->rx, e->s->in->o.rx_cap);
    return e->rx_held == 0 || e->rx_held < share;
}

/* One read. False when the socket is drained, stalled or finished. */
static bool read_stream(struct ep *e)
{
    struct ffl_session *s = e->s;
    struct ffl_instance *in = s->in;
    uint32_t want = e->rx_big ? ffl_class_size(2) : ffl_class_size(1);
    uint32_t buf = rx_room(e) ? ffl_pool_get(&s->rx, want) : FFL_NO_BUF;
    if (buf == FFL_NO_BUF) {
        ep_stall(e);
        return false;
    }
    struct iovec iov = {session_buf(s, &s->rx.geo, buf), ffl_buf_size(buf)};
    int n = OPS(in)->recv(ST(in), e->fd, &iov, 1, NULL, NULL, NULL);
    if (n > 0) {
        bool full = (size_t)n == iov.iov_len;
        e->rx_big = full || n > (int)ffl_class_size(1);
        post_data(e, buf, (uint32_t)n, 0);
        /* a short read has drained a stream, unless the stack knows of more (behind an urgent byte,
         * where a read ends), or of its end */
        e->rx_due -= n < e->rx_due ? n : e->rx_due;
        e->readable = full || e->eof_hint || e->rx_due;
        return e->readable;
    }
    (void)ffl_pool_put(&s->rx, buf); /* it was ours: cannot fail */
    if (n == 0 || (n == -EAGAIN && e->send_error))
        end_of_stream(e);
    else if (n == -EAGAIN || n == -EINTR)
        e->readable = n == -EINTR;
    else
        data_fail(e, -n);
    return false;
}

static void dgram_error(struct ep *e, int rc)
{
    session_post(e->s, (struct ffl_entry){
                           .op = FFL_OP_ERROR, .handle = e->handle, .arg = rc, .buf = FFL_NO_BUF});
}

/* Address, control messages if there are any, and `n` bytes. Beside the largest datagrams there is no
 * room for control messages. */
static void post_dgram(struct ep *e, const struct dgram *d, uint32_t n, int msg_flags)
{
    struct ffl_session *s = e->s;
    uint8_t flags = FFL_F_ADDR | (msg_flags & MSG_TRUNC ? FFL_F_TRUNC : 0) |
                    (msg_flags & MSG_CTRUNC ? FFL_F_CTL_CUT : 0) | (d->ctl.len ? FFL_F_CTL : 0);
    if (ffl_front_bytes(flags) + n > ffl_class_size(2))
        flags = (uint8_t)((flags & ~FFL_F_CTL) | FFL_F_CTL_CUT);
    uint32_t front = ffl_front_bytes(flags);
    uint32_t buf = ffl_pool_get(&s->rx, front + n); /* a class 2 buffer is free: it fits */
    uint8_t *to = session_buf(s, &s->rx.geo, buf);
    memcpy(to, d, front);
    memcpy(to + front, d->data, n);
    post_data(e, buf, front + n, flags);
}

/* One datagram, through a private buffer, since its size is not known before. */
static bool read_dgram(struct ep *e)
{
    static struct dgram d;
    struct ffl_session *s = e->s;
    struct ffl_instance *in = s->in;
    if (!rx_room(e) || s->rx.n[2] == 0) {
        ep_stall(e);
        return false;
    }
    struct iovec iov = {d.data, sizeof(d.data)};
    int msg_flags = 0;
    d.from = (struct ffl_addr){0};
    d.ctl.len = 0;
    int n = OPS(in)->recv(ST(in), e->fd, &iov, 1, &d.from, &d.ctl, &msg_flags);
    if (n < 0) {
        e->readable = n != -EAGAIN;
        if (n != -EAGAIN && n != -EINTR) /* an ICMP error: reported, and the socket lives on */
            dgram_error(e, n);
        return n != -EAGAIN;
    }
    if (n == 0 && !d.from.family) { /* of nobody: it is shut, and would say so for ever */
        end_of_stream(e);
        return false;
    }
    post_dgram(e, &d, (uint32_t)n, msg_flags);
    return true;
}

/* Bytes that another reference had read ahead come before the stack's. */
static bool read_given(struct ep *e)
{
    struct ffl_session *s = e->s;
    bool room = rx_room(e) && (!e->dgram || s->rx.n[2] > 0); /* a datagram stays whole */
    uint32_t buf = room ? ffl_pool_get(&s->rx, group_size(e)) : FFL_NO_BUF;
    uint8_t flags;
    if (buf == FFL_NO_BUF) {
        ep_stall(e);
        return false;
    }
    uint32_t n = group_take(e, session_buf(s, &s->rx.geo, buf), ffl_buf_size(buf), &flags);
    post_data(e, buf, n, flags);
    return true;
}

static bool pump_rx(struct ep *e)
{
    bool given = group_has(e);
    if (!e->armed || !(e->readable || given) || e->rx_done || e->failed)
        return false;
    if (e->s->dying)
        return false; /* nobody reads there; what was given back is for others */
    for (int i = 0; i < READS_A_TURN; i++) {
        if (session_stuffed(e->s))
            return true;
        if (given) {
            if (!read_given(e))
                return false;
            given = group_has(e);
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
    struct ep *e = s->rx_owner[slot] ? s->table[s->rx_handle[slot]] : NULL;
    if (e && e->serial == s->rx_owner[slot]) {
        e->rx_held -= ffl_buf_size(buf);
        stats_held(e);
    }
    return 0;
}

int data_rxfree(struct ffl_session *s)
{
    int n = ffl_channel_reclaim(&s->ch, take_back, s);
    if (n <= 0)
        return n;
    struct ep *e;
    while ((e = TAILQ_FIRST(&s->stalled))) /* they look again, in the order in which they stalled */
        ep_ready(e);
    return n;
}

/* ---- accept -------------------------------------------------------------------------------- */

/* False: no memory for it, and the connection is closed. */
static bool adopt(struct ep *l, int fd, uint32_t handle, struct ffl_names *names,
                  struct group *unread)
{
    struct ffl_session *s = l->s;
    struct ffl_instance *in = s->in;
    struct ep *e = ep_new(s, handle, fd, false);
    if (!e) {
        group_unref(in, unread);
        (void)OPS(in)->close(ST(in), fd);
        session_discharge(s);
        return false;
    }
    l->credits--;
    e->armed = e->touched = l->arm_new;
    group_accepted(l, e, unread);
    (void)OPS(in)->sockname(ST(in), fd, false, &names->local);
    e->st->names = *names;
    stats_state(e);
    uint32_t buf = ffl_pool_get(&s->rx, sizeof(*names));
    if (buf != FFL_NO_BUF) {
        s->rx_owner[ffl_buf_slot(&s->rx.geo, buf)] = 0;
        memcpy(session_buf(s, &s->rx.geo, buf), names, sizeof(*names));
    }
    session_post(s,
                 (struct ffl_entry){
                     .op = FFL_OP_ACCEPT, .handle = l->handle, .arg = (int32_t)handle, .buf = buf});
    ffl_stat_add(&s->map.seg->inst.accepts, 1);
    ffl_stat_add(&in->page->accepts, 1);
    int rc = OPS(in)->watch(ST(in), fd, FFL_READ | FFL_WRITE, e);
    if (rc < 0)
        data_fail(e, -rc);
    return true;
}

static bool wants_accept(const struct ep *l)
{
    return l->armed && l->credits && !l->failed && !l->s->dying && !l->s->dead;
}

static bool may_accept(const struct ep *l)
{
    const struct ffl_session *s = l->s;
    return wants_accept(l) && !session_stuffed(s) && ffl_ids_any(&s->ids);
}

/* Not now, for want of what may come back: again in a second, as asyncio does. */
static bool accept_later(struct ep *l, int err)
{
    ffl_log_within(&l->s->account->log, FFL_LOG_WARNING,
                   "session %u: accept: %s; trying again in a second", l->s->id, strerror(err));
    ep_timer(l, ffl_now_ns() + ACCEPT_RETRY_NS);
    return false;
}

/* A connection for `to`, which is charged with it; or -errno. */
static int take_connection(struct ep *l, struct ffl_session *to, struct ffl_names *names,
                           struct group **unread)
{
    struct ffl_instance *in = l->s->in;
    if (group_has(l))
        return group_accept(l, to, &names->peer, unread);
    int fd = session_charge(to);
    if (fd < 0)
        return fd;
    fd = OPS(in)->accept(ST(in), l->fd, &names->peer);
    if (fd < 0)
        session_discharge(to);
    else
        rights_own(to, fd);
    return fd;
}

/* The next in turn among those who share l's socket gets a connection. 0, or -errno. */
static int accept_one(struct ep *l, struct ep *to)
{
    struct ffl_names names = {0};
    struct group *unread = NULL;
    int h = ep_handle(to->s);
    int fd = h < 0 ? h : take_connection(l, to->s, &names, &unread);
    if (fd >= 0 && !adopt(to, fd, (uint32_t)h, &names, unread))
        fd = -ENOMEM;
    if (fd < 0 && h >= 0)
        ep_handle_release(to->s, (uint32_t)h);
    if (fd >= 0)
        group_served(to, wants_accept(to));
    return fd < 0 ? fd : 0;
}

/* Accepts for `l` and, in turn, for those who share its socket. */
static bool pump_accept(struct ep *l)
{
    if (!l->group)
        return false; /* it failed before it listened */
    if (wants_accept(l))
        group_ask(l);
    for (int i = 0; i < ACCEPTS_A_TURN && (l->readable || group_has(l)); i++) {
        struct ep *to = group_turn(l, may_accept);
        if (!to) /* its quota may be used up, or its CQ full */
            return wants_accept(l) && (session_stuffed(l->s) || accept_later(l, EMFILE));
        int rc = accept_one(l, to);
        if (rc == -EAGAIN)
            l->readable = false;
        else if (rc < 0 && rc != -ECONNABORTED && rc != -EINTR && rc != -EPROTO) {
            group_served(to, false);
            return accept_later(to, -rc);
        }
        if (i % 8 == 7 && slice_over(l->s->in))
            break;
    }
    return (l->readable || group_has(l)) && wants_accept(l);
}

/* ---- transmit ------------------------------------------------------------------------------ */

/* So many bytes more (or, wrapped round, less) wait for the stack. */
static void blocked_by(struct ffl_session *s, uint64_t bytes)
{
    s->tx_blocked += bytes;
    if (s->dying || !bytes)
        return;
    atomic_store_explicit(&s->map.seg->inst.tx_blocked, s->tx_blocked, memory_order_seq_cst);
    ffl_channel_touch(&s->ch, FFL_WAIT_FREE);
}

void data_block(struct ep *e, bool on)
{
    struct ffl_session *s = e->s;
    if (e->blocked == on)
        return;
    e->blocked = on;
    blocked_by(s, on ? e->tx_held : -(uint64_t)e->tx_held);
}

void data_queue(struct ep *e, uint32_t buf)
{
    struct ffl_session *s = e->s;
    if (e->tx_tail == FFL_NO_BUF)
        e->tx_head = buf;
    else
        s->tx[ffl_buf_slot(&s->map.geo.tx, e->tx_tail)].next = buf;
    e->tx_tail = buf;
    e->tx_held += ffl_buf_size(buf);
    if (e->blocked)
        blocked_by(s, ffl_buf_size(buf));
}

static void tx_pop(struct ep *e)
{
    struct ffl_session *s = e->s;
    uint32_t buf = e->tx_head;
    const struct tx_slot *t = &s->tx[ffl_buf_slot(&s->map.geo.tx, buf)];
    e->tx_held -= ffl_buf_size(buf);
    if (e->blocked)
        blocked_by(s, -(uint64_t)ffl_buf_size(buf));
    stats_queued(e, 0, t->len - e->tx_off - ffl_front_bytes(t->flags));
    e->tx_head = t->next;
    if (e->tx_head == FFL_NO_BUF)
        e->tx_tail = FFL_NO_BUF;
    e->tx_off = 0;
    session_tx_release(s, buf);
}

void data_drop_tx(struct ep *e)
{
    while (e->tx_head != FFL_NO_BUF)
        tx_pop(e);
}

/* Gathers the queue's head into iov; returns the count and the bytes. */
static int gather(struct ep *e, struct iovec *iov, size_t *bytes)
{
    struct ffl_session *s = e->s;
    const struct ffl_pool_geo *p = &s->map.geo.tx;
    int n = 0;
    uint32_t off = e->tx_off;
    *bytes = 0;
    for (uint32_t b = e->tx_head; b != FFL_NO_BUF && n < GATHER && *bytes < GATHER_BYTES; off = 0) {
        const struct tx_slot *t = &s->tx[ffl_buf_slot(p, b)];
        iov[n].iov_base = (char *)session_buf(s, p, b) + off;
        iov[n].iov_len = t->len - off;
        *bytes += iov[n++].iov_len;
        b = t->next;
    }
    return n;
}

static void tx_sent(struct ep *e, size_t sent)
{
    ffl_stat_add(&e->s->map.seg->inst.bytes_out, sent);
    ffl_stat_add(&e->st->bytes_out, sent);
}

static void tx_advance(struct ep *e, size_t sent)
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
static int send_dgram(struct ep *e)
{
    struct ffl_session *s = e->s;
    struct ffl_instance *in = s->in;
    const struct tx_slot *t = &s->tx[ffl_buf_slot(&s->map.geo.tx, e->tx_head)];
    uint8_t *data = session_buf(s, &s->map.geo.tx, e->tx_head);
    struct ffl_addr to;
    struct ffl_ctl ctl = {0}; /* a copy: the application may write there while it is looked at */
    size_t skip = t->flags & FFL_F_ADDR ? sizeof(to) : 0, front = ffl_front_bytes(t->flags);
    memcpy(&to, data, skip);
    memcpy(&ctl, data + skip, front - skip);
    struct iovec iov = {data + front, t->len - front};
    int n = ffl_ctl_sendable(&ctl)
                ? OPS(in)->send(ST(in), e->fd, &iov, 1, skip ? &to : NULL, ctl.len ? &ctl : NULL)
                : -EINVAL;
    if (n == -EAGAIN || n == -EINTR)
        return n;
    if (n < 0)
        dgram_error(e, n);
    else
        tx_sent(e, (size_t)n);
    if (!e->group && group_place(e) < 0) /* it has got a port with its first datagram */
        data_fail(e, ENOMEM);
    if (e->tx_head != FFL_NO_BUF)
        tx_pop(e);
    return 0;
}

static int send_stream(struct ep *e)
{
    struct ffl_instance *in = e->s->in;
    struct iovec iov[GATHER];
    size_t bytes;
    int n = gather(e, iov, &bytes);
    int sent = bytes ? OPS(in)->send(ST(in), e->fd, iov, n, NULL, NULL) : 0;
    if (sent < 0)
        return sent;
    tx_advance(e, (size_t)sent);
    return (size_t)sent < bytes ? -EAGAIN : 0;
}

/* Sends what is queued until the stack takes no more; then the shutdown or close that waits. */
void data_flush(struct ep *e)
{
    struct ffl_instance *in = e->s->in;
    if (e->connecting || e->dead || e->fd < 0)
        return;
    for (int i = 0; i < SENDS_A_TURN && e->tx_head != FFL_NO_BUF && !e->blocked; i++) {
        if (i && slice_over(in))
            return;
        int rc = e->dgram ? send_dgram(e) : send_stream(e);
        if (rc == -EAGAIN)
            data_block(e, true); /* until a WRITE event */
        else if (rc < 0 && rc != -EINTR)
            data_fail_sends(e, -rc); /* a stream's: a datagram's errors are told by send_dgram */
    }
    if (e->tx_head != FFL_NO_BUF)
        return;
    if (e->shut >= 0 && !e->failed) {
        int rc = OPS(in)->shutdown(ST(in), e->fd, e->shut);
        if (rc < 0 && rc != -ENOTCONN)
            ffl_log(FFL_LOG_INFO, "session %u: shutdown: %s", e->s->id, strerror(-rc));
        e->shut = -1;
    }
    if (e->closing)
        ep_close(e);
}

/* ---- events -------------------------------------------------------------------------------- */

/* A stream is in error. The stack says so once, to whoever asks first: the reader is to hear of it
 * after what came before it, and not at all when the end came before it. */
static void take_error(struct ep *e)
{
    struct ffl_instance *in = e->s->in;
    int err = 0;
    uint32_t len = sizeof(err);
    if (OPS(in)->getsockopt(ST(in), e->fd, SOL_SOCKET, SO_ERROR, &err, &len) == 0 && err)
        data_fail_sends(e, e->fin ? EPIPE : err);
}

void data_event(struct ep *e, const struct ffl_stack_event *ev)
{
    if (e->dead)
        return;
    if (ev->filter & FFL_READ) {
        e->readable = true;
        e->rx_due = ev->data;
    }
    if (ev->filter & FFL_WRITE)
        data_block(e, false);
    if (e->connecting) {
        if (ev->filter & FFL_WRITE || ev->eof)
            control_connected(e);
        return;
    }
    if (ev->error && !e->dgram && !e->listener)
        take_error(e);
    else if (ev->eof)
        e->fin = true;
    if (ev->eof && !e->rx_done)
        e->eof_hint = e->readable = true;
    if ((e->readable && (e->armed || e->listener)) || e->tx_head != FFL_NO_BUF || e->closing)
        ep_ready(e);
}

bool data_pump(struct ep *e)
{
    if (e->tx_head != FFL_NO_BUF || e->shut >= 0 || e->closing)
        data_flush(e);
    if (e->dead)
        return false;
    bool more = e->tx_head != FFL_NO_BUF && !e->blocked && !e->connecting;
    if (e->listener)
        return pump_accept(e) || more;
    return pump_rx(e) || more;
}
