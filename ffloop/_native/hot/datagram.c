/*
 * datagram.c - Datagrams: what asyncio's transport of kernel datagram sockets does most often.
 *
 * A base class, without fields, in front of asyncio's own (_loop/kernel_datagram.py), whose
 * instances' dictionaries it reads; as pipe.c. Several datagrams are read per event, as by uvloop,
 * until the socket is empty; where that found one, the next events' first ones only, without a call
 * that finds nothing. What is left makes another event.
 */
#include "stream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define MOST 32  /* datagrams per event: then other sockets have their turn */
#define SINGLE 7 /* events of which one datagram is read, after one that brought no more */

/* By descriptor: how many such events are to come. Sockets that share a place mislead each other
 * by a call. */
static unsigned char singles[256];

static PyObject *read_ready_slow, *sendto_slow; /* asyncio's */
static PyObject *name_read_ready, *name_sendto, *name_sock_fd, *name_protocol, *name_closing,
    *name_conn_lost, *name_buffer, *name_connected, *name_family, *name_paused, *name_address,
    *name_datagram_received, *name_error_received;

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_un un;
};

/* protocol.error_received() with what the system call failed with. 0 or -1. */
static int tell_error(PyObject *attributes)
{
    int err = errno;
    PyObject *protocol = Py_XNewRef(feed_get(attributes, name_protocol));
    if (!protocol) {
        PyErr_SetObject(PyExc_AttributeError, name_protocol);
        return -1;
    }
    errno = err;
    PyErr_SetFromErrno(PyExc_OSError);
    int rc = hot_fault(protocol, name_error_received, NULL, NULL);
    Py_DECREF(protocol);
    return rc;
}

/* ---- reading ------------------------------------------------------------------------------- */

static PyObject *unix_address(const struct sockaddr_un *un, socklen_t len)
{
    size_t head = offsetof(struct sockaddr_un, sun_path), size = len > head ? len - head : 0;
    if (size > sizeof(un->sun_path)) /* of a path without room for its NUL the kernel counts one */
        size = sizeof(un->sun_path);
    if (size && !un->sun_path[0])
        return PyBytes_FromStringAndSize(un->sun_path, (Py_ssize_t)size);
    return PyUnicode_DecodeFSDefaultAndSize(un->sun_path, (Py_ssize_t)strnlen(un->sun_path, size));
}

/* As the socket module's. */
static PyObject *new_address(const union address *a, socklen_t len)
{
    char text[INET6_ADDRSTRLEN];
    if (!len)
        return Py_NewRef(Py_None);
    if (a->any.sa_family == AF_UNIX)
        return unix_address(&a->un, len);
    if (a->any.sa_family == AF_INET) {
        inet_ntop(AF_INET, &a->v4.sin_addr, text, sizeof(text));
        return Py_BuildValue("(si)", text, ntohs(a->v4.sin_port));
    }
    inet_ntop(AF_INET6, &a->v6.sin6_addr, text, sizeof(text));
    return Py_BuildValue("(siII)", text, ntohs(a->v6.sin6_port), ntohl(a->v6.sin6_flowinfo),
                         a->v6.sin6_scope_id);
}

/* A new reference. The last one is kept: datagrams of one sender follow each other. */
static PyObject *address_of(const union address *a, socklen_t len)
{
    static union address known;
    static socklen_t known_len;
    static PyObject *last;
    if (last && len == known_len && memcmp(a, &known, len) == 0)
        return Py_NewRef(last);
    PyObject *made = new_address(a, len);
    if (made) {
        hot_set_ref(&last, made);
        memcpy(&known, a, len);
        known_len = len;
    }
    return made;
}

static int deliver(PyObject *attributes, const char *data, ssize_t size, PyObject *from)
{
    PyObject *bytes = from ? PyBytes_FromStringAndSize(data, size) : NULL;
    PyObject *protocol = bytes ? Py_XNewRef(feed_get(attributes, name_protocol)) : NULL, *r = NULL;
    if (protocol)
        r = PyObject_CallMethodObjArgs(protocol, name_datagram_received, bytes, from, NULL);
    Py_XDECREF(protocol);
    Py_XDECREF(bytes);
    Py_XDECREF(from);
    return hot_done(r);
}

/* 1: a datagram or an error was there; 0: nothing is; -1 with an exception. */
static int read_one(PyObject *attributes, int fd, char *room)
{
    union address from;
    socklen_t len = sizeof(from);
    ssize_t got = recvfrom(fd, room, DISPATCHER_ROOM, MSG_DONTWAIT, &from.any, &len);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    int rc =
        got < 0 ? tell_error(attributes) : deliver(attributes, room, got, address_of(&from, len));
    return rc < 0 ? -1 : 1;
}

/* 1: what was there is read; -1 with an exception. */
static int read_all(PyObject *attributes, char *room)
{
    int fd = transport_number(attributes, name_sock_fd), taken = 0;
    unsigned char *single = &singles[fd & 255];
    int more = transport_lacks(attributes, name_conn_lost), most = *single ? 1 : MOST;
    while (more > 0 && taken < most) {
        more = transport_lacks(attributes, name_closing) && transport_lacks(attributes, name_paused)
                   ? read_one(attributes, fd, room)
                   : 0;
        taken += more > 0;
    }
    *single = *single ? *single - 1 : taken < 2 ? SINGLE : 0;
    return PyErr_Occurred() ? -1 : 1;
}

static PyObject *read_ready(PyObject *self, PyObject *unused)
{
    return transport_read(self, read_all, read_ready_slow);
}

/* ---- writing ------------------------------------------------------------------------------- */

static int ip_address(PyObject *host, int family, void *to)
{
    Py_ssize_t size = 0;
    const char *text = PyUnicode_Check(host) ? PyUnicode_AsUTF8AndSize(host, &size) : NULL;
    return text && strlen(text) == (size_t)size ? inet_pton(family, text, to) : 0;
}

/* The tuple's number at i, where it is one and not above `most`; else -1. */
static long long number_at(PyObject *tuple, Py_ssize_t i, long long most)
{
    PyObject *item = PyTuple_GetItem(tuple, i);
    long long value = PyLong_Check(item) ? PyLong_AsLongLong(item) : -1;
    return value <= most ? value : -1;
}

/* Is the rest of an IPv6 address there as the socket module takes it, or not there? */
static bool flow_and_scope(PyObject *address, struct sockaddr_in6 *to)
{
    if (PyTuple_Size(address) == 2)
        return true;
    long long flow = number_at(address, 2, 0xfffff), scope = number_at(address, 3, UINT32_MAX);
    to->sin6_flowinfo = htonl((uint32_t)flow);
    to->sin6_scope_id = (uint32_t)scope;
    return flow >= 0 && scope >= 0;
}

/* The length of the address; 0: it is a name, or none that is known here. */
static socklen_t ip_sockaddr(PyObject *address, int family, union address *to)
{
    Py_ssize_t n = PyTuple_CheckExact(address) ? PyTuple_Size(address) : 0;
    if (n != 2 && (n != 4 || family != AF_INET6))
        return 0;
    long long port = number_at(address, 1, 0xffff);
    PyObject *host = PyTuple_GetItem(address, 0);
    void *ip = family == AF_INET ? (void *)&to->v4.sin_addr : (void *)&to->v6.sin6_addr;
    if (port < 0 || ip_address(host, family, ip) != 1)
        return 0;
    to->any.sa_family = (sa_family_t)family;
    to->v4.sin_port = htons((uint16_t)port); /* in the place of sin6_port */
    if (family == AF_INET)
        return sizeof(to->v4);
    return flow_and_scope(address, &to->v6) ? sizeof(to->v6) : 0;
}

static socklen_t unix_sockaddr(PyObject *path, union address *to)
{
    PyObject *bytes = PyUnicode_Check(path) ? PyUnicode_EncodeFSDefault(path) : NULL;
    size_t size = bytes ? (size_t)PyBytes_Size(bytes) : 0;
    bool fits = size && size < sizeof(to->un.sun_path) && strlen(PyBytes_AsString(bytes)) == size;
    if (fits)
        memcpy(to->un.sun_path, PyBytes_AsString(bytes), size + 1);
    to->any.sa_family = AF_UNIX;
    Py_XDECREF(bytes);
    return fits ? (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size + 1) : 0;
}

/* -1 with errno; EAGAIN: asyncio's own sendto() is to do it. */
static ssize_t send_now(PyObject *attributes, PyObject *data, PyObject *address)
{
    union address to = {0};
    socklen_t len = 0;
    errno = EAGAIN;
    if (transport_lacks(attributes, name_connected)) {
        bool quick = address != Py_None && transport_lacks(attributes, name_address);
        int family = quick ? transport_number(attributes, name_family) : 0;
        if (family == AF_INET || family == AF_INET6)
            len = ip_sockaddr(address, family, &to);
        else if (family == AF_UNIX)
            len = unix_sockaddr(address, &to);
        PyErr_Clear(); /* what is no address is asyncio's to complain of */
        errno = EAGAIN;
        if (!len)
            return -1;
    } else if (address != Py_None) {
        return -1;
    }
    return sendto(transport_number(attributes, name_sock_fd), PyBytes_AsString(data),
                  (size_t)PyBytes_Size(data), MSG_DONTWAIT, len ? &to.any : NULL, len);
}

static bool sends_at_once(PyObject *attributes, PyObject *data)
{
    return PyBytes_CheckExact(data) && PyBytes_Size(data) &&
           transport_lacks(attributes, name_buffer) && transport_lacks(attributes, name_conn_lost);
}

/* 1: sent, or the protocol is told of the error; 0: asyncio's is to do it; -1 with an exception. */
static int send_plain(PyObject *attributes, PyObject *data, PyObject *address)
{
    if (!sends_at_once(attributes, data))
        return PyErr_Occurred() ? -1 : 0;
    if (send_now(attributes, data, address) >= 0)
        return 1;
    if (PyErr_Occurred())
        return -1;
    if (errno == EAGAIN || errno == EINTR)
        return 0;
    return tell_error(attributes) < 0 ? -1 : 1;
}

static PyObject *datagram_sendto(PyObject *self, PyObject *const *args, Py_ssize_t n,
                                 PyObject *keys)
{
    int rc = 0;
    if (!keys && (n == 1 || n == 2)) {
        PyObject *attributes = PyObject_GenericGetDict(self, NULL);
        rc = attributes ? send_plain(attributes, args[0], n > 1 ? args[1] : Py_None) : -1;
        Py_XDECREF(attributes);
    }
    if (rc == 0)
        return hot_forward(sendto_slow, self, args, n, keys);
    return rc < 0 ? NULL : Py_NewRef(Py_None);
}

/* ---- the type ------------------------------------------------------------------------------ */

static PyMethodDef datagrams_methods[] = {
    {"_read_ready", read_ready, METH_NOARGS, "As asyncio's."},
    {"sendto", (PyCFunction)(void (*)(void))datagram_sendto, METH_FASTCALL | METH_KEYWORDS,
     "As asyncio's."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot datagrams_slots[] = {{Py_tp_methods, datagrams_methods}, {0, NULL}};
static PyType_Spec datagrams_spec = {
    .name = "ffloop._native._hot.Datagrams",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = datagrams_slots,
};

int datagram_exec(PyObject *module)
{
    const struct hot_name names[] = {
        {&name_read_ready, "_read_ready"},
        {&name_sendto, "sendto"},
        {&name_sock_fd, "_sock_fd"},
        {&name_protocol, "_protocol"},
        {&name_closing, "_closing"},
        {&name_conn_lost, "_conn_lost"},
        {&name_buffer, "_buffer"},
        {&name_connected, "_connected"},
        {&name_family, "_family"},
        {&name_paused, "_paused"},
        {&name_address, "_address"},
        {&name_datagram_received, "datagram_received"},
        {&name_error_received, "error_received"},
    };
    const char *from = "asyncio.selector_events", *type = "_SelectorDatagramTransport";
    if (hot_intern_all(names, FFL_COUNT(names)) < 0 ||
        transport_method(&read_ready_slow, from, type, name_read_ready) < 0 ||
        transport_method(&sendto_slow, from, type, name_sendto) < 0)
        return -1;
    return hot_add_type(module, "Datagrams", &datagrams_spec, NULL) ? 0 : -1;
}
