/*
 * turn.c - Turn: the loop's call_soon and _run_once, for a loop that is not in debug mode.
 *
 * Caller: ffloop/_loop/loop.py. The order of things is that of asyncio's BaseEventLoop._run_once: wait for
 * events, queue what they schedule, queue the timers that are due, run what was queued up to here.
 * The rare ways are the loop's, in Python: _tidy_timers (cancelled timers), _poll (no instance, or
 * a batch that an interrupt left unfinished), _kernel_ready (descriptors), _failed (a callback
 * raised), and _call_soon for any form of call_soon but call_soon(callback, *args[, context=c]).
 *
 * Handle is asyncio.Handle with its fields in C. A class made in Python cannot be traversed or freed by
 * a subclass of ours, so the base's own slots stay empty for ever: the fields stand behind it, and
 * descriptors of the same names cover the base's.
 */
#include "hot.h"

#define NS 1e9
#define LONGEST_S 86400.0 /* as asyncio's MAXIMUM_SELECT_TIMEOUT */
#define TIDY_FROM 100     /* timers; below, only cancelled ones at the head are taken out */

enum name {
    N_CANCELLED,
    N_RUN_HANDLE,
    N_RUN,
    N_WHEN,
    N_SCHEDULED,
    N_STOPPING,
    N_TIME,
    N_TIDY,
    N_POLL,
    N_KERNEL,
    N_FAILED,
    N_CALL_SOON,
    N_BATCH,
    N_CONTEXT,
    NAMES
};
static const char *const spelled[NAMES] = {
    [N_CANCELLED] = "_cancelled",
    [N_RUN_HANDLE] = "_run",
    [N_RUN] = "run",
    [N_WHEN] = "_when",
    [N_SCHEDULED] = "_scheduled",
    [N_STOPPING] = "_stopping",
    [N_TIME] = "time",
    [N_TIDY] = "_tidy_timers",
    [N_POLL] = "_poll",
    [N_KERNEL] = "_kernel_ready",
    [N_FAILED] = "_failed",
    [N_CALL_SOON] = "_call_soon_any",
    [N_BATCH] = "batch",
    [N_CONTEXT] = "context",
};
static PyObject *names[NAMES];
static PyObject *copy_context, *heappop;

static PyObject *call(PyObject *on, enum name method, PyObject *a, PyObject *b)
{
    return PyObject_CallMethodObjArgs(on, names[method], a, b, NULL);
}

/* 0, 1, or -1 with an exception. */
static int is_true(PyObject *of, enum name attribute)
{
    PyObject *v = PyObject_GetAttr(of, names[attribute]);
    int rc = v ? PyObject_IsTrue(v) : -1;
    Py_XDECREF(v);
    return rc;
}

static int done(PyObject *result)
{
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* ---- Handle -------------------------------------------------------------------------------- */

struct handle {
    PyObject *callback, *args, *context, *loop, *repr, *source_traceback;
    char cancelled;
};

static PyTypeObject *handle_type;
static Py_ssize_t handle_at; /* where the fields stand: behind those of asyncio.Handle */

static struct handle *fields(PyObject *self)
{
    return (struct handle *)((char *)self + handle_at);
}

static int handle_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct handle *h = fields(self);
    Py_VISIT(h->callback);
    Py_VISIT(h->args);
    Py_VISIT(h->context);
    Py_VISIT(h->loop);
    Py_VISIT(h->repr);
    Py_VISIT(h->source_traceback);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int handle_clear(PyObject *self)
{
    struct handle *h = fields(self);
    Py_CLEAR(h->callback);
    Py_CLEAR(h->args);
    Py_CLEAR(h->context);
    Py_CLEAR(h->loop);
    Py_CLEAR(h->repr);
    Py_CLEAR(h->source_traceback);
    return 0;
}

static void handle_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    PyObject_ClearWeakRefs(self);
    handle_clear(self);
    freefunc release = PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

/* callback(*args) in the handle's context: a new reference. */
static PyObject *handle_call(struct handle *h)
{
    PyObject *callback = h->callback, *args = h->args, *context = h->context;
    Py_ssize_t n = PyTuple_Size(args);
    if (n < 0)
        return NULL;
    PyObject *run = names[N_RUN], *a = n > 0 ? PyTuple_GetItem(args, 0) : NULL;
    if (n <= 1) /* a == NULL ends the arguments */
        return PyObject_CallMethodObjArgs(context, run, callback, a, NULL);
    if (n == 2)
        return PyObject_CallMethodObjArgs(context, run, callback, a, PyTuple_GetItem(args, 1),
                                          NULL);
    PyObject *all = PyTuple_New(n + 1), *enter = PyObject_GetAttr(context, run), *r = NULL;
    if (all && enter) {
        Py_INCREF(callback);
        PyTuple_SetItem(all, 0, callback);
        for (Py_ssize_t i = 0; i < n; i++) {
            PyObject *item = PyTuple_GetItem(args, i);
            Py_INCREF(item);
            PyTuple_SetItem(all, i + 1, item);
        }
        r = PyObject_Call(enter, all, NULL);
    }
    Py_XDECREF(all);
    Py_XDECREF(enter);
    return r;
}

static int handle_run(PyObject *self, PyObject *loop)
{
    struct handle *h = fields(self);
    if (h->cancelled || !h->callback || !h->args || !h->context)
        return 0;
    struct handle held = *h; /* it may cancel itself meanwhile */
    Py_INCREF(held.callback);
    Py_INCREF(held.args);
    Py_INCREF(held.context);
    PyObject *r = handle_call(&held);
    Py_DECREF(held.callback);
    Py_DECREF(held.args);
    Py_DECREF(held.context);
    if (r) {
        Py_DECREF(r);
        return 0;
    }
    PyObject *exc = hot_take_exception();
    if (!exc)
        return -1;
    r = call(loop, N_FAILED, self, exc);
    Py_DECREF(exc);
    return done(r);
}

/* The offsets are filled in when the base's size is known. */
static PyMemberDef handle_members[] = {
    {"_callback", T_OBJECT, offsetof(struct handle, callback), 0, NULL},
    {"_args", T_OBJECT, offsetof(struct handle, args), 0, NULL},
    {"_context", T_OBJECT, offsetof(struct handle, context), 0, NULL},
    {"_loop", T_OBJECT, offsetof(struct handle, loop), 0, NULL},
    {"_repr", T_OBJECT, offsetof(struct handle, repr), 0, NULL},
    {"_source_traceback", T_OBJECT, offsetof(struct handle, source_traceback), 0, NULL},
    {"_cancelled", T_BOOL, offsetof(struct handle, cancelled), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot handle_slots[] = {
    {Py_tp_doc, "asyncio.Handle, made and run by a Turn."},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_traverse, handle_traverse},
    {Py_tp_clear, handle_clear},
    {Py_tp_members, handle_members},
    {0, NULL},
};

static PyType_Spec handle_spec = {
    .name = "ffloop._native._hot.Handle",
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = handle_slots,
};

static int handle_exec(PyObject *module)
{
    PyObject *events = PyImport_ImportModule("asyncio.events");
    PyObject *base = events ? PyObject_GetAttrString(events, "Handle") : NULL;
    PyObject *size = base ? PyObject_GetAttrString(base, "__basicsize__") : NULL;
    Py_XDECREF(events);
    if (size && !handle_at) {
        handle_at = PyLong_AsSsize_t(size);
        for (PyMemberDef *m = handle_members; m->name; m++)
            m->offset += handle_at;
        handle_spec.basicsize = (int)(handle_at + (Py_ssize_t)sizeof(struct handle));
    }
    Py_XDECREF(size);
    if (size)
        handle_type = (PyTypeObject *)hot_add_type(module, "Handle", &handle_spec, base);
    Py_XDECREF(base);
    return handle_type ? 0 : -1;
}

/* ---- Turn ---------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *loop, *poller;
    PyObject *ready, *append, *popleft; /* the loop's deque and its methods */
    PyObject *dispatch;                 /* the handle that hands a batch out */
    double resolution;                  /* of the loop's clock, seconds */
} Turn;

static int turn_init(PyObject *self, PyObject *args, PyObject *kw)
{
    static char *keys[] = {"loop", "poller", "ready", "dispatch", "resolution", NULL};
    Turn *t = (Turn *)self;
    PyObject *loop, *poller, *ready, *dispatch;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "OOOOd", keys, &loop, &poller, &ready, &dispatch,
                                     &t->resolution))
        return -1;
    hot_set_ref(&t->loop, loop);
    hot_set_ref(&t->poller, poller);
    hot_set_ref(&t->ready, ready);
    hot_set_ref(&t->dispatch, dispatch);
    Py_XDECREF(t->append);
    Py_XDECREF(t->popleft);
    t->append = PyObject_GetAttrString(ready, "append");
    t->popleft = PyObject_GetAttrString(ready, "popleft");
    return t->append && t->popleft ? 0 : -1;
}

static int turn_traverse(PyObject *self, visitproc visit, void *arg)
{
    Turn *t = (Turn *)self;
    Py_VISIT(t->loop);
    Py_VISIT(t->poller);
    Py_VISIT(t->ready);
    Py_VISIT(t->append);
    Py_VISIT(t->popleft);
    Py_VISIT(t->dispatch);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int turn_clear(PyObject *self)
{
    Turn *t = (Turn *)self;
    Py_CLEAR(t->loop);
    Py_CLEAR(t->poller);
    Py_CLEAR(t->ready);
    Py_CLEAR(t->append);
    Py_CLEAR(t->popleft);
    Py_CLEAR(t->dispatch);
    return 0;
}

static void turn_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    turn_clear(self);
    freefunc release = PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

/* ---- call_soon ----------------------------------------------------------------------------- */

static int queue(Turn *t, PyObject *handle)
{
    return done(PyObject_CallFunctionObjArgs(t->append, handle, NULL));
}

static PyObject *new_handle(Turn *t, PyObject *const *args, Py_ssize_t n, PyObject *context)
{
    PyObject *self = PyType_GenericAlloc(handle_type, 0);
    if (!self)
        return NULL;
    struct handle *h = fields(self);
    h->args = PyTuple_New(n - 1);
    h->context = context == Py_None ? PyObject_CallNoArgs(copy_context) : Py_NewRef(context);
    if (!h->args || !h->context) {
        Py_DECREF(self);
        return NULL;
    }
    h->callback = Py_NewRef(args[0]);
    h->loop = Py_NewRef(t->loop);
    for (Py_ssize_t i = 1; i < n; i++)
        PyTuple_SetItem(h->args, i - 1, Py_NewRef(args[i]));
    return self;
}

/* Anything but call_soon(callback, *args[, context=c]): as the loop's own would take it. */
static PyObject *call_soon_any(Turn *t, PyObject *const *args, Py_ssize_t n, PyObject *keys)
{
    PyObject *all = PyTuple_New(n), *kw = PyDict_New(), *method = NULL, *r = NULL;
    if (!all || !kw)
        goto out;
    for (Py_ssize_t i = 0; i < n; i++)
        PyTuple_SetItem(all, i, Py_NewRef(args[i]));
    for (Py_ssize_t i = 0; keys && i < PyTuple_Size(keys); i++)
        if (PyDict_SetItem(kw, PyTuple_GetItem(keys, i), args[n + i]) < 0)
            goto out;
    method = PyObject_GetAttr(t->loop, names[N_CALL_SOON]);
    if (method)
        r = PyObject_Call(method, all, kw);
out:
    Py_XDECREF(all);
    Py_XDECREF(kw);
    Py_XDECREF(method);
    return r;
}

static PyObject *turn_call_soon(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *keys)
{
    Turn *t = (Turn *)self;
    PyObject *context = Py_None;
    Py_ssize_t named = keys ? PyTuple_Size(keys) : 0;
    if (n < 1 || named > 1)
        return call_soon_any(t, args, n, keys);
    if (named) {
        if (PyUnicode_Compare(PyTuple_GetItem(keys, 0), names[N_CONTEXT]) != 0)
            return PyErr_Occurred() ? NULL : call_soon_any(t, args, n, keys);
        context = args[n];
    }
    PyObject *handle = new_handle(t, args, n, context);
    if (handle && queue(t, handle) < 0)
        Py_CLEAR(handle);
    return handle;
}

/* ---- _run_once ----------------------------------------------------------------------------- */

static int get_double(PyObject *v, double *out)
{
    *out = v ? PyFloat_AsDouble(v) : -1;
    Py_XDECREF(v);
    return *out == -1 && PyErr_Occurred() ? -1 : 0;
}

/* The heap of timers, as a new reference: asyncio replaces the list now and then. */
static PyObject *timers(Turn *t, Py_ssize_t *n)
{
    PyObject *list = PyObject_GetAttr(t->loop, names[N_SCHEDULED]);
    *n = list ? PyList_Size(list) : -1;
    if (*n < 0)
        Py_CLEAR(list);
    return list;
}

/* When the first timer is due, less `base`, in seconds; the list is not empty. */
static int first_due(PyObject *list, double base, double *left)
{
    if (get_double(PyObject_GetAttr(PyList_GetItem(list, 0), names[N_WHEN]), left) < 0)
        return -1;
    *left -= base;
    return 0;
}

static int now(Turn *t, double *out)
{
    return get_double(call(t->loop, N_TIME, NULL, NULL), out);
}

/* Cancelled timers go when one is at the head, or when there are many. 1: the list has changed. */
static int tidy(Turn *t, PyObject *list, Py_ssize_t n)
{
    int due = n > TIDY_FROM ? 1 : is_true(PyList_GetItem(list, 0), N_CANCELLED);
    if (due > 0 && done(call(t->loop, N_TIDY, NULL, NULL)) < 0)
        return -1;
    return due;
}

static int next_timeout(Turn *t, int64_t *ns)
{
    Py_ssize_t n;
    PyObject *list = timers(t, &n);
    int rc = list && n > 0 ? tidy(t, list, n) : 0;
    if (rc > 0) {
        Py_DECREF(list);
        list = timers(t, &n);
    }
    if (!list || rc < 0) {
        Py_XDECREF(list);
        return -1;
    }
    Py_ssize_t ready = PyObject_Size(t->ready);
    rc = ready > 0 ? 1 : ready < 0 ? -1 : is_true(t->loop, N_STOPPING);
    *ns = rc > 0 ? 0 : -1;
    if (rc == 0 && n > 0) {
        double at, left;
        rc = now(t, &at) < 0 || first_due(list, at, &left) < 0 ? -1 : 0;
        if (rc == 0)
            *ns = left <= 0 ? 0 : (int64_t)((left < LONGEST_S ? left : LONGEST_S) * NS) + 1;
    }
    Py_DECREF(list);
    return rc < 0 ? -1 : 0;
}

static int poll_loop(Turn *t, int64_t ns)
{
    PyObject *timeout = PyLong_FromLongLong(ns);
    PyObject *r = timeout ? call(t->loop, N_POLL, timeout, NULL) : NULL;
    Py_XDECREF(timeout);
    return done(r);
}

/* Waits, and queues what the events schedule. */
static int wait_events(Turn *t, int64_t ns)
{
    PyObject *batch = PyObject_GetAttr(t->poller, names[N_BATCH]);
    if (!batch)
        return -1;
    Dispatcher *d = (Dispatcher *)batch;
    int rc;
    if (!PyObject_TypeCheck(batch, dispatcher_type) || d->queued || d->index < d->count) {
        rc = poll_loop(t, ns);
    } else {
        rc = dispatcher_wait(d, ns);
        if (rc > 0) {
            PyObject *n = PyLong_FromLong(rc);
            rc = n ? done(call(t->loop, N_KERNEL, n, NULL)) : -1;
            Py_XDECREF(n);
        }
        if (rc == 0 && d->count) {
            d->queued = 1;
            rc = queue(t, t->dispatch);
        }
    }
    Py_DECREF(batch);
    return rc;
}

static int queue_due_timers(Turn *t)
{
    Py_ssize_t n;
    PyObject *list = timers(t, &n);
    double end, left;
    int rc = list ? 0 : -1;
    if (n > 0) {
        rc = now(t, &end);
        end += t->resolution;
    }
    while (rc == 0 && n > 0) {
        rc = first_due(list, end, &left);
        if (rc < 0 || left >= 0)
            break;
        PyObject *handle = PyObject_CallFunctionObjArgs(heappop, list, NULL);
        if (!handle || PyObject_SetAttr(handle, names[N_SCHEDULED], Py_False) < 0 ||
            queue(t, handle) < 0)
            rc = -1;
        Py_XDECREF(handle);
        n = PyList_Size(list);
    }
    Py_XDECREF(list);
    return rc;
}

static int run_handle(Turn *t, PyObject *handle)
{
    if (Py_TYPE(handle) == handle_type)
        return handle_run(handle, t->loop);
    int cancelled = is_true(handle, N_CANCELLED);
    if (cancelled)
        return cancelled < 0 ? -1 : 0;
    return done(call(handle, N_RUN_HANDLE, NULL, NULL));
}

/* What is queued now; not what that queues. */
static int run_ready(Turn *t)
{
    Py_ssize_t n = PyObject_Size(t->ready);
    int rc = n < 0 ? -1 : 0;
    for (; rc == 0 && n > 0; n--) {
        PyObject *handle = PyObject_CallNoArgs(t->popleft);
        rc = handle ? run_handle(t, handle) : -1;
        Py_XDECREF(handle);
    }
    return rc;
}

static PyObject *turn_run_once(PyObject *self, PyObject *unused)
{
    Turn *t = (Turn *)self;
    int64_t ns;
    Py_INCREF(self);
    int rc = next_timeout(t, &ns);
    if (rc == 0)
        rc = wait_events(t, ns);
    if (rc == 0)
        rc = queue_due_timers(t);
    if (rc == 0)
        rc = run_ready(t);
    Py_DECREF(self);
    if (rc < 0)
        return NULL;
    return Py_NewRef(Py_None);
}

static PyMethodDef turn_methods[] = {
    {"call_soon", (PyCFunction)(void (*)(void))turn_call_soon, METH_FASTCALL | METH_KEYWORDS,
     "call_soon(callback, *args, context=None): the loop's."},
    {"run_once", turn_run_once, METH_NOARGS, "One iteration of the loop."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot turn_slots[] = {
    {Py_tp_doc, "A loop's call_soon and _run_once."},
    {Py_tp_init, turn_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, turn_dealloc},
    {Py_tp_traverse, turn_traverse},
    {Py_tp_clear, turn_clear},
    {Py_tp_methods, turn_methods},
    {0, NULL},
};

static PyType_Spec turn_spec = {
    .name = "ffloop._native._hot.Turn",
    .basicsize = sizeof(Turn),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = turn_slots,
};

/* module.name, as a new reference in *to. */
static int import_name(PyObject **to, const char *module, const char *name)
{
    PyObject *m = PyImport_ImportModule(module);
    Py_XDECREF(*to);
    *to = m ? PyObject_GetAttrString(m, name) : NULL;
    Py_XDECREF(m);
    return *to ? 0 : -1;
}

int turn_exec(PyObject *module)
{
    for (int i = 0; i < NAMES; i++)
        if (hot_intern(&names[i], spelled[i]) < 0)
            return -1;
    if (import_name(&copy_context, "contextvars", "copy_context") < 0 ||
        import_name(&heappop, "heapq", "heappop") < 0 || handle_exec(module) < 0)
        return -1;
    return hot_add_type(module, "Turn", &turn_spec, NULL) ? 0 : -1;
}
