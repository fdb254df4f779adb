/*
 * internal.h - what the files of the instance share: the instance, sessions, endpoints.
 *
 * listen.c    the unix socket, the control epoll
 * path.c      the unix socket's place in the file system
 * admit.c     who is admitted; the handshake
 * rights.c    whose rights count where a socket is the kernel's
 * ledger.c    what each user holds
 * timers.c    what is to happen later
 * closer.c    closes what others have sent, on a thread of its own
 * interrupt.c calls that somebody else can make wait, cut short
 * session.c   a session's life; posting completions
 * endpoint.c  an endpoint's life
 * lost.c      outlives the loss of an application's memory
 * control.c   the operations of the SQ
 * data.c      the three pumps: receive, accept, transmit
 * group.c     sockets that several processes have, and where sockets are bound
 * offer.c     connections of listeners that several processes have
 * ticket.c    sockets for processes to come
 * handover.c  listeners of one address, and what their application never heard of
 * serve.c     the iteration and the sleep
 * stats.c     the stats pages
 * drain.c     the graceful end
 * policy.c    who may attach, who may bind which ports
 * notify.c    the service manager
 *
 * Invariants: an endpoint is in its session's table under its handle until CLOSED is posted, then in
 * the graveyard until the iteration ends (the stack's events of this iteration may still name it). Nothing
 * read from shared memory is used before it was copied and checked.
 */
#ifndef FFL_INSTANCE_INTERNAL_H
#define FFL_INSTANCE_INTERNAL_H

#include "channel.h"
#include "handshake.h"
#include "ids.h"
#include "instance.h"
#include "ledger.h"
#include "pool.h"
#include "spin.h"
#include "stats.h"
#include "timers.h"

/* What a descriptor in the control epoll belongs to. */
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

struct endpoint { /* an endpoint: one session's reference to one stack socket */
    struct ffl_session *s;
    struct ffl_stat_socket *st;   /* for observers; what is decided on is here */
    TAILQ_ENTRY(endpoint) all;    /* of its session */
    TAILQ_ENTRY(endpoint) queue;  /* in the ready or the stalled list; then in the graveyard */
    LIST_ENTRY(endpoint) member;  /* of its group */
    TAILQ_ENTRY(endpoint) asking; /* in its group's list of who is to be told of a connection */
    struct timer timer;
    uint32_t handle;
    uint32_t serial; /* tells a reused handle's buffers apart */
    int fd;          /* -1: open_error says why */
    int open_error;
    uint32_t credits;          /* listener: accepts that the application will take */
    uint32_t rx_outstanding;   /* bytes of the receive pool with the application */
    uint32_t rx_posted;        /* bytes of the stream so far, modulo 2^32 */
    int32_t rx_due;            /* bytes that the stack has said are there */
    uint32_t tx_head, tx_tail; /* queued transmit buffers, through session->tx[].next */
    uint32_t tx_off;           /* bytes of the head already sent */
    uint32_t tx_outstanding;   /* bytes of the queue's buffers */
    struct group *group;       /* of the references to the same stack socket, or NULL */
    struct group *from;        /* accepted from a listener of that group */
    uint16_t connect_tag;
    bool dgram, listener;
    bool armed, arm_new, readable, rx_big, rx_done;
    bool eof_hint, fin; /* read to the end; the peer has ended the stream, and not by a reset */
    bool connecting, unwritable; /* unwritable: the stack takes no more for now (data_unwritable) */
    bool watched, closing;
    bool failed;    /* it was said so: nothing more is received or sent */
    int send_error; /* of a stream: nothing more is sent, but what came is still received; or 0 */
    bool reset;     /* nobody took what came: its close is a reset */
    bool touched;   /* its application may know it: an operation named it, or it was read ahead */
    int8_t shut;    /* pending SHUT_* after the queue, or -1 */
    bool in_ready, in_stalled, dead;
    bool asks,
        alone;     /* a listener: it is to be told of a connection; one that is alone is enough */
    uint32_t seen; /* its group's `came` when it was last told, or took one */
};
TAILQ_HEAD(endpoint_list, endpoint);

/*
 * What the references to one stack socket have in common, in endpoints of any session, in tickets, in
 * a kept listener: whose it is and where it is bound (it is found by that: in->places); bytes that one
 * of them had read ahead, or connections that it had accepted ahead, and gave back.
 */
struct group {
    LIST_ENTRY(group) place; /* of its port; while it listens, or receives datagrams */
    struct account *account;
    struct ffl_addr at;
    bool dgram, only, shares; /* only, shares: its IPV6_V6ONLY and SO_REUSEPORT */
    bool placed;
    int connect_error; /* of the last connect that has ended: the stack tells it once */
    unsigned refs;     /* who may still want what is given back */
    unsigned uses;     /* those, and connections that came from it */
    LIST_HEAD(, endpoint) members;
    TAILQ_HEAD(, endpoint) askers;
    uint32_t came; /* connections in `back` so far; begins at 1 */
    struct endpoint
        *told;         /* of those that are alone, which has not taken what it was told of yet */
    struct timer slow; /* then the others are told */
    struct ffl_instance *in;
    STAILQ_HEAD(, back) back;
    struct kept *kept;
};
LIST_HEAD(group_list, group);

/* A reference to a stack socket in a ticket, for somebody to come. */
struct held {
    LIST_ENTRY(held) key;  /* in->held, by ticket and handle */
    TAILQ_ENTRY(held) all; /* of its ticket; then in->dropped */
    struct ticket *ticket;
    struct group *group;
    struct account *account; /* it is charged to */
    uint32_t handle;         /* the exporting session's */
    int fd;
    bool listener, dgram, connecting, mark;
};
TAILQ_HEAD(held_list, held);

struct tx_slot { /* private facts of a transmit buffer that the instance holds */
    uint32_t next, len;
    uint8_t flags;
    bool outstanding;
};

struct ffl_session {
    struct ffl_instance *in;
    TAILQ_ENTRY(ffl_session) link;
    uint32_t id;
    int sock, pidfd;
    int app_bell, inst_bell; /* eventfds */
    pid_t pid;
    uid_t uid;
    struct account *account;
    uint64_t caps; /* of the kernel's network, with which it acts (rights.c) */
    bool foreign;  /* its sockets cannot be made its user's */
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
    struct endpoint *sweep;         /* dying: the next that is to be closed */
    struct endpoint_list ready, stalled;
    unsigned open;          /* endpoints */
    unsigned nsockets;      /* of CHARGE_SOCKET */
    unsigned cheap;         /* entries since the last look at the clock */
    unsigned last;          /* ended: entries that it had committed, not yet executed */
    uint64_t tx_unwritable; /* tx_outstanding of those that are unwritable */
    bool ended, cut;        /* ended: its application is gone; cut: nothing more is sent */
    bool dying, dead;
    volatile int lost; /* its shared memory is gone (lost.c); a signal handler sets it */
};

struct path { /* of the unix socket, where it is a file (path.c) */
    int dir, lock;
    char name[108];
    dev_t dev; /* of what was bound */
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
    int spare_fd; /* given up to refuse somebody when there is no other */
    struct timer accept_timer;
    struct timers timers;
    struct ledger ledger;
    TAILQ_HEAD(, pending) pending; /* accepted on the unix socket, hello not read yet */
    TAILQ_HEAD(session_list, ffl_session) sessions; /* the oldest first */
    uint32_t next_id, next_serial, next_ticket;
    LIST_HEAD(ticket_list, ticket) tickets[TICKET_LISTS]; /* by id */
    LIST_HEAD(, held) held[HELD_LISTS];
    struct held_list dropped; /* to be closed, a few in each iteration */
    TAILQ_HEAD(, kept) kept;  /* listeners without an application */
    struct group_list places[PLACE_LISTS];
    struct ffl_instance_page *page; /* and its tables */
    struct ffl_stat_session *stat_sessions;
    struct ffl_stat_socket *stat_sockets;
    struct ffl_ids stat_ids; /* slots of stat_sockets */
    struct ffl_spin spin;
    struct ffl_yield yield;
    struct endpoint_list graveyard;
    int64_t slice_end;    /* what is being served has its turn until then */
    int64_t ctl_due;      /* when to look at the control epoll even if busy */
    int64_t empty_since;  /* embedded: no session since then; 0: there are some */
    atomic_int end_asked; /* enum end_kind, by a signal handler too */
    int64_t drain_due;
    bool had_session, stack_quiet, draining;
    struct path path;
};

/* listen.c */
int listen_open(struct ffl_instance *in, char *why, size_t whylen);
void listen_close(struct ffl_instance *in);
int ctl_add(struct ffl_instance *in, int fd, uint32_t events, struct src *src);
/* Takes it out and closes it: where another process holds the same file, as an application does of
 * its bells and of a socket that it has handed over, closing ours would leave it in the epoll. */
void ctl_drop(struct ffl_instance *in, int *fd);
/* Waits up to timeout_ns for the control epoll and handles what came. */
void ctl_wait(struct ffl_instance *in, int64_t timeout_ns);

/* The same for a socket into which a peer may have put something. */
void ctl_drop_peer(struct ffl_instance *in, int *sock);

/* path.c */
/* Binds to o.path, and listens. 0, or -errno with or without a sentence in `why`. */
int path_bind(struct ffl_instance *in, int s, char *why, size_t whylen);
void path_leave(struct ffl_instance *in); /* if it has it */

/* admit.c */
/* Takes sock. brought: by a ticket, whose holder answers for it; else the policy says. */
void admit_peer(struct ffl_instance *in, int sock, bool brought);
void admit_not(struct ffl_instance *in, int sock, const char *why); /* says why, and closes */
void admit_event(struct pending *p);
bool admit_make_room(struct ffl_instance *in);       /* false: nobody is waiting */
void admit_sweep(struct ffl_instance *in, bool all); /* frees those that are done; or all */

/* closer.c */
void closer_close(int fd); /* takes it, and returns at once */
bool closer_busy(void);    /* much is waiting: hear nobody new */
/* Closes a socket that others can send to: at once if nothing is in its queue. */
void closer_drop(int sock);
/* ffl_msg_recv for a message with one descriptor at most: *fd, or -1. More are -EPROTO. */
int closer_recv(int sock, void *data, size_t len, int *fd);

/* rights.c */
void rights_start(struct ffl_instance *in);
/* What the peer may do by itself in the kernel's network. */
uint64_t rights_of(const struct ffl_instance *in, const struct ucred *cred);
void rights_own(struct ffl_session *s, int fd); /* a new socket is the session's user's */
int rights_bind(struct endpoint *e, const struct ffl_addr *a);
int rights_setsockopt(struct endpoint *e, const struct ffl_optarg *o);

/* ticket.c */
/* Takes sock. -EDQUOT: as many as there may be, or as the user may have. */
int ticket_new(struct ffl_instance *in, int sock, struct account *a, uint32_t *id, uint64_t *key);
void ticket_event(struct ticket *t);
void tickets_end(struct ffl_instance *in); /* all of them */
/* Closes what was dropped, for a slice. True: there is more. */
bool tickets_close(struct ffl_instance *in);
/* Into the ticket: -EPROTO for a wrong key, -ENOENT for none (it may have ended). */
int ticket_export(struct endpoint *e, const struct ffl_import *x);
/* Opens `handle`; FFL_IMPORT_*, or as above, or -errno. */
int ticket_import(struct ffl_session *s, uint32_t handle, const struct ffl_import *x);

/* group.c */
struct group *group_of(struct endpoint *e); /* makes it where there is none; NULL without memory */
void group_join(struct endpoint *e, struct group *g);
void group_leave(struct endpoint *e); /* it is closed */
struct group *group_ref(struct group *g);
void group_unref(struct ffl_instance *in, struct group *g); /* NULL is none */
/* It listens, or receives: others find it at its address. 0 or -ENOMEM. */
int group_place(struct endpoint *e);
/* The first group at `port` that is of the same kind. next: after g. */
struct group *group_at(const struct ffl_instance *in, uint16_t port_be, bool dgram);
struct group *group_next(const struct group *g);
void group_accepted(struct endpoint *l, struct endpoint *e,
                    struct group *unread); /* of group_accept, or NULL */
/* flags: FFL_F_ADDR and FFL_F_TRUNC of a datagram. */
int group_unread(struct endpoint *e, const void *data, uint32_t len, uint8_t flags);
/* An accepted connection, to whoever else has its listener. False: nobody has. */
bool group_return(struct endpoint *e);
/* A connection from the stack, for whoever takes it. 0 or -errno. */
int group_fetch(struct endpoint *l);
bool group_shared(const struct endpoint *e); /* has its socket other references? */
bool group_has(const struct endpoint *e);
uint32_t group_size(const struct endpoint *e); /* of the first piece given back, bytes */
uint32_t group_take(struct endpoint *e, void *to, uint32_t room, uint8_t *flags);
/* A connection that was given back, for l's session, which is charged. -EMFILE: it may have no more. */
int group_accept(struct endpoint *l, struct ffl_addr *peer, struct group **unread);

/* offer.c */
void offer_start(struct group *g);
void offer_renew(struct group *g); /* a connection has come, or a reference has gone */
/* `l` is to be told when a connection waits that it does not know of. */
void offer_ask(struct endpoint *l, bool alone);
void offer_leave(struct endpoint *l); /* it asks no more */
/* Tells those who ask, if a connection waits. */
void offer(struct endpoint *l);
/* One connection for `l`, now: FFL_TAKE_*, or -errno. again: then it asks, whatever it got. */
int offer_take(struct endpoint *l, bool again);

/* handover.c */
/* Does a socket of its own user listen, or receive, where `e` is to be bound? */
bool handover_ours(const struct endpoint *e, const struct ffl_addr *a);
/* 0, or -EADDRINUSE: `a` is where another user's socket of this instance listens or receives. */
int handover_may_bind(const struct endpoint *e, const struct ffl_addr *a);
/* Before `e` listens: 1 when it shares a listener that there was, 0 when it is the first, -errno. */
int handover_share(struct endpoint *e);
/* Before the sockets of an application that is gone are closed: what it was never told of. */
void handover_unseen(struct ffl_session *s);
/* Before `e` is closed: its socket stays for a while if it was the last at its address. */
void handover_keep(struct endpoint *e);
void handover_end(struct ffl_instance *in); /* none is kept any more */

/* session.c */
/* Takes sock. -EDQUOT: as many as there may be, or as the user may have. */
int session_new(struct ffl_instance *in, int sock, const struct ffl_hello *h,
                const struct ucred *cred, struct account *a, struct ffl_session **out);
void session_kill(struct ffl_session *s, const char *why);      /* a bad entry */
void session_last_word(struct ffl_session *s, const char *why); /* to its application's log */
void session_end(struct ffl_session *s);                        /* its unix socket closed */
/* Those that end, a slice each; frees those with nothing left. True: there is more to do. */
bool session_reap(struct ffl_instance *in);
void session_free(struct ffl_session *s);
void session_post(struct ffl_session *s, struct ffl_entry e);
/* Executes what was submitted, `most` entries at most: how many, or < 0 and the session is dead. */
int session_drain(struct ffl_session *s, int most);
void session_commit(struct ffl_session *s);            /* commits what was posted and released */
void session_committed(struct ffl_session *s, int rc); /* what a commit returned */
bool session_stuffed(const struct ffl_session *s);     /* the CQ is full: produce nothing more */
void session_tx_release(struct ffl_session *s, uint32_t buf);
void *session_buf(struct ffl_session *s, const struct ffl_pool_geo *p, uint32_t buf);

/* A handle for an accepted socket, or -EMFILE, -ENOMEM; and any handle back. */
int endpoint_handle(struct ffl_session *s);
void endpoint_handle_release(struct ffl_session *s, uint32_t handle);
/* A reference to a stack socket more for the session, or one that it had less. -EMFILE: it, or its
 * user, has what it may have. */
int session_charge(struct ffl_session *s);
void session_discharge(struct ffl_session *s);
/* fd, if there is one, has been charged. */
struct endpoint *endpoint_new(struct ffl_session *s, uint32_t handle, int fd, bool dgram);
/* Closes a connection so that its peer sees a reset. */
int fd_reset(struct ffl_instance *in, int fd);
void endpoint_close(struct endpoint *e); /* closes the stack socket, posts CLOSED, buries */
void endpoint_close_fd(struct endpoint *e,
                       bool reset); /* the stack socket alone; the endpoint stays */
/* Into one list or the other: to be pumped; or, for want of a receive buffer, when one comes back. */
void endpoint_ready(struct endpoint *e);
void endpoint_stall(struct endpoint *e);
void endpoint_timer(struct endpoint *e, int64_t due);
void endpoint_bury(struct ffl_instance *in);

/* interrupt.c */
int bell_ring(int fd); /* 0 or -errno; -EINTR when the write would have waited */
/* Between these a call that waits fails with EINTR after some milliseconds. */
void interrupt_begin(void);
void interrupt_end(void);

/* lost.c */
void lost_guard(struct ffl_instance *in);
void lost_unguard(struct ffl_instance *in);

/* control.c: executes one SQ entry. 0, or -EPROTO with a reason when the session must end. */
int control_entry(struct ffl_session *s, struct ffl_entry e, const char **why);
void control_connected(struct endpoint *e);
void control_close(struct endpoint *e, bool abort);

/* drain.c */
void drain_begin(struct ffl_instance *in, int64_t now);
bool drain_over(struct ffl_instance *in, int64_t now); /* true: this iteration is the last */

/* stats.c */
int stats_open(struct ffl_instance *in, char *why, size_t whylen);
void stats_close(struct ffl_instance *in);
void stats_session(struct ffl_session *s);
void stats_session_end(struct ffl_session *s);
void stats_sessions(struct ffl_instance *in); /* how many, as the ledger has it */
void stats_socket(struct endpoint *e);
void stats_socket_end(struct endpoint *e);
void stats_state(struct endpoint *e); /* after what makes its state was changed */

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
bool accept_pump(struct endpoint *l); /* the same of a listener's connections */
bool data_pump(struct endpoint *e);   /* true: there is more to do next iteration */
int data_accept(struct endpoint *l);  /* one connection for `l`: 0 or -errno */
/* Not now, for want of what may come back: `l` looks again in a second, as asyncio does. */
void data_accept_later(struct endpoint *l, int err);
void data_flush(struct endpoint *e);
void data_drop_tx(struct endpoint *e);
void data_queue(struct endpoint *e, uint32_t buf); /* at the end of what is to be sent */
void data_unwritable(struct endpoint *e, bool on); /* its sends wait for the stack, or no longer */
void data_fail(struct endpoint *e, int err);
/* A stream's sends fail from now on. What the peer sent before is read all the same, and its end. */
void data_fail_sends(struct endpoint *e, int err);
int data_rxfree(struct ffl_session *s); /* takes receive buffers back; count or -EPROTO */

/* Begins what may take one slice of the iteration, and says whether that is over. */
static inline void slice_begin(struct ffl_instance *in)
{
    in->slice_end = ffl_now_ns() + in->o.slice_ns;
}

static inline bool slice_over(const struct ffl_instance *in)
{
    return ffl_now_ns() >= in->slice_end;
}

#define OPS(in) ((in)->stack.ops)
#define ST(in) ((in)->stack.st)

#define LINGER_NS (60 * FFL_NS_PER_SEC)       /* a closed socket's time to send its rest */
#define DYING_LINGER_NS (10 * FFL_NS_PER_SEC) /* the same when its application is gone */
#define ACCEPT_RETRY_NS (FFL_NS_PER_SEC)      /* after EMFILE and the like, as asyncio does */

#endif
