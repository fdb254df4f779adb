/*
 * recv.c - receive: copies from the shared receive pool to the caller.
 *
 * Callers: client.h's users; ticket.c, errqueue.c.
 */
#include "internal.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

bool rx_readable(const struct client_sock *s)
{
    return s->rx_head || s->acc_head || s->offered || s->eof || s->error || s->failed;
}

int client_take_error(struct client_sock *s)
{
    int err = s->error;
    s->error = s->send_error = 0;
    s->give_error = false;
    if (s->failed)
        s->eof = true; /* as Linux: the error once, then end of stream */
    placeholder_update(s);
    return -err;
}

static const uint8_t *item_base(const struct ffl_client *c, const struct rx_item *it)
{
    return it->buf == FFL_NO_BUF
               ? it->heap
               : (const uint8_t *)c->map.seg + ffl_buf_off(&c->map.geo.rx, it->buf);
}

static void pop_item(struct ffl_client *c, struct client_sock *s)
{
    struct rx_item *it = s->rx_head;
    s->rx_head = it->next;
    if (!s->rx_head)
        s->rx_tail = NULL;
    client_release(c, it);
}

/* The control messages of the last bytes taken are for ffl_client_control. */
static void note_control(const struct ffl_client *c, struct client_sock *s,
                         const struct rx_item *it)
{
    struct client_beside *b = client_beside(s);
    if (!b)
        return;
    memcpy(&b->ctl, item_base(c, it), sizeof(b->ctl));
    if (b->ctl.len > FFL_CTL_MAX)
        b->ctl.len = FFL_CTL_MAX;
}

/* The bytes copied, from byte `skip` of the queue on; or -EFAULT: none. */
static int64_t recv_stream(struct ffl_client *c, struct client_sock *s, uint8_t *to, size_t len,
                           size_t skip, bool peek)
{
    size_t got = 0;
    struct rx_item *next;
    if (ffl_unlikely(s->beside != NULL))
        s->beside->ctl.len = 0;
    for (struct rx_item *it = s->rx_head; it && got < len; it = next) {
        next = it->next;
        if (ffl_unlikely(skip >= it->len)) {
            skip -= it->len;
            continue;
        }
        size_t n = it->len - skip < len - got ? it->len - skip : len - got;
        if (ffl_unlikely(!c->copy(to + got, item_base(c, it) + it->off + skip, n)))
            return got ? (int64_t)got : -EFAULT;
        if (ffl_unlikely(it->stamped))
            note_control(c, s, it);
        got += n;
        skip = 0;
        if (peek)
            continue;
        s->rx_taken += (uint32_t)n;
        it->off += (uint32_t)n;
        it->len -= (uint32_t)n;
        if (it->len == 0)
            pop_item(c, s);
    }
    return (int64_t)got;
}

int64_t client_item_out(struct ffl_client *c, const struct rx_item *it, size_t skip,
                        struct ffl_dgram *d)
{
    const uint8_t *data = item_base(c, it) + it->off;
    size_t addr = it->flags & FFL_F_ADDR ? sizeof(d->addr) : 0, front = ffl_front_bytes(it->flags);
    size_t n = it->len - front - skip, part = n < d->len ? n : d->len;
    memcpy(&d->addr, data, addr);
    memcpy(&d->ctl, data + addr, front - addr);
    if (d->ctl.len > FFL_CTL_MAX)
        d->ctl.len = FFL_CTL_MAX;
    d->flags = (n > d->len || it->flags & FFL_F_TRUNC ? MSG_TRUNC : 0) |
               (it->flags & FFL_F_CTL_CUT ? MSG_CTRUNC : 0);
    return c->copy(d->data, data + front + skip, part) ? (int64_t)part : -EFAULT;
}

static int64_t recv_dgram(struct ffl_client *c, struct client_sock *s, struct ffl_dgram *d,
                          size_t skip, bool peek)
{
    const struct rx_item *it = s->rx_head;
    for (size_t n; skip && it && skip >= (n = it->len - ffl_front_bytes(it->flags)); it = it->next)
        skip -= n;
    if (!it)
        return -EAGAIN;
    int64_t n = client_item_out(c, it, skip, d);
    if (!peek) /* also after a bad pointer */
        pop_item(c, s);
    return n;
}

uint32_t client_sock_take_queued(struct ffl_client *c, struct client_sock *s, void *to,
                                 uint32_t room)
{
    if (s->type == SOCK_STREAM) {
        uint32_t n = (uint32_t)recv_stream(c, s, to, room, 0, false);
        s->rx_taken -= n;
        return n;
    }
    uint32_t n = s->rx_head->len;
    memcpy(to, item_base(c, s->rx_head) + s->rx_head->off, n);
    pop_item(c, s);
    return n;
}

/* From the queue, which is not empty. SO_PEEK_OFF rises by the bytes peeked at, and falls by those
 * read. */
static int64_t from_queue(struct ffl_client *c, struct client_sock *s, struct ffl_dgram *d,
                          bool peek)
{
    struct ffl_own *own = s->beside && s->beside->own.peek_off >= 0 ? &s->beside->own : NULL;
    size_t skip = own && peek ? (size_t)own->peek_off : 0;
    int64_t n;
    if (s->type == SOCK_STREAM)
        n = recv_stream(c, s, d->data, d->len, skip, peek);
    else
        n = recv_dgram(c, s, d, skip, peek);
    if (ffl_unlikely(skip && n == 0 && d->len && s->type == SOCK_STREAM))
        return s->eof || s->failed ? 0 : -EAGAIN;
    if (ffl_unlikely(own != NULL) && n > 0) {
        int64_t at = own->peek_off + (peek ? n : -n);
        own->peek_off = at < 0 ? 0 : (int)at;
    }
    return n;
}

int64_t ffl_client_recvmsg(struct ffl_client *c, int h, struct ffl_dgram *d, int flags)
{
    struct client_sock *s = client_sock(c, h);
    d->flags = 0;
    d->addr = (struct ffl_addr){0};
    d->ctl.len = 0;
    if (c->detached)
        return -c->detached;
    if (!s)
        return -EBADF;
    if (s->open_error)
        return -s->open_error;
    if (ffl_unlikely(flags & MSG_ERRQUEUE))
        return client_take_report(c, s, d);
    if (!s->rx_head)
        client_look(c); /* data may be in the CQ */
    int64_t n = 0;
    if (s->rx_head)
        n = from_queue(c, s, d, flags & MSG_PEEK);
    else if (s->error)
        return client_take_error(s);
    else if (!s->eof && !s->failed)
        n = -EAGAIN;
    if (n == -EAGAIN) {
        client_sock_arm(c, s);
        return n;
    }
    if (ffl_unlikely(s->beside != NULL) && s->type == SOCK_STREAM)
        ffl_client_control(c, h, &d->ctl);
    client_commit(c);
    placeholder_update(s);
    return n;
}

int64_t ffl_client_recv(struct ffl_client *c, int h, void *data, size_t len, int flags,
                        struct ffl_addr *from, int *msg_flags)
{
    struct ffl_dgram d;
    d.data = data;
    d.len = len;
    int64_t n = ffl_client_recvmsg(c, h, &d, flags);
    if (from)
        *from = d.addr;
    if (msg_flags)
        *msg_flags = d.flags & MSG_TRUNC;
    return n;
}
