/*
 * fstack.c - the stack seam over F-Stack (FreeBSD's TCP on DPDK). Nobody else but fstack_life.c includes
 * ff_api.h.
 *
 * Callers: instance/ and client/, through ffl_fstack_ops. Everything runs on the thread that started it, which
 * F-Stack pins to its lcore. kqueue directly, every socket non-blocking, events "clear". What
 * F-Stack hands through raw is translated here: SO_ERROR, option names by an allow list, message
 * flags (none are passed in), addresses. The facts behind this file are in docs/fstack.md.
 */
#include "stack.h"

#include "fstack_life.h"
#include "fstack_ports.h"
#include "option.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "ff_api.h"

#define BSD_SOL_SOCKET 0xffff
#define BSD_SO_REUSEPORT_LB 0x10000
#define BSD_SO_TYPE 0x1008
#define BSD_IPV6_V6ONLY 27
#define BSD_MSG_CTRUNC 0x20
#define DRAIN_NS 50000000LL /* after the last close: FINs leave a transmit delay and a tick later */
#define LONGEST_DRAIN_NS FFL_NS_PER_SEC
#define MAX_EVENTS 256
#define FIRST_PORT 49152 /* of those that a bind to port 0 gets; FreeBSD's own range */

struct fstack {
    int kq;
    struct fstack_conf conf;
    struct fstack_ports ports;
    char *words;        /* its options, as given */
    bool used;          /* between start and stop */
    uint16_t next_port; /* for bind to port 0 */
};

/* ---- errno --------------------------------------------------------------------------------- */

/* FreeBSD's numbers, where they differ from Linux's, for what arrives raw (SO_ERROR, fflags). */
static int linux_errno(int bsd)
{
    static const uint8_t map[] = {
        [ff_EDEADLK] = EDEADLK,           [ff_EAGAIN] = EAGAIN,
        [ff_EINPROGRESS] = EINPROGRESS,   [ff_EALREADY] = EALREADY,
        [ff_ENOTSOCK] = ENOTSOCK,         [ff_EDESTADDRREQ] = EDESTADDRREQ,
        [ff_EMSGSIZE] = EMSGSIZE,         [ff_EPROTOTYPE] = EPROTOTYPE,
        [ff_ENOPROTOOPT] = ENOPROTOOPT,   [ff_EPROTONOSUPPORT] = EPROTONOSUPPORT,
        [ff_EOPNOTSUPP] = EOPNOTSUPP,     [ff_EAFNOSUPPORT] = EAFNOSUPPORT,
        [ff_EADDRINUSE] = EADDRINUSE,     [ff_EADDRNOTAVAIL] = EADDRNOTAVAIL,
        [ff_ENETDOWN] = ENETDOWN,         [ff_ENETUNREACH] = ENETUNREACH,
        [ff_ENETRESET] = ENETRESET,       [ff_ECONNABORTED] = ECONNABORTED,
        [ff_ECONNRESET] = ECONNRESET,     [ff_ENOBUFS] = ENOBUFS,
        [ff_EISCONN] = EISCONN,           [ff_ENOTCONN] = ENOTCONN,
        [ff_ESHUTDOWN] = ESHUTDOWN,       [ff_ETIMEDOUT] = ETIMEDOUT,
        [ff_ECONNREFUSED] = ECONNREFUSED, [ff_EHOSTDOWN] = EHOSTDOWN,
        [ff_EHOSTUNREACH] = EHOSTUNREACH,
    };
    if (bsd > 0 && bsd < (int)FFL_COUNT(map) && map[bsd])
        return map[bsd];
    return bsd > 0 && bsd <= ff_ERANGE ? bsd : EIO; /* 1 to 34 are the same, but for EDEADLK */
}

/* The wrappers set errno to Linux's number; a call that failed without one must not look well. */
static int fail(void)
{
    return errno > 0 ? -errno : -EIO;
}

/* ---- start, run, stop ---------------------------------------------------------------------- */

static struct fstack *the_stack; /* F-Stack is once in a process, and stays */

/* The words that it was started with, one after the other. NULL: no memory. */
static char *joined(const struct ffl_stack_opts *opts)
{
    size_t len = 1;
    for (int i = 0; i < opts->argc; i++)
        len += strlen(opts->argv[i]) + 1;
    char *text = malloc(len), *to = text;
    for (int i = 0; text && i < opts->argc; i++)
        to += sprintf(to, "%s ", opts->argv[i]);
    if (text)
        *to = '\0';
    return text;
}

static int use_again(struct fstack *f, const char *words, char *why, size_t whylen)
{
    int rc = fstack_life_usable(why, whylen);
    if (rc < 0)
        return rc;
    if (f->used) {
        snprintf(why, whylen,
                 "F-Stack serves another loop of this process, and one only: close "
                 "that one first, or start another process");
        return -EBUSY;
    }
    if (strcmp(f->words, words) != 0) {
        snprintf(why, whylen, "F-Stack runs in this process since before, with other options (%s)",
                 f->words);
        return -EINVAL;
    }
    f->used = true;
    return 0;
}

static int begin(struct fstack *f, const struct ffl_stack_opts *opts, char *why, size_t whylen)
{
    int rc = fstack_conf_read(&f->conf, opts, why, whylen);
    if (rc == 0)
        rc = fstack_life_begin(&f->conf, why, whylen);
    ffl_close(&f->conf.memfd, NULL); /* it was read */
    if (rc == 0) {
        f->kq = ff_kqueue();
        rc = f->kq < 0 ? fail() : 0;
    }
    /* Not from the start of the range each time: the last run's peers may still hold those. */
    f->next_port = (uint16_t)(FIRST_PORT + ffl_now_ns() / 1000 % (65536 - FIRST_PORT));
    f->used = true;
    if (rc < 0)
        fstack_conf_free(&f->conf);
    return rc;
}

static int fstack_start(void **st, const struct ffl_stack_opts *opts, char *why, size_t whylen)
{
    char *words = joined(opts);
    struct fstack *f = the_stack;
    int rc = words ? 0 : -ENOMEM;
    if (rc == 0 && f) {
        rc = use_again(f, words, why, whylen);
        free(words);
    } else if (rc == 0) {
        f = calloc(1, sizeof(*f));
        rc = f ? begin(f, opts, why, whylen) : -ENOMEM;
        if (rc < 0) {
            free(f);
            free(words);
        } else {
            f->words = words;
            the_stack = f;
        }
    }
    *st = f;
    return rc;
}

/* Connections that were closed and whose peers have not got everything yet. */
static uint64_t unsent_closes(void)
{
    static const int states[] = {4, 2, 6, 16}; /* net.inet.tcp.states, FreeBSD's numbers */
    enum { FIN_WAIT_1 = 6, CLOSING = 7, LAST_ACK = 8, STATES = 11 };
    uint64_t n[STATES] = {0};
    size_t len = sizeof(n);
    if (ff_sysctl(states, FFL_COUNT(states), n, &len, NULL, 0) < 0)
        return 0;
    return n[FIN_WAIT_1] + n[CLOSING] + n[LAST_ACK];
}

/* A peer is told of the end only by packets that still leave, so the loop goes on for a while. */
static int64_t drain(void *arg)
{
    int64_t took = ffl_now_ns() - *(const int64_t *)arg;
    return took < DRAIN_NS || (unsent_closes() && took < LONGEST_DRAIN_NS) ? 0 : -1;
}

static void fstack_stop(void *st)
{
    struct fstack *f = st;
    int64_t since = ffl_now_ns();
    fstack_life_run(drain, &since);
    f->used = false;
}

static int fstack_run(void *st, ffl_iterate_fn iterate, void *arg)
{
    fstack_life_run(iterate, arg);
    return 0;
}

static void fstack_describe(void *st, char *buf, size_t len)
{
    struct fstack *f = st;
    fstack_conf_describe(&f->conf, sched_getcpu(), buf, len);
}

/* ---- sockets ------------------------------------------------------------------------------- */

static int fstack_socket(void *st, int domain, int type, int proto)
{
    int fd = ff_socket(domain, type | SOCK_NONBLOCK, proto);
    return fd < 0 ? fail() : fd;
}

static int bind_now(int fd, const struct ffl_addr *a)
{
    struct sockaddr_storage ss;
    uint32_t len;
    int rc = ffl_addr_to_sockaddr(a, &ss, &len);
    if (rc < 0)
        return rc;
    return ff_bind(fd, (struct linux_sockaddr *)&ss, len) < 0 ? fail() : 0;
}

/*
 * SYNs are led to every socket of an address that is bound with SO_REUSEPORT_LB, and refused by one
 * that does not listen yet. So beside a listener a socket is bound at the last moment: when it
 * listens itself (mostly it does not: it becomes a reference to the one that is there) or connects.
 */
static int bind_late(struct fstack *f, int fd)
{
    const struct ffl_addr *late = fstack_ports_late(&f->ports, fd);
    if (!late)
        return 0;
    struct ffl_addr a = *late;
    fstack_ports_remove(&f->ports, fd);
    return bind_now(fd, &a);
}

static int fstack_dup(void *st, int fd)
{
    struct fstack *f = st;
    int rc = bind_late(f, fd);
    if (rc < 0)
        return rc;
    int copy = ff_dup(fd);
    if (copy < 0)
        return fail();
    rc = fstack_ports_dup(&f->ports, fd, copy);
    if (rc < 0)
        ff_close(copy);
    return rc < 0 ? rc : copy;
}

static int fstack_close(void *st, int fd)
{
    struct fstack *f = st;
    fstack_ports_remove(&f->ports, fd);
    return ff_close(fd) < 0 ? fail() : 0;
}

static int bsd_option(int fd, int name)
{
    int value = 0;
    socklen_t len = sizeof(value);
    return ff_getsockopt_freebsd(fd, BSD_SOL_SOCKET, name, &value, &len) < 0 ? 0 : value;
}

static bool is_stream(int fd)
{
    return bsd_option(fd, BSD_SO_TYPE) == SOCK_STREAM; /* its Linux name is not translated */
}

static bool is_v6only(int fd, const struct ffl_addr *a)
{
    int value = 0;
    socklen_t len = sizeof(value);
    return a->family == AF_INET6 &&
           ff_getsockopt_freebsd(fd, IPPROTO_IPV6, BSD_IPV6_V6ONLY, &value, &len) == 0 && value;
}

/* What `fd` is, or would be, as a listener at an address. */
static struct fstack_listener listener(int fd, const struct ffl_addr *a)
{
    return (struct fstack_listener){.fd = fd,
                                    .shared = bsd_option(fd, BSD_SO_REUSEPORT_LB) != 0,
                                    .v6only = is_v6only(fd, a),
                                    .a = *a};
}

/*
 * F-Stack leaves port 0 of an IPv4 socket open until it connects, since only then is it known which
 * source ports lead back to this one of several processes. Linux names a port at once, and whoever
 * listens or receives needs one. So the port is chosen here, but for a stream socket of several
 * processes, which keeps F-Stack's way: it may connect, and a port 0 to listen on is EINVAL.
 */
static int bind_some_port(struct fstack *f, int fd, struct ffl_addr a, struct sockaddr_in *in)
{
    bool stream = is_stream(fd);
    if (f->conf.nprocs > 1 && stream)
        return ff_bind(fd, (struct linux_sockaddr *)in, sizeof(*in)) < 0 ? fail() : 0;
    struct fstack_listener l = listener(fd, &a);
    l.shared = false; /* nobody knows the port */
    for (int tries = 0; tries <= 65535 - FIRST_PORT; tries++) {
        in->sin_port = l.a.port_be = htons(f->next_port);
        f->next_port = f->next_port == 65535 ? FIRST_PORT : f->next_port + 1;
        if (stream && fstack_ports_taken(&f->ports, &l))
            continue;
        if (ff_bind(fd, (struct linux_sockaddr *)in, sizeof(*in)) == 0)
            return 0;
        if (errno != EADDRINUSE)
            return fail();
    }
    return -EADDRINUSE;
}

static int fstack_bind(void *st, int fd, const struct ffl_addr *a)
{
    struct fstack *f = st;
    struct sockaddr_storage ss;
    uint32_t len;
    int rc = ffl_addr_to_sockaddr(a, &ss, &len);
    if (rc < 0)
        return rc;
    if (fstack_ports_late(&f->ports, fd))
        return -EINVAL;
    if (a->family == AF_INET && !a->port_be)
        return bind_some_port(f, fd, *a, (struct sockaddr_in *)&ss);
    if (!is_stream(fd))
        return bind_now(fd, a);
    struct fstack_listener l = listener(fd, a);
    if (fstack_ports_taken(&f->ports, &l))
        return -EADDRINUSE;
    l.late = true;
    if (l.shared && fstack_ports_beside(&f->ports, a))
        return fstack_ports_add(&f->ports, &l);
    return bind_now(fd, a);
}

static int fstack_accept(void *st, int fd, struct ffl_addr *peer)
{
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof(ss);
    int got = ff_accept4(fd, (struct linux_sockaddr *)&ss, &len, SOCK_NONBLOCK);
    if (got < 0)
        return fail();
    ffl_addr_from_sockaddr(peer, &ss, sizeof(ss));
    return got;
}

static int fstack_connect(void *st, int fd, const struct ffl_addr *a)
{
    struct sockaddr_storage ss;
    uint32_t len;
    int rc = ffl_addr_to_sockaddr(a, &ss, &len);
    if (rc == 0)
        rc = bind_late(st, fd);
    if (rc < 0)
        return rc;
    return ff_connect(fd, (struct linux_sockaddr *)&ss, len) < 0 ? fail() : 0;
}

/* Control messages by Linux's and FreeBSD's names. F-Stack itself knows IPv4's IP_TOS and IP_TTL, both
 * ways, and hands the others through as they are. */
static const struct {
    int level, type, bsd_level, bsd_type;
} ctl_names[] = {
    {IPPROTO_IP, IP_PKTINFO, IPPROTO_IP, 7}, /* the address alone */
    {IPPROTO_IPV6, IPV6_PKTINFO, IPPROTO_IPV6, 46},
    {IPPROTO_IPV6, IPV6_HOPLIMIT, IPPROTO_IPV6, 47},
    {IPPROTO_IPV6, IPV6_TCLASS, IPPROTO_IPV6, 61},
};

static void ctl_put(struct ffl_ctl *ctl, int level, int type, const void *data, size_t len)
{
    struct cmsghdr c = {.cmsg_len = CMSG_LEN(len), .cmsg_level = level, .cmsg_type = type};
    if (ctl->len + CMSG_SPACE(len) > sizeof(ctl->data))
        return;
    memset(ctl->data + ctl->len, 0, CMSG_SPACE(len));
    memcpy(ctl->data + ctl->len, &c, sizeof(c));
    memcpy(ctl->data + ctl->len + CMSG_LEN(0), data, len);
    ctl->len += CMSG_SPACE(len);
}

static bool is_pktinfo(int level, int type)
{
    return level == IPPROTO_IP && type == IP_PKTINFO;
}

/* Goes through `from`'s messages; each, under its other name, to `to`. */
static void ctl_translate(struct ffl_ctl *to, const void *from, size_t len, bool to_bsd)
{
    struct msghdr m = {.msg_control = (void *)(uintptr_t)from, .msg_controllen = len};
    to->len = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        int level = c->cmsg_level, type = c->cmsg_type;
        size_t n = c->cmsg_len - CMSG_LEN(0);
        const uint8_t *data = CMSG_DATA(c);
        for (size_t i = 0; i < FFL_COUNT(ctl_names); i++) {
            if (to_bsd && ctl_names[i].level == c->cmsg_level &&
                ctl_names[i].type == c->cmsg_type) {
                level = ctl_names[i].bsd_level;
                type = ctl_names[i].bsd_type;
            } else if (!to_bsd && ctl_names[i].bsd_level == c->cmsg_level &&
                       ctl_names[i].bsd_type == c->cmsg_type) {
                level = ctl_names[i].level;
                type = ctl_names[i].type;
            }
        }
        struct in_pktinfo info = {0};
        if (to_bsd && is_pktinfo(c->cmsg_level, c->cmsg_type)) {
            memcpy(&info, data, n < sizeof(info) ? n : sizeof(info));
            if (info.ipi_spec_dst.s_addr)
                ctl_put(to, level, type, &info.ipi_spec_dst, sizeof(info.ipi_spec_dst));
        } else if (!to_bsd && is_pktinfo(level, type) && n == sizeof(info.ipi_addr)) {
            memcpy(&info.ipi_addr, data, n);
            info.ipi_spec_dst = info.ipi_addr;
            ctl_put(to, level, type, &info, sizeof(info));
        } else {
            ctl_put(to, level, type, data, n);
        }
    }
}

static int send_dgram(int fd, const struct iovec *iov, const struct ffl_addr *to,
                      const struct ffl_ctl *ctl)
{
    struct sockaddr_storage ss;
    struct msghdr msg = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = 1};
    _Alignas(8) struct ffl_ctl bsd;
    if (to) {
        uint32_t len;
        int rc = ffl_addr_to_sockaddr(to, &ss, &len);
        if (rc < 0)
            return rc;
        msg.msg_name = &ss;
        msg.msg_namelen = len;
    }
    if (!ctl) {
        ssize_t sent = ff_sendto(fd, iov->iov_base, iov->iov_len, 0, msg.msg_name, msg.msg_namelen);
        return sent < 0 ? fail() : (int)sent;
    }
    _Alignas(8) uint8_t data[sizeof(bsd.data)];
    ctl_translate(&bsd, memcpy(data, ctl->data, sizeof(data)), ctl->len, true);
    memcpy(data, bsd.data, sizeof(data));
    msg.msg_control = bsd.len ? data : NULL;
    msg.msg_controllen = bsd.len;
    ssize_t sent = ff_sendmsg(fd, &msg, 0);
    return sent < 0 ? fail() : (int)sent;
}

static int fstack_send(void *st, int fd, const struct iovec *iov, int n, const struct ffl_addr *to,
                       const struct ffl_ctl *ctl)
{
    if ((to || ctl) && n != 1)
        return -EINVAL;
    if (to || ctl)
        return send_dgram(fd, iov, to, ctl);
    ssize_t sent = n == 1 ? ff_write(fd, iov->iov_base, iov->iov_len) : ff_writev(fd, iov, n);
    return sent < 0 ? fail() : (int)sent;
}

static int recv_dgram(int fd, const struct iovec *iov, struct ffl_addr *from, struct ffl_ctl *ctl,
                      int *msg_flags)
{
    struct sockaddr_storage ss = {0};
    _Alignas(8) uint8_t data[sizeof(ctl->data)];
    struct msghdr msg = {.msg_name = &ss,
                         .msg_namelen = sizeof(ss),
                         .msg_iov = (struct iovec *)(uintptr_t)iov,
                         .msg_iovlen = 1,
                         .msg_control = data,
                         .msg_controllen = sizeof(data)};
    ssize_t got = ff_recvmsg(fd, &msg, 0);
    if (got < 0)
        return fail();
    ffl_addr_from_sockaddr(from, &ss, sizeof(ss));
    ctl_translate(ctl, data, msg.msg_controllen, false);
    *msg_flags =
        msg.msg_flags & BSD_MSG_CTRUNC ? MSG_CTRUNC : 0; /* iov holds the largest datagram */
    return (int)got;
}

static int fstack_recv(void *st, int fd, const struct iovec *iov, int n, struct ffl_addr *from,
                       struct ffl_ctl *ctl, int *msg_flags)
{
    if (from && (n != 1 || !ctl))
        return -EINVAL;
    if (from)
        return recv_dgram(fd, iov, from, ctl, msg_flags);
    ssize_t got = n == 1 ? ff_read(fd, iov->iov_base, iov->iov_len) : ff_readv(fd, iov, n);
    return got < 0 ? fail() : (int)got;
}

static int fstack_shutdown(void *st, int fd, int how)
{
    return ff_shutdown(fd, how) < 0 ? fail() : 0;
}

static int fstack_sockname(void *st, int fd, bool peer, struct ffl_addr *a)
{
    struct fstack *f = st;
    const struct ffl_addr *late = peer ? NULL : fstack_ports_late(&f->ports, fd);
    if (late) {
        *a = *late;
        return 0;
    }
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof(ss);
    int rc = peer ? ff_getpeername(fd, (struct linux_sockaddr *)&ss, &len)
                  : ff_getsockname(fd, (struct linux_sockaddr *)&ss, &len);
    if (rc < 0)
        return fail();
    ffl_addr_from_sockaddr(a, &ss, sizeof(ss));
    return 0;
}

static int fstack_listen(void *st, int fd, int backlog)
{
    struct fstack *f = st;
    struct ffl_addr a;
    int rc = bind_late(f, fd);
    if (rc == 0)
        rc = fstack_sockname(st, fd, false, &a);
    if (rc < 0)
        return rc;
    struct fstack_listener l = listener(fd, &a);
    if (fstack_ports_taken(&f->ports, &l))
        return -EADDRINUSE;
    if (ff_listen(fd, backlog) < 0)
        return fail();
    rc = fstack_sockname(st, fd, false, &l.a); /* a name only now: listen without bind */
    return rc < 0 ? rc : fstack_ports_add(&f->ports, &l);
}

/* Sockets that it can have. By its name, whose number FreeBSD gives. */
static int64_t fstack_capacity(void *st)
{
    static const int by_name[] = {0, 3};
    static const char name[] = "kern.ipc.maxsockets";
    int number[24], value = 0;
    size_t len = sizeof(number), size = sizeof(value);
    if (ff_sysctl(by_name, 2, number, &len, name, strlen(name)) < 0 ||
        ff_sysctl(number, (unsigned)(len / sizeof(*number)), &value, &size, NULL, 0) < 0)
        return INT64_MAX;
    return value;
}

/* ---- options ------------------------------------------------------------------------------- */

/* Linux's struct tcp_info begins as FreeBSD's does, which was made after it; the two count the states
 * and the window in other ways. */
static int tcp_info(int fd, const struct ffl_option *o, void *val, uint32_t *len)
{
    static const uint8_t states[] = {
        TCP_CLOSE,     TCP_LISTEN,  TCP_SYN_SENT, TCP_SYN_RECV,  TCP_ESTABLISHED, TCP_CLOSE_WAIT,
        TCP_FIN_WAIT1, TCP_CLOSING, TCP_LAST_ACK, TCP_FIN_WAIT2, TCP_TIME_WAIT,
    };
    union {
        struct tcp_info linux_one;
        uint8_t room[512]; /* FreeBSD's is longer */
    } u = {.room = {0}};
    socklen_t n = sizeof(u);
    if (ff_getsockopt_freebsd(fd, o->bsd_level, o->bsd_name, &u, &n) < 0)
        return fail();
    struct tcp_info *t = &u.linux_one;
    uint32_t mss = t->tcpi_snd_mss ? t->tcpi_snd_mss : 1,
             same = offsetof(struct tcp_info, tcpi_total_retrans);
    t->tcpi_state = t->tcpi_state < sizeof(states) ? states[t->tcpi_state] : TCP_CLOSE;
    t->tcpi_snd_cwnd /= mss;
    t->tcpi_snd_ssthresh = t->tcpi_snd_ssthresh / mss;
    *len = *len < same ? *len : same;
    memcpy(val, &u, *len);
    return 0;
}

static int set_bsd(int fd, int level, int name, const void *val, uint32_t len)
{
    return ff_setsockopt_freebsd(fd, level, name, val, len) < 0 ? fail() : 0;
}

static int get_bsd(int fd, int level, int name, void *val, uint32_t *len)
{
    socklen_t n = *len;
    if (ff_getsockopt_freebsd(fd, level, name, val, &n) < 0)
        return fail();
    *len = n;
    return 0;
}

static int set_source(int fd, const struct ffl_option *o, const void *val, uint32_t len)
{
    struct ip_mreq_source m;
    if (len < sizeof(m))
        return -EINVAL;
    memcpy(&m, val, sizeof(m));
    struct in_addr bsd[] = {m.imr_multiaddr, m.imr_sourceaddr, m.imr_interface};
    return set_bsd(fd, o->bsd_level, o->bsd_name, bsd, sizeof(bsd));
}

/* Nothing is passed through by number: an unknown one may hit another option of FreeBSD's. */
static const struct ffl_option *known(int level, int name, unsigned right)
{
    const struct ffl_option *o = ffl_option_find(level, name);
    return o && o->bsd != FFL_BSD_NONE && o->flags & right ? o : NULL;
}

static int fstack_setsockopt(void *st, int fd, int level, int name, const void *val, uint32_t len)
{
    const struct ffl_option *o = known(level, name, FFL_OPTION_SET);
    if (!o)
        return -ENOPROTOOPT;
    if (o->bsd == FFL_BSD_SOURCE)
        return set_source(fd, o, val, len);
    if (o->bsd != FFL_BSD_FAMILY)
        return set_bsd(fd, o->bsd_level, o->bsd_name, val, len);
    int rc = set_bsd(fd, IPPROTO_IP, o->bsd_name, val, len);
    return rc < 0 ? set_bsd(fd, IPPROTO_IPV6, o->bsd_name, val, len) : rc;
}

static int fstack_getsockopt(void *st, int fd, int level, int name, void *val, uint32_t *len)
{
    const struct ffl_option *o = known(level, name, FFL_OPTION_GET);
    if (!o)
        return -ENOPROTOOPT;
    if (o->bsd == FFL_BSD_TCP_INFO)
        return tcp_info(fd, o, val, len);
    bool family = o->bsd == FFL_BSD_FAMILY;
    int rc = get_bsd(fd, family ? IPPROTO_IP : o->bsd_level, o->bsd_name, val, len);
    if (rc < 0 && family)
        rc = get_bsd(fd, IPPROTO_IPV6, o->bsd_name, val, len);
    int v;
    if (rc < 0 || *len != sizeof(v))
        return rc;
    memcpy(&v, val, sizeof(v));
    if (o->bsd == FFL_BSD_ERRNO)
        v = v ? linux_errno(v) : 0;
    else if (o->kind == FFL_OPTION_BOOL)
        v = v != 0; /* FreeBSD gives the flag's bit */
    else if (family && v < 0)
        v = 0; /* never set */
    memcpy(val, &v, sizeof(v));
    return 0;
}

/* ---- events -------------------------------------------------------------------------------- */

static int fstack_watch(void *st, int fd, unsigned filters, void *udata)
{
    struct fstack *f = st;
    struct kevent kev[2];
    int n = 0;
    if (filters & FFL_READ)
        EV_SET(&kev[n++], fd, EVFILT_READ, EV_ADD | EV_CLEAR, 0, 0, udata);
    if (filters & FFL_WRITE)
        EV_SET(&kev[n++], fd, EVFILT_WRITE, EV_ADD | EV_CLEAR, 0, 0, udata);
    return ff_kevent(f->kq, kev, n, NULL, 0, NULL) < 0 ? fail() : 0;
}

static int fstack_poll(void *st, struct ffl_stack_event *out, int max)
{
    static const struct timespec now = {0, 0};
    struct fstack *f = st;
    struct kevent kev[MAX_EVENTS];
    int n = ff_kevent(f->kq, NULL, 0, kev, max < MAX_EVENTS ? max : MAX_EVENTS, &now);
    if (n < 0)
        return fail();
    for (int i = 0; i < n; i++)
        out[i] = (struct ffl_stack_event){
            .udata = kev[i].udata,
            .filter = kev[i].filter == EVFILT_WRITE ? FFL_WRITE : FFL_READ,
            .eof = (kev[i].flags & (EV_EOF | EV_ERROR)) != 0,
            .error = kev[i].flags & EV_ERROR || (kev[i].flags & EV_EOF && kev[i].fflags),
            .data = kev[i].data > INT32_MAX ? INT32_MAX : (int32_t)kev[i].data,
        };
    return n;
}

extern const struct ffl_stack_ops ffl_fstack_ops;
const struct ffl_stack_ops ffl_fstack_ops = {
    .name = "fstack",
    .start = fstack_start,
    .stop = fstack_stop,
    .run = fstack_run,
    .describe = fstack_describe,
    .capacity = fstack_capacity,
    .socket = fstack_socket,
    .dup = fstack_dup,
    .close = fstack_close,
    .bind = fstack_bind,
    .listen = fstack_listen,
    .accept = fstack_accept,
    .connect = fstack_connect,
    .send = fstack_send,
    .recv = fstack_recv,
    .shutdown = fstack_shutdown,
    .setsockopt = fstack_setsockopt,
    .getsockopt = fstack_getsockopt,
    .sockname = fstack_sockname,
    .watch = fstack_watch,
    .poll = fstack_poll,
};
