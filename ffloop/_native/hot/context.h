/*
 * context.h - contextvars from C: a callback's context is entered without a call of its run().
 *
 * The interpreter's own functions, under its names and rules. They are public, but not of the
 * limited API, so that they are found by name.
 */
#ifndef FFL_CONTEXT_H
#define FFL_CONTEXT_H

#include "hot.h"

PyObject *context_copy_current(void);
PyObject *context_copy(PyObject *context);
/* 0, or -1 with an exception: it is entered already, or is no Context. */
int context_enter(PyObject *context);
/* Leaves it again; `result`: what was called there returned, which is handed on. */
PyObject *context_leave(PyObject *context, PyObject *result);
/* context.run(callback, *args); args: a tuple. */
PyObject *context_run(PyObject *context, PyObject *callback, PyObject *args);

int context_exec(void);

#endif
