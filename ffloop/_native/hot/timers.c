/* timers.c - the heap of timers. See timers.h. */
#include "timers.h"

#define FIRST_ROOM 64
#define KEPT_ROOM 4096 /* a heap keeps so many places, whatever is in it */
#define TIDY_FROM 100  /* timers; below, only cancelled ones at the head are taken out */

/* Puts e at place i, or above it, not above `top`. */
static void sift_up(struct timer_at *heap, Py_ssize_t i, Py_ssize_t top, struct timer_at e)
{
    for (Py_ssize_t above; i > top && heap[above = (i - 1) / 2].when > e.when; i = above)
        heap[i] = heap[above];
    heap[i] = e;
}

/* Puts e at place `top`, or below it: from the bottom up, since most belong near it. */
static void sift_down(struct timers *t, Py_ssize_t top, struct timer_at e)
{
    struct timer_at *heap = t->heap;
    Py_ssize_t i = top;
    for (Py_ssize_t child; (child = 2 * i + 1) < t->n; i = child) {
        child += child + 1 < t->n && heap[child + 1].when <= heap[child].when;
        heap[i] = heap[child];
    }
    sift_up(heap, i, top, e);
}

static int add(struct timers *t, PyObject *timer, double when)
{
    if (t->n == t->room) {
        Py_ssize_t room = t->room ? 2 * t->room : FIRST_ROOM;
        struct timer_at *heap = PyMem_Realloc(t->heap, (size_t)room * sizeof(*heap));
        if (!heap) {
            PyErr_NoMemory();
            return -1;
        }
        t->heap = heap;
        t->room = room;
    }
    sift_up(t->heap, t->n++, 0, (struct timer_at){when, Py_NewRef(timer)});
    t->untracked |= !PyObject_GC_IsTracked(timer);
    return 0;
}

int timers_push(struct timers *t, PyObject *timer, double when)
{
    return add(t, timer, when) < 0 ? -1 : timer_set_scheduled(timer, true);
}

PyObject *timers_pop(struct timers *t)
{
    PyObject *first = t->heap[0].timer;
    for (Py_ssize_t i = 1; i < t->n && i < 3; i++)
        __builtin_prefetch(t->heap[i].timer); /* one of them is the next */
    if (--t->n)
        sift_down(t, 0, t->heap[t->n]);
    else if (t->room > KEPT_ROOM)
        timers_clear(t);
    if (timer_set_scheduled(first, false) < 0)
        Py_CLEAR(first);
    return first;
}

/* Takes the cancelled timers out, *n, into `gone`. The others are in no order then. */
static int sift_out(struct timers *t, PyObject **gone, Py_ssize_t *n)
{
    Py_ssize_t kept = 0;
    int rc = 0;
    for (Py_ssize_t i = 0; i < t->n; i++) {
        struct timer_at e = t->heap[i];
        int off = rc == 0 ? handle_cancelled(e.timer) : 0;
        if (off > 0) {
            gone[(*n)++] = e.timer;
            off = timer_set_scheduled(e.timer, false);
        } else {
            t->heap[kept++] = e;
        }
        rc = off < 0 ? -1 : rc;
    }
    t->n = kept;
    return rc;
}

/* Gives room back that a heap which was large does not need. */
static void shrink(struct timers *t)
{
    Py_ssize_t room = 2 * t->n < KEPT_ROOM ? KEPT_ROOM : 2 * t->n;
    struct timer_at *heap =
        t->room > 2 * room ? PyMem_Realloc(t->heap, (size_t)room * sizeof(*heap)) : NULL;
    if (heap) {
        t->heap = heap;
        t->room = room;
    }
}

/* Drops cancelled timers, then orders the others. */
static int rebuild(struct timers *t)
{
    PyObject **gone = PyMem_Malloc((size_t)t->n * sizeof(*gone));
    if (!gone) {
        PyErr_NoMemory();
        return -1;
    }
    Py_ssize_t n = 0;
    int rc = sift_out(t, gone, &n);
    for (Py_ssize_t i = t->n / 2; i-- > 0;)
        sift_down(t, i, t->heap[i]);
    shrink(t);
    while (n > 0) /* what that frees may add timers */
        handle_drop(gone[--n]);
    PyMem_Free(gone);
    return rc;
}

int timers_tidy(struct timers *t, Py_ssize_t *cancelled)
{
    if (t->n > TIDY_FROM && *cancelled > t->n / 2) {
        *cancelled = 0;
        return rebuild(t);
    }
    int off = 0;
    while (*cancelled > 0 && t->n && (off = handle_cancelled(t->heap[0].timer)) > 0) {
        PyObject *first = timers_pop(t);
        if (!first)
            return -1;
        handle_drop(first);
        (*cancelled)--;
    }
    return off < 0 ? -1 : 0;
}

PyObject *timers_give(struct timers *t)
{
    PyObject *list = PyList_New(t->n);
    timers_track(t);
    for (Py_ssize_t i = 0; list && i < t->n; i++)
        PyList_SetItem(list, i, t->heap[i].timer);
    if (list)
        t->n = 0;
    return list;
}

int timers_take(struct timers *t, PyObject *list)
{
    double when;
    for (Py_ssize_t i = 0; i < PyList_Size(list); i++) {
        PyObject *timer = Py_NewRef(PyList_GetItem(list, i));
        int rc = timer_when(timer, &when) < 0 ? -1 : add(t, timer, when);
        Py_DECREF(timer);
        if (rc < 0) {
            timers_clear(t);
            return -1;
        }
    }
    return PyList_SetSlice(list, 0, PyList_Size(list), NULL);
}

void timers_track(struct timers *t)
{
    for (Py_ssize_t i = 0; t->untracked && i < t->n; i++)
        handle_track(t->heap[i].timer);
    t->untracked = false;
}

int timers_traverse(const struct timers *t, visitproc visit, void *arg)
{
    for (Py_ssize_t i = 0; i < t->n; i++)
        Py_VISIT(t->heap[i].timer);
    return 0;
}

void timers_clear(struct timers *t)
{
    struct timers was = *t;
    *t = (struct timers){0};
    for (Py_ssize_t i = 0; i < was.n; i++)
        handle_drop(was.heap[i].timer);
    PyMem_Free(was.heap);
}
