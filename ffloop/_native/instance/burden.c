/*
 * burden.c - memberships, filters, broadcasts: work of the stack that no slice can cut.
 *
 * Callers: control.c, endpoint.c, group.c, transmit.c. A close leaves each group, and each time a
 * list of all memberships is walked (0.5 s for 12,000); a datagram for a group passes the filters of all its
 * sockets. So their number is limited, per user. They are charged to the user of the socket, until
 * its last reference is closed.
 */
#include "internal.h"
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

bool burden_may_send(struct endpoint *e, const struct ffl_addr *to)
{
    struct ffl_instance *in = e->s->in;
    const struct settings *s = group_settings(e);
    uint32_t n = 0;
    if (!(to ? s->broadcasts || ffl_addr_multicast(to) : s->casts))
        return true;
    const struct group *g = group_at(in, to ? to->port_be : s->cast_be, true);
    for (; g && n < in->cast_most; g = group_next(g))
        n++;
    return n < in->cast_most;
}

void burden_end(struct ffl_instance *in, struct account *a, struct settings *s)
{
    ledger_discharge(&in->ledger, a, CHARGE_MEMBERSHIP, s->memberships);
    ledger_discharge(&in->ledger, a, CHARGE_FILTER, (uint64_t)s->filter[0] + s->filter[1]);
    s->memberships = s->filter[0] = s->filter[1] = 0;
}
