/*
 * fstack_life.h - F-Stack's life in a process: it begins once, its loop is entered as often as somebody
 * waits, and it ends with the process.
 *
 * Callers: fstack.c. All on the thread that began it. ff_init ends the process where it fails, and ff_run
 * ends F-Stack when its loop ends; so the linker gives some of their calls to us (fstack.cmake): the
 * process goes on, and the loop that ff_run has is run when it is wanted, always on the same thread.
 */
#ifndef FFL_FSTACK_LIFE_H
#define FFL_FSTACK_LIFE_H

#include "fstack_conf.h"

/* ff_init, in silence on standard output. 0, or -errno with a sentence: F-Stack's own words are on
 * standard error, and it cannot be tried again in this process. */
int fstack_life_begin(const struct fstack_conf *conf, char *why, size_t whylen);
/* May this thread use what was begun? 0, or -errno with a sentence. */
int fstack_life_usable(char *why, size_t whylen);
/* Runs F-Stack's loop: `iterate` is called at once, when what was sent before has left and what has come
 * was taken in, and from then on as F-Stack does it, until it returns -1. */
void fstack_life_run(ffl_iterate_fn iterate, void *arg);

#endif
