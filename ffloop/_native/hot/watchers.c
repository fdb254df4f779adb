/*
 * watchers.c - the Handles and waiters that are told when a descriptor is ready. See watchers.h.
 *
 * Where only waiters wait, the epoll's entry is a one-shot: after its event it stays there,
 * disarmed, so that a wait costs one call of epoll_ctl. The number may be of another file by then,
 * and a file that was closed may be open under another number. So a change that does not find the
 * entry as it was makes it anew, and nothing that is disarmed wakes anybody.
 */
#include "watchers.h"
#include "handle.h"
#include "queue.h"
#include "stream.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>

struct watched {
    PyObject *file;   /* as add_reader() was given it, which may be closed when it is removed */
    PyObject *who[2]; /* by side; NULL: nobody */
    unsigned armed;   /* what the epoll looks for */
    bool entered;     /* the epoll had an entry when it was last changed */
};

typedef struct {
    PyObject_HEAD
    int epfd, size;
    struct watched *table; /* by descriptor */
} Watchers;

static struct watched *find(const Watchers *w, int fd)
{
    return fd >= 0 && fd < w->size ? &w->table[fd] : NULL;
}

static bool watches(const struct watched *e)
{
    return e && (e->who[READER] || e->who[WRITER]);
}

static int grow(Watchers *w, int fd)
{
    int size = w->size ? w->size : 64;
    while (size <= fd)
        size *= 2;
    struct watched *table = PyMem_Realloc(w->table, (size_t)size * sizeof(*table));
    if (!table) {
        PyErr_NoMemory();
        return -1;
    }
    memset(table + w->size, 0, (size_t)(size - w->size) * sizeof(*table));
    w->table = table;
    w->size = size;
    return 0;
}

/* ---- the epoll ----------------------------------------------------------------------------- */

static bool lasts(PyObject *who)
{
    return who && handle_is(who);
}

static unsigned wanted(const struct watched *e)
{
    unsigned events = (e->who[READER] ? EPOLLIN : 0u) | (e->who[WRITER] ? EPOLLOUT : 0u);
    bool once = events && !lasts(e->who[READER]) && !lasts(e->who[WRITER]);
    return events | (once ? EPOLLONESHOT : 0u);
}

static int change(const Watchers *w, int fd, struct watched *e, unsigned events)
{
    struct epoll_event event = {.events = events, .data.u64 = (uint32_t)fd};
    int first = e->entered ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    int rc = epoll_ctl(w->epfd, first, fd, &event);
    if (rc < 0 && errno == (e->entered ? ENOENT : EEXIST))
        rc = epoll_ctl(w->epfd, first == EPOLL_CTL_MOD ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &event);
    if (rc == 0) {
        e->entered = true;
        e->armed = events;
    }
    return rc;
}

/* Makes the epoll look for what is wanted. 0; -1 with errno. */
static int arm(const Watchers *w, int fd, struct watched *e)
{
    unsigned events = wanted(e);
    if (events == e->armed)
        return 0;
    if (events)
        return change(w, fd, e, events);
    (void)epoll_ctl(w->epfd, EPOLL_CTL_DEL, fd, NULL); /* it may be closed */
    e->entered = false;
    e->armed = 0;
    return 0;
}

/* The same after one watch of two has gone. Where it fails, the other one watches a file that is
 * gone. */
static void rearm(const Watchers *w, int fd)
{
    struct watched *e = find(w, fd);
    if (e && arm(w, fd, e) < 0) {
        e->entered = false;
        e->armed = 0;
    }
}

/* ---- readers and writers ------------------------------------------------------------------- */

/* The descriptor's number; -1 with an exception, in the words of the selectors module. */
static int number_of(PyObject *file)
{
    int fd = PyObject_AsFileDescriptor(file);
    if (fd >= 0 ||
        !(PyErr_ExceptionMatches(PyExc_AttributeError) || PyErr_ExceptionMatches(PyExc_TypeError) ||
          PyErr_ExceptionMatches(PyExc_ValueError)))
        return fd;
    PyErr_Clear();
    PyObject *number =
        PyLong_Check(file) ? Py_NewRef(file) : PyObject_CallMethod(file, "fileno", NULL);
    bool negative = number && PyLong_Check(number);
    PyErr_Clear();
    if (negative)
        PyErr_Format(PyExc_ValueError, "Invalid file descriptor: %S", number);
    else
        PyErr_Format(PyExc_ValueError, "Invalid file object: %R", file);
    Py_XDECREF(number);
    return -1;
}

int watchers_set(PyObject *self, PyObject *file, enum side side, PyObject *who)
{
    Watchers *w = (Watchers *)self;
    int fd = number_of(file);
    if (fd < 0)
        return -1;
    if (fd >= w->size && fcntl(fd, F_GETFD) < 0)
        return hot_done(PyErr_SetFromErrno(PyExc_OSError));
    if (fd >= w->size && grow(w, fd) < 0)
        return -1;
    struct watched *e = &w->table[fd];
    PyObject *was = e->who[side], *of = e->file;
    e->who[side] = Py_NewRef(who);
    if (was)
        e->armed = 0; /* the number may be of another file */
    if (arm(w, fd, e) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        e->who[side] = was;
        Py_DECREF(who);
        return -1;
    }
    e->file = Py_NewRef(file);
    Py_XDECREF(of);
    int rc = lasts(was) ? handle_cancel(was) : 0;
    Py_XDECREF(was);
    return rc;
}

/* The descriptor under which an object was watched, which is closed by now; -1. */
static int find_closed(const Watchers *w, const PyObject *file)
{
    for (int fd = 0; fd < w->size; fd++)
        if (w->table[fd].file == file)
            return fd;
    return -1;
}

/* As number_of, for what was watched. */
static int watched_number(const Watchers *w, PyObject *file)
{
    int fd = number_of(file);
    if (fd < 0 && (fd = find_closed(w, file)) >= 0)
        PyErr_Clear();
    return fd;
}

/* Empties a place: what was there, or NULL. The epoll is to be told. */
static PyObject *take_out(struct watched *e, enum side side, PyObject **file)
{
    PyObject *was = e->who[side];
    e->who[side] = NULL;
    *file = NULL;
    if (!watches(e)) {
        *file = e->file;
        e->file = NULL;
    }
    return was;
}

static int take(Watchers *w, int fd, enum side side)
{
    struct watched *e = find(w, fd);
    if (!e || !e->who[side])
        return 0;
    PyObject *file, *was = take_out(e, side, &file);
    rearm(w, fd);
    int rc = lasts(was) ? handle_cancel(was) : 0;
    Py_DECREF(was);
    Py_XDECREF(file);
    return rc < 0 ? -1 : 1;
}

int watchers_take(PyObject *self, PyObject *file, enum side side)
{
    int fd = watched_number((Watchers *)self, file);
    return fd < 0 ? -1 : take((Watchers *)self, fd, side);
}

int watchers_give_up(PyObject *self, int fd, const PyObject *waiter, bool closed)
{
    Watchers *w = (Watchers *)self;
    struct watched *e = find(w, fd);
    int rc = 0;
    if (e && closed)
        e->armed = 0;
    for (int side = READER; rc >= 0 && side <= WRITER; side++)
        if (e && e->who[side] == waiter)
            rc = take(w, fd, side);
    return rc < 0 ? -1 : 0;
}

bool watchers_hand_over(PyObject *self, int fd)
{
    struct watched *e = find((Watchers *)self, fd);
    if (!e || watches(e) || !e->entered)
        return false;
    e->entered = false;
    e->armed = 0;
    return true;
}

/* The Handle or waiter that is to be told, as a new reference; a waiter and a Handle that was
 * cancelled leave their place. */
static PyObject *pick(const Watchers *w, int fd, enum side side)
{
    struct watched *e = find(w, fd);
    PyObject *who = e ? e->who[side] : NULL, *file;
    if (!who || (lasts(who) && !handle_cancelled(who)))
        return Py_XNewRef(who);
    who = take_out(e, side, &file);
    Py_XDECREF(file);
    if (lasts(who))
        Py_CLEAR(who);
    return who;
}

static int tell(PyObject *who, PyObject *queue)
{
    int rc = !who ? 0 : lasts(who) ? queue_append(queue, who) : stream_tell_waiter(who);
    Py_XDECREF(who);
    return rc;
}

int watchers_ready(PyObject *self, int fd, unsigned events, PyObject *queue)
{
    Watchers *w = (Watchers *)self;
    struct watched *e = find(w, fd);
    if (!watches(e))
        return 0;
    if (e->armed & EPOLLONESHOT)
        e->armed = 0;
    PyObject *reader = events & ~(unsigned)EPOLLOUT ? pick(w, fd, READER) : NULL;
    PyObject *writer = events & ~(unsigned)EPOLLIN ? pick(w, fd, WRITER) : NULL;
    rearm(w, fd);
    int rc = tell(reader, queue);
    return tell(writer, queue) < 0 ? -1 : rc;
}

/* ---- the type ------------------------------------------------------------------------------ */

static int watchers_init(PyObject *self, PyObject *args, PyObject *kw)
{
    return PyArg_ParseTuple(args, "i", &((Watchers *)self)->epfd) ? 0 : -1;
}

static int watchers_traverse(PyObject *self, visitproc visit, void *arg)
{
    const Watchers *w = (Watchers *)self;
    for (int fd = 0; fd < w->size; fd++) {
        Py_VISIT(w->table[fd].file);
        Py_VISIT(w->table[fd].who[READER]);
        Py_VISIT(w->table[fd].who[WRITER]);
    }
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int watchers_clear(PyObject *self)
{
    Watchers *w = (Watchers *)self;
    struct watched *table = w->table;
    int size = w->size;
    w->table = NULL;
    w->size = 0;
    for (int fd = 0; fd < size; fd++) {
        Py_XDECREF(table[fd].file);
        Py_XDECREF(table[fd].who[READER]);
        Py_XDECREF(table[fd].who[WRITER]);
    }
    PyMem_Free(table);
    return 0;
}

static void watchers_dealloc(PyObject *self)
{
    hot_dealloc(self, watchers_clear);
}

static PyObject *py_close(PyObject *self, PyObject *unused)
{
    watchers_clear(self);
    return Py_NewRef(Py_None);
}

static PyObject *py_events(PyObject *self, PyObject *file)
{
    int fd = PyObject_AsFileDescriptor(file);
    const struct watched *e = find((Watchers *)self, fd);
    if (fd < 0)
        return NULL;
    return PyLong_FromLong(e ? (e->who[READER] ? 1 : 0) + (e->who[WRITER] ? 2 : 0) : 0);
}

static PyObject *or_none(PyObject *who)
{
    return who ? who : Py_None;
}

static PyObject *py_forget(PyObject *self, PyObject *number)
{
    Watchers *w = (Watchers *)self;
    long fd = PyLong_AsLong(number);
    struct watched *e = find(w, (int)fd);
    if (PyErr_Occurred() || !watches(e))
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    struct watched was = *e;
    e->file = e->who[READER] = e->who[WRITER] = NULL;
    rearm(w, (int)fd);
    PyObject *held = Py_BuildValue("(OO)", or_none(was.who[READER]), or_none(was.who[WRITER]));
    Py_XDECREF(was.file);
    Py_XDECREF(was.who[READER]);
    Py_XDECREF(was.who[WRITER]);
    return held;
}

static PyObject *py_restore(PyObject *self, PyObject *args)
{
    PyObject *file, *reader, *writer;
    if (!PyArg_ParseTuple(args, "O(OO)", &file, &reader, &writer) ||
        (reader != Py_None && watchers_set(self, file, READER, reader) < 0) ||
        (writer != Py_None && watchers_set(self, file, WRITER, writer) < 0))
        return NULL;
    return Py_NewRef(Py_None);
}

static PyObject *py_move(PyObject *self, PyObject *number)
{
    Watchers *w = (Watchers *)self;
    long epfd = PyLong_AsLong(number);
    int rc = epfd == -1 && PyErr_Occurred() ? -1 : 0;
    w->epfd = (int)epfd;
    for (int fd = 0; rc == 0 && fd < w->size; fd++) {
        w->table[fd].armed = 0;
        w->table[fd].entered = false;
        rc = arm(w, fd, &w->table[fd]);
    }
    if (rc < 0 && !PyErr_Occurred())
        PyErr_SetFromErrno(PyExc_OSError);
    return rc < 0 ? NULL : Py_NewRef(Py_None);
}

static PyMethodDef watchers_methods[] = {
    {"events", py_events, METH_O,
     "EVENT_READ where the descriptor has a reader, EVENT_WRITE for a writer; 0: neither."},
    {"forget", py_forget, METH_O,
     "Watches a descriptor no more that is about to be closed: (reader, writer), or None."},
    {"restore", py_restore, METH_VARARGS, "(file, what forget() returned): watches it again."},
    {"move", py_move, METH_O, "Goes on with another epoll, which has no descriptor yet."},
    {"close", py_close, METH_NOARGS, "Lets go of all; the epoll is not told."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot watchers_slots[] = {
    {Py_tp_doc, "Who is told when a descriptor is ready."},
    {Py_tp_init, watchers_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, watchers_dealloc},
    {Py_tp_traverse, watchers_traverse},
    {Py_tp_clear, watchers_clear},
    {Py_tp_methods, watchers_methods},
    {0, NULL},
};

static PyType_Spec watchers_spec = {
    .name = "ffloop._native._hot.Watchers",
    .basicsize = sizeof(Watchers),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = watchers_slots,
};

int watchers_exec(PyObject *module)
{
    return hot_add_type(module, "Watchers", &watchers_spec, NULL) ? 0 : -1;
}
