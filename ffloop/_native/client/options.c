/*
 * options.c - socket options, and the pending error.
 *
 * Callers: client.h's users. The instance's stack has the options; SO_SNDBUF also limits the
 * socket's bytes in the transmit pool.
 */
#include "internal.h"
#include "option.h"
#include "route.h"

#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SNDBUF_LEAST 4608u /* bytes, Linux's limits */
#define SNDBUF_MOST (INT32_MAX / 2u)

/* Can the option not fail on a sound int? Then it is submitted without waiting. */
static bool sure_option(const struct client_sock *s, int level, int name, uint32_t len)
{
    if (len != sizeof(int))
        return false;
    if (level == SOL_SOCKET)
        return name == SO_KEEPALIVE || name == SO_REUSEADDR || name == SO_REUSEPORT;
    return level == IPPROTO_TCP && name == TCP_NODELAY && s->type == SOCK_STREAM;
}

/* SO_SNDBUF's limit, as Linux: twice the value, within Linux's limits. */
static uint32_t send_limit(const void *val)
{
    uint32_t n;
    memcpy(&n, val, sizeof(n));
    n = n > SNDBUF_MOST ? SNDBUF_MOST : n;
    return 2 * n < SNDBUF_LEAST ? SNDBUF_LEAST : 2 * n;
}

/* An option that the stack lacks and that only adds to the data is off: it reads as 0, and may be
 * set to 0. */
static bool always_off(const struct ffl_client *c, int level, int name)
{
    if (ffl_route_same_kernel(c->stack))
        return false; /* what this kernel refuses is refused */
    const struct ffl_option *o = ffl_option_find(level, name);
    bool adds = o && o->flags & (FFL_OPTION_CTL | FFL_OPTION_REPORT);
    return (adds && o->kind == FFL_OPTION_BOOL) || (level == IPPROTO_IP && name == IP_OPTIONS);
}

static bool switches_off(const struct ffl_client *c, int level, int name, const void *val,
                         uint32_t len)
{
    int value = 1;
    if (len >= sizeof(value))
        memcpy(&value, val, sizeof(value));
    return always_off(c, level, name) &&
           (name == IP_OPTIONS && level == IPPROTO_IP ? !len : !value);
}

/* ---- options that the client keeps --------------------------------------------------------- */

static bool is_own(const struct client_sock *s, int level, int name)
{
    if (level == IPPROTO_TCP)
        return name == TCP_INQ && s->type == SOCK_STREAM;
    return level == SOL_SOCKET && (name == SO_ZEROCOPY || name == SO_PEEK_OFF);
}

static int set_own(struct client_sock *s, int level, int name, const void *val, uint32_t len)
{
    int value;
    bool offset = level == SOL_SOCKET && name == SO_PEEK_OFF;
    if (len < sizeof(value))
        return -EINVAL;
    memcpy(&value, val, sizeof(value));
    if (!offset && value != 0 && value != 1)
        return -EINVAL;
    struct client_beside *b = client_beside(s);
    if (!b)
        return -ENOMEM;
    if (offset)
        b->own.peek_off = value;
    else
        *(level == IPPROTO_TCP ? &b->own.inq : &b->own.zerocopy) = value;
    return 0;
}

static int get_own(const struct client_sock *s, int level, int name, void *val, uint32_t *len)
{
    struct ffl_own own = ffl_client_own(s->c, (int)s->handle);
    int value = level == IPPROTO_TCP ? own.inq : name == SO_ZEROCOPY ? own.zerocopy : own.peek_off;
    *len = *len < sizeof(value) ? *len : sizeof(value);
    memcpy(val, &value, *len);
    return 0;
}

/* ---- set and get --------------------------------------------------------------------------- */

/* A socket that has the program that `val`, a struct sock_fprog, points to: the kernel reads and
 * checks it, and gives it out again. The descriptor, or -errno. */
static int program_holder(const void *val, uint32_t len)
{
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, val, len) == 0)
        return fd;
    int rc = -errno;
    close(fd);
    return rc;
}

static int set_filter(struct ffl_client *c, int h, int level, int name, const void *val,
                      uint32_t len)
{
    struct ffl_entry e = {.op = FFL_OP_FILTER, .handle = (uint32_t)h, .buf = FFL_NO_BUF};
    struct ffl_filter f = {.level = level, .name = name};
    int fd = program_holder(val, len);
    if (fd < 0)
        return fd;
    (void)getsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, NULL, &f.len); /* its length, for 0 */
    e.buf = client_whole_buf(c, (uint32_t)(sizeof(f) + f.len * sizeof(struct sock_filter)));
    if (e.buf != FFL_NO_BUF) {
        char *to = (char *)c->map.seg + ffl_buf_off(&c->tx.geo, e.buf);
        memcpy(to, &f, sizeof(f));
        (void)getsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, to + sizeof(f), &f.len); /* is there */
    }
    close(fd);
    return e.buf == FFL_NO_BUF ? -ENOBUFS : client_call(c, e, NULL, 0);
}

int ffl_client_setsockopt(struct ffl_client *c, int h, int level, int name, const void *val,
                          uint32_t len)
{
    struct client_sock *s;
    int rc = client_find(c, h, &s);
    if (rc < 0)
        return rc;
    if (len > FFL_OPT_MAX)
        return -EINVAL;
    const struct ffl_option *row = ffl_option_find(level, name);
    if (is_own(s, level, name))
        return set_own(s, level, name, val, len);
    if (row && row->kind == FFL_OPTION_PROGRAM)
        return set_filter(c, h, level, name, val, len);
    struct ffl_optarg o = {.level = level, .name = name, .len = len};
    memcpy(o.data, val, len);
    struct ffl_entry e = {.op = FFL_OP_SETSOCKOPT, .handle = (uint32_t)h};
    e.buf = client_arg(c, &o, ffl_optarg_bytes(len));
    if (e.buf == FFL_NO_BUF)
        return -ENOBUFS;
    if (level == SOL_SOCKET && name == SO_SNDBUF && len >= sizeof(int))
        s->tx_limit = send_limit(val);
    if (!sure_option(s, level, name, len)) {
        rc = client_call(c, e, NULL, 0);
        return rc == -ENOPROTOOPT && switches_off(c, level, name, val, len) ? 0 : rc;
    }
    client_submit(c, e);
    return 0;
}

int ffl_client_getsockopt(struct ffl_client *c, int h, int level, int name, void *val,
                          uint32_t *len)
{
    struct client_sock *s;
    int rc = client_find(c, h, &s);
    if (rc < 0)
        return rc;
    if (*len > FFL_OPT_MAX)
        *len = FFL_OPT_MAX;
    if (is_own(s, level, name))
        return get_own(s, level, name, val, len);
    if (level == SOL_SOCKET && *len >= sizeof(int)) {
        int v = name == SO_TYPE         ? s->type
                : name == SO_DOMAIN     ? s->domain
                : name == SO_ACCEPTCONN ? s->listener
                : name == SO_ERROR      ? ffl_client_take_error(c, h)
                : name == SO_PROTOCOL   ? (s->proto                 ? s->proto
                                           : s->type == SOCK_STREAM ? IPPROTO_TCP
                                                                    : IPPROTO_UDP)
                                        : -1;
        if (v >= 0) {
            memcpy(val, &v, sizeof(v));
            *len = sizeof(v);
            return 0;
        }
    }
    const struct ffl_option *row = ffl_option_find(level, name);
    uint32_t asked = row && row->flags & FFL_OPTION_ASKS ? *len : 0;
    struct ffl_optarg o = {.level = level, .name = name, .len = *len};
    struct ffl_entry e = {.op = FFL_OP_GETSOCKOPT, .handle = (uint32_t)h};
    memcpy(o.data, val, asked);
    e.buf = client_arg(c, &o, ffl_optarg_bytes(asked));
    if (e.buf == FFL_NO_BUF)
        return -ENOBUFS;
    rc = client_call(c, e, &o, sizeof(o));
    if (rc == -ENOPROTOOPT && always_off(c, level, name)) {
        uint32_t none = level == IPPROTO_IP && name == IP_OPTIONS ? 0 : sizeof(int);
        *len = *len < none ? *len : none;
        memset(val, 0, *len);
        return 0;
    }
    if (rc < 0)
        return rc;
    if (o.len > *len)
        return -EPROTO;
    memcpy(val, o.data, o.len);
    *len = o.len;
    return 0;
}

int ffl_client_take_error(struct ffl_client *c, int h)
{
    struct client_sock *s = client_sock(c, h);
    if (!s)
        return 0;
    if (s->connecting)
        client_look(c);
    int err = s->error ? s->error : s->send_error ? s->send_error : s->open_error;
    s->error = s->send_error = 0;
    placeholder_update(s);
    return err;
}

void ffl_client_set_error(struct ffl_client *c, int h, int err)
{
    struct client_sock *s = client_sock(c, h);
    if (s)
        s->error = err;
}
