/*
 * poll.c - a socket's readiness, the wait for a socket, poll and select.
 *
 * Callers: the program, all calls that wait for a socket. poll watches its stack sockets, and
 * sleeps in the kernel's ppoll on the other descriptors and on its thread's waiter. The events are
 * those of the kernel's tcp_poll for the same state.
 */
#include "preload.h"

#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

/* ---- one socket ---------------------------------------------------------------------------- */

/* As the kernel's datagram_poll. */
static uint32_t dgram_poll(struct sock *s, uint32_t want)
{
    if (sock_live(s))
        dgram_settle(s);
    unsigned st = sock_live(s) ? ffl_client_state(s->session->c, s->h) : FFL_ST_WRITE;
    uint32_t got = st & (FFL_ST_ERROR | FFL_ST_REPORT) ? EPOLLERR : 0;
    if (got && s->reports_pri)
        got |= EPOLLPRI;
    if (s->shut_rd)
        got |= EPOLLIN | EPOLLRDNORM | EPOLLRDHUP | (st & FFL_ST_SHUT_WR ? EPOLLHUP : 0);
    if (st & FFL_ST_READ && (!(st & FFL_ST_ERROR) || sock_queued(s)))
        got |= EPOLLIN | EPOLLRDNORM;
    if (st & FFL_ST_WRITE)
        got |= EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND;
    else if (want & (EPOLLOUT | EPOLLWRNORM))
        ffl_client_want_room(s->session->c, s->h);
    return got;
}

uint32_t sock_poll(struct sock *s, uint32_t want)
{
    if (s->type == SOCK_DGRAM)
        return dgram_poll(s, want);
    if (s->lost)
        return 0; /* else a server calls accept without end */
    uint32_t unused = EPOLLOUT | EPOLLWRNORM | EPOLLHUP | /* neither listening nor connected */
                      (s->shut_rd ? EPOLLIN | EPOLLRDNORM | EPOLLRDHUP : 0u);
    if (!sock_live(s))
        return unused;
    unsigned st = ffl_client_state(s->session->c, s->h);
    if (st & FFL_ST_CONNECTING)
        return 0;
    if (s->state == SOCK_LISTENING && !(st & FFL_ST_FAILED)) {
        if (!(st & FFL_ST_READ) && want & (EPOLLIN | EPOLLRDNORM))
            (void)ffl_client_arm(s->session->c, s->h, SOCK_WINDOW); /* cannot fail: open */
        return st & FFL_ST_READ ? EPOLLIN | EPOLLRDNORM : 0;
    }
    if (s->state == SOCK_BOUND)
        return unused | (st & FFL_ST_ERROR ? EPOLLERR : 0);
    uint32_t got = st & (FFL_ST_ERROR | FFL_ST_REPORT) ? EPOLLERR : 0;
    bool over = s->shut_rd || st & (FFL_ST_EOF | FFL_ST_FAILED);
    if (st & FFL_ST_READ || over)
        got |= EPOLLIN | EPOLLRDNORM;
    if (over)
        got |= EPOLLRDHUP;
    if (st & (FFL_ST_WRITE | FFL_ST_FAILED))
        got |= EPOLLOUT | EPOLLWRNORM;
    else if (want & (EPOLLOUT | EPOLLWRNORM))
        ffl_client_want_room(s->session->c, s->h);
    if (st & FFL_ST_FAILED || (over && st & FFL_ST_SHUT_WR))
        got |= EPOLLHUP;
    return got;
}

uint32_t sock_ask(struct ffl_source *source, const struct ffl_watch *w)
{
    struct sock *s = ffl_container_of(source, struct sock, node.source);
    const struct epoll_shadow *ep = watch_epoll(w);
    if (ep && ep->kq.ops && s->type == SOCK_STREAM && (!s->session || s->state == SOCK_BOUND))
        return 0; /* of an unconnected stream kqueue has no event; epoll has EPOLLHUP */
    return sock_poll(s, w->events);
}

/* A listener accepts ahead, and a shared connection is read ahead, only for EPOLLIN or EPOLLRDHUP
 * in `want`; a connection of this process alone is read for any `want`, since its end is always
 * told. */
void sock_arm(struct sock *s, uint32_t want)
{
    if (!sock_live(s) || (s->state < SOCK_LISTENING && s->type != SOCK_DGRAM))
        return;
    bool spared = s->state == SOCK_LISTENING || sock_shared(s);
    if (spared && !(want & (EPOLLIN | EPOLLRDNORM | EPOLLRDHUP)))
        return;
    struct ffl_client *c = s->session->c;
    if (s->state == SOCK_LISTENING)
        ffl_client_alone(c, s->h, want & EPOLLEXCLUSIVE && !(want & EPOLLET));
    bool known = s->state != SOCK_LISTENING || ffl_client_asks(c, s->h);
    (void)ffl_client_arm(c, s->h, SOCK_WINDOW); /* cannot fail: open */
    if (!known)
        (void)ffl_client_catch_up(c); /* fails: the session is lost */
}

bool sock_unseen(struct sock *s, uint32_t want)
{
    bool receives = s->type == SOCK_DGRAM || s->state > SOCK_LISTENING;
    if (!sock_live(s) || !receives || s->seen == s->session->shares ||
        !(want & (EPOLLIN | EPOLLRDNORM | EPOLLRDHUP)))
        return false;
    s->seen = s->session->shares;
    (void)ffl_client_arm(s->session->c, s->h, 0); /* cannot fail: open */
    return true;
}

bool sock_look(struct sock *s)
{
    struct ffl_client *c = s->session->c;
    bool may = s->state == SOCK_LISTENING ? ffl_client_may_come(c, s->h) : sock_unseen(s, EPOLLIN);
    return may && ffl_client_catch_up(c) == 0;
}

static struct hold *held(struct call *k, const struct node *n)
{
    for (unsigned i = 0; i < k->n; i++)
        if (k->holds[i].node == n)
            return &k->holds[i];
    return NULL;
}

/* The thread's next sleep waits for s, and for the kernel's listener at the same port. */
static void wait_for(struct call *k, struct sock *s)
{
    if (held(k, &s->node)) {
        ffl_poll_clear(&k->set); /* the caller has looked at s since */
        return;
    }
    struct hold *h = call_hold(k, &s->node, FFL_WATCH_ALL);
    struct epoll_event beside = {.events = EPOLLIN};
    if (s->kernel_fd >= 0 &&
        real.epoll_ctl(tls.waiter->epfd, EPOLL_CTL_ADD, s->kernel_fd, &beside) == 0)
        h->beside = s->kernel_fd; /* ENOMEM: the stack's listener only */
}

int sock_wait(struct sock *s, int64_t until, bool part)
{
    int rc;
    struct call *k = call_open(0, &rc);
    if (!k)
        return rc;
    struct waiter *w = tls.waiter;
    bool restarts = until < 0 && !part; /* as the kernel: not with a time-out */
    bool beside = false;
    wait_for(k, s);
    while (!k->set.head && !beside) {
        int64_t left = until < 0 ? -1 : until - ffl_now_ns();
        if (until >= 0 && left <= 0)
            return -EAGAIN;
        if ((rc = sleep_begin(w, &k->set, &left, restarts)) < 0)
            return rc;
        if (!rc)
            continue;
        struct epoll_event ev[8];
        int n = waiter_wait(w, ev, FFL_COUNT(ev), left), err = errno;
        sleep_end(w, n == 0);
        if (ffl_unlikely(ffl_confined))
            waiter_drain(w);
        for (int i = 0; i < n; i++)
            beside |= !waiter_event(w, &ev[i]);
        if (n < 0 && err != EINTR)
            return -err;
        if (n < 0 && (!restarts || interrupted(restarts))) /* as the kernel: a stop ends it, too */
            return -EINTR;
    }
    return 0;
}

/* ---- poll ---------------------------------------------------------------------------------- */

struct set { /* a call's descriptors */
    struct pollfd *fds;
    nfds_t n, stacks; /* the kernel has nothing of the first `stacks` */
    struct call *k;   /* a hold per descriptor; node NULL: the kernel's */
    bool unseen;      /* of a socket: not known what waits at the instance */
};

/* The node that has f's readiness; NULL: the kernel has it. */
static struct node *asked(struct set *p, const struct pollfd *f)
{
    struct node *n = f->fd >= 0 ? fd_node(f->fd) : NULL;
    if (!n || n->kind == NODE_OURS || node_shared(n) || !node_mine(n))
        return NULL;
    if (n->kind == NODE_EPOLL) { /* the kernel tells of the kernel descriptors in it */
        struct epoll_shadow *inner = (struct epoll_shadow *)n;
        (void)epoll_use(inner, f->fd); /* EMFILE: the kernel's events alone */
        if (inner->stale)
            epoll_revive(inner);
        epoll_observe(inner);
        return n;
    }
    struct sock *s = (struct sock *)n;
    sock_current(s);
    if (!s->session && !s->lost)
        return NULL; /* not placed: a kernel socket */
    uint32_t want = (unsigned short)f->events;
    p->unseen |= sock_unseen(s, want);
    sock_arm(s, want);
    return n;
}

static void watch(struct set *p)
{
    struct pollfd *kernel = p->k->kernel;
    for (nfds_t i = 0; i < p->n; i++) {
        struct node *n = asked(p, &p->fds[i]);
        kernel[i] = p->fds[i];
        kernel[i].revents = 0;
        if (n && n->kind == NODE_SOCK)
            kernel[i].fd = ((struct sock *)n)->kernel_fd; /* the kernel's listener, or -1 */
        if (p->stacks == i && kernel[i].fd < 0)
            p->stacks++;
        if (n)
            (void)call_hold(p->k, n, FFL_WATCH_ALL);
        else
            p->k->holds[p->k->n++] = (struct hold){.beside = -1};
    }
    if (p->unseen)
        session_catch_up();
    kernel[p->n] = (struct pollfd){.fd = tls.waiter->epfd, .events = POLLIN};
}

/* Fills in the events of kernel and stack: the number of ready descriptors. */
static int look(struct set *p)
{
    int n = 0;
    for (nfds_t i = 0; i < p->n; i++) {
        struct ffl_watch *w = &p->k->holds[i].w;
        short got = p->k->kernel[i].revents;
        if (w->source) {
            w->events = (uint32_t)(unsigned short)p->fds[i].events | POLLERR | POLLHUP;
            got = (short)(got | (w->source->ask(w->source, w) & w->events));
            w->events = FFL_WATCH_ALL;
        }
        p->fds[i].revents = got;
        n += got != 0;
    }
    return n;
}

/* Numbers that another thread has closed meanwhile, or used again: the kernel says what they
 * are. */
static void ask_anew(struct set *p)
{
    for (nfds_t i = 0; i < p->n; i++) {
        struct hold *h = &p->k->holds[i];
        if (!h->node || fd_node(p->fds[i].fd) == h->node)
            continue;
        ffl_watch_del(&h->w);
        p->k->kernel[i].fd = p->fds[i].fd;
        if (i < p->stacks)
            p->stacks = i;
    }
}

static int poll_loop(struct set *p, int64_t timeout_ns, const sigset_t *mask)
{
    static const struct timespec zero;
    struct pollfd *kernel = p->k->kernel;
    struct waiter *w = tls.waiter;
    int64_t until = timeout_ns < 0 ? -1 : ffl_now_ns() + timeout_ns;
    for (;;) {
        session_reap();
        ffl_poll_clear(&p->k->set);
        int n = look(p);
        int64_t left = until < 0 ? -1 : until - ffl_now_ns();
        bool last = n > 0 || (until >= 0 && left <= 0);
        if (last) { /* asks the kernel too, without waiting */
            ask_anew(p);
            int k = real.ppoll(kernel, p->n, &zero, NULL);
            return k < 0 ? -errno : look(p);
        }
        int sleeps = sleep_begin(w, &p->k->set, &left, false);
        if (sleeps < 0)
            return sleeps;
        if (!sleeps)
            continue;
        struct timespec ts = {left / FFL_NS_PER_SEC, left % FFL_NS_PER_SEC};
        /* No more than needed: a process may have a limit of 1 (RLIMIT_NOFILE). */
        int k = real.ppoll(kernel + p->stacks, p->n + 1 - p->stacks, left < 0 ? NULL : &ts, mask);
        int err = errno;
        sleep_end(w, k == 0);
        if (k < 0)
            return -err;
        if (kernel[p->n].revents)
            waiter_drain(w);
        ask_anew(p);
        if ((n = look(p)))
            return n;
    }
}

static int do_poll(struct pollfd *fds, nfds_t n, int64_t timeout_ns, const sigset_t *mask)
{
    int rc;
    if (!user_writes(fds, n * sizeof(*fds))) {
        errno = EFAULT;
        return -1;
    }
    call_begins();
    lock();
    struct set p = {.fds = fds, .n = n, .k = call_open((unsigned)n, &rc)};
    if (p.k) {
        watch(&p);
        rc = waiter_bells(tls.waiter); /* watch may have begun sessions, by an import */
        if (rc == 0)
            rc = poll_loop(&p, timeout_ns, mask);
    }
    static const struct timespec zero;
    rc = (int)leave(rc);
    /* a signal that the mask lets through ends the call even if it does not wait */
    return rc == 0 && mask && timeout_ns == 0 ? real.ppoll(NULL, 0, &zero, mask) : rc;
}

/* Has a descriptor of the array a node? False for an unreadable array: the kernel gives the
 * error. */
static bool any(const struct pollfd *fds, nfds_t n)
{
    if (n > INT_MAX || !user_reads(fds, n * sizeof(*fds)))
        return false;
    for (nfds_t i = 0; i < n && !tls.inside; i++)
        if (fds[i].fd >= 0 && fd_node(fds[i].fd))
            return true;
    return false;
}

API int poll(struct pollfd *fds, nfds_t n, int timeout)
{
    real_start();
    if (!any(fds, n))
        return real.poll(fds, n, timeout);
    return do_poll(fds, n, timeout < 0 ? -1 : timeout * 1000000LL, NULL);
}
ALSO(poll, __poll);

/* Copies the program's time-out and mask, and points *ts and *mask to the copies. False: a bad
 * pointer or time-out. */
static bool get_limit(const struct timespec **ts, struct timespec *limit, const sigset_t **mask,
                      sigset_t *open)
{
    if ((*ts && (!user_copy(limit, *ts, sizeof(*limit)) || timespec_bad(limit))) ||
        (*mask && !user_copy(open, *mask, _NSIG / 8))) /* the size of the kernel's mask */
        return false;
    *ts = *ts ? limit : NULL;
    *mask = *mask ? open : NULL;
    return true;
}

API int ppoll(struct pollfd *fds, nfds_t n, const struct timespec *ts, const sigset_t *mask)
{
    real_start();
    struct timespec limit;
    sigset_t open;
    if (!any(fds, n) || !get_limit(&ts, &limit, &mask, &open))
        return real.ppoll(fds, n, ts, mask);
    return do_poll(fds, n, timespec_ns(ts), mask);
}

extern void __chk_fail(void) __attribute__((noreturn));
int __poll_chk(struct pollfd *fds, nfds_t n, int timeout, size_t room);
int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *ts, const sigset_t *mask,
                size_t room);

API int __poll_chk(struct pollfd *fds, nfds_t n, int timeout, size_t room)
{
    if (room / sizeof(*fds) < n)
        __chk_fail();
    return poll(fds, n, timeout);
}

API int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *ts, const sigset_t *mask,
                    size_t room)
{
    if (room / sizeof(*fds) < n)
        __chk_fail();
    return ppoll(fds, n, ts, mask);
}

/* ---- select -------------------------------------------------------------------------------- */

#define READ_SET (POLLIN | POLLRDNORM | POLLRDBAND | POLLHUP | POLLERR)
#define WRITE_SET (POLLOUT | POLLWRNORM | POLLWRBAND | POLLERR)

static bool in(int fd, const fd_set *set)
{ /* not FD_ISSET: programs make sets larger than FD_SETSIZE */
    return set && ((const unsigned long *)set)[fd / (8 * (int)sizeof(long))] >>
                          (fd % (8 * (int)sizeof(long))) &
                      1;
}

static void put(int fd, fd_set *set)
{
    ((unsigned long *)set)[fd / (8 * (int)sizeof(long))] |= 1UL << (fd % (8 * (int)sizeof(long)));
}

/* Bytes of a set of n descriptors: whole words, as the kernel's. */
static size_t set_bytes(int n)
{
    size_t bits = 8 * sizeof(long);
    return ((size_t)n + bits - 1) / bits * sizeof(long);
}

static void clear(int n, fd_set *set)
{
    if (set)
        memset(set, 0, set_bytes(n));
}

static bool any_in(int n, const fd_set *r, const fd_set *w, const fd_set *e)
{
    if (n > FD_CHUNK * FD_CHUNKS || (r && !user_reads(r, set_bytes(n))) ||
        (w && !user_reads(w, set_bytes(n))) || (e && !user_reads(e, set_bytes(n))))
        return false;
    for (int fd = 0; fd < n && !tls.inside; fd++)
        if ((in(fd, r) || in(fd, w) || in(fd, e)) && fd_node(fd))
            return true;
    return false;
}

static int do_select(int n, fd_set *r, fd_set *w, fd_set *e, int64_t timeout_ns,
                     const sigset_t *mask)
{
    bool good = (!r || user_writes(r, set_bytes(n))) && (!w || user_writes(w, set_bytes(n))) &&
                (!e || user_writes(e, set_bytes(n)));
    struct pollfd *fds = good ? scratch_begin((size_t)n * sizeof(*fds)) : NULL;
    nfds_t k = 0;
    if (!fds) {
        errno = good ? ENOMEM : EFAULT;
        return -1;
    }
    for (int fd = 0; fd < n; fd++) {
        short want = (short)((in(fd, r) ? POLLIN | POLLRDNORM | POLLRDBAND : 0) |
                             (in(fd, w) ? POLLOUT | POLLWRNORM | POLLWRBAND : 0) |
                             (in(fd, e) ? POLLPRI : 0));
        if (want)
            fds[k++] = (struct pollfd){.fd = fd, .events = want};
    }
    int rc = do_poll(fds, k, timeout_ns, mask), count = 0;
    for (nfds_t i = 0; i < k && rc > 0; i++)
        if (fds[i].revents & POLLNVAL) {
            errno = EBADF;
            rc = -1;
        }
    if (rc >= 0) {
        const int hold[] = {READ_SET, WRITE_SET, POLLPRI};
        fd_set *sets[] = {r, w, e};
        const short asked[] = {POLLIN, POLLOUT, POLLPRI};
        for (int i = 0; i < 3; i++) {
            clear(n, sets[i]);
            for (nfds_t j = 0; j < k; j++)
                if (fds[j].events & asked[i] && fds[j].revents & hold[i]) {
                    put(fds[j].fd, sets[i]);
                    count++;
                }
        }
    }
    scratch_end();
    return rc < 0 ? -1 : count;
}

API int select(int n, fd_set *r, fd_set *w, fd_set *e, struct timeval *tv)
{
    real_start();
    struct timeval given = {0};
    bool bad = n < 0 || (tv && !user_copy(&given, tv, sizeof(given)));
    if (bad || given.tv_sec < 0 || given.tv_usec < 0 || !any_in(n, r, w, e))
        return real.select(n, r, w, e, tv);
    int64_t start = ffl_now_ns();
    int64_t limit = tv ? given.tv_sec * FFL_NS_PER_SEC + given.tv_usec * 1000 : -1;
    int rc = do_select(n, r, w, e, limit, NULL);
    if (tv) { /* as Linux: gets what is left of the time */
        int64_t left = limit - (ffl_now_ns() - start);
        left = left < 0 || rc == 0 ? 0 : left / 1000;
        given = (struct timeval){left / 1000000, left % 1000000};
        (void)user_copy(tv, &given, sizeof(given)); /* unwritable: ignored, as in the kernel */
    }
    return rc;
}
ALSO(select, __select);

API int pselect(int n, fd_set *r, fd_set *w, fd_set *e, const struct timespec *ts,
                const sigset_t *mask)
{
    real_start();
    struct timespec limit;
    sigset_t open;
    if (n < 0 || !any_in(n, r, w, e) || !get_limit(&ts, &limit, &mask, &open))
        return real.pselect(n, r, w, e, ts, mask);
    return do_select(n, r, w, e, timespec_ns(ts), mask);
}
