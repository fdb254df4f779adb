/*
 * client.h - the application's end of a session: attach, sockets, readiness.
 *
 * Callers: the cffi module (ffloop/_session/binding.py) and the preload shim, and nobody else. This header is
 * the contract of both. A client is used by one thread at a time; the shim adds its own lock.
 * Unless it says "waits", a call touches memory only: it never blocks and makes no system call but
 * the write of the instance's doorbell when the instance sleeps. Calls that wait have the session's
 * timeout (ffl_client_opts.timeout_ms) and are woken at once when the instance dies.
 * Returns: a count or handle, 0, or -errno in Linux numbers. -ENOTCONN on a socket may be the
 * peer's doing; a session that is gone is always -ECONNRESET (see ffl_client_detached).
 *
 * A socket is a handle: an int >= 0, dense enough to index a table. A handle stays taken until its
 * FFL_EV_CLOSED; after ffl_client_close the caller must not use it again.
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

struct ffl_ticket { /* a connection that holds sockets for another process (handshake.h) */
    int fd;
    uint32_t id;
    uint64_t key;
};

struct ffl_client_opts {
    const char *path;     /* unix socket; "@name": abstract */
    int timeout_ms;       /* of the handshake and of calls that wait; 0: 10 s */
    int64_t spin_us;      /* FFL_SPIN_AUTO, FFL_SPIN_FOREVER, 0: never, else microseconds */
    uint32_t max_sockets; /* 0: the instance's default */
    uint32_t pool_kib;    /* a side; 0: the instance's default */
    uint32_t tx_cap;      /* bytes that a socket may have unsent; 0: 1 MiB */
    int (*place_fd)(
        int fd); /* NULL, or: moves a new descriptor, returns the number; fd < 0: -errno */
    const struct ffl_ticket *via; /* attach through this ticket, not at path; or NULL */
    void (*close_fd)(int fd);     /* with it: closes one that was placed */
    /* NULL, or: memcpy from and to the caller's data; false, a bad pointer, is -EFAULT */
    bool (*copy)(void *to, const void *from, size_t n);
    /* NULL, or: of an instance in this thread; it outlives the client */
    const struct ffl_driver *driver;
};

/*
 * Connects, shakes hands, maps. Waits. On failure writes a sentence to `why` and returns
 *   -ENOENT, -ECONNREFUSED, -EACCES  no instance at the path, a dead one's socket, or no permission
 *   -EPROTONOSUPPORT                 the instance speaks another version
 *   -EPERM                           the instance refused this user
 *   -ENOTUNIQ                        somebody else could have put a socket there (place.h)
 *   -EUSERS                          too many sessions
 *   -EPROTO                          not an ffloop instance, or a malformed reply
 *   -ETIMEDOUT, -ENOMEM, ...
 */
int ffl_client_attach(struct ffl_client **out, const struct ffl_client_opts *opts, char *why,
                      size_t whylen);

/* An instance in this thread, for ffl_client_opts.driver: by the module (a shared object), which is loaded
 * and stays, with the stack's options and a path to listen at. Waits. 0, or -errno with a sentence:
 *   -ENOENT, -ELIBBAD  no such module; it cannot be loaded
 *   -EPERM, -EBUSY     this process, or this thread, may not have it (a fork; another loop has it)
 *   -EINVAL, ...       what is wrong with the options or with this machine */
struct ffl_direct;
int ffl_direct_start(struct ffl_direct **out, const char *module, int argc, char **argv,
                     const char *path, char *why, size_t whylen);
const struct ffl_driver *ffl_direct_driver(const struct ffl_direct *d);
void ffl_direct_stop(struct ffl_direct *d); /* in the process that started it */

/* Registers the client's fork handlers now; attach does it too. Handlers registered after it run
 * before it in the parent, and after it in the child, where every client is detached then. */
void ffl_client_at_fork(void);
/* What the handlers do, for a fork that runs none (_Fork, clone). */
void ffl_client_before_fork(void);
void ffl_client_after_fork(bool child);

/* Ends the session; the instance sends what was submitted, then closes the sockets. Frees `c`.
 * Waits only, half a second at most, until what was accepted and read ahead is returned. */
void ffl_client_detach(struct ffl_client *c);

/* A descriptor of the client's has moved (place_fd's numbers); the old one goes. False: it has no such. */
bool ffl_client_moved(struct ffl_client *c, int from, int to);

/* 0, or -errno: the session is gone (-ECONNRESET), or the instance broke the protocol (-EPROTO).
 * In a forked child the parent's client is detached. */
int ffl_client_detached(const struct ffl_client *c);
/* A sentence about that: the instance's own where it ended the session; "" while it is not dead. */
const char *ffl_client_why(const struct ffl_client *c);

/* Descriptors to wait on (ffl_client_wait does it when they are in its epoll): the doorbell, which
 * is registered EPOLLIN|EPOLLET and never read, and the session socket, EPOLLIN|EPOLLRDHUP, which
 * becomes readable when the instance goes. */
int ffl_client_doorbell_fd(const struct ffl_client *c);
int ffl_client_session_fd(const struct ffl_client *c);
int ffl_client_memfd(const struct ffl_client *c);
uint32_t ffl_client_size(const struct ffl_client *c); /* of the segment, bytes */
int ffl_client_instance_pid(const struct ffl_client *c);
const char *ffl_client_stack(const struct ffl_client *c); /* "host", "fstack" */

/* ---- events -------------------------------------------------------------------------------- */

enum ffl_event_kind {
    FFL_EV_DATA = 1, /* push mode: arg = bytes at segment offset `off`; valid until the next wait.
                        off = 0: they were moved out of the shared pool while the socket was paused;
                        take them with ffl_client_recv(h, ..., arg) */
    FFL_EV_EOF,      /* the peer has sent all it will (after the last data) */
    FFL_EV_ERROR,    /* arg = errno > 0: the socket failed; nothing more will come but CLOSED. After
                        the queued data in push mode; at once while push is off */
    FFL_EV_ACCEPT,   /* push mode: arg = new handle, off -> struct ffl_addresses in the segment */
    FFL_EV_CONNECT,  /* arg = 0 or errno > 0 */
    FFL_EV_READABLE, /* the one-shot interest of ffl_client_want: recv or accept will not EAGAIN */
    FFL_EV_WRITABLE, /* the one-shot interest, or after a short send: credit is back */
    FFL_EV_CLOSED,   /* the handle is free */
    FFL_EV_FD,       /* a kernel descriptor of the epoll: handle = fd, arg = epoll events */
    FFL_EV_LOST,     /* the session is gone: arg = errno > 0. Given once; every handle is void */
};

struct ffl_event { /* four words, so that Python decodes a batch in one go */
    uint32_t kind;
    uint32_t handle;
    uint32_t arg;
    uint32_t off;
};
_Static_assert(sizeof(struct ffl_event) == 16, "event ABI");

/*
 * Gives the last batch's buffers back, reaps completions, and fills `ev` (at most one DATA a socket
 * a call, so that sockets take turns). When there is nothing: spins as the options say, then
 * sleeps in epoll_wait(epfd) for up to timeout_ns (-1: for ever, 0: not at all). Kernel events of
 * epfd are looked at on every sleep and, while the ring is busy, at least every 50 us. epfd must
 * hold the doorbell and the session socket (they give no FD events); -1: sleeps on those alone.
 * Returns the number of events, at most `max` >= 4, or -errno of epoll. 0: the timeout, a signal, or
 * a second asleep (FFL_LOOK_NS), after which the caller looks at its signals and waits again.
 */
int ffl_client_wait(struct ffl_client *c, struct ffl_event *ev, int max, int epfd,
                    int64_t timeout_ns);

/* Puts the data event of `handle` in the current batch back at the head of its queue: the caller
 * was paused between the wait and the event. -EINVAL if the batch has none. */
int ffl_client_unread(struct ffl_client *c, int handle);

/* ---- watching: for a caller with polls of its own (ready.h) ---------------------------------- */

/* What tells of the socket's changes; NULL: no such socket. Its watches go with the socket. */
struct ffl_source *ffl_client_source(const struct ffl_client *c, int h);
/* From now on `source`, the caller's, is told in its place, and the socket gives no events. Such a
 * caller does not use ffl_client_wait: it reaps, reads its polls' ready lists, and sleeps on the
 * doorbell and the session socket between doze and rouse. */
int ffl_client_watch(struct ffl_client *c, int h, struct ffl_source *source);
/* Nobody takes this client's events (it has no ffl_client_wait): a closed handle is free at once. */
void ffl_client_quiet(struct ffl_client *c, bool on);
void ffl_client_reap(
    struct ffl_client *c); /* takes over what has come; finds a dead instance not */

/* ---- sleeping -------------------------------------------------------------------------------- */

/* Sleeps in epoll_wait(epfd) unless something comes; for FFL_LOOK_NS at most. `looks`: at epfd's events
 * also if it does. Its events, or -errno of epoll (-EINTR, too). */
int ffl_client_sleep(struct ffl_client *c, struct epoll_event *ev, int max, int epfd,
                     int64_t timeout_ns, bool looks);

/* The parts of that, for a caller that sleeps by itself, for one client or a list of them (`first`;
 * NULL: none). A sleeper is one thread's. Several threads may sleep: who changes something while others
 * do dozes again; the last to wake rouses. */
struct ffl_sleeper {
    struct ffl_idle idle;
    bool whole; /* it sleeps for FFL_LOOK_NS */
};
void ffl_client_join(struct ffl_client **first, struct ffl_client *c);
void ffl_client_part(struct ffl_client **first, struct ffl_client *c);
/* Spins or yields, as may be, and dozes. True: block for *left_ns at most (which is what is left of it,
 * FFL_LOOK_NS at most; negative: for ever), then call woken, and rouse. False: look at what has come. */
bool ffl_sleep_prepare(struct ffl_sleeper *s, struct ffl_client *const *first, int64_t *left_ns,
                       ffl_came_fn *came, void *arg);
/* Raises the wait words, and looks again. False: something is there; do not block. */
bool ffl_sleep_doze(struct ffl_client *first);
/* Before anything is reaped: counts what nobody has rung for. */
void ffl_sleep_woken(const struct ffl_sleeper *s, struct ffl_client *first, bool timed_out);
void ffl_sleep_rouse(struct ffl_client *first); /* lowers the words */
/* While on: somebody polls the doorbell without us, and no rouse takes that away. */
void ffl_client_shown(struct ffl_client *c, bool on);
/* The session socket has become readable: reaps the rest; the client is detached from now on. */
void ffl_client_lost(struct ffl_client *c);
/* Reads ahead from now on, as the first recv that finds nothing does; a listener accepts ahead,
 * at most `window`. */
int ffl_client_arm(struct ffl_client *c, int h, int window);
/* A socket that is not writable tells when it is. */
void ffl_client_want_room(struct ffl_client *c, int h);

enum {                   /* ffl_client_state */
       FFL_ST_READ = 1,  /* recv or accept will not EAGAIN */
       FFL_ST_WRITE = 2, /* send will not EAGAIN */
       FFL_ST_EOF = 4,   /* the peer has sent all it will; data may still be queued before that */
       FFL_ST_ERROR = 8, /* an error is pending (SO_ERROR) */
       FFL_ST_FAILED = 16,
       FFL_ST_SHUT_WR = 32,
       FFL_ST_CONNECTING = 64,
};
unsigned ffl_client_state(const struct ffl_client *c, int h);

/* ---- sockets for another process ------------------------------------------------------------ */

/* Opens a ticket at o->path (or through o->via). Waits. Errors as attach. */
int ffl_client_ticket(const struct ffl_client_opts *o, struct ffl_ticket *out, char *why,
                      size_t whylen);
int ffl_ticket_send(int fd, enum ffl_ticket_what what, const uint32_t *handles, uint32_t n);
/* Before an export: stop reading (or accepting) ahead; when a ping has answered, give back what was
 * not read. The next recv or accept that finds nothing arms the socket again. False: it did not.
 * -ENOBUFS: no buffer to give anything back in; it stays. */
bool ffl_client_disarm(struct ffl_client *c, int h);
int ffl_client_give_back(struct ffl_client *c, int h);
/* A reference to the socket into a ticket. 0, -ENOBUFS, or that of a session that has ended; what else
 * fails shows when it is imported. May wait for the instance. */
int ffl_client_export(struct ffl_client *c, int h, const struct ffl_ticket *t);
/* Takes a reference out of a ticket, by the exporting session's handle: ours, or -errno
 * (-ENOENT: it is not there). Waits. */
int ffl_client_import(struct ffl_client *c, const struct ffl_ticket *t, uint32_t handle, int domain,
                      int type, int proto);

/* ---- sockets ------------------------------------------------------------------------------- */

/* Opens; does not wait: a failure surfaces on the next call that waits. flags: FFL_F_NODELAY.
 * -EAFNOSUPPORT, -EMFILE (the session's quota). */
int ffl_client_socket(struct ffl_client *c, int domain, int type, int proto, unsigned flags);

/* These wait for the instance's answer and return 0 or its -errno. */
int ffl_client_bind(struct ffl_client *c, int h, const struct ffl_addr *a);
/* flags: FFL_F_NODELAY; FFL_F_ARM_NEW: accepted sockets are read ahead of from the beginning. */
int ffl_client_listen(struct ffl_client *c, int h, int backlog, unsigned flags);
int ffl_client_getsockopt(struct ffl_client *c, int h, int level, int name, void *val,
                          uint32_t *len);
/* SO_SNDBUF limits what the socket may have unsent on this side as well.
 * Options that cannot fail on a sound value (TCP_NODELAY, SO_KEEPALIVE and its times, SO_REUSE*)
 * are submitted in order without waiting; others wait. */
int ffl_client_setsockopt(struct ffl_client *c, int h, int level, int name, const void *val,
                          uint32_t len);

/* Local and peer address as last known (family 0: none); asks and waits only when not known. */
int ffl_client_addresses(struct ffl_client *c, int h, struct ffl_addresses *out);

/* Starts a connect: -EINPROGRESS, then FFL_EV_CONNECT; or the -errno known at once. */
int ffl_client_connect(struct ffl_client *c, int h, const struct ffl_addr *a);
/* What a further connect says, as Linux: -EALREADY: it is under way; then, once, 0 or why it failed
 * (-ECONNABORTED: SO_ERROR has told); then -EISCONN, or -EAGAIN: a new one may begin. */
int ffl_client_connect_result(struct ffl_client *c, int h);

/* Push mode delivers data and accepted sockets as events and arms the socket; turning it off stops
 * the arming (what was read ahead stays queued, copied out of the shared pool). */
int ffl_client_push(struct ffl_client *c, int h, bool on);

/* Listener in push mode: starts (or, with 0, stops) accepting ahead and handing accepted sockets on
 * as ACCEPT events, at most `window` not yet handed on (1 to 1024). Without it, want and accept pull.
 * flags: FFL_F_ARM_NEW when accepted sockets will be read by this session. */
int ffl_client_accepting(struct ffl_client *c, int h, int window, unsigned flags);
int ffl_client_accept(struct ffl_client *c, int h,
                      struct ffl_addresses *addresses); /* handle or -EAGAIN */
/* A listener that other processes have too: nothing is accepted ahead, and who asks is told that a
 * connection waits. Takes one, unless nobody can have come since it was last asked. Waits. 0: accept
 * has one; -EAGAIN: there is none; or what accept(2) says. */
int ffl_client_take(struct ffl_client *c, int h);
/* Of the processes that are alone (as those that sleep in accept) one is told, not each. */
void ffl_client_alone(struct ffl_client *c, int h, bool alone);
/* Is it known whether a listener has a connection? Else arm asks. */
bool ffl_client_asks(const struct ffl_client *c, int h);

/* One-shot interest, FFL_READ 1 | FFL_WRITE 2: one READABLE / WRITABLE event each when true (also
 * at once). Arms the socket for reading. */
int ffl_client_want(struct ffl_client *c, int h, unsigned filters);
/* What is true now: FFL_READ, FFL_WRITE. */
unsigned ffl_client_ready(const struct ffl_client *c, int h);

/* What recv, accept and send can take now, in bytes and connections. 0 or -EBADF. */
struct ffl_pending {
    uint32_t bytes, accepts, room;
    int eof, error; /* the peer has sent all it will; errno > 0, not cleared */
};
int ffl_client_pending(const struct ffl_client *c, int h, struct ffl_pending *out);

/*
 * Copies out of the receive queue (arming the socket first if it was not): bytes, 0 at end of
 * stream, -EAGAIN, or the socket's error. Datagrams: one a call, cut to len; `from` may be NULL;
 * *msg_flags gets MSG_TRUNC. flags: MSG_PEEK.
 */
int64_t ffl_client_recv(struct ffl_client *c, int h, void *data, size_t len, int flags,
                        struct ffl_addr *from, int *msg_flags);

/*
 * Copies into the transmit pool and submits. Stream: bytes taken, possibly fewer than len (then one
 * WRITABLE event follows when there is credit again), -EAGAIN for none, or the socket's error
 * (-EPIPE after shutdown). Datagram: all or -EAGAIN / -EMSGSIZE.
 */
int64_t ffl_client_send(struct ffl_client *c, int h, const void *data, size_t len);
/* A datagram with its control messages: what the socket's options ask for comes with those received;
 * sent are IP_PKTINFO, IP_TOS, IP_TTL and IPv6's like (-EINVAL for others). */
struct ffl_dgram {
    void *data;
    size_t len;           /* bytes; received: room */
    struct ffl_addr addr; /* family 0: none */
    struct ffl_ctl ctl;
    int flags; /* received: MSG_TRUNC, MSG_CTRUNC */
};
int64_t ffl_client_recvmsg(struct ffl_client *c, int h, struct ffl_dgram *d, int flags);
int64_t ffl_client_sendmsg(struct ffl_client *c, int h, const struct ffl_dgram *d);
int64_t ffl_client_sendto(struct ffl_client *c, int h, const void *data, size_t len,
                          const struct ffl_addr *to);
/* The same for several pieces of a stream, in as few buffers as they fit in. */
int64_t ffl_client_sendv(struct ffl_client *c, int h, const struct iovec *iov, int n);
/* Bytes of the transmit pool that this socket holds: submitted, not yet taken by the stack. */
uint32_t ffl_client_unsent(const struct ffl_client *c, int h);

int ffl_client_shutdown(struct ffl_client *c, int h, int how); /* ordered after the sends before */
/* So many bytes that the caller took of a stream will not be used after all: a close resets, as it does
 * with bytes that nobody took. */
void ffl_client_untake(struct ffl_client *c, int h, uint32_t bytes);
/* Ordered after the sends before it; abort drops them instead. Never fails; FFL_EV_CLOSED follows
 * (not for a client that is dead, and not for an accepted socket that was never handed on). */
int ffl_client_close(struct ffl_client *c, int h, bool abort);

/* Closes an accepted socket that nobody has used: a session that shares the listener gets it, with
 * what came on it; reset if there is none. */
int ffl_client_return(struct ffl_client *c, int h);

/* The socket's pending error, as SO_ERROR gives it: cleared by the call. */
int ffl_client_take_error(struct ffl_client *c, int h);
void ffl_client_set_error(struct ffl_client *c, int h, int err); /* errno > 0, for the next call */

/* The caller's eventfd (non-blocking, 0) is readable from now on while data, EOF, an accepted socket
 * or an error waits; arms the socket for good. It stays the caller's, who closes it after the socket.
 * 0 or -errno. */
int ffl_client_mirror(struct ffl_client *c, int h, int fd);

/* A NOP round trip through the instance. Waits. 0 or -errno. */
int ffl_client_ping(struct ffl_client *c);

/* Sockets that this client has open; for leak checks. */
int ffl_client_open_sockets(const struct ffl_client *c);

/* Copies the session's counters: the application's and the instance's. */
struct ffl_session_stats {
    uint64_t submitted, reaped, sleeps, app_wakes, spins, spin_hits, sq_full, tx_empty;
    uint64_t bytes_sent, bytes_received;
    uint64_t consumed, posted, inst_wakes, cq_full, rx_empty, accepts;
    uint32_t app_sockets, inst_sockets;
};
void ffl_client_stats(const struct ffl_client *c, struct ffl_session_stats *out);

/* Asks the instance at `path` for its stats page and copies it. Waits; errors as attach. */
struct ffl_instance_stats {
    int32_t pid;
    uint32_t sessions, dying, sockets;
    uint64_t sessions_total, sessions_refused, sessions_killed, accepts, turns, sleeps;
    int64_t start_realtime; /* seconds since the epoch */
    char stack[16];
};
int ffl_client_query(const char *path, int timeout_ms, struct ffl_instance_stats *out, char *why,
                     size_t whylen);

#endif
