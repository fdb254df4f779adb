/*
 * ticket.c - sockets for another process, which may not exist yet (handshake.h, instance/ticket.c).
 *
 * Callers: the shim, for fork, exec and SCM_RIGHTS. The exporting process gives back what was read
 * ahead, puts references to its sockets into a ticket, and closes its descriptor of the ticket; the
 * other process attaches through the ticket and imports the sockets that it uses.
 */
#include "internal.h"

#include "limit.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TELL_TIMEOUT_MS 10000

int ffl_client_ticket(const struct ffl_client_opts *o, struct ffl_ticket *out, char *why,
                      size_t whylen)
{
    struct ffl_hello h = {.magic = FFL_MAGIC, .version = FFL_ABI_VERSION, .kind = FFL_HELLO_TICKET};
    struct ffl_reply r;
    why[0] = '\0';
    int s = client_connect(o, why, whylen);
    if (s < 0)
        return s;
    int rc = client_shake_hands(s, &h, &r, NULL, 0, o, why, whylen);
    if (rc < 0) {
        close(s);
        return rc;
    }
    *out =
        (struct ffl_ticket){.fd = o->place_fd ? o->place_fd(s) : s, .id = r.session, .key = r.key};
    return out->fd < 0 ? out->fd : 0;
}

/* Sends a message on the ticket; waits for room. */
static int tell(int ticket, const struct ffl_ticket_msg *m, const int *fds, int nfds)
{
    struct pollfd p = {.fd = ticket, .events = POLLOUT};
    struct ffl_limit limit = ffl_limit(TELL_TIMEOUT_MS);
    int rc, ms;
    while ((rc = ffl_msg_send(ticket, m, sizeof(*m), fds, nfds)) == -EAGAIN) {
        if ((ms = ffl_limit_sleep_ms(&limit)) == 0)
            return -ETIMEDOUT;
        (void)poll(&p, 1, ms); /* fails: the next try says it */
    }
    return rc;
}

int ffl_ticket_send(int fd, enum ffl_ticket_what what, const uint32_t *handles, uint32_t n)
{
    do {
        struct ffl_ticket_msg m = {.what = what};
        m.n = n < FFL_COUNT(m.handles) ? n : (uint32_t)FFL_COUNT(m.handles);
        for (uint32_t i = 0; i < m.n; i++)
            m.handles[i] = *handles++;
        int rc = tell(fd, &m, NULL, 0);
        if (rc < 0)
            return rc;
        n -= m.n;
    } while (n);
    return 0;
}

/* Sends one end of a new socketpair to the instance, in place of a connect: the other end, or
 * -errno. */
int client_connect_via(int ticket)
{
    struct ffl_ticket_msg m = {.what = FFL_TICKET_CONNECT};
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return -errno;
    int rc = tell(ticket, &m, &ends[1], 1);
    close(ends[1]);
    if (rc >= 0)
        return ends[0];
    close(ends[0]);
    return rc;
}

bool ffl_client_disarm(struct ffl_client *c, int h)
{
    struct client_sock *s = client_sock(c, h);
    if (!s || c->detached || (s->listener ? !s->window || s->paused : !client_armed(s)))
        return false;
    s->paused = s->listener;
    s->asking = false;
    s->armed = c->arming - 1; /* for rearm */
    client_submit(c, client_entry(FFL_OP_DISARM, s->handle));
    return true;
}

/* Gives the head of the socket's queue back in one buffer: of a stream up to a buffer's size, else
 * one datagram with its sender. 0 or -errno. */
static int give_one(struct ffl_client *c, struct client_sock *s)
{
    bool dgram = s->type == SOCK_DGRAM;
    uint8_t flags = dgram ? s->rx_head->flags : 0;
    uint32_t want = dgram ? s->rx_head->len : ffl_class_size(1), buf = client_buf(c, want);
    if (buf == FFL_NO_BUF)
        return -ENOBUFS;
    uint32_t size = ffl_buf_size(buf);
    char *to = (char *)c->map.seg + ffl_buf_off(&c->tx.geo, buf);
    if (dgram && size < want) {
        (void)ffl_pool_put(&c->tx, buf); /* cannot fail: just taken */
        return -ENOBUFS;
    }
    uint32_t n = client_sock_take_queued(c, s, to, size);
    client_submit(c, (struct ffl_entry){.op = FFL_OP_UNREAD,
                                        .flags = flags,
                                        .handle = s->handle,
                                        .arg = (int32_t)n,
                                        .buf = buf});
    return 0;
}

int client_give_back(struct ffl_client *c, struct client_sock *s)
{
    int rc = 0;
    while (s->rx_head && (rc = give_one(c, s)) == 0)
        ;
    if (rc < 0)
        return rc;
    s->eof = false; /* the instance completes the end again, after the data; or the error */
    if (s->failed && s->type == SOCK_STREAM) {
        s->failed = false;
        s->unsendable = true;
        s->send_error = s->error ? s->error : s->send_error;
        s->error = 0;
    }
    return 0;
}

static size_t queued(const struct client_sock *s)
{
    size_t n = 0;
    for (const struct rx_item *it = s->rx_head; it; it = it->next)
        n += it->len;
    return n;
}

int ffl_client_give_back(struct ffl_client *c, int h)
{
    struct client_sock *s = client_sock(c, h);
    bool accepted = s && s->acc_head;
    if (accepted)
        client_sock_return_queue(c, s);
    if (!s || c->detached || !s->rx_head)
        return accepted;
    size_t all = queued(s), had = SIZE_MAX;
    int rc = client_give_back(c, s);
    while (rc == -ENOBUFS && queued(s) < had && ffl_client_ping(c) == 0) {
        had = queued(s); /* the instance has taken the data: the buffers are free */
        rc = client_give_back(c, s);
    }
    if (rc == -ENOBUFS && queued(s) < all) /* the rest would come in the wrong order */
        client_lose(c, ENOBUFS, "no buffer to give received bytes back in");
    return rc < 0 ? rc : 1;
}

/* Submits an operation that names the ticket. 0 or -errno. */
static int submit_ticket(struct ffl_client *c, enum ffl_op op, uint8_t flags, uint32_t handle,
                         const struct ffl_ticket *t)
{
    struct ffl_import x = {.key = t->key, .ticket = t->id};
    uint32_t buf = c->detached ? FFL_NO_BUF : client_arg(c, &x, sizeof(x));
    if (buf == FFL_NO_BUF && ffl_client_ping(c) == 0) /* brings buffers back */
        buf = client_arg(c, &x, sizeof(x));
    if (buf == FFL_NO_BUF)
        return c->detached ? -c->detached : -ENOBUFS;
    client_submit(
        c, (struct ffl_entry){.op = (uint8_t)op, .flags = flags, .handle = handle, .buf = buf});
    return 0;
}

int ffl_client_export(struct ffl_client *c, int h, const struct ffl_ticket *t)
{
    return submit_ticket(c, FFL_OP_EXPORT, 0, (uint32_t)h, t);
}

int ffl_client_share(struct ffl_client *c, const struct ffl_ticket *t)
{
    int rc = submit_ticket(c, FFL_OP_SHARE, 0, 0, t);
    if (rc == 0)
        rc = ffl_client_ping(c); /* what was read ahead until then is here */
    c->arming++;
    return rc;
}

int ffl_client_share_some(struct ffl_client *c, const struct ffl_ticket *t, const uint32_t *handles,
                          uint32_t n)
{
    int rc = submit_ticket(c, FFL_OP_SHARE, FFL_F_ARMED, 0, t);
    if (rc == 0)
        rc = ffl_client_ping(c); /* the marks are for what the ticket has */
    if (rc == 0)
        rc = ffl_ticket_send(t->fd, FFL_TICKET_MARK, handles, n);
    return rc < 0 ? rc : ffl_ticket_send(t->fd, FFL_TICKET_SWEEP, NULL, 0);
}

bool ffl_client_holds_bytes(const struct ffl_client *c)
{
    return c->rx_outstanding || c->rx_moved;
}

void ffl_client_rearm(struct ffl_client *c, int h)
{
    struct client_sock *s = client_sock(c, h);
    if (s && (s->listener ? s->paused : s->armed + 1 == c->arming))
        client_sock_arm(c, s);
}

int ffl_client_import(struct ffl_client *c, const struct ffl_ticket *t, uint32_t handle, int domain,
                      int type, int proto)
{
    struct ffl_import i = {.key = t->key, .ticket = t->id, .handle = handle};
    if (c->detached)
        return -c->detached;
    uint32_t buf = client_arg(c, &i, sizeof(i));
    if (buf == FFL_NO_BUF)
        return -ENOBUFS;
    int h = client_sock_open(c, domain, type, proto);
    if (h < 0) {
        (void)ffl_pool_put(&c->tx, buf);
        return h;
    }
    struct client_sock *s = client_sock(c, h);
    /* Until the answer says no, or CONNECT is reaped, perhaps with the answer. */
    s->connecting = true;
    int rc = client_call(
        c, (struct ffl_entry){.op = FFL_OP_IMPORT, .handle = (uint32_t)h, .buf = buf}, NULL, 0);
    if (rc < 0) {
        (void)ffl_client_close(c, h, true);
        return rc;
    }
    s->listener = rc & FFL_IMPORT_LISTENER;
    s->shut_wr |= (rc & FFL_IMPORT_SHUT_WR) != 0; /* or SHUTDOWN was reaped with the answer */
    s->acc_flags = FFL_F_ARM_NEW | FFL_F_OFFER;   /* as in the shim's listen */
    if (!(rc & FFL_IMPORT_CONNECTING))
        s->connecting = false;
    return h;
}
