/*
 * thread.h - the state of the program's threads in the shim: the lock, sessions, waiting calls.
 */
#ifndef FFL_PRELOAD_THREAD_H
#define FFL_PRELOAD_THREAD_H

#include "client.h"

#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>

struct node;
struct epoll_shadow;

/* ---- the lock (wait.c), sessions (session.c) ------------------------------------------------- */

struct session {
    struct session *next;
    struct ffl_client *c;
    int index; /* of several instances */
    char path[256];
    unsigned socks;
    const char *stack; /* its name */
    bool ended;        /* its thread has ended (FF_THREAD_SOCKET), and left sockets in it */
};

struct session_list {
    struct session *first;
    struct ffl_client *clients; /* theirs */
    unsigned generation;
    unsigned sleepers; /* threads that sleep, also since before a session began */
};

struct signals { /* handlers that ran, and those without SA_RESTART among them */
    unsigned all, interrupts;
};

struct tls {
    bool inside;        /* has the lock: its calls of the C library pass through */
    bool locked;        /* the mutex too */
    struct signals ran; /* up to now; when the thread's call began */
    struct signals before;
    bool put_off; /* a handler came `inside` and is put off: all signals are blocked (signal.c), */
    sigset_t masked;       /* and before that these were */
    struct waiter *asleep; /* that it sleeps on, or is about to: a handler wakes it (signal.c) */
    int id;                /* FF_THREAD_SOCKET: its number as owner of nodes; 0: none yet (fds.c) */
    int worker;            /* FF_THREAD_SOCKET: its number, from 1; 0: none yet (place.c) */
    struct waiter *waiter;
    struct call *call, *spare;    /* calls that wait, the innermost first (wait.c) */
    int cancel;                   /* its cancel state outside */
    void *fault;                  /* where a fault at the program's pointer jumps to (user.c) */
    struct session_list sessions; /* FF_THREAD_SOCKET */
    const struct ffl_ticket *via; /* attach through it (share.c) */
};
extern char __libc_single_threaded __attribute__((weak)); /* glibc 2.32 and later have it */

/* Are there no others? */
static inline bool ffl_thread_alone(void)
{
    return &__libc_single_threaded && __libc_single_threaded;
}

extern __thread struct tls tls __attribute__((tls_model("initial-exec")));

/* A call that may block begins: handlers from now on interrupt it. */
static inline void call_begins(void)
{
    tls.before = tls.ran;
}

/* Has a handler run that interrupts the call? `restarts`: a call that, as read and unlike poll, goes on
 * after a handler with SA_RESTART. */
static inline bool interrupted(bool restarts)
{
    return restarts ? tls.ran.interrupts != tls.before.interrupts : tls.ran.all != tls.before.all;
}

void lock(void);
void unlock(void);
void signals_allow(void); /* the handlers that were put off run now */
static inline void signals_come(void)
{
    if (ffl_unlikely(tls.put_off))
        signals_allow();
}
#ifdef FFL_OWN_MEMORY
void alloc_before_fork(void); /* alloc.c */
void alloc_after_fork(void);
#else /* built with a sanitizer, which looks after the C library's malloc */
static inline void alloc_before_fork(void)
{
}
static inline void alloc_after_fork(void)
{
}
#endif

/* The calling thread's session with an instance, attached on first use. NULL: *why is the -errno, which
 * was reported. Locked. */
struct session *session_get(int index, int *why);
void session_reap(void); /* takes over what has come, in all sessions */
void session_put(
    struct session *session); /* a socket less; a detached session is freed with its last */
/* Makes a ticket at its instance. */
int session_ticket(const struct session *session, struct ffl_ticket *out, char *why, size_t whylen);
void session_forked(void);
/* The shim's descriptor `from` has moved: true if it was a session's, a waiter's or an epoll's. Locked. */
bool session_moved(int from, int to);
struct session_list *session_list(void); /* the calling thread's */
static inline struct session *session_first(void)
{
    return session_list()->first;
}
void session_ended(struct session_list *l); /* its thread has ended (FF_THREAD_SOCKET) */
void wait_start(void);
void thread_watch(void); /* the thread's end must be noticed from now on */

/* ---- the program's memory (user.c) ----------------------------------------------------------- */

/* memcpy, either side the program's. False: a bad pointer, and a part may have been copied. */
bool ffl_user_copy(void *to, const void *from, size_t n);
bool ffl_user_reads(const void *p, size_t n); /* can it be read? */
bool ffl_user_writes(void *p, size_t n);      /* and written? It keeps what it has */
size_t ffl_user_room(void *p, size_t n);      /* how many of the bytes can be written */
struct sockaddr_storage;
/* A copy of an address: 0 or -errno. */
int ffl_user_address(struct sockaddr_storage *to, const struct sockaddr *sa, socklen_t len);
void ffl_user_fault(void); /* a fault's handler: back to where it was expected, if it was */

/* ---- waiting (wait.c) ------------------------------------------------------------------------ */

struct waiter {            /* what a thread sleeps on: an epoll's, or the thread's own */
    int epfd;              /* the shim's own descriptor of it */
    int wake_fd;           /* an eventfd in epfd, by which other threads wake the sleeper */
    unsigned session_seen; /* the list's generation + 1 when doorbells were last put into epfd */
    struct ffl_sleeper sleeper;
};

struct hold {           /* keeps a node while a call waits, even if another thread closes it */
    struct ffl_watch w; /* of the call's set; or not watching */
    struct node *node;
    int beside; /* a kernel descriptor that the thread's waiter has meanwhile, or -1 */
};

/* A call that waits. It is in the thread's memory, not on its stack: a cancellation or longjmp leaves it
 * behind, and the thread's next call, or its end, cleans it up. */
struct call {
    struct call *outer; /* the call that this one, a signal handler's, interrupts */
    struct ffl_poll set;
    struct hold *holds;
    unsigned n, room;
    struct pollfd *kernel;      /* poll's: the kernel's descriptors */
    struct epoll_shadow *plain; /* in the kernel's own wait */
    struct ffl_poll *on;        /* asleep on it */
    struct ffl_poll *reads;     /* an epoll's: it takes what is told there */
    bool away;                  /* without the lock */
    const char *frame;
};

/* Opens the calling thread's call, with room for at least `room` holds; unlock ends it. NULL: -errno in
 * *rc. Locked. */
struct call *call_open(unsigned room, int *rc);
/* Keeps the node; with `events`, the call's set is told of its changes. */
struct hold *call_hold(struct call *k, struct node *n, uint32_t events);
void call_release(struct call *k, struct hold *h); /* the last */
/* Unlocks for the kernel's own wait on an epoll without stack sockets; call_back locks again. */
void call_plain(struct call *k, struct epoll_shadow *ep);
void call_back(struct call *k);
int waiter_mine(void); /* makes the thread's own waiter: 0 or -errno */
void waiter_close(struct waiter *w);
int waiter_open(struct waiter *w, int epfd); /* takes epfd over */
/* Puts all sessions' doorbells into its epfd: 0 or -errno. Locked. */
int waiter_bells(struct waiter *w);
/* Unlocks for a system call that sleeps on w->epfd, for *left_ns at most: 1. Or, still locked: 0, look again; -EINTR,
 * a handler has run since the call began (`restarts`: see interrupted). One that runs later ends the
 * sleep, even if it is before the system call. sleep_end locks again and takes over what has come.
 * The thread has a call open. */
int sleep_begin(struct waiter *w, struct ffl_poll *p, int64_t *left_ns, bool restarts);
void sleep_end(struct waiter *w, bool timed_out);
void calls_forked(void);
/* Deals with an event of the shim's own (a doorbell, a wake, a session's end). False: it is the
 * program's. Locked. */
bool waiter_event(struct waiter *w, const struct epoll_event *ev);
void waiter_drain(struct waiter *w); /* consumes the events of a thread's own waiter */
bool waiter_mark(
    uint64_t data); /* is it a doorbell's or a wake's, of this process or its parent? */
/* epoll_pwait with ns; timeout < 0: for ever. */
int real_epoll(int epfd, struct epoll_event *ev, int max, int64_t timeout_ns, const sigset_t *mask);

#endif
