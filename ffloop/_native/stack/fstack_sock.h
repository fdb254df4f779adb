/*
 * fstack_sock.h - declarations that the files of the seam over F-Stack share.
 *
 * Callers: fstack.c. Only the files of stack/ that are named fstack include ff_api.h.
 */
#ifndef FFL_FSTACK_SOCK_H
#define FFL_FSTACK_SOCK_H

#include "stack.h"

#include <errno.h>

/* F-Stack's wrappers set errno, in Linux's numbers. A call that failed without errno is -EIO. */
static inline int fstack_fail(void)
{
    return errno > 0 ? -errno : -EIO;
}

/* fstack.c: 0, or Linux's error for this destination: FreeBSD sends to 255.255.255.255 by way of
 * its gateway, without SO_BROADCAST too. */
int fstack_refused(int fd, const struct ffl_addr *to);

/* fstack_data.c: ffl_stack_ops.send, .recv */
int fstack_send(void *st, int fd, const struct iovec *iov, int n, const struct ffl_addr *to,
                const struct ffl_ctl *ctl, int flags);
int fstack_recv(void *st, int fd, const struct iovec *iov, int n, struct ffl_addr *from,
                struct ffl_ctl *ctl, int *msg_flags);

/* fstack_option.c: ffl_stack_ops.setsockopt, .getsockopt */
int fstack_setsockopt(void *st, int fd, int level, int name, const void *val, uint32_t len);
int fstack_getsockopt(void *st, int fd, int level, int name, void *val, uint32_t *len);

#endif
