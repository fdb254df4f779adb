/*
 * confined.c - a process that forbids itself system calls (seccomp), as sshd's does that talks to
 * somebody unknown.
 *
 * Callers: the program, raw.c. Before the filter holds, the process attaches for the sockets that
 * it has, and the thread's waiter is made. From then on sleeps take ppoll and read alone
 * (ffl_confined), of one descriptor, which a limit of descriptors of 1 allows.
 */
#include "proc.h"

#include <linux/seccomp.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#ifndef SECCOMP_FILTER_FLAG_NEW_LISTENER
#define SECCOMP_FILTER_FLAG_NEW_LISTENER (1UL << 3)
#endif

static void make_ready(void)
{
    lock();
    proc_import_all();
    if (session_first() && waiter_mine() == 0)
        (void)waiter_bells(tls.waiter); /* fails: the next wait tries again */
    unlock();
}

long proc_confine(long number, const long *a)
{
    bool filters = number == SYS_prctl ? a[0] == PR_SET_SECCOMP : a[0] <= SECCOMP_SET_MODE_FILTER;
    if (filters && started && !tls.inside)
        make_ready();
    long rc = real.syscall(number, a[0], a[1], a[2], a[3], a[4]);
    /* Else a number is a thread's (SECCOMP_FILTER_FLAG_TSYNC), and there is no filter. */
    bool listens = number == SYS_seccomp && a[1] & SECCOMP_FILTER_FLAG_NEW_LISTENER;
    if (filters && (rc == 0 || (listens && rc > 0)))
        ffl_confined = true;
    return listens && rc > 0 ? fd_made((int)rc) : rc;
}

API int prctl(int what, ...)
{
    real_start();
    long a[5] = {what};
    va_list ap;
    va_start(ap, what);
    for (int i = 1; i < 5; i++)
        a[i] = va_arg(ap, long); /* as the C library's own does */
    va_end(ap);
    return (int)proc_confine(SYS_prctl, a);
}
