/* module.c - the sim in F-Stack's place (shm/module.h), for tests of what loads it. */
#include "module.h"

#include "sim.h"

__attribute__((visibility("default"))) const struct ffl_module ffl_module = {
    .version = FFL_VERSION,
    .built = "the sim",
    .stack = &ffl_sim_ops,
};
