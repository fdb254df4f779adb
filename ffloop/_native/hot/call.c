/*
 * call.c - Call: a coroutine in C, for streams.c. See call.h.
 *
 * What is not plain is asyncio's own coroutine's, which everything is passed to.
 */
#include "call.h"

#define SPARE 256 /* freed ones that are kept: most live for one read() or drain() */

static PyTypeObject *call_type;
static PyObject *spare[SPARE]; /* untracked, all references NULL */
static int spares;
static PyObject *name_throw, *name_close;

static int call_traverse(PyObject *self, visitproc visit, void *arg)
{
    Call *c = (Call *)self;
    Py_VISIT(c->of);
    Py_VISIT(c->n);
    Py_VISIT(c->awaited);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int call_clear(PyObject *self)
{
    Call *c = (Call *)self;
    c->state = DONE;
    Py_CLEAR(c->of);
    Py_CLEAR(c->n);
    Py_CLEAR(c->awaited);
    return 0;
}

PyObject *call_new(const struct kind *kind, PyObject *of, PyObject *n)
{
    Call *c = spares ? (Call *)PyObject_Init(spare[--spares], call_type)
                     : PyObject_GC_New(Call, call_type);
    if (!c)
        return NULL;
    c->kind = kind;
    c->of = Py_NewRef(of);
    c->n = Py_XNewRef(n);
    c->awaited = NULL;
    c->state = NEW;
    c->running = false;
    PyObject_GC_Track((PyObject *)c);
    return (PyObject *)c;
}

/* Sends to what is awaited. */
static PySendResult go_on(Call *c, PyObject *value, PyObject **result)
{
    PyObject *awaited = Py_NewRef(c->awaited);
    PySendResult r = PyIter_Send(awaited, value, result);
    Py_DECREF(awaited);
    return r != PYGEN_NEXT && c->state == WAITS ? streams_end_read(c, r, result) : r;
}

static PySendResult begin(Call *c, PyObject **result)
{
    int rc = c->kind->begin(c, result);
    if (rc == PLAIN_NOT) {
        c->awaited = PyObject_CallFunctionObjArgs(c->kind->original, c->of, c->n, NULL);
        c->state = ASYNCIO;
        rc = c->awaited ? PYGEN_NEXT : PYGEN_ERROR;
    }
    return rc == PYGEN_NEXT ? go_on(c, Py_None, result) : (PySendResult)rc;
}

/* From here on until `running` is false again nobody else sends to it, or closes it: what it calls
 * may try. */
static bool enter(Call *c)
{
    if (!c->running)
        return c->running = true;
    PyErr_SetString(PyExc_ValueError, "coroutine already executing");
    return false;
}

static PySendResult call_send(PyObject *self, PyObject *value, PyObject **result)
{
    Call *c = (Call *)self;
    PySendResult r = PYGEN_ERROR;
    *result = NULL;
    if (c->state == NEW && value != Py_None) {
        PyErr_SetString(PyExc_TypeError, "can't send non-None value to a just-started coroutine");
        return r;
    }
    if (!enter(c))
        return r;
    if (c->state == DONE)
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
    else
        r = c->state == NEW ? begin(c, result) : go_on(c, value, result);
    c->running = false;
    if (r != PYGEN_NEXT)
        call_clear(self);
    return r;
}

/* As a method's result: a return is a StopIteration. */
static PyObject *py_send(PyObject *self, PyObject *value)
{
    PyObject *result;
    if (call_send(self, value, &result) != PYGEN_RETURN)
        return result;
    PyObject *stop = PyObject_CallFunctionObjArgs(PyExc_StopIteration, result, NULL);
    if (stop)
        PyErr_SetObject(PyExc_StopIteration, stop);
    Py_XDECREF(stop);
    Py_DECREF(result);
    return NULL;
}

static PyObject *call_next(PyObject *self)
{
    return py_send(self, Py_None);
}

/* Ends one that has begun, or not. 0 or -1 */
static int leave(Call *c)
{
    int rc = c->state == WAITS ? streams_stop_waiting(c) : 0;
    call_clear((PyObject *)c);
    return rc;
}

/* Can throw() be given that? If not, an exception is set. */
static bool can_throw(PyObject *const *args, Py_ssize_t n)
{
    const char *why = NULL;
    if (n < 1 || n > 3)
        why = "throw() takes one to three arguments";
    else if (!(PyExceptionInstance_Check(args[0]) || PyExceptionClass_Check(args[0])))
        why = "exceptions must be classes or instances deriving from BaseException";
    else if (n > 2 && args[2] != Py_None && !PyTraceBack_Check(args[2]))
        why = "throw() third argument must be a traceback object";
    else if (n > 1 && args[1] != Py_None && PyExceptionInstance_Check(args[0]))
        why = "instance exception may not have a separate value";
    if (why)
        PyErr_SetString(PyExc_TypeError, why);
    return !why;
}

/* Raises what throw() was given. */
static void raise_given(PyObject *const *args, Py_ssize_t n)
{
    PyObject *type = args[0], *value = n > 1 ? args[1] : Py_None;
    PyObject *trace = n > 2 && args[2] != Py_None ? Py_NewRef(args[2]) : NULL;
    if (PyExceptionInstance_Check(type)) {
        value = type;
        type = (PyObject *)Py_TYPE(value);
        if (!trace)
            trace = PyException_GetTraceback(value);
    }
    PyErr_Restore(Py_NewRef(type), value == Py_None ? NULL : Py_NewRef(value), trace);
}

/* throw(exception), or throw(type, value=None, traceback=None) */
static PyObject *call_throw(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    Call *c = (Call *)self;
    PyObject *r = NULL;
    if (!can_throw(args, n) || !enter(c))
        return NULL;
    if (c->state == DONE) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
    } else if (c->state == ASYNCIO) {
        PyObject *throw = PyObject_GetAttr(c->awaited, name_throw);
        r = throw ? hot_forward(throw, args[0], args + 1, n - 1, NULL) : NULL;
        Py_XDECREF(throw);
    } else if (leave(c) == 0) {
        raise_given(args, n);
    }
    c->running = false;
    if (!r)
        call_clear(self);
    return r;
}

static PyObject *call_close(PyObject *self, PyObject *unused)
{
    Call *c = (Call *)self;
    if (!enter(c))
        return NULL;
    int rc = c->state == ASYNCIO ? hot_call(c->awaited, name_close, NULL) : 0;
    rc = leave(c) < 0 || rc < 0 ? -1 : 0;
    c->running = false;
    return rc < 0 ? NULL : Py_NewRef(Py_None);
}

/* One that was never awaited is warned of, as a coroutine; its object may not be touched then. */
static void leave_freed(Call *c)
{
    const char *name = c->kind->qualname;
    bool forgotten = c->state == NEW;
    struct hot_exception was = hot_put_by();
    if (leave(c) < 0 ||
        (forgotten &&
         PyErr_WarnFormat(PyExc_RuntimeWarning, 1, "coroutine '%s' was never awaited", name) < 0))
        PyErr_WriteUnraisable(NULL);
    hot_set_again(was, 0);
}

static void call_dealloc(PyObject *self)
{
    Call *c = (Call *)self;
    PyObject_GC_UnTrack(self);
    if (c->state != DONE)
        leave_freed(c);
    if (spares < SPARE) {
        Py_DECREF((PyObject *)call_type); /* an instance's reference */
        spare[spares++] = self;
    } else {
        hot_dealloc(self, call_clear);
    }
}

static PyObject *call_name(PyObject *self, void *qualified)
{
    const struct kind *kind = ((Call *)self)->kind;
    return PyUnicode_FromString(qualified ? kind->qualname : kind->name);
}

static PyMethodDef call_methods[] = {
    {"send", py_send, METH_O, "As a coroutine's."},
    {"throw", (PyCFunction)(void (*)(void))call_throw, METH_FASTCALL, "As a coroutine's."},
    {"close", call_close, METH_NOARGS, "As a coroutine's."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef call_getset[] = {
    {"__name__", call_name, NULL, NULL, NULL},
    {"__qualname__", call_name, NULL, NULL, &call_type},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot call_slots[] = {
    {Py_tp_doc, "A coroutine: read() or drain() of a stream."},
    {Py_tp_dealloc, call_dealloc},
    {Py_tp_traverse, call_traverse},
    {Py_tp_clear, call_clear},
    {Py_tp_methods, call_methods},
    {Py_tp_getset, call_getset},
    {Py_tp_iternext, call_next},
    {Py_am_await, Py_NewRef},
    {Py_am_send, call_send},
    {0, NULL},
};

static PyType_Spec call_spec = {
    .name = "ffloop._native._hot.Call",
    .basicsize = sizeof(Call),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = call_slots,
};

int call_exec(PyObject *module)
{
    const struct hot_name names[] = {{&name_throw, "throw"}, {&name_close, "close"}};
    if (hot_intern_all(names, FFL_COUNT(names)) < 0)
        return -1;
    call_type = (PyTypeObject *)hot_add_type(module, "Call", &call_spec, NULL);
    return call_type ? 0 : -1;
}
