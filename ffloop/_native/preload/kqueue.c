/*
 * kqueue.c - kqueue and kevent: client/kqueue.h over an epoll of the shim's.
 *
 * Callers: the program (ff_syscall.h).
 */
#include "preload.h"

#include <stdlib.h>

static struct epoll_shadow *shadow_of(struct ffl_kqueue *kq)
{
    return ffl_container_of(kq, struct epoll_shadow, kq);
}

static int ctl(struct ffl_kqueue *kq, int op, int fd, bool writes, struct epoll_event *ev)
{
    struct epoll_shadow *ep = shadow_of(kq);
    struct node *n = fd_node(fd);
    if (n && n->kind == NODE_OURS)
        return -EBADF;
    if (n && n->kind == NODE_EPOLL && writes)
        return -EINVAL;
    struct item model = {.fd = fd, .writes = writes};
    if (n)
        return epoll_register(ep, ep->w.epfd, op, &model, ev);
    ep->kernel = 1; /* at least one */
    return FFL_KERNELS;
}

static bool data(struct ffl_kqueue *kq, int fd, bool writes, struct kevent *k)
{
    const struct node *n = fd_node(fd);
    (void)kq;
    if (!n || n->kind != NODE_SOCK || !((const struct sock *)n)->session)
        return false;
    const struct sock *s = (const struct sock *)n;
    ffl_kqueue_data(s->session->c, s->h, writes, k);
    if (s->kernel_fd >= 0 && !k->data)
        k->data = 1; /* a connection at the kernel's listener */
    return true;
}

static int wait(struct ffl_kqueue *kq, struct epoll_event *ev, int max, int64_t timeout_ns)
{
    int n = epoll_sleep(shadow_of(kq), ev, max, timeout_ns, NULL);
    return n < 0 ? -errno : n;
}

API int kqueue(void)
{
    static const struct ffl_kqueue_ops ops = {ctl, data, wait, fd_ours};
    real_start();
    int fd = real.epoll_create1(EPOLL_CLOEXEC);
    if (fd < 0)
        return -1;
    lock();
    struct epoll_shadow *ep = started ? epoll_new() : NULL;
    int rc = ep ? epoll_open(ep, fd) : started ? -ENOMEM : -ENOSYS;
    if (rc == 0) {
        ep->kq = (struct ffl_kqueue){.ops = &ops, .epfd = &ep->w.epfd, .writes = -1};
        rc = fd_set_node(fd, &ep->node);
        if (rc == 0)
            return (int)leave(fd);
        waiter_close(&ep->w);
    }
    free(ep);
    real.close(fd);
    return (int)leave(rc);
}

API int kevent(int kqfd, const struct kevent *changes, int nchanges, struct kevent *events,
               int nevents, const struct timespec *timeout)
{
    real_start();
    call_begins();
    lock();
    struct node *n = fd_node(kqfd);
    struct epoll_shadow *ep = n && n->kind == NODE_EPOLL ? (struct epoll_shadow *)n : NULL;
    if (!ep || !ep->kq.ops)
        return (int)leave(-EBADF);
    if (!node_mine(n))
        return (int)leave(-EXDEV);
    if (nchanges < 0 || nevents < 0 || timespec_bad(timeout))
        return (int)leave(-EINVAL);
    int rc;
    struct call *k = call_open(0, &rc);
    if (!k)
        return (int)leave(rc);
    (void)call_hold(k, n, 0); /* even if another thread closes it */
    rc = ffl_kqueue_change_all(&ep->kq, changes, nchanges, events, nevents);
    if (rc == 0 && nevents > 0)
        rc = ffl_kqueue_wait(&ep->kq, events, nevents, timespec_ns(timeout));
    return (int)leave(rc);
}
