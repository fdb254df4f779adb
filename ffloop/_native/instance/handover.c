/*
 * handover.c - listeners of one address: an application is replaced while its port stays open.
 *
 * Callers: the other files of instance/. With SO_REUSEPORT on both, a user's second listener
 * at an address, and on the same interface if they are bound to one, becomes, in any session, a
 * second reference to the first listener's stack socket: with one backlog, no connection is lost
 * when either closes. (The kernel has a backlog per socket, and resets those of a socket that
 * closes.) Users are kept apart here, since to the stack all
 * sockets may be the instance's user's.
 */
#include "endpoint.h"
#include "group.h"
#include "pump.h"
#include "session.h"

#include "addr.h"

#include <asm/socket.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

struct kept { /* a listener without an application: its backlog waits for the next owner */
    TAILQ_ENTRY(kept) link;
    struct timer timer;
    struct ffl_instance *in;
    struct group *group;
    int fd;
};

bool handover_ours(const struct endpoint *e, const struct ffl_addr *a)
{
    struct group *g = group_at(e->s->in, a->port_be, e->dgram);
    while (g && (g->account != e->s->account || !ffl_addr_same(&g->at, a)))
        g = group_next(g);
    return g;
}

int handover_may_bind(const struct endpoint *e, const struct ffl_addr *a)
{
    bool only = endpoint_v6only(e, a);
    struct group *g = a->port_be ? group_at(e->s->in, a->port_be, e->dgram) : NULL;
    uint32_t own = 0, beside = 0;
    for (; g; g = group_next(g))
        if (g == e->group) {
            continue;
        } else if (g->account == e->s->account) {
            own++;
            beside += burden_beside(&g->now, a);
        } else if (ffl_addr_overlap(&g->at, g->only, a, only)) {
            return -EADDRINUSE;
        }
    return e->dgram ? burden_bind(e->s->in, a, own, beside) : 0;
}

int handover_may_dissolve(const struct endpoint *e)
{
    struct ffl_instance *in = e->s->in;
    const struct group *g = e->group;
    struct ffl_addr peer, then;
    if (!e->dgram || !g || !g->placed)
        return 0;
    then = g->at;
    if (!OPS(in)->kernel) { /* FreeBSD's forgets the address that it was bound to, too */
        if (OPS(in)->sockname(ST(in), e->fd, true, &peer) < 0)
            return 0;
        memset(then.ip, 0, sizeof(then.ip));
    }
    return ffl_addr_same(&then, &g->now) ? 0 : handover_may_bind(e, &then);
}

/* ---- sharing a listener -------------------------------------------------------------------- */

/* The index of the interface that a socket is bound to (SO_BINDTODEVICE), or 0. */
static int device(const struct ffl_instance *in, int fd)
{
    int index = 0;
    uint32_t len = sizeof(index);
    return OPS(in)->getsockopt(ST(in), fd, SOL_SOCKET, SO_BINDTOIFINDEX, &index, &len) < 0 ? 0
                                                                                           : index;
}

/* The stack socket of a listener without an application, or of one with some. */
static int listener_fd(const struct group *g)
{
    return g->kept ? g->kept->fd : LIST_FIRST(&g->members)->fd;
}

/* The listener of e's user that `e`, bound to `local`, is to share; or NULL. */
static struct group *find(const struct endpoint *e, const struct ffl_addr *local)
{
    struct group *g = group_at(e->s->in, local->port_be, false);
    for (; g; g = group_next(g))
        if (g->account == e->s->account && g->shares && ffl_addr_same(&g->at, local) &&
            g->only == endpoint_v6only(e, local) && (g->kept || !LIST_EMPTY(&g->members)) &&
            device(e->s->in, listener_fd(g)) == device(e->s->in, e->fd))
            return endpoint_option(e, SOL_SOCKET, SO_REUSEPORT) ? g : NULL;
    return NULL;
}

/* Makes `e`, so far only bound, a reference to the group's socket, `fd`. */
static void take_over(struct endpoint *e, int fd, struct group *g)
{
    struct ffl_instance *in = e->s->in;
    (void)OPS(in)->close(ST(in), e->fd); /* only bound: nothing is lost */
    burden_end(in, e->s->account, &e->settings);
    e->fd = fd;
    e->watched = false; /* of the old one, for a connect that failed */
    e->readable = true; /* connections may wait there */
    group_join(e, g);
}

static void drop_kept(struct kept *k)
{
    struct ffl_instance *in = k->in;
    timers_cancel(&in->timers, &k->timer);
    atomic_fetch_sub_explicit(&in->page->sockets, 1, memory_order_relaxed);
    ledger_discharge(&in->ledger, k->group->account, CHARGE_SOCKET, 1);
    ledger_discharge(&in->ledger, k->group->account, CHARGE_KEPT, 1);
    TAILQ_REMOVE(&in->kept, k, link);
    k->group->kept = NULL;
    group_unref(in, k->group);
    free(k);
}

int handover_share(struct endpoint *e)
{
    struct ffl_instance *in = e->s->in;
    struct ffl_addr local, peer;
    if (e->group || OPS(in)->sockname(ST(in), e->fd, false, &local) < 0 || !local.port_be)
        return 0; /* not bound: listen binds it, or fails */
    if (e->connecting || OPS(in)->sockname(ST(in), e->fd, true, &peer) >= 0)
        return 0;                          /* it has a peer, or will: listen fails */
    int rc = handover_may_bind(e, &local); /* a listener may have begun since e's bind */
    struct group *g = rc == 0 ? find(e, &local) : NULL;
    if (!g)
        return rc;
    struct kept *k = g->kept;
    int fd = k ? k->fd : OPS(in)->dup(ST(in), LIST_FIRST(&g->members)->fd);
    if (fd < 0)
        return fd;
    take_over(e, fd, g);
    if (k)
        drop_kept(k);
    return 1;
}

/* ---- listeners without an application ------------------------------------------------------ */

static void end_kept(struct kept *k)
{
    (void)OPS(k->in)->close(ST(k->in), k->fd); /* the instance's own reference: it was open */
    drop_kept(k);
}

/* What waits is for a forked process's reference, where there is one. */
static bool clear(const struct kept *k)
{
    return k->group->refs > 1 || backlog_clear(k->in, k->fd);
}

static void on_timer(struct timer *t)
{
    struct kept *k = ffl_container_of(t, struct kept, timer);
    if (clear(k))
        end_kept(k);
    else
        timers_set(&k->in->timers, t, 0);
}

/* Charges a socket and a kept listener, or nothing. */
static int charge(struct ledger *l, struct account *a)
{
    int rc = ledger_charge(l, a, CHARGE_KEPT, 1);
    if (rc < 0)
        return rc;
    rc = ledger_charge(l, a, CHARGE_SOCKET, 1);
    if (rc < 0)
        ledger_discharge(l, a, CHARGE_KEPT, 1);
    return rc;
}

bool handover_keeps(const struct endpoint *e)
{
    const struct ffl_instance *in = e->s->in;
    return in->o.keep_ns && !in->draining && e->listener && e->fd >= 0 && e->group &&
           e->group->refs == 1 && e->group->shares;
}

void handover_keep(struct endpoint *e)
{
    struct ffl_instance *in = e->s->in;
    struct group *g = e->group;
    if (!handover_keeps(e) || charge(&in->ledger, g->account) < 0)
        return;
    struct kept *k = malloc(sizeof(*k));
    int fd = k ? OPS(in)->dup(ST(in), e->fd) : -ENOMEM; /* not registered for events */
    if (fd < 0) {
        ledger_discharge(&in->ledger, g->account, CHARGE_KEPT, 1);
        ledger_discharge(&in->ledger, g->account, CHARGE_SOCKET, 1);
        free(k);
        return;
    }
    *k = (struct kept){.timer = {.fire = on_timer}, .in = in, .group = group_ref(g), .fd = fd};
    g->kept = k;
    TAILQ_INSERT_TAIL(&in->kept, k, link);
    timers_set(&in->timers, &k->timer, in->o.keep_ns);
    atomic_fetch_add_explicit(&in->page->sockets, 1, memory_order_relaxed);
    ffl_log_within(&e->s->account->log, FFL_LOG_INFO, "session %u: its listener is kept for %lld s",
                   e->s->id, (long long)(in->o.keep_ns / FFL_NS_PER_SEC));
}

bool handover_end(struct ffl_instance *in)
{
    struct kept *k;
    while ((k = TAILQ_FIRST(&in->kept)) && !slice_over(&in->slice) && clear(k)) {
        slice_spend_call(&in->slice, 0);
        end_kept(k);
    }
    return k;
}

/* ---- completions that an application never saw --------------------------------------------- */

/* Marks an unseen connection to be given back, and gives back its bytes. The application could have
 * written to the entry, so each field is checked. */
static void unseen(struct ffl_session *s, struct ffl_entry q)
{
    const struct ffl_pool_geo *p = &s->map.geo.rx;
    uint32_t handle = q.op == FFL_OP_ACCEPT ? (uint32_t)q.arg : q.handle;
    struct endpoint *e = handle >= s->n && handle < 2 * s->n ? s->table[handle] : NULL;
    if (!e || !e->from)
        return;
    if (q.op == FFL_OP_ACCEPT) {
        e->touched = false;
        return;
    }
    if (q.op != FFL_OP_RECV || e->touched || !ffl_buf_ok(p, q.buf))
        return;
    uint32_t slot = ffl_buf_slot(p, q.buf);
    if (s->rx_owner[slot] != e->serial || q.arg < 0 || (uint32_t)q.arg > ffl_buf_size(q.buf))
        return;
    s->rx_owner[slot] = 0; /* once */
    if (group_unread(e, session_buf(s, p, q.buf), (uint32_t)q.arg, 0) < 0)
        e->touched = true; /* without its bytes no process can serve it */
}

void handover_unseen(struct ffl_session *s)
{
    const struct ffl_ring *cq = &s->ch.out;
    const struct ffl_fifo *over = &s->ch.over;
    uint32_t head = atomic_load_explicit(&cq->ctl->head, memory_order_acquire); /* R2 */
    if (cq->tail - head > cq->size)
        return; /* a false head */
    for (; head != cq->tail; head++)
        unseen(s, ffl_ring_peek_entry(cq, head));
    for (uint32_t i = 0; i < over->n; i++)
        unseen(s, over->e[over->head + i]);
}
