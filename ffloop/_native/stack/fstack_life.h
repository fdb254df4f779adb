/*
 * fstack_life.h - F-Stack's life in a process: it begins once, its loop is entered for each wait,
 * and it ends with the process.
 *
 * Callers: fstack.c, all on the thread that began it. ff_init ends the process where it fails, and
 * ff_run ends F-Stack when its loop ends. So the linker redirects some of their calls to this file
 * (fstack.cmake): the process goes on, and F-Stack's loop can be run again and again.
 */
#ifndef FFL_FSTACK_LIFE_H
#define FFL_FSTACK_LIFE_H

#include "fstack_conf.h"

/* ff_init, with nothing on standard output. 0, or -errno with a sentence: F-Stack's own messages
 * are on standard error, and this process cannot try again. */
int fstack_life_begin(const struct fstack_conf *conf, char *why, size_t whylen);
/* May this thread use what was begun? 0, or -errno with a sentence. */
int fstack_life_usable(char *why, size_t whylen);
/* Runs F-Stack's loop, which sends what is queued, takes in packets and calls `iterate`,
 * until that returns -1. */
void fstack_life_run(ffl_iterate_fn iterate, void *arg);

#endif
