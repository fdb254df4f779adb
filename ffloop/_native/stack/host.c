/*
 * host.c - the stack seam over this kernel's TCP: non-blocking sockets and one epoll.
 *
 * Callers: instance/, through ffl_host_ops. Needs no privilege. An `fd` is the kernel's descriptor.
 * Every socket is registered once, edge-triggered, for both directions, so that a pause or a short
 * send needs no epoll_ctl.
 */
#include "stack.h"

#include "option.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

struct host {
    int epfd;
    uint8_t *shared; /* a bit per descriptor: it was duplicated or is a duplicate */
    int nshared;     /* bytes */
};

static int host_start(void **st, const struct ffl_stack_opts *opts, char *why, size_t whylen)
{
    if (opts->argc > 0) {
        snprintf(why, whylen, "the host stack has no option '%s' (F-Stack has: --stack fstack)",
                 opts->argv[0]);
        return -EINVAL;
    }
    struct host *h = calloc(1, sizeof(*h));
    if (!h)
        return -ENOMEM;
    h->epfd = epoll_create1(EPOLL_CLOEXEC);
    if (h->epfd < 0) {
        int rc = -errno;
        snprintf(why, whylen, "epoll_create1: %s", strerror(errno));
        free(h);
        return rc;
    }
    struct rlimit rl; /* one descriptor per connection: take what the hard limit allows */
    if (getrlimit(RLIMIT_NOFILE, &rl) == 0 && rl.rlim_cur < rl.rlim_max) {
        rl.rlim_cur = rl.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &rl); /* else EMFILE comes at the lower limit */
    }
    *st = h;
    return 0;
}

static void host_stop(void *st)
{
    struct host *h = st;
    close(h->epfd);
    free(h->shared);
    free(h);
}

static int host_wait_fd(void *st)
{
    return ((struct host *)st)->epfd;
}

static void host_describe(void *st, char *buf, size_t len)
{
    snprintf(buf, len, "this kernel's TCP");
}

static int host_socket(void *st, int domain, int type, int proto)
{
    int fd = socket(domain, type | SOCK_NONBLOCK | SOCK_CLOEXEC, proto);
    return fd < 0 ? -errno : fd;
}

static int note_shared(struct host *h, int fd)
{
    if (fd / 8 >= h->nshared) {
        int n = fd / 8 + 512;
        uint8_t *grown = realloc(h->shared, (size_t)n);
        if (!grown)
            return -ENOMEM;
        memset(grown + h->nshared, 0, (size_t)(n - h->nshared));
        h->shared = grown;
        h->nshared = n;
    }
    h->shared[fd / 8] |= (uint8_t)(1u << fd % 8);
    return 0;
}

static int host_dup(void *st, int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0)
        return -errno;
    if (note_shared(st, fd) < 0 || note_shared(st, copy) < 0) {
        close(copy);
        return -ENOMEM;
    }
    return copy;
}

static int host_close(void *st, int fd)
{
    struct host *h = st;
    if (fd / 8 < h->nshared && h->shared[fd / 8] & 1u << fd % 8) {
        /* the socket lives on, and so would its registration under this descriptor */
        (void)epoll_ctl(h->epfd, EPOLL_CTL_DEL, fd, NULL); /* ENOENT: never watched */
        h->shared[fd / 8] &= (uint8_t)~(1u << fd % 8);
    }
    struct linger l;
    socklen_t len = sizeof(l);
    if (getsockopt(fd, SOL_SOCKET, SO_LINGER, &l, &len) == 0 && l.l_onoff && l.l_linger > 0) {
        l.l_onoff = 0; /* close would wait, O_NONBLOCK or not; the kernel sends the rest anyway */
        (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &l,
                         sizeof(l)); /* it was readable: cannot fail */
    }
    return close(fd) < 0 ? -errno : 0;
}

static int host_bind(void *st, int fd, const struct ffl_addr *a)
{
    struct sockaddr_storage ss;
    uint32_t len;
    int rc = ffl_addr_to_sockaddr(a, &ss, &len);
    if (rc < 0)
        return rc;
    return bind(fd, (struct sockaddr *)&ss, len) < 0 ? -errno : 0;
}

static int host_listen(void *st, int fd, int backlog)
{
    return listen(fd, backlog) < 0 ? -errno : 0;
}

static int host_accept(void *st, int fd, struct ffl_addr *peer)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);
    int got = accept4(fd, (struct sockaddr *)&ss, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (got < 0)
        return -errno;
    ffl_addr_from_sockaddr(peer, &ss, sizeof(ss));
    return got;
}

static int host_backlog(void *st, int fd)
{
    struct tcp_info info = {0};
    socklen_t len = sizeof(info);
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
        return -errno;
    return (int)info.tcpi_unacked; /* a listener's: its queue */
}

static int host_connect(void *st, int fd, const struct ffl_addr *a)
{
    struct sockaddr_storage ss;
    uint32_t len;
    int rc = ffl_addr_to_sockaddr(a, &ss, &len);
    if (rc < 0)
        return rc;
    return connect(fd, (struct sockaddr *)&ss, len) < 0 ? -errno : 0;
}

static int host_send(void *st, int fd, const struct iovec *iov, int n, const struct ffl_addr *to,
                     const struct ffl_ctl *ctl, int flags)
{
    struct sockaddr_storage ss;
    struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)n};
    flags |= MSG_NOSIGNAL | MSG_DONTWAIT;
    if (!to && !ctl && n == 1) {
        ssize_t sent = send(fd, iov->iov_base, iov->iov_len, flags);
        return sent < 0 ? -errno : (int)sent;
    }
    if (to) {
        uint32_t len;
        int rc = ffl_addr_to_sockaddr(to, &ss, &len);
        if (rc < 0)
            return rc;
        msg.msg_name = &ss;
        msg.msg_namelen = len;
    }
    if (ctl) {
        msg.msg_control = (void *)(uintptr_t)ctl->data;
        msg.msg_controllen = ctl->len;
    }
    ssize_t sent = sendmsg(fd, &msg, flags);
    return sent < 0 ? -errno : (int)sent;
}

static int receive(int fd, const struct iovec *iov, int n, struct ffl_addr *from,
                   struct ffl_ctl *ctl, int *msg_flags, int flags)
{
    struct sockaddr_storage ss = {0};
    struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)n};
    if (from) {
        msg.msg_name = &ss;
        msg.msg_namelen = sizeof(ss);
    }
    if (ctl) {
        msg.msg_control = ctl->data;
        msg.msg_controllen = sizeof(ctl->data);
    }
    ssize_t got = recvmsg(fd, &msg, flags | MSG_DONTWAIT);
    if (got < 0)
        return -errno;
    if (ctl)
        ctl->len = (uint32_t)msg.msg_controllen;
    if (from)
        ffl_addr_from_sockaddr(from, &ss, sizeof(ss));
    if (msg_flags)
        *msg_flags = msg.msg_flags;
    return (int)got;
}

static int host_recv(void *st, int fd, const struct iovec *iov, int n, struct ffl_addr *from,
                     struct ffl_ctl *ctl, int *msg_flags)
{
    if (from || ctl || n != 1)
        return receive(fd, iov, n, from, ctl, msg_flags, 0);
    ssize_t got = recv(fd, iov->iov_base, iov->iov_len, MSG_DONTWAIT);
    return got < 0 ? -errno : (int)got;
}

static int host_report(void *st, int fd, const struct iovec *iov, struct ffl_addr *to,
                       struct ffl_ctl *ctl, int *msg_flags)
{
    return receive(fd, iov, 1, to, ctl, msg_flags, MSG_ERRQUEUE);
}

static int host_shutdown(void *st, int fd, int how)
{
    return shutdown(fd, how) < 0 ? -errno : 0;
}

#define NO_OPTION INT_MAX /* a number that the kernel has no option for: it gives its own error */

static int host_setsockopt(void *st, int fd, int level, int name, const void *val, uint32_t len)
{
    const struct ffl_option *o = ffl_option_find(level, name);
    if (!o || !(o->flags & FFL_OPTION_SET))
        name = NO_OPTION;
    return setsockopt(fd, level, name, val, len) < 0 ? -errno : 0;
}

static int host_getsockopt(void *st, int fd, int level, int name, void *val, uint32_t *len)
{
    const struct ffl_option *o = ffl_option_find(level, name);
    socklen_t n = *len;
    if (!o || !(o->flags & FFL_OPTION_GET))
        name = NO_OPTION;
    if (getsockopt(fd, level, name, val, &n) < 0)
        return -errno;
    *len = n;
    return 0;
}

static int host_sockname(void *st, int fd, bool peer, struct ffl_addr *a)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);
    int rc = peer ? getpeername(fd, (struct sockaddr *)&ss, &len)
                  : getsockname(fd, (struct sockaddr *)&ss, &len);
    if (rc < 0)
        return -errno;
    ffl_addr_from_sockaddr(a, &ss, sizeof(ss));
    return 0;
}

static int host_watch(void *st, int fd, unsigned filters, void *udata)
{
    struct host *h = st;
    struct epoll_event ev = {.events = EPOLLET, .data.ptr = udata};
    if (filters & FFL_READ)
        ev.events |= EPOLLIN | EPOLLRDHUP | EPOLLPRI;
    if (filters & FFL_WRITE)
        ev.events |= EPOLLOUT;
    return epoll_ctl(h->epfd, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

static int host_poll(void *st, struct ffl_stack_event *out, int max)
{
    struct host *h = st;
    struct epoll_event ev[128];
    if (max > (int)FFL_COUNT(ev))
        max = FFL_COUNT(ev);
    int n = epoll_wait(h->epfd, ev, max, 0);
    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    for (int i = 0; i < n; i++) {
        uint32_t e = ev[i].events;
        bool dead = e & (EPOLLERR | EPOLLHUP);
        out[i] = (struct ffl_stack_event){
            .udata = ev[i].data.ptr,
            .filter = (uint8_t)((e & (EPOLLIN | EPOLLRDHUP) || dead ? FFL_READ : 0) |
                                (e & EPOLLOUT || dead ? FFL_WRITE : 0)),
            .eof = dead || (e & EPOLLRDHUP),
            .error = (e & EPOLLERR) != 0,
            .data = e & EPOLLPRI ? INT32_MAX : 0, /* reads end at the urgent byte */
        };
    }
    return n;
}

const struct ffl_stack_ops ffl_host_ops = {
    .name = "host",
    .kernel = true,
    .start = host_start,
    .stop = host_stop,
    .wait_fd = host_wait_fd,
    .describe = host_describe,
    .socket = host_socket,
    .dup = host_dup,
    .close = host_close,
    .bind = host_bind,
    .listen = host_listen,
    .accept = host_accept,
    .backlog = host_backlog,
    .connect = host_connect,
    .send = host_send,
    .recv = host_recv,
    .report = host_report,
    .shutdown = host_shutdown,
    .setsockopt = host_setsockopt,
    .getsockopt = host_getsockopt,
    .sockname = host_sockname,
    .watch = host_watch,
    .poll = host_poll,
};
