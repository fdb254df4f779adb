/*
 * timers.h - a heap of TimerHandles, the earliest first. asyncio's own code, which a loop in debug
 * mode uses, keeps them in a list instead: timers_give and timers_take move them there and back.
 *
 * Caller: scheduler.c, iteration.c. 0 or -1 with an exception.
 */
#ifndef FFL_TIMERS_H
#define FFL_TIMERS_H

#include "handle.h"

struct timer_at {
    double when; /* the timer's, so that ordering reads no timer */
    PyObject *timer;
};

struct timers {
    struct timer_at *heap;
    Py_ssize_t n, room;
    bool untracked; /* there may be some that the garbage collector does not look at */
};

int timers_push(struct timers *t, PyObject *timer, double when);
/* Takes the earliest out: a new reference, marked as not scheduled. There is one. */
PyObject *timers_pop(struct timers *t);
/* Takes cancelled timers out: those at the head, or all where they are many. *cancelled: how many
 * are in the heap. */
int timers_tidy(struct timers *t, Py_ssize_t *cancelled);

PyObject *timers_give(struct timers *t);           /* all of them: a new list in heapq's order */
int timers_take(struct timers *t, PyObject *list); /* empties the list */

void timers_track(struct timers *t); /* handle_track of all */
int timers_traverse(const struct timers *t, visitproc visit, void *arg);
void timers_clear(struct timers *t);

#endif
