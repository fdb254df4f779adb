/*
 * fstack_data.c - sends and receives over F-Stack, and translates control messages.
 *
 * Callers: fstack.c. No message flags are passed in: F-Stack would take Linux's numbers for
 * FreeBSD's.
 */
#include "fstack_sock.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "ff_api.h"

#define BSD_MSG_CTRUNC 0x20

/* Linux's and FreeBSD's numbers of control messages. F-Stack itself translates IPv4's IP_TOS and
 * IP_TTL, both ways, and passes the others through. */
static const struct {
    int level, type, bsd_level, bsd_type;
} ctl_names[] = {
    {IPPROTO_IP, IP_PKTINFO, IPPROTO_IP, 7}, /* the address alone */
    {IPPROTO_IPV6, IPV6_PKTINFO, IPPROTO_IPV6, 46},
    {IPPROTO_IPV6, IPV6_HOPLIMIT, IPPROTO_IPV6, 47},
    {IPPROTO_IPV6, IPV6_TCLASS, IPPROTO_IPV6, 61},
};

static void ctl_put(struct ffl_ctl *ctl, int level, int type, const void *data, size_t len)
{
    struct cmsghdr c = {.cmsg_len = CMSG_LEN(len), .cmsg_level = level, .cmsg_type = type};
    if (ctl->len + CMSG_SPACE(len) > sizeof(ctl->data))
        return;
    memset(ctl->data + ctl->len, 0, CMSG_SPACE(len));
    memcpy(ctl->data + ctl->len, &c, sizeof(c));
    memcpy(ctl->data + ctl->len + CMSG_LEN(0), data, len);
    ctl->len += CMSG_SPACE(len);
}

static bool is_pktinfo(int level, int type)
{
    return level == IPPROTO_IP && type == IP_PKTINFO;
}

/* Appends `from`'s messages, translated, to `to`. */
static void ctl_translate(struct ffl_ctl *to, const void *from, size_t len, bool to_bsd)
{
    struct msghdr m = {.msg_control = (void *)(uintptr_t)from, .msg_controllen = len};
    to->len = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        int level = c->cmsg_level, type = c->cmsg_type;
        size_t n = c->cmsg_len - CMSG_LEN(0);
        const uint8_t *data = CMSG_DATA(c);
        for (size_t i = 0; i < FFL_COUNT(ctl_names); i++) {
            if (to_bsd && ctl_names[i].level == c->cmsg_level &&
                ctl_names[i].type == c->cmsg_type) {
                level = ctl_names[i].bsd_level;
                type = ctl_names[i].bsd_type;
            } else if (!to_bsd && ctl_names[i].bsd_level == c->cmsg_level &&
                       ctl_names[i].bsd_type == c->cmsg_type) {
                level = ctl_names[i].level;
                type = ctl_names[i].type;
            }
        }
        struct in_pktinfo info = {0};
        if (to_bsd && is_pktinfo(c->cmsg_level, c->cmsg_type)) {
            memcpy(&info, data, n < sizeof(info) ? n : sizeof(info));
            if (info.ipi_spec_dst.s_addr)
                ctl_put(to, level, type, &info.ipi_spec_dst, sizeof(info.ipi_spec_dst));
        } else if (!to_bsd && is_pktinfo(level, type) && n == sizeof(info.ipi_addr)) {
            memcpy(&info.ipi_addr, data, n);
            info.ipi_spec_dst = info.ipi_addr;
            ctl_put(to, level, type, &info, sizeof(info));
        } else {
            ctl_put(to, level, type, data, n);
        }
    }
}

/* FreeBSD's sockets take no address once they are connected, Linux's do. */
static bool is_peer(int fd, const struct ffl_addr *to)
{
    struct sockaddr_storage ss = {0};
    struct ffl_addr peer;
    socklen_t len = sizeof(ss);
    if (ff_getpeername(fd, (struct linux_sockaddr *)&ss, &len) < 0)
        return false;
    ffl_addr_from_sockaddr(&peer, &ss, sizeof(ss));
    return ffl_addr_same(&peer, to);
}

static int send_dgram(int fd, const struct iovec *iov, const struct ffl_addr *to,
                      const struct ffl_ctl *ctl)
{
    struct sockaddr_storage ss;
    struct msghdr msg = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = 1};
    _Alignas(8) struct ffl_ctl bsd;
    if (to) {
        uint32_t len;
        int rc = ffl_addr_to_sockaddr(to, &ss, &len);
        if (rc == 0)
            rc = fstack_refused(fd, to);
        if (rc < 0)
            return rc;
        msg.msg_name = &ss;
        msg.msg_namelen = len;
    }
    if (!ctl) {
        ssize_t sent = ff_sendto(fd, iov->iov_base, iov->iov_len, 0, msg.msg_name, msg.msg_namelen);
        if (sent < 0 && errno == EISCONN && is_peer(fd, to))
            sent = ff_write(fd, iov->iov_base, iov->iov_len);
        return sent < 0 ? fstack_fail() : (int)sent;
    }
    _Alignas(8) uint8_t data[sizeof(bsd.data)];
    ctl_translate(&bsd, memcpy(data, ctl->data, sizeof(data)), ctl->len, true);
    memcpy(data, bsd.data, sizeof(data));
    msg.msg_control = bsd.len ? data : NULL;
    msg.msg_controllen = bsd.len;
    ssize_t sent = ff_sendmsg(fd, &msg, 0);
    if (sent < 0 && errno == EISCONN && to && is_peer(fd, to)) {
        msg.msg_name = NULL;
        msg.msg_namelen = 0;
        sent = ff_sendmsg(fd, &msg, 0);
    }
    return sent < 0 ? fstack_fail() : (int)sent;
}

int fstack_send(void *st, int fd, const struct iovec *iov, int n, const struct ffl_addr *to,
                const struct ffl_ctl *ctl, int flags)
{
    if ((to || ctl) && n != 1)
        return -EINVAL;
    if (to || ctl)
        return send_dgram(fd, iov, to, ctl);
    ssize_t sent = n == 1 ? ff_write(fd, iov->iov_base, iov->iov_len) : ff_writev(fd, iov, n);
    return sent < 0 ? fstack_fail() : (int)sent;
}

static int recv_dgram(int fd, const struct iovec *iov, struct ffl_addr *from, struct ffl_ctl *ctl,
                      int *msg_flags)
{
    struct sockaddr_storage ss = {0};
    _Alignas(8) uint8_t data[sizeof(ctl->data)];
    struct msghdr msg = {.msg_name = &ss,
                         .msg_namelen = sizeof(ss),
                         .msg_iov = (struct iovec *)(uintptr_t)iov,
                         .msg_iovlen = 1,
                         .msg_control = data,
                         .msg_controllen = sizeof(data)};
    ssize_t got = ff_recvmsg(fd, &msg, 0);
    if (got < 0)
        return fstack_fail();
    ffl_addr_from_sockaddr(from, &ss, sizeof(ss));
    ctl_translate(ctl, data, msg.msg_controllen, false);
    *msg_flags =
        msg.msg_flags & BSD_MSG_CTRUNC ? MSG_CTRUNC : 0; /* iov holds the largest datagram */
    return (int)got;
}

int fstack_recv(void *st, int fd, const struct iovec *iov, int n, struct ffl_addr *from,
                struct ffl_ctl *ctl, int *msg_flags)
{
    if (from && (n != 1 || !ctl))
        return -EINVAL;
    if (from)
        return recv_dgram(fd, iov, from, ctl, msg_flags);
    ssize_t got = n == 1 ? ff_read(fd, iov->iov_base, iov->iov_len) : ff_readv(fd, iov, n);
    return got < 0 ? fstack_fail() : (int)got;
}
