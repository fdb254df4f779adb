/*
 * hot.h - the compiled half of the Python face: what its parts share.
 *
 * Stream (stream.c) is one transport's short ways, Dispatcher (dispatcher.c) waits for a batch of
 * events and hands it out, Scheduler (scheduler.c) queues and runs the loop's callbacks, which are
 * handles (handle.c), some of them in a heap of timers (timers.c). Each has one short way here and a
 * long way in Python for whatever is not plain. Limited API of 3.11, so that one wheel serves every
 * later one.
 */
#ifndef FFL_HOT_H
#define FFL_HOT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include "base.h"
#include "client.h"

#include <stdbool.h>

/* Headers from 3.12 on hand out None, True and False without a reference, which 3.11 would miss: what
 * is built with one interpreter runs on the others, so every reference is counted (Py_NewRef). */
#undef Py_RETURN_NONE
#undef Py_RETURN_TRUE
#undef Py_RETURN_FALSE
#undef Py_RETURN_NOTIMPLEMENTED
#pragma GCC poison Py_RETURN_NONE Py_RETURN_TRUE Py_RETURN_FALSE Py_RETURN_NOTIMPLEMENTED

/* A detached Stream has c == NULL. */
typedef struct {
    PyObject_HEAD
    struct ffl_client *c;
    int handle;
    const unsigned long *thread; /* whose the session is */
    char paused;  /* data takes the long way: paused, closing, or not a plain protocol */
    char stalled; /* writes take the long way: backlog, end of file, closed */
    PyObject *owner, *enter, *deliver; /* the transport; its context's run; data_received */
} Stream;

typedef struct {
    PyObject_HEAD
    struct ffl_client *c;               /* NULL: closed, and the buffers are released */
    Py_buffer segment, events;          /* the shared memory; the batch */
    PyObject *ring, *streams, *orphans; /* streams: handle -> Stream; orphans: handles to close */
    PyObject *other; /* other(kind, handle, arg, off) for what is not plain data */
    int epfd;
    long long longest_ns; /* no wait is longer; < 0: no limit */
    int index, count;     /* the next event, and how many the batch has */
    int queued;           /* handles in the loop's queue that will dispatch */
} Dispatcher;

/* Replaces a counted reference (Py_XSETREF is not in the limited API). */
void hot_set_ref(PyObject **to, PyObject *value);
struct hot_name {
    PyObject **to;
    const char *text;
};
int hot_intern_all(const struct hot_name *names, size_t n);
/* module.name, as a new reference in *to. */
int hot_import(PyObject **to, const char *module, const char *name);
/* An object of a type of ours goes: `clear` drops what it refers to. */
void hot_dealloc(PyObject *self, inquiry clear);
/* Makes the type and adds it to the module: a borrowed reference, or NULL. */
PyObject *hot_add_type(PyObject *module, const char *name, PyType_Spec *spec, PyObject *bases);
/* Takes the exception that is set, as an object; NULL when it is one that ends the program
 * (KeyboardInterrupt, SystemExit), which stays set. */
PyObject *hot_take_exception(void);

/* The owner's _fault(exception): data_received raised. */
int stream_fault(Stream *s);

/* Waits for a batch (see ffl_client_wait). The number of its events when kernel descriptors other
 * than wake_fd are among them, else 0; -1 with an exception. */
int dispatcher_wait(Dispatcher *d, int64_t timeout_ns, int wake_fd);
extern PyTypeObject *dispatcher_type;

int stream_exec(PyObject *module);
int dispatcher_exec(PyObject *module);

#endif
