/*
 * selector.c - epoll over stack sockets and kernel descriptors. See selector.h.
 *
 * Kernel descriptors are in a kernel epoll, with the session's doorbell; stack sockets have watches
 * of a poll (ready.h). A wait looks at both and then sleeps on the kernel epoll.
 */
#include "selector.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { MARK_BELL = 1, MARK_END, MARK_KICK }; /* user data of the selector's own descriptors */

#define MARK(which) (UINT64_MAX - (which))

struct place { /* a number that stands for a stack socket */
    int h;     /* < 0: the socket's session has ended */
    struct ffl_watch w[2];
};

struct ffl_selector {
    struct ffl_poll poll;
    struct ffl_source over; /* of sockets whose session has ended: always ready */
    struct ffl_client *c;   /* or NULL */
    int epfd;
    bool shown; /* other code polls epfd */
    bool kernel_first;
    int n;
    struct place **places;     /* by number; NULL: a kernel descriptor */
    struct epoll_event *found; /* the events of a poll */
    int room;
    struct ffl_kqueue kq;
};

static uint32_t ask_over(struct ffl_source *s, const struct ffl_watch *w)
{
    (void)s;
    (void)w;
    return EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLERR | EPOLLHUP;
}

static int enter(struct ffl_selector *s, int fd, uint32_t events, uint64_t mark)
{
    struct epoll_event ev = {.events = events, .data.u64 = mark};
    return epoll_ctl(s->epfd, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

/* ---- life ---------------------------------------------------------------------------------- */

struct ffl_selector *ffl_selector_new(void)
{
    struct ffl_selector *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->poll.wake_fd = -1;
    s->over.ask = ask_over;
    s->epfd = epoll_create1(EPOLL_CLOEXEC);
    s->kq.writes = -1;
    if (s->epfd >= 0)
        return s;
    free(s);
    return NULL;
}

/* From now until the next wait, completions make epfd readable. */
static void show(struct ffl_selector *s)
{
    s->poll.asleep = 1;
    while (!ffl_sleep_doze(s->c))
        ffl_client_reap(s->c);
    if (ffl_poll_ready(&s->poll))
        ffl_poll_kick(&s->poll);
}

static void leave(struct ffl_selector *s)
{
    if (s->shown)
        ffl_client_shown(s->c, false);
    (void)epoll_ctl(s->epfd, EPOLL_CTL_DEL, ffl_client_doorbell_fd(s->c), NULL);
    (void)epoll_ctl(s->epfd, EPOLL_CTL_DEL, ffl_client_session_fd(s->c), NULL);
    s->c = NULL;
}

void ffl_selector_free(struct ffl_selector *s)
{
    for (int fd = 0; fd < s->n; fd++)
        ffl_selector_forget(s, fd);
    if (s->c)
        leave(s);
    ffl_kqueue_free(&s->kq);
    if (s->poll.wake_fd >= 0)
        close(s->poll.wake_fd);
    close(s->epfd);
    free(s->places);
    free(s->found);
    free(s);
}

/* ---- the client and its sockets ------------------------------------------------------------ */

static void end_place(struct ffl_selector *s, struct place *p)
{
    p->h = -1;
    for (int i = 0; i < 2; i++) {
        if (!p->w[i].source)
            continue;
        ffl_watch_del(&p->w[i]);
        ffl_watch_add(&s->poll, &s->over, &p->w[i]);
        ffl_watch_begin(&p->w[i]);
    }
}

int ffl_selector_use(struct ffl_selector *s, struct ffl_client *c)
{
    for (int fd = 0; fd < s->n; fd++)
        if (s->places[fd] && s->c)
            end_place(s, s->places[fd]);
    if (s->c)
        leave(s);
    if (!c)
        return 0;
    int rc = enter(s, ffl_client_doorbell_fd(c), EPOLLIN | EPOLLET, MARK(MARK_BELL));
    if (rc == 0)
        rc = enter(s, ffl_client_session_fd(c), EPOLLIN | EPOLLRDHUP, MARK(MARK_END));
    if (rc == 0)
        s->c = c;
    if (rc == 0 && s->shown) {
        ffl_client_shown(c, true);
        show(s);
    }
    return rc;
}

int ffl_selector_place(struct ffl_selector *s, int fd, int h)
{
    if (fd >= s->n) {
        int n = (fd / 64 + 1) * 64;
        struct place **grown = realloc(s->places, (size_t)n * sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        for (int i = s->n; i < n; i++)
            grown[i] = NULL;
        s->places = grown;
        s->n = n;
    }
    struct place *p = s->places[fd] ? s->places[fd] : calloc(1, sizeof(*p));
    if (!p)
        return -ENOMEM;
    s->places[fd] = p;
    p->h = h;
    return 0;
}

static struct place *place_of(const struct ffl_selector *s, int fd)
{
    return fd >= 0 && fd < s->n ? s->places[fd] : NULL;
}

void ffl_selector_forget(struct ffl_selector *s, int fd)
{
    struct place *p = place_of(s, fd);
    if (!p)
        return;
    ffl_watch_del(&p->w[0]);
    ffl_watch_del(&p->w[1]);
    free(p);
    s->places[fd] = NULL;
    ffl_kqueue_forget(&s->kq, fd);
}

/* ---- registrations ------------------------------------------------------------------------- */

static int begin(struct ffl_selector *s, struct place *p, struct ffl_watch *w,
                 const struct epoll_event *ev)
{
    w->events = ev->events | EPOLLERR | EPOLLHUP;
    w->data = ev->data.u64;
    if (p->h >= 0 && ev->events & EPOLLIN)
        (void)ffl_client_arm(s->c, p->h, 1); /* cannot fail: open */
    ffl_watch_begin(w);
    return 0;
}

static int ctl_place(struct ffl_selector *s, struct place *p, int op, bool writes,
                     struct epoll_event *ev)
{
    struct ffl_watch *w = &p->w[writes];
    if (op == EPOLL_CTL_ADD) {
        struct ffl_source *source = p->h < 0 ? &s->over : ffl_client_source(s->c, p->h);
        if (w->source || !source)
            return source ? -EEXIST : -EBADF;
        ffl_watch_add(&s->poll, source, w);
    }
    if (!w->source)
        return -ENOENT;
    if (op != EPOLL_CTL_DEL)
        return begin(s, p, w, ev);
    ffl_watch_del(w);
    return 0;
}

static int ctl(struct ffl_selector *s, int op, int fd, struct epoll_event *ev)
{
    struct place *p = place_of(s, fd);
    if (p)
        return ctl_place(s, p, op, false, ev);
    return epoll_ctl(s->epfd, op, fd, ev) < 0 ? -errno : 0;
}

int ffl_selector_set(struct ffl_selector *s, int fd, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.fd = fd};
    if (!events) {
        (void)ctl(s, EPOLL_CTL_DEL, fd, &ev); /* ENOENT: closed meanwhile */
        return 0;
    }
    int rc = ctl(s, EPOLL_CTL_ADD, fd, &ev);
    return rc == -EEXIST ? ctl(s, EPOLL_CTL_MOD, fd, &ev) : rc;
}

/* ---- waiting ------------------------------------------------------------------------------- */

/* Drops the events of the selector's own descriptors. */
static int strip(struct ffl_selector *s, struct epoll_event *ev, int n)
{
    int kept = 0;
    for (int i = 0; i < n; i++) {
        if (ev[i].data.u64 == MARK(MARK_END))
            ffl_client_lost(s->c);
        else if (ev[i].data.u64 < MARK(MARK_KICK))
            ev[kept++] = ev[i];
    }
    return n < 0 ? n : kept;
}

static int kernel(struct ffl_selector *s, struct epoll_event *ev, int max, int64_t timeout_ns)
{
    int n = max > 0 ? ffl_epoll_wait(s->epfd, ev, max, timeout_ns) : 0;
    int kept = strip(s, ev, n < 0 ? -errno : n);
    return kept == 0 && n == max ? strip(s, ev, ffl_epoll_wait(s->epfd, ev, max, 0)) : kept;
}

/* Takes the events that are there now; stack sockets and kernel descriptors come first by turns. */
static int look(struct ffl_selector *s, struct epoll_event *ev, int max)
{
    s->kernel_first = !s->kernel_first;
    int n = s->kernel_first ? kernel(s, ev, max - max / 2, 0) : 0;
    if (n < 0)
        return n;
    n += ffl_poll_harvest(&s->poll, ev + n, max - n);
    int more = s->kernel_first ? 0 : kernel(s, ev + n, max - n, 0);
    return more < 0 && n == 0 ? more : n + (more > 0 ? more : 0);
}

static int sleep_once(struct ffl_selector *s, struct epoll_event *ev, int max, int64_t timeout_ns)
{
    if (!s->c)
        return kernel(s, ev, max,
                      timeout_ns < 0 || timeout_ns > FFL_LOOK_NS ? FFL_LOOK_NS : timeout_ns);
    int n = strip(s, ev, ffl_client_sleep(s->c, ev, max, s->epfd, timeout_ns, false));
    ffl_client_reap(s->c);
    return n < 0 ? n : n + ffl_poll_harvest(&s->poll, ev + n, max - n);
}

static int wait(struct ffl_selector *s, struct epoll_event *ev, int max, int64_t timeout_ns)
{
    s->poll.asleep = 0;
    if (s->c)
        ffl_client_reap(s->c);
    int n = look(s, ev, max);
    if (n == 0 && timeout_ns != 0)
        n = sleep_once(s, ev, max, timeout_ns);
    if (s->shown)
        show(s);
    return n;
}

int ffl_selector_poll(struct ffl_selector *s, int *pairs, int max, int64_t timeout_ns)
{
    if (max > s->room) {
        struct epoll_event *grown = realloc(s->found, (size_t)max * sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        s->found = grown;
        s->room = max;
    }
    int n = wait(s, s->found, max, timeout_ns);
    for (int i = 0; i < n; i++) {
        pairs[2 * i] = s->found[i].data.fd;
        pairs[2 * i + 1] = (int)s->found[i].events;
    }
    return n;
}

int ffl_selector_fd(struct ffl_selector *s)
{
    if (s->shown)
        return s->epfd;
    if (s->poll.wake_fd < 0)
        s->poll.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->poll.wake_fd < 0)
        return -errno;
    int rc = enter(s, s->poll.wake_fd, EPOLLIN | EPOLLET, MARK(MARK_KICK));
    if (rc < 0 && rc != -EEXIST)
        return rc;
    s->shown = true;
    if (s->c)
        ffl_client_shown(s->c, true);
    show(s);
    return s->epfd;
}

/* ---- kqueue -------------------------------------------------------------------------------- */

static struct ffl_selector *selector_of(struct ffl_kqueue *kq)
{
    return ffl_container_of(kq, struct ffl_selector, kq);
}

static int kq_ctl(struct ffl_kqueue *kq, int op, int fd, bool writes, struct epoll_event *ev)
{
    struct ffl_selector *s = selector_of(kq);
    struct place *p = place_of(s, fd);
    return p ? ctl_place(s, p, op, writes, ev) : FFL_KERNELS;
}

static bool kq_data(struct ffl_kqueue *kq, int fd, bool writes, struct kevent *k)
{
    struct ffl_selector *s = selector_of(kq);
    const struct place *p = place_of(s, fd);
    if (p)
        ffl_kqueue_data(p->h < 0 ? NULL : s->c, p->h, writes, k);
    return p != NULL;
}

static int kq_wait(struct ffl_kqueue *kq, struct epoll_event *ev, int max, int64_t timeout_ns)
{
    return wait(selector_of(kq), ev, max, timeout_ns);
}

struct ffl_kqueue *ffl_selector_kqueue(struct ffl_selector *s)
{
    static const struct ffl_kqueue_ops ops = {kq_ctl, kq_data, kq_wait, NULL};
    s->kq.ops = &ops;
    s->kq.epfd = &s->epfd;
    return &s->kq;
}
