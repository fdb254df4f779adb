/* timers.c - the heap of timers. See timers.h. */
#include "timers.h"

#define TIDY_FROM 100 /* timers; below, only cancelled ones at the head are taken out */

/* a, b: places in the list. 1: a's timer is earlier. */
static int earlier(PyObject *list, Py_ssize_t a, Py_ssize_t b)
{
    double at_a, at_b;
    if (timer_when(PyList_GetItem(list, a), &at_a) < 0 ||
        timer_when(PyList_GetItem(list, b), &at_b) < 0)
        return -1;
    return at_a < at_b;
}

static void swap(PyObject *list, Py_ssize_t a, Py_ssize_t b)
{
    PyObject *x = Py_NewRef(PyList_GetItem(list, a)), *y = Py_NewRef(PyList_GetItem(list, b));
    PyList_SetItem(list, a, y);
    PyList_SetItem(list, b, x);
}

static int sift_up(PyObject *list, Py_ssize_t i)
{
    int less = 0;
    while (i > 0 && (less = earlier(list, i, (i - 1) / 2)) > 0) {
        swap(list, i, (i - 1) / 2);
        i = (i - 1) / 2;
    }
    return less < 0 ? -1 : 0;
}

static int sift_down(PyObject *list, Py_ssize_t i)
{
    Py_ssize_t n = PyList_Size(list);
    for (Py_ssize_t child; (child = 2 * i + 1) < n; i = child) {
        int right = child + 1 < n ? earlier(list, child + 1, child) : 0;
        if (right > 0)
            child++;
        int less = right < 0 ? -1 : earlier(list, child, i);
        if (less <= 0)
            return less;
        swap(list, child, i);
    }
    return 0;
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
    if (last > 0)
        swap(list, 0, last);
    if (PyList_SetSlice(list, last, last + 1, NULL) < 0 || sift_down(list, 0) < 0 ||
        timer_set_scheduled(head, false) < 0)
        Py_CLEAR(head);
    return head;
}

/* Keeps those that are not cancelled, then orders what is left. */
static int rebuild(PyObject *list)
{
    Py_ssize_t n = PyList_Size(list), kept = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        int off = timer_cancelled(PyList_GetItem(list, i));
        if (off > 0)
            off = timer_set_scheduled(PyList_GetItem(list, i), false);
        else if (off == 0)
            swap(list, i, kept++);
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
