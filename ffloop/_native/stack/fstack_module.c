/* fstack_module.c - the export of libffloop_fstack.so: instances on F-Stack in the caller's own thread
 * (shm/driver.h). */
#include "direct.h"

extern const struct ffl_stack_ops ffl_fstack_ops;

static int open_fstack(struct ffl_driver *out, int argc, char **argv, const char *path, char *why,
                       size_t whylen)
{
    struct ffl_stack_opts opts = {.argc = argc, .argv = argv};
    return ffl_direct_open(out, &ffl_fstack_ops, &opts, path, why, whylen);
}

extern const struct ffl_direct_module FFL_DIRECT_MODULE;
__attribute__((visibility("default"))) const struct ffl_direct_module FFL_DIRECT_MODULE = {
    .open = open_fstack,
    .close = ffl_direct_close,
};
