/*
 * listen.c - the instance's unix socket, and the control epoll, which has every descriptor that
 * wakes the instance.
 *
 * Callers: start.c. admit.c takes the peers that connect.
 */
#include "group.h"
#include "peers.h"
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define ACCEPTS_AT_ONCE 64 /* then the sessions are served */
#define ACCEPT_AGAIN_NS (FFL_NS_PER_SEC / 100)

int ctl_add(struct ffl_instance *in, int fd, uint32_t events, struct src *src)
{
    struct epoll_event ev = {.events = events, .data.ptr = src};
    return epoll_ctl(in->ctl, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

void ctl_drop(struct ffl_instance *in, int *fd, void (*how)(int fd))
{
    if (*fd >= 0)
        (void)epoll_ctl(in->ctl, EPOLL_CTL_DEL, *fd, NULL); /* ENOENT: it was never added */
    ffl_close(fd, how);
}

/* ---- opening the unix socket --------------------------------------------------------------- */

static int open_path(struct ffl_instance *in, char *why, size_t whylen)
{
    int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s < 0)
        return -errno;
    int rc = path_bind(in, s, why, whylen);
    if (rc < 0 && !why[0])
        snprintf(why, whylen, "cannot listen on '%s': %s%s", in->o.path, strerror(-rc),
                 rc == -EADDRINUSE ? " (another instance runs there; choose another --socket)"
                 : rc == -EEXIST   ? " (and is no socket; choose another --socket)"
                 : rc == -ENOENT   ? " (make its directory, or choose another --socket)"
                 : rc == -EACCES   ? " (choose another --socket)"
                                   : "");
    if (rc < 0)
        close(s);
    else
        in->listen_fd = s;
    snprintf(in->page->path, sizeof(in->page->path), "%s", in->o.path);
    return rc;
}

/* The path at which the inherited socket (listen_fd) is bound. */
static void note_name(struct ffl_instance *in)
{
    struct sockaddr_un sa = {0};
    socklen_t len = sizeof(sa);
    if (getsockname(in->listen_fd, (struct sockaddr *)&sa, &len) < 0)
        return;
    if (!sa.sun_path[0] && len > offsetof(struct sockaddr_un, sun_path))
        sa.sun_path[0] = '@';
    snprintf(in->page->path, sizeof(in->page->path), "%.*s", (int)sizeof(sa.sun_path), sa.sun_path);
}

int listen_open(struct ffl_instance *in, char *why, size_t whylen)
{
    in->listen_fd = -1;
    if (in->o.listen_fd >= 0) {
        int type = 0;
        socklen_t len = sizeof(type);
        if (getsockopt(in->o.listen_fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 ||
            type != SOCK_SEQPACKET) {
            snprintf(why, whylen, "descriptor %d is not a SOCK_SEQPACKET socket", in->o.listen_fd);
            return -ENOTSOCK;
        }
        in->listen_fd = in->o.listen_fd;
        (void)fcntl(in->listen_fd, F_SETFL, O_NONBLOCK);
        (void)fcntl(in->listen_fd, F_SETFD, FD_CLOEXEC);
        note_name(in);
    } else {
        int rc = open_path(in, why, whylen);
        if (rc < 0)
            return rc;
    }
    in->src_listen = (struct src){SRC_LISTEN, in};
    return ctl_add(in, in->listen_fd, EPOLLIN, &in->src_listen);
}

void listen_close(struct ffl_instance *in)
{
    admit_sweep(in, true);
    path_leave(in);
    if (in->listen_fd >= 0) {
        epoll_ctl(in->ctl, EPOLL_CTL_DEL, in->listen_fd, NULL); /* systemd may hold it as well */
        close(in->listen_fd);
    }
    in->listen_fd = -1;
}

/* ---- peers that connect --------------------------------------------------------------------- */

static void listen_for(struct ffl_instance *in, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = &in->src_listen};
    (void)epoll_ctl(in->ctl, EPOLL_CTL_MOD, in->listen_fd, &ev); /* was added: cannot fail */
}

static void accept_again(struct timer *t)
{
    struct ffl_instance *in = ffl_container_of(t, struct ffl_instance, accept_timer);
    if (in->listen_fd >= 0)
        listen_for(in, EPOLLIN);
}

/* Accepts no peer for a moment: a peer that waits would keep the instance awake. */
static void accept_later(struct ffl_instance *in)
{
    listen_for(in, 0);
    in->accept_timer.fire = accept_again;
    timers_set(&in->timers, &in->accept_timer, ACCEPT_AGAIN_NS);
}

static int accept_one(const struct ffl_instance *in)
{
    int s = accept4(in->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    return s < 0 ? -errno : s;
}

/* No descriptor is left: gives up the spare descriptor to tell the peer so. */
static int accept_and_refuse(struct ffl_instance *in)
{
    ffl_close(&in->spare_fd, NULL);
    int s = accept_one(in);
    if (s >= 0)
        admit_not(in, s, ffl_strerror(EMFILE));
    in->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return s;
}

static void accept_peers(struct ffl_instance *in)
{
    for (int i = 0; i < ACCEPTS_AT_ONCE && !closer_busy(); i++) {
        int s = accept_one(in);
        if ((s == -EMFILE || s == -ENFILE) && admit_make_room(in))
            s = accept_one(in);
        if (s >= 0)
            admit_peer(in, s, false);
        else if (s == -EMFILE || s == -ENFILE)
            s = accept_and_refuse(in);
        if (s == -EAGAIN)
            return;
        if (s < 0)
            break;
    }
    accept_later(in);
}

/* ---- the control epoll --------------------------------------------------------------------- */

static void ctl_event(struct ffl_instance *in, const struct src *src)
{
    switch (src->kind) {
    case SRC_LISTEN:
        accept_peers(in);
        break;
    case SRC_NONE:
        break;
    case SRC_PENDING:
        admit_event(src->owner);
        break;
    case SRC_SESSION:
        session_event(src->owner);
        break;
    case SRC_PIDFD:
        session_end(src->owner);
        break;
    case SRC_TICKET:
        ticket_event(src->owner);
        break;
    case SRC_STACK:
        in->stack_quiet = false;
        break;
    case SRC_STOP: { /* the iteration looks at end_asked */
        uint64_t n;
        if (read(in->stop_fd, &n, sizeof(n)) < 0)
            ffl_log(FFL_LOG_DEBUG, "stop_fd: %s", strerror(errno));
        break;
    }
    case SRC_DOORBELL: /* edge-triggered and never read: it has woken the instance */
        break;
    }
}

int ctl_wait(struct ffl_instance *in, int64_t timeout_ns)
{
    struct epoll_event ev[64];
    int n = ffl_epoll_wait(in->ctl, ev, FFL_COUNT(ev), timeout_ns);
    timers_look(&in->timers, ffl_now_ns());
    slice_begin(in);
    for (int i = 0; i < n; i++) {
        if (i && slice_over(&in->slice)) { /* the other events are told again */
            in->stack_quiet = false;
            break;
        }
        slice_spend_call(&in->slice, 0);
        ctl_event(in, ev[i].data.ptr);
    }
    admit_sweep(in, false);
    return n;
}
