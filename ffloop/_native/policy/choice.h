/*
 * choice.h - which instance a program uses: where it looks, which of several, on which CPU.
 *
 * Callers: the loop, the shim, `ffloop doctor`; the instance for where it listens. The order: the path
 * that is named (FFLOOP_INSTANCE), else the usual paths until one answers. Of several instances (FF_NB_FSTACK_INSTANCE) worker FF_PROC_ID's n-th loop, thread or listener uses
 * number FF_PROC_ID + n, round robin. Pure, but for the environment (XDG_RUNTIME_DIR).
 */
#ifndef FFL_CHOICE_H
#define FFL_CHOICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FFL_CHOICE_PATH 256 /* room for a path */

/* The try-th path, from 0, at which to look for instance number `index`; named may be NULL. 0; -ENOENT:
 * there are no more; -ENAMETOOLONG. */
int ffl_choice_place(const char *named, unsigned try, int index, char *out, size_t len);
/* The socket of the index-th of several: instance.sock, instance-1.sock, ... The same. */
int ffl_choice_nth(const char *path, int index, char *out, size_t len);
/* Does this -errno of attaching mean that nobody listens, so that the next path is tried? */
bool ffl_choice_next(int rc);

int ffl_choice_index(int proc_id, int64_t nth, int instances);
/* The CPU `up` places above the mask's first; -1: any, since the mask is 0. */
int64_t ffl_choice_cpu(uint64_t mask, int64_t up);

/* 0 when the stack that runs at `path` is the wanted one (NULL: any), or -EPROTONOSUPPORT with a
 * sentence. */
int ffl_choice_stack(const char *wanted, const char *runs, const char *path, char *why, size_t len);
/* What to do when instance `index` of `instances` is not there. */
void ffl_choice_none(const char *wanted, int index, int instances, char *why, size_t len);

#endif
