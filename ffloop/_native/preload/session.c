/*
 * session.c - sessions with instances.
 *
 * Callers: everything. A session is attached when a socket first needs it.
 */
#include "preload.h"
#include "choice.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct session_list shared; /* the process's sessions; FF_THREAD_SOCKET: unused */
static struct session *inherited;  /* by `next` */
/* Of that list and its sessions' `socks`: with FF_THREAD_SOCKET each thread imports its sockets. */
static pthread_mutex_t inheriting = PTHREAD_MUTEX_INITIALIZER;

struct session_list *session_list(void)
{
    return options.per_thread ? &tls.sessions : &shared;
}

void session_reap(void)
{
    for (struct session *session = session_first(); session; session = session->next)
        ffl_client_reap(session->c);
}

void session_catch_up(void)
{
    for (struct session *session = session_first(); session; session = session->next)
        (void)ffl_client_catch_up(session->c); /* fails: the session is lost */
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
                                    .copy = user_copy};
}

/* A process that does not reach the instance, since it has become another user, or changed its
 * root, attaches through a ticket that it has inherited. Returns rc where that is not the
 * matter. */
static int attach_via(struct session *session, int index, int rc, char *why, size_t whylen)
{
    struct ffl_client_opts o = attach_options(session->path);
    if (o.via || (rc != -EPERM && rc != -EACCES && rc != -ENOENT))
        return rc;
    pthread_mutex_lock(&inheriting); /* meanwhile no ticket ends */
    for (const struct session *s = inherited; s && !o.via; s = s->next)
        if (s->index == index && s->ticket.fd >= 0)
            o.via = &s->ticket;
    if (!o.via && kept.path && strcmp(o.path, kept.path) == 0)
        o.via = &kept.ticket;
    if (o.via)
        rc = ffl_client_attach(&session->c, &o, why, whylen);
    pthread_mutex_unlock(&inheriting);
    return rc;
}

static int attach_at(struct session *session, int index, char *why, size_t whylen)
{
    struct ffl_client_opts o = attach_options(session->path);
    struct room more = {0};
    int rc;
    do {
        rc = ffl_client_attach(&session->c, &o, why, whylen);
        rc = attach_via(session, index, rc, why, whylen);
    } while (room_for(&more, rc));
    return rc;
}

int session_ticket(const struct session *session, struct ffl_ticket *out, char *why, size_t whylen)
{
    const struct ffl_ticket own = {.fd = ffl_client_session_fd(session->c)};
    struct ffl_client_opts o = attach_options(session->path);
    struct room more = {0};
    int rc;
    o.via = &own; /* the path: another user, or behind a chroot, does not reach it */
    do
        rc = ffl_client_ticket(&o, out, why, whylen);
    while (room_for(&more, rc));
    return rc;
}

static int attach(struct session *session, int index, char *why, size_t whylen)
{
    int rc = -ENOENT;
    for (unsigned i = 0; ffl_choice_next(rc); i++) {
        int place =
            ffl_choice_place(options.instance, i, index, session->path, sizeof(session->path));
        if (place == -ENOENT) /* no further path */
            return rc;
        if (place < 0) {
            snprintf(why, whylen, "the path of the instance's socket is too long");
            return place;
        }
        rc = attach_at(session, index, why, whylen);
    }
    if (rc < 0)
        return rc;
    session->stack = ffl_client_stack(session->c);
    rc = ffl_choice_stack(options.stack, session->stack, session->path, why, whylen);
    if (rc < 0)
        ffl_client_detach(session->c);
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

/* Wakes the sleepers on an epoll, so that they put the new doorbell into it. */
static void wake_sleeper(int fd, struct node *n, void *arg)
{
    (void)fd;
    (void)arg;
    if (n->kind == NODE_EPOLL)
        epoll_kick((struct epoll_shadow *)n);
}

struct session *session_get(int index, int *why_rc)
{
    char why[256] = "";
    for (struct session *session = session_first(); session; session = session->next)
        if (session->index == index && ffl_client_detached(session->c) == 0)
            return session;
    struct session *session = calloc(1, sizeof(*session));
    int rc = session ? attach(session, index, why, sizeof(why)) : -ENOMEM;
    if (rc < 0) {
        free(session);
        complain(index, rc, why);
        *why_rc = -ENETDOWN;
        return NULL;
    }
    session->index = index;
    session->ticket.fd = -1;
    struct session_list *l = session_list();
    bool first = !l->first;
    session->next = l->first;
    l->first = session;
    ffl_client_join(&l->clients, session->c);
    l->generation++;
    if (options.per_thread)
        thread_watch();
    else
        fd_each(wake_sleeper, NULL);
    place_attached(first);
    ffl_log(FFL_LOG_INFO, "attached to instance %d (pid %d, %s)", index,
            ffl_client_instance_pid(session->c), ffl_client_stack(session->c));
    return session;
}

static void session_end(struct session *session)
{
    ffl_client_detach(session->c);
    free(session);
}

static void forget(struct session *session)
{
    struct session **p = &session_list()->first;
    while (*p && *p != session)
        p = &(*p)->next;
    *p = session->next;
    ffl_client_part(&session_list()->clients, session->c);
    session_end(session);
}

/* A socket less; the last ends the session, and with it the ticket. */
static void disinherit(struct session *session)
{
    struct session **p = &inherited;
    pthread_mutex_lock(&inheriting);
    bool last = --session->socks == 0;
    while (last && *p != session)
        p = &(*p)->next;
    if (last)
        *p = session->next;
    pthread_mutex_unlock(&inheriting);
    if (!last)
        return;
    fd_ours_close(session->ticket.fd);
    if (session->c)
        ffl_client_detach(session->c);
    free(session);
}

bool session_inherited(void)
{
    return inherited;
}

static void inherit(struct session *session)
{
    pthread_mutex_lock(&inheriting);
    session->inherited = true;
    session->next = inherited;
    inherited = session;
    pthread_mutex_unlock(&inheriting);
}

struct session *session_inherit(const struct ffl_ticket *ticket, int index)
{
    struct session *session = calloc(1, sizeof(*session));
    if (!session) {
        fd_ours_close(ticket->fd);
        return NULL;
    }
    session->ticket = *ticket;
    session->index = index;
    session->socks = 1;
    inherit(session);
    return session;
}

void session_put(struct session *session)
{
    if (session->inherited) {
        disinherit(session);
        return;
    }
    if (--session->socks)
        return;
    if (session->ended)
        session_end(session);
    else if (ffl_client_detached(session->c) && !session_list()->sleepers)
        forget(session);
}

void session_ended(struct session_list *l)
{
    struct session *next;
    for (struct session *session = l->first; session; session = next) {
        next = session->next;
        session->ended = session->socks > 0;
        if (!session->socks)
            forget(session);
    }
    l->first = NULL;
    l->clients = NULL;
}

void session_move(struct move *m)
{
    for (struct session *session = session_first(); session && !m->done; session = session->next)
        m->done = ffl_client_moved(session->c, m->from, m->to);
    for (struct session *session = inherited; session; session = session->next)
        move_fd(m, &session->ticket.fd);
}

/* In the child, where the clients of the parent's sessions are detached already (client.h). The
 * sockets keep their sessions, so that a fork does not touch each. */
void session_forked(void)
{
    struct session_list *l = session_list();
    struct session *next;
    inheriting = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER; /* perhaps another thread had it */
    for (struct session *session = l->first; session; session = next) {
        next = session->next;
        session->socks++;
        ffl_client_unmap(session->c);
        inherit(session);
        disinherit(session); /* ends it here if it has no sockets */
    }
    l->first = NULL;
    l->clients = NULL;
    l->generation++;
    l->sleepers = l->spinners = 0; /* the parent's threads */
    calls_forked();
}
