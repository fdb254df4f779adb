/*
 * stream.c - Stream: the base class of stream transports, with their short ways.
 *
 * Callers: ffloop/_loop/transport.py and its subclasses, dispatcher.c, direct.c. Whatever is not plain
 * data for a reading protocol, or a write with nothing in front of it, is the subclass's business
 * (on_data, on_eof, on_error, _write_slow, _write_rest, _fault).
 *
 * A subclass of asyncio's _FlowControlMixin, which is made in Python: its slots stay empty, the fields
 * stand behind them, and members of the same names cover them.
 */
#include "hot.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define GATHER 64 /* pieces of one system call */
#define HIGH_WATER (64 * 1024)

static PyTypeObject *stream_type;
static Py_ssize_t stream_at; /* where the fields stand */
static PyObject *buffered_protocol, *copy_context;
static PyObject *name_write_slow, *name_write_rest, *name_fault, *name_run, *name_deliver,
    *name_get_buffer, *name_buffer_updated, *name_on_eof, *name_on_error, *name_fill_failed,
    *name_update_failed;

struct stream *stream_of(PyObject *self)
{
    return PyObject_TypeCheck(self, stream_type) ? (struct stream *)((char *)self + stream_at)
                                                 : NULL;
}

static struct stream *of(PyObject *self)
{
    return (struct stream *)((char *)self + stream_at);
}

/* ---- memory -------------------------------------------------------------------------------- */

static int stream_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct stream *s = of(self);
    Py_VISIT(s->loop);
    Py_VISIT(s->protocol);
    Py_VISIT(s->extra);
    Py_VISIT(s->dispatcher);
    Py_VISIT(s->context);
    Py_VISIT(s->deliver);
    Py_VISIT(s->get_buffer);
    Py_VISIT(s->buffer_updated);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static void forget_protocol(struct stream *s)
{
    Py_CLEAR(s->deliver);
    Py_CLEAR(s->get_buffer);
    Py_CLEAR(s->buffer_updated);
}

static int stream_clear(PyObject *self)
{
    struct stream *s = of(self);
    forget_protocol(s);
    Py_CLEAR(s->loop);
    Py_CLEAR(s->protocol);
    Py_CLEAR(s->extra);
    Py_CLEAR(s->dispatcher);
    Py_CLEAR(s->context);
    return 0;
}

static void stream_dealloc(PyObject *self)
{
    hot_dealloc(self, stream_clear);
}

/* ---- the protocol -------------------------------------------------------------------------- */

static int method_of(PyObject *protocol, PyObject *name, PyObject **out)
{
    PyObject *method = PyObject_GetAttr(protocol, name);
    if (!method && PyErr_ExceptionMatches(PyExc_AttributeError))
        PyErr_Clear();
    *out = method;
    return PyErr_Occurred() ? -1 : 0;
}

static int choose_protocol(struct stream *s, PyObject *protocol)
{
    int buffered = PyObject_IsInstance(protocol, buffered_protocol);
    if (buffered < 0)
        return -1;
    hot_set_ref(&s->protocol, protocol);
    forget_protocol(s);
    if (!buffered)
        return method_of(protocol, name_deliver, &s->deliver);
    if (method_of(protocol, name_get_buffer, &s->get_buffer) < 0)
        return -1;
    return method_of(protocol, name_buffer_updated, &s->buffer_updated);
}

static PyObject *set_protocol(PyObject *self, PyObject *protocol)
{
    return choose_protocol(of(self), protocol) < 0 ? NULL : Py_NewRef(Py_None);
}

/* Reading callbacks run in `context`, or, of None, in a copy of the current one. */
static PyObject *set_context(PyObject *self, PyObject *context)
{
    PyObject *used = context == Py_None ? PyObject_CallNoArgs(copy_context) : Py_NewRef(context);
    if (!used)
        return NULL;
    hot_set_ref(&of(self)->context, used);
    Py_DECREF(used);
    return Py_NewRef(Py_None);
}

static int stream_init(PyObject *self, PyObject *args, PyObject *kw)
{
    static char *names[] = {"loop",   "protocol", "handle",     "context", "extra",
                            "client", "thread",   "dispatcher", NULL};
    struct stream *s = of(self);
    PyObject *loop, *protocol, *context, *extra, *client = NULL, *thread = NULL, *dispatcher = NULL;
    int handle;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "OOiOO|OOO", names, &loop, &protocol, &handle,
                                     &context, &extra, &client, &thread, &dispatcher))
        return -1;
    hot_set_ref(&s->loop, loop);
    s->high_water = HIGH_WATER;
    s->low_water = HIGH_WATER / 4;
    s->handle = handle;
    s->sending = 1;
    if (dispatcher) {
        if (!PyObject_TypeCheck(dispatcher, dispatcher_type)) {
            PyErr_SetString(PyExc_TypeError, "a Dispatcher is wanted");
            return -1;
        }
        hot_set_ref(&s->dispatcher, dispatcher);
        s->thread = &((Dispatcher *)dispatcher)->thread;
    } else {
        s->c = PyLong_AsVoidPtr(client);
        s->thread = PyLong_AsVoidPtr(thread);
        if (PyErr_Occurred())
            return -1;
    }
    PyObject *known = extra == Py_None ? PyDict_New() : Py_NewRef(extra);
    if (!known)
        return -1;
    hot_set_ref(&s->extra, known);
    Py_DECREF(known);
    PyObject *r = set_context(self, context);
    Py_XDECREF(r);
    return r ? choose_protocol(s, protocol) : -1;
}

/* ---- reading ------------------------------------------------------------------------------- */

int hot_call(PyObject *self, PyObject *name, PyObject *a)
{
    Py_INCREF(self);
    PyObject *r = PyObject_CallMethodObjArgs(self, name, a, NULL);
    Py_DECREF(self);
    Py_XDECREF(r);
    return r ? 0 : -1;
}

static int fault(PyObject *self, PyObject *name)
{
    PyObject *exc = hot_take_exception();
    int rc = exc ? hot_call(self, name, exc) : -1;
    Py_XDECREF(exc);
    return rc;
}

/* context.run(callback, a), as a new reference. The callback may replace both. */
static PyObject *run(struct stream *s, PyObject *callback, PyObject *a)
{
    PyObject *context = Py_NewRef(s->context);
    Py_INCREF(callback);
    PyObject *r = PyObject_CallMethodObjArgs(context, name_run, callback, a, NULL);
    Py_DECREF(callback);
    Py_DECREF(context);
    return r;
}

int stream_deliver(PyObject *self, const char *data, size_t len)
{
    PyObject *bytes = PyBytes_FromStringAndSize(data, (Py_ssize_t)len);
    if (!bytes)
        return -1;
    Py_INCREF(self);
    PyObject *r = run(of(self), of(self)->deliver, bytes);
    Py_DECREF(bytes);
    int rc = r ? 0 : fault(self, name_fault);
    Py_XDECREF(r);
    Py_DECREF(self);
    return rc;
}

static int hot_call_int(PyObject *self, PyObject *name, long value)
{
    PyObject *v = PyLong_FromLong(value);
    int rc = v ? hot_call(self, name, v) : -1;
    Py_XDECREF(v);
    return rc;
}

/* What recv said, if that was not data: the end, an error, or nothing after all. */
static int no_data(PyObject *self, ssize_t got, int err)
{
    if (got == 0)
        return hot_call(self, name_on_eof, NULL);
    if (err == EAGAIN || err == EINTR)
        return 0;
    return hot_call_int(self, name_on_error, err);
}

/* get_buffer(-1) into *room: 0; -1 with an exception. */
static int get_buffer(struct stream *s, Py_buffer *room)
{
    PyObject *hint = PyLong_FromLong(-1);
    PyObject *given = hint ? run(s, s->get_buffer, hint) : NULL;
    Py_XDECREF(hint);
    int rc = given ? PyObject_GetBuffer(given, room, PyBUF_WRITABLE) : -1;
    Py_XDECREF(given);
    if (rc == 0 && room->len == 0) {
        PyBuffer_Release(room);
        PyErr_SetString(PyExc_RuntimeError, "get_buffer() returned an empty buffer");
        rc = -1;
    }
    return rc;
}

/* Straight into a BufferedProtocol's buffer. */
static int read_into(Dispatcher *d, PyObject *self)
{
    struct stream *s = of(self);
    Py_buffer room;
    if (get_buffer(s, &room) < 0)
        return fault(self, name_fill_failed);
    if (!s->receiving || s->handle < 0 || !s->buffer_updated) { /* get_buffer() has changed that */
        PyBuffer_Release(&room);
        return 0;
    }
    ssize_t got = recv(s->handle, room.buf, (size_t)room.len, 0);
    int err = errno;
    PyBuffer_Release(&room);
    if (got <= 0)
        return no_data(self, got, err);
    direct_received(d, (size_t)got);
    PyObject *n = PyLong_FromSsize_t(got);
    PyObject *r = n ? run(s, s->buffer_updated, n) : NULL;
    Py_XDECREF(n);
    Py_XDECREF(r);
    return r ? 0 : fault(self, name_update_failed);
}

int stream_read(Dispatcher *d, PyObject *self)
{
    struct stream *s = of(self);
    int rc = 0;
    Py_INCREF(self);
    if (s->buffer_updated && s->get_buffer) {
        rc = read_into(d, self);
    } else if (s->deliver) {
        size_t size;
        char *room = direct_room(d, &size);
        ssize_t got = recv(s->handle, room, size, 0);
        if (got > 0) {
            direct_received(d, (size_t)got);
            rc = stream_deliver(self, room, (size_t)got);
        } else {
            rc = no_data(self, got, errno);
        }
    }
    Py_DECREF(self);
    return rc;
}

/* ---- writing ------------------------------------------------------------------------------- */

/* Bytes that were taken, or -errno. */
static int64_t send_now(struct stream *s, const void *data, size_t len)
{
    if (s->c)
        return ffl_client_send(s->c, s->handle, data, len);
    ssize_t sent = send(s->handle, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0)
        return errno == EINTR ? -EAGAIN : -errno;
    if (s->dispatcher)
        direct_sent((Dispatcher *)s->dispatcher, (size_t)sent);
    return sent;
}

static PyObject *call_two(PyObject *self, PyObject *name, PyObject *a, PyObject *b)
{
    Py_INCREF(self);
    PyObject *r = PyObject_CallMethodObjArgs(self, name, a, b, NULL);
    Py_DECREF(self);
    return r;
}

static PyObject *stream_write(PyObject *self, PyObject *data)
{
    struct stream *s = of(self);
    char *bytes;
    Py_ssize_t len;
    if (!s->sending || !PyBytes_CheckExact(data) || *s->thread != PyThread_get_thread_ident())
        return call_two(self, name_write_slow, data, NULL);
    if (PyBytes_AsStringAndSize(data, &bytes, &len) < 0)
        return NULL;
    if (!len)
        return Py_NewRef(Py_None);
    int64_t sent = send_now(s, bytes, (size_t)len);
    if (sent == len)
        return Py_NewRef(Py_None);
    PyObject *n = PyLong_FromLongLong(sent);
    PyObject *r = n ? call_two(self, name_write_rest, data, n) : NULL;
    Py_XDECREF(n);
    return r;
}

static PyObject *py_send(PyObject *self, PyObject *data)
{
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    int64_t sent = send_now(of(self), view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    return PyLong_FromLongLong(sent);
}

/* sendmsg, or the client's like. */
static int64_t send_pieces(struct stream *s, struct iovec *iov, int n)
{
    if (s->c)
        return ffl_client_sendv(s->c, s->handle, iov, n);
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = (size_t)n};
    ssize_t sent = sendmsg(s->handle, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0)
        return errno == EINTR ? -EAGAIN : -errno;
    if (s->dispatcher)
        direct_sent((Dispatcher *)s->dispatcher, (size_t)sent);
    return sent;
}

/* As _send, of the first pieces of a list: bytes that were taken of them, or -errno. */
static PyObject *py_send_pieces(PyObject *self, PyObject *list)
{
    Py_buffer views[GATHER];
    struct iovec iov[GATHER];
    int n = 0, rc = 0;
    Py_ssize_t size = PyList_Size(list);
    for (; rc == 0 && n < size && n < GATHER; n += rc == 0) {
        rc = PyObject_GetBuffer(PyList_GetItem(list, n), &views[n], PyBUF_SIMPLE);
        if (rc == 0)
            iov[n] = (struct iovec){.iov_base = views[n].buf, .iov_len = (size_t)views[n].len};
    }
    int64_t sent = rc == 0 && size >= 0 ? send_pieces(of(self), iov, n) : 0;
    while (n > 0)
        PyBuffer_Release(&views[--n]);
    return rc < 0 || size < 0 ? NULL : PyLong_FromLongLong(sent);
}

/* ---- life ---------------------------------------------------------------------------------- */

static PyObject *stream_detach(PyObject *self, PyObject *unused)
{
    struct stream *s = of(self);
    s->c = NULL;
    s->receiving = s->sending = 0;
    forget_protocol(s);
    Py_CLEAR(s->context);
    return Py_NewRef(Py_None);
}

/* Direct mode: which of the descriptor's events come. */
static PyObject *stream_watch(PyObject *self, PyObject *args)
{
    struct stream *s = of(self);
    int reading, writing;
    if (!PyArg_ParseTuple(args, "pp", &reading, &writing))
        return NULL;
    unsigned events = (reading ? (unsigned)EPOLLIN : 0) | (writing ? (unsigned)EPOLLOUT : 0);
    if (events != s->watched && s->handle >= 0) {
        unsigned before = s->watched;
        s->watched = events;
        if (direct_watch((Dispatcher *)s->dispatcher, s->handle, events, before, self) < 0)
            return NULL;
    }
    return Py_NewRef(Py_None);
}

#define FIELD(name, type, field) {name, type, offsetof(struct stream, field), 0, NULL}
static PyMemberDef stream_members[] = {
    FIELD("_loop", T_OBJECT, loop),
    FIELD("_protocol", T_OBJECT, protocol),
    FIELD("_extra", T_OBJECT, extra),
    FIELD("_high_water", T_PYSSIZET, high_water),
    FIELD("_low_water", T_PYSSIZET, low_water),
    FIELD("_protocol_paused", T_BOOL, protocol_paused),
    FIELD("_receiving", T_BOOL, receiving),
    FIELD("_sending", T_BOOL, sending),
    FIELD("_deliver", T_OBJECT, deliver),
    FIELD("_buffer_updated", T_OBJECT, buffer_updated),
    FIELD("_context", T_OBJECT, context),
    FIELD("_handle", T_INT, handle),
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef stream_methods[] = {
    {"write", stream_write, METH_O, "As asyncio's."},
    {"_send", py_send, METH_O, "Sends a bytes-like object now: how many bytes, or -errno."},
    {"_send_pieces", py_send_pieces, METH_O,
     "The same of a list of them, as far as one call goes."},
    {"_choose_protocol", set_protocol, METH_O, "Data goes to this protocol."},
    {"_choose_context", set_context, METH_O, "Reading callbacks run in it; None: in a copy."},
    {"_watch", stream_watch, METH_VARARGS, "Direct mode: (reading, writing)."},
    {"_detach", stream_detach, METH_NOARGS, "No more events; writes take the long way."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot stream_slots[] = {
    {Py_tp_doc, "A stream transport's short ways: data to its protocol, write() to its socket."},
    {Py_tp_init, stream_init},
    {Py_tp_dealloc, stream_dealloc},
    {Py_tp_traverse, stream_traverse},
    {Py_tp_clear, stream_clear},
    {Py_tp_members, stream_members},
    {Py_tp_methods, stream_methods},
    {0, NULL},
};

static PyType_Spec stream_spec = {
    .name = "ffloop._native._hot.Stream",
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = stream_slots,
};

int stream_exec(PyObject *module)
{
    const struct hot_name names[] = {
        {&name_write_slow, "_write_slow"},
        {&name_write_rest, "_write_rest"},
        {&name_fault, "_fault"},
        {&name_fill_failed, "_fill_failed"},
        {&name_update_failed, "_update_failed"},
        {&name_run, "run"},
        {&name_deliver, "data_received"},
        {&name_get_buffer, "get_buffer"},
        {&name_buffer_updated, "buffer_updated"},
        {&name_on_eof, "on_eof"},
        {&name_on_error, "on_error"},
    };
    if (hot_intern_all(names, FFL_COUNT(names)) < 0 ||
        hot_import(&copy_context, "contextvars", "copy_context") < 0 ||
        hot_import(&buffered_protocol, "asyncio.protocols", "BufferedProtocol") < 0)
        return -1;
    return hot_add_subtype(module, "Stream", &stream_spec, "asyncio.transports",
                           "_FlowControlMixin", stream_members, sizeof(struct stream), &stream_at,
                           &stream_type);
}
