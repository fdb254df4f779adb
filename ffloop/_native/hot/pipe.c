/*
 * pipe.c - PipeReader and PipeWriter: what asyncio's transports of pipes do most often.
 *
 * Base classes, without fields, in front of asyncio's own (_loop/pipes.py), whose instances'
 * dictionaries they read. Data that has come goes to the protocol, and what the pipe takes at once
 * is written; all else, an end and an error too, is left to asyncio's method, which meets it again.
 */
#include "scheduler.h"
#include "stream.h"

#include <unistd.h>

static PyObject *read_ready_slow, *write_slow; /* asyncio's */
static PyObject *name_read_ready, *name_write, *name_fileno, *name_protocol, *name_loop,
    *name_buffer, *name_closing, *name_data_received;

int transport_number(PyObject *attributes, PyObject *name)
{
    PyObject *number = feed_get(attributes, name);
    return number ? (int)PyLong_AsLong(number) : -1;
}

bool transport_lacks(PyObject *attributes, PyObject *name)
{
    PyObject *value = feed_get(attributes, name);
    return value && PyObject_Not(value) == 1;
}

/* NULL: its loop has none, or an exception. */
static char *room_of(PyObject *self)
{
    PyObject *loop = PyObject_GetAttr(self, name_loop);
    PyObject *batches = loop && scheduler_is(loop) ? ((Scheduler *)loop)->batches : NULL;
    char *room = NULL;
    if (batches && PyObject_TypeCheck(batches, dispatcher_type))
        room = dispatcher_room((Dispatcher *)batches);
    Py_XDECREF(loop);
    return room;
}

PyObject *transport_read(PyObject *self, int (*read)(PyObject *attributes, char *room),
                         PyObject *slow)
{
    char *room = room_of(self);
    PyObject *attributes = room ? PyObject_GenericGetDict(self, NULL) : NULL;
    int rc = attributes ? read(attributes, room) : PyErr_Occurred() ? -1 : 0;
    Py_XDECREF(attributes);
    if (rc == 0)
        return PyObject_CallFunctionObjArgs(slow, self, NULL);
    return rc < 0 ? NULL : Py_NewRef(Py_None);
}

/* ---- reading ------------------------------------------------------------------------------- */

static int deliver(PyObject *protocol, const char *data, size_t len)
{
    int serves = feed_serves(protocol);
    int fed = serves > 0 ? feed_reader(protocol, data, len) : serves;
    if (fed)
        return fed > 0 ? 0 : -1;
    PyObject *bytes = PyBytes_FromStringAndSize(data, (Py_ssize_t)len);
    int rc = bytes ? hot_call(protocol, name_data_received, bytes) : -1;
    Py_XDECREF(bytes);
    return rc;
}

/* 1: delivered; 0: asyncio's is to look; -1 with an exception. */
static int read_some(PyObject *attributes, char *room)
{
    int fd = transport_number(attributes, name_fileno);
    ssize_t got = fd >= 0 ? read(fd, room, DISPATCHER_ROOM) : 0;
    PyObject *protocol = got > 0 ? feed_get(attributes, name_protocol) : NULL;
    if (!protocol)
        return PyErr_Occurred() ? -1 : 0;
    Py_INCREF(protocol);
    int rc = deliver(protocol, room, (size_t)got);
    Py_DECREF(protocol);
    return rc < 0 ? -1 : 1;
}

static PyObject *read_ready(PyObject *self, PyObject *unused)
{
    return transport_read(self, read_some, read_ready_slow);
}

/* ---- writing ------------------------------------------------------------------------------- */

/* How many bytes the pipe took; 0: asyncio's is to try; -1 with an exception. One that has lost its
 * pipe closes. */
static ssize_t write_some(PyObject *attributes, PyObject *data)
{
    bool plain = PyBytes_CheckExact(data) && PyBytes_Size(data) &&
                 transport_lacks(attributes, name_buffer) &&
                 transport_lacks(attributes, name_closing);
    int fd = plain ? transport_number(attributes, name_fileno) : -1;
    if (PyErr_Occurred())
        return -1;
    ssize_t sent = fd >= 0 ? write(fd, PyBytes_AsString(data), (size_t)PyBytes_Size(data)) : 0;
    return sent > 0 ? sent : 0;
}

/* memoryview(data)[from:] */
static PyObject *rest_of(PyObject *data, Py_ssize_t from)
{
    PyObject *view = PyMemoryView_FromObject(data);
    PyObject *rest = view ? PySequence_GetSlice(view, from, PyBytes_Size(data)) : NULL;
    Py_XDECREF(view);
    return rest;
}

static PyObject *pipe_write(PyObject *self, PyObject *data)
{
    PyObject *attributes = PyObject_GenericGetDict(self, NULL);
    ssize_t sent = attributes ? write_some(attributes, data) : -1;
    Py_XDECREF(attributes);
    if (sent < 0)
        return NULL;
    if (sent > 0 && sent == PyBytes_Size(data))
        return Py_NewRef(Py_None);
    PyObject *rest = sent > 0 ? rest_of(data, sent) : Py_NewRef(data);
    PyObject *done = rest ? PyObject_CallFunctionObjArgs(write_slow, self, rest, NULL) : NULL;
    Py_XDECREF(rest);
    return done;
}

/* ---- the types ----------------------------------------------------------------------------- */

static PyMethodDef reader_methods[] = {
    {"_read_ready", read_ready, METH_NOARGS, "As asyncio's."},
    {NULL, NULL, 0, NULL},
};
static PyMethodDef writer_methods[] = {
    {"write", pipe_write, METH_O, "As asyncio's."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot reader_slots[] = {{Py_tp_methods, reader_methods}, {0, NULL}};
static PyType_Slot writer_slots[] = {{Py_tp_methods, writer_methods}, {0, NULL}};

#define SPEC(type_name, type_slots)                                                                \
    {.name = "ffloop._native._hot." type_name,                                                     \
     .basicsize = sizeof(PyObject),                                                                \
     .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,                                            \
     .slots = type_slots}
static PyType_Spec reader_spec = SPEC("PipeReader", reader_slots);
static PyType_Spec writer_spec = SPEC("PipeWriter", writer_slots);

int transport_method(PyObject **to, const char *module, const char *type, PyObject *method)
{
    PyObject *found = NULL;
    if (hot_import(&found, module, type) < 0)
        return -1;
    Py_XDECREF(*to);
    *to = PyObject_GetAttr(found, method);
    Py_DECREF(found);
    return *to ? 0 : -1;
}

int pipe_exec(PyObject *module)
{
    const struct hot_name names[] = {
        {&name_read_ready, "_read_ready"},
        {&name_write, "write"},
        {&name_fileno, "_fileno"},
        {&name_protocol, "_protocol"},
        {&name_loop, "_loop"},
        {&name_buffer, "_buffer"},
        {&name_closing, "_closing"},
        {&name_data_received, "data_received"},
    };
    const char *from = "asyncio.unix_events";
    if (hot_intern_all(names, FFL_COUNT(names)) < 0 ||
        transport_method(&read_ready_slow, from, "_UnixReadPipeTransport", name_read_ready) < 0 ||
        transport_method(&write_slow, from, "_UnixWritePipeTransport", name_write) < 0)
        return -1;
    return hot_add_type(module, "PipeReader", &reader_spec, NULL) &&
                   hot_add_type(module, "PipeWriter", &writer_spec, NULL)
               ? 0
               : -1;
}
