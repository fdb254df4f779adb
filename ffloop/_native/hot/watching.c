/*
 * watching.c - a Scheduler's _add_reader() and the like, which its selector, a Watchers, keeps. See
 * scheduler.h.
 */
#include "scheduler.h"
#include "watchers.h"

static PyObject *name_check_closed, *name_create_future;

/* Raises RuntimeError for a closed loop: -1. */
static int check_open(Scheduler *s)
{
    return s->closed ? hot_done(PyObject_CallMethodObjArgs((PyObject *)s, name_check_closed, NULL))
                     : 0;
}

/* call(file, callback, *args[, context=c]); another keyword than that is the caller's mistake. */
static PyObject *add(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *keys,
                     enum side side)
{
    Scheduler *s = (Scheduler *)self;
    if (n < 2)
        return PyErr_Format(PyExc_TypeError, "a descriptor and a callback are needed");
    if (check_open(s) < 0)
        return NULL;
    PyObject *context = keys && PyTuple_Size(keys) ? args[n] : Py_None;
    PyObject *handle = handle_new(self, args + 1, n - 1, context);
    if (handle)
        handle_track(handle); /* it outlives the run of the loop */
    if (handle && watchers_set(s->watchers, args[0], side, handle) < 0)
        Py_CLEAR(handle);
    s->left = 0; /* what waits there comes before what is queued from now on */
    return handle;
}

static PyObject *take(PyObject *self, PyObject *file, enum side side)
{
    const Scheduler *s = (Scheduler *)self;
    int had = s->closed ? 0 : watchers_take(s->watchers, file, side);
    return had < 0 ? NULL : PyBool_FromLong(had);
}

/* A Future that is done when the descriptor is ready. */
static PyObject *wait_for(PyObject *self, PyObject *file, enum side side)
{
    Scheduler *s = (Scheduler *)self;
    PyObject *waiter =
        check_open(s) < 0 ? NULL : PyObject_CallMethodObjArgs(self, name_create_future, NULL);
    if (waiter && watchers_set(s->watchers, file, side, waiter) < 0)
        Py_CLEAR(waiter);
    s->left = 0;
    return waiter;
}

PyObject *scheduler_add_reader(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *keys)
{
    return add(self, args, n, keys, READER);
}

PyObject *scheduler_add_writer(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *keys)
{
    return add(self, args, n, keys, WRITER);
}

PyObject *scheduler_hand_over(PyObject *self, PyObject *file)
{
    const Scheduler *s = (Scheduler *)self;
    int fd = PyObject_AsFileDescriptor(file);
    if (fd < 0)
        return NULL;
    if (!s->closed && s->batches && Py_TYPE(s->batches) == dispatcher_type &&
        watchers_hand_over(s->watchers, fd))
        direct_take_over((Dispatcher *)s->batches, fd);
    return Py_NewRef(Py_None);
}

PyObject *scheduler_remove_reader(PyObject *self, PyObject *file)
{
    return take(self, file, READER);
}

PyObject *scheduler_remove_writer(PyObject *self, PyObject *file)
{
    return take(self, file, WRITER);
}

PyObject *scheduler_wait_readable(PyObject *self, PyObject *file)
{
    return wait_for(self, file, READER);
}

PyObject *scheduler_wait_writable(PyObject *self, PyObject *file)
{
    return wait_for(self, file, WRITER);
}

/* Has a transport the descriptor? Then it was closed while somebody waited. */
static bool is_owned(const Scheduler *s, int fd)
{
    if (!s->batches || !PyObject_TypeCheck(s->batches, dispatcher_type))
        return false;
    PyObject *owner = direct_owner((Dispatcher *)s->batches, fd);
    Py_DECREF(owner);
    return owner != Py_None;
}

PyObject *scheduler_give_up(PyObject *self, PyObject *args)
{
    int fd;
    PyObject *waiter;
    const Scheduler *s = (Scheduler *)self;
    if (!PyArg_ParseTuple(args, "iO", &fd, &waiter) ||
        watchers_give_up(s->watchers, fd, waiter, is_owned(s, fd)) < 0)
        return NULL;
    return Py_NewRef(Py_None);
}

PyObject *scheduler_watched(PyObject *self, PyObject *args)
{
    int fd;
    unsigned events;
    const Scheduler *s = (Scheduler *)self;
    if (!PyArg_ParseTuple(args, "iI", &fd, &events) ||
        watchers_ready(s->watchers, fd, events, s->ready) < 0)
        return NULL;
    return Py_NewRef(Py_None);
}

int watching_exec(void)
{
    const struct hot_name names[] = {
        {&name_check_closed, "_check_closed"},
        {&name_create_future, "create_future"},
    };
    return hot_intern_all(names, FFL_COUNT(names));
}
