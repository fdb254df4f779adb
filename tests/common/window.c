/*
 * window.c - preloaded (behind the shim, where that is preloaded too): a signal comes when a call
 * has begun and does not sleep yet.
 *
 * `armed`: the signal that the next sleep raises first, or 0. Without help from the handler it
 * would then sleep as if there had been none.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/select.h>

int armed;

static void *late(const char *name, bool sleeps)
{
    if (sleeps && armed) {
        int number = armed;
        armed = 0;
        raise(number);
    }
    return dlsym(RTLD_NEXT, name);
}

int select(int n, fd_set *r, fd_set *w, fd_set *e, struct timeval *timeout)
{
    int (*next)(int, fd_set *, fd_set *, fd_set *, struct timeval *) = late("select", true);
    return next(n, r, w, e, timeout);
}

int epoll_wait(int ep, struct epoll_event *ev, int max, int timeout)
{
    int (*next)(int, struct epoll_event *, int, int) = late("epoll_wait", timeout != 0);
    return next(ep, ev, max, timeout);
}

int epoll_pwait(int ep, struct epoll_event *ev, int max, int timeout, const sigset_t *mask)
{
    int (*next)(int, struct epoll_event *, int, int, const sigset_t *) = late("epoll_pwait", true);
    return next(ep, ev, max, timeout, mask);
}

int epoll_pwait2(int ep, struct epoll_event *ev, int max, const struct timespec *timeout,
                 const sigset_t *mask)
{
    int (*next)(int, struct epoll_event *, int, const struct timespec *, const sigset_t *) =
        late("epoll_pwait2", true);
    return next(ep, ev, max, timeout, mask);
}

int ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask)
{
    int (*next)(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *) =
        late("ppoll", true);
    return next(fds, n, timeout, mask);
}
