/*
 * ff_syscall.h - what libff_syscall.so offers beside the C library's calls.
 *
 * kqueue and kevent, which Linux lacks: FreeBSD's interface, values and structure, as F-Stack has
 * them, so that programs written for F-Stack's kqueue need no change. EVFILT_READ and EVFILT_WRITE,
 * of stack sockets and of every descriptor that epoll can watch. And two flags for socket's type.
 * `ffloop preload --cflags` and `--libs` say how to compile and link.
 */
#ifndef FF_SYSCALL_H
#define FF_SYSCALL_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

/* socket(domain, type | SOCK_FSTACK, ...): on the stack, whatever the routes say; SOCK_KERNEL: on
 * the kernel. */
#define SOCK_FSTACK 0x01000000
#define SOCK_KERNEL 0x02000000

#ifndef EVFILT_READ

#define EVFILT_READ (-1)
#define EVFILT_WRITE (-2)

/* What to do with a filter of a descriptor. */
#define EV_ADD 0x0001
#define EV_DELETE 0x0002
#define EV_ENABLE 0x0004
#define EV_DISABLE 0x0008
#define EV_ONESHOT 0x0010  /* told once, then deleted */
#define EV_CLEAR 0x0020    /* told again only after a change, as EPOLLET */
#define EV_RECEIPT 0x0040  /* an EV_ERROR event per change; data 0: done */
#define EV_DISPATCH 0x0080 /* told once, then disabled */
/* What has happened. */
#define EV_ERROR 0x4000 /* a change failed: data is the errno */
#define EV_EOF 0x8000 /* the peer sends no more (READ), reads no more (WRITE); fflags: the errno */

struct kevent {
    uintptr_t ident; /* descriptor */
    short filter;
    unsigned short flags;
    unsigned int fflags;
    int64_t data; /* READ: bytes, or connections to accept. WRITE: bytes of room */
    void *udata;
    uint64_t ext[4];
};

#define EV_SET(event, id, filt, flgs, ffl, dat, udat)                                              \
    (*(event) = (struct kevent){.ident = (uintptr_t)(id),                                          \
                                .filter = (filt),                                                  \
                                .flags = (flgs),                                                   \
                                .fflags = (ffl),                                                   \
                                .data = (dat),                                                     \
                                .udata = (udat)})

#endif

/* A new descriptor, closed on exec and, as on FreeBSD, in a forked child; -1 with errno. */
int kqueue(void);

/* Applies the changes, then waits for up to nevents events until `timeout` (NULL: for ever); does
 * not wait for nevents 0. The number of events; -1 with errno. A change that fails is an event with
 * EV_ERROR while there is room, else errno: EBADF, ENOENT (the descriptor has no such filter),
 * EINVAL (a filter other than READ and WRITE), EPERM (epoll cannot watch the descriptor). */
int kevent(int kq, const struct kevent *changes, int nchanges, struct kevent *events, int nevents,
           const struct timespec *timeout);

#ifdef __cplusplus
}
#endif

#endif
