/*
 * life.c - how a connection begins and ends: connection_made, eof_received, close, connection_lost.
 *
 * Callers: acceptor.c, stream.c, _loop/transport.py. The order of callbacks and the rules of
 * closing are those of asyncio's _SelectorSocketTransport. A descriptor is closed here, a session's
 * socket in Python (_forget_unread, _quiet, _release, _abandon).
 */
#include "scheduler.h"
#include "stream.h"

#include <sys/epoll.h>
#include <unistd.h>

static PyObject *name_connection_made, *name_connection_lost, *name_eof_received, *name_eof_failed,
    *name_kept_open, *name_log_eof, *name_read_eof, *name_on_eof, *name_cancelled, *name_set_result,
    *name_call_soon, *name_end, *name_resume, *name_quiet, *name_forget_unread, *name_release,
    *name_abandon, *name_flush_told, *name_passed_on, *name_close, *name_attach, *name_detach;

static PyObject *none_or_error(int rc)
{
    return rc < 0 ? NULL : Py_NewRef(Py_None);
}

/* server.name(), or from Python 3.13 on server.name(self). */
static int tell_server(PyObject *server, PyObject *name, PyObject *self)
{
    return hot_call(server, name, Py_Version >= 0x030d0000 ? self : NULL);
}

int stream_attach(PyObject *self, struct stream *s)
{
    return is_set(s->server) ? tell_server(s->server, name_attach, self) : 0;
}

/* ---- the events that direct mode watches for ------------------------------------------------ */

static int watch(PyObject *self, bool reading, bool writing)
{
    struct stream *s = stream_fields(self);
    unsigned events = (reading ? (unsigned)EPOLLIN : 0) | (writing ? (unsigned)EPOLLOUT : 0);
    if (events == s->watched || s->handle < 0)
        return 0;
    unsigned before = s->watched;
    s->watched = events;
    return direct_watch((Dispatcher *)s->dispatcher, s->handle, events, before, self);
}

static int resume(PyObject *self)
{
    struct stream *s = stream_fields(self);
    s->receiving = 1;
    return watch(self, true, is_set(s->backlog));
}

static int stop_reading(PyObject *self)
{
    return watch(self, false, is_set(stream_fields(self)->backlog));
}

PyObject *stream_resume(PyObject *self, PyObject *unused)
{
    return none_or_error(resume(self));
}

PyObject *stream_stop_reading(PyObject *self, PyObject *unused)
{
    return none_or_error(stop_reading(self));
}

PyObject *stream_tell_writable(PyObject *self, PyObject *wanted)
{
    struct stream *s = stream_fields(self);
    return none_or_error(s->dispatcher ? watch(self, s->receiving, wanted == Py_True) : 0);
}

/* ---- the beginning ------------------------------------------------------------------------- */

int stream_tell_waiter(PyObject *waiter)
{
    PyObject *off = PyObject_CallMethodObjArgs(waiter, name_cancelled, NULL);
    int rc = off ? PyObject_IsTrue(off) : -1;
    Py_XDECREF(off);
    return rc == 0 ? hot_call(waiter, name_set_result, Py_None) : rc < 0 ? -1 : 0;
}

/* begin(waiter=None): connection_made, then reading, then the waiter, which are three callbacks in
 * asyncio. */
PyObject *stream_begin(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct stream *s = stream_fields(self);
    int rc = s->feeds && !scheduler_debug(s->loop)
                 ? streams_begin(s->protocol, self)
                 : hot_call(s->protocol, name_connection_made, self);
    struct hot_exception made = hot_put_by();
    s->begun = 1;
    if (!s->closing && !s->paused)
        rc = s->dispatcher ? resume(self) : hot_call(self, name_resume, NULL);
    else
        rc = 0;
    if (rc == 0 && n > 0 && args[0] != Py_None)
        rc = stream_tell_waiter(args[0]);
    return none_or_error(hot_set_again(made, rc));
}

/* ---- the end ------------------------------------------------------------------------------- */

/* loop.call_soon(self._call_connection_lost, None, context=lasting) */
static int schedule_end(PyObject *self, struct stream *s)
{
    PyObject *end = PyObject_GetAttr(self, name_end), *r = NULL;
    if (end && !is_set(s->lasting)) {
        r = PyObject_CallMethodObjArgs(s->loop, name_call_soon, end, Py_None, NULL);
    } else if (end) {
        PyObject *f = PyObject_GetAttr(s->loop, name_call_soon);
        PyObject *args = Py_BuildValue("(OO)", end, Py_None);
        PyObject *kw = Py_BuildValue("{sO}", "context", s->lasting);
        if (f && args && kw)
            r = PyObject_Call(f, args, kw);
        Py_XDECREF(f);
        Py_XDECREF(args);
        Py_XDECREF(kw);
    }
    Py_XDECREF(end);
    return hot_done(r);
}

static int begin_to_close(PyObject *self, struct stream *s)
{
    int rc = gather_flush();
    if (rc < 0 || s->closing) /* what was written could not be sent */
        return rc;
    s->closing = 1;
    s->receiving = 0;
    if (!s->dispatcher && hot_call(self, name_forget_unread, NULL) < 0)
        return -1;
    if (!is_set(s->backlog)) {
        s->conn_lost++;
        s->sending = 0;
        if (schedule_end(self, s) < 0)
            return -1;
    }
    return s->dispatcher ? stop_reading(self) : hot_call(self, name_quiet, NULL);
}

/* Was the close passed on to the thread that runs the loop? -1 with an exception. */
static int passed_on(PyObject *self, const struct stream *s)
{
    if (s->dispatcher && *s->thread == PyThread_get_thread_ident())
        return 0;
    PyObject *close = PyObject_GetAttr(self, name_close);
    PyObject *r = close ? PyObject_CallMethodObjArgs(self, name_passed_on, close, NULL) : NULL;
    int rc = r ? PyObject_IsTrue(r) : -1;
    Py_XDECREF(close);
    Py_XDECREF(r);
    return rc;
}

PyObject *stream_close(PyObject *self, PyObject *unused)
{
    struct stream *s = stream_fields(self);
    int passed = s->closing ? 1 : passed_on(self, s);
    return none_or_error(passed ? passed : begin_to_close(self, s));
}

/* eof_received, in the context of reading callbacks. */
PyObject *stream_read_eof(PyObject *self, PyObject *unused)
{
    struct stream *s = stream_fields(self);
    if (scheduler_debug(s->loop) && hot_call(self, name_log_eof, NULL) < 0)
        return NULL;
    PyObject *r = PyObject_CallMethodObjArgs(s->protocol, name_eof_received, NULL);
    int keep_open = r ? PyObject_IsTrue(r) : -1;
    Py_XDECREF(r);
    if (keep_open < 0)
        return none_or_error(hot_fault(self, name_eof_failed, NULL, NULL));
    if (!keep_open)
        return stream_close(self, NULL);
    s->receiving = 0; /* only writing goes on */
    int rc = hot_call(self, name_kept_open, NULL);
    if (rc == 0 && s->dispatcher && !s->closing)
        rc = stop_reading(self);
    return none_or_error(rc);
}

int stream_eof(PyObject *self, struct stream *s)
{
    if (is_set(s->unsendable))
        return hot_call(self, name_on_eof, NULL);
    return hot_done(stream_run(s, self, name_read_eof, NULL));
}

/* Closes the descriptor, or the application's socket object. */
static int close_descriptor(struct stream *s)
{
    int fd = s->handle;
    s->handle = -1;
    if (is_set(s->sock))
        return hot_call(s->sock, name_close, NULL);
    if (fd >= 0)
        close(fd);
    return 0;
}

static int release(PyObject *self, struct stream *s, PyObject *abort)
{
    s->open = 0;
    if (is_set(s->flushing) && hot_call(self, name_flush_told, NULL) < 0)
        return -1;
    if (!s->dispatcher)
        return hot_call(self, name_release, abort);
    return watch(self, false, false) < 0 ? -1 : close_descriptor(s);
}

static int let_go(PyObject *self, struct stream *s, PyObject *abort)
{
    int rc = s->open ? release(self, s, abort) : 0;
    PyObject *server = s->server;
    s->server = NULL;
    stream_detach(s);
    hot_set_ref(&s->protocol, Py_None);
    hot_set_ref(&s->loop, Py_None);
    if (rc == 0 && is_set(server))
        rc = tell_server(server, name_detach, self);
    Py_XDECREF(server);
    return rc;
}

/* _call_connection_lost(exc, abort=False) */
PyObject *stream_end(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct stream *s = stream_fields(self);
    if (s->protocol_connected)
        hot_call(s->protocol, name_connection_lost, args[0]);
    struct hot_exception lost = hot_put_by();
    return none_or_error(hot_set_again(lost, let_go(self, s, n > 1 ? args[1] : Py_False)));
}

/* A transport that was collected without close(), perhaps in another thread. */
static int abandon(PyObject *self, struct stream *s)
{
    PyObject *text = PyObject_Repr(self);
    if (!text)
        PyErr_WriteUnraisable(self);
    s->open = 0; /* first: a warning may be an error */
    int rc = s->dispatcher ? close_descriptor(s) : hot_call(self, name_abandon, NULL);
    if (rc == 0 && is_set(s->server) && Py_Version >= 0x030d0000)
        rc = hot_call(s->server, name_detach, self);
    if (rc == 0 && text)
        rc = PyErr_ResourceWarning(self, 1, "unclosed transport %U", text);
    Py_XDECREF(text);
    return rc;
}

void stream_finalize(PyObject *self)
{
    struct stream *s = stream_fields(self);
    if (!s->open)
        return;
    struct hot_exception was = hot_put_by();
    if (abandon(self, s) < 0)
        PyErr_WriteUnraisable(self);
    hot_set_again(was, 0);
}

/* ---- state ---------------------------------------------------------------------------------- */

PyObject *stream_is_closing(PyObject *self, PyObject *unused)
{
    return PyBool_FromLong(stream_fields(self)->closing);
}

PyObject *stream_is_reading(PyObject *self, PyObject *unused)
{
    const struct stream *s = stream_fields(self);
    return PyBool_FromLong(!s->closing && !s->paused);
}

int life_exec(void)
{
    const struct hot_name names[] = {
        {&name_connection_made, "connection_made"},
        {&name_connection_lost, "connection_lost"},
        {&name_eof_received, "eof_received"},
        {&name_eof_failed, "_eof_failed"},
        {&name_kept_open, "_kept_open"},
        {&name_log_eof, "_log_eof"},
        {&name_read_eof, "_read_eof"},
        {&name_on_eof, "on_eof"},
        {&name_cancelled, "cancelled"},
        {&name_set_result, "set_result"},
        {&name_call_soon, "call_soon"},
        {&name_end, "_call_connection_lost"},
        {&name_resume, "_resume"},
        {&name_quiet, "_quiet"},
        {&name_forget_unread, "_forget_unread"},
        {&name_release, "_release"},
        {&name_abandon, "_abandon"},
        {&name_flush_told, "_flush_told"},
        {&name_passed_on, "_passed_on"},
        {&name_close, "close"},
        {&name_attach, "_attach"},
        {&name_detach, "_detach"},
    };
    return hot_intern_all(names, FFL_COUNT(names));
}
