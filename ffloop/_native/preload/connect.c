/*
 * connect.c - connect(2) of streams: its beginning, the wait, and how the program learns of the
 * end.
 *
 * Callers: the program; dgram.c has connect(2) of datagram sockets, shutdown.c AF_UNSPEC's.
 */
#include "preload.h"

#include <netinet/in.h>
#include <string.h>

int sock_pending_connect(struct sock *s)
{
    if (s->state != SOCK_CONNECTING)
        return 0;
    ffl_client_reap(s->session->c);
    if (ffl_client_state(s->session->c, s->h) & FFL_ST_CONNECTING)
        return -EAGAIN;
    s->state = SOCK_CONNECTED;
    return 0;
}

/* The connect's end, for the program: 0 or -errno. After an error the program may connect again. */
static int connect_told(struct sock *s)
{
    int rc = ffl_client_connect_result(s->session->c, s->h);
    if (rc == -EAGAIN) /* another process has connected the socket */
        return -EISCONN;
    if (rc < 0 && rc != -EISCONN)
        s->state = SOCK_BOUND;
    return rc;
}

/* `late`: when SO_SNDTIMEO is over. */
static int connect_wait(struct sock *s, int late)
{
    int64_t until = until_of(s->sndtimeo);
    while (sock_pending_connect(s) < 0) {
        int rc = sock_wait(s, until, false);
        if (rc < 0)
            return rc == -EAGAIN ? late : rc;
    }
    if (s->state == SOCK_BOUND) /* another thread has shut it down, or has got the error */
        return -ECONNRESET;
    return connect_told(s);
}

/* Has the stack refused the address, before a packet is sent? So it does with a link-local address
 * without a scope; connect says that at once, as the kernel does, and not EINPROGRESS. */
static bool refused_at_once(struct sock *s, const struct ffl_addr *a)
{
    bool on_any = a->family == AF_INET6 && !a->scope_id &&
                  IN6_IS_ADDR_LINKLOCAL((const struct in6_addr *)a->ip);
    return on_any && ffl_client_ping(s->session->c) == 0 && sock_pending_connect(s) == 0;
}

static int connect_start(struct sock *s, int fd, const struct sockaddr *sa, socklen_t len)
{
    struct ffl_addr a;
    if (len < 2)
        return -EINVAL;
    if (!sock_addr_in(&a, s->domain, sa, len))
        return sock_addr_bad(s->domain, len);
    int rc = sock_place(s, fd, &a, false);
    if (rc <= 0)
        return rc < 0 ? rc : -ENOTSOCK; /* the caller makes the kernel's call */
    rc = ffl_client_connect(s->session->c, s->h, &a);
    if (rc != -EINPROGRESS)
        return rc;
    s->state = SOCK_CONNECTING;
    sock_arm(s, 0); /* a program that only writes learns of the end */
    sock_rearm(s);
    if (s->nonblock && !refused_at_once(s, &a))
        return -EINPROGRESS;
    return connect_wait(s, -EINPROGRESS);
}

API int connect(int fd, const struct sockaddr *sa, socklen_t len)
{
    real_start();
    struct sockaddr_storage copy = {0};
    struct sock *s = sock_enter(fd);
    if (!s)
        return real.connect(fd, sa, len);
    int bad = user_address(&copy, sa, len);
    if (bad < 0)
        return (int)leave(bad);
    sa = (const struct sockaddr *)&copy;
    if (!s->session && (len < 2 || (sa->sa_family != s->domain && s->type == SOCK_STREAM))) {
        if (len >= 2 && sa->sa_family == AF_UNSPEC)
            s->shut_rd = false; /* the kernel's call succeeds */
        unlock();
        return real.connect(fd, sa, len);
    }
    int rc;
    if (s->type == SOCK_DGRAM)
        rc = dgram_connect(s, fd, sa, len);
    else if (len >= sizeof(sa->sa_family) && sa->sa_family == AF_UNSPEC)
        rc = sock_disconnect(s);
    else if (s->state == SOCK_CONNECTING && sock_pending_connect(s) < 0)
        rc = s->nonblock ? -EALREADY : connect_wait(s, -EALREADY);
    else if (s->state == SOCK_CONNECTED)
        rc = connect_told(s);
    else if (s->state == SOCK_LISTENING)
        rc = -EISCONN;
    else
        rc = connect_start(s, fd, sa, len);
    if (rc == -ENOTSOCK) {
        unlock();
        return real.connect(fd, sa, len);
    }
    return (int)leave(rc);
}
ALSO(connect, __connect);
