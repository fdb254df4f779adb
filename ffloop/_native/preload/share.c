/*
 * share.c - stack sockets that several processes have: exporting, importing, leaving.
 *
 * Callers: fork.c, exec.c, pass.c, again.c, sock.c, poll.c. What was read or accepted ahead goes
 * back to the instance before another process gets a reference to the socket, and when this process
 * leaves the socket; the next process that reads or accepts gets that first.
 */
#include "proc.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- a socket in words --------------------------------------------------------------------- */

#define WORDS "%u:%d:%d:%d:%d:%d:%lld:%lld"

int sock_describe(const struct sock *s, char *text, size_t len)
{
    return snprintf(text, len, WORDS, (unsigned)s->h, s->domain, s->type, s->proto, s->state,
                    s->nonblock, (long long)s->rcvtimeo, (long long)s->sndtimeo);
}

bool ticket_sock(int fd, struct ticket *t, const char *text)
{
    unsigned h;
    int domain, type, proto, state, nonblock;
    long long rcv, snd;
    if (sscanf(text, WORDS, &h, &domain, &type, &proto, &state, &nonblock, &rcv, &snd) != 8)
        return false;
    struct sock *s = sock_new(domain, type | (nonblock ? SOCK_NONBLOCK : 0), proto);
    if (!s || fd_set_node(fd, &s->node) < 0) {
        free(s);
        return false;
    }
    s->state = (uint8_t)state;
    s->named = true;
    s->rcvtimeo = rcv;
    s->sndtimeo = snd;
    s->ticket = t;
    s->ticket_handle = h;
    t->socks++;
    return true;
}

/* ---- importing ----------------------------------------------------------------------------- */

void ticket_put(struct ticket *t)
{
    if (--t->socks > 0)
        return;
    fd_ours_close(t->t.fd);
    free(t);
}

int proc_import(struct sock *s)
{
    struct ticket *t = s->ticket;
    int rc = 0;
    tls.via = &t->t;
    struct session *session = session_get(t->index, &rc);
    tls.via = NULL;
    int h = session ? ffl_client_import(session->c, &t->t, s->ticket_handle, s->domain, s->type,
                                        s->proto)
                    : rc;
    s->ticket = NULL;
    ticket_put(t);
    if (h < 0) { /* calls go to the placeholder from now on */
        report("an inherited socket is lost: %s", strerror(-h));
        return h;
    }
    s->shared = s->unseen = true;
    sock_on_stack(s, session, h);
    place_imported(s);
    return 0;
}

void proc_disown(struct sock *s)
{
    struct ticket *t = s->ticket;
    (void)ffl_ticket_send(t->t.fd, FFL_TICKET_DROP, &s->ticket_handle, 1); /* else it has ended */
    s->ticket = NULL;
    ticket_put(t);
}

static void import_one(int fd, struct node *n, void *arg)
{
    (void)fd;
    (void)arg;
    struct sock *s = (struct sock *)n;
    if (n->kind == NODE_SOCK && s->ticket && !s->session)
        (void)proc_import(s); /* reports */
}

void import_all(void)
{
    fd_each(import_one, NULL);
}

/* ---- exporting ----------------------------------------------------------------------------- */

bool stays_open(int fd, const struct sock *s)
{
    return s->spawned || !(real.fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

struct export {
    struct session *session;
    const struct ffl_ticket *ticket;
    bool exec;               /* only the sockets that stay open */
    const struct sock *only; /* NULL: all sockets */
};

/* Does the node's socket go into the ticket? */
static bool goes(const struct export *e, int fd, const struct node *n)
{
    const struct sock *s = (const struct sock *)n;
    return n->kind == NODE_SOCK && s->session == e->session && !s->exported &&
           (!e->only || e->only == s) && (!e->exec || stays_open(fd, s));
}

/* Does s give back what was read ahead? Not while a thread waits in it. An epoll arms s again with
 * its next wait. */
static bool gives_back(const struct sock *s)
{
    for (const struct ffl_watch *w = s->node.source.watches; w; w = w->next)
        if (w->poll->passing)
            return false;
    return true;
}

static void disarm_one(int fd, struct node *n, void *arg)
{
    struct sock *s = (struct sock *)n;
    if (!goes(arg, fd, n) || !gives_back(s) || !ffl_client_disarm(s->session->c, s->h))
        return;
    s->unseen = true;
    for (struct ffl_watch *w = s->node.source.watches; w; w = w->next)
        epoll_stale(watch_epoll(w));
}

static void export_one(int fd, struct node *n, void *arg)
{
    const struct export *e = arg;
    struct sock *s = (struct sock *)n;
    if (!goes(e, fd, n))
        return;
    if (gives_back(s))
        (void)ffl_client_give_back(s->session->c, s->h); /* -ENOBUFS: the data stays */
    int rc = ffl_client_export(s->session->c, s->h, e->ticket);
    if (rc < 0)
        report("a child will not have a socket of its parent's: %s", strerror(-rc));
    s->shared = s->exported = true;
}

static void unmark(int fd, struct node *n, void *arg)
{
    (void)fd;
    (void)arg;
    if (n->kind == NODE_SOCK)
        ((struct sock *)n)->exported = false;
}

static struct ticket *export_to_ticket(struct session *session, bool exec, const struct sock *only)
{
    char why[256];
    struct ticket *t = calloc(1, sizeof(*t));
    int rc = t ? session_ticket(session, &t->t, why, sizeof(why)) : -ENOMEM;
    if (rc < 0) {
        free(t);
        report("another process will not have this one's sockets: %s", why);
        return NULL;
    }
    t->session = session;
    t->index = session->index;
    struct export e = {.session = session, .ticket = &t->t, .exec = exec, .only = only};
    fd_each(disarm_one, &e);
    rc = ffl_client_ping(session->c); /* nothing more is read ahead */
    if (rc == 0)
        fd_each(export_one, &e);
    fd_each(unmark, NULL);
    if (rc == 0)
        rc = ffl_client_ping(session->c);
    if (rc < 0)
        ffl_log(FFL_LOG_WARNING, "export: %s", strerror(-rc));
    return t;
}

struct ticket *export_all(struct session *session, bool exec)
{
    return export_to_ticket(session, exec, NULL);
}

struct ticket *export_sock(struct sock *s)
{
    return export_to_ticket(s->session, false, s);
}

static void state_of(struct sock *s)
{
    struct ffl_client *c = s->session->c;
    struct ffl_addresses a;
    int listens = 0;
    uint32_t len = sizeof(listens);
    (void)ffl_client_getsockopt(c, s->h, SOL_SOCKET, SO_ACCEPTCONN, &listens,
                                &len); /* cannot fail: open */
    bool named = !listens && ffl_client_addresses(c, s->h, &a) == 0;
    if (listens)
        s->state = SOCK_LISTENING;
    else if (ffl_client_state(c, s->h) & FFL_ST_CONNECTING)
        s->state = SOCK_CONNECTING;
    else if (named && a.peer.port_be)
        s->state = SOCK_CONNECTED;
    if (s->state != SOCK_BOUND)
        sock_rearm(s);
}

/* Of a bound stream: takes a new reference, which begins with the socket's present state. */
void sock_learn(struct sock *s)
{
    if (s->ticket && !s->session)
        proc_import(s);
    if (!s->session || s->state != SOCK_BOUND || s->type != SOCK_STREAM)
        return;
    struct ffl_client *c = s->session->c;
    struct ticket *t = export_sock(s);
    int h = t ? ffl_client_import(c, &t->t, (uint32_t)s->h, s->domain, s->type, s->proto) : -1;
    if (t)
        fd_ours_close(t->t.fd);
    free(t);
    if (h < 0)
        return; /* reported; or the session is lost, and the next call on s fails */
    (void)ffl_client_close(c, s->h, false); /* cannot fail: open */
    s->h = h;
    (void)ffl_client_watch(c, h, &s->node.source);
    state_of(s);
}

void proc_leave(struct sock *s)
{
    if (s->shared && ffl_client_disarm(s->session->c, s->h) && ffl_client_ping(s->session->c) == 0)
        (void)ffl_client_give_back(s->session->c,
                                   s->h); /* fails: the session is lost, and the socket with it */
}

/* ---- the end ------------------------------------------------------------------------------- */

struct leaving {
    const struct session *session;
    bool any;
};

static void pause_shared(int fd, struct node *n, void *arg)
{
    struct leaving *l = arg;
    struct sock *s = (struct sock *)n;
    if (n->kind == NODE_SOCK && s->session == l->session && s->shared)
        l->any |= ffl_client_disarm(s->session->c, s->h);
    (void)fd;
}

static void return_shared(int fd, struct node *n, void *arg)
{
    const struct leaving *l = arg;
    struct sock *s = (struct sock *)n;
    if (n->kind == NODE_SOCK && s->session == l->session && s->shared)
        (void)ffl_client_give_back(s->session->c,
                                   s->h); /* fails: the session is lost, and the socket with it */
    (void)fd;
}

void proc_end(void)
{
    if (!started || tls.inside || !session_first())
        return;
    lock();
    for (struct session *session = session_first(); session; session = session->next) {
        struct leaving l = {.session = session};
        fd_each(pause_shared, &l);
        if (l.any && ffl_client_ping(session->c) == 0)
            fd_each(return_shared, &l);
    }
    unlock();
}

__attribute__((destructor)) static void at_exit(void)
{
    proc_end();
}

API void _exit(int status)
{
    real_start();
    proc_end();
    real._exit(status);
    __builtin_unreachable();
}
ALSO(_exit, _Exit);

/* ---- descriptors of the shim's that move ----------------------------------------------------- */

struct moved {
    int from, to;
    bool done;
};

static void move_one(int fd, struct node *n, void *arg)
{
    struct moved *m = arg;
    struct sock *s = (struct sock *)n;
    int *held[] = {n->kind == NODE_SOCK ? &s->kernel_fd : NULL,
                   n->kind == NODE_SOCK && s->ticket ? &s->ticket->t.fd : NULL,
                   n->kind == NODE_SOCK ? &s->bell[0] : NULL,
                   n->kind == NODE_SOCK ? &s->bell[1] : NULL};
    for (size_t i = 0; i < FFL_COUNT(held); i++)
        if (held[i] && *held[i] == m->from) {
            *held[i] = m->to;
            m->done = true;
        }
    (void)fd;
}

bool share_moved(int from, int to)
{
    struct moved m = {from, to, kept.path && kept.ticket.fd == from};
    if (m.done) {
        kept.ticket.fd = to;
        (void)real.fcntl(to, F_SETFD, 0); /* for the program after exec */
    }
    fd_each(move_one, &m);
    return m.done;
}
