/*
 * kqueue.c - kqueue over an epoll. See kqueue.h.
 *
 * An event of the epoll carries its descriptor and filter; `notes` has the filter's flags and user
 * data.
 */
#include "kqueue.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define WRITES (UINT64_MAX / 2) /* user data of the second epoll */
#define BATCH 256

static uint64_t token(int fd, bool writes)
{
    return (uint64_t)fd << 1 | writes;
}

/* ---- life ---------------------------------------------------------------------------------- */

int ffl_kqueue_free(struct ffl_kqueue *kq)
{
    int placed = kq->ops && kq->ops->place_fd ? kq->writes : -1;
    if (placed < 0 && kq->writes >= 0)
        close(kq->writes);
    free(kq->notes);
    return placed;
}

void ffl_kqueue_forget(struct ffl_kqueue *kq, int fd)
{
    if (fd < kq->n)
        kq->notes[fd][0].there = kq->notes[fd][1].there = false;
}

int ffl_kqueue_writes(struct ffl_kqueue *kq)
{
    if (kq->writes >= 0)
        return kq->writes;
    int fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd < 0)
        return -errno;
    int placed = kq->ops->place_fd ? kq->ops->place_fd(fd) : fd;
    if (placed < 0)
        return placed;
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = WRITES};
    kq->writes = placed; /* also on failure: closed with the kqueue */
    return epoll_ctl(*kq->epfd, EPOLL_CTL_ADD, placed, &ev) < 0 ? -errno : placed;
}

/* ---- changes ------------------------------------------------------------------------------- */

static struct ffl_note *note_of(struct ffl_kqueue *kq, int fd, bool writes, bool make)
{
    if (fd >= kq->n && make) {
        int n = (fd / 64 + 1) * 64;
        struct ffl_note(*grown)[2] = realloc(kq->notes, (size_t)n * sizeof(*grown));
        if (!grown)
            return NULL;
        memset(grown + kq->n, 0, (size_t)(n - kq->n) * sizeof(*grown));
        kq->notes = grown;
        kq->n = n;
    }
    return fd < kq->n ? &kq->notes[fd][writes] : NULL;
}

static int control(struct ffl_kqueue *kq, int op, int fd, bool writes, struct epoll_event *ev)
{
    int rc = kq->ops->ctl(kq, op, fd, writes, ev);
    if (rc != FFL_KERNELS)
        return rc;
    int epfd = writes ? ffl_kqueue_writes(kq) : *kq->epfd;
    if (epfd < 0)
        return epfd;
    return epoll_ctl(epfd, op, fd, ev) < 0 ? -errno : 0;
}

/* Registers the filter; !on: ends the registration. */
static int watch(struct ffl_kqueue *kq, int fd, bool writes, bool on, bool clear)
{
    struct epoll_event ev = {.events = writes ? EPOLLOUT : EPOLLIN | EPOLLRDHUP,
                             .data.u64 = token(fd, writes)};
    ev.events |= clear ? (uint32_t)EPOLLET : 0;
    if (!on) {
        (void)control(kq, EPOLL_CTL_DEL, fd, writes, &ev); /* ENOENT: closed meanwhile */
        return 0;
    }
    int rc = control(kq, EPOLL_CTL_ADD, fd, writes, &ev);
    return rc == -EEXIST ? control(kq, EPOLL_CTL_MOD, fd, writes, &ev) : rc;
}

int ffl_kqueue_change(struct ffl_kqueue *kq, const struct kevent *k)
{
    if ((k->filter != EVFILT_READ && k->filter != EVFILT_WRITE) || k->fflags)
        return -EINVAL;
    if (k->ident > INT32_MAX)
        return -EBADF;
    int fd = (int)k->ident;
    bool writes = k->filter == EVFILT_WRITE, adds = k->flags & EV_ADD;
    if (adds && fcntl(fd, F_GETFD) < 0) /* no notes for numbers that are not open */
        return -errno;
    struct ffl_note *note = note_of(kq, fd, writes, adds);
    if (!note || (!note->there && !adds))
        return adds ? -ENOMEM : -ENOENT;
    if (k->flags & EV_DELETE) {
        note->there = false;
        return watch(kq, fd, writes, false, false);
    }
    struct ffl_note next = *note;
    if (adds) {
        next = (struct ffl_note){.there = true, .udata = k->udata};
        next.flags = k->flags & (EV_ONESHOT | EV_CLEAR | EV_DISPATCH);
        memcpy(next.ext, k->ext, sizeof(next.ext));
    }
    if (k->flags & (EV_ADD | EV_ENABLE))
        next.enabled = true;
    if (k->flags & EV_DISABLE)
        next.enabled = false;
    int rc = watch(kq, fd, writes, next.enabled, next.flags & EV_CLEAR);
    if (rc == 0)
        *note = next;
    return rc;
}

int ffl_kqueue_change_all(struct ffl_kqueue *kq, const struct kevent *changes, int n,
                          struct kevent *events, int room)
{
    int told = 0;
    for (int i = 0; i < n; i++) {
        struct kevent k = changes[i]; /* `events` may be the same array */
        int rc = ffl_kqueue_change(kq, &k);
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
    if (!writes) /* a listener or a device: 1 */
        return ioctl(fd, FIONREAD, &n) == 0 ? n : 1;
    if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, &len) < 0)
        return 1;
    (void)ioctl(fd, SIOCOUTQ, &n); /* fails: as for 0 unsent */
    return room > n ? room - n : 1;
}

void ffl_kqueue_data(const struct ffl_client *c, int h, bool writes, struct kevent *k)
{
    struct ffl_pending p = {.error = ECONNRESET};
    if (c && !ffl_client_detached(c))
        (void)ffl_client_pending(c, h, &p); /* cannot fail: open */
    k->data = writes ? p.room : p.accepts ? p.accepts : p.bytes;
    k->fflags = (unsigned)p.error;
}

/* Makes a kevent of an epoll event: 1; 0: the filter is deleted or disabled. */
static int tell(struct ffl_kqueue *kq, const struct epoll_event *e, struct kevent *k)
{
    int fd = (int)(e->data.u64 >> 1);
    bool writes = e->data.u64 & 1;
    struct ffl_note *note = note_of(kq, fd, writes, false);
    if (!note || !note->there || !note->enabled)
        return 0;
    uint32_t over = EPOLLHUP | EPOLLERR | (writes ? 0 : EPOLLRDHUP);
    *k = (struct kevent){.ident = (uintptr_t)fd,
                         .filter = writes ? EVFILT_WRITE : EVFILT_READ,
                         .flags = note->flags | (e->events & over ? EV_EOF : 0),
                         .udata = note->udata};
    memcpy(k->ext, note->ext, sizeof(k->ext));
    if (!kq->ops->data(kq, fd, writes, k))
        k->data = kernel_data(fd, writes);
    if (note->flags & EV_ONESHOT)
        note->there = false;
    if (note->flags & EV_DISPATCH)
        note->enabled = false;
    if (note->flags & (EV_ONESHOT | EV_DISPATCH))
        (void)watch(kq, fd, writes, false, false); /* cannot fail */
    return 1;
}

static int tell_writes(struct ffl_kqueue *kq, struct kevent *events, int room)
{
    struct epoll_event ev[BATCH];
    int told = 0, k = ffl_epoll_wait(kq->writes, ev, room < BATCH ? room : BATCH, 0);
    for (int i = 0; i < k; i++)
        told += tell(kq, &ev[i], &events[told]);
    return told;
}

int ffl_kqueue_wait(struct ffl_kqueue *kq, struct kevent *events, int room, int64_t timeout_ns)
{
    struct epoll_event ev[BATCH];
    int64_t until = timeout_ns < 0 ? -1 : ffl_now_ns() + timeout_ns, left = timeout_ns;
    for (;;) {
        int told = 0, n = kq->ops->wait(kq, ev, room < BATCH ? room : BATCH, left);
        for (int i = 0; i < n; i++)
            told += ev[i].data.u64 == WRITES
                        ? tell_writes(kq, &events[told], room - told - (n - i - 1))
                        : tell(kq, &ev[i], &events[told]);
        left = until < 0 ? -1 : until - ffl_now_ns();
        if (told || n <= 0 || (until >= 0 && left <= 0))
            return n < 0 ? n : told;
    }
}
