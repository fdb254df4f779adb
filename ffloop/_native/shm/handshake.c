/* handshake.c - messages with descriptors on a SOCK_SEQPACKET unix socket. See handshake.h. */
#include "handshake.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

int ffl_unix_addr(const char *path, struct sockaddr_un *sa, socklen_t *len)
{
    size_t n = strlen(path);
    if (n < 1 || (path[0] == '@' && n < 2))
        return -EINVAL;
    if (n >= sizeof(sa->sun_path))
        return -ENAMETOOLONG;
    memset(sa, 0, sizeof(*sa));
    sa->sun_family = AF_UNIX;
    memcpy(sa->sun_path, path, n);
    *len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
    if (path[0] == '@')
        sa->sun_path[0] = '\0';
    else
        *len += 1;
    return 0;
}

int ffl_msg_send(int sock, const void *data, size_t len, const int *fds, int nfds)
{
    union {
        char buf[CMSG_SPACE(sizeof(int) * FFL_MSG_FDS)];
        struct cmsghdr align;
    } u;
    struct iovec iov = {.iov_base = (void *)data, .iov_len = len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (nfds > 0) {
        memset(&u, 0, sizeof(u));
        msg.msg_control = u.buf;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)nfds);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)nfds);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * (size_t)nfds);
    }
    ssize_t n;
    do
        n = sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : (int)n;
}

/* Moves the descriptors of a control message to `out`; closes those beyond `room`. */
static int take_fds(struct msghdr *msg, int *out, int room)
{
    int got = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        int n = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        for (int i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + (size_t)i * sizeof(int), sizeof(int));
            if (got < room)
                out[got++] = fd;
            else
                close(fd);
        }
    }
    return got;
}

int ffl_msg_recv(int sock, void *data, size_t len, int *fds, int *nfds)
{
    union {
        char buf[CMSG_SPACE(sizeof(int) * FFL_MSG_FDS)];
        struct cmsghdr align;
    } u;
    struct iovec iov = {.iov_base = data, .iov_len = len};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = u.buf, .msg_controllen = sizeof(u.buf)};
    int room = nfds ? *nfds : 0;
    ssize_t n;
    if (nfds)
        *nfds = 0;
    do
        n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    int got = take_fds(&msg, fds, room);
    if (nfds)
        *nfds = got;
    if (msg.msg_flags & MSG_CTRUNC && got < room)
        return -EMFILE; /* the message had more, for which this process has no room */
    return msg.msg_flags & (MSG_CTRUNC | MSG_TRUNC) ? -EPROTO : (int)n;
}
