/*
 * scheduler.h - Scheduler, the compiled base class of ffloop's loop: scheduler.c is the type and queues
 * callbacks, iteration.c runs them.
 */
#ifndef FFL_SCHEDULER_H
#define FFL_SCHEDULER_H

#include "hot.h"

#define NS 1e9
#define LAGS 24 /* below 1, 2, 4, ... us (of 1,024 ns); the last one: and above */

typedef struct {
    PyObject_HEAD
    PyObject *ready;      /* queue.h */
    PyObject *timers;     /* a list: timers.h */
    PyObject *batches;    /* the session's Dispatcher, or None */
    Py_ssize_t cancelled; /* timers in the list that were cancelled */
    double resolution;    /* of the clock, seconds */
    int wake_fd;          /* an eventfd, or -1 */
    char closed, debug, stopping, awake;
    char forever; /* run_forever calls: _run_once may do several iterations */
    char own_call_at;
    char skipping;           /* the next iteration does not ask for events */
    int skips, left;         /* how many do not, after the last that did; and are still to come */
    PyTypeObject *looked_up; /* the class that own_call_at is of; never followed */
    int64_t woke_ns;         /* when events were last asked for */
    int64_t lag_ns;          /* all iterations' work */
    uint64_t lags[LAGS]; /* iterations by how long they worked; those without asking count as one */
} Scheduler;

/* `loop` is a Scheduler. */
bool scheduler_debug(PyObject *loop);
void scheduler_timer_cancelled(PyObject *loop); /* one that is in its heap */
/* loop.time(), in seconds. 0 or -1. */
int scheduler_now(Scheduler *s, double *out);
/* asyncio's own method; arguments as METH_FASTCALL | METH_KEYWORDS gives them. */
PyObject *scheduler_asyncio(PyObject *method, PyObject *self, PyObject *const *args, Py_ssize_t n,
                            PyObject *keys);

/* Methods: iteration.c. */
PyObject *scheduler_run_once(PyObject *self, PyObject *unused);
PyObject *scheduler_lag(PyObject *self, PyObject *unused);
int iteration_exec(void);

int scheduler_exec(PyObject *module);

#endif
