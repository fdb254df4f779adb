/*
 * drain.c - the graceful end: listeners stop, applications are told, submitted data is sent.
 *
 * Callers: serve.c, at the end of an iteration. The unix socket is closed first, so that a
 * successor may have its path. Listeners accept their backlog, then fail with ESHUTDOWN, which
 * tells the application; connections go on until they close or the time is up.
 */
#include "endpoint.h"
#include "group.h"
#include "life.h"
#include "peers.h"
#include "pump.h"
#include "session.h"

#include "notify.h"

#include <errno.h>

/* False: its backlog has more connections that the application takes. */
static bool stop_listener(struct endpoint *e)
{
    e->readable = true;
    if (endpoint_armed(e) && data_pump(e))
        return false;
    if (e->dead || e->fd < 0)
        return true;
    if (!endpoint_clear(e))
        return false;
    slice_spend_call(&e->s->in->slice, 0);
    endpoint_close_fd(e, false);
    group_leave(e); /* the last of those that share it has its backlog to clear */
    e->open_error = ESHUTDOWN;
    e->armed = 0;
    data_fail(e, ESHUTDOWN);
    return true;
}

static void begin(struct ffl_instance *in)
{
    in->draining = true;
    in->drain_due = in->timers.now + in->o.drain_ns;
    ffl_log(FFL_LOG_WARNING, "draining: %u sessions, %u sockets, at most %lld s",
            ffl_instance_sessions(in), ffl_instance_sockets(in),
            (long long)(in->o.drain_ns / FFL_NS_PER_SEC));
    notify_send("STOPPING=1\nSTATUS=draining: %u sessions, %u sockets", ffl_instance_sessions(in),
                ffl_instance_sockets(in));
    listen_close(in);
    struct ffl_session *s;
    TAILQ_FOREACH(s, &in->sessions, link)
    if (!s->ended && !s->dying && !s->dead)
        s->sweep = TAILQ_FIRST(&s->endpoints);
}

/* True: the session has more. */
static bool stop_some(struct ffl_session *s)
{
    if (s->ended || s->dying || s->dead)
        return false; /* the session's end closes its listeners */
    slice_begin(s->in);
    while (s->sweep) { /* connections accepted meanwhile join the list's end: no listeners */
        struct endpoint *e = s->sweep;
        slice_spend(&s->in->slice, SLICE_ENTRY_NS);
        bool done = !e->listener || e->closing || e->failed || stop_listener(e);
        if (done && s->sweep == e)
            s->sweep = TAILQ_NEXT(e, all);
        if (slice_over(&s->in->slice) || session_stuffed(s))
            break;
    }
    session_commit(s);
    return s->sweep && !s->dead && !session_stuffed(s);
}

bool drain_listeners(struct ffl_instance *in)
{
    struct ffl_session *s;
    bool more;
    if (atomic_load_explicit(&in->end_asked, memory_order_relaxed) != END_DRAIN)
        return false;
    if (!in->draining)
        begin(in);
    more = handover_end(in);
    TAILQ_FOREACH(s, &in->sessions, link)
    more |= stop_some(s);
    return more;
}

/* Executes the submitted entries and sends as much as the stack takes. */
static void send_the_rest(struct ffl_session *s)
{
    struct endpoint *e, *next;
    (void)session_drain(s, INT32_MAX);
    for (e = TAILQ_FIRST(&s->endpoints); e && !s->dead; e = next) {
        next = TAILQ_NEXT(e, all);
        if (e->tx_head != FFL_NO_BUF && !e->unwritable && !e->connecting)
            data_flush(e);
    }
}

bool drain_over(struct ffl_instance *in)
{
    unsigned left = ffl_instance_sockets(in);
    struct ffl_session *s;
    if (left && in->timers.now < in->drain_due)
        return false;
    slice_endless(in); /* nothing waits behind the last iteration */
    TAILQ_FOREACH(s, &in->sessions, link)
    send_the_rest(s);
    if (left)
        ffl_log(FFL_LOG_WARNING, "drain: time is up, %u sockets are closed as they are", left);
    else
        ffl_log(FFL_LOG_INFO, "drain: done");
    return true;
}
