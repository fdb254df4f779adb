/*
 * internal.h - shared by the files of the instance: the instance, sessions, endpoints.
 *
 * listen.c    the unix socket, the control epoll
 * path.c      the unix socket's place in the file system
 * admit.c     admission of peers; the handshake
 * rights.c    the applications' rights, where a socket is the kernel's
 * ledger.c    each user's account
 * timers.c    timers
 * closer.c    closes received descriptors, on a thread of its own
 * interrupt.c ends system calls that a peer can make wait
 * session.c   a session's life; posting completions
 * endpoint.c  an endpoint's life
 * lost.c      survives the loss of a segment's pages
 * control.c   the operations of the SQ
 * connect.c   of these BIND, LISTEN, CONNECT
 * answer.c    arguments and answers of operations
 * data.c      events and errors of endpoints, their pump
 * receive.c   the receive pump
 * transmit.c  the transmit pump
 * shutdown.c  shutdowns
 * report.c    the error queue
 * burden.c    memberships and filters
 * accept.c    the accept pump
 * group.c     sockets that several processes have; sockets by address
 * offer.c     connections that wait for the application's accept()
 * ticket.c    sockets for processes to come
 * handover.c  listeners of one address, kept listeners
 * start.c     an instance's start and end
 * serve.c     the iteration and the sleep
 * stats.c     the stats pages
 * drain.c     the graceful end
 * policy.c    users that may attach, ports that they may bind
 * notify.c    messages to the service manager
 *
 * Invariants: an endpoint is in its session's table under its handle until CLOSED is posted, then
 * in the graveyard until the iteration ends (the stack's events of this iteration may still name
 * it). Shared memory is copied, and the copy checked, before it is used.
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
    uint32_t handle;
    uint32_t serial; /* tells the buffers of a reused handle apart */
    int fd;          /* -1: open_error says why */
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
    bool touched; /* its application may know of it: an operation named it, or it was read ahead */
    /* Pending SHUT_*, or -1: after the queue and what comes before this position of the SQ. */
    int8_t shut;
    uint32_t shut_at;
    uint32_t armed;  /* == its session's `arming`: it is armed (endpoint_armed) */
    uint32_t closed; /* closing: in->next_serial when the application closed it */
    bool in_ready, in_stalled, dead;
    bool offers; /* a listener: nothing is accepted ahead, even for the only reference */
    /* A listener: it is to be told of a connection; of those alone, one is told. */
    bool asks, alone;
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
    uint32_t came;    /* counts up when connections come; begins at 1 */
    uint32_t waiting; /* the stack's connections at the last count; 0 after an accept */
    /* The asker that is alone, was told of a connection and has not taken it. */
    struct endpoint *told;
    struct timer slow; /* when it fires, the other askers are told */
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
    uint32_t *rx_owner; /* by slot: serial of the endpoint */
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
    uint32_t next_id, next_serial, next_ticket;
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

/* listen.c */
int listen_open(struct ffl_instance *in, char *why, size_t whylen);
void listen_close(struct ffl_instance *in);
int ctl_add(struct ffl_instance *in, int fd, uint32_t events, struct src *src);
/* Takes fd out of the control epoll and closes it by `how` (ffl_close). Closing alone is not enough
 * where another process has the same file, as an application has the doorbells. */
void ctl_drop(struct ffl_instance *in, int *fd, void (*how)(int fd));
/* Waits up to timeout_ns for the control epoll and handles its events: the count, or < 0. */
int ctl_wait(struct ffl_instance *in, int64_t timeout_ns);

/* path.c */
/* Binds to o.path, and listens. 0, or -errno with or without a sentence in `why`. */
int path_bind(struct ffl_instance *in, int s, char *why, size_t whylen);
void path_leave(struct ffl_instance *in); /* if the instance has it */

/* admit.c */
/* Takes sock over. brought: a ticket's holder answers for the peer; else the policy decides. */
void admit_peer(struct ffl_instance *in, int sock, bool brought);
void admit_not(struct ffl_instance *in, int sock, const char *why); /* sends `why`, and closes */
void admit_event(struct pending *p);
void admit_lost(struct account *a);                  /* closer_recv had no descriptor: logs it */
bool admit_make_room(struct ffl_instance *in);       /* false: no peer is waiting */
void admit_sweep(struct ffl_instance *in, bool all); /* frees the peers that are done, or all */

/* closer.c */
void closer_close(int fd); /* takes it, and returns at once */
bool closer_busy(void);    /* many descriptors wait to be closed: no new peer is heard */
/* Closes a socket in whose queue a peer's descriptors may wait: at once if the queue is empty. */
void closer_drop(int sock);
/* ffl_msg_recv for a message with one descriptor at most: *fd, or -1. More are -EPROTO; -EMFILE:
 * the message is gone. */
int closer_recv(int sock, void *data, size_t len, int *fd);

/* rights.c */
void rights_start(struct ffl_instance *in);
/* The network capabilities that the session's process itself has; its pidfd is open. */
uint64_t rights_of(const struct ffl_session *s);
void rights_own(struct ffl_session *s, int fd); /* gives a new socket to the session's user */
int rights_bind(struct endpoint *e, const struct ffl_addr *a);
int rights_setsockopt(struct endpoint *e, const struct ffl_optarg *o);

/* ticket.c */
/* Takes sock over on success. -EDQUOT: too many tickets, of all or of the user. */
int ticket_new(struct ffl_instance *in, int sock, struct account *a, uint32_t *id, uint64_t *key);
void ticket_event(struct ticket *t);
void tickets_end(struct ffl_instance *in); /* all of them */
/* Closes dropped references for a slice. True: there are more. */
bool tickets_close(struct ffl_instance *in);
/* Puts references to all sockets that the session has now into the ticket, without a look at each:
 * a reference is made when it is imported, or when its socket is closed. Errors as below, or
 * -EBUSY, -ENOMEM. */
int ticket_share(struct ffl_session *s, const struct ffl_import *x);
bool ticket_shares(const struct endpoint *e); /* has such a ticket a reference to e's socket? */
void ticket_keep(struct endpoint *e);         /* before e is closed: makes the references to it */
void tickets_forget(struct ffl_session *s);   /* before s is freed */
/* Puts a reference into the ticket. -EPROTO: a wrong key; -ENOENT: no such ticket (any more). */
int ticket_export(struct endpoint *e, const struct ffl_import *x);
/* Opens `handle`; FFL_IMPORT_*, or as above, or -errno. */
int ticket_import(struct ffl_session *s, uint32_t handle, const struct ffl_import *x);

/* group.c */
struct group *group_of(struct endpoint *e); /* made when there is none; NULL: no memory */
void group_join(struct endpoint *e, struct group *g);
void group_leave(struct endpoint *e);               /* its descriptor is, or will be, closed */
void group_connecting(struct endpoint *e, bool on); /* e->connecting, and the group's count */
struct group *group_ref(struct group *g);
void group_unref(struct ffl_instance *in, struct group *g); /* NULL is none */
/* Frees what was given back and has no reference any more, for a slice. True: there is more. */
bool groups_forget(struct ffl_instance *in);
static inline struct settings *group_settings(struct endpoint *e)
{
    return e->group ? &e->group->settings : &e->settings;
}
/* The socket listens, or receives: group_at finds it from now on. 0 or -ENOMEM. */
int group_place(struct endpoint *e);
/* The first group of that kind at the port. group_next: the next after g. */
struct group *group_at(const struct ffl_instance *in, uint16_t port_be, bool dgram);
struct group *group_next(const struct group *g);
void group_accepted(struct endpoint *l, struct endpoint *e,
                    struct group *unread); /* of group_accept, or NULL */
/* Gives bytes back. flags: FFL_F_* of a datagram. 0 or -ENOBUFS. */
int group_unread(struct endpoint *e, const void *data, uint32_t len, uint8_t flags);
/* Gives an accepted connection back to its listener's other references. False: there are none. */
bool group_return(struct endpoint *e);
bool group_shared(const struct endpoint *e); /* has the socket other references? */
bool group_has_bytes(const struct endpoint *e);
bool group_has_connection(const struct endpoint *l);
uint32_t group_size(const struct endpoint *e); /* bytes of the first piece that was given back */
uint32_t group_take(struct endpoint *e, void *to, uint32_t room, uint8_t *flags);
/* A connection that was given back, charged to l's session. -EMFILE: the session's quota is used
 * up. */
int group_accept(struct endpoint *l, struct ffl_addr *peer, struct group **unread);

/* shutdown.c */
void shutdown_ask(struct endpoint *e, int how); /* the application's SHUTDOWN */
void shutdown_set(struct endpoint *e, int how); /* the pending one, or -1: none */
static inline bool shutdown_sending(int how)
{
    return how == SHUT_WR || how == SHUT_RDWR;
}
bool shutdown_waits(const struct endpoint *e); /* for entries that are to be executed before it */
/* e's sends are sent, or dropped: its pending shutdown is done, or waits for other references'. */
void shutdown_now(struct endpoint *e);

/* offer.c */
void offer_start(struct group *g);
void offer_renew(struct group *g); /* after a connection came or a reference went */
/* `l` asks to be told of the next connection that waits. */
void offer_ask(struct endpoint *l, bool alone);
void offer_leave(struct endpoint *l); /* it asks no more */
/* Tells the askers, if a connection waits. */
void offer_tell(struct endpoint *l);
/* Is nothing accepted ahead for `l`? */
bool offer_alone(const struct endpoint *l);
/* Gives `l` a connection now: FFL_TAKE_*, or -errno. again: `l` then asks in any case. */
int offer_take(struct endpoint *l, bool again);

/* handover.c */
/* Does a socket of e's user listen, or receive, where `e` is to be bound? */
bool handover_ours(const struct endpoint *e, const struct ffl_addr *a);
/* 0; -EADDRINUSE: at `a` another user's socket of this instance listens or receives; -ENOBUFS:
 * e's user has port_most sockets at the port, or cast_most where one datagram is for all. */
int handover_may_bind(const struct endpoint *e, const struct ffl_addr *a);
/* Before `e` listens: 1 when it now shares an earlier listener, 0 when it is the first, or
 * -errno. */
int handover_share(struct endpoint *e);
/* Before a gone application's sockets are closed: gives back the connections it never heard of. */
void handover_unseen(struct ffl_session *s);
/* Before `e` is closed: keeps its listener for a while if `e` is the last reference. */
void handover_keep(struct endpoint *e);
bool handover_keeps(const struct endpoint *e); /* will it, as far as the charges allow? */
/* Closes the kept listeners, for a slice. True: there are more. */
bool handover_end(struct ffl_instance *in);

/* session.c */
/* Takes sock over on success. -EDQUOT: too many sessions, of all or of the user. */
int session_new(struct ffl_instance *in, int sock, const struct ffl_hello *h,
                const struct ucred *cred, struct account *a, struct ffl_session **out);
void session_kill(struct ffl_session *s, const char *why);      /* a bad entry */
void session_last_word(struct ffl_session *s, const char *why); /* to its application's log */
void session_event(struct ffl_session *s); /* its application says something, or is gone */
void session_end(struct ffl_session *s);   /* its application is gone */
/* Works on the sessions that end, a slice each, and frees those that are done. True: there is
 * more. */
bool session_reap(struct ffl_instance *in);
void session_free(struct ffl_session *s);
void session_post(struct ffl_session *s, struct ffl_entry e);
/* Executes submitted entries, `most` at most, until the slice is over: the count, or < 0 and the
 * session is dead. */
int session_drain(struct ffl_session *s, int most);
void session_commit(struct ffl_session *s); /* commits completions and returned buffers */
void session_committed(struct ffl_session *s, int rc); /* acts on a commit's result */
bool session_stuffed(const struct ffl_session *s);     /* the CQ is full: no pump may post more */
void session_tx_release(struct ffl_session *s, uint32_t buf);
void *session_buf(struct ffl_session *s, const struct ffl_pool_geo *p, uint32_t buf);

/* A handle for an accepted socket, or -EMFILE, -ENOMEM. The release takes any handle back. */
int endpoint_handle(struct ffl_session *s);
void endpoint_handle_release(struct ffl_session *s, uint32_t handle);
/* Charges the session with one more reference to a stack socket; discharges one. -EMFILE: the
 * session's quota, or its user's, is used up. */
int session_charge(struct ffl_session *s);
void session_discharge(struct ffl_session *s);
/* fd, if there is one, has been charged. */
struct endpoint *endpoint_new(struct ffl_session *s, uint32_t handle, int fd, bool dgram);
bool endpoint_option(const struct endpoint *e, int level, int name); /* is it set? */
bool endpoint_v6only(const struct endpoint *e,
                     const struct ffl_addr *a); /* bound to `a`: IPV6_V6ONLY */
void endpoint_addresses(struct endpoint *e);    /* asks the stack, for the stats page */
/* Does the stack have unread bytes, which its close would not make a reset? The kernel's does. */
bool fd_unread(struct ffl_instance *in, int fd);
/* Closes a connection so that its peer sees a reset. */
int fd_reset(struct ffl_instance *in, int fd);
void endpoint_close(struct endpoint *e); /* closes the stack socket, posts CLOSED, buries */
void endpoint_close_fd(struct endpoint *e,
                       bool reset); /* the stack socket alone; the endpoint stays */
static inline bool endpoint_armed(const struct endpoint *e)
{
    return e->armed == e->s->arming;
}
/* Into the ready list, to be pumped; into the stalled list, until a receive buffer comes back. */
void endpoint_ready(struct endpoint *e);
void endpoint_stall(struct endpoint *e);
void endpoint_timer(struct endpoint *e, int64_t ns); /* from now on */
/* Registers for events, once: a refused connect may be tried again. */
int endpoint_watch(struct endpoint *e, unsigned filters);
void endpoint_bury(struct ffl_instance *in);

/* burden.c */
struct sock_filter;
struct ffl_option;
uint32_t burden_of_filter(const struct sock_filter *code, uint32_t n); /* instructions */
/* Before an option is set: 0, -ENOBUFS: its user has its memberships, -ENOMEM: its filters. */
int burden_charge(struct endpoint *e, const struct ffl_option *o, uint32_t filter);
/* After it: has it been done? */
void burden_settle(struct endpoint *e, const struct ffl_option *o, uint32_t filter, bool done);
/* May what is sent to all sockets at `a` be for one at `at` of the same port, too? */
bool burden_beside(const struct ffl_addr *at, const struct ffl_addr *a);
/* May a user that has `own` datagram sockets at the port, some of them `beside` it, bind one to
 * `a`? 0 or -ENOBUFS. */
int burden_bind(struct ffl_instance *in, const struct ffl_addr *a, uint32_t own, uint32_t beside);
void burden_end(struct ffl_instance *in, struct account *a, struct settings *s); /* of all */

/* interrupt.c */
int bell_ring(int fd); /* 0 or -errno; -EINTR when the write would have waited */
/* Between these two, a system call that waits fails with EINTR after some milliseconds. */
void interrupt_begin(void);
void interrupt_end(void);

/* lost.c */
void lost_guard(struct ffl_instance *in);
void lost_unguard(struct ffl_instance *in);

/* answer.c */
/* Copies the entry's argument block out and gives its buffer back. 0 or -EPROTO. */
int answer_arg(struct ffl_session *s, struct ffl_entry e, void *arg, size_t len);
/* The same for an option, whose length is in the block; `set`: copies the value as well. */
int answer_option(struct ffl_session *s, struct ffl_entry e, struct ffl_optarg *o, bool set);
struct sock_filter;
int answer_filter(struct ffl_session *s, struct ffl_entry e, struct ffl_filter *f,
                  struct sock_filter *code); /* FFL_FILTER_MAX of them */
/* A receive buffer that holds `len` bytes, and counts for no endpoint; NULL and FFL_NO_BUF: none is
 * free. answer_put copies `data` into it. */
void *answer_room(struct ffl_session *s, size_t len, uint32_t *buf);
uint32_t answer_put(struct ffl_session *s, const void *data, size_t len);
uint32_t answer_addresses(struct endpoint *e); /* answer_put of the socket's addresses */
void answer_post(struct ffl_session *s, struct ffl_entry q, int32_t res, uint32_t buf);

/* connect.c: operations, as control.c's; and a connect's end, which it answers: sends queued
 * meanwhile may go. */
int connect_bind(struct endpoint *e, struct ffl_entry q);
int connect_listen(struct endpoint *e, struct ffl_entry q);
int connect_begin(struct endpoint *e, struct ffl_entry q);
void connect_ended(struct endpoint *e);

/* control.c: executes one SQ entry. 0; FFL_CHANNEL_LATER: nothing is done, the slice is over; or
 * -EPROTO with a reason when the session must end. */
int control_entry(struct ffl_session *s, struct ffl_entry e, const char **why);
void control_close(struct endpoint *e, bool abort);

/* start.c */
/* Closes every socket; the sessions themselves go with the instance. */
void sessions_close(struct ffl_instance *in);

/* drain.c */
/* Stops the listeners, a slice per session and iteration. True: there are more. */
bool drain_listeners(struct ffl_instance *in);
bool drain_over(struct ffl_instance *in); /* true: this iteration is the last */

/* stats.c */
int stats_open(struct ffl_instance *in, char *why, size_t whylen);
void stats_close(struct ffl_instance *in);
void stats_session(struct ffl_session *s);
void stats_session_end(struct ffl_session *s);
void stats_sessions(struct ffl_instance *in); /* their numbers, from the ledger */
void stats_socket(struct endpoint *e);
void stats_socket_end(struct endpoint *e);
void stats_state(struct endpoint *e); /* after a change of its state */

static inline void stats_outstanding(struct endpoint *e)
{
    atomic_store_explicit(&e->st->rx_held, e->rx_outstanding, memory_order_relaxed);
}

static inline void stats_queued(struct endpoint *e, uint32_t more, uint32_t less)
{
    uint32_t n = atomic_load_explicit(&e->st->tx_queued, memory_order_relaxed);
    atomic_store_explicit(&e->st->tx_queued, n + more - less, memory_order_relaxed);
}

/* data.c */
void data_event(struct endpoint *e, const struct ffl_stack_event *ev);
bool data_pump(struct endpoint *e); /* true: there is more to do next iteration */
void data_fail(struct endpoint *e, int err);
/* A stream's sends fail from now on; received data, and its end, are still read. */
void data_fail_sends(struct endpoint *e, int err);
void data_dgram_error(struct endpoint *e, int rc); /* tells of it: the socket goes on */

/* receive.c */
bool data_receive(struct endpoint *e);  /* true: there is more to do next iteration */
int data_rxfree(struct ffl_session *s); /* takes receive buffers back; count or -EPROTO */

/* transmit.c */
void data_queue(struct endpoint *e, uint32_t buf); /* at the tail of e's sends */
/* Sends what the stack takes of the queue; then does a shutdown or close that waits for it. */
void data_flush(struct endpoint *e);
void data_drop_tx(struct endpoint *e);
/* The stack takes no more of its bytes, or does again. */
void data_unwritable(struct endpoint *e, bool on);

/* accept.c */
bool accept_pump(struct endpoint *l); /* data_pump of a listener */
int data_accept(struct endpoint *l);  /* one connection for `l`: 0 or -errno */
/* A shortage that may end: `l` is looked at again in a second, as asyncio does. */
void data_accept_later(struct endpoint *l, int err);
/* Before the last reference to a listener is closed: resets the connections that wait there, for a
 * slice; the close would reset all at once. False: there are more. */
bool backlog_clear(struct ffl_instance *in, int fd);
bool endpoint_clear(const struct endpoint *e); /* the same, if `e` is such a reference */

/* report.c */
bool report_pump(struct endpoint *e); /* true: there were reports */

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
