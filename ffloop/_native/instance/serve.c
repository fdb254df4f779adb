/*
 * serve.c - the iteration: drain the SQs, poll the stack, pump ready endpoints, commit and wake
 * once.
 *
 * Callers: main.c, direct.c, tests. An idle iteration is a load or two per session and the
 * stack's poll. A stack with a loop of its own (ops->run) calls the iteration, which then looks at
 * the SQs for a bounded time more: else the stack's transmit delay would hold up each answer.
 */
#include "internal.h"
#include "calls.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sched.h>
#include <unistd.h>

#define OVER_LIMIT 1024 /* completions queued privately; beyond it the SQ waits */
#define STACK_EVENTS 128
#define SLICE_NS 200000LL
#define POLLING_SLICE_NS 100000LL /* where the stack polls: half a millisecond fills 512 packets */
#define CTL_PERIOD_NS 1000000LL   /* between a busy instance's looks at its control epoll */
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
        if (data_pump(e))
            endpoint_ready(e);
    } while (e != last && !slice_over(&s->in->slice));
    return !session_stuffed(s);
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
            if (s->ch.over.n <= OVER_LIMIT)
                work |= session_drain(s, INT32_MAX) > 0;
        }
        if (!s->dead)
            work |= pump_ready(s);
        session_commit(s);
    }
    return work;
}

/* ---- polling the stack --------------------------------------------------------------------- */

static bool poll_stack(struct ffl_instance *in)
{
    struct ffl_stack_event ev[STACK_EVENTS];
    int n = OPS(in)->poll(ST(in), ev, FFL_COUNT(ev));
    if (n < 0) {
        ffl_log(FFL_LOG_ERROR, "stack %s: poll: %s", OPS(in)->name, strerror(-n));
        return false;
    }
    for (int i = 0; i < n; i++)
        data_event(ev[i].udata, &ev[i]);
    if (n == 0)
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

/* Embedded: ends when there has been no session for a while. */
static bool embedded_over(struct ffl_instance *in, int64_t now)
{
    if (!in->o.embedded)
        return false;
    if (in->ledger.n[CHARGE_SESSION] || in->ledger.n[CHARGE_DYING] ||
        in->ledger.n[CHARGE_PENDING] || in->ledger.n[CHARGE_TICKET]) {
        in->empty_since = 0;
        return false;
    }
    if (!in->empty_since)
        in->empty_since = now;
    return now - in->empty_since >= (in->had_session ? EMBEDDED_LINGER_NS : EMBEDDED_START_NS);
}

/* At the end of an iteration: was it the last? */
static bool over(struct ffl_instance *in, int64_t now)
{
    return atomic_load_explicit(&in->end_asked, memory_order_relaxed) == END_NOW ||
           embedded_over(in, now) || (in->draining && drain_over(in, now));
}

static int64_t next_due(struct ffl_instance *in, int64_t now)
{
    int64_t due = INT64_MAX;
    if (OPS(in)->deadline)
        due = OPS(in)->deadline(ST(in));
    if (timers_due(&in->timers) < due)
        due = timers_due(&in->timers);
    if (!TAILQ_EMPTY(&in->sessions) && now + FFL_LOOK_NS < due)
        due = now + FFL_LOOK_NS;
    if (in->empty_since && now + EMPTY_PERIOD_NS < due)
        due = now + EMPTY_PERIOD_NS;
    if (in->draining && in->drain_due < due)
        due = in->drain_due;
    if (due == INT64_MAX)
        return due;
    return due > now ? due - now : 0;
}

/* Stores this side's CPU, so that an application on the same CPU does not spin, and the stats
 * pages' present values. */
static void take_notes(struct ffl_instance *in, int64_t now)
{
    uint32_t cpu = (uint32_t)sched_getcpu();
    struct ffl_session *s;
    TAILQ_FOREACH(s, &in->sessions, link)
    {
        atomic_store_explicit(&s->map.seg->inst.cpu, cpu, memory_order_relaxed);
        atomic_store_explicit(&s->st->rx_free, s->rx.free_bytes, memory_order_relaxed);
    }
    atomic_store_explicit(&in->page->heartbeat, now, memory_order_relaxed);
}

/* Closes every socket; the sessions themselves go with the instance. */
static void close_sessions(struct ffl_instance *in)
{
    struct ffl_session *s;
    struct endpoint *e;
    tickets_end(in); /* first: they need no references to sockets that close */
    TAILQ_FOREACH(s, &in->sessions, link)
    {
        if (!s->dead && !s->ended && !s->dying)
            session_last_word(s, "the instance was stopped");
        s->dying = true; /* nothing more is posted */
        while ((e = TAILQ_FIRST(&s->endpoints)))
            endpoint_close(e);
    }
    handover_end(in);
    slice_endless(in);
    (void)groups_forget(in);
    endpoint_bury(in);
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
    if (OPS(in)->run && !in->o.direct && !TAILQ_EMPTY(&in->sessions) && in->o.sq_poll_us)
        linger_on_sqs(in, now);
    if (work)
        ffl_spin_hit(&in->spin, now);
    if (now >= in->ctl_due) {
        (void)ctl_wait(in, 0);
        in->ctl_due = now + CTL_PERIOD_NS;
        take_notes(in, now);
        slice_begin(in);
        timers_run(&in->timers, now, in->slice.end);
    }
    slice_begin(in);
    work |= tickets_close(in);
    work |= groups_forget(in);
    work |= drain_listeners(in, now);
    endpoint_bury(in);
    work |= session_reap(in);
    if (over(in, now)) {
        close_sessions(in); /* while the stack can still tell their peers */
        return -1;
    }
    return work ? 0 : sessions_due(in, next_due(in, now));
}

/* ---- the sleep ----------------------------------------------------------------------------- */

static void lower_waits(struct ffl_instance *in)
{
    struct ffl_session *s;
    TAILQ_FOREACH(s, &in->sessions, link)
    if (!s->dying)
        ffl_channel_rouse(&s->ch);
}

/* Raises each session's wait word. False: an entry is there. */
static bool raise_waits(struct ffl_instance *in)
{
    struct ffl_session *s;
    TAILQ_FOREACH(s, &in->sessions, link)
    {
        if (s->dying || s->dead)
            continue;
        bool full = s->ch.over.n > OVER_LIMIT;
        int rc = ffl_channel_doze(&s->ch, (full ? 0 : FFL_WAIT_QUEUE) |
                                              (!TAILQ_EMPTY(&s->stalled) ? FFL_WAIT_FREE : 0));
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
    if (!s->dying && !s->dead && ffl_channel_pending(&s->ch, FFL_WAIT_QUEUE))
        ffl_stat_add(&in->page->late_looks, 1);
}

static void sleep_for(struct ffl_instance *in, int64_t timeout_ns)
{
    if (ffl_yield_due(&in->yield)) {
        int64_t took = ffl_yield();
        ffl_yield_done(&in->yield, took, serve_sessions(in));
        return; /* time has passed, even if nothing came */
    }
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

int ffl_instance_run(struct ffl_instance *in)
{
    if (OPS(in)->run)
        return OPS(in)->run(ST(in), ffl_instance_iterate, in);
    for (;;) {
        int64_t next = ffl_instance_iterate(in);
        if (next < 0)
            return 0;
        if (next == 0)
            continue;
        int64_t now = ffl_now_ns();
        if (in->spin.limit_ns && now < ffl_spin_until(&in->spin, in->spin.last_ns)) {
            ffl_cpu_relax();
            continue;
        }
        sleep_for(in, next);
    }
}

/* ---- the instance's start and end ---------------------------------------------------------- */

void ffl_instance_opts_default(struct ffl_instance_opts *o)
{
    *o = (struct ffl_instance_opts){
        .listen_fd = -1,
        .spin_us = FFL_SPIN_AUTO,
        .sq_poll_us = 20,
        .max_sessions = 64,
        .max_sockets = 65536,
        .pool_kib = 128 * 1024,
        .rx_cap = 256 * 1024,
        .entries = 4096,
        .drain_ns = 5 * FFL_NS_PER_SEC,
        .mode = -1,
    };
}

#define PENDING_MAX 64
#define TICKETS_MAX 4096
#define KEPT_MAX 1024
#define USER_KEPT 64
#define USER_MEMBERSHIPS 1024
#define USER_FILTER 131072 /* instructions */
#define PORT_MOST 16384
/* Descriptors of this process: memory, bells, unix socket, pidfd; and a spare. */
#define SESSION_FDS 6

/* Keeps some of the process's descriptors for sessions, however many sockets are open. */
static uint64_t sockets_limit(const struct ffl_instance *in)
{
    struct rlimit rl;
    if (OPS(in)->capacity)
        return (uint64_t)OPS(in)->capacity(ST(in)) / 4 * 3; /* others are closing, or accepted */
    if (!in->o.stack->kernel || getrlimit(RLIMIT_NOFILE, &rl) < 0 || rl.rlim_cur == RLIM_INFINITY)
        return INT64_MAX / 4;
    uint64_t for_peers =
        in->ledger.limit[CHARGE_TICKET] + PENDING_MAX + (uint64_t)SESSION_FDS * in->o.max_sessions;
    return rl.rlim_cur - (for_peers < rl.rlim_cur / 4 ? for_peers : rl.rlim_cur / 4);
}

/* After the stack's start, which raises the limit of descriptors. */
static void set_limits(struct ffl_instance *in)
{
    const struct ffl_policy *p = &in->o.policy;
    struct ledger *l = &in->ledger;
    struct rlimit rl;
    uint64_t tickets = TICKETS_MAX, pool = (uint64_t)in->o.pool_kib * 1024;
    if (getrlimit(RLIMIT_NOFILE, &rl) == 0 && rl.rlim_cur / 8 < tickets)
        tickets = rl.rlim_cur / 8;
    l->shared = p->any_user || p->nusers || p->has_group;
    l->limit[CHARGE_PENDING] = l->user_limit[CHARGE_PENDING] = PENDING_MAX;
    l->limit[CHARGE_SESSION] = in->o.max_sessions;
    l->user_limit[CHARGE_SESSION] = in->o.user_sessions;
    l->limit[CHARGE_TICKET] = tickets;
    l->limit[CHARGE_KEPT] = KEPT_MAX;
    l->user_limit[CHARGE_KEPT] = USER_KEPT;
    l->limit[CHARGE_SOCKET] = sockets_limit(in);
    l->limit[CHARGE_MEMBERSHIP] = l->limit[CHARGE_FILTER] = INT64_MAX;
    l->user_limit[CHARGE_MEMBERSHIP] = USER_MEMBERSHIPS;
    l->user_limit[CHARGE_FILTER] = USER_FILTER;
    in->port_most = PORT_MOST;
    l->limit[CHARGE_BYTES] = 2 * pool;
    l->user_limit[CHARGE_BYTES] = pool / 2; /* bytes given back come out of receive pools */
}

static int open_control(struct ffl_instance *in)
{
    in->ctl = epoll_create1(EPOLL_CLOEXEC);
    in->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    in->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (in->ctl < 0 || in->stop_fd < 0 || in->spare_fd < 0)
        return -errno;
    in->src_stop = (struct src){SRC_STOP, in};
    int rc = ctl_add(in, in->stop_fd, EPOLLIN, &in->src_stop);
    int fd = OPS(in)->wait_fd ? OPS(in)->wait_fd(ST(in)) : -1;
    if (rc == 0 && fd >= 0) {
        in->src_stack = (struct src){SRC_STACK, in};
        rc = ctl_add(in, fd, EPOLLIN, &in->src_stack);
    }
    return rc;
}

int ffl_instance_start(struct ffl_instance **out, const struct ffl_instance_opts *o, char *why,
                       size_t whylen)
{
    struct ffl_instance *in = calloc(1, sizeof(*in));
    why[0] = '\0';
    if (!in) {
        snprintf(why, whylen, "%s", strerror(ENOMEM));
        return -ENOMEM;
    }
    in->o = *o;
    in->ctl = in->stop_fd = in->stats_fd = in->listen_fd = in->spare_fd = -1;
    in->path.dir = in->path.lock = -1;
    TAILQ_INIT(&in->pending);
    TAILQ_INIT(&in->sessions);
    TAILQ_INIT(&in->graveyard);
    TAILQ_INIT(&in->dropped);
    STAILQ_INIT(&in->forgotten);
    TAILQ_INIT(&in->kept);
    if (!o->slice_ns)
        in->o.slice_ns = o->stack->run ? POLLING_SLICE_NS : SLICE_NS;
    ffl_spin_init(&in->spin, o->spin_us);
    int rc = ffl_calls_check(why, whylen);
    if (rc == 0 && getrandom(in->held_key, sizeof(in->held_key), 0) != sizeof(in->held_key))
        rc = -EIO;
    if (rc == 0)
        rc = stats_open(in, why, whylen);
    if (rc == 0)
        rc = o->stack->start(&in->stack.st, &o->stack_opts, why, whylen);
    if (rc == 0) {
        in->stack.ops = o->stack;
        set_limits(in);
        rc = open_control(in);
    }
    if (rc == 0)
        rc = listen_open(in, why, whylen);
    if (rc == 0)
        ffl_instance_describe(in, in->page->describe, sizeof(in->page->describe));
    if (rc < 0) {
        if (!why[0])
            snprintf(why, whylen, "%s", ffl_strerror(-rc));
        ffl_instance_free(in);
        return rc;
    }
    rights_start(in);
    if (!o->direct)
        lost_guard(in); /* after the stack: F-Stack's start handles the signal for a while */
    *out = in;
    return 0;
}

static void ask_end(struct ffl_instance *in, enum end_kind kind)
{
    uint64_t one = 1;
    atomic_store_explicit(&in->end_asked, (int)kind, memory_order_relaxed);
    ssize_t n = write(in->stop_fd, &one, sizeof(one)); /* full: readable already */
    (void)n;
}

void ffl_instance_stop(struct ffl_instance *in)
{
    ask_end(in, END_NOW);
}

void ffl_instance_drain(struct ffl_instance *in)
{
    if (atomic_load_explicit(&in->end_asked, memory_order_relaxed) == END_NONE)
        ask_end(in, END_DRAIN);
}

void ffl_instance_free(struct ffl_instance *in)
{
    if (in->page)
        listen_close(in);
    close_sessions(in);
    struct ffl_session *s;
    while ((s = TAILQ_FIRST(&in->sessions))) {
        TAILQ_REMOVE(&in->sessions, s, link);
        session_free(s);
    }
    lost_unguard(in);
    if (in->stack.ops)
        OPS(in)->stop(ST(in));
    int fds[] = {in->ctl, in->stop_fd, in->stats_fd, in->spare_fd};
    for (size_t i = 0; i < FFL_COUNT(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    stats_close(in);
    ledger_free(&in->ledger);
    free(in);
}

void ffl_instance_describe(struct ffl_instance *in, char *buf, size_t len)
{
    buf[0] = '\0';
    if (OPS(in)->describe)
        OPS(in)->describe(ST(in), buf, len);
}
