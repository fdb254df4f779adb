/*
 * real.h - the C library's own functions behind the names that the shim exports.
 *
 * Callers: everything in preload/. One table, filled by the first real_start (dlsym RTLD_NEXT).
 * `real.NAME` never comes back into the shim.
 */
#ifndef FFL_PRELOAD_REAL_H
#define FFL_PRELOAD_REAL_H

#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

int close_range(unsigned first, unsigned last, int flags); /* in glibc's headers from 2.34 on */

#define REAL_CALLS(X)                                                                              \
    X(int, socket, (int, int, int))                                                                \
    X(int, bind, (int, const struct sockaddr *, socklen_t))                                        \
    X(int, bindresvport, (int, struct sockaddr_in *))                                              \
    X(int, listen, (int, int))                                                                     \
    X(int, accept, (int, struct sockaddr *, socklen_t *))                                          \
    X(int, accept4, (int, struct sockaddr *, socklen_t *, int))                                    \
    X(int, connect, (int, const struct sockaddr *, socklen_t))                                     \
    X(int, shutdown, (int, int))                                                                   \
    X(int, getsockname, (int, struct sockaddr *, socklen_t *))                                     \
    X(int, getpeername, (int, struct sockaddr *, socklen_t *))                                     \
    X(int, getsockopt, (int, int, int, void *, socklen_t *))                                       \
    X(int, setsockopt, (int, int, int, const void *, socklen_t))                                   \
    X(int, close, (int))                                                                           \
    X(int, close_range, (unsigned, unsigned, int))                                                 \
    X(void, closefrom, (int))                                                                      \
    X(int, dup, (int))                                                                             \
    X(int, dup2, (int, int))                                                                       \
    X(int, dup3, (int, int, int))                                                                  \
    X(int, fcntl, (int, int, ...))                                                                 \
    X(int, fcntl64, (int, int, ...))                                                               \
    X(int, ioctl, (int, unsigned long, ...))                                                       \
    X(ssize_t, read, (int, void *, size_t))                                                        \
    X(ssize_t, readv, (int, const struct iovec *, int))                                            \
    X(ssize_t, recv, (int, void *, size_t, int))                                                   \
    X(ssize_t, recvfrom, (int, void *, size_t, int, struct sockaddr *, socklen_t *))               \
    X(ssize_t, recvmsg, (int, struct msghdr *, int))                                               \
    X(int, recvmmsg, (int, struct mmsghdr *, unsigned, int, struct timespec *))                    \
    X(ssize_t, write, (int, const void *, size_t))                                                 \
    X(ssize_t, writev, (int, const struct iovec *, int))                                           \
    X(ssize_t, send, (int, const void *, size_t, int))                                             \
    X(ssize_t, sendto, (int, const void *, size_t, int, const struct sockaddr *, socklen_t))       \
    X(ssize_t, sendmsg, (int, const struct msghdr *, int))                                         \
    X(int, sendmmsg, (int, struct mmsghdr *, unsigned, int))                                       \
    X(ssize_t, sendfile, (int, int, off_t *, size_t))                                              \
    X(ssize_t, sendfile64, (int, int, off64_t *, size_t))                                          \
    X(ssize_t, splice, (int, off64_t *, int, off64_t *, size_t, unsigned))                         \
    X(ssize_t, preadv64v2, (int, const struct iovec *, int, off64_t, int))                         \
    X(ssize_t, pwritev64v2, (int, const struct iovec *, int, off64_t, int))                        \
    X(int, poll, (struct pollfd *, nfds_t, int))                                                   \
    X(int, ppoll, (struct pollfd *, nfds_t, const struct timespec *, const sigset_t *))            \
    X(int, select, (int, fd_set *, fd_set *, fd_set *, struct timeval *))                          \
    X(int, pselect,                                                                                \
      (int, fd_set *, fd_set *, fd_set *, const struct timespec *, const sigset_t *))              \
    X(int, epoll_create, (int))                                                                    \
    X(int, epoll_create1, (int))                                                                   \
    X(int, epoll_ctl, (int, int, int, struct epoll_event *))                                       \
    X(int, epoll_wait, (int, struct epoll_event *, int, int))                                      \
    X(int, epoll_pwait, (int, struct epoll_event *, int, int, const sigset_t *))                   \
    X(int, epoll_pwait2,                                                                           \
      (int, struct epoll_event *, int, const struct timespec *, const sigset_t *))                 \
    X(void, _exit, (int))                                                                          \
    X(pid_t, _Fork, (void))                                                                        \
    X(int, clone, (int (*)(void *), void *, int, void *, ...))                                     \
    X(int, prlimit64, (pid_t, enum __rlimit_resource, const struct rlimit64 *, struct rlimit64 *)) \
    X(int, sigaction, (int, const struct sigaction *, struct sigaction *))                         \
    X(int, pthread_sigmask, (int, const sigset_t *, sigset_t *))                                   \
    X(int, execve, (const char *, char *const[], char *const[]))                                   \
    X(int, execvpe, (const char *, char *const[], char *const[]))                                  \
    X(int, execveat, (int, const char *, char *const[], char *const[], int))                       \
    X(int, fexecve, (int, char *const[], char *const[]))                                           \
    X(int, posix_spawn,                                                                            \
      (pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *,       \
       char *const[], char *const[]))                                                              \
    X(int, posix_spawnp,                                                                           \
      (pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *,       \
       char *const[], char *const[]))                                                              \
    X(int, posix_spawn_file_actions_adddup2, (posix_spawn_file_actions_t *, int, int))             \
    X(int, posix_spawn_file_actions_addclosefrom_np, (posix_spawn_file_actions_t *, int))          \
    X(int, open, (const char *, int, ...))                                                         \
    X(int, open64, (const char *, int, ...))                                                       \
    X(int, openat, (int, const char *, int, ...))                                                  \
    X(int, openat64, (int, const char *, int, ...))                                                \
    X(int, __open_2, (const char *, int))                                                          \
    X(int, __open64_2, (const char *, int))                                                        \
    X(int, __openat_2, (int, const char *, int))                                                   \
    X(int, __openat64_2, (int, const char *, int))                                                 \
    X(int, creat, (const char *, mode_t))                                                          \
    X(int, creat64, (const char *, mode_t))                                                        \
    X(int, pipe, (int *))                                                                          \
    X(int, pipe2, (int *, int))                                                                    \
    X(int, socketpair, (int, int, int, int *))                                                     \
    X(int, eventfd, (unsigned, int))                                                               \
    X(int, timerfd_create, (int, int))                                                             \
    X(int, signalfd, (int, const sigset_t *, int))                                                 \
    X(int, memfd_create, (const char *, unsigned))                                                 \
    X(int, inotify_init, (void))                                                                   \
    X(int, inotify_init1, (int))                                                                   \
    X(int, mkstemp, (char *))                                                                      \
    X(int, mkstemp64, (char *))                                                                    \
    X(int, mkostemp, (char *, int))                                                                \
    X(int, mkostemp64, (char *, int))                                                              \
    X(int, mkstemps, (char *, int))                                                                \
    X(int, mkstemps64, (char *, int))                                                              \
    X(int, mkostemps, (char *, int, int))                                                          \
    X(int, mkostemps64, (char *, int, int))                                                        \
    X(int, shm_open, (const char *, int, mode_t))                                                  \
    X(int, posix_openpt, (int))                                                                    \
    X(FILE *, fopen, (const char *, const char *))                                                 \
    X(FILE *, fopen64, (const char *, const char *))                                               \
    X(FILE *, freopen, (const char *, const char *, FILE *))                                       \
    X(FILE *, freopen64, (const char *, const char *, FILE *))                                     \
    X(FILE *, tmpfile, (void))                                                                     \
    X(FILE *, tmpfile64, (void))                                                                   \
    X(FILE *, popen, (const char *, const char *))                                                 \
    X(void, perror, (const char *))                                                                \
    X(int, __vdprintf_chk, (int, int, const char *, va_list))                                      \
    X(long, syscall, (long, ...))

struct real_calls {
#define X(type, name, args) type(*name) args;
    REAL_CALLS(X)
#undef X
};

extern struct real_calls real;
void real_load(void);

/* First in each exported call: other constructors may run before the shim's. */
static inline void real_start(void)
{
    if (__builtin_expect(!real.syscall, 0))
        real_load();
}

#endif
