/*
 * kqueue.h - FreeBSD's kqueue over an epoll or its like: filters, changes, events.
 *
 * Callers: the shim's kqueue() and kevent() over its epolls, ffloop.Kqueue over an ffl_selector. A
 * filter of a stack socket is registered with the owner (ops), a filter of a kernel descriptor in
 * the owner's epoll; EVFILT_WRITE in a second epoll inside it, since each filter has flags of its
 * own. Returns 0, a count, or -errno.
 */
#ifndef FFL_KQUEUE_H
#define FFL_KQUEUE_H

#include "client.h"
#include "ff_syscall.h"

#define FFL_KERNELS 1 /* ops->ctl returns: a kernel descriptor */

struct ffl_kqueue;
struct ffl_kqueue_ops {
    /* epoll_ctl of a stack socket's filter (`writes`: EVFILT_WRITE); or FFL_KERNELS. */
    int (*ctl)(struct ffl_kqueue *kq, int op, int fd, bool writes, struct epoll_event *ev);
    /* Sets k->data and k->fflags of a stack socket. False: a kernel descriptor. */
    bool (*data)(struct ffl_kqueue *kq, int fd, bool writes, struct kevent *k);
    int (*wait)(struct ffl_kqueue *kq, struct epoll_event *ev, int max, int64_t timeout_ns);
    int (*place_fd)(int fd); /* as in ffl_client_opts; or NULL */
};

struct ffl_note { /* a descriptor's filter */
    bool there, enabled;
    unsigned short flags; /* EV_ONESHOT, EV_CLEAR, EV_DISPATCH */
    void *udata;
    uint64_t ext[4];
};

struct ffl_kqueue {
    const struct ffl_kqueue_ops *ops;
    const int *epfd; /* the owner's epoll */
    int writes;      /* the second epoll, or -1: not made yet */
    int n;
    struct ffl_note (*notes)[2]; /* by descriptor: READ, WRITE */
};

/* Frees the memory and closes `writes`: -1. With ops->place_fd the caller closes `writes`: returns
 * it. */
int ffl_kqueue_free(struct ffl_kqueue *kq);
void ffl_kqueue_forget(struct ffl_kqueue *kq, int fd); /* fd is closed: drops its filters */
int ffl_kqueue_writes(struct ffl_kqueue *kq);          /* the second epoll, made on first use */

int ffl_kqueue_change(struct ffl_kqueue *kq, const struct kevent *k);
/* As kevent: a change that fails is an event while there is room. The number of events. */
int ffl_kqueue_change_all(struct ffl_kqueue *kq, const struct kevent *changes, int n,
                          struct kevent *events, int room);
/* Waits for events, timeout_ns at most (-1: for ever). 0 also when ops->wait returns 0. */
int ffl_kqueue_wait(struct ffl_kqueue *kq, struct kevent *events, int room, int64_t timeout_ns);
/* Sets data and fflags of an event of stack socket h; c NULL: its session has ended. */
void ffl_kqueue_data(const struct ffl_client *c, int h, bool writes, struct kevent *k);

#endif
