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

#define PATH 1024

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
    char path[PATH + 32], text[64];
    long long quota = -1, period = 0;
    snprintf(path, sizeof(path), "%s/cpu.max", dir); /* "max 100000" is no limit */
    if (read_text(path, text, sizeof(text)))
        (void)sscanf(text, "%lld %lld", &quota, &period);
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

/* The least that the cgroup and those above it leave. In a container those are not there. */
static int quota_below(const char *root, const char *group)
{
    char dir[PATH];
    int least = INT_MAX, n = snprintf(dir, sizeof(dir), "%s%s", root, group);
    if (n < 0 || n >= (int)sizeof(dir))
        return INT_MAX;
    for (;;) {
        int quota = quota_at(dir);
        least = quota < least ? quota : least;
        char *slash = strrchr(dir + strlen(root), '/');
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

int ffl_cpu_quota(const char *list, const char *root)
{
    char text[4096], path[PATH], *rest = NULL;
    int least = INT_MAX;
    if (!read_text(list, text, sizeof(text)))
        return INT_MAX;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char *controllers = strchr(line, ':'), *group = controllers;
        if (!controllers || !(group = strchr(++controllers, ':')))
            continue;
        *group++ = '\0';
        if (*controllers && !names_cpu(controllers))
            continue;
        /* The first version of cgroups has a tree per controller. */
        snprintf(path, sizeof(path), "%s%s", root, *controllers ? "/cpu" : "");
        int quota = quota_below(path, group);
        least = quota < least ? quota : least;
    }
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
