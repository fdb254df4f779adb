/*
 * reap.c - completions and returned buffers become the sockets' local state.
 *
 * Callers: the other files of client/. The instance is not trusted either: a completion with an
 * impossible handle, buffer or length ends the session (-EPROTO) before it is used.
 */
#include "internal.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- receive buffers ----------------------------------------------------------------------- */

void client_release_buf(struct ffl_client *c, uint32_t buf)
{
    struct rx_item *it = &c->rx[ffl_buf_slot(&c->map.geo.rx, buf)];
    it->outstanding = false;
    c->rx_outstanding -= ffl_buf_size(buf);
    if (c->detached)
        return;
    if (ffl_channel_give(&c->ch, buf) < 0)
        client_lose(c, EPROTO, "rx-free head out of range");
}

void client_release(struct ffl_client *c, struct rx_item *it)
{
    if (it->buf != FFL_NO_BUF) {
        client_release_buf(c, it->buf);
        return;
    }
    c->rx_moved--;
    free(it);
}

bool client_crowded(const struct ffl_client *c)
{
    return c->rx_outstanding > c->rx_total / 2;
}

/* Moves a socket's queue to private memory, so that a socket that the application does not read
 * keeps no shared buffers when they run short. Without memory the rest stays. */
void client_evacuate(struct ffl_client *c, struct client_sock *s)
{
    struct rx_item *prev = NULL;
    for (struct rx_item *it = s->rx_head; it; prev = it, it = it->next) {
        if (it->buf == FFL_NO_BUF)
            continue;
        uint32_t front = it->stamped ? it->off : 0;
        struct rx_item *copy = malloc(sizeof(*copy) + front + it->len);
        if (!copy)
            return;
        c->rx_moved++;
        *copy = (struct rx_item){.next = it->next,
                                 .buf = FFL_NO_BUF,
                                 .off = front,
                                 .len = it->len,
                                 .flags = it->flags,
                                 .stamped = it->stamped};
        memcpy(copy->heap,
               (char *)c->map.seg + ffl_buf_off(&c->map.geo.rx, it->buf) + it->off - front,
               front + it->len);
        if (prev)
            prev->next = copy;
        else
            s->rx_head = copy;
        if (s->rx_tail == it)
            s->rx_tail = copy;
        client_release_buf(c, it->buf);
        it = copy;
    }
}

/* ---- readiness ----------------------------------------------------------------------------- */

/* The placeholder, an eventfd, is readable while the socket is. */
void placeholder_update(struct client_sock *s)
{
    bool now = rx_readable(s) || client_reports(s);
    uint64_t word = 1;
    if (s->placeholder < 0 || now == s->shows)
        return;
    ssize_t n = now ? write(s->placeholder, &word, sizeof(word))
                    : read(s->placeholder, &word, sizeof(word));
    (void)n; /* cannot fail: the counter is 0 or 1, and `shows` says which */
    s->shows = now;
}

/* ---- completions --------------------------------------------------------------------------- */

/* The item of a completion's buffer; NULL: out of range, or outstanding already. */
static struct rx_item *take_buf(struct ffl_client *c, uint32_t buf)
{
    if (!ffl_buf_ok(&c->map.geo.rx, buf))
        return NULL;
    struct rx_item *it = &c->rx[ffl_buf_slot(&c->map.geo.rx, buf)];
    if (it->outstanding)
        return NULL;
    *it = (struct rx_item){.buf = buf, .outstanding = true};
    c->rx_outstanding += ffl_buf_size(buf);
    return it;
}

static int on_recv(struct ffl_client *c, struct client_sock *s, struct ffl_entry e)
{
    if (e.buf == FFL_NO_BUF) {
        s->eof = true;
    } else {
        struct rx_item *it = take_buf(c, e.buf);
        if (!it || e.arg < 0 || (uint32_t)e.arg > ffl_buf_size(e.buf))
            return -EPROTO;
        if ((uint32_t)e.arg < ffl_front_bytes(e.flags))
            return -EPROTO;
        it->len = (uint32_t)e.arg;
        it->flags = e.flags;
        if (ffl_unlikely(s->type == SOCK_STREAM && e.flags & FFL_F_CTL)) {
            it->stamped = true;
            it->off = sizeof(struct ffl_ctl);
            it->len -= it->off;
            it->flags = 0;
        }
        if (s->closing) { /* read ahead before the close */
            client_release(c, it);
            return 0;
        }
        ffl_stat_add(&c->map.seg->app.bytes_received, it->len);
        if (s->rx_tail)
            s->rx_tail->next = it;
        else
            s->rx_head = it;
        s->rx_tail = it;
        if (!s->push && client_crowded(c))
            client_evacuate(c, s);
    }
    client_sock_tell(s, s->eof ? FFL_WATCH_ALL : CLIENT_SOCK_READ);
    placeholder_update(s);
    return 0;
}

static int on_report(struct ffl_client *c, struct client_sock *s, struct ffl_entry e)
{
    if (!take_buf(c, e.buf) || e.arg < 0 || (uint32_t)e.arg > ffl_buf_size(e.buf) ||
        (uint32_t)e.arg < ffl_front_bytes(e.flags))
        return -EPROTO;
    if (!s->closing)
        client_report(s, (char *)c->map.seg + ffl_buf_off(&c->map.geo.rx, e.buf), (uint32_t)e.arg,
                      e.flags);
    client_release_buf(c, e.buf);
    client_sock_tell(s, FFL_WATCH_ALL);
    placeholder_update(s);
    return 0;
}

static void take_addresses(struct ffl_client *c, struct client_sock *s, uint32_t buf)
{
    memcpy(&s->addresses, (char *)c->map.seg + ffl_buf_off(&c->map.geo.rx, buf),
           sizeof(s->addresses));
    s->names_known = true;
}

static int on_accept(struct ffl_client *c, struct client_sock *l, struct ffl_entry e)
{
    uint32_t h = (uint32_t)e.arg;
    if (!l->listener || h < c->n || h >= 2 * c->n || c->table[h] || !l->credits)
        return -EPROTO;
    if (e.buf != FFL_NO_BUF && !take_buf(c, e.buf))
        return -EPROTO;
    l->credits--;
    l->offered = 0; /* if more are offered, the answer to TAKE says so */
    struct client_sock *s = client_sock_new(c, h);
    if (!s) {
        client_lose(c, ENOMEM, "out of memory for a socket");
        return 0;
    }
    s->domain = l->domain;
    s->type = l->type;
    s->proto = l->proto;
    s->connected = s->connect_told = true;
    s->armed = l->acc_flags & FFL_F_ARM_NEW ? c->arming : 0;
    s->waits = true;
    if (ffl_unlikely(l->beside != NULL)) /* without memory they are unset */
        (void)ffl_client_set_own(c, (int)h, &l->beside->own);
    s->addresses_buf = e.buf;
    if (e.buf != FFL_NO_BUF)
        take_addresses(c, s, e.buf);
    if (l->acc_tail)
        l->acc_tail->acc_next = s;
    else
        l->acc_head = s;
    l->acc_tail = s;
    l->acc_n++;
    if (l->closing) { /* accepted ahead before the close: CLOSED of the listener returns it */
        return 0;
    }
    client_sock_tell(l, CLIENT_SOCK_READ);
    placeholder_update(l);
    return 0;
}

static void on_fail(struct ffl_client *c, struct client_sock *s, int err, bool sending)
{
    bool told = s->unsendable && !s->send_error; /* a send has returned the error */
    s->failed |= !sending && s->type == SOCK_STREAM;
    if (sending) {
        s->unsendable = true;
        s->send_error = err;
    } else if (told) {
        s->eof = true;
    } else {
        s->error = err;
        s->give_error = s->failed || s->push;
    }
    if (!s->waits)
        client_sock_tell(s, FFL_WATCH_ALL);
    placeholder_update(s);
}

static int on_connect(struct ffl_client *c, struct client_sock *s, struct ffl_entry e)
{
    if (e.buf != FFL_NO_BUF) {
        if (!take_buf(c, e.buf))
            return -EPROTO;
        take_addresses(c, s, e.buf);
        client_release_buf(c, e.buf);
    }
    s->connecting = s->connect_told = false;
    s->connected = e.arg >= 0 && s->type == SOCK_STREAM;
    s->connect_result = e.arg < 0 ? -e.arg : 0;
    if (e.arg < 0) {
        s->error = -e.arg;
        s->failed = s->type == SOCK_STREAM;
    }
    s->give_connect = true;
    client_sock_tell(s, FFL_WATCH_ALL);
    return 0;
}

static void on_closed(struct ffl_client *c, struct client_sock *s)
{
    client_sock_return_queue(c, s); /* connections accepted ahead before the listener's close */
    client_sock_closed(c, s);
}

static int on_answer(struct ffl_client *c, struct client_sock *s, struct ffl_entry e)
{
    if (e.buf != FFL_NO_BUF && !take_buf(c, e.buf))
        return -EPROTO;
    if (e.tag && e.tag == c->call.tag) {
        c->call.done = true;
        c->call.res = e.arg;
        c->call.buf = e.buf;
        return 0;
    }
    if (e.op == FFL_OP_SOCKET && e.arg < 0 && s)
        s->open_error = -e.arg;
    if (e.buf != FFL_NO_BUF)
        client_release_buf(c, e.buf); /* the call timed out; or was sock_return's */
    if (e.op == FFL_OP_ADDRESSES && s && s->returning) {
        s->returning = false; /* closed after the reap, since closing may reap */
        s->acc_next = c->settled;
        c->settled = s;
    }
    return 0;
}

#define ERRNO_MOST 4095 /* the kernel's: a program may have a table of errors */

static int dispatch(struct ffl_client *c, struct ffl_entry e)
{
    if (e.arg < -ERRNO_MOST)
        return -EPROTO;
    if (e.op == FFL_OP_NOP)
        return on_answer(c, NULL, e);
    struct client_sock *s = e.handle < 2 * c->n ? c->table[e.handle] : NULL;
    if (!s)
        return -EPROTO;
    switch (e.op) {
    case FFL_OP_RECV:
        return on_recv(c, s, e);
    case FFL_OP_REPORT:
        return on_report(c, s, e);
    case FFL_OP_ACCEPT:
        return on_accept(c, s, e);
    case FFL_OP_OFFER:
        if (!s->listener)
            return -EPROTO;
        client_sock_offered(c, s, e.arg);
        placeholder_update(s);
        return 0;
    case FFL_OP_TAKE:
        if (!s->listener)
            return -EPROTO;
        client_sock_took(s, e.arg);
        placeholder_update(s);
        return on_answer(c, s, e);
    case FFL_OP_CONNECT:
        return on_connect(c, s, e);
    case FFL_OP_ERROR:
        if (!s->closing)
            on_fail(c, s, e.arg < 0 ? -e.arg : EIO,
                    s->type == SOCK_STREAM && e.flags & FFL_F_SENDING);
        return 0;
    case FFL_OP_SHUTDOWN:
        s->shut_wr = true;
        client_sock_tell(s, FFL_WATCH_ALL);
        return 0;
    case FFL_OP_CLOSED:
        if (!s->closing)
            return -EPROTO;
        on_closed(c, s);
        return 0;
    case FFL_OP_SOCKET:
    case FFL_OP_IMPORT:
    case FFL_OP_BIND:
    case FFL_OP_LISTEN:
    case FFL_OP_SETSOCKOPT:
    case FFL_OP_FILTER:
    case FFL_OP_GETSOCKOPT:
    case FFL_OP_ADDRESSES:
        return on_answer(c, s, e);
    default:
        return -EPROTO;
    }
}

static int on_entry(void *arg, struct ffl_entry e)
{
    struct ffl_client *c = arg;
    if (dispatch(c, e) < 0) {
        ffl_log(FFL_LOG_ERROR, "completion op %u handle %u arg %d buffer %#x cannot be", e.op,
                e.handle, e.arg, e.buf);
        client_lose(c, EPROTO, "a completion that cannot be");
    }
    return -c->detached;
}

static void reap_cq(struct ffl_client *c)
{
    if (ffl_channel_drain(&c->ch, INT32_MAX, on_entry, c) < 0)
        client_lose(c, EPROTO, "CQ tail out of range"); /* or lost already */
}

/* ---- returned transmit buffers ------------------------------------------------------------- */

#define TURN_ROUNDS 4 /* waits; a woken task writes one or two waits later */

/* Wakes sockets that can write, the longest wait first; large writes only while the window has
 * room. */
void client_wake_writers(struct ffl_client *c)
{
    struct client_sock **p = &c->waiters;
    int64_t room = tx_room(c) - c->round_granted;
    c->tx_unwritable = tx_unwritable(c);
    c->bulk_waiters = 0;
    while (*p) {
        struct client_sock *s = *p;
        bool bulk = tx_is_bulk(s);
        if (!s->closing && ((bulk && room <= 0) || !tx_writable(c, s))) {
            c->bulk_waiters += bulk;
            p = &s->wait_next;
            continue;
        }
        if (bulk) {
            s->granted = c->round + TURN_ROUNDS;
            int64_t want = s->tx_left < c->tx_cap ? (int64_t)s->tx_left : (int64_t)c->tx_cap;
            c->round_granted += want;
            room -= want;
        }
        *p = s->wait_next;
        s->waiting_w = false;
        client_sock_tell(s, CLIENT_SOCK_WRITE);
    }
    c->waiters_end = p;
}

static int on_freed(void *arg, uint32_t buf)
{
    struct ffl_client *c = arg;
    if (ffl_pool_put(&c->tx, buf) < 0)
        return -EPROTO;
    uint32_t slot = ffl_buf_slot(&c->tx.geo, buf);
    struct client_sock *s = c->tx_serial[slot] ? c->table[c->tx_handle[slot]] : NULL;
    if (s && s->serial == c->tx_serial[slot])
        s->tx_out -= ffl_buf_size(buf);
    return 0;
}

/* Takes the returned buffers. True: there were some. */
static bool reap_txfree(struct ffl_client *c)
{
    int n = ffl_channel_reclaim(&c->ch, on_freed, c);
    if (n < 0)
        client_lose(c, EPROTO, "a transmit buffer came back that was not out");
    return n > 0;
}

void client_look(struct ffl_client *c)
{
    client_drive(c);
    client_reap(c);
    int64_t now = ffl_now_ns();
    if (c->detached || now - c->looked < FFL_LOOK_NS)
        return;
    c->looked = now;
    if (ffl_poll_one(c->sock, POLLIN | POLLRDHUP, 0))
        ffl_client_lost(c);
}

void client_reap(struct ffl_client *c)
{
    if (c->detached)
        return;
    bool freed = reap_txfree(c);
    if (c->waiters && (freed || tx_unwritable(c) != c->tx_unwritable))
        client_wake_writers(c);
    if (!c->detached)
        reap_cq(c);
    if (!c->detached && c->settled)
        client_sock_settle(c);
    client_commit(c);
}
