/*
 * wait.c - events: the batch, and the wait for it.
 *
 * Callers: client.h's users; call.c for its own sleep. A wait first gives the last batch's buffers
 * back, so an event's data is valid until the next wait.
 */
#include "internal.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- the batch ----------------------------------------------------------------------------- */

static void batch_release(struct ffl_client *c)
{
    for (uint32_t i = 0; i < c->batch_n; i++) {
        if (!c->batch[i])
            continue; /* put back by unread */
        c->batch_sock[i]->given = NULL;
        client_release(c, c->batch[i]);
    }
    for (uint32_t i = 0; i < c->batch_addresses_n; i++)
        client_release_buf(c, c->batch_addresses[i]);
    c->batch_n = c->batch_addresses_n = 0;
}

int ffl_client_unread(struct ffl_client *c, int h)
{
    struct client_sock *s = client_sock(c, h);
    if (!s || !s->given)
        return -EINVAL;
    for (uint32_t i = 0; i < c->batch_n; i++)
        if (c->batch[i] == s->given)
            c->batch[i] = NULL;
    s->rx_taken -= s->given->len;
    s->given->next = s->rx_head;
    s->rx_head = s->given;
    if (!s->rx_tail)
        s->rx_tail = s->given;
    s->given = NULL;
    placeholder_update(s);
    if (s->push)
        client_sock_tell(s, CLIENT_SOCK_READ);
    return 0;
}

static void give_data(struct ffl_client *c, struct client_sock *s, struct ffl_event *ev)
{
    struct rx_item *it = s->rx_head;
    *ev = (struct ffl_event){.kind = FFL_EV_DATA, .handle = s->handle, .arg = it->len};
    if (it->buf == FFL_NO_BUF)
        return; /* off 0: the caller takes the bytes with recv */
    ev->off = ffl_buf_off(&c->map.geo.rx, it->buf) + it->off;
    s->rx_head = it->next;
    if (!s->rx_head)
        s->rx_tail = NULL;
    it->next = NULL;
    s->given = it;
    s->rx_taken += it->len;
    c->batch[c->batch_n] = it;
    c->batch_sock[c->batch_n++] = s;
}

static void give_accept(struct ffl_client *c, struct client_sock *l, struct ffl_event *ev)
{
    struct client_sock *s = client_sock_accepted(l);
    *ev = (struct ffl_event){.kind = FFL_EV_ACCEPT, .handle = l->handle, .arg = s->handle};
    if (s->addresses_buf != FFL_NO_BUF) {
        ev->off = ffl_buf_off(&c->map.geo.rx, s->addresses_buf);
        c->batch_addresses[c->batch_addresses_n++] = s->addresses_buf;
        s->addresses_buf = FFL_NO_BUF;
    }
}

/* ---- one socket's events ------------------------------------------------------------------- */

#define EVENTS_A_SOCKET 64 /* accepts per visit; other sockets give three events at most */

static int one(struct ffl_event *ev, enum ffl_event_kind kind, const struct client_sock *s,
               uint32_t arg)
{
    *ev = (struct ffl_event){.kind = kind, .handle = s->handle, .arg = arg};
    return 1;
}

static int push_events(struct ffl_client *c, struct client_sock *s, struct ffl_event *ev, int max,
                       bool *more)
{
    int n = 0;
    if (s->listener) {
        int limit = max < EVENTS_A_SOCKET ? max : EVENTS_A_SOCKET;
        while (s->acc_head && n < limit)
            give_accept(c, s, &ev[n++]);
        client_sock_grant(c, s);
        *more |= s->acc_head != NULL || (s->give_error && n == max);
        if (!s->acc_head && s->give_error && n < max) { /* the instance drains: no more accepts */
            s->give_error = false;
            n += one(&ev[n], FFL_EV_ERROR, s, (uint32_t)s->error);
        }
        return n;
    }
    if (s->rx_head && !s->given && max > 0)
        give_data(c, s, &ev[n++]);
    if (s->rx_head ||
        (s->given && (s->eof || s->give_error))) { /* the end comes in a later batch */
        *more = true;
        return n;
    }
    bool eof = s->eof && !s->eof_given;
    if (n == max) {
        *more |= eof || s->give_error;
    } else if (eof) { /* an error after the end is for send alone */
        s->eof_given = true;
        s->give_error = false;
        n += one(&ev[n], FFL_EV_EOF, s, 0);
    } else if (s->give_error) {
        s->give_error = false;
        n += one(&ev[n], FFL_EV_ERROR, s, (uint32_t)s->error);
        s->error = s->failed ? s->error : 0;
    }
    return n;
}

/* Fills ev with the events of `s`; sets *more when the socket must be visited again. */
static int sock_events(struct ffl_client *c, struct client_sock *s, struct ffl_event *ev, int max,
                       bool *more)
{
    int n = 0;
    if (s->closing)
        return 0;
    if (s->give_connect) {
        s->give_connect = false;
        s->connect_told = true;
        n += one(&ev[n], FFL_EV_CONNECT, s, (uint32_t)s->connect_result);
    }
    if (s->want_w && !s->connecting && !tx_writable(c, s)) {
        tx_wait(c, s); /* another socket has taken the room meanwhile */
    } else if (s->want_w && !s->connecting) {
        if (n == max) {
            *more = true;
            return n;
        }
        s->want_w = false;
        n += one(&ev[n], FFL_EV_WRITABLE, s, 0);
    }
    if (s->push) {
        n += push_events(c, s, ev + n, max - n, more);
        placeholder_update(s);
        return n;
    }
    if (s->want_r && rx_readable(s)) {
        if (n == max) {
            *more = true;
            return n;
        }
        s->want_r = false;
        n += one(&ev[n], FFL_EV_READABLE, s, 0);
    } else if (s->give_error && n < max) { /* also while paused */
        s->give_error = false;
        n += one(&ev[n], FFL_EV_ERROR, s, (uint32_t)s->error);
    }
    return n;
}

/* Visits each socket of the ready list once. */
static int collect(struct ffl_client *c, struct ffl_event *ev, int max)
{
    int n = 0;
    while (c->closed_n && n < max) {
        uint32_t h = c->closed[--c->closed_n];
        ev[n++] = (struct ffl_event){.kind = FFL_EV_CLOSED, .handle = h};
        handle_release(c, h);
    }
    const struct ffl_watch *last = c->poll.tail;
    struct ffl_watch *w = NULL;
    while (n < max && w != last && (w = ffl_poll_take(&c->poll))) {
        struct client_sock *s = ffl_container_of(w, struct client_sock, batch);
        bool more = false;
        n += sock_events(c, s, ev + n, max - n, &more);
        if (more)
            ffl_watch_tell(w);
    }
    if (c->detached && !c->poll.head && !c->lost_given && n < max) {
        c->lost_given = true;
        ev[n++] = (struct ffl_event){.kind = FFL_EV_LOST, .arg = (uint32_t)c->detached};
    }
    return n;
}

/* ---- what a wait looks for ----------------------------------------------------------------- */

uint32_t client_wait_bits(const struct ffl_client *c)
{
    return FFL_WAIT_QUEUE | (c->waiters ? FFL_WAIT_FREE : 0);
}

/* Are there completions, or room for sockets that wait to write? */
bool client_pending(struct ffl_client *c)
{
    return ffl_channel_pending(&c->ch, client_wait_bits(c)) ||
           (c->waiters && tx_unwritable(c) != c->tx_unwritable);
}

/* ---- sleeping ------------------------------------------------------------------------------ */

static bool more(const struct ffl_client *c)
{
    return c->poll.head || c->closed_n;
}

int client_sleep(struct ffl_client *c, struct ffl_event *out, int max, int epfd, int64_t timeout_ns,
                 bool looks)
{
    struct epoll_event ev[64];
    int room = max < (int)FFL_COUNT(ev) - 2 ? max + 2 : (int)FFL_COUNT(ev), n = 0;
    int got = ffl_client_sleep(c, ev, room, epfd, timeout_ns, looks);
    for (int i = 0; i < got; i++) {
        if (ev[i].data.fd == c->sock) {
            ffl_client_lost(c);
        } else if (ev[i].data.fd != c->app_bell && n < max) {
            out[n++] = (struct ffl_event){
                .kind = FFL_EV_FD, .handle = (uint32_t)ev[i].data.fd, .arg = ev[i].events};
        } /* beyond max: level-triggered, so they come again */
    }
    return got < 0 && got != -EINTR ? got : n;
}

void ffl_client_shown(struct ffl_client *c, bool on)
{
    c->shown += on ? 1 : -1;
}

void ffl_client_quiet(struct ffl_client *c, bool on)
{
    c->quiet = on;
}

/* A wait begins: grants of large writes are counted in waits. */
static void begin_round(struct ffl_client *c)
{
    c->round++;
    c->round_granted = 0;
    c->paced_ns = 0;
    if (c->bulk_waiters && tx_half_free(c)) /* woken sockets left room */
        client_wake_writers(c);
}

void ffl_client_reap(struct ffl_client *c)
{
    client_drive(c);
    if (!c->detached)
        begin_round(c);
    client_reap(c);
}

/* ---- the wait ------------------------------------------------------------------------------ */

static int gather(struct ffl_client *c, struct ffl_event *ev, int max)
{
    client_reap(c);
    int n = collect(c, ev, max);
    client_commit(c);
    return n;
}

int ffl_client_wait(struct ffl_client *c, struct ffl_event *ev, int max, int epfd,
                    int64_t timeout_ns)
{
    if (max < 4)
        return -EINVAL;
    if (epfd < 0)
        epfd = c->own_epfd;
    batch_release(c);
    client_drive(c);
    begin_round(c);
    int64_t now = ffl_now_ns();
    bool due = now - c->fd_checked >= FD_PERIOD_NS;
    int room = due ? max - max / 4 : max; /* of a busy ring a quarter is left for kernel events */
    int n = gather(c, ev, room), fds;
    /* What a sleep ends with does not count: with three connections a spin pays still. */
    c->sleeper.idle.found += (unsigned)n;
    if (n == 0 && timeout_ns != 0 && !more(c)) {
        fds = client_sleep(c, ev, room, epfd, timeout_ns, due);
        if (due) /* client_sleep has asked epfd */
            c->fd_checked = now;
        return fds < 0 ? fds : fds + gather(c, ev + fds, max - fds);
    }
    if (!due && n > 0)
        return n;
    c->fd_checked = now;
    fds = client_sleep(c, ev + n, max - n, epfd, 0, true);
    return fds < 0 && n == 0 ? fds : n + (fds > 0 ? fds : 0);
}
