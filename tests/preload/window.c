/*
 * window.c - preloaded behind the shim: a signal comes when a call has begun and does not sleep
 * yet.
 *
 * `armed`: the next sleep of the shim raises SIGUSR1 first. Without help from the handler it would
 * then sleep as if there had been none.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>

int armed;

static void *late(const char *name)
{
    if (armed) {
        armed = 0;
        raise(SIGUSR1);
    }
    return dlsym(RTLD_NEXT, name);
}

int epoll_pwait(int ep, struct epoll_event *ev, int max, int timeout, const sigset_t *mask)
{
    int (*next)(int, struct epoll_event *, int, int, const sigset_t *) = late("epoll_pwait");
    return next(ep, ev, max, timeout, mask);
}

int epoll_pwait2(int ep, struct epoll_event *ev, int max, const struct timespec *timeout,
                 const sigset_t *mask)
{
    int (*next)(int, struct epoll_event *, int, const struct timespec *, const sigset_t *) =
        late("epoll_pwait2");
    return next(ep, ev, max, timeout, mask);
}

int ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask)
{
    int (*next)(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *) = late("ppoll");
    return next(fds, n, timeout, mask);
}
