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

/* The export (FFL_DIRECT_SYMBOL) of a module with a stack: opens instances in the caller's thread.
 * The number in its name changes with these calls. */
struct ffl_direct_module {
    /* A stack's options are "key=value"; `path` is where the instance listens as well (for ffloop
     * stat). 0, or -errno with a sentence. */
    int (*open)(struct ffl_driver *out, int argc, char **argv, const char *path, char *why,
                size_t whylen);
    void (*close)(struct ffl_driver *d); /* after its clients are detached */
};

#define FFL_DIRECT_MODULE ffl_direct_module_1
#define FFL_DIRECT_SYMBOL "ffl_direct_module_1"

#endif
