/*
 * sock.c - the life of a socket: from a kernel socket to the stack, and its end.
 *
 * Callers: the program, the other files of the shim. A bad call on a socket that is not placed is
 * made on the kernel socket, for the kernel's own error.
 */
#include "preload.h"
#include "ff_syscall.h"
#include "option.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- addresses ----------------------------------------------------------------------------- */

bool sock_addr_in(struct ffl_addr *a, int domain, const struct sockaddr *sa, socklen_t len)
{
    ffl_addr_from_sockaddr(a, sa, len);
    return a->family == domain;
}

int sock_addr_bad(int domain, socklen_t len)
{
    socklen_t least = domain == AF_INET6 ? 24 : sizeof(struct sockaddr_in); /* 24: no scope */
    return len < least ? -EINVAL : -EAFNOSUPPORT;
}

/* As the kernel: cuts the address to *len, and sets *len to its full length. */
int sock_addr_out(const struct ffl_addr *a, int domain, struct sockaddr *sa, socklen_t *len)
{
    struct ffl_addr of = *a; /* an empty address has family 0 */
    struct sockaddr_storage ss;
    uint32_t n;
    of.family = (uint16_t)domain;
    socklen_t room;
    int rc = ffl_addr_to_sockaddr(&of, &ss, &n);
    if (rc < 0)
        return rc;
    if (!user_copy(&room, len, sizeof(room)))
        return -EFAULT;
    if ((int)room < 0)
        return -EINVAL;
    return user_copy(sa, &ss, n < room ? n : room) && user_copy(len, &n, sizeof(n)) ? 0 : -EFAULT;
}

/* ---- making and freeing -------------------------------------------------------------------- */

struct sock *sock_new(int domain, int type, int proto)
{
    struct sock *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->node.kind = NODE_SOCK;
    s->node.source.ask = sock_ask;
    s->domain = domain;
    s->type = type & 0xf;
    s->proto = proto;
    s->h = s->kernel_fd = s->bell[0] = s->bell[1] = -1;
    s->own = FFL_OWN_UNSET;
    s->opts_end = &s->opts;
    s->nonblock = type & SOCK_NONBLOCK;
    return s;
}

void sock_tell(struct sock *s)
{
    ffl_source_tell(&s->node.source, FFL_WATCH_ALL);
}

static void drop_options(struct sock *s)
{
    while (s->opts) {
        struct option *o = s->opts;
        s->opts = o->next;
        free(o);
    }
    s->opts_end = &s->opts;
}

void sock_free(struct sock *s)
{
    while (s->node.source.watches) /* epolls' only: a waiting call would hold the node */
        epoll_forget(watch_item(s->node.source.watches));
    if (s->session && s->session->inherited)
        proc_disown(s);
    else if (s->session)
        proc_leave(s);
    if (s->kernel_fd >= 0)
        fd_ours_close(s->kernel_fd);
    async_free(s);
    drop_options(s);
    free(s->cork);
    free(s);
}

struct sock *sock_enter(int fd)
{
    if (!maybe_ours(fd))
        return NULL;
    call_begins();
    lock();
    struct node *n = fd_node(fd);
    struct sock *s = n && n->kind == NODE_SOCK && node_mine(n) ? (struct sock *)n : NULL;
    if (s)
        sock_current(s);
    else
        unlock();
    return s;
}

struct sock *sock_enter_stack(int fd)
{
    struct sock *s = sock_enter(fd);
    if (s && !s->session) {
        unlock();
        return NULL;
    }
    return s;
}

struct copies {
    struct sock *s;
    int fd;
};

static void drop_copy(int fd, struct node *n, void *arg)
{
    const struct copies *c = arg;
    if (n == &c->s->node && fd != c->fd)
        fd_drop(fd);
}

/* The socket stays a kernel socket; its epoll registrations move there. */
static int sock_to_kernel(struct sock *s, int fd)
{
    struct ffl_watch *next;
    int rc = 0;
    for (struct ffl_watch *w = s->node.source.watches; w; w = next) {
        struct epoll_shadow *ep = watch_epoll(w);
        struct item *it = watch_item(w);
        next = w->next;
        if (!ep)
            continue;
        struct epoll_event ev = {.events = w->events, .data.u64 = w->data};
        if (rc == 0)
            rc = epoll_use(ep, ep->w.epfd);
        int epfd = it->writes ? ffl_kqueue_writes(&ep->kq) : ep->w.epfd;
        if (real.epoll_ctl(epfd, EPOLL_CTL_ADD, it->fd, &ev) < 0)
            rc = -errno;
        ep->kernel++;
        epoll_forget(it);
    }
    if (s->node.fds > 1)
        fd_each(drop_copy, &(struct copies){s, fd});
    fd_drop(fd);
    return rc;
}

/* The placeholder leaves the multicast groups that the program joined: its memberships would
 * outlive those of the stack socket. */
static void leave_groups(const struct sock *s, int fd)
{
    for (const struct option *p = s->opts; p; p = p->next) {
        const struct ffl_option *o = ffl_option_find(p->level, p->name);
        if (o && o->flags & FFL_OPTION_JOIN) /* the next row of the table is its opposite */
            (void)real.setsockopt(fd, p->level, o[1].name, p->data, p->len); /* has left since */
    }
}

static bool carried(int type, int proto)
{
    return (type == SOCK_STREAM && (!proto || proto == IPPROTO_TCP)) ||
           (type == SOCK_DGRAM && (!proto || proto == IPPROTO_UDP));
}

API int socket(int domain, int type, int proto)
{
    real_start();
    int plain = type & ~(SOCK_KERNEL | SOCK_FSTACK);
    int fd = real.socket(domain, plain, proto);
    if (fd < 0 || !started || tls.inside || (type & SOCK_KERNEL))
        return fd;
    (void)fd_made(fd);
    if ((domain != AF_INET && domain != AF_INET6) || !carried(plain & 0xf, proto))
        return fd;
    if (!(type & SOCK_FSTACK) && place_elsewhere(fd))
        return fd;
    lock();
    struct sock *s = sock_new(domain, plain, proto);
    int rc = s ? fd_set_node(fd, &s->node) : -ENOMEM;
    if (rc < 0) {
        free(s);
        real.close(fd);
        return (int)leave(rc);
    }
    s->force_stack = type & SOCK_FSTACK;
    s->node.cloexec = plain & SOCK_CLOEXEC;
    return (int)leave(fd);
}
ALSO(socket, __socket);

void sock_rearm(struct sock *s)
{
    for (struct ffl_watch *w = s->node.source.watches; w; w = w->next)
        sock_arm(s, w->events);
    sock_tell(s);
}

/* ---- onto the stack ------------------------------------------------------------------------ */

/* Sets an option on stack socket h: 0; 1: for this option s stays on the kernel; or -errno. */
static int put_option(const struct sock *s, struct session *session, int h, int level, int name,
                      const void *val, uint32_t len)
{
    char why[FFL_SETTING_WHY];
    int rc = ffl_client_setsockopt(session->c, h, level, name, val, len);
    if (rc >= 0)
        return 0;
    enum ffl_carry_fate fate = ffl_carry_refused(session->stack, level, name, rc, why, sizeof(why));
    ffl_log(fate == FFL_CARRY_FAILS ? FFL_LOG_ERROR : FFL_LOG_WARNING, "%s", why);
    if (fate == FFL_CARRY_STAYS)
        return s->force_stack ? rc : 1;
    return fate == FFL_CARRY_FAILS ? rc : 0;
}

/* Sets the options of kernel socket fd, and those that cannot be read back. Returns as
 * put_option. */
static int put_options(const struct sock *s, int fd, struct session *session, int h)
{
    struct ffl_optarg o;
    struct ffl_carry k;
    int rc = ffl_carry_begin(&k, fd, session->stack, s->noted);
    if (rc < 0)
        return rc;
    while (rc == 0 && ffl_carry_next(&k, &o))
        rc = put_option(s, session, h, o.level, o.name, o.data, o.len);
    ffl_carry_end(&k);
    for (const struct option *p = s->opts; p && rc == 0; p = p->next)
        rc = put_option(s, session, h, p->level, p->name, p->data, p->len);
    return rc;
}

void sock_on_stack(struct sock *s, struct session *session, int h)
{
    s->session = session;
    s->h = h;
    s->born = s->seen = session->shares;
    session->socks++;
    node_placed(&s->node);
    (void)ffl_client_watch(session->c, h, &s->node.source); /* cannot fail: open */
}

int sock_place(struct sock *s, int fd, const struct ffl_addr *a, bool binds)
{
    if (s->session)
        return 1;
    if (misplaced)
        return -ENETDOWN;
    int rc = 0;
    struct session *session = session_get(place_instance(s, binds ? a : NULL), &rc);
    if (!session && !options.fallback)
        return rc;
    if (!session || !(s->force_stack || ffl_route_on_stack(&options.routes, session->stack, a)))
        return sock_to_kernel(s, fd);
    int h = ffl_client_socket(session->c, s->domain, s->type, s->proto, 0);
    if (h < 0)
        return h;
    if ((rc = put_options(s, fd, session, h)) != 0) {
        (void)ffl_client_close(session->c, h, true); /* cannot fail: open */
        return rc < 0 ? rc : sock_to_kernel(s, fd);
    }
    leave_groups(s, fd);
    drop_options(s);
    sock_on_stack(s, session, h);
    s->state = SOCK_BOUND;
    if (s->async && (rc = async_begin(s, fd)) < 0)
        ffl_log(FFL_LOG_WARNING, "descriptor %d: O_ASYNC gives no signals: %s", fd, strerror(-rc));
    if (s->type == SOCK_DGRAM) {
        /* Data comes without a connection: a call that does not wait sees it. */
        (void)ffl_client_arm(session->c, h, 0); /* cannot fail: open */
        sock_tell(s);
        s->untried = true;
    }
    return 1;
}

void sock_place_early(struct sock *s, int fd)
{
    const struct ffl_addr any = {.family = (uint16_t)s->domain};
    bool one = options.instances <= 1 && !options.per_thread && !misplaced;
    int rc;
    if (s->session || s->type != SOCK_STREAM || !one)
        return;
    const struct session *session = session_get(place_instance(s, NULL), &rc);
    if (session && (s->force_stack || ffl_route_all(&options.routes, session->stack)))
        (void)sock_place(s, fd, &any, false); /* else each process places it */
}

/* Can it still be bound? A connection that has ended has given its port back, unless bind() gave it
 * that. */
static bool bindable(struct sock *s)
{
    if (s->state <= SOCK_BOUND)
        return true;
    return s->state != SOCK_LISTENING && sock_pending_connect(s) == 0 && sock_over(s);
}

API int bind(int fd, const struct sockaddr *sa, socklen_t len)
{
    real_start();
    struct ffl_addr a;
    struct sockaddr_storage copy = {0};
    struct sock *s = sock_enter(fd);
    if (!s)
        return real.bind(fd, sa, len);
    int bad = user_address(&copy, sa, len);
    if (bad < 0)
        return (int)leave(bad);
    sa = (const struct sockaddr *)&copy;
    struct sockaddr_in *forgot = (struct sockaddr_in *)&copy; /* its family; as the kernel */
    if (s->domain == AF_INET && len >= sizeof(*forgot) && sa->sa_family == AF_UNSPEC &&
        forgot->sin_addr.s_addr == INADDR_ANY)
        forgot->sin_family = AF_INET;
    bool fits = sock_addr_in(&a, s->domain, sa, len);
    int rc = bindable(s) ? 0 : -EINVAL;
    if (!fits)
        rc = s->session ? sock_addr_bad(s->domain, len) : 0;
    else if (rc == 0)
        rc = sock_place(s, fd, &a, true);
    if (rc == 0) {
        unlock();
        return real.bind(fd, sa, len);
    }
    if (rc > 0)
        rc = ffl_client_bind(s->session->c, s->h, &a);
    s->named |= rc == 0;
    return (int)leave(rc);
}

API int listen(int fd, int backlog)
{
    real_start();
    struct ffl_addr any = {0};
    struct sock *s = sock_enter(fd);
    if (s && s->type == SOCK_DGRAM) { /* the kernel's EOPNOTSUPP */
        unlock();
        s = NULL;
    }
    if (!s)
        return real.listen(fd, backlog);
    any.family = (uint16_t)s->domain;
    int rc = s->state > SOCK_LISTENING ? -EINVAL : sock_place(s, fd, &any, false);
    if (rc == 0) {
        unlock();
        return real.listen(fd, backlog);
    }
    if (rc > 0)
        rc = ffl_client_listen(s->session->c, s->h, backlog, FFL_F_ARM_NEW | FFL_F_OFFER);
    if (rc == 0) {
        s->state = SOCK_LISTENING;
        dual_listen(s, fd, backlog);
        sock_rearm(s);
    }
    return (int)leave(rc);
}

/* ---- accept -------------------------------------------------------------------------------- */

static int listener_lost(struct sock *l)
{
    l->lost = true;
    return -ECONNABORTED;
}

static int accept_now(struct sock *l, struct ffl_addresses *addresses, int flags)
{
    struct ffl_client *c = l->session->c;
    if (l->state != SOCK_LISTENING)
        return -EINVAL; /* shut down meanwhile */
    if (ffl_client_detached(c))
        return listener_lost(l);
    if (!l->nonblock)
        ffl_client_alone(c, l->h, true);
    if (!(ffl_client_state(c, l->h) & FFL_ST_READ))
        ffl_client_reap(c);
    if (!(ffl_client_state(c, l->h) & FFL_ST_READ) && (!l->nonblock || ffl_client_asks(c, l->h)))
        return ffl_client_arm(c, l->h, SOCK_WINDOW) < 0 ? -EBADF : -EAGAIN;
    /* the placeholder first: at the limit of descriptors (EMFILE) the connection stays queued */
    int fd = real.socket(AF_UNIX, SOCK_STREAM | (flags & (SOCK_NONBLOCK | SOCK_CLOEXEC)), 0);
    if (fd_node(fd))
        fd_drop(fd); /* closed past the shim */
    struct sock *s = fd < 0 ? NULL : sock_new(l->domain, l->type | flags, l->proto);
    int rc = fd < 0 ? -errno : s ? fd_set_node(fd, &s->node) : -ENOMEM;
    if (rc == 0) {
        rc = ffl_client_take(c, l->h);
        if (rc == 0)
            rc = ffl_client_accept(c, l->h, addresses);
        if (rc >= 0) {
            s->state = SOCK_CONNECTED;
            s->rcvtimeo = l->rcvtimeo;
            s->sndtimeo = l->sndtimeo;
            s->abort = l->abort;
            s->node.cloexec = flags & SOCK_CLOEXEC;
            sock_on_stack(s, l->session, rc);
            return fd;
        }
        fd_drop(fd);
    } else {
        free(s);
    }
    if (fd >= 0)
        real.close(fd);
    return ffl_client_detached(c) ? listener_lost(l) : rc; /* the instance ended meanwhile */
}

static int do_accept(int fd, struct sockaddr *sa, socklen_t *len, int flags)
{
    struct ffl_addresses addresses;
    struct sock *s = sock_enter(fd);
    if (!s)
        return -ENOTSOCK;
    if (!s->session && s->state == SOCK_LISTENING) /* inherited, and lost with its instance */
        return (int)leave(listener_lost(s));
    if (!s->session || s->type == SOCK_DGRAM) {
        unlock();
        return -ENOTSOCK; /* the kernel's EINVAL or EOPNOTSUPP */
    }
    if (flags & ~(SOCK_NONBLOCK | SOCK_CLOEXEC) || s->state != SOCK_LISTENING)
        return (int)leave(-EINVAL);
    int64_t until = until_of(s->rcvtimeo);
    int rc;
    while ((rc = accept_now(s, &addresses, flags)) == -EAGAIN) {
        if ((rc = dual_accept(s, sa, len, flags)) >= 0)
            return (int)leave(rc);
        if (s->nonblock && sock_look(s))
            continue;
        if (s->nonblock || (rc = sock_wait(s, until, false)) < 0)
            break;
    }
    int bad = rc >= 0 && sa ? sock_addr_out(&addresses.peer, s->domain, sa, len) : 0;
    (void)leave(rc);
    if (bad < 0) { /* as the kernel: the connection is lost */
        close(rc);
        errno = -bad;
        return -1;
    }
    return rc < 0 ? -1 : rc;
}

API int accept4(int fd, struct sockaddr *sa, socklen_t *len, int flags)
{
    real_start();
    int rc = maybe_ours(fd) ? do_accept(fd, sa, len, flags) : -ENOTSOCK;
    return rc == -ENOTSOCK ? fd_made(real.accept4(fd, sa, len, flags)) : rc;
}

API int accept(int fd, struct sockaddr *sa, socklen_t *len)
{
    real_start();
    int rc = maybe_ours(fd) ? do_accept(fd, sa, len, 0) : -ENOTSOCK;
    return rc == -ENOTSOCK ? fd_made(real.accept(fd, sa, len)) : rc;
}

/* ---- addresses ------------------------------------------------------------------------------- */

static int name_of(struct sock *s, bool peer, struct sockaddr *sa, socklen_t *len)
{
    struct ffl_addresses addresses;
    if (peer)
        ffl_client_reap(s->session->c); /* the peer may have reset */
    if (peer && (sock_pending_connect(s) < 0 || !sock_has_peer(s) || sock_over(s)))
        return -ENOTCONN;
    int rc = ffl_client_addresses(s->session->c, s->h, &addresses);
    if (rc == 0 && peer && !addresses.peer.port_be)
        return -ENOTCONN; /* a datagram socket connected to port 0 */
    if (rc == 0)
        rc = sock_addr_out(peer ? &addresses.peer : &addresses.local, s->domain, sa, len);
    return rc;
}

API int getsockname(int fd, struct sockaddr *sa, socklen_t *len)
{
    real_start();
    struct sock *s = sock_enter_stack(fd);
    return s ? (int)leave(name_of(s, false, sa, len)) : real.getsockname(fd, sa, len);
}

API int getpeername(int fd, struct sockaddr *sa, socklen_t *len)
{
    real_start();
    struct sock *s = sock_enter_stack(fd);
    return s ? (int)leave(name_of(s, true, sa, len)) : real.getpeername(fd, sa, len);
}
