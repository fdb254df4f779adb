/*
 * waiter.c - what threads sleep on: doorbells, wakes, the ends of sessions.
 *
 * Callers: wait.c, the files of epoll, poll and kqueue. A waiter is an epoll's, or a thread's own.
 */
#include "preload.h"
#include "calls.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#define LONGEST_SPIN_US 50

static char mark_bell, mark_wake;

static int add(int epfd, int fd, uint32_t events, void *mark)
{
    struct epoll_event ev = {.events = events, .data.ptr = mark};
    return real.epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev) < 0 && errno != EEXIST ? -errno : 0;
}

int waiter_open(struct waiter *w, int epfd)
{
    *w = (struct waiter){.epfd = epfd, .wake_fd = -1};
    if (epfd < 0)
        return epfd;
    /* Not longer: a call that waits looks at the kernel's descriptors, and signals, after it. */
    bool longer = options.spin_us > LONGEST_SPIN_US || options.spin_us == FFL_SPIN_FOREVER;
    ffl_spin_init(&w->sleeper.idle.spin, longer ? LONGEST_SPIN_US : options.spin_us);
    w->wake_fd = fd_ours(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (w->wake_fd >= 0)
        return 0;
    fd_ours_close(epfd);
    return w->wake_fd;
}

void waiter_close(struct waiter *w)
{
    fd_ours_close(w->wake_fd);
    fd_ours_close(w->epfd);
    w->wake_fd = w->epfd = -1;
}

int waiter_mine(void)
{
    if (tls.waiter)
        return 0;
    struct waiter *w = malloc(sizeof(*w));
    struct room more = {0};
    int rc;
    do
        rc = w ? waiter_open(w, fd_ours(real.epoll_create1(EPOLL_CLOEXEC))) : -ENOMEM;
    while (room_for(&more, rc));
    if (rc < 0) {
        free(w);
        return rc;
    }
    tls.waiter = w;
    thread_watch();
    return 0;
}

static void tell_end(struct session *session)
{
    if (session->end_told)
        return;
    session->end_told = true;
    report("instance %d (pid %d) has ended: its connections are reset", session->index,
           ffl_client_instance_pid(session->c));
}

int waiter_bells(struct waiter *w)
{
    unsigned now = session_list()->generation + 1;
    if (w->session_seen == now)
        return 0;
    int rc = add(w->epfd, w->wake_fd, EPOLLIN | EPOLLET, &mark_wake);
    for (struct session *session = session_first(); session && rc == 0; session = session->next) {
        if (ffl_client_detached(session->c)) { /* before any call waited */
            tell_end(session);
            continue;
        }
        rc = add(w->epfd, ffl_client_doorbell_fd(session->c), EPOLLIN | EPOLLET | EPOLLEXCLUSIVE,
                 &mark_bell);
        if (rc == 0)
            rc = add(w->epfd, ffl_client_session_fd(session->c), EPOLLIN | EPOLLRDHUP, session);
    }
    if (rc == 0)
        w->session_seen = now;
    return rc;
}

bool waiter_mark(uint64_t data)
{
    return data == (uintptr_t)&mark_bell || data == (uintptr_t)&mark_wake;
}

bool waiter_event(struct waiter *w, const struct epoll_event *ev)
{
    if (waiter_mark(ev->data.u64))
        return true;
    for (struct session *session = session_first(); session; session = session->next) {
        if (ev->data.ptr != session)
            continue;
        if (ffl_client_detached(session->c) == 0)
            ffl_client_lost(session->c); /* tells the watches of its sockets */
        tell_end(session);
        if (!ffl_confined)
            (void)real.epoll_ctl(w->epfd, EPOLL_CTL_DEL, ffl_client_session_fd(session->c), NULL);
        return true;
    }
    return false;
}

static void hush(int bell)
{
    uint64_t rung;
    (void)!real.read(bell, &rung, sizeof(rung)); /* EAGAIN: it has not rung */
}

/* The kernel's epoll is ready until the bells in it are hushed. */
static void drain_confined(struct waiter *w)
{
    hush(w->wake_fd);
    for (struct session *session = session_first(); session; session = session->next) {
        struct epoll_event end = {.data.ptr = session};
        if (ffl_client_detached(session->c))
            continue;
        hush(ffl_client_doorbell_fd(session->c));
        if (ffl_poll_one(ffl_client_session_fd(session->c), POLLIN | POLLRDHUP, 0))
            (void)waiter_event(w, &end);
    }
}

void waiter_drain(struct waiter *w)
{
    struct epoll_event ev[8];
    if (ffl_unlikely(ffl_confined)) {
        drain_confined(w);
        return;
    }
    int n = real_epoll(w->epfd, ev, FFL_COUNT(ev), 0, NULL);
    for (int i = 0; i < n; i++)
        (void)waiter_event(w, &ev[i]);
}

int waiter_wait(struct waiter *w, struct epoll_event *ev, int max, int64_t timeout_ns)
{
    if (ffl_likely(!ffl_confined))
        return real_epoll(w->epfd, ev, max, timeout_ns, NULL);
    struct pollfd p = {.fd = w->epfd, .events = POLLIN};
    struct timespec ts = {timeout_ns / FFL_NS_PER_SEC, timeout_ns % FFL_NS_PER_SEC};
    return real.ppoll(&p, 1, timeout_ns < 0 ? NULL : &ts, NULL) < 0 ? -1 : 0;
}

int real_epoll(int epfd, struct epoll_event *ev, int max, int64_t timeout_ns, const sigset_t *mask)
{
    static _Atomic bool no_pwait2;
    if (timeout_ns > 0 && !ffl_confined && !atomic_load(&no_pwait2)) {
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
