/* cpus.c - how many CPUs a process may use: its affinity, and the quota of its cgroups. See
 * base.h. */
#include "base.h"

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH 512 /* of a cgroup; longer ones are passed by (a caller's stack may be small) */

/* The file's first bytes as a text; false: there is no such file. */
static bool read_text(const char *path, char *to, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, to, size - 1);
    ffl_close(&fd, NULL);
    to[n > 0 ? n : 0] = '\0';
    return n > 0;
}

/* What the cgroup in `dir` leaves, in whole CPUs; INT_MAX: there is no limit, or no such file. */
static int quota_at(const char *dir)
{
    char path[PATH + 32], text[64], *end = text;
    long long quota = 0, period = 0;
    snprintf(path, sizeof(path), "%s/cpu.max", dir); /* "max 100000" is no limit */
    if (read_text(path, text, sizeof(text))) {
        quota = strtoll(text, &end, 10);
        period = strtoll(end, NULL, 10);
    }
    snprintf(path, sizeof(path), "%s/cpu.cfs_quota_us", dir);
    if (read_text(path, text, sizeof(text)))
        quota = atoll(text);
    snprintf(path, sizeof(path), "%s/cpu.cfs_period_us", dir);
    if (read_text(path, text, sizeof(text)))
        period = atoll(text);
    if (quota <= 0 || period <= 0 || quota / period >= INT_MAX)
        return INT_MAX;
    return quota < period ? 1 : (int)(quota / period);
}

/* The least that the cgroup in `dir` and those above it leave, down to the tree's root, the first
 * `root` bytes of it. In a container those above are not there. Overwrites dir. */
static int quota_below(char *dir, size_t root)
{
    int least = INT_MAX;
    for (;;) {
        int quota = quota_at(dir);
        least = quota < least ? quota : least;
        char *slash = strrchr(dir + root, '/');
        if (!slash)
            return least;
        *slash = '\0';
    }
}

static bool names_cpu(const char *controllers)
{
    for (const char *c = controllers; c; c = strchr(c, ',') ? strchr(c, ',') + 1 : NULL)
        if (strncmp(c, "cpu", 3) == 0 && (c[3] == ',' || c[3] == '\0'))
            return true;
    return false;
}

/* What a line of /proc/self/cgroup leaves: "1:cpu,cpuacct:/group", or "0::/group". */
static int quota_of(char *line, const char *root)
{
    char path[PATH], *controllers = strchr(line, ':');
    char *group = controllers ? strchr(++controllers, ':') : NULL;
    if (!group)
        return INT_MAX;
    *group++ = '\0';
    if (*controllers && !names_cpu(controllers))
        return INT_MAX;
    /* The first version of cgroups has a tree per controller. */
    int n = snprintf(path, sizeof(path), "%s%s%s", root, *controllers ? "/cpu" : "", group);
    return n < (int)sizeof(path) ? quota_below(path, (size_t)n - strlen(group)) : INT_MAX;
}

int ffl_cpu_quota(const char *list, const char *root)
{
    char line[PATH];
    int fd = open(list, O_RDONLY | O_CLOEXEC), least = INT_MAX;
    ssize_t n;
    for (off_t at = 0; fd >= 0 && (n = pread(fd, line, sizeof(line) - 1, at)) > 0; at += n) {
        line[n] = '\0';
        char *end = strchr(line, '\n');
        if (end) {
            *end = '\0';
            n = end - line + 1;
        }
        int quota = quota_of(line, root);
        least = quota < least ? quota : least;
    }
    ffl_close(&fd, NULL);
    return least;
}

int ffl_cpu_count(void)
{
    static atomic_int quota; /* 0: not asked yet; each thread that asks finds the same */
    cpu_set_t set;
    long n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set)
                                                          : sysconf(_SC_NPROCESSORS_ONLN);
    int most = atomic_load_explicit(&quota, memory_order_relaxed);
    if (!most) {
        most = ffl_cpu_quota("/proc/self/cgroup", "/sys/fs/cgroup");
        atomic_store_explicit(&quota, most, memory_order_relaxed);
    }
    n = n < most ? n : most;
    return n > 0 ? (int)n : 1;
}
