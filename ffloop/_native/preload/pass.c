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
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST_FDS 253 /* the kernel's limit per message */
#define TICKET "ffloop-socket %u:%llu:%d:"

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
    struct ticket *t = export_sock(s);
    char text[200], room[CMSG_SPACE(sizeof(int))] = {0};
    int ends[2], rc = t ? 0 : -ENETDOWN;
    int type = SOCK_SEQPACKET | SOCK_CLOEXEC | (s->nonblock ? SOCK_NONBLOCK : 0);
    if (rc == 0 && real.socketpair(AF_UNIX, type, 0, ends) < 0)
        rc = -errno;
    if (rc == 0) {
        int n =
            snprintf(text, sizeof(text), TICKET, t->t.id, (unsigned long long)t->t.key, t->index);
        n += sock_describe(s, text + n, sizeof(text) - (size_t)n);
        struct iovec v = {text, (size_t)n};
        struct msghdr m = {
            .msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        *c = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(c), &t->t.fd, sizeof(int));
        rc = real.sendmsg(ends[0], &m, MSG_DONTWAIT) < 0 ? -errno : ends[1];
        real.close(ends[0]);
        if (rc < 0)
            real.close(ends[1]);
    }
    if (t)
        fd_ours_close(t->t.fd);
    free(t);
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
    struct sock *s = sock_enter_stack(fd_at(place));
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
    if (tls.inside || !m || !m->msg_control || !ffl_user_reads(m->msg_control, m->msg_controllen) ||
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

/* Takes the description, into `text`, and the ticket out of an envelope: the ticket's descriptor;
 * -1: fd is no envelope. */
static int take_out(int fd, char *text, size_t size)
{
    int type = 0, ticket = -1;
    socklen_t len = sizeof(type);
    char room[CMSG_SPACE(sizeof(int))];
    struct iovec v = {text, size - 1};
    struct msghdr m = {
        .msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
    static const char magic[] = "ffloop-socket ";
    if (real.getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_SEQPACKET)
        return -1;
    ssize_t n = real.recv(fd, text, size - 1, MSG_PEEK | MSG_DONTWAIT);
    if (n < (ssize_t)sizeof(magic) || memcmp(text, magic, sizeof(magic) - 1) != 0)
        return -1;
    n = real.recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    const struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
    if (c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(&ticket, CMSG_DATA(c), sizeof(ticket));
    text[n > 0 ? n : 0] = '\0';
    return ticket;
}

static bool open_envelope(int fd, struct ticket *t, const char *text)
{
    unsigned long long key;
    int at = 0;
    if (sscanf(text, TICKET "%n", &t->t.id, &key, &t->index, &at) != 3 || !at)
        return false;
    t->t.key = key;
    return ticket_sock(fd, t, text + at);
}

static bool received(void *place, void *peeked)
{
    char text[200];
    int fd = fd_made(fd_at(place));
    int ticket = peeked || !started ? -1 : take_out(fd, text, sizeof(text));
    if (ticket < 0)
        return true;
    lock();
    struct ticket *t = calloc(1, sizeof(*t));
    if (t)
        t->t.fd = fd_ours(ticket);
    if (!t || !open_envelope(fd, t, text)) { /* no memory, or malformed: fd stays a unix socket */
        t ? fd_ours_close(t->t.fd) : (void)real.close(ticket);
        free(t);
    }
    unlock();
    return true;
}

void pass_received(const struct msghdr *m, int flags)
{
    if (!tls.inside)
        (void)each_fd(m, received, flags & MSG_PEEK ? &flags : NULL);
}
