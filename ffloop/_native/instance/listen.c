/*
 * listen.c - the instance's unix socket: who may attach, the handshake, and the control epoll that
 * holds everything the instance may sleep on.
 *
 * Callers: serve.c. A peer that connects and says nothing holds one of a few waiting places until
 * its time is up; it never delays the instance.
 */
#include "internal.h"

#include "place.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_PENDING 64
#define ACCEPTS_AT_ONCE 64 /* before those who are in have their turn */
#define HELLO_NS (5 * FFL_NS_PER_SEC)

struct pending { /* connected, its hello not read yet */
    struct pending *next;
    struct ffl_instance *in;
    struct src src;
    bool trusted; /* it came through a ticket */
    uid_t uid;
    int sock; /* -1: done, freed after the batch of events that may name it */
    int64_t due;
};

int ctl_add(struct ffl_instance *in, int fd, uint32_t events, struct src *src)
{
    struct epoll_event ev = {.events = events, .data.ptr = src};
    return epoll_ctl(in->ctl, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

void ctl_drop(struct ffl_instance *in, int *fd)
{
    if (*fd < 0)
        return;
    (void)epoll_ctl(in->ctl, EPOLL_CTL_DEL, *fd, NULL); /* ENOENT: it was never added */
    ffl_close(fd, NULL);
}

/* ---- opening ------------------------------------------------------------------------------- */

/* A socket file that nobody listens on any more is removed; a live one is -EADDRINUSE, something
 * else -EEXIST. */
static int clear_stale(const struct sockaddr_un *sa, socklen_t len)
{
    int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s < 0)
        return -errno;
    int rc = connect(s, (const struct sockaddr *)sa, len) < 0 ? -errno : 0;
    close(s);
    struct stat st;
    if (lstat(sa->sun_path, &st) == 0 && !S_ISSOCK(st.st_mode))
        return -EEXIST;
    if (rc == -ECONNREFUSED)
        return unlink(sa->sun_path) < 0 ? -errno : 0;
    return -EADDRINUSE;
}

/* Who may connect to it at all; the umask has kept everybody out since bind. */
static int set_access(const struct ffl_instance *in, const char *path, char *why, size_t whylen)
{
    const struct ffl_policy *p = &in->o.policy;
    mode_t mode = in->o.mode < 0 ? ffl_policy_mode(p) : (mode_t)in->o.mode;
    if (p->has_group && chown(path, (uid_t)-1, p->group) < 0) {
        int rc = -errno;
        snprintf(why, whylen, "cannot give '%s' to group %u: %s (this user must be in that group)",
                 path, (unsigned)p->group, strerror(-rc));
        return rc;
    }
    return chmod(path, mode) < 0 ? -errno : 0;
}

static int bind_path(struct ffl_instance *in, const char *path, char *why, size_t whylen)
{
    struct sockaddr_un sa;
    socklen_t len;
    int rc = ffl_unix_addr(path, &sa, &len);
    if (rc < 0) {
        snprintf(why, whylen, "socket path '%s': %s", path, strerror(-rc));
        return rc;
    }
    rc = ffl_place_check(path, NULL, why, whylen);
    if (rc < 0)
        return rc;
    int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s < 0)
        return -errno;
    for (int tries = 0; tries < 2; tries++) {
        rc = bind(s, (struct sockaddr *)&sa, len) < 0 ? -errno : 0;
        if (rc != -EADDRINUSE || path[0] == '@' || tries || (rc = clear_stale(&sa, len)) < 0)
            break;
    }
    if (rc == 0 && path[0] != '@') {
        in->bound = sa;
        rc = set_access(in, path, why, whylen);
    }
    if (rc == 0 && listen(s, 128) < 0)
        rc = -errno;
    if (rc < 0 && !why[0])
        snprintf(why, whylen, "cannot listen on '%s': %s%s", path, strerror(-rc),
                 rc == -EADDRINUSE ? " (another instance runs there; choose another --socket)"
                 : rc == -EEXIST   ? " (and is no socket; choose another --socket)"
                                   : "");
    if (rc < 0)
        close(s);
    else
        in->listen_fd = s;
    return rc;
}

int listen_open(struct ffl_instance *in, char *why, size_t whylen)
{
    in->listen_fd = -1;
    if (in->o.listen_fd >= 0) {
        int type = 0;
        socklen_t len = sizeof(type);
        if (getsockopt(in->o.listen_fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 ||
            type != SOCK_SEQPACKET) {
            snprintf(why, whylen, "descriptor %d is not a SOCK_SEQPACKET socket", in->o.listen_fd);
            return -ENOTSOCK;
        }
        in->listen_fd = in->o.listen_fd;
        (void)fcntl(in->listen_fd, F_SETFL, O_NONBLOCK);
        (void)fcntl(in->listen_fd, F_SETFD, FD_CLOEXEC);
    } else {
        int rc = bind_path(in, in->o.path, why, whylen);
        if (rc < 0)
            return rc;
    }
    struct sockaddr_un sa = {0};
    socklen_t len = sizeof(sa);
    if (getsockname(in->listen_fd, (struct sockaddr *)&sa, &len) == 0) {
        if (!sa.sun_path[0] && len > offsetof(struct sockaddr_un, sun_path))
            sa.sun_path[0] = '@';
        snprintf(in->page->path, sizeof(in->page->path), "%.*s", (int)sizeof(sa.sun_path),
                 sa.sun_path);
    }
    in->src_listen = (struct src){SRC_LISTEN, in};
    return ctl_add(in, in->listen_fd, EPOLLIN, &in->src_listen);
}

static void pending_drop(struct pending *p)
{
    if (p->sock >= 0) {
        ctl_drop(p->in, &p->sock);
        atomic_fetch_sub_explicit(&p->in->page->pending, 1, memory_order_relaxed);
    }
}

static void pending_sweep(struct ffl_instance *in, bool all)
{
    struct pending **p = &in->pending;
    int64_t now = ffl_now_ns();
    while (*p) {
        struct pending *x = *p;
        if (all || x->due < now)
            pending_drop(x);
        if (x->sock < 0) {
            *p = x->next;
            free(x);
        } else {
            p = &x->next;
        }
    }
}

void listen_close(struct ffl_instance *in)
{
    pending_sweep(in, true);
    if (in->bound.sun_path[0])
        unlink(in->bound.sun_path);
    in->bound.sun_path[0] = '\0'; /* a successor may have the path from now on */
    if (in->listen_fd >= 0) {
        epoll_ctl(in->ctl, EPOLL_CTL_DEL, in->listen_fd, NULL); /* systemd may hold it as well */
        close(in->listen_fd);
    }
    in->listen_fd = -1;
}

/* ---- the handshake ------------------------------------------------------------------------- */

static uid_t peer_uid(int sock)
{
    struct ucred cred = {.uid = (uid_t)-1};
    socklen_t len = sizeof(cred);
    (void)getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &len); /* else nobody's */
    return cred.uid;
}

static unsigned places_of(const struct ffl_instance *in, uid_t uid)
{
    unsigned n = 0;
    for (const struct pending *p = in->pending; p; p = p->next)
        n += p->sock >= 0 && p->uid == uid;
    return n;
}

/* Nobody keeps others out by saying nothing: the oldest of the user who has most places gives way. */
static void make_room(struct ffl_instance *in)
{
    struct pending *oldest = NULL;
    unsigned most = 1;
    for (struct pending *p = in->pending; p; p = p->next) { /* the newest first */
        unsigned n = p->sock >= 0 ? places_of(in, p->uid) : 0;
        if (n < most)
            continue;
        most = n;
        oldest = p;
    }
    if (oldest)
        pending_drop(oldest);
}

static void add_pending(struct ffl_instance *in, int s, bool trusted)
{
    struct pending *p = calloc(1, sizeof(*p));
    if (!p) {
        close(s);
        return;
    }
    if (atomic_load_explicit(&in->page->pending, memory_order_relaxed) >= MAX_PENDING)
        make_room(in);
    *p = (struct pending){.next = in->pending,
                          .in = in,
                          .trusted = trusted,
                          .uid = peer_uid(s),
                          .sock = s,
                          .due = ffl_now_ns() + HELLO_NS};
    p->src = (struct src){SRC_PENDING, p};
    in->pending = p;
    atomic_fetch_add_explicit(&in->page->pending, 1, memory_order_relaxed);
    if (ctl_add(in, s, EPOLLIN | EPOLLRDHUP, &p->src) < 0)
        pending_drop(p);
}

static void accept_peers(struct ffl_instance *in)
{
    for (int i = 0; i < ACCEPTS_AT_ONCE; i++) {
        int s = accept4(in->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (s < 0) /* EAGAIN; or EMFILE, and the peer's own time-out speaks */
            return;
        add_pending(in, s, false);
    }
}

void listen_trusted(struct ffl_instance *in, int sock)
{
    int domain = 0;
    socklen_t len = sizeof(domain);
    if (getsockopt(sock, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX)
        add_pending(in, sock, true);
    else
        close(sock);
}

static void send_reply(struct ffl_instance *in, int sock, struct ffl_reply *r, const int *fds,
                       int nfds)
{
    r->magic = FFL_MAGIC;
    r->version = FFL_ABI_VERSION;
    r->pid = (int32_t)getpid();
    snprintf(r->stack, sizeof(r->stack), "%s", OPS(in)->name);
    int rc = ffl_msg_send(sock, r, sizeof(*r), fds, nfds);
    if (rc < 0) /* its end follows */
        ffl_log(FFL_LOG_INFO, "attach: the peer went before the reply: %s", strerror(-rc));
}

static void refuse(struct ffl_instance *in, int sock, enum ffl_reply_status status, const char *why)
{
    struct ffl_reply r = {.status = status};
    snprintf(r.why, sizeof(r.why), "%s", why);
    ffl_stat_add(&in->page->sessions_refused, 1);
    ffl_log(FFL_LOG_WARNING, "attach refused: %s", why);
    send_reply(in, sock, &r, NULL, 0);
}

/* A ticket instead of a session; takes the socket over on success. */
static bool give_ticket(struct ffl_instance *in, int sock, uid_t uid)
{
    struct ffl_reply r = {.status = FFL_REPLY_OK};
    int rc = ticket_new(in, sock, uid, &r.session, &r.key);
    if (rc < 0)
        refuse(in, sock, FFL_REPLY_NOMEM, ffl_strerror(-rc));
    else
        send_reply(in, sock, &r, NULL, 0);
    return rc == 0;
}

static unsigned sessions_of(const struct ffl_instance *in, uid_t uid)
{
    unsigned n = 0;
    for (const struct ffl_session *s = in->sessions; s; s = s->next)
        n += s->uid == uid && !s->dying;
    return n;
}

/* Attaches; takes the socket over on success. */
static bool attach(struct ffl_instance *in, int sock, const struct ffl_hello *h,
                   const struct ucred *cred)
{
    struct ffl_session *s;
    char why[128] = "";
    if (in->nsessions >= in->o.max_sessions)
        snprintf(why, sizeof(why), "the instance has its %u sessions (--max-sessions)",
                 in->o.max_sessions);
    else if (in->o.user_sessions && sessions_of(in, cred->uid) >= in->o.user_sessions)
        snprintf(why, sizeof(why),
                 "user %u has the %u sessions that one may have (--user-sessions)",
                 (unsigned)cred->uid, in->o.user_sessions);
    if (why[0]) {
        refuse(in, sock, FFL_REPLY_QUOTA, why);
        return false;
    }
    int rc = session_new(in, sock, h, cred->pid, cred->uid, &s);
    if (rc < 0) {
        refuse(in, sock, FFL_REPLY_NOMEM, ffl_strerror(-rc));
        return false;
    }
    in->had_session = true;
    int fds[FFL_ATTACH_FDS] = {s->map.memfd, s->app_bell, s->inst_bell};
    struct ffl_reply r = {.status = FFL_REPLY_OK, .session = s->id};
    send_reply(in, sock, &r, fds, FFL_ATTACH_FDS);
    ffl_log(FFL_LOG_INFO, "session %u: pid %d, uid %u attached", s->id, (int)cred->pid,
            (unsigned)cred->uid);
    return true;
}

static void hello(struct ffl_instance *in, struct pending *p)
{
    struct ffl_hello h = {0};
    struct ucred cred = {.uid = (uid_t)-1};
    socklen_t len = sizeof(cred);
    char why[128];
    int n = ffl_msg_recv(p->sock, &h, sizeof(h), NULL, NULL);
    if (n == -EAGAIN)
        return;
    if (n <= 0) { /* gone without a word, or with descriptors that nobody asked for */
        pending_drop(p);
        return;
    }
    if (getsockopt(p->sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0 ||
        !(p->trusted || ffl_policy_admits(&in->o.policy, p->sock, cred.uid, cred.gid))) {
        snprintf(why, sizeof(why),
                 "user %u may not use this instance of user %u, which could admit it: "
                 "--allow-user %u, or --group",
                 (unsigned)cred.uid, (unsigned)geteuid(), (unsigned)cred.uid);
        refuse(in, p->sock, FFL_REPLY_REFUSED, why);
    } else if ((size_t)n < offsetof(struct ffl_hello, kind) || h.magic != FFL_MAGIC) {
        refuse(in, p->sock, FFL_REPLY_BAD, "that was not an ffloop hello");
    } else if (h.version != FFL_ABI_VERSION) {
        snprintf(why, sizeof(why), "the application speaks version %u, the instance %u", h.version,
                 FFL_ABI_VERSION);
        refuse(in, p->sock, FFL_REPLY_VERSION, why);
    } else if (n == sizeof(h) && h.kind == FFL_HELLO_STATS) {
        struct ffl_reply r = {.status = FFL_REPLY_OK};
        send_reply(in, p->sock, &r, &in->stats_fd, 1);
    } else if (n == sizeof(h) && (h.kind == FFL_HELLO_ATTACH || h.kind == FFL_HELLO_TICKET)) {
        epoll_ctl(in->ctl, EPOLL_CTL_DEL, p->sock, NULL); /* it is added as something else */
        if (h.kind == FFL_HELLO_TICKET ? give_ticket(in, p->sock, cred.uid)
                                       : attach(in, p->sock, &h, &cred)) {
            p->sock = -1;
            atomic_fetch_sub_explicit(&in->page->pending, 1, memory_order_relaxed);
            return;
        }
    } else {
        refuse(in, p->sock, FFL_REPLY_BAD, "unknown kind of hello");
    }
    pending_drop(p);
}

/* ---- the control epoll --------------------------------------------------------------------- */

static void ctl_event(struct ffl_instance *in, const struct src *src)
{
    switch (src->kind) {
    case SRC_LISTEN:
        accept_peers(in);
        break;
    case SRC_PENDING: {
        struct pending *p = src->owner;
        if (p->sock >= 0)
            hello(in, p);
        break;
    }
    case SRC_SESSION:
    case SRC_PIDFD:
        session_end(src->owner);
        break;
    case SRC_TICKET:
        ticket_event(src->owner);
        break;
    case SRC_STACK:
        in->stack_quiet = false;
        break;
    case SRC_STOP: { /* end_asked says what; the turn looks */
        uint64_t n;
        if (read(in->stop_fd, &n, sizeof(n)) < 0)
            ffl_log(FFL_LOG_DEBUG, "stop_fd: %s", strerror(errno));
        break;
    }
    case SRC_DOORBELL: /* edge-triggered, never read: it has done its work by waking us */
        break;
    }
}

void ctl_wait(struct ffl_instance *in, int64_t timeout_ns)
{
    struct epoll_event ev[64];
    int n = ffl_epoll_wait(in->ctl, ev, FFL_COUNT(ev), timeout_ns);
    for (int i = 0; i < n; i++)
        ctl_event(in, ev[i].data.ptr);
    if (in->pending)
        pending_sweep(in, false);
}
