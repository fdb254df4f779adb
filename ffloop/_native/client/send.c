/*
 * send.c - send: copies from the caller to the shared transmit pool.
 *
 * Callers: client.h's users. Unsent bytes are counted by whole buffers, so that many small writes
 * cannot take the pool. A socket's limit shrinks with the free part of the pool (ffl_pool_share); a
 * socket without unsent bytes may always have one buffer.
 */
#include "internal.h"

#include "option.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define BULK_FROM 16384 /* bytes: such a write takes 64 KiB buffers, a smaller write pages */
#define COMMIT_EVERY (256 * 1024) /* bytes of a large write: the instance works on them meanwhile */
#define PACED_FROM (128 * 1024)   /* bytes: an answer of 64 KiB is not worth a wake */
#define AHEAD (4 * 1024 * 1024)   /* bytes on their way that stay in the processors' caches */
#define PACE_NS 1000000LL         /* of one write, at most */
#define ROUND_PACE_NS (10 * PACE_NS) /* of those between two waits: other connections wait, too */
#define UNPACED_NS (100 * PACE_NS)

/*
 * Large writes go round robin when half of the pool is on its way to the stack: beyond it a
 * socket's share falls below what a large write needs, and all would go on in small pieces. The
 * bytes of unwritable sockets do not count, so that slow readers do not hold up the others. Small
 * writes always pass, as does the first buffer of a socket without unsent bytes: an answer of 64
 * KiB is not worth a wake.
 */
static int64_t tx_window(const struct ffl_client *c)
{
    return (int64_t)(c->tx.total_bytes / 2);
}

bool tx_is_bulk(const struct client_sock *s)
{
    return s->tx_left >= BULK_FROM;
}

uint64_t tx_unwritable(const struct ffl_client *c)
{
    return atomic_load_explicit(&c->map.seg->inst.tx_unwritable, memory_order_seq_cst);
}

/* Bytes of the transmit pool that the socket may have: its share, or SO_SNDBUF where that is
 * less. */
static uint64_t tx_share(const struct ffl_client *c, const struct client_sock *s)
{
    uint64_t share = ffl_pool_share(&c->tx, c->tx_cap);
    return s->tx_limit && s->tx_limit < share ? s->tx_limit : share;
}

/* Bytes that the stack has not taken, but for those of unwritable sockets. */
static int64_t on_the_way(const struct ffl_client *c)
{
    uint64_t blocked = tx_unwritable(c), used = c->tx.total_bytes - c->tx.free_bytes;
    return used > blocked ? (int64_t)(used - blocked) : 0;
}

/* The bytes of large writes that may be submitted now; none when <= 0. */
int64_t tx_room(const struct ffl_client *c)
{
    return tx_window(c) - on_the_way(c);
}

bool tx_half_free(const struct ffl_client *c)
{
    return tx_room(c) > tx_window(c) / 2;
}

/* May the socket make a large write? Waiting sockets go first, when half of the window is free; a
 * woken socket has a few rounds' time (reap.c). */
static bool tx_turn(const struct ffl_client *c, const struct client_sock *s)
{
    bool later = s->waiting_w || (c->bulk_waiters && (int32_t)(c->round - s->granted) > 0);
    return later ? tx_half_free(c) : tx_room(c) > 0;
}

/* May the socket have a buffer? After the limit was reached, only when half of it is free again. */
bool tx_writable(const struct ffl_client *c, const struct client_sock *s)
{
    if (s->error || s->failed || s->unsendable || s->shut_wr)
        return true; /* send returns the error */
    if (tx_is_bulk(s) && !tx_turn(c, s))
        return false;
    if (s->tx_out == 0)
        return ffl_pool_has_any(&c->tx);
    uint64_t limit = tx_share(c, s);
    return s->tx_out <= (s->waiting_w ? limit / 2 : limit - 1) && limit > 0;
}

void tx_wait(struct ffl_client *c, struct client_sock *s)
{
    s->want_w = true;
    if (s->waiting_w)
        return;
    s->waiting_w = true;
    s->wait_next = NULL;
    if (!c->waiters)
        c->tx_unwritable = tx_unwritable(c);
    *c->waiters_end = s;
    c->waiters_end = &s->wait_next;
    c->bulk_waiters += tx_is_bulk(s);
    if (tx_writable(c, s)) /* tx_unwritable moved meanwhile */
        client_wake_writers(c);
}

void ffl_client_want_room(struct ffl_client *c, int h)
{
    struct client_sock *s = client_sock(c, h);
    if (s && !c->detached && !s->connecting && !tx_writable(c, s))
        tx_wait(c, s);
}

unsigned ffl_client_ready(const struct ffl_client *c, int h)
{
    const struct client_sock *s = client_sock(c, h);
    if (!s || s->connecting)
        return 0;
    return (rx_readable(s) ? 1u : 0) | (!s->listener && tx_writable(c, s) ? 2u : 0);
}

int ffl_client_pending(const struct ffl_client *c, int h, struct ffl_pending *out)
{
    const struct client_sock *s = client_sock(c, h);
    if (!s)
        return -EBADF;
    *out = (struct ffl_pending){.accepts = s->acc_n + s->offered,
                                .eof = s->eof,
                                .error = s->error,
                                .send_error = s->send_error};
    for (const struct rx_item *it = s->rx_head; it; it = it->next)
        out->bytes += it->len - ffl_front_bytes(it->flags);
    uint64_t limit = tx_share(c, s);
    if (!s->listener && limit > s->tx_out)
        out->room = (uint32_t)(limit - s->tx_out);
    return 0;
}

uint32_t ffl_client_unsent(const struct ffl_client *c, int h)
{
    const struct client_sock *s = client_sock(c, h);
    return s ? s->tx_out : 0;
}

/* ---- pacing -------------------------------------------------------------------------------- */

int64_t ffl_client_ahead(struct ffl_client *c, size_t len)
{
    if (ffl_likely(len < PACED_FROM || on_the_way(c) < AHEAD) || c->detached || c->driver ||
        c->paced_ns >= ROUND_PACE_NS)
        return 0;
    client_reap(c);
    return on_the_way(c) >= AHEAD && ffl_now_ns() >= c->paces_from ? PACE_NS : 0;
}

/* True: it slept for returned buffers, or need not. False: the session has ended. */
static bool sleep_for_room(struct ffl_client *c, int64_t left_ns)
{
    struct epoll_event ev[2];
    int n = 0;
    if (ffl_channel_doze(&c->ch, FFL_WAIT_FREE) > 0 && on_the_way(c) > AHEAD / 2) {
        ffl_stat_add(&c->map.seg->app.sleeps, 1);
        n = ffl_epoll_wait(c->own_epfd, ev, FFL_COUNT(ev), left_ns);
    }
    ffl_sleep_rouse(c);
    while (n > 0)
        if (ev[--n].data.fd == c->sock)
            return false; /* the next wait tells why */
    return true;
}

static void pace_later(struct ffl_client *c)
{
    c->paces_from = ffl_now_ns() + UNPACED_NS;
}

/* An instance that took nothing in that time will not be waited for again soon. */
void ffl_client_pace(struct ffl_client *c, int64_t most_ns)
{
    int64_t began = ffl_now_ns(), left = most_ns, before = on_the_way(c);
    while (on_the_way(c) > AHEAD / 2 && left > 0 && sleep_for_room(c, left)) {
        client_reap(c);
        left = most_ns - (ffl_now_ns() - began);
    }
    if (on_the_way(c) >= before)
        pace_later(c);
}

void ffl_client_paced(struct ffl_client *c, int64_t ns)
{
    c->paced_ns += ns;
    if (ns >= 2 * PACE_NS)
        pace_later(c);
}

/* ---- submitting ---------------------------------------------------------------------------- */

static int take_send_error(struct client_sock *s)
{
    int err = s->send_error ? s->send_error : EPIPE; /* as Linux: the error once, then EPIPE */
    s->send_error = 0;
    return -err;
}

static int send_check(struct ffl_client *c, int h, struct client_sock **out)
{
    struct client_sock *s = *out = client_sock(c, h);
    if (ffl_unlikely(c->detached))
        return -c->detached;
    if (ffl_unlikely(!s))
        return -EBADF;
    if (ffl_unlikely(s->open_error || s->error))
        return s->open_error ? -s->open_error : client_take_error(s);
    if (ffl_unlikely(s->unsendable))
        return take_send_error(s);
    if (ffl_unlikely(s->failed || s->shut_wr))
        return -EPIPE;
    return 0;
}

static void put_send(struct ffl_client *c, struct client_sock *s, uint32_t buf, uint32_t len,
                     uint8_t flags)
{
    uint32_t slot = ffl_buf_slot(&c->tx.geo, buf);
    c->tx_handle[slot] = s->handle;
    c->tx_serial[slot] = s->serial;
    s->tx_out += ffl_buf_size(buf);
    ffl_stat_add(&c->map.seg->app.bytes_sent, len);
    client_put(c, (struct ffl_entry){.op = FFL_OP_SEND,
                                     .flags = flags,
                                     .handle = s->handle,
                                     .arg = (int32_t)len,
                                     .buf = buf});
}

static uint32_t want_for(size_t left)
{
    if (left <= ffl_class_size(1))
        return (uint32_t)left;
    return ffl_class_size(left < BULK_FROM ? 1 : 2);
}

/* The largest buffer size within `room`; the smallest size, if none is. */
static uint32_t fitting(uint64_t room)
{
    unsigned cls = FFL_CLASSES - 1;
    while (cls > 0 && ffl_class_size(cls) > room)
        cls--;
    return ffl_class_size(cls);
}

/* For a stream that wants more than its share of a low pool: a smaller buffer, within the share;
 * the smallest size in any case for a socket without unsent bytes. */
static uint32_t tx_take_part(struct ffl_client *c, const struct client_sock *s, uint64_t share)
{
    if (!s->tx_out)
        return ffl_pool_get(&c->tx, fitting(share));
    uint64_t room = share > s->tx_out ? share - s->tx_out : 0;
    uint32_t buf =
        room < ffl_class_size(0) ? FFL_NO_BUF : ffl_pool_get_spare(&c->tx, fitting(room));
    if (buf != FFL_NO_BUF && ffl_buf_size(buf) > room) { /* only larger buffers are left */
        (void)ffl_pool_put(&c->tx, buf);
        buf = FFL_NO_BUF;
    }
    return buf;
}

static uint32_t tx_take(struct ffl_client *c, const struct client_sock *s, uint32_t want, bool part)
{
    bool first = s->tx_out == 0 && !s->waiting_w;
    if (want == ffl_class_size(2) && part && !first && !tx_turn(c, s))
        return FFL_NO_BUF;
    uint64_t share = tx_share(c, s);
    if (ffl_unlikely(part && share < c->tx_cap && s->tx_out + (uint64_t)want > share))
        return tx_take_part(c, s, share);
    if (s->tx_out == 0)
        return ffl_pool_get(&c->tx, want);
    return s->tx_out < share ? ffl_pool_get_spare(&c->tx, want) : FFL_NO_BUF;
}

/* A transmit buffer, if the socket may have another; reaps returned buffers before it fails.
 * `part`: a smaller buffer will do. */
static uint32_t tx_get(struct ffl_client *c, struct client_sock *s, uint32_t want, bool part)
{
    uint32_t buf = tx_take(c, s, want, part);
    if (ffl_likely(buf != FFL_NO_BUF))
        return buf;
    client_look(c);
    buf = tx_take(c, s, want, part);
    if (buf == FFL_NO_BUF && c->tx.free_bytes < want)
        ffl_stat_add(&c->map.seg->app.pool_empty, 1);
    return buf;
}

/* Copies `n` bytes from the cursor (iov, off) on. False: a bad pointer. */
static bool gather(const struct ffl_client *c, uint8_t *to, uint32_t n, const struct iovec **iov,
                   size_t *off)
{
    while (n) {
        size_t part = (*iov)->iov_len - *off;
        if (part > n)
            part = n;
        if (ffl_unlikely(!c->copy(to, (const char *)(*iov)->iov_base + *off, part)))
            return false;
        to += part;
        n -= (uint32_t)part;
        *off += part;
        if (*off == (*iov)->iov_len) {
            (*iov)++;
            *off = 0;
        }
    }
    return true;
}

int64_t ffl_client_sendv(struct ffl_client *c, int h, const struct iovec *iov, int n,
                         unsigned flags)
{
    struct client_sock *s;
    int rc = send_check(c, h, &s);
    if (rc < 0)
        return rc;
    size_t len = 0, off = 0;
    for (int i = 0; i < n; i++)
        len += iov[i].iov_len;
    size_t left = len;
    while (left) {
        uint32_t buf = tx_get(c, s, want_for(left), true);
        if (buf == FFL_NO_BUF)
            break;
        uint32_t part = ffl_buf_size(buf) < left ? ffl_buf_size(buf) : (uint32_t)left;
        uint8_t *to = (uint8_t *)c->map.seg + ffl_buf_off(&c->tx.geo, buf);
        if (ffl_unlikely(!gather(c, to, part, &iov, &off))) {
            (void)ffl_pool_put(&c->tx, buf); /* cannot fail: just taken */
            rc = -EFAULT;
            break;
        }
        put_send(c, s, buf, part, (uint8_t)flags);
        left -= part;
        if ((len - left) % COMMIT_EVERY == 0)
            client_commit(c);
    }
    client_commit(c);
    if (ffl_unlikely(rc < 0))
        return left == len ? rc : (int64_t)(len - left);
    s->tx_left = left;
    if (left)
        tx_wait(c, s);
    return left == len && len ? -EAGAIN : (int64_t)(len - left);
}

int64_t ffl_client_send_from(struct ffl_client *c, int h, size_t len,
                             int64_t (*fill)(void *to, size_t len, void *arg), void *arg,
                             unsigned flags)
{
    struct client_sock *s;
    int rc = send_check(c, h, &s);
    if (rc < 0)
        return rc;
    uint32_t buf = tx_get(c, s, want_for(len), true);
    s->tx_left = buf == FFL_NO_BUF ? len : 0;
    if (buf == FFL_NO_BUF) {
        tx_wait(c, s);
        return -EAGAIN;
    }
    uint32_t room = ffl_buf_size(buf);
    int64_t n =
        fill((char *)c->map.seg + ffl_buf_off(&c->tx.geo, buf), room < len ? room : len, arg);
    if (n > 0)
        put_send(c, s, buf, (uint32_t)n, (uint8_t)flags);
    else
        (void)ffl_pool_put(&c->tx, buf); /* cannot fail: just taken */
    client_commit(c);
    return n;
}

int64_t ffl_client_send(struct ffl_client *c, int h, const void *data, size_t len)
{
    return ffl_client_sendv(c, h, &(struct iovec){(void *)(uintptr_t)data, len}, 1, 0);
}

/* A transmit buffer of `bytes` or more, or FFL_NO_BUF. */
static uint32_t tx_whole(struct ffl_client *c, struct client_sock *s, size_t bytes)
{
    uint32_t buf = tx_get(c, s, (uint32_t)bytes, false);
    if (buf != FFL_NO_BUF && ffl_buf_size(buf) < bytes) { /* only smaller buffers are left */
        (void)ffl_pool_put(&c->tx, buf);
        buf = FFL_NO_BUF;
    }
    return buf;
}

int ffl_client_sendable(const struct ffl_dgram *d)
{
    return d->addr.family && !d->addr.port_be ? -EINVAL : ffl_ctl_check(&d->ctl);
}

int64_t ffl_client_sendmsg(struct ffl_client *c, int h, const struct ffl_dgram *d)
{
    struct client_sock *s;
    int rc = send_check(c, h, &s);
    if (rc < 0)
        return rc;
    uint8_t flags = (d->addr.family ? FFL_F_ADDR : 0) | (d->ctl.len ? FFL_F_CTL : 0);
    uint32_t front = ffl_front_bytes(flags);
    if (d->len > 65507 || d->len + front > ffl_class_size(2))
        return -EMSGSIZE;
    if ((rc = ffl_client_sendable(d)) < 0)
        return rc;
    uint32_t buf = tx_whole(c, s, d->len + front);
    if (buf == FFL_NO_BUF) {
        tx_wait(c, s);
        return -EAGAIN;
    }
    char *p = (char *)c->map.seg + ffl_buf_off(&c->tx.geo, buf);
    size_t skip = flags & FFL_F_ADDR ? sizeof(d->addr) : 0;
    memcpy(p, &d->addr, skip);
    memcpy(p + skip, &d->ctl, front - skip);
    if (ffl_unlikely(!c->copy(p + front, d->data, d->len))) {
        (void)ffl_pool_put(&c->tx, buf); /* cannot fail: just taken */
        return -EFAULT;
    }
    put_send(c, s, buf, (uint32_t)d->len + front, flags);
    client_commit(c);
    return (int64_t)d->len;
}

int64_t ffl_client_sendto(struct ffl_client *c, int h, const void *data, size_t len,
                          const struct ffl_addr *to)
{
    struct ffl_dgram d;
    d.data = (void *)(uintptr_t)data;
    d.len = len;
    d.addr = to ? *to : (struct ffl_addr){0};
    d.ctl.len = 0;
    return ffl_client_sendmsg(c, h, &d);
}

int ffl_client_shutdown(struct ffl_client *c, int h, int how)
{
    struct client_sock *s = client_sock(c, h);
    if (c->detached)
        return -c->detached;
    if (!s)
        return -EBADF;
    if (how < SHUT_RD || how > SHUT_RDWR)
        return -EINVAL;
    if (s->type == SOCK_STREAM && (s->failed || s->unsendable)) /* as after a reset */
        return -ENOTCONN;
    if (how != SHUT_RD)
        s->shut_wr = true;
    client_submit(c,
                  (struct ffl_entry){
                      .op = FFL_OP_SHUTDOWN, .handle = s->handle, .arg = how, .buf = FFL_NO_BUF});
    return 0;
}
