/*
 * poll.c - readiness of single sockets, waiting for one, poll and select.
 *
 * Callers: the program, sock.c, io.c. A waiting call puts an item on each stack socket that it asks
 * about and sleeps in the kernel's ppoll on the other descriptors and on its thread's waiter. What
 * it says is what the kernel's tcp_poll would say of the same state.
 */
#include "preload.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* ---- one socket ---------------------------------------------------------------------------- */

/* As the kernel's datagram_poll. */
static uint32_t dgram_poll(struct sock *s, uint32_t want)
{
    unsigned st = s->sc ? ffl_client_state(s->sc->c, s->h) : FFL_ST_WRITE;
    uint32_t got = st & FFL_ST_ERROR ? EPOLLERR : 0;
    if (s->shut_rd)
        got |= EPOLLIN | EPOLLRDNORM | EPOLLRDHUP | (st & FFL_ST_SHUT_WR ? EPOLLHUP : 0);
    if (st & FFL_ST_READ && (!(st & FFL_ST_ERROR) || sock_queued(s)))
        got |= EPOLLIN | EPOLLRDNORM;
    if (st & FFL_ST_WRITE)
        got |= EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND;
    else if (want & (EPOLLOUT | EPOLLWRNORM))
        ffl_client_want_room(s->sc->c, s->h);
    return got;
}

uint32_t sock_poll(struct sock *s, uint32_t want)
{
    if (s->type == SOCK_DGRAM)
        return dgram_poll(s, want);
    if (!s->sc)
        return EPOLLOUT | EPOLLWRNORM | EPOLLHUP; /* neither listening nor connected */
    unsigned st = ffl_client_state(s->sc->c, s->h);
    if (st & FFL_ST_CONNECTING)
        return 0;
    if (s->lost)
        return 0; /* servers accept again and again while there seems to be something */
    if (s->state == SOCK_LISTENING && !(st & FFL_ST_FAILED))
        return st & FFL_ST_READ ? EPOLLIN | EPOLLRDNORM : 0;
    if (s->state == SOCK_BOUND)
        return EPOLLOUT | EPOLLWRNORM | EPOLLHUP | (st & FFL_ST_ERROR ? EPOLLERR : 0);
    uint32_t got = st & FFL_ST_ERROR ? EPOLLERR : 0;
    bool over = s->shut_rd || st & (FFL_ST_EOF | FFL_ST_FAILED);
    if (st & FFL_ST_READ || over)
        got |= EPOLLIN | EPOLLRDNORM;
    if (over)
        got |= EPOLLRDHUP;
    if (st & (FFL_ST_WRITE | FFL_ST_FAILED))
        got |= EPOLLOUT | EPOLLWRNORM;
    else if (want & (EPOLLOUT | EPOLLWRNORM))
        ffl_client_want_room(s->sc->c, s->h);
    if (st & FFL_ST_FAILED || (over && st & FFL_ST_SHUT_WR))
        got |= EPOLLHUP;
    return got;
}

/* A listener accepts ahead only for one who wants to accept, and a connection that other processes have
 * too is read for one who wants to read; another for whoever asks, since its end is always told. */
void sock_arm(struct sock *s, uint32_t want)
{
    if (!s->sc || (s->state < SOCK_LISTENING && s->type != SOCK_DGRAM))
        return;
    bool spared = s->state == SOCK_LISTENING || s->shared;
    if (spared && !(want & (EPOLLIN | EPOLLRDNORM | EPOLLRDHUP)))
        return;
    (void)ffl_client_arm(s->sc->c, s->h, sock_window(s)); /* it is open */
}

bool sock_look(struct sock *s)
{
    if (!s->unseen || !s->sc)
        return false;
    s->unseen = false;
    (void)ffl_client_arm(s->sc->c, s->h, sock_window(s)); /* it is open */
    return ffl_client_ping(s->sc->c) == 0 && ffl_client_ping(s->sc->c) == 0;
}

/* Consumes our own events of a thread's waiter. */
static void drain(struct waiter *w)
{
    struct epoll_event ev[8];
    int n = real_epoll(w->epfd, ev, FFL_COUNT(ev), 0, NULL);
    for (int i = 0; i < n; i++)
        (void)waiter_event(w, &ev[i]);
}

int sock_wait(struct sock *s, int64_t until)
{
    struct waiter *w = waiter_mine();
    int rc = w ? waiter_bells(w) : -errno;
    if (rc < 0)
        return rc;
    struct item it = {.w = w, .s = s};
    item_link(&s->items, &it);
    s->busy++;
    w->hit = false;
    struct epoll_event beside = {.events = EPOLLIN};
    if (s->kernel_fd >= 0)
        (void)real.epoll_ctl(w->epfd, EPOLL_CTL_ADD, s->kernel_fd, &beside); /* ENOMEM: ours only */
    while (!w->hit && rc == 0) {
        int64_t left = until < 0 ? -1 : until - ffl_now_ns();
        if (until >= 0 && left <= 0) {
            rc = -EAGAIN;
            break;
        }
        bool restarts = until < 0; /* a limit ends it, whatever SA_RESTART says */
        if ((rc = sleep_begin(w, restarts)) <= 0)
            continue;
        rc = 0;
        struct epoll_event ev[8];
        int n = real_epoll(w->epfd, ev, FFL_COUNT(ev), left, NULL), err = errno;
        sleep_end(w);
        for (int i = 0; i < n; i++)
            w->hit |= !waiter_event(w, &ev[i]);
        if (n < 0 && err != EINTR)
            rc = -err;
        else if (n < 0 && interrupted(restarts))
            rc = -EINTR;
    }
    item_unlink(&s->items, &it);
    if (s->kernel_fd >= 0)
        (void)real.epoll_ctl(w->epfd, EPOLL_CTL_DEL, s->kernel_fd, NULL);
    if (--s->busy == 0 && s->orphan) {
        sock_free(s);
        return -EBADF;
    }
    return rc;
}

/* ---- poll ---------------------------------------------------------------------------------- */

struct set { /* one call's descriptors */
    struct pollfd *fds;
    nfds_t n;
    struct item *items;    /* one each; w NULL: the kernel's */
    struct pollfd *kernel; /* the others, and the waiter last */
};

static void watch(struct set *p, struct waiter *w)
{
    for (nfds_t i = 0; i < p->n; i++) {
        struct pollfd *f = &p->fds[i];
        struct node *n = f->fd >= 0 ? fd_node(f->fd) : NULL;
        p->kernel[i] = *f;
        p->kernel[i].revents = 0;
        p->items[i] = (struct item){.w = NULL};
        if (!n || n->kind == NODE_OURS || node_shared(n) || !node_mine(n))
            continue;
        struct item *it = &p->items[i];
        if (n->kind == NODE_EPOLL) { /* the kernel tells of its part */
            it->inner = (struct epoll_shadow *)n;
            (void)epoll_use(it->inner, f->fd); /* no descriptor left: what the kernel says */
            if (it->inner->stale)
                epoll_revive(it->inner);
            epoll_observe(it->inner);
            it->w = w;
            item_link(&it->inner->watchers, it);
            continue;
        }
        struct sock *s = (struct sock *)n;
        if (s->ticket && !s->sc)
            proc_import(s);
        if (!s->sc)
            continue; /* the placeholder tells */
        sock_arm(s, (uint32_t)(unsigned short)f->events);
        p->kernel[i].fd = s->kernel_fd; /* the kernel's beside it, or none */
        it->w = w;
        it->s = s;
        s->busy++;
        item_link(&s->items, it);
    }
    p->kernel[p->n] = (struct pollfd){.fd = w->epfd, .events = POLLIN};
}

static void unwatch(struct set *p)
{
    for (nfds_t i = 0; i < p->n; i++) {
        struct item *it = &p->items[i];
        if (!it->w)
            continue;
        if (it->inner) {
            item_unlink(&it->inner->watchers, it);
            continue;
        }
        item_unlink(&it->s->items, it);
        if (--it->s->busy == 0 && it->s->orphan)
            sock_free(it->s);
    }
}

/* What is ready now, kernel's and stack's; how many. */
static int look(struct set *p)
{
    int n = 0;
    for (nfds_t i = 0; i < p->n; i++) {
        struct item *it = &p->items[i];
        short got = p->kernel[i].revents;
        if (it->w && it->s) {
            uint32_t want = (uint32_t)(unsigned short)p->fds[i].events | POLLERR | POLLHUP;
            got = (short)(got | (sock_poll(it->s, want) & want));
        } else if (it->w && epoll_ready(it->inner)) {
            got |= p->fds[i].events & (POLLIN | POLLRDNORM);
        }
        p->fds[i].revents = got;
        n += got != 0;
    }
    return n;
}

static int poll_loop(struct set *p, struct waiter *w, int64_t timeout_ns, const sigset_t *mask)
{
    static const struct timespec zero;
    int64_t until = timeout_ns < 0 ? -1 : ffl_now_ns() + timeout_ns;
    for (;;) {
        sc_reap();
        w->hit = false;
        int n = look(p);
        int64_t left = until < 0 ? -1 : until - ffl_now_ns();
        bool last = n > 0 || (until >= 0 && left <= 0);
        if (last) { /* the kernel's descriptors without waiting */
            int k = real.ppoll(p->kernel, p->n, &zero, NULL);
            return k < 0 ? -errno : look(p);
        }
        int sleeps = sleep_begin(w, false);
        if (sleeps < 0)
            return sleeps;
        if (!sleeps)
            continue;
        struct timespec ts = {left / FFL_NS_PER_SEC, left % FFL_NS_PER_SEC};
        int k = real.ppoll(p->kernel, p->n + 1, left < 0 ? NULL : &ts, mask), err = errno;
        sleep_end(w);
        if (k < 0)
            return -err;
        if (p->kernel[p->n].revents)
            drain(w);
        if ((n = look(p)))
            return n;
        if (k == 0 && !w->hit)
            return 0;
    }
}

static int do_poll(struct pollfd *fds, nfds_t n, int64_t timeout_ns, const sigset_t *mask)
{
    enum { FEW = 32 };
    struct item few[FEW];
    struct pollfd few_fds[FEW + 1];
    struct set p = {.fds = fds, .n = n, .items = few, .kernel = few_fds};
    if (n > FEW) {
        p.items = malloc(n * sizeof(*p.items));
        p.kernel = malloc((n + 1) * sizeof(*p.kernel));
    }
    int rc = p.items && p.kernel ? 0 : -ENOMEM;
    call_begins();
    lock();
    struct waiter *w = rc == 0 ? waiter_mine() : NULL;
    if (rc == 0 && !w)
        rc = -errno;
    if (rc == 0) {
        watch(&p, w);
        rc = waiter_bells(w); /* sessions that began with an inherited socket, too */
        if (rc == 0)
            rc = poll_loop(&p, w, timeout_ns, mask);
        unwatch(&p);
    }
    unlock();
    if (n > FEW) {
        free(p.items);
        free(p.kernel);
    }
    if (rc >= 0)
        return rc;
    errno = -rc;
    return -1;
}

static bool any(const struct pollfd *fds, nfds_t n)
{
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

API int ppoll(struct pollfd *fds, nfds_t n, const struct timespec *ts, const sigset_t *mask)
{
    real_start();
    if (timespec_bad(ts) || !any(fds, n))
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

static void clear(int n, fd_set *set)
{
    size_t bits = 8 * sizeof(long);
    if (set)
        memset(set, 0, ((size_t)n + bits - 1) / bits * sizeof(long));
}

static bool any_in(int n, const fd_set *r, const fd_set *w, const fd_set *e)
{
    for (int fd = 0; fd < n && !tls.inside; fd++)
        if ((in(fd, r) || in(fd, w) || in(fd, e)) && fd_node(fd))
            return true;
    return false;
}

static int do_select(int n, fd_set *r, fd_set *w, fd_set *e, int64_t timeout_ns,
                     const sigset_t *mask)
{
    struct pollfd *fds = malloc((size_t)n * sizeof(*fds));
    nfds_t k = 0;
    if (!fds) {
        errno = ENOMEM;
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
    free(fds);
    return rc < 0 ? -1 : count;
}

API int select(int n, fd_set *r, fd_set *w, fd_set *e, struct timeval *tv)
{
    real_start();
    if (n < 0 || (tv && (tv->tv_sec < 0 || tv->tv_usec < 0)) || !any_in(n, r, w, e))
        return real.select(n, r, w, e, tv);
    int64_t start = ffl_now_ns();
    int64_t limit = tv ? tv->tv_sec * FFL_NS_PER_SEC + tv->tv_usec * 1000 : -1;
    int rc = do_select(n, r, w, e, limit, NULL);
    if (tv) { /* Linux says how much is left */
        int64_t left = limit - (ffl_now_ns() - start);
        left = left < 0 || rc == 0 ? 0 : left / 1000;
        *tv = (struct timeval){left / 1000000, left % 1000000};
    }
    return rc;
}
ALSO(select, __select);

API int pselect(int n, fd_set *r, fd_set *w, fd_set *e, const struct timespec *ts,
                const sigset_t *mask)
{
    real_start();
    if (n < 0 || timespec_bad(ts) || !any_in(n, r, w, e))
        return real.pselect(n, r, w, e, ts, mask);
    return do_select(n, r, w, e, timespec_ns(ts), mask);
}
