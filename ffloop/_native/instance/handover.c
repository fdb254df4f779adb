/*
 * handover.c - listeners of one address: an application is replaced while its port stays open.
 *
 * Callers: control.c, session.c. With SO_REUSEPORT on both, a second listener of the same user at the
 * same address, in whichever session, becomes a second reference to the first one's stack socket:
 * there is one backlog, so nothing that waits in it goes with the first to leave. (The kernel splits
 * the connections among sockets, and resets those in the queue of one that closes.) Users are kept
 * apart here, since to the stack every socket is the instance's own.
 */
#include "internal.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define USER_KEPT 64 /* listeners of one user without an application, over and above any quota */

struct kept { /* a listener that no application has: its backlog waits for the next */
    struct kept *next;
    struct group *group;
    int64_t due;
    uid_t uid;
    int fd;
};

static int option(struct ffl_instance *in, int fd, int level, int name)
{
    int on = 0;
    uint32_t len = sizeof(on);
    return OPS(in)->getsockopt(ST(in), fd, level, name, &on, &len) == 0 && on;
}

static bool v6only(struct ffl_instance *in, int fd, const struct ffl_addr *a)
{
    return a->family == AF_INET6 && option(in, fd, IPPROTO_IPV6, IPV6_V6ONLY);
}

/* The next socket after *h of `s` that takes what comes from anybody, with its address; or NULL. */
static struct ep *next_taker(struct ffl_session *s, uint32_t *h, bool dgram, struct ffl_addr *at)
{
    struct ffl_instance *in = s->in;
    while (*h < s->ids.fresh) {
        struct ep *e = s->table[(*h)++];
        if (e && e->fd >= 0 && !e->closing && e->dgram == dgram && (e->listener || dgram) &&
            OPS(in)->sockname(ST(in), e->fd, false, at) == 0)
            return e;
    }
    return NULL;
}

bool handover_ours(const struct ep *e, const struct ffl_addr *a)
{
    struct ffl_addr theirs;
    for (struct ffl_session *s = e->s->in->sessions; s; s = s->next)
        for (uint32_t h = 0; s->uid == e->s->uid && next_taker(s, &h, e->dgram, &theirs);)
            if (ffl_addr_same(&theirs, a))
                return true;
    return false;
}

struct bid { /* somebody wants to bind */
    const struct ep *e;
    const struct ffl_addr *at;
    bool only; /* its IPV6_V6ONLY */
};

static bool in_the_way(void *arg, uid_t uid, int fd)
{
    const struct bid *b = arg;
    struct ffl_instance *in = b->e->s->in;
    struct ffl_addr theirs;
    return uid != b->e->s->uid && OPS(in)->sockname(ST(in), fd, false, &theirs) == 0 &&
           ffl_addr_overlap(&theirs, v6only(in, fd, &theirs), b->at, b->only);
}

int handover_may_bind(const struct ep *e, const struct ffl_addr *a)
{
    struct ffl_instance *in = e->s->in;
    struct ffl_addr theirs;
    struct ep *t;
    struct bid bid = {e, a, v6only(in, e->fd, a)};
    if (!a->port_be)
        return 0;
    for (struct ffl_session *s = in->sessions; s; s = s->next)
        for (uint32_t h = 0; s->uid != e->s->uid && (t = next_taker(s, &h, e->dgram, &theirs));)
            if (ffl_addr_overlap(&theirs, v6only(in, t->fd, &theirs), a, bid.only))
                return -EADDRINUSE;
    for (struct kept *k = e->dgram ? NULL : in->kept; k; k = k->next)
        if (in_the_way(&bid, k->uid, k->fd))
            return -EADDRINUSE;
    return ticket_takes(in, e->dgram, in_the_way, &bid) ? -EADDRINUSE : 0;
}

/* ---- sharing ------------------------------------------------------------------------------- */

static bool alike(struct ffl_instance *in, int a, int b, int family)
{
    return option(in, a, SOL_SOCKET, SO_REUSEPORT) && option(in, b, SOL_SOCKET, SO_REUSEPORT) &&
           (family != AF_INET6 ||
            option(in, a, IPPROTO_IPV6, IPV6_V6ONLY) == option(in, b, IPPROTO_IPV6, IPV6_V6ONLY));
}

/* The listener of the same user's that `e`, bound to `mine`, is to share; or NULL. */
static struct ep *find_listener(const struct ep *e, const struct ffl_addr *mine)
{
    struct ffl_instance *in = e->s->in;
    struct ffl_addr theirs;
    for (struct ffl_session *s = in->sessions; s; s = s->next) {
        struct ep *l;
        for (uint32_t h = 0; s->uid == e->s->uid && (l = next_taker(s, &h, false, &theirs));)
            if (ffl_addr_same(&theirs, mine) && alike(in, e->fd, l->fd, mine->family))
                return l;
    }
    return NULL;
}

static struct kept **find_kept(const struct ep *e, const struct ffl_addr *mine)
{
    struct ffl_instance *in = e->s->in;
    struct ffl_addr theirs;
    struct kept **p = &in->kept;
    for (; *p; p = &(*p)->next)
        if ((*p)->uid == e->s->uid && OPS(in)->sockname(ST(in), (*p)->fd, false, &theirs) == 0 &&
            ffl_addr_same(&theirs, mine) && alike(in, e->fd, (*p)->fd, mine->family))
            break;
    return p;
}

int handover_share(struct ep *e)
{
    struct ffl_instance *in = e->s->in;
    struct ffl_addr mine;
    if (e->group || OPS(in)->sockname(ST(in), e->fd, false, &mine) < 0 || !mine.port_be)
        return 0;                         /* not bound: listen says what comes of it */
    int rc = handover_may_bind(e, &mine); /* it may have begun since */
    if (rc < 0)
        return rc;
    struct ep *l = find_listener(e, &mine);
    if (l) {
        rc = group_share(e, l);
        return rc < 0 ? rc : 1;
    }
    struct kept **p = find_kept(e, &mine), *k = *p;
    if (!k)
        return 0;
    *p = k->next;
    atomic_fetch_sub_explicit(&in->page->sockets, 1, memory_order_relaxed);
    group_take_over(e, k->fd, k->group);
    free(k);
    return 1;
}

/* ---- listeners without an application ------------------------------------------------------ */

static unsigned kept_of(const struct ffl_instance *in, uid_t uid)
{
    unsigned n = 0;
    for (const struct kept *k = in->kept; k; k = k->next)
        n += k->uid == uid;
    return n;
}

void handover_keep(struct ep *e)
{
    struct ffl_instance *in = e->s->in;
    if (!in->o.keep_ns || in->draining || !e->listener || e->fd < 0 ||
        kept_of(in, e->s->uid) >= USER_KEPT || !option(in, e->fd, SOL_SOCKET, SO_REUSEPORT))
        return;
    struct group *g = group_keep(e);
    struct kept *k = g ? malloc(sizeof(*k)) : NULL;
    int fd = k ? OPS(in)->dup(ST(in), e->fd) : -ENOMEM; /* without our registration */
    if (fd < 0) {
        free(k);
        group_drop(in, g);
        return;
    }
    *k = (struct kept){.next = in->kept,
                       .group = g,
                       .due = ffl_now_ns() + in->o.keep_ns,
                       .uid = e->s->uid,
                       .fd = fd};
    in->kept = k;
    atomic_fetch_add_explicit(&in->page->sockets, 1, memory_order_relaxed);
    ffl_log(FFL_LOG_INFO, "session %u: its listener is kept for %lld s", e->s->id,
            (long long)(in->o.keep_ns / FFL_NS_PER_SEC));
}

int64_t handover_due(const struct ffl_instance *in)
{
    int64_t due = INT64_MAX;
    for (const struct kept *k = in->kept; k; k = k->next)
        due = k->due < due ? k->due : due;
    return due;
}

void handover_expire(struct ffl_instance *in, int64_t now)
{
    for (struct kept **p = &in->kept, *k; (k = *p);) {
        if (k->due > now) {
            p = &k->next;
            continue;
        }
        *p = k->next;
        (void)OPS(in)->close(ST(in), k->fd); /* a reference of ours: it was open */
        atomic_fetch_sub_explicit(&in->page->sockets, 1, memory_order_relaxed);
        group_drop(in, k->group);
        free(k);
    }
}

/* ---- what an application never heard of ---------------------------------------------------- */

/* Connections are given to whoever else has the listener, with the bytes that came first. The entry
 * lay where the application could write. */
static void unseen(struct ffl_session *s, struct ffl_entry q)
{
    const struct ffl_pool_geo *p = &s->map.geo.rx;
    uint32_t handle = q.op == FFL_OP_ACCEPT ? (uint32_t)q.arg : q.handle;
    struct ep *e = handle >= s->n && handle < 2 * s->n ? s->table[handle] : NULL;
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
        e->touched = true; /* without them nobody can serve it */
}

void handover_unseen(struct ffl_session *s)
{
    const struct ffl_ring *cq = &s->ch.out;
    const struct ffl_fifo *over = &s->ch.over;
    uint32_t head = atomic_load_explicit(&cq->ctl->head, memory_order_acquire); /* R2 */
    if (cq->tail - head > cq->size)
        return; /* it lies */
    for (; head != cq->tail; head++)
        unseen(s, ffl_ring_peek_entry(cq, head));
    for (uint32_t i = 0; i < over->n; i++)
        unseen(s, over->e[over->head + i]);
}
