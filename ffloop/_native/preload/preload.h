/*
 * preload.h - what the files of the shim share: descriptors, sockets, waiters, the lock.
 *
 * start.c   environment, log, the constructor        real.h    the C library's own functions
 * fds.c     the table of descriptors; dup, close     session.c sessions
 * wait.c    the lock, waiting calls, sleeping        thread.h  the state of a thread
 * sock.c    the life of a socket; accept             connect.c connect
 * recv.c    receive                                  send.c    send
 * epoll.c   epoll                                    poll.c    poll, select
 * kqueue.c  kqueue, over epoll.c                     async.c   O_ASYNC
 * raw.c     syscall(2)                               dual.c    FFLOOP_DUAL_LISTEN
 * again.c   an epoll after a fork                    alloc.c   the shim's own memory
 * dgram.c   datagrams                              waiter.c  what threads sleep on
 * place.c   which instance, which CPU                option.c  socket options, ioctl
 * share.c   sockets of several processes (proc.h)    file.c    sendfile, splice
 * fork.c    fork, clone                              exec.c    exec, posix_spawn
 * pass.c    SCM_RIGHTS                               shutdown.c shutdown, connect(AF_UNSPEC)
 * made.c    calls that make other descriptors        stdio.c   the C library's streams
 * user.c    the program's memory                     control.c control messages
 * move.c    descriptors that become other files    signal.c  handlers, put off
 * limit.c   limits of descriptors and of memory
 *
 * A socket begins as a kernel socket. At bind, listen or connect it is placed: put on the stack
 * (sock->session) or left to the kernel. A stack socket's descriptor is a placeholder, so that
 * numbers, dup, flags, inheritance and /proc are the kernel's own.
 *
 * Locking: one lock for the whole shim (FF_THREAD_SOCKET: none, and a thread touches its own nodes
 * only: node_mine). No code looks into a node without the lock, since another thread may free the
 * node. A thread that has the lock is `inside`, and its own calls of the C library pass through. A
 * thread blocks with the lock only in a control operation that waits for the instance.
 *
 * Readiness is as in the kernel (client/ready.h): a socket tells its watches (an epoll's
 * registrations, a waiting call) of a change, and the reader of a ready list asks each socket anew.
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
/* The C library's other name for an exported call; stands after the call. */
#if __has_attribute(copy)
#define SAME_AS(name) copy(name),
#else
#define SAME_AS(name)
#endif
#define ALSO(name, other)                                                                          \
    extern __typeof(name) other __attribute__((SAME_AS(name) alias(#name), visibility("default")))

/* ---- settings (start.c) -------------------------------------------------------------------- */

extern struct ffl_config options;
extern bool misplaced; /* a setting that says where sockets go is malformed: placing fails */
extern bool started;   /* the constructor has run; before, all calls pass through */
void report(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* to stderr, always */
bool report_seen(void); /* is stderr still the file that the program started with? */

/* Inherited from `ffloop preload`: the instance at `path` stays up, and admits a process that has
 * become another user. */
struct kept {
    struct ffl_ticket ticket;
    char *path; /* NULL: none */
};
extern struct kept kept;

/* ---- descriptors (fds.c) ------------------------------------------------------------------- */

enum node_kind { NODE_SOCK, NODE_EPOLL, NODE_OURS };
struct node {
    enum node_kind kind;
    int fds;      /* descriptors of the node */
    int held;     /* waiting calls that hold the node */
    bool cloexec; /* its one descriptor was made with close-on-exec, and is so; false: ask */
    ino_t ino;    /* of a socket's placeholder */
    struct ffl_source source;
    /* FF_THREAD_SOCKET: n: placed by thread n; -n: not placed, last used by thread n; 0: not used
     * yet; NODE_LEFT: its thread has ended, and any thread may close the node; NODE_INHERITED: a
     * socket of the parent's, the first thread's that uses it */
    _Atomic int owner;
};
#define NODE_LEFT INT32_MAX
#define NODE_INHERITED (-INT32_MAX)

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

/* May the calling thread touch the node? Without FF_THREAD_SOCKET: true. The first refusal of the
 * process is reported. Locked. */
bool node_mine(struct node *n);
bool node_reaches(const struct node *n); /* may it look at the node? */
void node_placed(struct node *n);        /* the node belongs to the calling thread from now on */
/* In the child: the node is its one thread's; a socket without an epoll, until another thread uses
 * it first. */
void node_inherited(struct node *n);
/* FF_THREAD_SOCKET: is the node an epoll without stack sockets, which any thread may use? */
static inline bool node_shared(const struct node *n)
{
    return options.per_thread && n->kind == NODE_EPOLL && n->owner <= 0;
}
void node_put(struct node *n);           /* ends one hold */
int fd_set_node(int fd, struct node *n); /* 0 or -ENOMEM. Locked */
/* Does fd still stand for its node? If fd was closed past the shim, it is dropped. Locked. */
bool fd_holds(int fd);
void fd_ended(int fd);
/* The kernel has just made `fd`: drops the node of an earlier descriptor of that number. Returns
 * fd. */
static inline int fd_made(int fd)
{
    if (ffl_unlikely(fd_node(fd) != NULL))
        fd_ended(fd);
    return fd;
}
void fd_drop(int fd); /* fd loses its node; the last descriptor frees the node. Locked */
/* Moves a new descriptor of the shim's out of the program's way: its number, or -errno. */
int fd_ours(int fd);
/* The shim's descriptor keeps its number; the program's close, dup and dup2 miss it. */
void fd_ours_keep(int fd);
void fd_ours_close(int fd);
/* A descriptor of the shim's that moves to another number, and whether its owner has been told. */
struct move {
    int from, to;
    bool done;
};
static inline void move_fd(struct move *m, int *fd)
{
    if (*fd == m->from) {
        *fd = m->to;
        m->done = true;
    }
}
bool fd_ours_moved(int from, int to); /* false: it has no owner that could be told. Locked */
/* Descriptors of the shim's where the program has as many as it may: the soft limit becomes the
 * hard one for a second try. `do rc = ...; while (room_for(&more, rc));`, with `more` {0} at first.
 * Meanwhile the thread cannot be cancelled. */
struct room {
    bool raised;
    int cancel; /* as it was */
};
bool room_for(struct room *more, int rc);
/* FF_THREAD_SOCKET: held to look at all nodes, and to drop a node or take it over. Recursive. */
void table_lock(void);
void table_unlock(void);
void table_forked(void);
void limit_forked(void);
/* Calls f for each descriptor with a node (FF_THREAD_SOCKET: of the calling thread). Locked. */
void fd_each(void (*f)(int fd, struct node *n, void *arg), void *arg);
void fd_become(const struct node *n, int file); /* makes n's descriptors copies of `file` */
void fd_hidden(struct node *n); /* fd_each calls f for this node too, with fd -1; NULL: none */
void fd_forked(void (*f)(int fd, struct node *n, void *arg)); /* in the child: every node */

/* ---- sockets (sock.c) ---------------------------------------------------------------------- */

enum sock_state { SOCK_FRESH, SOCK_BOUND, SOCK_LISTENING, SOCK_CONNECTING, SOCK_CONNECTED };

struct option { /* set before the socket was placed; cannot be read back: set again on the stack */
    struct option *next;
    int level, name;
    uint32_t len;
    uint8_t data[];
};

#define STAMP_UNKNOWN 1

struct sock {
    struct node node;
    struct session *session; /* NULL: not on the stack yet */
    int h;                   /* its handle in the session; inherited: in the parent's */
    int domain, type, proto;
    uint8_t state;
    bool nonblock, shut_rd, abort;
    bool async;  /* O_ASYNC (async.c) */
    int bell[2]; /* O_ASYNC on the stack: a socket pair, the placeholder is a copy of [1]; or -1 */
    bool reports_pri;   /* SO_SELECT_ERR_QUEUE */
    bool reports;       /* the program asked for reports in the error queue */
    bool doubts;        /* has the last datagram, to this machine, failed? */
    struct ffl_own own; /* of the client; not imported yet */
    int late_error;     /* errno of an unconnected socket's failed datagram, for the next send */
    bool untried;       /* a datagram socket's next datagram may fail: its send asks at once */
    bool stamps;        /* the program has asked when datagrams came (SIOCGSTAMP) */
    int64_t stamp;      /* when the last datagram came, ns; 0: none has come; or STAMP_UNKNOWN */
    bool named;         /* bound to a port */
    bool force_stack, reuse_port;
    bool shared;   /* imported or exported alone: another process has it too (sock_shared) */
    uint32_t born; /* its session's `shares` when it came on the stack, */
    uint32_t seen; /* and when the instance was last asked: before a fork: what waits is unknown */
    bool spawned;  /* named by a spawn's file actions */
    bool lost;     /* a listener whose session has ended, and accept() has said so */
    int kernel_fd; /* FFLOOP_DUAL_LISTEN: the kernel's listener at the same port, or -1 */
    struct ffl_addr bound;      /* FF_MULTI_SC: a listener's address, if it is spread; */
    int ordinal;                /* this listener's number at that address */
    int64_t rcvtimeo, sndtimeo; /* ns; 0: none */
    struct cork *cork;          /* a datagram that MSG_MORE has begun, or NULL */
    struct option *opts, **opts_end;
    uint64_t noted[FFL_CARRY_WORDS]; /* options that were set and can be read back: carry.h */
};

/* Is the socket on the stack, and imported? */
static inline bool sock_live(const struct sock *s)
{
    return s->session && !s->session->inherited;
}

/* May another process have the socket? Of a socket on the stack. */
static inline bool sock_shared(const struct sock *s)
{
    return s->shared || s->born != s->session->shares;
}

struct item { /* an epoll's registration of a socket, or of an epoll */
    struct ffl_watch w;
    struct item *inner; /* of an epoll: the next such */
    int fd;
    bool writes; /* a kqueue's EVFILT_WRITE */
};

/* Locks, and returns the socket of fd; or NULL, unlocked: the call is the kernel's. */
struct sock *sock_enter(int fd);
struct sock *sock_enter_stack(int fd); /* sock_enter, of stack sockets only */
static inline bool maybe_ours(int fd)
{
    return ffl_unlikely(fd_node(fd) != NULL) && !tls.inside;
}

struct sock *sock_new(int domain, int type, int proto);
void sock_free(struct sock *s); /* s has no descriptor and no waiting call left */
/* Places a socket that is bound or connected: 1 on the stack, 0 on the kernel (s may be gone), or
 * -errno. */
int sock_place(struct sock *s, int fd, const struct ffl_addr *a, bool binds);
/* False: no address of this family. */
bool sock_addr_in(struct ffl_addr *a, int domain, const struct sockaddr *sa, socklen_t len);
int sock_addr_bad(int domain, socklen_t len); /* the kernel's -errno for such an address */
/* Into the program's memory: 0 or -errno (-EFAULT for a bad pointer). */
int sock_addr_out(const struct ffl_addr *a, int domain, struct sockaddr *sa, socklen_t *len);
void sock_tell(struct sock *s); /* tells all watches of s */
/* The events that poll(2) would return; of `want`, arms those that are not ready. */
uint32_t sock_poll(struct sock *s, uint32_t want);
uint32_t sock_ask(struct ffl_source *source, const struct ffl_watch *w); /* a socket's `ask` */
/* Asks the instance to read or accept ahead, if `want` (epoll's bits) needs that. */
void sock_arm(struct sock *s, uint32_t want);
/* Connections accepted ahead of accept(), where no other process shares the listener. */
#define SOCK_WINDOW 16
/* Sleeps until s has changed, `until` (ns, -1: never) or a signal. `part`: the call has something
 * to return, so any handler ends it. Locked before and after. 0: look again; -EAGAIN: the time is
 * over; -EINTR; another -errno. */
int sock_wait(struct sock *s, int64_t until, bool part);
/* Asks the instance once for what may wait there: data after a fork, connections beyond those that
 * were accepted ahead. True: look again. */
bool sock_look(struct sock *s);
/* Is it unknown what waits at the instance for s, which receives, since another process got a
 * reference, and does `want` (epoll's bits) ask? Then s is armed, and after a catch-up what waits
 * is here. */
bool sock_unseen(struct sock *s, uint32_t want);
void sock_rearm(struct sock *s); /* s has changed state: arms it for its watches, and tells them */
/* Bytes that recv would return now. */
static inline size_t sock_queued(const struct sock *s)
{
    struct ffl_pending p = {0};
    (void)ffl_client_pending(s->session->c, s->h, &p); /* -EBADF: none */
    return p.bytes;
}
/* connect(AF_UNSPEC) of a stream (shutdown.c): 0 or -errno. */
int sock_disconnect(struct sock *s);
bool sock_over(const struct sock *s);     /* of a connection: has it ended on both sides? */
int sock_pending_connect(struct sock *s); /* 0: no connect is under way any more; or -EAGAIN */

/* ---- FFLOOP_DUAL_LISTEN (dual.c) ----------------------------------------------------------- */

/* s listens on the stack: listens on the kernel too, where configured. A failure is reported. */
void dual_listen(struct sock *s, int fd, int backlog);
void dual_follow(const struct item *it,
                 int op); /* mirrors an epoll's registration of s for the kernel's listener */
/* Accepts at the kernel's listener: a descriptor, or -EAGAIN. */
int dual_accept(struct sock *s, struct sockaddr *sa, socklen_t *len, int flags);

/* ---- epoll (epoll.c) ----------------------------------------------------------------------- */

struct epoll_shadow {
    struct node node;
    struct ffl_poll poll; /* of its stack sockets' watches */
    struct item *inner;   /* the registrations of epolls in it */
    struct waiter w;
    _Atomic int kernel;   /* kernel descriptors in it (a hint) */
    int plain;            /* threads in the kernel's own wait, begun without stack sockets */
    bool opened;          /* w is open */
    bool observed;        /* polled itself: has no doorbells */
    bool inherited;       /* the parent has the same kernel epoll */
    bool foreign;         /* that kernel epoll has the parent's doorbells: not to be waited on */
    bool stale;           /* after a fork: its sockets are not read ahead */
    int64_t checked;      /* when the kernel's events were last looked at, ns */
    bool kernels_turn;    /* of waits for one event, the last was for the kernel's */
    struct ffl_kqueue kq; /* ops set: the epoll of a kqueue */
};

static inline struct node *watch_node(const struct ffl_watch *w)
{
    return ffl_container_of(w->source, struct node, source);
}

static inline struct item *watch_item(struct ffl_watch *w)
{
    return ffl_container_of(w, struct item, w);
}

/* The epoll that has the registration; NULL: w belongs to a waiting call. */
static inline struct epoll_shadow *watch_epoll(const struct ffl_watch *w)
{
    return w->poll->passing ? NULL : ffl_container_of(w->poll, struct epoll_shadow, poll);
}

struct epoll_shadow *epoll_new(void);
int epoll_open(struct epoll_shadow *ep, int epfd); /* makes ep->w: 0 or -errno */
/* epoll_ctl of a descriptor with a node: model has fd and writes. 0 or -errno. */
int epoll_register(struct epoll_shadow *ep, int epfd, int op, struct item *model,
                   struct epoll_event *ev);
/* epoll_pwait2 of an open shadow: events, 0, or -1 with errno. Locked before and after. */
int epoll_sleep(struct epoll_shadow *ep, struct epoll_event *ev, int max, int64_t timeout_ns,
                const sigset_t *mask);
void epoll_forget(struct item *it); /* ends the registration */
void epoll_begin(struct item *it);  /* of a new or changed registration: arms and asks its socket */
void epoll_kick(struct epoll_shadow *ep); /* wakes its sleepers and tells its watches */
void epoll_free(struct epoll_shadow *ep);
/* The epoll is itself polled from now on: its descriptor is ready for kernel descriptors only, and
 * its watches are told of stack sockets. */
void epoll_observe(struct epoll_shadow *ep);

/* ---- an epoll after a fork (again.c) -------------------------------------------------------- */

void epoll_forked(struct epoll_shadow *ep); /* in the child */
/* Before the child uses an inherited epoll: gives it a kernel epoll of its own. 0 or -errno. */
int epoll_private(struct epoll_shadow *ep, int epfd);
static inline int epoll_use(struct epoll_shadow *ep, int epfd)
{
    return ffl_unlikely(ep->foreign) ? epoll_open(ep, epfd) : 0;
}
void epoll_stale(struct epoll_shadow *ep);  /* a socket in the epoll was disarmed */
void epoll_revive(struct epoll_shadow *ep); /* imports and arms its sockets */
void epoll_revive_waited(void);             /* epoll_revive of the epolls that threads sleep on */
bool source_waited(const struct ffl_source *s); /* does a call wait for it? */
void source_forked(struct ffl_source *s);       /* forgets the parent's waiting calls */

/* ---- receive and send (recv.c, send.c) ----------------------------------------------------- */

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

/* When a wait of `limit` ns (SO_RCVTIMEO, SO_SNDTIMEO) from now ends; 0, no limit: -1. */
static inline int64_t until_of(int64_t limit)
{
    return limit ? ffl_now_ns() + limit : -1;
}

/* Waits until stream s is connected: 0, -EAGAIN while it connects and the call may not wait, the
 * socket's error, or `otherwise`. */
int sock_connected(struct sock *s, int flags, int64_t until, int otherwise);
/* For preadv2 and pwritev2: enters the socket. False: the kernel's, which refuses offsets and other
 * flags. */
bool sock_plainly(off64_t at, int flags, struct sock **s, int fd);
int iov_check(const struct iovec *iov, size_t n); /* -errno of a bad vector, or 0 */
int msg_check(const struct msghdr *m);            /* -errno of a bad message, or 0 */
/* Block or not, as the socket and `flags` say. Locked. Bytes or -errno. */
ssize_t sock_recv(struct sock *s, const struct iovec *iov, size_t n, int flags);
ssize_t sock_send(struct sock *s, const struct iovec *iov, size_t n, int flags);
/* A call ends with an error, rc, when it has done a part: what it returns. The next call gets the
 * error. */
ssize_t sock_partly(struct sock *s, size_t done, int rc);
ssize_t sock_sent(ssize_t rc, int flags); /* ends a sending call: unlocks, SIGPIPE, errno */

/* ---- O_ASYNC (async.c): locked --------------------------------------------------------------- */

/* The program has set O_ASYNC to `on`: 0 or -errno. */
int async_set(struct sock *s, int fd, bool on);
int async_begin(struct sock *s, int fd); /* for a stack socket with O_ASYNC: 0 or -errno */
void async_free(struct sock *s);
void async_forked(void); /* in the child */

/* ---- datagrams (dgram.c): locked, -errno, but where noted ---------------------------------- */

/* With MSG_ERRQUEUE of streams, too. */
ssize_t dgram_recv(struct sock *s, const struct iovec *iov, size_t n, int flags,
                   struct ffl_dgram *d); /* the sender's address, control messages and flags */
/* An unconnected socket's error is not for SO_ERROR or poll, but for the next send. */
void dgram_settle(struct sock *s);
bool dgram_ask(struct sock *s); /* does the last datagram's failure come now? True: look again */
/* When the last datagram came, ns; notes the time of each from now on. -ENOENT: none has come. */
int64_t dgram_stamp(struct sock *s);
int dgram_may_send(struct sock *s); /* 0, or the -errno of a datagram sent now, which it takes */
ssize_t dgram_send(struct sock *s, const struct iovec *iov, size_t n, int flags);
/* sendmsg(2) on a datagram socket, with an address or not: unlocks, sets errno. */
ssize_t dgram_sendmsg(struct sock *s, int fd, const struct msghdr *m, int flags);
/* Copies the program's control messages (control.c): 0 or -errno. */
int control_get(struct ffl_ctl *to, const struct msghdr *m);
/* Copies ctl into the program's message; what finds no room is cut, with MSG_CTRUNC in *flags. 0 or
 * -errno. */
int control_put(struct msghdr *m, const struct ffl_ctl *ctl, int *flags);
/* -ENOTSOCK: the caller makes the kernel's call. */
int dgram_connect(struct sock *s, int fd, const struct sockaddr *sa, socklen_t len);

/* ---- which instance (place.c); other processes (share.c) ------------------------------------ */

/* The number of the instance for s, which is bound to `a`; NULL: not by bind. */
int place_instance(struct sock *s, const struct ffl_addr *a);
void place_attached(bool first); /* a session has begun; `first`: of the list. Pins the thread */
void place_imported(const struct sock *s); /* FF_MULTI_SC: the child uses the listener's instance */
/* Is fd, a fresh kernel socket, in another network namespace than the program was started in? Then
 * its addresses are not the stack's. */
bool place_elsewhere(int fd);
#define FFL_HOME_NETNS "_FFLOOP_NETNS" /* says to programs after an exec which it was: */
uint64_t place_home(void);             /* 0: not known */

void place_start(void);
void stdio_start(void);
void signal_start(void);
void signal_exec(bool begins); /* a program after exec ignores what this one does */

/* Imports an inherited socket into this process's session: 0 or -errno (reported). */
int proc_import(struct sock *s);
/* Before a call on s: imports s, and learns whether another process has made it listen or
 * connect. */
void sock_learn(struct sock *s);
/* Is s connected? Another process may have connected a datagram socket. */
bool sock_has_peer(struct sock *s);
static inline void sock_current(struct sock *s)
{
    if (s->session &&
        ffl_unlikely(s->session->inherited || (s->state == SOCK_BOUND && sock_shared(s))))
        sock_learn(s);
}
/* Before another process gets a fresh socket: places it, where every route leads to the stack, so
 * that both share one stack socket. s may be gone. */
void sock_place_early(struct sock *s, int fd);
void proc_disown(struct sock *s); /* closed before it was imported */
/* s has no descriptor left: gives what was read ahead back to the processes that share it, and
 * closes it. */
void proc_leave(struct sock *s);
/* Around many of both: the instance is told once, and asked once for all resets and listeners; for
 * each shared socket that is read ahead it is asked by itself. */
void proc_closes(bool many);
/* SCM_RIGHTS (pass.c): real.sendmsg that passes stack sockets; recvmsg's descriptors become
 * sockets. */
ssize_t pass_send(int to, const struct msghdr *m, int flags);
void pass_received(const struct msghdr *m, int flags);
/* prctl or seccomp, by number, with five arguments (confined.c). */
long proc_confine(long number, const long *a);
void proc_end(void);       /* the process is about to end: proc_leave_all */
void proc_leave_all(void); /* gives back what the calling thread's sessions have read ahead */
/* syscall(2) with a number of fork, vfork or clone. Not *known: the kernel's call. */
long fork_by_number(long number, const long *a, bool *known);
void sock_on_stack(struct sock *s, struct session *session, int h);

static inline bool timespec_bad(const struct timespec *ts)
{
    return ts && (ts->tv_sec < 0 || ts->tv_nsec < 0 || ts->tv_nsec >= FFL_NS_PER_SEC);
}

static inline int64_t timespec_ns(const struct timespec *ts) /* NULL, for ever: -1 */
{
    return !ts                       ? -1
           : ts->tv_sec > 1000000000 ? INT64_MAX / 2
                                     : ts->tv_sec * FFL_NS_PER_SEC + ts->tv_nsec;
}

/* Ends a call: unlocks; of -errno makes -1 and errno. Success leaves errno as it was. */
static inline ssize_t leave(ssize_t rc)
{
    int before = tls.error;
    unlock();
    errno = rc < 0 ? (int)-rc : before;
    return rc < 0 ? -1 : rc;
}

#endif
