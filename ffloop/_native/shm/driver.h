/*
 * driver.h - an instance in the application's own thread: how the client makes it work.
 *
 * Callers: client/, which is given one, in place of a doorbell and of sleeping; instance/direct.c, which
 * makes one. The sessions, the rings and the rules are those between two processes; but nobody is woken,
 * since one thread does the work of both, first one's and then the other's.
 */
#ifndef FFL_DRIVER_H
#define FFL_DRIVER_H

#include "base.h"

struct ffl_driver {
    void *arg;
    /* What was submitted is handed to the stack. */
    void (*submit)(void *arg);
    /* The stack's own loop, with an iteration of the instance in each of its own, until `enough` says
     * so, which is asked after each. What has left the instance for the wire leaves first. */
    void (*run)(void *arg, bool (*enough)(void *caller), void *caller);
};

/* What a module with a stack exports (FFL_DIRECT_SYMBOL): instances for the caller's thread. The number in
 * the name is that of these calls and of the ring's. */
struct ffl_direct_module {
    /* A stack's options are "key=value"; `path` is where the instance listens as well (for ffloop stat).
     * 0, or -errno with a sentence. */
    int (*open)(struct ffl_driver *out, int argc, char **argv, const char *path, char *why,
                size_t whylen);
    void (*close)(struct ffl_driver *d); /* after its clients are detached */
};

#define FFL_DIRECT_MODULE ffl_direct_module_1
#define FFL_DIRECT_SYMBOL "ffl_direct_module_1"

#endif
