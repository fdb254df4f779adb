/*
 * stream.c - Stream: the base class of stream transports. See stream.h.
 *
 * Callers: ffloop/_loop/transport.py and its subclasses. Data for a protocol that reads, and writes
 * without a backlog, are served here, everything else in the subclass (on_data, on_eof, on_error,
 * _write_slow, _write_rest, _fault).
 *
 * The base class is asyncio's _FlowControlMixin, made in Python: its slots stay empty, the fields
 * stand behind them, and members of the same names hide them.
 */
#include "stream.h"
#include "context.h"

#define HIGH_WATER (64 * 1024)

static PyTypeObject *stream_type;
Py_ssize_t stream_at;
static PyObject *buffered_protocol;

struct stream *stream_of(PyObject *self)
{
    return PyObject_TypeCheck(self, stream_type) ? stream_fields(self) : NULL;
}

/* ---- memory -------------------------------------------------------------------------------- */

static int stream_traverse(PyObject *self, visitproc visit, void *arg)
{
    PyObject **refs = &stream_fields(self)->loop;
    for (size_t i = 0; i < STREAM_REFS; i++)
        Py_VISIT(refs[i]);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int stream_clear(PyObject *self)
{
    PyObject **refs = &stream_fields(self)->loop;
    for (size_t i = 0; i < STREAM_REFS; i++)
        Py_CLEAR(refs[i]);
    return 0;
}

static void stream_dealloc(PyObject *self)
{
    hot_dealloc(self, stream_clear);
}

/* ---- the protocol -------------------------------------------------------------------------- */

/* asyncio asks for the class, uvloop for the methods. */
static int is_buffered(PyObject *protocol)
{
    int rc = PyObject_IsInstance(protocol, buffered_protocol);
    if (rc || PyObject_HasAttrString(protocol, "data_received"))
        return rc;
    return PyObject_HasAttrString(protocol, "get_buffer");
}

static int choose_protocol(struct stream *s, PyObject *protocol)
{
    int lends = tls_is(protocol);
    int buffered = lends ? 0 : is_buffered(protocol);
    int feeds = buffered ? 0 : feed_serves(protocol);
    if (buffered < 0 || feeds < 0)
        return -1;
    hot_set_ref(&s->protocol, protocol);
    s->lends = lends != 0;
    s->buffered = buffered > 0;
    s->feeds = feeds > 0;
    return 0;
}

static PyObject *set_protocol(PyObject *self, PyObject *protocol)
{
    return choose_protocol(stream_fields(self), protocol) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *get_protocol(PyObject *self, PyObject *unused)
{
    PyObject *protocol = stream_fields(self)->protocol;
    return Py_NewRef(protocol ? protocol : Py_None);
}

/* Reading callbacks run in `context`; None: in a copy of the current one. */
static int choose_context(struct stream *s, PyObject *context)
{
    PyObject *used = is_set(context) ? Py_NewRef(context) : context_copy_current();
    if (!used)
        return -1;
    hot_set_ref(&s->context, used);
    Py_DECREF(used);
    return 0;
}

static PyObject *set_context(PyObject *self, PyObject *context)
{
    return choose_context(stream_fields(self), context) < 0 ? NULL : Py_NewRef(Py_None);
}

/* Sets the fields that every Stream has. dispatcher: of a loop in direct mode, or NULL. */
static void begin_fields(struct stream *s, PyObject *loop, PyObject *dispatcher, PyObject *server)
{
    hot_set_ref(&s->loop, loop);
    hot_set_ref(&s->server, server);
    if (dispatcher) {
        hot_set_ref(&s->dispatcher, dispatcher);
        s->thread = &((Dispatcher *)dispatcher)->thread;
    }
    s->high_water = HIGH_WATER;
    s->low_water = HIGH_WATER / 4;
    s->sending = s->protocol_connected = 1;
}

/* The last step of making a Stream: from here on it owns `handle`. */
static int open_stream(PyObject *self, PyObject *protocol, int handle)
{
    struct stream *s = stream_fields(self);
    if (!s->extra && !(s->extra = PyDict_New()))
        return -1;
    if (choose_context(s, s->lasting) < 0 || choose_protocol(s, protocol) < 0 ||
        stream_attach(self, s) < 0)
        return -1;
    s->handle = handle;
    s->open = 1;
    return 0;
}

static int stream_init(PyObject *self, PyObject *args, PyObject *kw)
{
    static char *names[] = {"loop",   "protocol",   "handle", "context", "extra", "client",
                            "thread", "dispatcher", "server", "sock",    NULL};
    struct stream *s = stream_fields(self);
    PyObject *loop, *protocol, *context = Py_None, *extra = Py_None, *client = NULL, *thread = NULL;
    PyObject *dispatcher = NULL, *server = Py_None, *sock = Py_None;
    int handle;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "OOi|OOOOOOO", names, &loop, &protocol, &handle,
                                     &context, &extra, &client, &thread, &dispatcher, &server,
                                     &sock))
        return -1;
    if (dispatcher && !PyObject_TypeCheck(dispatcher, dispatcher_type)) {
        PyErr_SetString(PyExc_TypeError, "a Dispatcher is wanted");
        return -1;
    }
    begin_fields(s, loop, dispatcher, server);
    hot_set_ref(&s->lasting, context);
    hot_set_ref(&s->sock, sock);
    if (is_set(extra))
        hot_set_ref(&s->extra, extra);
    if (!dispatcher) {
        s->c = PyLong_AsVoidPtr(client);
        s->thread = PyLong_AsVoidPtr(thread);
        if (PyErr_Occurred())
            return -1;
    }
    return open_stream(self, protocol, handle);
}

PyObject *stream_new(PyTypeObject *type, PyObject *protocol, const struct accepted *from)
{
    PyObject *self = PyType_GenericAlloc(type, 0);
    if (!self)
        return NULL;
    struct stream *s = stream_fields(self);
    begin_fields(s, from->loop, from->dispatcher, from->server);
    hot_set_ref(&s->bound, from->bound);
    hot_set_ref(&s->peer, from->peer);
    if (open_stream(self, protocol, from->fd) < 0)
        Py_CLEAR(self);
    return self;
}

/* ---- the type ------------------------------------------------------------------------------ */

void stream_detach(struct stream *s)
{
    s->c = NULL;
    s->receiving = s->sending = 0;
    Py_CLEAR(s->context);
}

static PyObject *send_kept(PyObject *none, PyObject *unused)
{
    return gather_flush() < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *py_detach(PyObject *self, PyObject *unused)
{
    stream_detach(stream_fields(self));
    return Py_NewRef(Py_None);
}

#define FIELD(name, type, field) {name, type, offsetof(struct stream, field), 0, NULL}
static PyMemberDef stream_members[] = {
    FIELD("_loop", T_OBJECT, loop),
    FIELD("_protocol", T_OBJECT, protocol),
    FIELD("_extra", T_OBJECT, extra),
    FIELD("_server", T_OBJECT, server),
    FIELD("_lasting", T_OBJECT, lasting),
    FIELD("_backlog", T_OBJECT, backlog),
    FIELD("_write_context", T_OBJECT, write_context),
    FIELD("_unsendable", T_OBJECT, unsendable),
    FIELD("_sock", T_OBJECT, sock),
    FIELD("_bound", T_OBJECT, bound),
    FIELD("_peer", T_OBJECT, peer),
    FIELD("_flushing", T_OBJECT, flushing),
    FIELD("_conn_lost", T_INT, conn_lost),
    FIELD("_protocol_connected", T_BOOL, protocol_connected),
    FIELD("_open", T_BOOL, open),
    FIELD("_begun", T_BOOL, begun),
    FIELD("_paused", T_BOOL, paused),
    FIELD("_closing", T_BOOL, closing),
    FIELD("_eof", T_BOOL, eof),
    FIELD("_high_water", T_PYSSIZET, high_water),
    FIELD("_low_water", T_PYSSIZET, low_water),
    FIELD("_protocol_paused", T_BOOL, protocol_paused),
    FIELD("_receiving", T_BOOL, receiving),
    FIELD("_sending", T_BOOL, sending),
    FIELD("_buffered", T_BOOL, buffered),
    FIELD("_context", T_OBJECT, context),
    FIELD("_handle", T_INT, handle),
    {NULL, 0, 0, 0, NULL},
};

#define FAST(f) (PyCFunction)(void (*)(void)) f, METH_FASTCALL
static PyMethodDef stream_methods[] = {
    {"write", stream_write, METH_O, "As asyncio's."},
    {"_send", stream_send, METH_O, "Sends a bytes-like object now: the bytes taken, or -errno."},
    {"_send_pieces", stream_send_pieces, METH_O,
     "The same of a list of them, as far as one call goes."},
    {"_send_kept", send_kept, METH_NOARGS | METH_STATIC, "Sends what write() has kept."},
    {"begin", FAST(stream_begin), "connection_made, then reading, then the waiter's result."},
    {"close", stream_close, METH_NOARGS, "As asyncio's."},
    {"is_closing", stream_is_closing, METH_NOARGS, "As asyncio's."},
    {"is_reading", stream_is_reading, METH_NOARGS, "As asyncio's."},
    {"get_protocol", get_protocol, METH_NOARGS, "As asyncio's."},
    {"_call_connection_lost", FAST(stream_end), "connection_lost, then drops all references."},
    {"_read_eof", stream_read_eof, METH_NOARGS,
     "eof_received, then closes unless it returned true."},
    {"_resume", stream_resume, METH_NOARGS, "Direct mode: reads from now on."},
    {"_stop_reading", stream_stop_reading, METH_NOARGS, "Direct mode: does not read."},
    {"_quiet", stream_stop_reading, METH_NOARGS, "The same, for a transport that closes."},
    {"_tell_writable", stream_tell_writable, METH_O,
     "Direct mode: on_writable() is to be called when the socket takes more."},
    {"_choose_protocol", set_protocol, METH_O, "Data goes to this protocol from now on."},
    {"_choose_context", set_context, METH_O,
     "Reading callbacks run in this context; None: in a copy of the current one."},
    {"_detach", py_detach, METH_NOARGS, "No more events; writes take the long way."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot stream_slots[] = {
    {Py_tp_doc, "The base of stream transports: data to the protocol, write() to the socket."},
    {Py_tp_init, stream_init},
    {Py_tp_finalize, stream_finalize},
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
    if (transfer_exec() < 0 || life_exec() < 0 || feed_exec() < 0 || streams_exec(module) < 0 ||
        hot_import(&buffered_protocol, "asyncio.protocols", "BufferedProtocol") < 0)
        return -1;
    return hot_add_subtype(module, "Stream", &stream_spec, "asyncio.transports",
                           "_FlowControlMixin", stream_members, sizeof(struct stream), &stream_at,
                           &stream_type);
}
