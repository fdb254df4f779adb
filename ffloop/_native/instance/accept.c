/*
 * accept.c - the accept pump: moves a listener's connections to its session, or offers them to the
 * sessions that share the listener.
 *
 * Callers: data.c, for a listener in its session's ready list.
 */
#include "endpoint.h"
#include "group.h"
#include "life.h"
#include "peers.h"
#include "pump.h"
#include "session.h"

#include <errno.h>
#include <string.h>

#define ACCEPTS_PER_ITERATION 64
#define FEW 16 /* connections: a close resets so many itself */

/* Makes the connection an endpoint of l's session. False: no memory, and the connection is
 * closed. */
static bool adopt(struct endpoint *l, int fd, uint32_t handle, struct ffl_addresses *addresses,
                  struct group *unread)
{
    struct ffl_session *s = l->s;
    struct ffl_instance *in = s->in;
    struct endpoint *e = endpoint_new(s, handle, fd, false);
    if (!e) {
        group_unref(in, unread);
        (void)OPS(in)->close(ST(in), fd);
        session_discharge(s);
        return false;
    }
    l->credits--;
    e->touched = l->arm_new;
    e->armed = l->arm_new ? s->arming : 0;
    e->settings.stamped = group_settings(l)->stamped; /* inherited from the listener */
    e->settings.reporting = group_settings(l)->reporting;
    group_accepted(l, e, unread);
    (void)OPS(in)->sockname(ST(in), fd, false, &addresses->local);
    e->st->addresses = *addresses;
    stats_state(e);
    session_post(s, (struct ffl_entry){.op = FFL_OP_ACCEPT,
                                       .handle = l->handle,
                                       .arg = (int32_t)handle,
                                       .buf = answer_put(s, addresses, sizeof(*addresses))});
    ffl_stat_add(&s->map.seg->inst.accepts, 1);
    ffl_stat_add(&in->page->accepts, 1);
    int rc = OPS(in)->watch(ST(in), fd, FFL_READ | FFL_WRITE, e);
    if (rc < 0)
        data_fail(e, -rc);
    return true;
}

static bool wants_accept(const struct endpoint *l)
{
    return endpoint_armed(l) && l->credits && !l->failed && !l->s->dying && !l->s->dead;
}

void data_accept_later(struct endpoint *l, int err)
{
    ffl_log_within(&l->s->account->log, FFL_LOG_WARNING,
                   "session %u: accept: %s; trying again in a second", l->s->id, strerror(err));
    l->readable = true;
    endpoint_timer(l, ACCEPT_RETRY_NS);
}

/* A connection, charged to l's session; or -errno. */
static int take_connection(struct endpoint *l, struct ffl_addresses *addresses,
                           struct group **unread)
{
    struct ffl_session *s = l->s;
    struct ffl_instance *in = s->in;
    bool returned = group_has_connection(l);
    int fd = returned ? group_accept(l, &addresses->peer, unread) : session_charge(s);
    if (fd < 0)
        return fd;
    if (!returned) {
        fd = OPS(in)->accept(ST(in), l->fd, &addresses->peer);
        if (fd < 0) {
            session_discharge(s);
            return fd;
        }
        rights_own(s, fd);
    }
    l->group->waiting = 0; /* those that are left are offered anew */
    l->group->came++;
    return fd;
}

int data_accept(struct endpoint *l)
{
    struct ffl_addresses addresses = {0};
    struct group *unread = NULL;
    int h = endpoint_handle(l->s);
    int fd = h < 0 ? h : take_connection(l, &addresses, &unread);
    if (fd >= 0 && !adopt(l, fd, (uint32_t)h, &addresses, unread))
        fd = -ENOMEM;
    if (fd < 0 && h >= 0)
        endpoint_handle_release(l->s, (uint32_t)h);
    if (fd == -EAGAIN)
        l->readable = false;
    return fd < 0 ? fd : 0;
}

bool accept_pump(struct endpoint *l)
{
    if (!l->group || l->failed || l->s->dying || l->s->dead)
        return false; /* no group: `l` failed before it listened */
    if (offer_alone(l) && !l->s->in->draining) {
        offer_tell(l);
        return false;
    }
    for (int i = 0;
         i < ACCEPTS_PER_ITERATION && wants_accept(l) && (l->readable || group_has_connection(l));
         i++) {
        if (session_stuffed(l->s))
            return true;
        int rc = data_accept(l);
        if (rc < 0 && rc != -EAGAIN && rc != -ECONNABORTED && rc != -EINTR && rc != -EPROTO) {
            data_accept_later(l, -rc); /* the session's quota may be used up */
            return false;
        }
        slice_spend(&l->s->in->slice, 3 * SLICE_CALL_NS); /* accept, sockname, watch */
        if (slice_over(&l->s->in->slice))
            break;
    }
    return (l->readable || group_has_connection(l)) && wants_accept(l);
}

bool backlog_clear(struct ffl_instance *in, int fd)
{
    struct ffl_addr peer;
    for (int first = 1; OPS(in)->backlog(ST(in), fd) > FEW; first = 0) {
        if (!first && slice_over(&in->slice))
            return false;
        if (first)
            (void)OPS(in)->listen(ST(in), fd, 0); /* no more are to come */
        int c = OPS(in)->accept(ST(in), fd, &peer);
        if (c >= 0)
            (void)fd_reset(in, c);
        else if (c != -ECONNABORTED)
            break;
        slice_spend(&in->slice, 3 * SLICE_CALL_NS); /* accept, setsockopt, close */
    }
    return true;
}

bool endpoint_clear(const struct endpoint *e)
{
    bool last = e->listener && e->fd >= 0 && !group_shared(e) && !handover_keeps(e);
    return !last || backlog_clear(e->s->in, e->fd);
}
