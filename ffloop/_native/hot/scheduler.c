/*
 * scheduler.c - Scheduler: the part of a loop that queues callbacks and runs them.
 *
 * Base class of ffloop's loop, in front of asyncio.SelectorEventLoop, whose flags and queues
 * (_closed, _debug, _stopping, _ready, _scheduled, ...) are fields here, under the same names. The
 * order of things is that of asyncio's BaseEventLoop._run_once: wait for events, queue what they
 * schedule, queue the timers that are due, run what was queued up to here. A loop in debug mode
 * takes asyncio's own methods. The rare ways are the loop's, in Python: _poll (no session, or a batch
 * that an interrupt left unfinished), _kernel_ready (descriptors), _failed (a callback raised).
 *
 * Waking from another thread: `awake` is lowered before the queue is looked at for the last time
 * before a sleep, and the interpreter's lock is held from there to the wait, so a handle that was
 * appended while the loop is awake is seen, and any other one writes to the wake descriptor.
 */
#include "scheduler.h"
#include "queue.h"
#include "timers.h"

#include <math.h>
#include <unistd.h>

#define NS 1e9
#define AT_ONCE 100       /* iterations, then the interpreter has a look: other threads, tracing */
#define LONGEST_S 86400.0 /* as asyncio's MAXIMUM_SELECT_TIMEOUT */
#define LAGS 24           /* below 1, 2, 4, ... us (of 1,024 ns); the last one: and above */

typedef struct {
    PyObject_HEAD
    PyObject *ready;      /* queue.h */
    PyObject *timers;     /* a list: timers.h */
    PyObject *batches;    /* the session's Dispatcher, or None */
    Py_ssize_t cancelled; /* timers in the list that were cancelled */
    double resolution;    /* of the clock, seconds */
    int wake_fd;          /* an eventfd, or -1 */
    char closed, debug, stopping, awake;
    char forever; /* run_forever calls: _run_once may do several iterations */
    char own_call_at;
    PyTypeObject *looked_up; /* the class that own_call_at is of; never followed */
    int64_t woke_ns;         /* when the iteration began to work, or the one before ended */
    int64_t lag_ns;          /* all iterations' work */
    uint64_t lags[LAGS];     /* iterations by how long they worked */
} Scheduler;

static PyObject *base; /* asyncio.BaseEventLoop */
static PyObject *future_type, *no_args, *scheduler_call_at;
static PyObject *name_call_soon, *name_call_soon_threadsafe, *name_call_at, *name_call_later,
    *name_run_once, *name_failed, *name_time, *name_poll, *name_kernel_ready, *name_context,
    *name_loop;

static int done(PyObject *result)
{
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* ---- memory -------------------------------------------------------------------------------- */

static PyObject *scheduler_new(PyTypeObject *type, PyObject *args, PyObject *kw)
{
    Scheduler *s = (Scheduler *)PyType_GenericNew(type, args, kw);
    if (!s)
        return NULL;
    s->wake_fd = -1;
    s->closed = 1; /* until asyncio's __init__ says otherwise */
    s->ready = queue_new();
    if (!s->ready) {
        Py_DECREF((PyObject *)s);
        return NULL;
    }
    return (PyObject *)s;
}

static int scheduler_traverse(PyObject *self, visitproc visit, void *arg)
{
    Scheduler *s = (Scheduler *)self;
    Py_VISIT(s->ready);
    Py_VISIT(s->timers);
    Py_VISIT(s->batches);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int scheduler_clear(PyObject *self)
{
    Scheduler *s = (Scheduler *)self;
    Py_CLEAR(s->ready);
    Py_CLEAR(s->timers);
    Py_CLEAR(s->batches);
    return 0;
}

static void scheduler_dealloc(PyObject *self)
{
    hot_dealloc(self, scheduler_clear);
}

/* ---- asyncio's methods, for a loop in debug mode and for whatever is not plain -------------- */

static PyObject *asyncio_call(PyObject *method, PyObject *self, PyObject *const *args, Py_ssize_t n,
                              PyObject *keys)
{
    PyObject *all = PyTuple_New(n + 1), *kw = PyDict_New(), *f = NULL, *r = NULL;
    if (!all || !kw)
        goto out;
    PyTuple_SetItem(all, 0, Py_NewRef(self));
    for (Py_ssize_t i = 0; i < n; i++)
        PyTuple_SetItem(all, i + 1, Py_NewRef(args[i]));
    for (Py_ssize_t i = 0; keys && i < PyTuple_Size(keys); i++)
        if (PyDict_SetItem(kw, PyTuple_GetItem(keys, i), args[n + i]) < 0)
            goto out;
    f = PyObject_GetAttr(base, method);
    if (f)
        r = PyObject_Call(f, all, kw);
out:
    Py_XDECREF(all);
    Py_XDECREF(kw);
    Py_XDECREF(f);
    return r;
}

/* Is it call(first, *args[, context=c]) of an open loop that is not in debug mode? */
static bool plain(const Scheduler *s, PyObject *const *args, Py_ssize_t n, Py_ssize_t least,
                  PyObject *keys, PyObject **context)
{
    Py_ssize_t named = keys ? PyTuple_Size(keys) : 0;
    *context = Py_None;
    if (s->debug || s->closed || n < least || named > 1)
        return false;
    if (named == 0)
        return true;
    *context = args[n];
    return PyUnicode_Compare(PyTuple_GetItem(keys, 0), name_context) == 0;
}

/* ---- call_soon and the like ---------------------------------------------------------------- */

static PyObject *call_soon(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *keys)
{
    Scheduler *s = (Scheduler *)self;
    PyObject *context;
    if (!plain(s, args, n, 1, keys, &context))
        return asyncio_call(name_call_soon, self, args, n, keys);
    PyObject *handle = handle_new(self, args, n, context);
    if (handle && queue_append(s->ready, handle) < 0)
        Py_CLEAR(handle);
    return handle;
}

static PyObject *write_to_self(PyObject *self, PyObject *unused)
{
    Scheduler *s = (Scheduler *)self;
    uint64_t one = 1;
    if (s->wake_fd >= 0 && write(s->wake_fd, &one, sizeof(one)) < 0) {
        /* EAGAIN: the counter is full. Nothing reads it: the edge was given all the same. */
    }
    return Py_NewRef(Py_None);
}

static PyObject *call_soon_threadsafe(PyObject *self, PyObject *const *args, Py_ssize_t n,
                                      PyObject *keys)
{
    Scheduler *s = (Scheduler *)self;
    PyObject *context;
    if (!plain(s, args, n, 1, keys, &context))
        return asyncio_call(name_call_soon_threadsafe, self, args, n, keys);
    PyObject *handle = handle_new(self, args, n, context);
    if (handle && queue_append(s->ready, handle) < 0)
        Py_CLEAR(handle);
    if (handle && !s->awake) {
        s->awake = 1; /* the next one need not write: what it appends is seen too */
        Py_DECREF(write_to_self(self, NULL));
    }
    return handle;
}

static PyObject *add_timer(Scheduler *s, double when, PyObject *const *args, Py_ssize_t n,
                           PyObject *context)
{
    PyObject *timer = timer_new((PyObject *)s, when, args, n, context);
    if (timer && timers_push(s->timers, timer) < 0)
        Py_CLEAR(timer);
    return timer;
}

static int get_time(PyObject *v, double *out)
{
    *out = PyFloat_AsDouble(v);
    return *out == -1 && PyErr_Occurred() ? -1 : 0;
}

static PyObject *call_at(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *keys)
{
    PyObject *context;
    double when;
    if (!plain((Scheduler *)self, args, n, 2, keys, &context) || !PyNumber_Check(args[0]))
        return asyncio_call(name_call_at, self, args, n, keys);
    if (get_time(args[0], &when) < 0)
        return NULL;
    return add_timer((Scheduler *)self, when, args + 1, n - 1, context);
}

static int now(Scheduler *s, double *out)
{
    PyObject *v = PyObject_CallMethodObjArgs((PyObject *)s, name_time, NULL);
    int rc = v ? get_time(v, out) : -1;
    Py_XDECREF(v);
    return rc;
}

/* 0: a subclass has a call_at of its own. */
static int own_call_at(Scheduler *s)
{
    PyTypeObject *type = Py_TYPE((PyObject *)s);
    if (type != s->looked_up) {
        PyObject *found = PyObject_GetAttr((PyObject *)type, name_call_at);
        if (!found)
            return -1;
        s->own_call_at = found == scheduler_call_at;
        s->looked_up = type;
        Py_DECREF(found);
    }
    return s->own_call_at;
}

static PyObject *call_later(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *keys)
{
    PyObject *context;
    double delay, at;
    int own = own_call_at((Scheduler *)self);
    if (own < 0)
        return NULL;
    if (!own || !plain((Scheduler *)self, args, n, 2, keys, &context) || !PyNumber_Check(args[0]))
        return asyncio_call(name_call_later, self, args, n, keys);
    if (get_time(args[0], &delay) < 0 || now((Scheduler *)self, &at) < 0)
        return NULL;
    return add_timer((Scheduler *)self, at + delay, args + 1, n - 1, context);
}

static PyObject *scheduler_time(PyObject *self, PyObject *unused)
{
    return PyFloat_FromDouble((double)ffl_now_ns() / NS);
}

static PyObject *create_future(PyObject *self, PyObject *unused)
{
    PyObject *kw = PyDict_New(), *future = NULL;
    if (kw && PyDict_SetItem(kw, name_loop, self) == 0)
        future = PyObject_Call(future_type, no_args, kw);
    Py_XDECREF(kw);
    return future;
}

bool scheduler_debug(PyObject *loop)
{
    return ((Scheduler *)loop)->debug;
}

void scheduler_timer_cancelled(PyObject *loop)
{
    ((Scheduler *)loop)->cancelled++;
}

/* Of a timer that was made in debug mode. */
static PyObject *timer_handle_cancelled(PyObject *self, PyObject *timer)
{
    if (timer_scheduled(timer) > 0)
        ((Scheduler *)self)->cancelled++;
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

/* ---- _run_once ----------------------------------------------------------------------------- */

/* When the first timer is due, less `from`, in seconds; there is one. */
static int first_due(Scheduler *s, double from, double *left)
{
    if (timer_when(PyList_GetItem(s->timers, 0), left) < 0)
        return -1;
    *left -= from;
    return 0;
}

/* How long there is nothing to do: -1 for ever. */
static int next_timeout(Scheduler *s, int64_t *ns)
{
    Py_ssize_t timers = PyList_Size(s->timers);
    double at = 0, left = 0;
    if (timers > 0 && s->cancelled > 0) {
        if (timers_tidy(s->timers, &s->cancelled) < 0)
            return -1;
        timers = PyList_Size(s->timers);
    }
    if (timers > 0 && (now(s, &at) < 0 || first_due(s, at, &left) < 0))
        return -1;
    s->awake = 0;
    if (queue_size(s->ready) || s->stopping)
        *ns = 0;
    else if (!timers)
        *ns = -1;
    else
        *ns = left <= 0 ? 0 : (int64_t)((left < LONGEST_S ? left : LONGEST_S) * NS) + 1;
    return 0;
}

static int poll_loop(Scheduler *s, int64_t ns)
{
    PyObject *timeout = PyLong_FromLongLong(ns);
    PyObject *r =
        timeout ? PyObject_CallMethodObjArgs((PyObject *)s, name_poll, timeout, NULL) : NULL;
    Py_XDECREF(timeout);
    return done(r);
}

static int kernel_ready(Scheduler *s, int events)
{
    PyObject *n = PyLong_FromLong(events);
    PyObject *r = n ? PyObject_CallMethodObjArgs((PyObject *)s, name_kernel_ready, n, NULL) : NULL;
    Py_XDECREF(n);
    return done(r);
}

/* Waits, and queues what the events schedule. */
static int wait_events(Scheduler *s, int64_t ns)
{
    PyObject *batches = s->batches;
    if (!batches || !PyObject_TypeCheck(batches, dispatcher_type))
        return poll_loop(s, ns);
    Dispatcher *d = (Dispatcher *)batches;
    if (d->queued || d->index < d->count)
        return poll_loop(s, ns);
    Py_INCREF(batches); /* what is called may end the session */
    int rc = dispatcher_wait(d, ns, s->wake_fd);
    s->awake = 1;
    if (rc > 0)
        rc = kernel_ready(s, rc);
    if (rc == 0 && d->count) {
        d->queued = 1;
        rc = queue_append(s->ready, batches);
    }
    Py_DECREF(batches);
    return rc;
}

static int queue_due_timers(Scheduler *s)
{
    double end, left;
    if (PyList_Size(s->timers) <= 0)
        return 0;
    if (now(s, &end) < 0)
        return -1;
    int rc = 0;
    while (rc == 0 && PyList_Size(s->timers) > 0) {
        rc = first_due(s, end + s->resolution, &left);
        if (rc < 0 || left >= 0)
            break;
        PyObject *timer = timers_pop(s->timers);
        int off = timer ? timer_cancelled(timer) : -1;
        s->cancelled -= off > 0;
        rc = off ? off < 0 ? -1 : 0 : queue_append(s->ready, timer);
        Py_XDECREF(timer);
    }
    return rc;
}

/* A handle, or the Dispatcher, whose batch is handed out in its place among them. */
static int run_one(Scheduler *s, PyObject *handle)
{
    if (Py_TYPE(handle) != dispatcher_type)
        return handle_run(handle, (PyObject *)s);
    if (dispatcher_hand_out((Dispatcher *)handle) == 0)
        return 0;
    PyObject *exc = hot_take_exception();
    PyObject *r =
        exc ? PyObject_CallMethodObjArgs((PyObject *)s, name_failed, handle, exc, NULL) : NULL;
    Py_XDECREF(exc);
    return done(r);
}

/* What is queued now; not what that queues. */
static int run_ready(Scheduler *s)
{
    int rc = 0;
    for (Py_ssize_t n = queue_size(s->ready); rc == 0 && n > 0; n--) {
        PyObject *handle = queue_popleft(s->ready);
        if (!handle)
            break; /* a callback took it */
        rc = run_one(s, handle);
        Py_DECREF(handle);
    }
    return rc;
}

/* From when an iteration knew its events until it is done with them: what came just after may have had to
 * wait for so long. The clock is read once per iteration, and once more where it slept. */
static void note_lag(Scheduler *s)
{
    int64_t end = ffl_now_ns(), lag = end - s->woke_ns;
    uint64_t us = (uint64_t)lag >> 10;
    int i = us ? 64 - __builtin_clzll(us) : 0;
    s->lags[i < LAGS ? i : LAGS - 1]++;
    s->lag_ns += lag;
    s->woke_ns = end;
}

static int iterate(Scheduler *s)
{
    int64_t ns = 0;
    int rc = next_timeout(s, &ns);
    if (rc == 0)
        rc = wait_events(s, ns);
    s->awake = 1;
    if (ns != 0)
        s->woke_ns = ffl_now_ns();
    if (rc == 0)
        rc = queue_due_timers(s);
    if (rc == 0)
        rc = run_ready(s);
    note_lag(s);
    return rc;
}

/* (seconds of work, [(seconds, iterations that worked for less and at least half of it), ...]) */
static PyObject *lag(PyObject *self, PyObject *unused)
{
    const Scheduler *s = (Scheduler *)self;
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < LAGS; i++) {
        double bound = i == LAGS - 1 ? INFINITY : (double)(1024ULL << i) / NS;
        PyObject *pair = Py_BuildValue("(dK)", bound, (unsigned long long)s->lags[i]);
        if (!pair || PyList_Append(list, pair) < 0)
            Py_CLEAR(list);
        Py_XDECREF(pair);
    }
    return list ? Py_BuildValue("(dN)", (double)s->lag_ns / NS, list) : NULL;
}

/* One iteration; or, for run_forever, which asks after each whether to stop, several. */
static PyObject *run_once(PyObject *self, PyObject *unused)
{
    Scheduler *s = (Scheduler *)self;
    int rc, left = s->forever ? AT_ONCE : 1;
    s->woke_ns = ffl_now_ns();
    do {
        s->awake = 0; /* asyncio's way does not tell when it sleeps */
        if (s->debug || !s->timers)
            return asyncio_call(name_run_once, self, NULL, 0, NULL);
        rc = iterate(s);
        if (rc == 0 && s->forever)
            rc = PyErr_CheckSignals();
    } while (rc == 0 && --left > 0 && s->forever && !s->stopping);
    return rc < 0 ? NULL : Py_NewRef(Py_None);
}

/* ---- the type ------------------------------------------------------------------------------ */

static PyObject *get_flag(PyObject *self, void *offset)
{
    return PyBool_FromLong(*((char *)self + (size_t)offset));
}

static int set_flag(PyObject *self, PyObject *value, void *offset)
{
    int on = value ? PyObject_IsTrue(value) : 0;
    if (on >= 0)
        *((char *)self + (size_t)offset) = (char)on;
    return on < 0 ? -1 : 0;
}

static PyObject *get_ready(PyObject *self, void *unused)
{
    return Py_NewRef(((Scheduler *)self)->ready);
}

/* asyncio's __init__ brings an empty deque; the queue that is here takes its place. */
static int set_ready(PyObject *self, PyObject *value, void *unused)
{
    if (value && PyObject_Size(value) == 0)
        return 0;
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_TypeError, "_ready stays the loop's own queue");
    return -1;
}

static PyObject *get_timers(PyObject *self, void *unused)
{
    PyObject *timers = ((Scheduler *)self)->timers;
    return Py_NewRef(timers ? timers : Py_None);
}

static int set_timers(PyObject *self, PyObject *value, void *unused)
{
    if (!value || !PyList_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "_scheduled must be a list");
        return -1;
    }
    hot_set_ref(&((Scheduler *)self)->timers, value);
    return 0;
}

#define FLAG(name, field) {name, get_flag, set_flag, NULL, (void *)offsetof(Scheduler, field)}
static PyGetSetDef scheduler_getset[] = {
    FLAG("_closed", closed),
    FLAG("_debug", debug),
    FLAG("_stopping", stopping),
    FLAG("_forever", forever),
    {"_ready", get_ready, set_ready, NULL, NULL},
    {"_scheduled", get_timers, set_timers, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef scheduler_members[] = {
    {"_timer_cancelled_count", T_PYSSIZET, offsetof(Scheduler, cancelled), 0, NULL},
    {"_clock_resolution", T_DOUBLE, offsetof(Scheduler, resolution), 0, NULL},
    {"_wake_fd", T_INT, offsetof(Scheduler, wake_fd), 0, "an eventfd that ends a wait, or -1"},
    {"_batches", T_OBJECT, offsetof(Scheduler, batches), 0, "the session's Dispatcher, or None"},
    {NULL, 0, 0, 0, NULL},
};

#define WITH_CONTEXT(f) (PyCFunction)(void (*)(void)) f, METH_FASTCALL | METH_KEYWORDS
static PyMethodDef scheduler_methods[] = {
    {"call_soon", WITH_CONTEXT(call_soon), "As asyncio's."},
    {"call_soon_threadsafe", WITH_CONTEXT(call_soon_threadsafe), "As asyncio's."},
    {"call_at", WITH_CONTEXT(call_at), "As asyncio's."},
    {"call_later", WITH_CONTEXT(call_later), "As asyncio's."},
    {"time", scheduler_time, METH_NOARGS, "Seconds of the monotonic clock."},
    {"create_future", create_future, METH_NOARGS, "A Future of this loop."},
    {"_timer_handle_cancelled", timer_handle_cancelled, METH_O, NULL},
    {"_write_to_self", write_to_self, METH_NOARGS, NULL},
    {"_run_once", run_once, METH_NOARGS, "One iteration of the loop."},
    {"_lag", lag, METH_NOARGS, "How long iterations worked: seconds, and a histogram."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot scheduler_slots[] = {
    {Py_tp_doc, "Queues and runs a loop's callbacks."},
    {Py_tp_new, scheduler_new},
    {Py_tp_dealloc, scheduler_dealloc},
    {Py_tp_traverse, scheduler_traverse},
    {Py_tp_clear, scheduler_clear},
    {Py_tp_getset, scheduler_getset},
    {Py_tp_members, scheduler_members},
    {Py_tp_methods, scheduler_methods},
    {0, NULL},
};

static PyType_Spec scheduler_spec = {
    .name = "ffloop._native._hot.Scheduler",
    .basicsize = sizeof(Scheduler),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = scheduler_slots,
};

int scheduler_exec(PyObject *module)
{
    const struct hot_name names[] = {
        {&name_call_soon, "call_soon"},
        {&name_call_soon_threadsafe, "call_soon_threadsafe"},
        {&name_call_at, "call_at"},
        {&name_call_later, "call_later"},
        {&name_failed, "_failed"},
        {&name_run_once, "_run_once"},
        {&name_time, "time"},
        {&name_poll, "_poll"},
        {&name_kernel_ready, "_kernel_ready"},
        {&name_context, "context"},
        {&name_loop, "loop"},
    };
    if (hot_intern_all(names, FFL_COUNT(names)) < 0 || handle_exec(module) < 0 ||
        queue_exec(module) < 0 || hot_import(&base, "asyncio.base_events", "BaseEventLoop") < 0 ||
        hot_import(&future_type, "asyncio", "Future") < 0)
        return -1;
    if (!no_args && !(no_args = PyTuple_New(0)))
        return -1;
    PyObject *type = hot_add_type(module, "Scheduler", &scheduler_spec, NULL);
    if (!type)
        return -1;
    Py_XDECREF(scheduler_call_at);
    scheduler_call_at = PyObject_GetAttr(type, name_call_at);
    return scheduler_call_at ? 0 : -1;
}
