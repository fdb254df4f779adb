/*
 * gather.c - writes wait a little for those that follow.
 *
 * Callers: transfer.c keeps what is written, iteration.c and dispatcher.c say where callbacks end;
 * life.c and _loop/transport.py send what is kept before anything that must come behind it.
 *
 * Two rules. Many protocols write an answer in pieces, each of which would be a system call, or an
 * entry and a wake: a stream's first write of a callback waits for the callback's end where the
 * callback that wrote before it wrote more than once. And in direct mode, while many callbacks of
 * an iteration write, the writes wait for the iteration's end, or for that of the callback which
 * runs LONGEST later: the kernel's calls come in a row, and wake a peer on another CPU once, not
 * each time.
 *
 * Invariant: what is kept is of streams without a backlog, in the order of their first writes, and
 * only while callbacks run.
 */
#include "stream.h"

#define MOST 64         /* streams; and pieces per stream, as many as one call sends */
#define MANY 4          /* callbacks of an iteration that write */
#define LASTS 8         /* iterations for which many remain: not each of them writes */
#define LONGEST 1000000 /* ns */

struct gather {
    PyObject *streams[MOST]; /* from `next` to `n`: those with kept writes */
    int next, n;
    unsigned callback; /* the number of that which runs */
    int writers;       /* callbacks of this iteration that wrote, in direct mode */
    int many;          /* above 0: MANY wrote in one of the last iterations */
    bool runs;
    int64_t since; /* when a callback first ended with writes kept; 0: not yet */
};

static _Thread_local struct gather here;

struct gather *gather_here(void)
{
    return &here;
}

static int send_kept(PyObject *stream)
{
    struct stream *s = stream_fields(stream);
    PyObject *pieces = s->kept, *sent, *r = NULL;
    Py_ssize_t bytes = s->kept_bytes;
    s->kept = NULL;
    if (!s->sending) /* lost, and the bytes with it */
        sent = PyLong_FromSsize_t(bytes);
    else
        sent =
            PyList_Check(pieces) ? stream_send_pieces(stream, pieces) : stream_send(stream, pieces);
    if (sent && PyLong_AsSsize_t(sent) != bytes)
        r = stream_write_rest(stream, pieces, sent);
    else if (sent)
        r = Py_NewRef(Py_None);
    Py_XDECREF(sent);
    Py_DECREF(pieces);
    Py_DECREF(stream);
    return hot_done(r);
}

/* Sends all; of several exceptions the first stays. */
static int send_all(struct gather *kept)
{
    PyObject *type = NULL, *value = NULL, *trace = NULL;
    PyErr_Fetch(&type, &value, &trace);
    while (kept->next < kept->n)
        if (send_kept(kept->streams[kept->next++]) < 0) {
            if (type)
                PyErr_Clear();
            else
                PyErr_Fetch(&type, &value, &trace);
        }
    kept->next = kept->n = 0;
    kept->since = 0;
    if (type)
        PyErr_Restore(type, value, trace);
    return type ? -1 : 0;
}

int gather_flush(void)
{
    return here.n ? send_all(&here) : 0;
}

bool gather_wants(struct stream *s)
{
    struct gather *kept = &here;
    if (!kept->runs)
        return false;
    if (s->wrote_in != kept->callback) {
        s->wrote_in = kept->callback;
        s->gathers = s->writes > 1;
        s->writes = 0;
        kept->writers += !s->c;
    }
    s->writes += s->writes < 2;
    return s->gathers || s->writes > 1 || (kept->many > 0 && !s->c);
}

static int keep_first(PyObject *stream, struct stream *s, PyObject *data)
{
    struct gather *kept = &here;
    if (kept->n == MOST && send_all(kept) < 0)
        return -1;
    kept->streams[kept->n++] = Py_NewRef(stream);
    s->kept = Py_NewRef(data);
    s->kept_bytes = 0;
    return 0;
}

static int keep_more(struct stream *s, PyObject *data)
{
    if (PyList_Check(s->kept))
        return PyList_Append(s->kept, data);
    PyObject *list = Py_BuildValue("[OO]", s->kept, data);
    if (list) {
        Py_DECREF(s->kept);
        s->kept = list;
    }
    return list ? 0 : -1;
}

int gather_keep(PyObject *stream, PyObject *data, Py_ssize_t size)
{
    struct stream *s = stream_fields(stream);
    int rc = s->kept ? keep_more(s, data) : keep_first(stream, s, data);
    if (rc < 0)
        return -1;
    s->kept_bytes += size;
    bool full =
        s->kept_bytes > s->high_water || (PyList_Check(s->kept) && PyList_Size(s->kept) == MOST);
    return full ? send_all(&here) : 0;
}

/* May what is kept wait for the iteration's end? */
static bool may_wait(struct gather *kept)
{
    if (!kept->many)
        return false;
    int64_t now = ffl_now_ns();
    if (!kept->since)
        kept->since = now;
    return now - kept->since < LONGEST;
}

int gather_next(struct gather *kept)
{
    kept->callback++;
    return kept->n && !may_wait(kept) ? send_all(kept) : 0;
}

int gather_begin(struct gather *kept)
{
    kept->runs = true;
    kept->many = kept->writers >= MANY ? LASTS : kept->many - (kept->many > 0);
    kept->writers = 0;
    kept->callback++;
    return kept->n ? send_all(kept) : 0;
}

int gather_end(struct gather *kept, int rc)
{
    kept->runs = false;
    return kept->n && send_all(kept) < 0 ? -1 : rc;
}
