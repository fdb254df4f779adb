/*
 * send.c - the sending calls, blocking or not.
 *
 * Callers: the program, file.c. In steady state a call copies to the transmit pool and makes no
 * system call. Datagrams go on to dgram.c.
 */
#include "preload.h"

#include <limits.h>
#include <signal.h>
#include <unistd.h>

enum { FEW = 16 };

/* Puts the next FEW pieces of iov after `skip` bytes into `out`: how many. */
static int rest(struct iovec *out, const struct iovec *iov, size_t n, size_t skip)
{
    int k = 0;
    for (size_t i = 0; i < n && k < FEW; i++) {
        if (skip >= iov[i].iov_len) {
            skip -= iov[i].iov_len;
            continue;
        }
        out[k++] = (struct iovec){(char *)iov[i].iov_base + skip, iov[i].iov_len - skip};
        skip = 0;
    }
    return k;
}

static int64_t give(struct sock *s, const struct iovec *iov, size_t n, size_t skip, int flags)
{
    struct iovec some[FEW];
    int64_t sent = 0;
    unsigned more = flags & MSG_MORE ? FFL_F_MORE : 0;
    if (!skip && n <= IOV_MAX)
        return ffl_client_sendv(s->session->c, s->h, iov, (int)n, more);
    for (int k; (k = rest(some, iov, n, skip + (size_t)sent)) > 0;) {
        int64_t r = ffl_client_sendv(s->session->c, s->h, some, k, more);
        if (r < 0)
            return sent ? sent : r;
        sent += r;
        if ((size_t)r < total_of(some, (size_t)k))
            break;
    }
    return sent;
}

static ssize_t send_stream(struct sock *s, const struct iovec *iov, size_t n, int flags)
{
    int64_t until = no_wait(s, flags) ? 0 : until_of(s->sndtimeo);
    int rc = sock_connected(s, flags, until, -EPIPE);
    if (ffl_unlikely(rc < 0))
        return rc;
    size_t sent = 0, total = total_of(iov, n);
    ffl_client_reap(s->session->c); /* the peer may have reset */
    for (;;) {
        int64_t r = give(s, iov, n, sent, flags);
        if (r > 0)
            sent += (size_t)r;
        if (sent == total && r >= 0)
            return (ssize_t)sent;
        if (r < 0 && r != -EAGAIN)
            return sock_partly(s, sent, (int)r);
        if (no_wait(s, flags))
            return sent ? (ssize_t)sent : -EAGAIN;
        ffl_client_want_room(s->session->c, s->h);
        if ((rc = sock_wait(s, until, sent)) < 0)
            return sent ? (ssize_t)sent : rc;
    }
}

ssize_t sock_send(struct sock *s, const struct iovec *iov, size_t n, int flags)
{
    if (ffl_unlikely(s->type == SOCK_DGRAM))
        return dgram_send(s, iov, n, flags);
    if (flags & MSG_OOB)
        return -EOPNOTSUPP; /* urgent data does not cross the ring */
    ssize_t rc = send_stream(s, iov, n, flags);
    if (ffl_unlikely(flags & MSG_ZEROCOPY) && rc > 0)
        ffl_client_zerocopy(s->session->c, s->h);
    return rc;
}

ssize_t sock_sent(ssize_t rc, int flags)
{
    if (ffl_likely(rc != -EPIPE || flags & MSG_NOSIGNAL))
        return leave(rc);
    unlock();
    (void)raise(SIGPIPE); /* before errno: a handler may change it */
    errno = EPIPE;
    return -1;
}

static ssize_t send_iov(struct sock *s, const struct iovec *iov, size_t n, int flags)
{
    bool dgram = s->type == SOCK_DGRAM; /* no SIGPIPE */
    ssize_t rc = sock_send(s, iov, n, flags);
    return dgram ? leave(rc) : sock_sent(rc, flags);
}

API ssize_t send(int fd, const void *buf, size_t len, int flags)
{
    real_start();
    struct sock *s = sock_enter_stack(fd);
    if (!s)
        return real.send(fd, buf, len, flags);
    struct iovec iov = {(void *)buf, len};
    return send_iov(s, &iov, 1, flags);
}
ALSO(send, __send);

API ssize_t write(int fd, const void *buf, size_t len)
{
    real_start();
    struct sock *s = sock_enter_stack(fd);
    if (!s)
        return real.write(fd, buf, len);
    struct iovec iov = {(void *)buf, len};
    return send_iov(s, &iov, 1, 0);
}
ALSO(write, __write);

static ssize_t send_vector(struct sock *s, const struct iovec *iov, int n, int flags)
{
    int rc = iov_check(iov, (size_t)n);
    if (rc < 0 || !total_of(iov, (size_t)n))
        return leave(rc); /* write sends an empty datagram, writev none */
    return send_iov(s, iov, (size_t)n, flags);
}

API ssize_t writev(int fd, const struct iovec *iov, int n)
{
    real_start();
    struct sock *s = sock_enter_stack(fd);
    if (!s)
        return real.writev(fd, iov, n);
    return send_vector(s, iov, n, 0);
}

API ssize_t pwritev64v2(int fd, const struct iovec *iov, int n, off64_t at, int flags)
{
    real_start();
    struct sock *s;
    if (!sock_plainly(at, flags, &s, fd))
        return real.pwritev64v2(fd, iov, n, at, flags);
    return send_vector(s, iov, n, flags & RWF_NOWAIT ? MSG_DONTWAIT : 0);
}

API ssize_t pwritev2(int fd, const struct iovec *iov, int n, off_t at, int flags)
{
    return pwritev64v2(fd, iov, n, at, flags);
}

/* Does the call connect before it sends (MSG_FASTOPEN)? */
static bool opens(const struct sock *s, const struct sockaddr *sa, int flags)
{
    return s && s->type == SOCK_STREAM && sa && (flags & MSG_FASTOPEN);
}

static ssize_t open_and_send(int fd, const struct msghdr *m, int flags)
{
    struct msghdr rest = *m;
    rest.msg_name = NULL;
    rest.msg_namelen = 0;
    unlock();
    if (connect(fd, m->msg_name, m->msg_namelen) < 0)
        return -1;
    return sendmsg(fd, &rest, flags & ~MSG_FASTOPEN);
}

API ssize_t sendto(int fd, const void *buf, size_t len, int flags, const struct sockaddr *sa,
                   socklen_t n)
{
    real_start();
    struct iovec iov = {(void *)buf, len};
    struct msghdr m = {.msg_name = (void *)sa, .msg_namelen = n, .msg_iov = &iov, .msg_iovlen = 1};
    struct sock *s = sock_enter(fd);
    if (s && sa && s->type == SOCK_DGRAM)
        return dgram_sendmsg(s, fd, &m, flags);
    if (opens(s, sa, flags))
        return open_and_send(fd, &m, flags);
    struct sockaddr_storage unused; /* of a stream; but its pointer is checked */
    int bad = s && s->session && sa ? user_address(&unused, sa, n) : 0;
    if (bad < 0)
        return leave(bad);
    if (s && s->session)
        return send_iov(s, &iov, 1, flags);
    if (s)
        unlock();
    return real.sendto(fd, buf, len, flags, sa, n);
}

/* A message's name as the kernel takes it: cut where it is too long,
 * none where it has no length. */
static ssize_t send_datagram(struct sock *s, int fd, const struct msghdr *m, int flags)
{
    struct msghdr named = *m;
    if (named.msg_namelen > sizeof(struct sockaddr_storage))
        named.msg_namelen = sizeof(struct sockaddr_storage);
    if (!named.msg_namelen)
        named.msg_name = NULL;
    return dgram_sendmsg(s, fd, &named, flags);
}

API ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
    real_start();
    if (!user_reads(m, sizeof(*m)))
        return real.sendmsg(fd, m, flags);
    struct sock *s = sock_enter(fd);
    int bad = s ? msg_check(m) : 0;
    if (bad < 0)
        return leave(bad);
    if (s && s->type == SOCK_DGRAM)
        return send_datagram(s, fd, m, flags);
    if (opens(s, m->msg_name, flags))
        return open_and_send(fd, m, flags);
    if (s && s->session)
        return send_iov(s, m->msg_iov, m->msg_iovlen, flags);
    if (s)
        unlock();
    return pass_send(fd, m, flags);
}

API int sendmmsg(int fd, struct mmsghdr *v, unsigned n, int flags)
{
    real_start();
    bool control = false; /* perhaps with descriptors: for pass_send */
    n = n < IOV_MAX ? n : IOV_MAX;
    bool bad = !user_reads(v, n * sizeof(*v));
    for (unsigned k = 0; !tls.inside && !bad && k < n; k++)
        control |= v[k].msg_hdr.msg_controllen > 0;
    if (bad || (!maybe_ours(fd) && !control))
        return real.sendmmsg(fd, v, n, flags);
    unsigned i = 0;
    for (; i < n; i++) {
        ssize_t rc = sendmsg(fd, &v[i].msg_hdr, flags);
        if (rc < 0)
            return i ? (int)i : -1;
        v[i].msg_len = (unsigned)rc;
    }
    return (int)i;
}
ALSO(sendmmsg, __sendmmsg);
