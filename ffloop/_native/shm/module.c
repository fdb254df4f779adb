/* module.c - see module.h. */
#include "module.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define INSTALL "FF_PATH=/path/to/f-stack pip install ffloop-fstack"

int ffl_module_load(const struct ffl_module **out, const char *native, char *why, size_t whylen)
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s/../../ffloop_fstack/libffloop_fstack.so", native);
    if (access(path, F_OK) < 0) {
        snprintf(why, whylen, "F-Stack is not installed: " INSTALL " (docs/fstack.md)");
        return -ENOENT;
    }
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    const struct ffl_module *module = object ? dlsym(object, "ffl_module") : NULL;
    if (!module) {
        snprintf(
            why, whylen,
            "F-Stack cannot be loaded (%.180s): install what is missing, or ffloop-fstack again",
            dlerror());
        return -ELIBBAD;
    }
    if (strcmp(module->version, FFL_VERSION) != 0) {
        snprintf(why, whylen, "ffloop-fstack %s does not go with ffloop %s: " INSTALL "==%s",
                 module->version, FFL_VERSION, FFL_VERSION);
        return -ELIBBAD;
    }
    *out = module;
    return 0;
}
