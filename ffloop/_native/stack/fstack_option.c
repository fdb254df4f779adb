/*
 * fstack_option.c - socket options over F-Stack, by shm/option.h's table.
 *
 * Callers: fstack.c. Only the table's options pass, and values that F-Stack passes through raw
 * (SO_ERROR, TCP_INFO) are translated.
 */
#include "fstack_sock.h"
#include "option.h"

#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

#include "ff_api.h"

/* FreeBSD's errno numbers that differ from Linux's, for values that F-Stack passes through raw. */
static int linux_errno(int bsd)
{
    static const uint8_t map[] = {
        [ff_EDEADLK] = EDEADLK,           [ff_EAGAIN] = EAGAIN,
        [ff_EINPROGRESS] = EINPROGRESS,   [ff_EALREADY] = EALREADY,
        [ff_ENOTSOCK] = ENOTSOCK,         [ff_EDESTADDRREQ] = EDESTADDRREQ,
        [ff_EMSGSIZE] = EMSGSIZE,         [ff_EPROTOTYPE] = EPROTOTYPE,
        [ff_ENOPROTOOPT] = ENOPROTOOPT,   [ff_EPROTONOSUPPORT] = EPROTONOSUPPORT,
        [ff_EOPNOTSUPP] = EOPNOTSUPP,     [ff_EAFNOSUPPORT] = EAFNOSUPPORT,
        [ff_EADDRINUSE] = EADDRINUSE,     [ff_EADDRNOTAVAIL] = EADDRNOTAVAIL,
        [ff_ENETDOWN] = ENETDOWN,         [ff_ENETUNREACH] = ENETUNREACH,
        [ff_ENETRESET] = ENETRESET,       [ff_ECONNABORTED] = ECONNABORTED,
        [ff_ECONNRESET] = ECONNRESET,     [ff_ENOBUFS] = ENOBUFS,
        [ff_EISCONN] = EISCONN,           [ff_ENOTCONN] = ENOTCONN,
        [ff_ESHUTDOWN] = ESHUTDOWN,       [ff_ETIMEDOUT] = ETIMEDOUT,
        [ff_ECONNREFUSED] = ECONNREFUSED, [ff_EHOSTDOWN] = EHOSTDOWN,
        [ff_EHOSTUNREACH] = EHOSTUNREACH,
    };
    if (bsd > 0 && bsd < (int)FFL_COUNT(map) && map[bsd])
        return map[bsd];
    return bsd > 0 && bsd <= ff_ERANGE ? bsd : EIO; /* 1 to 34 are the same, but for EDEADLK */
}

/* Has a call failed since FreeBSD has dropped the connection's block, and its options with it?
 * Linux takes them still. */
static bool is_over(int level)
{
    return level == IPPROTO_TCP && errno == ECONNRESET;
}

/* FreeBSD's struct tcp_info was modelled on Linux's and begins alike, but numbers the states
 * otherwise and counts windows in other units. A socket of Linux's never says TIME_WAIT. */
static int tcp_info(int fd, const struct ffl_option *o, void *val, uint32_t *len)
{
    static const uint8_t states[] = {
        TCP_CLOSE,     TCP_LISTEN,  TCP_SYN_SENT, TCP_SYN_RECV,  TCP_ESTABLISHED, TCP_CLOSE_WAIT,
        TCP_FIN_WAIT1, TCP_CLOSING, TCP_LAST_ACK, TCP_FIN_WAIT2, TCP_CLOSE,
    };
    union {
        struct tcp_info linux_one;
        uint8_t room[512]; /* FreeBSD's is longer */
    } u = {.room = {0}};
    socklen_t n = sizeof(u);
    if (ff_getsockopt_freebsd(fd, o->bsd_level, o->bsd_name, &u, &n) < 0 && !is_over(o->bsd_level))
        return fstack_fail();
    struct tcp_info *t = &u.linux_one;
    uint32_t mss = t->tcpi_snd_mss ? t->tcpi_snd_mss : 1,
             same = offsetof(struct tcp_info, tcpi_total_retrans);
    t->tcpi_state = t->tcpi_state < sizeof(states) ? states[t->tcpi_state] : TCP_CLOSE;
    t->tcpi_snd_cwnd /= mss;
    t->tcpi_snd_ssthresh = t->tcpi_snd_ssthresh / mss;
    *len = *len < same ? *len : same;
    memcpy(val, &u, *len);
    return 0;
}

static int set_bsd(int fd, int level, int name, const void *val, uint32_t len)
{
    if (ff_setsockopt_freebsd(fd, level, name, val, len) < 0 && !is_over(level))
        return fstack_fail();
    return 0;
}

/* Linux bounds a buffer's size, and refuses none. */
static int set_size(int fd, const struct ffl_option *o, const void *val, uint32_t len)
{
    int v, rc, least = o->name == SO_SNDBUF ? 2304 : 1152;
    if (len < sizeof(v))
        return -EINVAL;
    memcpy(&v, val, sizeof(v));
    if (v < 0)
        v = INT_MAX; /* to Linux it is without a sign */
    else if (v < least)
        v = least;
    while ((rc = set_bsd(fd, o->bsd_level, o->bsd_name, &v, sizeof(v))) == -ENOBUFS &&
           v / 2 > least)
        v /= 2; /* more than kern.ipc.maxsockbuf */
    return rc;
}

/* Values that Linux refuses, and FreeBSD takes for something else. */
static bool is_out_of_range(const struct ffl_option *o, const void *val, uint32_t len)
{
    static const struct {
        int level, name, least, most;
    } ranges[] = {
        {IPPROTO_TCP, TCP_KEEPIDLE, 1, 32767},
        {IPPROTO_TCP, TCP_KEEPINTVL, 1, 32767},
        {IPPROTO_TCP, TCP_KEEPCNT, 1, 127},
        {IPPROTO_IP, IP_TTL, 1, 255},
    };
    int v;
    if (len < sizeof(v))
        return false;
    memcpy(&v, val, sizeof(v));
    for (size_t i = 0; i < FFL_COUNT(ranges); i++)
        if (o->level == ranges[i].level && o->name == ranges[i].name)
            return v < ranges[i].least || v > ranges[i].most;
    return false;
}

/* Linux's -1 of IPv4's hop limits, which FreeBSD does not know: *value is the default. */
static bool wants_default(const struct ffl_option *o, const void *val, uint32_t len, int *value)
{
    static const int sysctl[] = {4, 2, 0, 3}; /* net.inet.ip.ttl, FreeBSD's numbers */
    size_t n = sizeof(*value);
    bool one = o->name == IP_MULTICAST_TTL;
    if (o->level != IPPROTO_IP || (o->name != IP_TTL && !one) || len < n)
        return false;
    memcpy(value, val, n);
    if (*value != -1)
        return false;
    *value = 1; /* of multicast */
    return one || ff_sysctl(sysctl, FFL_COUNT(sysctl), value, &n, NULL, 0) == 0;
}

static int get_bsd(int fd, int level, int name, void *val, uint32_t *len)
{
    socklen_t n = *len;
    if (ff_getsockopt_freebsd(fd, level, name, val, &n) < 0)
        return fstack_fail();
    *len = n;
    return 0;
}

static int set_source(int fd, const struct ffl_option *o, const void *val, uint32_t len)
{
    struct ip_mreq_source m;
    if (len < sizeof(m))
        return -EINVAL;
    memcpy(&m, val, sizeof(m));
    struct in_addr bsd[] = {m.imr_multiaddr, m.imr_sourceaddr, m.imr_interface};
    return set_bsd(fd, o->bsd_level, o->bsd_name, bsd, sizeof(bsd));
}

/* An option is never passed by a number that the table lacks:
 * FreeBSD may have another option there. */
static const struct ffl_option *known(int level, int name, unsigned right)
{
    const struct ffl_option *o = ffl_option_find(level, name);
    return o && o->bsd != FFL_BSD_NONE && o->flags & right ? o : NULL;
}

int fstack_setsockopt(void *st, int fd, int level, int name, const void *val, uint32_t len)
{
    const struct ffl_option *o = known(level, name, FFL_OPTION_SET);
    if (!o)
        return -ENOPROTOOPT;
    int value;
    if (wants_default(o, val, len, &value)) {
        val = &value;
        len = sizeof(value);
    }
    if (is_out_of_range(o, val, len))
        return -EINVAL;
    if (o->bsd == FFL_BSD_SOURCE)
        return set_source(fd, o, val, len);
    if (o->kind == FFL_OPTION_HALVED)
        return set_size(fd, o, val, len);
    if (o->bsd != FFL_BSD_FAMILY)
        return set_bsd(fd, o->bsd_level, o->bsd_name, val, len);
    int rc = set_bsd(fd, IPPROTO_IP, o->bsd_name, val, len);
    return rc < 0 ? set_bsd(fd, IPPROTO_IPV6, o->bsd_name, val, len) : rc;
}

int fstack_getsockopt(void *st, int fd, int level, int name, void *val, uint32_t *len)
{
    const struct ffl_option *o = known(level, name, FFL_OPTION_GET);
    if (!o)
        return -ENOPROTOOPT;
    if (o->bsd == FFL_BSD_TCP_INFO)
        return tcp_info(fd, o, val, len);
    bool family = o->bsd == FFL_BSD_FAMILY;
    int rc = get_bsd(fd, family ? IPPROTO_IP : o->bsd_level, o->bsd_name, val, len);
    if (rc < 0 && family)
        rc = get_bsd(fd, IPPROTO_IPV6, o->bsd_name, val, len);
    int v;
    if (rc < 0 || *len < sizeof(v))
        return rc;
    memcpy(&v, val, sizeof(v));
    if (o->bsd == FFL_BSD_ERRNO)
        v = v ? linux_errno(v) : 0;
    else if (o->kind == FFL_OPTION_BOOL || (level == SOL_SOCKET && name == SO_LINGER))
        v = v != 0; /* FreeBSD gives the flag's bit */
    else if (o->kind == FFL_OPTION_HALVED)
        v = v > INT32_MAX / 2 ? INT32_MAX : 2 * v;
    else if (family && v < 0)
        v = 0; /* FreeBSD's "never set" */
    memcpy(val, &v, sizeof(v));
    return 0;
}
