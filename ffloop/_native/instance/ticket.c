/*
 * ticket.c - tickets: references to stack sockets for a process that may not exist yet, such as a
 * child or the program after exec.
 *
 * Callers: admit.c, control.c, listen.c, serve.c, start.c. A ticket is a unix connection. Its
 * holder may attach through it, and import or drop each reference once; a process that knows its
 * key exports references to it. The ticket ends, with its references, when the connection's last
 * descriptor is closed. References are charged to the exporter's user, those of a SHARE when they
 * are made: at their import, or when the session closes their socket.
 */
#include "endpoint.h"
#include "group.h"
#include "peers.h"
#include "pump.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <unistd.h>

#define MSGS_AT_ONCE 16 /* per ticket; then the others are heard */

struct ticket {
    LIST_ENTRY(ticket) link;
    struct ffl_instance *in;
    struct account *account; /* of the user that opened it */
    struct src src;
    int sock;
    uint32_t id;
    uint64_t key;
    struct held_list held;
    LIST_ENTRY(ticket) share;
    struct ffl_session *of; /* the session that has shared all its sockets; NULL: none, or ended */
    uint64_t at;            /* in->next_serial when it did */
    uint64_t *gone;         /* of these, by handle, a bit: imported or dropped; */
    uint64_t *marked;       /* and likewise */
};

/* ---- tickets ------------------------------------------------------------------------------- */

/* -ENOENT: there is no such ticket (any more); -EPROTO: the key is wrong. */
static int find(struct ffl_instance *in, const struct ffl_import *x, struct ticket **out)
{
    struct ticket *t;
    LIST_FOREACH(t, &in->tickets[x->ticket % TICKET_LISTS], link)
    if (t->id == x->ticket) {
        *out = t;
        return t->key == x->key ? 0 : -EPROTO;
    }
    return -ENOENT;
}

int ticket_new(struct ffl_instance *in, int sock, struct account *a, uint32_t *id, uint64_t *key)
{
    struct ticket *t = calloc(1, sizeof(*t));
    if (!t)
        return -ENOMEM;
    *t = (struct ticket){.in = in, .sock = sock, .src = {SRC_TICKET, t}, .id = ++in->next_ticket};
    TAILQ_INIT(&t->held);
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
    t->account = ledger_hold(&in->ledger, a->uid); /* it exists */
    LIST_INSERT_HEAD(&in->tickets[t->id % TICKET_LISTS], t, link);
    *id = t->id;
    *key = t->key;
    return 0;
out:
    free(t);
    return rc;
}

/* ---- references in tickets ----------------------------------------------------------------- */

static struct held_heads *held_list(const struct ticket *t, uint32_t handle)
{
    const uint64_t *key = t->in->held_key;
    uint64_t hash = (key[0] | 1) * t->id + (key[1] | 1) * handle;
    return &t->in->held[(hash >> 32) % HELD_LISTS];
}

/* The reference that was exported as `handle`, or NULL. */
static struct held *held_at(const struct ticket *t, uint32_t handle)
{
    struct held *h;
    LIST_FOREACH(h, held_list(t, handle), key)
    if (h->ticket == t && h->handle == handle)
        break;
    return h;
}

/* Words of a bit for each handle. */
static size_t bitmap(const struct ffl_session *s)
{
    return 2 * (size_t)s->n / 64 + 1;
}

static void set_bit(const struct ticket *t, uint64_t *bits, uint32_t handle)
{
    if (t->of && handle < 2 * t->of->n)
        bits[handle / 64] |= UINT64_C(1) << handle % 64;
}

static bool has_bit(const uint64_t *bits, uint32_t handle)
{
    return bits[handle / 64] >> handle % 64 & 1;
}

/* `handle`'s reference is imported or dropped: once. */
static void note_gone(struct ticket *t, uint32_t handle)
{
    set_bit(t, t->gone, handle);
}

static void take_out(struct held *h)
{
    note_gone(h->ticket, h->handle);
    LIST_REMOVE(h, key);
    TAILQ_REMOVE(&h->ticket->held, h, all);
}

/* Drops a reference: it is closed in this iteration or a later one. */
static void drop_held(struct held *h)
{
    take_out(h);
    TAILQ_INSERT_TAIL(&h->ticket->in->dropped, h, all);
}

static void free_held(struct ffl_instance *in, struct held *h)
{
    ledger_discharge(&in->ledger, h->account, CHARGE_SOCKET, 1);
    group_unref(in, h->group);
    free(h);
}

/* Was a stream, of which this is the last reference, not read to its end? What was given back is
 * unread as well. */
static bool unread(struct ffl_instance *in, const struct held *h)
{
    if (h->dgram || h->listener || h->connecting || h->group->refs > 1)
        return false;
    return !STAILQ_EMPTY(&h->group->bytes) || fd_unread(in, h->fd);
}

bool tickets_close(struct ffl_instance *in)
{
    struct held *h;
    while ((h = TAILQ_FIRST(&in->dropped)) && !slice_over(&in->slice)) {
        if (h->listener && h->group->refs == 1 && !backlog_clear(in, h->fd))
            break;
        TAILQ_REMOVE(&in->dropped, h, all);
        slice_spend_call(&in->slice, 0);
        if (unread(in, h))
            (void)fd_reset(in, h->fd);
        else
            (void)OPS(in)->close(ST(in), h->fd); /* the instance's own reference: it was open */
        free_held(in, h);
    }
    return h;
}

static void unshare(struct ticket *t)
{
    if (t->of)
        LIST_REMOVE(t, share);
    t->of = NULL;
    free(t->gone);
    t->gone = t->marked = NULL;
}

static void ticket_end(struct ticket *t)
{
    struct ffl_instance *in = t->in;
    struct held *h;
    while ((h = TAILQ_FIRST(&t->held)))
        drop_held(h);
    unshare(t);
    LIST_REMOVE(t, link);
    ledger_discharge(&in->ledger, t->account, CHARGE_TICKET, 1);
    ledger_drop(&in->ledger, t->account);
    ctl_drop(in, &t->sock, closer_drop);
    free(t);
}

void tickets_end(struct ffl_instance *in)
{
    struct ticket *t;
    for (unsigned i = 0; i < TICKET_LISTS; i++)
        while ((t = LIST_FIRST(&in->tickets[i])))
            ticket_end(t);
    slice_endless(in);
    (void)tickets_close(in);
}

/* ---- holders' messages --------------------------------------------------------------------- */

static void sweep(struct ticket *t)
{
    struct held *h = TAILQ_FIRST(&t->held), *next;
    size_t n = t->of ? bitmap(t->of) : 0;
    slice_spend_call(&t->in->slice, 2 * n * sizeof(*t->gone));
    for (; h; h = next) {
        next = TAILQ_NEXT(h, all);
        slice_spend(&t->in->slice, SLICE_ENTRY_NS);
        if (!h->mark)
            drop_held(h);
        else
            h->mark = false;
    }
    for (size_t i = 0; i < n; i++) {
        t->gone[i] |= ~t->marked[i];
        t->marked[i] = 0;
    }
}

static int act(struct ticket *t, const struct ffl_ticket_msg *m)
{
    uint32_t n = m->n <= FFL_COUNT(m->handles) ? m->n : 0;
    for (uint32_t i = 0; i < n; i++) {
        struct held *h = held_at(t, m->handles[i]);
        if (m->what == FFL_TICKET_MARK)
            set_bit(t, t->marked, m->handles[i]);
        if (h && m->what == FFL_TICKET_MARK)
            h->mark = true;
        else if (h && m->what == FFL_TICKET_DROP)
            drop_held(h);
        else if (m->what == FFL_TICKET_DROP)
            note_gone(t, m->handles[i]);
    }
    if (m->what == FFL_TICKET_SWEEP)
        sweep(t);
    return m->what <= FFL_TICKET_SWEEP ? 0 : -EPROTO;
}

void ticket_event(struct ticket *t)
{
    struct ffl_ticket_msg m;
    for (int i = 0; i < MSGS_AT_ONCE; i++) { /* messages left cause another event */
        if (i && slice_over(&t->in->slice))
            return;
        int fd = -1, n = closer_busy() ? -EPROTO : closer_recv(t->sock, &m, sizeof(m), &fd);
        if (n == -EAGAIN)
            return;
        if (n == -EMFILE) {
            admit_lost(t->account);
            continue;
        }
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

/* ---- export and import --------------------------------------------------------------------- */

/* Makes a reference, unless the ticket has it. 0 or -errno. */
static int hold(struct ticket *t, struct endpoint *e)
{
    struct ffl_session *s = e->s;
    struct ffl_instance *in = s->in;
    if (held_at(t, e->handle))
        return 0; /* a program's socket may have several descriptors */
    slice_spend_call(&in->slice, 0);
    int rc = e->fd < 0 ? -e->open_error : ledger_charge(&in->ledger, s->account, CHARGE_SOCKET, 1);
    if (rc < 0)
        return rc;
    struct held *h = group_of(e) ? calloc(1, sizeof(*h)) : NULL;
    int fd = h ? OPS(in)->dup(ST(in), e->fd) : -ENOMEM;
    if (fd < 0) {
        ledger_discharge(&in->ledger, s->account, CHARGE_SOCKET, 1);
        free(h);
        return fd;
    }
    *h = (struct held){.ticket = t,
                       .group = group_ref(e->group),
                       .account = s->account,
                       .handle = e->handle,
                       .fd = fd,
                       .failed = e->failed,
                       .send_error = e->send_error,
                       .listener = e->group->listens,
                       .dgram = e->dgram,
                       .connecting = e->group->connecting,
                       .mark = t->of == s && has_bit(t->marked, e->handle)};
    LIST_INSERT_HEAD(held_list(t, h->handle), h, key);
    TAILQ_INSERT_HEAD(&t->held, h, all);
    return 0;
}

int ticket_export(struct endpoint *e, const struct ffl_import *x)
{
    struct ticket *t;
    int rc = find(e->s->in, x, &t);
    return rc < 0 ? rc : hold(t, e);
}

/* ---- all sockets of a session ---------------------------------------------------------------- */

int ticket_share(struct ffl_session *s, const struct ffl_import *x)
{
    struct ticket *t;
    int rc = find(s->in, x, &t);
    if (rc == 0 && t->of)
        rc = -EBUSY;
    if (rc == 0 && !(t->gone = calloc(2 * bitmap(s), sizeof(*t->gone))))
        rc = -ENOMEM;
    if (rc < 0)
        return rc;
    t->marked = t->gone + bitmap(s);
    t->of = s;
    t->at = ++s->in->next_serial;
    LIST_INSERT_HEAD(&s->shares, t, share);
    return 0;
}

/* Was e open, and its program's, when its session shared its sockets, and is the reference still
 * there? */
static bool has(const struct ticket *t, const struct endpoint *e)
{
    return e->serial < t->at && !(e->closing && e->closed < t->at) && e->fd >= 0 && !e->returned &&
           !has_bit(t->gone, e->handle);
}

bool ticket_shares(const struct endpoint *e)
{
    const struct ticket *t;
    LIST_FOREACH(t, &e->s->shares, share)
    if (has(t, e))
        break;
    return t;
}

void ticket_keep(struct endpoint *e)
{
    struct ticket *t;
    LIST_FOREACH(t, &e->s->shares, share)
    {
        slice_spend(&t->in->slice, SLICE_ENTRY_NS);
        int rc = has(t, e) ? hold(t, e) : 0;
        if (rc < 0)
            ffl_log_within(&e->s->account->log, FFL_LOG_WARNING,
                           "session %u: a forked process loses a socket: %s", e->s->id,
                           strerror(-rc));
    }
}

void tickets_forget(struct ffl_session *s)
{
    struct ticket *t;
    while ((t = LIST_FIRST(&s->shares)))
        unshare(t);
}

/* The reference to import, made if it is one of a SHARE. NULL: *rc. */
static struct held *wanted(struct ticket *t, uint32_t handle, int *rc)
{
    struct endpoint *e = t->of && handle < 2 * t->of->n ? t->of->table[handle] : NULL;
    struct held *h = held_at(t, handle);
    *rc = -ENOENT;
    if (!h && e && has(t, e) && (*rc = hold(t, e)) == 0)
        h = held_at(t, handle);
    return h;
}

int ticket_import(struct ffl_session *s, uint32_t handle, const struct ffl_import *x)
{
    struct ffl_instance *in = s->in;
    struct ticket *t;
    int rc = find(in, x, &t);
    if (rc < 0)
        return rc;
    struct held *h = wanted(t, x->handle, &rc);
    if (h)
        rc = session_charge(s);
    if (rc < 0)
        return rc;
    struct endpoint *e = endpoint_new(s, handle, h->fd, h->dgram);
    if (!e) {
        session_discharge(s);
        return -ENOMEM;
    }
    e->listener = h->listener;
    e->connecting = h->connecting;
    e->watched = true;
    e->readable = true; /* data may have come meanwhile */
    group_join(e, h->group);
    int flags = (h->listener ? FFL_IMPORT_LISTENER : 0) |
                (h->connecting ? FFL_IMPORT_CONNECTING : 0) |
                (e->group->settings.shut_wr ? FFL_IMPORT_SHUT_WR : 0);
    /* An error is told after bytes that were given back. */
    int send_error = h->failed ? h->failed : h->send_error;
    int failed = group_has_bytes(e) ? 0 : h->failed;
    take_out(h);
    free_held(in, h);
    rc = OPS(in)->watch(ST(in), e->fd, e->listener ? FFL_READ : FFL_READ | FFL_WRITE, e);
    endpoint_addresses(e);
    if (rc < 0 || failed)
        data_fail(e, failed ? failed : -rc);
    else if (send_error)
        data_fail_sends(e, send_error);
    return flags;
}
