/* stacks.c - the table of stacks in this executable: the one #ifdef site for F-Stack. */
#include "stack.h"

extern const struct ffl_stack_ops ffl_host_ops;
#ifdef FFL_FSTACK
extern const struct ffl_stack_ops ffl_fstack_ops;
#endif

const struct ffl_stack_ops *const ffl_stacks[] = {
    &ffl_host_ops,
#ifdef FFL_FSTACK
    &ffl_fstack_ops,
#endif
    NULL,
};
