/*
 * move.c - numbers that become other files: a node's descriptors, and the shim's that give way.
 *
 * Callers: fds.c, for a dup2 to a number of the shim's; again.c, async.c. All places that keep the
 * number of a descriptor of the shim's are here, but for those of sessions and of the log.
 */
#include "preload.h"

#include <fcntl.h>

struct become {
    const struct node *n;
    int file;
};

static void become(int fd, struct node *n, void *arg)
{
    const struct become *b = arg;
    int flags = n == b->n ? real.fcntl(fd, F_GETFD) : -1;
    if (flags >= 0)
        (void)real.dup3(b->file, fd, flags & FD_CLOEXEC ? O_CLOEXEC : 0); /* both are open */
}

void fd_become(const struct node *n, int file)
{
    fd_each(become, &(struct become){n, file});
}

static void move_waiter(struct move *m, struct waiter *w)
{
    move_fd(m, &w->wake_fd);
    move_fd(m, &w->epfd);
}

static void move_node(int fd, struct node *n, void *arg)
{
    struct sock *s = (struct sock *)n;
    struct epoll_shadow *ep = (struct epoll_shadow *)n;
    (void)fd;
    if (n->kind == NODE_SOCK) {
        move_fd(arg, &s->kernel_fd);
        move_fd(arg, &s->bell[0]);
        move_fd(arg, &s->bell[1]);
    } else if (n->kind == NODE_EPOLL && ep->opened) {
        move_waiter(arg, &ep->w);
        move_fd(arg, &ep->kq.writes);
        ep->poll.wake_fd = ep->w.wake_fd;
    }
}

bool fd_ours_moved(int from, int to)
{
    struct move m = {from, to, ffl_log_moved(from, to)};
    if (kept.path && kept.ticket.fd == from)
        (void)real.fcntl(to, F_SETFD, 0); /* for the program after exec */
    if (kept.path)
        move_fd(&m, &kept.ticket.fd);
    if (tls.waiter)
        move_waiter(&m, tls.waiter);
    session_move(&m);
    fd_each(move_node, &m);
    return m.done;
}
