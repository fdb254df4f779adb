/*
 * scheduler.h - Scheduler, the compiled base class of ffloop's loops. scheduler.c has the type and
 * queues callbacks, iteration.c runs them.
 */
#ifndef FFL_SCHEDULER_H
#define FFL_SCHEDULER_H

#include "hot.h"
#include "layout.h"
#include "timers.h"

#define NS 1e9

typedef struct {
    PyObject_HEAD
    PyObject *ready;        /* queue.h */
    PyObject *listed;       /* the timers while asyncio's own code has them, or NULL */
    PyObject *batches;      /* the session's Dispatcher, or None */
    PyObject *watchers;     /* the selector, a Watchers */
    PyObject *task_factory; /* asyncio's _task_factory, or NULL */
    PyObject *named;        /* {"loop": self}, for Futures, while it runs; or NULL */
    struct timers timers;
    Py_ssize_t cancelled; /* timers that were cancelled and are still there */
    double resolution;    /* of the clock, seconds */
    int wake_fd;          /* an eventfd, or -1 */
    char closed, debug, stopping, awake;
    char forever; /* run_forever calls: _run_once may do several iterations */
    char own_call_at, own_create_future;
    char skipping;   /* the next iteration does not ask for events */
    int skips, left; /* iterations without asking, after the last that asked; those to come */
    PyTypeObject *looked_up; /* the class that own_... are of; never followed */
    int64_t woke_ns;         /* when events were last asked for */
    int64_t lag_ns;          /* the work of all iterations */
    uint64_t
        lags[FFL_LAGS]; /* iterations by their work; one that asked counts with those that follow
                                without asking */
} Scheduler;

bool scheduler_is(PyObject *loop);          /* any object */
PyObject *scheduler_future(PyObject *loop); /* its create_future(); any loop */
/* `loop` is a Scheduler. */
bool scheduler_debug(PyObject *loop);
bool scheduler_runs(PyObject *loop);            /* in run_forever */
void scheduler_timer_cancelled(PyObject *loop); /* counts a cancelled timer in the loop's heap */
/* Takes the timers back from asyncio's own code. 0 or -1. */
int scheduler_own_timers(Scheduler *s);
/* loop.time(), in seconds. 0 or -1. */
int scheduler_now(Scheduler *s, double *out);
/* Calls asyncio's own method; arguments as METH_FASTCALL | METH_KEYWORDS gives them. */
PyObject *scheduler_asyncio(PyObject *method, PyObject *self, PyObject *const *args, Py_ssize_t n,
                            PyObject *keys);

/* Methods: iteration.c. */
PyObject *scheduler_run_once(PyObject *self, PyObject *unused);
PyObject *scheduler_lag(PyObject *self, PyObject *unused);
int iteration_exec(void);
/* watching.c */
PyObject *scheduler_add_reader(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *keys);
PyObject *scheduler_add_writer(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *keys);
PyObject *scheduler_remove_reader(PyObject *self, PyObject *file);
PyObject *scheduler_remove_writer(PyObject *self, PyObject *file);
PyObject *scheduler_wait_readable(PyObject *self, PyObject *file);
PyObject *scheduler_wait_writable(PyObject *self, PyObject *file);
PyObject *scheduler_hand_over(PyObject *self, PyObject *file);
PyObject *scheduler_give_up(PyObject *self, PyObject *args);
PyObject *scheduler_watched(PyObject *self, PyObject *args);
int watching_exec(void);

int scheduler_exec(PyObject *module);

#endif
