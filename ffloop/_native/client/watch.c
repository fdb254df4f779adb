/*
 * watch.c - the other way to learn what happened: changed sockets in a list, states when asked.
 *
 * Callers: the shim, which keeps readiness lists of its own, as the kernel's epoll does. The list is
 * the ready list that wait.c's events come from; a watched socket is only named by it.
 */
#include "internal.h"

#include <errno.h>
#include <sched.h>

int ffl_client_watch(struct ffl_client *c, int h, void *udata)
{
    struct csock *s = client_sock(c, h);
    if (!s)
        return -EBADF;
    s->watch = udata;
    return 0;
}

void ffl_client_reap(struct ffl_client *c)
{
    if (!c->dead)
        client_round(c);
    client_reap(c);
}

void *ffl_client_next(struct ffl_client *c)
{
    while (c->closed_n)
        handle_release(c, c->closed[--c->closed_n]);
    struct csock *s;
    while ((s = c->ready_head)) {
        c->ready_head = s->ready_next;
        if (!c->ready_head)
            c->ready_tail = NULL;
        s->in_ready = false;
        if (s->gone)
            csock_free(c, s);
        else if (s->watch && !s->closing)
            return s->watch;
    }
    return NULL;
}

bool ffl_client_doze(struct ffl_client *c)
{
    if (c->dead)
        return true; /* nothing will ever ring */
    return client_doze(c);
}

void ffl_client_rouse(struct ffl_client *c)
{
    if (!c->dead)
        ffl_channel_rouse(&c->ch);
}

void ffl_client_sleeps(struct ffl_client *c)
{
    struct ffl_app_stats *st = &c->map.seg->app;
    ffl_stat_add(&st->sleeps, 1);
    atomic_store_explicit(&st->cpu, (uint32_t)sched_getcpu(), memory_order_relaxed);
}

void ffl_client_spun(struct ffl_client *c, bool hit)
{
    struct ffl_app_stats *st = &c->map.seg->app;
    ffl_stat_add(&st->spins, 1);
    ffl_stat_add(&st->spin_hits, hit);
}

void ffl_client_lost(struct ffl_client *c)
{
    client_lost(c);
}

int ffl_client_arm(struct ffl_client *c, int h, int window)
{
    struct csock *s = client_sock(c, h);
    if (!s)
        return -EBADF;
    if (s->listener && s->window < (uint32_t)window)
        s->window = (uint32_t)window;
    csock_arm(c, s);
    return 0;
}

void ffl_client_want_room(struct ffl_client *c, int h)
{
    struct csock *s = client_sock(c, h);
    if (s && !s->connecting && !tx_writable(c, s))
        tx_wait(c, s);
}

unsigned ffl_client_state(const struct ffl_client *c, int h)
{
    const struct csock *s = client_sock(c, h);
    if (c->dead || !s)
        return FFL_ST_READ | FFL_ST_WRITE | FFL_ST_EOF | FFL_ST_ERROR | FFL_ST_FAILED;
    if (s->connecting)
        return FFL_ST_CONNECTING;
    return (rx_readable(s) ? FFL_ST_READ : 0) |
           (!s->listener && tx_writable(c, s) ? FFL_ST_WRITE : 0) | (s->eof ? FFL_ST_EOF : 0) |
           (s->error || s->send_error || s->open_error ? FFL_ST_ERROR : 0) |
           (s->failed || (s->unsendable && s->eof) ? FFL_ST_FAILED : 0) |
           (s->shut_wr ? FFL_ST_SHUT_WR : 0);
}
