/*
 * sim_opt.c - socket options of the sim stack: known names are stored and given back.
 *
 * Callers: sim.c, sim_sock.c, sim_net.c. Few have an effect: SO_REUSEADDR and SO_REUSEPORT on
 * binding, IPV6_V6ONLY, SO_LINGER with zero seconds, SO_RCVBUF (the window, before data flows). An
 * unknown name is -ENOPROTOOPT, as on Linux.
 */
#include "sim_internal.h"

#include <netinet/tcp.h>

struct known {
    int level, name;
    uint32_t size;
    int value; /* the default, of those that are an int */
};

static const struct known known[] = {
    {SOL_SOCKET, SO_REUSEADDR, 4, 0},
    {SOL_SOCKET, SO_REUSEPORT, 4, 0},
    {SOL_SOCKET, SO_KEEPALIVE, 4, 0},
    {SOL_SOCKET, SO_BROADCAST, 4, 0},
    {SOL_SOCKET, SO_OOBINLINE, 4, 0},
    {SOL_SOCKET, SO_PRIORITY, 4, 0},
    {SOL_SOCKET, SO_SNDBUF, 4, 65536},
    {SOL_SOCKET, SO_RCVBUF, 4, 65536},
    {SOL_SOCKET, SO_RCVLOWAT, 4, 1},
    {SOL_SOCKET, SO_LINGER, sizeof(struct linger), 0},
    {SOL_SOCKET, SO_RCVTIMEO, 16, 0},
    {SOL_SOCKET, SO_SNDTIMEO, 16, 0},
    {IPPROTO_TCP, TCP_NODELAY, 4, 0},
    {IPPROTO_TCP, TCP_CORK, 4, 0},
    {IPPROTO_TCP, TCP_QUICKACK, 4, 1},
    {IPPROTO_TCP, TCP_KEEPIDLE, 4, 7200},
    {IPPROTO_TCP, TCP_KEEPINTVL, 4, 75},
    {IPPROTO_TCP, TCP_KEEPCNT, 4, 9},
    {IPPROTO_TCP, TCP_USER_TIMEOUT, 4, 0},
    {IPPROTO_TCP, TCP_SYNCNT, 4, 6},
    {IPPROTO_TCP, TCP_LINGER2, 4, 60},
    {IPPROTO_TCP, TCP_DEFER_ACCEPT, 4, 0},
    {IPPROTO_TCP, TCP_FASTOPEN, 4, 0},
    {IPPROTO_TCP, TCP_NOTSENT_LOWAT, 4, -1},
    {IPPROTO_TCP, TCP_MAXSEG, 4, 1460},
    {IPPROTO_TCP, TCP_WINDOW_CLAMP, 4, 0},
    {IPPROTO_IP, IP_TOS, 4, 0},
    {IPPROTO_IP, IP_TTL, 4, 64},
    {IPPROTO_IPV6, IPV6_V6ONLY, 4, 0},
    {IPPROTO_IPV6, IPV6_TCLASS, 4, 0},
    {IPPROTO_IPV6, IPV6_UNICAST_HOPS, 4, 64},
};
_Static_assert(FFL_COUNT(known) <= SIM_OPTS, "room for each in struct sock");

static int find(int level, int name)
{
    for (size_t i = 0; i < FFL_COUNT(known); i++)
        if (known[i].level == level && known[i].name == name)
            return (int)i;
    return -ENOPROTOOPT;
}

int sim_opt_set(struct sock *s, int level, int name, const void *val, uint32_t len)
{
    int i = find(level, name);
    if (i < 0 || (level == IPPROTO_TCP && s->type != SOCK_STREAM))
        return -ENOPROTOOPT;
    if (len < known[i].size)
        return -EINVAL;
    int n = 0;
    memcpy(&n, val, sizeof(n));
    if (level == IPPROTO_IPV6 && name == IPV6_V6ONLY && s->bound)
        return -EINVAL;
    if (level == SOL_SOCKET && name == SO_RCVBUF) {
        if (n < 256)
            n = 256;
        if (s->state == SIM_FRESH || s->state == SIM_LISTENING)
            s->window = (uint32_t)n;
    }
    if (!s->optval[i]) {
        s->optval[i] = malloc(known[i].size);
        if (!s->optval[i])
            return -ENOMEM;
    }
    memcpy(s->optval[i], val, known[i].size);
    return 0;
}

int sim_opt_int(const struct sock *s, int level, int name)
{
    int i = find(level, name), n = 0;
    if (i < 0)
        return 0;
    if (!s->optval[i])
        return known[i].value;
    memcpy(&n, s->optval[i], sizeof(n));
    return n;
}

bool sim_opt_abortive(const struct sock *s)
{
    int i = find(SOL_SOCKET, SO_LINGER);
    struct linger l = {0};
    if (s->optval[i])
        memcpy(&l, s->optval[i], sizeof(l));
    return l.l_onoff && l.l_linger == 0;
}

static int give(void *val, uint32_t *len, const void *from, uint32_t size)
{
    if (*len > size)
        *len = size;
    memcpy(val, from, *len);
    return 0;
}

/* What the socket's state answers. -ENOPROTOOPT: not one of these. */
static int get_state(struct sock *s, int name, int *n)
{
    switch (name) {
    case SO_ERROR:
        *n = s->error;
        s->error = 0;
        return 0;
    case SO_TYPE:
        *n = s->type;
        return 0;
    case SO_DOMAIN:
        *n = s->domain;
        return 0;
    case SO_PROTOCOL:
        *n = s->type == SOCK_STREAM ? IPPROTO_TCP : IPPROTO_UDP;
        return 0;
    case SO_ACCEPTCONN:
        *n = s->state == SIM_LISTENING;
        return 0;
    }
    return -ENOPROTOOPT;
}

int sim_opt_get(struct sock *s, int level, int name, void *val, uint32_t *len)
{
    int n = 0;
    if (level == SOL_SOCKET && get_state(s, name, &n) == 0)
        return give(val, len, &n, sizeof(n));
    int i = find(level, name);
    if (i < 0 || (level == IPPROTO_TCP && s->type != SOCK_STREAM))
        return -ENOPROTOOPT;
    if (s->optval[i])
        return give(val, len, s->optval[i], known[i].size);
    uint8_t unset[16] = {0};
    memcpy(unset, &known[i].value, sizeof(known[i].value));
    return give(val, len, unset, known[i].size);
}

/* An accepted socket has its listener's options. */
int sim_opt_inherit(struct sock *to, const struct sock *from)
{
    for (size_t i = 0; i < FFL_COUNT(known); i++) {
        if (!from->optval[i])
            continue;
        to->optval[i] = malloc(known[i].size);
        if (!to->optval[i])
            return -ENOMEM;
        memcpy(to->optval[i], from->optval[i], known[i].size);
    }
    to->window = from->window;
    return 0;
}

void sim_opt_free(struct sock *s)
{
    for (size_t i = 0; i < SIM_OPTS; i++)
        free(s->optval[i]);
}
