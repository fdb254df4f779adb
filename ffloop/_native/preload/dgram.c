/*
 * dgram.c - datagram sockets on the stack: receive, send, connect.
 *
 * Callers: recv.c, send.c, connect.c, option.c, poll.c. Like a stream, a datagram socket begins on
 * the kernel; bind, connect or the first address that it sends to places it. Streams use the
 * receiving part for the error queue.
 */
#include "preload.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LARGEST 65536
#define SENDABLE 65507

struct cork { /* a datagram that MSG_MORE has begun */
    struct ffl_dgram d;
    size_t len;
    char data[SENDABLE];
};

void dgram_settle(struct sock *s)
{
    struct ffl_client *c = s->session->c;
    unsigned st = ffl_client_state(c, s->h);
    bool late = st & FFL_ST_ERROR && !(st & FFL_ST_REPORT); /* a report's error is told at once */
    if (s->state != SOCK_CONNECTED && late && !ffl_client_detached(c))
        s->late_error = ffl_client_take_error(c, s->h);
}

/* One that nobody at this machine takes has failed when its send returns. By ring it is on its way
 * then: the next call that does not wait asks, once. */
bool dgram_ask(struct sock *s)
{
    bool doubts = s->doubts;
    s->doubts = false;
    return doubts && ffl_client_catch_up(s->session->c) == 0;
}

/* May a datagram to this machine fail so? Others than connected sockets hear of it by a report. */
static bool may_fail(const struct sock *s, const struct ffl_addr *to)
{
    struct ffl_addresses a;
    if (!s->reports && s->state != SOCK_CONNECTED)
        return false;
    if (to->family)
        return ffl_addr_loopback(to);
    return ffl_client_addresses(s->session->c, s->h, &a) == 0 && ffl_addr_loopback(&a.peer);
}

/* ---- receive ------------------------------------------------------------------------------- */

static bool scatter(const struct iovec *iov, size_t n, const char *data, size_t len)
{
    for (size_t i = 0; i < n && len; i++) {
        size_t part = iov[i].iov_len < len ? iov[i].iov_len : len;
        if (!user_copy(iov[i].iov_base, data, part))
            return false;
        data += part;
        len -= part;
    }
    return true;
}

/* Takes one datagram: its length (with MSG_TRUNC the whole, else what found room), or -errno. */
static int64_t take(struct sock *s, const struct iovec *iov, size_t n, int flags,
                    struct ffl_dgram *d)
{
    struct ffl_client *c = s->session->c;
    int how = flags & (MSG_PEEK | MSG_ERRQUEUE);
    if (n == 1 && !(flags & MSG_TRUNC)) {
        d->data = iov->iov_base;
        d->len = iov->iov_len;
        return ffl_client_recvmsg(c, s->h, d, how);
    }
    d->data = malloc(LARGEST);
    d->len = LARGEST;
    if (!d->data)
        return -ENOMEM;
    size_t room = total_of(iov, n);
    int64_t len = ffl_client_recvmsg(c, s->h, d, how);
    if (len > 0 && !scatter(iov, n, d->data, (size_t)len))
        len = -EFAULT;
    free(d->data);
    if (len <= 0 || (size_t)len <= room)
        return len;
    d->flags |= MSG_TRUNC;
    return flags & MSG_TRUNC ? len : (int64_t)room;
}

static int64_t wall_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now); /* cannot fail */
    return now.tv_sec * FFL_NS_PER_SEC + now.tv_nsec;
}

int64_t dgram_stamp(struct sock *s)
{
    s->stamps = true;
    if (s->stamp == STAMP_UNKNOWN) /* as the kernel: the first answer is the time of asking */
        s->stamp = wall_ns();
    return s->stamp ? s->stamp : -ENOENT;
}

static void note_stamp(struct sock *s, const struct ffl_dgram *d)
{
    struct cmsghdr first;
    memcpy(&first, d->ctl.data, sizeof(first));
    if (d->ctl.len >= sizeof(first) && first.cmsg_level == SOL_SOCKET)
        return; /* the stamp has come with the datagram */
    if (s->stamps)
        s->stamp = wall_ns();
    else if (!s->stamp)
        s->stamp = STAMP_UNKNOWN;
}

ssize_t dgram_recv(struct sock *s, const struct iovec *iov, size_t n, int flags,
                   struct ffl_dgram *d)
{
    if (flags & MSG_ERRQUEUE) {
        int64_t len = take(s, iov, n, flags, d);
        return (ssize_t)(len == -EAGAIN && dgram_ask(s) ? take(s, iov, n, flags, d) : len);
    }
    bool wait = !no_wait(s, flags);
    int64_t until = until_of(wait ? s->rcvtimeo : 0);
    for (;;) {
        dgram_settle(s);
        int err = ffl_client_take_error(s->session->c, s->h); /* before data, as the kernel */
        if (err)
            return -err;
        int64_t len = take(s, iov, n, flags, d);
        if (len >= 0)
            note_stamp(s, d);
        if (len != -EAGAIN)
            return (ssize_t)len;
        if (wait && s->shut_rd) {
            if (sock_look(s))
                continue;
            return 0;
        }
        int rc = wait ? sock_wait(s, until, false) : sock_look(s) || dgram_ask(s) ? 0 : -EAGAIN;
        if (rc < 0)
            return rc;
    }
}

/* ---- send ---------------------------------------------------------------------------------- */

/* 0, or the -errno of an IPv6 socket whose local address is of another kind (IPv4-mapped or not)
 * than `to`; a connected socket reaches IPv4. The stack's error would come after the call has
 * returned. */
static int mismatch(struct sock *s, const struct ffl_addr *to)
{
    static const uint8_t wildcard[16];
    struct ffl_addresses addresses;
    if (s->domain != AF_INET6 || ffl_client_addresses(s->session->c, s->h, &addresses) < 0 ||
        memcmp(addresses.local.ip, wildcard, sizeof(wildcard)) == 0)
        return 0;
    bool mapped = IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)addresses.local.ip);
    bool wants = IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)to->ip);
    if (mapped == wants || (wants && s->state == SOCK_CONNECTED))
        return 0;
    return mapped ? -EAFNOSUPPORT : -ENETUNREACH;
}

static int64_t give(struct sock *s, const struct iovec *iov, size_t n, struct ffl_dgram *d)
{
    if (n == 1) {
        d->data = iov->iov_base;
        return ffl_client_sendmsg(s->session->c, s->h, d);
    }
    d->data = malloc(d->len + 1);
    int64_t rc = d->data ? 0 : -ENOMEM;
    size_t off = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = user_copy((char *)d->data + off, iov[i].iov_base, iov[i].iov_len) ? 0 : -EFAULT;
        off += iov[i].iov_len;
    }
    if (rc == 0)
        rc = ffl_client_sendmsg(s->session->c, s->h, d);
    free(d->data);
    return rc;
}

/* The errno of an unconnected socket's last datagram, once; or 0. */
static int last_error(struct sock *s)
{
    ffl_client_reap(s->session->c);
    dgram_settle(s);
    int err = s->late_error;
    s->late_error = 0;
    s->untried |= err != 0;
    return err;
}

/* Where a socket's first datagram fails (no route, a broadcast that is not allowed), or the one
 * before it has failed, its own call says so; otherwise the next one does. */
static ssize_t sent_or_not(struct sock *s, ssize_t sent)
{
    if (ffl_likely(!s->untried) || sent < 0 || s->state == SOCK_CONNECTED)
        return sent;
    int err = ffl_client_ping(s->session->c) == 0 ? last_error(s) : 0; /* fails: detached */
    s->untried = err != 0;
    return err ? -err : sent;
}

static ssize_t send_one(struct sock *s, const struct iovec *iov, size_t n, int flags,
                        struct ffl_dgram *d)
{
    bool wait = !no_wait(s, flags);
    int64_t until = until_of(wait ? s->sndtimeo : 0);
    d->len = total_of(iov, n);
    if (ffl_unlikely(s->reports))
        (void)dgram_ask(s); /* told below */
    int err = last_error(s);
    if (ffl_unlikely(err))
        return -err;
    for (;;) {
        int64_t sent = give(s, iov, n, d);
        if (sent >= 0)
            s->doubts = may_fail(s, &d->addr);
        if (sent != -EAGAIN)
            return sent_or_not(s, (ssize_t)sent);
        ffl_client_want_room(s->session->c, s->h);
        int slept = wait ? sock_wait(s, until, false) : -EAGAIN;
        if (slept < 0)
            return slept;
    }
}

/* Adds to the datagram that MSG_MORE has begun, whose address stays; without MSG_MORE, sends it. A
 * failure drops all of it. */
static ssize_t send_more(struct sock *s, const struct iovec *iov, size_t n, int flags,
                         const struct ffl_dgram *d)
{
    bool shut = ffl_client_state(s->session->c, s->h) & FFL_ST_SHUT_WR;
    int bad = s->cork ? 0 : shut ? -EPIPE : ffl_client_sendable(d);
    if (bad < 0)
        return bad;
    struct cork *k = s->cork ? s->cork : malloc(sizeof(*k));
    size_t total = total_of(iov, n);
    if (!k)
        return -ENOMEM;
    if (!s->cork) {
        k->d = *d;
        k->len = 0;
    }
    s->cork = k;
    ssize_t rc = total > sizeof(k->data) - k->len ? -EMSGSIZE : 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = user_copy(k->data + k->len, iov[i].iov_base, iov[i].iov_len) ? 0 : -EFAULT;
        k->len += iov[i].iov_len;
    }
    if (rc == 0 && flags & MSG_MORE)
        return (ssize_t)total;
    struct iovec all = {k->data, k->len};
    s->cork = NULL;
    if (rc == 0)
        rc = send_one(s, &all, 1, flags, &k->d);
    free(k);
    return rc < 0 ? rc : (ssize_t)total;
}

static ssize_t send_to(struct sock *s, const struct iovec *iov, size_t n, int flags,
                       struct ffl_dgram *d)
{
    if (flags & MSG_OOB)
        return -EOPNOTSUPP;
    if (!d->addr.family && !s->cork && !sock_has_peer(s))
        return -EDESTADDRREQ;
    int rc = d->addr.family && !s->cork ? mismatch(s, &d->addr) : 0;
    if (rc < 0)
        return rc;
    if (total_of(iov, n) > SENDABLE)
        return -EMSGSIZE;
    bool more = flags & MSG_MORE || s->cork;
    ssize_t sent = more ? send_more(s, iov, n, flags, d) : send_one(s, iov, n, flags, d);
    if (ffl_unlikely(flags & MSG_ZEROCOPY) && sent >= 0)
        ffl_client_zerocopy(s->session->c, s->h);
    return sent;
}

int dgram_may_send(struct sock *s)
{
    if (!s->cork && !sock_has_peer(s))
        return -EDESTADDRREQ;
    int err = last_error(s);
    return err ? -err : (int)ffl_client_sendv(s->session->c, s->h, NULL, 0, 0);
}

ssize_t dgram_send(struct sock *s, const struct iovec *iov, size_t n, int flags)
{
    struct ffl_dgram d;
    d.addr.family = 0;
    d.ctl.len = 0;
    return send_to(s, iov, n, flags, &d);
}

/* The program's address to send or connect to: 0 or -errno. An IPv6 socket takes IPv4's too. */
static int address(const struct sock *s, const struct sockaddr *sa, socklen_t len,
                   struct ffl_addr *to)
{
    struct sockaddr_storage copy = {0};
    int rc = user_address(&copy, sa, len);
    if (rc < 0)
        return rc;
    if (s->domain == AF_INET && copy.ss_family == AF_UNSPEC)
        copy.ss_family = AF_INET; /* as the kernel */
    sa = (const struct sockaddr *)&copy;
    if (sock_addr_in(to, s->domain, sa, len))
        return 0;
    if (s->domain != AF_INET6 || !sock_addr_in(to, AF_INET, sa, len))
        return sock_addr_bad(s->domain, len);
    *to = ffl_addr_mapped(to);
    return 0;
}

/* Places a socket by the first address that it sends to, and, as the kernel does, gives it a port
 * at once. 1: the stack's, 0: the kernel's (s is gone), or -errno. */
static int place(struct sock *s, int fd, const struct ffl_addr *to)
{
    struct ffl_addr any = {.family = (uint16_t)s->domain};
    int rc = s->session ? 1 : sock_place(s, fd, to, false);
    if (rc <= 0 || s->state == SOCK_CONNECTED || s->named)
        return rc;
    rc = ffl_client_bind(s->session->c, s->h, &any);
    s->named = rc == 0 || rc == -EINVAL; /* another process that has it did so */
    return s->named ? 1 : rc;
}

/* An IPv6 socket takes an address of family AF_UNSPEC for none. */
static bool nobody(const struct sock *s, const struct msghdr *m)
{
    sa_family_t family;
    return s->domain == AF_INET6 && m->msg_namelen >= sizeof(family) &&
           user_copy(&family, m->msg_name, sizeof(family)) && family == AF_UNSPEC;
}

static ssize_t to_kernel(int fd, const struct msghdr *m, int flags)
{
    unlock();
    return real.sendmsg(fd, m, flags);
}

ssize_t dgram_sendmsg(struct sock *s, int fd, const struct msghdr *m, int flags)
{
    struct ffl_dgram d;
    d.addr.family = 0;
    int rc = control_get(&d.ctl, m);
    if (rc < 0)
        return leave(rc);
    bool to = m->msg_name && !nobody(s, m);
    rc = to ? address(s, m->msg_name, m->msg_namelen, &d.addr) : s->session ? 1 : 0;
    if (rc == 0 && to)
        rc = place(s, fd, &d.addr);
    if (rc < 0)
        return leave(rc);
    if (rc > 0)
        return leave(send_to(s, m->msg_iov, m->msg_iovlen, flags, &d));
    return to_kernel(fd, m, flags);
}

/* ---- connect ------------------------------------------------------------------------------- */

int dgram_connect(struct sock *s, int fd, const struct sockaddr *sa, socklen_t len)
{
    struct ffl_addr a = {.family = AF_UNSPEC};
    bool dissolves = len >= 2 && sa->sa_family == AF_UNSPEC;
    int rc = dissolves ? 0 : address(s, sa, len, &a);
    if (rc < 0)
        return rc;
    rc = s->session ? 1 : dissolves ? 0 : sock_place(s, fd, &a, false);
    if (rc <= 0)
        return rc < 0 ? rc : -ENOTSOCK; /* the caller makes the kernel's call */
    rc = ffl_client_connect(s->session->c, s->h, &a);
    if (rc != -EINPROGRESS)
        return rc;
    s->state = SOCK_CONNECTING; /* waits for the instance's answer, not for a packet */
    while (sock_pending_connect(s) < 0)
        if ((rc = sock_wait(s, -1, false)) < 0 && rc != -EINTR)
            return rc;
    rc = ffl_client_connect_result(s->session->c, s->h);
    rc = rc == -EAGAIN ? 0 : rc; /* of a datagram socket: it has connected */
    if (rc == 0)
        rc = ffl_client_detached(s->session->c);
    if (!dissolves && rc == 0) {
        (void)ffl_client_arm(s->session->c, s->h,
                             0); /* a program that only sends learns of ECONNREFUSED, too */
        return 0;
    }
    struct ffl_addresses now; /* one that fails has given it a port, and leaves it its peer */
    bool known = ffl_client_addresses(s->session->c, s->h, &now) == 0;
    s->state = known && now.peer.port_be ? SOCK_CONNECTED : SOCK_BOUND;
    s->named = known && now.local.port_be;
    return rc;
}
