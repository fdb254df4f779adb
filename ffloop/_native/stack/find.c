/* find.c - finds a stack of this executable by its name. */
#include "stack.h"

#include <string.h>

const struct ffl_stack_ops *ffl_stack_find(const char *name)
{
    for (int i = 0; ffl_stacks[i]; i++)
        if (strcmp(ffl_stacks[i]->name, name) == 0)
            return ffl_stacks[i];
    return NULL;
}
