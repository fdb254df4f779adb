/* stacks.c - the table of stacks in this executable: the one #ifdef site for F-Stack. */
#include "stack.h"

#include <string.h>

extern const struct ffl_stack_ops ffl_host_ops, ffl_sim_ops;
#ifdef FFL_FSTACK
extern const struct ffl_stack_ops ffl_fstack_ops;
#endif

const struct ffl_stack_ops *const ffl_stacks[] = {
    &ffl_host_ops,
    &ffl_sim_ops,
#ifdef FFL_FSTACK
    &ffl_fstack_ops,
#endif
    NULL,
};

const struct ffl_stack_ops *ffl_stack_find(const char *name)
{
    for (int i = 0; ffl_stacks[i]; i++)
        if (strcmp(ffl_stacks[i]->name, name) == 0)
            return ffl_stacks[i];
    return NULL;
}
