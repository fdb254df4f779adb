/*
 * client.h - the application's end of a session: attach, sockets, readiness.
 *
 * Callers: the cffi module (ffloop/_session/binding.py), hot/ and the shim. One thread at a time
 * uses a client; the shim adds its own lock. Unless its comment says "waits", a call never blocks:
 * it touches memory, rings the doorbell of an instance that sleeps, writes a placeholder, and looks
 * once per second whether the instance lives. Calls that wait take at most the session's time-out
 * (ffl_client_opts.timeout_ms) and return at once when the instance dies. Returns: a count or
 * handle, 0, or -errno in Linux's numbers. A detached client: ffl_client_detached's.
 *
 * A socket is a handle: an int >= 0, dense enough to index a table. A handle stays taken until its
 * FFL_EV_CLOSED; after ffl_client_close the caller must not use the handle.
 */
#ifndef FFL_CLIENT_H
#define FFL_CLIENT_H

#include "driver.h"
#include "handshake.h"
#include "layout.h"
#include "ready.h"
#include "spin.h"

#include <sys/uio.h>

struct ffl_client;

/* ---- session ------------------------------------------------------------------------------- */

struct ffl_ticket { /* a connection that has references for another process (handshake.h) */
    int fd;
    uint32_t id;
    uint64_t key;
};

struct ffl_client_opts {
    const char *path;     /* unix socket; "@name": abstract */
    int timeout_ms;       /* of the handshake and of calls that wait; 0: 10 s */
    int64_t spin_us;      /* FFL_SPIN_AUTO, FFL_SPIN_FOREVER, 0: never, else microseconds */
    uint32_t max_sockets; /* 0: the instance's default */
    uint32_t pool_kib;    /* KiB per direction; 0: the instance's default */
    uint32_t tx_cap;      /* unsent bytes per socket, at most; 0: 4 MiB */
    int (*place_fd)(
        int fd); /* NULL, or: moves a new descriptor, returns the number; fd < 0: -errno */
    const struct ffl_ticket *via; /* attach through this ticket, not at path; or NULL */
    void (*close_fd)(int fd);     /* with place_fd: closes a descriptor that was placed */
    /* NULL, or: memcpy from and to the caller's data; false (a bad pointer) becomes -EFAULT */
    bool (*copy)(void *to, const void *from, size_t n);
    /* NULL, or: the driver of an instance in this thread; outlives the client */
    const struct ffl_driver *driver;
};

/*
 * Connects, shakes hands, maps the segment. Waits. 0, or -errno with a sentence:
 *   -ENOENT, -ECONNREFUSED, -EACCES  no instance at the path, a dead one's socket, no permission
 *   -EPROTONOSUPPORT                 the instance speaks another version
 *   -EPERM                           the instance refused this user
 *   -ENOTUNIQ                        another user could have put a socket there (place.h)
 *   -EUSERS                          too many sessions
 *   -EPROTO                          not an ffloop instance, or a malformed reply
 *   -ETIMEDOUT, -ENOMEM, ...
 */
int ffl_client_attach(struct ffl_client **out, const struct ffl_client_opts *opts, char *why,
                      size_t whylen);

/* Starts an instance on F-Stack in this thread, for ffl_client_opts.driver; it takes the stack's
 * options and listens at `path`. `native` is the folder of ffloop's compiled files. Waits. 0, or
 * -errno with a sentence:
 *   -ENOENT, -ELIBBAD  F-Stack is not installed, or cannot be loaded (shm/module.h)
 *   -EPERM, -EBUSY     this process is a fork; another thread has the stack
 *   -EINVAL, ...       the options are wrong, or this machine cannot run the stack */
struct ffl_direct;
int ffl_direct_start(struct ffl_direct **out, const char *native, int argc, char **argv,
                     const char *path, char *why, size_t whylen);
const struct ffl_driver *ffl_direct_driver(const struct ffl_direct *d);
void ffl_direct_stop(struct ffl_direct *d); /* a forked child only frees d */

/* Registers the client's fork handlers; attach does so too. Handlers registered later run before
 * the client's in the parent, and after them in the child, where every client is detached by
 * then. */
void ffl_client_at_fork(void);
/* The handlers, for a fork that runs no handlers (_Fork, clone). */
void ffl_client_before_fork(void);
void ffl_client_after_fork(bool child);

/* Ends the session; the instance sends the submitted data, then closes the sockets. Frees `c`.
 * Waits only to return connections that were accepted ahead, half a second per round trip. */
void ffl_client_detach(struct ffl_client *c);

/* In a forked child, of the parent's client, which is only to be detached from now on: gives its
 * memory up (RLIMIT_AS counts it). */
void ffl_client_unmap(struct ffl_client *c);

/* The client's descriptor `from` is now at number `to` (place_fd), and `from` is closed. False: the
 * client has no such descriptor. */
bool ffl_client_moved(struct ffl_client *c, int from, int to);

/* 0, or -errno: the session is lost (-ECONNRESET), the instance broke the protocol (-EPROTO), or
 * memory or buffers ran out (-ENOMEM, -ENOBUFS). In a forked child the parent's client is
 * detached. */
int ffl_client_detached(const struct ffl_client *c);
/* Why the client is detached, a sentence: the instance's own where it ended the session;
 * "" while attached. */
const char *ffl_client_why(const struct ffl_client *c);

/* Descriptors to wait on (ffl_client_wait does so if they are in its epoll): the doorbell, to be
 * registered EPOLLIN|EPOLLET and never read, and the session socket, EPOLLIN|EPOLLRDHUP, which
 * becomes readable when the session ends. */
int ffl_client_doorbell_fd(const struct ffl_client *c);
int ffl_client_session_fd(const struct ffl_client *c);
int ffl_client_memfd(const struct ffl_client *c);
uint32_t ffl_client_size(const struct ffl_client *c); /* of the segment, bytes */
int ffl_client_instance_pid(const struct ffl_client *c);
const char *ffl_client_stack(const struct ffl_client *c); /* "host", "fstack" */

/* ---- events -------------------------------------------------------------------------------- */

enum ffl_event_kind {
    FFL_EV_DATA = 1, /* push mode: arg = bytes at segment offset `off`, valid until the next wait.
                        off = 0: the bytes were moved out of the pool while the socket was paused:
                        take them by ffl_client_recv(h, ..., arg) */
    FFL_EV_EOF,      /* the peer sends no more; after the last data */
    FFL_EV_ERROR,   /* arg = errno > 0: the socket failed, and only CLOSED follows. After the queued
                        data in push mode; at once while push is off */
    FFL_EV_ACCEPT,  /* push mode: arg = new handle, off -> struct ffl_addresses in the segment */
    FFL_EV_CONNECT, /* arg = 0 or errno > 0 */
    FFL_EV_READABLE, /* for ffl_client_want: recv or accept will not return -EAGAIN */
    FFL_EV_WRITABLE, /* for ffl_client_want, or after a short send: there is credit */
    FFL_EV_CLOSED,   /* the handle is free */
    FFL_EV_FD,   /* a kernel descriptor in the epoll: handle = descriptor, arg = epoll's events */
    FFL_EV_LOST, /* the session is lost: arg = errno > 0. Once; every handle is void */
};

struct ffl_event { /* four words, so that Python decodes a batch in one go */
    uint32_t kind;
    uint32_t handle;
    uint32_t arg;
    uint32_t off;
};
_Static_assert(sizeof(struct ffl_event) == 16, "event ABI");

/*
 * Gives the last batch's buffers back, reaps completions, and fills `ev`, with one DATA per socket
 * at most, so that sockets are served round robin. While there is none: spins as the options say,
 * then sleeps in epoll_wait(epfd) for timeout_ns at most (-1: for ever, 0: not at all). Kernel
 * events of epfd are looked at in every sleep and, while the rings are busy, at least every 50 us.
 * epfd must hold the doorbell and the session socket, which give no FD events; -1: sleeps on those
 * two alone. Returns the number of events, at most `max` >= 4, or -errno of epoll. 0: the time is
 * over, a signal came, or a second (FFL_LOOK_NS) went by: the caller looks at its signals and waits
 * again.
 */
int ffl_client_wait(struct ffl_client *c, struct ffl_event *ev, int max, int epfd,
                    int64_t timeout_ns);

/* Takes the DATA event of `handle` out of the current batch, and puts its bytes back at the head of
 * the socket's queue: for a socket that was paused after the wait. -EINVAL: the batch has no such
 * event. */
int ffl_client_unread(struct ffl_client *c, int handle);

/* ---- watching: for a caller with polls of its own (ready.h) ---------------------------------- */

/* The source that is told of the socket's changes; NULL: no such socket.
 * Its watches end with the socket. */
struct ffl_source *ffl_client_source(const struct ffl_client *c, int h);
/* From now on the caller's `source` is told of the socket's changes, and the socket gives no
 * events. Such a caller does not use ffl_client_wait: it reaps, reads its polls' ready lists, and
 * sleeps on the doorbell and the session socket between doze and rouse. */
int ffl_client_watch(struct ffl_client *c, int h, struct ffl_source *source);
/* While on: the caller does not use ffl_client_wait,
 * and a closed handle is free without its event. */
void ffl_client_quiet(struct ffl_client *c, bool on);
/* Takes completions and returned buffers from the rings;
 * does not notice that an instance has died. */
void ffl_client_reap(struct ffl_client *c);

/* ---- sleeping -------------------------------------------------------------------------------- */

/* Sleeps in epoll_wait(epfd), FFL_LOOK_NS at most, unless completions come first. `looks`: asks
 * epfd for events in any case. The number of epfd's events, or -errno of epoll (-EINTR, too). */
int ffl_client_sleep(struct ffl_client *c, struct epoll_event *ev, int max, int epfd,
                     int64_t timeout_ns, bool looks);

/* The parts of ffl_client_sleep, for a caller that blocks by itself, for one client or a list of
 * them (`first`; NULL: none). Each thread has a sleeper of its own. Where several threads sleep, a
 * thread that uses a client dozes again before it returns; the last one to wake rouses. */
struct ffl_sleeper {
    struct ffl_idle idle;
    bool whole; /* the sleep was cut to FFL_LOOK_NS */
};
void ffl_client_join(struct ffl_client **first, struct ffl_client *c);
void ffl_client_part(struct ffl_client **first, struct ffl_client *c);
/* Spins or yields, then dozes. True: block for *left_ns at most (the rest of the time; FFL_LOOK_NS
 * at most; negative: for ever), then call woken and rouse. False: look at the rings. */
bool ffl_sleep_prepare(struct ffl_sleeper *s, struct ffl_client *const *first, int64_t *left_ns,
                       ffl_came_fn *came, void *arg);
/* Raises the wait words, then looks at the rings. False: completions are there; do not block. */
bool ffl_sleep_doze(struct ffl_client *first);
/* Before the first reap after a sleep: counts late looks,
 * which found completions without a doorbell. */
void ffl_sleep_woken(const struct ffl_sleeper *s, struct ffl_client *first, bool timed_out);
void ffl_sleep_rouse(struct ffl_client *first); /* lowers the wait words */
/* While on: other code polls the doorbell, so the wait word stays raised in spite of rouse. */
void ffl_client_shown(struct ffl_client *c, bool on);
/* The session socket has become readable: reaps the rest; the client is detached from now on. */
void ffl_client_lost(struct ffl_client *c);
/* Asks the instance to read ahead, as a recv that finds nothing does; for a listener, to accept
 * ahead, `window` connections at most. */
int ffl_client_arm(struct ffl_client *c, int h, int window);
/* Arms the socket and, if it was not, waits for what has come on it until now. 0 or -errno. */
int ffl_client_look(struct ffl_client *c, int h);
/* Of a socket that is not writable: its source is told when the socket is writable. */
void ffl_client_want_room(struct ffl_client *c, int h);

enum {                   /* ffl_client_state */
       FFL_ST_READ = 1,  /* recv or accept will not return -EAGAIN */
       FFL_ST_WRITE = 2, /* send will not return -EAGAIN */
       FFL_ST_EOF = 4,   /* the peer sends no more; data may still be queued before that */
       FFL_ST_ERROR = 8, /* an error is pending (SO_ERROR) */
       FFL_ST_FAILED = 16,
       FFL_ST_SHUT_WR = 32,
       FFL_ST_CONNECTING = 64,
       FFL_ST_REPORT = 128, /* the error queue is not empty */
};
unsigned ffl_client_state(const struct ffl_client *c, int h);

/* ---- sockets for another process ------------------------------------------------------------ */

/* Opens a ticket at o->path (or through o->via). Waits. Errors as attach. */
int ffl_client_ticket(const struct ffl_client_opts *o, struct ffl_ticket *out, char *why,
                      size_t whylen);
int ffl_ticket_send(int fd, enum ffl_ticket_what what, const uint32_t *handles, uint32_t n);
/* Before an export: disarm stops reading (or accepting) ahead (false: the socket did not); after a
 * ping, give_back returns the unread rest to the instance: 1; 0: there is none; or -ENOBUFS: no
 * buffer for it, it stays. Another process gets it in order after one more ping (of an accepted
 * socket's data: after two). The next recv or accept that finds nothing arms the socket again. */
bool ffl_client_disarm(struct ffl_client *c, int h);
int ffl_client_give_back(struct ffl_client *c, int h);
/* Puts a reference to the socket into a ticket. 0, -ENOBUFS, or a lost session's -errno; other
 * failures show at the import. May wait. */
int ffl_client_export(struct ffl_client *c, int h, const struct ffl_ticket *t);
/* Disarms all sockets, and puts references to them into a ticket, at the cost of one operation.
 * Before it, listeners are disarmed one by one and exported; after it, give_back returns what was
 * read ahead. Waits. 0 or -errno. */
int ffl_client_share(struct ffl_client *c, const struct ffl_ticket *t);
/* Puts references to these n sockets into a ticket that has no others: each is disarmed, what was
 * read ahead is given back, and of listeners a reference is there by an export. Waits. 0 or
 * -errno. */
int ffl_client_share_some(struct ffl_client *c, const struct ffl_ticket *t, const uint32_t *handles,
                          uint32_t n);
bool ffl_client_holds_bytes(const struct ffl_client *c); /* false: nothing is to be given back */
/* Arms the socket if it was disarmed by the last share, or by disarm since. */
void ffl_client_rearm(struct ffl_client *c, int h);
/* Takes a reference out of a ticket, by the exporting session's handle: a handle of this session,
 * or -errno (-ENOENT: the ticket has no such reference). Waits. */
int ffl_client_import(struct ffl_client *c, const struct ffl_ticket *t, uint32_t handle, int domain,
                      int type, int proto);

/* ---- sockets ------------------------------------------------------------------------------- */

/* Opens a socket; does not wait: a failure shows at the socket's later calls. flags: FFL_F_NODELAY.
 * -EAFNOSUPPORT, -EMFILE (the session's quota). */
int ffl_client_socket(struct ffl_client *c, int domain, int type, int proto, unsigned flags);

/* These wait for the instance's answer and return 0 or its -errno. */
int ffl_client_bind(struct ffl_client *c, int h, const struct ffl_addr *a);
/* flags: FFL_F_NODELAY; FFL_F_ARM_NEW: the instance reads ahead from accepted sockets at once;
 * FFL_F_OFFER: nothing is accepted ahead before the first accept. */
int ffl_client_listen(struct ffl_client *c, int h, int backlog, unsigned flags);
int ffl_client_getsockopt(struct ffl_client *c, int h, int level, int name, void *val,
                          uint32_t *len);
/* SO_SNDBUF limits the socket's bytes in the transmit pool, too. Options that cannot fail on a
 * sound value (TCP_NODELAY, SO_KEEPALIVE, SO_REUSEADDR, SO_REUSEPORT) are submitted without
 * waiting; others wait. */
int ffl_client_setsockopt(struct ffl_client *c, int h, int level, int name, const void *val,
                          uint32_t len);

/* Options that concern the calls, which the client applies by itself;
 * of an imported socket they are unset. */
struct ffl_own {
    bool inq, zerocopy;          /* TCP_INQ of a stream, SO_ZEROCOPY */
    int peek_off;                /* SO_PEEK_OFF; negative: off */
    uint32_t numbered, reported; /* sends with MSG_ZEROCOPY; of them reported */
};
#define FFL_OWN_UNSET ((struct ffl_own){.peek_off = -1})
struct ffl_own ffl_client_own(const struct ffl_client *c, int h);
/* 0, -EBADF or -ENOMEM. */
int ffl_client_set_own(struct ffl_client *c, int h, const struct ffl_own *own);

/* Local and remote address, family 0: none. Waits only where the client does not know them. */
int ffl_client_addresses(struct ffl_client *c, int h, struct ffl_addresses *out);

/* Starts a connect: -EINPROGRESS, then FFL_EV_CONNECT; or the -errno known at once. */
int ffl_client_connect(struct ffl_client *c, int h, const struct ffl_addr *a);
/* The result of a second connect, as in Linux: -EALREADY while the first is under way; then, once,
 * the first one's 0 or error (-ECONNABORTED: SO_ERROR has told the error); then -EISCONN, or
 * -EAGAIN: a new connect may begin. */
int ffl_client_connect_result(struct ffl_client *c, int h);

/* Push mode arms the socket, and its data comes in DATA events; off: the socket is disarmed, and
 * data read ahead stays queued, copied out of a crowded pool. */
int ffl_client_push(struct ffl_client *c, int h, bool on);

/* A listener's push mode: accepts ahead, `window` connections at most (1 to 1024; 0: stops), which
 * come in ACCEPT events. Without push mode, use want and accept. flags: FFL_F_ARM_NEW if this
 * session will read the accepted sockets. */
int ffl_client_accepting(struct ffl_client *c, int h, int window, unsigned flags);
int ffl_client_accept(struct ffl_client *c, int h,
                      struct ffl_addresses *addresses); /* handle or -EAGAIN */
/* For a listener that does not accept ahead (FFL_F_OFFER, or other processes share it): asks the
 * instance for a connection, unless no connection can have come since the last time. Waits. 0:
 * accept has a connection; -EAGAIN: there is none; or an error of accept(2). */
int ffl_client_take(struct ffl_client *c, int h);
/* alone (say, a thread sleeps in accept): of the sharing processes that are alone, the instance
 * tells one of a connection, not each. */
void ffl_client_alone(struct ffl_client *c, int h, bool alone);
/* Does the client know whether the listener has a connection? If not, arm asks. */
bool ffl_client_asks(const struct ffl_client *c, int h);
/* Has the listener allowed the instance, since the last such question, to accept ahead? Connections
 * beyond those that are here may then be on their way. */
bool ffl_client_may_come(struct ffl_client *c, int h);

/* One-shot interest, FFL_READ 1 | FFL_WRITE 2: one READABLE or WRITABLE event when the socket is
 * ready, now or later. Arms the socket for reading. */
int ffl_client_want(struct ffl_client *c, int h, unsigned filters);
/* FFL_READ, FFL_WRITE: what the socket is ready for now. */
unsigned ffl_client_ready(const struct ffl_client *c, int h);

/* The bytes and connections that recv, accept and send could take now. 0 or -EBADF. */
struct ffl_pending {
    uint32_t bytes, accepts, room;
    int eof, error; /* 1: the peer sends no more; errno > 0, not cleared */
    int send_error; /* likewise, of sends alone */
};
int ffl_client_pending(const struct ffl_client *c, int h, struct ffl_pending *out);

/*
 * Copies out of the receive queue; arms the socket if the queue is empty. Bytes, 0 at the end of
 * the stream, -EAGAIN, or the socket's error. Datagrams: one per call, cut to len; `from` may be
 * NULL; *msg_flags gets MSG_TRUNC. flags: MSG_PEEK, MSG_ERRQUEUE.
 */
int64_t ffl_client_recv(struct ffl_client *c, int h, void *data, size_t len, int flags,
                        struct ffl_addr *from, int *msg_flags);

/*
 * Copies into the transmit pool and submits. Stream: the bytes taken; if fewer than len, a WRITABLE
 * event follows when there is credit again; -EAGAIN: no credit; or the socket's error (-EPIPE after
 * shutdown). Datagram: all of it, or -EAGAIN, -EMSGSIZE.
 */
int64_t ffl_client_send(struct ffl_client *c, int h, const void *data, size_t len);
/* Data with its control messages. Received: those that the socket's options ask for. Sent, with a
 * datagram: those of ffl_ctl_check (-EINVAL for others). */
struct ffl_dgram {
    void *data;
    size_t len;           /* bytes; received: room */
    struct ffl_addr addr; /* family 0: none */
    struct ffl_ctl ctl;
    int flags; /* received: MSG_TRUNC, MSG_CTRUNC, MSG_ERRQUEUE */
};
/* With MSG_ERRQUEUE: the next report of the error queue, or -EAGAIN. */
int64_t ffl_client_recvmsg(struct ffl_client *c, int h, struct ffl_dgram *d, int flags);
int64_t ffl_client_sendmsg(struct ffl_client *c, int h, const struct ffl_dgram *d);
/* Before that, of the datagram's address and control messages alone: 0 or its -errno. */
int ffl_client_sendable(const struct ffl_dgram *d);
int64_t ffl_client_sendto(struct ffl_client *c, int h, const void *data, size_t len,
                          const struct ffl_addr *to);
/* The control messages of a stream's last receive. */
void ffl_client_control(const struct ffl_client *c, int h, struct ffl_ctl *to);
/* A send with MSG_ZEROCOPY has sent something: with SO_ZEROCOPY a report follows. */
void ffl_client_zerocopy(struct ffl_client *c, int h);
/* ffl_client_send of several pieces of a stream, in as few buffers as the bytes fit in. flags: 0 or
 * FFL_F_MORE. */
int64_t ffl_client_sendv(struct ffl_client *c, int h, const struct iovec *iov, int n,
                         unsigned flags);
/* Sends what `fill` writes to the transmit buffer that it is given, of `len` bytes or less: its
 * result, where it is 0 or -errno nothing is sent. Else as ffl_client_send: -EAGAIN comes before
 * `fill`. */
int64_t ffl_client_send_from(struct ffl_client *c, int h, size_t len,
                             int64_t (*fill)(void *to, size_t len, void *arg), void *arg,
                             unsigned flags);
/* Before a large write of a caller that may sleep for a moment: is so much on its way to the stack
 * that the bytes would leave the processors' caches before the instance comes to them? For how
 * long it may sleep, ns; 0: not at all. */
int64_t ffl_client_ahead(struct ffl_client *c, size_t len);
/* Then: sleeps until the instance has caught up, `most_ns` at most. */
void ffl_client_pace(struct ffl_client *c, int64_t most_ns);
/* Then: this took `ns`, with all that the caller did for it. Where that is far too long, large
 * writes do not sleep for a while. */
void ffl_client_paced(struct ffl_client *c, int64_t ns);
/* The socket's bytes in the transmit pool: submitted, not yet taken by the stack. */
uint32_t ffl_client_unsent(const struct ffl_client *c, int h);

/* After the sends before it. -ENOTCONN: the connection, or a send of it, has failed. */
int ffl_client_shutdown(struct ffl_client *c, int h, int how);
/* The caller took `bytes` of a stream but will not use them: a close resets,
 * as with unread bytes. */
void ffl_client_untake(struct ffl_client *c, int h, uint32_t bytes);
/* Closes after the sends before it; abort drops those. Fails only with -EBADF. FFL_EV_CLOSED
 * follows, also of a listener's sockets that were not handed on; but not for a detached or quiet
 * client, or after ffl_client_watch. */
int ffl_client_close(struct ffl_client *c, int h, bool abort);

/* Closes an accepted, unused socket: a session that shares the listener gets the connection, with
 * its data; without such a session the connection is reset. */
int ffl_client_return(struct ffl_client *c, int h);

/* The socket's pending error, as SO_ERROR gives it: cleared by the call. */
int ffl_client_take_error(struct ffl_client *c, int h);
void ffl_client_set_error(struct ffl_client *c, int h, int err); /* errno > 0, for the next call */

/* From now on the caller's eventfd (non-blocking, value 0) is readable while data, EOF, an accepted
 * socket or an error waits; the socket stays armed. The caller closes the eventfd, after the
 * socket. 0 or -errno. */
int ffl_client_placeholder(struct ffl_client *c, int h, int fd);

/* A NOP round trip through the instance. Waits. 0 or -errno. */
int ffl_client_ping(struct ffl_client *c);
/* The same; and what has come on armed sockets until now is here. */
int ffl_client_catch_up(struct ffl_client *c);

/* The number of the client's sockets in the table, for leak checks. */
int ffl_client_open_sockets(const struct ffl_client *c);

/* The session's counters, the application's and the instance's. */
struct ffl_session_stats {
    uint64_t submitted, reaped, sleeps, app_wakes, spins, spin_hits, sq_full, tx_empty;
    uint64_t bytes_sent, bytes_received;
    uint64_t consumed, posted, inst_wakes, cq_full, rx_empty, accepts;
    uint32_t app_sockets, inst_sockets;
};
void ffl_client_stats(const struct ffl_client *c, struct ffl_session_stats *out);
/* Where the loop shows its lag while the client is attached; NULL before and after. */
struct ffl_lag *ffl_client_lag(const struct ffl_client *c);

#endif
