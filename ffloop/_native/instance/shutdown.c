/*
 * shutdown.c - shutdown of a stack socket, which is for all its references.
 *
 * Callers: control.c, endpoint.c, transmit.c. What any of the processes sent before goes before a
 * stream's end: the shutdown waits in each reference for the sends of that one, and the last one
 * tells the stack.
 */
#include "endpoint.h"
#include "group.h"
#include "pump.h"
#include "session.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

static int8_t both(int8_t how, int other)
{
    return (int8_t)(how >= 0 && how != other ? SHUT_RDWR : other);
}

void shutdown_set(struct endpoint *e, int how)
{
    if (e->group)
        e->group->shutting += (unsigned)shutdown_sending(how) - shutdown_sending(e->shut);
    e->shut = (int8_t)how;
}

/* A send() that has returned is never dropped, nor behind the end. */
bool shutdown_waits(const struct endpoint *e)
{
    const struct ffl_session *s = e->s;
    if (s->dying || s->dead)
        return false;
    return (int32_t)(e->shut_at - s->ch.in.head) > 0 || s->rest_at < s->rest_n;
}

/* The other processes can send no more either. */
static void tell(struct endpoint *m)
{
    shutdown_set(m, both(m->shut, SHUT_WR));
    m->shut_at = m->s->ch.in.head;
    if (ffl_ring_avail(&m->s->ch.in) > 0) /* < 0: its next drain ends the session */
        m->shut_at = m->s->awaited = m->s->ch.in.tail;
    endpoint_ready(m);
    if (!m->closing)
        session_post(m->s, (struct ffl_entry){
                               .op = FFL_OP_SHUTDOWN, .handle = m->handle, .buf = FFL_NO_BUF});
    session_commit(m->s); /* before the asker hears of more */
}

void shutdown_ask(struct endpoint *e, int how)
{
    struct endpoint *m;
    bool told = group_settings(e)->shut_wr;
    shutdown_set(e, both(e->shut, how));
    e->shut_at = e->s->ch.in.head;
    if (!e->connecting)
        endpoint_ready(e);
    if (how == SHUT_RD)
        return;
    group_settings(e)->shut_wr = true;
    if (!e->group || e->dgram || told)
        return;
    LIST_FOREACH(m, &e->group->members, member)
    {
        if (m == e)
            continue;
        slice_spend(&e->s->in->slice, SLICE_ENTRY_NS);
        tell(m);
    }
}

void shutdown_now(struct endpoint *e)
{
    struct ffl_instance *in = e->s->in;
    struct group *g = e->group;
    int8_t how = e->shut;
    shutdown_set(e, -1);
    if (g && how != SHUT_RD) {
        how = g->shut = both(g->shut, how);
        if (g->shutting)
            return;
        g->shut = -1;
    }
    slice_spend_call(&in->slice, 0);
    int rc = OPS(in)->shutdown(ST(in), e->fd, how);
    if (rc < 0 && rc != -ENOTCONN)
        ffl_log(FFL_LOG_INFO, "session %u: shutdown: %s", e->s->id, strerror(-rc));
    group_settings(e)->shut_rd |= how != SHUT_WR;
}
