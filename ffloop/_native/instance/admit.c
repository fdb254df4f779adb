/*
 * admit.c - admission: decides on each peer of the unix socket.
 *
 * Callers: listen.c (peers that connect), ticket.c (peers that a ticket brings in). A peer is a
 * connected SOCK_SEQPACKET socket, whose user the kernel names. A peer that may not attach is told
 * why, and never read. The others have a minute for their hello; their requests are charged to
 * their user (ledger.h). A silent peer never delays the instance.
 */
#include "group.h"
#include "peers.h"
#include "session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define HELLO_NS (60 * FFL_NS_PER_SEC) /* an application may not run for a while */

struct pending {               /* a peer whose hello is not read yet */
    TAILQ_ENTRY(pending) link; /* the oldest first */
    struct ffl_instance *in;
    struct account *account;
    struct src src;
    struct timer timer;
    struct ucred cred;
    int sock;  /* -1: done; freed after the batch of events that may name it */
    bool deaf; /* refused: the peer may still read the reason, and nothing is read from it */
};

/* ---- replies to peers ---------------------------------------------------------------------- */

static void send_reply(struct ffl_instance *in, int sock, struct ffl_reply *r, const int *fds,
                       int nfds)
{
    r->magic = FFL_MAGIC;
    r->version = FFL_ABI_VERSION;
    r->pid = (int32_t)getpid();
    snprintf(r->stack, sizeof(r->stack), "%s", OPS(in)->name);
    int rc = ffl_msg_send(sock, r, sizeof(*r), fds, nfds);
    if (rc < 0) /* the end of its socket follows */
        ffl_log(FFL_LOG_DEBUG, "attach: the peer went before the reply: %s", strerror(-rc));
}

static void refuse(struct pending *p, enum ffl_reply_status status, const char *why)
{
    struct ffl_reply r = {.status = status};
    snprintf(r.why, sizeof(r.why), "%s", why);
    ffl_stat_add(&p->in->page->sessions_refused, 1);
    ffl_log_within(&p->account->log, FFL_LOG_WARNING, "attach refused: %s", why);
    send_reply(p->in, p->sock, &r, NULL, 0);
}

/* ---- peers that wait ----------------------------------------------------------------------- */

static void note_pending(struct ffl_instance *in)
{
    atomic_store_explicit(&in->page->pending, (uint32_t)in->ledger.n[CHARGE_PENDING],
                          memory_order_relaxed);
}

/* Frees the peer's place, and closes `sock` unless that was taken over. */
static void leave(struct pending *p)
{
    if (p->src.kind == SRC_NONE)
        return;
    p->src.kind = SRC_NONE;
    timers_cancel(&p->in->timers, &p->timer);
    ledger_discharge(&p->in->ledger, p->account, CHARGE_PENDING, 1);
    note_pending(p->in);
    ctl_drop(p->in, &p->sock, closer_drop);
}

static void on_timer(struct timer *t)
{
    leave(ffl_container_of(t, struct pending, timer));
}

void admit_sweep(struct ffl_instance *in, bool all)
{
    struct pending *p = TAILQ_FIRST(&in->pending), *next;
    for (; p; p = next) {
        next = TAILQ_NEXT(p, link);
        if (all)
            leave(p);
        if (p->src.kind != SRC_NONE)
            continue;
        TAILQ_REMOVE(&in->pending, p, link);
        ledger_drop(&in->ledger, p->account);
        free(p);
    }
}

/* Silent peers keep no others out: the oldest peer of the user with most peers gives way. */
bool admit_make_room(struct ffl_instance *in)
{
    const struct account *most = ledger_most(&in->ledger, CHARGE_PENDING);
    struct pending *p;
    TAILQ_FOREACH(p, &in->pending, link)
    if (p->account == most && p->src.kind != SRC_NONE)
        break;
    if (p)
        leave(p);
    return p;
}

static int charge_place(struct ffl_instance *in, struct account *a)
{
    int rc = ledger_charge(&in->ledger, a, CHARGE_PENDING, 1);
    if (rc < 0 && admit_make_room(in))
        rc = ledger_charge(&in->ledger, a, CHARGE_PENDING, 1);
    return rc;
}

/* ---- peers that come ----------------------------------------------------------------------- */

static int sock_option(int sock, int name)
{
    int value = -1;
    socklen_t len = sizeof(value);
    return getsockopt(sock, SOL_SOCKET, name, &value, &len) < 0 ? -1 : value;
}

/* Sockets of other kinds do not tell when their other end is gone. */
static bool is_peer(int sock, struct ucred *cred)
{
    struct sockaddr_un sa;
    socklen_t len = sizeof(sa), credlen = sizeof(*cred);
    return sock_option(sock, SO_DOMAIN) == AF_UNIX &&
           sock_option(sock, SO_TYPE) == SOCK_SEQPACKET &&
           getpeername(sock, (struct sockaddr *)&sa, &len) == 0 &&
           getsockopt(sock, SOL_SOCKET, SO_PEERCRED, cred, &credlen) == 0;
}

/* The peer may read the reason until it hangs up or its time is over. */
static void turn_away(struct pending *p)
{
    char why[128];
    p->deaf = true;
    snprintf(why, sizeof(why),
             "user %u may not use this instance of user %u, which could admit it: "
             "--allow-user %u, or --group",
             (unsigned)p->cred.uid, (unsigned)geteuid(), (unsigned)p->cred.uid);
    refuse(p, FFL_REPLY_REFUSED, why);
}

void admit_not(struct ffl_instance *in, int sock, const char *why)
{
    struct ffl_reply r = {.status = FFL_REPLY_NOMEM};
    snprintf(r.why, sizeof(r.why), "%s", why);
    ffl_stat_add(&in->page->sessions_refused, 1);
    ffl_log(FFL_LOG_WARNING, "attach refused: %s", why);
    send_reply(in, sock, &r, NULL, 0);
    closer_drop(sock);
}

void admit_peer(struct ffl_instance *in, int sock, bool brought)
{
    struct ucred cred;
    struct account *a = is_peer(sock, &cred) ? ledger_hold(&in->ledger, cred.uid) : NULL;
    struct pending *p = a ? calloc(1, sizeof(*p)) : NULL;
    if (!p || charge_place(in, a) < 0) {
        free(p);
        ledger_drop(&in->ledger, a);
        closer_close(sock);
        return;
    }
    *p = (struct pending){.in = in,
                          .account = a,
                          .src = {SRC_PENDING, p},
                          .timer = {.fire = on_timer},
                          .cred = cred,
                          .sock = sock};
    TAILQ_INSERT_TAIL(&in->pending, p, link);
    timers_set(&in->timers, &p->timer, HELLO_NS);
    note_pending(in);
    if (!brought && !ffl_policy_admits(&in->o.policy, sock, cred.uid, cred.gid))
        turn_away(p);
    else
        in->empty_since = 0; /* embedded: it has time for its hello */
    if (ctl_add(in, sock, p->deaf ? EPOLLRDHUP : EPOLLIN | EPOLLRDHUP, &p->src) < 0)
        leave(p);
}

void admit_lost(struct account *a)
{
    ffl_log_within(&a->log, FFL_LOG_WARNING, "what a process of user %u has sent is lost: %s",
                   (unsigned)a->uid, ffl_strerror(EMFILE));
}

/* ---- peers' hellos ------------------------------------------------------------------------- */

/* Opens a ticket; takes the socket over on success. */
static bool give_ticket(struct pending *p)
{
    struct ffl_reply r = {.status = FFL_REPLY_OK};
    int rc = ticket_new(p->in, p->sock, p->account, &r.session, &r.key);
    if (rc < 0)
        refuse(p, FFL_REPLY_NOMEM,
               rc == -EDQUOT ? "this user has as many tickets as it may have" : ffl_strerror(-rc));
    else
        send_reply(p->in, p->sock, &r, NULL, 0);
    return rc == 0;
}

static void refuse_session(struct pending *p)
{
    const struct ffl_instance *in = p->in;
    char why[128];
    if (in->ledger.n[CHARGE_SESSION] >= in->o.max_sessions)
        snprintf(why, sizeof(why), "the instance has its %u sessions (--max-sessions)",
                 in->o.max_sessions);
    else if (in->o.user_sessions)
        snprintf(why, sizeof(why),
                 "user %u has the %u sessions that one may have (--user-sessions)",
                 (unsigned)p->cred.uid, in->o.user_sessions);
    else
        snprintf(why, sizeof(why),
                 "user %u has %u of the instance's %u sessions, and leaves the rest to others "
                 "(--user-sessions)",
                 (unsigned)p->cred.uid, (unsigned)p->account->n[CHARGE_SESSION],
                 in->o.max_sessions);
    refuse(p, FFL_REPLY_QUOTA, why);
}

/* Attaches; takes the socket over on success. */
static bool attach(struct pending *p, const struct ffl_hello *h)
{
    struct ffl_instance *in = p->in;
    struct ffl_session *s;
    int rc = session_new(in, p->sock, h, &p->cred, p->account, &s);
    if (rc == -EDQUOT)
        refuse_session(p);
    else if (rc < 0)
        refuse(p, FFL_REPLY_NOMEM, ffl_strerror(-rc));
    if (rc < 0)
        return false;
    in->had_session = true;
    int fds[FFL_ATTACH_FDS] = {s->map.memfd, s->app_bell, s->inst_bell};
    struct ffl_reply r = {.status = FFL_REPLY_OK, .session = s->id};
    send_reply(in, p->sock, &r, fds, FFL_ATTACH_FDS);
    ffl_log_within(&p->account->log, FFL_LOG_INFO, "session %u: pid %d, uid %u attached", s->id,
                   (int)p->cred.pid, (unsigned)p->cred.uid);
    return true;
}

/* True: the socket was taken over. */
static bool serve_hello(struct pending *p, const struct ffl_hello *h, int n)
{
    char why[128];
    if ((size_t)n < offsetof(struct ffl_hello, kind) || h->magic != FFL_MAGIC) {
        refuse(p, FFL_REPLY_BAD, "that was not an ffloop hello");
    } else if (h->version != FFL_ABI_VERSION) {
        snprintf(why, sizeof(why), "the application speaks version %u, the instance %u", h->version,
                 FFL_ABI_VERSION);
        refuse(p, FFL_REPLY_VERSION, why);
    } else if (n == sizeof(*h) && (h->kind == FFL_HELLO_ATTACH || h->kind == FFL_HELLO_TICKET)) {
        epoll_ctl(p->in->ctl, EPOLL_CTL_DEL, p->sock, NULL); /* its new owner adds it again */
        return h->kind == FFL_HELLO_TICKET ? give_ticket(p) : attach(p, h);
    } else {
        refuse(p, FFL_REPLY_BAD, "unknown kind of hello");
    }
    return false;
}

void admit_event(struct pending *p)
{
    struct ffl_hello h = {0};
    int fd = -1, n = p->deaf ? 0 : closer_recv(p->sock, &h, sizeof(h), &fd);
    if (n == -EAGAIN)
        return;
    if (fd >= 0) /* no hello brings a descriptor */
        closer_close(fd);
    if (n > 0 && fd < 0 && serve_hello(p, &h, n))
        p->sock = -1;
    leave(p);
}
