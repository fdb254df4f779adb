/*
 * socket.c - the life of a socket: open, bind, listen, connect, addresses, close.
 *
 * Callers: client.h's users. The client chooses handles in [0, n), the instance those of accepted
 * sockets in [n, 2n). A handle in [0, n) is free again when its CLOSED has been handed out.
 */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* ---- the table ----------------------------------------------------------------------------- */

struct client_sock *client_sock_new(struct ffl_client *c, uint32_t handle)
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
    *s = (struct client_sock){.c = c,
                              .handle = handle,
                              .serial = c->serial,
                              .addresses_buf = FFL_NO_BUF,
                              .placeholder = -1};
    s->own.ask = client_sock_ask;
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

void client_sock_free(struct ffl_client *c, struct client_sock *s)
{
    drop_rx(c, s);
    client_beside_free(s);
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

/* CLOSED was reaped: the next completion may bring an accepted socket's handle again. */
void client_sock_closed(struct ffl_client *c, struct client_sock *s)
{
    if (s->silent || c->quiet) { /* the handle is free at once */
        handle_release(c, s->handle);
        client_sock_free(c, s);
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
    client_sock_free(c, s);
}

int client_find(const struct ffl_client *c, int h, struct client_sock **s)
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

int client_sock_open(struct ffl_client *c, int domain, int type, int proto)
{
    int h = ffl_ids_take(&c->ids);
    if (h < 0)
        return h;
    struct client_sock *s = client_sock_new(c, (uint32_t)h);
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
    int h = client_sock_open(c, domain, type, proto);
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

/* The result of an operation that answers with the socket's addresses. An instance that did it and
 * had no buffer for them is asked for them by ffl_client_addresses. */
static int take_answer(struct ffl_client *c, struct client_sock *s, int rc)
{
    bool unnamed = rc == -ENOBUFS && c->call.done && c->call.res >= 0;
    if (rc == 0 || unnamed)
        s->names_known = !unnamed;
    return unnamed ? 0 : rc;
}

int ffl_client_bind(struct ffl_client *c, int h, const struct ffl_addr *a)
{
    struct client_sock *s;
    struct ffl_entry e = {.op = FFL_OP_BIND, .handle = (uint32_t)h};
    int rc = client_find(c, h, &s);
    if (rc == 0)
        rc = submit_addr(c, &e, a);
    if (rc < 0)
        return rc;
    return take_answer(c, s, client_call(c, e, &s->addresses, sizeof(s->addresses)));
}

/* Forgets a connection that has failed. */
static void begin_anew(struct client_sock *s)
{
    s->connect_result = 0;
    s->failed = s->unsendable = s->eof = s->eof_given = false;
    s->shut_wr &= s->type == SOCK_DGRAM; /* a datagram socket stays shut */
    if (s->type == SOCK_STREAM)          /* a datagram socket keeps its error, as the kernel's */
        s->error = s->send_error = 0;
}

int ffl_client_listen(struct ffl_client *c, int h, int backlog, unsigned flags)
{
    struct client_sock *s;
    int rc = client_find(c, h, &s);
    if (rc < 0)
        return rc;
    struct ffl_entry e = {.op = FFL_OP_LISTEN,
                          .flags = (uint8_t)(flags & FFL_F_NODELAY),
                          .handle = (uint32_t)h,
                          .arg = backlog,
                          .buf = FFL_NO_BUF};
    rc = take_answer(c, s, client_call(c, e, &s->addresses, sizeof(s->addresses)));
    if (rc == 0 && !s->listener)
        begin_anew(s);
    s->listener = rc == 0;
    s->acc_flags = (uint8_t)(flags & (FFL_F_ARM_NEW | FFL_F_OFFER));
    return rc;
}

int ffl_client_connect_result(struct ffl_client *c, int h)
{
    struct client_sock *s = client_sock(c, h);
    if (s && s->connecting)
        client_look(c);
    if (!s)
        return -EBADF;
    if (s->connecting)
        return c->detached ? -c->detached : -EALREADY;
    if (s->connect_told || !(s->connected || s->connect_result))
        return s->connected ? -EISCONN : -EAGAIN;
    s->connect_told = true;
    if (!s->failed && !s->connect_result)
        return 0;
    s->names_known = false; /* the stack has forgotten the address that it chose */
    int err = s->error;
    s->error = 0;
    return err ? -err : -ECONNABORTED;
}

int ffl_client_connect(struct ffl_client *c, int h, const struct ffl_addr *a)
{
    struct client_sock *s;
    struct ffl_entry e = {.op = FFL_OP_CONNECT, .handle = (uint32_t)h};
    int rc = client_find(c, h, &s);
    if (rc < 0)
        return rc;
    if (s->listener)
        return -EOPNOTSUPP;
    rc = ffl_client_connect_result(c, h);
    if (rc != -EAGAIN)
        return rc;
    rc = submit_addr(c, &e, a);
    if (rc < 0)
        return rc;
    s->connecting = true;
    s->give_connect = false;
    s->names_known = false;
    begin_anew(s);
    client_submit(c, e);
    return -EINPROGRESS;
}

int ffl_client_addresses(struct ffl_client *c, int h, struct ffl_addresses *out)
{
    struct client_sock *s = client_sock(c, h);
    if (!s)
        return -EBADF;
    if (!s->names_known) {
        int rc = client_find(c, h, &s);
        if (rc == 0)
            rc = client_call(c, client_entry(FFL_OP_ADDRESSES, (uint32_t)h), &s->addresses,
                             sizeof(s->addresses));
        if (rc < 0)
            return rc;
        s->names_known = true;
    }
    *out = s->addresses;
    return 0;
}

/* ---- close --------------------------------------------------------------------------------- */

/* Ends the watches of a closed socket, as epoll does; client_sock_free ends the batch's. */
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
    s->source = &s->own; /* the caller may free its source */
    s->give_connect = s->give_error = s->want_r = s->want_w = s->push = false;
    s->placeholder = -1;
    drop_rx(c, s);
    if (c->detached) {
        if (!s->given)
            client_sock_free(c, s);
        return;
    }
    client_submit(c, (struct ffl_entry){.op = FFL_OP_CLOSE,
                                        .flags = (uint8_t)flags,
                                        .handle = s->handle,
                                        .arg = (int32_t)s->rx_taken,
                                        .buf = FFL_NO_BUF});
}

/* Gives an accepted, unused socket, with the data read ahead, to a session that shares the
 * listener, or resets it. After a round trip the socket is in c->settled, for client_sock_settle to
 * close. */
static void sock_return(struct ffl_client *c, struct client_sock *s)
{
    if (!s->armed || c->detached) { /* nothing was read ahead */
        submit_close(c, s, FFL_F_ABORT | FFL_F_RETURN);
        return;
    }
    s->returning = true;
    client_put(c, client_entry(FFL_OP_DISARM, s->handle));
    client_submit(c, client_entry(FFL_OP_ADDRESSES, s->handle));
}

void client_sock_settle(struct ffl_client *c)
{
    while (c->settled) {
        struct client_sock *s = c->settled;
        c->settled = s->acc_next;
        bool whole = !s->failed && client_give_back(c, s) == 0;
        submit_close(c, s, FFL_F_ABORT | (whole ? FFL_F_RETURN : 0));
    }
}

void client_sock_return_queue(struct ffl_client *c, struct client_sock *l)
{
    while (l->acc_head) {
        struct client_sock *a = l->acc_head;
        l->acc_head = a->acc_next;
        a->acc_next = NULL;
        sock_return(c, a);
    }
    l->acc_tail = NULL;
    l->acc_n = 0;
}

int ffl_client_return(struct ffl_client *c, int h)
{
    struct client_sock *s = client_sock(c, h);
    if (!s)
        return -EBADF;
    sock_return(c, s);
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
    client_sock_return_queue(c, s);
    submit_close(c, s, abort ? FFL_F_ABORT : 0);
    return 0;
}
