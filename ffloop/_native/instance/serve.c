/*
 * serve.c - the iteration: drain the SQs, poll the stack, pump ready endpoints, commit and wake
 * once.
 *
 * Callers: main.c, direct.c, tests. An idle iteration is a load or two per session and the
 * stack's poll. A stack with a loop of its own (ops->run) calls the iteration, which then looks at
 * the SQs for a bounded time more: else the stack's transmit delay would hold up each answer.
 */
#include "endpoint.h"
#include "group.h"
#include "life.h"
#include "peers.h"
#include "pump.h"
#include "session.h"

#include <sched.h>
#include <string.h>

#define OVER_LIMIT 1024 /* completions queued privately; beyond it the SQ waits */
#define STACK_EVENTS 128
#define EVENTS_SLICES 10        /* so much of an iteration for taking them, at most */
#define CTL_PERIOD_NS 1000000LL /* between a busy instance's looks at its control epoll */
#define EMPTY_PERIOD_NS 100000000LL
#define STUFFED_NS 1000000LL /* between looks while the CQ is full: only sends go on */
#define EMBEDDED_LINGER_NS 500000000LL
#define EMBEDDED_START_NS (10 * FFL_NS_PER_SEC)

/* ---- serving sessions ---------------------------------------------------------------------- */

/* Pumps each ready endpoint once, until the slice is over; endpoints with more to do stay in the
 * list. While the CQ is full only sends move, which is no work: the application wakes the instance
 * when it reaps. */
static bool pump_ready(struct ffl_session *s)
{
    struct endpoint *last = TAILQ_LAST(&s->ready, endpoint_list), *e;
    if (!last)
        return false;
    do {
        e = TAILQ_FIRST(&s->ready);
        TAILQ_REMOVE(&s->ready, e, queue);
        e->in_ready = false;
        slice_spend(&s->in->slice, SLICE_ENTRY_NS);
        s->in->idle.found++;
        if (data_pump(e))
            endpoint_ready(e);
    } while (e != last && !slice_over(&s->in->slice));
    return !session_stuffed(s);
}

/* How many entries may be executed. Past the limit only those that another process's shutdown waits
 * for, once: they were in the SQ when it was asked for. */
static int may_drain(struct ffl_session *s)
{
    int32_t owed = (int32_t)(s->awaited - s->ch.in.head);
    if (owed < 0) /* done: a position far behind would be one ahead */
        s->awaited = s->ch.in.head;
    if (s->ch.over.n <= OVER_LIMIT)
        return INT32_MAX;
    return owed > 0 && s->ch.over.n <= OVER_LIMIT + s->ch.in.size ? owed : 0;
}

static bool serve_sessions(struct ffl_instance *in)
{
    bool work = false;
    struct ffl_session *s;
    TAILQ_FOREACH(s, &in->sessions, link)
    {
        slice_begin(in);
        if (ffl_unlikely(s->lost))
            session_kill(s, "its shared memory is gone");
        if (!s->ended && !s->dying && !s->dead) {
            if (ffl_channel_pending(&s->ch, FFL_WAIT_FREE) && data_rxfree(s) < 0)
                session_kill(s, "a receive buffer came back that was not out");
            int most = may_drain(s);
            if (most) /* an entry that is to come again is work, too */
                work |= session_drain(s, most) > 0 || ffl_channel_pending(&s->ch, FFL_WAIT_QUEUE);
        }
        if (!s->dead)
            work |= pump_ready(s);
        session_commit(s);
    }
    return work;
}

/* ---- polling the stack --------------------------------------------------------------------- */

/* All of them, in slices: a session with many sockets, or references to one, has many events at
 * once, and another's are behind them. False: there were none. */
static bool take_events(struct ffl_instance *in)
{
    struct ffl_stack_event ev[STACK_EVENTS];
    bool any = false;
    int n;
    slice_open(&in->slice, EVENTS_SLICES * in->o.slice_ns);
    do {
        n = OPS(in)->poll(ST(in), ev, FFL_COUNT(ev));
        if (n < 0 && n != in->poll_error) /* else each iteration would say so */
            ffl_log(FFL_LOG_ERROR, "stack %s: poll: %s", OPS(in)->name, strerror(-n));
        in->poll_error = n < 0 ? n : 0;
        for (int i = 0; i < n; i++) {
            data_event(ev[i].udata, &ev[i]);
            slice_spend(&in->slice, SLICE_ENTRY_NS);
        }
        any |= n > 0;
    } while (n == FFL_COUNT(ev) && !slice_over(&in->slice));
    return any;
}

static bool poll_stack(struct ffl_instance *in)
{
    if (!take_events(in))
        return false;
    struct ffl_session *s;
    TAILQ_FOREACH(s, &in->sessions, link)
    {
        slice_begin(in);
        if (!s->dead)
            pump_ready(s);
        session_commit(s);
    }
    return true;
}

/* What the stack had is posted: an application that asked for it is told so. */
static void answer_looks(struct ffl_instance *in)
{
    struct ffl_session *s;
    in->looking = false;
    TAILQ_FOREACH(s, &in->sessions, link)
    {
        if (!s->looking || s->dead)
            continue;
        s->looking = false;
        answer_post(s, s->look, 0, FFL_NO_BUF);
        session_commit(s);
    }
}

/* ---- the end of an iteration --------------------------------------------------------------- */

/* Embedded: ends when there has been no session for a while, since the last peer came. */
static bool embedded_over(struct ffl_instance *in)
{
    int64_t now = in->timers.now;
    if (!in->o.embedded)
        return false;
    if (in->ledger.n[CHARGE_SESSION] || in->ledger.n[CHARGE_DYING] || in->ledger.n[CHARGE_TICKET]) {
        in->empty_since = 0;
        return false;
    }
    if (!in->empty_since)
        in->empty_since = now;
    return now - in->empty_since >= (in->had_session ? EMBEDDED_LINGER_NS : EMBEDDED_START_NS);
}

/* At the end of an iteration: was it the last? */
static bool over(struct ffl_instance *in)
{
    return atomic_load_explicit(&in->end_asked, memory_order_relaxed) == END_NOW ||
           embedded_over(in) || (in->draining && drain_over(in));
}

static int64_t sooner(int64_t ns, int64_t other)
{
    return ns < other ? ns : other;
}

/* For how long the instance may sleep. */
static int64_t may_sleep(struct ffl_instance *in, int64_t now)
{
    int64_t ns = timers_sleep(&in->timers);
    int64_t deadline = OPS(in)->deadline ? OPS(in)->deadline(ST(in)) : INT64_MAX;
    if (deadline < INT64_MAX)
        ns = sooner(ns, deadline - now);
    if (!TAILQ_EMPTY(&in->sessions))
        ns = sooner(ns, FFL_LOOK_NS);
    if (in->empty_since)
        ns = sooner(ns, EMPTY_PERIOD_NS);
    if (in->draining)
        ns = sooner(ns, in->drain_due - in->timers.now);
    return ns > 0 ? ns : 0;
}

/* Stores the stats pages' present values. */
static void take_notes(struct ffl_instance *in, int64_t now)
{
    struct ffl_session *s;
    TAILQ_FOREACH(s, &in->sessions, link)
    atomic_store_explicit(&s->st->rx_free, s->rx.free_bytes, memory_order_relaxed);
    atomic_store_explicit(&in->page->heartbeat, now, memory_order_relaxed);
}

/* ---- the iteration --------------------------------------------------------------------------- */

static int64_t sessions_due(const struct ffl_instance *in, int64_t due)
{
    const struct ffl_session *s;
    TAILQ_FOREACH(s, &in->sessions, link)
    if (!TAILQ_EMPTY(&s->ready) && session_stuffed(s))
        due = due < STUFFED_NS ? due : STUFFED_NS;
    else if (!TAILQ_EMPTY(&s->ready))
        return 0;
    return due;
}

/* Do all applications sleep with nothing submitted? */
static bool all_asleep(const struct ffl_instance *in)
{
    const struct ffl_session *s;
    TAILQ_FOREACH(s, &in->sessions, link)
    if (!s->dying && (ffl_channel_pending(&s->ch, FFL_WAIT_QUEUE) ||
                      !atomic_load_explicit(&s->map.seg->waits.app, memory_order_relaxed)))
        return false;
    return true;
}

/* For stacks that poll: looks at the SQs for a bounded time before the stack goes on. */
static void linger_on_sqs(struct ffl_instance *in, int64_t now)
{
    int64_t until = now + in->o.sq_poll_us * 1000;
    while (!all_asleep(in) && ffl_now_ns() < until)
        if (!serve_sessions(in))
            ffl_cpu_relax();
}

/* True: there were events. */
static bool look_at_control(struct ffl_instance *in, int64_t now)
{
    bool told = ctl_wait(in, 0) > 0;
    in->ctl_due = now + CTL_PERIOD_NS;
    take_notes(in, now);
    slice_begin(in);
    timers_run(&in->timers, in->slice.end);
    return told;
}

int64_t ffl_instance_iterate(void *p)
{
    struct ffl_instance *in = p;
    ffl_stat_add(&in->page->turns, 1);
    bool work = serve_sessions(in);
    if (!in->stack_quiet || in->looking)
        work |= poll_stack(in);
    in->stack_quiet = false;
    if (ffl_unlikely(in->looking))
        answer_looks(in);
    int64_t now = ffl_now_ns();
    timers_look(&in->timers, now);
    if (OPS(in)->run && !in->o.direct && !TAILQ_EMPTY(&in->sessions) && in->o.sq_poll_us)
        linger_on_sqs(in, now);
    if (now >= in->ctl_due)
        (void)look_at_control(in, now);
    slice_begin(in);
    work |= tickets_close(in);
    work |= groups_forget(in);
    work |= drain_listeners(in);
    endpoint_bury(in);
    work |= session_reap(in);
    if (over(in)) {
        sessions_close(in); /* while the stack can still tell their peers */
        return -1;
    }
    return work ? 0 : sessions_due(in, may_sleep(in, now));
}

/* ---- the sleep ----------------------------------------------------------------------------- */

static void lower_waits(struct ffl_instance *in)
{
    struct ffl_session *s;
    TAILQ_FOREACH(s, &in->sessions, link)
    if (!s->dying)
        ffl_channel_rouse(&s->ch);
}

static bool serves(const struct ffl_session *s)
{
    return !s->dying && !s->dead;
}

/* What the session's part of a sleep is woken by; a full CQ holds the SQ back. */
static uint32_t wait_bits(const struct ffl_session *s)
{
    return (s->ch.over.n > OVER_LIMIT ? 0 : FFL_WAIT_QUEUE) |
           (!TAILQ_EMPTY(&s->stalled) ? FFL_WAIT_FREE : 0);
}

/* Raises each session's wait word. False: an entry is there. */
static bool raise_waits(struct ffl_instance *in)
{
    struct ffl_session *s;
    TAILQ_FOREACH(s, &in->sessions, link)
    {
        if (!serves(s))
            continue;
        int rc = ffl_channel_doze(&s->ch, wait_bits(s));
        session_committed(s, rc);
        if (rc <= 0)
            return false;
    }
    return true;
}

/* Counts sessions with entries for which no doorbell was rung. */
static void count_late(struct ffl_instance *in)
{
    const struct ffl_session *s;
    TAILQ_FOREACH(s, &in->sessions, link)
    if (serves(s) && ffl_channel_pending(&s->ch, FFL_WAIT_QUEUE))
        ffl_stat_add(&in->page->late_looks, 1);
}

/* Has a session what this side would be woken for? */
static bool submitted(const struct ffl_instance *in)
{
    const struct ffl_session *s;
    TAILQ_FOREACH(s, &in->sessions, link)
    if (serves(s) && ffl_channel_pending(&s->ch, wait_bits(s)))
        return true;
    return false;
}

static bool came(void *arg, bool whole)
{
    struct ffl_instance *in = arg;
    if (!whole)
        return submitted(in);
    (void)sched_yield(); /* cannot fail */
    int64_t now = ffl_now_ns();
    bool told = now >= in->ctl_due && look_at_control(in, now);
    return poll_stack(in) || told || submitted(in);
}

static void sleep_for(struct ffl_instance *in, int64_t timeout_ns)
{
    struct ffl_session *s;
    TAILQ_FOREACH(s, &in->sessions, link)
    session_commit(s); /* what the iteration's end has posted */
    if (ffl_idle(&in->idle, &timeout_ns, came, in))
        return;
    if (raise_waits(in)) {
        ffl_stat_add(&in->page->sleeps, 1);
        in->stack_quiet = in->src_stack.owner != NULL; /* unless ctl_wait hears of it */
        if (ctl_wait(in, timeout_ns) == 0 && timeout_ns >= FFL_LOOK_NS)
            count_late(in);
        int64_t now = ffl_now_ns();
        in->ctl_due = now + CTL_PERIOD_NS;
        take_notes(in, now);
    }
    lower_waits(in);
}

/*
 * An iteration of a stack that polls. When all applications sleep after what they have sent,
 * nothing joins their packets in the transmit delay but the peers' next: the loop is left and
 * entered again, which sends them.
 */
static int64_t polling_turn(void *p)
{
    struct ffl_instance *in = p;
    int64_t next = ffl_instance_iterate(in);
    in->flushes = next >= 0 && in->unsent && all_asleep(in);
    in->unsent &= !in->flushes;
    return in->flushes ? -1 : next;
}

static int run_polling(struct ffl_instance *in)
{
    int rc;
    do
        rc = OPS(in)->run(ST(in), polling_turn, in);
    while (rc == 0 && in->flushes);
    return rc;
}

int ffl_instance_run(struct ffl_instance *in)
{
    if (OPS(in)->run)
        return run_polling(in);
    for (;;) {
        int64_t next = ffl_instance_iterate(in);
        if (next < 0)
            return 0;
        if (next == 0)
            continue;
        sleep_for(in, next);
    }
}
