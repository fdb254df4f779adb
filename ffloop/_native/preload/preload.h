/*
 * preload.h - what the files of the shim share: descriptors, sockets, waiters, the lock.
 *
 * start.c   environment, log, the constructor        real.h    the C library's own functions
 * fds.c     the table of descriptors; dup, close     session.c sessions
 * wait.c    the lock, waiting calls, sleeping        thread.h  the state of a thread
 * sock.c    the life of a socket; accept             connect.c connect
 * recv.c    receive                                  send.c    send
 * epoll.c   epoll                                    poll.c    poll, select
 * kqueue.c  kqueue, over epoll.c
 * raw.c     syscall(2)                               dual.c    FFLOOP_DUAL_LISTEN
 * again.c   an epoll after a fork                    alloc.c   memory of our own
 * dgram.c   datagrams
 * place.c   which stack, instance, CPU               option.c  socket options, ioctl
 * share.c   sockets of several processes (proc.h)    file.c    sendfile, splice
 * fork.c    fork, clone                              exec.c    exec, posix_spawn
 * pass.c    SCM_RIGHTS                               shutdown.c shutdown, connect(AF_UNSPEC)
 * made.c    calls that make other descriptors        stdio.c   the C library's streams
 * user.c    the program's memory                     control.c control messages
 *
 * A socket begins as a kernel socket. At bind, listen or connect it is placed: put on the stack
 * (sock->session) or left to the kernel. A stack socket's descriptor is a placeholder from then on, so
 * that numbers, dup, flags, inheritance and /proc are the kernel's own.
 *
 * Locking: one lock for everything here (FF_THREAD_SOCKET: none, and a thread touches its own nodes
 * only: node_mine). No code looks into a node without it, since another thread may free the node. A
 * thread that has the lock is `inside`, and its own calls of the C library pass through. Only control
 * operations that wait for the instance block with the lock. Readiness is as in the kernel
 * (client/ready.h): a socket tells its watches (an epoll's registrations, a waiting call) of a change,
 * and the reader of a ready list asks each socket anew.
 */
#ifndef FFL_PRELOAD_H
#define FFL_PRELOAD_H

#include "addr.h"
#include "carry.h"
#include "client.h"
#include "kqueue.h"
#include "real.h"
#include "setting.h"
#include "thread.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#define API __attribute__((visibility("default")))
/* The C library's other name for an exported call, after it. */
#if __has_attribute(copy)
#define SAME_AS(name) copy(name),
#else
#define SAME_AS(name)
#endif
#define ALSO(name, other)                                                                          \
    extern __typeof(name) other __attribute__((SAME_AS(name) alias(#name), visibility("default")))

/* ---- options (start.c) --------------------------------------------------------------------- */

extern struct ffl_config options;
extern bool misplaced; /* a setting that says where sockets go is malformed: no socket is placed */
extern bool started;   /* the constructor has run; before that all calls pass through */
void report(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* to stderr, always */
bool ffl_report_seen(void); /* is stderr what it was, and no file that the program has put there? */

struct kept { /* `ffloop preload`'s, inherited: the instance at `path` stays up, and admits who */
    struct ffl_ticket ticket; /* has dropped its rights */
    char *path;               /* NULL: none */
};
extern struct kept kept;

/* ---- descriptors (fds.c) ------------------------------------------------------------------- */

enum node_kind { NODE_SOCK, NODE_EPOLL, NODE_OURS };
struct node {
    enum node_kind kind;
    int fds;   /* descriptors that mean it */
    int held;  /* by calls that wait */
    ino_t ino; /* of a socket's placeholder */
    struct ffl_source source;
    /* FF_THREAD_SOCKET: n: thread n's, since it is on the stack; -n: not placed, last used by thread n; 0:
     * not used yet; NODE_LEFT: its thread has ended, and any thread may close it */
    _Atomic int owner;
};
#define NODE_LEFT INT32_MAX

#define FD_CHUNK 1024
#define FD_CHUNKS 1024
extern _Atomic(_Atomic(struct node *) *) fd_chunks[FD_CHUNKS];

static inline struct node *fd_node(int fd)
{
    if ((unsigned)fd >= FD_CHUNK * FD_CHUNKS)
        return NULL;
    _Atomic(struct node *) *chunk =
        atomic_load_explicit(&fd_chunks[fd / FD_CHUNK], memory_order_acquire);
    return chunk ? atomic_load_explicit(&chunk[fd % FD_CHUNK], memory_order_acquire) : NULL;
}

/* FF_THREAD_SOCKET: may the calling thread touch the node? If not, that is reported. Without the option:
 * true. Locked. */
bool node_mine(struct node *n);
void node_placed(struct node *n); /* the node is the calling thread's from now on */
/* FF_THREAD_SOCKET: is it an epoll without stack sockets, which any thread may use? */
static inline bool node_shared(const struct node *n)
{
    return options.per_thread && n->kind == NODE_EPOLL && n->owner <= 0;
}
void node_put(struct node *n);           /* a hold less */
int fd_set_node(int fd, struct node *n); /* counts; -ENOMEM. Locked */
/* Does fd still mean its node? If it was closed past the shim, it is dropped. Locked. */
bool fd_holds(int fd);
void fd_ended(int fd);
/* The kernel has just made `fd`: a node that it had is dropped. Returns fd. */
static inline int fd_made(int fd)
{
    if (ffl_unlikely(fd_node(fd) != NULL))
        fd_ended(fd);
    return fd;
}
void fd_drop(int fd); /* fd loses its node, and the last descriptor frees it. Locked */
int fd_ours(
    int fd); /* moves a new descriptor of the shim's out of the program's way: its number, or -errno */
void fd_ours_keep(
    int fd); /* an inherited descriptor of the shim's stays where it is, out of the program's reach */
void fd_ours_close(int fd);
/* Calls f for each descriptor with a node (FF_THREAD_SOCKET: of the calling thread). Locked. */
void fd_each(void (*f)(int fd, struct node *n, void *arg), void *arg);
void fd_hidden(struct node *n); /* one without a descriptor, which fd_each has as -1; or NULL */
void fd_forked(void (*f)(int fd, struct node *n, void *arg)); /* the child: all are its thread's */

/* ---- sockets (sock.c) ---------------------------------------------------------------------- */

enum sock_state { SOCK_FRESH, SOCK_BOUND, SOCK_LISTENING, SOCK_CONNECTING, SOCK_CONNECTED };

struct option { /* set before the socket was placed, and unreadable: set again on the stack */
    struct option *next;
    int level, name;
    uint32_t len;
    uint8_t data[];
};

#define STAMP_UNKNOWN 1

struct sock {
    struct node node;
    struct session *session; /* NULL: not on the stack yet */
    int h;
    int domain, type, proto;
    uint8_t state;
    bool nonblock, shut_rd, abort;
    bool inq;    /* TCP_INQ */
    bool async;  /* O_ASYNC; on the stack (async.c): */
    int bell[2]; /* what is written to the first, its placeholder has: that is the second. Or -1 */
    bool zerocopy;               /* SO_ZEROCOPY: sends with MSG_ZEROCOPY are numbered, */
    uint32_t numbered, reported; /* so many so far; and reported as done (errqueue.c) */
    int peek_off;                /* SO_PEEK_OFF of a stream; negative: off */
    int late_error; /* why a datagram without a peer could not be sent: for the next send */
    bool stamps;    /* somebody has asked when datagrams came (SIOCGSTAMP): */
    int64_t stamp;  /* the last one, ns; 0: none has come, STAMP_UNKNOWN */
    bool named;     /* a datagram socket: it has a port */
    bool force_stack, force_kernel, shared, exported, reuse_port;
    bool unseen;                /* not asked since a fork: what waits at the instance is unknown */
    bool spawned;               /* named by a spawn's file actions */
    bool lost;                  /* a listener whose instance has ended, and accept() has said so */
    int kernel_fd;              /* FFLOOP_DUAL_LISTEN: the kernel's listener beside it, or -1 */
    struct ffl_addr bound;      /* FF_MULTI_SC: family 0 but for those that are spread, */
    int ordinal;                /* the ordinal-th of this address */
    int64_t rcvtimeo, sndtimeo; /* ns; 0: none */
    struct cork *cork;          /* a datagram that MSG_MORE keeps, or NULL */
    struct option *opts, **opts_end;
    uint64_t noted[FFL_CARRY_WORDS]; /* options that were set and can be read back: carry.h */
    /* inherited and not imported yet (share.c) */
    struct ticket *ticket;
    uint32_t ticket_handle;
};

struct item { /* an epoll's registration of a socket, or of an epoll */
    struct ffl_watch w;
    int fd;
    bool writes; /* a kqueue's EVFILT_WRITE */
};

/* Locks, and finds the socket of fd; or NULL, unlocked: the call is the kernel's. */
struct sock *sock_enter(int fd);
struct sock *sock_enter_stack(int fd); /* the same, of stack sockets only */
static inline bool maybe_ours(int fd)
{
    return ffl_unlikely(fd_node(fd) != NULL) && !tls.inside;
}

struct sock *sock_new(int domain, int type, int proto);
void sock_free(struct sock *s); /* no descriptor means it any more, and no call waits in it */
/* Places a socket that is bound or connected: 1 on the stack, 0 on the kernel (s may be gone), or
 * -errno. */
int sock_place(struct sock *s, int fd, const struct ffl_addr *a, bool binds);
/* False: no address of this family. */
bool sock_addr_in(struct ffl_addr *a, int domain, const struct sockaddr *sa, socklen_t len);
/* Into the program's memory: 0 or -errno, as a bad pointer's. */
int sock_addr_out(const struct ffl_addr *a, int domain, struct sockaddr *sa, socklen_t *len);
void sock_tell(struct sock *s); /* it changed */
/* What poll(2) would say; and arms what of `want` is not ready. */
uint32_t sock_poll(struct sock *s, uint32_t want);
uint32_t sock_ask(struct ffl_source *source, const struct ffl_watch *w); /* its source's */
/* Reads or accepts ahead from now on, if `want` (epoll's bits) needs that. */
void sock_arm(struct sock *s, uint32_t want);
#define SOCK_WINDOW                                                                                \
    16 /* connections accepted ahead of accept(), where no other process may have them */
/* Sleeps until s has changed, `until` (ns, -1: never) or a signal. Locked before and after.
 * 0: look again; -EAGAIN: the time is over; -EINTR. */
int sock_wait(struct sock *s, int64_t until);
/* Nothing has come: asks the instance, when something may wait there. True: look again. */
bool sock_look(struct sock *s);
void sock_rearm(struct sock *s); /* it listens or connects now: registrations want to be told */
int sock_to_kernel(
    struct sock *s,
    int fd); /* the socket stays a kernel socket; its epoll registrations move there */
/* Bytes that recv would give now. */
static inline size_t sock_queued(const struct sock *s)
{
    struct ffl_pending p = {0};
    (void)ffl_client_pending(s->session->c, s->h, &p); /* -EBADF: none */
    return p.bytes;
}
/* connect(AF_UNSPEC) of a stream (shutdown.c): 0 or -errno. */
int sock_disconnect(struct sock *s);
int sock_pending_connect(struct sock *s); /* learns how a connect ended */

/* ---- a port on both (dual.c) --------------------------------------------------------------- */

/* s listens on the stack, and now on the kernel too where configured. A failure is reported. */
void dual_listen(struct sock *s, int fd, int backlog);
void dual_follow(const struct item *it,
                 int op); /* mirrors an epoll's registration of s for the kernel's listener */
/* Accepts at the kernel's listener: a descriptor, or -EAGAIN. */
int dual_accept(struct sock *s, struct sockaddr *sa, socklen_t *len, int flags);

/* ---- epoll (epoll.c) ----------------------------------------------------------------------- */

struct epoll_shadow {
    struct node node;
    struct ffl_poll poll; /* its stack sockets; who polls it is in node.source */
    struct waiter w;
    _Atomic int kernel; /* others (a hint) */
    int plain;          /* threads in the kernel's own wait, begun without stack sockets */
    bool opened;        /* w is */
    bool observed;      /* this epoll was itself polled: it has no doorbells */
    bool inherited;     /* the kernel's epoll is the parent's too, */
    bool foreign;       /* and has its doorbells: not to be waited on */
    bool stale;         /* since a fork its sockets are not read ahead */
    int64_t checked;
    struct ffl_kqueue kq; /* with ops: it is a kqueue's */
};

static inline struct node *watch_node(const struct ffl_watch *w)
{
    return ffl_container_of(w->source, struct node, source);
}

static inline struct item *watch_item(struct ffl_watch *w)
{
    return ffl_container_of(w, struct item, w);
}

/* Whose registration it is; NULL: a waiting call's. */
static inline struct epoll_shadow *watch_epoll(const struct ffl_watch *w)
{
    return w->poll->passing ? NULL : ffl_container_of(w->poll, struct epoll_shadow, poll);
}

struct epoll_shadow *epoll_new(void);
int epoll_open(struct epoll_shadow *ep, int epfd); /* for stack sockets: 0 or -errno */
/* epoll_ctl of a descriptor with a node: model has fd and writes. 0 or -errno. */
int epoll_register(struct epoll_shadow *ep, int epfd, int op, struct item *model,
                   struct epoll_event *ev);
/* epoll_pwait2 of an open shadow: events, 0, or -1 with errno. Locked before and after. */
int epoll_sleep(struct epoll_shadow *ep, struct epoll_event *ev, int max, int64_t timeout_ns,
                const sigset_t *mask);
void epoll_forget(struct item *it);       /* its socket goes */
void epoll_begin(struct item *it);        /* tells of its socket's readiness, now and later */
void epoll_kick(struct epoll_shadow *ep); /* its sleepers look again */
void epoll_free(struct epoll_shadow *ep);
/* It is polled from now on: as a descriptor it is ready for kernel descriptors only, and its watchers are
 * told of stack sockets. */
void epoll_observe(struct epoll_shadow *ep);

/* ---- an epoll after a fork (again.c) -------------------------------------------------------- */

void epoll_forked(struct epoll_shadow *ep); /* in the child */
/* Before the child uses an inherited epoll: gives it a kernel epoll of its own. 0 or -errno. */
int epoll_private(struct epoll_shadow *ep, int epfd);
static inline int epoll_use(struct epoll_shadow *ep, int epfd)
{
    return ffl_unlikely(ep->foreign) ? epoll_open(ep, epfd) : 0;
}
void epoll_stale(struct epoll_shadow *ep);  /* a socket of it was disarmed */
void epoll_revive(struct epoll_shadow *ep); /* imports and arms its sockets */
void epoll_revive_waited(void);             /* those in which threads wait */
void source_forked(struct ffl_source *s);   /* forgets the parent's waiting calls */

/* ---- receive and send (recv.c, send.c) --------------------------------------------------------------- */

static inline size_t total_of(const struct iovec *iov, size_t n)
{
    size_t total = 0;
    for (size_t i = 0; i < n; i++)
        total += iov[i].iov_len;
    return total;
}

static inline bool no_wait(const struct sock *s, int flags)
{
    return s->nonblock || (flags & MSG_DONTWAIT);
}

/* The end of a wait that SO_RCVTIMEO or SO_SNDTIMEO limits, 0: no limit. */
static inline int64_t until_of(int64_t limit)
{
    return limit ? ffl_now_ns() + limit : -1;
}

/* A stream is ready for data: 0, -EAGAIN while it connects and may not wait, or why it is not. */
int sock_connected(struct sock *s, int flags, int64_t until, int otherwise);
/* Of preadv2 and pwritev2: enters the socket. RWF_NOWAIT is MSG_DONTWAIT; other flags, and places in a
 * file, are the kernel's to refuse: false. */
bool sock_plainly(off64_t at, int flags, struct sock **s, int fd);
int iov_check(const struct iovec *iov, size_t n); /* -errno of a bad vector, or 0 */
int msg_check(const struct msghdr *m);            /* the same of a message */
/* Blocking or not, as the socket and flags say. Locked. Count or -errno. */
ssize_t sock_recv(struct sock *s, const struct iovec *iov, size_t n, int flags);
ssize_t sock_send(struct sock *s, const struct iovec *iov, size_t n, int flags);
ssize_t sock_sent(ssize_t rc, int flags); /* ends a sending call: unlocks, SIGPIPE, errno */

/* ---- O_ASYNC (async.c): locked ---------------------------------------------------------------- */

/* Its flag is `on` now: 0 or -errno. */
int ffl_async_set(struct sock *s, int fd, bool on);
int ffl_async_begin(struct sock *s, int fd); /* it is on the stack now */
void ffl_async_free(struct sock *s);
void ffl_async_forked(void); /* the child */

/* ---- a stream's error queue (errqueue.c): locked ------------------------------------------- */

void ffl_errqueue_sent(struct sock *s); /* something, with MSG_ZEROCOPY */
static inline bool ffl_errqueue_any(const struct sock *s)
{
    return s->numbered != s->reported;
}
/* recv with MSG_ERRQUEUE: 0, its control message in `to`; or -EAGAIN. */
ssize_t ffl_errqueue_take(struct sock *s, struct ffl_ctl *to);

/* ---- datagrams (dgram.c): locked, -errno, unless it says otherwise ------------------------- */

ssize_t dgram_recv(struct sock *s, const struct iovec *iov, size_t n, int flags,
                   struct ffl_dgram *d); /* its address, control messages and flags */
/* Without a peer a socket has no error of its own: why a datagram could not be sent is for the next send. */
void ffl_dgram_settle(struct sock *s);
/* When the last one came, ns; and from now on it is noted. -ENOENT: none has. */
int64_t ffl_dgram_stamp(struct sock *s);
ssize_t dgram_send(struct sock *s, const struct iovec *iov, size_t n, int flags);
/* Ends sendmsg(2) on a datagram socket, with an address or not: unlocks; errno. */
ssize_t dgram_sendmsg(struct sock *s, int fd, const struct msghdr *m, int flags);
/* A copy of the program's control messages (control.c): 0; 1: there are some that the ring does not
 * carry; -errno. */
int ffl_control_get(struct ffl_ctl *to, const struct msghdr *m);
/* Into the program's message, as far as they find room: flags get MSG_CTRUNC. 0 or -errno. */
int ffl_control_put(struct msghdr *m, const struct ffl_ctl *ctl, int *flags);
void ffl_control_one(struct ffl_ctl *to, int level, int type, const void *data, size_t len);
/* The one that TCP_INQ asks for: so many bytes are left. */
void ffl_control_inq(struct ffl_ctl *to, size_t bytes);
/* -ENOTSOCK: the kernel's call. */
int dgram_connect(struct sock *s, int fd, const struct sockaddr *sa, socklen_t len);
/* Moves a socket that is only bound from the stack to the kernel; s is gone then. 0 or -errno. */
int dgram_to_kernel(struct sock *s, int fd);
/* Does it switch something on that the ring does not carry? */
bool dgram_option_refused(int level, int name, const void *val, socklen_t len);

/* ---- where to (place.c), and other processes (share.c) -------------------------------------- */

/* The instance, of several, for s: by its bind to `a`, or (NULL) otherwise. */
int place_instance(struct sock *s, const struct ffl_addr *a);
void place_attached(bool first);           /* a session has begun: pins the thread to its CPU */
void place_imported(const struct sock *s); /* FF_MULTI_SC: a child has its listener */

void stdio_start(void);
void ffl_signal_start(void);

/* Imports an inherited socket: a reference in this process's session. */
int proc_import(struct sock *s);
/* Before a call of it: it is imported; and what another process that has it, too, has made of it is known. */
void sock_learn(struct sock *s);
static inline void sock_current(struct sock *s)
{
    if (ffl_unlikely(s->ticket || (s->shared && s->state == SOCK_BOUND)))
        sock_learn(s);
}
/* On the stack before it is connected or listens, so that a child's is the same: where that is sure. */
void sock_place_early(struct sock *s, int fd);
void proc_disown(struct sock *s); /* closed before it was used */
/* SCM_RIGHTS (pass.c): real.sendmsg that can pass stack sockets; and a look at what recvmsg brought. */
ssize_t pass_send(int to, const struct msghdr *m, int flags);
void pass_received(const struct msghdr *m, int flags);
void proc_end(void);
bool share_moved(int from, int to); /* session_moved for tickets, and for dual listeners */
/* syscall(2) with the number of a fork, made as fork. Not *known: it makes no new process. */
long fork_by_number(long number, const long *a, bool *known);
void proc_leave(
    struct sock *s); /* s closes: gives back what it has for other processes that share it */
void sock_on_stack(struct sock *s, struct session *session, int h);

static inline bool timespec_bad(const struct timespec *ts)
{
    return ts && (ts->tv_sec < 0 || ts->tv_nsec < 0 || ts->tv_nsec >= FFL_NS_PER_SEC);
}

static inline int64_t timespec_ns(const struct timespec *ts) /* NULL: for ever, -1 */
{
    return !ts                       ? -1
           : ts->tv_sec > 1000000000 ? INT64_MAX / 2
                                     : ts->tv_sec * FFL_NS_PER_SEC + ts->tv_nsec;
}

/* Ends a call: unlocks, sets errno from -errno. */
static inline ssize_t leave(ssize_t rc)
{
    unlock();
    if (rc >= 0)
        return rc;
    errno = (int)-rc;
    return -1;
}

#endif
