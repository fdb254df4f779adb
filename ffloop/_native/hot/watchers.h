/*
 * watchers.h - Watchers: the Handles and waiters that are told when a descriptor is ready.
 *
 * A descriptor has a reader and a writer, each of them a Handle, which is queued as long as the
 * descriptor is ready, or a waiter, a Future that is told once. The base class of the loops'
 * selectors (kernel_poller.py).
 */
#ifndef FFL_WATCHERS_H
#define FFL_WATCHERS_H

#include "hot.h"

enum side { READER, WRITER };

/* Makes `who` (a Handle or a waiter) the reader or writer of `file`, a descriptor or an object that
 * has one; a Handle that was there is cancelled. 0; -1 with an exception, and all is as it was. */
int watchers_set(PyObject *self, PyObject *file, enum side side, PyObject *who);
/* Takes the reader or writer out, and cancels a Handle. 1; 0: there was none; -1 with an
 * exception. */
int watchers_take(PyObject *self, PyObject *file, enum side side);
/* Before a transport takes over a descriptor that nobody watches: forgets its entry in the epoll,
 * which the transport then has. Is there an entry? */
bool watchers_hand_over(PyObject *watchers, int fd);
/* Ends a wait that nobody was told of; `closed`: the number is of another file. 0 or -1. */
int watchers_give_up(PyObject *self, int fd, const PyObject *waiter, bool closed);
/* Queues the Handles that an event of epoll's is for, and tells the waiters. 0 or -1. */
int watchers_ready(PyObject *self, int fd, unsigned events, PyObject *queue);

int watchers_exec(PyObject *module);

#endif
