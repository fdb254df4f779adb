/*
 * iteration.c - a Scheduler's iterations (_run_once). See scheduler.h.
 *
 * The order is uvloop's: wait for events and hand them out, queue the timers that are due, run the
 * handles queued up to here. What events schedule runs before the next wait. While callbacks are
 * queued, ever fewer iterations ask for events while none is found. The loop does the rare cases in
 * Python: _poll (no session, or events that have handles in the queue since debug mode), _failed (a
 * callback raised).
 *
 * Waking from another thread: `awake` is lowered before the last look at the queue, and the
 * interpreter's lock is held from there to the wait. So a handle that another thread appends before
 * is seen, and for one that it appends later it writes to the wake descriptor.
 */
#include "queue.h"
#include "scheduler.h"
#include "watchers.h"

#include <math.h>

#define AT_ONCE 100        /* iterations, then the interpreter has a look: other threads, tracing */
#define LONGEST_S 86400.0  /* as asyncio's MAXIMUM_SELECT_TIMEOUT */
#define MOST_SKIPS 16      /* iterations that do not ask for events, between two that do */
#define LONGEST_SKIP 50000 /* ns from a wait on */

static PyObject *name_run_once, *name_poll;

/* Where there are timers: the loop's time. It may be the application's own code, so the timers are
 * taken back after it. */
static int timers_at(Scheduler *s, double *at)
{
    if (!s->timers.n && !s->listed)
        return 0;
    return scheduler_now(s, at) < 0 ? -1 : scheduler_own_timers(s);
}

/* The time until something is due, nanoseconds; -1: for ever. */
static int next_timeout(Scheduler *s, int64_t *ns)
{
    const struct timers *timers = &s->timers;
    double at = 0;
    if (s->cancelled > 0 &&
        (scheduler_own_timers(s) < 0 || timers_tidy(&s->timers, &s->cancelled) < 0))
        return -1;
    if (!queue_size(s->ready) && timers_at(s, &at) < 0)
        return -1;
    double left = timers->n ? timers->heap[0].when - at : 0;
    s->awake = 0;
    if (queue_size(s->ready) || s->stopping)
        *ns = 0;
    else if (!timers->n)
        *ns = -1;
    else
        *ns = left <= 0 ? 0 : (int64_t)((left < LONGEST_S ? left : LONGEST_S) * NS) + 1;
    return 0;
}

/* After a wait of up to `ns`: a sleep is no work. */
static void awake_again(Scheduler *s, int64_t ns)
{
    s->awake = 1;
    if (ns != 0)
        s->woke_ns = ffl_now_ns();
}

static int poll_loop(Scheduler *s, int64_t ns)
{
    PyObject *timeout = PyLong_FromLongLong(ns);
    PyObject *r =
        timeout ? PyObject_CallMethodObjArgs((PyObject *)s, name_poll, timeout, NULL) : NULL;
    awake_again(s, ns);
    Py_XDECREF(timeout);
    return hot_done(r);
}

/* A descriptor of the selector's. */
static int kernel_ready(void *scheduler, int fd, unsigned events)
{
    const Scheduler *s = scheduler;
    return watchers_ready(s->watchers, fd, events, s->ready);
}

/* The number of iterations that will not ask for events, unless more is watched meanwhile: none
 * after one that slept or `found` some, but one for what the events' `queued` handles schedule. */
static void plan_skips(Scheduler *s, bool found, bool queued)
{
    int most = found ? 0 : !s->skips ? 1 : 2 * s->skips;
    s->skips = s->left = most < MOST_SKIPS ? most : MOST_SKIPS;
    s->left += queued;
}

static int wait_batch(Scheduler *s, Dispatcher *d, int64_t ns)
{
    d->added = false;
    int rc = dispatcher_wait(d, ns, s->wake_fd);
    awake_again(s, ns);
    plan_skips(s, ns != 0 || rc > 0 || d->count, rc > 0);
    return rc > 0 ? dispatcher_kernel_events(d, rc, kernel_ready, s) : rc;
}

/* Waits, unless an interrupt has left a batch unfinished, and hands the batch out. */
static int serve_events(Scheduler *s, int64_t ns)
{
    PyObject *batches = s->batches;
    Dispatcher *d = (Dispatcher *)batches;
    if (gather_flush() < 0) /* written by what ran before the wait */
        return -1;
    if (!batches || !PyObject_TypeCheck(batches, dispatcher_type) || d->queued)
        return poll_loop(s, ns);
    Py_INCREF(batches); /* what is called may end the session */
    int rc = d->index < d->count ? 0 : wait_batch(s, d, ns);
    while (rc == 0 && d->index < d->count)
        rc = dispatcher_hand_out(d) < 0 ? handle_failed(batches, (PyObject *)s) : 0;
    Py_DECREF(batches);
    return rc;
}

static int queue_due_timers(Scheduler *s)
{
    struct timers *timers = &s->timers;
    double end = 0;
    int rc = timers_at(s, &end);
    while (rc == 0 && timers->n && timers->heap[0].when < end + s->resolution) {
        PyObject *timer = timers_pop(timers);
        int off = timer ? handle_cancelled(timer) : -1;
        s->cancelled -= off > 0;
        rc = off ? off < 0 ? -1 : 0 : queue_append(s->ready, timer);
        if (off == 0)
            Py_DECREF(timer);
        else if (timer)
            handle_drop(timer);
    }
    return rc;
}

/* Runs the handles that are queued now, not those that they queue. */
static int run_ready(Scheduler *s, struct gather *kept)
{
    int rc = 0;
    for (Py_ssize_t n = queue_size(s->ready); rc == 0 && n > 0; n--) {
        queue_fetch(s->ready);
        PyObject *handle = queue_popleft(s->ready);
        if (!handle)
            break; /* a callback took it */
        rc = handle_run(handle, (PyObject *)s);
        handle_drop(handle);
        if (rc == 0)
            rc = gather_next(kept);
    }
    return rc;
}

/* The lag: from when an iteration knew its events until the next one asks, which is how long an
 * event that came just after had to wait. The clock is read once per iteration, and once more where
 * it slept. `more`: an iteration follows. */
static void note_lag(Scheduler *s, bool more)
{
    int64_t end = ffl_now_ns(), lag = end - s->woke_ns;
    bool has_batches = s->batches && Py_TYPE(s->batches) == dispatcher_type;
    Dispatcher *d = has_batches ? (Dispatcher *)s->batches : NULL;
    s->skipping =
        more && s->left > 0 && queue_size(s->ready) && lag < LONGEST_SKIP && !(d && d->added);
    if (s->skipping)
        return;
    uint64_t us = (uint64_t)lag >> 10;
    int i = us ? 64 - __builtin_clzll(us) : 0;
    if (i >= FFL_LAGS)
        i = FFL_LAGS - 1;
    s->lags[i]++;
    s->lag_ns += lag;
    if (d)
        dispatcher_show_lag(d, i, lag);
    s->woke_ns = end;
}

static int ask_for_events(Scheduler *s)
{
    int64_t ns = 0;
    int rc = next_timeout(s, &ns);
    return rc == 0 ? serve_events(s, ns) : rc;
}

static int iterate(Scheduler *s)
{
    struct gather *kept = gather_here();
    int rc = gather_begin(kept);
    if (s->skipping)
        s->left--;
    else if (rc == 0)
        rc = ask_for_events(s);
    if (rc == 0)
        rc = queue_due_timers(s);
    return gather_end(kept, rc == 0 ? run_ready(s, kept) : rc);
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
        if (s->debug)
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
        {&name_run_once, "_run_once"},
        {&name_poll, "_poll"},
    };
    return hot_intern_all(names, FFL_COUNT(names));
}
