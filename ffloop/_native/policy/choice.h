/*
 * choice.h - which instance an application uses: its path, its number of several, its CPU.
 *
 * Callers: the loop, the shim, `ffloop doctor`; the instance, for its own path. An application
 * tries the named path (FFLOOP_INSTANCE), else the usual paths until an instance answers.
 * Of several instances (FF_NB_FSTACK_INSTANCE) the n-th loop, thread or listener of worker
 * FF_PROC_ID uses number FF_PROC_ID + n, round robin. Pure, but for the environment
 * (XDG_RUNTIME_DIR).
 */
#ifndef FFL_CHOICE_H
#define FFL_CHOICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FFL_CHOICE_PATH 256 /* room for a path */

/* The try-th path, from 0, at which to look for instance number `index`; named may be NULL. 0;
 * -ENOENT: there are no more; -ENAMETOOLONG. */
int ffl_choice_place(const char *named, unsigned try, int index, char *out, size_t len);
/* The path of instance number `index`, by number 0's: instance.sock, instance-1.sock, ... 0 or
 * -ENAMETOOLONG. */
int ffl_choice_nth(const char *path, int index, char *out, size_t len);
/* Does this -errno of attaching mean that no instance listens, so that the next path is tried? */
bool ffl_choice_next(int rc);

int ffl_choice_index(int proc_id, int64_t nth, int instances);
/* The CPU `up` places above the mask's first; -1: any, since the mask is 0. */
int64_t ffl_choice_cpu(uint64_t mask, int64_t up);

/* 0 when the stack that runs at `path` is the wanted one (NULL: any), or -EPROTONOSUPPORT with a
 * sentence. */
int ffl_choice_stack(const char *wanted, const char *runs, const char *path, char *why, size_t len);
/* A sentence that says how to start instance `index` of `instances`, which does not run. */
void ffl_choice_none(const char *wanted, int index, int instances, char *why, size_t len);

#endif
