/*
 * sc.c - sessions, the lock, and sleeping on them.
 *
 * Callers: everything. A session is attached when a socket first needs it. Several threads may sleep,
 * each on a descriptor of its own (an epoll or its thread's waiter) that holds every session's
 * doorbell, exclusively: one wakes, takes over what has come for all, and kicks those it concerns.
 * While anyone sleeps the wait word is raised anew at each unlock, after which the rings are looked
 * at again: no entry stays unseen.
 */
#include "preload.h"
#include "calls.h"
#include "choice.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/single_threaded.h>
#include <unistd.h>

__thread struct tls tls __attribute__((tls_model("initial-exec")));

#define SLICE_NS 50000 /* of spinning, then the kernel's events have their turn */

static pthread_mutex_t big = PTHREAD_MUTEX_INITIALIZER;
static struct sc_list shared; /* the process's sessions, but for FF_THREAD_SOCKET */
static pthread_key_t at_end;  /* of a thread that has something here */
static char mark_bell, mark_kick;

/* ---- the lock ------------------------------------------------------------------------------ */

void lock(void)
{
    tls.locked = !options.per_thread && !__libc_single_threaded;
    if (tls.locked)
        pthread_mutex_lock(&big);
    tls.inside = true;
}

static void tell_all(struct sc *sc)
{
    struct sock *s;
    while ((s = ffl_client_next(sc->c)))
        sock_tell(s);
}

static struct sc_list *list(void)
{
    return options.per_thread ? &tls.sessions : &shared;
}

struct sc *sc_first(void)
{
    return list()->first;
}

void unlock(void)
{
    const struct sc_list *l = list();
    for (struct sc *sc = l->first; sc; sc = sc->next) {
        tell_all(sc);
        while (l->sleepers && !ffl_client_doze(sc->c)) {
            ffl_client_reap(sc->c);
            tell_all(sc);
        }
    }
    tls.inside = false;
    if (tls.locked)
        pthread_mutex_unlock(&big);
}

void sc_reap(void)
{
    for (struct sc *sc = sc_first(); sc; sc = sc->next) {
        ffl_client_reap(sc->c);
        tell_all(sc);
    }
}

/* ---- sessions ------------------------------------------------------------------------------ */

static struct ffl_client_opts attach_options(const char *path)
{
    return (struct ffl_client_opts){.path = path,
                                    .timeout_ms = (int)options.timeout_ms,
                                    .spin_us = options.spin_us,
                                    .max_sockets = (uint32_t)options.max_sockets,
                                    .pool_kib = (uint32_t)options.pool_kib,
                                    .tx_cap = (uint32_t)options.tx_cap,
                                    .via = tls.via,
                                    .place_fd = fd_ours,
                                    .close_fd = fd_ours_close};
}

/* An embedded instance admits its own user; one of its process tree that has become another user
 * comes in through what it inherited. */
static bool refused(int rc, struct ffl_client_opts *o)
{
    if ((rc != -EPERM && rc != -EACCES) || !kept.path || strcmp(o->path, kept.path) != 0)
        return false;
    o->via = &kept.ticket;
    return true;
}

static int attach_at(struct sc *sc, char *why, size_t whylen)
{
    struct ffl_client_opts o = attach_options(sc->path);
    int rc = ffl_client_attach(&sc->c, &o, why, whylen);
    return refused(rc, &o) ? ffl_client_attach(&sc->c, &o, why, whylen) : rc;
}

int sc_ticket(const struct sc *sc, struct ffl_ticket *out, char *why, size_t whylen)
{
    struct ffl_client_opts o = attach_options(sc->path);
    int rc = ffl_client_ticket(&o, out, why, whylen);
    return refused(rc, &o) ? ffl_client_ticket(&o, out, why, whylen) : rc;
}

static int attach(struct sc *sc, int index, char *why, size_t whylen)
{
    int rc = -ENOENT;
    for (unsigned i = 0; ffl_choice_next(rc); i++) {
        int place = ffl_choice_place(options.instance, i, index, sc->path, sizeof(sc->path));
        if (place == -ENOENT) /* that was the last one */
            return rc;
        if (place < 0) {
            snprintf(why, whylen, "the path of the instance's socket is too long");
            return place;
        }
        rc = attach_at(sc, why, whylen);
    }
    if (rc < 0)
        return rc;
    sc->stack = ffl_client_stack(sc->c);
    rc = ffl_choice_stack(options.stack, sc->stack, sc->path, why, whylen);
    if (rc < 0)
        ffl_client_detach(sc->c);
    return rc;
}

static void complain(int index, int rc, const char *why)
{
    static _Atomic bool told;
    if (atomic_exchange(&told, true))
        return;
    char advice[FFL_SETTING_WHY];
    ffl_choice_none(options.stack, index, (int)options.instances, advice, sizeof(advice));
    if (options.fallback)
        report("no instance (%s): sockets stay on the kernel (FFLOOP_FALLBACK=kernel)", why);
    else if (!ffl_choice_next(rc))
        report("no instance: %s", why);
    else
        report("%s (%s); or run the program with `ffloop preload`, or set FFLOOP_FALLBACK=kernel",
               advice, why);
}

/* Who sleeps on an epoll takes the new doorbell in. */
static void wake_sleeper(int fd, struct node *n, void *arg)
{
    struct epoll_shadow *ep = (struct epoll_shadow *)n;
    (void)fd;
    (void)arg;
    if (n->kind != NODE_EPOLL)
        return;
    if (ep->w.asleep)
        waiter_kick(&ep->w);
    items_tell(ep->watchers);
}

struct sc *sc_get(int index, int *why_rc)
{
    char why[256] = "";
    for (struct sc *sc = sc_first(); sc; sc = sc->next)
        if (sc->index == index && ffl_client_dead(sc->c) == 0)
            return sc;
    struct sc *sc = calloc(1, sizeof(*sc));
    int rc = sc ? attach(sc, index, why, sizeof(why)) : -ENOMEM;
    if (rc < 0) {
        free(sc);
        complain(index, rc, why);
        *why_rc = -ENETDOWN;
        return NULL;
    }
    sc->index = index;
    struct sc_list *l = list();
    bool first = !l->first;
    sc->next = l->first;
    l->first = sc;
    l->generation++;
    if (options.per_thread)
        (void)pthread_setspecific(at_end, &tls); /* ENOMEM: the session lasts as the process */
    else
        fd_each(wake_sleeper, NULL);
    place_attached(first);
    ffl_log(FFL_LOG_INFO, "attached to instance %d (pid %d, %s)", index,
            ffl_client_instance_pid(sc->c), ffl_client_stack(sc->c));
    return sc;
}

static void sc_end(struct sc *sc)
{
    ffl_client_detach(sc->c);
    free(sc);
}

static void forget(struct sc *sc)
{
    struct sc **p = &list()->first;
    while (*p && *p != sc)
        p = &(*p)->next;
    *p = sc->next;
    sc_end(sc);
}

void sc_put(struct sc *sc)
{
    if (--sc->socks)
        return;
    if (sc->ended)
        sc_end(sc);
    else if (ffl_client_dead(sc->c) && !list()->sleepers)
        forget(sc);
}

/* ---- waiters ------------------------------------------------------------------------------- */

static void waiter_gone(void)
{
    waiter_close(tls.waiter);
    fd_ours_close(tls.waiter->epfd);
    free(tls.waiter);
    tls.waiter = NULL;
}

static void leave_behind(int fd, struct node *n, void *unused)
{
    (void)fd;
    (void)unused;
    n->owner = n->owner > 0 ? NODE_LEFT : 0;
}

/* The thread ends. Its sockets are not closed by that, natively: with any its session stays. */
static void thread_gone(void *unused)
{
    (void)unused;
    lock();
    if (tls.waiter)
        waiter_gone();
    if (options.per_thread)
        fd_each(leave_behind, NULL);
    struct sc *next;
    for (struct sc *sc = tls.sessions.first; sc; sc = next) {
        next = sc->next;
        sc->ended = sc->socks > 0;
        if (!sc->socks)
            forget(sc);
    }
    tls.sessions.first = NULL;
    unlock();
}

void sc_start(void)
{
    (void)pthread_key_create(&at_end, thread_gone); /* else a thread's end leaks three */
}

struct moved {
    int from, to;
    bool done;
};

static void move(struct moved *m, int *fd)
{
    if (*fd == m->from) {
        *fd = m->to;
        m->done = true;
    }
}

static void move_kick(int fd, struct node *n, void *arg)
{
    (void)fd;
    if (n->kind == NODE_EPOLL && ((struct epoll_shadow *)n)->opened)
        move(arg, &((struct epoll_shadow *)n)->w.kick);
}

bool sc_moved(int from, int to)
{
    struct moved m = {from, to, false};
    for (struct sc *sc = sc_first(); sc && !m.done; sc = sc->next)
        m.done = ffl_client_moved(sc->c, from, to);
    if (tls.waiter) {
        move(&m, &tls.waiter->kick);
        move(&m, &tls.waiter->epfd);
    }
    fd_each(move_kick, &m);
    return m.done;
}

/* The child has no session: its client is dead already (client.h). */
void sc_forked(void)
{
    while (sc_first())
        forget(sc_first());
    list()->generation++;
    list()->sleepers = 0; /* those threads are the parent's */
    if (tls.waiter)
        waiter_gone(); /* its epoll is the parent's too */
}

static int add(int epfd, int fd, uint32_t events, void *mark)
{
    struct epoll_event ev = {.events = events, .data.ptr = mark};
    return real.epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev) < 0 && errno != EEXIST ? -errno : 0;
}

int waiter_open(struct waiter *w, int epfd)
{
    *w = (struct waiter){.epfd = epfd};
    ffl_spin_init(&w->spin, options.spin_us);
    w->kick = fd_ours(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (w->kick < 0)
        return w->kick;
    return 0;
}

void waiter_close(struct waiter *w)
{
    fd_ours_close(w->kick);
    w->kick = -1;
}

struct waiter *waiter_mine(void)
{
    if (tls.waiter)
        return tls.waiter;
    struct waiter *w = malloc(sizeof(*w));
    int epfd = w ? fd_ours(real.epoll_create1(EPOLL_CLOEXEC)) : -ENOMEM;
    int rc = epfd < 0 ? epfd : waiter_open(w, epfd);
    if (rc == 0)
        rc = waiter_bells(w);
    if (rc < 0) {
        if (epfd >= 0)
            fd_ours_close(epfd);
        free(w);
        errno = -rc;
        return NULL;
    }
    tls.waiter = w;
    (void)pthread_setspecific(at_end, &tls); /* ENOMEM: it is not freed */
    return w;
}

int waiter_bells(struct waiter *w)
{
    unsigned now = list()->generation + 1;
    if (w->sc_seen == now)
        return 0;
    int rc = add(w->epfd, w->kick, EPOLLIN | EPOLLET, &mark_kick);
    for (struct sc *sc = sc_first(); sc && rc == 0; sc = sc->next) {
        if (ffl_client_dead(sc->c))
            continue;
        rc = add(w->epfd, ffl_client_doorbell_fd(sc->c), EPOLLIN | EPOLLET | EPOLLEXCLUSIVE,
                 &mark_bell);
        if (rc == 0)
            rc = add(w->epfd, ffl_client_session_fd(sc->c), EPOLLIN | EPOLLRDHUP, sc);
    }
    if (rc == 0)
        w->sc_seen = now;
    return rc;
}

void waiter_kick(struct waiter *w)
{
    uint64_t one = 1;
    ssize_t n = real.write(w->kick, &one, sizeof(one)); /* edge-triggered, never read */
    (void)n;
}

static void tell_lost(int fd, struct node *n, void *sc)
{
    struct sock *s = (struct sock *)n;
    if (n->kind == NODE_SOCK && s->sc == sc)
        sock_tell(s);
    (void)fd;
}

bool waiter_mark(uint64_t data)
{
    return data == (uintptr_t)&mark_bell || data == (uintptr_t)&mark_kick;
}

bool waiter_event(struct waiter *w, const struct epoll_event *ev)
{
    if (waiter_mark(ev->data.u64))
        return true;
    for (struct sc *sc = sc_first(); sc; sc = sc->next) {
        if (ev->data.ptr != sc)
            continue;
        if (ffl_client_dead(sc->c) == 0) {
            ffl_client_lost(sc->c);
            report("instance %d (pid %d) has ended: its connections are reset", sc->index,
                   ffl_client_instance_pid(sc->c));
            fd_each(tell_lost, sc); /* all threads that wait for its sockets */
        }
        (void)real.epoll_ctl(w->epfd, EPOLL_CTL_DEL, ffl_client_session_fd(sc->c), NULL);
        return true;
    }
    return false;
}

static bool has_come(const struct waiter *w)
{
    return w->hit || (w->ep && w->ep->head);
}

/* Looks at the rings a little longer (spin.h), before the wait word is raised: nobody need ring.
 * True: time has passed, perhaps something has come; the next time it is the sleep's turn. */
static bool linger(struct waiter *w, bool restarts)
{
    if (w->lingered)
        return w->lingered = false;
    int64_t began = ffl_now_ns(), until = ffl_spin_until(&w->spin, began), now;
    bool spins = until > began;
    w->spin.last_ns = began; /* its gap is how long a wait takes */
    if (!spins && !ffl_yield_due(&w->yield))
        return false;
    do {
        unlock();
        (void)sched_yield(); /* also when it spins: others may need this CPU; it has no errors */
        lock();
        sc_reap();
        now = ffl_now_ns();
    } while (!has_come(w) && now < until && now - began < SLICE_NS && !interrupted(restarts));
    w->lingered = !has_come(w);
    for (struct sc *sc = spins ? sc_first() : NULL; sc; sc = sc->next)
        ffl_client_spun(sc->c, !w->lingered);
    if (!w->lingered)
        ffl_spin_hit(&w->spin, now);
    if (!spins)
        ffl_yield_done(&w->yield, now - began, !w->lingered);
    return true;
}

/* Anything to do instead of sleeping? */
static bool awake(struct waiter *w)
{
    for (struct sc *sc = sc_first(); sc; sc = sc->next) {
        tell_all(sc);
        if (!ffl_client_doze(sc->c)) {
            ffl_client_reap(sc->c);
            tell_all(sc);
            return true;
        }
    }
    return has_come(w);
}

int sleep_begin(struct waiter *w, bool restarts)
{
    if (linger(w, restarts) || awake(w))
        return 0;
    tls.asleep = w; /* before the look: a handler after it kicks */
    atomic_signal_fence(memory_order_seq_cst);
    if (interrupted(restarts)) {
        tls.asleep = NULL;
        return -EINTR;
    }
    list()->sleepers++;
    for (struct sc *sc = sc_first(); sc; sc = sc->next)
        ffl_client_sleeps(sc->c);
    w->asleep++;
    unlock();
    return 1;
}

void sleep_end(struct waiter *w)
{
    int saved = errno;
    lock();
    tls.asleep = NULL;
    w->asleep--;
    if (w->spin.limit_ns)
        ffl_spin_hit(&w->spin, ffl_now_ns());
    struct sc_list *l = list();
    if (l->sleepers && --l->sleepers == 0)
        for (struct sc *sc = l->first; sc; sc = sc->next)
            ffl_client_rouse(sc->c);
    sc_reap();
    errno = saved;
}

int real_epoll(int epfd, struct epoll_event *ev, int max, int64_t timeout_ns, const sigset_t *mask)
{
    static _Atomic bool no_pwait2;
    if (timeout_ns > 0 && !atomic_load(&no_pwait2)) {
        struct timespec ts = {timeout_ns / FFL_NS_PER_SEC, timeout_ns % FFL_NS_PER_SEC};
        int n = real.epoll_pwait2(epfd, ev, max, &ts, mask);
        if (n >= 0 || !ffl_lacks(errno))
            return n;
        atomic_store(&no_pwait2, true);
    }
    int64_t ms = timeout_ns <= 0 ? timeout_ns : (timeout_ns + 999999) / 1000000;
    return real.epoll_pwait(epfd, ev, max,
                            ms < 0           ? -1
                            : ms > INT32_MAX ? INT32_MAX
                                             : (int)ms,
                            mask);
}
