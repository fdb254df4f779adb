/*
 * start.c - the beginning: the C library's functions, the environment, the log.
 *
 * Callers: the dynamic linker. Until the constructor has run every call passes through. Nothing is
 * written to the program's standard output, ever, and nothing to standard error but what the user
 * must know; FFLOOP_LOG=LEVEL and FFLOOP_LOG_FILE=PATH say more.
 */
#include "preload.h"
#include "spin.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

struct real_calls real;
struct options options = {.instances = 1};
bool started;

/* What a C library lacks that is older than the call: a program may ask for it by dlsym or by number. */

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
    (void)done; /* nobody to tell */
    errno = saved;
}

/* ---- the environment ----------------------------------------------------------------------- */

/* A copy: programs that set their title write over the environment. NULL: not set, or no memory. */
static const char *text(const char *name)
{
    const char *v = secure_getenv(name);
    return v && *v ? strdup(v) : NULL;
}

static long number(const char *name, long otherwise, long min, long max)
{
    const char *v = text(name);
    if (!v)
        return otherwise;
    char *end;
    errno = 0;
    long n = strtol(v, &end, 10);
    if (!errno && end != v && !*end && n >= min && n <= max)
        return n;
    report("%s=%s is not a whole number from %ld to %ld: it is not used", name, v, min, max);
    return otherwise;
}

static bool flag(const char *name)
{
    const char *v = text(name);
    if (!v || !strcmp(v, "0") || !strcmp(v, "no") || !strcmp(v, "false"))
        return false;
    if (strcmp(v, "1") != 0 && strcmp(v, "yes") != 0 && strcmp(v, "true") != 0) {
        report("%s=%s is neither 0 nor 1: it is not used", name, v);
        return false;
    }
    return true;
}

static uint64_t cpu_mask(const char *name)
{
    const char *v = text(name);
    if (!v)
        return 0;
    char *end;
    errno = 0;
    unsigned long long mask = strtoull(v, &end, 16);
    if (!errno && *end == '\0' && v[0] != '-' && mask)
        return mask;
    report("%s=%s is not a CPU mask in hexadecimal, such as 0x4: it is not used", name, v);
    return 0;
}

static int64_t spin_limit(void)
{
    const char *v = text("FFLOOP_SPIN_US");
    if (!v || !strcmp(v, "auto"))
        return FFL_SPIN_AUTO;
    if (!strcmp(v, "forever"))
        return FFL_SPIN_FOREVER;
    return number("FFLOOP_SPIN_US", FFL_SPIN_AUTO, 0, INT_MAX);
}

static const char *stack_name(void)
{
    const char *v = text("FFLOOP_STACK");
    if (!v || !strcmp(v, "host") || !strcmp(v, "sim") || !strcmp(v, "fstack"))
        return v;
    report("FFLOOP_STACK=%s is not one of host, sim, fstack: it is not used", v);
    return NULL;
}

static void read_log(void)
{
    const char *level = text("FFLOOP_LOG"), *path = text("FFLOOP_LOG_FILE");
    int n = level ? ffl_log_level_parse(level) : FFL_LOG_ERROR;
    if (n < 0) {
        report("FFLOOP_LOG=%s is not one of error, warning, info, debug: it is not used", level);
        n = FFL_LOG_ERROR;
    }
    int fd = STDERR_FILENO;
    if (path) {
        fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (fd < 0)
            report("FFLOOP_LOG_FILE=%s: %s: the log goes to standard error", path, strerror(errno));
        fd = fd < 0 ? STDERR_FILENO : fd_ours(fd);
    }
    ffl_log_open(fd, (enum ffl_log_level)n);
}

static void read_options(void)
{
    const char *v = text("FFLOOP_FALLBACK");
    options.instance = text("FFLOOP_INSTANCE");
    options.stack = stack_name();
    options.routes = text("FFLOOP_ROUTES");
    options.spin_us = spin_limit();
    options.fallback = v && !strcmp(v, "kernel");
    if (v && !options.fallback)
        report("FFLOOP_FALLBACK=%s is not 'kernel': it is not used", v);
    options.dual_listen = flag("FFLOOP_DUAL_LISTEN");
    options.per_thread = flag("FF_THREAD_SOCKET");
    options.multi_sc = flag("FF_MULTI_SC");
    if (options.multi_sc && options.per_thread) {
        report("FF_MULTI_SC=1 is for processes and FF_THREAD_SOCKET=1 for threads: FF_MULTI_SC is "
               "not used");
        options.multi_sc = false;
    }
    if (text("FF_KERNEL_EVENT") && !flag("FF_KERNEL_EVENT"))
        report("FF_KERNEL_EVENT=%s: kernel events are always on", secure_getenv("FF_KERNEL_EVENT"));
    options.instances = (int)number("FF_NB_FSTACK_INSTANCE", 1, 1, 1024);
    options.proc_id = (int)number("FF_PROC_ID", 0, 0, INT_MAX);
    options.initial_lcore = cpu_mask("FF_INITIAL_LCORE_ID");
    options.timeout_ms = (int)number("FFLOOP_TIMEOUT_MS", 0, 0, INT_MAX);
    options.pool_kib = (int)number("FFLOOP_POOL_KIB", 0, 0, INT_MAX);
    options.tx_cap = (int)number("FFLOOP_TX_CAP", 0, 0, INT_MAX);
    options.max_sockets = (int)number("FFLOOP_MAX_SOCKETS", 0, 0, INT_MAX);
}

__attribute__((constructor)) static void start(void)
{
    real_start();
    if (started)
        return;
    read_log();
    read_options();
    route_start();
    sc_start();
    proc_start();
    started = true;
}
