/*
 * data.c - what the stack tells of an endpoint, and its pump: data between stack and session.
 *
 * Callers: serve.c (ready endpoints, events) and the other files of instance/. An endpoint in its
 * session's ready list is pumped. It leaves the list when the stack, the application's credit or
 * the pool has no more to give; an event, an ARM or SEND, or a returned buffer puts it back.
 */
#include "endpoint.h"
#include "group.h"
#include "life.h"
#include "pump.h"
#include "session.h"

#include <errno.h>
#include <sys/socket.h>

/* ---- errors ---------------------------------------------------------------------------------- */

void data_fail(struct endpoint *e, int err)
{
    e->failed = err;
    e->readable = false;
    stats_state(e);
    data_drop_tx(e);
    session_post(e->s,
                 (struct ffl_entry){
                     .op = FFL_OP_ERROR, .handle = e->handle, .arg = -err, .buf = FFL_NO_BUF});
}

static void fail_sends(struct endpoint *e, int err)
{
    if (e->send_error || e->failed)
        return;
    e->send_error = err;
    data_drop_tx(e);
    session_post(e->s, (struct ffl_entry){.op = FFL_OP_ERROR,
                                          .flags = FFL_F_SENDING,
                                          .handle = e->handle,
                                          .arg = -err,
                                          .buf = FFL_NO_BUF});
    if (e->rx_done)
        return;
    e->readable = true;
    endpoint_ready(e);
}

void data_fail_sends(struct endpoint *e, int err)
{
    struct endpoint *m;
    fail_sends(e, err);
    if (!e->group)
        return;
    LIST_FOREACH(m, &e->group->members, member)
    {
        fail_sends(m, err);
    }
}

void data_dgram_error(struct endpoint *e, int rc)
{
    session_post(e->s, (struct ffl_entry){
                           .op = FFL_OP_ERROR, .handle = e->handle, .arg = rc, .buf = FFL_NO_BUF});
}

/* ---- events of the stack ------------------------------------------------------------------- */

static void dgram_failed(struct endpoint *e, int err)
{
    struct endpoint *m;
    if (!e->group) {
        data_dgram_error(e, -err);
        return;
    }
    LIST_FOREACH(m, &e->group->members, member)
    {
        data_dgram_error(m, -err);
    }
}

/* An error, which the stack reports once, for all references. A stream's reader hears of it after
 * the bytes before it, and not at all after the end. */
static void take_error(struct endpoint *e)
{
    struct ffl_instance *in = e->s->in;
    int err = 0;
    uint32_t len = sizeof(err);
    if (OPS(in)->getsockopt(ST(in), e->fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0 || !err)
        return;
    if (e->dgram)
        dgram_failed(e, err);
    else if (e->group && e->group->connecting) /* of the connect that another reference waits for */
        e->group->connect_error = err;
    else
        data_fail_sends(e, e->fin ? EPIPE : err);
}

void data_event(struct endpoint *e, const struct ffl_stack_event *ev)
{
    if (e->dead)
        return;
    if (ev->error && !e->s->dying) {
        e->reports = true;
        endpoint_ready(e);
    }
    if (ev->filter & FFL_READ) {
        e->readable = true;
        e->rx_due = ev->data;
    }
    if (ev->filter & FFL_WRITE)
        data_unwritable(e, false);
    if (e->connecting) {
        if (!(ev->filter & FFL_WRITE || ev->eof))
            return;
        connect_ended(e);
        if (e->failed)
            return;
    }
    if (ev->error && !e->listener && !(e->dgram && group_settings(e)->reporting))
        take_error(e);
    else if (ev->eof && !group_settings(e)->shut_rd)
        e->fin = true;
    if (ev->eof && !e->rx_done)
        e->eof_hint = e->readable = true;
    if ((e->readable && (endpoint_armed(e) || e->listener)) || e->tx_head != FFL_NO_BUF ||
        e->closing)
        endpoint_ready(e);
}

bool data_pump(struct endpoint *e)
{
    if (e->reports)
        (void)report_pump(e);
    if (e->tx_head != FFL_NO_BUF || e->shut >= 0 || e->closing)
        data_flush(e);
    if (e->dead)
        return false;
    bool sends = e->tx_head != FFL_NO_BUF && !e->unwritable && !e->connecting;
    bool more = e->reports || sends || (e->shut >= 0 && shutdown_waits(e));
    if (e->listener)
        return accept_pump(e) || more;
    return data_receive(e) || more;
}
