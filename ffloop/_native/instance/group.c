/*
 * group.c - stack sockets that several processes have, and sockets by their address.
 *
 * Callers: the other files of instance/. Bytes and connections that one reference read or accepted
 * ahead and gave back go to the next that reads or accepts, before the stack's, and are charged to
 * the giver's user: bytes as CHARGE_BYTES, a connection as CHARGE_SOCKET. A connection keeps its
 * listener's group, for its return.
 */
#include "endpoint.h"
#include "group.h"
#include "pump.h"

#include "addr.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

struct back { /* given back: bytes, or a connection with its peer's address */
    STAILQ_ENTRY(back) link;
    struct account *account;
    int fd;
    struct ffl_addr peer;
    struct group *unread; /* of a connection: the group with its bytes read ahead, or NULL */
    uint32_t len, off;
    uint8_t flags; /* FFL_F_* of a datagram */
    uint8_t data[];
};

/* ---- references to a group ----------------------------------------------------------------- */

static void unuse(struct group *g)
{
    if (--g->uses == 0)
        free(g);
}

/* Frees the bytes' memory; a connection's descriptor is the caller's to close. */
static void pop(struct ffl_instance *in, struct back_list *l)
{
    struct back *b = STAILQ_FIRST(l);
    STAILQ_REMOVE_HEAD(l, link);
    if (b->fd < 0)
        ledger_discharge(&in->ledger, b->account, CHARGE_BYTES, sizeof(*b) + b->len);
    else
        ledger_discharge(&in->ledger, b->account, CHARGE_SOCKET, 1);
    free(b);
}

struct group *group_ref(struct group *g)
{
    g->refs++;
    g->uses++;
    return g;
}

void group_unref(struct ffl_instance *in, struct group *g)
{
    if (!g)
        return;
    if (--g->refs == 0) {
        burden_end(in, g->account, &g->settings);
        STAILQ_CONCAT(&in->forgotten, &g->bytes);
        STAILQ_CONCAT(&in->forgotten, &g->connections);
        if (g->placed)
            LIST_REMOVE(g, place);
        timers_cancel(&in->timers, &g->slow);
        ledger_drop(&in->ledger, g->account);
    }
    if (g->refs == 1)
        offer_renew(g); /* the only reference accepts ahead */
    unuse(g);
}

bool groups_forget(struct ffl_instance *in)
{
    struct back *b;
    while ((b = STAILQ_FIRST(&in->forgotten)) && !slice_over(&in->slice)) {
        slice_spend(&in->slice, b->fd < 0 ? SLICE_ENTRY_NS : 3 * SLICE_CALL_NS);
        if (b->fd >= 0)
            (void)fd_reset(in, b->fd); /* as the kernel, where a listener closes */
        group_unref(in, b->unread);
        pop(in, &in->forgotten);
    }
    return b;
}

void group_join(struct endpoint *e, struct group *g)
{
    e->group = group_ref(g);
    e->settings = (struct settings){0}; /* the group's count */
    g->connecting += e->connecting;
    g->shutting += shutdown_sending(e->shut);
    LIST_INSERT_HEAD(&g->members, e, member);
}

void group_connecting(struct endpoint *e, bool on)
{
    if (e->group)
        e->group->connecting += (unsigned)on - e->connecting;
    e->connecting = on;
}

struct group *group_of(struct endpoint *e)
{
    if (e->group)
        return e->group;
    struct group *g = calloc(1, sizeof(*g));
    if (!g)
        return NULL;
    g->account = ledger_hold(&e->s->in->ledger, e->s->uid); /* it exists */
    g->dgram = e->dgram;
    g->settings = e->settings;
    g->shut = -1;
    g->in = e->s->in;
    LIST_INIT(&g->members);
    STAILQ_INIT(&g->bytes);
    STAILQ_INIT(&g->connections);
    offer_start(g);
    group_join(e, g);
    return g;
}

void group_leave(struct endpoint *e)
{
    if (e->from)
        unuse(e->from);
    e->from = NULL;
    struct group *g = e->group;
    if (!g)
        return;
    offer_leave(e);
    LIST_REMOVE(e, member);
    g->connecting -= e->connecting;
    g->shutting -= shutdown_sending(e->shut);
    e->group = NULL;
    offer_renew(g);
    group_unref(e->s->in, g);
}

/* ---- groups by address --------------------------------------------------------------------- */

static struct group_list *places_of(struct ffl_instance *in, uint16_t port_be, bool dgram)
{
    return &in->places[(ntohs(port_be) * 2u + dgram) % PLACE_LISTS];
}

int group_place(struct endpoint *e)
{
    struct ffl_instance *in = e->s->in;
    struct group *g = group_of(e);
    if (!g)
        return -ENOMEM;
    if (OPS(in)->sockname(ST(in), e->fd, false, &g->now) < 0 ||
        (g->placed && g->at.port_be == g->now.port_be &&
         (ffl_addr_wildcard(&g->at) || !ffl_addr_wildcard(&g->now))))
        return 0;
    if (g->placed)
        LIST_REMOVE(g, place);
    g->placed = g->now.port_be;
    if (!g->placed)
        return 0;
    g->at = g->now;
    g->only = endpoint_v6only(e, &g->at);
    g->shares = endpoint_option(e, SOL_SOCKET, SO_REUSEPORT);
    LIST_INSERT_HEAD(places_of(in, g->at.port_be, g->dgram), g, place);
    return 0;
}

static struct group *same_kind(struct group *g, uint16_t port_be, bool dgram)
{
    while (g && (g->at.port_be != port_be || g->dgram != dgram))
        g = LIST_NEXT(g, place);
    return g;
}

struct group *group_at(const struct ffl_instance *in, uint16_t port_be, bool dgram)
{
    struct group_list *l = places_of((struct ffl_instance *)in, port_be, dgram);
    return same_kind(LIST_FIRST(l), port_be, dgram);
}

struct group *group_next(const struct group *g)
{
    return same_kind(LIST_NEXT(g, place), g->at.port_be, g->dgram);
}

/* ---- bytes and connections given back ------------------------------------------------------ */

void group_accepted(struct endpoint *l, struct endpoint *e, struct group *unread)
{
    e->from = l->group;
    e->from->uses++;
    if (unread) {
        group_join(e, unread);
        group_unref(e->s->in, unread); /* the reference that `back` had */
        endpoint_ready(e);
    }
}

static void give(struct group *g, struct back *b)
{
    struct endpoint *e;
    STAILQ_INSERT_TAIL(b->fd < 0 ? &g->bytes : &g->connections, b, link);
    if (b->fd >= 0) {
        g->came++;
        offer_renew(g);
        return;
    }
    LIST_FOREACH(e, &g->members, member)
    if (endpoint_armed(e))
        endpoint_ready(e);
}

int group_unread(struct endpoint *e, const void *data, uint32_t len, uint8_t flags)
{
    struct ledger *l = &e->s->in->ledger;
    struct group *g = group_of(e);
    if (!g || ledger_charge(l, e->s->account, CHARGE_BYTES, sizeof(struct back) + len) < 0)
        return -ENOBUFS;
    struct back *b = malloc(sizeof(*b) + len);
    if (!b) {
        ledger_discharge(l, e->s->account, CHARGE_BYTES, sizeof(*b) + len);
        return -ENOBUFS;
    }
    *b = (struct back){.account = e->s->account, .fd = -1, .len = len, .flags = flags};
    memcpy(b->data, data, len);
    e->rx_done = false; /* the end was behind these bytes: the stack tells it again */
    e->readable = e->eof_hint = true;
    if (e->failed) /* and so was the error: told again after them */
        e->send_error = e->failed;
    e->failed = 0;
    give(g, b);
    return 0;
}

bool group_shared(const struct endpoint *e)
{
    return (e->group && e->group->refs > 1) || ticket_shares(e);
}

bool group_return(struct endpoint *e)
{
    struct ffl_instance *in = e->s->in;
    struct group *g = e->from;
    if (!g || !g->refs || ledger_charge(&in->ledger, e->s->account, CHARGE_SOCKET, 1) < 0)
        return false;
    struct back *b = calloc(1, sizeof(*b));
    int fd = b ? OPS(in)->dup(ST(in), e->fd) : -ENOMEM; /* not registered for events */
    if (fd < 0) {
        ledger_discharge(&in->ledger, e->s->account, CHARGE_SOCKET, 1);
        free(b);
        return false;
    }
    b->account = e->s->account;
    b->fd = fd;
    (void)OPS(in)->sockname(ST(in), e->fd, true, &b->peer);
    b->unread = e->group ? group_ref(e->group) : NULL;
    e->given = true;
    give(g, b);
    return true;
}

bool group_has_bytes(const struct endpoint *e)
{
    return e->group && !STAILQ_EMPTY(&e->group->bytes);
}

bool group_has_connection(const struct endpoint *l)
{
    return l->group && !STAILQ_EMPTY(&l->group->connections);
}

uint32_t group_size(const struct endpoint *e)
{
    const struct back *b = STAILQ_FIRST(&e->group->bytes);
    return b->len - b->off;
}

uint32_t group_take(struct endpoint *e, void *to, uint32_t room, uint8_t *flags)
{
    struct back *b = STAILQ_FIRST(&e->group->bytes);
    *flags = b->flags;
    uint32_t n = b->len - b->off < room ? b->len - b->off : room;
    memcpy(to, b->data + b->off, n);
    b->off += n;
    if (b->off == b->len)
        pop(e->s->in, &e->group->bytes);
    return n;
}

int group_accept(struct endpoint *l, struct ffl_addr *peer, struct group **unread)
{
    struct back *b = STAILQ_FIRST(&l->group->connections);
    int fd = b->fd, rc = session_charge(l->s);
    if (rc < 0)
        return rc;
    *peer = b->peer;
    *unread = b->unread;
    pop(l->s->in, &l->group->connections);
    return fd;
}
