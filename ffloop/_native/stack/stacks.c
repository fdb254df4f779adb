/* stacks.c - the stacks in ffloop's own executables.
 * F-Stack is in an object of its own (shm/module.h). */
#include "stack.h"

extern const struct ffl_stack_ops ffl_host_ops;

const struct ffl_stack_ops *const ffl_stacks[] = {&ffl_host_ops, NULL};
