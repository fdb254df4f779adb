/*
 * gather.c - the writes of one callback to one stream go out together, when the callback ends.
 *
 * Callers: transfer.c keeps what is written, iteration.c and dispatcher.c say where callbacks end;
 * life.c and _loop/transport.py send what is kept before anything that must come behind it.
 *
 * Many protocols write an answer in pieces, each of which would be a system call, or an entry and a
 * wake. A stream's first write of a callback waits only where the callback that wrote before it
 * wrote more than once.
 *
 * Invariant: a thread keeps pieces of one stream, which has no backlog, and only while a callback
 * runs.
 */
#include "stream.h"

#define MOST 64 /* pieces, as many as one call sends */

static _Thread_local struct {
    PyObject *stream, *pieces; /* NULL, or a list of bytes */
    Py_ssize_t bytes;
    unsigned callback; /* the number of that which runs */
    bool runs;
} kept;

static PyObject *name_write_rest;

static int send_kept(void)
{
    PyObject *stream = kept.stream, *pieces = kept.pieces, *sent, *r = NULL;
    Py_ssize_t bytes = kept.bytes;
    kept.stream = kept.pieces = NULL;
    kept.bytes = 0;
    if (!stream_fields(stream)->sending) /* lost, and the bytes with it */
        sent = PyLong_FromSsize_t(bytes);
    else
        sent = stream_send_pieces(stream, pieces);
    if (sent && PyLong_AsSsize_t(sent) != bytes)
        r = PyObject_CallMethodObjArgs(stream, name_write_rest, pieces, sent, NULL);
    else if (sent)
        r = Py_NewRef(Py_None);
    Py_XDECREF(sent);
    Py_DECREF(pieces);
    Py_DECREF(stream);
    return hot_done(r);
}

int gather_flush(void)
{
    return kept.stream ? send_kept() : 0;
}

int gather_make_way(const PyObject *stream)
{
    return kept.stream && kept.stream != stream ? send_kept() : 0;
}

bool gather_wants(struct stream *s)
{
    if (!kept.runs)
        return false;
    if (s->wrote_in != kept.callback) {
        s->wrote_in = kept.callback;
        s->gathers = s->writes > 1;
        s->writes = 0;
    }
    s->writes += s->writes < 2;
    return s->gathers || s->writes > 1;
}

int gather_keep(PyObject *stream, PyObject *data, Py_ssize_t size)
{
    if (!kept.pieces) {
        if (!(kept.pieces = PyList_New(0)))
            return -1;
        kept.stream = Py_NewRef(stream);
    }
    if (PyList_Append(kept.pieces, data) < 0)
        return -1;
    kept.bytes += size;
    bool full = kept.bytes > stream_fields(stream)->high_water || PyList_Size(kept.pieces) == MOST;
    return full ? send_kept() : 0;
}

int gather_next(void)
{
    kept.callback++;
    return gather_flush();
}

int gather_begin(void)
{
    kept.runs = true;
    return gather_next();
}

int gather_end(int rc)
{
    PyObject *type, *value, *trace;
    kept.runs = false;
    if (!kept.stream)
        return rc;
    PyErr_Fetch(&type, &value, &trace);
    int sent = send_kept();
    if (rc < 0)
        PyErr_Restore(type, value, trace);
    return rc < 0 ? rc : sent;
}

int gather_exec(void)
{
    const struct hot_name names[] = {{&name_write_rest, "_write_rest"}};
    return hot_intern_all(names, FFL_COUNT(names));
}
