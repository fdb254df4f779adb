/*
 * transfer.c - reads and writes of a Stream: data to its protocol, write() to its socket. See
 * stream.h.
 */
#include "stream.h"
#include "context.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define GATHER 64      /* pieces per system call */
#define BULK (1 << 15) /* bytes of one recv; the next one is likely to bring as many */
#define MOST_BULK 16   /* recvs per event */

static PyObject *name_write_slow, *name_write_rest, *name_fault, *name_on_error, *name_fill_failed,
    *name_update_failed, *name_data_received, *name_get_buffer, *name_buffer_updated;

/* ---- reading ------------------------------------------------------------------------------- */

int hot_call(PyObject *self, PyObject *name, PyObject *a)
{
    Py_INCREF(self);
    PyObject *r = PyObject_CallMethodObjArgs(self, name, a, NULL);
    Py_DECREF(self);
    Py_XDECREF(r);
    return r ? 0 : -1;
}

PyObject *stream_run(struct stream *s, PyObject *of, PyObject *name, PyObject *a)
{
    PyObject *context = Py_NewRef(s->context);
    Py_INCREF(of);
    PyObject *r = NULL;
    if (context_enter(context) == 0)
        r = context_leave(context, PyObject_CallMethodObjArgs(of, name, a, NULL));
    Py_DECREF(of);
    Py_DECREF(context);
    return r;
}

/* Steals `given`: bytes, or a view of what is lent; NULL: an exception is set. */
static int hand_over(PyObject *self, PyObject *given)
{
    struct stream *s = stream_fields(self);
    if (!given)
        return -1;
    Py_INCREF(self);
    PyObject *r = stream_run(s, s->protocol, name_data_received, given);
    Py_DECREF(given);
    int rc = r ? 0 : hot_fault(self, name_fault, NULL, NULL);
    Py_XDECREF(r);
    Py_DECREF(self);
    return rc;
}

int stream_deliver(PyObject *self, const char *data, size_t len)
{
    struct stream *s = stream_fields(self);
    int fed = s->feeds ? feed_reader(s->protocol, data, len) : 0;
    if (fed)
        return fed > 0 ? 0 : hot_fault(self, name_fault, NULL, NULL);
    return hand_over(self, s->lends
                               ? PyMemoryView_FromMemory((char *)data, (Py_ssize_t)len, PyBUF_READ)
                               : PyBytes_FromStringAndSize(data, (Py_ssize_t)len));
}

static int hot_call_int(PyObject *self, PyObject *name, long value)
{
    PyObject *v = PyLong_FromLong(value);
    int rc = v ? hot_call(self, name, v) : -1;
    Py_XDECREF(v);
    return rc;
}

/* A recv without data: the end, an error, or EAGAIN. */
static int no_data(PyObject *self, ssize_t got, int err)
{
    if (got == 0)
        return stream_eof(self, stream_fields(self));
    if (err == EAGAIN || err == EINTR)
        return 0;
    return hot_call_int(self, name_on_error, err);
}

int stream_room(PyObject *given, Py_buffer *room)
{
    int rc = given ? PyObject_GetBuffer(given, room, PyBUF_WRITABLE) : -1;
    Py_XDECREF(given);
    if (rc == 0 && room->len == 0) {
        PyBuffer_Release(room);
        PyErr_SetString(PyExc_RuntimeError, "get_buffer() returned an empty buffer");
        rc = -1;
    }
    return rc;
}

static int get_buffer(struct stream *s, Py_buffer *room)
{
    PyObject *hint = PyLong_FromLong(-1);
    int rc = stream_room(hint ? stream_run(s, s->protocol, name_get_buffer, hint) : NULL, room);
    Py_XDECREF(hint);
    return rc;
}

/* Straight into a BufferedProtocol's buffer. */
static int read_into(Dispatcher *d, PyObject *self)
{
    struct stream *s = stream_fields(self);
    Py_buffer room;
    if (get_buffer(s, &room) < 0)
        return hot_fault(self, name_fill_failed, NULL, NULL);
    /* get_buffer() may have closed it; what it gave before a pause is filled */
    if (s->closing || s->handle < 0 || !s->buffered) {
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
    PyObject *r = n ? stream_run(s, s->protocol, name_buffer_updated, n) : NULL;
    Py_XDECREF(n);
    Py_XDECREF(r);
    return r ? 0 : hot_fault(self, name_update_failed, NULL, NULL);
}

static void note_received(Dispatcher *d, struct stream *s, size_t got)
{
    direct_received(d, got);
    s->bulk = got >= BULK;
}

/* Into the loop's own buffer, and from there into as many bytes as came. */
static int read_some(Dispatcher *d, PyObject *self)
{
    struct stream *s = stream_fields(self);
    char *room = dispatcher_room(d);
    if (!room)
        return -1;
    ssize_t got = recv(s->handle, room, DISPATCHER_ROOM, 0);
    if (got <= 0)
        return no_data(self, got, errno);
    note_received(d, s, (size_t)got);
    return stream_deliver(self, room, (size_t)got);
}

/* Straight into the `size` bytes that the protocol gets, which are there. */
static int read_bulk(Dispatcher *d, PyObject *self, size_t size)
{
    struct stream *s = stream_fields(self);
    PyObject *given = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (!given)
        return -1;
    ssize_t got = recv(s->handle, PyBytes_AsString(given), size, 0);
    if (got == (ssize_t)size) {
        note_received(d, s, size);
        return hand_over(self, given);
    }
    int err = errno; /* the descriptor has another reader */
    int rc = got <= 0 ? no_data(self, got, err)
                      : stream_deliver(self, PyBytes_AsString(given), (size_t)got);
    Py_DECREF(given);
    return rc;
}

/* The bytes that read_bulk may take; 0: too few, or they go another way. */
static size_t bulk_size(const struct stream *s)
{
    int n = 0;
    if (!s->bulk || !s->receiving || s->buffered || s->feeds || s->lends || s->handle < 0 ||
        ioctl(s->handle, FIONREAD, &n) < 0 || n < BULK)
        return 0;
    return (size_t)n < DISPATCHER_ROOM ? (size_t)n : DISPATCHER_ROOM;
}

/* One recv; of a bulk stream several, all of which find data: its end comes with a later event. */
static int read_plain(Dispatcher *d, PyObject *self)
{
    const struct stream *s = stream_fields(self);
    size_t size = bulk_size(s);
    if (!size)
        return read_some(d, self);
    int rc = 0;
    for (int left = MOST_BULK; rc == 0 && left > 0 && size; left--) {
        rc = read_bulk(d, self, size);
        size = bulk_size(s);
    }
    return rc;
}

int stream_read(Dispatcher *d, PyObject *self)
{
    Py_INCREF(self);
    int rc = stream_fields(self)->buffered ? read_into(d, self) : read_plain(d, self);
    Py_DECREF(self);
    return rc;
}

/* ---- writing ------------------------------------------------------------------------------- */

/* A large write waits where the instance has much to do yet, as one of the kernel's takes its time:
 * what is written meanwhile would only leave the caches. A busy thread keeps the interpreter's lock
 * for longer (sys.setswitchinterval). */
static void let_catch_up(struct ffl_client *c, size_t len)
{
    int64_t most = ffl_client_ahead(c, len);
    if (!most)
        return;
    int64_t began = ffl_now_ns();
    PyThreadState *thread = PyEval_SaveThread();
    ffl_client_pace(c, most);
    PyEval_RestoreThread(thread);
    ffl_client_paced(c, ffl_now_ns() - began);
}

static ssize_t send_iov(int fd, struct iovec *iov, int n)
{
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = (size_t)n};
    return sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Others than BBR only pay for the second call. */
static bool measures_rate(int fd)
{
    char name[16] = "";
    socklen_t len = sizeof(name);
    return getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &len) == 0 &&
           strncmp(name, "bbr", 3) == 0;
}

/* The first FFL_FIRST_BYTES by themselves, then the rest. Changes iov. */
static ssize_t send_in_two(int fd, struct iovec *iov, int n)
{
    size_t left = FFL_FIRST_BYTES;
    int cut = 0;
    while (iov[cut].iov_len < left)
        left -= iov[cut++].iov_len;
    size_t len = iov[cut].iov_len;
    iov[cut].iov_len = left;
    ssize_t sent = send_iov(fd, iov, cut + 1);
    if (sent < (ssize_t)FFL_FIRST_BYTES)
        return sent;
    iov[cut].iov_base = (char *)iov[cut].iov_base + left;
    iov[cut].iov_len = len - left;
    ssize_t more = send_iov(fd, iov + cut, n - cut);
    if (more < 0) /* an error is told once: now */
        return errno == EAGAIN || errno == EINTR ? sent : more;
    return sent + more;
}

/* To the kernel: the bytes taken, or -errno. Changes iov. No answer begins where others wait. */
static int64_t send_direct(const struct stream *s, struct iovec *iov, int n, size_t len)
{
    ssize_t sent;
    if (s->sending && len > 2 * FFL_FIRST_BYTES && measures_rate(s->handle))
        sent = send_in_two(s->handle, iov, n);
    else if (n == 1)
        sent = send(s->handle, iov->iov_base, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    else
        sent = send_iov(s->handle, iov, n);
    if (sent < 0)
        return errno == EINTR ? -EAGAIN : -errno;
    if (s->dispatcher)
        direct_sent((Dispatcher *)s->dispatcher, (size_t)sent);
    return sent;
}

/* The bytes taken, or -errno. Changes iov. */
static int64_t send_now(struct stream *s, struct iovec *iov, int n, size_t len)
{
    if (!s->c)
        return send_direct(s, iov, n, len);
    let_catch_up(s->c, len);
    return ffl_client_sendv(s->c, s->handle, iov, n, 0);
}

static PyObject *call_two(PyObject *self, PyObject *name, PyObject *a, PyObject *b)
{
    Py_INCREF(self);
    PyObject *r = PyObject_CallMethodObjArgs(self, name, a, b, NULL);
    Py_DECREF(self);
    return r;
}

static PyObject *write_slow(PyObject *self, PyObject *data)
{
    return gather_flush() < 0 ? NULL : call_two(self, name_write_slow, data, NULL);
}

PyObject *stream_write_rest(PyObject *self, PyObject *pieces, PyObject *sent)
{
    PyObject *list = PyList_Check(pieces) ? Py_NewRef(pieces) : Py_BuildValue("[O]", pieces);
    PyObject *r = list ? call_two(self, name_write_rest, list, sent) : NULL;
    Py_XDECREF(list);
    return r;
}

PyObject *stream_write(PyObject *self, PyObject *data)
{
    struct stream *s = stream_fields(self);
    char *bytes;
    Py_ssize_t len;
    bool keep = gather_wants(s);
    if (!keep && gather_flush() < 0)
        return NULL;
    if (!s->sending || !PyBytes_CheckExact(data) || *s->thread != PyThread_get_thread_ident())
        return write_slow(self, data);
    if (PyBytes_AsStringAndSize(data, &bytes, &len) < 0)
        return NULL;
    if (!len)
        return Py_NewRef(Py_None);
    if (keep)
        return gather_keep(self, data, len) < 0 ? NULL : Py_NewRef(Py_None);
    struct iovec iov = {bytes, (size_t)len};
    int64_t sent = send_now(s, &iov, 1, (size_t)len);
    if (sent == len)
        return Py_NewRef(Py_None);
    PyObject *n = PyLong_FromLongLong(sent);
    PyObject *r = n ? stream_write_rest(self, data, n) : NULL;
    Py_XDECREF(n);
    return r;
}

PyObject *stream_send(PyObject *self, PyObject *data)
{
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    struct iovec iov = {view.buf, (size_t)view.len};
    int64_t sent = send_now(stream_fields(self), &iov, 1, (size_t)view.len);
    PyBuffer_Release(&view);
    return PyLong_FromLongLong(sent);
}

/* _send_pieces(list): sends its first GATHER pieces; the bytes taken, or -errno. */
PyObject *stream_send_pieces(PyObject *self, PyObject *list)
{
    Py_buffer views[GATHER];
    struct iovec iov[GATHER];
    int n = 0, rc = 0;
    size_t len = 0;
    Py_ssize_t size = PyList_Size(list);
    for (; rc == 0 && n < size && n < GATHER; n += rc == 0) {
        rc = PyObject_GetBuffer(PyList_GetItem(list, n), &views[n], PyBUF_SIMPLE);
        if (rc == 0) {
            iov[n] = (struct iovec){.iov_base = views[n].buf, .iov_len = (size_t)views[n].len};
            len += iov[n].iov_len;
        }
    }
    int64_t sent = rc == 0 && size >= 0 ? send_now(stream_fields(self), iov, n, len) : 0;
    while (n > 0)
        PyBuffer_Release(&views[--n]);
    return rc < 0 || size < 0 ? NULL : PyLong_FromLongLong(sent);
}

int transfer_exec(void)
{
    const struct hot_name names[] = {
        {&name_write_slow, "_write_slow"},
        {&name_write_rest, "_write_rest"},
        {&name_fault, "_fault"},
        {&name_fill_failed, "_fill_failed"},
        {&name_update_failed, "_update_failed"},
        {&name_on_error, "on_error"},
        {&name_data_received, "data_received"},
        {&name_get_buffer, "get_buffer"},
        {&name_buffer_updated, "buffer_updated"},
    };
    return hot_intern_all(names, FFL_COUNT(names));
}
