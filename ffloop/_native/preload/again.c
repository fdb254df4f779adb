/*
 * again.c - an epoll after a fork.
 *
 * Callers: epoll.c, poll.c, fork.c, exec.c, share.c. Natively parent and child share one epoll.
 * Under the shim each has its own registrations of stack sockets, and cannot use the other's
 * doorbells: a child that uses an inherited epoll with doorbells replaces it by an epoll of its
 * own, with the kernel's registrations of the old. Before the fork, data read ahead was given back;
 * a wait, in parent or child, arms the sockets again.
 */
#include "preload.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- the child's epolls --------------------------------------------------------------------- */

void epoll_forked(struct epoll_shadow *ep)
{
    if (ep->opened)
        waiter_close(&ep->w);
    ffl_poll_clear(&ep->poll);
    ep->poll.asleep = ep->poll.waits = ep->poll.served = 0;
    ep->poll.wake_fd = -1;
    ep->inherited = true;
    ep->foreign |= ep->opened;
    ep->opened = false;
    ep->stale = ep->poll.watches > 0;
    ep->plain = 0;
}

/* Makes the registration of a line of /proc/self/fdinfo in the epoll `to`. 0 or -errno. */
static int copy(const char *line, int to)
{
    struct stat st;
    unsigned long long data;
    unsigned long ino;
    unsigned events; /* struct epoll_event is packed: no pointers into it */
    int fd;
    if (sscanf(line, "tfd: %d events: %x data: %llx pos:%*i ino:%lx", &fd, &events, &data, &ino) !=
        4)
        return 0;
    struct node *n = fd_node(fd);
    if (waiter_mark(data) || (n && n->kind != NODE_EPOLL))
        return 0; /* the shim's, or its number is the shim's or a stack socket's now */
    if (fstat(fd, &st) < 0 || st.st_ino != ino)
        return 0; /* its number is closed, or another file's now */
    int rc = n ? epoll_use((struct epoll_shadow *)n, fd) : 0;
    struct epoll_event ev = {.events = events, .data.u64 = data};
    if (rc == 0 && real.epoll_ctl(to, EPOLL_CTL_ADD, fd, &ev) < 0)
        rc = -errno;
    return rc;
}

static int copy_all(int from, int to)
{
    char path[64], line[256];
    snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", from);
    FILE *f = fopen(path, "re");
    int rc = f ? 0 : -errno;
    while (rc == 0 && fgets(line, sizeof(line), f))
        rc = copy(line, to);
    if (f)
        fclose(f);
    return rc;
}

static void beside(int fd, struct node *n, void *arg)
{
    for (struct ffl_watch *w = n->source.watches; w; w = w->next)
        if (watch_epoll(w) == arg)
            dual_follow(watch_item(w), EPOLL_CTL_ADD);
    (void)fd;
}

int epoll_private(struct epoll_shadow *ep, int epfd)
{
    int fresh = real.epoll_create1(EPOLL_CLOEXEC);
    if (fresh < 0)
        return -errno;
    int rc = ep->kernel > 0 ? copy_all(epfd, fresh) : 0;
    if (rc == 0) {
        fd_become(&ep->node, fresh);
        ep->inherited = ep->foreign = false;
        ep->w.epfd = fresh; /* for dual_follow; epoll_open sets it */
        fd_each(beside, ep);
    } else if (rc != -EMFILE) {
        report("the registrations of an inherited epoll cannot be read from /proc: %s",
               strerror(-rc));
    }
    real.close(fresh);
    return rc;
}

/* ---- reading ahead again --------------------------------------------------------------------- */

void epoll_stale(struct epoll_shadow *ep)
{
    if (ep->stale)
        return;
    ep->stale = true;
    for (struct ffl_watch *w = ep->node.source.watches; w; w = w->next)
        if (watch_epoll(w))
            epoll_stale(watch_epoll(w));
}

static void arm_one(int fd, struct node *n, void *arg)
{
    for (struct ffl_watch *w = n->source.watches; w; w = w->next) {
        if (watch_epoll(w) != arg)
            continue;
        if (n->kind == NODE_EPOLL) {
            struct epoll_shadow *inner = (struct epoll_shadow *)n;
            (void)epoll_use(inner, fd); /* EMFILE: without its stack sockets */
            if (inner->stale)
                epoll_revive(inner);
            continue;
        }
        struct sock *s = (struct sock *)n;
        if (s->session && s->session->inherited)
            (void)proc_import(s); /* proc_import reports */
        (void)sock_unseen(s, w->events);
        sock_arm(s, w->events);
    }
}

static void begin_one(int fd, struct node *n, void *arg)
{
    for (struct ffl_watch *w = n->source.watches; w; w = w->next)
        if (watch_epoll(w) == arg)
            epoll_begin(watch_item(w));
    (void)fd;
}

void epoll_revive(struct epoll_shadow *ep)
{
    ep->stale = false;
    fd_each(arm_one, ep);
    session_catch_up();
    fd_each(begin_one, ep);
}

/* Does a thread sleep on the epoll, or on one around it? It cannot arm the sockets itself. */
static bool waited(const struct epoll_shadow *ep)
{
    bool yes = ep->poll.asleep > 0;
    for (const struct ffl_watch *w = ep->node.source.watches; w && !yes; w = w->next)
        yes = w->poll->passing || waited(watch_epoll(w));
    return yes;
}

static void attach_waited(int fd, struct node *n, void *arg)
{
    struct epoll_shadow *ep = (struct epoll_shadow *)n;
    (void)fd;
    (void)arg;
    if (n->kind == NODE_EPOLL && ep->stale && waited(ep))
        epoll_revive(ep);
}

void epoll_revive_waited(void)
{
    fd_each(attach_waited, NULL);
}
