/*
 * drain.c - the graceful end: listeners stop, sessions are told, what was submitted is sent.
 *
 * Callers: serve.c, at the end of an iteration. The unix socket is closed first, so that a successor may
 * have its path. A listener hands over its connections and fails with ESHUTDOWN, which tells the
 * application; connections go on until they close or the time is up.
 */
#include "internal.h"

#include "notify.h"

#include <errno.h>

#define LAST_ACCEPTS 64 /* rounds of data_pump: what its backlog holds and the application takes */

static void stop_listener(struct endpoint *e)
{
    e->readable = true;
    for (int i = 0; i < LAST_ACCEPTS && e->armed && data_pump(e); i++)
        continue;
    if (e->dead || e->fd < 0)
        return;
    endpoint_close_fd(e, false);
    e->open_error = ESHUTDOWN;
    e->failed = true;
    e->armed = e->readable = false;
    stats_state(e);
    session_post(
        e->s, (struct ffl_entry){
                  .op = FFL_OP_ERROR, .handle = e->handle, .arg = -ESHUTDOWN, .buf = FFL_NO_BUF});
}

void drain_begin(struct ffl_instance *in, int64_t now)
{
    in->draining = true;
    in->drain_due = now + in->o.drain_ns;
    ffl_log(FFL_LOG_WARNING, "draining: %u sessions, %u sockets, at most %lld s",
            ffl_instance_sessions(in), ffl_instance_sockets(in),
            (long long)(in->o.drain_ns / FFL_NS_PER_SEC));
    ffl_notify("STOPPING=1\nSTATUS=draining: %u sessions, %u sockets", ffl_instance_sessions(in),
               ffl_instance_sockets(in));
    in->slice_end = INT64_MAX;
    listen_close(in);
    handover_end(in);
    struct ffl_session *s;
    TAILQ_FOREACH(s, &in->sessions, link)
    {
        struct endpoint *e;
        TAILQ_FOREACH(e, &s->endpoints, all) /* those that are accepted now are no listeners */
        if (!s->dying && !s->dead && e->listener && !e->closing)
            stop_listener(e);
        session_commit(s);
    }
}

/* Executes what was submitted and lets the stack have what it takes of it. */
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

bool drain_over(struct ffl_instance *in, int64_t now)
{
    unsigned left = ffl_instance_sockets(in);
    struct ffl_session *s;
    if (left && now < in->drain_due)
        return false;
    in->slice_end = INT64_MAX; /* the last iteration takes the time that it takes */
    TAILQ_FOREACH(s, &in->sessions, link)
    send_the_rest(s);
    if (left)
        ffl_log(FFL_LOG_WARNING, "drain: time is up, %u sockets are closed as they are", left);
    else
        ffl_log(FFL_LOG_INFO, "drain: done");
    return true;
}
