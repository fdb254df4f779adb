/*
 * streams.c - asyncio's StreamReader.read() and StreamWriter.drain(), compiled.
 *
 * Callers: life.c, when a connection of asyncio's streams begins; feed.c, which asks whose a reader
 * is; call.c. The connection's reader, and a server's writer (streams_begin), get a subclass each
 * whose read() or drain() gives a Call: a coroutine in C for what is plain. It looks at the stream
 * when it is first awaited; whatever is not plain (an exception, a stream that is paused or
 * closing, read() without a limit) is asyncio's own coroutine's, which it passes everything to.
 * Classes with changed methods are left alone.
 */
#include "call.h"
#include "scheduler.h"

static PyTypeObject *reader_type, *writer_type, *fast_reader, *fast_writer;
static PyTypeObject *protocol_type;
static PyObject *name_maybe_resume, *name_class, *name_connection_made, *name_connected;
/* A writer's attributes, as feed_names. */
enum { WRITER_TRANSPORT, WRITER_PROTOCOL, WRITER_READER, WRITER_NAMES };
static PyObject *writer_names[WRITER_NAMES];
static struct original originals[] = {
    {&reader_type, "StreamReader.read", NULL, NULL},
    {&writer_type, "StreamWriter.drain", NULL, NULL},
    {&reader_type, "StreamReader._wait_for_data", NULL, NULL},
    {&reader_type, "StreamReader._maybe_resume_transport", NULL, NULL},
    {&reader_type, "StreamReader.exception", NULL, NULL},
    {&protocol_type, "FlowControlMixin._drain_helper", NULL, NULL},
    {&protocol_type, "StreamReaderProtocol.connection_made", NULL, NULL},
};

/* ---- what they do -------------------------------------------------------------------------- */

static PyObject *take_bytes(PyObject *buffer, Py_ssize_t most)
{
    Py_ssize_t size = PyByteArray_Size(buffer), n = size < most ? size : most;
    PyObject *data = PyBytes_FromStringAndSize(PyByteArray_AsString(buffer), n);
    int rc = !data ? -1 : n < size ? PySequence_DelSlice(buffer, 0, n) : 0;
    if (rc == 0 && n == size && size)
        rc = PyByteArray_Resize(buffer, 0);
    if (rc < 0)
        Py_CLEAR(data);
    return data;
}

/* The end of read(): what the buffer has. */
static PySendResult give(Call *c, PyObject *attributes, PyObject **result)
{
    PyObject *buffer = feed_get(attributes, feed_names[BUFFER]);
    if (!buffer || !PyByteArray_CheckExact(buffer)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "the buffer of a StreamReader is a bytearray");
        return PYGEN_ERROR;
    }
    *result = take_bytes(buffer, PyLong_AsSsize_t(c->n));
    if (*result && feed_get(attributes, feed_names[PAUSED]) != Py_False &&
        hot_call(c->of, name_maybe_resume, NULL) < 0)
        Py_CLEAR(*result);
    return *result ? PYGEN_RETURN : PYGEN_ERROR;
}

static int begin_waiting(Call *c, PyObject *attributes, PyObject *loop)
{
    PyObject *waiter = loop ? scheduler_future(loop) : NULL;
    c->awaited = waiter ? PyObject_GetIter(waiter) : NULL;
    bool waits = c->awaited && PyDict_SetItem(attributes, feed_names[WAITER], waiter) == 0;
    Py_XDECREF(waiter);
    if (!waits)
        return PYGEN_ERROR;
    c->state = WAITS;
    return PYGEN_NEXT;
}

static int begin_read(Call *c, PyObject **result)
{
    PyObject *attributes = PyObject_GenericGetDict(c->of, NULL), *of[READER_NAMES];
    int rc = PLAIN_NOT;
    if (!attributes)
        return PYGEN_ERROR;
    feed_get_all(attributes, feed_names, READER_NAMES, of);
    if (of[BUFFER] && PyByteArray_CheckExact(of[BUFFER]) && of[EXCEPTION] == Py_None) {
        if (PyByteArray_Size(of[BUFFER]))
            rc = (int)give(c, attributes, result);
        else if (of[EOF_FED] == Py_False && of[WAITER] == Py_None && of[PAUSED] == Py_False)
            rc = begin_waiting(c, attributes, of[LOOP]);
    }
    Py_DECREF(attributes);
    return rc;
}

/* The waiter is done: `r` says how. */
PySendResult streams_end_read(Call *c, PySendResult r, PyObject **result)
{
    if (r == PYGEN_RETURN)
        Py_CLEAR(*result);
    struct hot_exception was = hot_put_by();
    PyObject *attributes = PyObject_GenericGetDict(c->of, NULL);
    int rc = attributes ? PyDict_SetItem(attributes, feed_names[WAITER], Py_None) : -1;
    if (hot_set_again(was, rc) < 0)
        r = PYGEN_ERROR;
    if (r == PYGEN_RETURN)
        r = give(c, attributes, result);
    Py_XDECREF(attributes);
    return r;
}

/* Nothing waits for room: the end of drain(). The transport's state is that of its protocol. */
static int begin_drain(Call *c, PyObject **result)
{
    PyObject *attributes = PyObject_GenericGetDict(c->of, NULL), *of_reader = NULL;
    PyObject *of[WRITER_NAMES] = {NULL};
    if (attributes)
        feed_get_all(attributes, writer_names, WRITER_NAMES, of);
    const struct stream *s = of[WRITER_TRANSPORT] ? stream_of(of[WRITER_TRANSPORT]) : NULL;
    bool plain = s && s->feeds && s->open && !s->closing && !s->protocol_paused &&
                 of[WRITER_PROTOCOL] == s->protocol && of[WRITER_READER];
    if (plain && Py_TYPE(of[WRITER_READER]) == fast_reader)
        of_reader = PyObject_GenericGetDict(of[WRITER_READER], NULL);
    if (of_reader && feed_get(of_reader, feed_names[EXCEPTION]) == Py_None)
        *result = Py_NewRef(Py_None);
    Py_XDECREF(of_reader);
    Py_XDECREF(attributes);
    return PyErr_Occurred() ? PYGEN_ERROR : *result ? PYGEN_RETURN : PLAIN_NOT;
}

static struct kind read_kind = {NULL, begin_read, "read", "StreamReader.read"};
static struct kind drain_kind = {NULL, begin_drain, "drain", "StreamWriter.drain"};

int streams_stop_waiting(Call *c)
{
    return PyObject_SetAttr(c->of, feed_names[WAITER], Py_None);
}

/* ---- the streams --------------------------------------------------------------------------- */

static PyObject *reader_read(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *keys)
{
    bool plain = n == 1 && !keys && PyLong_CheckExact(args[0]);
    Py_ssize_t most = plain ? PyLong_AsSsize_t(args[0]) : -1;
    if (most > 0)
        return call_new(&read_kind, self, args[0]);
    PyErr_Clear(); /* too large a number */
    return hot_forward(read_kind.original, self, args, n, keys);
}

static PyObject *writer_drain(PyObject *self, PyObject *unused)
{
    return call_new(&drain_kind, self, NULL);
}

static int adopt(PyObject *self, const PyTypeObject *type, PyTypeObject *fast)
{
    return Py_TYPE(self) == type ? PyObject_SetAttr(self, name_class, (PyObject *)fast) : 0;
}

/* client_connected_cb(reader, writer): nobody else is told of the writer. */
static PyObject *connected(PyObject *callback, PyObject *streams)
{
    PyObject *writer = PyTuple_Size(streams) == 2 ? PyTuple_GetItem(streams, 1) : NULL;
    if (writer && adopt(writer, writer_type, fast_writer) < 0)
        return NULL;
    return PyObject_Call(callback, streams, NULL);
}

static PyMethodDef connected_method = {"client_connected_cb", connected, METH_VARARGS, NULL};

/* Who was called may have set another one, which stays. */
static int replace_callback(PyObject *protocol, const PyObject *from, PyObject *to)
{
    PyObject *now = PyObject_GetAttr(protocol, name_connected);
    int rc = !now ? -1 : now == from ? PyObject_SetAttr(protocol, name_connected, to) : 0;
    Py_XDECREF(now);
    return rc;
}

/* protocol.connection_made(transport), in which the protocol's callback is the one above. */
static int begin_server(PyObject *protocol, PyObject *transport, PyObject *callback)
{
    PyObject *ours = PyCFunction_New(&connected_method, callback);
    int rc = ours ? PyObject_SetAttr(protocol, name_connected, ours) : -1;
    if (rc == 0) {
        hot_call(protocol, name_connection_made, transport);
        struct hot_exception made = hot_put_by();
        rc = hot_set_again(made, replace_callback(protocol, ours, callback));
    }
    Py_XDECREF(ours);
    return rc;
}

static int begin_plain(PyObject *protocol, PyObject *transport)
{
    PyObject *reader = feed_reader_of(protocol), *callback = NULL;
    int rc = reader ? adopt(reader, reader_type, fast_reader) : PyErr_Occurred() ? -1 : 0;
    Py_XDECREF(reader);
    if (rc == 0)
        callback = PyObject_GetAttr(protocol, name_connected);
    if (!callback)
        return -1;
    rc = callback != Py_None ? begin_server(protocol, transport, callback)
                             : hot_call(protocol, name_connection_made, transport);
    Py_DECREF(callback);
    return rc;
}

int streams_begin(PyObject *protocol, PyObject *transport)
{
    int rc = feed_unchanged(originals, FFL_COUNT(originals));
    Py_INCREF(protocol);
    if (rc >= 0)
        rc = rc ? begin_plain(protocol, transport)
                : hot_call(protocol, name_connection_made, transport);
    Py_DECREF(protocol);
    return rc;
}

bool streams_is_reader(PyObject *reader)
{
    return Py_TYPE(reader) == fast_reader || Py_TYPE(reader) == reader_type;
}

/* class NAME(base), with the method, which hides the base's. */
static int make_class(PyTypeObject **to, PyTypeObject *base, const char *name, PyMethodDef *method)
{
    PyObject *made = PyObject_CallFunction((PyObject *)&PyType_Type, "s(O){s(),ss}", name, base,
                                           "__slots__", "__module__", "ffloop");
    PyObject *descr = made ? PyDescr_NewMethod((PyTypeObject *)made, method) : NULL;
    int rc = descr ? PyObject_SetAttrString(made, method->ml_name, descr) : -1;
    Py_XDECREF(descr);
    Py_XDECREF((PyObject *)*to);
    *to = (PyTypeObject *)made;
    return rc;
}

static PyMethodDef read_method = {"read", (PyCFunction)(void (*)(void))reader_read,
                                  METH_FASTCALL | METH_KEYWORDS, "As asyncio's."};
static PyMethodDef drain_method = {"drain", writer_drain, METH_NOARGS, "As asyncio's."};

int streams_exec(PyObject *module)
{
    const struct hot_name names[] = {
        {&writer_names[WRITER_TRANSPORT], "_transport"},
        {&writer_names[WRITER_PROTOCOL], "_protocol"},
        {&writer_names[WRITER_READER], "_reader"},
        {&name_maybe_resume, "_maybe_resume_transport"},
        {&name_class, "__class__"},
        {&name_connection_made, "connection_made"},
        {&name_connected, "_client_connected_cb"},
    };
    if (hot_intern_all(names, FFL_COUNT(names)) < 0 ||
        hot_import((PyObject **)&reader_type, "asyncio.streams", "StreamReader") < 0 ||
        hot_import((PyObject **)&writer_type, "asyncio.streams", "StreamWriter") < 0 ||
        hot_import((PyObject **)&protocol_type, "asyncio.streams", "StreamReaderProtocol") < 0 ||
        feed_find(originals, FFL_COUNT(originals)) < 0 ||
        make_class(&fast_reader, reader_type, "StreamReader", &read_method) < 0 ||
        make_class(&fast_writer, writer_type, "StreamWriter", &drain_method) < 0)
        return -1;
    read_kind.original = originals[0].function;
    drain_kind.original = originals[1].function;
    return call_exec(module);
}
