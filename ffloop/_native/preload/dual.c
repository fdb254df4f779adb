/*
 * dual.c - FFLOOP_DUAL_LISTEN: what the stack serves is served on the kernel too.
 *
 * Callers: sock.c, epoll.c, again.c. Beside the stack's listener the shim opens a kernel listener:
 * at the wildcard address where the program listens on that, else at loopback (health checks). An
 * epoll that has the stack's listener has the kernel's too, with the program's user data. The host
 * stack is this kernel: no second listener.
 */
#include "preload.h"

#include <netinet/in.h>
#include <string.h>

/* Sets the options of the placeholder on the kernel's listener. */
static int copy_options(int from, int to)
{
    struct ffl_optarg o;
    struct ffl_carry k;
    int rc = ffl_carry_begin(&k, from, "host", NULL);
    if (rc < 0)
        return rc;
    while (rc == 0 && ffl_carry_next(&k, &o))
        rc = real.setsockopt(to, o.level, o.name, o.data, o.len) < 0 ? -errno : 0;
    ffl_carry_end(&k);
    return rc;
}

static int open_beside(const struct ffl_addr *a, int placeholder, int backlog)
{
    struct ffl_addr at = {.family = a->family, .port_be = a->port_be};
    struct sockaddr_storage ss;
    uint32_t len;
    if (!ffl_addr_wildcard(a))
        ffl_addr_set_loopback(&at);
    int rc = ffl_addr_to_sockaddr(&at, &ss, &len);
    if (rc < 0)
        return rc;
    int fd = fd_ours(real.socket(a->family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (fd < 0)
        return fd;
    rc = copy_options(placeholder, fd);
    if (rc == 0 && (real.bind(fd, (struct sockaddr *)&ss, len) < 0 || real.listen(fd, backlog) < 0))
        rc = -errno;
    if (rc < 0) {
        fd_ours_close(fd);
        return rc;
    }
    return fd;
}

void dual_listen(struct sock *s, int fd, int backlog)
{
    struct ffl_addresses addresses;
    if (!options.dual_listen || s->kernel_fd >= 0 || ffl_route_same_kernel(s->session->stack))
        return;
    int rc = ffl_client_addresses(s->session->c, s->h, &addresses);
    if (rc == 0)
        rc = open_beside(&addresses.local, fd, backlog);
    if (rc < 0) {
        report("FFLOOP_DUAL_LISTEN: port %d on the kernel: %s", ntohs(addresses.local.port_be),
               strerror(-rc));
        return;
    }
    s->kernel_fd = rc;
    for (struct ffl_watch *w = s->node.source.watches; w; w = w->next)
        if (watch_epoll(w))
            dual_follow(watch_item(w), EPOLL_CTL_ADD);
}

void dual_follow(const struct item *it, int op)
{
    const struct node *n = watch_node(&it->w);
    struct epoll_shadow *ep = watch_epoll(&it->w);
    if (n->kind != NODE_SOCK || ((const struct sock *)n)->kernel_fd < 0 || ep->inherited)
        return;
    struct epoll_event ev = {.events = it->w.events, .data.u64 = it->w.data};
    (void)real.epoll_ctl(ep->w.epfd, op, ((const struct sock *)n)->kernel_fd,
                         &ev); /* EEXIST: a kqueue has read and write */
    ep->kernel += op == EPOLL_CTL_ADD;
}

int dual_accept(struct sock *s, struct sockaddr *sa, socklen_t *len, int flags)
{
    int fd = s->kernel_fd < 0 ? -1 : real.accept4(s->kernel_fd, sa, len, flags);
    return fd < 0 ? -EAGAIN : fd;
}
