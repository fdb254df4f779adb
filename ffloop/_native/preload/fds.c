/*
 * fds.c - the table of descriptors; dup and close.
 *
 * Callers: everything. A table by descriptor, in chunks made when first used, read without a lock:
 * a call on a descriptor without a node goes straight to the kernel. The shim's own descriptors are
 * moved to high numbers: the program gets the numbers that it would get natively, and its close,
 * dup2 and closefrom do not reach the shim's.
 */
#include "preload.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

_Atomic(_Atomic(struct node *) *) fd_chunks[FD_CHUNKS];

static struct node ours = {.kind = NODE_OURS, .fds = 1};
/* In place of a descriptor's node until the kernel has closed the descriptor: a thread that looks
 * without the lock never takes the placeholder for a kernel socket. */
static struct node closing = {.kind = NODE_OURS, .fds = 1};

static _Atomic(struct node *) *slot(int fd)
{
    if ((unsigned)fd >= FD_CHUNK * FD_CHUNKS)
        return NULL;
    _Atomic(struct node *) *chunk =
        atomic_load_explicit(&fd_chunks[fd / FD_CHUNK], memory_order_acquire);
    if (!chunk) {
        _Atomic(struct node *) *fresh = calloc(FD_CHUNK, sizeof(*fresh));
        if (!fresh)
            return NULL;
        /* pairs with the acquire in fd_node; without a lock in FF_THREAD_SOCKET */
        if (atomic_compare_exchange_strong(&fd_chunks[fd / FD_CHUNK], &chunk, fresh))
            chunk = fresh;
        else
            free(fresh);
    }
    return &chunk[fd % FD_CHUNK];
}

/* ---- the thread that owns a node ------------------------------------------------------------- */

static pthread_mutex_t table = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

void table_lock(void)
{
    if (options.per_thread)
        pthread_mutex_lock(&table);
}

void table_unlock(void)
{
    if (options.per_thread)
        pthread_mutex_unlock(&table);
}

void table_forked(void)
{
    table_unlock(); /* fails: the thread that has locked it had another number */
    table = (pthread_mutex_t)PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
}

static int self(void)
{
    static _Atomic int threads;
    if (!tls.id)
        tls.id = atomic_fetch_add(&threads, 1) + 1;
    return tls.id;
}

bool node_mine(struct node *n)
{
    if (!options.per_thread)
        return true;
    int me = self(), owner = atomic_load_explicit(&n->owner, memory_order_relaxed);
    if (ffl_likely(owner == me || owner == -me))
        return true;
    if (owner <= 0) {
        table_lock(); /* of several threads one imports an inherited socket */
        owner = atomic_load_explicit(&n->owner, memory_order_relaxed);
        if (owner <= 0) {
            owner = owner == NODE_INHERITED ? me : -me;
            atomic_store_explicit(&n->owner, owner, memory_order_relaxed);
        }
        table_unlock();
    }
    if (owner > 0 && owner != me) {
        static _Atomic bool told;
        if (!atomic_exchange(&told, true))
            report("FF_THREAD_SOCKET=1: a socket or an epoll belongs to another thread (EXDEV)");
        return false;
    }
    return true;
}

void node_inherited(struct node *n)
{
    if (!options.per_thread)
        return;
    bool socket = n->kind == NODE_SOCK && ((struct sock *)n)->session;
    bool stays = socket ? n->source.watches != NULL              /* it is in an epoll, */
                        : n->kind == NODE_EPOLL && n->owner > 0; /* which has stack sockets */
    int owner = stays ? self() : socket ? NODE_INHERITED : -self();
    atomic_store_explicit(&n->owner, owner, memory_order_relaxed);
}

void node_placed(struct node *n)
{
    if (options.per_thread)
        atomic_store_explicit(&n->owner, self(), memory_order_relaxed);
}

int fd_set_node(int fd, struct node *n)
{
    _Atomic(struct node *) *p = slot(fd);
    if (!p)
        return -ENOMEM;
    struct stat st;
    if (n->kind == NODE_SOCK && !n->ino && fstat(fd, &st) == 0)
        n->ino = st.st_ino;
    n->fds++;
    n->cloexec = false;
    atomic_store_explicit(p, n, memory_order_release);
    return 0;
}

/* kqueue goes by descriptors, epoll by open sockets. */
static void forget_kqueues(struct sock *s, int fd)
{
    struct ffl_watch *next;
    for (struct ffl_watch *w = s->node.source.watches; w; w = next) {
        struct epoll_shadow *ep = watch_epoll(w);
        next = w->next;
        if (!ep || !ep->kq.ops || watch_item(w)->fd != fd)
            continue;
        ffl_kqueue_forget(&ep->kq, fd); /* both filters; each has an item */
        epoll_forget(watch_item(w));
    }
}

static void node_free(struct node *n)
{
    if (n->kind == NODE_SOCK)
        sock_free((struct sock *)n);
    else
        epoll_free((struct epoll_shadow *)n);
}

void node_put(struct node *n)
{
    if (n->held) /* 0: in a child, the call began in the parent */
        n->held--;
    if (!n->held && !n->fds)
        node_free(n);
}

static void replace(int fd, struct node *by)
{
    _Atomic(struct node *) *p = slot(fd);
    struct node *n = p ? atomic_load_explicit(p, memory_order_relaxed) : NULL;
    if (!n)
        return;
    table_lock();
    atomic_store_explicit(p, by, memory_order_release);
    table_unlock();
    if (n->kind == NODE_SOCK)
        forget_kqueues((struct sock *)n, fd);
    if (n->kind != NODE_OURS && --n->fds == 0 && !n->held)
        node_free(n);
}

void fd_drop(int fd)
{
    replace(fd, NULL);
}

bool node_reaches(const struct node *n)
{
    if (!options.per_thread)
        return true;
    int owner = n->owner;
    return abs(owner) == self() || owner == NODE_LEFT || owner == NODE_INHERITED ||
           n->kind == NODE_OURS;
}

#define AHEAD 8 /* nodes: a pass over thousands of them mostly waits for memory */

static void each(void (*f)(int fd, struct node *n, void *arg), void *arg, bool all)
{
    for (int i = 0; i < FD_CHUNKS; i++) {
        _Atomic(struct node *) *chunk = atomic_load_explicit(&fd_chunks[i], memory_order_relaxed);
        for (int k = 0; chunk && k < FD_CHUNK; k++) {
            struct node *n = atomic_load_explicit(&chunk[k], memory_order_relaxed);
            if (k + AHEAD < FD_CHUNK)
                __builtin_prefetch(atomic_load_explicit(&chunk[k + AHEAD], memory_order_relaxed));
            if (n && (all || node_reaches(n)))
                f(i * FD_CHUNK + k, n, arg);
        }
    }
}

static struct node *hidden;

void fd_hidden(struct node *n)
{
    hidden = n;
}

void fd_each(void (*f)(int fd, struct node *n, void *arg), void *arg)
{
    table_lock();
    each(f, arg, false);
    if (hidden)
        f(-1, hidden, arg);
    table_unlock();
}

void fd_forked(void (*f)(int fd, struct node *n, void *arg))
{
    table = (pthread_mutex_t)PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
    each(f, NULL, true);
}

/* The lowest number for the shim's descriptors: near the limit, but the kernel's table stays
 * small. */
static int high(void)
{
    struct rlimit rl;
    long top = 1024;
    if (getrlimit(RLIMIT_NOFILE, &rl) == 0)
        top = rl.rlim_cur > 4096 ? 4096 : (long)rl.rlim_cur;
    return (int)(top > 512 ? top - 256 : top / 2);
}

int fd_ours(int fd)
{
    if (fd < 0)
        return -errno;
    int moved = real.fcntl(fd, F_DUPFD_CLOEXEC, high());
    if (moved >= 0) {
        real.close(fd);
        fd = moved;
    }
    fd_ours_keep(fd);
    return fd;
}

void fd_ours_keep(int fd)
{
    _Atomic(struct node *) *p = slot(fd);
    if (p)
        atomic_store_explicit(p, &ours, memory_order_release);
}

void fd_ours_close(int fd)
{
    _Atomic(struct node *) *p = fd >= 0 ? slot(fd) : NULL;
    if (p)
        atomic_store_explicit(p, NULL, memory_order_release);
    if (fd >= 0)
        real.close(fd);
}

/* ---- descriptors closed past the shim ------------------------------------------------------ */

/* Puts `by` in the place of fd's node n. False: n is another thread's; any thread may drop a node
 * whose thread has ended. */
static bool drop(int fd, struct node *n, struct node *by)
{
    bool left = n->owner == NODE_LEFT;
    if (!left && !node_mine(n))
        return false;
    if (left)
        table_lock();
    replace(fd, by);
    if (left)
        table_unlock();
    return true;
}

bool fd_holds(int fd)
{
    struct node *n = fd_node(fd);
    struct stat st;
    if (!n || n->kind != NODE_SOCK || (fstat(fd, &st) == 0 && st.st_ino == n->ino))
        return n != NULL;
    (void)drop(fd, n, NULL); /* another thread's: that thread will see it */
    return false;
}

void fd_ended(int fd)
{
    if (tls.inside)
        return; /* the shim's own call: it keeps the table itself */
    int saved = errno;
    lock();
    struct node *n = fd_node(fd);
    if (n && n->kind == NODE_OURS)
        atomic_store_explicit(slot(fd), NULL, memory_order_release);
    else if (n)
        (void)drop(fd, n, NULL); /* another thread's: that thread's calls fail */
    unlock();
    errno = saved;
}

/* ---- close --------------------------------------------------------------------------------- */

/* The kernel has closed fd; a new descriptor may have its number already. */
static void closed(int fd, struct node *n, void *unused)
{
    (void)unused;
    if (n == &closing)
        atomic_compare_exchange_strong(slot(fd), &n, NULL);
}

API int close(int fd)
{
    real_start();
    if (!maybe_ours(fd))
        return real.close(fd);
    lock();
    struct node *n = fd_node(fd);
    if (n && n->kind == NODE_OURS) /* the program has not opened it */
        return (int)leave(-EBADF);
    if (n && !drop(fd, n, &closing))
        return (int)leave(-EXDEV);
    int rc = real.close(fd) < 0 ? -errno : 0;
    if (n)
        closed(fd, &closing, NULL);
    return (int)leave(rc);
}
ALSO(close, __close);

struct range {
    unsigned first, last;
    int cut[256], cuts; /* in the range, not to be closed: the shim's, other threads'; ascending */
};

static void close_in(int fd, struct node *n, void *arg)
{
    struct range *r = arg;
    if ((unsigned)fd < r->first || (unsigned)fd > r->last)
        return;
    if (n->kind != NODE_OURS && drop(fd, n, &closing))
        return;
    if (r->cuts < (int)FFL_COUNT(r->cut))
        r->cut[r->cuts++] = fd;
}

static int close_all(unsigned first, unsigned last, int flags)
{
    struct range r = {.first = first, .last = last};
    int rc = 0;
    lock();
    proc_closes(true);
    table_lock();
    each(close_in, &r, true);
    table_unlock();
    proc_closes(false);
    for (int i = 0; i <= r.cuts && rc == 0; i++) {
        unsigned end = i < r.cuts ? (unsigned)r.cut[i] - 1 : last;
        if (first <= end)
            rc = real.close_range(first, end, flags) < 0 ? -errno : 0;
        if (i < r.cuts)
            first = (unsigned)r.cut[i] + 1;
    }
    each(closed, NULL, true);
    return (int)leave(rc);
}

API int close_range(unsigned first, unsigned last, int flags)
{
    real_start();
    if (tls.inside || !started || first > last || (flags & ~(2 | 4))) /* UNSHARE, CLOEXEC */
        return real.close_range(first, last, flags);
    if (flags & 4)
        return real.close_range(first, last, flags); /* the shim's have CLOEXEC already */
    return close_all(first, last, flags);
}

API void closefrom(int low)
{
    real_start();
    if (tls.inside || !started)
        real.closefrom(low);
    else
        (void)close_all(low < 0 ? 0 : (unsigned)low, UINT_MAX, 0);
}

/* ---- dup ----------------------------------------------------------------------------------- */

/* `copy`, which the kernel made of fd, gets fd's node: copy or -errno. */
static int copied(int fd, int copy)
{
    if (copy < 0)
        return -errno;
    struct node *n = fd_holds(fd) ? fd_node(fd) : NULL, *was = fd != copy ? fd_node(copy) : NULL;
    if (was)
        (void)drop(copy, was, NULL); /* it was closed past the shim */
    if (!n)
        return copy;
    if (n->kind == NODE_OURS || !node_mine(n)) {
        real.close(copy);
        return n->kind == NODE_OURS ? -EBADF : -EXDEV;
    }
    if (fd_set_node(copy, n) < 0) {
        real.close(copy);
        return -ENOMEM;
    }
    return copy;
}

API int dup(int fd)
{
    real_start();
    if (!maybe_ours(fd))
        return fd_made(real.dup(fd));
    lock();
    return (int)leave(copied(fd, real.dup(fd)));
}

/* Moves the shim's descriptor from a number that the program wants: 0, or EBUSY, dup2(2)'s error
 * for "a race with open() and dup()", for a descriptor that cannot be moved. */
static int make_way(int fd)
{
    int to = real.fcntl(fd, F_DUPFD_CLOEXEC, high());
    if (to < 0)
        to = real.fcntl(fd, F_DUPFD_CLOEXEC, 3); /* no number that high is free */
    if (to >= 0 && fd_ours_moved(fd, to)) {
        fd_ours_keep(to);
        atomic_store_explicit(slot(fd), NULL, memory_order_release);
        return 0;
    }
    if (to >= 0)
        real.close(to);
    return -EBUSY;
}

static int dup_to(int fd, int to, int flags, bool three)
{
    struct node *n = fd_node(to);
    if (n && n->kind == NODE_OURS) {
        int rc = real.fcntl(fd, F_GETFD) < 0 ? -errno : make_way(to);
        if (rc < 0)
            return rc;
        n = NULL;
    }
    if (n && n->owner != NODE_LEFT && !node_mine(n))
        return -EXDEV;
    int copy = three ? real.dup3(fd, to, flags) : real.dup2(fd, to);
    return fd == to ? (copy < 0 ? -errno : copy) : copied(fd, copy);
}

API int dup2(int fd, int to)
{
    real_start();
    if (!maybe_ours(fd) && !maybe_ours(to))
        return real.dup2(fd, to);
    lock();
    return (int)leave(dup_to(fd, to, 0, false));
}
ALSO(dup2, __dup2);

API int dup3(int fd, int to, int flags)
{
    real_start();
    if ((!maybe_ours(fd) && !maybe_ours(to)) || (flags & ~O_CLOEXEC))
        return real.dup3(fd, to, flags);
    lock();
    return (int)leave(dup_to(fd, to, flags, true));
}

/* The program changes the flag. */
static void ask_cloexec(int fd)
{
    lock();
    struct node *n = fd_node(fd);
    if (n)
        n->cloexec = false;
    unlock();
}

static int duplicate(int fd, int cmd, int low)
{
    lock();
    return (int)leave(copied(fd, real.fcntl(fd, cmd, low)));
}

API int fcntl(int fd, int cmd, ...)
{
    real_start();
    va_list ap;
    va_start(ap, cmd);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    bool copies = cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC;
    if (!maybe_ours(fd))
        return copies ? fd_made(real.fcntl(fd, cmd, arg)) : real.fcntl(fd, cmd, arg);
    if (copies)
        return duplicate(fd, cmd, (int)(long)arg);
    if (cmd == F_SETFD)
        ask_cloexec(fd);
    int rc = real.fcntl(fd, cmd, arg); /* the placeholder keeps all flags */
    if (rc == 0 && cmd == F_SETFL) {
        struct sock *s = sock_enter(fd);
        if (s) {
            s->nonblock = (int)(long)arg & O_NONBLOCK;
            rc = (int)leave(async_set(s, fd, (int)(long)arg & O_ASYNC));
        }
    }
    return rc;
}
ALSO(fcntl, __fcntl);
ALSO(fcntl, fcntl64);
