/*
 * internal.h - the session and its sockets' local state, for the files of the client.
 *
 * attach.c   attach, detach, fork
 * hello.c    the instance's unix socket, the handshake
 * call.c     submitting entries; operations that wait for their answer
 * reap.c     completions and returned buffers become socket state
 * socket.c   the life of a socket: open, bind, listen, connect, close
 * accept.c   listeners
 * arm.c      readiness of a socket, reading ahead
 * options.c  socket options
 * errqueue.c the error queue, a stream's control messages
 * recv.c     receive
 * send.c     send
 * wait.c     events: the batch, and the wait for it
 * sleep.c    spinning, yielding, sleeping
 * direct.c   an instance in this thread: the stack works where the client would wait
 * ticket.c   sockets for another process
 * ready.c    readiness: sources, watches, ready lists
 * selector.c an epoll over kernel descriptors and stack sockets
 * kqueue.c   a kqueue over such an epoll, or the shim's
 *
 * Invariants: every socket in the table is open or closing. A socket leaves the table when its
 * CLOSED is reaped, since the next ACCEPT may bring its handle again; CLOSED events go out before
 * others. Each received buffer is in one queue (a socket's, or the batch) or back in the rx-free
 * ring. A detached client's segment is not written.
 */
#ifndef FFL_CLIENT_INTERNAL_H
#define FFL_CLIENT_INTERNAL_H

#include "client.h"
#include "handshake.h"
#include "channel.h"
#include "ids.h"
#include "ready.h"
#include "pool.h"
#include "spin.h"

struct rx_item { /* received bytes: in a shared buffer, or (heap) moved out of the pool */
    struct rx_item *next;
    uint32_t buf; /* FFL_NO_BUF: the bytes follow this struct */
    uint32_t off, len;
    uint8_t flags;
    bool outstanding; /* the shared buffer has not been given back */
    bool stamped;     /* a stream's: a struct ffl_ctl is at the start */
    uint8_t heap[];
};

struct client_beside { /* what few sockets have: it comes beside the data */
    struct ffl_own own;
    struct ffl_ctl ctl;                     /* of the last bytes taken from the stream */
    struct rx_item *reports, **reports_end; /* the error queue, in private memory */
    unsigned n;                             /* reports in it */
};

struct client_sock {
    struct ffl_client *c;
    struct ffl_source own;     /* told of changes, unless the caller has a source */
    struct ffl_source *source; /* `own`, or the caller's */
    struct ffl_watch batch;    /* of `own`, for the events of wait.c */
    struct client_sock *wait_next;
    struct client_sock *acc_next; /* in its listener's queue */
    bool waits;                   /* in that queue: its errors are not told yet */
    uint32_t handle, serial;
    uint32_t armed; /* == the client's `arming`: reads ahead (client_armed); 0: never did */
    uint8_t domain, type, proto;
    bool listener, connecting, push, shows; /* shows: the placeholder is readable */
    bool eof, eof_given, shut_wr, closing;
    bool silent; /* the source is the caller's: no events for wait.c */
    bool want_r, want_w, waiting_w;
    bool give_connect, give_error;
    bool connected;    /* a stream: connect succeeded, or it was accepted */
    bool connect_told; /* the result of the last connect was told */
    bool returning;    /* given back: until nothing more is read ahead */
    int connect_result;
    int error;       /* pending, > 0 */
    bool failed;     /* after an error: nothing more comes */
    bool unsendable; /* sends fail; data that came before, and the end, are still to be read */
    int send_error;  /* errno for the next send, or 0 */
    int open_error;  /* errno of SOCKET, for every later call */
    struct rx_item *rx_head, *rx_tail;
    struct rx_item *given; /* in the current batch */
    uint32_t rx_taken;     /* bytes of the stream that the application has taken, modulo 2^32 */
    uint32_t tx_out;       /* the socket's bytes in the transmit pool, in whole buffers */
    uint32_t tx_limit;     /* SO_SNDBUF; 0: not set */
    size_t tx_left;        /* bytes that the last send could not take */
    uint32_t granted;      /* the last round in which the socket may make a large write; a listener:
                              credit was given since ffl_client_may_come was last asked */
    struct client_sock *acc_head, *acc_tail;
    /* Accepting ahead: connections queued, allowed, still due from the instance. */
    uint32_t acc_n, window, credits;
    bool paused;      /* a listener: disarmed, until the next accept or arm */
    uint32_t offered; /* connections that wait at the instance for a TAKE */
    bool asking;      /* the instance will tell of the next connection, */
    bool alone;       /* one of the processes that are alone, not each (FFL_F_ALONE) */
    uint8_t acc_flags;
    uint32_t addresses_buf; /* an accepted socket's addresses, not handed out yet */
    bool names_known;
    struct ffl_addresses addresses;
    int placeholder;              /* the caller's eventfd, or -1 */
    struct client_beside *beside; /* or NULL */
};

struct call { /* the one operation that waits */
    uint16_t tag;
    bool done;
    int32_t res;
    uint32_t buf;
};

struct ffl_client {
    struct ffl_client *next; /* all clients of the process, for fork */
    int detached;            /* errno, or 0 */
    char why[128];           /* why it is detached */
    bool lost_given;
    int sock, app_bell, inst_bell, own_epfd;
    void (*close_fd)(int fd);
    bool (*copy)(void *to, const void *from, size_t n); /* the caller's data */
    int timeout_ms, inst_pid;
    char stack[16];
    uint32_t tx_cap;
    struct ffl_map map;
    struct ffl_channel ch;
    struct ffl_pool tx;
    uint32_t *tx_handle, *tx_serial;   /* the sockets of transmit buffers, by slot */
    struct rx_item *rx;                /* by slot (shared buffers) */
    uint64_t rx_total, rx_outstanding; /* bytes of the receive pool; of them outstanding */
    size_t rx_moved;                   /* items that were moved out of the pool */
    struct client_sock **table;
    struct client_sock *spare; /* freed sockets, by wait_next */
    uint32_t n, serial;
    uint32_t arming;    /* rises when a SHARE has disarmed all sockets; at least 2 */
    struct ffl_ids ids; /* handles that the client chooses */
    int open;
    struct ffl_poll poll; /* sockets with events */
    unsigned shown; /* pollers of the doorbell that do not call the client (ffl_client_shown) */
    bool quiet;
    uint32_t *closed, closed_n, cap_closed; /* handles whose CLOSED event is due */
    struct client_sock *settled;            /* returned, to be closed; by acc_next */
    /* Sockets that want to write, the longest wait first. */
    struct client_sock *waiters, **waiters_end;
    unsigned bulk_waiters;  /* waiters with a large write */
    uint32_t round;         /* waits so far */
    int64_t round_granted;  /* bytes of the window that this round has granted */
    uint64_t tx_unwritable; /* the instance's counter when writers were last woken */
    int64_t paces_from;     /* until then large writes do not wait for the instance */
    int64_t paced_ns;       /* for which they have waited in this round */
    struct rx_item **batch; /* data handed out by the last wait */
    uint32_t *batch_addresses;
    struct client_sock **batch_sock;
    uint32_t batch_n, batch_addresses_n;
    struct call call;
    uint16_t next_tag;
    struct ffl_sleeper sleeper, caller; /* of waits, and of calls: an idle loop's calls spin, too */
    struct ffl_client *beside;          /* the next client in a sleeper's list */
    int64_t fd_checked;
    int64_t looked; /* when client_look last checked that the instance lives */
    const struct ffl_driver *driver;
};

/* hello.c */
int client_limit_ms(int timeout_ms); /* of ffl_client_opts; 0: the default */
/* Replaces unprintable characters of an instance's text by '?'. */
void client_clean(char *text, size_t size);
int client_connect(const struct ffl_client_opts *o, char *why, size_t whylen);
/* Sends a hello on `s`, and reads the reply with exactly `want` descriptors. */
int client_shake_hands(int s, const struct ffl_hello *h, struct ffl_reply *r, int *fds, int want,
                       const struct ffl_client_opts *o, char *why, size_t whylen);

/* attach.c */
void client_lose(struct ffl_client *c, int err, const char *why);
struct client_sock *client_sock(const struct ffl_client *c, int h); /* NULL: no such open socket */

/* direct.c */
/* Runs one iteration of the stack, if the stack is in this thread. */
void client_drive(struct ffl_client *c);
/* ffl_client_sleep, by iterations of the stack. */
int client_drive_until(struct ffl_client *c, struct epoll_event *ev, int max, int epfd,
                       int64_t timeout_ns);

/* ticket.c */
int client_connect_via(int ticket);
/* Gives the socket's queue back to the instance: 0, or -errno with a part given back. */
int client_give_back(struct ffl_client *c, struct client_sock *s);

/* call.c */
/* An operation without an argument. */
static inline struct ffl_entry client_entry(enum ffl_op op, uint32_t handle)
{
    return (struct ffl_entry){.op = (uint8_t)op, .handle = handle, .buf = FFL_NO_BUF};
}
/* Puts and commits an entry, so that the instance works on it while the application goes on. */
void client_submit(struct ffl_client *c, struct ffl_entry e);
void client_put(struct ffl_client *c, struct ffl_entry e); /* the caller commits */
void client_commit(struct ffl_client *c);
int client_ring(int bell); /* the instance's doorbell */
/* A transmit buffer for `want` bytes, perhaps a smaller one; one of `want` bytes at least; and one
 * that has a copy of `data`. FFL_NO_BUF: none is free. */
uint32_t client_buf(struct ffl_client *c, uint32_t want);
uint32_t client_whole_buf(struct ffl_client *c, uint32_t want);
uint32_t client_arg(struct ffl_client *c, const void *data, size_t len);
/* Submits with a tag and waits for the answer: its result. Its buffer is copied to out, up to len
 * bytes. */
int client_call(struct ffl_client *c, struct ffl_entry e, void *out, size_t len);

/* reap.c */
void client_reap(struct ffl_client *c); /* takes all completions and returned buffers */
/* client_reap before a call returns -EAGAIN: a caller that never waits gets completions too, and
 * hears of the instance's end within FFL_LOOK_NS. */
void client_look(struct ffl_client *c);
void client_release(struct ffl_client *c, struct rx_item *it);
void client_release_buf(struct ffl_client *c, uint32_t buf);
void client_wake_writers(struct ffl_client *c);
void client_evacuate(struct ffl_client *c, struct client_sock *s);
bool client_crowded(const struct ffl_client *c); /* over half of the receive pool is outstanding */
void placeholder_update(struct client_sock *s);

static inline bool client_armed(const struct client_sock *s)
{
    return s->armed == s->c->arming;
}

/* Conditions `what` may be true now; FFL_WATCH_ALL: any may. */
#define CLIENT_SOCK_READ (EPOLLIN | EPOLLRDNORM)
#define CLIENT_SOCK_WRITE (EPOLLOUT | EPOLLWRNORM)
static inline void client_sock_tell(struct client_sock *s, uint32_t what)
{
    ffl_source_tell(s->source, what);
}

/* socket.c */
/* A new socket, nothing submitted yet: its handle or -errno. */
int client_sock_open(struct ffl_client *c, int domain, int type, int proto);
/* ffl_client_return for all that l accepted ahead; after a round trip each socket is in c->settled,
 * for client_sock_settle to close. */
void client_sock_return_queue(struct ffl_client *c, struct client_sock *l);
void client_sock_settle(struct ffl_client *c);
/* The open socket of handle h, of an attached client: 0 or -errno. */
int client_find(const struct ffl_client *c, int h, struct client_sock **s);
struct client_sock *client_sock_new(struct ffl_client *c, uint32_t handle);
void client_sock_free(struct ffl_client *c, struct client_sock *s);
void client_sock_closed(struct ffl_client *c, struct client_sock *s);
void handle_release(struct ffl_client *c, uint32_t handle);
void client_sock_accept_ahead(struct ffl_client *c, struct client_sock *l); /* arms a listener */
void client_sock_grant(struct ffl_client *c, struct client_sock *l); /* tops the accept credit up */
/* Takes the first socket off the listener's accept queue, which is not empty. */
struct client_sock *client_sock_accepted(struct client_sock *l);
/* n connections wait at the instance; other processes may take them. */
void client_sock_offered(struct ffl_client *c, struct client_sock *l, int32_t n);
void client_sock_took(struct client_sock *l, int32_t what); /* enum ffl_take, or -errno */
void client_sock_arm(struct ffl_client *c, struct client_sock *s);
uint32_t client_sock_ask(struct ffl_source *own, const struct ffl_watch *w);
/* Takes data out of the socket's receive queue, to give it back to the instance: of a stream up to
 * `room` bytes, else one datagram. Returns the bytes. */
uint32_t client_sock_take_queued(struct ffl_client *c, struct client_sock *s, void *to,
                                 uint32_t room);

/* errqueue.c */
struct client_beside *client_beside(struct client_sock *s); /* makes it; NULL: no memory */
void client_beside_free(struct client_sock *s);
bool client_reports(const struct client_sock *s); /* the error queue is not empty */
/* Queues a report: `len` bytes of a REPORT's buffer. */
void client_report(struct client_sock *s, const void *data, uint32_t len, uint8_t flags);
int64_t client_take_report(struct ffl_client *c, struct client_sock *s, struct ffl_dgram *d);

/* recv.c */
bool rx_readable(const struct client_sock *s);
int client_take_error(struct client_sock *s); /* the pending error, negative: told once */
/* Copies a datagram or report out, from byte `skip` of its data on: bytes, or -EFAULT. */
int64_t client_item_out(struct ffl_client *c, const struct rx_item *it, size_t skip,
                        struct ffl_dgram *d);

/* send.c */
bool tx_writable(const struct ffl_client *c, const struct client_sock *s);
bool tx_is_bulk(const struct client_sock *s); /* its last send left much: a large write */
int64_t tx_room(const struct ffl_client *c);
bool tx_half_free(const struct ffl_client *c); /* large writes that wait may go on */
uint64_t tx_unwritable(const struct ffl_client *c);
void tx_wait(struct ffl_client *c, struct client_sock *s);

/* wait.c */
bool client_pending(struct ffl_client *c);
uint32_t client_wait_bits(const struct ffl_client *c);
/* ffl_client_sleep; gives FD events, and takes those of the doorbell and the session socket
 * itself. */
int client_sleep(struct ffl_client *c, struct ffl_event *ev, int max, int epfd, int64_t timeout_ns,
                 bool looks);
#define FD_PERIOD_NS 50000 /* kernel events are taken this often while the rings are busy */

#endif
