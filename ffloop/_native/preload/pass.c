/*
 * pass.c - stack sockets that are sent to another process (SCM_RIGHTS).
 *
 * Callers: recv.c, send.c. An envelope is sent in place of a stack socket's placeholder: one end of
 * a socket pair whose other end is closed. In its queue are the socket's description and a ticket
 * with a reference to the socket. A receiver under the shim opens the envelope, and the envelope
 * becomes the placeholder. The kernel closes an envelope that no process receives, with the ticket
 * in it, and the instance drops the reference. A receiver without the shim has an unconnected unix
 * socket.
 */
#include "proc.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST_FDS 253 /* the kernel's limit per message */

struct envelope { /* what is written in it; the ticket's descriptor comes along */
    char magic[16];
    struct ffl_ticket t;
    int index;
    struct portrait p;
};
#define MAGIC "ffloop-socket-1"

/* ---- descriptors in control messages --------------------------------------------------------- */

/* Calls f with the place of each descriptor until f returns false. False: f did. */
static bool each_fd(const struct msghdr *m, bool (*f)(void *place, void *arg), void *arg)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR((struct msghdr *)m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t at = CMSG_LEN(0); at + sizeof(int) <= c->cmsg_len; at += sizeof(int))
            if (!f((char *)c + at, arg))
                return false;
    }
    return true;
}

static int fd_at(const void *place)
{
    int fd;
    memcpy(&fd, place, sizeof(fd)); /* control messages may be unaligned */
    return fd;
}

/* ---- sending --------------------------------------------------------------------------------- */

/* Makes an envelope for the socket: the envelope's descriptor, or -errno. Locked. */
static int seal(struct sock *s)
{
    struct envelope e = {.magic = MAGIC, .index = s->session->index, .p = sock_portrait(s)};
    char room[CMSG_SPACE(sizeof(int))] = {0};
    int ends[2], type = SOCK_SEQPACKET | SOCK_CLOEXEC | (s->nonblock ? SOCK_NONBLOCK : 0);
    struct sock_list one = {&(struct member){s, -1}, 1, 1};
    e.t = proc_export(s->session, &one);
    proc_exported();
    struct room more = {0};
    int rc;
    do
        rc = e.t.fd < 0 ? -ENETDOWN : real.socketpair(AF_UNIX, type, 0, ends) < 0 ? -errno : 0;
    while (room_for(&more, rc));
    if (rc == 0) {
        struct iovec v = {&e, sizeof(e)};
        struct msghdr m = {
            .msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        *c = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(c), &e.t.fd, sizeof(int));
        rc = real.sendmsg(ends[0], &m, MSG_DONTWAIT) < 0 ? -errno : ends[1];
        real.close(ends[0]);
        if (rc < 0)
            real.close(ends[1]);
    }
    fd_ours_close(e.t.fd);
    return rc;
}

struct sealed {
    int fds[MOST_FDS], n, rc;
};

static bool is_plain(void *place, void *arg)
{
    (void)arg;
    return !fd_node(fd_at(place));
}

static bool replace(void *place, void *arg)
{
    struct sealed *e = arg;
    struct sock *s = sock_enter(fd_at(place));
    if (s) {
        sock_place_early(s, fd_at(place));
        unlock();
        s = sock_enter_stack(fd_at(place));
    }
    if (!s)
        return true; /* no stack socket */
    int fd = e->n < MOST_FDS ? seal(s) : -EINVAL;
    unlock();
    if (fd < 0) {
        e->rc = fd;
        return false;
    }
    e->fds[e->n++] = fd;
    memcpy(place, &fd, sizeof(fd));
    return true;
}

ssize_t pass_send(int to, const struct msghdr *m, int flags)
{
    if (tls.inside || !m || !m->msg_control || !user_reads(m->msg_control, m->msg_controllen) ||
        each_fd(m, is_plain, NULL))
        return real.sendmsg(to, m, flags);
    struct sealed e = {.n = 0};
    struct msghdr copy = *m;
    if (!(copy.msg_control = malloc(m->msg_controllen))) {
        errno = ENOMEM;
        return -1;
    }
    memcpy(copy.msg_control, m->msg_control, m->msg_controllen);
    ssize_t rc = -1;
    if (each_fd(&copy, replace, &e))
        rc = real.sendmsg(to, &copy, flags);
    else
        errno = -e.rc;
    int saved = errno;
    for (int i = 0; i < e.n; i++)
        real.close(e.fds[i]);
    free(copy.msg_control);
    errno = saved;
    return rc;
}

/* ---- receiving ------------------------------------------------------------------------------- */

/* Empties an envelope. False: fd is none. */
static bool open_envelope(int fd, struct envelope *e)
{
    int type = 0;
    socklen_t len = sizeof(type);
    char room[CMSG_SPACE(sizeof(int))];
    struct iovec v = {e, sizeof(*e)};
    struct msghdr m = {
        .msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
    if (real.getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_SEQPACKET)
        return false;
    if (real.recv(fd, e, sizeof(*e), MSG_PEEK | MSG_DONTWAIT) != sizeof(*e) ||
        memcmp(e->magic, MAGIC, sizeof(e->magic)) != 0)
        return false;
    struct room more = {0};
    (void)room_for(&more, -EMFILE); /* cut, the message would be lost */
    ssize_t n = real.recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    (void)room_for(&more, 0);
    const struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
    if (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int)))
        return false;
    memcpy(&e->t.fd, CMSG_DATA(c), sizeof(e->t.fd));
    return true;
}

static bool received(void *place, void *peeked)
{
    struct envelope e;
    int fd = fd_made(fd_at(place));
    if (peeked || !started)
        return true;
    lock();
    if (!open_envelope(fd, &e)) {
        unlock();
        return true;
    }
    e.t.fd = fd_ours(e.t.fd);
    struct session *session = session_inherit(&e.t, e.index);
    if (session) {
        (void)sock_inherit(fd, 0, session, &e.p); /* no memory: fd stays a unix socket */
        session_put(session);
    }
    unlock();
    return true;
}

void pass_received(const struct msghdr *m, int flags)
{
    if (!tls.inside)
        (void)each_fd(m, received, flags & MSG_PEEK ? &flags : NULL);
}
