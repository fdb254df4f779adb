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
static PyObject *name_reader;
PyObject *feed_names[READER_NAMES];
static struct original originals[] = {
    {&protocol_type, "StreamReaderProtocol.data_received", NULL, NULL},
    {&reader_type, "StreamReader.feed_data", NULL, NULL},
    {&reader_type, "StreamReader._wakeup_waiter", NULL, NULL},
};

/* Is it a function that the module defines by that name, and nobody's wrapper? -1 with an
 * exception. */
static int is_of(PyObject *module, PyObject *found, const char *qualname)
{
    static PyObject *function_type;
    if (!function_type && hot_import(&function_type, "types", "FunctionType") < 0)
        return -1;
    if ((PyObject *)Py_TYPE(found) != function_type || PyObject_HasAttrString(found, "__wrapped__"))
        return 0;
    PyObject *globals = PyObject_GetAttrString(found, "__globals__");
    PyObject *name = globals ? PyObject_GetAttrString(found, "__qualname__") : NULL;
    int rc = !name ? -1
                   : globals == PyModule_GetDict(module) &&
                         PyUnicode_CompareWithASCIIString(name, qualname) == 0;
    Py_XDECREF(globals);
    Py_XDECREF(name);
    return rc;
}

int feed_find(struct original *all, size_t n)
{
    PyObject *module = PyImport_ImportModule("asyncio.streams");
    int rc = module ? 0 : -1;
    for (struct original *o = all; rc >= 0 && o < all + n; o++) {
        if (!o->name && !(o->name = PyUnicode_InternFromString(strchr(o->qualname, '.') + 1)))
            rc = -1;
        PyObject *found = rc < 0 ? NULL : PyObject_GetAttr((PyObject *)*o->type, o->name);
        rc = found ? is_of(module, found, o->qualname) : -1;
        Py_XDECREF(o->function);
        o->function = rc > 0 ? Py_NewRef(found) : NULL;
        Py_XDECREF(found);
    }
    Py_XDECREF(module);
    return rc < 0 ? -1 : 0;
}

int feed_unchanged(const struct original *all, size_t n)
{
    for (const struct original *o = all; o < all + n; o++) {
        PyObject *found = PyObject_GetAttr((PyObject *)*o->type, o->name);
        Py_XDECREF(found);
        if (found != o->function || !found)
            return found ? 0 : -1;
    }
    return 1;
}

int feed_serves(PyObject *protocol)
{
    return Py_TYPE(protocol) == protocol_type ? feed_unchanged(originals, FFL_COUNT(originals)) : 0;
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

void feed_get_all(PyObject *attributes, PyObject *const *names, size_t n, PyObject **found)
{
    PyObject *key, *value;
    Py_ssize_t at = 0;
    size_t i = 0;
    while (i < n && PyDict_Next(attributes, &at, &key, &value) && key == names[i])
        found[i++] = value;
    for (; i < n; i++)
        found[i] = feed_get(attributes, names[i]);
}

/* Do len bytes more leave the reader below the size at which it pauses its transport? */
static bool has_room(PyObject *const *of, size_t len)
{
    bool is = of[LIMIT] && (PyLong_CheckExact(of[LIMIT]) || PyFloat_CheckExact(of[LIMIT]));
    double most = is ? PyFloat_AsDouble(of[LIMIT]) : -1; /* it may exceed a Py_ssize_t */
    PyErr_Clear();
    return of[EOF_FED] == Py_False && of[BUFFER] && PyByteArray_CheckExact(of[BUFFER]) &&
           (double)PyByteArray_Size(of[BUFFER]) + (double)len <= 2 * most;
}

static int append(PyObject *buffer, const char *data, size_t len)
{
    Py_ssize_t size = PyByteArray_Size(buffer);
    if (PyByteArray_Resize(buffer, size + (Py_ssize_t)len) < 0)
        return -1;
    memcpy(PyByteArray_AsString(buffer) + size, data, len);
    return 0;
}

static int wake(PyObject *attributes, PyObject *waiter)
{
    if (!is_set(waiter))
        return 0;
    Py_INCREF(waiter);
    int rc = PyDict_SetItem(attributes, feed_names[WAITER], Py_None);
    if (rc == 0)
        rc = stream_tell_waiter(waiter);
    Py_DECREF(waiter);
    return rc;
}

int feed_reader(PyObject *protocol, const char *data, size_t len)
{
    PyObject *reader = feed_reader_of(protocol);
    PyObject *attributes = reader ? PyObject_GenericGetDict(reader, NULL) : NULL;
    PyObject *of[WAITER + 1] = {NULL};
    if (attributes)
        feed_get_all(attributes, feed_names, FFL_COUNT(of), of);
    int rc = PyErr_Occurred() ? -1 : 0;
    if (rc == 0 && has_room(of, len))
        rc = append(of[BUFFER], data, len) < 0 || wake(attributes, of[WAITER]) < 0 ? -1 : 1;
    Py_XDECREF(attributes);
    Py_XDECREF(reader);
    return rc;
}

int feed_exec(void)
{
    const struct hot_name names[] = {
        {&name_reader, "_stream_reader_wr"},    {&feed_names[LIMIT], "_limit"},
        {&feed_names[LOOP], "_loop"},           {&feed_names[BUFFER], "_buffer"},
        {&feed_names[EOF_FED], "_eof"},         {&feed_names[WAITER], "_waiter"},
        {&feed_names[EXCEPTION], "_exception"}, {&feed_names[TRANSPORT], "_transport"},
        {&feed_names[PAUSED], "_paused"},
    };
    if (hot_intern_all(names, FFL_COUNT(names)) < 0 ||
        hot_import((PyObject **)&protocol_type, "asyncio.streams", "StreamReaderProtocol") < 0 ||
        hot_import((PyObject **)&reader_type, "asyncio.streams", "StreamReader") < 0)
        return -1;
    return feed_find(originals, FFL_COUNT(originals));
}
