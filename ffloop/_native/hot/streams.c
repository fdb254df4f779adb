/*
 * streams.c - asyncio's StreamReader.read() and StreamWriter.drain(), compiled.
 *
 * Callers: stream.c and life.c, for the connections of asyncio's streams. Their reader and writer
 * get a subclass each whose read() or drain() gives a Call: a coroutine in C for what is plain. It
 * looks at the stream when it is first awaited; whatever is not plain (an exception, a stream that
 * is paused or closing, read() without a limit) is asyncio's own coroutine's, which it passes
 * everything to. Classes with changed methods are left alone.
 */
#include "call.h"
#include "scheduler.h"

static PyTypeObject *reader_type, *writer_type, *fast_reader, *fast_writer;
static PyTypeObject *protocol_type;
static PyObject *wait_for_data, *maybe_resume, *drain_helper, *invalid_state;
static PyObject *name_exception, *name_buffer, *name_eof, *name_waiter, *name_paused, *name_loop,
    *name_maybe_resume, *name_reader, *name_transport, *name_class, *name_writer, *name_read,
    *name_drain, *name_wait_for_data, *name_drain_helper, *name_limit, *name_set_result;

/* ---- what they do -------------------------------------------------------------------------- */

/* An attribute of a reader or writer, whose classes have none of that name: borrowed, NULL if there
 * is none. */
static PyObject *get(PyObject *attributes, PyObject *name)
{
    return PyDict_GetItemWithError(attributes, name);
}

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
    PyObject *buffer = get(attributes, name_buffer);
    if (!buffer || !PyByteArray_CheckExact(buffer)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "the buffer of a StreamReader is a bytearray");
        return PYGEN_ERROR;
    }
    *result = take_bytes(buffer, PyLong_AsSsize_t(c->n));
    if (*result && get(attributes, name_paused) != Py_False &&
        hot_call(c->of, name_maybe_resume, NULL) < 0)
        Py_CLEAR(*result);
    return *result ? PYGEN_RETURN : PYGEN_ERROR;
}

/* What comes next may be given to this Call, by the transport. */
static void tell_transport(Call *c, PyObject *transport)
{
    struct stream *s = transport ? stream_of(transport) : NULL;
    if (s && s->feeds && !s->reading) {
        c->transport = Py_NewRef(transport);
        s->reading = (PyObject *)c;
    }
}

void streams_forget_transport(Call *c)
{
    if (c->transport)
        stream_fields(c->transport)->reading = NULL;
    Py_CLEAR(c->transport);
}

static int begin_waiting(Call *c, PyObject *attributes, PyObject **result)
{
    PyObject *loop = get(attributes, name_loop);
    c->waiter = loop ? scheduler_future(loop) : NULL;
    if (!c->waiter || PyDict_SetItem(attributes, name_waiter, c->waiter) < 0 ||
        !(c->awaited = PyObject_GetIter(c->waiter)))
        return PYGEN_ERROR;
    c->state = WAITS;
    tell_transport(c, get(attributes, name_transport));
    return (int)PyIter_Send(c->awaited, Py_None, result);
}

static int begin_read(Call *c, PyObject **result)
{
    PyObject *attributes = PyObject_GenericGetDict(c->of, NULL);
    PyObject *buffer = attributes ? get(attributes, name_buffer) : NULL;
    int rc = PLAIN_NOT;
    if (!attributes)
        return PYGEN_ERROR;
    if (buffer && PyByteArray_CheckExact(buffer) && get(attributes, name_exception) == Py_None) {
        if (PyByteArray_Size(buffer))
            rc = (int)give(c, attributes, result);
        else if (get(attributes, name_eof) == Py_False && get(attributes, name_waiter) == Py_None &&
                 get(attributes, name_paused) == Py_False)
            rc = begin_waiting(c, attributes, result);
    }
    Py_DECREF(attributes);
    return rc;
}

/* The waiter is done: `r` says how. */
PySendResult streams_end_read(Call *c, PySendResult r, PyObject **result)
{
    PyObject *type, *value, *trace, *attributes;
    if (r == PYGEN_RETURN)
        Py_CLEAR(*result);
    if (r == PYGEN_RETURN && c->given) {
        *result = Py_NewRef(c->given);
        return r;
    }
    PyErr_Fetch(&type, &value, &trace);
    attributes = PyObject_GenericGetDict(c->of, NULL);
    if (attributes && PyDict_SetItem(attributes, name_waiter, Py_None) == 0) {
        PyErr_Restore(type, value, trace);
    } else {
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(trace);
        r = PYGEN_ERROR;
    }
    if (r == PYGEN_RETURN)
        r = give(c, attributes, result);
    Py_XDECREF(attributes);
    return r;
}

/* May the reader have so many bytes more without a pause of its transport? */
static bool fits(PyObject *attributes, size_t len)
{
    PyObject *limit = get(attributes, name_limit);
    double most = limit ? PyFloat_AsDouble(limit) : -1; /* it may exceed a Py_ssize_t */
    PyErr_Clear();
    return (double)len <= 2 * most;
}

/* 0: the waiter was cancelled. */
static int wake(PyObject *waiter)
{
    if (hot_call(waiter, name_set_result, Py_None) == 0)
        return 1;
    if (!PyErr_ExceptionMatches(invalid_state))
        return -1;
    PyErr_Clear();
    return 0;
}

int streams_give(PyObject *call, const char *data, size_t len)
{
    Call *c = (Call *)call;
    PyObject *attributes = PyObject_GenericGetDict(c->of, NULL);
    int rc = attributes ? 0 : -1;
    if (rc == 0 && !c->given && get(attributes, name_waiter) == c->waiter &&
        len <= (size_t)PyLong_AsSsize_t(c->n) && fits(attributes, len)) {
        Py_INCREF(call);
        rc = wake(c->waiter);
        if (rc > 0 && !(c->given = PyBytes_FromStringAndSize(data, (Py_ssize_t)len)))
            rc = -1;
        if (rc > 0 && PyDict_SetItem(attributes, name_waiter, Py_None) < 0)
            rc = -1;
        Py_DECREF(call);
    }
    Py_XDECREF(attributes);
    return rc;
}

/* Nothing waits for room: the end of drain(). The transport's state is its protocol's, too. */
static int begin_drain(Call *c, PyObject **result)
{
    PyObject *attributes = PyObject_GenericGetDict(c->of, NULL), *of_reader = NULL;
    PyObject *reader = attributes ? get(attributes, name_reader) : NULL;
    PyObject *transport = reader ? get(attributes, name_transport) : NULL;
    const struct stream *s = transport ? stream_of(transport) : NULL;
    bool plain = s && s->feeds && s->open && !s->closing && !s->protocol_paused;
    if (plain && Py_TYPE(reader) == fast_reader)
        of_reader = PyObject_GenericGetDict(reader, NULL);
    if (of_reader && get(of_reader, name_exception) == Py_None)
        *result = Py_NewRef(Py_None);
    Py_XDECREF(of_reader);
    Py_XDECREF(attributes);
    return PyErr_Occurred() ? PYGEN_ERROR : *result ? PYGEN_RETURN : PLAIN_NOT;
}

static struct kind read_kind = {NULL, begin_read, "read", "StreamReader.read"};
static struct kind drain_kind = {NULL, begin_drain, "drain", "StreamWriter.drain"};

/* What was given is the next reader's. */
int streams_stop_waiting(Call *c)
{
    if (!c->given)
        return PyObject_SetAttr(c->of, name_waiter, Py_None);
    PyObject *buffer = PyObject_GetAttr(c->of, name_buffer);
    int rc = buffer ? PySequence_SetSlice(buffer, 0, 0, c->given) : -1;
    Py_XDECREF(buffer);
    return rc;
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

/* Is self.name the object `value`? -1 with an exception. */
static int is(PyObject *self, PyObject *name, const PyObject *value)
{
    PyObject *found = PyObject_GetAttr(self, name);
    Py_XDECREF(found);
    return found ? found == value : -1;
}

/* Are the methods asyncio's own? -1 with an exception. */
static int unchanged(void)
{
    const struct {
        const void *type;
        PyObject *name, *method;
    } methods[] = {
        {reader_type, name_read, read_kind.original},
        {reader_type, name_wait_for_data, wait_for_data},
        {reader_type, name_maybe_resume, maybe_resume},
        {writer_type, name_drain, drain_kind.original},
        {protocol_type, name_drain_helper, drain_helper},
    };
    int rc = 1;
    for (size_t i = 0; rc > 0 && i < FFL_COUNT(methods); i++)
        rc = is((PyObject *)methods[i].type, methods[i].name, methods[i].method);
    return rc;
}

static int adopt(PyObject *self, const PyTypeObject *type, PyTypeObject *fast)
{
    return Py_TYPE(self) == type ? PyObject_SetAttr(self, name_class, (PyObject *)fast) : 0;
}

/* The protocol's writer, a new reference; NULL without an exception: from Python 3.13 on it does not
 * know it. */
static PyObject *writer_of(PyObject *protocol)
{
    PyObject *writer = PyObject_GetAttr(protocol, name_writer);
    if (!writer && PyErr_ExceptionMatches(PyExc_AttributeError))
        PyErr_Clear();
    return writer;
}

int streams_adopt(PyObject *protocol)
{
    int rc = unchanged();
    if (rc <= 0)
        return rc;
    PyObject *reader = feed_reader_of(protocol);
    PyObject *writer = PyErr_Occurred() ? NULL : writer_of(protocol);
    rc = reader ? adopt(reader, reader_type, fast_reader) : 0;
    if (rc == 0 && writer)
        rc = adopt(writer, writer_type, fast_writer);
    Py_XDECREF(writer);
    Py_XDECREF(reader);
    return PyErr_Occurred() ? -1 : rc;
}

bool streams_is_reader(PyObject *reader)
{
    return Py_TYPE(reader) == fast_reader || Py_TYPE(reader) == reader_type;
}

/* class NAME(base), with the method, which hides the base's. */
static int make_class(PyTypeObject **to, PyTypeObject *base, const char *name, PyMethodDef *method,
                      PyObject **original)
{
    Py_XDECREF(*original);
    *original = PyObject_GetAttrString((PyObject *)base, method->ml_name);
    PyObject *made = *original
                         ? PyObject_CallFunction((PyObject *)&PyType_Type, "s(O){s(),ss}", name,
                                                 base, "__slots__", "__module__", "ffloop")
                         : NULL;
    PyObject *descr = made ? PyDescr_NewMethod((PyTypeObject *)made, method) : NULL;
    int rc = descr ? PyObject_SetAttrString(made, method->ml_name, descr) : -1;
    Py_XDECREF(descr);
    Py_XDECREF((PyObject *)*to);
    *to = (PyTypeObject *)made;
    return rc;
}

static int find_original(PyObject **to, PyObject *type, PyObject *name)
{
    Py_XDECREF(*to);
    *to = PyObject_GetAttr(type, name);
    return *to ? 0 : -1;
}

static PyMethodDef read_method = {"read", (PyCFunction)(void (*)(void))reader_read,
                                  METH_FASTCALL | METH_KEYWORDS, "As asyncio's."};
static PyMethodDef drain_method = {"drain", writer_drain, METH_NOARGS, "As asyncio's."};

int streams_exec(PyObject *module)
{
    const struct hot_name names[] = {
        {&name_exception, "_exception"},
        {&name_buffer, "_buffer"},
        {&name_eof, "_eof"},
        {&name_waiter, "_waiter"},
        {&name_paused, "_paused"},
        {&name_loop, "_loop"},
        {&name_maybe_resume, "_maybe_resume_transport"},
        {&name_reader, "_reader"},
        {&name_transport, "_transport"},
        {&name_class, "__class__"},
        {&name_writer, "_stream_writer"},
        {&name_read, "read"},
        {&name_drain, "drain"},
        {&name_wait_for_data, "_wait_for_data"},
        {&name_drain_helper, "_drain_helper"},
        {&name_limit, "_limit"},
        {&name_set_result, "set_result"},
    };
    if (hot_intern_all(names, FFL_COUNT(names)) < 0 ||
        hot_import((PyObject **)&reader_type, "asyncio.streams", "StreamReader") < 0 ||
        hot_import((PyObject **)&writer_type, "asyncio.streams", "StreamWriter") < 0 ||
        hot_import((PyObject **)&protocol_type, "asyncio.streams", "StreamReaderProtocol") < 0 ||
        hot_import(&invalid_state, "asyncio", "InvalidStateError") < 0 ||
        find_original(&wait_for_data, (PyObject *)reader_type, name_wait_for_data) < 0 ||
        find_original(&maybe_resume, (PyObject *)reader_type, name_maybe_resume) < 0 ||
        find_original(&drain_helper, (PyObject *)protocol_type, name_drain_helper) < 0 ||
        make_class(&fast_reader, reader_type, "StreamReader", &read_method, &read_kind.original) <
            0 ||
        make_class(&fast_writer, writer_type, "StreamWriter", &drain_method, &drain_kind.original) <
            0)
        return -1;
    return call_exec(module);
}
