/* choice.c - see choice.h. */
#include "choice.h"

#include "base.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fits(int n, size_t len)
{
    return n < 0 || (size_t)n >= len ? -ENAMETOOLONG : 0;
}

int ffl_choice_nth(const char *path, int index, char *out, size_t len)
{
    const char *dot = strrchr(path, '.'), *slash = strrchr(path, '/');
    if (index == 0)
        return fits(snprintf(out, len, "%s", path), len);
    if (!dot || (slash && dot < slash))
        return fits(snprintf(out, len, "%s-%d", path, index), len);
    return fits(snprintf(out, len, "%.*s-%d%s", (int)(dot - path), path, index, dot), len);
}

int ffl_choice_place(const char *named, unsigned try, int index, char *out, size_t len)
{
    const char *runtime = secure_getenv("XDG_RUNTIME_DIR");
    const char *dirs[] = {runtime && *runtime ? runtime : "/run", "/run"};
    char path[FFL_CHOICE_PATH];
    if (named)
        return try == 0 ? ffl_choice_nth(named, index, out, len) : -ENOENT;
    if (try > (runtime && *runtime))
        return -ENOENT;
    int rc = fits(snprintf(path, sizeof(path), "%s/ffloop/instance.sock", dirs[try]), sizeof(path));
    return rc < 0 ? rc : ffl_choice_nth(path, index, out, len);
}

bool ffl_choice_next(int rc)
{
    return rc == -ENOENT || rc == -ECONNREFUSED;
}

int ffl_choice_index(int proc_id, int64_t nth, int instances)
{
    return (int)((proc_id + nth) % instances);
}

int64_t ffl_choice_cpu(uint64_t mask, int64_t up)
{
    return mask ? __builtin_ctzll(mask) + up : -1;
}

int ffl_choice_stack(const char *wanted, const char *runs, const char *path, char *why, size_t len)
{
    if (!wanted || strcmp(wanted, runs) == 0)
        return 0;
    snprintf(why, len, "stack='%s' (FFLOOP_STACK) was asked for; the instance at '%s' runs '%s'",
             wanted, path, runs);
    return -EPROTONOSUPPORT;
}

void ffl_choice_none(const char *wanted, int index, int instances, char *why, size_t len)
{
    if (instances > 1)
        snprintf(why, len,
                 "FF_NB_FSTACK_INSTANCE=%d, and instance %d does not run: start it with `ffloop "
                 "instance --proc-id %d`, or name the first in FFLOOP_INSTANCE",
                 instances, index, index);
    else
        snprintf(why, len,
                 "%s%s%sno instance runs: start one with `ffloop instance%s%s`, or name its socket "
                 "in FFLOOP_INSTANCE",
                 wanted ? "stack='" : "", wanted ? wanted : "",
                 wanted ? "' was asked for and " : "", wanted ? " --stack " : "",
                 wanted ? wanted : "");
}
