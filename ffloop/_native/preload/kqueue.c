/*
 * kqueue.c - kqueue and kevent over epoll.c: an epoll whose events are told as a kqueue's.
 *
 * Callers: the program (ff_syscall.h). A filter of a stack socket is an item of the epoll; one of a
 * kernel descriptor is the kernel's registration, EVFILT_WRITE in a second epoll inside the first,
 * since each filter has flags of its own. An event carries its descriptor and filter; what else is
 * known of it is in `notes`, by descriptor.
 */
#include "preload.h"
#include "ff_syscall.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>

#define WRITES UINT64_MAX /* the event of the second epoll */
#define BATCH 256

struct note {
    bool there, enabled;
    unsigned short flags; /* EV_ONESHOT, EV_CLEAR, EV_DISPATCH */
    void *udata;
    uint64_t ext[4];
};

struct kq {
    int writes; /* the second epoll, or -1 */
    int n;
    struct note (*notes)[2]; /* by descriptor: READ, WRITE */
};

static uint64_t token(int fd, bool writes)
{
    return (uint64_t)fd << 1 | writes;
}

/* ---- life ---------------------------------------------------------------------------------- */

API int kqueue(void)
{
    real_start();
    int fd = real.epoll_create1(EPOLL_CLOEXEC);
    if (fd < 0)
        return -1;
    lock();
    struct epoll_shadow *ep = started ? epoll_new() : NULL;
    struct kq *kq = ep ? calloc(1, sizeof(*kq)) : NULL;
    int rc = kq ? epoll_open(ep, fd) : started ? -ENOMEM : -ENOSYS;
    if (rc == 0) {
        kq->writes = -1;
        ep->kq = kq;
        rc = fd_set_node(fd, &ep->node);
        if (rc == 0)
            return (int)leave(fd);
        waiter_close(&ep->w);
    }
    free(kq);
    free(ep);
    real.close(fd);
    return (int)leave(rc);
}

void kqueue_free(struct kq *kq)
{
    if (kq->writes >= 0)
        fd_ours_close(kq->writes);
    free(kq->notes);
    free(kq);
}

void kqueue_closed(struct item *it)
{
    watch_epoll(&it->w)->kq->notes[it->fd][it->writes].there = false;
    epoll_forget(it);
}

int kqueue_writes(struct epoll_shadow *ep)
{
    struct kq *kq = ep->kq;
    if (kq->writes >= 0)
        return kq->writes;
    int fd = fd_ours(real.epoll_create1(EPOLL_CLOEXEC));
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = WRITES};
    if (fd >= 0 && real.epoll_ctl(ep->w.epfd, EPOLL_CTL_ADD, fd, &ev) < 0) {
        int rc = -errno;
        fd_ours_close(fd);
        return rc;
    }
    if (fd >= 0)
        kq->writes = fd;
    return fd;
}

/* ---- changes ------------------------------------------------------------------------------- */

static struct note *note_of(struct kq *kq, int fd, bool writes, bool make)
{
    if (fd >= kq->n && make) {
        int n = (fd / 64 + 1) * 64;
        struct note(*grown)[2] = realloc(kq->notes, (size_t)n * sizeof(*grown));
        if (!grown)
            return NULL;
        memset(grown + kq->n, 0, (size_t)(n - kq->n) * sizeof(*grown));
        kq->notes = grown;
        kq->n = n;
    }
    return fd < kq->n ? &kq->notes[fd][writes] : NULL;
}

static int control(struct epoll_shadow *ep, int kqfd, int op, int fd, bool writes,
                   struct epoll_event *ev)
{
    struct node *n = fd_node(fd);
    if (n && n->kind == NODE_OURS)
        return -EBADF;
    if (n && n->kind == NODE_EPOLL && writes)
        return -EINVAL;
    struct item model = {.fd = fd, .writes = writes};
    if (n)
        return epoll_register(ep, kqfd, op, &model, ev);
    int epfd = writes ? kqueue_writes(ep) : kqfd;
    if (epfd < 0)
        return epfd;
    ep->kernel = 1; /* some */
    return real.epoll_ctl(epfd, op, fd, ev) < 0 ? -errno : 0;
}

/* Watched from now on, or not. */
static int watch(struct epoll_shadow *ep, int kqfd, int fd, bool writes, bool on, bool clear)
{
    struct epoll_event ev = {.events = writes ? EPOLLOUT : EPOLLIN | EPOLLRDHUP,
                             .data.u64 = token(fd, writes)};
    ev.events |= clear ? (uint32_t)EPOLLET : 0;
    if (!on) {
        (void)control(ep, kqfd, EPOLL_CTL_DEL, fd, writes, &ev); /* or it was closed meanwhile */
        return 0;
    }
    int rc = control(ep, kqfd, EPOLL_CTL_ADD, fd, writes, &ev);
    return rc == -EEXIST ? control(ep, kqfd, EPOLL_CTL_MOD, fd, writes, &ev) : rc;
}

static int change(struct epoll_shadow *ep, int kqfd, const struct kevent *k)
{
    if ((k->filter != EVFILT_READ && k->filter != EVFILT_WRITE) || k->fflags)
        return -EINVAL;
    if (k->ident > INT32_MAX)
        return -EBADF;
    int fd = (int)k->ident;
    bool writes = k->filter == EVFILT_WRITE, adds = k->flags & EV_ADD;
    if (adds && real.fcntl(fd, F_GETFD) < 0) /* before a note is made for any number */
        return -errno;
    struct note *note = note_of(ep->kq, fd, writes, adds);
    if (!note || (!note->there && !adds))
        return adds ? -ENOMEM : -ENOENT;
    if (k->flags & EV_DELETE) {
        note->there = false;
        return watch(ep, kqfd, fd, writes, false, false);
    }
    struct note next = *note;
    if (adds) {
        next = (struct note){.there = true, .udata = k->udata};
        next.flags = k->flags & (EV_ONESHOT | EV_CLEAR | EV_DISPATCH);
        memcpy(next.ext, k->ext, sizeof(next.ext));
    }
    if (k->flags & (EV_ADD | EV_ENABLE))
        next.enabled = true;
    if (k->flags & EV_DISABLE)
        next.enabled = false;
    int rc = watch(ep, kqfd, fd, writes, next.enabled, next.flags & EV_CLEAR);
    if (rc == 0)
        *note = next;
    return rc;
}

/* Errors told as events; or -errno when there is no room for them. */
static int change_all(struct epoll_shadow *ep, int kqfd, const struct kevent *changes, int n,
                      struct kevent *events, int room)
{
    int told = 0;
    for (int i = 0; i < n; i++) {
        struct kevent k = changes[i]; /* `events` may be the same array */
        int rc = change(ep, kqfd, &k);
        if (rc == 0 && !(k.flags & EV_RECEIPT))
            continue;
        if (told == room) {
            if (rc < 0)
                return rc;
            continue;
        }
        k.flags |= EV_ERROR;
        k.data = -rc;
        events[told++] = k;
    }
    return told;
}

/* ---- events -------------------------------------------------------------------------------- */

static int64_t kernel_data(int fd, bool writes)
{
    int n = 0, room = 0;
    socklen_t len = sizeof(room);
    if (!writes) /* a listener, a device: at least that is there */
        return real.ioctl(fd, FIONREAD, &n) == 0 ? n : 1;
    if (real.getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, &len) < 0)
        return 1;
    (void)real.ioctl(fd, SIOCOUTQ, &n); /* else nothing waits */
    return room > n ? room - n : 1;
}

static void stack_data(const struct sock *s, bool writes, struct kevent *k)
{
    struct ffl_pending p = {0};
    if (ffl_client_detached(s->session->c)) {
        k->fflags = ECONNRESET;
        return;
    }
    (void)ffl_client_pending(s->session->c, s->h, &p); /* it is open */
    k->data = writes ? p.room : s->state == SOCK_LISTENING ? p.accepts : p.bytes;
    k->fflags = (unsigned)p.error;
    if (s->kernel_fd >= 0 && !k->data)
        k->data = 1; /* the connection is the kernel's */
}

/* 1, or 0: nobody waits for it any more. */
static int tell(struct epoll_shadow *ep, int kqfd, const struct epoll_event *e, struct kevent *k)
{
    int fd = (int)(e->data.u64 >> 1);
    bool writes = e->data.u64 & 1;
    struct note *note = note_of(ep->kq, fd, writes, false);
    if (!note || !note->there || !note->enabled)
        return 0;
    uint32_t over = EPOLLHUP | EPOLLERR | (writes ? 0 : EPOLLRDHUP);
    *k = (struct kevent){.ident = (uintptr_t)fd,
                         .filter = writes ? EVFILT_WRITE : EVFILT_READ,
                         .flags = note->flags | (e->events & over ? EV_EOF : 0),
                         .udata = note->udata};
    memcpy(k->ext, note->ext, sizeof(k->ext));
    const struct node *n = fd_node(fd);
    if (n && n->kind == NODE_SOCK && ((const struct sock *)n)->session)
        stack_data((const struct sock *)n, writes, k);
    else
        k->data = kernel_data(fd, writes);
    if (note->flags & EV_ONESHOT)
        note->there = false;
    if (note->flags & EV_DISPATCH)
        note->enabled = false;
    if (note->flags & (EV_ONESHOT | EV_DISPATCH))
        (void)watch(ep, kqfd, fd, writes, false, false); /* cannot fail */
    return 1;
}

static int tell_writes(struct epoll_shadow *ep, int kqfd, struct kevent *events, int room)
{
    struct epoll_event ev[BATCH];
    int told = 0, k = real_epoll(ep->kq->writes, ev, room < BATCH ? room : BATCH, 0, NULL);
    for (int i = 0; i < k; i++)
        told += tell(ep, kqfd, &ev[i], &events[told]);
    return told;
}

/* Until there is one, or the time is over. Count or -errno. */
static int wait_for(struct epoll_shadow *ep, int kqfd, struct kevent *events, int room,
                    int64_t timeout_ns)
{
    struct epoll_event ev[BATCH];
    int64_t until = timeout_ns < 0 ? -1 : ffl_now_ns() + timeout_ns, left = timeout_ns;
    for (;;) {
        int told = 0, n = epoll_sleep(ep, ev, room < BATCH ? room : BATCH, left, NULL);
        if (n < 0)
            return -errno;
        for (int i = 0; i < n; i++)
            told += ev[i].data.u64 == WRITES
                        ? tell_writes(ep, kqfd, &events[told], room - told - (n - i - 1))
                        : tell(ep, kqfd, &ev[i], &events[told]);
        left = until < 0 ? -1 : until - ffl_now_ns();
        if (told || (until >= 0 && left <= 0))
            return told;
    }
}

API int kevent(int kqfd, const struct kevent *changes, int nchanges, struct kevent *events,
               int nevents, const struct timespec *timeout)
{
    real_start();
    call_begins();
    lock();
    struct node *n = fd_node(kqfd);
    struct epoll_shadow *ep = n && n->kind == NODE_EPOLL ? (struct epoll_shadow *)n : NULL;
    if (!ep || !ep->kq)
        return (int)leave(-EBADF);
    if (!node_mine(n))
        return (int)leave(-EXDEV);
    if (nchanges < 0 || nevents < 0 || timespec_bad(timeout))
        return (int)leave(-EINVAL);
    int rc;
    struct call *k = call_open(0, &rc);
    if (!k)
        return (int)leave(rc);
    (void)call_hold(k, n, 0); /* it stays while we wait */
    rc = change_all(ep, kqfd, changes, nchanges, events, nevents);
    if (rc == 0 && nevents > 0)
        rc = wait_for(ep, kqfd, events, nevents, timespec_ns(timeout));
    return (int)leave(rc);
}
