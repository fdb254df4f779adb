/*
 * session.c - a session's life, and posting to its CQ.
 *
 * Callers: the other files of instance/. A session is attached, then dying (its application is
 * gone, submitted data is still sent, sockets are closed a slice per iteration), then freed.
 * Completions that find the CQ full wait in a private queue; meanwhile the pumps post nothing for
 * the session, so that operations under way bound the queue.
 */
#include "endpoint.h"
#include "group.h"
#include "life.h"
#include "peers.h"
#include "pump.h"
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

#define COMMIT_EVERY 8 /* entries: an application that is awake works meanwhile */

/* ---- submissions --------------------------------------------------------------------------- */

/* Operations that only queue or set a flag; the others call the stack. */
static bool is_cheap(uint8_t op)
{
    return op == FFL_OP_SEND || op == FFL_OP_ARM || op == FFL_OP_DISARM || op == FFL_OP_NOP;
}

static int execute(void *arg, struct ffl_entry e)
{
    struct ffl_session *s = arg;
    const char *why = NULL;
    int rc = control_entry(s, e, &why);
    if (rc < 0)
        session_kill(s, why);
    if (s->dead)
        return -ECANCELED;
    if (rc == FFL_CHANNEL_LATER)
        return rc;
    slice_spend(&s->in->slice, is_cheap(e.op) ? SLICE_ENTRY_NS : SLICE_CALL_NS);
    return slice_over(&s->in->slice);
}

int session_drain(struct ffl_session *s, int most)
{
    if (s->dying || s->dead)
        return 0;
    int n = ffl_channel_drain(&s->ch, most, execute, s);
    if (n == -EPROTO)
        session_kill(s, "SQ tail out of range");
    return n;
}

/* ---- completions --------------------------------------------------------------------------- */

void session_post(struct ffl_session *s, struct ffl_entry e)
{
    /* No application reads; buffers go with the session. Connections and data go to others
     * (handover_unseen). */
    if (s->dying || (s->ended && e.op != FFL_OP_ACCEPT && e.op != FFL_OP_RECV))
        return;
    int rc = ffl_channel_put(&s->ch, e);
    if (ffl_unlikely(rc < 0))
        session_kill(s, rc == -EPROTO ? "CQ head out of range" : "out of memory for completions");
    else if (s->ch.out.tail % COMMIT_EVERY == 0)
        ffl_channel_show(&s->ch);
}

bool session_stuffed(const struct ffl_session *s)
{
    return s->ch.over.n > 0;
}

void session_committed(struct ffl_session *s, int rc)
{
    if (rc == -EPROTO)
        session_kill(s, "CQ head out of range");
    else if (rc == -EINTR) /* -EAGAIN: full, so readable already */
        session_kill(s, "its doorbell blocks");
}

void session_commit(struct ffl_session *s)
{
    if (s->dying || s->dead)
        return;
    session_committed(s, ffl_channel_commit(&s->ch));
}

void *session_buf(struct ffl_session *s, const struct ffl_pool_geo *p, uint32_t buf)
{
    return (char *)s->map.seg + ffl_buf_off(p, buf);
}

/* The tx-free ring has a slot per buffer of the pool, and each buffer at most once
 * (tx[].outstanding): it is full only where the application has moved its head backwards. */
void session_tx_release(struct ffl_session *s, uint32_t buf)
{
    s->tx[ffl_buf_slot(&s->map.geo.tx, buf)].outstanding = false;
    if (s->dying)
        return;
    if (ffl_channel_give(&s->ch, buf) < 0)
        session_kill(s, "tx-free head out of range");
}

/* ---- a session's life ---------------------------------------------------------------------- */

/* The socket's pidfd (Linux 6.5) is the peer's in every PID namespace; pid 0: the peer's namespace
 * is not seen from here. Where the kernel knows it and has none, the peer has ended, and its number
 * may be another's. */
static int pidfd_of(int sock, pid_t pid)
{
    int fd = -1;
    socklen_t len = sizeof(fd);
    if (getsockopt(sock, SOL_SOCKET, SO_PEERPIDFD, &fd, &len) == 0)
        return fd;
    return errno == ENOPROTOOPT && pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
}

static int session_alloc(struct ffl_session *s, const struct ffl_hello *h)
{
    const struct ffl_instance_opts *o = &s->in->o;
    uint32_t sockets = o->max_sockets, kib = o->pool_kib;
    if (h->max_sockets && h->max_sockets < sockets)
        sockets = h->max_sockets;
    if (h->pool_kib && h->pool_kib < kib)
        kib = h->pool_kib;
    struct ffl_geo geo;
    ffl_geo_default(&geo, sockets, kib);
    geo.ring_size[FFL_SQ] = geo.ring_size[FFL_CQ] = o->entries;
    geo.session = s->id;
    int rc = ffl_segment_create(&s->map, &geo, o->huge);
    if (rc < 0)
        return rc;
    rc = ffl_pool_init(&s->rx, &s->map.geo.rx);
    if (rc < 0)
        return rc;
    TAILQ_INIT(&s->ready);
    TAILQ_INIT(&s->stalled);
    s->n = sockets;
    ffl_ids_init(&s->ids, s->n, 2 * s->n);
    s->table = calloc(2 * (size_t)s->n, sizeof(*s->table));
    s->rx_owner = calloc(ffl_pool_total(&geo.rx), sizeof(*s->rx_owner));
    s->rx_handle = calloc(ffl_pool_total(&geo.rx), sizeof(*s->rx_handle));
    s->tx = calloc(ffl_pool_total(&geo.tx), sizeof(*s->tx));
    if (!s->table || !s->rx_owner || !s->rx_handle || !s->tx)
        return -ENOMEM;
    s->pidfd = pidfd_of(s->sock, s->pid);
    s->caps = rights_of(s);
    s->app_bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->inst_bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->app_bell < 0 || s->inst_bell < 0)
        return -errno;
    ffl_channel_open(&s->ch, &s->map, FFL_SIDE_INST, s->app_bell, bell_ring);
    return 0;
}

static int session_watch(struct ffl_session *s)
{
    s->src_sock = (struct src){SRC_SESSION, s};
    s->src_pid = (struct src){SRC_PIDFD, s};
    s->src_bell = (struct src){SRC_DOORBELL, s};
    int rc = ctl_add(s->in, s->sock, EPOLLIN | EPOLLRDHUP, &s->src_sock);
    if (rc == 0)
        rc = ctl_add(s->in, s->inst_bell, EPOLLIN | EPOLLET, &s->src_bell);
    /* A child forked without exec keeps the socket open, so the process's end counts too. */
    if (rc == 0 && s->pidfd >= 0)
        rc = ctl_add(s->in, s->pidfd, EPOLLIN, &s->src_pid);
    return rc;
}

int session_new(struct ffl_instance *in, int sock, const struct ffl_hello *h,
                const struct ucred *cred, struct account *a, struct ffl_session **out)
{
    int rc = ledger_charge(&in->ledger, a, CHARGE_SESSION, 1);
    if (rc < 0)
        return rc;
    struct ffl_session *s = calloc(1, sizeof(*s));
    if (!s) {
        ledger_discharge(&in->ledger, a, CHARGE_SESSION, 1);
        return -ENOMEM;
    }
    *s = (struct ffl_session){.in = in,
                              .sock = sock,
                              .pidfd = -1,
                              .rest = -1,
                              .app_bell = -1,
                              .inst_bell = -1,
                              .pid = cred->pid,
                              .uid = cred->uid,
                              .account = ledger_hold(&in->ledger, cred->uid), /* it exists */
                              .id = ++in->next_id,
                              .map = {.memfd = -1}};
    TAILQ_INIT(&s->endpoints);
    LIST_INIT(&s->shares);
    s->arming = 1;
    rc = session_alloc(s, h);
    if (rc == 0)
        rc = session_watch(s);
    if (rc < 0) {
        s->sock = -1; /* still the caller's */
        ledger_discharge(&in->ledger, a, CHARGE_SESSION, 1);
        session_free(s);
        return rc;
    }
    stats_session(s);
    TAILQ_INSERT_TAIL(&in->sessions, s, link);
    stats_sessions(in);
    ffl_stat_add(&in->page->sessions_total, 1);
    *out = s;
    return 0;
}

/* The application is gone: its socket, pidfd and doorbell are closed. */
static void disconnect(struct ffl_session *s)
{
    ctl_drop(s->in, &s->sock, closer_drop);
    ffl_close(&s->pidfd, NULL);
    ctl_drop(s->in, &s->inst_bell, NULL);
}

void session_free(struct ffl_session *s)
{
    stats_session_end(s);
    tickets_forget(s);
    disconnect(s);
    ffl_close(&s->rest, NULL);
    ffl_close(&s->app_bell, NULL);
    ffl_pool_fini(&s->rx);
    ffl_segment_drop(&s->map);
    free(s->table);
    free(s->rx_owner);
    free(s->rx_handle);
    free(s->tx);
    ffl_ids_fini(&s->ids);
    ffl_channel_close(&s->ch);
    ledger_drop(&s->in->ledger, s->account);
    free(s);
}

/* A dying session keeps its memory: as many may be dying, per user and in all, as may be attached.
 * One more cuts off the oldest: the user's own, else of the user with most. */
static void cut_short(struct ffl_instance *in, struct account *a)
{
    uint64_t may = in->o.user_sessions ? in->o.user_sessions : in->o.max_sessions;
    const struct account *of = a->n[CHARGE_DYING] >= may ? a : NULL;
    if (!of && in->ledger.n[CHARGE_DYING] >= in->o.max_sessions)
        of = ledger_most(&in->ledger, CHARGE_DYING);
    struct ffl_session *s;
    TAILQ_FOREACH(s, &in->sessions, link) /* the oldest first */
    if (of && s->dying && !s->cut && s->account == of)
        break;
    if (of && s) {
        s->cut = true;
        s->sweep = TAILQ_FIRST(&s->endpoints);
    }
}

static void go_dying(struct ffl_session *s)
{
    struct ffl_instance *in = s->in;
    cut_short(in, s->account);
    s->dying = true;
    atomic_store_explicit(&s->st->dying, 1, memory_order_relaxed);
    ledger_move(&in->ledger, s->account, CHARGE_SESSION, CHARGE_DYING);
    stats_sessions(in);
    disconnect(s);
    s->sweep = TAILQ_FIRST(&s->endpoints);
}

void session_last_word(struct ffl_session *s, const char *why)
{
    if (s->sock >= 0)
        (void)ffl_msg_send(s->sock, why, strlen(why), NULL, 0); /* the application may be gone */
}

void session_kill(struct ffl_session *s, const char *why)
{
    if (s->dead)
        return;
    s->dead = true; /* go_dying runs at the end of the iteration, in session_reap */
    ffl_log_within(&s->account->log, FFL_LOG_ERROR, "session %u (pid %d, uid %u) ended: %s", s->id,
                   (int)s->pid, (unsigned)s->uid, why);
    ffl_stat_add(&s->in->page->sessions_killed, 1);
    session_last_word(s, why);
}

#define LAST_MSGS 16
#define REST_MOST (1u << 20) /* entries; more than it has buffers and sockets for */

/* Takes a memfd that can change no more, so that reading it never waits. */
static void take_rest(struct ffl_session *s, int fd, const struct ffl_rest *r, bool whole)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    if (!whole || s->rest >= 0 || r->magic != FFL_MAGIC || r->n > REST_MOST || seals < 0 ||
        (seals & FFL_REST_SEALS) != FFL_REST_SEALS || fstat(fd, &st) < 0 ||
        (size_t)st.st_size != r->n * sizeof(struct ffl_entry)) {
        closer_close(fd);
        session_kill(s, "what it leaves behind is not a rest");
        return;
    }
    s->rest = fd;
    s->rest_n = r->n;
}

/* Takes a message of the application's. 1: there was one; 0: there is none; -1: it is the last. */
static int take_message(struct ffl_session *s)
{
    union {
        struct ffl_rest rest;
        struct ffl_ticket_msg brings;
    } m;
    int fd = -1, got = s->sock < 0 ? 0 : closer_recv(s->sock, &m, sizeof(m), &fd);
    if (got == -EAGAIN)
        return 0;
    if (got == -EMFILE) {
        admit_lost(s->account);
        return 1;
    }
    bool brings = got == sizeof(m.brings) && m.brings.what == FFL_TICKET_CONNECT && fd >= 0;
    if (brings)
        admit_peer(s->in, fd, true);
    else if (fd >= 0)
        take_rest(s, fd, &m.rest, got == sizeof(m.rest));
    return brings ? 1 : -1;
}

void session_event(struct ffl_session *s)
{
    if (!closer_busy() && take_message(s) < 0) /* busy: told again */
        session_end(s);
}

/* Entries that the application committed before its end will be executed, as a process's writes
 * before its exit are sent. */
void session_end(struct ffl_session *s)
{
    if (s->dying || s->ended)
        return;
    s->ended = true;
    s->sweep = NULL;
    int n = ffl_ring_avail(&s->ch.in);
    s->last = n > 0 ? (unsigned)n : 0;
    for (int i = 0; i < LAST_MSGS && take_message(s) > 0; i++)
        ;
    disconnect(s);
    ffl_log_within(&s->account->log, FFL_LOG_INFO, "session %u (pid %d) detached, %u sockets open",
                   s->id, (int)s->pid, s->open);
}

#define REST_ENTRIES 64 /* read at once */

static void execute_rest(struct ffl_session *s)
{
    struct ffl_entry e[REST_ENTRIES];
    bool more = true;
    while (more && s->rest_at < s->rest_n) {
        uint32_t n = s->rest_n - s->rest_at < REST_ENTRIES ? s->rest_n - s->rest_at : REST_ENTRIES;
        ssize_t got = pread(s->rest, e, n * sizeof(*e), (off_t)(s->rest_at * sizeof(*e)));
        if (got != (ssize_t)(n * sizeof(*e))) {
            session_kill(s, "its rest cannot be read");
            return;
        }
        for (uint32_t i = 0; more && i < n; i++) {
            int rc = execute(s, e[i]);
            s->rest_at += rc != FFL_CHANNEL_LATER;
            more = rc == 0;
        }
    }
}

static void last_entries(struct ffl_session *s)
{
    while (s->last && !s->dead) {
        int n = session_drain(s, s->last > INT32_MAX ? INT32_MAX : (int)s->last);
        bool over = slice_over(&s->in->slice);
        s->last = n > 0 ? s->last - (unsigned)n : over ? s->last : 0;
        if (over)
            break;
    }
    if (!s->last && !s->dead)
        execute_rest(s);
    if ((s->last || s->rest_at < s->rest_n) && !s->dead)
        return;
    if (!s->dead)
        handover_unseen(s);
    go_dying(s);
}

/* Closes a dying session's socket: at once, or when its rest is sent. */
static void leave(struct endpoint *e)
{
    if (e->s->cut) {
        endpoint_close(e);
        return;
    }
    if (e->from && !e->touched) /* accepted ahead: goes back to the listener's other references */
        e->reset = !group_return(e);
    control_close(e, e->s->dead);
    if (!e->dead)
        endpoint_timer(e, DYING_LINGER_NS);
}

#define RELEASE_BYTES (2u << 20) /* of memory at once */

/* Releases the memory that a gone application has left, by pieces: the last close would release all
 * of it. Huge pages are few. True: it is done. */
static bool release_memory(struct ffl_session *s)
{
    while (s->ended && !s->in->o.huge && s->released < s->map.geo.size) {
        if (slice_over(&s->in->slice))
            return false;
        slice_spend_call(&s->in->slice, 0);
        (void)fallocate(s->map.memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                        (off_t)s->released, RELEASE_BYTES); /* in vain: the close does it */
        s->released += RELEASE_BYTES;
    }
    return true;
}

/* True: the session can be freed. */
static bool session_go(struct ffl_session *s)
{
    slice_begin(s->in);
    if (s->dead && !s->dying)
        go_dying(s);
    else if (s->ended && !s->dying)
        last_entries(s);
    while (s->sweep) { /* at least one endpoint per slice: the sweep ends */
        struct endpoint *e = s->sweep;
        if (!endpoint_clear(e))
            break;
        s->sweep = TAILQ_NEXT(e, all);
        leave(e);
        slice_spend_call(&s->in->slice, 0);
        if (slice_over(&s->in->slice))
            break;
    }
    return s->dying && TAILQ_EMPTY(&s->endpoints) && release_memory(s);
}

bool session_reap(struct ffl_instance *in)
{
    struct ffl_session *s = TAILQ_FIRST(&in->sessions), *next;
    bool more = false;
    for (; s; s = next) {
        next = TAILQ_NEXT(s, link);
        if (!s->dead && !s->ended && !s->dying)
            continue;
        if (!session_go(s)) {
            more |= !s->dying || s->sweep || TAILQ_EMPTY(&s->endpoints);
            continue;
        }
        TAILQ_REMOVE(&in->sessions, s, link);
        endpoint_bury(in); /* buried endpoints point to the session */
        ledger_discharge(&in->ledger, s->account, CHARGE_DYING, 1);
        stats_sessions(in);
        session_free(s);
    }
    return more;
}
