/*
 * errqueue.c - the error queue of a stream: reports of its sends with MSG_ZEROCOPY.
 *
 * Callers: send.c, recv.c, poll.c. A send has copied the data when it returns, as the kernel may do
 * too. One report covers all sends since the last report, and says SO_EE_CODE_ZEROCOPY_COPIED: the
 * program may use its memory again.
 */
#include "preload.h"

#include <linux/errqueue.h>
#include <netinet/in.h>

void ffl_errqueue_sent(struct sock *s)
{
    s->numbered++;
    sock_tell(s);
}

ssize_t ffl_errqueue_take(struct sock *s, struct ffl_ctl *to)
{
    struct {
        struct sock_extended_err e;
        struct sockaddr_in6 nobody;
    } report = {0};
    report.e = (struct sock_extended_err){.ee_origin = SO_EE_ORIGIN_ZEROCOPY,
                                          .ee_code = SO_EE_CODE_ZEROCOPY_COPIED,
                                          .ee_info = s->reported,
                                          .ee_data = s->numbered - 1};
    bool six = s->domain == AF_INET6;
    if (!ffl_errqueue_any(s))
        return -EAGAIN;
    s->reported = s->numbered;
    ffl_control_one(to, six ? IPPROTO_IPV6 : IPPROTO_IP, six ? IPV6_RECVERR : IP_RECVERR, &report,
                    sizeof(report.e) + (six ? sizeof(report.nobody) : sizeof(struct sockaddr_in)));
    return 0;
}
