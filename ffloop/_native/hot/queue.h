/*
 * queue.h - Queue: the handles that are to run, first in, first out.
 *
 * Callers: scheduler.c, iteration.c; in debug mode asyncio's own code, which takes a Queue for a
 * collections.deque.
 */
#ifndef FFL_QUEUE_H
#define FFL_QUEUE_H

#include "hot.h"

PyObject *queue_new(void);
/* 0, or -1 with an exception. */
int queue_append(PyObject *queue, PyObject *item);
/* The first item, as a new reference; NULL without an exception: the queue is empty. */
PyObject *queue_popleft(PyObject *queue);
Py_ssize_t queue_size(PyObject *queue);
/* The first item is about to be run: those behind it come into the cache. */
void queue_fetch(PyObject *queue);
void queue_track(PyObject *queue); /* handle_track of all items */

int queue_exec(PyObject *module);

#endif
