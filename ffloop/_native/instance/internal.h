/*
 * internal.h - the structures that the files of the instance share.
 *
 * Who declares what:
 * peers.h     listen.c (the unix socket, the control epoll), path.c (the socket's place in the file
 *             system), admit.c (admission, the handshake), closer.c (closes received descriptors,
 *             on a thread of its own), rights.c (applications' rights, where a socket is the
 *             kernel's), interrupt.c (ends system calls that a peer can make wait), lost.c
 *             (survives the loss of a segment's pages)
 * session.h   session.c (life, completions), control.c (the operations of the SQ), connect.c (of
 *             these BIND, LISTEN, CONNECT), answer.c (their arguments and answers)
 * endpoint.h  endpoint.c (life), burden.c (memberships and filters)
 * group.h     group.c (sockets that several processes have; sockets by address), offer.c
 *             (connections that wait for the application's accept), handover.c (listeners of one
 *             address, kept listeners), ticket.c (sockets for processes to come)
 * pump.h      data.c (events and errors), receive.c, transmit.c, shutdown.c, accept.c, report.c
 *             (the error queue)
 * life.h      start.c (start and end), drain.c (the graceful end), stats.c (the stats pages)
 * On their own: ledger.h (each user's account), timers.h, slice.h, policy.h (users that may attach,
 * ports that they may bind), notify.h (messages to the service manager); serve.c, the iteration and
 * the sleep, is what instance.h promises.
 *
 * Invariants: an endpoint is in its session's table under its handle until CLOSED is posted, then
 * in the graveyard until the iteration ends (the stack's events of this iteration may still name
 * it). Shared memory is copied, and the copy checked, before it is used. All of it is on one
 * thread, but where a header says otherwise.
 */
#ifndef FFL_INSTANCE_INTERNAL_H
#define FFL_INSTANCE_INTERNAL_H

#include "channel.h"
#include "handshake.h"
#include "ids.h"
#include "instance.h"
#include "ledger.h"
#include "pool.h"
#include "slice.h"
#include "spin.h"
#include "stats.h"
#include "timers.h"

/* The owner of a descriptor in the control epoll. */
enum src_kind {
    SRC_NONE,
    SRC_LISTEN,
    SRC_PENDING,
    SRC_SESSION,
    SRC_PIDFD,
    SRC_DOORBELL,
    SRC_STACK,
    SRC_TICKET,
    SRC_STOP
};
struct src {
    enum src_kind kind;
    void *owner;
};

/* What a stack socket's options ask for, and which of its sides are shut down, whichever of its
 * references that was done through. */
struct settings {
    bool stamped;   /* bytes come with control messages; or datagrams, several as one */
    bool reporting; /* reports in the error queue */
    uint32_t memberships, filter[2]; /* charged for them (burden.c) */
    bool shut_wr;                    /* the sending side is shut down */
    bool shut_rd; /* the stack was told to read no more: its end is not the peer's */
};

struct endpoint { /* one session's reference to one stack socket */
    struct ffl_session *s;
    struct ffl_stat_socket *st;   /* its slot of the stats page */
    TAILQ_ENTRY(endpoint) all;    /* of its session */
    TAILQ_ENTRY(endpoint) queue;  /* in the ready or the stalled list; then in the graveyard */
    LIST_ENTRY(endpoint) member;  /* of its group */
    TAILQ_ENTRY(endpoint) asking; /* in its group's askers */
    struct timer timer;
    uint64_t serial; /* tells the buffers of a reused handle apart; from 1 */
    uint64_t closed; /* closing: in->next_serial when the application closed it */
    uint32_t handle;
    int fd; /* -1: open_error says why */
    int open_error;
    uint32_t credits;          /* listener: accepts that the application has room for */
    uint32_t rx_outstanding;   /* bytes of the receive pool with the application */
    uint32_t rx_posted;        /* bytes of the stream completed so far, modulo 2^32 */
    int32_t rx_due;            /* bytes that the stack says are readable */
    uint32_t tx_head, tx_tail; /* queued transmit buffers, through session->tx[].next */
    uint32_t tx_off;           /* bytes of the head already sent */
    uint32_t tx_outstanding;   /* bytes of the queue's buffers */
    bool tx_begins;            /* nothing was sent since the last receive */
    struct group *group;       /* that its stack socket's references share, or NULL */
    struct group *from;        /* the group of the listener that accepted it, or NULL */
    uint16_t connect_tag;
    bool dgram, listener;
    bool arm_new, readable, rx_big, rx_done;
    bool eof_hint, fin; /* the stack has seen the end; the peer ended the stream, not by a reset */
    bool connecting, unwritable; /* unwritable: the stack takes no more for now (data_unwritable) */
    bool watched, closing;
    struct settings settings; /* without a group; see group_settings */
    bool reports;             /* the error queue is to be looked at */
    int failed; /* the errno of the ERROR that was posted: nothing more is received or sent; or 0 */
    int send_error; /* of a stream's sends alone: received data is still read; or 0 */
    bool reset;     /* its close is a reset: received data was not read */
    bool returned;  /* closed before its program knew of it (FFL_F_RETURN) */
    bool given;     /* its listener's other references have it (group_return) */
    bool touched; /* its application may know of it: an operation named it, or it was read ahead */
    /* Pending SHUT_*, or -1: after the queue and what comes before this position of the SQ. */
    int8_t shut;
    uint32_t shut_at;
    uint32_t armed; /* == its session's `arming`: it is armed (endpoint_armed) */
    bool in_ready, in_stalled, dead;
    bool offers; /* a listener: nothing is accepted ahead, even for the only reference */
    /* A listener: it is to be told of a connection; of those alone, one per connection is told;
     * it was, and is counted in its group's `told`. */
    bool asks, alone, told;
    uint32_t seen; /* its group's `came` when it was last told of, or took, a connection */
};
TAILQ_HEAD(endpoint_list, endpoint);

STAILQ_HEAD(back_list, back);

/*
 * Shared by the references to one stack socket, which are endpoints of any session, in tickets, or
 * a kept listener: user, address (the key of in->places), bytes and connections given back.
 */
struct group {
    LIST_ENTRY(group) place; /* in in->places, once the socket listens or receives datagrams */
    struct account *account;
    struct ffl_addr at;
    struct ffl_addr now; /* when it was last placed: a peer gives an address, where `at` has none */
    bool dgram, only, shares; /* only, shares: its IPV6_V6ONLY and SO_REUSEPORT */
    bool placed;
    bool listens;
    struct settings settings;
    unsigned connecting; /* members that wait for a connect's end */
    int connect_error;   /* of the last connect: the stack tells it once */
    unsigned shutting;   /* members whose pending shutdown ends the sending side */
    int8_t shut;   /* what the others' have asked for, or -1: the last one's tells the stack */
    unsigned refs; /* references: each may take bytes and connections given back */
    unsigned uses; /* refs, and connections that were accepted from it */
    LIST_HEAD(, endpoint) members;
    TAILQ_HEAD(, endpoint) askers;
    uint32_t came;     /* counts up when connections come; begins at 1 */
    uint32_t waiting;  /* the stack's connections at the last count; 0 after an accept */
    unsigned told;     /* members that were told alone, and have not taken a connection yet */
    struct timer slow; /* of the first of them: when it fires, the other askers are told */
    struct ffl_instance *in;
    struct back_list bytes, connections; /* given back */
    struct kept *kept;
};
LIST_HEAD(group_list, group);

/* A reference to a stack socket in a ticket, until a process imports it. */
struct held {
    LIST_ENTRY(held) key;  /* in->held, by ticket and handle */
    TAILQ_ENTRY(held) all; /* of its ticket; then in->dropped */
    struct ticket *ticket;
    struct group *group;
    struct account *account; /* charged with it */
    uint32_t handle;         /* the exporting session's */
    int fd;
    int failed, send_error; /* as the endpoint's */
    bool listener, dgram, connecting, mark;
};
TAILQ_HEAD(held_list, held);

struct tx_slot { /* the instance's private record of a transmit buffer */
    uint32_t next, len;
    uint8_t flags;
    bool outstanding;
};

struct ffl_session {
    struct ffl_instance *in;
    TAILQ_ENTRY(ffl_session) link;
    uint32_t id;
    int sock, pidfd, rest;   /* rest: the memfd of its last message (handshake.h), or -1 */
    int app_bell, inst_bell; /* eventfds */
    pid_t pid;
    uid_t uid;
    struct account *account;
    /* The application's network capabilities: the instance acts with them (rights.c). */
    uint64_t caps;
    bool foreign; /* the instance may not give sockets to its user */
    struct src src_sock, src_pid, src_bell;
    struct ffl_stat_session *st;
    struct ffl_map map;
    struct ffl_channel ch;
    struct ffl_pool rx;
    uint64_t *rx_owner; /* by slot: serial of the endpoint, or 0 */
    uint32_t *rx_handle;
    struct tx_slot *tx;
    struct endpoint **table; /* by handle: [0, n) the application's, [n, 2n) the instance's */
    uint32_t n;
    struct ffl_ids ids;             /* the instance's handles */
    struct endpoint_list endpoints; /* all that are open */
    /* The next endpoint to close: of all (dying), of listeners (draining). */
    struct endpoint *sweep;
    struct endpoint_list ready, stalled;
    unsigned open;              /* endpoints */
    unsigned nsockets;          /* of CHARGE_SOCKET */
    unsigned last;              /* ended: committed entries, not yet executed */
    uint32_t rest_at, rest_n;   /* entries of the rest: executed; in all */
    uint32_t awaited;           /* position of the SQ up to which another's shutdown waits */
    uint64_t released;          /* ended: bytes of the segment, from its start on */
    uint64_t tx_unwritable;     /* the sum of tx_outstanding of unwritable endpoints */
    uint32_t arming;            /* changes when all endpoints are disarmed at once; never 0 */
    LIST_HEAD(, ticket) shares; /* tickets with references to all its sockets (FFL_OP_SHARE) */
    struct ffl_entry look;      /* looking: the NOP that waits for the next look at the stack */
    bool looking;
    bool ended, cut; /* ended: its application is gone; cut: nothing more is sent */
    bool dying, dead;
    volatile int lost; /* set by a signal handler: its shared memory is gone (lost.c) */
};

struct path { /* of the unix socket, where it is a file (path.c) */
    int dir, lock;
    char name[108];
    dev_t dev; /* of the bound socket */
    ino_t ino;
};

#define TICKET_LISTS 1024u
#define HELD_LISTS 16384u
#define PLACE_LISTS 4096u

enum end_kind { END_NONE, END_DRAIN, END_NOW };

struct ffl_instance {
    struct ffl_instance_opts o;
    struct ffl_stack stack;
    int ctl, stop_fd, stats_fd;
    struct src src_listen, src_stack, src_stop;
    int listen_fd;
    int spare_fd; /* closed to refuse a peer when no descriptor is left */
    struct timer accept_timer;
    struct timers timers;
    struct ledger ledger;
    TAILQ_HEAD(, pending) pending;                  /* peers whose hello is not read yet */
    TAILQ_HEAD(session_list, ffl_session) sessions; /* the oldest first */
    uint64_t next_serial; /* sockets in all, which a long life counts beyond 32 bits */
    uint32_t next_id, next_ticket;
    uint32_t port_most; /* datagram sockets of one user at one port */
    uint32_t cast_most; /* of them those that one broadcast or multicast may be for */
    LIST_HEAD(ticket_list, ticket) tickets[TICKET_LISTS]; /* by id */
    LIST_HEAD(held_heads, held) held[HELD_LISTS];         /* ticket.c */
    uint64_t held_key[2];       /* random: applications choose handles, and may not choose lists */
    struct held_list dropped;   /* to be closed, a slice per iteration */
    struct back_list forgotten; /* given back, and nobody can get it any more; likewise */
    TAILQ_HEAD(, kept) kept;    /* listeners without an application */
    struct group_list places[PLACE_LISTS];
    struct ffl_instance_page *page; /* then its tables */
    struct ffl_stat_session *stat_sessions;
    struct ffl_stat_socket *stat_sockets;
    struct ffl_ids stat_ids; /* slots of stat_sockets */
    struct ffl_idle idle;
    struct endpoint_list graveyard;
    struct slice slice; /* of the session at work */
    int64_t ctl_due;    /* when to look at the control epoll even if busy */
    /* Embedded: no session since, on the timers' clock; 0: there are sessions. */
    int64_t empty_since;
    atomic_int end_asked; /* enum end_kind, by a signal handler too */
    int64_t drain_due;    /* on the timers' clock */
    int poll_error;       /* of the stack's last poll: -errno or 0 */
    bool had_session, stack_quiet, draining, looking;
    bool unsent;  /* a stack that polls: packets may wait for its transmit delay */
    bool flushes; /* its loop was left to send them */
    struct path path;
};

#define WHOLE_SLICES 8 /* of more sessions each gets less, so that an iteration does not grow */

static inline void slice_begin(struct ffl_instance *in)
{
    int64_t n = (int64_t)(in->ledger.n[CHARGE_SESSION] + in->ledger.n[CHARGE_DYING]);
    slice_open(&in->slice, n > WHOLE_SLICES ? in->o.slice_ns / n * WHOLE_SLICES : in->o.slice_ns);
}

/* For work that nothing cuts short. */
static inline void slice_endless(struct ffl_instance *in)
{
    in->slice = (struct slice){.end = INT64_MAX, .left = INT64_MAX};
}

#define OPS(in) ((in)->stack.ops)
#define ST(in) ((in)->stack.st)

#define LINGER_NS (60 * FFL_NS_PER_SEC)       /* for a closed socket to send its rest */
#define DYING_LINGER_NS (10 * FFL_NS_PER_SEC) /* LINGER_NS when its application is gone */
#define ACCEPT_RETRY_NS (FFL_NS_PER_SEC)      /* after EMFILE and the like, as asyncio does */

#endif
