/*
 * internal.h - what the files of the instance share: the instance, sessions, endpoints.
 *
 * listen.c    the unix socket, the control epoll
 * admit.c     who is admitted; the handshake
 * rights.c    whose rights count where a socket is the kernel's
 * ledger.c    what each user holds
 * timers.c    what is to happen later
 * closer.c    closes what others have sent, on a thread of its own
 * interrupt.c calls that somebody else can make wait, cut short
 * session.c   a session's life; posting completions; publishing and waking
 * lost.c      outlives the loss of an application's memory
 * control.c   the operations of the SQ
 * data.c      the three pumps: receive, accept, transmit
 * share.c     sockets that several processes have: groups, tickets
 * handover.c  listeners of one address, and what their application never heard of
 * serve.c     the turn and the sleep
 * stats.c     the stats pages
 * drain.c     the graceful end
 * policy.c    who may attach, who may bind which ports
 * notify.c    the service manager
 *
 * Invariants: an endpoint is in its session's table under its handle until CLOSED is posted, then in
 * the graveyard until the turn ends (the stack's events of this turn may still name it). Nothing
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

struct ep { /* an endpoint: one session's reference to one stack socket */
    struct ffl_session *s;
    struct ffl_stat_socket *st; /* for observers; what is decided on is here */
    struct ep *next, *prev;     /* in the ready or stalled list; next: in the graveyard */
    struct ep *timed;           /* in the instance's timed list */
    int64_t due;                /* when a timed endpoint is looked at */
    uint32_t handle;
    uint32_t serial; /* tells a reused handle's buffers apart */
    int fd;          /* -1: open_error says why */
    int open_error;
    uint32_t credits;          /* listener: accepts that the application will take */
    uint32_t rx_held;          /* bytes of the receive pool with the application */
    uint32_t rx_posted;        /* bytes of the stream so far, modulo 2^32 */
    int32_t rx_due;            /* bytes that the stack has said are there */
    uint32_t tx_head, tx_tail; /* queued transmit buffers, through session->tx[].next */
    uint32_t tx_off;           /* bytes of the head already sent */
    uint32_t tx_held;          /* bytes of the queue's buffers */
    struct group *group;       /* shared with other references to the same stack socket, or NULL */
    struct group *from;        /* accepted from a shared listener */
    struct ep *group_next;
    uint16_t connect_tag;
    bool dgram, listener;
    bool armed, arm_new, readable, rx_big, rx_done;
    bool eof_hint, fin; /* read to the end; the peer has ended the stream, and not by a reset */
    bool connecting, blocked; /* blocked: the stack takes no more for now (data_block) */
    bool watched, closing;
    bool failed;    /* it was said so: nothing more is received or sent */
    int send_error; /* of a stream: nothing more is sent, but what came is still received; or 0 */
    bool reset;     /* nobody took what came: its close is a reset */
    bool touched;   /* its application may know it: an operation named it, or it was read ahead */
    int8_t shut;    /* pending SHUT_* after the queue, or -1 */
    bool in_ready, in_stalled, in_timed, dead;
    bool buried; /* only the timed list knows it still */
};

struct tx_slot { /* private facts of a transmit buffer that the instance holds */
    uint32_t next, len;
    uint8_t flags;
    bool held;
};

struct ep_list {
    struct ep *head, *tail;
};

struct ffl_session {
    struct ffl_instance *in;
    struct ffl_session *next;
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
    struct ep **table; /* by handle: [0, n) the application's, [n, 2n) the instance's */
    uint32_t n;
    struct ffl_ids ids; /* the instance's handles; those below ids.fresh may be open */
    struct ep_list ready, stalled;
    unsigned open;       /* endpoints */
    uint64_t tx_blocked; /* tx_held of those that are blocked */
    bool dying, dead;
    volatile int lost; /* its shared memory is gone (lost.c); a signal handler sets it */
};

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
    struct ffl_session *sessions;
    uint32_t next_id, next_serial, next_ticket;
    struct ticket *tickets;
    struct kept *kept;              /* listeners without an application */
    struct ffl_instance_page *page; /* and its tables */
    struct ffl_stat_session *stat_sessions;
    struct ffl_stat_socket *stat_sockets;
    struct ffl_ids stat_ids; /* slots of stat_sockets */
    struct ffl_spin spin;
    struct ffl_yield yield;
    struct ep *graveyard, *timed;
    int64_t ctl_due;      /* when to look at the control epoll even if busy */
    int64_t empty_since;  /* embedded: no session since then; 0: there are some */
    atomic_int end_asked; /* enum end_kind, by a signal handler too */
    int64_t drain_due;
    bool had_session, stack_quiet, draining;
    struct sockaddr_un bound; /* to unlink what we bound, and only that */
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
int rights_bind(struct ep *e, const struct ffl_addr *a);
int rights_setsockopt(struct ep *e, const struct ffl_optarg *o);

/* share.c */
/* Takes sock. -EDQUOT: as many as there may be, or as the user may have. */
int ticket_new(struct ffl_instance *in, int sock, struct account *a, uint32_t *id, uint64_t *key);
void ticket_event(struct ticket *t);
void ticket_end(struct ticket *t);
/* Into the ticket whose key begins (its low half) so: -EPROTO when it does not, -ENOENT for none. */
int ticket_export(struct ep *e, uint32_t id, uint32_t key);
/* Is one of the listeners (or datagram sockets) in tickets what `found` looks for? Its user, its fd. */
bool ticket_takes(const struct ffl_instance *in, bool dgram, bool (*found)(void *arg, uid_t, int),
                  void *arg);
/* Opens `handle`; FFL_IMPORT_* or -errno. */
int ticket_import(struct ffl_session *s, uint32_t handle, const struct ffl_import *i);
void group_leave(struct ep *e); /* it is closed */
/* `e`, bound and nothing more yet, becomes a reference to the socket of `with`. 0 or -errno. */
int group_share(struct ep *e, struct ep *with);
/* `unread`, or NULL, is what group_accept gave: taken over. */
void group_accepted(struct ep *l, struct ep *e, struct group *unread);
void group_drop(struct ffl_instance *in,
                struct group *g); /* group_accept's, group_keep's; or NULL */
/* A reference to the group of `e`, the last that has it; or NULL. */
struct group *group_keep(struct ep *e);
/* `e`, bound and nothing more yet, becomes the reference `fd` with that group; both taken over. */
void group_take_over(struct ep *e, int fd, struct group *kept);
/* Which of the listeners that share l's socket takes its next connection, of those that `may`: each
 * in its turn, so that the applications get equal parts. NULL: none. */
struct ep *group_turn(struct ep *l, bool (*may)(const struct ep *));
/* flags: FFL_F_ADDR and FFL_F_TRUNC of a datagram. */
int group_unread(struct ep *e, const void *data, uint32_t len, uint8_t flags);
/* An accepted connection, to whoever else has its listener. False: nobody has. */
bool group_return(struct ep *e);
bool group_shared(const struct ep *e); /* has its socket other references? */
bool group_has(const struct ep *e);
uint32_t group_size(const struct ep *e); /* of the first piece given back, bytes */
uint32_t group_take(struct ep *e, void *to, uint32_t room, uint8_t *flags);
int group_accept(struct ep *l, struct ffl_addr *peer, struct group **unread);

/* handover.c */
/* Does a socket of its own user listen, or receive, where `e` is to be bound? */
bool handover_ours(const struct ep *e, const struct ffl_addr *a);
/* 0, or -EADDRINUSE: `a` is where another user's socket of this instance listens or receives. */
int handover_may_bind(const struct ep *e, const struct ffl_addr *a);
/* Before `e` listens: 1 when it shares a listener that there was, 0 when it is the first, -errno. */
int handover_share(struct ep *e);
/* Before the sockets of an application that is gone are closed: what it was never told of. */
void handover_unseen(struct ffl_session *s);
/* Before `e` is closed: its socket stays for a while if it was the last at its address. */
void handover_keep(struct ep *e);
int64_t handover_due(const struct ffl_instance *in); /* when the next that was kept is to go */
void handover_expire(struct ffl_instance *in, int64_t now);

/* session.c */
/* Takes sock. -EDQUOT: as many as there may be, or as the user may have. */
int session_new(struct ffl_instance *in, int sock, const struct ffl_hello *h,
                const struct ucred *cred, struct account *a, struct ffl_session **out);
void session_kill(struct ffl_session *s, const char *why);      /* a bad entry */
void session_last_word(struct ffl_session *s, const char *why); /* to its application's log */
void session_end(struct ffl_session *s);                        /* its unix socket closed */
void session_reap(struct ffl_instance *in);                     /* frees those with nothing left */
void session_free(struct ffl_session *s);
void session_post(struct ffl_session *s, struct ffl_entry e);
/* Executes what was submitted, `most` entries at most: how many, or < 0 and the session is dead. */
int session_drain(struct ffl_session *s, int most);
void session_flush(struct ffl_session *s);             /* commits what was posted and released */
void session_committed(struct ffl_session *s, int rc); /* what a commit returned */
bool session_stuffed(const struct ffl_session *s);     /* the CQ is full: produce nothing more */
void session_tx_release(struct ffl_session *s, uint32_t buf);
void *session_buf(struct ffl_session *s, const struct ffl_pool_geo *p, uint32_t buf);

/* A handle for an accepted socket, or -EMFILE, -ENOMEM; and any handle back. */
int ep_handle(struct ffl_session *s);
void ep_handle_release(struct ffl_session *s, uint32_t handle);
struct ep *ep_new(struct ffl_session *s, uint32_t handle, int fd, bool dgram);
int fd_reset(struct ffl_instance *in,
             int fd);        /* closes a connection so that its peer sees a reset */
void ep_close(struct ep *e); /* closes the stack socket, posts CLOSED, buries */
/* Into one list or the other: to be pumped; or, for want of a receive buffer, when one comes back. */
void ep_ready(struct ep *e);
void ep_stall(struct ep *e);
void ep_timer(struct ep *e, int64_t due);
void ep_bury(struct ffl_instance *in);
void list_push(struct ep_list *l, struct ep *e);
struct ep *list_pop(struct ep_list *l);

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
void control_connected(struct ep *e);
void control_close(struct ep *e, bool abort);

/* drain.c */
void drain_begin(struct ffl_instance *in, int64_t now);
bool drain_over(struct ffl_instance *in, int64_t now); /* true: this turn is the last */

/* stats.c */
int stats_open(struct ffl_instance *in, char *why, size_t whylen);
void stats_close(struct ffl_instance *in);
void stats_session(struct ffl_session *s);
void stats_session_end(struct ffl_session *s);
void stats_sessions(struct ffl_instance *in); /* how many, as the ledger has it */
void stats_socket(struct ep *e);
void stats_socket_end(struct ep *e);
void stats_state(struct ep *e); /* after what makes its state was changed */

static inline void stats_held(struct ep *e)
{
    atomic_store_explicit(&e->st->rx_held, e->rx_held, memory_order_relaxed);
}

static inline void stats_queued(struct ep *e, uint32_t more, uint32_t less)
{
    uint32_t n = atomic_load_explicit(&e->st->tx_queued, memory_order_relaxed);
    atomic_store_explicit(&e->st->tx_queued, n + more - less, memory_order_relaxed);
}

/* data.c */
void data_event(struct ep *e, const struct ffl_stack_event *ev);
bool data_pump(struct ep *e); /* true: there is more to do next turn */
void data_flush(struct ep *e);
void data_drop_tx(struct ep *e);
void data_queue(struct ep *e, uint32_t buf); /* at the end of what is to be sent */
void data_block(struct ep *e, bool on);      /* its sends wait for the stack, or no longer */
void data_fail(struct ep *e, int err);
/* A stream's sends fail from now on. What the peer sent before is read all the same, and its end. */
void data_fail_sends(struct ep *e, int err);
int data_rxfree(struct ffl_session *s); /* takes receive buffers back; count or -EPROTO */

#define OPS(in) ((in)->stack.ops)
#define ST(in) ((in)->stack.st)

#define LINGER_NS (60 * FFL_NS_PER_SEC)       /* a closed socket's time to send its rest */
#define DYING_LINGER_NS (10 * FFL_NS_PER_SEC) /* the same when its application is gone */
#define ACCEPT_RETRY_NS (FFL_NS_PER_SEC)      /* after EMFILE and the like, as asyncio does */

#endif
