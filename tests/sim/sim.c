/*
 * sim.c - the sim stack: an in-memory network with a clock of its own. Options, descriptors, poll.
 *
 * Callers: instance/ through ffl_sim_ops; tests also through sim.h. Nothing leaves the process and
 * nothing blocks; with clock=manual the same calls give the same events for ever. Options:
 *   clock=real|manual     latency=NS (one way)      window=BYTES (a socket's receive window)
 *   local=ADDR            may be bound; repeat (default: any address)
 *   blackhole=ADDR        never answers; repeat     max_sockets=N (then EMFILE)
 *   load=PORT ...         the load source, see sim_load.c
 */
#include "sim_internal.h"

#include <arpa/inet.h>
#include <stdio.h>

#define DEFAULT_WINDOW 65536

/* ---- options ------------------------------------------------------------------------------- */

int sim_number(const char *key, const char *val, uint64_t lo, uint64_t hi, uint64_t *out, char *why,
               size_t whylen)
{
    char *end;
    errno = 0;
    unsigned long long n = strtoull(val, &end, 10);
    if (*val < '0' || *val > '9' || *end || errno || n < lo || n > hi) {
        snprintf(why, whylen,
                 "the sim stack's option %s wants a number from %llu to %llu, not '%s'", key,
                 (unsigned long long)lo, (unsigned long long)hi, val);
        return -EINVAL;
    }
    *out = n;
    return 0;
}

static int add_addr(struct ffl_addr *set, unsigned *n, const char *key, const char *val, char *why,
                    size_t whylen)
{
    struct ffl_addr a = {.family = AF_INET};
    if (inet_pton(AF_INET, val, a.ip) != 1) {
        a.family = AF_INET6;
        if (inet_pton(AF_INET6, val, a.ip) != 1) {
            snprintf(why, whylen, "the sim stack's option %s wants an address, not '%s'", key, val);
            return -EINVAL;
        }
    }
    if (*n == SIM_ADDRS) {
        snprintf(why, whylen, "the sim stack takes %d times %s=", SIM_ADDRS, key);
        return -EINVAL;
    }
    set[(*n)++] = ffl_addr_plain(&a);
    return 0;
}

static int option(struct sim *m, const char *key, const char *val, char *why, size_t whylen)
{
    uint64_t n = 0;
    int rc = 0;
    if (strcmp(key, "clock") == 0) {
        m->manual = strcmp(val, "manual") == 0;
        if (m->manual || strcmp(val, "real") == 0)
            return 0;
        snprintf(why, whylen, "the sim stack's clock is real or manual, not '%s'", val);
        return -EINVAL;
    }
    if (strcmp(key, "latency") == 0) {
        rc = sim_number(key, val, 0, 3600 * (uint64_t)FFL_NS_PER_SEC, &n, why, whylen);
        m->latency = (int64_t)n;
        return rc;
    }
    if (strcmp(key, "window") == 0) {
        rc = sim_number(key, val, 1, 1u << 30, &n, why, whylen);
        m->window = (uint32_t)n;
        return rc;
    }
    if (strcmp(key, "max_sockets") == 0) {
        rc = sim_number(key, val, 1, 1u << 24, &n, why, whylen);
        m->max_fds = (uint32_t)n;
        return rc;
    }
    if (strcmp(key, "local") == 0)
        return add_addr(m->local, &m->nlocal, key, val, why, whylen);
    if (strcmp(key, "blackhole") == 0)
        return add_addr(m->hole, &m->nhole, key, val, why, whylen);
    return sim_load_option(m, key, val, why, whylen);
}

static int options(struct sim *m, const struct ffl_stack_opts *opts, char *why, size_t whylen)
{
    for (int i = 0; i < opts->argc; i++) {
        char key[32];
        const char *eq = strchr(opts->argv[i], '=');
        size_t len = eq ? (size_t)(eq - opts->argv[i]) : 0;
        if (!eq || len == 0 || len >= sizeof(key)) {
            snprintf(why, whylen, "the sim stack's options are key=value, not '%s'", opts->argv[i]);
            return -EINVAL;
        }
        memcpy(key, opts->argv[i], len);
        key[len] = '\0';
        int rc = option(m, key, eq + 1, why, whylen);
        if (rc < 0)
            return rc;
    }
    return sim_load_check(m, why, whylen);
}

/* ---- start, stop --------------------------------------------------------------------------- */

static void sim_stop(void *st);

static int sim_start(void **st, const struct ffl_stack_opts *opts, char *why, size_t whylen)
{
    struct sim *m = calloc(1, sizeof(*m));
    if (!m) {
        snprintf(why, whylen, "out of memory");
        return -ENOMEM;
    }
    m->window = DEFAULT_WINDOW;
    m->max_fds = 1u << 24;
    m->clock = FFL_NS_PER_SEC;
    m->next_port = 10000;
    m->ready.prev = m->ready.next = &m->ready;
    int rc = options(m, opts, why, whylen);
    if (rc < 0) {
        sim_stop(m);
        return rc;
    }
    *st = m;
    return 0;
}

static int sim_close_fd(void *st, int fd);

static void sim_stop(void *st)
{
    struct sim *m = st;
    sim_load_free(m); /* reports if it had not finished; its sockets go first */
    for (uint32_t i = 0; i < m->nfds; i++)
        if (m->fds[i])
            (void)sim_close_fd(m, (int)i);
    sim_run_drop(m);
    free(m->heap);
    free(m->fds);
    free(m->freed);
    free(m);
}

static void sim_describe(void *st, char *buf, size_t len)
{
    struct sim *m = st;
    int n = snprintf(buf, len, "in memory, %s clock, latency %lld ns",
                     m->manual ? "manual" : "real", (long long)m->latency);
    if (n > 0 && (size_t)n < len)
        sim_load_describe(m, buf + n, len - (size_t)n);
}

/* ---- descriptors --------------------------------------------------------------------------- */

static struct ref *find(struct sim *m, int fd)
{
    return fd >= 0 && (uint32_t)fd < m->nfds ? m->fds[fd] : NULL;
}

static int fd_slot(struct sim *m)
{
    if (m->nfreed)
        return (int)m->freed[--m->nfreed];
    if (m->nfds == m->cap_fds) {
        uint32_t cap = m->cap_fds ? m->cap_fds * 2 : 64;
        struct ref **fds = realloc(m->fds, cap * sizeof(struct ref *));
        if (!fds)
            return -ENOMEM;
        m->fds = fds;
        uint32_t *freed = realloc(m->freed, cap * sizeof(*freed)); /* closing cannot fail */
        if (!freed)
            return -ENOMEM;
        m->freed = freed;
        m->cap_fds = cap;
    }
    m->fds[m->nfds] = NULL;
    return (int)m->nfds++;
}

int sim_fd_new(struct sim *m, struct sock *s)
{
    if (m->open_fds >= m->max_fds)
        return -EMFILE;
    struct ref *r = calloc(1, sizeof(*r));
    if (!r)
        return -ENOMEM;
    int fd = fd_slot(m);
    if (fd < 0) {
        free(r);
        return fd;
    }
    m->fds[fd] = r;
    m->open_fds++;
    r->fd = fd;
    r->s = s;
    if (!s->refs)
        sim_hold(s); /* all descriptors together */
    r->sibling = s->refs;
    s->refs = r;
    return fd;
}

static void unready(struct ref *r)
{
    if (!r->ready)
        return;
    r->prev->next = r->next;
    r->next->prev = r->prev;
    r->ready = false;
}

static int sim_close_fd(void *st, int fd)
{
    struct sim *m = st;
    struct ref *r = find(m, fd);
    if (!r)
        return -EBADF;
    struct sock *s = r->s;
    struct ref **p = &s->refs;
    while (*p != r)
        p = &(*p)->sibling;
    *p = r->sibling;
    unready(r);
    free(r);
    m->fds[fd] = NULL;
    m->freed[m->nfreed++] = (uint32_t)fd;
    m->open_fds--;
    if (!s->refs) {
        sim_close(s);
        sim_drop(s);
    }
    return 0;
}

static int sim_dup(void *st, int fd)
{
    struct ref *r = find(st, fd);
    return r ? sim_fd_new(st, r->s) : -EBADF;
}

static int sim_socket(void *st, int domain, int type, int proto)
{
    struct sim *m = st;
    type &= ~(SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (domain != AF_INET && domain != AF_INET6)
        return -EAFNOSUPPORT;
    if (type != SOCK_STREAM && type != SOCK_DGRAM)
        return -ESOCKTNOSUPPORT;
    if (proto != 0 && proto != (type == SOCK_STREAM ? IPPROTO_TCP : IPPROTO_UDP))
        return -EPROTONOSUPPORT;
    struct sock *s = sim_sock_new(m, domain, type);
    if (!s)
        return -ENOMEM;
    int fd = sim_fd_new(m, s);
    sim_drop(s); /* the descriptor holds it, or nobody does */
    return fd;
}

/* ---- readiness ----------------------------------------------------------------------------- */

static void ref_raise(struct ref *r, unsigned filters)
{
    struct sim *m = r->s->sim;
    filters &= r->filters;
    if (!filters)
        return;
    r->pending |= (uint8_t)filters;
    if (r->ready)
        return;
    r->ready = true;
    r->prev = m->ready.prev;
    r->next = &m->ready;
    r->prev->next = r->next->prev = r;
}

void sim_raise(struct sock *s, unsigned filters)
{
    for (struct ref *r = s->refs; r; r = r->sibling)
        ref_raise(r, filters);
}

static unsigned true_now(const struct sock *s)
{
    return (sim_readable(s) ? FFL_READ : 0) | (sim_writable(s) ? FFL_WRITE : 0);
}

static int sim_watch(void *st, int fd, unsigned filters, void *udata)
{
    struct ref *r = find(st, fd);
    if (!r)
        return -EBADF;
    if (r->filters)
        return -EEXIST;
    r->filters = filters & (FFL_READ | FFL_WRITE);
    r->udata = udata;
    ref_raise(r, true_now(r->s));
    return 0;
}

static int32_t known_bytes(const struct sock *s)
{
    if (s->state == SIM_LISTENING)
        return (int32_t)s->acc_n;
    if (s->type == SOCK_DGRAM)
        return s->dq ? (int32_t)s->dq->len : 0;
    return (int32_t)s->rx_len;
}

static int sim_poll(void *st, struct ffl_stack_event *ev, int max)
{
    struct sim *m = st;
    sim_run_due(m);
    int n = 0;
    while (n < max && m->ready.next != &m->ready) {
        struct ref *r = m->ready.next;
        const struct sock *s = r->s;
        unsigned pending = r->pending & true_now(s); /* it may have been read meanwhile */
        unready(r);
        r->pending = 0;
        if (!pending)
            continue;
        ev[n++] = (struct ffl_stack_event){
            .udata = r->udata,
            .filter = (uint8_t)pending,
            .eof = s->fin_in || s->error || s->reset,
            .data = pending & FFL_READ ? known_bytes(s) : 0,
        };
    }
    return n;
}

static int sim_wait_fd(void *st)
{
    return -1; /* events come from calls and from the clock, and deadline tells of both */
}

static int64_t sim_deadline(void *st)
{
    const struct sim *m = st;
    if (m->ready.next != &m->ready)
        return 0;
    if (m->nheap == 0 || (m->manual && m->heap[0].due > m->clock))
        return INT64_MAX;
    return m->heap[0].due;
}

/* ---- the calls that only find the socket --------------------------------------------------- */

#define SOCK_OF(st, fd, s)                                                                         \
    struct ref *ref_ = find(st, fd);                                                               \
    if (ffl_unlikely(!ref_))                                                                       \
        return -EBADF;                                                                             \
    struct sock *s = ref_->s

static int sim_bind_fd(void *st, int fd, const struct ffl_addr *a)
{
    SOCK_OF(st, fd, s);
    if (s->bound || s->state != SIM_FRESH)
        return -EINVAL;
    return sim_bind(s, a);
}

static int sim_listen(void *st, int fd, int backlog)
{
    SOCK_OF(st, fd, s);
    return sim_do_listen(s, backlog);
}

static int sim_accept(void *st, int fd, struct ffl_addr *peer)
{
    SOCK_OF(st, fd, s);
    return sim_do_accept(s, peer);
}

static int sim_backlog(void *st, int fd)
{
    SOCK_OF(st, fd, s);
    return (int)s->acc_n;
}

static int sim_connect(void *st, int fd, const struct ffl_addr *a)
{
    SOCK_OF(st, fd, s);
    return sim_do_connect(s, a);
}

static int sim_send(void *st, int fd, const struct iovec *iov, int n, const struct ffl_addr *to,
                    const struct ffl_ctl *ctl, int flags)
{
    if (ctl) /* it has none */
        return -EINVAL;
    SOCK_OF(st, fd, s);
    return sim_do_send(s, iov, n, to);
}

static int sim_recv(void *st, int fd, const struct iovec *iov, int n, struct ffl_addr *from,
                    struct ffl_ctl *ctl, int *msg_flags)
{
    SOCK_OF(st, fd, s);
    return sim_do_recv(s, iov, n, from, msg_flags);
}

static int sim_shutdown(void *st, int fd, int how)
{
    SOCK_OF(st, fd, s);
    return sim_do_shutdown(s, how);
}

static int sim_setsockopt(void *st, int fd, int level, int name, const void *val, uint32_t len)
{
    SOCK_OF(st, fd, s);
    return sim_opt_set(s, level, name, val, len);
}

static int sim_getsockopt(void *st, int fd, int level, int name, void *val, uint32_t *len)
{
    SOCK_OF(st, fd, s);
    return sim_opt_get(s, level, name, val, len);
}

static int sim_sockname(void *st, int fd, bool peer, struct ffl_addr *a)
{
    SOCK_OF(st, fd, s);
    if (peer && !(s->type == SOCK_DGRAM ? s->remote.family != 0 : s->state == SIM_CONNECTED))
        return -ENOTCONN;
    *a = peer ? s->remote : s->local;
    a->family = s->domain;
    return 0;
}

/* ---- for tests ----------------------------------------------------------------------------- */

int64_t ffl_sim_now(const void *st)
{
    return sim_clock(st);
}

void ffl_sim_advance(void *st, int64_t ns)
{
    struct sim *m = st;
    int64_t until = m->clock + ns;
    while (m->manual && m->nheap && m->heap[0].due <= until) {
        if (m->heap[0].due > m->clock)
            m->clock = m->heap[0].due; /* what it sends on counts from then */
        sim_run_due(m);
    }
    m->clock = until;
}

void ffl_sim_count(const void *st, struct ffl_sim_counts *out)
{
    const struct sim *m = st;
    *out = m->n;
    out->fds = m->open_fds;
    out->events = m->nheap;
}

const struct ffl_stack_ops ffl_sim_ops = {
    .name = "sim",
    .start = sim_start,
    .stop = sim_stop,
    .wait_fd = sim_wait_fd,
    .deadline = sim_deadline,
    .describe = sim_describe,
    .socket = sim_socket,
    .dup = sim_dup,
    .close = sim_close_fd,
    .bind = sim_bind_fd,
    .listen = sim_listen,
    .accept = sim_accept,
    .backlog = sim_backlog,
    .connect = sim_connect,
    .send = sim_send,
    .recv = sim_recv,
    .shutdown = sim_shutdown,
    .setsockopt = sim_setsockopt,
    .getsockopt = sim_getsockopt,
    .sockname = sim_sockname,
    .watch = sim_watch,
    .poll = sim_poll,
};
