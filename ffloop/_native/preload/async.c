/*
 * async.c - O_ASYNC: signals for what comes to a stack socket.
 *
 * Callers: fds.c, option.c, sock.c, fork.c. The kernel sends the signals, as F_SETOWN and F_SETSIG
 * say: the placeholder becomes one end of a socket pair, and a thread of the shim's, which sleeps
 * in an epoll of its own, writes to the other end.
 */
#include "preload.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define WHAT (EPOLLIN | EPOLLRDHUP | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLET)

static struct epoll_shadow *asked; /* has the sockets with O_ASYNC; NULL: no thread yet */

/* ---- the thread ------------------------------------------------------------------------------ */

static void ring(const struct sock *s)
{
    char rung[64];
    while (real.recv(s->bell[1], rung, sizeof(rung), MSG_DONTWAIT) > 0)
        ;
    (void)real.send(s->bell[0], "", 1, MSG_DONTWAIT | MSG_NOSIGNAL); /* has room: emptied above */
}

static void *rings(void *unused)
{
    struct epoll_event ev[16];
    for (int n = 0; n >= 0;) {
        call_begins();
        lock();
        n = epoll_sleep(asked, ev, FFL_COUNT(ev), -1, NULL);
        for (int i = 0; i < n; i++)
            ring(ev[i].data.ptr);
        unlock();
    }
    return unused;
}

/* With all signals blocked: the program's handlers run in the program's threads. */
static int start_thread(void)
{
    pthread_t t;
    sigset_t all, were;
    sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &were);
    int rc = pthread_create(&t, NULL, rings, NULL);
    if (rc == 0)
        (void)pthread_detach(t);
    (void)pthread_sigmask(SIG_SETMASK, &were, NULL);
    return -rc;
}

static int start(void)
{
    if (asked)
        return 0;
    struct epoll_shadow *ep = epoll_new();
    struct room more = {0};
    int rc;
    do
        rc = ep ? waiter_open(&ep->w, fd_ours(real.epoll_create1(EPOLL_CLOEXEC))) : -ENOMEM;
    while (room_for(&more, rc));
    if (rc == 0) {
        ep->opened = true;
        ep->poll.wake_fd = ep->w.wake_fd;
        ep->node.fds = 1;
        asked = ep;
        rc = start_thread();
    }
    if (rc == 0) {
        fd_hidden(&ep->node);
        return 0;
    }
    asked = NULL;
    if (ep)
        epoll_free(ep);
    return rc;
}

void async_forked(void)
{
    if (asked)
        asked->poll.asleep = 0; /* the thread is the parent's */
    asked = NULL;
    fd_hidden(NULL);
}

/* ---- sockets --------------------------------------------------------------------------------- */

/* Makes all of the socket's descriptors one end of a socket pair. */
static int make_bell(struct sock *s, int fd)
{
    int ends[2], flags = real.fcntl(fd, F_GETFL);
    struct f_owner_ex owner;
    struct stat st;
    struct room more = {0};
    int rc;
    do
        rc = real.socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0 ? -errno : 0;
    while (room_for(&more, rc));
    if (rc < 0)
        return rc;
    if (real.fcntl(fd, F_GETOWN_EX, &owner) == 0)
        (void)real.fcntl(ends[1], F_SETOWN_EX, &owner); /* ESRCH: the owner has ended */
    (void)real.fcntl(ends[1], F_SETSIG, real.fcntl(fd, F_GETSIG));
    (void)real.fcntl(ends[1], F_SETFL, flags & ~O_ASYNC);
    fd_become(&s->node, ends[1]);
    (void)real.fcntl(fd, F_SETFL, flags | O_ASYNC); /* last: signals name this descriptor */
    if (fstat(fd, &st) == 0)
        s->node.ino = st.st_ino;
    s->bell[0] = fd_ours(ends[0]);
    s->bell[1] = fd_ours(ends[1]);
    return 0;
}

int async_begin(struct sock *s, int fd)
{
    int rc = options.per_thread ? -EXDEV : start();
    if (rc == 0 && s->bell[0] < 0)
        rc = make_bell(s, fd);
    struct item *it = rc == 0 ? malloc(sizeof(*it)) : NULL;
    if (!it)
        return rc < 0 ? rc : -ENOMEM;
    *it = (struct item){.fd = fd, .w = {.events = WHAT, .data = (uintptr_t)s}};
    ffl_watch_add(&asked->poll, &s->node.source, &it->w); /* told of what comes from now on */
    sock_arm(s, WHAT);
    return 0;
}

int async_set(struct sock *s, int fd, bool on)
{
    if (on == s->async)
        return 0;
    s->async = on;
    if (on)
        return s->session ? async_begin(s, fd) : 0;
    struct ffl_watch *w = s->node.source.watches;
    while (w && (!asked || w->poll != &asked->poll))
        w = w->next;
    if (w)
        epoll_forget(watch_item(w));
    return 0;
}

void async_free(struct sock *s)
{
    fd_ours_close(s->bell[0]);
    fd_ours_close(s->bell[1]);
}
