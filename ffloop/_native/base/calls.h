/*
 * calls.h - the system calls that an instance needs, and which of them this kernel lacks.
 *
 * An old kernel says ENOSYS, a container's seccomp profile EPERM or any other errno. Callers: the
 * instance before it starts, `ffloop doctor`; code that has another way (ffl_lacks).
 */
#ifndef FFL_CALLS_H
#define FFL_CALLS_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>

/* Does this errno say that the kernel lacks the call? (Not for calls that fail for want of rights,
 * as bind does.) */
static inline bool ffl_lacks(int err)
{
    return err == ENOSYS || err == EPERM || err == EACCES;
}

/* epoll_pwait2 without a signal mask; ENOSYS too where the C library has no such call (before
 * 2.35). */
struct epoll_event;
struct timespec;
int ffl_epoll_pwait2(int epfd, struct epoll_event *ev, int max, const struct timespec *timeout);

enum ffl_call {
    FFL_CALL_MEMFD,
    FFL_CALL_EVENTFD,
    FFL_CALL_ACCEPT,
    FFL_CALL_SENDMSG,
    FFL_CALL_RECVMSG,
    FFL_CALL_RANDOM,
    FFL_CALL_PIDFD,
    FFL_CALL_PWAIT,
    FFL_CALLS
};
const char *ffl_call_name(enum ffl_call call);
/* The loss where the call is missing, in words; NULL: no instance runs without the call. */
const char *ffl_call_without(enum ffl_call call);
/* Makes the call, without effect: 0, or the errno of a call that the kernel lacks. */
int ffl_call_try(enum ffl_call call);

/* 0, or -errno with a sentence in `why` when an indispensable call is missing. */
int ffl_calls_check(char *why, size_t len);

#endif
