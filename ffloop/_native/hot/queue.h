/*
 * queue.h - Queue: the handles that are to run, first come first served.
 *
 * Caller: scheduler.c; asyncio's own code, which takes it for a collections.deque, in debug mode.
 */
#ifndef FFL_QUEUE_H
#define FFL_QUEUE_H

#include "hot.h"

PyObject *queue_new(void);
/* 0, or -1 with an exception. */
int queue_append(PyObject *queue, PyObject *item);
/* The first, as a new reference; NULL without an exception: there is none. */
PyObject *queue_popleft(PyObject *queue);
Py_ssize_t queue_size(PyObject *queue);

int queue_exec(PyObject *module);

#endif
