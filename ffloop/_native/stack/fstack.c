/*
 * fstack.c - the stack seam over F-Stack (FreeBSD's TCP on DPDK): its life, sockets, events.
 *
 * Callers: instance/, through ffl_fstack_ops. All calls are made on the thread that started
 * F-Stack, which pins it to its lcore. Sockets are non-blocking, kqueue's events EV_CLEAR.
 * docs/fstack.md has the facts behind this file.
 */
#include "stack.h"

#include "fstack_life.h"
#include "fstack_ports.h"
#include "fstack_sock.h"

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
#define BSD_SO_BROADCAST 0x20
#define BSD_SO_TYPE 0x1008
#define BSD_SO_LISTENQLEN 0x1012
#define BSD_IPV6_V6ONLY 27
/* After the last close: its FIN leaves a transmit delay and a tick later. */
#define DRAIN_NS 50000000LL
#define LONGEST_DRAIN_NS FFL_NS_PER_SEC
#define MAX_EVENTS 256
#define FIRST_PORT 49152 /* the first that a bind to port 0 may get, as in FreeBSD */

struct fstack {
    int kq;
    struct fstack_conf conf;
    struct fstack_ports ports;
    char *words;        /* the options that started it */
    bool used;          /* between start and stop */
    uint16_t next_port; /* for bind to port 0 */
};

/* ---- start, run, stop ---------------------------------------------------------------------- */

static struct fstack *the_stack; /* a process has F-Stack once, to its end */

/* The options, joined. NULL: no memory. */
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
    ffl_close(&f->conf.memfd, NULL); /* F-Stack has read it */
    if (rc == 0) {
        f->kq = ff_kqueue();
        rc = f->kq < 0 ? fstack_fail() : 0;
    }
    /* Each run begins elsewhere: peers of the last run may still hold its connections. */
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

/* Closed connections whose peers have not acknowledged everything yet. */
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

/* The last packets of closed connections leave only while F-Stack's loop runs. */
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
    return fd < 0 ? fstack_fail() : fd;
}

static int bind_now(int fd, const struct ffl_addr *a)
{
    struct sockaddr_storage ss;
    uint32_t len;
    int rc = ffl_addr_to_sockaddr(a, &ss, &len);
    if (rc < 0)
        return rc;
    return ff_bind(fd, (struct linux_sockaddr *)&ss, len) < 0 ? fstack_fail() : 0;
}

/*
 * F-Stack spreads SYNs over all sockets that are bound to an address with SO_REUSEPORT_LB; one that
 * does not listen refuses its SYNs. So where another socket listens, a further one is bound only
 * when it listens itself (mostly it becomes a reference to that listener instead) or connects.
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
        return fstack_fail();
    rc = fstack_ports_dup(&f->ports, fd, copy);
    if (rc < 0)
        ff_close(copy);
    return rc < 0 ? rc : copy;
}

static int fstack_close(void *st, int fd)
{
    struct fstack *f = st;
    fstack_ports_remove(&f->ports, fd);
    return ff_close(fd) < 0 ? fstack_fail() : 0;
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

/* The table's entry for `fd` as a listener at an address. */
static struct fstack_listener listener(int fd, const struct ffl_addr *a)
{
    return (struct fstack_listener){.fd = fd,
                                    .shared = bsd_option(fd, BSD_SO_REUSEPORT_LB) != 0,
                                    .v6only = is_v6only(fd, a),
                                    .a = *a};
}

/*
 * F-Stack chooses the port of an IPv4 socket bound to port 0 only at connect, since only then are
 * the source ports known whose packets come back to this one of several processes. Linux chooses at
 * bind, and listeners and receivers need a port. So the port is chosen here. A stream socket of
 * several processes keeps F-Stack's way: connect works, and listen on port 0 is EINVAL.
 */
static int bind_some_port(struct fstack *f, int fd, struct ffl_addr a, struct sockaddr_in *in)
{
    bool stream = is_stream(fd);
    if (f->conf.nprocs > 1 && stream)
        return ff_bind(fd, (struct linux_sockaddr *)in, sizeof(*in)) < 0 ? fstack_fail() : 0;
    struct fstack_listener l = listener(fd, &a);
    l.shared = false; /* a port that is chosen is not one that others share */
    for (int tries = 0; tries <= 65535 - FIRST_PORT; tries++) {
        in->sin_port = l.a.port_be = htons(f->next_port);
        f->next_port = f->next_port == 65535 ? FIRST_PORT : f->next_port + 1;
        if (stream && fstack_ports_taken(&f->ports, &l))
            continue;
        if (ff_bind(fd, (struct linux_sockaddr *)in, sizeof(*in)) == 0)
            return 0;
        if (errno != EADDRINUSE)
            return fstack_fail();
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
        return fstack_fail();
    ffl_addr_from_sockaddr(peer, &ss, sizeof(ss));
    return got;
}

static int fstack_backlog(void *st, int fd)
{
    return bsd_option(fd, BSD_SO_LISTENQLEN);
}

int fstack_refused(int fd, const struct ffl_addr *to)
{
    static const uint8_t broadcast[] = {255, 255, 255, 255};
    if (to->family != AF_INET || memcmp(to->ip, broadcast, sizeof(broadcast)) != 0)
        return 0;
    if (is_stream(fd))
        return -ENETUNREACH;
    return bsd_option(fd, BSD_SO_BROADCAST) ? 0 : -EACCES;
}

static int fstack_connect(void *st, int fd, const struct ffl_addr *a)
{
    struct sockaddr_storage ss;
    uint32_t len;
    int rc = ffl_addr_to_sockaddr(a, &ss, &len);
    if (rc == 0)
        rc = fstack_refused(fd, a);
    if (rc == 0)
        rc = bind_late(st, fd);
    if (rc < 0)
        return rc;
    if (ff_connect(fd, (struct linux_sockaddr *)&ss, len) == 0 ||
        (a->family == AF_UNSPEC && errno == EAFNOSUPPORT)) /* which has dissolved it */
        return 0;
    return fstack_fail();
}

static int fstack_shutdown(void *st, int fd, int how)
{
    return ff_shutdown(fd, how) < 0 ? fstack_fail() : 0;
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
        return fstack_fail();
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
    if (rc == 0 && a.family == AF_INET && !a.port_be) { /* without bind */
        rc = fstack_bind(st, fd, &a);
        if (rc == 0)
            rc = fstack_sockname(st, fd, false, &a);
    }
    if (rc < 0)
        return rc;
    struct fstack_listener l = listener(fd, &a);
    if (fstack_ports_taken(&f->ports, &l))
        return -EADDRINUSE;
    if (ff_listen(fd, backlog) < 0)
        return fstack_fail();
    /* After a listen without bind an IPv6 socket has an address only now. */
    rc = fstack_sockname(st, fd, false, &l.a);
    return rc < 0 ? rc : fstack_ports_add(&f->ports, &l);
}

/* kern.ipc.maxsockets, asked for by its name: the number of that is FreeBSD's choice. */
static int64_t fstack_capacity(void *st)
{
    static const int by_name[] = {0, 3};
    static const char name[] = "kern.ipc.maxsockets";
    int number[24], value = 0;
    size_t len = sizeof(number), size = sizeof(value);
    if (ff_sysctl(by_name, 2, number, &len, name, strlen(name)) < 0 ||
        ff_sysctl(number, (unsigned)(len / sizeof(*number)), &value, &size, NULL, 0) < 0)
        return INT64_MAX;
    return value > 0 ? value : INT64_MAX; /* 0: config.ini names none, and F-Stack has no limit */
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
    return ff_kevent(f->kq, kev, n, NULL, 0, NULL) < 0 ? fstack_fail() : 0;
}

static int fstack_poll(void *st, struct ffl_stack_event *out, int max)
{
    static const struct timespec now = {0, 0};
    struct fstack *f = st;
    struct kevent kev[MAX_EVENTS];
    int n = ff_kevent(f->kq, NULL, 0, kev, max < MAX_EVENTS ? max : MAX_EVENTS, &now);
    if (n < 0)
        return fstack_fail();
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
    .backlog = fstack_backlog,
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
