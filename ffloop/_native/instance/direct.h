/*
 * direct.h - an instance in the thread of its application (shm/driver.h).
 *
 * Callers: stack/fstack_module.c, tests. Used by one thread. The instance is as in a process of its
 * own, but leaves the process's own affairs to the application: signals, scheduling, SIGBUS.
 */
#ifndef FFL_DIRECT_H
#define FFL_DIRECT_H

#include "driver.h"
#include "stack.h"

/* `stack` has a loop of its own (ops->run). 0, or -errno with a sentence. */
int ffl_direct_open(struct ffl_driver *out, const struct ffl_stack_ops *stack,
                    const struct ffl_stack_opts *opts, const char *path, char *why, size_t whylen);
void ffl_direct_close(struct ffl_driver *d);

#endif
