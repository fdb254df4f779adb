/*
 * net.h - a stack under test, whichever it is, and small helpers over the seam.
 *
 * Callers: seam.c, sim.c, load.c. A `struct watch` is the udata of a socket: readiness that poll
 * reported is kept in it until await takes it, so that no edge is lost between two waits.
 */
#ifndef FFL_TEST_NET_H
#define FFL_TEST_NET_H

#include "harness.h"

#include "stack.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

struct watch {
    int fd;
    unsigned ready; /* FFL_READ | FFL_WRITE not yet awaited */
    bool eof;
    int32_t data;
    unsigned events; /* how often it was named */
};

static const struct ffl_stack_ops *ops;
static void *st;

static __attribute__((unused)) void net_start(const char *name, int argc, char **argv)
{
    char why[256] = "";
    ops = ffl_stack_find(name);
    CHECK(ops);
    struct ffl_stack_opts o = {.argc = argc, .argv = argv};
    int rc = ops->start(&st, &o, why, sizeof(why));
    if (rc < 0)
        FAIL("start: %d %s", rc, why);
}

/* The sim, with options in one string, separated by blanks. */
static __attribute__((unused)) void sim_start(const char *options)
{
    static char text[512];
    static char *argv[32];
    int argc = 0;
    snprintf(text, sizeof(text), "%s", options);
    for (char *p = strtok(text, " "); p; p = strtok(NULL, " "))
        argv[argc++] = p;
    net_start("sim", argc, argv);
}

static __attribute__((unused)) void net_stop(void)
{
    ops->stop(st);
    st = NULL;
}

static __attribute__((unused)) void net_close(const int *fds, size_t n)
{
    for (size_t i = 0; i < n; i++)
        CHECK_EQ(ops->close(st, fds[i]), 0);
    net_stop();
}

/* Closes these sockets, and stops the stack. */
#define net_end(...) net_close((int[]){__VA_ARGS__}, FFL_COUNT(((int[]){__VA_ARGS__})))

/* One poll; the number of events. */
static __attribute__((unused)) int pump(void)
{
    struct ffl_stack_event ev[16];
    int n = ops->poll(st, ev, FFL_COUNT(ev));
    CHECK(n >= 0);
    for (int i = 0; i < n; i++) {
        struct watch *w = ev[i].udata;
        CHECK(ev[i].filter != 0);
        w->ready |= ev[i].filter;
        w->eof |= ev[i].eof;
        if (ev[i].filter & FFL_READ)
            w->data = ev[i].data;
        w->events++;
    }
    return n;
}

/* Waits as an instance does: on the descriptor, or until the deadline. False after `until`. */
static __attribute__((unused)) bool net_wait(int64_t until)
{
    int64_t now = ffl_now_ns(), next = ops->deadline ? ops->deadline(st) : INT64_MAX;
    if (now > until)
        return false;
    int64_t ms = next <= now ? 0 : next > now + 20000000 ? 20 : (next - now) / 1000000 + 1;
    struct pollfd p = {.fd = ops->wait_fd(st), .events = POLLIN};
    (void)poll(&p, p.fd >= 0 ? 1 : 0, (int)ms);
    return true;
}

static __attribute__((unused)) bool await_or_not(struct watch *w, unsigned filter, int64_t ns)
{
    for (int64_t until = ffl_now_ns() + ns;;) {
        while (pump() > 0)
            ;
        if (w->ready & filter) {
            w->ready &= ~filter;
            return true;
        }
        if (!net_wait(until))
            return false;
    }
}

#define await(w, filter)                                                                           \
    do {                                                                                           \
        if (!await_or_not(w, filter, 60 * FFL_NS_PER_SEC))                                         \
            FAIL("no %s event for %s", (filter) == FFL_READ ? "READ" : "WRITE", #w);               \
    } while (0)

static __attribute__((unused)) struct ffl_addr v4(const char *ip, int port)
{
    struct ffl_addr a = {.family = AF_INET, .port_be = htons((uint16_t)port)};
    CHECK_EQ(inet_pton(AF_INET, ip, a.ip), 1);
    return a;
}

static __attribute__((unused)) struct ffl_addr v6(const char *ip, int port)
{
    struct ffl_addr a = {.family = AF_INET6, .port_be = htons((uint16_t)port)};
    CHECK_EQ(inet_pton(AF_INET6, ip, a.ip), 1);
    return a;
}

static __attribute__((unused)) bool same_addr(const struct ffl_addr *a, const struct ffl_addr *b)
{
    return a->family == b->family && a->port_be == b->port_be &&
           memcmp(a->ip, b->ip, a->family == AF_INET ? 4 : 16) == 0;
}

static __attribute__((unused)) int sock(int domain, int type)
{
    int fd = ops->socket(st, domain, type, 0);
    CHECK(fd >= 0);
    return fd;
}

static __attribute__((unused)) void watch(struct watch *w, int fd)
{
    *w = (struct watch){.fd = fd};
    CHECK_EQ(ops->watch(st, fd, FFL_READ | FFL_WRITE, w), 0);
}

static __attribute__((unused)) int get_int(int fd, int level, int name)
{
    int v = -1;
    uint32_t len = sizeof(v);
    CHECK_EQ(ops->getsockopt(st, fd, level, name, &v, &len), 0);
    return v;
}

static __attribute__((unused)) int set_int(int fd, int level, int name, int v)
{
    return ops->setsockopt(st, fd, level, name, &v, sizeof(v));
}

static __attribute__((unused)) int put(int fd, const void *p, size_t n)
{
    struct iovec iov = {.iov_base = (void *)p, .iov_len = n};
    return ops->send(st, fd, &iov, 1, NULL, NULL, 0);
}

static __attribute__((unused)) int take(int fd, void *p, size_t n)
{
    struct iovec iov = {.iov_base = p, .iov_len = n};
    return ops->recv(st, fd, &iov, 1, NULL, NULL, NULL);
}

/* take, but it waits for what there is. */
static __attribute__((unused)) int take_soon(struct watch *w, void *p, size_t n)
{
    int rc;
    while ((rc = take(w->fd, p, n)) == -EAGAIN)
        await(w, FFL_READ);
    return rc;
}

/* Receives exactly n bytes, waiting for events. */
static __attribute__((unused)) void take_all(struct watch *w, void *p, size_t n)
{
    size_t got = 0;
    while (got < n) {
        int rc = take_soon(w, (char *)p + got, n - got);
        if (rc <= 0)
            FAIL("recv gave %d after %zu of %zu bytes", rc, got, n);
        got += (size_t)rc;
    }
}

/* A listener on loopback, and its address. */
static __attribute__((unused)) void listener(struct watch *w, struct ffl_addr *at, int backlog)
{
    int fd = sock(at->family, SOCK_STREAM);
    CHECK_EQ(ops->bind(st, fd, at), 0);
    CHECK_EQ(ops->listen(st, fd, backlog), 0);
    CHECK_EQ(ops->sockname(st, fd, false, at), 0);
    CHECK(at->port_be != 0);
    watch(w, fd);
}

static __attribute__((unused)) void dial(struct watch *w, const struct ffl_addr *to)
{
    int fd = sock(to->family, SOCK_STREAM);
    int rc = ops->connect(st, fd, to);
    CHECK(rc == 0 || rc == -EINPROGRESS);
    watch(w, fd);
}

static __attribute__((unused)) void answer(struct watch *w, struct watch *from)
{
    struct ffl_addr peer;
    int fd;
    while ((fd = ops->accept(st, from->fd, &peer)) == -EAGAIN)
        await(from, FFL_READ);
    CHECK(fd >= 0);
    watch(w, fd);
}

/* A connected pair. */
static __attribute__((unused)) void connected(struct watch *a, struct watch *b)
{
    struct watch l;
    struct ffl_addr at = v4("127.0.0.1", 0);
    listener(&l, &at, 8);
    dial(a, &at);
    answer(b, &l);
    await(a, FFL_WRITE);
    CHECK_EQ(get_int(a->fd, SOL_SOCKET, SO_ERROR), 0);
    CHECK_EQ(ops->close(st, l.fd), 0);
}

static __attribute__((unused)) void shut_pair(const struct watch *a, const struct watch *b)
{
    CHECK_EQ(ops->close(st, a->fd), 0);
    CHECK_EQ(ops->close(st, b->fd), 0);
}

#endif
