/*
 * control.c - control messages, out of the program's memory and into it.
 *
 * Callers: recv.c, dgram.c, errqueue.c. The checks of the kernel are made here, since the instance
 * sends a datagram only after the call has returned.
 */
#include "preload.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#define ANY INT32_MIN

static const struct sendable {
    int level, type;
    size_t len; /* bytes of the value */
    int min;    /* of an int, up to 255; or ANY: not checked */
} sendable[] = {
    {IPPROTO_IP, IP_PKTINFO, sizeof(struct in_pktinfo), ANY},
    {IPPROTO_IP, IP_TTL, sizeof(int), 1},
    {IPPROTO_IP, IP_TOS, sizeof(int), 0},
    {IPPROTO_IP, IP_TOS, 1, ANY},
    {IPPROTO_IPV6, IPV6_PKTINFO, 20, ANY},
    {IPPROTO_IPV6, IPV6_HOPLIMIT, sizeof(int), -1},
    {IPPROTO_IPV6, IPV6_TCLASS, sizeof(int), -1},
};

/* 0; 1: the ring does not carry this message; -EINVAL. */
static int check(const struct cmsghdr *c, const void *data)
{
    int rc = 1, value;
    for (size_t i = 0; i < FFL_COUNT(sendable); i++) {
        const struct sendable *s = &sendable[i];
        if (s->level != c->cmsg_level || s->type != c->cmsg_type)
            continue;
        rc = -EINVAL;
        if (c->cmsg_len != CMSG_LEN(s->len))
            continue;
        if (s->min == ANY)
            return 0;
        memcpy(&value, data, sizeof(value));
        return value >= s->min && value <= 255 ? 0 : -EINVAL;
    }
    return rc;
}

int ffl_control_get(struct ffl_ctl *to, const struct msghdr *m)
{
    int rc = 0;
    to->len = 0;
    if (!m->msg_controllen)
        return 0;
    if (m->msg_controllen > sizeof(to->data))
        return 1;
    if (!ffl_user_copy(to->data, m->msg_control, m->msg_controllen))
        return -EFAULT;
    to->len = (uint32_t)m->msg_controllen;
    for (size_t at = 0; at + sizeof(struct cmsghdr) <= to->len && rc == 0;) {
        struct cmsghdr c;
        memcpy(&c, to->data + at, sizeof(c));
        if (c.cmsg_len < sizeof(c) || c.cmsg_len > to->len - at)
            return -EINVAL;
        rc = check(&c, to->data + at + CMSG_LEN(0));
        at += CMSG_ALIGN(c.cmsg_len);
    }
    return rc;
}

/* Puts a message at m->msg_control + *used, as the kernel's put_cmsg: cut to the room, with
 * MSG_CTRUNC. False: a bad pointer. */
static bool put(const struct msghdr *m, size_t *used, const struct cmsghdr *c, const void *data,
                int *flags)
{
    struct cmsghdr head = *c;
    size_t room = m->msg_controllen - *used;
    char *to = (char *)m->msg_control + *used;
    if (room < head.cmsg_len)
        *flags |= MSG_CTRUNC;
    if (room < sizeof(head))
        return true;
    if (room < head.cmsg_len)
        head.cmsg_len = room;
    size_t space = CMSG_ALIGN(head.cmsg_len);
    *used += space < room ? space : room;
    return ffl_user_copy(to, &head, sizeof(head)) &&
           ffl_user_copy(to + sizeof(head), data, head.cmsg_len - sizeof(head));
}

int ffl_control_put(struct msghdr *m, const struct ffl_ctl *ctl, int *flags)
{
    size_t used = 0;
    bool good = true;
    for (size_t at = 0; at + sizeof(struct cmsghdr) <= ctl->len && good;) {
        struct cmsghdr c;
        memcpy(&c, ctl->data + at, sizeof(c));
        if (c.cmsg_len < sizeof(c) || c.cmsg_len > ctl->len - at)
            break;
        good = put(m, &used, &c, ctl->data + at + CMSG_LEN(0), flags);
        at += CMSG_ALIGN(c.cmsg_len);
    }
    m->msg_controllen = used;
    return good ? 0 : -EFAULT;
}

void ffl_control_one(struct ffl_ctl *to, int level, int type, const void *data, size_t len)
{
    struct cmsghdr c = {.cmsg_len = CMSG_LEN(len), .cmsg_level = level, .cmsg_type = type};
    memcpy(to->data, &c, sizeof(c));
    memcpy(to->data + CMSG_LEN(0), data, len);
    to->len = CMSG_SPACE(len);
}

void ffl_control_inq(struct ffl_ctl *to, size_t bytes)
{
    int value = (int)bytes;
    ffl_control_one(to, IPPROTO_TCP, TCP_CM_INQ, &value, sizeof(value));
}
