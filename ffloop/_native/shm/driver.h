/*
 * driver.h - an instance in the application's own thread: how the client drives it.
 *
 * Callers: client/, which drives the instance where it would ring a doorbell or sleep;
 * instance/direct.c, which makes the driver. Sessions and rings are as between two processes,
 * but neither side is ever woken: one thread does the work of both.
 */
#ifndef FFL_DRIVER_H
#define FFL_DRIVER_H

#include "base.h"

struct ffl_driver {
    void *arg;
    /* Hands the submitted entries to the stack. */
    void (*submit)(void *arg);
    /* Sends the packets that the stack has queued, then runs the stack's loop, with an iteration of
     * the instance in each of the stack's, until `enough`, asked after each, returns true. */
    void (*run)(void *arg, bool (*enough)(void *caller), void *caller);
};

#endif
