/*
 * burden.c - memberships, filters, broadcasts: work of the stack that no slice can cut.
 *
 * Callers: control.c, endpoint.c, group.c, handover.c. A close leaves each group, and each time a
 * list of all memberships is walked (0.5 s for 12,000); a datagram for a group passes the filters
 * of all its sockets. So their number is limited, per user. They are charged to the user of the
 * socket, until its last reference is closed. A broadcast or multicast is for all sockets at the
 * port that are bound to its address or to none, in one call (10 ms for 12,000): they are of one
 * user, as no other may bind there (handover.c), and few.
 */
#include "endpoint.h"
#include "group.h"
#include "addr.h"
#include "option.h"

#include <errno.h>
#include <linux/filter.h>
#include <sys/socket.h>

#define SEARCH 1000 /* instructions: as much as one that searches all of a packet */

static struct account *payer(const struct endpoint *e)
{
    return e->group ? e->group->account : e->s->account;
}

uint32_t burden_of_filter(const struct sock_filter *code, uint32_t n)
{
    uint32_t cost = n;
    for (uint32_t i = 0; i < n; i++)
        if (code[i].k == (uint32_t)(SKF_AD_OFF + SKF_AD_NLATTR) ||
            code[i].k == (uint32_t)(SKF_AD_OFF + SKF_AD_NLATTR_NEST))
            cost += SEARCH;
    return cost;
}

int burden_charge(struct endpoint *e, const struct ffl_option *o, uint32_t filter)
{
    struct ledger *l = &e->s->in->ledger;
    if (o && o->flags & FFL_OPTION_JOIN && ledger_charge(l, payer(e), CHARGE_MEMBERSHIP, 1) < 0)
        return -ENOBUFS;
    return ledger_charge(l, payer(e), CHARGE_FILTER, filter) < 0 ? -ENOMEM : 0;
}

/* own: of SO_ATTACH_FILTER; else of the reuseport group. */
static void replace_filter(struct endpoint *e, bool own, uint32_t cost)
{
    uint32_t *old = &group_settings(e)->filter[own];
    ledger_discharge(&e->s->in->ledger, payer(e), CHARGE_FILTER, *old);
    *old = cost;
}

void burden_settle(struct endpoint *e, const struct ffl_option *o, uint32_t filter, bool done)
{
    struct ledger *l = &e->s->in->ledger;
    struct settings *s = group_settings(e);
    bool joins = o && o->flags & FFL_OPTION_JOIN, leaves = o && o->flags & FFL_OPTION_LEAVE;
    if (!done) {
        ledger_discharge(l, payer(e), CHARGE_MEMBERSHIP, joins);
        ledger_discharge(l, payer(e), CHARGE_FILTER, filter);
        return;
    }
    s->memberships += joins;
    if (o && o->flags & FFL_OPTION_DETACH)
        replace_filter(e, o->name == SO_DETACH_FILTER, 0);
    if (leaves && s->memberships) { /* of a group's several sources one; the rest at the close */
        s->memberships--;
        ledger_discharge(l, payer(e), CHARGE_MEMBERSHIP, 1);
    }
    if (filter)
        replace_filter(e, o->name == SO_ATTACH_FILTER, filter);
}

/* Of an interface's broadcast address only the stack knows that it is one: without SO_BROADCAST
 * there is no connect to it. */
static bool broadcast(struct ffl_instance *in, const struct ffl_addr *a)
{
    if (a->family != AF_INET)
        return false;
    slice_spend(&in->slice, 3 * SLICE_CALL_NS);
    int fd = OPS(in)->socket(ST(in), AF_INET, SOCK_DGRAM, 0);
    if (fd < 0)
        return true; /* perhaps */
    bool is = OPS(in)->connect(ST(in), fd, a) == -EACCES;
    (void)OPS(in)->close(ST(in), fd);
    return is;
}

static bool everybodys(const struct ffl_addr *a)
{
    static const struct ffl_addr all = {.family = AF_INET, .ip = {255, 255, 255, 255}};
    return ffl_addr_wildcard(a) || ffl_addr_multicast(a) || ffl_addr_same_ip(a, &all);
}

bool burden_beside(const struct ffl_addr *at, const struct ffl_addr *a)
{
    const struct ffl_addr pat = ffl_addr_plain(at), pa = ffl_addr_plain(a);
    return everybodys(&pat) || ffl_addr_same_ip(&pat, &pa);
}

int burden_bind(struct ffl_instance *in, const struct ffl_addr *a, uint32_t own, uint32_t beside)
{
    const struct ffl_addr p = ffl_addr_plain(a);
    if (own >= in->port_most)
        return -ENOBUFS;
    return beside >= in->cast_most && (everybodys(&p) || broadcast(in, &p)) ? -ENOBUFS : 0;
}

void burden_end(struct ffl_instance *in, struct account *a, struct settings *s)
{
    ledger_discharge(&in->ledger, a, CHARGE_MEMBERSHIP, s->memberships);
    ledger_discharge(&in->ledger, a, CHARGE_FILTER, (uint64_t)s->filter[0] + s->filter[1]);
    s->memberships = s->filter[0] = s->filter[1] = 0;
}
