/*
 * recv.c - the receiving calls, blocking or not.
 *
 * Callers: the program, file.c, send.c. In steady state a call copies from the receive pool and
 * makes no system call. Datagrams go on to dgram.c.
 */
#include "preload.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int sock_connected(struct sock *s, int flags, int64_t until, int otherwise)
{
    while (ffl_unlikely(s->state != SOCK_CONNECTED)) {
        if (s->state != SOCK_CONNECTING) {
            int err = ffl_client_take_error(s->session->c, s->h); /* once */
            return err ? -err : otherwise;
        }
        if (sock_pending_connect(s) == 0)
            break;
        int rc = no_wait(s, flags) ? -EAGAIN : sock_wait(s, until, false);
        if (rc < 0)
            return rc;
    }
    return 0;
}

ssize_t sock_partly(struct sock *s, size_t done, int rc)
{
    if (done && rc != -EPIPE)
        ffl_client_set_error(s->session->c, s->h, -rc);
    return done ? (ssize_t)done : rc;
}

/* Fills iov from byte `skip` on. Bytes, 0 at the end of the stream, or -errno (-EAGAIN: no
 * data). */
static int64_t take(struct sock *s, const struct iovec *iov, size_t n, size_t skip)
{
    int64_t got = 0;
    for (size_t i = 0; i < n; i++) {
        if (skip >= iov[i].iov_len && iov[i].iov_len) {
            skip -= iov[i].iov_len;
            continue;
        }
        size_t want = iov[i].iov_len - skip;
        if (!want && n > 1)
            continue;
        int64_t r = ffl_client_recv(s->session->c, s->h, (char *)iov[i].iov_base + skip, want, 0,
                                    NULL, NULL);
        skip = 0;
        if (r <= 0)
            return got ? got : r;
        got += r;
        if ((size_t)r < want)
            break;
    }
    return got;
}

static int64_t peek(struct sock *s, const struct iovec *iov, size_t n, size_t total, int flags)
{
    struct ffl_client *c = s->session->c;
    if (n == 1 && !(flags & MSG_TRUNC))
        return ffl_client_recv(c, s->h, iov->iov_base, iov->iov_len, MSG_PEEK, NULL, NULL);
    ffl_client_reap(c);
    size_t have = sock_queued(s), size = total < have ? total : have;
    if (!have && total) /* what comes now is not taken for the end */
        size = 1;
    char *all = malloc(size ? size : 1);
    if (!all)
        return -ENOMEM;
    int64_t got = ffl_client_recv(c, s->h, all, size, MSG_PEEK, NULL, NULL);
    size_t off = 0;
    for (size_t i = 0; i < n && got > 0 && off < (size_t)got && !(flags & MSG_TRUNC); i++) {
        size_t part = (size_t)got - off < iov[i].iov_len ? (size_t)got - off : iov[i].iov_len;
        if (!user_copy(iov[i].iov_base, all + off, part))
            got = off ? (int64_t)off : -EFAULT;
        off += part;
    }
    free(all);
    return got;
}

/* MSG_TRUNC on a stream: the bytes are thrown away. */
static int64_t discard(struct sock *s, size_t len)
{
    static __thread char hole[4096];
    int64_t got = 0;
    while ((size_t)got < len) {
        size_t want = len - (size_t)got < sizeof(hole) ? len - (size_t)got : sizeof(hole);
        int64_t r = ffl_client_recv(s->session->c, s->h, hole, want, 0, NULL, NULL);
        if (r <= 0)
            return got ? got : r;
        got += r;
    }
    return got;
}

/* Is a peek with MSG_WAITALL to wait for more? It peeks once, since SO_PEEK_OFF moves with it. */
static bool too_early(struct sock *s, size_t total)
{
    int off = ffl_client_own(s->session->c, s->h).peek_off;
    (void)ffl_client_arm(s->session->c, s->h, 0); /* cannot fail: open */
    ffl_client_reap(s->session->c);
    bool over = ffl_client_state(s->session->c, s->h) & (FFL_ST_EOF | FFL_ST_FAILED);
    return !over && !s->shut_rd && sock_queued(s) < total + (size_t)(off > 0 ? off : 0);
}

/* Has the program shut the reading side, and is nothing there? *err: or 0; a reset that came before
 * the peer's end. */
static bool reads_no_more(struct sock *s, int *err)
{
    struct ffl_client *c = s->session->c;
    struct ffl_pending p = {0};
    if (ffl_likely(!s->shut_rd))
        return false;
    (void)sock_look(s);
    ffl_client_reap(c);
    (void)ffl_client_pending(c, s->h, &p); /* -EBADF: none */
    if (p.bytes || p.error)
        return false;
    *err = p.send_error == ECONNRESET ? ffl_client_take_error(c, s->h) : 0;
    return true;
}

static ssize_t recv_stream(struct sock *s, const struct iovec *iov, size_t n, int flags)
{
    static const struct iovec nothing;
    int64_t until = no_wait(s, flags) ? 0 : until_of(s->rcvtimeo);
    int rc = sock_connected(s, flags, until, s->shut_rd ? -ESHUTDOWN : -ENOTCONN);
    if (ffl_unlikely(rc < 0))
        return rc == -ESHUTDOWN ? 0 : rc;
    size_t got = 0, total = total_of(iov, n);
    if (!total) { /* asks all the same */
        iov = &nothing;
        n = 1;
    }
    bool all = flags & MSG_WAITALL, peeks = flags & MSG_PEEK;
    for (;;) {
        int err;
        if (reads_no_more(s, &err))
            return err ? sock_partly(s, got, -err) : (ssize_t)got;
        bool early = peeks && all && !no_wait(s, flags) && too_early(s, total);
        int64_t r = early                          ? -EAGAIN
                    : peeks                        ? peek(s, iov, n, total, flags)
                    : (flags & MSG_TRUNC) && total ? discard(s, total - got)
                                                   : take(s, iov, n, got);
        if (r > 0)
            got = peeks ? (size_t)r : got + (size_t)r;
        if (r < 0 && r != -EAGAIN)
            return sock_partly(s, got, (int)r);
        bool over = r == 0 || (peeks && ffl_client_state(s->session->c, s->h) & FFL_ST_EOF);
        if (over || (got && (!all || got >= total)))
            return (ssize_t)got;
        if (r > 0 && !peeks)
            continue; /* before a wait: the end may be behind the data */
        if (!got && no_wait(s, flags) && sock_look(s))
            continue;
        if (no_wait(s, flags))
            return got ? (ssize_t)got : -EAGAIN;
        if ((rc = sock_wait(s, until, got || (early && sock_queued(s)))) >= 0)
            continue;
        if (early && (r = peek(s, iov, n, total, flags)) > 0)
            return (ssize_t)r;
        return got || !total ? (ssize_t)got : rc; /* as the kernel: no bytes were asked for */
    }
}

ssize_t sock_recv(struct sock *s, const struct iovec *iov, size_t n, int flags)
{
    if (ffl_unlikely(s->type == SOCK_DGRAM || flags & MSG_ERRQUEUE)) {
        struct ffl_dgram d;
        return dgram_recv(s, iov, n, flags, &d);
    }
    if (flags & MSG_OOB)
        return s->state == SOCK_LISTENING ? -ENOTCONN : -EINVAL;
    return recv_stream(s, iov, n, flags);
}

static ssize_t recv_iov(struct sock *s, const struct iovec *iov, size_t n, int flags)
{
    return leave(sock_recv(s, iov, n, flags));
}

API ssize_t recv(int fd, void *buf, size_t len, int flags)
{
    real_start();
    struct sock *s = sock_enter_stack(fd);
    struct iovec iov = {buf, len};
    return s ? recv_iov(s, &iov, 1, flags) : real.recv(fd, buf, len, flags);
}
ALSO(recv, __recv);

API ssize_t read(int fd, void *buf, size_t len)
{
    real_start();
    struct sock *s = sock_enter_stack(fd);
    if (!s)
        return real.read(fd, buf, len);
    struct iovec iov = {buf, len};
    return len ? recv_iov(s, &iov, 1, 0) : leave(0);
}
ALSO(read, __read);

int iov_check(const struct iovec *iov, size_t n)
{
    if (n > IOV_MAX)
        return -EINVAL;
    if (!user_reads(iov, n * sizeof(*iov)))
        return -EFAULT;
    for (size_t i = 0; i < n; i++)
        if ((ssize_t)iov[i].iov_len < 0)
            return -EINVAL;
    return 0;
}

int msg_check(const struct msghdr *m)
{
    if (m->msg_iovlen > IOV_MAX)
        return -EMSGSIZE;
    return m->msg_name && (int)m->msg_namelen < 0 ? -EINVAL : iov_check(m->msg_iov, m->msg_iovlen);
}

static ssize_t recv_vector(struct sock *s, const struct iovec *iov, int n, int flags)
{
    int rc = iov_check(iov, (size_t)n);
    return rc < 0 || !total_of(iov, (size_t)n) ? leave(rc) : recv_iov(s, iov, (size_t)n, flags);
}

API ssize_t readv(int fd, const struct iovec *iov, int n)
{
    real_start();
    struct sock *s = sock_enter_stack(fd);
    if (!s)
        return real.readv(fd, iov, n);
    return recv_vector(s, iov, n, 0);
}

bool sock_plainly(off64_t at, int flags, struct sock **s, int fd)
{
    const int taken = RWF_NOWAIT | RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_APPEND;
    *s = at == -1 && !(flags & ~taken) ? sock_enter_stack(fd) : NULL;
    return *s;
}

API ssize_t preadv64v2(int fd, const struct iovec *iov, int n, off64_t at, int flags)
{
    real_start();
    struct sock *s;
    if (!sock_plainly(at, flags, &s, fd))
        return real.preadv64v2(fd, iov, n, at, flags);
    return recv_vector(s, iov, n, flags & RWF_NOWAIT ? MSG_DONTWAIT : 0);
}

API ssize_t preadv2(int fd, const struct iovec *iov, int n, off_t at, int flags)
{
    return preadv64v2(fd, iov, n, at, flags);
}

API ssize_t recvfrom(int fd, void *buf, size_t len, int flags, struct sockaddr *sa, socklen_t *n)
{
    real_start();
    struct sock *s = sock_enter_stack(fd);
    if (!s)
        return real.recvfrom(fd, buf, len, flags, sa, n);
    struct iovec iov = {buf, len};
    if (s->type == SOCK_DGRAM) {
        struct ffl_dgram d;
        ssize_t got = dgram_recv(s, &iov, 1, flags, &d);
        int rc = got >= 0 && sa && d.addr.family ? sock_addr_out(&d.addr, s->domain, sa, n) : 0;
        return leave(rc < 0 ? rc : got);
    }
    ssize_t got = sock_recv(s, &iov, 1, flags);
    static const socklen_t nobody = 0; /* a stream names no sender */
    socklen_t room;
    if (got < 0 || !sa)
        return leave(got);
    if (!user_copy(&room, n, sizeof(room)))
        return leave(-EFAULT);
    if ((int)room < 0)
        return leave(-EINVAL);
    return leave(user_copy(n, &nobody, sizeof(nobody)) ? got : -EFAULT);
}

static ssize_t recvmsg_kernel(int fd, struct msghdr *m, int flags)
{
    ssize_t rc = real.recvmsg(fd, m, flags);
    if (rc >= 0 && ffl_unlikely(m->msg_controllen))
        pass_received(m, flags);
    return rc;
}

static ssize_t recv_piece(struct sock *s, struct msghdr *m, int flags)
{
    struct ffl_ctl ctl;
    ssize_t got = sock_recv(s, m->msg_iov, m->msg_iovlen, flags);
    if (got < 0)
        return got;
    m->msg_namelen = 0;
    m->msg_flags = 0;
    ffl_client_control(s->session->c, s->h, &ctl);
    int rc = control_put(m, &ctl, &m->msg_flags);
    return rc < 0 ? rc : got;
}

static ssize_t recv_message(struct sock *s, struct msghdr *m, int flags)
{
    struct ffl_dgram d;
    ssize_t got = dgram_recv(s, m->msg_iov, m->msg_iovlen, flags, &d);
    if (got < 0)
        return got;
    int rc = 0;
    if (m->msg_name && d.addr.family)
        rc = sock_addr_out(&d.addr, s->domain, m->msg_name, &m->msg_namelen);
    else
        m->msg_namelen = 0;
    if (rc == 0)
        rc = control_put(m, &d.ctl, &d.flags);
    m->msg_flags = d.flags | (flags & MSG_CMSG_CLOEXEC);
    return rc < 0 ? rc : got;
}

API ssize_t recvmsg(int fd, struct msghdr *m, int flags)
{
    real_start();
    struct sock *s = sock_enter_stack(fd);
    if (!s)
        return recvmsg_kernel(fd, m, flags);
    int bad = user_writes(m, sizeof(*m)) ? msg_check(m) : -EFAULT;
    if (bad < 0)
        return leave(bad);
    if (s->type == SOCK_DGRAM || flags & MSG_ERRQUEUE)
        return leave(recv_message(s, m, flags));
    return leave(recv_piece(s, m, flags));
}

/* recvmmsg has messages to return, and an error for the next call. */
static void keep_error(int fd, unsigned have)
{
    int err = errno;
    struct sock *s = have && err != EAGAIN && err != EINTR ? sock_enter_stack(fd) : NULL;
    if (s)
        (void)leave(sock_partly(s, have, -err));
    errno = err;
}

API int recvmmsg(int fd, struct mmsghdr *v, unsigned n, int flags, struct timespec *timeout)
{
    real_start();
    struct timespec limit = {0};
    bool bad = timeout && (!user_copy(&limit, timeout, sizeof(limit)) || timespec_bad(&limit));
    if (!maybe_ours(fd) || bad) {
        int got = real.recvmmsg(fd, v, n, flags, timeout);
        for (int i = 0; i < got; i++)
            pass_received(&v[i].msg_hdr, flags);
        return got;
    }
    int64_t until = timeout ? ffl_now_ns() + timespec_ns(&limit) : INT64_MAX, left = 1;
    unsigned i = 0;
    for (; i < n && i < IOV_MAX && left > 0; i++) {
        int wait = (flags & MSG_WAITFORONE) && i ? MSG_DONTWAIT : 0;
        ssize_t rc = recvmsg(fd, &v[i].msg_hdr, (flags & ~MSG_WAITFORONE) | wait);
        if (rc < 0) {
            keep_error(fd, i);
            break;
        }
        v[i].msg_len = (unsigned)rc;
        if (timeout)
            left = until - ffl_now_ns();
    }
    if (timeout && i) {
        left = left > 0 ? left : 0;
        *timeout = (struct timespec){left / FFL_NS_PER_SEC, left % FFL_NS_PER_SEC};
    }
    return i || !n ? (int)i : -1;
}

/* ---- the fortified calls ------------------------------------------------------------------- */

extern void __chk_fail(void) __attribute__((noreturn));
ssize_t __read_chk(int fd, void *buf, size_t len, size_t room);
ssize_t __recv_chk(int fd, void *buf, size_t len, size_t room, int flags);
ssize_t __recvfrom_chk(int fd, void *buf, size_t len, size_t room, int flags, struct sockaddr *sa,
                       socklen_t *n);

API ssize_t __read_chk(int fd, void *buf, size_t len, size_t room)
{
    if (len > room)
        __chk_fail();
    return read(fd, buf, len);
}

API ssize_t __recv_chk(int fd, void *buf, size_t len, size_t room, int flags)
{
    if (len > room)
        __chk_fail();
    return recv(fd, buf, len, flags);
}

API ssize_t __recvfrom_chk(int fd, void *buf, size_t len, size_t room, int flags,
                           struct sockaddr *sa, socklen_t *n)
{
    if (len > room)
        __chk_fail();
    return recvfrom(fd, buf, len, flags, sa, n);
}
