/*
 * calls.h - the kernel's calls that an instance stands on: which there are, and which it lacks here.
 *
 * An old kernel says ENOSYS, the seccomp profile of a container EPERM or what else it likes. Callers:
 * the instance before it starts, `ffloop doctor`; whoever has another way (ffl_lacks).
 */
#ifndef FFL_CALLS_H
#define FFL_CALLS_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>

/* Does this errno say that the call is not there, in place of what the call itself may say? (Not for
 * calls that are refused for want of rights, as bind is.) */
static inline bool ffl_lacks(int err)
{
    return err == ENOSYS || err == EPERM || err == EACCES;
}

/* epoll_pwait2 without a signal mask; ENOSYS too where the C library has no such call (before 2.35). */
struct epoll_event;
struct timespec;
int ffl_epoll_pwait2(int epfd, struct epoll_event *ev, int max, const struct timespec *timeout);

enum ffl_call {
    FFL_CALL_MEMFD,
    FFL_CALL_EVENTFD,
    FFL_CALL_ACCEPT,
    FFL_CALL_PIDFD,
    FFL_CALL_PWAIT,
    FFL_CALLS
};
const char *ffl_call_name(enum ffl_call call);
/* What it is like without the call; NULL: nothing works. */
const char *ffl_call_without(enum ffl_call call);
/* Makes it, to no effect: 0, or the errno of one that is not there. */
int ffl_call_try(enum ffl_call call);

/* -errno and a sentence in `why` when a call is not there that nothing works without; else 0. */
int ffl_calls_check(char *why, size_t len);

#endif
