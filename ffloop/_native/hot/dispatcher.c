/*
 * dispatcher.c - Dispatcher: waits for a batch of events and hands it out.
 *
 * Callers: ffloop/_loop/poller.py, iteration.c. With a session (`ring`) its client waits; plain
 * data goes straight to a reading protocol, and every other event to the poller (other(kind,
 * handle, arg, off)). Without one (direct mode) direct.c waits and hands out.
 *
 * Invariants: index is ahead of the event that is being handled, so that an exception loses no
 * event. A callback may pause, close or detach anything, so that only counted references are kept
 * across a call. A wait gives the batch's buffers back, so none begins before the batch is done:
 * callers look at index, count and queued first.
 */
#include "layout.h"
#include "stream.h"

#include <errno.h>
#include <stdlib.h>

PyTypeObject *dispatcher_type;
static PyObject *name_close_orphans;

static void dispatcher_release(Dispatcher *d)
{
    struct direct *direct = d->direct;
    d->c = NULL;
    d->direct = NULL;
    d->lag = NULL;
    if (direct)
        direct_free(direct);
    free(d->room);
    d->room = NULL;
    d->index = d->count = d->queued = 0;
    if (d->segment.obj)
        PyBuffer_Release(&d->segment);
    if (d->events.obj)
        PyBuffer_Release(&d->events);
}

/* In the middle of a page: `rep movsb` of AMD's Zen 3, the kernel's copy and libc's, takes ten
 * times as long where the target is up to 20 bytes ahead of its source, modulo 4096. The kernel's
 * data begins with a page, a large block of malloc's 16 bytes behind that. */
#define PAGE 4096
#define MIDDLE (PAGE / 2)

char *dispatcher_room(Dispatcher *d)
{
    if (!d->room && !(d->room = aligned_alloc(PAGE, DISPATCHER_ROOM + PAGE))) {
        PyErr_NoMemory();
        return NULL;
    }
    return d->room + MIDDLE;
}

/* The attribute of the ring, as a new reference in *to. */
static int take(PyObject *ring, const char *name, PyObject **to)
{
    Py_XDECREF(*to);
    *to = PyObject_GetAttrString(ring, name);
    return *to ? 0 : -1;
}

static int take_buffer(PyObject *ring, const char *name, Py_buffer *to)
{
    PyObject *from = NULL;
    if (take(ring, name, &from) < 0)
        return -1;
    int rc = PyObject_GetBuffer(from, to, PyBUF_SIMPLE);
    Py_DECREF(from);
    return rc;
}

static int dispatcher_init(PyObject *self, PyObject *args, PyObject *kw)
{
    static char *names[] = {"ring", "other", "epfd", "longest_ns", "spin_us", NULL};
    Dispatcher *d = (Dispatcher *)self;
    PyObject *ring, *other, *address = NULL;
    long long spin_us = 0; /* in direct mode */
    if (!PyArg_ParseTupleAndKeywords(args, kw, "OOiL|L", names, &ring, &other, &d->epfd,
                                     &d->longest_ns, &spin_us))
        return -1;
    dispatcher_release(d);
    d->thread = PyThread_get_thread_ident();
    hot_set_ref(&d->ring, ring);
    hot_set_ref(&d->other, other);
    if (ring == Py_None) {
        if (!(d->direct = direct_new(spin_us)))
            return -1;
        d->lag = direct_lag(d->direct);
        return 0;
    }
    if (take(ring, "receivers", &d->receivers) < 0 || take(ring, "orphans", &d->orphans) < 0 ||
        take(ring, "address", &address) < 0)
        return -1;
    struct ffl_client *c = PyLong_AsVoidPtr(address);
    Py_DECREF(address);
    if (PyErr_Occurred())
        return -1;
    if (!PyDict_Check(d->receivers)) {
        PyErr_SetString(PyExc_TypeError, "ring.receivers must be a dict");
        return -1;
    }
    if (take_buffer(ring, "mm", &d->segment) < 0 || take_buffer(ring, "events", &d->events) < 0)
        return -1;
    d->c = c;
    d->lag = ffl_client_lag(c);
    return 0;
}

static int dispatcher_traverse(PyObject *self, visitproc visit, void *arg)
{
    Dispatcher *d = (Dispatcher *)self;
    Py_VISIT(d->ring);
    Py_VISIT(d->receivers);
    Py_VISIT(d->orphans);
    Py_VISIT(d->other);
    Py_VISIT(Py_TYPE(self));
    return d->direct ? direct_traverse(d->direct, visit, arg) : 0;
}

static int dispatcher_clear(PyObject *self)
{
    Dispatcher *d = (Dispatcher *)self;
    dispatcher_release(d);
    Py_CLEAR(d->ring);
    Py_CLEAR(d->receivers);
    Py_CLEAR(d->orphans);
    Py_CLEAR(d->other);
    return 0;
}

static void dispatcher_dealloc(PyObject *self)
{
    hot_dealloc(self, dispatcher_clear);
}

static PyObject *dispatcher_close(PyObject *self, PyObject *unused)
{
    dispatcher_release((Dispatcher *)self);
    return Py_NewRef(Py_None);
}

static void add(_Atomic uint64_t *to, uint64_t n)
{
    atomic_store_explicit(to, atomic_load_explicit(to, memory_order_relaxed) + n,
                          memory_order_relaxed); /* no one else writes it */
}

void dispatcher_show_lag(Dispatcher *d, int i, int64_t ns)
{
    if (d->lag) {
        add(&d->lag->counts[i], 1);
        add(&d->lag->ns, (uint64_t)ns);
    }
}

/* ---- waiting ------------------------------------------------------------------------------- */

/* Handles whose owner was collected without close(), perhaps in another thread. */
static int close_orphans(Dispatcher *d)
{
    Py_ssize_t n = PyObject_Size(d->orphans);
    if (n <= 0)
        return (int)n;
    PyObject *r = PyObject_CallMethodObjArgs(d->ring, name_close_orphans, NULL);
    Py_XDECREF(r);
    return r ? 0 : -1;
}

/* Events of kernel descriptors stand at the head of a batch or at its end. Their number, and in
 * *woken whether one of them is wake_fd's. */
static int kernel_events(const struct ffl_event *ev, int n, int wake_fd, bool *woken)
{
    int first = 0, last = 0;
    *woken = false;
    for (; first < n && ev[first].kind == FFL_EV_FD; first++)
        *woken |= (int)ev[first].handle == wake_fd;
    for (; first + last < n && ev[n - 1 - last].kind == FFL_EV_FD; last++)
        *woken |= (int)ev[n - 1 - last].handle == wake_fd;
    return first + last;
}

int dispatcher_wait(Dispatcher *d, int64_t timeout_ns, int wake_fd)
{
    d->waits++;
    if (d->longest_ns >= 0 && (timeout_ns < 0 || timeout_ns > d->longest_ns))
        timeout_ns = d->longest_ns;
    if (d->direct)
        return direct_wait(d, timeout_ns, wake_fd);
    if (!d->c) {
        PyErr_SetString(PyExc_ValueError, "wait() on a closed dispatcher");
        return -1;
    }
    if (close_orphans(d) < 0)
        return -1;
    struct ffl_event *ev = d->events.buf;
    int room = (int)((size_t)d->events.len / sizeof(*ev));
    d->index = d->count = 0;
    /* A call that does not wait costs less than giving up the interpreter's lock. */
    PyThreadState *thread = timeout_ns ? PyEval_SaveThread() : NULL;
    int n = ffl_client_wait(d->c, ev, room, d->epfd, timeout_ns);
    if (thread)
        PyEval_RestoreThread(thread);
    if (n < 0 && n != -EINTR) {
        errno = -n;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    if (n <= 0)
        return 0;
    bool woken;
    int kernel = kernel_events(ev, n, wake_fd, &woken);
    d->count = kernel < n ? n : 0;
    return kernel > woken ? n : 0;
}

int dispatcher_kernel_events(const Dispatcher *d, int n, kernel_event_fn *fn, void *arg)
{
    if (d->direct)
        return direct_kernel_events(d, fn, arg);
    const struct ffl_event *ev = d->events.buf;
    int rc = 0;
    for (int i = 0; rc == 0 && i < n; i++)
        if (ev[i].kind == FFL_EV_FD)
            rc = fn(arg, (int)ev[i].handle, ev[i].arg);
    return rc;
}

static PyObject *py_wait(PyObject *self, PyObject *timeout)
{
    long long ns = PyLong_AsLongLong(timeout);
    if (ns == -1 && PyErr_Occurred())
        return NULL;
    int n = dispatcher_wait((Dispatcher *)self, ns, -1);
    return n < 0 ? NULL : PyLong_FromLong(n);
}

/* ---- handing out --------------------------------------------------------------------------- */

static int long_way(PyObject *other, const struct ffl_event *e)
{
    Py_INCREF(other);
    PyObject *r = PyObject_CallFunction(other, "IIII", e->kind, e->handle, e->arg, e->off);
    Py_DECREF(other);
    Py_XDECREF(r);
    return r ? 0 : -1;
}

/* One event. `e` is a copy: callbacks may close the dispatcher. */
static int dispatch(Dispatcher *d, struct ffl_event e)
{
    if (e.kind != FFL_EV_DATA || !e.off)
        return long_way(d->other, &e);
    PyObject *key = PyLong_FromUnsignedLong(e.handle);
    if (!key)
        return -1;
    PyObject *to = PyDict_GetItemWithError(d->receivers, key); /* borrowed */
    Py_DECREF(key);
    const struct stream *s = to ? stream_of(to) : NULL;
    if (!s)
        return PyErr_Occurred() ? -1 : long_way(d->other, &e);
    if (!s->receiving || !s->context || s->buffered)
        return long_way(d->other, &e);
    if ((Py_ssize_t)e.off + (Py_ssize_t)e.arg > d->segment.len) {
        PyErr_SetString(PyExc_SystemError, "an event beyond the segment");
        return -1;
    }
    return stream_deliver(to, (const char *)d->segment.buf + e.off, e.arg);
}

static int dispatch_next(Dispatcher *d)
{
    struct ffl_event e = ((const struct ffl_event *)d->events.buf)[d->index++];
    return e.kind != FFL_EV_FD && e.kind != FFL_EV_CLOSED ? dispatch(d, e) : 0;
}

int dispatcher_hand_out(Dispatcher *d)
{
    struct gather *kept = gather_here();
    int rc = 0;
    Py_INCREF((PyObject *)d);
    while (rc == 0 && d->index < d->count) {
        rc = d->direct ? direct_dispatch_next(d) : dispatch_next(d);
        if (rc == 0)
            rc = gather_next(kept);
    }
    Py_DECREF((PyObject *)d);
    return rc;
}

static PyObject *dispatcher_skip(PyObject *self, PyObject *unused)
{
    Dispatcher *d = (Dispatcher *)self;
    d->index = d->count = 0;
    return Py_NewRef(Py_None);
}

/* ---- direct mode --------------------------------------------------------------------------- */

static PyObject *py_others(PyObject *self, PyObject *unused)
{
    return direct_others((Dispatcher *)self);
}

static PyObject *py_batch(PyObject *self, PyObject *unused)
{
    return direct_batch((Dispatcher *)self);
}

static PyObject *py_dispatch(PyObject *self, PyObject *args)
{
    int fd;
    unsigned events;
    if (!PyArg_ParseTuple(args, "iI", &fd, &events) ||
        direct_dispatch((Dispatcher *)self, fd, events) < 0)
        return NULL;
    return Py_NewRef(Py_None);
}

static PyObject *py_owner(PyObject *self, PyObject *fd)
{
    long number = PyLong_AsLong(fd);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    return direct_owner((Dispatcher *)self, (int)number);
}

static PyObject *py_counters(PyObject *self, PyObject *unused)
{
    return direct_counters((Dispatcher *)self);
}

static PyObject *py_own(PyObject *self, PyObject *unused)
{
    ((Dispatcher *)self)->thread = PyThread_get_thread_ident();
    return Py_NewRef(Py_None);
}

static PyObject *py_is_own(PyObject *self, PyObject *unused)
{
    return PyBool_FromLong(((Dispatcher *)self)->thread == PyThread_get_thread_ident());
}

static PyMemberDef dispatcher_members[] = {
    {"index", T_INT, offsetof(Dispatcher, index), READONLY, "the next event"},
    {"count", T_INT, offsetof(Dispatcher, count), READONLY, "events in the batch"},
    {"waits", T_ULONGLONG, offsetof(Dispatcher, waits), READONLY, "for a batch, so far"},
    {"queued", T_INT, offsetof(Dispatcher, queued), 0, "handles of debug mode that will dispatch"},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef dispatcher_methods[] = {
    {"wait", py_wait, METH_O,
     "wait(ns): waits for a batch, nanoseconds at most (< 0: for ever). The number of events, of "
     "which some are kernel descriptors'; 0: none is."},
    {"skip", dispatcher_skip, METH_NOARGS, "Drops the batch, which was taken."},
    {"close", dispatcher_close, METH_NOARGS, "Lets go of the ring; drops the rest of the batch."},
    {"others", py_others, METH_NOARGS, "Direct mode: [(fd, epoll events)] of the selector's."},
    {"take", py_batch, METH_NOARGS, "Direct mode: the batch's [(fd, epoll events)], taken."},
    {"dispatch", py_dispatch, METH_VARARGS, "Direct mode: hands out one event, (fd, events)."},
    {"owner", py_owner, METH_O, "Direct mode: a Stream, an Acceptor, or None."},
    {"counters", py_counters, METH_NOARGS, "Direct mode: the counters, by name."},
    {"own", py_own, METH_NOARGS, "Direct mode: from now on this thread runs the loop."},
    {"is_own", py_is_own, METH_NOARGS, "Direct mode: whether this thread runs the loop."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot dispatcher_slots[] = {
    {Py_tp_doc, "Waits for batches of events and hands them to their receivers."},
    {Py_tp_init, dispatcher_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, dispatcher_dealloc},
    {Py_tp_traverse, dispatcher_traverse},
    {Py_tp_clear, dispatcher_clear},
    {Py_tp_members, dispatcher_members},
    {Py_tp_methods, dispatcher_methods},
    {0, NULL},
};

static PyType_Spec dispatcher_spec = {
    .name = "ffloop._native._hot.Dispatcher",
    .basicsize = sizeof(Dispatcher),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = dispatcher_slots,
};

int dispatcher_exec(PyObject *module)
{
    const struct hot_name names[] = {{&name_close_orphans, "close_orphans"}};
    if (hot_intern_all(names, FFL_COUNT(names)) < 0)
        return -1;
    dispatcher_type = (PyTypeObject *)hot_add_type(module, "Dispatcher", &dispatcher_spec, NULL);
    return dispatcher_type ? 0 : -1;
}
