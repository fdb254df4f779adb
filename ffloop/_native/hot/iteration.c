/*
 * iteration.c - a Scheduler's iterations (_run_once). See scheduler.h.
 *
 * The order is that of asyncio's BaseEventLoop._run_once: wait for events, queue their callbacks, queue the
 * timers that are due, run the handles queued up to here. While callbacks are queued, not every iteration
 * asks for events: the callbacks of one batch run before the next batch is asked for (uvloop's order), and
 * ever fewer iterations ask while none is found. The loop does the rare cases in Python: _poll (no session,
 * or a batch that an interrupt left unfinished), _kernel_ready (descriptors), _failed (a callback raised).
 *
 * Waking from another thread: `awake` is lowered before the last look at the queue, and the interpreter's
 * lock is held from there to the wait. So a handle that another thread appends before is seen, and for one
 * that it appends later it writes to the wake descriptor.
 */
#include "queue.h"
#include "scheduler.h"
#include "timers.h"

#include <math.h>

#define AT_ONCE 100        /* iterations, then the interpreter has a look: other threads, tracing */
#define LONGEST_S 86400.0  /* as asyncio's MAXIMUM_SELECT_TIMEOUT */
#define MOST_SKIPS 16      /* iterations that do not ask for events, between two that do */
#define LONGEST_SKIP 50000 /* ns from a wait on; one iteration may always follow */

static PyObject *name_run_once, *name_failed, *name_poll, *name_kernel_ready;

/* When the first timer is due, less `from`, in seconds; there is one. */
static int first_due(Scheduler *s, double from, double *left)
{
    if (timer_when(PyList_GetItem(s->timers, 0), left) < 0)
        return -1;
    *left -= from;
    return 0;
}

/* The time until something is due, nanoseconds; -1: for ever. */
static int next_timeout(Scheduler *s, int64_t *ns)
{
    Py_ssize_t timers = PyList_Size(s->timers);
    double at = 0, left = 0;
    if (timers > 0 && s->cancelled > 0) {
        if (timers_tidy(s->timers, &s->cancelled) < 0)
            return -1;
        timers = PyList_Size(s->timers);
    }
    if (timers > 0 && (scheduler_now(s, &at) < 0 || first_due(s, at, &left) < 0))
        return -1;
    s->awake = 0;
    if (queue_size(s->ready) || s->stopping)
        *ns = 0;
    else if (!timers)
        *ns = -1;
    else
        *ns = left <= 0 ? 0 : (int64_t)((left < LONGEST_S ? left : LONGEST_S) * NS) + 1;
    return 0;
}

static int poll_loop(Scheduler *s, int64_t ns)
{
    PyObject *timeout = PyLong_FromLongLong(ns);
    PyObject *r =
        timeout ? PyObject_CallMethodObjArgs((PyObject *)s, name_poll, timeout, NULL) : NULL;
    Py_XDECREF(timeout);
    return hot_done(r);
}

static int kernel_ready(Scheduler *s, int events)
{
    PyObject *n = PyLong_FromLong(events);
    PyObject *r = n ? PyObject_CallMethodObjArgs((PyObject *)s, name_kernel_ready, n, NULL) : NULL;
    Py_XDECREF(n);
    return hot_done(r);
}

/* The number of iterations that will not ask for events: one, after a sleep or where some were `found`. */
static void plan_skips(Scheduler *s, bool found)
{
    int most = found || !s->skips ? 1 : 2 * s->skips;
    s->skips = s->left = most < MOST_SKIPS ? most : MOST_SKIPS;
}

/* Waits, and queues the batch. */
static int wait_events(Scheduler *s, int64_t ns)
{
    PyObject *batches = s->batches;
    if (!batches || !PyObject_TypeCheck(batches, dispatcher_type))
        return poll_loop(s, ns);
    Dispatcher *d = (Dispatcher *)batches;
    if (d->queued || d->index < d->count)
        return poll_loop(s, ns);
    Py_INCREF(batches); /* what is called may end the session */
    int rc = dispatcher_wait(d, ns, s->wake_fd);
    s->awake = 1;
    plan_skips(s, ns != 0 || rc > 0 || d->count);
    if (rc > 0)
        rc = kernel_ready(s, rc);
    if (rc == 0 && d->count) {
        d->queued = 1;
        rc = queue_append(s->ready, batches);
    }
    Py_DECREF(batches);
    return rc;
}

static int queue_due_timers(Scheduler *s)
{
    double end, left;
    if (PyList_Size(s->timers) <= 0)
        return 0;
    if (scheduler_now(s, &end) < 0)
        return -1;
    int rc = 0;
    while (rc == 0 && PyList_Size(s->timers) > 0) {
        rc = first_due(s, end + s->resolution, &left);
        if (rc < 0 || left >= 0)
            break;
        PyObject *timer = timers_pop(s->timers);
        int off = timer ? timer_cancelled(timer) : -1;
        s->cancelled -= off > 0;
        rc = off ? off < 0 ? -1 : 0 : queue_append(s->ready, timer);
        Py_XDECREF(timer);
    }
    return rc;
}

/* Runs a handle, or hands out the batch where the Dispatcher stands among the handles. */
static int run_one(Scheduler *s, PyObject *handle)
{
    if (Py_TYPE(handle) != dispatcher_type)
        return handle_run(handle, (PyObject *)s);
    if (dispatcher_hand_out((Dispatcher *)handle) == 0)
        return 0;
    PyObject *exc = hot_take_exception();
    PyObject *r =
        exc ? PyObject_CallMethodObjArgs((PyObject *)s, name_failed, handle, exc, NULL) : NULL;
    Py_XDECREF(exc);
    return hot_done(r);
}

/* Runs the handles that are queued now, not those that they queue. */
static int run_ready(Scheduler *s)
{
    int rc = 0;
    for (Py_ssize_t n = queue_size(s->ready); rc == 0 && n > 0; n--) {
        PyObject *handle = queue_popleft(s->ready);
        if (!handle)
            break; /* a callback took it */
        rc = run_one(s, handle);
        Py_DECREF(handle);
    }
    return rc;
}

/* The lag: from when an iteration knew its events until the next one asks, which is how long an event that
 * came just after had to wait. The clock is read once per iteration, and once more where it slept. `more`:
 * an iteration follows. */
static void note_lag(Scheduler *s, bool more)
{
    int64_t end = ffl_now_ns(), lag = end - s->woke_ns;
    s->skipping =
        more && s->left > 0 && queue_size(s->ready) && (s->skips == 1 || lag < LONGEST_SKIP);
    if (s->skipping)
        return;
    uint64_t us = (uint64_t)lag >> 10;
    int i = us ? 64 - __builtin_clzll(us) : 0;
    if (i >= FFL_LAGS)
        i = FFL_LAGS - 1;
    s->lags[i]++;
    s->lag_ns += lag;
    if (s->batches && Py_TYPE(s->batches) == dispatcher_type)
        dispatcher_show_lag((Dispatcher *)s->batches, i, lag);
    s->woke_ns = end;
}

static int ask_for_events(Scheduler *s)
{
    int64_t ns = 0;
    int rc = next_timeout(s, &ns);
    if (rc == 0)
        rc = wait_events(s, ns);
    s->awake = 1;
    if (ns != 0)
        s->woke_ns = ffl_now_ns();
    return rc;
}

static int iterate(Scheduler *s)
{
    int rc = 0;
    if (s->skipping)
        s->left--;
    else
        rc = ask_for_events(s);
    if (rc == 0)
        rc = queue_due_timers(s);
    return rc == 0 ? run_ready(s) : rc;
}

/* (seconds of work, [(seconds, iterations that worked for less and at least half of it), ...]) */
PyObject *scheduler_lag(PyObject *self, PyObject *unused)
{
    const Scheduler *s = (Scheduler *)self;
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < FFL_LAGS; i++) {
        double bound = i == FFL_LAGS - 1 ? INFINITY : (double)(1024ULL << i) / NS;
        PyObject *pair = Py_BuildValue("(dK)", bound, (unsigned long long)s->lags[i]);
        if (!pair || PyList_Append(list, pair) < 0)
            Py_CLEAR(list);
        Py_XDECREF(pair);
    }
    return list ? Py_BuildValue("(dN)", (double)s->lag_ns / NS, list) : NULL;
}

/* One iteration; for run_forever several, until one says stop. The first one asks for events. */
PyObject *scheduler_run_once(PyObject *self, PyObject *unused)
{
    Scheduler *s = (Scheduler *)self;
    int rc, left = s->forever ? AT_ONCE : 1;
    bool more;
    s->woke_ns = ffl_now_ns();
    s->skipping = 0;
    do {
        s->awake = 0; /* asyncio's _run_once does not tell when it sleeps */
        if (s->debug || !s->timers)
            return scheduler_asyncio(name_run_once, self, NULL, 0, NULL);
        s->awake = s->skipping;
        rc = iterate(s);
        if (rc == 0 && s->forever)
            rc = PyErr_CheckSignals();
        more = rc == 0 && --left > 0 && s->forever && !s->stopping;
        note_lag(s, more);
    } while (more);
    return rc < 0 ? NULL : Py_NewRef(Py_None);
}

int iteration_exec(void)
{
    const struct hot_name names[] = {
        {&name_failed, "_failed"},
        {&name_run_once, "_run_once"},
        {&name_poll, "_poll"},
        {&name_kernel_ready, "_kernel_ready"},
    };
    return hot_intern_all(names, FFL_COUNT(names));
}
