/*
 * scheduler.c - Scheduler: queues a loop's callbacks. See scheduler.h.
 *
 * A base class of ffloop's loops, in front of asyncio.SelectorEventLoop, whose flags and queues
 * (_closed, _debug, _stopping, _ready, _scheduled, ...) are fields here, under the same names. A
 * loop in debug mode uses asyncio's own methods.
 */
#include "scheduler.h"
#include "queue.h"
#include "watchers.h"

#include <unistd.h>

static PyTypeObject *scheduler_type;
static PyObject *base; /* asyncio.BaseEventLoop */
static PyObject *future_type, *task_type, *no_args, *scheduler_call_at, *scheduler_create_future;
static PyObject *name_call_soon, *name_call_soon_threadsafe, *name_call_at, *name_call_later,
    *name_time, *name_context, *name_loop, *name_create_task, *name_create_future;

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
    Py_VISIT(s->listed);
    Py_VISIT(s->batches);
    Py_VISIT(s->watchers);
    Py_VISIT(s->task_factory);
    Py_VISIT(s->named);
    Py_VISIT(Py_TYPE(self));
    return timers_traverse(&s->timers, visit, arg);
}

static int scheduler_clear(PyObject *self)
{
    Scheduler *s = (Scheduler *)self;
    Py_CLEAR(s->ready);
    Py_CLEAR(s->listed);
    Py_CLEAR(s->batches);
    Py_CLEAR(s->watchers);
    Py_CLEAR(s->task_factory);
    Py_CLEAR(s->named);
    timers_clear(&s->timers);
    return 0;
}

static void scheduler_dealloc(PyObject *self)
{
    hot_dealloc(self, scheduler_clear);
}

/* ---- asyncio's methods, for debug mode and calls that are not plain -------------------------- */

PyObject *scheduler_asyncio(PyObject *method, PyObject *self, PyObject *const *args, Py_ssize_t n,
                            PyObject *keys)
{
    PyObject *f = PyObject_GetAttr(base, method);
    PyObject *r = f ? hot_forward(f, self, args, n, keys) : NULL;
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
        return scheduler_asyncio(name_call_soon, self, args, n, keys);
    PyObject *handle = handle_new(self, args, n, context);
    if (handle && queue_append(s->ready, handle) < 0)
        Py_CLEAR(handle);
    return handle;
}

/* (context, callback, *args) */
static PyObject *queue_event(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    if (n < 2)
        return PyErr_Format(PyExc_TypeError, "a context and a callback are needed");
    PyObject *handle = handle_untraced(self, args + 1, n - 1, args[0]);
    int rc = handle ? queue_append(((Scheduler *)self)->ready, handle) : -1;
    Py_XDECREF(handle);
    return rc < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *write_to_self(PyObject *self, PyObject *unused)
{
    Scheduler *s = (Scheduler *)self;
    uint64_t one = 1;
    if (s->wake_fd >= 0 && write(s->wake_fd, &one, sizeof(one)) < 0) {
        /* EAGAIN: the counter, which nobody reads, is full. The write has woken the epoll all the
         * same. */
    }
    return Py_NewRef(Py_None);
}

static PyObject *call_soon_threadsafe(PyObject *self, PyObject *const *args, Py_ssize_t n,
                                      PyObject *keys)
{
    Scheduler *s = (Scheduler *)self;
    PyObject *context;
    if (!plain(s, args, n, 1, keys, &context))
        return scheduler_asyncio(name_call_soon_threadsafe, self, args, n, keys);
    PyObject *handle = handle_for_threads(self, args, n, context);
    if (handle && queue_append(s->ready, handle) < 0)
        Py_CLEAR(handle);
    if (handle && !s->awake) {
        s->awake = 1; /* a further call need not write: the loop will see its handle as well */
        Py_DECREF(write_to_self(self, NULL));
    }
    return handle;
}

static PyObject *add_timer(Scheduler *s, double when, PyObject *const *args, Py_ssize_t n,
                           PyObject *context)
{
    if (scheduler_own_timers(s) < 0)
        return NULL;
    PyObject *timer = timer_new((PyObject *)s, when, args, n, context);
    if (timer && timers_push(&s->timers, timer, when) < 0)
        Py_CLEAR(timer);
    return timer;
}

int scheduler_own_timers(Scheduler *s)
{
    if (!s->listed)
        return 0;
    int rc = timers_take(&s->timers, s->listed);
    Py_CLEAR(s->listed);
    return rc;
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
        return scheduler_asyncio(name_call_at, self, args, n, keys);
    if (get_time(args[0], &when) < 0)
        return NULL;
    return add_timer((Scheduler *)self, when, args + 1, n - 1, context);
}

int scheduler_now(Scheduler *s, double *out)
{
    PyObject *v = PyObject_CallMethodObjArgs((PyObject *)s, name_time, NULL);
    int rc = v ? get_time(v, out) : -1;
    Py_XDECREF(v);
    return rc;
}

/* Looks which methods are this class's, and not a subclass's. 0 or -1. */
static int own_methods(Scheduler *s)
{
    PyTypeObject *type = Py_TYPE((PyObject *)s);
    if (type == s->looked_up)
        return 0;
    PyObject *call_at = PyObject_GetAttr((PyObject *)type, name_call_at);
    PyObject *future = call_at ? PyObject_GetAttr((PyObject *)type, name_create_future) : NULL;
    s->own_call_at = call_at == scheduler_call_at;
    s->own_create_future = future == scheduler_create_future;
    if (future)
        s->looked_up = type;
    Py_XDECREF(call_at);
    Py_XDECREF(future);
    return future ? 0 : -1;
}

static PyObject *call_later(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *keys)
{
    PyObject *context;
    double delay, at;
    if (own_methods((Scheduler *)self) < 0)
        return NULL;
    if (!((Scheduler *)self)->own_call_at ||
        !plain((Scheduler *)self, args, n, 2, keys, &context) || !PyNumber_Check(args[0]))
        return scheduler_asyncio(name_call_later, self, args, n, keys);
    if (get_time(args[0], &delay) < 0 || scheduler_now((Scheduler *)self, &at) < 0)
        return NULL;
    return add_timer((Scheduler *)self, at + delay, args + 1, n - 1, context);
}

static PyObject *scheduler_time(PyObject *self, PyObject *unused)
{
    return PyFloat_FromDouble((double)ffl_now_ns() / NS);
}

static PyObject *create_future(PyObject *self, PyObject *unused)
{
    Scheduler *s = (Scheduler *)self;
    PyObject *named = s->named ? Py_NewRef(s->named) : PyDict_New(), *future = NULL;
    if (named && (s->named || PyDict_SetItem(named, name_loop, self) == 0)) {
        if (s->forever && !s->named)
            s->named = Py_NewRef(named);
        future = PyObject_Call(future_type, no_args, named);
    }
    Py_XDECREF(named);
    return future;
}

PyObject *scheduler_future(PyObject *loop)
{
    bool is = scheduler_is(loop);
    if (is && own_methods((Scheduler *)loop) < 0)
        return NULL;
    return is && ((Scheduler *)loop)->own_create_future
               ? create_future(loop, NULL)
               : PyObject_CallMethodObjArgs(loop, name_create_future, NULL);
}

/* Task(coro, loop=self, **named) */
static PyObject *new_task(PyObject *self, PyObject *coro, PyObject *const *named, PyObject *keys)
{
    PyObject *one = PyTuple_Pack(1, coro), *kw = PyDict_New(), *task = NULL;
    int rc = one && kw ? PyDict_SetItem(kw, name_loop, self) : -1;
    for (Py_ssize_t i = 0; rc == 0 && keys && i < PyTuple_Size(keys); i++)
        rc = PyDict_SetItem(kw, PyTuple_GetItem(keys, i), named[i]);
    if (rc == 0)
        task = PyObject_Call(task_type, one, kw);
    Py_XDECREF(one);
    Py_XDECREF(kw);
    return task;
}

static PyObject *create_task(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *keys)
{
    const Scheduler *s = (Scheduler *)self;
    bool made = s->task_factory && s->task_factory != Py_None;
    for (Py_ssize_t i = 0; !made && keys && i < PyTuple_Size(keys); i++) {
        PyObject *key = PyTuple_GetItem(keys, i);
        made = PyUnicode_CompareWithASCIIString(key, "name") != 0 &&
               PyUnicode_CompareWithASCIIString(key, "context") != 0;
    }
    if (made || s->debug || s->closed || n != 1)
        return scheduler_asyncio(name_create_task, self, args, n, keys);
    return new_task(self, args[0], args + n, keys);
}

/* Every Task and Future asks when it is made. */
static PyObject *get_debug(PyObject *self, PyObject *unused)
{
    return PyBool_FromLong(((Scheduler *)self)->debug);
}

bool scheduler_is(PyObject *loop)
{
    return PyObject_TypeCheck(loop, scheduler_type);
}

bool scheduler_debug(PyObject *loop)
{
    return ((Scheduler *)loop)->debug;
}

bool scheduler_runs(PyObject *loop)
{
    return ((Scheduler *)loop)->forever;
}

void scheduler_timer_cancelled(PyObject *loop)
{
    ((Scheduler *)loop)->cancelled++;
}

/* asyncio calls this for a timer that was made in debug mode. */
static PyObject *timer_handle_cancelled(PyObject *self, PyObject *timer)
{
    if (timer_scheduled(timer) > 0)
        ((Scheduler *)self)->cancelled++;
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
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

/* A loop that does not run may be garbage, with all that it is to call. */
static int set_forever(PyObject *self, PyObject *value, void *offset)
{
    Scheduler *s = (Scheduler *)self;
    int rc = set_flag(self, value, offset);
    if (!s->forever) {
        Py_CLEAR(s->named);
        queue_track(s->ready);
        timers_track(&s->timers);
    }
    return rc;
}

static PyObject *get_ready(PyObject *self, void *unused)
{
    return Py_NewRef(((Scheduler *)self)->ready);
}

/* asyncio's __init__ sets _ready to an empty deque: the Queue stays in its place. */
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
    Scheduler *s = (Scheduler *)self;
    if (!s->listed)
        s->listed = timers_give(&s->timers);
    return s->listed ? Py_NewRef(s->listed) : NULL;
}

static int set_timers(PyObject *self, PyObject *value, void *unused)
{
    if (!value || !PyList_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "_scheduled must be a list");
        return -1;
    }
    Scheduler *s = (Scheduler *)self;
    PyObject *was = s->listed;
    s->listed = Py_NewRef(value);
    timers_clear(&s->timers);
    Py_XDECREF(was);
    return 0;
}

#define FLAG(name, field) {name, get_flag, set_flag, NULL, (void *)offsetof(Scheduler, field)}
static PyGetSetDef scheduler_getset[] = {
    FLAG("_closed", closed),
    FLAG("_debug", debug),
    FLAG("_stopping", stopping),
    {"_forever", get_flag, set_forever, NULL, (void *)offsetof(Scheduler, forever)},
    {"_ready", get_ready, set_ready, NULL, NULL},
    {"_scheduled", get_timers, set_timers, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef scheduler_members[] = {
    {"_timer_cancelled_count", T_PYSSIZET, offsetof(Scheduler, cancelled), 0, NULL},
    {"_clock_resolution", T_DOUBLE, offsetof(Scheduler, resolution), 0, NULL},
    {"_wake_fd", T_INT, offsetof(Scheduler, wake_fd), 0, "an eventfd that ends a wait, or -1"},
    {"_batches", T_OBJECT, offsetof(Scheduler, batches), 0, "the session's Dispatcher, or None"},
    {"_task_factory", T_OBJECT, offsetof(Scheduler, task_factory), 0, "as asyncio's, or None"},
    {"_watchers", T_OBJECT, offsetof(Scheduler, watchers), 0, "the selector, a Watchers"},
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
    {"create_task", WITH_CONTEXT(create_task), "As asyncio's."},
    {"get_debug", get_debug, METH_NOARGS, "As asyncio's."},
    {"_timer_handle_cancelled", timer_handle_cancelled, METH_O, NULL},
    {"_queue_event", (PyCFunction)(void (*)(void))queue_event, METH_FASTCALL,
     "(context, callback, *args): for what comes from nowhere in the program."},
    {"_write_to_self", write_to_self, METH_NOARGS, NULL},
    {"_add_reader", WITH_CONTEXT(scheduler_add_reader), "As asyncio's."},
    {"_add_writer", WITH_CONTEXT(scheduler_add_writer), "As asyncio's."},
    {"_remove_reader", scheduler_remove_reader, METH_O, "As asyncio's."},
    {"_remove_writer", scheduler_remove_writer, METH_O, "As asyncio's."},
    {"_wait_readable", scheduler_wait_readable, METH_O,
     "A Future that is done once the descriptor is readable."},
    {"_wait_writable", scheduler_wait_writable, METH_O,
     "A Future that is done once the descriptor is writable."},
    {"_hand_over", scheduler_hand_over, METH_O,
     "Direct mode: a transport takes on a descriptor that was waited for."},
    {"_give_up", scheduler_give_up, METH_VARARGS, "(fd, future): that is not waited for any more."},
    {"_watched", scheduler_watched, METH_VARARGS,
     "An event of epoll's, (fd, events), for those who watch the descriptor."},
    {"_run_once", scheduler_run_once, METH_NOARGS, "One iteration of the loop."},
    {"_lag", scheduler_lag, METH_NOARGS, "The iterations' work: seconds, and a histogram."},
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
        {&name_time, "time"},
        {&name_context, "context"},
        {&name_loop, "loop"},
        {&name_create_task, "create_task"},
        {&name_create_future, "create_future"},
    };
    if (hot_intern_all(names, FFL_COUNT(names)) < 0 || iteration_exec() < 0 ||
        watching_exec() < 0 || watchers_exec(module) < 0 || handle_exec(module) < 0 ||
        queue_exec(module) < 0 || hot_import(&base, "asyncio.base_events", "BaseEventLoop") < 0 ||
        hot_import(&future_type, "asyncio", "Future") < 0 ||
        hot_import(&task_type, "asyncio", "Task") < 0)
        return -1;
    if (!no_args && !(no_args = PyTuple_New(0)))
        return -1;
    PyObject *type = hot_add_type(module, "Scheduler", &scheduler_spec, NULL);
    if (!type)
        return -1;
    scheduler_type = (PyTypeObject *)type;
    Py_XDECREF(scheduler_call_at);
    Py_XDECREF(scheduler_create_future);
    scheduler_call_at = PyObject_GetAttr(type, name_call_at);
    scheduler_create_future = PyObject_GetAttr(type, name_create_future);
    return scheduler_call_at && scheduler_create_future ? 0 : -1;
}
