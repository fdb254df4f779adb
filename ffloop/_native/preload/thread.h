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
    struct ffl_client *c; /* inherited: the parent's, of no use; or NULL */
    int index;            /* of the instance, from 0 */
    char path[256];
    unsigned socks;
    uint32_t shares;          /* forks that gave a child references to all its sockets */
    struct ffl_ticket ticket; /* with these, during a fork; inherited: with those to be imported */
    bool inherited;    /* from the parent or over an exec: a socket is imported when first used */
    const char *stack; /* the stack's name */
    bool ended;        /* FF_THREAD_SOCKET: its thread has ended, and left sockets in the session */
    bool end_told;     /* its instance has ended, and the program's error output says so */
};

struct session_list {
    struct session *first;
    struct ffl_client *clients; /* of these sessions */
    unsigned generation;        /* changes when a session begins, and in a forked child */
    unsigned sleepers;          /* threads that sleep */
    unsigned spinners;          /* threads that spin before they sleep */
    unsigned exports;           /* how often sockets were disarmed, for another process */
};

struct signals { /* handlers that ran; of them those without SA_RESTART */
    unsigned all, interrupts;
};

enum faults { FAULTS_UNKNOWN, FAULTS_COME, FAULTS_BLOCKED };

struct tls {
    bool inside;           /* has the lock: its calls of the C library pass through */
    bool locked;           /* has the mutex too */
    struct signals ran;    /* up to now */
    struct signals before; /* `ran` when the thread's call began */
    bool put_off;    /* a handler came `inside` and is put off: signals are blocked (signal.c) */
    sigset_t masked; /* the mask before that */
    struct waiter *asleep; /* what the thread sleeps on, or is about to; a handler wakes it */
    int id;                /* FF_THREAD_SOCKET: its number as owner of nodes; 0: none yet (fds.c) */
    int worker;            /* FF_THREAD_SOCKET: its number, from 1; 0: none yet (place.c) */
    struct waiter *waiter;
    struct scratch *scratch;      /* the innermost call's memory first (wait.c) */
    struct call *call, *spare;    /* waiting calls, the innermost first; unused ones (wait.c) */
    int error;                    /* errno when it last locked */
    int cancel;                   /* its cancel state without the lock */
    void *fault;                  /* where a fault at the program's pointer jumps to (user.c) */
    enum faults faults;           /* are SIGSEGV and SIGBUS blocked? */
    bool lent;                    /* they are, and are let through for an access */
    struct session_list sessions; /* FF_THREAD_SOCKET */
    const struct ffl_ticket *via; /* attach through this ticket (share.c) */
};
extern char __libc_single_threaded __attribute__((weak)); /* of glibc 2.32 and later */

/* Is the calling thread the process's only one? */
static inline bool thread_alone(void)
{
    return &__libc_single_threaded && __libc_single_threaded;
}

extern __thread struct tls tls __attribute__((tls_model("initial-exec")));

/* A call that may block begins: a handler from now on interrupts the call. */
static inline void call_begins(void)
{
    tls.before = tls.ran;
}

/* Has a handler run that interrupts the call? `restarts`: the call goes on after a handler with
 * SA_RESTART, as read does and poll does not. */
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
#else /* built with ThreadSanitizer, which looks after the C library's malloc */
static inline void alloc_before_fork(void)
{
}
static inline void alloc_after_fork(void)
{
}
#endif

/* The calling thread's session with an instance, attached on first use. NULL: *why is the -errno,
 * and the first is reported. Locked. */
struct session *session_get(int index, int *why);
void session_reap(void);     /* takes the completions of all sessions */
void session_catch_up(void); /* and what has come on armed sockets until now is here */
/* A socket less; a detached session is freed with its last. */
void session_put(struct session *session);
/* Makes a ticket at the session's instance: 0 or -errno. */
int session_ticket(const struct session *session, struct ffl_ticket *out, char *why, size_t whylen);
void session_forked(void);
/* An inherited session, for sockets in the ticket, which it takes over; the caller ends with
 * session_put. NULL: no memory, and the ticket is closed. */
struct session *session_inherit(const struct ffl_ticket *ticket, int index);
bool session_inherited(void); /* is there an inherited session? */
struct move;
void session_move(struct move *m);       /* the descriptors of sessions (move.c). Locked */
struct session_list *session_list(void); /* the calling thread's */
static inline struct session *session_first(void)
{
    return session_list()->first;
}
void session_ended(struct session_list *l); /* the list's thread has ended (FF_THREAD_SOCKET) */
void wait_start(void);
void thread_watch(void); /* frees what the thread has here at its end */

/* ---- the program's memory (user.c) ----------------------------------------------------------- */

/* memcpy from or to the program's memory. False: a bad pointer, and a part may have been copied. */
bool user_copy(void *to, const void *from, size_t n);
bool user_reads(const void *p, size_t n); /* can all n bytes be read? */
bool user_writes(void *p, size_t n);      /* can they be written? Leaves them as they are */
size_t user_room(void *p, size_t n);      /* how many of the bytes can be written */
struct sockaddr_storage;
/* Copies an address: 0 or -errno. */
int user_address(struct sockaddr_storage *to, const struct sockaddr *sa, socklen_t len);
/* What the thread's next access to the program's memory may do, after the mask has changed. */
void user_masked(int how, unsigned long set);
void user_fault(void); /* from a fault's handler: jumps to tls.fault; returns if that is NULL */

/* ---- waiting (wait.c, waiter.c) -------------------------------------------------------------- */

struct waiter {            /* what threads sleep on: an epoll's, or a thread's own */
    int epfd;              /* a kernel epoll; the shim's own descriptor */
    int wake_fd;           /* an eventfd in epfd, by which other threads wake the sleeper */
    unsigned session_seen; /* the list's generation + 1 when doorbells were last put into epfd */
    struct ffl_sleeper sleeper;
};

struct hold { /* keeps a node while a call waits, even if another thread closes the node */
    struct ffl_watch w; /* of the call's set; or without a source */
    struct node *node;
    int beside; /* a kernel descriptor that the thread's waiter has for the call's time, or -1 */
};

/* A waiting call. The thread's heap has it, not its stack: a cancellation or longjmp leaves the
 * call, and the thread's next call, or the thread's end, cleans up. */
struct call {
    struct call *outer; /* the call that this one, a signal handler's, interrupts */
    struct ffl_poll set;
    struct hold *holds;
    unsigned n, room;
    struct pollfd *kernel;      /* of poll: the kernel's descriptors */
    struct epoll_shadow *plain; /* the epoll that it waits on by the kernel's own call */
    struct ffl_poll *on;        /* the poll that it sleeps on */
    struct ffl_poll *reads;     /* of epoll_wait: the epoll's poll, whose ready list it will read */
    bool away;                  /* waits, without the lock */
    bool spins;                 /* is one of the list's spinners */
    const char *frame;          /* where on the stack it waits */
};

/* Opens the calling thread's call, with room for at least `room` holds; unlock ends the call. NULL:
 * -errno in *rc. Locked. */
struct call *call_open(unsigned room, int *rc);
/* Holds the node; with `events`, the call's set is told of the node's changes. */
struct hold *call_hold(struct call *k, struct node *n, uint32_t events);
void call_release(struct call *k, struct hold *h); /* of the last hold */
/* Unlocks for the kernel's own wait on an epoll without stack sockets; call_back locks again. */
void call_plain(struct call *k, struct epoll_shadow *ep);
void call_back(struct call *k);
/* Memory until scratch_end, which frees the newest; or, if the thread leaves the call, until its
 * next, or its end. NULL: ENOMEM. */
void *scratch_begin(size_t n);
void scratch_end(void);
int waiter_mine(void); /* makes the thread's own waiter: 0 or -errno */
void waiter_close(struct waiter *w);
int waiter_open(struct waiter *w, int epfd); /* takes epfd over, also on failure */
/* Puts all sessions' doorbells into w->epfd: 0 or -errno. Locked. */
int waiter_bells(struct waiter *w);
/* Unlocks for a system call that sleeps on w->epfd, for *left_ns at most: 1. Or, still locked: 0,
 * look again; -EINTR, a handler has run since the call began (`restarts`: see interrupted). A
 * handler that runs later ends the sleep, even before the system call. sleep_end locks again and
 * takes the completions. The thread has a call open. */
int sleep_begin(struct waiter *w, struct ffl_poll *p, int64_t *left_ns, bool restarts);
void sleep_end(struct waiter *w, bool timed_out);
void calls_forked(void);
void calls_rearm(void); /* share.c: reads ahead again for the calls that wait. Locked */
/* Deals with the shim's own events (a doorbell, a wake, a session's end). False: the program's
 * event. Locked. */
bool waiter_event(struct waiter *w, const struct epoll_event *ev);
/* Of a thread's own waiter: takes its events, locked; sleeps and takes them, or -1 with errno. In a
 * confined process the sleep takes none (0); waiter_drain follows. */
void waiter_drain(struct waiter *w);
int waiter_wait(struct waiter *w, struct epoll_event *ev, int max, int64_t timeout_ns);
/* User data of a doorbell or a wake, of this process or its parent? */
bool waiter_mark(uint64_t data);
/* epoll_pwait with a time-out in ns; < 0: for ever. */
int real_epoll(int epfd, struct epoll_event *ev, int max, int64_t timeout_ns, const sigset_t *mask);

#endif
