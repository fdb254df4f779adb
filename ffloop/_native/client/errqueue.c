/*
 * errqueue.c - what comes beside a socket's data: the error queue, a stream's control messages.
 *
 * Callers: the other files of client/; client.h's users. Reports of the stack (IP_RECVERR, time
 * stamps of sends) are copied out of the pool when they come, up to REPORTS_MAX per socket; the
 * kernel, too, drops those without room. Reports of sends with MSG_ZEROCOPY are made here: a send
 * has copied the data when it returns, as the kernel may do too. One such report covers all sends
 * since the last one, and says SO_EE_CODE_ZEROCOPY_COPIED: the program may use its memory again.
 */
#include "internal.h"

#include <errno.h>
#include <linux/errqueue.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define REPORTS_MAX 256

struct client_beside *client_beside(struct client_sock *s)
{
    if (s->beside)
        return s->beside;
    struct client_beside *b = s->beside = calloc(1, sizeof(*b));
    if (b) {
        b->own = FFL_OWN_UNSET;
        b->reports_end = &b->reports;
    }
    return b;
}

void client_beside_free(struct client_sock *s)
{
    struct client_beside *b = s->beside;
    for (struct rx_item *it; b && (it = b->reports); free(it))
        b->reports = it->next;
    free(b);
    s->beside = NULL;
}

struct ffl_own ffl_client_own(const struct ffl_client *c, int h)
{
    const struct client_sock *s = client_sock(c, h);
    return s && s->beside ? s->beside->own : FFL_OWN_UNSET;
}

int ffl_client_set_own(struct ffl_client *c, int h, const struct ffl_own *own)
{
    struct client_sock *s = client_sock(c, h);
    bool unset = own->peek_off < 0 && !own->inq && !own->zerocopy;
    if (!s)
        return -EBADF;
    if (unset && !s->beside)
        return 0;
    if (!client_beside(s))
        return -ENOMEM;
    s->beside->own = *own;
    return 0;
}

/* ---- control messages ---------------------------------------------------------------------- */

static void add(struct ffl_ctl *to, int level, int type, const void *data, size_t len)
{
    struct cmsghdr c = {.cmsg_len = CMSG_LEN(len), .cmsg_level = level, .cmsg_type = type};
    if (to->len + CMSG_SPACE(len) > sizeof(to->data))
        return;
    memset(to->data + to->len, 0, CMSG_SPACE(len));
    memcpy(to->data + to->len, &c, sizeof(c));
    memcpy(to->data + to->len + CMSG_LEN(0), data, len);
    to->len += (uint32_t)CMSG_SPACE(len);
}

void ffl_client_control(const struct ffl_client *c, int h, struct ffl_ctl *to)
{
    const struct client_sock *s = client_sock(c, h);
    to->len = 0;
    if (!s || !s->beside)
        return;
    *to = s->beside->ctl;
    if (!s->beside->own.inq)
        return;
    int left = 0;
    for (const struct rx_item *it = s->rx_head; it; it = it->next)
        left += (int)it->len;
    left = left ? left : s->eof; /* as Linux: the end is to be read, too */
    add(to, IPPROTO_TCP, TCP_CM_INQ, &left, sizeof(left));
}

/* ---- the error queue ----------------------------------------------------------------------- */

/* The errno of a report of an ICMP error; 0: it is no such report. */
static int icmp_error(const struct rx_item *it)
{
    struct ffl_ctl ctl;
    struct cmsghdr c;
    struct sock_extended_err e;
    if (!(it->flags & FFL_F_CTL))
        return 0;
    memcpy(&ctl, it->heap + (it->flags & FFL_F_ADDR ? sizeof(struct ffl_addr) : 0), sizeof(ctl));
    uint32_t end = ctl.len < FFL_CTL_MAX ? ctl.len : FFL_CTL_MAX;
    for (uint32_t at = 0; at + CMSG_LEN(sizeof(e)) <= end; at += (uint32_t)CMSG_ALIGN(c.cmsg_len)) {
        memcpy(&c, ctl.data + at, sizeof(c));
        if (c.cmsg_len < sizeof(c) || c.cmsg_len > end - at)
            return 0;
        bool error = (c.cmsg_level == IPPROTO_IP && c.cmsg_type == IP_RECVERR) ||
                     (c.cmsg_level == IPPROTO_IPV6 && c.cmsg_type == IPV6_RECVERR);
        if (!error || c.cmsg_len < CMSG_LEN(sizeof(e)))
            continue;
        memcpy(&e, ctl.data + at + CMSG_LEN(0), sizeof(e));
        bool icmp = e.ee_origin == SO_EE_ORIGIN_ICMP || e.ee_origin == SO_EE_ORIGIN_ICMP6;
        return icmp ? (int)e.ee_errno : 0;
    }
    return 0;
}

void client_report(struct client_sock *s, const void *data, uint32_t len, uint8_t flags)
{
    struct client_beside *b = client_beside(s);
    struct rx_item *it = b && b->n < REPORTS_MAX ? malloc(sizeof(*it) + len) : NULL;
    if (!it)
        return;
    *it = (struct rx_item){.buf = FFL_NO_BUF, .len = len, .flags = flags};
    memcpy(it->heap, data, len);
    *b->reports_end = it;
    b->reports_end = &it->next;
    b->n++;
    int err = s->type == SOCK_DGRAM ? icmp_error(it) : 0;
    if (err) {
        s->error = err;
        s->give_error = s->push;
    }
}

bool client_reports(const struct client_sock *s)
{
    const struct client_beside *b = s->beside;
    return b && (b->reports || b->own.numbered != b->own.reported);
}

/* As the kernel: the socket's error is from now on that of the next report. */
static int64_t take_report(struct ffl_client *c, struct client_sock *s, struct ffl_dgram *d)
{
    struct client_beside *b = s->beside;
    struct rx_item *it = b->reports;
    int64_t n = client_item_out(c, it, 0, d);
    b->reports = it->next;
    if (!b->reports)
        b->reports_end = &b->reports;
    b->n--;
    int next = b->reports ? icmp_error(b->reports) : 0;
    if (s->type == SOCK_DGRAM && (next || icmp_error(it)))
        s->error = next;
    free(it);
    return n;
}

static int64_t take_zerocopy(struct client_sock *s, struct ffl_dgram *d)
{
    struct {
        struct sock_extended_err e;
        struct sockaddr_in6 nobody;
    } report = {0};
    struct ffl_own *own = &s->beside->own;
    report.e = (struct sock_extended_err){.ee_origin = SO_EE_ORIGIN_ZEROCOPY,
                                          .ee_code = SO_EE_CODE_ZEROCOPY_COPIED,
                                          .ee_info = own->reported,
                                          .ee_data = own->numbered - 1};
    bool six = s->domain == AF_INET6;
    own->reported = own->numbered;
    add(&d->ctl, six ? IPPROTO_IPV6 : IPPROTO_IP, six ? IPV6_RECVERR : IP_RECVERR, &report,
        sizeof(report.e) + (six ? sizeof(report.nobody) : sizeof(struct sockaddr_in)));
    return 0;
}

int64_t client_take_report(struct ffl_client *c, struct client_sock *s, struct ffl_dgram *d)
{
    if (!client_reports(s))
        client_look(c);
    if (!client_reports(s))
        return -EAGAIN;
    int64_t n = s->beside->reports ? take_report(c, s, d) : take_zerocopy(s, d);
    d->flags |= MSG_ERRQUEUE;
    placeholder_update(s);
    return n;
}

void ffl_client_zerocopy(struct ffl_client *c, int h)
{
    struct client_sock *s = client_sock(c, h);
    if (!s || !s->beside || !s->beside->own.zerocopy)
        return;
    s->beside->own.numbered++;
    client_sock_tell(s, FFL_WATCH_ALL);
    placeholder_update(s);
}
