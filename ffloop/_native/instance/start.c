/*
 * start.c - an instance's start and end: its options' defaults, limits, what it opens and closes.
 *
 * Callers: instance.h's.
 */
#include "endpoint.h"
#include "group.h"
#include "life.h"
#include "peers.h"
#include "session.h"
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
#include <unistd.h>

#define SLICE_NS 200000LL
#define POLLING_SLICE_NS 100000LL /* where the stack polls: half a millisecond fills 512 packets */

void ffl_instance_opts_default(struct ffl_instance_opts *o)
{
    *o = (struct ffl_instance_opts){
        .listen_fd = -1,
        .spin_us = FFL_SPIN_AUTO,
        .sq_poll_us = 20,
        .max_sessions = 64,
        .max_sockets = 65536,
        .user_memberships = 1024,
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
#define USER_FILTER 131072 /* instructions */
#define PORT_MOST 16384
#define CAST_MOST 1024 /* a broadcast takes a microsecond for each */
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
    l->user_limit[CHARGE_MEMBERSHIP] = in->o.user_memberships;
    l->user_limit[CHARGE_FILTER] = USER_FILTER;
    in->port_most = PORT_MOST;
    in->cast_most = CAST_MOST;
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
    ffl_spin_init(&in->idle.spin, o->spin_us);
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

void sessions_close(struct ffl_instance *in)
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
    slice_endless(in);
    (void)handover_end(in);
    (void)groups_forget(in);
    endpoint_bury(in);
}

void ffl_instance_free(struct ffl_instance *in)
{
    if (in->page)
        listen_close(in);
    sessions_close(in);
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
