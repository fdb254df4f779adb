/*
 * timers.h - a heap of TimerHandles in a Python list, the earliest first: heapq's shape, so that
 * asyncio's own code, which uses the same list while a loop is in debug mode, finds it in order.
 *
 * Caller: scheduler.c. 0 or -1 with an exception.
 */
#ifndef FFL_TIMERS_H
#define FFL_TIMERS_H

#include "handle.h"

int timers_push(PyObject *list, PyObject *timer);
/* Takes the earliest out: a new reference, marked as not scheduled. The list is not empty. */
PyObject *timers_pop(PyObject *list);
/* Takes cancelled timers out: those at the head, or all where they are many. *cancelled: how many are in
 * the list. */
int timers_tidy(PyObject *list, Py_ssize_t *cancelled);

#endif
