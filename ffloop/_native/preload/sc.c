/*
 * sc.c - sessions with instances.
 *
 * Callers: everything. A session is attached when a socket first needs it.
 */
#include "preload.h"
#include "choice.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct sc_list shared; /* the process's sessions, but for FF_THREAD_SOCKET */

struct sc_list *sc_list(void)
{
    return options.per_thread ? &tls.sessions : &shared;
}

void sc_reap(void)
{
    for (struct sc *sc = sc_first(); sc; sc = sc->next)
        ffl_client_reap(sc->c);
}

/* ---- sessions ------------------------------------------------------------------------------ */

static struct ffl_client_opts attach_options(const char *path)
{
    return (struct ffl_client_opts){.path = path,
                                    .timeout_ms = (int)options.timeout_ms,
                                    .spin_us = options.spin_us,
                                    .max_sockets = (uint32_t)options.max_sockets,
                                    .pool_kib = (uint32_t)options.pool_kib,
                                    .tx_cap = (uint32_t)options.tx_cap,
                                    .via = tls.via,
                                    .place_fd = fd_ours,
                                    .close_fd = fd_ours_close,
                                    .copy = ffl_user_copy};
}

/* An embedded instance admits its own user; one of its process tree that has become another user
 * comes in through what it inherited. */
static bool refused(int rc, struct ffl_client_opts *o)
{
    if ((rc != -EPERM && rc != -EACCES) || !kept.path || strcmp(o->path, kept.path) != 0)
        return false;
    o->via = &kept.ticket;
    return true;
}

static int attach_at(struct sc *sc, char *why, size_t whylen)
{
    struct ffl_client_opts o = attach_options(sc->path);
    int rc = ffl_client_attach(&sc->c, &o, why, whylen);
    return refused(rc, &o) ? ffl_client_attach(&sc->c, &o, why, whylen) : rc;
}

int sc_ticket(const struct sc *sc, struct ffl_ticket *out, char *why, size_t whylen)
{
    struct ffl_client_opts o = attach_options(sc->path);
    int rc = ffl_client_ticket(&o, out, why, whylen);
    return refused(rc, &o) ? ffl_client_ticket(&o, out, why, whylen) : rc;
}

static int attach(struct sc *sc, int index, char *why, size_t whylen)
{
    int rc = -ENOENT;
    for (unsigned i = 0; ffl_choice_next(rc); i++) {
        int place = ffl_choice_place(options.instance, i, index, sc->path, sizeof(sc->path));
        if (place == -ENOENT) /* that was the last one */
            return rc;
        if (place < 0) {
            snprintf(why, whylen, "the path of the instance's socket is too long");
            return place;
        }
        rc = attach_at(sc, why, whylen);
    }
    if (rc < 0)
        return rc;
    sc->stack = ffl_client_stack(sc->c);
    rc = ffl_choice_stack(options.stack, sc->stack, sc->path, why, whylen);
    if (rc < 0)
        ffl_client_detach(sc->c);
    return rc;
}

static void complain(int index, int rc, const char *why)
{
    static _Atomic bool told;
    if (atomic_exchange(&told, true))
        return;
    char advice[FFL_SETTING_WHY];
    ffl_choice_none(options.stack, index, (int)options.instances, advice, sizeof(advice));
    if (options.fallback)
        report("no instance (%s): sockets stay on the kernel (FFLOOP_FALLBACK=kernel)", why);
    else if (!ffl_choice_next(rc))
        report("no instance: %s", why);
    else
        report("%s (%s); or run the program with `ffloop preload`, or set FFLOOP_FALLBACK=kernel",
               advice, why);
}

/* Who sleeps on an epoll takes the new doorbell in. */
static void wake_sleeper(int fd, struct node *n, void *arg)
{
    (void)fd;
    (void)arg;
    if (n->kind == NODE_EPOLL)
        epoll_kick((struct epoll_shadow *)n);
}

struct sc *sc_get(int index, int *why_rc)
{
    char why[256] = "";
    for (struct sc *sc = sc_first(); sc; sc = sc->next)
        if (sc->index == index && ffl_client_dead(sc->c) == 0)
            return sc;
    struct sc *sc = calloc(1, sizeof(*sc));
    int rc = sc ? attach(sc, index, why, sizeof(why)) : -ENOMEM;
    if (rc < 0) {
        free(sc);
        complain(index, rc, why);
        *why_rc = -ENETDOWN;
        return NULL;
    }
    sc->index = index;
    struct sc_list *l = sc_list();
    bool first = !l->first;
    sc->next = l->first;
    l->first = sc;
    l->generation++;
    if (options.per_thread)
        thread_watch();
    else
        fd_each(wake_sleeper, NULL);
    place_attached(first);
    ffl_log(FFL_LOG_INFO, "attached to instance %d (pid %d, %s)", index,
            ffl_client_instance_pid(sc->c), ffl_client_stack(sc->c));
    return sc;
}

static void sc_end(struct sc *sc)
{
    ffl_client_detach(sc->c);
    free(sc);
}

static void forget(struct sc *sc)
{
    struct sc **p = &sc_list()->first;
    while (*p && *p != sc)
        p = &(*p)->next;
    *p = sc->next;
    sc_end(sc);
}

void sc_put(struct sc *sc)
{
    if (--sc->socks)
        return;
    if (sc->ended)
        sc_end(sc);
    else if (ffl_client_dead(sc->c) && !sc_list()->sleepers)
        forget(sc);
}

void sc_ended(struct sc_list *l)
{
    struct sc *next;
    for (struct sc *sc = l->first; sc; sc = next) {
        next = sc->next;
        sc->ended = sc->socks > 0;
        if (!sc->socks)
            forget(sc);
    }
    l->first = NULL;
}

struct moved {
    int from, to;
    bool done;
};

static void move(struct moved *m, int *fd)
{
    if (*fd == m->from) {
        *fd = m->to;
        m->done = true;
    }
}

static void move_epolls(int fd, struct node *n, void *arg)
{
    struct epoll_shadow *ep = (struct epoll_shadow *)n;
    (void)fd;
    if (n->kind != NODE_EPOLL || !ep->opened)
        return;
    move(arg, &ep->w.kick);
    move(arg, &ep->w.epfd);
    ep->poll.kick = ep->w.kick;
}

bool sc_moved(int from, int to)
{
    struct moved m = {from, to, false};
    for (struct sc *sc = sc_first(); sc && !m.done; sc = sc->next)
        m.done = ffl_client_moved(sc->c, from, to);
    if (tls.waiter) {
        move(&m, &tls.waiter->kick);
        move(&m, &tls.waiter->epfd);
    }
    fd_each(move_epolls, &m);
    return m.done;
}

/* The child has no session: its client is dead already (client.h). */
void sc_forked(void)
{
    while (sc_first())
        forget(sc_first());
    sc_list()->generation++;
    sc_list()->sleepers = 0; /* those threads are the parent's */
    calls_forked();
}
