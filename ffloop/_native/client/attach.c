/*
 * attach.c - a session's beginning and end, in this process and across fork.
 *
 * Callers: client.h's users. A forked child does not inherit the segment (MADV_DONTFORK), and
 * closes the descriptors: a child that outlives its parent must not keep the session.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define LAST_CALLS_MS 500
#define DEFAULT_TX_CAP (4 * 1024 * 1024) /* as the kernel's own send buffers (tcp_wmem) */

static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static struct ffl_client *all;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

/* The client's descriptors; the epoll, which has some of the others, is last. */
#define FDS(c) {&(c)->sock, &(c)->app_bell, &(c)->inst_bell, &(c)->map.memfd, &(c)->own_epfd}

static void close_fds(struct ffl_client *c)
{
    int *fds[] = FDS(c);
    for (size_t i = 0; i < FFL_COUNT(fds); i++)
        ffl_close(fds[i], c->close_fd);
}

/* ---- fork ---------------------------------------------------------------------------------- */

void ffl_client_before_fork(void)
{
    pthread_mutex_lock(&all_lock);
}

static void fork_parent(void)
{
    pthread_mutex_unlock(&all_lock);
}

/* In the child, which does not inherit the segment: maps zeros in the segment's place, so that a
 * detached client can be read. Without memory there is no segment. */
static void blank(struct ffl_map *m)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
    if (m->seg && mmap(m->seg, m->geo.size, PROT_READ | PROT_WRITE, flags, -1, 0) != m->seg)
        m->seg = NULL;
}

static void fork_child(void)
{
    for (struct ffl_client *c = all; c; c = c->next) {
        c->detached = ECONNRESET;
        blank(&c->map);
        close_fds(c);
    }
    all = NULL; /* the child's own children need nothing of these */
    pthread_mutex_unlock(&all_lock);
}

void ffl_client_unmap(struct ffl_client *c)
{
    ffl_segment_drop(&c->map);
}

void ffl_client_after_fork(bool child)
{
    child ? fork_child() : fork_parent();
}

static void register_fork(void)
{
    /* ENOMEM: without handlers */
    (void)pthread_atfork(ffl_client_before_fork, fork_parent, fork_child);
}

void ffl_client_at_fork(void)
{
    pthread_once(&fork_once, register_fork);
}

/* ---- attach and detach --------------------------------------------------------------------- */

static int alloc_tables(struct ffl_client *c)
{
    const struct ffl_geo *g = &c->map.geo;
    uint32_t nrx = ffl_pool_total(&g->rx), ntx = ffl_pool_total(&g->tx);
    c->n = g->max_sockets;
    ffl_ids_init(&c->ids, 0, c->n);
    c->table = calloc(2 * (size_t)c->n, sizeof(*c->table));
    c->tx_handle = calloc(ntx, sizeof(uint32_t));
    c->tx_serial = calloc(ntx, sizeof(uint32_t));
    c->rx = calloc(nrx, sizeof(*c->rx));
    c->batch = calloc(nrx, sizeof(*c->batch));
    c->batch_sock = calloc(nrx, sizeof(*c->batch_sock));
    c->batch_addresses = calloc(nrx, sizeof(*c->batch_addresses));
    if (!c->table || !c->tx_handle || !c->tx_serial || !c->rx || !c->batch || !c->batch_sock ||
        !c->batch_addresses)
        return -ENOMEM;
    for (uint32_t cls = 0; cls < FFL_CLASSES; cls++)
        c->rx_total += (uint64_t)g->rx.count[cls] << ffl_class_shift[cls];
    return ffl_pool_init(&c->tx, &g->tx);
}

static int open_own_epoll(struct ffl_client *c)
{
    struct epoll_event bell = {.events = EPOLLIN | EPOLLET, .data.fd = c->app_bell};
    struct epoll_event sock = {.events = EPOLLIN | EPOLLRDHUP, .data.fd = c->sock};
    c->own_epfd = epoll_create1(EPOLL_CLOEXEC);
    if (c->own_epfd < 0 || epoll_ctl(c->own_epfd, EPOLL_CTL_ADD, c->app_bell, &bell) < 0 ||
        epoll_ctl(c->own_epfd, EPOLL_CTL_ADD, c->sock, &sock) < 0)
        return -errno;
    return 0;
}

static int set_up(struct ffl_client *c, int memfd)
{
    int rc = ffl_segment_map(&c->map, memfd);
    if (rc < 0) {
        close(memfd);
        return rc;
    }
    ffl_channel_open(&c->ch, &c->map, FFL_SIDE_APP, c->inst_bell, client_ring);
    rc = alloc_tables(c);
    return rc < 0 ? rc : open_own_epoll(c);
}

static void client_free(struct ffl_client *c)
{
    for (uint32_t h = 0; c->table && h < 2 * c->n; h++)
        if (c->table[h])
            client_sock_free(c, c->table[h]);
    while (c->spare) {
        struct client_sock *s = c->spare;
        c->spare = s->wait_next;
        free(s);
    }
    close_fds(c);
    ffl_segment_drop(&c->map);
    ffl_pool_fini(&c->tx);
    free(c->table);
    free(c->tx_handle);
    free(c->tx_serial);
    free(c->rx);
    free(c->batch);
    free(c->batch_sock);
    free(c->batch_addresses);
    ffl_ids_fini(&c->ids);
    free(c->closed);
    ffl_channel_close(&c->ch);
    free(c);
}

/* Moves the client's descriptors by place_fd. The epoll, which has them by number, is made anew. */
static int place_fds(struct ffl_client *c, const struct ffl_client_opts *o)
{
    ffl_close(&c->own_epfd, c->close_fd);
    c->close_fd = o->close_fd;
    int *fds[] = FDS(c);
    for (size_t i = 0; i < FFL_COUNT(fds) - 1; i++)
        *fds[i] = o->place_fd(*fds[i]);
    c->ch.peer_bell = c->inst_bell;
    int rc = open_own_epoll(c);
    if (c->own_epfd >= 0)
        c->own_epfd = o->place_fd(c->own_epfd);
    return rc;
}

/* The client's epoll has the descriptors by number: a new epoll takes its place, under the old
 * number. */
bool ffl_client_moved(struct ffl_client *c, int from, int to)
{
    int *fds[] = FDS(c);
    size_t i = 0;
    while (i < FFL_COUNT(fds) && *fds[i] != from)
        i++;
    if (i == FFL_COUNT(fds))
        return false;
    *fds[i] = to;
    c->ch.peer_bell = c->inst_bell;
    c->poll.wake_fd = -1;
    int epfd = c->own_epfd;
    if (epfd != to && open_own_epoll(c) == 0) {
        (void)dup3(c->own_epfd, epfd, O_CLOEXEC); /* cannot fail: both are open */
        close(c->own_epfd);
    }
    c->own_epfd = epfd;
    return true;
}

static bool plain_copy(void *to, const void *from, size_t n)
{
    memcpy(to, from, n);
    return true;
}

/* Pool size, KiB per direction: an eighth of RLIMIT_AS; 0: no limit. */
static uint32_t pool_within_limit(void)
{
    struct rlimit as;
    if (getrlimit(RLIMIT_AS, &as) < 0 || as.rlim_cur == RLIM_INFINITY)
        return 0;
    uint64_t kib = as.rlim_cur / 1024 / 8;
    return kib > INT32_MAX ? INT32_MAX : (uint32_t)kib;
}

int ffl_client_attach(struct ffl_client **out, const struct ffl_client_opts *o, char *why,
                      size_t whylen)
{
    why[0] = '\0';
    struct ffl_client *c = calloc(1, sizeof(*c));
    if (!c) {
        snprintf(why, whylen, "%s", strerror(ENOMEM));
        return -ENOMEM;
    }
    *c = (struct ffl_client){.sock = -1,
                             .app_bell = -1,
                             .inst_bell = -1,
                             .own_epfd = -1,
                             .copy = o->copy ? o->copy : plain_copy,
                             .timeout_ms = client_limit_ms(o->timeout_ms),
                             .driver = o->driver,
                             .map = {.memfd = -1},
                             .tx_cap = o->tx_cap ? o->tx_cap : DEFAULT_TX_CAP};
    c->waiters_end = &c->waiters;
    c->arming = 2; /* 0: never armed; 1: disarmed */
    struct ffl_hello h = {.magic = FFL_MAGIC,
                          .version = FFL_ABI_VERSION,
                          .kind = FFL_HELLO_ATTACH,
                          .max_sockets = o->max_sockets,
                          .pool_kib = o->pool_kib ? o->pool_kib : pool_within_limit()};
    struct ffl_reply r;
    int fds[FFL_ATTACH_FDS];
    int rc = c->sock = client_connect(o, why, whylen);
    if (rc >= 0)
        rc = client_shake_hands(c->sock, &h, &r, fds, FFL_ATTACH_FDS, o, why, whylen);
    if (rc >= 0) {
        c->app_bell = fds[1];
        c->inst_bell = fds[2];
        c->inst_pid = r.pid;
        memcpy(c->stack, r.stack, sizeof(c->stack) - 1);
        ffl_spin_init(&c->sleeper.idle.spin, o->spin_us);
        c->caller = c->sleeper;
        rc = set_up(c, fds[0]);
    }
    if (rc >= 0 && o->place_fd)
        rc = place_fds(c, o);
    if (rc < 0) {
        if (!why[0])
            snprintf(why, whylen, "cannot use the session's memory: %s", ffl_strerror(-rc));
        client_free(c);
        return rc;
    }
    c->poll.wake_fd = -1; /* no kicks: a wait reads the ready list before it sleeps */
    ffl_client_at_fork();
    pthread_mutex_lock(&all_lock);
    c->next = all;
    all = c;
    pthread_mutex_unlock(&all_lock);
    *out = c;
    return 0;
}

static int write_rest(int fd, const struct ffl_fifo *rest)
{
    const char *from = (const char *)(rest->e + rest->head);
    size_t left = rest->n * sizeof(*rest->e);
    while (left) {
        ssize_t n = write(fd, from, left);
        if (n < 0)
            return -errno;
        from += n;
        left -= (size_t)n;
    }
    return fcntl(fd, F_ADD_SEALS, FFL_REST_SEALS) < 0 ? -errno : 0;
}

/* Leaves entries that found the SQ full to the instance, in a memfd: send has reported their bytes
 * as taken. */
static void leave_rest(struct ffl_client *c)
{
    if (c->detached)
        return;
    client_commit(c);
    for (uint32_t before = 0; c->driver && c->ch.over.n && c->ch.over.n != before;) {
        before = c->ch.over.n;
        client_drive(c);
        client_reap(c);
    }
    struct ffl_rest r = {.magic = FFL_MAGIC, .n = c->ch.over.n};
    if (!r.n || c->detached)
        return;
    ffl_close(&c->app_bell, c->close_fd); /* frees a descriptor for the memfd */
    int fd = memfd_create("ffloop-rest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int rc = fd < 0 ? -errno : write_rest(fd, &c->ch.over);
    if (rc == 0)
        rc = ffl_msg_send(c->sock, &r, sizeof(r), &fd, 1);
    if (fd >= 0)
        close(fd);
    if (rc < 0)
        ffl_log(FFL_LOG_ERROR, "%u submissions are lost with their session: %s", r.n,
                strerror(-rc));
}

/* Closes listeners: sessions that share them get the connections that were accepted ahead. */
static void close_listeners(struct ffl_client *c)
{
    bool returning = false;
    for (uint32_t h = 0; h < 2 * c->n && !c->detached; h++)
        if (c->table[h] && c->table[h]->listener && !c->table[h]->closing)
            (void)ffl_client_close(c, (int)h, false);
    for (uint32_t h = 0; h < 2 * c->n && !c->detached; h++)
        returning |= c->table[h] && c->table[h]->returning;
    if (!returning) /* connections not reaped yet: the instance returns them */
        return;
    int usual = c->timeout_ms;
    if (usual > LAST_CALLS_MS)
        c->timeout_ms = LAST_CALLS_MS;
    /* One round trip for connections on their way here, one for their return. Without an answer the
     * instance resets the rest. */
    if (ffl_client_ping(c) == 0)
        (void)ffl_client_ping(c);
    c->timeout_ms = usual;
}

void ffl_client_detach(struct ffl_client *c)
{
    pthread_mutex_lock(&all_lock);
    for (struct ffl_client **p = &all; *p; p = &(*p)->next)
        if (*p == c) {
            *p = c->next;
            break;
        }
    pthread_mutex_unlock(&all_lock);
    close_listeners(c);
    leave_rest(c);
    client_free(c);
}

/* ---- small accessors ----------------------------------------------------------------------- */

void client_lose(struct ffl_client *c, int err, const char *why)
{
    if (c->detached)
        return;
    c->detached = err;
    snprintf(c->why, sizeof(c->why), "%s", why);
    ffl_log(FFL_LOG_INFO, "session with instance %d ended: %s", c->inst_pid, why);
    for (uint32_t h = 0; h < 2 * c->n; h++) /* their next calls fail */
        if (c->table[h])
            client_sock_tell(c->table[h], FFL_WATCH_ALL);
}

void ffl_client_lost(struct ffl_client *c)
{
    char last[sizeof(c->why)] = "the instance ended";
    char said[sizeof(last)];
    client_reap(c); /* completions from before its end */
    int n = ffl_confined ? 0 : ffl_msg_recv(c->sock, said, sizeof(said) - 1, NULL, NULL);
    if (n > 0) {
        said[n] = '\0';
        client_clean(said, sizeof(said));
        memcpy(last, said, sizeof(last));
    }
    client_lose(c, ECONNRESET, last);
}

struct client_sock *client_sock(const struct ffl_client *c, int h)
{
    if (h < 0 || (uint32_t)h >= 2 * c->n || !c->table[h] || c->table[h]->closing)
        return NULL;
    return c->table[h];
}

int ffl_client_detached(const struct ffl_client *c)
{
    return -c->detached;
}

const char *ffl_client_why(const struct ffl_client *c)
{
    return c->why;
}

int ffl_client_doorbell_fd(const struct ffl_client *c)
{
    return c->app_bell;
}

int ffl_client_session_fd(const struct ffl_client *c)
{
    return c->sock;
}

int ffl_client_memfd(const struct ffl_client *c)
{
    return c->map.memfd;
}

uint32_t ffl_client_size(const struct ffl_client *c)
{
    return c->map.geo.size;
}

int ffl_client_instance_pid(const struct ffl_client *c)
{
    return c->inst_pid;
}

const char *ffl_client_stack(const struct ffl_client *c)
{
    return c->stack;
}

int ffl_client_open_sockets(const struct ffl_client *c)
{
    return c->open;
}

void ffl_client_stats(const struct ffl_client *c, struct ffl_session_stats *o)
{
    *o = (struct ffl_session_stats){0};
    if (!c->map.seg)
        return;
    const struct ffl_app_stats *a = &c->map.seg->app;
    const struct ffl_inst_stats *i = &c->map.seg->inst;
#define LOAD(x) atomic_load_explicit(&(x), memory_order_relaxed)
    *o = (struct ffl_session_stats){.submitted = LOAD(a->submitted),
                                    .reaped = LOAD(a->reaped),
                                    .sleeps = LOAD(a->sleeps),
                                    .app_wakes = LOAD(a->wakes),
                                    .spins = LOAD(a->spins),
                                    .spin_hits = LOAD(a->spin_hits),
                                    .sq_full = LOAD(a->sq_full),
                                    .tx_empty = LOAD(a->pool_empty),
                                    .bytes_sent = LOAD(a->bytes_sent),
                                    .bytes_received = LOAD(a->bytes_received),
                                    .consumed = LOAD(i->consumed),
                                    .posted = LOAD(i->posted),
                                    .inst_wakes = LOAD(i->wakes),
                                    .cq_full = LOAD(i->cq_full),
                                    .rx_empty = LOAD(i->pool_empty),
                                    .accepts = LOAD(i->accepts),
                                    .app_sockets = (uint32_t)c->open,
                                    .inst_sockets = LOAD(i->sockets)};
#undef LOAD
}

struct ffl_lag *ffl_client_lag(const struct ffl_client *c)
{
    return c->map.seg ? &c->map.seg->lag : NULL;
}
