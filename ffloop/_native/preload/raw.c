/*
 * raw.c - syscall(2) with the numbers of calls that the shim has; io_uring.
 *
 * Callers: programs that make system calls by number, which would reach the placeholder.
 */
#include "preload.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The arguments as the kernel gets them; pointers are cast where they are used. */
#define P(i) ((void *)(intptr_t)a[i])
#define I(i) ((int)a[i])
#define U(i) ((size_t)a[i])

/* ---- io_uring ------------------------------------------------------------------------------- */

/* Operations through io_uring do not reach the shim, and the kernel would see the placeholder. So
 * setting up a ring fails with ENOSYS, as on a kernel without io_uring. True: refuse. */
static bool no_io_uring(void)
{
    static _Atomic bool told;
    if (!started || tls.inside)
        return false;
    if (!atomic_exchange(&told, true) && report_seen())
        report(options.io_uring
                   ? "FFLOOP_IO_URING=1: what the program does through io_uring is the kernel's, "
                     "which sees no socket of the stack"
                   : "the program asks for io_uring, which sees no socket of the stack: it is told "
                     "that there is none (FFLOOP_IO_URING=1 lets it have it)");
    return !options.io_uring;
}

struct io_uring;
struct io_uring_params;
int io_uring_queue_init(unsigned n, struct io_uring *ring, unsigned flags);
int io_uring_queue_init_params(unsigned n, struct io_uring *ring, struct io_uring_params *p);
int io_uring_queue_init_mem(unsigned n, struct io_uring *ring, struct io_uring_params *p, void *buf,
                            size_t size);
int io_uring_setup(unsigned n, struct io_uring_params *p);

/* liburing's system calls go past syscall(2). dlsym: the shim is not linked with liburing. */
#define URING(name, params, args)                                                                  \
    API int name params                                                                            \
    {                                                                                              \
        real_start();                                                                              \
        if (no_io_uring())                                                                         \
            return -ENOSYS;                                                                        \
        int(*theirs) params;                                                                       \
        *(void **)&theirs = dlsym(RTLD_NEXT, #name);                                               \
        return theirs ? theirs args : -ENOSYS;                                                     \
    }

URING(io_uring_queue_init, (unsigned n, struct io_uring *ring, unsigned flags), (n, ring, flags))
URING(io_uring_queue_init_params, (unsigned n, struct io_uring *ring, struct io_uring_params *p),
      (n, ring, p))
URING(io_uring_queue_init_mem,
      (unsigned n, struct io_uring *ring, struct io_uring_params *p, void *buf, size_t size),
      (n, ring, p, buf, size))
URING(io_uring_setup, (unsigned n, struct io_uring_params *p), (n, p))

/* ---- by number ------------------------------------------------------------------------------ */

static long fails(int err)
{
    errno = err;
    return -1;
}

/* Is there a mask of another size than the kernel's? */
static bool mask_bad(long mask, long size)
{
    return mask && size != _NSIG / 8;
}

/* Writes what is left of the time-out to *to, as the system calls do and the C library's do not.
 * Returns rc. */
static long timed(long rc, int64_t began, struct timespec limit, struct timespec *to)
{
    int saved = errno;
    int64_t left = timespec_ns(&limit) - (ffl_now_ns() - began);
    left = left > 0 && rc != 0 ? left : 0;
    limit = (struct timespec){left / FFL_NS_PER_SEC, left % FFL_NS_PER_SEC};
    (void)user_copy(to, &limit, sizeof(limit)); /* unwritable: ignored, as in the kernel */
    errno = saved;
    return rc;
}

static long ppoll_by_number(const long *a)
{
    struct timespec limit, *ts = P(2);
    if (mask_bad(a[3], a[4]))
        return fails(EINVAL);
    if (!ts)
        return ppoll(P(0), (nfds_t)a[1], NULL, P(3));
    if (!user_copy(&limit, ts, sizeof(limit)))
        return fails(EFAULT);
    if (timespec_bad(&limit))
        return fails(EINVAL);
    int64_t began = ffl_now_ns();
    return timed(ppoll(P(0), (nfds_t)a[1], &limit, P(3)), began, limit, ts);
}

static long pselect_by_number(const long *a)
{
    struct timespec limit, *ts = P(4);
    long mask[2] = {0, 0}; /* the mask and its size */
    if (a[5] && !user_copy(mask, P(5), sizeof(mask)))
        return fails(EFAULT);
    if (mask_bad(mask[0], mask[1]))
        return fails(EINVAL);
    const sigset_t *open = (const sigset_t *)(intptr_t)mask[0];
    if (!ts)
        return pselect(I(0), P(1), P(2), P(3), NULL, open);
    if (!user_copy(&limit, ts, sizeof(limit)))
        return fails(EFAULT);
    if (timespec_bad(&limit))
        return fails(EINVAL);
    int64_t began = ffl_now_ns();
    return timed(pselect(I(0), P(1), P(2), P(3), &limit, open), began, limit, ts);
}

/* Numbers, and the shim's calls. (preadv2's offset is in two registers; 64-bit machines use the
 * first.) */
#define CALLS(X)                                                                                   \
    X(socket, socket(I(0), I(1), I(2)))                                                            \
    X(bind, bind(I(0), P(1), (socklen_t)a[2]))                                                     \
    X(listen, listen(I(0), I(1)))                                                                  \
    X(accept4, accept4(I(0), P(1), P(2), I(3)))                                                    \
    X(connect, connect(I(0), P(1), (socklen_t)a[2]))                                               \
    X(shutdown, shutdown(I(0), I(1)))                                                              \
    X(getsockname, getsockname(I(0), P(1), P(2)))                                                  \
    X(getpeername, getpeername(I(0), P(1), P(2)))                                                  \
    X(getsockopt, getsockopt(I(0), I(1), I(2), P(3), P(4)))                                        \
    X(setsockopt, setsockopt(I(0), I(1), I(2), P(3), (socklen_t)a[4]))                             \
    X(close, close(I(0)))                                                                          \
    X(close_range, close_range((unsigned)a[0], (unsigned)a[1], I(2)))                              \
    X(dup, dup(I(0)))                                                                              \
    X(dup3, dup3(I(0), I(1), I(2)))                                                                \
    X(read, read(I(0), P(1), U(2)))                                                                \
    X(readv, readv(I(0), P(1), I(2)))                                                              \
    X(write, write(I(0), P(1), U(2)))                                                              \
    X(writev, writev(I(0), P(1), I(2)))                                                            \
    X(preadv2, preadv64v2(I(0), P(1), I(2), a[3], I(5)))                                           \
    X(pwritev2, pwritev64v2(I(0), P(1), I(2), a[3], I(5)))                                         \
    X(recvfrom, recvfrom(I(0), P(1), U(2), I(3), P(4), P(5)))                                      \
    X(recvmsg, recvmsg(I(0), P(1), I(2)))                                                          \
    X(sendto, sendto(I(0), P(1), U(2), I(3), P(4), (socklen_t)a[5]))                               \
    X(sendmsg, sendmsg(I(0), P(1), I(2)))                                                          \
    X(epoll_ctl, epoll_ctl(I(0), I(1), I(2), P(3)))                                                \
    X(epoll_create1, epoll_create1(I(0)))                                                          \
    X(epoll_pwait,                                                                                 \
      mask_bad(a[4], a[5]) ? fails(EINVAL) : epoll_pwait(I(0), P(1), I(2), I(3), P(4)))            \
    X(epoll_pwait2,                                                                                \
      mask_bad(a[4], a[5]) ? fails(EINVAL) : epoll_pwait2(I(0), P(1), I(2), P(3), P(4)))           \
    X(ppoll, ppoll_by_number(a))                                                                   \
    X(pselect6, pselect_by_number(a))                                                              \
    X(recvmmsg, recvmmsg(I(0), P(1), (unsigned)a[2], I(3), P(4)))                                  \
    X(sendmmsg, sendmmsg(I(0), P(1), (unsigned)a[2], I(3)))                                        \
    X(sendfile, sendfile(I(0), I(1), P(2), U(3)))                                                  \
    X(splice, splice(I(0), P(1), I(2), P(3), U(4), (unsigned)a[5]))                                \
    X(fcntl, fcntl(I(0), I(1), a[2]))                                                              \
    X(ioctl, ioctl(I(0), (unsigned long)a[1], a[2]))                                               \
    X(execve, execve(P(0), P(1), P(2)))                                                            \
    X(execveat, execveat(I(0), P(1), P(2), P(3), I(4)))                                            \
    X(prlimit64, prlimit64((pid_t)a[0], (enum __rlimit_resource)I(1), P(2), P(3)))                 \
    X(accept, accept(I(0), P(1), P(2)))

#ifdef SYS_poll /* of architectures that have the older calls too */
static long select_by_number(const long *a)
{
    if (a[4] && !user_reads(P(4), sizeof(struct timeval)))
        return fails(EFAULT); /* select(3) would crash */
    return select(I(0), P(1), P(2), P(3), P(4));
}

#define OLDER_CALLS(X)                                                                             \
    X(getrlimit, getrlimit((__rlimit_resource_t)I(0), P(1)))                                       \
    X(setrlimit, setrlimit((__rlimit_resource_t)I(0), P(1)))                                       \
    X(dup2, dup2(I(0), I(1)))                                                                      \
    X(poll, poll(P(0), (nfds_t)a[1], I(2)))                                                        \
    X(select, select_by_number(a))                                                                 \
    X(epoll_create, epoll_create(I(0)))                                                            \
    X(epoll_wait, epoll_wait(I(0), P(1), I(2), I(3)))
#else
#define OLDER_CALLS(X)
#endif

#define CASE(name, ...)                                                                            \
    case SYS_##name:                                                                               \
        return __VA_ARGS__;

static long by_number(long number, const long *a, bool *known)
{
    *known = true;
    switch (number) {
        CALLS(CASE)
        OLDER_CALLS(CASE)
#ifdef SYS_fork
    case SYS_fork:
    case SYS_vfork:
#endif
    case SYS_clone:
    case SYS_clone3:
        return fork_by_number(number, a, known);
    case SYS_io_uring_setup:
        *known = no_io_uring();
        return fails(ENOSYS);
    case SYS_rt_sigprocmask:
        tls.faults = FAULTS_UNKNOWN;
        break;
    case SYS_prctl:
    case SYS_seccomp:
        *known = true;
        return proc_confine(number, a);
    case SYS_exit_group:
        proc_end();
        break;
    }
    *known = false;
    return 0;
}

API long syscall(long number, ...)
{
    real_start();
    long a[6];
    bool known = false;
    va_list ap;
    va_start(ap, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(ap, long); /* as the C library's own does */
    va_end(ap);
    long rc = started && !tls.inside ? by_number(number, a, &known) : 0;
    if (known)
        return rc;
    rc = real.syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (rc > 0 && ffl_unlikely(maybe_ours((int)rc))) { /* perhaps a new descriptor */
        lock();
        (void)fd_holds((int)rc);
        unlock();
    }
    return rc;
}
