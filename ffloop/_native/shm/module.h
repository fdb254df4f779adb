/*
 * module.h - F-Stack, in a shared object that the distribution ffloop-fstack installs beside the
 * package.
 *
 * Callers: instance/options.c, for an instance on F-Stack; client/direct.c, for F-Stack in the
 * application's thread. stack/fstack_module.c is the object's export. Nothing else links F-Stack
 * and DPDK.
 */
#ifndef FFL_MODULE_H
#define FFL_MODULE_H

#include "driver.h"

struct ffl_stack_ops;

struct ffl_module {
    const char *version; /* ffloop's: the structures of both sides are one version's */
    const char *built;   /* with which F-Stack and DPDK */
    const struct ffl_stack_ops *stack;
    /* Opens an instance in the caller's thread. The stack's options are "key=value"; `path` is
     * where the instance listens as well (for ffloop stat). 0, or -errno with a sentence. */
    int (*open)(struct ffl_driver *out, int argc, char **argv, const char *path, char *why,
                size_t whylen);
    void (*close)(struct ffl_driver *d); /* after its clients are detached */
};

extern const struct ffl_module ffl_module; /* the export */

/* Loads the object beside the package that has its compiled files in the folder `native`. The
 * object stays loaded. 0, or -ENOENT (not installed) or -ELIBBAD, with a sentence that ends in ": "
 * and what to do. */
int ffl_module_load(const struct ffl_module **out, const char *native, char *why, size_t whylen);

#endif
