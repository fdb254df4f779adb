/* timers.c - the heap of timers. See timers.h. */
#include "timers.h"

#define TIDY_FROM 100 /* timers; below, only cancelled ones at the head are taken out */

/* The time of the timer at place i. */
static int when_at(PyObject *list, Py_ssize_t i, double *when)
{
    return timer_when(PyList_GetItem(list, i), when);
}

/* Copies a reference to another place, and drops the one that was there. */
static void move(PyObject *list, Py_ssize_t from, Py_ssize_t to)
{
    PyList_SetItem(list, to, Py_NewRef(PyList_GetItem(list, from)));
}

/* Both move timers into the gap at place i until the timer of place i fits, and put it there. */
static int sift_up(PyObject *list, Py_ssize_t i)
{
    PyObject *timer = Py_NewRef(PyList_GetItem(list, i));
    double when, above = 0;
    int rc = timer_when(timer, &when);
    for (; rc == 0 && i > 0; i = (i - 1) / 2) {
        rc = when_at(list, (i - 1) / 2, &above);
        if (rc < 0 || above <= when)
            break;
        move(list, (i - 1) / 2, i);
    }
    PyList_SetItem(list, i, timer);
    return rc;
}

static int sift_down(PyObject *list, Py_ssize_t i)
{
    Py_ssize_t n = PyList_Size(list);
    PyObject *timer = Py_NewRef(PyList_GetItem(list, i));
    double when, left = 0, right = 0;
    int rc = timer_when(timer, &when);
    for (Py_ssize_t child; rc == 0 && (child = 2 * i + 1) < n; i = child) {
        rc = when_at(list, child, &left);
        if (rc == 0 && child + 1 < n)
            rc = when_at(list, child + 1, &right);
        if (rc == 0 && child + 1 < n && right < left) {
            left = right;
            child++;
        }
        if (rc < 0 || when <= left)
            break;
        move(list, child, i);
    }
    PyList_SetItem(list, i, timer);
    return rc;
}

int timers_push(PyObject *list, PyObject *timer)
{
    if (PyList_Append(list, timer) < 0)
        return -1;
    if (sift_up(list, PyList_Size(list) - 1) < 0)
        return -1;
    return timer_set_scheduled(timer, true);
}

PyObject *timers_pop(PyObject *list)
{
    Py_ssize_t last = PyList_Size(list) - 1;
    PyObject *head = Py_NewRef(PyList_GetItem(list, 0));
    move(list, last, 0);
    if (PyList_SetSlice(list, last, last + 1, NULL) < 0 || (last > 0 && sift_down(list, 0) < 0) ||
        timer_set_scheduled(head, false) < 0)
        Py_CLEAR(head);
    return head;
}

/* Drops cancelled timers, then orders the others. */
static int rebuild(PyObject *list)
{
    Py_ssize_t n = PyList_Size(list), kept = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        int off = timer_cancelled(PyList_GetItem(list, i));
        if (off > 0)
            off = timer_set_scheduled(PyList_GetItem(list, i), false);
        else if (off == 0)
            move(list, i, kept++);
        if (off < 0)
            return -1;
    }
    int rc = PyList_SetSlice(list, kept, n, NULL);
    for (Py_ssize_t i = kept / 2 - 1; rc == 0 && i >= 0; i--)
        rc = sift_down(list, i);
    return rc;
}

int timers_tidy(PyObject *list, Py_ssize_t *cancelled)
{
    if (PyList_Size(list) > TIDY_FROM && *cancelled > PyList_Size(list) / 2) {
        *cancelled = 0;
        return rebuild(list);
    }
    int off = 0;
    while (*cancelled > 0 && PyList_Size(list) > 0 &&
           (off = timer_cancelled(PyList_GetItem(list, 0))) > 0) {
        PyObject *head = timers_pop(list);
        if (!head)
            return -1;
        Py_DECREF(head);
        (*cancelled)--;
    }
    return off < 0 ? -1 : 0;
}
