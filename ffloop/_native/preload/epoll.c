/*
 * epoll.c - epoll over kernel and stack descriptors.
 *
 * Callers: the program. The kernel's epoll stays what it is: kernel descriptors are registered
 * there, and a wait on an epoll without stack sockets is the kernel's call. Beside it a shadow keeps the
 * stack sockets' registrations and a list of those that may be ready, as the kernel does: an item
 * enters when its socket changes, its state is asked when the list is read, and a level-triggered
 * one that is still ready stays. The doorbells are in the kernel's epoll, so that one call sleeps on
 * all; not in one that is itself polled (`observed`), whose readiness would lie.
 */
#include "preload.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define PRIVATE_BITS (EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE)
#define EXCLUSIVE_OK                                                                               \
    (EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE)
#define KERNEL_PERIOD_NS 50000 /* kernel events are looked at this often while the stack has some */

/* ---- the ready list ------------------------------------------------------------------------ */

static void push(struct epoll_shadow *ep, struct item *it)
{
    it->queued = true;
    it->rd_next = NULL;
    it->rd_prev = ep->tail;
    if (ep->tail)
        ep->tail->rd_next = it;
    else
        ep->head = it;
    ep->tail = it;
}

static void take_off(struct epoll_shadow *ep, struct item *it)
{
    if (it->rd_prev)
        it->rd_prev->rd_next = it->rd_next;
    else
        ep->head = it->rd_next;
    if (it->rd_next)
        it->rd_next->rd_prev = it->rd_prev;
    else
        ep->tail = it->rd_prev;
    it->queued = false;
}

void epoll_tell(struct item *it)
{
    struct epoll_shadow *ep = it->w->ep;
    if (it->queued || !(it->events & ~(uint32_t)PRIVATE_BITS))
        return;
    push(ep, it);
    if (ep->w.asleep)
        waiter_kick(&ep->w);
    items_tell(ep->watchers);
}

static uint32_t item_poll(struct item *it)
{
    if (it->inner)
        return epoll_ready(it->inner) ? (EPOLLIN | EPOLLRDNORM) & it->events : 0;
    if (it->w->ep->kq && it->s->type == SOCK_STREAM && (!it->s->sc || it->s->state == SOCK_BOUND))
        return 0; /* kqueue says nothing of it; epoll that it is hung up */
    return sock_poll(it->s, it->events) & it->events;
}

bool epoll_ready(struct epoll_shadow *ep)
{
    struct item *next;
    for (struct item *it = ep->head; it; it = next) {
        next = it->rd_next;
        if (item_poll(it))
            return true;
        take_off(ep, it);
    }
    return false;
}

/* Reads the list once. */
static int harvest(struct epoll_shadow *ep, struct epoll_event *ev, int max)
{
    int n = 0;
    struct item *last = ep->tail, *it;
    while (n < max && last && (it = ep->head)) {
        bool end = it == last;
        uint32_t got = item_poll(it);
        take_off(ep, it);
        if (got) {
            ev[n++] = (struct epoll_event){.events = got, .data = it->data};
            if (it->events & EPOLLONESHOT)
                it->events &= PRIVATE_BITS;
            else if (!(it->events & EPOLLET))
                push(ep, it);
        }
        if (end)
            break;
    }
    return n;
}

/* ---- registrations ------------------------------------------------------------------------- */

static struct item **list_of(struct item *it)
{
    return it->inner ? &it->inner->watchers : &it->s->items;
}

void epoll_forget(struct item *it)
{
    struct epoll_shadow *ep = it->w->ep;
    item_unlink(list_of(it), it);
    if (!ep)
        return; /* a waiting call's: on its stack */
    dual_follow(it, EPOLL_CTL_DEL);
    if (it->queued)
        take_off(ep, it);
    ep->items--;
    free(it);
}

static void forget_of(int fd, struct node *n, void *arg)
{
    struct item **list = n->kind == NODE_SOCK    ? &((struct sock *)n)->items
                         : n->kind == NODE_EPOLL ? &((struct epoll_shadow *)n)->watchers
                                                 : NULL;
    struct item *next;
    for (struct item *it = list ? *list : NULL; it; it = next) {
        next = it->next;
        if (it->w == arg)
            epoll_forget(it);
    }
    (void)fd;
}

void epoll_free(struct epoll_shadow *ep)
{
    while (ep->watchers)
        epoll_forget(ep->watchers);
    if (ep->items)
        fd_each(forget_of, &ep->w);
    if (ep->opened)
        waiter_close(&ep->w);
    if (ep->kq)
        kqueue_free(ep->kq);
    free(ep);
}

static struct item *find(struct item *list, const struct waiter *w, const struct item *model)
{
    for (struct item *it = list; it; it = it->next)
        if (it->w == w && it->fd == model->fd && it->writes == model->writes)
            return it;
    return NULL;
}

/* A new registration or a new mask: is it ready now, and is it told when it will be? */
void epoll_begin(struct item *it)
{
    if (it->s)
        sock_arm(it->s, it->events);
    if (item_poll(it))
        epoll_tell(it);
}

int epoll_open(struct epoll_shadow *ep, int epfd)
{
    if (ep->opened)
        return 0;
    int rc = ep->inherited && !ep->plain ? epoll_private(ep, epfd) : 0;
    if (rc == 0)
        rc = waiter_open(&ep->w, epfd);
    ep->w.ep = ep;
    ep->opened = rc == 0;
    return rc;
}

static int add(struct epoll_shadow *ep, int epfd, struct item *model, const struct epoll_event *ev)
{
    int rc = epoll_open(ep, epfd);
    if (rc < 0)
        return rc;
    node_placed(&ep->node);
    if (model->inner && (ev->events & EPOLLEXCLUSIVE))
        return -EINVAL;
    if ((ev->events & EPOLLEXCLUSIVE) && ev->events & ~(uint32_t)EXCLUSIVE_OK)
        return -EINVAL;
    struct item *it = malloc(sizeof(*it));
    if (!it)
        return -ENOMEM;
    *it = *model;
    it->w = &ep->w;
    it->events = ev->events | EPOLLERR | EPOLLHUP;
    it->data = ev->data;
    item_link(list_of(it), it);
    ep->items++;
    dual_follow(it, EPOLL_CTL_ADD);
    epoll_begin(it);
    if (ep->plain && !ep->observed && waiter_bells(&ep->w) == 0)
        waiter_kick(&ep->w); /* who sleeps there learns that it is no longer the kernel's alone */
    return 0;
}

static int control(struct epoll_shadow *ep, int epfd, int op, struct item *model,
                   const struct epoll_event *ev)
{
    struct item *it = find(*list_of(model), &ep->w, model);
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
        if ((it->events | ev->events) & EPOLLEXCLUSIVE)
            return -EINVAL;
        it->events = ev->events | EPOLLERR | EPOLLHUP;
        it->data = ev->data;
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
    for (struct sc *sc = sc_first(); sc; sc = sc->next) {
        (void)real.epoll_ctl(ep->w.epfd, EPOLL_CTL_DEL, ffl_client_doorbell_fd(sc->c), NULL);
        (void)real.epoll_ctl(ep->w.epfd, EPOLL_CTL_DEL, ffl_client_session_fd(sc->c), NULL);
    }
    (void)real.epoll_ctl(ep->w.epfd, EPOLL_CTL_DEL, ep->w.kick, NULL); /* ENOENT: not yet in */
}

int epoll_register(struct epoll_shadow *ep, int epfd, int op, struct item *model,
                   struct epoll_event *ev)
{
    struct node *n = fd_node(model->fd);
    int rc = 0;
    if (!node_mine(&ep->node) || !node_mine(n))
        return -EXDEV;
    if (n->kind == NODE_EPOLL) { /* the kernel keeps the kernel's part, and finds loops */
        model->inner = (struct epoll_shadow *)n;
        if ((rc = epoll_use(model->inner, model->fd)) < 0)
            return rc;
        epoll_observe(model->inner);
        rc = kernel_ctl(ep, epfd, op, model->fd, ev);
    } else {
        model->s = (struct sock *)n;
        if (op != EPOLL_CTL_DEL && model->s->ticket && !model->s->sc)
            proc_import(model->s);
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
    if (ffl_likely(!fd_node(epfd)) || tls.inside)
        return real.epoll_ctl(epfd, op, fd, ev);
    lock();
    struct epoll_shadow *ep = shadow_of(epfd);
    struct node *n = fd_node(fd);
    if (!ep || (n && n->kind == NODE_OURS) || (op != EPOLL_CTL_DEL && !ev)) {
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
    ep->w.ep = ep;
    return ep;
}

static int shadow(int fd)
{
    if (fd < 0 || !started || tls.inside)
        return fd;
    struct epoll_shadow *ep = epoll_new();
    if (!ep)
        return fd; /* it holds kernel descriptors only; a stack socket's ADD says ENOMEM */
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

/* Takes our own events out of what the kernel gave. Locked. */
static int strip(struct epoll_shadow *ep, struct epoll_event *ev, int n)
{
    int kept = 0;
    for (int i = 0; i < n; i++)
        if (!waiter_event(&ep->w, &ev[i]))
            ev[kept++] = ev[i];
    return kept;
}

static int kernel_now(struct epoll_shadow *ep, int epfd, struct epoll_event *ev, int max)
{
    ep->checked = ffl_now_ns();
    int n = max > 0 ? real_epoll(epfd, ev, max, 0, NULL) : 0;
    return n > 0 ? strip(ep, ev, n) : 0;
}

/* An epoll that is polled itself has no doorbells: the thread's own waiter has them. */
static int sleep_observed(struct epoll_shadow *ep, int epfd, struct epoll_event *ev, int max,
                          int64_t timeout_ns, const sigset_t *mask)
{
    struct waiter *w = waiter_mine();
    if (!w)
        return -1;
    (void)waiter_bells(w);
    struct item it = {.w = w};
    item_link(&ep->watchers, &it);
    w->hit = ep->head != NULL;
    int n = sleep_begin(w, false), saved = n < 0 ? -n : errno;
    bool kernel = false;
    if (n > 0) {
        struct pollfd p[2] = {{.fd = epfd, .events = POLLIN}, {.fd = w->epfd, .events = POLLIN}};
        struct timespec ts = {timeout_ns / FFL_NS_PER_SEC, timeout_ns % FFL_NS_PER_SEC};
        n = real.ppoll(p, 2, timeout_ns < 0 ? NULL : &ts, mask);
        saved = errno;
        sleep_end(w);
        kernel = n > 0 && p[0].revents;
        struct epoll_event own[4];
        int k = n > 0 && p[1].revents ? real_epoll(w->epfd, own, 4, 0, NULL) : 0;
        for (int i = 0; i < k; i++)
            (void)waiter_event(w, &own[i]);
    }
    item_unlink(&ep->watchers, &it);
    errno = saved;
    return n < 0 ? -1 : kernel ? kernel_now(ep, epfd, ev, max) : 0;
}

/* Sleeps once. Kernel events found, 0 to look again or for time-out, -1 with errno. Locked. */
static int sleep_once(struct epoll_shadow *ep, int epfd, struct epoll_event *ev, int max,
                      int64_t timeout_ns, const sigset_t *mask)
{
    if (ep->observed)
        return sleep_observed(ep, epfd, ev, max, timeout_ns, mask);
    int rc = waiter_bells(&ep->w);
    if (rc < 0) {
        errno = -rc;
        return -1;
    }
    if ((rc = sleep_begin(&ep->w, false)) <= 0) {
        errno = rc < 0 ? -rc : errno;
        return rc < 0 ? -1 : 0;
    }
    int n = real_epoll(epfd, ev, max, timeout_ns, mask), saved = errno;
    sleep_end(&ep->w);
    ep->checked = ffl_now_ns();
    n = n > 0 ? strip(ep, ev, n) : n;
    errno = saved;
    return n;
}

int epoll_sleep(struct epoll_shadow *ep, int epfd, struct epoll_event *ev, int max,
                int64_t timeout_ns, const sigset_t *mask)
{
    int64_t now = ffl_now_ns(), until = timeout_ns < 0 ? -1 : now + timeout_ns;
    ep->node.fds++; /* it stays while we wait, whatever another thread closes */
    int n;
    for (;;) {
        if (ffl_unlikely(ep->stale)) {
            epoll_revive(ep);
            now = ffl_now_ns();
        }
        sc_reap();
        n = 0;
        if (ep->kernel > 0 && now - ep->checked >= KERNEL_PERIOD_NS && ep->head)
            n = kernel_now(ep, epfd, ev, max > 1 ? max - max / 4 : 1);
        n += harvest(ep, ev + n, max - n);
        if (n > 0)
            break;
        int64_t left = until < 0 ? -1 : until - now;
        if (until >= 0 && left <= 0) {
            n = kernel_now(ep, epfd, ev, max);
            break;
        }
        n = sleep_once(ep, epfd, ev, max, left, mask);
        if (n != 0) {
            if (n > 0)
                n += harvest(ep, ev + n, max - n);
            break;
        }
        now = ffl_now_ns();
    }
    int saved = errno;
    if (ep->head && ep->w.asleep)
        waiter_kick(&ep->w); /* there may be more for the next thread */
    if (--ep->node.fds == 0)
        epoll_free(ep);
    errno = saved;
    return n;
}

/* The kernel's call on an epoll that has had no stack socket. If one joins meanwhile, our own events are
 * not the program's, and the wait goes on. (They stay in it: one that reached the program would be lost
 * to the other threads.) Locked before and after. */
static int kernel_wait(struct epoll_shadow *ep, int epfd, struct epoll_event *ev, int max,
                       int64_t timeout_ns, const sigset_t *mask)
{
    int64_t until = timeout_ns < 0 ? -1 : ffl_now_ns() + timeout_ns;
    ep->node.fds++; /* as in epoll_sleep */
    ep->plain++;    /* add() looks after its link */
    unlock();
    int n = real_epoll(epfd, ev, max, timeout_ns, mask), saved = errno;
    lock();
    ep->plain--;
    errno = saved;
    if (n >= 0 && ep->opened && (n = strip(ep, ev, n)) == 0) {
        int64_t left = until < 0 ? -1 : until - ffl_now_ns();
        n = epoll_sleep(ep, epfd, ev, max, until >= 0 && left < 0 ? 0 : left, mask);
    }
    saved = errno;
    if (--ep->node.fds == 0)
        epoll_free(ep);
    errno = saved;
    return n;
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
    int rc = epoll_use(ep, epfd);
    if (rc < 0)
        return (int)leave(rc);
    int n = ep->opened ? epoll_sleep(ep, epfd, ev, max, timeout_ns, mask)
                       : kernel_wait(ep, epfd, ev, max, timeout_ns, mask);
    int saved = errno;
    unlock();
    errno = saved;
    return n;
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
