/*
 * stream.c - Stream: one transport's short ways.
 *
 * Callers: ffloop/_loop/stream.py, dispatcher.c. Whatever is not plain data for a reading protocol, or
 * a write of bytes with nothing in front of it, is the owner's business (owner.on_data,
 * owner._write_slow, owner._write_rest, owner._fault).
 */
#include "hot.h"

static PyObject *name_write_slow, *name_write_rest, *name_fault;

static int stream_init(PyObject *self, PyObject *args, PyObject *kw)
{
    static char *names[] = {"owner", "client", "handle", "thread", NULL};
    Stream *s = (Stream *)self;
    PyObject *owner, *client, *thread;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "OOiO", names, &owner, &client, &s->handle, &thread))
        return -1;
    s->c = PyLong_AsVoidPtr(client);
    s->thread = PyLong_AsVoidPtr(thread);
    if (PyErr_Occurred())
        return -1;
    s->paused = s->stalled = 1;
    hot_set_ref(&s->owner, owner);
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
    hot_dealloc(self, stream_clear);
}

/* The owner's method; a Stream whose owner went has nothing to say. */
static PyObject *owner_call(Stream *s, PyObject *name, PyObject *a, PyObject *b)
{
    PyObject *owner = s->owner;
    if (!owner)
        return Py_NewRef(Py_None);
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
    if (s->stalled || !s->c || !PyBytes_CheckExact(data) ||
        *s->thread != PyThread_get_thread_ident())
        return owner_call(s, name_write_slow, data, NULL);
    if (PyBytes_AsStringAndSize(data, &bytes, &len) < 0)
        return NULL;
    int64_t sent = ffl_client_send(s->c, s->handle, bytes, (size_t)len);
    if (sent == len)
        return Py_NewRef(Py_None);
    PyObject *n = PyLong_FromLongLong(sent);
    PyObject *r = n ? owner_call(s, name_write_rest, data, n) : NULL;
    Py_XDECREF(n);
    return r;
}

static PyObject *stream_detach(PyObject *self, PyObject *unused)
{
    Stream *s = (Stream *)self;
    s->c = NULL;
    s->paused = s->stalled = 1;
    Py_CLEAR(s->enter);
    Py_CLEAR(s->deliver);
    return Py_NewRef(Py_None);
}

static PyMemberDef stream_members[] = {
    {"paused", T_BOOL, offsetof(Stream, paused), 0, "data takes the long way, owner.on_data"},
    {"stalled", T_BOOL, offsetof(Stream, stalled), 0, "writes take the long way"},
    {"enter", T_OBJECT, offsetof(Stream, enter), 0, "run of the context of reading callbacks"},
    {"deliver", T_OBJECT, offsetof(Stream, deliver), 0, "protocol.data_received"},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef stream_methods[] = {
    {"write", stream_write, METH_O, "Transport.write."},
    {"detach", stream_detach, METH_NOARGS,
     "No more events; writes are the owner's business, who is to let go of it."},
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

int stream_fault(Stream *s)
{
    PyObject *exc = hot_take_exception();
    if (!exc)
        return -1;
    PyObject *r = owner_call(s, name_fault, exc, NULL);
    Py_DECREF(exc);
    Py_XDECREF(r);
    return r ? 0 : -1;
}

int stream_exec(PyObject *module)
{
    const struct hot_name names[] = {
        {&name_write_slow, "_write_slow"},
        {&name_write_rest, "_write_rest"},
        {&name_fault, "_fault"},
    };
    if (hot_intern_all(names, FFL_COUNT(names)) < 0)
        return -1;
    return hot_add_type(module, "Stream", &stream_spec, NULL) ? 0 : -1;
}
