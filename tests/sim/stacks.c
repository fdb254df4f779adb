/* stacks.c - the stacks of the test executables: this kernel's and the sim. */
#include "sim.h"

extern const struct ffl_stack_ops ffl_host_ops;

const struct ffl_stack_ops *const ffl_stacks[] = {&ffl_host_ops, &ffl_sim_ops, NULL};
