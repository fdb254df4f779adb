/*
 * stack.h - the seam: what an instance asks of a TCP/IP stack, in Linux terms.
 *
 * Callers: instance/. Implementations: host.c (this kernel), fstack.c (F-Stack); for tests, tests/sim (in memory).
 * Every call runs on the instance's one thread, never blocks, and returns a count, 0 or -errno with
 * Linux errno numbers. Sockets are small non-negative integers (`fd`, the stack's own numbering),
 * always non-blocking. Addresses are struct ffl_addr; option levels, names, values and message
 * flags are Linux's; translating is the implementation's job. SIGPIPE is never raised.
 */
#ifndef FFL_STACK_H
#define FFL_STACK_H

#include "addr.h"

#include <sys/uio.h>

/* Readiness. Edge-triggered ("clear"): after an event the instance goes on until a call says
 * -EAGAIN; or, on a stream, until recv gave less than it was asked for while neither `data` nor `eof`
 * says that there is more. */
#define FFL_READ 1u
#define FFL_WRITE 2u

struct ffl_stack_event {
    void *udata;    /* as given to watch */
    uint8_t filter; /* FFL_READ or FFL_WRITE, or both where the stack knows both at once */
    uint8_t eof;    /* the peer has shut its side, or the socket is in error: read to the end */
    uint8_t error;  /* it is in error: SO_ERROR says which, once */
    int32_t data; /* READ: bytes that are surely there, INT32_MAX: until -EAGAIN; of a listener, its
                     * connections; 0: not known */
};

struct ffl_stack_opts {
    int argc; /* the stack's own options, as the instance was given them: "key=value" */
    char **argv;
};

/* One iteration of the instance. Returns the time until the next iteration is needed, in ns, if nothing
 * arrives (0: work is left; INT64_MAX: nothing is due), or -1 to end ops->run. */
typedef int64_t (*ffl_iterate_fn)(void *arg);

struct ffl_stack_ops {
    const char *name;
    bool kernel; /* a `fd` is a socket of this kernel's: its owner and the caller's rights count */

    /* Starts the stack; *st is its state. On failure writes a sentence for the user to `why`. */
    int (*start)(void **st, const struct ffl_stack_opts *opts, char *why, size_t whylen);
    void (*stop)(void *st); /* what closed sockets still have to say leaves first */

    /* NULL where the caller runs its own loop and sleeps on wait_fd; otherwise the stack polls by
     * nature, works only within `run`, and calls `turn` from its own loop until it returns -1: at once
     * (when what was sent before has left, and what has come was taken in), and again and again. Such a
     * stack may be once in a process: `start` after `stop` then gives the same one. */
    int (*run)(void *st, ffl_iterate_fn iterate, void *arg);
    /* A descriptor that polls readable when poll has events; -1 when the stack has none. */
    int (*wait_fd)(void *st);
    /* Timers: when poll must be called again even without a wake, in ns on ffl_now_ns's clock
     * (INT64_MAX: never). NULL where there is none. */
    int64_t (*deadline)(void *st);
    /* A line that describes the stack for the start-up message (address, port, MAC). */
    void (*describe)(void *st, char *buf, size_t len);
    /* How many sockets there may be at once. NULL: its descriptors are the process's. */
    int64_t (*capacity)(void *st);

    int (*socket)(void *st, int domain, int type, int proto);
    int (*dup)(void *st, int fd); /* another reference to the same socket */
    int (*close)(void *st, int fd);
    int (*bind)(void *st, int fd, const struct ffl_addr *a);
    int (*listen)(void *st, int fd, int backlog);
    int (*accept)(void *st, int fd, struct ffl_addr *peer);     /* new fd, or -EAGAIN */
    int (*connect)(void *st, int fd, const struct ffl_addr *a); /* 0 or -EINPROGRESS: then WRITE
                                                                   and SO_ERROR tell */
    /* to, from: an address, or NULL. ctl: a datagram's control messages, or NULL; received: all that
     * the socket's options ask for, ctl->len 0 for none. *msg_flags out has MSG_TRUNC when the data
     * was cut, MSG_CTRUNC when they were. */
    int (*send)(void *st, int fd, const struct iovec *iov, int n, const struct ffl_addr *to,
                const struct ffl_ctl *ctl);
    int (*recv)(void *st, int fd, const struct iovec *iov, int n, struct ffl_addr *from,
                struct ffl_ctl *ctl, int *msg_flags);
    int (*shutdown)(void *st, int fd, int how);
    int (*setsockopt)(void *st, int fd, int level, int name, const void *val, uint32_t len);
    int (*getsockopt)(void *st, int fd, int level, int name, void *val, uint32_t *len);
    int (*sockname)(void *st, int fd, bool peer, struct ffl_addr *a);

    /* Registers interest, once a socket (after listen, connect or accept); `udata` comes back in
     * events until close. Closing ends it; events already handed out may still name it. */
    int (*watch)(void *st, int fd, unsigned filters, void *udata);
    /* Up to max events; never waits. */
    int (*poll)(void *st, struct ffl_stack_event *ev, int max);
};

struct ffl_stack {
    const struct ffl_stack_ops *ops;
    void *st;
};

/* The stacks built into this executable, NULL-terminated. */
extern const struct ffl_stack_ops *const ffl_stacks[];
const struct ffl_stack_ops *ffl_stack_find(const char *name);

#endif
