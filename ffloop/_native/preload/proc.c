/*
 * proc.c - what becomes of stack sockets in another process: fork, exec, spawn.
 */
#include "preload.h"

#include <unistd.h>

int proc_import(struct sock *s)
{
    (void)s;
    return -EBADF;
}

void proc_disown(struct sock *s)
{
    (void)s;
}

int proc_instance(const struct ffl_addr *a)
{
    (void)a;
    return options.proc_id % options.instances;
}

void proc_start(void)
{
}
