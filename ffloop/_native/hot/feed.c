/*
 * feed.c - data for asyncio's streams: StreamReaderProtocol.data_received and
 * StreamReader.feed_data in one.
 *
 * Callers: stream.c, transfer.c. Bytes go straight into the reader's buffer, and its waiter is
 * woken. Subclasses, changed methods, a reader that has gone and a buffer that is nearly full go
 * through data_received.
 */
#include "stream.h"

#include <string.h>

static PyTypeObject *protocol_type, *reader_type;
static PyObject *data_received, *feed_data; /* as asyncio has them */
static PyObject *name_data_received, *name_feed_data, *name_reader, *name_buffer, *name_waiter,
    *name_eof, *name_limit;

static int is_original(PyTypeObject *type, PyObject *name, PyObject *original)
{
    PyObject *found = PyObject_GetAttr((PyObject *)type, name);
    Py_XDECREF(found);
    return found ? found == original : -1;
}

int feed_serves(PyObject *protocol)
{
    if (Py_TYPE(protocol) != protocol_type)
        return 0;
    int rc = is_original(protocol_type, name_data_received, data_received);
    return rc > 0 ? is_original(reader_type, name_feed_data, feed_data) : rc;
}

PyObject *feed_reader_of(PyObject *protocol)
{
    PyObject *weak = PyObject_GetAttr(protocol, name_reader);
    PyObject *reader = is_set(weak) ? PyObject_CallNoArgs(weak) : NULL;
    Py_XDECREF(weak);
    if (reader && !streams_is_reader(reader))
        Py_CLEAR(reader);
    return reader;
}

/* Do len bytes more leave the reader below the size at which it pauses its transport? -1 with an
 * exception. */
static int has_room(PyObject *reader, PyObject *buffer, size_t len)
{
    PyObject *limit = PyObject_GetAttr(reader, name_limit);
    PyObject *eof = limit ? PyObject_GetAttr(reader, name_eof) : NULL;
    double most = eof ? PyFloat_AsDouble(limit) : -1; /* the limit may exceed a Py_ssize_t */
    int rc = PyErr_Occurred()  ? -1
             : eof != Py_False ? 0
                               : (double)PyByteArray_Size(buffer) + (double)len <= 2 * most;
    Py_XDECREF(limit);
    Py_XDECREF(eof);
    return rc;
}

static int append(PyObject *buffer, const char *data, size_t len)
{
    Py_ssize_t size = PyByteArray_Size(buffer);
    if (PyByteArray_Resize(buffer, size + (Py_ssize_t)len) < 0)
        return -1;
    memcpy(PyByteArray_AsString(buffer) + size, data, len);
    return 0;
}

static int wake(PyObject *reader)
{
    PyObject *waiter = PyObject_GetAttr(reader, name_waiter);
    int rc = waiter ? 0 : -1;
    if (is_set(waiter)) {
        rc = PyObject_SetAttr(reader, name_waiter, Py_None);
        if (rc == 0)
            rc = stream_tell_waiter(waiter);
    }
    Py_XDECREF(waiter);
    return rc;
}

int feed_reader(PyObject *protocol, const char *data, size_t len)
{
    PyObject *reader = feed_reader_of(protocol);
    if (!reader)
        return PyErr_Occurred() ? -1 : 0;
    PyObject *buffer = PyObject_GetAttr(reader, name_buffer);
    int rc = !buffer ? -1 : PyByteArray_CheckExact(buffer) ? has_room(reader, buffer, len) : 0;
    if (rc > 0)
        rc = append(buffer, data, len) < 0 || wake(reader) < 0 ? -1 : 1;
    Py_XDECREF(buffer);
    Py_DECREF(reader);
    return rc;
}

int feed_exec(void)
{
    const struct hot_name names[] = {
        {&name_data_received, "data_received"},
        {&name_feed_data, "feed_data"},
        {&name_reader, "_stream_reader_wr"},
        {&name_buffer, "_buffer"},
        {&name_waiter, "_waiter"},
        {&name_eof, "_eof"},
        {&name_limit, "_limit"},
    };
    if (hot_intern_all(names, FFL_COUNT(names)) < 0 ||
        hot_import((PyObject **)&protocol_type, "asyncio.streams", "StreamReaderProtocol") < 0 ||
        hot_import((PyObject **)&reader_type, "asyncio.streams", "StreamReader") < 0)
        return -1;
    Py_XDECREF(data_received);
    Py_XDECREF(feed_data);
    data_received = PyObject_GetAttr((PyObject *)protocol_type, name_data_received);
    feed_data = PyObject_GetAttr((PyObject *)reader_type, name_feed_data);
    return data_received && feed_data ? 0 : -1;
}
