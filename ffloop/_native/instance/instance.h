/*
 * instance.h - an instance: one stack, its sessions, one thread.
 *
 * Callers: main.c, direct.c, and tests that step an instance in their own process. Not thread-safe
 * but for ffl_instance_stop and ffl_instance_drain, which are async-signal-safe.
 */
#ifndef FFL_INSTANCE_H
#define FFL_INSTANCE_H

#include "policy.h"
#include "stack.h"

#include <sys/types.h>

struct ffl_instance;

struct ffl_instance_opts {
    const struct ffl_stack_ops *stack;
    struct ffl_stack_opts stack_opts;
    const char *path;   /* of the unix socket ("@name": abstract), or NULL with listen_fd */
    int listen_fd;      /* a listening SOCK_SEQPACKET socket to take over, or -1 */
    bool embedded;      /* end soon after the last session */
    bool direct;        /* in its application's thread (direct.h) */
    int64_t spin_us;    /* FFL_SPIN_* or microseconds */
    int64_t sq_poll_us; /* stacks that poll: how long each iteration may look at the SQs */
    bool huge;          /* sessions on huge pages, while there are any */
    unsigned max_sessions;
    uint32_t max_sockets;      /* per session */
    uint32_t pool_kib;         /* of buffers, per session and side */
    uint32_t rx_cap;           /* bytes read ahead, per socket */
    uint32_t entries;          /* slots of a session's SQ and of its CQ: a power of two */
    unsigned user_sessions;    /* per user; 0: the user's share of max_sessions (ledger.h) */
    unsigned user_memberships; /* of multicast groups, per user */
    int64_t slice_ns;          /* of each iteration, per session; 0: the stack's default */
    int64_t drain_ns;          /* how long a drain may take */
    int64_t keep_ns;           /* how long a kept listener stays */
    struct ffl_policy policy;  /* users that may attach, ports that they may bind */
    int mode;                  /* of the unix socket's path; -1: the policy's */
};

void ffl_instance_opts_default(struct ffl_instance_opts *o);

/* 0, or -errno with a sentence in `why` and nothing left behind. */
int ffl_instance_start(struct ffl_instance **out, const struct ffl_instance_opts *o, char *why,
                       size_t whylen);

/* One iteration (a ffl_iterate_fn): never blocks. */
int64_t ffl_instance_iterate(void *instance);

/* Iterates and sleeps until the instance ends. 0 or -errno of the stack. */
int ffl_instance_run(struct ffl_instance *in);

void ffl_instance_stop(struct ffl_instance *in);

/* The graceful end: no application attaches any more, listeners fail with ESHUTDOWN, submitted data
 * is sent, and the instance ends when no socket is left, or after drain_ns. */
void ffl_instance_drain(struct ffl_instance *in);
void ffl_instance_free(struct ffl_instance *in); /* closes every session and socket */

/* For the start-up line and for tests. */
void ffl_instance_describe(struct ffl_instance *in, char *buf, size_t len);
unsigned ffl_instance_sessions(const struct ffl_instance *in);
unsigned ffl_instance_sockets(const struct ffl_instance *in);

#endif
