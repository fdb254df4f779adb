/*
 * offer.c - connections that wait for the application's accept(): offered to all, taken by a call.
 *
 * Callers: accept.c, control.c, group.c. Where several processes have a listener, or the
 * application has not accepted yet (FFL_F_OFFER), a process gets a connection only by accept()
 * (FFL_OP_TAKE): a busy process keeps none from the others. As in the kernel, all pollers are told
 * of a connection, but of those in accept() or with EPOLLEXCLUSIVE, and of loops, one per
 * connection that waits, by round robin; if one does not take it in 2 ms, the others are told.
 */
#include "endpoint.h"
#include "group.h"
#include "pump.h"
#include "session.h"

#include <errno.h>

#define SLOW_NS 2000000

void offer_renew(struct group *g)
{
    struct endpoint *e =
        TAILQ_EMPTY(&g->askers) ? LIST_FIRST(&g->members) : TAILQ_FIRST(&g->askers);
    if (e && e->listener)
        endpoint_ready(e); /* pumps the whole group */
}

static uint32_t connections(const struct endpoint *l)
{
    return l->group->waiting + group_has_connection(l);
}

static void tell(struct endpoint *e)
{
    TAILQ_REMOVE(&e->group->askers, e, asking);
    e->asks = false;
    e->seen = e->group->came;
    session_post(e->s, (struct ffl_entry){.op = FFL_OP_OFFER,
                                          .handle = e->handle,
                                          .arg = (int32_t)connections(e),
                                          .buf = FFL_NO_BUF});
}

static void tell_all(struct group *g, bool alone)
{
    struct endpoint *e, *next;
    for (e = TAILQ_FIRST(&g->askers); e; e = next) {
        next = TAILQ_NEXT(e, asking);
        if (e->alone == alone && e->seen != g->came)
            tell(e);
    }
}

/* Does a connection wait? */
static bool waits(struct endpoint *l)
{
    struct ffl_instance *in = l->s->in;
    struct group *g = l->group;
    int n = l->readable ? OPS(in)->backlog(ST(in), l->fd) : 0;
    l->readable = n > 0;
    if (n > (int)g->waiting)
        g->came++;
    g->waiting = l->readable ? (uint32_t)n : 0;
    return l->readable || group_has_connection(l);
}

/* An asker that was told has not taken the connection. (It may still, and is then counted off for
 * another that was told meanwhile: who takes one looks whether more wait.) */
static void on_slow(struct timer *t)
{
    struct group *g = ffl_container_of(t, struct group, slow);
    struct endpoint *l = TAILQ_FIRST(&g->askers);
    g->told = 0;
    if (l && waits(l))
        tell_all(g, true);
}

void offer_start(struct group *g)
{
    TAILQ_INIT(&g->askers);
    g->came = 1;
    g->slow.fire = on_slow;
}

void offer_leave(struct endpoint *l)
{
    struct group *g = l->group;
    if (l->asks)
        TAILQ_REMOVE(&g->askers, l, asking);
    l->asks = false;
    if (!l->told)
        return;
    l->told = false;
    if (g->told && --g->told == 0)
        timers_cancel(&g->in->timers, &g->slow);
    offer_renew(g);
}

/* first: `l` got no connection the last time. */
static void ask(struct endpoint *l, bool first)
{
    struct group *g = l->group;
    if (!l->asks && first)
        TAILQ_INSERT_HEAD(&g->askers, l, asking);
    else if (!l->asks)
        TAILQ_INSERT_TAIL(&g->askers, l, asking);
    l->asks = true;
}

void offer_ask(struct endpoint *l, bool alone)
{
    l->alone = alone;
    ask(l, false);
}

void offer_again(struct endpoint *l)
{
    if (l->asks || l->failed || !endpoint_armed(l))
        return;
    l->seen = l->group->came - 1; /* also of what it was told of */
    ask(l, true);
}

/* Tells an asker for each connection that waits: of those that sleep or spin, or of all. */
static void tell_alone(struct group *g, bool idle)
{
    struct endpoint *e, *next;
    for (e = TAILQ_FIRST(&g->askers); e && g->told < connections(e); e = next) {
        next = TAILQ_NEXT(e, asking);
        if (!e->alone || e->seen == g->came || (idle && !ffl_channel_peer_waits(&e->s->ch)))
            continue;
        tell(e);
        e->told = true;
        if (g->told++ == 0)
            timers_set(&g->in->timers, &g->slow, SLOW_NS);
    }
}

bool offer_alone(const struct endpoint *l)
{
    return l->offers || group_shared(l);
}

void offer_tell(struct endpoint *l)
{
    struct group *g = l->group;
    if (TAILQ_EMPTY(&g->askers) || !waits(l))
        return;
    tell_all(g, false);
    tell_alone(g, true);
    tell_alone(g, false); /* whoever is left: one may have fallen asleep since it was looked at */
}

int offer_take(struct endpoint *l, bool again)
{
    int rc;
    offer_leave(l);
    do
        rc = l->credits ? data_accept(l) : -EAGAIN; /* no credit: accepts are under way */
    while (rc == -ECONNABORTED || rc == -EINTR || rc == -EPROTO);
    if (rc < 0 && rc != -EAGAIN)
        return rc;
    bool more = offer_alone(l) && waits(l);
    if (!again) /* the answer tells `l` whether more wait */
        l->seen = l->group->came;
    if (more)
        endpoint_ready(l); /* the others are told */
    if (again || (!more && (rc < 0 || !l->alone)))
        ask(l, rc < 0);
    return rc < 0 ? FFL_TAKE_NONE : more ? FFL_TAKE_MORE : FFL_TAKE_LAST;
}
