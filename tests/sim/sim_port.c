/*
 * sim_port.c - addresses and ports of the sim stack: who is bound where, and who is meant.
 *
 * Callers: the other sim files. Every address is local unless local= says which. An address is
 * "plain" when an IPv4 address is AF_INET and not IPv4-mapped: comparisons are between plain ones.
 */
#include "sim_internal.h"

/* Not the kernel's range: a port of ours may be listened at on the kernel as well. */
#define EPHEMERAL_LOW 10000
#define EPHEMERAL_HIGH 32767

struct ffl_addr sim_as(const struct ffl_addr *a, uint8_t domain)
{
    return domain == AF_INET6 ? ffl_addr_mapped(a) : *a;
}

bool sim_in(const struct ffl_addr *set, unsigned n, const struct ffl_addr *a)
{
    for (unsigned i = 0; i < n; i++)
        if (ffl_addr_same_ip(&set[i], a))
            return true;
    return false;
}

int sim_fit(const struct sock *s, const struct ffl_addr *local, const struct ffl_addr *dst)
{
    return ffl_addr_fit(local, sim_opt_int(s, IPPROTO_IPV6, IPV6_V6ONLY), dst);
}

struct sock **sim_chain(struct sim *m, uint16_t port_be)
{
    return &m->ports[port_be % SIM_PORTS];
}

static bool may_share(const struct sock *a, const struct sock *b, bool listening)
{
    if (sim_opt_int(a, SOL_SOCKET, SO_REUSEPORT) && sim_opt_int(b, SOL_SOCKET, SO_REUSEPORT))
        return true;
    if (!sim_opt_int(a, SOL_SOCKET, SO_REUSEADDR) || !sim_opt_int(b, SOL_SOCKET, SO_REUSEADDR))
        return false;
    return a->type == SOCK_DGRAM || (!listening && b->state != SIM_LISTENING);
}

bool sim_port_taken(const struct sock *s, const struct ffl_addr *a, bool listening)
{
    struct ffl_addr mine = ffl_addr_plain(a);
    for (const struct sock *o = *sim_chain(s->sim, a->port_be); o; o = o->link) {
        if (o == s || o->type != s->type || o->local.port_be != a->port_be)
            continue;
        if (listening && o->state != SIM_LISTENING)
            continue;
        struct ffl_addr theirs = ffl_addr_plain(&o->local);
        if (!sim_fit(o, &o->local, &mine) && !sim_fit(s, a, &theirs))
            continue;
        if (!may_share(s, o, listening))
            return true;
    }
    return false;
}

static int pick_port(struct sock *s, struct ffl_addr *a)
{
    struct sim *m = s->sim;
    for (int i = EPHEMERAL_LOW; i <= EPHEMERAL_HIGH; i++) {
        a->port_be = htons((uint16_t)m->next_port);
        m->next_port = m->next_port == EPHEMERAL_HIGH ? EPHEMERAL_LOW : m->next_port + 1;
        bool used = false;
        for (const struct sock *o = *sim_chain(m, a->port_be); o && !used; o = o->link)
            used = o->type == s->type && o->local.port_be == a->port_be;
        if (!used)
            return 0;
    }
    return -EADDRINUSE;
}

int sim_bind(struct sock *s, const struct ffl_addr *a)
{
    struct sim *m = s->sim;
    if (a->family != s->domain)
        return -EAFNOSUPPORT;
    struct ffl_addr want = *a, plain = ffl_addr_plain(a);
    if (m->nlocal && !ffl_addr_wildcard(&plain) && !sim_in(m->local, m->nlocal, &plain))
        return -EADDRNOTAVAIL;
    int rc = 0;
    if (want.port_be == 0)
        rc = pick_port(s, &want);
    else if (sim_port_taken(s, &want, false))
        rc = -EADDRINUSE;
    if (rc < 0)
        return rc;
    s->local = want;
    s->bound = true;
    struct sock **head = sim_chain(m, want.port_be);
    s->link = *head;
    *head = s;
    return 0;
}

void sim_unbind(struct sock *s)
{
    if (!s->bound)
        return;
    struct sock **p = sim_chain(s->sim, s->local.port_be);
    while (*p != s)
        p = &(*p)->link;
    *p = s->link;
    s->bound = false;
}

/* The best listener for a plain destination; several that fit equally well (SO_REUSEPORT) take
 * turns. */
struct sock *sim_listener(struct sim *m, const struct ffl_addr *to)
{
    int best = 0;
    uint32_t equal = 0;
    for (struct sock *o = *sim_chain(m, to->port_be); o; o = o->link) {
        if (o->state != SIM_LISTENING || o->local.port_be != to->port_be)
            continue;
        int f = sim_fit(o, &o->local, to);
        if (f > best) {
            best = f;
            equal = 0;
        }
        equal += f && f == best;
    }
    if (!best)
        return NULL;
    uint32_t turn = equal > 1 ? m->spread++ % equal : 0;
    for (struct sock *o = *sim_chain(m, to->port_be); o; o = o->link)
        if (o->state == SIM_LISTENING && o->local.port_be == to->port_be &&
            sim_fit(o, &o->local, to) == best && turn-- == 0)
            return o;
    return NULL;
}
