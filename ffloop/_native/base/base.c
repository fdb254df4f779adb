/* base.c - the clock, the log, words for errors. See base.h. */
#include "base.h"

#include "calls.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

int ffl_epoll_wait(int epfd, struct epoll_event *ev, int max, int64_t timeout_ns)
{
    if (timeout_ns <= 0 || timeout_ns == INT64_MAX)
        return epoll_wait(epfd, ev, max, timeout_ns ? -1 : 0);
    struct timespec ts = {timeout_ns / FFL_NS_PER_SEC, timeout_ns % FFL_NS_PER_SEC};
    int n = ffl_epoll_pwait2(epfd, ev, max, &ts);
    if (n < 0 && ffl_lacks(errno)) { /* milliseconds, rounded up */
        int64_t ms = (timeout_ns + 999999) / 1000000;
        n = epoll_wait(epfd, ev, max, ms > 1000000 ? 1000000 : (int)ms);
    }
    return n;
}

bool ffl_confined;

bool ffl_poll_one(int fd, short events, int64_t timeout_ns)
{
    struct pollfd p = {.fd = fd, .events = events};
    struct timespec ts = {timeout_ns / FFL_NS_PER_SEC, timeout_ns % FFL_NS_PER_SEC};
    return ppoll(&p, 1, timeout_ns < 0 ? NULL : &ts, NULL) > 0;
}

static int log_fd = 2;
static enum ffl_log_level log_level = FFL_LOG_WARNING;
static const char *const level_names[] = {"error", "warning", "info", "debug"};

int64_t ffl_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail with this clock */
    return ts.tv_sec * FFL_NS_PER_SEC + ts.tv_nsec;
}

void ffl_log_open(int fd, enum ffl_log_level level)
{
    log_fd = fd;
    log_level = level;
}

bool ffl_log_moved(int from, int to)
{
    bool is = log_fd == from;
    if (is)
        log_fd = to;
    return is;
}

int ffl_log_level_parse(const char *name)
{
    for (size_t i = 0; i < FFL_COUNT(level_names); i++)
        if (strcmp(name, level_names[i]) == 0)
            return (int)i;
    return -EINVAL;
}

bool ffl_log_enabled(enum ffl_log_level level)
{
    return level <= log_level;
}

#define LINES_PER_SECOND 100 /* per level, for callers without a limit of their own */
#define LIMIT_PER_SECOND 20  /* per limit */

static atomic_uint lost; /* lines dropped since the last one that was written */

/* Are this second's lines used up? `*out` gets the number that an earlier second dropped. */
static bool enough(enum ffl_log_level level, time_t now, unsigned *out)
{
    static _Atomic time_t second[FFL_LOG_DEBUG];
    static _Atomic unsigned lines[FFL_LOG_DEBUG];
    if (atomic_exchange(&second[level], now) != now) {
        unsigned n = atomic_exchange(&lines[level], 0);
        *out = n > LINES_PER_SECOND ? n - LINES_PER_SECOND : 0;
    }
    return atomic_fetch_add(&lines[level], 1) >= LINES_PER_SECOND;
}

static bool spent(struct ffl_log_limit *b, unsigned *out)
{
    int64_t now = ffl_now_ns();
    if (now - b->since >= FFL_NS_PER_SEC) {
        *out = b->lines > LIMIT_PER_SECOND ? b->lines - LIMIT_PER_SECOND : 0;
        *b = (struct ffl_log_limit){.since = now};
    }
    return b->lines++ >= LIMIT_PER_SECOND;
}

/* Where a write cannot be told not to wait (a pipe before Linux 6.4, a terminal): once it polls
 * writable, it takes a whole line. */
static ssize_t write_if_writable(const char *line, size_t n)
{
    struct pollfd p = {.fd = log_fd, .events = POLLOUT};
    return poll(&p, 1, 0) == 1 ? write(log_fd, line, n) : -1;
}

static bool put_line(const char *line, size_t n)
{
    struct iovec iov = {(void *)line, n};
    struct stat st = {0};
    ssize_t done = -1;
    (void)fstat(log_fd, &st); /* where it fails, the write fails too */
    if (S_ISSOCK(st.st_mode))
        done = send(log_fd, line, n, MSG_DONTWAIT | MSG_NOSIGNAL);
    else if (S_ISFIFO(st.st_mode))
        done = pwritev2(log_fd, &iov, 1, -1, RWF_NOWAIT);
    if ((done < 0 && errno == EOPNOTSUPP) || (!S_ISSOCK(st.st_mode) && !S_ISFIFO(st.st_mode)))
        done = write_if_writable(line, n);
    return done >= 0;
}

static void __attribute__((format(printf, 3, 0))) log_line(enum ffl_log_level level, unsigned out,
                                                           const char *fmt, va_list ap)
{
    char line[512];
    struct timespec ts;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &ts);
    localtime_r(&ts.tv_sec, &tm);
    size_t n = strftime(line, sizeof(line), "%F %T", &tm);
    n +=
        (size_t)snprintf(line + n, sizeof(line) - n, ".%03ld ffloop[%d] %s: ", ts.tv_nsec / 1000000,
                         (int)getpid(), level_names[level]);
    out += atomic_exchange(&lost, 0);
    if (out)
        n += (size_t)snprintf(line + n, sizeof(line) - n, "(%u lines left out) ", out);
    int m = vsnprintf(line + n, sizeof(line) - n - 1, fmt, ap);
    n = m < 0 ? n : n + (size_t)m;
    if (n > sizeof(line) - 2)
        n = sizeof(line) - 2;
    line[n++] = '\n';
    if (!put_line(line, n))
        atomic_fetch_add(&lost, out + 1); /* the next line that is written tells the number */
}

static void __attribute__((format(printf, 3, 0)))
log_limited(struct ffl_log_limit *b, enum ffl_log_level level, const char *fmt, va_list ap)
{
    if (level > log_level || log_fd < 0)
        return;
    int saved = errno;
    unsigned out = 0;
    if (b ? !spent(b, &out) : level == FFL_LOG_DEBUG || !enough(level, time(NULL), &out))
        log_line(level, out, fmt, ap);
    errno = saved;
}

void ffl_log(enum ffl_log_level level, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    log_limited(NULL, level, fmt, ap);
    va_end(ap);
}

void ffl_log_within(struct ffl_log_limit *b, enum ffl_log_level level, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    log_limited(b, level, fmt, ap);
    va_end(ap);
}

void ffl_close(int *fd, void (*how)(int fd))
{
    if (*fd >= 0 && how)
        how(*fd);
    else if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

const char *ffl_strerror(int err)
{
    switch (err) {
    case EMFILE:
        return "too many open files: raise `ulimit -n` (LimitNOFILE=)";
    case EFBIG: /* shared memory is a file to the kernel */
        return "shared memory counts as a file, and would be larger than `ulimit -f` "
               "(LimitFSIZE=) allows";
    default:
        return strerror(err);
    }
}
