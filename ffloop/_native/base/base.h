/*
 * base.h - checks, the clock, the log, words for errors.
 *
 * Callers: every folder of the core. Takes no lock, allocates nothing. Errors are returned as
 * -errno, but for ffl_epoll_wait's; logging leaves errno alone.
 */
#ifndef FFL_BASE_H
#define FFL_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FFL_CACHELINE 64

#define ffl_likely(x) __builtin_expect(!!(x), 1)
#define ffl_unlikely(x) __builtin_expect(!!(x), 0)
#define ffl_container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))
#define FFL_COUNT(a) (sizeof(a) / sizeof((a)[0]))

#define FFL_NS_PER_SEC 1000000000LL

/* How often a sleeping side looks at its rings unasked: a lost doorbell delays a session and does
 * not stall it. */
#define FFL_LOOK_NS FFL_NS_PER_SEC

/* An answer of more than twice as many begins with a send of so many. A congestion control that
 * measures the rate (BBR) does so by such a burst, which its own pacing does not stretch. */
#define FFL_FIRST_BYTES (64u * 1024)

/* CLOCK_MONOTONIC in nanoseconds (vDSO: about 25 ns, no system call). */
int64_t ffl_now_ns(void);

/* epoll_wait with a time-out in nanoseconds: 0 does not wait, a negative time-out or INT64_MAX
 * waits for ever. The count, or -1 with errno, as epoll_wait. */
struct epoll_event;
int ffl_epoll_wait(int epfd, struct epoll_event *ev, int max, int64_t timeout_ns);

/* The process has forbidden itself system calls (the shim's confined.c): a sleep takes ppoll and
 * read alone. */
extern bool ffl_confined;
/* Waits, as ffl_epoll_wait, until one descriptor has `events`: true; or false. */
bool ffl_poll_one(int fd, short events, int64_t timeout_ns);

/* A pause hint for spin loops. */
static inline void ffl_cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield" ::: "memory");
#endif
}

enum ffl_log_level { FFL_LOG_ERROR, FFL_LOG_WARNING, FFL_LOG_INFO, FFL_LOG_DEBUG };

/*
 * The log: one line per call to a descriptor (standard error unless set), with time, level and pid.
 * Safe from any thread; a line is one write(2). Dropped are messages above the level, lines for
 * which the descriptor has no room, and, but for DEBUG, each level's lines beyond 100 per second.
 */
void ffl_log_open(int fd, enum ffl_log_level level);
bool ffl_log_moved(int from, int to); /* false: `from` is not the log's descriptor */
/* Parses "error", "warning", "info", "debug"; -EINVAL for anything else. */
int ffl_log_level_parse(const char *name);
bool ffl_log_enabled(enum ffl_log_level level);
void ffl_log(enum ffl_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The same for lines that a peer may cause: a limit's first 20 of each second are written. A
 * limit belongs to one thread. */
struct ffl_log_limit {
    int64_t since; /* ffl_now_ns at the second's begin */
    unsigned lines;
};
void ffl_log_within(struct ffl_log_limit *b, enum ffl_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Closes *fd unless it is negative, by `how` (NULL: close), and makes it -1. */
void ffl_close(int *fd, void (*how)(int fd));

/* strerror of a positive errno; where a limit of the process may be its cause, names the limit. */
const char *ffl_strerror(int err);

/* Number of CPUs that this process may use, by its affinity and its cgroups' quota. */
int ffl_cpu_count(void);
/* The quota alone, in whole CPUs, or INT_MAX; list: as /proc/self/cgroup, root: as
 * /sys/fs/cgroup. */
int ffl_cpu_quota(const char *list, const char *root);

#endif
