/* fstack_module.c - the export of libffloop_fstack.so (shm/module.h). */
#include "direct.h"
#include "module.h"

extern const struct ffl_stack_ops ffl_fstack_ops;

static int open_fstack(struct ffl_driver *out, int argc, char **argv, const char *path, char *why,
                       size_t whylen)
{
    struct ffl_stack_opts opts = {.argc = argc, .argv = argv};
    return ffl_direct_open(out, &ffl_fstack_ops, &opts, path, why, whylen);
}

__attribute__((visibility("default"))) const struct ffl_module ffl_module = {
    .version = FFL_VERSION,
    .built = FFL_FSTACK_BUILT,
    .stack = &ffl_fstack_ops,
    .open = open_fstack,
    .close = ffl_direct_close,
};
