/*
 * handle.h - asyncio.Handle and asyncio.TimerHandle with their fields in C.
 *
 * Callers: scheduler.c makes and runs them, timers.c orders them. asyncio's own code, which sees
 * subclasses of its classes, reads and writes the fields through descriptors of the same names.
 */
#ifndef FFL_HANDLE_H
#define FFL_HANDLE_H

#include "hot.h"

/* args[0](*args[1:n]) later, in `context` (Py_None: a copy of the current one). A new reference. */
PyObject *handle_new(PyObject *loop, PyObject *const *args, Py_ssize_t n, PyObject *context);
/* The same without a note, in debug mode, of where it was made. */
PyObject *handle_untraced(PyObject *loop, PyObject *const *args, Py_ssize_t n, PyObject *context);
/* The same for call_soon_threadsafe: a cancel in another thread waits while the Handle runs, where
 * asyncio's does (Python 3.14). */
PyObject *handle_for_threads(PyObject *loop, PyObject *const *args, Py_ssize_t n,
                             PyObject *context);
/* The same at `when`, in seconds of the loop's clock. */
PyObject *timer_new(PyObject *loop, double when, PyObject *const *args, Py_ssize_t n,
                    PyObject *context);

bool handle_is(PyObject *object);    /* one that handle_new() has made */
void handle_track(PyObject *handle); /* any object: the garbage collector looks at it */
/* It is run soon: what it refers to comes into the cache. */
void handle_fetch(PyObject *handle);
/* Drops the reference of a loop that has run it, or will not. */
void handle_drop(PyObject *handle);
int handle_cancel(PyObject *handle); /* any Handle. 0 or -1 */

/* Runs any Handle, asyncio's own too, unless it was cancelled. A callback's exception goes to
 * loop._failed(handle, exception). 0, or -1 with an exception that ends the program. */
int handle_run(PyObject *handle, PyObject *loop);
/* Calls loop._failed(handle, exception) with the exception that is set. 0, or -1 likewise. */
int handle_failed(PyObject *handle, PyObject *loop);

int handle_cancelled(PyObject *handle); /* any Handle: 0 or 1; -1 with an exception */

/* For any TimerHandle. -1 with an exception. */
int timer_when(PyObject *timer, double *when);
int timer_scheduled(PyObject *timer); /* 0 or 1 */
int timer_set_scheduled(PyObject *timer, bool scheduled);

int handle_exec(PyObject *module);

#endif
