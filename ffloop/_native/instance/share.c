/*
 * share.c - stack sockets that several processes have: groups, and tickets for those to come.
 *
 * Callers: control.c, data.c, session.c, listen.c, handover.c. A group is what the references to one stack
 * socket have in common: bytes that one of them had read ahead, or connections that it had
 * accepted ahead, and gave back; the next one that wants some gets them first. A ticket is a unix
 * connection that holds references for a process that does not exist yet (a child, a program after
 * exec): whoever holds it may attach through it, import each reference once, or drop it. It ends,
 * with what is left in it, when its last copy is closed.
 */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <unistd.h>

#define MSGS_AT_ONCE 16 /* of one ticket, before the others have their turn */

struct back { /* given back: bytes, or a connection with its peer's address */
    struct back *next;
    int fd;
    struct ffl_addr peer;
    struct group *unread; /* of a connection: what had been read ahead of it, or NULL */
    uint32_t len, off;
    uint8_t flags; /* a datagram's */
    uint8_t data[];
};

struct group {
    unsigned refs; /* endpoints and references in tickets: who may still want what is given back */
    unsigned uses; /* those, and connections that came from it */
    struct back *head, *tail;
    struct ep *members;
    struct ep *turn; /* a listener's: who accepted last, or NULL */
};

/* ---- groups -------------------------------------------------------------------------------- */

static void unuse(struct group *g)
{
    if (--g->uses == 0)
        free(g);
}

static void pop(struct group *g)
{
    struct back *b = g->head;
    g->head = b->next;
    if (!g->head)
        g->tail = NULL;
    free(b);
}

static void ref(struct group *g)
{
    g->refs++;
    g->uses++;
}

/* The last reference closes what was given back: nobody will want it. */
static void unref(struct ffl_instance *in, struct group *g)
{
    if (--g->refs == 0)
        while (g->head) {
            if (g->head->fd >= 0)
                (void)fd_reset(in, g->head->fd); /* as the kernel does when a listener goes */
            if (g->head->unread)
                unref(in, g->head->unread); /* a connection's: it holds no further one */
            pop(g);
        }
    unuse(g);
}

static void join(struct ep *e, struct group *g)
{
    e->group = g;
    e->group_next = g->members;
    g->members = e;
    ref(g);
}

static struct group *group_of(struct ep *e)
{
    if (!e->group) {
        struct group *g = calloc(1, sizeof(*g));
        if (!g)
            return NULL;
        join(e, g);
    }
    return e->group;
}

void group_leave(struct ep *e)
{
    if (e->from) {
        unuse(e->from);
        e->from = NULL;
    }
    struct group *g = e->group;
    if (!g)
        return;
    for (struct ep **p = &g->members; *p; p = &(*p)->group_next)
        if (*p == e) {
            *p = e->group_next;
            break;
        }
    if (g->turn == e)
        g->turn = NULL;
    e->group = NULL;
    unref(e->s->in, g);
}

int group_share(struct ep *e, struct ep *with)
{
    struct ffl_instance *in = e->s->in;
    struct group *g = group_of(with);
    int fd = g ? OPS(in)->dup(ST(in), with->fd) : -ENOMEM;
    if (fd < 0)
        return fd;
    ref(g);
    group_take_over(e, fd, g);
    return 0;
}

struct group *group_keep(struct ep *e)
{
    struct group *g = group_of(e);
    if (!g || g->refs > 1)
        return NULL;
    ref(g);
    return g;
}

void group_take_over(struct ep *e, int fd, struct group *kept)
{
    struct ffl_instance *in = e->s->in;
    (void)OPS(in)->close(ST(in), e->fd); /* it was bound, no more */
    e->fd = fd;
    e->readable = true; /* who knows what waits there */
    join(e, kept);
    unref(in, kept);
}

void group_accepted(struct ep *l, struct ep *e, struct group *unread)
{
    if (group_of(l)) {
        e->from = l->group;
        e->from->uses++;
        e->from->turn = l;
    }
    if (unread) {
        join(e, unread);
        unref(e->s->in, unread); /* `back` had it */
        ep_ready(e);
    }
}

void group_drop(struct ffl_instance *in, struct group *g)
{
    if (g)
        unref(in, g);
}

struct ep *group_turn(struct ep *l, bool (*may)(const struct ep *))
{
    struct group *g = l->group;
    if (!g)
        return may(l) ? l : NULL;
    struct ep *first = g->turn && g->turn->group_next ? g->turn->group_next : g->members,
              *e = first;
    do {
        if (may(e))
            return e;
        e = e->group_next ? e->group_next : g->members;
    } while (e != first);
    return NULL;
}

static void give(struct group *g, struct back *b)
{
    b->next = NULL;
    if (g->tail)
        g->tail->next = b;
    else
        g->head = b;
    g->tail = b;
    for (struct ep *e = g->members; e; e = e->group_next)
        ep_ready(e);
}

int group_unread(struct ep *e, const void *data, uint32_t len, uint8_t flags)
{
    struct group *g = group_of(e);
    struct back *b = g ? malloc(sizeof(*b) + len) : NULL;
    if (!b)
        return -ENOMEM;
    *b = (struct back){.fd = -1, .len = len, .flags = flags};
    memcpy(b->data, data, len);
    e->rx_done = false; /* the end was behind these: the stack says it again */
    e->readable = e->eof_hint = true;
    give(g, b);
    return 0;
}

bool group_shared(const struct ep *e)
{
    return e->group && e->group->refs > 1;
}

bool group_return(struct ep *e)
{
    struct ffl_instance *in = e->s->in;
    struct group *g = e->from;
    struct back *b = g && g->refs ? calloc(1, sizeof(*b)) : NULL;
    if (!b)
        return false;
    b->fd = OPS(in)->dup(ST(in), e->fd); /* without our registration */
    (void)OPS(in)->sockname(ST(in), e->fd, true, &b->peer);
    if (b->fd < 0) {
        free(b);
        return false;
    }
    b->unread = e->group;
    if (b->unread)
        ref(b->unread);
    give(g, b);
    return true;
}

bool group_has(const struct ep *e)
{
    return e->group && e->group->head;
}

uint32_t group_size(const struct ep *e)
{
    return e->group->head->len - e->group->head->off;
}

uint32_t group_take(struct ep *e, void *to, uint32_t room, uint8_t *flags)
{
    struct back *b = e->group->head;
    *flags = b->flags;
    uint32_t n = b->len - b->off < room ? b->len - b->off : room;
    memcpy(to, b->data + b->off, n);
    b->off += n;
    if (b->off == b->len)
        pop(e->group);
    return n;
}

int group_accept(struct ep *l, struct ffl_addr *peer, struct group **unread)
{
    int fd = l->group->head->fd;
    *peer = l->group->head->peer;
    *unread = l->group->head->unread;
    pop(l->group);
    return fd;
}

/* ---- tickets ------------------------------------------------------------------------------- */

struct held {
    struct held *next, *prev;
    struct group *group;
    uid_t uid; /* who it is of */
    uint32_t handle;
    int fd;
    bool listener, dgram, connecting, mark;
};

struct ticket {
    struct ticket *next;
    struct ffl_instance *in;
    struct src src;
    int sock;
    struct account *account; /* who opened it */
    uint32_t id;
    uint64_t key;
    struct held *first;
    struct held **held; /* the same by the exporting session's handle, below n */
    uint32_t n;
};

static struct ticket *ticket_find(struct ffl_instance *in, uint32_t id)
{
    struct ticket *t = in->tickets;
    while (t && t->id != id)
        t = t->next;
    return t;
}

int ticket_new(struct ffl_instance *in, int sock, struct account *a, uint32_t *id, uint64_t *key)
{
    struct ticket *t = calloc(1, sizeof(*t));
    if (!t)
        return -ENOMEM;
    *t = (struct ticket){.in = in, .sock = sock, .src = {SRC_TICKET, t}};
    int rc = getrandom(&t->key, sizeof(t->key), 0) == sizeof(t->key)
                 ? ledger_charge(&in->ledger, a, CHARGE_TICKET, 1)
                 : -EIO;
    if (rc < 0)
        goto out;
    rc = ctl_add(in, sock, EPOLLIN | EPOLLRDHUP, &t->src);
    if (rc < 0) {
        ledger_discharge(&in->ledger, a, CHARGE_TICKET, 1);
        goto out;
    }
    t->account = ledger_hold(&in->ledger, a->uid); /* it is there */
    t->id = ++in->next_ticket;
    t->next = in->tickets;
    in->tickets = t;
    *id = t->id;
    *key = t->key;
    return 0;
out:
    free(t);
    return rc;
}

/* The one that was exported as `handle`, or NULL. */
static struct held *held_at(const struct ticket *t, uint32_t handle)
{
    return handle < t->n ? t->held[handle] : NULL;
}

static void drop_held(struct ticket *t, struct held *h)
{
    *(h->prev ? &h->prev->next : &t->first) = h->next;
    if (h->next)
        h->next->prev = h->prev;
    t->held[h->handle] = NULL;
    if (h->fd >= 0)
        (void)OPS(t->in)->close(ST(t->in), h->fd); /* a reference of ours: it was open */
    unref(t->in, h->group);
    free(h);
}

void ticket_end(struct ticket *t)
{
    struct ffl_instance *in = t->in;
    while (t->first)
        drop_held(t, t->first);
    free(t->held);
    for (struct ticket **p = &in->tickets; *p; p = &(*p)->next)
        if (*p == t) {
            *p = t->next;
            break;
        }
    ledger_discharge(&in->ledger, t->account, CHARGE_TICKET, 1);
    ledger_drop(&in->ledger, t->account);
    ctl_drop_peer(in, &t->sock);
    free(t);
}

static int act(struct ticket *t, const struct ffl_ticket_msg *m)
{
    uint32_t n = m->n <= FFL_COUNT(m->handles) ? m->n : 0;
    for (uint32_t i = 0; i < n; i++) {
        struct held *h = held_at(t, m->handles[i]);
        if (h && m->what == FFL_TICKET_MARK)
            h->mark = true;
        else if (h && m->what == FFL_TICKET_DROP)
            drop_held(t, h);
    }
    for (struct held *h = m->what == FFL_TICKET_SWEEP ? t->first : NULL, *next; h; h = next) {
        next = h->next;
        if (!h->mark)
            drop_held(t, h);
        else
            h->mark = false;
    }
    return m->what <= FFL_TICKET_SWEEP ? 0 : -EPROTO;
}

void ticket_event(struct ticket *t)
{
    struct ffl_ticket_msg m;
    for (int i = 0; i < MSGS_AT_ONCE; i++) { /* what is left makes another event */
        int fd = -1, n = closer_busy() ? -EPROTO : closer_recv(t->sock, &m, sizeof(m), &fd);
        if (n == -EAGAIN)
            return;
        bool brings = n == sizeof(m) && m.what == FFL_TICKET_CONNECT;
        if (fd >= 0 && brings)
            admit_peer(t->in, fd, true);
        else if (fd >= 0)
            closer_close(fd);
        if (n != sizeof(m) || brings != (fd >= 0) || act(t, &m) < 0) {
            ticket_end(t);
            return;
        }
    }
}

static int room_for(struct ticket *t, uint32_t handle)
{
    if (handle < t->n)
        return t->held[handle] ? -EEXIST : 0;
    uint32_t n = t->n ? t->n : 16;
    while (n <= handle)
        n *= 2;
    struct held **grown = calloc(n, sizeof(struct held *)); /* takes memory where it is used */
    if (!grown)
        return -ENOMEM;
    if (t->n)
        memcpy(grown, t->held, t->n * sizeof(struct held *));
    free(t->held);
    t->held = grown;
    t->n = n;
    return 0;
}

int ticket_export(struct ep *e, uint32_t id, uint32_t key)
{
    struct ffl_instance *in = e->s->in;
    struct ticket *t = ticket_find(in, id);
    if (!t)
        return -ENOENT;
    if ((uint32_t)t->key != key)
        return -EPROTO; /* a guess */
    int rc = e->fd < 0 ? -e->open_error : room_for(t, e->handle);
    if (rc < 0)
        return rc;
    struct group *g = group_of(e);
    struct held *h = g ? calloc(1, sizeof(*h)) : NULL;
    if (!h)
        return -ENOMEM;
    *h = (struct held){.next = t->first,
                       .group = g,
                       .handle = e->handle,
                       .uid = e->s->uid,
                       .fd = OPS(in)->dup(ST(in), e->fd),
                       .listener = e->listener,
                       .dgram = e->dgram,
                       .connecting = e->connecting};
    if (h->fd < 0) {
        free(h);
        return -EMFILE;
    }
    ref(g);
    if (t->first)
        t->first->prev = h;
    t->first = t->held[e->handle] = h;
    return 0;
}

bool ticket_takes(const struct ffl_instance *in, bool dgram, bool (*found)(void *arg, uid_t, int),
                  void *arg)
{
    for (const struct ticket *t = in->tickets; t; t = t->next)
        for (const struct held *h = t->first; h; h = h->next)
            if (h->fd >= 0 && h->dgram == dgram && (h->listener || dgram) &&
                found(arg, h->uid, h->fd))
                return true;
    return false;
}

int ticket_import(struct ffl_session *s, uint32_t handle, const struct ffl_import *i)
{
    struct ticket *t = ticket_find(s->in, i->ticket);
    struct held *h = t && t->key == i->key ? held_at(t, i->handle) : NULL;
    if (!h)
        return -ENOENT;
    struct ep *e = ep_new(s, handle, h->fd, h->dgram);
    if (!e)
        return -ENOMEM;
    e->listener = h->listener;
    e->connecting = h->connecting;
    e->watched = true;
    e->readable = true; /* who knows what came meanwhile: a read tells */
    join(e, h->group);
    int rc = OPS(s->in)->watch(ST(s->in), h->fd, h->listener ? FFL_READ : FFL_READ | FFL_WRITE, e);
    int flags =
        (h->listener ? FFL_IMPORT_LISTENER : 0) | (h->connecting ? FFL_IMPORT_CONNECTING : 0);
    h->fd = -1; /* the endpoint's now */
    drop_held(t, h);
    (void)OPS(s->in)->sockname(ST(s->in), e->fd, false, &e->st->names.local); /* for observers */
    (void)OPS(s->in)->sockname(ST(s->in), e->fd, true, &e->st->names.peer);
    stats_state(e);
    if (rc < 0)
        data_fail(e, -rc);
    return flags;
}
