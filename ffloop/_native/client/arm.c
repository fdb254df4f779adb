/*
 * arm.c - readiness of a socket, and reading ahead: on, off, once, shown by a placeholder.
 *
 * Callers: client.h's users; reap.c and wait.c, which tell of changes.
 */
#include "internal.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

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
           (s->shut_wr ? FFL_ST_SHUT_WR : 0) | (client_reports(s) ? FFL_ST_REPORT : 0);
}

uint32_t client_sock_ask(struct ffl_source *own, const struct ffl_watch *w)
{
    struct client_sock *s = ffl_container_of(own, struct client_sock, own);
    unsigned st = s->closing ? 0 : ffl_client_state(s->c, (int)s->handle);
    if (w->events & EPOLLOUT && !(st & FFL_ST_WRITE))
        ffl_client_want_room(s->c, (int)s->handle);
    return (st & FFL_ST_READ ? EPOLLIN : 0) | (st & FFL_ST_WRITE ? EPOLLOUT : 0) |
           (st & FFL_ST_EOF ? EPOLLRDHUP : 0) |
           (st & (FFL_ST_ERROR | FFL_ST_REPORT) ? EPOLLERR : 0) |
           (st & FFL_ST_FAILED ? EPOLLHUP : 0);
}

void client_sock_arm(struct ffl_client *c, struct client_sock *s)
{
    if (s->listener) {
        client_sock_accept_ahead(c, s);
        return;
    }
    if (client_armed(s) || s->eof || s->failed)
        return;
    s->armed = c->arming;
    client_submit(c, client_entry(FFL_OP_ARM, s->handle));
}

int ffl_client_arm(struct ffl_client *c, int h, int window)
{
    struct client_sock *s = client_sock(c, h);
    if (!s)
        return -EBADF;
    if (s->listener && s->window < (uint32_t)window)
        s->window = (uint32_t)window;
    client_sock_arm(c, s);
    return 0;
}

int ffl_client_look(struct ffl_client *c, int h)
{
    struct client_sock *s;
    int rc = client_find(c, h, &s);
    if (rc < 0 || rx_readable(s) || s->connecting || (s->listener ? s->asking : client_armed(s)))
        return rc;
    client_sock_arm(c, s);
    return ffl_client_catch_up(c);
}

int ffl_client_push(struct ffl_client *c, int h, bool on)
{
    struct client_sock *s;
    int rc = client_find(c, h, &s);
    if (rc < 0)
        return rc;
    s->push = on;
    if (on) {
        client_sock_arm(c, s);
        if (s->rx_head || s->eof || s->give_error)
            client_sock_tell(s, CLIENT_SOCK_READ);
        return 0;
    }
    if (client_armed(s) && s->placeholder < 0) { /* it stays armed for its placeholder */
        s->armed = 0;
        client_submit(c, client_entry(FFL_OP_DISARM, s->handle));
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
    int rc = client_find(c, h, &s);
    if (rc < 0)
        return rc;
    if (filters & 1u) {
        s->want_r = true;
        client_sock_arm(c, s);
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

int ffl_client_placeholder(struct ffl_client *c, int h, int fd)
{
    struct client_sock *s;
    int rc = client_find(c, h, &s);
    if (rc < 0)
        return rc;
    s->placeholder = fd;
    s->shows = false;
    client_sock_arm(c, s);
    placeholder_update(s);
    return 0;
}
