/*
 * made.c - calls that make a descriptor: drop the stack socket that had its number before.
 *
 * Callers: the program. A stack socket's descriptor may have been closed past the shim: inside the
 * C library, or by a library's own system call. The kernel gives the number to a descriptor made
 * later.
 */
#include "preload.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

/* ---- one descriptor ------------------------------------------------------------------------- */

#define MAKES(name, params, args)                                                                  \
    API int name params                                                                            \
    {                                                                                              \
        real_start();                                                                              \
        return fd_made(real.name args);                                                            \
    }

int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int dir, const char *path, int flags);
int __openat64_2(int dir, const char *path, int flags);

MAKES(__open_2, (const char *path, int flags), (path, flags))
MAKES(__open64_2, (const char *path, int flags), (path, flags))
MAKES(__openat_2, (int dir, const char *path, int flags), (dir, path, flags))
MAKES(__openat64_2, (int dir, const char *path, int flags), (dir, path, flags))
MAKES(creat, (const char *path, mode_t mode), (path, mode))
MAKES(creat64, (const char *path, mode_t mode), (path, mode))
MAKES(eventfd, (unsigned count, int flags), (count, flags))
MAKES(timerfd_create, (int clock, int flags), (clock, flags))
MAKES(memfd_create, (const char *name, unsigned flags), (name, flags))
MAKES(inotify_init, (void), ())
MAKES(inotify_init1, (int flags), (flags))
MAKES(mkstemp, (char *name), (name))
MAKES(mkstemp64, (char *name), (name))
MAKES(mkostemp, (char *name, int flags), (name, flags))
MAKES(mkostemp64, (char *name, int flags), (name, flags))
MAKES(mkstemps, (char *name, int suffix), (name, suffix))
MAKES(mkstemps64, (char *name, int suffix), (name, suffix))
MAKES(mkostemps, (char *name, int suffix, int flags), (name, suffix, flags))
MAKES(mkostemps64, (char *name, int suffix, int flags), (name, suffix, flags))
MAKES(shm_open, (const char *name, int flags, mode_t mode), (name, flags, mode))
MAKES(posix_openpt, (int flags), (flags))

API int signalfd(int fd, const sigset_t *mask, int flags)
{
    real_start();
    int rc = real.signalfd(fd, mask, flags);
    return rc == fd ? rc : fd_made(rc);
}

/* ---- open: the mode is passed where a file is made ------------------------------------------- */

#define OPENS(name, before, first, args)                                                           \
    API int name before                                                                            \
    {                                                                                              \
        real_start();                                                                              \
        va_list ap;                                                                                \
        va_start(ap, flags);                                                                       \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(ap, mode_t) : 0;                    \
        va_end(ap);                                                                                \
        return fd_made(real.name args);                                                            \
    }

OPENS(open, (const char *path, int flags, ...), path, (path, flags, mode))
OPENS(open64, (const char *path, int flags, ...), path, (path, flags, mode))
OPENS(openat, (int dir, const char *path, int flags, ...), dir, (dir, path, flags, mode))
OPENS(openat64, (int dir, const char *path, int flags, ...), dir, (dir, path, flags, mode))
ALSO(open, __open);
ALSO(open64, __open64);

/* ---- two descriptors ------------------------------------------------------------------------- */

static int made_two(int rc, const int two[2])
{
    if (rc == 0) {
        (void)fd_made(two[0]);
        (void)fd_made(two[1]);
    }
    return rc;
}

API int pipe(int two[2])
{
    real_start();
    return made_two(real.pipe(two), two);
}
ALSO(pipe, __pipe);

API int pipe2(int two[2], int flags)
{
    real_start();
    return made_two(real.pipe2(two, flags), two);
}

API int socketpair(int domain, int type, int proto, int two[2])
{
    real_start();
    return made_two(real.socketpair(domain, type, proto, two), two);
}
