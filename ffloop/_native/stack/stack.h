/*
 * stack.h - the seam: the calls of an instance to a TCP/IP stack, in Linux's terms.
 *
 * Callers: instance/. Implementations: host.c (this kernel), fstack.c (F-Stack); for tests,
 * tests/sim (in memory). Every call runs on the instance's one thread, never blocks, and returns a
 * count, 0 or -errno in Linux's numbers. A socket is a small non-negative integer (`fd`, the
 * stack's own numbering), always non-blocking. Option levels, names and values and message flags
 * are Linux's: the implementation translates. SIGPIPE is never raised.
 */
#ifndef FFL_STACK_H
#define FFL_STACK_H

#include "addr.h"

#include <sys/uio.h>

/* Readiness, edge-triggered: after an event the instance goes on until a call returns -EAGAIN; or,
 * on a stream, until recv returned less than its buffers hold while neither `data` nor `eof` says
 * that there is more. */
#define FFL_READ 1u
#define FFL_WRITE 2u

struct ffl_stack_event {
    void *udata;    /* as given to watch */
    uint8_t filter; /* FFL_READ or FFL_WRITE, or both where the stack knows both at once */
    uint8_t eof;    /* the peer has shut its side, or the socket has failed: read to the end */
    uint8_t error;  /* the socket has failed: SO_ERROR says why, once */
    /* READ: bytes, of a listener connections, that are there at the least; 0: not known;
     * INT32_MAX: read until -EAGAIN. */
    int32_t data;
};

struct ffl_stack_opts {
    int argc; /* the stack's own options, from the instance's command line: "key=value" */
    char **argv;
};

/* One iteration of the instance. Returns the ns until the next iteration is due, if nothing arrives
 * (0: work is left; INT64_MAX: nothing is due), or -1 to end ops->run. */
typedef int64_t (*ffl_iterate_fn)(void *arg);

struct ffl_stack_ops {
    const char *name;
    /* An `fd` is a socket of this kernel's, whose checks of the caller's rights apply. */
    bool kernel;

    /* Starts the stack; *st is its state. On failure writes a sentence for the user to `why`. */
    int (*start)(void **st, const struct ffl_stack_opts *opts, char *why, size_t whylen);
    void (*stop)(void *st); /* first sends the rest of closed sockets */

    /* NULL: the caller runs its own loop and sleeps on wait_fd. Else the stack polls and works only
     * within `run`: it sends what is queued, takes in what has come, and calls `iterate`, again and
     * again until that returns -1. A process may have such a stack once: `start` after `stop` gives
     * the same one. */
    int (*run)(void *st, ffl_iterate_fn iterate, void *arg);
    /* A descriptor that polls readable when poll has events; -1 when the stack has none. */
    int (*wait_fd)(void *st);
    /* When poll must be called even without a wake, in ns of ffl_now_ns's clock (INT64_MAX: never).
     * NULL: the stack has no timers of its own. */
    int64_t (*deadline)(void *st);
    /* A line for the start-up message (address, port, MAC). */
    void (*describe)(void *st, char *buf, size_t len);
    /* The most sockets at once. NULL: the limit is the process's, of descriptors. */
    int64_t (*capacity)(void *st);

    int (*socket)(void *st, int domain, int type, int proto);
    int (*dup)(void *st, int fd); /* another reference to the same socket */
    int (*close)(void *st, int fd);
    int (*bind)(void *st, int fd, const struct ffl_addr *a);
    int (*listen)(void *st, int fd, int backlog);
    int (*accept)(void *st, int fd, struct ffl_addr *peer);     /* new fd, or -EAGAIN */
    int (*backlog)(void *st, int fd);                           /* connections that wait for it */
    int (*connect)(void *st, int fd, const struct ffl_addr *a); /* 0 or -EINPROGRESS: then WRITE
                                                                   and SO_ERROR tell */
    /* to, from: an address, or NULL. flags: 0 or MSG_MORE, a hint for streams (F-Stack ignores it).
     * ctl: control messages, or NULL; recv gives all that the socket's options ask for, ctl->len 0
     * for none. *msg_flags out: MSG_TRUNC where the data was cut, MSG_CTRUNC where control messages
     * were. */
    int (*send)(void *st, int fd, const struct iovec *iov, int n, const struct ffl_addr *to,
                const struct ffl_ctl *ctl, int flags);
    int (*recv)(void *st, int fd, const struct iovec *iov, int n, struct ffl_addr *from,
                struct ffl_ctl *ctl, int *msg_flags);
    /* recv of the error queue: the offending datagram, where it went to, and control messages.
     * NULL: the stack has no error queues. */
    int (*report)(void *st, int fd, const struct iovec *iov, struct ffl_addr *to,
                  struct ffl_ctl *ctl, int *msg_flags);
    int (*shutdown)(void *st, int fd, int how);
    int (*setsockopt)(void *st, int fd, int level, int name, const void *val, uint32_t len);
    int (*getsockopt)(void *st, int fd, int level, int name, void *val, uint32_t *len);
    int (*sockname)(void *st, int fd, bool peer, struct ffl_addr *a);

    /* Registers interest, once per socket, after listen, connect or accept. `udata` comes back in
     * events until close; events that poll gave before may still name it. */
    int (*watch)(void *st, int fd, unsigned filters, void *udata);
    /* Up to max events; never waits. */
    int (*poll)(void *st, struct ffl_stack_event *ev, int max);
};

struct ffl_stack {
    const struct ffl_stack_ops *ops;
    void *st;
};

/* The stacks in this executable, NULL-terminated. */
extern const struct ffl_stack_ops *const ffl_stacks[];
const struct ffl_stack_ops *ffl_stack_find(const char *name);

#endif
