/*
 * hot.c - the compiled half of the Python face: handing a batch's data to protocols, and write().
 *
 * Callers: ffloop/_poller.py (Dispatcher) and ffloop/_transports.py (Stream). Both have one short way
 * here and a long way in Python: whatever is not plain data for a reading protocol, or a write of
 * bytes with nothing in front of it, is the owner's business (owner.on_data, owner._write_slow,
 * owner._write_rest, owner._fault). Limited API of 3.11, so that one wheel serves every later one.
 *
 * Invariants: a Dispatcher's index is ahead of the event that is being handled, so that an exception
 * loses nothing; callbacks may pause, close or detach anything at any time, so nothing is kept in
 * a local across a call but counted references. A Stream with c == NULL is detached.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include "client.h"

#include <errno.h>

/* Replaces a counted reference (Py_XSETREF is not in the limited API). */
static void set_ref(PyObject **to, PyObject *value)
{
    PyObject *old = *to;
    Py_INCREF(value);
    *to = value;
    Py_XDECREF(old);
}

/* ---- Stream -------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    struct ffl_client *c;
    int handle;
    char blocked; /* data takes the long way: paused, closing, or not a plain protocol */
    char stalled; /* writes take the long way: backlog, end of file, closed */
    PyObject *owner, *enter, *deliver; /* the transport; its context's run; data_received */
} Stream;

static PyObject *name_write_slow, *name_write_rest, *name_fault;

static int stream_init(PyObject *self, PyObject *args, PyObject *kw)
{
    static char *names[] = {"owner", "client", "handle", NULL};
    Stream *s = (Stream *)self;
    PyObject *owner, *client;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "OOi", names, &owner, &client, &s->handle))
        return -1;
    s->c = PyLong_AsVoidPtr(client);
    if (PyErr_Occurred())
        return -1;
    s->blocked = s->stalled = 1;
    set_ref(&s->owner, owner);
    return 0;
}

static int stream_traverse(PyObject *self, visitproc visit, void *arg)
{
    Stream *s = (Stream *)self;
    Py_VISIT(s->owner);
    Py_VISIT(s->enter);
    Py_VISIT(s->deliver);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int stream_clear(PyObject *self)
{
    Stream *s = (Stream *)self;
    Py_CLEAR(s->owner);
    Py_CLEAR(s->enter);
    Py_CLEAR(s->deliver);
    return 0;
}

static void stream_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    stream_clear(self);
    freefunc release = PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

/* The owner's method; a Stream whose owner went has nothing to say. */
static PyObject *owner_call(Stream *s, PyObject *name, PyObject *a, PyObject *b)
{
    PyObject *owner = s->owner;
    if (!owner)
        Py_RETURN_NONE;
    Py_INCREF(owner);
    PyObject *r = PyObject_CallMethodObjArgs(owner, name, a, b, NULL);
    Py_DECREF(owner);
    return r;
}

static PyObject *stream_write(PyObject *self, PyObject *data)
{
    Stream *s = (Stream *)self;
    char *bytes;
    Py_ssize_t len;
    if (s->stalled || !s->c || !PyBytes_CheckExact(data))
        return owner_call(s, name_write_slow, data, NULL);
    if (PyBytes_AsStringAndSize(data, &bytes, &len) < 0)
        return NULL;
    int64_t sent = ffl_client_send(s->c, s->handle, bytes, (size_t)len);
    if (sent == len)
        Py_RETURN_NONE;
    PyObject *n = PyLong_FromLongLong(sent);
    PyObject *r = n ? owner_call(s, name_write_rest, data, n) : NULL;
    Py_XDECREF(n);
    return r;
}

static PyObject *stream_detach(PyObject *self, PyObject *unused)
{
    Stream *s = (Stream *)self;
    s->c = NULL;
    s->blocked = s->stalled = 1;
    stream_clear(self);
    Py_RETURN_NONE;
}

static PyMemberDef stream_members[] = {
    {"blocked", T_BOOL, offsetof(Stream, blocked), 0, "data takes the long way, owner.on_data"},
    {"stalled", T_BOOL, offsetof(Stream, stalled), 0, "writes take the long way"},
    {"enter", T_OBJECT, offsetof(Stream, enter), 0, "run of the context of reading callbacks"},
    {"deliver", T_OBJECT, offsetof(Stream, deliver), 0, "protocol.data_received"},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef stream_methods[] = {
    {"write", stream_write, METH_O, "Transport.write."},
    {"detach", stream_detach, METH_NOARGS, "No more events and writes; drops its references."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot stream_slots[] = {
    {Py_tp_doc, "One transport's short ways: data to its protocol, write() to the ring."},
    {Py_tp_init, stream_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, stream_dealloc},
    {Py_tp_traverse, stream_traverse},
    {Py_tp_clear, stream_clear},
    {Py_tp_members, stream_members},
    {Py_tp_methods, stream_methods},
    {0, NULL},
};

static PyType_Spec stream_spec = {
    .name = "ffloop._native._hot.Stream",
    .basicsize = sizeof(Stream),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = stream_slots,
};

/* ---- Dispatcher ---------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    Py_buffer segment, events; /* .obj NULL: closed */
    PyObject *streams;         /* handle -> Stream */
    PyObject *other;           /* other(kind, handle, arg, off) for every other event */
    int index, count;
} Dispatcher;

static void dispatcher_release(Dispatcher *d)
{
    d->index = d->count = 0;
    if (d->segment.obj)
        PyBuffer_Release(&d->segment);
    if (d->events.obj)
        PyBuffer_Release(&d->events);
}

static int dispatcher_init(PyObject *self, PyObject *args, PyObject *kw)
{
    static char *names[] = {"segment", "events", "streams", "other", NULL};
    Dispatcher *d = (Dispatcher *)self;
    PyObject *segment, *events, *streams, *other;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "OOO!O", names, &segment, &events, &PyDict_Type,
                                     &streams, &other))
        return -1;
    dispatcher_release(d);
    if (PyObject_GetBuffer(segment, &d->segment, PyBUF_SIMPLE) < 0)
        return -1;
    if (PyObject_GetBuffer(events, &d->events, PyBUF_SIMPLE) < 0)
        return -1;
    set_ref(&d->streams, streams);
    set_ref(&d->other, other);
    return 0;
}

static int dispatcher_traverse(PyObject *self, visitproc visit, void *arg)
{
    Dispatcher *d = (Dispatcher *)self;
    Py_VISIT(d->streams);
    Py_VISIT(d->other);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int dispatcher_clear(PyObject *self)
{
    Dispatcher *d = (Dispatcher *)self;
    Py_CLEAR(d->streams);
    Py_CLEAR(d->other);
    return 0;
}

static void dispatcher_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    dispatcher_release((Dispatcher *)self);
    dispatcher_clear(self);
    freefunc release = PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyObject *dispatcher_load(PyObject *self, PyObject *count)
{
    Dispatcher *d = (Dispatcher *)self;
    long n = PyLong_AsLong(count);
    if (n == -1 && PyErr_Occurred())
        return NULL;
    if (n < 0 || (size_t)n > (size_t)d->events.len / sizeof(struct ffl_event)) {
        PyErr_SetString(PyExc_ValueError, "more events than the buffer holds");
        return NULL;
    }
    d->index = 0;
    d->count = (int)n;
    Py_RETURN_NONE;
}

static PyObject *dispatcher_close(PyObject *self, PyObject *unused)
{
    dispatcher_release((Dispatcher *)self);
    Py_RETURN_NONE;
}

/* An exception out of a protocol's callback is the transport's to report; those that are meant to
 * end the program go on. */
static int fault(Stream *s)
{
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) || PyErr_ExceptionMatches(PyExc_SystemExit))
        return -1;
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    if (trace)
        PyException_SetTraceback(value, trace);
    PyObject *r = owner_call(s, name_fault, value, NULL);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
    Py_XDECREF(r);
    return r ? 0 : -1;
}

static int deliver(Stream *s, const char *data, uint32_t len)
{
    PyObject *bytes = PyBytes_FromStringAndSize(data, len);
    if (!bytes)
        return -1;
    PyObject *enter = s->enter, *to = s->deliver; /* the callback may replace both */
    Py_INCREF(s);
    Py_INCREF(enter);
    Py_INCREF(to);
    PyObject *r = PyObject_CallFunctionObjArgs(enter, to, bytes, NULL);
    int rc = r ? 0 : fault(s);
    Py_XDECREF(r);
    Py_DECREF(bytes);
    Py_DECREF(to);
    Py_DECREF(enter);
    Py_DECREF(s);
    return rc;
}

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
    Stream *s = (Stream *)PyDict_GetItemWithError(d->streams, key); /* borrowed */
    Py_DECREF(key);
    if (!s)
        return PyErr_Occurred() ? -1 : long_way(d->other, &e);
    if (s->blocked || !s->enter || !s->deliver || s->deliver == Py_None)
        return long_way(d->other, &e);
    if ((Py_ssize_t)e.off + (Py_ssize_t)e.arg > d->segment.len) {
        PyErr_SetString(PyExc_SystemError, "an event beyond the segment");
        return -1;
    }
    return deliver(s, (const char *)d->segment.buf + e.off, e.arg);
}

static PyObject *dispatcher_run(PyObject *self, PyObject *unused)
{
    Dispatcher *d = (Dispatcher *)self;
    int rc = 0;
    Py_INCREF(d);
    while (rc == 0 && d->index < d->count) {
        struct ffl_event e = ((const struct ffl_event *)d->events.buf)[d->index++];
        if (e.kind != FFL_EV_FD)
            rc = dispatch(d, e);
    }
    Py_DECREF(d);
    if (rc < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyMemberDef dispatcher_members[] = {
    {"index", T_INT, offsetof(Dispatcher, index), READONLY, "the next event"},
    {"count", T_INT, offsetof(Dispatcher, count), READONLY, "events in the batch"},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef dispatcher_methods[] = {
    {"load", dispatcher_load, METH_O, "A batch of so many events begins."},
    {"run", dispatcher_run, METH_NOARGS, "Handles events from index on."},
    {"close", dispatcher_close, METH_NOARGS, "Lets go of the buffers; what is left is dropped."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot dispatcher_slots[] = {
    {Py_tp_doc, "Hands the events of a batch to their receivers."},
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

/* ---- the module ---------------------------------------------------------------------------- */

static int add_type(PyObject *m, const char *name, PyType_Spec *spec)
{
    PyObject *type = PyType_FromSpec(spec);
    if (!type)
        return -1;
    int rc = PyModule_AddObjectRef(m, name, type);
    Py_DECREF(type);
    return rc;
}

static int intern(PyObject **to, const char *text)
{
    if (!*to)
        *to = PyUnicode_InternFromString(text);
    return *to ? 0 : -1;
}

static int module_exec(PyObject *m)
{
    if (intern(&name_write_slow, "_write_slow") < 0 ||
        intern(&name_write_rest, "_write_rest") < 0 || intern(&name_fault, "_fault") < 0)
        return -1;
    return add_type(m, "Stream", &stream_spec) < 0 ||
                   add_type(m, "Dispatcher", &dispatcher_spec) < 0
               ? -1
               : 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "ffloop._native._hot",
    .m_doc = "The compiled half of the Python face.",
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__hot(void);
PyMODINIT_FUNC PyInit__hot(void)
{
    return PyModuleDef_Init(&module);
}
