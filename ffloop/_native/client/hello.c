/*
 * hello.c - reaching an instance: its unix socket, the hello and the reply.
 *
 * Callers: attach.c, ticket.c.
 */
#include "internal.h"

#include "limit.h"
#include "place.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_TIMEOUT_MS 10000

int client_limit_ms(int timeout_ms)
{
    return timeout_ms > 0 ? timeout_ms : DEFAULT_TIMEOUT_MS;
}

struct readable {
    int fd;
    struct ffl_limit limit;
};

static bool is_readable(void *arg)
{
    struct readable *r = arg;
    struct pollfd p = {.fd = r->fd, .events = POLLIN};
    return poll(&p, 1, 0) != 0 || ffl_limit_left(&r->limit) == 0;
}

static int wait_readable(int fd, int timeout_ms, const struct ffl_driver *driver)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    struct readable r = {fd, ffl_limit(timeout_ms)};
    if (driver)
        driver->run(driver->arg, is_readable, &r);
    for (;;) {
        int ms = ffl_limit_sleep_ms(&r.limit), n = poll(&p, 1, ms);
        if (n > 0)
            return 0;
        if (n == 0 && ms == 0)
            return -ETIMEDOUT;
        if (n < 0 && errno != EINTR)
            return -errno;
    }
}

/* connect() with a time-out: it waits while a stopped instance's backlog is full. */
static int connect_within(int s, const struct sockaddr_un *sa, socklen_t len, int timeout_ms)
{
    struct ffl_limit limit = ffl_limit(client_limit_ms(timeout_ms));
    for (int ms; (ms = ffl_limit_sleep_ms(&limit)) > 0;) {
        struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
        if (setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)) < 0)
            return -errno;
        if (connect(s, (const struct sockaddr *)sa, len) == 0)
            return 0;
        if (errno != EINTR && errno != EAGAIN)
            return -errno;
    }
    return -ETIMEDOUT;
}

int client_connect(const struct ffl_client_opts *o, char *why, size_t whylen)
{
    if (o->via) {
        int s = client_connect_via(o->via->fd);
        if (s < 0)
            snprintf(why, whylen, "the instance is out of reach: %s", strerror(-s));
        return s;
    }
    const char *path = o->path;
    struct sockaddr_un sa;
    socklen_t len;
    int rc = ffl_unix_addr(path, &sa, &len);
    if (rc < 0) {
        snprintf(why, whylen, "cannot reach an instance at '%s': %s", path, strerror(-rc));
        return rc;
    }
    uid_t owner;
    rc = ffl_place_check(path, &owner, why, whylen);
    if (rc < 0)
        return rc;
    int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (s < 0)
        return -errno;
    rc = connect_within(s, &sa, len, o->timeout_ms);
    if (rc == 0)
        rc = ffl_place_peer(s, path, owner, why, whylen);
    if (rc == 0)
        return s;
    close(s);
    if (rc == -ENOTUNIQ)
        return rc;
    const char *hint = rc == -ENOENT         ? "there is no such socket"
                       : rc == -ECONNREFUSED ? "no instance listens there"
                       : rc == -EPROTOTYPE   ? "that socket is not an ffloop instance's"
                                             : strerror(-rc);
    snprintf(why, whylen, "cannot reach an instance at '%s': %s", path, hint);
    return rc == -EPROTOTYPE ? -EPROTO : rc;
}

static int reply_error(const struct ffl_reply *r, char *why, size_t whylen)
{
    static const int codes[] = {[FFL_REPLY_VERSION] = -EPROTONOSUPPORT,
                                [FFL_REPLY_REFUSED] = -EPERM,
                                [FFL_REPLY_QUOTA] = -EUSERS,
                                [FFL_REPLY_BAD] = -EPROTO,
                                [FFL_REPLY_NOMEM] = -ENOMEM};
    snprintf(why, whylen, "%.*s", (int)sizeof(r->why), r->why);
    return r->status < FFL_COUNT(codes) ? codes[r->status] : -EPROTO;
}

void client_clean(char *text, size_t size)
{
    for (size_t i = 0; i < size && text[i]; i++)
        if (text[i] < ' ' || text[i] > '~')
            text[i] = '?';
}

int client_shake_hands(int s, const struct ffl_hello *h, struct ffl_reply *r, int *fds, int want,
                       const struct ffl_client_opts *o, char *why, size_t whylen)
{
    int n = 0;
    int rc = ffl_msg_send(s, h, sizeof(*h), NULL, 0);
    if (rc >= 0 || rc == -EPIPE) /* refused before the hello: the reason can be read */
        rc = wait_readable(s, client_limit_ms(o->timeout_ms), o->driver);
    if (rc >= 0) {
        n = want;
        rc = ffl_msg_recv(s, r, sizeof(*r), fds, &n);
    }
    if (rc < 0 || rc == 0) {
        for (int i = 0; i < n; i++)
            close(fds[i]);
        snprintf(why, whylen, "the handshake failed: %s",
                 rc == 0 ? "the peer closed the connection" : ffl_strerror(-rc));
        return rc == 0 ? -ECONNREFUSED : rc;
    }
    client_clean(r->stack, sizeof(r->stack));
    client_clean(r->why, sizeof(r->why));
    if (rc == sizeof(*r) && r->magic == FFL_MAGIC && r->status == FFL_REPLY_OK && n == want)
        return 0;
    for (int i = 0; i < n; i++)
        close(fds[i]);
    if (rc >= (int)offsetof(struct ffl_reply, key) && r->magic == FFL_MAGIC &&
        r->status != FFL_REPLY_OK)
        return reply_error(r, why, whylen);
    snprintf(why, whylen, "the peer's reply is not an ffloop instance's");
    return -EPROTO;
}
