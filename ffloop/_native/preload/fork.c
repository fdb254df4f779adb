/*
 * fork.c - stack sockets across fork.
 *
 * Callers: the C library at fork, the program. The parent gives back what was read or accepted
 * ahead, and puts references to all sockets into a ticket that the child inherits. At its first
 * call on a socket the child attaches through the ticket and imports the socket. A program may have
 * thousands of sockets and fork often: parent and child read each record, and write to few, since
 * a write costs a copy of the page. Epolls: again.c.
 */
#include "proc.h"

#include <linux/sched.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static void look_at(int fd, struct node *n, void *listeners)
{
    struct epoll_shadow *ep = (struct epoll_shadow *)n;
    struct sock *s = (struct sock *)n;
    if (n->kind == NODE_EPOLL && ep->poll.watches)
        epoll_stale(ep);
    if (n->kind != NODE_SOCK)
        return;
    if (!s->session)
        sock_place_early(s, fd);
    if (fd_node(fd) == n && s->state == SOCK_LISTENING && s->session)
        sock_list_add(listeners, s, fd);
}

static void before_fork(void)
{
    struct sock_list listeners = {0};
    lock();
    proc_import_all();
    fd_each(look_at, &listeners);
    for (struct session *session = session_first(); session; session = session->next)
        if (session->socks && !ffl_client_detached(session->c))
            session->ticket = proc_export_all(session, &listeners);
    free(listeners.m);
    table_lock(); /* the limit is raised, or not, in the kernel's copy and in the memory's */
    alloc_before_fork();
}

static void fork_parent(void)
{
    alloc_after_fork();
    table_unlock();
    for (struct session *session = session_first(); session; session = session->next) {
        fd_ours_close(session->ticket.fd);
        session->ticket.fd = -1;
    }
    proc_exported();
    unlock();
}

/* FF_THREAD_SOCKET: the socket is another thread's, or is for another one to import. */
static bool others(const struct sock *s)
{
    return options.per_thread && s->node.kind == NODE_SOCK && s->session &&
           (!s->session->inherited || !node_reaches(&s->node));
}

static void forgo(struct sock *s)
{
    if (s->session->inherited)
        session_put(s->session);
    s->session = NULL;
}

static void inherit(int fd, struct node *n, void *arg)
{
    struct sock *s = (struct sock *)n;
    (void)arg;
    if (others(s))
        forgo(s);
    if (n->held)
        n->held = 0; /* the other threads' calls are the parent's */
    if (n->kind != NODE_OURS)
        source_forked(&n->source);
    node_inherited(n);
    if (n->kind == NODE_EPOLL && ((struct epoll_shadow *)n)->kq.ops) {
        ((struct epoll_shadow *)n)->inherited = true;
        fd_drop(fd);
        real.close(fd);
        return;
    }
    if (n->kind == NODE_EPOLL)
        epoll_forked((struct epoll_shadow *)n);
}

static void fork_child(void)
{
    alloc_after_fork();
    table_forked();
    limit_forked();
    async_forked();
    session_forked();
    fd_forked(inherit);
    unlock();
}

/* ---- the ways to fork ------------------------------------------------------------------------ */

/* For a fork that runs no fork handlers. The client's is last: before_fork may attach. */
static void begins(void)
{
    before_fork();
    ffl_client_before_fork();
}

static pid_t forked(pid_t pid)
{
    int saved = errno;
    ffl_client_after_fork(pid == 0);
    pid == 0 ? fork_child() : fork_parent();
    errno = saved;
    return pid;
}

API pid_t _Fork(void)
{
    real_start();
    if (!real._Fork) { /* a C library older than _Fork */
        errno = ENOSYS;
        return -1;
    }
    if (!looks())
        return real._Fork();
    begins();
    return forked(real._Fork());
}

/* The parent stops until the child execs or ends, as in vfork(2). But the child has memory of its
 * own: in shared memory it would change the parent's tables, and this function could not return
 * twice. A process with threads forks, so that the child's malloc is not locked. */
API pid_t vfork(void)
{
    if (!looks() || !thread_alone())
        return fork();
    begins();
    return forked((pid_t)real.syscall(SYS_clone, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0));
}
ALSO(vfork, __vfork);

/* Do the flags make a new process with memory of its own? CLONE_VFORK: as in vfork. */
static bool is_fork(unsigned long flags)
{
    return looks() && (!(flags & CLONE_VM) || (flags & CLONE_VFORK)) && !(flags & CLONE_THREAD);
}

/* Memory is not shared, nor are descriptors where the child closes those of the parent's
 * sessions. */
static unsigned long not_shared(unsigned long flags)
{
    unsigned long files = options.per_thread || session_first() ? CLONE_FILES : 0;
    return flags & ~(CLONE_VM | CLONE_VFORK | files);
}

struct first { /* the child's first function */
    int (*f)(void *);
    void *arg;
};

static int first(void *arg)
{
    const struct first *c = arg;
    (void)forked(0);
    return c->f(c->arg);
}

API int clone(int (*f)(void *), void *stack, int flags, void *arg, ...)
{
    real_start();
    va_list ap;
    va_start(ap, arg); /* the flags say which of them clone uses */
    pid_t *parent = va_arg(ap, pid_t *);
    void *own = va_arg(ap, void *);
    pid_t *child = va_arg(ap, pid_t *);
    va_end(ap);
    if (!f || !stack || !is_fork((unsigned)flags))
        return real.clone(f, stack, flags, arg, parent, own, child);
    struct first c = {f, arg};
    begins();
    flags = (int)not_shared((unsigned)flags);
    return forked(real.clone(first, stack, flags, &c, parent, own, child));
}

long fork_by_number(long number, const long *a, bool *known)
{
    struct clone_args c = {0};
    size_t size = number == SYS_clone3 ? (size_t)a[1] : 0;
    *known = looks();
    if (number == SYS_clone3 && size >= CLONE_ARGS_SIZE_VER0 && size <= sizeof(c) &&
        !user_copy(&c, (const void *)a[0], size))
        return *known = 0; /* the kernel's to refuse */
    unsigned long flags = number == SYS_clone ? (unsigned long)a[0] : c.flags;
    bool stack = number == SYS_clone ? a[1] != 0 : number == SYS_clone3 && (c.stack || !size);
    *known = is_fork(flags) && !stack && (number != SYS_clone3 || c.exit_signal);
    if (!*known)
        return 0;
    begins();
    if (number == SYS_clone)
        return forked((pid_t)real.syscall(number, not_shared(flags), 0, a[2], a[3], a[4]));
    c.flags = not_shared(flags);
    if (number == SYS_clone3)
        return forked((pid_t)real.syscall(number, &c, size));
    return forked((pid_t)real.syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)); /* fork, vfork */
}

void fork_start(void)
{
    ffl_client_at_fork();
    (void)pthread_atfork(before_fork, fork_parent, fork_child); /* ENOMEM: children have none */
}
