/*
 * direct.c - an instance in this thread: loading it, and the stack's work where the client would
 * wait.
 *
 * Callers: wait.c, sleep.c, attach.c, reap.c; client.h's users. No side sleeps or is woken: a wait
 * submits the entries, runs iterations of the stack's loop, and looks at the rings and, every 50
 * us, at the kernel's descriptors.
 */
#include "internal.h"

#include "module.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- driving ------------------------------------------------------------------------------- */

static bool once(void *caller)
{
    return true;
}

void client_drive(struct ffl_client *c)
{
    if (!c->driver || c->detached)
        return;
    c->driver->submit(c->driver->arg);
    c->driver->run(c->driver->arg, once, NULL);
}

struct waiting {
    struct ffl_client *c;
    struct epoll_event *ev;
    int max, epfd;
    int64_t until;
    int n; /* kernel events, or -errno */
};

static bool enough(void *caller)
{
    struct waiting *w = caller;
    if (client_pending(w->c))
        return true;
    int64_t now = ffl_now_ns();
    if (now - w->c->fd_checked >= FD_PERIOD_NS) {
        w->c->fd_checked = now;
        w->n = ffl_epoll_wait(w->epfd, w->ev, w->max, 0);
        if (w->n < 0)
            w->n = -errno;
    }
    return w->n != 0 || now >= w->until;
}

int client_drive_until(struct ffl_client *c, struct epoll_event *ev, int max, int epfd,
                       int64_t timeout_ns)
{
    if (timeout_ns < 0 || timeout_ns > FFL_LOOK_NS)
        timeout_ns = FFL_LOOK_NS;
    struct waiting w = {
        .c = c, .ev = ev, .max = max, .epfd = epfd, .until = ffl_now_ns() + timeout_ns};
    c->driver->submit(c->driver->arg);
    c->driver->run(c->driver->arg, enough, &w);
    return w.n;
}

/* ---- F-Stack's module ---------------------------------------------------------------------- */

struct ffl_direct {
    struct ffl_driver driver;
    const struct ffl_module *module;
    pid_t pid;
};

int ffl_direct_start(struct ffl_direct **out, const char *native, int argc, char **argv,
                     const char *path, char *why, size_t whylen)
{
    struct ffl_direct *d = calloc(1, sizeof(*d));
    if (!d)
        return -ENOMEM;
    d->pid = getpid();
    int rc = ffl_module_load(&d->module, native, why, whylen);
    if (rc == 0)
        rc = d->module->open(&d->driver, argc, argv, path, why, whylen);
    if (rc < 0)
        free(d);
    else
        *out = d;
    return rc;
}

const struct ffl_driver *ffl_direct_driver(const struct ffl_direct *d)
{
    return &d->driver;
}

void ffl_direct_stop(struct ffl_direct *d)
{
    if (d->pid == getpid()) /* a forked child's stack is its parent's */
        d->module->close(&d->driver);
    free(d);
}
