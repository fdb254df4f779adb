/*
 * wait.c - the lock, calls that wait, and sleeping (on waiters: waiter.c).
 *
 * Callers: everything. Several threads may sleep, each on a waiter (an epoll's, or the thread's
 * own) that has every session's doorbell, exclusively: one thread wakes, takes the completions for
 * all, and wakes the threads concerned. While a thread sleeps, each unlock raises the wait words,
 * and then looks at the rings again: no completion stays unseen.
 *
 * With the lock a thread cannot be cancelled; asleep, it can. What a waiting call holds is in the
 * thread's memory (struct call): after a cancellation or a longjmp from a handler, the thread's
 * next call, or the thread's end, cleans up.
 */
#include "preload.h"

#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>

__thread struct tls tls __attribute__((tls_model("initial-exec")));

#define FEW 4 /* nodes per call, at least; poll has more */

static pthread_mutex_t big = PTHREAD_MUTEX_INITIALIZER;
static pthread_key_t at_end; /* set: the thread's end calls thread_gone */

/* ---- the lock ------------------------------------------------------------------------------ */

static void take(void)
{
    tls.inside = true; /* first: handlers are put off from now on */
    atomic_signal_fence(memory_order_seq_cst);
    tls.locked = !options.per_thread && !thread_alone();
    if (tls.locked) {
        (void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &tls.cancel); /* cannot fail */
        pthread_mutex_lock(&big);
    }
}

static void pass(void)
{
    const struct session_list *l = session_list();
    while (l->sleepers && !ffl_sleep_doze(l->clients))
        session_reap();
    bool locked = tls.locked; /* a copy: a handler's calls change tls */
    int cancel = tls.cancel;
    if (locked)
        pthread_mutex_unlock(&big);
    atomic_signal_fence(memory_order_seq_cst);
    tls.inside = false;
    signals_come();
    if (locked)
        (void)pthread_setcancelstate(cancel, NULL);
}

/* ---- calls --------------------------------------------------------------------------------- */

void call_release(struct call *k, struct hold *h)
{
    k->n--;
    ffl_watch_del(&h->w);
    if (h->beside >= 0)
        (void)real.epoll_ctl(tls.waiter->epfd, EPOLL_CTL_DEL, h->beside, NULL);
    if (h->node)
        node_put(h->node);
}

static void stops_spinning(struct call *k)
{
    session_list()->spinners -= k->spins;
    k->spins = false;
}

static void call_end(void)
{
    struct call *k = tls.call;
    tls.call = k->outer;
    k->outer = tls.spare;
    tls.spare = k;
    k->away = false;
    if (k->on) { /* left in its sleep */
        k->on->asleep--;
        session_list()->sleepers--;
        k->on = NULL;
        tls.asleep = NULL;
    }
    stops_spinning(k);
    if (k->reads) {
        k->reads->waits--;
        k->reads->served -= k->reads->served > 0;
        k->reads = NULL;
    }
    if (k->plain)
        k->plain->plain--;
    k->plain = NULL;
    while (k->n)
        call_release(k, &k->holds[k->n - 1]);
}

/* A handler that interrupts a call runs further down the stack than the call's frame, by more than
 * these bytes, since the kernel's signal frame is between. */
#define SIGNAL_FRAME 512

static bool within(const stack_t *s, const char *p)
{
    return !(s->ss_flags & SS_DISABLE) && p >= (char *)s->ss_sp &&
           p < (char *)s->ss_sp + s->ss_size;
}

/* Has the thread left `frame` by a jump? It is not above this one on the stack then. */
static bool left(const char *frame)
{
    const char *here = __builtin_frame_address(0);
    stack_t other = {.ss_flags = SS_DISABLE};
    (void)sigaltstack(NULL, &other); /* cannot fail */
    bool was = within(&other, frame), is = within(&other, here);
    return was == is ? here > frame - SIGNAL_FRAME : was;
}

/* ---- memory for a call that may be left ------------------------------------------------------ */

struct scratch {
    struct scratch *outer; /* of a call that this one's handler interrupts */
    const char *frame;
    max_align_t data[];
};

void scratch_end(void)
{
    struct scratch *s = tls.scratch;
    tls.scratch = s->outer;
    free(s);
}

void *scratch_begin(size_t n)
{
    while (tls.scratch && left(tls.scratch->frame))
        scratch_end();
    struct scratch *s = malloc(sizeof(*s) + n);
    if (!s)
        return NULL;
    *s = (struct scratch){tls.scratch, __builtin_frame_address(0)};
    tls.scratch = s;
    thread_watch();
    return s->data;
}

void lock(void)
{
    int error = errno;
    take();
    tls.error = error;
    while (ffl_unlikely(tls.call != NULL) && (!tls.call->away || left(tls.call->frame)))
        call_end();
}

void unlock(void)
{
    if (ffl_unlikely(tls.call != NULL) && !tls.call->away)
        call_end();
    pass();
}

bool source_waited(const struct ffl_source *s)
{
    const struct ffl_watch *w = s->watches;
    while (w && !w->poll->passing)
        w = w->next;
    return w;
}

/* In the child: the other threads' calls are the parent's. */
void source_forked(struct ffl_source *s)
{
    struct ffl_watch *next;
    for (struct ffl_watch *w = s->watches; w; w = next) {
        next = w->next;
        if (w->poll->passing)
            ffl_watch_del(w);
    }
}

static void drop_waiter(void)
{
    if (tls.waiter)
        waiter_close(tls.waiter);
    free(tls.waiter);
    tls.waiter = NULL;
}

void calls_forked(void)
{
    for (struct call *k = tls.call; k; k = k->outer) {
        k->n = 0; /* each node's `held` is 0 already (fork.c) */
        k->spins = false;
        k->on = k->reads = NULL;
        k->plain = NULL;
    }
    drop_waiter(); /* the parent has the same kernel epoll */
}

/* ---- a thread's end ------------------------------------------------------------------------ */

static void free_calls(void)
{
    while (tls.call)
        call_end();
    while (tls.scratch)
        scratch_end();
    while (tls.spare) {
        struct call *k = tls.spare;
        tls.spare = k->outer;
        free(k->holds);
        free(k->kernel);
        free(k);
    }
}

static void leave_behind(int fd, struct node *n, void *unused)
{
    (void)fd;
    (void)unused;
    if (n->owner != NODE_INHERITED)
        n->owner = n->owner > 0 ? NODE_LEFT : 0;
}

/* Natively a thread's end closes no sockets: a session that has some stays. What it has read ahead
 * is the other processes', as at a process's end. */
static void thread_gone(void *unused)
{
    (void)unused;
    take();
    free_calls();
    drop_waiter();
    if (options.per_thread) {
        proc_leave_all();
        fd_each(leave_behind, NULL);
    }
    session_ended(&tls.sessions);
    pass();
}

void wait_start(void)
{
    (void)pthread_key_create(&at_end, thread_gone); /* EAGAIN: thread ends leak */
}

void thread_watch(void)
{
    (void)pthread_setspecific(at_end, &tls); /* ENOMEM: the thread's end leaks */
}

/* ---- a call begins ------------------------------------------------------------------------- */

static struct call *call_new(void)
{
    struct call *k = tls.spare;
    if (k) {
        tls.spare = k->outer;
        return k;
    }
    k = calloc(1, sizeof(*k));
    if (k)
        k->set.passing = true;
    return k;
}

struct call *call_open(unsigned room, int *rc)
{
    struct call *k = tls.call && !tls.call->away ? tls.call : NULL;
    *rc = waiter_mine();
    if (*rc == 0)
        *rc = waiter_bells(tls.waiter);
    if (*rc < 0 || k)
        return *rc < 0 ? NULL : k;
    *rc = -ENOMEM;
    k = call_new();
    if (!k)
        return NULL;
    if (room < FEW)
        room = FEW;
    if (k->room < room) {
        free(k->holds);
        free(k->kernel);
        k->holds = calloc(room, sizeof(*k->holds));
        k->kernel = calloc(room + 1, sizeof(*k->kernel));
        k->room = k->holds && k->kernel ? room : 0;
    }
    k->outer = k->room ? tls.call : tls.spare;
    *(k->room ? &tls.call : &tls.spare) = k;
    if (!k->room)
        return NULL;
    k->set.wake_fd = tls.waiter->wake_fd;
    *rc = 0;
    return k;
}

struct hold *call_hold(struct call *k, struct node *n, uint32_t events)
{
    if (k->n == k->room) /* full: the last hold is of an earlier wait of the call */
        call_release(k, &k->holds[k->n - 1]);
    struct hold *h = &k->holds[k->n++];
    *h = (struct hold){.node = n, .beside = -1, .w = {.events = events}};
    n->held++;
    if (events)
        ffl_watch_add(&k->set, &n->source, &h->w);
    return h;
}

void call_plain(struct call *k, struct epoll_shadow *ep)
{
    ep->plain++;
    k->plain = ep;
    k->frame = __builtin_frame_address(0);
    k->away = true;
    pass();
}

void call_back(struct call *k)
{
    take();
    k->away = false;
    k->plain->plain--;
    k->plain = NULL;
}

/* ---- sleeping ------------------------------------------------------------------------------ */

struct look {
    struct ffl_poll *p;
    bool restarts;
};

static bool came(void *arg, bool whole)
{
    const struct look *l = arg;
    tls.call->frame = __builtin_frame_address(0);
    tls.call->away = true;
    pass();
    if ((whole || tls.locked) && !ffl_confined) /* another thread may need the lock */
        (void)sched_yield();                    /* cannot fail */
    take();
    tls.call->away = false;
    session_reap();
    return l->p->head || interrupted(l->restarts);
}

int sleep_begin(struct waiter *w, struct ffl_poll *p, int64_t *left_ns, bool restarts)
{
    struct call *k = tls.call;
    struct look look = {p, restarts};
    unsigned exports = session_list()->exports;
    session_list()->spinners++;
    k->spins = true;
    bool sleeps = ffl_sleep_prepare(&w->sleeper, &session_list()->clients, left_ns, came, &look);
    stops_spinning(k);
    if (!sleeps)
        session_reap();
    if (ffl_unlikely(session_list()->exports != exports)) { /* while this thread spun */
        calls_rearm();
        return 0;
    }
    if (p->head)
        return 0;
    if (!sleeps)
        return interrupted(restarts) ? -EINTR : 0;
    tls.asleep = w; /* before the look at handlers: a later handler wakes w */
    atomic_signal_fence(memory_order_seq_cst);
    if (interrupted(restarts)) {
        tls.asleep = NULL;
        return -EINTR;
    }
    session_list()->sleepers++;
    p->asleep++;
    k->frame = __builtin_frame_address(0);
    k->on = p;
    k->away = true;
    pass();
    return 1;
}

void sleep_end(struct waiter *w, bool timed_out)
{
    int saved = errno;
    struct call *k = tls.call;
    take();
    tls.asleep = NULL;
    k->away = false;
    if (k->on) {
        k->on->asleep--;
        k->on = NULL;
        struct session_list *l = session_list();
        ffl_sleep_woken(&w->sleeper, l->clients, timed_out);
        if (--l->sleepers == 0)
            ffl_sleep_rouse(l->clients);
    }
    session_reap();
    errno = saved;
}
