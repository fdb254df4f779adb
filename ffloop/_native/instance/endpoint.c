/*
 * endpoint.c - an endpoint's life: one session's reference to one stack socket.
 *
 * Callers: the other files of instance/. The lists that an endpoint is in, and when: internal.h.
 */
#include "endpoint.h"
#include "group.h"
#include "life.h"
#include "pump.h"
#include "session.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static void note_open(struct ffl_session *s)
{
    atomic_store_explicit(&s->map.seg->inst.sockets, s->open, memory_order_relaxed);
    atomic_store_explicit(&s->st->sockets, s->open, memory_order_relaxed);
}

int session_charge(struct ffl_session *s)
{
    struct ledger *l = &s->in->ledger;
    if (!ledger_share(l, CHARGE_SOCKET, s->nsockets) ||
        ledger_charge(l, s->account, CHARGE_SOCKET, 1) < 0)
        return -EMFILE;
    s->nsockets++;
    return 0;
}

void session_discharge(struct ffl_session *s)
{
    s->nsockets--;
    ledger_discharge(&s->in->ledger, s->account, CHARGE_SOCKET, 1);
}

static void endpoint_due(struct timer *t)
{
    struct endpoint *e = ffl_container_of(t, struct endpoint, timer);
    if (!e->closing) {
        if (e->listener && e->group) /* data_accept_later() */
            offer_again(e);
        endpoint_ready(e);
        return;
    }
    ffl_log_within(&e->s->account->log, FFL_LOG_INFO,
                   "session %u: a closed socket could not send its rest in time", e->s->id);
    endpoint_close(e);
}

struct endpoint *endpoint_new(struct ffl_session *s, uint32_t handle, int fd, bool dgram)
{
    struct endpoint *e = calloc(1, sizeof(*e));
    if (!e)
        return NULL;
    e->s = s;
    e->handle = handle;
    e->serial = ++s->in->next_serial;
    e->fd = fd;
    e->dgram = dgram;
    e->tx_head = e->tx_tail = FFL_NO_BUF;
    e->shut = -1;
    e->timer.fire = endpoint_due;
    s->table[handle] = e;
    TAILQ_INSERT_TAIL(&s->endpoints, e, all);
    stats_socket(e);
    s->open++;
    note_open(s);
    if (fd >= 0)
        atomic_fetch_add_explicit(&s->in->page->sockets, 1, memory_order_relaxed);
    return e;
}

static void leave_queue(struct endpoint *e)
{
    if (e->in_ready)
        TAILQ_REMOVE(&e->s->ready, e, queue);
    if (e->in_stalled)
        TAILQ_REMOVE(&e->s->stalled, e, queue);
    e->in_ready = e->in_stalled = false;
}

void endpoint_ready(struct endpoint *e)
{
    if (e->in_ready || e->dead)
        return;
    leave_queue(e);
    e->in_ready = true;
    TAILQ_INSERT_TAIL(&e->s->ready, e, queue);
}

void endpoint_stall(struct endpoint *e)
{
    if (e->in_stalled)
        return;
    leave_queue(e);
    e->in_stalled = true;
    ffl_stat_add(&e->s->map.seg->inst.pool_empty, 1);
    TAILQ_INSERT_TAIL(&e->s->stalled, e, queue);
}

void endpoint_timer(struct endpoint *e, int64_t ns)
{
    timers_set(&e->s->in->timers, &e->timer, ns);
}

int endpoint_watch(struct endpoint *e, unsigned filters)
{
    struct ffl_instance *in = e->s->in;
    if (e->watched)
        return 0;
    int rc = OPS(in)->watch(ST(in), e->fd, filters, e);
    e->watched = rc == 0;
    return rc;
}

int endpoint_handle(struct ffl_session *s)
{
    return ffl_ids_take(&s->ids);
}

void endpoint_handle_release(struct ffl_session *s, uint32_t handle)
{
    s->table[handle] = NULL;
    if (handle >= s->n)
        ffl_ids_give(&s->ids, handle);
}

bool endpoint_option(const struct endpoint *e, int level, int name)
{
    struct ffl_instance *in = e->s->in;
    int on = 0;
    uint32_t len = sizeof(on);
    return OPS(in)->getsockopt(ST(in), e->fd, level, name, &on, &len) == 0 && on;
}

bool endpoint_v6only(const struct endpoint *e, const struct ffl_addr *a)
{
    return a->family == AF_INET6 && endpoint_option(e, IPPROTO_IPV6, IPV6_V6ONLY);
}

void endpoint_addresses(struct endpoint *e)
{
    struct ffl_addresses n = {0};
    struct ffl_instance *in = e->s->in;
    (void)OPS(in)->sockname(ST(in), e->fd, false, &n.local); /* family 0 if it is unknown */
    if (!e->listener)
        (void)OPS(in)->sockname(ST(in), e->fd, true, &n.peer);
    e->st->addresses = n;
    stats_state(e);
}

int fd_reset(struct ffl_instance *in, int fd)
{
    const struct linger at_once = {.l_onoff = 1};
    int rc = OPS(in)->setsockopt(ST(in), fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    if (rc < 0 && rc != -EINVAL) /* FreeBSD's answer where the peer has reset it */
        ffl_log(FFL_LOG_WARNING, "a close cannot be a reset: %s", strerror(-rc));
    return OPS(in)->close(ST(in), fd);
}

/* FreeBSD's stack ends a stream with unread bytes as if all had been read. */
bool fd_unread(struct ffl_instance *in, int fd)
{
    uint8_t byte;
    struct iovec iov = {&byte, sizeof(byte)};
    return !OPS(in)->kernel && OPS(in)->recv(ST(in), fd, &iov, 1, NULL, NULL, NULL) > 0;
}

static bool ends_in_a_reset(const struct endpoint *e)
{
    return !e->dgram && !e->listener && !e->given && !group_shared(e) &&
           (e->reset || group_has_bytes(e) ||
            (!e->rx_done && !e->failed && fd_unread(e->s->in, e->fd)));
}

/* Gives up the stack socket and its charge. */
void endpoint_close_fd(struct endpoint *e, bool reset)
{
    struct ffl_instance *in = e->s->in;
    if (e->fd < 0)
        return;
    int rc = reset ? fd_reset(in, e->fd) : OPS(in)->close(ST(in), e->fd);
    if (rc < 0)
        ffl_log(FFL_LOG_WARNING, "session %u: close: %s", e->s->id, strerror(-rc));
    e->fd = -1;
    session_discharge(e->s);
    atomic_fetch_sub_explicit(&in->page->sockets, 1, memory_order_relaxed);
}

void endpoint_close(struct endpoint *e)
{
    struct ffl_session *s = e->s;
    struct ffl_instance *in = s->in;
    if (e->dead)
        return;
    handover_keep(e);
    bool reset = e->fd >= 0 && ends_in_a_reset(e);
    ticket_keep(e);
    data_drop_tx(e);
    if (e->shut >= 0 && e->fd >= 0 && !e->connecting && group_shared(e))
        shutdown_now(e);
    burden_end(in, s->account, &e->settings);
    group_leave(e);
    endpoint_close_fd(e, reset);
    leave_queue(e);
    timers_cancel(&in->timers, &e->timer);
    endpoint_handle_release(s, e->handle);
    session_post(s,
                 (struct ffl_entry){.op = FFL_OP_CLOSED, .handle = e->handle, .buf = FFL_NO_BUF});
    if (s->sweep == e)
        s->sweep = TAILQ_NEXT(e, all);
    TAILQ_REMOVE(&s->endpoints, e, all);
    s->open--;
    note_open(s);
    stats_socket_end(e);
    e->dead = true;
    TAILQ_INSERT_TAIL(&in->graveyard, e, queue);
}

void endpoint_bury(struct ffl_instance *in)
{
    struct endpoint *e;
    while ((e = TAILQ_FIRST(&in->graveyard))) {
        TAILQ_REMOVE(&in->graveyard, e, queue);
        free(e);
    }
}
