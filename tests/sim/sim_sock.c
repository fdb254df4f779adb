/*
 * sim_sock.c - the sim stack's socket calls, with Linux's answers.
 *
 * Callers: sim.c, which has found the socket. Nothing blocks. Errors that arrived (a reset, a
 * refusal) are given once, to whichever call comes next, as SO_ERROR would.
 */
#include "sim_internal.h"

#define DGRAM_MAX 65507
#define SEND_MAX (1u << 30)

static int take_error(struct sock *s)
{
    int err = s->error;
    s->error = 0;
    return -err;
}

static size_t iov_total(const struct iovec *iov, int n)
{
    size_t total = 0;
    for (int i = 0; i < n; i++)
        total += iov[i].iov_len;
    return total;
}

/* ---- listening and connecting -------------------------------------------------------------- */

int sim_do_listen(struct sock *s, int backlog)
{
    if (s->type != SOCK_STREAM)
        return -EOPNOTSUPP;
    if (s->state != SIM_FRESH && s->state != SIM_LISTENING)
        return -EINVAL;
    if (!s->bound) {
        int rc = sim_bind(s, &(struct ffl_addr){.family = s->domain});
        if (rc < 0)
            return rc;
    }
    if (s->state == SIM_FRESH && sim_port_taken(s, &s->local, true))
        return -EADDRINUSE;
    s->state = SIM_LISTENING;
    s->backlog = backlog < 0 || backlog > 4096 ? 4096 : (uint32_t)backlog;
    sim_promote(s);
    sim_load_listening(s->sim, s);
    return 0;
}

int sim_do_accept(struct sock *s, struct ffl_addr *peer)
{
    if (s->type != SOCK_STREAM)
        return -EOPNOTSUPP;
    if (s->state != SIM_LISTENING)
        return -EINVAL;
    struct sock *c = s->acc;
    if (!c)
        return -EAGAIN;
    int fd = sim_fd_new(s->sim, c);
    if (fd < 0)
        return fd; /* it waits in the queue */
    s->acc = c->wait;
    if (!s->acc)
        s->acc_end = &s->acc;
    s->acc_n--;
    s->sim->n.accepts++;
    *peer = c->remote;
    sim_drop(c); /* the queue's hold; the descriptor has one */
    sim_promote(s);
    return fd;
}

static int connect_dgram(struct sock *s, const struct ffl_addr *a)
{
    if (a->family == AF_UNSPEC) {
        s->remote = (struct ffl_addr){0};
        return 0;
    }
    if (a->family != s->domain)
        return -EAFNOSUPPORT;
    int rc = s->bound ? 0 : sim_bind(s, &(struct ffl_addr){.family = s->domain});
    if (rc < 0)
        return rc;
    s->remote = *a;
    if (ffl_addr_wildcard(&s->local))
        memcpy(s->local.ip, a->ip, sizeof(a->ip));
    return 0;
}

/* A connect to the wildcard address reaches this machine. */
static struct ffl_addr destination(const struct ffl_addr *a)
{
    struct ffl_addr to = *a;
    if (!ffl_addr_wildcard(a))
        return to;
    ffl_addr_set_loopback(&to);
    return to;
}

int sim_do_connect(struct sock *s, const struct ffl_addr *a)
{
    struct sim *m = s->sim;
    if (s->type == SOCK_DGRAM)
        return connect_dgram(s, a);
    if (s->state == SIM_CONNECTING)
        return -EALREADY;
    if (s->state == SIM_CONNECTED || s->state == SIM_LISTENING)
        return -EISCONN;
    if (a->family != s->domain)
        return -EAFNOSUPPORT;
    struct ffl_addr to = destination(a), plain = ffl_addr_plain(&to);
    if (m->nlocal && !sim_in(m->local, m->nlocal, &plain) && !sim_in(m->hole, m->nhole, &plain))
        return -ENETUNREACH;
    if (!s->bound) { /* every address is local, so the source is the destination, as on loopback */
        struct ffl_addr from = {.family = s->domain};
        int rc = sim_bind(s, &from);
        if (rc < 0)
            return rc;
    }
    if (ffl_addr_wildcard(&s->local))
        memcpy(s->local.ip, to.ip, sizeof(to.ip));
    s->remote = to;
    s->error = 0;
    s->outstanding = s->rx_len = s->rx_head = 0; /* of a connection before it, not read */
    s->fin_in = s->shut_rd = s->shut_wr = s->reset = s->blocked = false;
    s->state = SIM_CONNECTING;
    sim_send_event(m, SIM_EV_SYN, s, 0, NULL);
    return -EINPROGRESS;
}

int sim_do_shutdown(struct sock *s, int how)
{
    if (how != SHUT_RD && how != SHUT_WR && how != SHUT_RDWR)
        return -EINVAL;
    if (s->state == SIM_LISTENING) {
        if (how != SHUT_WR)
            sim_unlisten(s);
        return 0;
    }
    if (s->type == SOCK_DGRAM ? !s->remote.family : s->state != SIM_CONNECTED)
        return -ENOTCONN;
    if (how != SHUT_WR && !s->shut_rd) {
        s->shut_rd = true;
        sim_raise(s, FFL_READ);
    }
    if (how != SHUT_RD && !s->shut_wr) {
        s->shut_wr = true;
        sim_raise(s, FFL_WRITE);
        if (s->peer)
            sim_send_event(s->sim, SIM_EV_FIN, s->peer, 0, NULL);
    }
    return 0;
}

/* ---- sending ------------------------------------------------------------------------------- */

/* Room for n more bytes in the receiver's ring. */
static int rx_reserve(struct sock *s, uint32_t n)
{
    uint32_t used = s->rx_len + s->rx_flight, cap = s->rx_cap ? s->rx_cap : 512;
    if (used + n <= s->rx_cap)
        return 0;
    while (cap < used + n)
        cap *= 2;
    uint8_t *grown = malloc(cap);
    if (!grown)
        return -ENOBUFS;
    uint32_t first = s->rx_cap - s->rx_head;
    if (first > used)
        first = used;
    if (used) {
        memcpy(grown, s->rx + s->rx_head, first);
        memcpy(grown + first, s->rx, used - first);
    }
    free(s->rx);
    s->rx = grown;
    s->rx_cap = cap;
    s->rx_head = 0;
    return 0;
}

static void rx_append(struct sock *s, uint32_t at, const uint8_t *p, uint32_t n)
{
    uint32_t pos = (s->rx_head + at) & (s->rx_cap - 1), first = s->rx_cap - pos;
    if (first > n)
        first = n;
    memcpy(s->rx + pos, p, first);
    memcpy(s->rx, p + first, n - first);
}

static int transfer(struct sock *to, const struct iovec *iov, uint32_t n)
{
    if (to->closed)
        return 0; /* the reset will tell */
    if (!to->load) {
        int rc = rx_reserve(to, n);
        if (rc < 0)
            return rc;
    }
    uint32_t at = to->rx_len + to->rx_flight;
    for (uint32_t left = n; left > 0; iov++) {
        uint32_t part = iov->iov_len < left ? (uint32_t)iov->iov_len : left;
        if (to->load)
            sim_load_see(to->load, iov->iov_base, part);
        else if (part)
            rx_append(to, at, iov->iov_base, part);
        at += part;
        left -= part;
    }
    return 0;
}

static int send_stream(struct sock *s, const struct iovec *iov, int n)
{
    if (s->error)
        return take_error(s);
    if (s->state == SIM_CONNECTING)
        return -EAGAIN;
    if (s->state != SIM_CONNECTED || s->shut_wr || !s->peer)
        return -EPIPE;
    struct sock *p = s->peer;
    size_t want = iov_total(iov, n);
    uint32_t take = want < SEND_MAX ? (uint32_t)want : SEND_MAX;
    uint32_t room = s->outstanding < p->window ? p->window - s->outstanding : 0;
    if (want == 0)
        return 0;
    if (take > room)
        take = room;
    if (take < want)
        s->blocked = true;
    if (take == 0)
        return -EAGAIN;
    int rc = transfer(p, iov, take);
    if (rc < 0)
        return rc;
    s->sim->n.sends++;
    s->outstanding += take;
    p->rx_flight += take;
    sim_send_event(s->sim, SIM_EV_DATA, p, take, NULL);
    return (int)take;
}

static int send_dgram(struct sock *s, const struct iovec *iov, int n, const struct ffl_addr *to)
{
    if (s->error)
        return take_error(s);
    if (s->shut_wr)
        return -EPIPE;
    if (!to && !s->remote.family)
        return -EDESTADDRREQ;
    if (!to)
        to = &s->remote;
    if (to->family != s->domain)
        return -EAFNOSUPPORT;
    if (to->port_be == 0)
        return -EINVAL;
    size_t len = iov_total(iov, n);
    if (len > DGRAM_MAX)
        return -EMSGSIZE;
    int rc = s->bound ? 0 : sim_bind(s, &(struct ffl_addr){.family = s->domain});
    if (rc < 0)
        return rc;
    struct dgram *d = malloc(sizeof(*d) + len);
    if (!d)
        return -ENOBUFS;
    *d = (struct dgram){.from = s->local, .to = destination(to), .len = (uint32_t)len};
    if (ffl_addr_wildcard(&d->from))
        memcpy(d->from.ip, d->to.ip, sizeof(d->from.ip));
    uint8_t *at = d->data;
    for (int i = 0; i < n; i++) {
        if (iov[i].iov_len)
            memcpy(at, iov[i].iov_base, iov[i].iov_len);
        at += iov[i].iov_len;
    }
    s->sim->n.sends++;
    sim_send_event(s->sim, SIM_EV_DGRAM, s, 0, d);
    return (int)len;
}

int sim_do_send(struct sock *s, const struct iovec *iov, int n, const struct ffl_addr *to)
{
    return s->type == SOCK_STREAM ? send_stream(s, iov, n) : send_dgram(s, iov, n, to);
}

/* ---- receiving ----------------------------------------------------------------------------- */

static void rx_take(struct sock *s, uint8_t *p, uint32_t n)
{
    s->rx_len -= n;
    if (s->source) {
        sim_load_fill(s->source, s->source_pos, p, n);
        s->source_pos += n;
        return;
    }
    uint32_t first = s->rx_cap - s->rx_head;
    if (first > n)
        first = n;
    memcpy(p, s->rx + s->rx_head, first);
    memcpy(p + first, s->rx, n - first);
    s->rx_head = (s->rx_head + n) & (s->rx_cap - 1);
}

static int recv_stream(struct sock *s, const struct iovec *iov, int n)
{
    uint32_t got = 0;
    for (int i = 0; i < n && s->rx_len; i++) {
        uint32_t part = iov[i].iov_len < s->rx_len ? (uint32_t)iov[i].iov_len : s->rx_len;
        if (part)
            rx_take(s, iov[i].iov_base, part);
        got += part;
    }
    if (got) {
        s->sim->n.recvs++;
        if (s->peer)
            sim_send_event(s->sim, SIM_EV_WINDOW, s->peer, got, NULL);
        return (int)got;
    }
    if (s->rx_len || s->fin_in)
        return 0; /* no room was given, or the end */
    if (s->error)
        return take_error(s);
    if (s->shut_rd || s->state == SIM_OVER)
        return 0;
    return s->state == SIM_FRESH || s->state == SIM_LISTENING ? -ENOTCONN : -EAGAIN;
}

static int recv_dgram(struct sock *s, const struct iovec *iov, int n, struct ffl_addr *from,
                      int *flags)
{
    struct dgram *d = s->dq;
    if (s->error)
        return take_error(s);
    if (!d)
        return s->shut_rd ? 0 : -EAGAIN;
    uint32_t got = 0;
    for (int i = 0; i < n && got < d->len; i++) {
        uint32_t left = d->len - got;
        uint32_t part = iov[i].iov_len < left ? (uint32_t)iov[i].iov_len : left;
        if (part)
            memcpy(iov[i].iov_base, d->data + got, part);
        got += part;
    }
    if (from)
        *from = d->from;
    if (flags && got < d->len)
        *flags = MSG_TRUNC;
    s->dq = d->next;
    if (!s->dq)
        s->dq_end = &s->dq;
    s->dq_bytes -= d->len + SIM_DGRAM_OVERHEAD;
    free(d);
    s->sim->n.recvs++;
    return (int)got;
}

int sim_do_recv(struct sock *s, const struct iovec *iov, int n, struct ffl_addr *from, int *flags)
{
    if (flags)
        *flags = 0;
    if (s->type == SOCK_DGRAM)
        return recv_dgram(s, iov, n, from, flags);
    if (from)
        *from = (struct ffl_addr){0};
    return recv_stream(s, iov, n);
}
