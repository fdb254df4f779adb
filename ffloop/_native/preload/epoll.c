/*
 * epoll.c - epoll over kernel and stack descriptors.
 *
 * Callers: the program. Kernel descriptors are registered in the kernel's epoll, and a wait on an
 * epoll without stack sockets is the kernel's call. Beside the kernel's epoll a shadow has the
 * stack sockets' registrations, watches of a poll (client/ready.h). The doorbells are in the
 * kernel's epoll, so that one call sleeps on all; but not in an epoll that is itself polled
 * (`observed`), which a doorbell would show as ready.
 */
#include "preload.h"

#include <limits.h>
#include <poll.h>
#include <stdlib.h>

#define EXCLUSIVE_OK                                                                               \
    (EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE)
#define KERNEL_PERIOD_NS 50000 /* while stack sockets are ready, the kernel is asked this often */

/* marks + fd: the kernel's user data of an epoll in an epoll. Never touched. */
static char marks[FD_CHUNK * FD_CHUNKS];

static uint32_t ask(struct ffl_source *source, const struct ffl_watch *w)
{
    struct epoll_shadow *ep = ffl_container_of(source, struct epoll_shadow, node.source);
    static const struct timespec zero;
    struct pollfd kernel = {.fd = ep->w.epfd, .events = POLLIN};
    bool ready = ffl_poll_ready(&ep->poll);
    if (!ready && ep->opened && !w->poll->passing) /* a waiting call asks the kernel itself */
        ready = real.ppoll(&kernel, 1, &zero, NULL) > 0;
    return ready ? EPOLLIN | EPOLLRDNORM : 0;
}

void epoll_kick(struct epoll_shadow *ep)
{
    if (ep->poll.asleep)
        ffl_poll_kick(&ep->poll);
    ffl_source_tell(&ep->node.source, EPOLLIN | EPOLLRDNORM);
}

/* ---- registrations ------------------------------------------------------------------------- */

void epoll_forget(struct item *it)
{
    struct item **p = &watch_epoll(&it->w)->inner;
    while (*p && *p != it)
        p = &(*p)->inner;
    if (*p)
        *p = it->inner;
    dual_follow(it, EPOLL_CTL_DEL);
    ffl_watch_del(&it->w);
    free(it);
}

static void forget_of(int fd, struct node *n, void *arg)
{
    struct ffl_watch *next;
    for (struct ffl_watch *w = n->source.watches; w; w = next) {
        next = w->next;
        if (w->poll == arg)
            epoll_forget(watch_item(w));
    }
    (void)fd;
}

void epoll_free(struct epoll_shadow *ep)
{
    while (ep->node.source.watches) /* epolls' only: a waiting call would hold the node */
        epoll_forget(watch_item(ep->node.source.watches));
    if (ep->poll.watches)
        fd_each(forget_of, &ep->poll);
    if (ep->opened)
        waiter_close(&ep->w);
    if (ep->kq.ops) {
        int writes = ffl_kqueue_free(&ep->kq);
        if (writes >= 0)
            fd_ours_close(writes);
    }
    free(ep);
}

static struct item *find(const struct epoll_shadow *ep, const struct item *model)
{
    for (struct ffl_watch *w = model->w.source->watches; w; w = w->next)
        if (w->poll == &ep->poll && watch_item(w)->fd == model->fd &&
            watch_item(w)->writes == model->writes)
            return watch_item(w);
    return NULL;
}

void epoll_begin(struct item *it)
{
    struct node *n = watch_node(&it->w);
    if (n->kind == NODE_SOCK) {
        if (sock_unseen((struct sock *)n, it->w.events))
            epoll_stale(watch_epoll(&it->w)); /* the next wait asks the instance, once for all */
        sock_arm((struct sock *)n, it->w.events);
    }
    ffl_watch_begin(&it->w);
}

int epoll_open(struct epoll_shadow *ep, int epfd)
{
    if (ep->opened)
        return 0;
    struct room more = {0};
    int rc;
    do {
        rc = ep->inherited && !ep->plain ? epoll_private(ep, epfd) : 0; /* once: no longer so */
        if (rc == 0)
            rc = waiter_open(&ep->w, fd_ours(real.dup(epfd))); /* the program may close epfd */
    } while (room_for(&more, rc));
    ep->poll.wake_fd = ep->w.wake_fd;
    ep->opened = rc == 0;
    return rc;
}

static int add(struct epoll_shadow *ep, int epfd, struct item *model, const struct epoll_event *ev)
{
    int rc = epoll_open(ep, epfd);
    if (rc < 0)
        return rc;
    node_placed(&ep->node);
    struct item *it = malloc(sizeof(*it));
    if (!it)
        return -ENOMEM;
    *it = *model;
    it->w.events = ev->events | EPOLLERR | EPOLLHUP;
    it->w.data = ev->data.u64;
    ffl_watch_add(&ep->poll, model->w.source, &it->w);
    if (watch_node(&it->w)->kind == NODE_EPOLL) {
        it->inner = ep->inner;
        ep->inner = it;
    }
    dual_follow(it, EPOLL_CTL_ADD);
    epoll_begin(it);
    if (ep->plain && !ep->observed && waiter_bells(&ep->w) == 0)
        ffl_poll_kick(
            &ep->poll); /* threads in the kernel's own wait begin to wait for stack sockets */
    return 0;
}

/* May EPOLLEXCLUSIVE be asked for so? */
static bool exclusive_ok(const struct item *model, int op, uint32_t events)
{
    return op == EPOLL_CTL_ADD && watch_node(&model->w)->kind != NODE_EPOLL &&
           !(events & ~(uint32_t)EXCLUSIVE_OK);
}

static int control(struct epoll_shadow *ep, int epfd, int op, struct item *model,
                   const struct epoll_event *ev)
{
    struct item *it = find(ep, model);
    if (op != EPOLL_CTL_DEL && ev->events & EPOLLEXCLUSIVE && !exclusive_ok(model, op, ev->events))
        return -EINVAL;
    switch (op) {
    case EPOLL_CTL_ADD:
        return it ? -EEXIST : add(ep, epfd, model, ev);
    case EPOLL_CTL_DEL:
        if (!it)
            return -ENOENT;
        epoll_forget(it);
        return 0;
    case EPOLL_CTL_MOD:
        if (!it)
            return -ENOENT;
        if (it->w.events & EPOLLEXCLUSIVE)
            return -EINVAL;
        it->w.events = ev->events | EPOLLERR | EPOLLHUP;
        it->w.data = ev->data.u64;
        dual_follow(it, EPOLL_CTL_MOD);
        epoll_begin(it);
        return 0;
    default:
        return -EINVAL;
    }
}

static int kernel_ctl(struct epoll_shadow *ep, int epfd, int op, int fd, struct epoll_event *ev)
{
    if (real.epoll_ctl(epfd, op, fd, ev) < 0)
        return -errno;
    if (op != EPOLL_CTL_MOD)
        ep->kernel += op == EPOLL_CTL_ADD ? 1 : -1;
    return 0;
}

void epoll_observe(struct epoll_shadow *ep)
{
    if (ep->observed)
        return;
    ep->observed = true;
    if (!ep->opened)
        return;
    for (struct session *session = session_first(); session; session = session->next) {
        (void)real.epoll_ctl(ep->w.epfd, EPOLL_CTL_DEL, ffl_client_doorbell_fd(session->c), NULL);
        (void)real.epoll_ctl(ep->w.epfd, EPOLL_CTL_DEL, ffl_client_session_fd(session->c), NULL);
    }
    (void)real.epoll_ctl(ep->w.epfd, EPOLL_CTL_DEL, ep->w.wake_fd, NULL); /* ENOENT: not yet in */
}

/* An epoll in an epoll has its events from its watch alone, which asks the kernel too. In the
 * kernel it is for the kernel's edges, which tell the watch, and to find loops. */
static int inner_ctl(struct epoll_shadow *ep, int epfd, int op, int fd,
                     const struct epoll_event *ev)
{
    struct epoll_event mark = {.events = EPOLLIN | EPOLLET, .data.ptr = marks + fd};
    if (op == EPOLL_CTL_MOD)
        return 0;
    if (op == EPOLL_CTL_ADD)
        mark.events |= ev->events & EPOLLEXCLUSIVE; /* EINVAL */
    return kernel_ctl(ep, epfd, op, fd, &mark);
}

int epoll_register(struct epoll_shadow *ep, int epfd, int op, struct item *model,
                   struct epoll_event *ev)
{
    struct node *n = fd_node(model->fd);
    int rc = 0;
    if (!node_mine(&ep->node) || !node_mine(n))
        return -EXDEV;
    model->w.source = &n->source;
    if (n->kind == NODE_EPOLL) {
        struct epoll_shadow *inner = (struct epoll_shadow *)n;
        if ((rc = epoll_open(inner, model->fd)) < 0)
            return rc;
        epoll_observe(inner);
        rc = inner_ctl(ep, epfd, op, model->fd, ev);
    } else {
        struct sock *s = (struct sock *)n;
        if (op != EPOLL_CTL_DEL)
            sock_current(s);
    }
    return rc < 0 ? rc : control(ep, epfd, op, model, ev);
}

static struct epoll_shadow *shadow_of(int epfd)
{
    struct node *n = fd_node(epfd);
    return n && n->kind == NODE_EPOLL ? (struct epoll_shadow *)n : NULL;
}

API int epoll_ctl(int epfd, int op, int fd, struct epoll_event *ev)
{
    real_start();
    struct epoll_event copy;
    if (ffl_likely(!fd_node(epfd)) || tls.inside ||
        (op != EPOLL_CTL_DEL && !user_copy(&copy, ev, sizeof(copy))))
        return real.epoll_ctl(epfd, op, fd, ev);
    ev = &copy;
    lock();
    struct epoll_shadow *ep = shadow_of(epfd);
    struct node *n = fd_node(fd);
    if (!ep || (n && n->kind == NODE_OURS)) {
        unlock();
        return real.epoll_ctl(epfd, op, fd, ev);
    }
    int rc = epoll_use(ep, epfd);
    if (rc < 0)
        return (int)leave(rc);
    if (!n || fd == epfd)
        return (int)leave(kernel_ctl(ep, epfd, op, fd, ev));
    struct item model = {.fd = fd};
    return (int)leave(epoll_register(ep, epfd, op, &model, ev));
}

/* ---- creating ------------------------------------------------------------------------------ */

struct epoll_shadow *epoll_new(void)
{
    struct epoll_shadow *ep = calloc(1, sizeof(*ep));
    if (!ep)
        return NULL;
    ep->node.kind = NODE_EPOLL;
    ep->node.source.ask = ask;
    ep->poll = (struct ffl_poll){.wake_fd = -1, .self = &ep->node.source};
    return ep;
}

static int shadow(int fd)
{
    if (fd < 0 || !started || tls.inside)
        return fd;
    struct epoll_shadow *ep = epoll_new();
    if (!ep)
        return fd; /* no memory: an epoll of the kernel's only */
    lock();
    if (fd_set_node(fd, &ep->node) < 0)
        free(ep);
    unlock();
    return fd;
}

API int epoll_create(int size)
{
    real_start();
    return shadow(fd_made(real.epoll_create(size)));
}

API int epoll_create1(int flags)
{
    real_start();
    return shadow(fd_made(real.epoll_create1(flags)));
}

/* ---- waiting ------------------------------------------------------------------------------- */

/* Is it an edge of an epoll in ep? Tells its watch. */
static bool inner_event(struct epoll_shadow *ep, const struct epoll_event *ev)
{
    uintptr_t fd = (uintptr_t)ev->data.u64 - (uintptr_t)marks;
    if (fd >= sizeof(marks))
        return false;
    for (struct item *it = ep->inner; it; it = it->inner)
        if (it->fd == (int)fd)
            ffl_watch_tell(&it->w);
    return true;
}

/* Takes the shim's own events out of the kernel's: how many are left. Locked. */
static int strip(struct epoll_shadow *ep, struct epoll_event *ev, int n)
{
    int kept = 0;
    for (int i = 0; i < n; i++)
        if (!waiter_event(&ep->w, &ev[i]) && !inner_event(ep, &ev[i]))
            ev[kept++] = ev[i];
    return kept;
}

static int kernel_now(struct epoll_shadow *ep, int epfd, struct epoll_event *ev, int max)
{
    ep->checked = ffl_now_ns();
    int n = max > 0 ? real_epoll(epfd, ev, max, 0, NULL) : 0;
    return n > 0 ? strip(ep, ev, n) : 0;
}

/* sleep_once for an observed epoll, which has no doorbells: the thread's own waiter has them. */
static int sleep_observed(struct epoll_shadow *ep, struct call *k, struct epoll_event *ev, int max,
                          int64_t timeout_ns, const sigset_t *mask)
{
    struct waiter *w = tls.waiter;
    struct hold *h = call_hold(k, &ep->node, FFL_WATCH_ALL);
    if (ep->poll.head)
        ffl_watch_tell(&h->w);
    int n = sleep_begin(w, &k->set, &timeout_ns, false), saved = n < 0 ? -n : errno;
    bool kernel = false;
    if (n > 0) {
        struct pollfd p[2] = {{.fd = ep->w.epfd, .events = POLLIN},
                              {.fd = w->epfd, .events = POLLIN}};
        struct timespec ts = {timeout_ns / FFL_NS_PER_SEC, timeout_ns % FFL_NS_PER_SEC};
        n = real.ppoll(p, 2, timeout_ns < 0 ? NULL : &ts, mask);
        saved = errno;
        sleep_end(w, n == 0);
        kernel = n > 0 && p[0].revents;
        if (n > 0 && p[1].revents)
            waiter_drain(w);
    }
    call_release(k, h);
    errno = saved;
    return n < 0 ? -1 : kernel ? kernel_now(ep, ep->w.epfd, ev, max) : 0;
}

/* Sleeps once: the number of kernel events, 0 to look again or for time-out, -1 with errno.
 * Locked. */
static int sleep_once(struct epoll_shadow *ep, struct call *k, struct epoll_event *ev, int max,
                      int64_t timeout_ns, const sigset_t *mask)
{
    if (ep->observed)
        return sleep_observed(ep, k, ev, max, timeout_ns, mask);
    int rc = waiter_bells(&ep->w);
    if (rc == 0)
        rc = sleep_begin(&ep->w, &ep->poll, &timeout_ns, false);
    if (rc <= 0) {
        errno = -rc;
        return rc < 0 ? -1 : 0;
    }
    int n = real_epoll(ep->w.epfd, ev, max, timeout_ns, mask), saved = errno;
    sleep_end(&ep->w, n == 0);
    ep->checked = ffl_now_ns();
    n = n > 0 ? strip(ep, ev, n) : n;
    errno = saved;
    return n;
}

/* Opens the call, which holds the epoll even if another thread closes it. */
static struct call *wait_call(struct epoll_shadow *ep)
{
    int rc;
    struct call *k = call_open(0, &rc);
    if (!k) {
        errno = -rc;
        return NULL;
    }
    (void)call_hold(k, &ep->node, 0);
    if (!k->reads)
        ep->poll.waits++;
    k->reads = &ep->poll;
    return k;
}

/* Of `max` events, for the kernel's: neither kind keeps out the other. */
static int kernels_part(struct epoll_shadow *ep, int max)
{
    if (max > 1)
        return max - (max + 3) / 4;
    return ep->kernels_turn = !ep->kernels_turn;
}

static int wait_in(struct epoll_shadow *ep, struct call *k, struct epoll_event *ev, int max,
                   int64_t timeout_ns, const sigset_t *mask)
{
    int64_t now = ffl_now_ns(), until = timeout_ns < 0 ? -1 : now + timeout_ns;
    int n;
    for (;;) {
        if (ffl_unlikely(ep->stale)) {
            epoll_revive(ep);
            now = ffl_now_ns();
        }
        session_reap();
        n = 0;
        if (ep->kernel > 0 && ep->poll.head &&
            (ep->inner || now - ep->checked >= KERNEL_PERIOD_NS)) /* inner: else an edge twice */
            n = kernel_now(ep, ep->w.epfd, ev, kernels_part(ep, max));
        n += ffl_poll_harvest(&ep->poll, ev + n, max - n);
        if (n > 0)
            break;
        int64_t left = until < 0 ? -1 : until - now;
        if (until >= 0 && left <= 0) {
            n = kernel_now(ep, ep->w.epfd, ev, max);
            return n + ffl_poll_harvest(&ep->poll, ev + n, max - n);
        }
        n = sleep_once(ep, k, ev, max, left, mask);
        if (n < 0)
            return n;
        if (n > 0) {
            n += ffl_poll_harvest(&ep->poll, ev + n, max - n);
            break;
        }
        now = ffl_now_ns();
    }
    if (ep->poll.head && ep->poll.asleep)
        ffl_poll_kick(&ep->poll); /* there may be more events, for another thread */
    return n;
}

int epoll_sleep(struct epoll_shadow *ep, struct epoll_event *ev, int max, int64_t timeout_ns,
                const sigset_t *mask)
{
    struct call *k = wait_call(ep);
    return k ? wait_in(ep, k, ev, max, timeout_ns, mask) : -1;
}

/* The kernel's call on an epoll that has had no stack socket. If a stack socket joins meanwhile,
 * the shim's own events are taken out, and the wait goes on. Locked before and after. */
static int kernel_wait(struct epoll_shadow *ep, int epfd, struct epoll_event *ev, int max,
                       int64_t timeout_ns, const sigset_t *mask)
{
    int64_t until = timeout_ns < 0 ? -1 : ffl_now_ns() + timeout_ns;
    struct call *k = wait_call(ep);
    if (!k)
        return -1;
    call_plain(k, ep); /* add() sees k->plain and wakes this thread */
    int n = real_epoll(epfd, ev, max, timeout_ns, mask), saved = errno;
    call_back(k);
    errno = saved;
    if (n < 0 || !ep->opened || (n = strip(ep, ev, n)) > 0)
        return n;
    int64_t left = until < 0 ? -1 : until - ffl_now_ns();
    return wait_in(ep, k, ev, max, until >= 0 && left < 0 ? 0 : left, mask);
}

static int any_wait(int epfd, struct epoll_event *ev, int max, int64_t timeout_ns,
                    const sigset_t *mask)
{
    call_begins();
    lock();
    struct epoll_shadow *ep = shadow_of(epfd);
    if (!ep || node_shared(&ep->node) || max <= 0 || max > INT_MAX / (int)sizeof(*ev)) {
        unlock();
        return real_epoll(epfd, ev, max, timeout_ns, mask);
    }
    if (!node_mine(&ep->node))
        return (int)leave(-EXDEV);
    if (ep->opened) /* as the kernel: as many as can be written */
        max = (int)(user_room(ev, (size_t)max * sizeof(*ev)) / sizeof(*ev));
    if (max == 0)
        return (int)leave(-EFAULT);
    int rc = epoll_use(ep, epfd);
    if (rc < 0)
        return (int)leave(rc);
    int n = ep->opened ? epoll_sleep(ep, ev, max, timeout_ns, mask)
                       : kernel_wait(ep, epfd, ev, max, timeout_ns, mask);
    return (int)leave(n < 0 ? -errno : n);
}

API int epoll_wait(int epfd, struct epoll_event *ev, int max, int timeout)
{
    real_start();
    if (!fd_node(epfd) || tls.inside)
        return real.epoll_wait(epfd, ev, max, timeout);
    return any_wait(epfd, ev, max, timeout < 0 ? -1 : timeout * 1000000LL, NULL);
}

API int epoll_pwait(int epfd, struct epoll_event *ev, int max, int timeout, const sigset_t *mask)
{
    real_start();
    if (!fd_node(epfd) || tls.inside)
        return real.epoll_pwait(epfd, ev, max, timeout, mask);
    return any_wait(epfd, ev, max, timeout < 0 ? -1 : timeout * 1000000LL, mask);
}

API int epoll_pwait2(int epfd, struct epoll_event *ev, int max, const struct timespec *ts,
                     const sigset_t *mask)
{
    real_start();
    if (!fd_node(epfd) || tls.inside || timespec_bad(ts))
        return real.epoll_pwait2(epfd, ev, max, ts, mask);
    return any_wait(epfd, ev, max, timespec_ns(ts), mask);
}
