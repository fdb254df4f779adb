/*
 * stats.c - the stats pages: a slot per session and per socket. See shm/stats.h. Each change of a
 * socket's state passes here and is logged.
 *
 * Callers: the other files of instance/. Sessions and sockets without a slot write to a dummy slot.
 */
#include "life.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static struct ffl_stat_session no_session;
static struct ffl_stat_socket no_socket;

int stats_open(struct ffl_instance *in, char *why, size_t whylen)
{
    uint32_t sessions = in->o.max_sessions + in->o.max_sessions / 4 + 16; /* some are dying */
    uint32_t socket_off = (4096 + sessions * sizeof(struct ffl_stat_session) + 4095) & ~4095u;
    uint32_t size = socket_off + FFL_STATS_SOCKETS * sizeof(struct ffl_stat_socket);
    int fd = memfd_create(FFL_STATS_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, size) < 0) {
        int rc = -errno;
        if (fd >= 0)
            close(fd);
        return rc;
    }
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    /* this stays the only writable mapping, even where a peer opens the file anew */
    (void)fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL);
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    in->stats_fd = open(path, O_RDONLY | O_CLOEXEC); /* for readers, by /proc */
    int rc = p == MAP_FAILED || in->stats_fd < 0 ? -errno : 0;
    if (rc == -ENOENT)
        snprintf(why, whylen, "%s is not there: an instance needs /proc to be mounted", path);
    close(fd);
    if (p != MAP_FAILED)
        in->page = p;
    if (rc < 0)
        return rc;
    struct ffl_instance_page *page = in->page;
    page->version = FFL_STATS_VERSION;
    page->pid = (int32_t)getpid();
    page->start_realtime = (int64_t)time(NULL);
    snprintf(page->stack, sizeof(page->stack), "%s", in->o.stack->name);
    page->size = size;
    page->session_off = 4096;
    page->session_slots = sessions;
    page->socket_off = socket_off;
    ffl_ids_init(&in->stat_ids, 0, FFL_STATS_SOCKETS);
    in->stat_sessions = (void *)((char *)p + page->session_off);
    in->stat_sockets = (void *)((char *)p + page->socket_off);
    page->magic = FFL_STATS_MAGIC;
    return 0;
}

void stats_close(struct ffl_instance *in)
{
    if (in->page)
        munmap(in->page, in->page->size);
    ffl_ids_fini(&in->stat_ids);
    in->page = NULL;
}

unsigned ffl_instance_sessions(const struct ffl_instance *in)
{
    return (unsigned)in->ledger.n[CHARGE_SESSION];
}

unsigned ffl_instance_sockets(const struct ffl_instance *in)
{
    return atomic_load_explicit(&in->page->sockets, memory_order_relaxed);
}

/* ---- slots of sessions --------------------------------------------------------------------- */

void stats_session(struct ffl_session *s)
{
    struct ffl_instance *in = s->in;
    s->st = &no_session;
    for (uint32_t i = 0; i < in->page->session_slots; i++) {
        struct ffl_stat_session *st = &in->stat_sessions[i];
        if (atomic_load_explicit(&st->id, memory_order_relaxed))
            continue;
        s->st = st;
        *st = (struct ffl_stat_session){.pid = s->pid,
                                        .uid = s->uid,
                                        .memfd = s->map.memfd,
                                        .start_realtime = (int64_t)time(NULL),
                                        .rx_free = s->rx.free_bytes,
                                        .rx_total = s->rx.total_bytes};
        atomic_store_explicit(&st->id, s->id, memory_order_release); /* pairs with the reader's */
        return;
    }
    ffl_stat_add(&in->page->unlisted, 1);
}

void stats_session_end(struct ffl_session *s)
{
    if (s->st && s->st != &no_session)
        atomic_store_explicit(&s->st->id, 0, memory_order_release);
}

void stats_sessions(struct ffl_instance *in)
{
    const uint64_t *n = in->ledger.n;
    atomic_store_explicit(&in->page->sessions, (uint32_t)n[CHARGE_SESSION], memory_order_relaxed);
    atomic_store_explicit(&in->page->dying, (uint32_t)n[CHARGE_DYING], memory_order_relaxed);
}

/* ---- slots of sockets ---------------------------------------------------------------------- */

void stats_socket(struct endpoint *e)
{
    struct ffl_instance *in = e->s->in;
    int slot = ffl_ids_take(&in->stat_ids);
    if (slot < 0) {
        ffl_stat_add(&in->page->unlisted, 1);
        e->st = &no_socket;
        return;
    }
    atomic_store_explicit(&in->page->socket_top, in->stat_ids.fresh, memory_order_relaxed);
    e->st = &in->stat_sockets[slot];
    *e->st = (struct ffl_stat_socket){
        .session = e->s->id, .handle = e->handle, .type = e->dgram ? SOCK_DGRAM : SOCK_STREAM};
    uint32_t serial = (uint32_t)(e->serial % UINT32_MAX) + 1; /* never 0 */
    atomic_store_explicit(&e->st->serial, serial, memory_order_release);
}

static const char *text(const struct ffl_addr *a, char *to, size_t len)
{
    char ip[INET6_ADDRSTRLEN] = "-";
    if (a->family)
        (void)inet_ntop(a->family, a->ip, ip, sizeof(ip));
    snprintf(to, len, a->family == AF_INET6 ? "[%s]:%u" : "%s:%u", ip, ntohs(a->port_be));
    return to;
}

/* Listeners are few and matter; the other sockets are for debugging. */
static void log_state(const struct endpoint *e, const char *what)
{
    enum ffl_log_level level = e->listener ? FFL_LOG_INFO : FFL_LOG_DEBUG;
    char local[64], peer[64];
    if (!ffl_log_enabled(level) || e->st == &no_socket)
        return;
    const struct ffl_addresses *n = &e->st->addresses;
    ffl_log(level, "session %u: %s socket %s%s%s %s", e->s->id, e->dgram ? "udp" : "tcp",
            text(&n->local, local, sizeof(local)), n->peer.family ? ", peer " : "",
            n->peer.family ? text(&n->peer, peer, sizeof(peer)) : "", what);
}

void stats_socket_end(struct endpoint *e)
{
    struct ffl_instance *in = e->s->in;
    if (e->st == &no_socket)
        return;
    log_state(e, "is closed");
    atomic_store_explicit(&e->st->serial, 0, memory_order_release);
    ffl_ids_give(&in->stat_ids, (uint32_t)(e->st - in->stat_sockets));
    e->st = &no_socket;
}

void stats_state(struct endpoint *e)
{
    static const char *const words[] = {
        [FFL_SOCK_OPEN] = "is open",           [FFL_SOCK_BOUND] = "is bound",
        [FFL_SOCK_LISTENING] = "listens",      [FFL_SOCK_CONNECTING] = "connects",
        [FFL_SOCK_CONNECTED] = "is connected", [FFL_SOCK_PEER_DONE] = "has all its peer sends",
        [FFL_SOCK_FAILED] = "has failed",      [FFL_SOCK_CLOSING] = "is closing"};
    enum ffl_sock_state state = e->closing                      ? FFL_SOCK_CLOSING
                                : e->failed                     ? FFL_SOCK_FAILED
                                : e->connecting                 ? FFL_SOCK_CONNECTING
                                : e->listener                   ? FFL_SOCK_LISTENING
                                : e->rx_done                    ? FFL_SOCK_PEER_DONE
                                : e->st->addresses.peer.family  ? FFL_SOCK_CONNECTED
                                : e->st->addresses.local.family ? FFL_SOCK_BOUND
                                                                : FFL_SOCK_OPEN;
    if (state == atomic_load_explicit(&e->st->state, memory_order_relaxed))
        return;
    atomic_store_explicit(&e->st->state, state, memory_order_relaxed);
    log_state(e, words[state]);
}
