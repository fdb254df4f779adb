/*
 * scheduler.h - Scheduler, the compiled base class of ffloop's loop. See scheduler.c.
 */
#ifndef FFL_SCHEDULER_H
#define FFL_SCHEDULER_H

#include "hot.h"

/* `loop` is a Scheduler. */
bool scheduler_debug(PyObject *loop);
void scheduler_timer_cancelled(PyObject *loop); /* one that is in its heap */

int scheduler_exec(PyObject *module);

#endif
