/*
 * handle.c - Handle and TimerHandle. See handle.h.
 *
 * A subclass in C cannot traverse or free the slots of a base class made in Python. So the fields
 * stand in their place, or behind them where a Python's base class has others; descriptors of the
 * same names hide them. Freed handles are kept for use again: most live for one iteration.
 *
 * What a running loop is yet to call is alive, so the garbage collector need not look at a handle
 * that was made while its loop runs, until the loop stops or somebody still has the handle after
 * its call. A program with many timers spends a quarter of their time there otherwise.
 */
#include "context.h"
#include "handle.h"
#include "scheduler.h"

/* What a call needs comes first: it is all that is read of one among many. */
struct handle {
    char cancelled, scheduled; /* scheduled: timers only */
    PyObject *callback, *args, *context, *loop, *repr, *source_traceback;
    PyObject *weakrefs; /* the base class's in Python 3.11, else unused */
};

struct timer {
    struct handle handle;
    double when;
};

#define SPARE 256 /* handles of a kind that are kept */

struct kind {
    PyTypeObject *type;
    Py_ssize_t at; /* where the fields stand */
    int spares;
    PyObject *spare[SPARE]; /* freed: untracked, all references NULL */
};

static struct kind handles, timers;
static PyObject *with_lock; /* asyncio's handle of call_soon_threadsafe; NULL: it has none */
static PyObject *name_run, *name_when, *name_cancelled, *name_scheduled, *name_failed, *name_cancel;

static struct timer *timer_fields(PyObject *self)
{
    return (struct timer *)((char *)self + timers.at);
}

static bool is_timer(PyObject *self)
{
    return Py_TYPE(self) == timers.type;
}

/* NULL for a handle that asyncio's own code made. */
static struct handle *fields(PyObject *self)
{
    if (Py_TYPE(self) == handles.type)
        return (struct handle *)((char *)self + handles.at);
    return is_timer(self) ? &timer_fields(self)->handle : NULL;
}

/* ---- memory -------------------------------------------------------------------------------- */

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

/* Untracked. */
static PyObject *take_spare(struct kind *kind)
{
    if (kind->spares)
        return PyObject_Init(kind->spare[--kind->spares], kind->type);
    PyObject *self = PyType_GenericAlloc(kind->type, 0);
    if (self)
        PyObject_GC_UnTrack(self);
    return self;
}

void handle_track(PyObject *handle)
{
    if (fields(handle) && !PyObject_GC_IsTracked(handle))
        PyObject_GC_Track(handle);
}

void handle_fetch(PyObject *handle)
{
    const struct handle *h = fields(handle);
    if (h) {
        __builtin_prefetch(h->context);
        __builtin_prefetch(h->callback);
    }
}

void handle_drop(PyObject *handle)
{
    if (Py_REFCNT(handle) > 1)
        handle_track(handle);
    Py_DECREF(handle);
}

static void handle_dealloc(PyObject *self)
{
    struct kind *kind = is_timer(self) ? &timers : &handles;
    PyObject_GC_UnTrack(self); /* weak references have callbacks */
    PyObject_ClearWeakRefs(self);
    if (handle_clear(self) == 0 && kind->spares < SPARE) {
        Py_DECREF((PyObject *)kind->type); /* an instance's reference */
        kind->spare[kind->spares++] = self;
    } else {
        hot_dealloc(self, handle_clear);
    }
}

static int fill(struct handle *h, PyObject *loop, PyObject *const *args, Py_ssize_t n,
                PyObject *context)
{
    h->cancelled = 0;
    h->args = PyTuple_New(n - 1);
    h->context = context == Py_None ? context_copy_current() : Py_NewRef(context);
    if (!h->args || !h->context)
        return -1;
    h->callback = Py_NewRef(args[0]);
    h->loop = Py_NewRef(loop);
    for (Py_ssize_t i = 1; i < n; i++)
        PyTuple_SetItem(h->args, i - 1, Py_NewRef(args[i]));
    return 0;
}

/* A spare one with its fields: one that the loop is yet to call. */
static PyObject *filled(PyObject *self, PyObject *loop, PyObject *const *args, Py_ssize_t n,
                        PyObject *context)
{
    if (fill(fields(self), loop, args, n, context) < 0)
        Py_CLEAR(self);
    else if (!scheduler_runs(loop))
        handle_track(self);
    return self;
}

/* By asyncio's own __init__, which notes in debug mode where it was made. */
static PyObject *new_traced(struct handle *h, PyObject *self)
{
    PyObject *made = PyObject_CallFunctionObjArgs((PyObject *)handles.type, h->callback, h->args,
                                                  h->loop, h->context, NULL);
    Py_DECREF(self);
    return made;
}

PyObject *handle_untraced(PyObject *loop, PyObject *const *args, Py_ssize_t n, PyObject *context)
{
    PyObject *self = take_spare(&handles);
    return self ? filled(self, loop, args, n, context) : NULL;
}

PyObject *handle_new(PyObject *loop, PyObject *const *args, Py_ssize_t n, PyObject *context)
{
    PyObject *self = handle_untraced(loop, args, n, context);
    return self && scheduler_debug(loop) ? new_traced(fields(self), self) : self;
}

PyObject *handle_for_threads(PyObject *loop, PyObject *const *args, Py_ssize_t n, PyObject *context)
{
    if (!with_lock)
        return handle_new(loop, args, n, context);
    PyObject *rest = PyTuple_New(n - 1), *made = NULL;
    for (Py_ssize_t i = 1; rest && i < n; i++)
        PyTuple_SetItem(rest, i - 1, Py_NewRef(args[i]));
    if (rest)
        made = PyObject_CallFunctionObjArgs(with_lock, args[0], rest, loop, context, NULL);
    Py_XDECREF(rest);
    return made;
}

bool handle_is(PyObject *object)
{
    return Py_TYPE(object) == handles.type;
}

PyObject *timer_new(PyObject *loop, double when, PyObject *const *args, Py_ssize_t n,
                    PyObject *context)
{
    PyObject *self = take_spare(&timers);
    if (!self)
        return NULL;
    timer_fields(self)->when = when;
    timer_fields(self)->handle.scheduled = 0;
    return filled(self, loop, args, n, context);
}

/* ---- cancelling ---------------------------------------------------------------------------- */

/* Cancels as asyncio does: a loop in debug mode keeps the repr. */
static PyObject *py_cancel(PyObject *self, PyObject *unused)
{
    struct handle *h = fields(self);
    if (h->cancelled)
        return Py_NewRef(Py_None);
    if (h->loop && scheduler_debug(h->loop)) {
        PyObject *repr = PyObject_Repr(self);
        if (!repr)
            return NULL;
        hot_set_ref(&h->repr, repr);
        Py_DECREF(repr);
    }
    h->cancelled = 1;
    Py_CLEAR(h->callback);
    Py_CLEAR(h->args);
    return Py_NewRef(Py_None);
}

static PyObject *py_cancel_timer(PyObject *self, PyObject *unused)
{
    struct timer *t = timer_fields(self);
    if (!t->handle.cancelled && t->handle.scheduled && t->handle.loop)
        scheduler_timer_cancelled(t->handle.loop);
    return py_cancel(self, unused);
}

int handle_cancel(PyObject *handle)
{
    return hot_done(PyObject_CallMethodObjArgs(handle, name_cancel, NULL));
}

/* ---- running ------------------------------------------------------------------------------- */

static int is_true(PyObject *of, PyObject *attribute)
{
    PyObject *v = PyObject_GetAttr(of, attribute);
    int rc = v ? PyObject_IsTrue(v) : -1;
    Py_XDECREF(v);
    return rc;
}

int handle_cancelled(PyObject *handle)
{
    const struct handle *h = fields(handle);
    return h ? h->cancelled : is_true(handle, name_cancelled);
}

static int run_other(PyObject *handle)
{
    int off = handle_cancelled(handle);
    if (off)
        return off < 0 ? -1 : 0;
    return hot_done(PyObject_CallMethodObjArgs(handle, name_run, NULL));
}

int handle_failed(PyObject *handle, PyObject *loop)
{
    return hot_fault(loop, name_failed, handle, NULL);
}

int handle_run(PyObject *handle, PyObject *loop)
{
    struct handle *h = fields(handle);
    if (!h)
        return run_other(handle);
    if (h->cancelled || !h->callback || !h->args || !h->context)
        return 0;
    /* The callback may cancel its handle. */
    PyObject *callback = Py_NewRef(h->callback), *args = Py_NewRef(h->args);
    PyObject *context = Py_NewRef(h->context);
    PyObject *r = context_run(context, callback, args);
    Py_DECREF(callback);
    Py_DECREF(args);
    Py_DECREF(context);
    return r ? hot_done(r) : handle_failed(handle, loop);
}

/* ---- timers -------------------------------------------------------------------------------- */

int timer_when(PyObject *timer, double *when)
{
    if (is_timer(timer)) {
        *when = timer_fields(timer)->when;
        return 0;
    }
    PyObject *v = PyObject_GetAttr(timer, name_when);
    *when = v ? PyFloat_AsDouble(v) : -1;
    Py_XDECREF(v);
    return *when == -1 && PyErr_Occurred() ? -1 : 0;
}

int timer_scheduled(PyObject *timer)
{
    return is_timer(timer) ? timer_fields(timer)->handle.scheduled : is_true(timer, name_scheduled);
}

int timer_set_scheduled(PyObject *timer, bool scheduled)
{
    if (!is_timer(timer))
        return PyObject_SetAttr(timer, name_scheduled, scheduled ? Py_True : Py_False);
    timer_fields(timer)->handle.scheduled = scheduled;
    return 0;
}

/* ---- the types ----------------------------------------------------------------------------- */

/* The offsets count from the fields; where those begin is added when the base's size is known. */
#define HANDLE_MEMBERS                                                                             \
    {"_callback", T_OBJECT, offsetof(struct handle, callback), 0, NULL},                           \
        {"_args", T_OBJECT, offsetof(struct handle, args), 0, NULL},                               \
        {"_context", T_OBJECT, offsetof(struct handle, context), 0, NULL},                         \
        {"_loop", T_OBJECT, offsetof(struct handle, loop), 0, NULL},                               \
        {"_repr", T_OBJECT, offsetof(struct handle, repr), 0, NULL},                               \
        {"_source_traceback", T_OBJECT, offsetof(struct handle, source_traceback), 0, NULL},       \
    {                                                                                              \
        "_cancelled", T_BOOL, offsetof(struct handle, cancelled), 0, NULL                          \
    }

static PyMemberDef handle_members[] = {HANDLE_MEMBERS, {NULL, 0, 0, 0, NULL}};
static PyMemberDef timer_members[] = {
    HANDLE_MEMBERS,
    {"_when", T_DOUBLE, offsetof(struct timer, when), 0, NULL},
    {"_scheduled", T_BOOL, offsetof(struct handle, scheduled), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef handle_methods[] = {
    {"cancel", py_cancel, METH_NOARGS, "The callback is not called any more."},
    {NULL, NULL, 0, NULL},
};
static PyMethodDef timer_methods[] = {
    {"cancel", py_cancel_timer, METH_NOARGS, "The callback is not called any more."},
    {NULL, NULL, 0, NULL},
};

#define HANDLE_SLOTS(doc, methods, members)                                                        \
    {Py_tp_doc, doc}, {Py_tp_dealloc, handle_dealloc}, {Py_tp_traverse, handle_traverse},          \
        {Py_tp_clear, handle_clear}, {Py_tp_methods, methods}, {Py_tp_members, members},           \
    {                                                                                              \
        0, NULL                                                                                    \
    }

static PyType_Slot handle_slots[] = {
    HANDLE_SLOTS("asyncio.Handle, made and run by a Scheduler.", handle_methods, handle_members)};
static PyType_Slot timer_slots[] = {HANDLE_SLOTS(
    "asyncio.TimerHandle, made and run by a Scheduler.", timer_methods, timer_members)};

static PyType_Spec handle_spec = {
    .name = "ffloop._native._hot.Handle",
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = handle_slots,
};
static PyType_Spec timer_spec = {
    .name = "ffloop._native._hot.TimerHandle",
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = timer_slots,
};

/* Behind the object's head, unless the base classes' weak references, which a Python from 3.12 on
 * has before it, are elsewhere than in the fields' gap. */
static int choose_place(void)
{
    PyObject *base = NULL;
    int rc = hot_import(&base, "asyncio.events", "Handle");
    PyObject *weakrefs = rc == 0 ? PyObject_GetAttrString(base, "__weakrefoffset__") : NULL;
    Py_ssize_t found = weakrefs ? PyLong_AsSsize_t(weakrefs) : 0;
    if (found < 0 || found == (Py_ssize_t)(sizeof(PyObject) + offsetof(struct handle, weakrefs)))
        handles.at = timers.at = sizeof(PyObject);
    Py_XDECREF(weakrefs);
    Py_XDECREF(base);
    return PyErr_Occurred() ? -1 : 0;
}

static int find_with_lock(void)
{
    PyObject *events = PyImport_ImportModule("asyncio.events");
    if (!events)
        return -1;
    with_lock = PyObject_GetAttrString(events, "_ThreadSafeHandle");
    Py_DECREF(events);
    PyErr_Clear(); /* there is none before Python 3.14.10 */
    return 0;
}

int handle_exec(PyObject *module)
{
    const struct hot_name names[] = {
        {&name_run, "_run"},
        {&name_when, "_when"},
        {&name_cancelled, "_cancelled"},
        {&name_scheduled, "_scheduled"},
        {&name_failed, "_failed"},
        {&name_cancel, "cancel"},
    };
    if (hot_intern_all(names, FFL_COUNT(names)) < 0 || choose_place() < 0 || find_with_lock() < 0)
        return -1;
    if (hot_add_subtype(module, "Handle", &handle_spec, "asyncio.events", "Handle", handle_members,
                        sizeof(struct handle), &handles.at, &handles.type) < 0)
        return -1;
    return hot_add_subtype(module, "TimerHandle", &timer_spec, "asyncio.events", "TimerHandle",
                           timer_members, sizeof(struct timer), &timers.at, &timers.type);
}
