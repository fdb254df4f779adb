/* points.c - see points.h. */
#include "points.h"

#include <signal.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/mman.h>

const char *const point_names[POINTS] = {"memory",     "descriptor",  "mapping",   "pool", "bell",
                                         "short read", "short write", "interrupt", "death"};

static struct plan plan;
static _Atomic unsigned crossed, failed;
static _Atomic bool armed;
static _Thread_local bool in_iteration;

void points_arm(const struct plan *p)
{
    plan = *p;
    crossed = failed = 0;
    armed = true;
}

unsigned points_end(void)
{
    armed = false;
    return failed;
}

/* True: this crossing fails. */
static bool crossing(enum point p)
{
    if (!armed || (plan.p != p && plan.p != POINT_DEATH) ||
        !(plan.iterations ? in_iteration : pthread_equal(plan.who, pthread_self())))
        return false;
    unsigned n = crossed++;
    if (n < plan.skip || n - plan.skip >= plan.times)
        return false;
    if (plan.p == POINT_DEATH)
        (void)raise(SIGKILL);
    failed++;
    return true;
}

/* ---- what the linker puts in the calls' place ------------------------------------------------ */

#define WRAP(type, name, params, args, point, result, error)                                       \
    type __real_##name params;                                                                     \
    type __wrap_##name params                                                                      \
    {                                                                                              \
        if (!crossing(point))                                                                      \
            return __real_##name args;                                                             \
        errno = error;                                                                             \
        return result;                                                                             \
    }

WRAP(void *, malloc, (size_t n), (n), POINT_MEMORY, NULL, ENOMEM)
WRAP(void *, calloc, (size_t n, size_t size), (n, size), POINT_MEMORY, NULL, ENOMEM)
WRAP(void *, realloc, (void *p, size_t n), (p, n), POINT_MEMORY, NULL, ENOMEM)
WRAP(int, socket, (int d, int t, int p), (d, t, p), POINT_DESCRIPTOR, -1, EMFILE)
WRAP(int, socketpair, (int d, int t, int p, int *v), (d, t, p, v), POINT_DESCRIPTOR, -1, EMFILE)
WRAP(int, accept4, (int s, void *a, void *n, int f), (s, a, n, f), POINT_DESCRIPTOR, -1, EMFILE)
WRAP(int, eventfd, (unsigned n, int f), (n, f), POINT_DESCRIPTOR, -1, EMFILE)
WRAP(int, epoll_create1, (int f), (f), POINT_DESCRIPTOR, -1, EMFILE)
WRAP(int, memfd_create, (const char *n, unsigned f), (n, f), POINT_DESCRIPTOR, -1, EMFILE)
WRAP(void *, mmap, (void *at, size_t n, int prot, int flags, int fd, off_t off),
     (at, n, prot, flags, fd, off), POINT_MAPPING, MAP_FAILED, ENOMEM)
WRAP(uint32_t, ffl_pool_get, (struct ffl_pool * p, uint32_t want), (p, want), POINT_POOL,
     FFL_NO_BUF, 0)
WRAP(uint32_t, ffl_pool_get_spare, (struct ffl_pool * p, uint32_t want), (p, want), POINT_POOL,
     FFL_NO_BUF, 0)

int __real_epoll_ctl(int epfd, int op, int fd, struct epoll_event *ev);
int __wrap_epoll_ctl(int epfd, int op, int fd, struct epoll_event *ev)
{
    if (op != EPOLL_CTL_ADD || !crossing(POINT_MAPPING))
        return __real_epoll_ctl(epfd, op, fd, ev);
    errno = ENOSPC;
    return -1;
}

/* Of the core's writes, those of eight bytes ring. */
ssize_t __real_write(int fd, const void *p, size_t n);
ssize_t __wrap_write(int fd, const void *p, size_t n)
{
    return n == sizeof(uint64_t) && crossing(POINT_BELL) ? (ssize_t)n : __real_write(fd, p, n);
}

int64_t __real_ffl_instance_iterate(void *in);
int64_t __wrap_ffl_instance_iterate(void *in)
{
    in_iteration = true;
    int64_t next = __real_ffl_instance_iterate(in);
    in_iteration = false;
    return next;
}

int __real_ffl_msg_recv(int sock, void *data, size_t len, int *fds, int *nfds);
int __wrap_ffl_msg_recv(int sock, void *data, size_t len, int *fds, int *nfds)
{
    int n = __real_ffl_msg_recv(sock, data, len, fds, nfds);
    return n > 1 && crossing(POINT_SHORT_READ) ? n / 2 : n;
}

int __real_ffl_msg_send(int sock, const void *data, size_t len, const int *fds, int nfds);
int __wrap_ffl_msg_send(int sock, const void *data, size_t len, const int *fds, int nfds)
{
    return __real_ffl_msg_send(sock, data, crossing(POINT_SHORT_WRITE) ? len / 2 : len, fds, nfds);
}

/* ---- the stack ------------------------------------------------------------------------------- */

static struct ffl_stack_ops stack;
static const struct ffl_stack_ops *real;

static int interrupted_accept(void *st, int fd, struct ffl_addr *peer)
{
    return crossing(POINT_INTERRUPT) ? -EINTR : real->accept(st, fd, peer);
}

static int interrupted_recv(void *st, int fd, const struct iovec *iov, int n, struct ffl_addr *from,
                            struct ffl_ctl *ctl, int *flags)
{
    return crossing(POINT_INTERRUPT) ? -EINTR : real->recv(st, fd, iov, n, from, NULL, flags);
}

static int interrupted_send(void *st, int fd, const struct iovec *iov, int n,
                            const struct ffl_addr *to, const struct ffl_ctl *ctl, int flags)
{
    return crossing(POINT_INTERRUPT) ? -EINTR : real->send(st, fd, iov, n, to, NULL, flags);
}

const struct ffl_stack_ops *points_stack(const struct ffl_stack_ops *of)
{
    real = of;
    stack = *of;
    stack.accept = interrupted_accept;
    stack.recv = interrupted_recv;
    stack.send = interrupted_send;
    return &stack;
}
