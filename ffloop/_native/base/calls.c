/* calls.c - the system calls that an instance needs. See calls.h. */
#include "calls.h"

#include "base.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

extern int epoll_pwait2(int epfd, struct epoll_event *ev, int max, const struct timespec *timeout,
                        const sigset_t *mask) __attribute__((weak));

int ffl_epoll_pwait2(int epfd, struct epoll_event *ev, int max, const struct timespec *timeout)
{
    if (epoll_pwait2)
        return epoll_pwait2(epfd, ev, max, timeout, NULL);
    errno = ENOSYS;
    return -1;
}

static int try_memfd(void)
{
    return memfd_create("ffloop-try", MFD_CLOEXEC | MFD_ALLOW_SEALING);
}

static int try_eventfd(void)
{
    return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

static int try_accept(void)
{
    return accept4(-1, NULL, NULL, SOCK_CLOEXEC);
}

static int try_sendmsg(void)
{
    return (int)sendmsg(-1, &(struct msghdr){0}, 0);
}

static int try_recvmsg(void)
{
    return (int)recvmsg(-1, &(struct msghdr){0}, 0);
}

static int try_random(void)
{
    char byte;
    errno = 0; /* it makes no descriptor: without an error, too, it ends as one that fails */
    (void)!getrandom(&byte, sizeof(byte), 0);
    return -1;
}

static int try_pidfd(void)
{
    return (int)syscall(SYS_pidfd_open, getpid(), 0);
}

static int try_pwait(void)
{
    struct epoll_event ev;
    struct timespec ts = {0, 0};
    return ffl_epoll_pwait2(-1, &ev, 1, &ts);
}

static const struct {
    const char *name, *without;
    int (*make)(void); /* a descriptor, or -1 */
} calls[FFL_CALLS] = {
    [FFL_CALL_MEMFD] = {"memfd_create", NULL, try_memfd},
    [FFL_CALL_EVENTFD] = {"eventfd2", NULL, try_eventfd},
    [FFL_CALL_ACCEPT] = {"accept4", NULL, try_accept},
    [FFL_CALL_SENDMSG] = {"sendmsg", NULL, try_sendmsg},
    [FFL_CALL_RECVMSG] = {"recvmsg", NULL, try_recvmsg},
    [FFL_CALL_RANDOM] = {"getrandom", NULL, try_random},
    [FFL_CALL_PIDFD] = {"pidfd_open", "a session lives on with its process's children", try_pidfd},
    [FFL_CALL_PWAIT] = {"epoll_pwait2", "waits are in whole milliseconds", try_pwait},
};

const char *ffl_call_name(enum ffl_call call)
{
    return calls[call].name;
}

const char *ffl_call_without(enum ffl_call call)
{
    return calls[call].without;
}

int ffl_call_try(enum ffl_call call)
{
    int fd = calls[call].make();
    if (fd < 0)
        return ffl_lacks(errno) ? errno : 0;
    close(fd);
    return 0;
}

int ffl_calls_check(char *why, size_t len)
{
    for (enum ffl_call call = 0; call < FFL_CALLS; call++) {
        int err = calls[call].without ? 0 : ffl_call_try(call);
        if (err == 0)
            continue;
        snprintf(why, len, "%s: %s: a seccomp profile denies this call, or the kernel is too old",
                 calls[call].name, ffl_strerror(err));
        return -err;
    }
    return 0;
}
