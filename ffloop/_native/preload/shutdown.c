/*
 * shutdown.c - shutdown, and sockets that go back to an earlier state.
 *
 * Callers: the program, connect.c. A listener or an unfinished connect that is shut down, and a
 * connection that connect(AF_UNSPEC) dissolves, leave a socket that is at most bound: a new stack
 * socket in place of the old.
 */
#include "preload.h"
#include "option.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>

/* Sets the options of s, as far as they can be read, on the new stack socket `to`. */
static void carry_options(const struct sock *s, int to)
{
    struct ffl_client *c = s->session->c;
    const struct ffl_option *o;
    for (unsigned row = 0; (o = ffl_carry_noted(s->noted, &row));) {
        uint8_t value[FFL_OPT_MAX];
        uint32_t len = o->size;
        if (ffl_client_getsockopt(c, s->h, o->level, o->name, value, &len) < 0) {
            if (o->flags & FFL_OPTION_RESTRICTS)
                ffl_log(FFL_LOG_WARNING, "%s of a socket is lost: it cannot be read back", o->text);
            continue;
        }
        ffl_carry_as_set(o, value);
        (void)ffl_client_setsockopt(c, to, o->level, o->name, value, len); /* s took it */
    }
}

/* Replaces the stack socket of s: 0 or -errno. `abort`: the old socket is reset. */
static int start_again(struct sock *s, bool abort)
{
    struct ffl_client *c = s->session->c;
    struct ffl_addresses addresses;
    int h = ffl_client_socket(c, s->domain, s->type, s->proto, 0);
    if (h < 0)
        return h;
    carry_options(s, h);
    static const struct linger reset = {1, 0};
    if (abort) /* on failure the peer sees an end, not a reset */
        (void)ffl_client_setsockopt(c, s->h, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    bool bound = s->named && ffl_client_addresses(c, s->h, &addresses) == 0;
    (void)ffl_client_close(c, s->h, abort); /* cannot fail: open */
    s->h = h;
    (void)ffl_client_watch(c, h, &s->node.source); /* cannot fail: open */
    if (bound)
        (void)ffl_client_bind(c, h, &addresses.local); /* EADDRINUSE: unbound */
    s->state = SOCK_BOUND;
    s->shut_rd = s->shared = false;
    s->born = s->seen = s->session->shares; /* nobody else has this one */
    return 0;
}

/* A thread that waits in accept() gets EINVAL. */
static int stop_listening(struct sock *s)
{
    s->named = true; /* listen() binds a socket that bind() has not */
    int rc = start_again(s, false);
    if (rc == 0 && s->kernel_fd >= 0) {
        fd_ours_close(s->kernel_fd);
        s->kernel_fd = -1;
    }
    return rc;
}

/* Of a stream that is shut down on both sides the stack knows whether the peer has ended it. */
static bool closed(const struct sock *s)
{
    uint8_t state = 0;
    uint32_t len = sizeof(state);
    return ffl_client_getsockopt(s->session->c, s->h, IPPROTO_TCP, TCP_INFO, &state, &len) == 0 &&
           state == TCP_CLOSE;
}

bool sock_over(const struct sock *s)
{
    unsigned st = ffl_client_state(s->session->c, s->h);
    bool ends = st & FFL_ST_EOF && st & FFL_ST_SHUT_WR && s->type == SOCK_STREAM;
    return st & FFL_ST_FAILED || (ends && (!s->shut_rd || closed(s)));
}

/* A thread that waits in connect(), or the next call, gets ECONNRESET, or the error of a connection
 * that has ended. */
static int give_up(struct sock *s)
{
    struct ffl_client *c = s->session->c;
    ffl_client_reap(c);
    int err = sock_over(s) ? ffl_client_take_error(c, s->h) : ECONNRESET;
    int rc = start_again(s, true);
    if (rc == 0)
        ffl_client_set_error(c, s->h, err);
    return rc;
}

int sock_disconnect(struct sock *s)
{
    if (s->state == SOCK_LISTENING)
        return stop_listening(s);
    if (s->state < SOCK_CONNECTING) {
        s->shut_rd = false;
        return 0;
    }
    int rc = give_up(s);
    if (rc == 0)
        sock_tell(s);
    return rc;
}

/* As Linux, a stream that reads no more still gets what comes. The stack would take that for the
 * end of the stream: it is told when sending ends too, or for the other processes' sake. */
static int shut_stack(struct sock *s, int how)
{
    bool ends = how != SHUT_RD || ffl_client_state(s->session->c, s->h) & FFL_ST_SHUT_WR;
    if (s->type == SOCK_STREAM && !ends && !sock_shared(s))
        return 0;
    if (s->type == SOCK_STREAM && how == SHUT_WR && s->shut_rd)
        how = SHUT_RDWR;
    int rc = ffl_client_shutdown(s->session->c, s->h, how);
    if (rc == 0 && sock_shared(s))            /* done before the call returns, for the sharers */
        (void)ffl_client_ping(s->session->c); /* fails: the session is lost */
    return rc;
}

static int shut(struct sock *s, int how)
{
    if (how < SHUT_RD || how > SHUT_RDWR)
        return -EINVAL;
    if (s->state == SOCK_LISTENING)
        return how == SHUT_WR ? 0 : stop_listening(s);
    if (s->type == SOCK_STREAM && s->state == SOCK_CONNECTING && sock_pending_connect(s) < 0)
        return give_up(s);
    ffl_client_reap(s->session->c); /* the peer may have reset */
    if (s->state == SOCK_CONNECTED ? sock_over(s) : s->type == SOCK_STREAM) {
        s->shut_rd |= how != SHUT_WR;
        return -ENOTCONN;
    }
    int rc = shut_stack(s, how);
    if (rc == 0 && how != SHUT_WR)
        s->shut_rd = true;
    if (rc == 0 && s->state == SOCK_BOUND)
        return -ENOTCONN; /* an unconnected datagram socket: the error, but it is shut down */
    return rc;
}

API int shutdown(int fd, int how)
{
    real_start();
    struct sock *s = sock_enter(fd);
    if (!s)
        return real.shutdown(fd, how);
    int rc = s->session ? shut(s, how) : real.shutdown(fd, how) < 0 ? -errno : 0;
    if (!s->session && s->type == SOCK_STREAM) /* ENOTCONN, but it reads no more */
        s->shut_rd |= how == SHUT_RD || how == SHUT_RDWR;
    sock_tell(s);
    return (int)leave(rc);
}
