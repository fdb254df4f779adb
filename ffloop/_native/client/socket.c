/*
 * socket.c - the life of a socket: open, bind, listen, accept, connect, options, addresses, close.
 *
 * Callers: client.h's users. Handles of [0, n) are ours, [n, 2n) the instance's (accepted sockets);
 * both are free again when CLOSED has been handed out.
 */
#include "internal.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define SNDBUF_LEAST 4608u /* bytes, Linux's limits */
#define SNDBUF_MOST (INT32_MAX / 2u)

/* ---- the table ----------------------------------------------------------------------------- */

struct client_sock *csock_new(struct ffl_client *c, uint32_t handle)
{
    struct client_sock *s = c->spare;
    if (s)
        c->spare = s->wait_next;
    else
        s = malloc(sizeof(*s));
    if (!s)
        return NULL;
    if (++c->serial == 0)
        c->serial = 1;
    *s = (struct client_sock){
        .c = c, .handle = handle, .serial = c->serial, .addresses_buf = FFL_NO_BUF, .mirror = -1};
    s->own.ask = csock_ask;
    s->source = &s->own;
    s->batch.events = FFL_WATCH_ALL;
    ffl_watch_add(&c->poll, s->source, &s->batch);
    c->table[handle] = s;
    c->open++;
    return s;
}

static void unwait(struct ffl_client *c, struct client_sock *s)
{
    for (struct client_sock **p = &c->waiters; *p; p = &(*p)->wait_next)
        if (*p == s) {
            *p = s->wait_next;
            if (!*p)
                c->waiters_end = p;
            return;
        }
}

static void drop_rx(struct ffl_client *c, struct client_sock *s)
{
    while (s->rx_head) {
        struct rx_item *it = s->rx_head;
        s->rx_head = it->next;
        client_release(c, it);
    }
    s->rx_tail = NULL;
    if (s->addresses_buf != FFL_NO_BUF) {
        client_release_buf(c, s->addresses_buf);
        s->addresses_buf = FFL_NO_BUF;
    }
}

void csock_free(struct ffl_client *c, struct client_sock *s)
{
    drop_rx(c, s);
    if (s->waiting_w)
        unwait(c, s);
    while (s->own.watches)
        ffl_watch_del(s->own.watches);
    c->table[s->handle] = NULL;
    c->open--;
    s->wait_next = c->spare;
    c->spare = s;
}

void handle_release(struct ffl_client *c, uint32_t handle)
{
    if (handle < c->n)
        ffl_ids_give(&c->ids, handle);
}

/* Its last completion was reaped: the handle may come back with the very next one. */
void csock_closed(struct ffl_client *c, struct client_sock *s)
{
    if (s->silent || c->quiet) { /* the handle is free at once */
        handle_release(c, s->handle);
        csock_free(c, s);
        return;
    }
    if (c->closed_n == c->cap_closed) {
        uint32_t cap = c->cap_closed ? c->cap_closed * 2 : 64;
        uint32_t *grown = realloc(c->closed, cap * sizeof(*grown));
        if (!grown) {
            client_lose(c, ENOMEM, "out of memory for events");
            return;
        }
        c->closed = grown;
        c->cap_closed = cap;
    }
    c->closed[c->closed_n++] = s->handle;
    csock_free(c, s);
}

/* The socket of a handle, or why a call on it fails. */
static int find(const struct ffl_client *c, int h, struct client_sock **s)
{
    *s = NULL;
    if (c->detached)
        return -c->detached;
    *s = client_sock(c, h);
    if (!*s)
        return -EBADF;
    return (*s)->open_error ? -(*s)->open_error : 0;
}

/* ---- open, bind, listen, connect ----------------------------------------------------------- */

int csock_open(struct ffl_client *c, int domain, int type, int proto)
{
    int h = ffl_ids_take(&c->ids);
    if (h < 0)
        return h;
    struct client_sock *s = csock_new(c, (uint32_t)h);
    if (!s) {
        ffl_ids_give(&c->ids, (uint32_t)h);
        return -ENOMEM;
    }
    s->domain = (uint8_t)domain;
    s->type = (uint8_t)type;
    s->proto = (uint8_t)proto;
    return h;
}

int ffl_client_socket(struct ffl_client *c, int domain, int type, int proto, unsigned flags)
{
    if (c->detached)
        return -c->detached;
    if (domain != AF_INET && domain != AF_INET6)
        return -EAFNOSUPPORT;
    if (type != SOCK_STREAM && type != SOCK_DGRAM)
        return -ESOCKTNOSUPPORT;
    if (proto < 0 || proto > 255)
        return -EPROTONOSUPPORT;
    int h = csock_open(c, domain, type, proto);
    if (h < 0)
        return h;
    client_submit(c, (struct ffl_entry){.op = FFL_OP_SOCKET,
                                        .flags = (uint8_t)(flags & FFL_F_NODELAY),
                                        .handle = (uint32_t)h,
                                        .arg = domain | type << 8 | proto << 16,
                                        .buf = FFL_NO_BUF});
    return h;
}

static int submit_addr(struct ffl_client *c, struct ffl_entry *e, const struct ffl_addr *a)
{
    e->buf = client_arg(c, a, sizeof(*a));
    return e->buf == FFL_NO_BUF ? -ENOBUFS : 0;
}

/* An operation that answers with the socket's addresses; without a buffer for them it is done all the
 * same, and they are asked for when they are wanted. */
static int take_answer(struct client_sock *s, int rc)
{
    if (rc == 0 || rc == -ENOBUFS)
        s->names_known = rc == 0;
    return rc == -ENOBUFS ? 0 : rc;
}

int ffl_client_bind(struct ffl_client *c, int h, const struct ffl_addr *a)
{
    struct client_sock *s;
    struct ffl_entry e = {.op = FFL_OP_BIND, .handle = (uint32_t)h};
    int rc = find(c, h, &s);
    if (rc == 0)
        rc = submit_addr(c, &e, a);
    if (rc < 0)
        return rc;
    return take_answer(s, client_call(c, e, &s->addresses, sizeof(s->addresses)));
}

int ffl_client_listen(struct ffl_client *c, int h, int backlog, unsigned flags)
{
    struct client_sock *s;
    int rc = find(c, h, &s);
    if (rc < 0)
        return rc;
    struct ffl_entry e = {.op = FFL_OP_LISTEN,
                          .flags = (uint8_t)(flags & FFL_F_NODELAY),
                          .handle = (uint32_t)h,
                          .arg = backlog,
                          .buf = FFL_NO_BUF};
    rc = take_answer(s, client_call(c, e, &s->addresses, sizeof(s->addresses)));
    s->listener = rc == 0;
    s->acc_flags = (uint8_t)(flags & FFL_F_ARM_NEW);
    return rc;
}

/* As Linux: the first call after the end tells it; later ones say that it is connected, or try again
 * (-EAGAIN: nothing is under way). */
static int connect_again(struct ffl_client *c, struct client_sock *s)
{
    if (s->connecting)
        client_look(c);
    if (s->connecting)
        return -EALREADY;
    bool tell = (s->connected || s->connect_result) && !s->connect_told;
    s->connect_told = true;
    if (tell) {
        s->error = 0;
        return -s->connect_result;
    }
    return s->connected ? -EISCONN : -EAGAIN;
}

int ffl_client_connect(struct ffl_client *c, int h, const struct ffl_addr *a)
{
    struct client_sock *s;
    struct ffl_entry e = {.op = FFL_OP_CONNECT, .handle = (uint32_t)h};
    int rc = find(c, h, &s);
    if (rc < 0)
        return rc;
    if (s->listener)
        return -EOPNOTSUPP;
    rc = connect_again(c, s);
    if (rc != -EAGAIN)
        return rc;
    rc = submit_addr(c, &e, a);
    if (rc < 0)
        return rc;
    s->connecting = true;
    s->give_connect = false;
    s->connect_result = 0;
    s->names_known = s->failed = s->unsendable = s->eof = s->eof_given = false;
    s->shut_wr &= s->type == SOCK_DGRAM; /* for good, whomever it is connected to */
    s->error = s->send_error = 0;
    client_submit(c, e);
    return -EINPROGRESS;
}

int ffl_client_addresses(struct ffl_client *c, int h, struct ffl_addresses *out)
{
    struct client_sock *s = client_sock(c, h);
    if (!s)
        return -EBADF;
    if (!s->names_known) {
        int rc = find(c, h, &s);
        if (rc == 0)
            rc = client_call(c,
                             (struct ffl_entry){
                                 .op = FFL_OP_ADDRESSES, .handle = (uint32_t)h, .buf = FFL_NO_BUF},
                             &s->addresses, sizeof(s->addresses));
        if (rc < 0)
            return rc;
        s->names_known = true;
    }
    *out = s->addresses;
    return 0;
}

/* ---- accept -------------------------------------------------------------------------------- */

static struct ffl_entry asks(struct client_sock *l, enum ffl_op op, uint32_t add)
{
    l->credits += add;
    l->asking = true;
    return (struct ffl_entry){.op = (uint8_t)op,
                              .flags = l->acc_flags | (l->alone ? FFL_F_ALONE : 0),
                              .handle = l->handle,
                              .arg = (int32_t)add,
                              .buf = FFL_NO_BUF};
}

static void submit_arm(struct ffl_client *c, struct client_sock *l, uint32_t add)
{
    client_submit(c, asks(l, FFL_OP_ARM, add));
}

static uint32_t missing_credit(const struct client_sock *l)
{
    uint32_t have = l->credits + l->acc_n;
    return have < l->window ? l->window - have : 0;
}

static struct ffl_entry take(struct client_sock *l)
{
    if (!l->window)
        l->window = 1;
    l->paused = false;
    return asks(l, FFL_OP_TAKE, missing_credit(l));
}

/* Without waiting for it: it comes as those that are accepted ahead. */
static void take_soon(struct ffl_client *c, struct client_sock *l)
{
    l->offered = false;
    client_submit(c, take(l));
}

void csock_grant(struct ffl_client *c, struct client_sock *l)
{
    uint32_t add = missing_credit(l);
    bool half = add && add * 2 >= l->window; /* an entry for many accepts */
    if (l->closing || l->paused)
        return;
    if (l->push && l->offered && l->acc_n < l->window)
        take_soon(c, l);
    else if (half)
        submit_arm(c, l, add);
}

void csock_offered(struct ffl_client *c, struct client_sock *l)
{
    l->offered = true;
    l->asking = false;
    if (l->closing)
        return;
    if (l->push)
        csock_grant(c, l);
    else if (!l->alone) /* who polls is told of each, as of an edge */
        submit_arm(c, l, 0);
    csock_tell(l, CSOCK_READ);
}

void csock_took(struct client_sock *l, int32_t what)
{
    l->offered = what == FFL_TAKE_MORE;
    l->asking = what == FFL_TAKE_NONE || (what == FFL_TAKE_LAST && !l->alone);
    if (!l->asking)
        csock_tell(l, CSOCK_READ); /* who waits is to ask again */
}

int ffl_client_accepting(struct ffl_client *c, int h, int window, unsigned flags)
{
    struct client_sock *s;
    int rc = find(c, h, &s);
    if (rc < 0)
        return rc;
    if (!s->listener || window < 0 || window > 1024)
        return -EINVAL;
    if (window) /* what is under way was accepted as it was said before */
        s->acc_flags = (uint8_t)(flags & FFL_F_ARM_NEW);
    s->window = (uint32_t)window;
    s->push = s->alone = window > 0;
    s->paused = false;
    if (s->push && s->offered)
        take_soon(c, s);
    else if (window) /* also with nothing to add: it may have been disarmed */
        submit_arm(c, s, missing_credit(s));
    else
        client_submit(
            c, (struct ffl_entry){.op = FFL_OP_DISARM, .handle = (uint32_t)h, .buf = FFL_NO_BUF});
    if (s->push && s->acc_head)
        csock_tell(s, CSOCK_READ);
    return 0;
}

int ffl_client_accept(struct ffl_client *c, int h, struct ffl_addresses *addresses)
{
    struct client_sock *l;
    int rc = find(c, h, &l);
    if (rc < 0)
        return rc;
    if (!l->listener)
        return -EINVAL;
    if (!l->acc_head)
        client_look(c);
    struct client_sock *s = l->acc_head;
    if (!s) {
        if (l->offered)
            take_soon(c, l);
        else if (!l->window || l->paused)
            csock_arm(c, l);
        return -EAGAIN;
    }
    l->acc_head = s->acc_next;
    if (!l->acc_head)
        l->acc_tail = NULL;
    s->acc_next = NULL;
    s->waits = false;
    l->acc_n--;
    csock_grant(c, l);
    if (addresses)
        *addresses = s->addresses;
    if (s->addresses_buf != FFL_NO_BUF) {
        client_release_buf(c, s->addresses_buf);
        s->addresses_buf = FFL_NO_BUF;
        client_commit(c);
    }
    mirror_update(l);
    return (int)s->handle;
}

bool ffl_client_asks(const struct ffl_client *c, int h)
{
    const struct client_sock *l = client_sock(c, h);
    return !l || l->asking || rx_readable(l);
}

void ffl_client_alone(struct ffl_client *c, int h, bool alone)
{
    struct client_sock *l = client_sock(c, h);
    if (!l || l->alone == alone)
        return;
    l->alone = alone;
    l->asking = false; /* it is to be said */
}

int ffl_client_take(struct ffl_client *c, int h)
{
    struct client_sock *l;
    int rc = find(c, h, &l);
    if (rc < 0)
        return rc;
    if (!l->listener)
        return -EINVAL;
    if (l->acc_head)
        return 0;
    client_look(c);
    while (rc >= 0 && !l->acc_head && (l->offered || !l->asking)) /* offered: while it was asked */
        rc = client_call(c, take(l), NULL, 0);
    return rc < 0 ? rc : l->acc_head ? 0 : -EAGAIN;
}

/* ---- readiness ----------------------------------------------------------------------------- */

int ffl_client_watch(struct ffl_client *c, int h, struct ffl_source *source)
{
    struct client_sock *s = client_sock(c, h);
    if (!s)
        return -EBADF;
    s->source = source;
    s->silent = true;
    return 0;
}

struct ffl_source *ffl_client_source(const struct ffl_client *c, int h)
{
    struct client_sock *s = client_sock(c, h);
    return s ? s->source : NULL;
}

unsigned ffl_client_state(const struct ffl_client *c, int h)
{
    const struct client_sock *s = client_sock(c, h);
    if (c->detached || !s)
        return FFL_ST_READ | FFL_ST_WRITE | FFL_ST_EOF | FFL_ST_ERROR | FFL_ST_FAILED;
    if (s->connecting)
        return FFL_ST_CONNECTING;
    return (rx_readable(s) ? FFL_ST_READ : 0) |
           (!s->listener && tx_writable(c, s) ? FFL_ST_WRITE : 0) | (s->eof ? FFL_ST_EOF : 0) |
           (s->error || s->send_error || s->open_error ? FFL_ST_ERROR : 0) |
           (s->failed || (s->unsendable && s->eof) ? FFL_ST_FAILED : 0) |
           (s->shut_wr ? FFL_ST_SHUT_WR : 0);
}

uint32_t csock_ask(struct ffl_source *own, const struct ffl_watch *w)
{
    struct client_sock *s = ffl_container_of(own, struct client_sock, own);
    unsigned st = s->closing ? 0 : ffl_client_state(s->c, (int)s->handle);
    if (w->events & EPOLLOUT && !(st & FFL_ST_WRITE))
        ffl_client_want_room(s->c, (int)s->handle);
    return (st & FFL_ST_READ ? EPOLLIN : 0) | (st & FFL_ST_WRITE ? EPOLLOUT : 0) |
           (st & FFL_ST_EOF ? EPOLLRDHUP : 0) | (st & FFL_ST_ERROR ? EPOLLERR : 0) |
           (st & FFL_ST_FAILED ? EPOLLHUP : 0);
}

/* ---- reading on and off -------------------------------------------------------------------- */

void csock_arm(struct ffl_client *c, struct client_sock *s)
{
    if (s->listener) {
        if (!s->window) /* pulled, not pushed: what it will not take is not lost */
            s->window = 1;
        if (s->paused || (!s->asking && !s->offered)) {
            s->paused = false;
            submit_arm(c, s, missing_credit(s));
        } else {
            csock_grant(c, s);
        }
        return;
    }
    if (s->armed || s->eof || s->failed)
        return;
    s->armed = true;
    client_submit(c, (struct ffl_entry){.op = FFL_OP_ARM, .handle = s->handle, .buf = FFL_NO_BUF});
}

int ffl_client_arm(struct ffl_client *c, int h, int window)
{
    struct client_sock *s = client_sock(c, h);
    if (!s)
        return -EBADF;
    if (s->listener && s->window < (uint32_t)window)
        s->window = (uint32_t)window;
    csock_arm(c, s);
    return 0;
}

int ffl_client_push(struct ffl_client *c, int h, bool on)
{
    struct client_sock *s;
    int rc = find(c, h, &s);
    if (rc < 0)
        return rc;
    s->push = on;
    if (on) {
        csock_arm(c, s);
        if (s->rx_head || s->eof || s->give_error)
            csock_tell(s, CSOCK_READ);
        return 0;
    }
    if (s->armed && s->mirror < 0) { /* a mirrored socket stays armed: its descriptor must tell */
        s->armed = false;
        client_submit(
            c, (struct ffl_entry){.op = FFL_OP_DISARM, .handle = s->handle, .buf = FFL_NO_BUF});
    }
    if (client_crowded(c)) {
        client_evacuate(c, s);
        client_commit(c);
    }
    return 0;
}

int ffl_client_want(struct ffl_client *c, int h, unsigned filters)
{
    struct client_sock *s;
    int rc = find(c, h, &s);
    if (rc < 0)
        return rc;
    if (filters & 1u) {
        s->want_r = true;
        csock_arm(c, s);
    }
    if (filters & 2u) {
        s->want_w = true;
        if (!s->connecting && !tx_writable(c, s))
            tx_wait(c, s);
    }
    if (!s->connecting && ffl_client_ready(c, h) & filters)
        ffl_watch_tell(&s->batch);
    return 0;
}

int ffl_client_mirror(struct ffl_client *c, int h, int fd)
{
    struct client_sock *s;
    int rc = find(c, h, &s);
    if (rc < 0)
        return rc;
    s->mirror = fd;
    s->mirrored = false;
    csock_arm(c, s);
    mirror_update(s);
    return 0;
}

/* ---- options ------------------------------------------------------------------------------- */

/* Cannot fail on a sound int: submitted without waiting. */
static bool sure_option(int level, int name, uint32_t len)
{
    if (len != sizeof(int))
        return false;
    if (level == SOL_SOCKET)
        return name == SO_KEEPALIVE || name == SO_REUSEADDR || name == SO_REUSEPORT;
    return level == IPPROTO_TCP && name == TCP_NODELAY;
}

/* As Linux: twice what was asked for, and not less than it takes. */
static uint32_t send_limit(const void *val)
{
    uint32_t n;
    memcpy(&n, val, sizeof(n));
    n = n > SNDBUF_MOST ? SNDBUF_MOST : n;
    return 2 * n < SNDBUF_LEAST ? SNDBUF_LEAST : 2 * n;
}

int ffl_client_setsockopt(struct ffl_client *c, int h, int level, int name, const void *val,
                          uint32_t len)
{
    struct client_sock *s;
    int rc = find(c, h, &s);
    if (rc < 0)
        return rc;
    if (len > FFL_OPT_MAX)
        return -EINVAL;
    struct ffl_optarg o = {.level = level, .name = name, .len = len};
    memcpy(o.data, val, len);
    struct ffl_entry e = {.op = FFL_OP_SETSOCKOPT, .handle = (uint32_t)h};
    e.buf = client_arg(c, &o, ffl_optarg_bytes(len));
    if (e.buf == FFL_NO_BUF)
        return -ENOBUFS;
    if (level == SOL_SOCKET && name == SO_SNDBUF && len >= sizeof(int))
        s->tx_limit = send_limit(val);
    if (!sure_option(level, name, len))
        return client_call(c, e, NULL, 0);
    client_submit(c, e);
    return 0;
}

int ffl_client_getsockopt(struct ffl_client *c, int h, int level, int name, void *val,
                          uint32_t *len)
{
    struct client_sock *s;
    int rc = find(c, h, &s);
    if (rc < 0)
        return rc;
    if (*len > FFL_OPT_MAX)
        *len = FFL_OPT_MAX;
    if (level == SOL_SOCKET && *len >= sizeof(int)) {
        int v = name == SO_TYPE         ? s->type
                : name == SO_DOMAIN     ? s->domain
                : name == SO_ACCEPTCONN ? s->listener
                : name == SO_ERROR      ? ffl_client_take_error(c, h)
                : name == SO_PROTOCOL   ? (s->proto                 ? s->proto
                                           : s->type == SOCK_STREAM ? IPPROTO_TCP
                                                                    : IPPROTO_UDP)
                                        : -1;
        if (v >= 0) {
            memcpy(val, &v, sizeof(v));
            *len = sizeof(v);
            return 0;
        }
    }
    struct ffl_optarg o = {.level = level, .name = name, .len = *len};
    struct ffl_entry e = {.op = FFL_OP_GETSOCKOPT, .handle = (uint32_t)h};
    e.buf = client_arg(c, &o, ffl_optarg_bytes(0));
    if (e.buf == FFL_NO_BUF)
        return -ENOBUFS;
    rc = client_call(c, e, &o, sizeof(o));
    if (rc < 0)
        return rc;
    if (o.len > *len)
        return -EPROTO;
    memcpy(val, o.data, o.len);
    *len = o.len;
    return 0;
}

int ffl_client_take_error(struct ffl_client *c, int h)
{
    struct client_sock *s = client_sock(c, h);
    if (!s)
        return 0;
    if (s->connecting)
        client_look(c);
    int err = s->error ? s->error : s->send_error ? s->send_error : s->open_error;
    s->error = s->send_error = 0;
    s->connect_told |= err != 0; /* the next connect tries again */
    mirror_update(s);
    return err;
}

void ffl_client_set_error(struct ffl_client *c, int h, int err)
{
    struct client_sock *s = client_sock(c, h);
    if (s)
        s->error = err;
}

/* ---- close --------------------------------------------------------------------------------- */

/* As epoll does for a socket that is closed. But for the batch, which gives CLOSED. */
static void unwatch(struct client_sock *s)
{
    struct ffl_watch *next;
    for (struct ffl_watch *w = s->own.watches; w; w = next) {
        next = w->next;
        if (w != &s->batch)
            ffl_watch_del(w);
    }
}

static void submit_close(struct ffl_client *c, struct client_sock *s, unsigned flags)
{
    s->closing = true;
    unwatch(s);
    s->source = &s->own; /* the caller's goes */
    s->give_connect = s->give_error = s->want_r = s->want_w = s->push = false;
    s->mirror = -1;
    drop_rx(c, s);
    if (c->detached) {
        if (!s->given)
            csock_free(c, s);
        return;
    }
    client_submit(c, (struct ffl_entry){.op = FFL_OP_CLOSE,
                                        .flags = (uint8_t)flags,
                                        .handle = s->handle,
                                        .arg = (int32_t)s->rx_taken,
                                        .buf = FFL_NO_BUF});
}

void csock_return(struct ffl_client *c, struct client_sock *s)
{
    if (!s->armed || c->detached) { /* nothing was read ahead */
        submit_close(c, s, FFL_F_ABORT | FFL_F_RETURN);
        return;
    }
    s->returning = true;
    client_put(c, (struct ffl_entry){.op = FFL_OP_DISARM, .handle = s->handle, .buf = FFL_NO_BUF});
    client_submit(
        c, (struct ffl_entry){.op = FFL_OP_ADDRESSES, .handle = s->handle, .buf = FFL_NO_BUF});
}

void csock_settle(struct ffl_client *c)
{
    while (c->settled) {
        struct client_sock *s = c->settled;
        c->settled = s->acc_next;
        bool whole = !s->failed && client_give_back(c, s) == 0;
        submit_close(c, s, FFL_F_ABORT | (whole ? FFL_F_RETURN : 0));
    }
}

void csock_return_queue(struct ffl_client *c, struct client_sock *l)
{
    while (l->acc_head) {
        struct client_sock *a = l->acc_head;
        l->acc_head = a->acc_next;
        a->acc_next = NULL;
        csock_return(c, a);
    }
    l->acc_tail = NULL;
    l->acc_n = 0;
}

int ffl_client_return(struct ffl_client *c, int h)
{
    struct client_sock *s = client_sock(c, h);
    if (!s)
        return -EBADF;
    csock_return(c, s);
    return 0;
}

void ffl_client_untake(struct ffl_client *c, int h, uint32_t bytes)
{
    struct client_sock *s = client_sock(c, h);
    if (s)
        s->rx_taken -= bytes;
}

int ffl_client_close(struct ffl_client *c, int h, bool abort)
{
    struct client_sock *s = client_sock(c, h);
    if (!s)
        return -EBADF;
    csock_return_queue(c, s);
    submit_close(c, s, abort ? FFL_F_ABORT : 0);
    return 0;
}
