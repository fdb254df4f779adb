/*
 * share.c - stack sockets that several processes have: exporting, importing, leaving.
 *
 * Callers: fork.c, exec.c, pass.c, again.c, sock.c, poll.c. What was read or accepted ahead goes
 * back to the instance before another process gets a reference to the socket, and when this process
 * leaves the socket; the next process that reads or accepts gets that first.
 */
#include "proc.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- a socket's portrait -------------------------------------------------------------------- */

struct portrait sock_portrait(const struct sock *s)
{
    struct ffl_client *c = s->session->c; /* NULL: after an exec, and not imported yet */
    return (struct portrait){.rcvtimeo = s->rcvtimeo,
                             .sndtimeo = s->sndtimeo,
                             .own = c ? ffl_client_own(c, s->h) : s->own,
                             .handle = s->h,
                             .domain = s->domain,
                             .type = s->type,
                             .proto = s->proto,
                             .state = s->state,
                             .nonblock = s->nonblock,
                             .shut_rd = s->shut_rd};
}

struct node *sock_inherit(int fd, ino_t ino, struct session *session, const struct portrait *p)
{
    struct sock *s = sock_new(p->domain, p->type | (p->nonblock ? SOCK_NONBLOCK : 0), p->proto);
    if (s)
        s->node.ino = ino;
    if (!s || fd_set_node(fd, &s->node) < 0) {
        free(s);
        return NULL;
    }
    s->state = p->state;
    s->shut_rd = p->shut_rd;
    s->named = true;
    s->own = p->own;
    s->rcvtimeo = p->rcvtimeo;
    s->sndtimeo = p->sndtimeo;
    s->h = p->handle;
    s->session = session;
    session->socks++;
    return &s->node;
}

/* ---- importing ----------------------------------------------------------------------------- */

int proc_import(struct sock *s)
{
    struct session *from = s->session;
    bool there = from->ticket.fd >= 0; /* else the parent has reported why not */
    int rc = -ENETDOWN;
    tls.via = &from->ticket;
    struct session *session = there ? session_get(from->index, &rc) : NULL;
    tls.via = NULL;
    int h = session ? ffl_client_import(session->c, &from->ticket, (uint32_t)s->h, s->domain,
                                        s->type, s->proto)
                    : rc;
    struct ffl_own own = from->c ? ffl_client_own(from->c, s->h) : s->own;
    s->session = NULL;
    session_put(from);
    if (h < 0) { /* calls go to the placeholder from now on */
        if (there)
            report("an inherited socket is lost: %s", strerror(-h));
        return h;
    }
    s->shared = true;
    sock_on_stack(s, session, h);
    s->seen--;                                     /* what waits there is unknown */
    (void)ffl_client_set_own(session->c, h, &own); /* without memory they are unset */
    place_imported(s);
    return 0;
}

/* While many descriptors are closed: handles in one ticket whose references are not wanted, to be
 * told in one message; and are there closes that the instance is to have done? */
static __thread struct {
    bool many, settles;
    int ticket;
    uint32_t n, handles[FFL_COUNT(((struct ffl_ticket_msg *)0)->handles)];
} closes;

static void tell_disowned(void)
{
    if (closes.n) /* fails: the ticket has ended */
        (void)ffl_ticket_send(closes.ticket, FFL_TICKET_DROP, closes.handles, closes.n);
    closes.n = 0;
}

void proc_disown(struct sock *s)
{
    struct session *session = s->session;
    s->session = NULL;
    if (closes.ticket != session->ticket.fd || closes.n == FFL_COUNT(closes.handles))
        tell_disowned();
    closes.ticket = session->ticket.fd;
    closes.handles[closes.n++] = (uint32_t)s->h;
    if (!closes.many || session->socks == 1) /* the last closes the ticket */
        tell_disowned();
    session_put(session);
}

static void import_one(int fd, struct node *n, void *arg)
{
    struct sock *s = (struct sock *)n;
    if (n->kind == NODE_SOCK && s->session && s->session->inherited)
        (void)proc_import(s); /* reports */
    (void)fd;
    (void)arg;
}

void proc_import_all(void)
{
    if (session_inherited())
        fd_each(import_one, NULL);
}

/* ---- exporting ----------------------------------------------------------------------------- */

void sock_list_add(struct sock_list *l, struct sock *s, int fd)
{
    if (l->n == l->room) {
        size_t room = (l->room + 64) * 2;
        struct member *grown = realloc(l->m, room * sizeof(*grown));
        if (!grown) {
            report("another process will not have a socket of this one's: %s", strerror(ENOMEM));
            return;
        }
        l->m = grown;
        l->room = room;
    }
    l->m[l->n++] = (struct member){s, fd};
}

/* Stops reading ahead; an epoll arms s again with its next wait. */
static void disarm(struct sock *s)
{
    if (!ffl_client_disarm(s->session->c, s->h))
        return;
    s->seen = s->session->shares - 1;
    for (struct ffl_watch *w = s->node.source.watches; w; w = w->next)
        if (watch_epoll(w))
            epoll_stale(watch_epoll(w));
}

static void give_back(const struct sock *s)
{
    (void)ffl_client_give_back(s->session->c, s->h); /* -ENOBUFS: the data stays */
}

static void give_back_one(int fd, struct node *n, void *session)
{
    const struct sock *s = (struct sock *)n;
    if (n->kind == NODE_SOCK && s->session == session)
        give_back(s);
    (void)fd;
}

static struct ffl_ticket new_ticket(struct session *session)
{
    char why[256];
    struct ffl_ticket t = {.fd = -1};
    int rc = session_ticket(session, &t, why, sizeof(why));
    if (rc == 0)
        return t;
    report("another process will not have this one's sockets: %s", why[0] ? why : strerror(-rc));
    return (struct ffl_ticket){.fd = -1};
}

/* After a ping, references to the disarmed sockets: of listeners at once, since they end the
 * accepting ahead; `others`: with the handles' room, of the others too, by one operation. */
static int put_in(struct session *session, const struct sock_list *l, const struct ffl_ticket *t,
                  uint32_t *others)
{
    struct ffl_client *c = session->c;
    uint32_t n = 0;
    bool some = false;
    int rc = 0;
    for (size_t i = 0; i < l->n && rc == 0; i++) {
        struct sock *s = l->m[i].s;
        if (s->session != session)
            continue;
        give_back(s);
        s->shared = true;
        if (others)
            others[n++] = (uint32_t)s->h;
        if (!others || s->state == SOCK_LISTENING)
            rc = ffl_client_export(c, s->h, t);
        else
            some = true;
    }
    return rc == 0 && some ? ffl_client_share_some(c, t, others, n) : rc;
}

static void disarm_all(const struct session *session, const struct sock_list *l)
{
    for (size_t i = 0; i < l->n; i++)
        if (l->m[i].s->session == session)
            disarm(l->m[i].s);
}

static struct ffl_ticket told(struct ffl_ticket t, int rc)
{
    if (rc < 0)
        report("another process will not have all of this one's sockets: %s", strerror(-rc));
    return t;
}

struct ffl_ticket proc_export(struct session *session, const struct sock_list *l)
{
    struct ffl_ticket t = new_ticket(session);
    if (t.fd < 0)
        return t;
    disarm_all(session, l);
    int rc = ffl_client_ping(session->c); /* nothing more is read ahead */
    uint32_t *handles = l->n > 1 ? malloc(l->n * sizeof(*handles)) : NULL; /* ENOMEM: one by one */
    if (rc == 0)
        rc = put_in(session, l, &t, handles);
    free(handles);
    return told(t, rc < 0 ? rc : ffl_client_ping(session->c));
}

struct ffl_ticket proc_export_all(struct session *session, const struct sock_list *listeners)
{
    struct ffl_ticket t = new_ticket(session);
    if (t.fd < 0)
        return t;
    disarm_all(session, listeners);
    int rc = ffl_client_share(session->c, &t);
    session->shares++;
    if (ffl_client_holds_bytes(session->c))
        fd_each(give_back_one, session);
    if (rc == 0)
        rc = put_in(session, listeners, &t, NULL);
    return told(t, rc < 0 ? rc : ffl_client_ping(session->c));
}

static void rearm_waited(int fd, struct node *n, void *arg)
{
    const struct sock *s = (struct sock *)n;
    if (n->kind == NODE_SOCK && source_waited(&n->source) && sock_live(s))
        ffl_client_rearm(s->session->c, s->h);
    (void)fd;
    (void)arg;
}

void calls_rearm(void)
{
    epoll_revive_waited();
    fd_each(rearm_waited, NULL);
}

void proc_exported(void)
{
    session_list()->exports++;
    if (session_list()->sleepers || session_list()->spinners)
        calls_rearm(); /* after each export: a second one would find them disarmed */
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

/* Takes a new reference, which begins with the socket's present state. */
static void renew(struct sock *s)
{
    struct ffl_client *c = s->session->c;
    struct sock_list one = {&(struct member){s, -1}, 1, 1};
    struct ffl_ticket t = proc_export(s->session, &one);
    int h =
        t.fd < 0 ? t.fd : ffl_client_import(c, &t, (uint32_t)s->h, s->domain, s->type, s->proto);
    fd_ours_close(t.fd);
    proc_exported();
    if (h < 0)
        return; /* reported; or the session is lost, and the next call on s fails */
    (void)ffl_client_close(c, s->h, false); /* cannot fail: open */
    s->h = h;
    (void)ffl_client_watch(c, h, &s->node.source);
    state_of(s);
}

void sock_learn(struct sock *s)
{
    if (s->session->inherited)
        (void)proc_import(s); /* reports */
    if (s->session && s->state == SOCK_BOUND && s->type == SOCK_STREAM)
        renew(s);
}

bool sock_has_peer(struct sock *s)
{
    if (s->type == SOCK_DGRAM && s->state == SOCK_BOUND && sock_live(s) && sock_shared(s))
        renew(s);
    return s->state == SOCK_CONNECTED;
}

static void settle(struct ffl_client *c, int round_trips)
{
    if (round_trips < 2 || ffl_client_ping(c) == 0)
        (void)ffl_client_catch_up(c); /* a peer in this process knows; fails: the session is lost */
}

/* Before other processes, or the next calls, can tell: what was read ahead is back (one round
 * trip), a peer is reset (one), and connections accepted ahead have gone to a session that shares
 * the listener, or are reset (one for those on their way here, one for their return). */
void proc_leave(struct sock *s)
{
    struct session *session = s->session;
    struct ffl_client *c = session->c;
    bool gave = sock_shared(s) && ffl_client_disarm(c, s->h) && ffl_client_ping(c) == 0 &&
                ffl_client_give_back(c, s->h) > 0; /* fails: the session is lost */
    bool listens = s->state == SOCK_LISTENING;
    bool settles =
        gave || listens || (s->abort && s->state == SOCK_CONNECTED && s->type == SOCK_STREAM);
    (void)ffl_client_close(c, s->h, s->abort); /* cannot fail: open */
    if (closes.many && !session->ended)
        closes.settles |= settles;
    else if (settles)
        settle(c, listens ? 2 : 1);
    session_put(session);
}

void proc_closes(bool many)
{
    closes.many = many;
    if (many)
        return;
    tell_disowned();
    for (struct session *session = session_first(); session && closes.settles;
         session = session->next)
        settle(session->c, 2);
    closes.settles = false;
}

/* ---- the end ------------------------------------------------------------------------------- */

struct leaving {
    const struct session *session;
    bool gave; /* something back */
};

static void pause_shared(int fd, struct node *n, void *arg)
{
    const struct leaving *l = arg;
    const struct sock *s = (struct sock *)n;
    if (n->kind == NODE_SOCK && s->session == l->session && sock_shared(s))
        (void)ffl_client_disarm(s->session->c, s->h);
    (void)fd;
}

static void return_shared(int fd, struct node *n, void *arg)
{
    struct leaving *l = arg;
    const struct sock *s = (struct sock *)n;
    if (n->kind == NODE_SOCK && s->session == l->session && sock_shared(s))
        l->gave |= ffl_client_give_back(s->session->c, s->h) > 0; /* fails: as in proc_leave */
    (void)fd;
}

static void leave_session(const struct session *session)
{
    struct leaving l = {.session = session};
    fd_each(pause_shared, &l);
    /* what was done, to closed sockets too, is done before others hear of the end */
    if (ffl_client_ping(session->c) == 0)
        fd_each(return_shared, &l);
    if (l.gave)
        settle(session->c, 2);
}

void proc_leave_all(void)
{
    for (struct session *session = session_first(); session; session = session->next)
        leave_session(session);
}

void proc_end(void)
{
    if (!started || tls.inside || !session_first())
        return;
    lock();
    proc_leave_all();
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
