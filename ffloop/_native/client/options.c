/*
 * options.c - socket options, and the pending error.
 *
 * Callers: client.h's users. The instance's stack has the options; SO_SNDBUF also limits the
 * socket's bytes in the transmit pool.
 */
#include "internal.h"
#include "option.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#define SNDBUF_LEAST 4608u /* bytes, Linux's limits */
#define SNDBUF_MOST (INT32_MAX / 2u)

/* Can the option not fail on a sound int? Then it is submitted without waiting. */
static bool sure_option(int level, int name, uint32_t len)
{
    if (len != sizeof(int))
        return false;
    if (level == SOL_SOCKET)
        return name == SO_KEEPALIVE || name == SO_REUSEADDR || name == SO_REUSEPORT;
    return level == IPPROTO_TCP && name == TCP_NODELAY;
}

/* SO_SNDBUF's limit, as Linux: twice the value, within Linux's limits. */
static uint32_t send_limit(const void *val)
{
    uint32_t n;
    memcpy(&n, val, sizeof(n));
    n = n > SNDBUF_MOST ? SNDBUF_MOST : n;
    return 2 * n < SNDBUF_LEAST ? SNDBUF_LEAST : 2 * n;
}

/* An option that no stack has and that only adds to the data is off: it reads as 0, and may be set
 * to 0. */
static bool always_off(int level, int name)
{
    const struct ffl_option *o = ffl_option_find(level, name);
    bool had = o && o->flags & (FFL_OPTION_GET | FFL_OPTION_SET) && !(o->flags & FFL_OPTION_CTL);
    bool flag = o && o->kind == FFL_OPTION_BOOL && !(o->flags & FFL_OPTION_RESTRICTS);
    return (flag && !had) || (level == IPPROTO_IP && name == IP_OPTIONS);
}

static bool switches_off(int level, int name, const void *val, uint32_t len)
{
    int value = 1;
    if (len >= sizeof(value))
        memcpy(&value, val, sizeof(value));
    return always_off(level, name) && (name == IP_OPTIONS && level == IPPROTO_IP ? !len : !value);
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
    struct ffl_optarg o = {.level = level, .name = name, .len = len};
    memcpy(o.data, val, len);
    struct ffl_entry e = {.op = FFL_OP_SETSOCKOPT, .handle = (uint32_t)h};
    e.buf = client_arg(c, &o, ffl_optarg_bytes(len));
    if (e.buf == FFL_NO_BUF)
        return -ENOBUFS;
    if (level == SOL_SOCKET && name == SO_SNDBUF && len >= sizeof(int))
        s->tx_limit = send_limit(val);
    if (!sure_option(level, name, len)) {
        rc = client_call(c, e, NULL, 0);
        return rc == -ENOPROTOOPT && switches_off(level, name, val, len) ? 0 : rc;
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
    struct ffl_optarg o = {.level = level, .name = name, .len = *len};
    struct ffl_entry e = {.op = FFL_OP_GETSOCKOPT, .handle = (uint32_t)h};
    e.buf = client_arg(c, &o, ffl_optarg_bytes(0));
    if (e.buf == FFL_NO_BUF)
        return -ENOBUFS;
    rc = client_call(c, e, &o, sizeof(o));
    if (rc == -ENOPROTOOPT && always_off(level, name)) {
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
    mirror_update(s);
    return err;
}

void ffl_client_set_error(struct ffl_client *c, int h, int err)
{
    struct client_sock *s = client_sock(c, h);
    if (s)
        s->error = err;
}
