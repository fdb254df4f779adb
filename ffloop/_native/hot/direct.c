/*
 * direct.c - direct mode: a loop whose sockets are the application's own, in its own epoll.
 *
 * Callers: dispatcher.c, acceptor.c, transfer.c, life.c. A table has the owner (a stream, an
 * acceptor) of each descriptor that one of these watches; all others in the epoll are the
 * selector's (watchers.c). The epoll is level-triggered and has only the events that are wanted
 * now, so that a paused socket does not keep the loop awake: a request is epoll_wait, recv, send. A
 * socket is read only when its own event is handed out, so the data of one that an earlier callback
 * paused or closed stays in the kernel.
 *
 * Invariant: an owner is in the table while its descriptor is in the epoll (but for a connection
 * that is handed over, until its transport begins). The table's reference keeps a transport alive
 * that nothing else refers to.
 */
#include "stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define BATCH 1024

struct direct {
    PyObject **owners; /* by descriptor */
    int size;
    int taken;  /* a descriptor that has an entry in the epoll, but no owner yet; or -1 */
    int others; /* how many events of the selector's descriptors stand at the end of `events` */
    struct ffl_spin spin;
    struct direct_counters n;
    bool shown;                     /* the page was asked for */
    struct ffl_lag lag;             /* until then */
    struct ffl_instance_page *page; /* page.c, and its descriptor; or NULL */
    int page_fd;
    struct epoll_event events[BATCH]; /* of the batch from 0 on, the others from the end */
};

static PyObject *name_on_writable;

struct direct *direct_new(int64_t spin_us)
{
    struct direct *d = malloc(sizeof(*d));
    if (!d) {
        PyErr_NoMemory();
        return NULL;
    }
    memset(d, 0, offsetof(struct direct, events));
    ffl_spin_init(&d->spin, spin_us);
    d->taken = -1;
    return d;
}

/* Opens the page, with the first socket or before the first sleep: a loop that does its work at
 * once and is closed has none. */
static void show(Dispatcher *dispatcher)
{
    struct direct *d = dispatcher->direct;
    if (d->shown)
        return;
    d->shown = true;
    d->page = page_open(&d->page_fd);
    struct ffl_lag *lag = page_lag(d->page);
    if (lag)
        *lag = d->lag;
    dispatcher->lag = lag;
}

struct ffl_lag *direct_lag(struct direct *d)
{
    return &d->lag;
}

void direct_free(struct direct *d)
{
    PyObject **owners = d->owners;
    int size = d->size;
    d->owners = NULL;
    d->size = 0;
    for (int i = 0; i < size; i++)
        Py_XDECREF(owners[i]);
    free(owners);
    page_close(d->page, d->page_fd);
    free(d);
}

int direct_traverse(const struct direct *d, visitproc visit, void *arg)
{
    for (int i = 0; i < d->size; i++)
        Py_VISIT(d->owners[i]);
    return 0;
}

void direct_accepted(Dispatcher *d)
{
    if (d->direct)
        d->direct->n.accepts++;
}

void direct_sent(Dispatcher *d, size_t bytes)
{
    if (d->direct) {
        d->direct->n.sends++;
        d->direct->n.bytes_sent += bytes;
    }
}

void direct_received(Dispatcher *d, size_t bytes)
{
    d->direct->n.bytes_received += bytes;
}

/* ---- the table ----------------------------------------------------------------------------- */

static int grow(struct direct *d, int fd)
{
    int size = d->size ? d->size : 64;
    while (size <= fd)
        size *= 2;
    PyObject **grown = realloc(d->owners, (size_t)size * sizeof(*grown));
    if (!grown) {
        PyErr_NoMemory();
        return -1;
    }
    memset(grown + d->size, 0, (size_t)(size - d->size) * sizeof(*grown));
    d->owners = grown;
    d->size = size;
    return 0;
}

static PyObject *owner_of(const struct direct *d, int fd)
{
    return fd >= 0 && fd < d->size ? d->owners[fd] : NULL;
}

int direct_watch(Dispatcher *dispatcher, int fd, unsigned events, unsigned before, PyObject *owner)
{
    struct direct *d = dispatcher->direct;
    struct epoll_event e = {.events = events, .data.u64 = (uint32_t)fd};
    if (!d) /* the loop is closed */
        return 0;
    show(dispatcher);
    if (fd >= d->size && grow(d, fd) < 0)
        return -1;
    bool entered = before || d->taken == fd;
    int op = !entered ? EPOLL_CTL_ADD : events ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;
    int rc = epoll_ctl(dispatcher->epfd, op, fd, &e);
    if (rc < 0 && op == EPOLL_CTL_ADD && errno == EEXIST) /* the selector's, disarmed */
        rc = epoll_ctl(dispatcher->epfd, EPOLL_CTL_MOD, fd, &e);
    else if (rc < 0 && !before && errno == ENOENT)
        rc = epoll_ctl(dispatcher->epfd, EPOLL_CTL_ADD, fd, &e);
    if (d->taken == fd)
        d->taken = -1;
    if (rc < 0 && op != EPOLL_CTL_DEL) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    dispatcher->added |= (events & ~before) != 0;
    if (!before || !events) {
        PyObject *was = d->owners[fd];
        d->owners[fd] = events ? Py_NewRef(owner) : NULL;
        d->n.sockets += events ? 1 : -1u;
        Py_XDECREF(was);
    }
    return 0;
}

void direct_take_over(Dispatcher *dispatcher, int fd)
{
    if (dispatcher->direct)
        dispatcher->direct->taken = fd;
}

PyObject *direct_owner(Dispatcher *dispatcher, int fd)
{
    PyObject *owner = dispatcher->direct ? owner_of(dispatcher->direct, fd) : NULL;
    return Py_NewRef(owner ? owner : Py_None);
}

/* ---- waiting ------------------------------------------------------------------------------- */

/* Puts the events of owned descriptors at the head, in order, and the selector's at the tail. */
static void sort_out(Dispatcher *dispatcher, int n, int wake_fd)
{
    struct direct *d = dispatcher->direct;
    for (int i = 0; i < n; i++) {
        struct epoll_event e = d->events[i];
        /* Python's select.epoll leaves the upper half undefined */
        int fd = (int)(uint32_t)e.data.u64;
        if (owner_of(d, fd))
            d->events[dispatcher->count++] = e;
        else if (fd != wake_fd)
            d->events[BATCH - ++d->others] = e;
    }
}

struct look {
    struct direct *d;
    int epfd, n;
};

static bool look(void *arg, bool whole)
{
    struct look *l = arg;
    (void)whole; /* a peer that waits for this CPU is the kernel's to place */
    /* Half of the array: the selector's events move to its other end. */
    l->n = ffl_epoll_wait(l->epfd, l->d->events, BATCH / 2, 0);
    return l->n != 0;
}

/* Events, or -1 with errno. Spins first, where that has been paying or is tried again. */
static int wait_for_events(Dispatcher *dispatcher, int64_t timeout_ns)
{
    struct direct *d = dispatcher->direct;
    struct look l = {d, dispatcher->epfd, 0};
    bool hit = ffl_spin_try(&d->spin, &timeout_ns, look, &l);
    d->n.sleeps += timeout_ns && !hit;
    if (d->page)
        page_note(d->page, dispatcher->waits, &d->n);
    return hit ? l.n : ffl_epoll_wait(l.epfd, d->events, BATCH / 2, timeout_ns);
}

int direct_wait(Dispatcher *dispatcher, int64_t timeout_ns, int wake_fd)
{
    struct direct *d = dispatcher->direct;
    dispatcher->index = dispatcher->count = d->others = 0;
    if (timeout_ns)
        show(dispatcher);
    /* For events that are there already, too: other threads get the lock nowhere else. */
    PyThreadState *thread = timeout_ns ? PyEval_SaveThread() : NULL;
    int n = wait_for_events(dispatcher, timeout_ns);
    if (thread)
        PyEval_RestoreThread(thread);
    if (n < 0 && errno != EINTR) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    if (n <= 0)
        return 0;
    d->n.events += (uint64_t)n;
    sort_out(dispatcher, n, wake_fd);
    return d->others;
}

static PyObject *pairs(const struct epoll_event *first, int n, int step)
{
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < n; i++) {
        const struct epoll_event *e = first + i * step;
        PyObject *pair = Py_BuildValue("(iI)", (int)(uint32_t)e->data.u64, e->events);
        if (!pair || PyList_Append(list, pair) < 0)
            Py_CLEAR(list);
        Py_XDECREF(pair);
    }
    return list;
}

int direct_kernel_events(const Dispatcher *dispatcher, kernel_event_fn *fn, void *arg)
{
    const struct direct *d = dispatcher->direct;
    int rc = 0;
    for (int i = 1; rc == 0 && i <= d->others; i++)
        rc = fn(arg, (int)(uint32_t)d->events[BATCH - i].data.u64, d->events[BATCH - i].events);
    return rc;
}

PyObject *direct_others(Dispatcher *dispatcher)
{
    struct direct *d = dispatcher->direct;
    return d ? pairs(&d->events[BATCH - 1], d->others, -1) : PyList_New(0);
}

PyObject *direct_batch(Dispatcher *dispatcher)
{
    struct direct *d = dispatcher->direct;
    int first = dispatcher->index, n = dispatcher->count - first;
    dispatcher->index = dispatcher->count = 0;
    return d ? pairs(&d->events[first], n, 1) : PyList_New(0);
}

/* ---- handing out --------------------------------------------------------------------------- */

static int stream_ready(Dispatcher *d, PyObject *self, unsigned events)
{
    struct stream *s = stream_fields(self);
    int rc = 0;
    if (events & ~(unsigned)EPOLLOUT && s->watched & EPOLLIN && s->receiving)
        rc = stream_read(d, self);
    if (rc == 0 && events & ~(unsigned)EPOLLIN && s->watched & EPOLLOUT)
        rc = hot_call(self, name_on_writable, NULL);
    return rc;
}

int direct_dispatch(Dispatcher *dispatcher, int fd, unsigned events)
{
    struct direct *d = dispatcher->direct;
    PyObject *owner = d ? owner_of(d, fd) : NULL;
    if (!owner) /* closed by an earlier callback */
        return 0;
    Py_INCREF(owner);
    int rc = acceptor_is(owner) ? acceptor_ready(owner) : stream_ready(dispatcher, owner, events);
    Py_DECREF(owner);
    return rc;
}

int direct_dispatch_next(Dispatcher *dispatcher)
{
    struct epoll_event e = dispatcher->direct->events[dispatcher->index++];
    return direct_dispatch(dispatcher, (int)(uint32_t)e.data.u64, e.events);
}

/* ---- the rest ------------------------------------------------------------------------------ */

PyObject *direct_counters(Dispatcher *dispatcher)
{
    struct direct_counters n = {0};
    struct ffl_spin spin = {0};
    if (dispatcher->direct) {
        n = dispatcher->direct->n;
        spin = dispatcher->direct->spin;
    }
    return Py_BuildValue("{sKsKsKsKsKsKsKsKsKsI}", "waits", dispatcher->waits, "sleeps", n.sleeps,
                         "spins", spin.spins, "spin_hits", spin.hits, "reaped", n.events,
                         "submitted", n.sends, "accepts", n.accepts, "bytes_received",
                         n.bytes_received, "bytes_sent", n.bytes_sent, "app_sockets", n.sockets);
}

int direct_exec(void)
{
    const struct hot_name names[] = {{&name_on_writable, "on_writable"}};
    return hot_intern_all(names, FFL_COUNT(names));
}
