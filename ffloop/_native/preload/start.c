/*
 * start.c - the constructor: the C library's functions, the environment, the log.
 *
 * Callers: the dynamic linker. Until the constructor has run all calls pass through. The shim
 * writes nothing to standard output, and to standard error only what the user must know;
 * FFLOOP_LOG=LEVEL and FFLOOP_LOG_FILE=PATH give more.
 */
#include "proc.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

struct real_calls real;
struct ffl_config options;
struct kept kept;
bool misplaced;
bool started;

/* Calls that an older C library lacks; a program may find them by dlsym, or make them by number. */

static int old_epoll_pwait2(int epfd, struct epoll_event *ev, int max, const struct timespec *ts,
                            const sigset_t *mask)
{
    return (int)real.syscall(SYS_epoll_pwait2, epfd, ev, max, ts, mask, _NSIG / 8);
}

static int old_close_range(unsigned first, unsigned last, int flags)
{
    return (int)real.syscall(SYS_close_range, first, last, flags);
}

static void old_closefrom(int low)
{
    (void)real.syscall(SYS_close_range, low < 0 ? 0 : low, UINT_MAX, 0);
}

static int old_execveat(int dir, const char *path, char *const argv[], char *const envp[],
                        int flags)
{
    return (int)real.syscall(SYS_execveat, dir, path, argv, envp, flags);
}

static int old_addclosefrom(posix_spawn_file_actions_t *actions, int low)
{
    (void)actions;
    (void)low;
    return ENOSYS;
}

#define OLD(name, ours) real.name = real.name ? real.name : (ours)

void real_load(void)
{
#define X(type, name, args) *(void **)&real.name = dlsym(RTLD_NEXT, #name);
    REAL_CALLS(X)
#undef X
    OLD(epoll_pwait2, old_epoll_pwait2);
    OLD(close_range, old_close_range);
    OLD(closefrom, old_closefrom);
    OLD(execveat, old_execveat);
    OLD(posix_spawn_file_actions_addclosefrom_np, old_addclosefrom);
}

static struct stat error_output; /* stderr's file when the program started */

bool report_seen(void)
{
    struct stat now;
    return !error_output.st_ino ||
           (fstat(STDERR_FILENO, &now) == 0 && now.st_ino == error_output.st_ino &&
            now.st_dev == error_output.st_dev);
}

void report(const char *fmt, ...)
{
    char line[512];
    int n = snprintf(line, sizeof(line), "libff_syscall: ");
    va_list ap;
    va_start(ap, fmt);
    n += vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
    va_end(ap);
    if (n > (int)sizeof(line) - 2)
        n = (int)sizeof(line) - 2;
    line[n++] = '\n';
    int saved = errno;
    ssize_t done = real.write(STDERR_FILENO, line, (size_t)n);
    (void)done; /* stderr cannot be written: no other way to tell */
    errno = saved;
}

/* ---- the environment ----------------------------------------------------------------------- */

/* A copy: programs that set their title write over the environment. NULL: not set, or no memory. */
static const char *text(const char *name)
{
    const char *v = secure_getenv(name);
    return v && *v ? strdup(v) : NULL;
}

static void bad_value(const char *why)
{
    report("%s", why);
}

static void open_log(void)
{
    int level = options.log ? ffl_log_level_parse(options.log) : FFL_LOG_ERROR;
    int fd = STDERR_FILENO;
    if (options.log_file) {
        fd = open(options.log_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (fd < 0)
            report("FFLOOP_LOG_FILE=%s: %s: the log goes to standard error", options.log_file,
                   strerror(errno));
        fd = fd < 0 ? STDERR_FILENO : fd_ours(fd);
    }
    ffl_log_open(fd, (enum ffl_log_level)level);
}

static void read_options(void)
{
    ffl_config_init(&options);
    misplaced = !ffl_config_read(&options, FFL_SETTING_SHIM, text, bad_value);
    if (misplaced)
        report("sockets are refused (ENETDOWN) until that is mended, since it says where they go");
    if (options.multi_sc && options.per_thread) {
        report("FF_MULTI_SC=1 is for processes and FF_THREAD_SOCKET=1 for threads: FF_MULTI_SC is "
               "not used");
        options.multi_sc = false;
    }
}

__attribute__((constructor)) static void start(void)
{
    real_start();
    if (started)
        return;
    (void)fstat(STDERR_FILENO, &error_output); /* closed: st_ino stays 0 */
    read_options();
    open_log();
    place_start();
    wait_start();
    stdio_start();
    signal_start();
    fork_start();
    exec_start();
    started = true;
}
