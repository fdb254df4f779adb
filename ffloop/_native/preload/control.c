/*
 * control.c - control messages, out of the program's memory and into it.
 *
 * Callers: recv.c, dgram.c. The checks of the kernel are made here, since the instance sends a
 * datagram only after the call has returned.
 */
#include "preload.h"
#include "option.h"

#include <string.h>
#include <sys/socket.h>

int control_get(struct ffl_ctl *to, const struct msghdr *m)
{
    to->len = 0;
    if (!m->msg_controllen)
        return 0;
    if (m->msg_controllen > sizeof(to->data))
        return -ENOBUFS;
    if (!user_copy(to->data, m->msg_control, m->msg_controllen))
        return -EFAULT;
    to->len = (uint32_t)m->msg_controllen;
    return ffl_ctl_check(to);
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
    return user_copy(to, &head, sizeof(head)) &&
           user_copy(to + sizeof(head), data, head.cmsg_len - sizeof(head));
}

int control_put(struct msghdr *m, const struct ffl_ctl *ctl, int *flags)
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
