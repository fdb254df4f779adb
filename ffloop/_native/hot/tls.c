/*
 * tls.c - Tls: the base class of ffloop's SSLProtocol, with the reads and writes of a connection
 * between its handshake and its shutdown.
 *
 * Callers: stream.c, ffloop/_loop/tls.py. data_received() takes bytes through the SSL object's
 * memory BIOs to the application's protocol; write() does the reverse. Handshake, shutdown, errors,
 * time-outs and writes that must wait are asyncio's own code, which finds the fields here under its
 * own names.
 *
 * Invariant: OpenSSL is not asked when it has nothing, since each "want read" costs an exception.
 * After a read that did not fill its buffer nothing is left but in the BIO.
 */
#include "stream.h"

typedef struct {
    PyObject_HEAD
    /* Under asyncio's names. */
    PyObject *state, *incoming, *outgoing, *transport, *protocol, *backlog;
    PyObject *ssl;          /* the _ssl._SSLSocket inside asyncio's SSLObject */
    Dispatcher *dispatcher; /* data is decrypted into its room */
    Py_ssize_t unsent, outgoing_high, incoming_high;
    char buffered, reading_paused, writing_paused; /* the application's protocol */
    char stream_reading_paused, stream_writing_paused;
} Tls;

enum { FAILED = -2, AGAIN = -1, END = 0 }; /* results of a read that are no count of bytes */

static PyTypeObject *tls_type;
static PyObject *wrapped, *flushing, *again;
static PyObject *name_read, *name_write, *name_pending, *name_data_received, *name_get_buffer,
    *name_buffer_updated, *name_do_read, *name_do_write, *name_write_slow, *name_write_later,
    *name_fatal_error, *name_call_eof, *name_start_shutdown, *name_control_reading,
    *name_control_writing, *name_call_soon, *name_loop, *message;

bool tls_is(PyObject *protocol)
{
    return PyObject_TypeCheck(protocol, tls_type);
}

/* ---- memory -------------------------------------------------------------------------------- */

static int tls_traverse(PyObject *self, visitproc visit, void *arg)
{
    Tls *t = (Tls *)self;
    Py_VISIT(t->state);
    Py_VISIT(t->incoming);
    Py_VISIT(t->outgoing);
    Py_VISIT(t->transport);
    Py_VISIT(t->protocol);
    Py_VISIT(t->backlog);
    Py_VISIT(t->ssl);
    Py_VISIT(t->dispatcher);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int tls_clear(PyObject *self)
{
    Tls *t = (Tls *)self;
    Py_CLEAR(t->state);
    Py_CLEAR(t->incoming);
    Py_CLEAR(t->outgoing);
    Py_CLEAR(t->transport);
    Py_CLEAR(t->protocol);
    Py_CLEAR(t->backlog);
    Py_CLEAR(t->ssl);
    Py_CLEAR(t->dispatcher);
    return 0;
}

static void tls_dealloc(PyObject *self)
{
    hot_dealloc(self, tls_clear);
}

static PyObject *tls_use(PyObject *self, PyObject *args)
{
    Tls *t = (Tls *)self;
    PyObject *dispatcher, *ssl;
    if (!PyArg_ParseTuple(args, "O!O", dispatcher_type, &dispatcher, &ssl))
        return NULL;
    hot_set_ref((PyObject **)&t->dispatcher, dispatcher);
    hot_set_ref(&t->ssl, ssl);
    return Py_NewRef(Py_None);
}

/* ---- both directions ------------------------------------------------------------------------- */

/* Ends the connection with the exception that is set, as asyncio's SSLProtocol does. */
static int fatal(PyObject *self)
{
    return hot_fault(self, name_fatal_error, message, NULL);
}

/* The number in a new reference, which is dropped; -1 with an exception, also for NULL. */
static Py_ssize_t number(PyObject *value)
{
    Py_ssize_t n = value ? PyLong_AsSsize_t(value) : -1;
    Py_XDECREF(value);
    return n;
}

static Py_ssize_t pending(PyObject *bio)
{
    return number(PyObject_GetAttr(bio, name_pending));
}

/* Hands encrypted bytes to the transport unless that has paused writing, and pauses or resumes the
 * application's protocol by what is left. 0 or -1. */
static int flush(PyObject *self)
{
    Tls *t = (Tls *)self;
    Py_ssize_t size = t->unsent;
    if (!t->stream_writing_paused) {
        PyObject *data = PyObject_CallMethodObjArgs(t->outgoing, name_read, NULL);
        Py_ssize_t n = data ? PyObject_Size(data) : -1;
        PyObject *transport = Py_NewRef(t->transport), *r = NULL;
        if (n > 0)
            r = stream_of(transport)
                    ? stream_write(transport, data)
                    : PyObject_CallMethodObjArgs(transport, name_write, data, NULL);
        Py_DECREF(transport);
        Py_XDECREF(data);
        Py_XDECREF(r);
        if (n < 0 || (n > 0 && !r))
            return -1;
    } else {
        Py_ssize_t n = pending(t->outgoing);
        if (n < 0)
            return -1;
        size += n;
    }
    return size >= t->outgoing_high || t->writing_paused
               ? hot_call(self, name_control_writing, NULL)
               : 0;
}

static PyObject *tls_process_outgoing(PyObject *self, PyObject *unused)
{
    return flush(self) < 0 ? NULL : Py_NewRef(Py_None);
}

/* ---- reading ------------------------------------------------------------------------------- */

/* Bytes that were decrypted, END (close_notify), AGAIN, or FAILED with an exception. */
static Py_ssize_t read_once(Tls *t, char *room, Py_ssize_t size)
{
    PyObject *view = PyMemoryView_FromMemory(room, size, PyBUF_WRITE), *wanted, *got = NULL;
    if (!view)
        return FAILED;
    if ((wanted = PyLong_FromSsize_t(size)))
        got = PyObject_CallMethodObjArgs(t->ssl, name_read, wanted, view, NULL);
    Py_XDECREF(wanted);
    Py_DECREF(view);
    if (got || !PyErr_ExceptionMatches(again)) {
        Py_ssize_t n = number(got);
        return n < 0 ? FAILED : n;
    }
    PyErr_Clear();
    return AGAIN;
}

/* Decrypts until the room is full or nothing is left: bytes, or -1 with an exception. *ended:
 * close_notify came. */
static Py_ssize_t fill(Tls *t, char *room, Py_ssize_t size, bool *ended)
{
    Py_ssize_t got = 0, n = 0, left = 1;
    while (left > 0 && got < size && (n = read_once(t, room + got, size - got)) > 0) {
        got += n;
        left = got < size ? pending(t->incoming) : 0;
    }
    *ended = n == END;
    return n == FAILED || left < 0 ? -1 : got;
}

/* Hands bytes to data_received(). 1: there may be more; 0; -1 with an exception. */
static int read_copied(Tls *t, bool *ended)
{
    char *room = dispatcher_room(t->dispatcher);
    Py_ssize_t got = room ? fill(t, room, DISPATCHER_ROOM, ended) : -1;
    if (got <= 0)
        return (int)got;
    PyObject *data = PyBytes_FromStringAndSize(room, got);
    int rc = data ? hot_call(t->protocol, name_data_received, data) : -1;
    Py_XDECREF(data);
    return rc < 0 ? -1 : got == DISPATCHER_ROOM;
}

static int get_buffer(Tls *t, Py_buffer *room)
{
    Py_ssize_t n = pending(t->incoming);
    PyObject *hint = n < 0 ? NULL : PyLong_FromSsize_t(n);
    PyObject *given =
        hint ? PyObject_CallMethodObjArgs(t->protocol, name_get_buffer, hint, NULL) : NULL;
    Py_XDECREF(hint);
    return stream_room(given, room);
}

/* Decrypts into a BufferedProtocol's buffer; where that is full, goes on in the next iteration. */
static int read_buffered(PyObject *self, bool *ended)
{
    Tls *t = (Tls *)self;
    Py_buffer room;
    if (get_buffer(t, &room) < 0)
        return -1;
    Py_ssize_t size = room.len, got = fill(t, room.buf, size, ended);
    PyBuffer_Release(&room);
    if (got <= 0)
        return (int)got;
    PyObject *n = PyLong_FromSsize_t(got);
    int rc = n ? hot_call(t->protocol, name_buffer_updated, n) : -1;
    Py_XDECREF(n);
    if (rc < 0 || got < size)
        return rc;
    PyObject *loop = PyObject_GetAttr(self, name_loop);
    PyObject *later = loop ? PyObject_GetAttr(self, name_do_read) : NULL;
    rc = later ? hot_call(loop, name_call_soon, later) : -1;
    Py_XDECREF(loop);
    Py_XDECREF(later);
    return rc;
}

static bool reads(const Tls *t)
{
    return !t->reading_paused && (t->state == wrapped || t->state == flushing);
}

/* Hands on what has come, then sends what the protocol and OpenSSL have written. */
static int deliver(PyObject *self)
{
    Tls *t = (Tls *)self;
    bool ended = false;
    int rc;
    do
        rc = t->buffered ? read_buffered(self, &ended) : read_copied(t, &ended);
    while (rc > 0 && reads(t));
    if (rc < 0)
        return -1;
    if (ended &&
        (hot_call(self, name_call_eof, NULL) < 0 || hot_call(self, name_start_shutdown, NULL) < 0))
        return -1;
    Py_ssize_t waiting = PyObject_Size(t->backlog);
    return waiting < 0 ? -1 : waiting ? hot_call(self, name_do_write, NULL) : flush(self);
}

/* Pauses the transport while too many bytes are not decrypted. */
static int control_reading(PyObject *self)
{
    Tls *t = (Tls *)self;
    Py_ssize_t left = pending(t->incoming);
    if (left < 0)
        return -1;
    return left >= t->incoming_high || t->stream_reading_paused
               ? hot_call(self, name_control_reading, NULL)
               : 0;
}

static PyObject *tls_do_read(PyObject *self, PyObject *unused)
{
    Tls *t = (Tls *)self;
    if (t->state != wrapped && t->state != flushing)
        return Py_NewRef(Py_None);
    int rc = t->reading_paused ? 0 : deliver(self);
    if (rc == 0)
        rc = control_reading(self);
    return rc < 0 && fatal(self) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *tls_data_received(PyObject *self, PyObject *data)
{
    Tls *t = (Tls *)self;
    if (hot_call(t->incoming, name_write, data) < 0)
        return NULL;
    if (t->state == wrapped)
        return tls_do_read(self, NULL);
    PyObject *none = PyLong_FromLong(0); /* the bytes are in the BIO: asyncio's part is the rest */
    PyObject *r = none ? PyObject_CallMethodObjArgs(self, name_buffer_updated, none, NULL) : NULL;
    Py_XDECREF(none);
    return r;
}

/* ---- writing ------------------------------------------------------------------------------- */

/* data[off:len], uncopied. */
static PyObject *after(PyObject *data, Py_ssize_t off, Py_ssize_t len)
{
    PyObject *view = PyMemoryView_FromObject(data);
    PyObject *rest = view ? PySequence_GetSlice(view, off, len) : NULL;
    Py_XDECREF(view);
    return rest;
}

/* Encrypts record by record. The bytes taken; fewer than len: an exception is set. */
static Py_ssize_t encrypt(Tls *t, PyObject *data, Py_ssize_t len)
{
    Py_ssize_t off = 0, n = 0;
    while (off < len) {
        PyObject *rest = off ? after(data, off, len) : Py_NewRef(data);
        n = number(rest ? PyObject_CallMethodObjArgs(t->ssl, name_write, rest, NULL) : NULL);
        Py_XDECREF(rest);
        if (n < 0)
            break;
        off += n;
    }
    return off;
}

/* OpenSSL must read first: the rest of the data waits for that. */
static PyObject *write_later(PyObject *self, PyObject *data, Py_ssize_t off, Py_ssize_t len)
{
    PyErr_Clear();
    PyObject *rest = after(data, off, len);
    PyObject *r = rest ? PyObject_CallMethodObjArgs(self, name_write_later, rest, NULL) : NULL;
    Py_XDECREF(rest);
    return r;
}

static PyObject *tls_write(PyObject *self, PyObject *data)
{
    Tls *t = (Tls *)self;
    if (t->state != wrapped || !PyBytes_CheckExact(data) || PyObject_Size(t->backlog))
        return PyObject_CallMethodObjArgs(self, name_write_slow, data, NULL);
    Py_ssize_t len = PyBytes_Size(data), taken = encrypt(t, data, len);
    if (taken < len && PyErr_ExceptionMatches(again))
        return write_later(self, data, taken, len);
    int rc = taken < len ? -1 : !len ? 0 : flush(self);
    return rc < 0 && fatal(self) < 0 ? NULL : Py_NewRef(Py_None);
}

/* ---- the type ------------------------------------------------------------------------------ */

#define FIELD(name, type, field) {name, type, offsetof(Tls, field), 0, NULL}
static PyMemberDef tls_members[] = {
    FIELD("_state", T_OBJECT, state),
    FIELD("_incoming", T_OBJECT, incoming),
    FIELD("_outgoing", T_OBJECT, outgoing),
    FIELD("_transport", T_OBJECT, transport),
    FIELD("_app_protocol", T_OBJECT, protocol),
    FIELD("_write_backlog", T_OBJECT, backlog),
    FIELD("_write_buffer_size", T_PYSSIZET, unsent),
    FIELD("_outgoing_high_water", T_PYSSIZET, outgoing_high),
    FIELD("_incoming_high_water", T_PYSSIZET, incoming_high),
    FIELD("_app_protocol_is_buffer", T_BOOL, buffered),
    FIELD("_app_reading_paused", T_BOOL, reading_paused),
    FIELD("_app_writing_paused", T_BOOL, writing_paused),
    FIELD("_ssl_reading_paused", T_BOOL, stream_reading_paused),
    FIELD("_ssl_writing_paused", T_BOOL, stream_writing_paused),
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef tls_methods[] = {
    {"data_received", tls_data_received, METH_O, "Takes encrypted bytes from the peer."},
    {"write", tls_write, METH_O, "Takes the application's bytes."},
    {"_do_read", tls_do_read, METH_NOARGS, "As asyncio's SSLProtocol."},
    {"_process_outgoing", tls_process_outgoing, METH_NOARGS, "As asyncio's SSLProtocol."},
    {"_use", tls_use, METH_VARARGS, "(dispatcher, SSL object): before anything else."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot tls_slots[] = {
    {Py_tp_doc, "Reads and writes of a TLS connection between its handshake and its shutdown."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, tls_dealloc},
    {Py_tp_traverse, tls_traverse},
    {Py_tp_clear, tls_clear},
    {Py_tp_members, tls_members},
    {Py_tp_methods, tls_methods},
    {0, NULL},
};

static PyType_Spec tls_spec = {
    .name = "ffloop._native._hot.Tls",
    .basicsize = sizeof(Tls),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = tls_slots,
};

static int import_states(void)
{
    PyObject *states = NULL;
    if (hot_import(&states, "asyncio.sslproto", "SSLProtocolState") < 0)
        return -1;
    Py_XDECREF(wrapped);
    Py_XDECREF(flushing);
    wrapped = PyObject_GetAttrString(states, "WRAPPED");
    flushing = PyObject_GetAttrString(states, "FLUSHING");
    Py_DECREF(states);
    return wrapped && flushing ? hot_import(&again, "asyncio.sslproto", "SSLAgainErrors") : -1;
}

int tls_exec(PyObject *module)
{
    const struct hot_name names[] = {
        {&name_read, "read"},
        {&name_write, "write"},
        {&name_pending, "pending"},
        {&name_data_received, "data_received"},
        {&name_get_buffer, "get_buffer"},
        {&name_buffer_updated, "buffer_updated"},
        {&name_do_read, "_do_read"},
        {&name_do_write, "_do_write"},
        {&name_write_slow, "_write_slow"},
        {&name_write_later, "_write_later"},
        {&name_fatal_error, "_fatal_error"},
        {&name_call_eof, "_call_eof_received"},
        {&name_start_shutdown, "_start_shutdown"},
        {&name_control_reading, "_control_ssl_reading"},
        {&name_control_writing, "_control_app_writing"},
        {&name_call_soon, "call_soon"},
        {&name_loop, "_loop"},
        {&message, "Fatal error on SSL protocol"},
    };
    if (hot_intern_all(names, FFL_COUNT(names)) < 0 || import_states() < 0)
        return -1;
    tls_type = (PyTypeObject *)hot_add_type(module, "Tls", &tls_spec, NULL);
    return tls_type ? 0 : -1;
}
