/*
 * acceptor.c - direct mode: accepts a listening descriptor's connections and makes their
 * transports.
 *
 * Callers: direct.c; _loop/direct.py makes Acceptors. No Python frame runs between accept4 and the
 * protocol's factory. Each connection has a context of its own, a copy of the one in which serving
 * began. TLS, debug mode and errors are the listener's, in Python (_accepted, _accept_failed,
 * _begin_failed, _failed).
 */
#include "context.h"
#include "scheduler.h"
#include "stream.h"

#include "addr.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct {
    PyObject_HEAD
    PyObject *dispatcher, *listener;             /* a Dispatcher, a DirectListener */
    PyObject *loop, *server, *factory, *context; /* the listener's */
    PyObject *address;
    PyObject *transport; /* a class */
    int fd, most, next;  /* accepts per wake, at most; at the next wake */
    uint64_t at;         /* the number of the wait that last brought connections */
    char watched, plain;
} Acceptor;
#define REFS (offsetof(Acceptor, fd) - offsetof(Acceptor, dispatcher)) / sizeof(PyObject *)

static PyObject *name_accepted, *name_accept_failed, *name_begin_failed, *name_failed;

static PyTypeObject *acceptor_type;

/* ---- a connection -------------------------------------------------------------------------- */

/* listener.name(exc, protocol, transport) with the exception that is set. */
static int tell_listener(Acceptor *a, PyObject *name, PyObject *protocol, PyObject *transport)
{
    return hot_fault(a->listener, name, protocol ? protocol : Py_None,
                     transport ? transport : Py_None);
}

/* In the connection's context: the protocol and its transport, which owns the descriptor. */
static int make(Acceptor *a, int fd, PyObject *peer)
{
    struct accepted from = {a->loop, a->dispatcher, a->server, a->address, peer, fd};
    PyObject *protocol = PyObject_CallNoArgs(a->factory), *begun = NULL;
    PyObject *transport =
        protocol ? stream_new((PyTypeObject *)a->transport, protocol, &from) : NULL;
    int rc = 0;
    if (!transport) {
        close(fd);
        rc = tell_listener(a, name_accept_failed, protocol, NULL);
    } else if (!(begun = stream_begin(transport, NULL, 0))) {
        rc = tell_listener(a, name_begin_failed, protocol, transport);
    }
    Py_XDECREF(begun);
    Py_XDECREF(transport);
    Py_XDECREF(protocol);
    return rc;
}

static int make_in_context(Acceptor *a, int fd, PyObject *peer)
{
    PyObject *context = context_copy(a->context), *r = NULL;
    if (context && context_enter(context) == 0)
        r = context_leave(context, make(a, fd, peer) < 0 ? NULL : Py_NewRef(Py_None));
    else
        close(fd);
    Py_XDECREF(context);
    return hot_done(r);
}

static int take(Acceptor *a, int fd, const struct sockaddr_storage *ss, socklen_t len)
{
    struct ffl_addr peer = {0};
    if (ss->ss_family == AF_INET || ss->ss_family == AF_INET6)
        ffl_addr_from_sockaddr(&peer, ss, len);
    PyObject *raw = PyBytes_FromStringAndSize((const char *)&peer, sizeof(peer)), *number = NULL;
    int rc = -1;
    if (raw && a->plain && !scheduler_debug(a->loop))
        rc = make_in_context(a, fd, raw);
    else if (raw && (number = PyLong_FromLong(fd)))
        rc = hot_done(PyObject_CallMethodObjArgs(a->listener, name_accepted, number, raw, NULL));
    else
        close(fd);
    Py_XDECREF(number);
    Py_XDECREF(raw);
    return rc;
}

/* ---- a wake -------------------------------------------------------------------------------- */

static int tell_failed(Acceptor *a, int err)
{
    PyObject *code = PyLong_FromLong(err);
    int rc = code ? hot_call(a->listener, name_failed, code) : -1;
    Py_XDECREF(code);
    return rc;
}

bool acceptor_is(PyObject *owner)
{
    return Py_TYPE(owner) == acceptor_type;
}

/* As many accepts as the last wake found connections, so that one that comes alone costs no second
 * accept in vain; twice as many while each wait brings some. The rest comes with the next wait. */
int acceptor_ready(PyObject *self)
{
    Acceptor *a = (Acceptor *)self;
    int taken = 0, rc = 0, most = a->next;
    uint64_t at = ((Dispatcher *)a->dispatcher)->waits;
    bool again = at == a->at + 1;
    a->at = at;
    Py_INCREF(self);
    while (rc == 0 && taken < most && a->watched) {
        struct sockaddr_storage ss;
        socklen_t len = sizeof(ss);
        int fd = accept4(a->fd, (struct sockaddr *)&ss, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
                rc = tell_failed(a, errno);
            break;
        }
        taken++;
        direct_accepted((Dispatcher *)a->dispatcher);
        rc = take(a, fd, &ss, len);
    }
    int next = taken == most && again ? 2 * most : taken;
    a->next = next < 1 ? 1 : next > a->most ? a->most : next;
    Py_DECREF(self);
    return rc;
}

/* ---- the type ------------------------------------------------------------------------------ */

static int take_field(PyObject *listener, const char *name, PyObject **to)
{
    PyObject *value = PyObject_GetAttrString(listener, name);
    Py_XDECREF(*to);
    *to = value;
    return value ? 0 : -1;
}

static int acceptor_init(PyObject *self, PyObject *args, PyObject *kw)
{
    static char *names[] = {"dispatcher", "fd", "most", "listener", "transport", "plain", NULL};
    Acceptor *a = (Acceptor *)self;
    PyObject *dispatcher, *listener, *transport;
    int plain;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O!iiOOp", names, dispatcher_type, &dispatcher,
                                     &a->fd, &a->most, &listener, &transport, &plain))
        return -1;
    a->next = 1;
    a->plain = (char)plain;
    hot_set_ref(&a->dispatcher, dispatcher);
    hot_set_ref(&a->listener, listener);
    hot_set_ref(&a->transport, transport);
    if (take_field(listener, "_loop", &a->loop) < 0 ||
        take_field(listener, "_server", &a->server) < 0 ||
        take_field(listener, "_factory", &a->factory) < 0 ||
        take_field(listener, "address", &a->address) < 0)
        return -1;
    return take_field(listener, "_context", &a->context);
}

static int acceptor_traverse(PyObject *self, visitproc visit, void *arg)
{
    PyObject **refs = &((Acceptor *)self)->dispatcher;
    for (size_t i = 0; i < REFS; i++)
        Py_VISIT(refs[i]);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int acceptor_clear(PyObject *self)
{
    PyObject **refs = &((Acceptor *)self)->dispatcher;
    for (size_t i = 0; i < REFS; i++)
        Py_CLEAR(refs[i]);
    return 0;
}

static void acceptor_dealloc(PyObject *self)
{
    hot_dealloc(self, acceptor_clear);
}

/* Accepts from now on, or no more. */
static PyObject *acceptor_watch(PyObject *self, PyObject *on)
{
    Acceptor *a = (Acceptor *)self;
    char wanted = (char)PyObject_IsTrue(on);
    if (wanted != a->watched) {
        unsigned events = wanted ? EPOLLIN : 0, before = a->watched ? EPOLLIN : 0;
        a->watched = wanted;
        if (direct_watch((Dispatcher *)a->dispatcher, a->fd, events, before, self) < 0)
            return NULL;
    }
    return Py_NewRef(Py_None);
}

static PyMethodDef acceptor_methods[] = {
    {"watch", acceptor_watch, METH_O, "watch(on): whether connections are accepted."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot acceptor_slots[] = {
    {Py_tp_doc, "Accepts the connections of a listening descriptor."},
    {Py_tp_init, acceptor_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, acceptor_dealloc},
    {Py_tp_traverse, acceptor_traverse},
    {Py_tp_clear, acceptor_clear},
    {Py_tp_methods, acceptor_methods},
    {0, NULL},
};

static PyType_Spec acceptor_spec = {
    .name = "ffloop._native._hot.Acceptor",
    .basicsize = sizeof(Acceptor),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = acceptor_slots,
};

int acceptor_exec(PyObject *module)
{
    const struct hot_name names[] = {
        {&name_accepted, "_accepted"},
        {&name_accept_failed, "_accept_failed"},
        {&name_begin_failed, "_begin_failed"},
        {&name_failed, "_failed"},
    };
    if (hot_intern_all(names, FFL_COUNT(names)) < 0)
        return -1;
    acceptor_type = (PyTypeObject *)hot_add_type(module, "Acceptor", &acceptor_spec, NULL);
    return acceptor_type ? 0 : -1;
}
