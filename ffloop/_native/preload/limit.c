/*
 * limit.c - the program's limits of descriptors and of memory, which do not count the shim's own.
 *
 * Callers: the program (prlimit and its older names), all that makes descriptors of the shim's.
 */
#include "proc.h"

#include <sys/resource.h>
#include <unistd.h>

/* ---- a process with few descriptors ---------------------------------------------------------- */

/* Of those for whom the kernel's limit is the highest meanwhile, the last brings back the
 * program's, `own_limit`. With the lock, and with the table's in FF_THREAD_SOCKET, which has no
 * other. */
static struct rlimit64 own_limit;
static _Atomic int raisers;

static bool raise_limit(void)
{
    if (raisers)
        return ++raisers;
    if (real.prlimit64(0, RLIMIT_NOFILE, NULL, &own_limit) < 0 ||
        own_limit.rlim_cur >= own_limit.rlim_max)
        return false;
    const struct rlimit64 most = {own_limit.rlim_max, own_limit.rlim_max};
    raisers = 1; /* before it is so: another thread may fork meanwhile */
    raisers = real.prlimit64(0, RLIMIT_NOFILE, &most, NULL) == 0;
    return raisers;
}

bool room_for(struct room *more, int rc)
{
    if (!more->raised && (rc != -EMFILE || ffl_confined))
        return false;
    if (!more->raised)
        (void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &more->cancel); /* cannot fail */
    table_lock();
    bool was = more->raised;
    more->raised = !was && raise_limit();
    if (was && raisers == 1)
        (void)real.prlimit64(0, RLIMIT_NOFILE, &own_limit, NULL); /* cannot fail: lower */
    raisers -= was;
    table_unlock();
    if (!more->raised)
        (void)pthread_setcancelstate(more->cancel, NULL);
    return more->raised;
}

void limit_forked(void)
{
    if (raisers) /* FF_THREAD_SOCKET: other threads */
        (void)real.prlimit64(0, RLIMIT_NOFILE, &own_limit, NULL);
    raisers = 0;
}

static int limit_files(pid_t pid, const struct rlimit64 *to, struct rlimit64 *was)
{
    struct rlimit64 asked = {0};
    bool sets = to && user_copy(&asked, to, sizeof(asked)); /* a copy: `to` may be `was` */
    lock();
    if (sets && asked.rlim_cur <= 64) { /* what needs descriptors is done before */
        proc_import_all();
        (void)waiter_mine(); /* -EMFILE: none is free already */
    }
    bool valid = asked.rlim_cur <= asked.rlim_max; /* else the kernel refuses it */
    table_lock();
    bool keep = sets && raisers && valid; /* the kernel's limit the highest, for the raisers */
    const struct rlimit64 most = {asked.rlim_max, asked.rlim_max};
    int rc = real.prlimit64(pid, RLIMIT_NOFILE, keep ? &most : to, was) < 0 ? -errno : 0;
    if (rc == 0 && raisers && was)
        *was = own_limit;
    if (rc == 0 && keep)
        own_limit = asked;
    table_unlock();
    return (int)leave(rc);
}

/* ---- a process with less memory -------------------------------------------------------------- */

/* A limit of address space is for the program's memory: the kernel's limit is higher,
 * by what the shim has mapped. */
#define RECORDS ((rlim64_t)16 << 20) /* bytes: the shim's own, to come */
static rlim64_t lent;

static rlim64_t higher(rlim64_t limit, rlim64_t by)
{
    return limit >= RLIM64_INFINITY - by ? RLIM64_INFINITY : limit + by;
}

static rlim64_t mapped(void)
{
    rlim64_t n = RECORDS;
    lock();
    for (const struct session *s = session_first(); s; s = s->next)
        n += ffl_client_size(s->c);
    unlock();
    return n;
}

static int limit_space(pid_t pid, const struct rlimit64 *to, struct rlimit64 *was)
{
    struct rlimit64 asked;
    if (!user_copy(&asked, to, sizeof(asked)))
        return real.prlimit64(pid, RLIMIT_AS, to, was);
    rlim64_t by = mapped();
    struct rlimit64 with = {higher(asked.rlim_cur, by), higher(asked.rlim_max, by)};
    int rc = real.prlimit64(pid, RLIMIT_AS, &with, was);
    if (rc < 0) { /* the process may not have that */
        by = 0;
        rc = real.prlimit64(pid, RLIMIT_AS, &asked, was);
    }
    if (rc == 0)
        lent = by;
    return rc;
}

static void take_off(struct rlimit64 *l, rlim64_t by)
{
    l->rlim_cur -= l->rlim_cur == RLIM64_INFINITY ? 0 : by;
    l->rlim_max -= l->rlim_max == RLIM64_INFINITY ? 0 : by;
}

/* ---- limits ---------------------------------------------------------------------------------- */

API int prlimit64(pid_t pid, enum __rlimit_resource what, const struct rlimit64 *to,
                  struct rlimit64 *was)
{
    real_start();
    bool mine = looks() && (pid == 0 || pid == getpid());
    rlim64_t by = lent;
    if (mine && what == RLIMIT_NOFILE)
        return limit_files(pid, to, was);
    int rc = mine && what == RLIMIT_AS && to ? limit_space(pid, to, was)
                                             : real.prlimit64(pid, what, to, was);
    if (rc == 0 && mine && what == RLIMIT_AS && was)
        take_off(was, by);
    return rc;
}

API int setrlimit64(__rlimit_resource_t what, const struct rlimit64 *to)
{
    return prlimit64(0, what, to, NULL);
}

API int getrlimit64(__rlimit_resource_t what, struct rlimit64 *to)
{
    return prlimit64(0, what, NULL, to);
}

_Static_assert(sizeof(struct rlimit) == sizeof(struct rlimit64), "64-bit only");

API int prlimit(pid_t pid, enum __rlimit_resource what, const struct rlimit *to, struct rlimit *was)
{
    return prlimit64(pid, what, (const struct rlimit64 *)to, (struct rlimit64 *)was);
}

API int setrlimit(__rlimit_resource_t what, const struct rlimit *to)
{
    return prlimit64(0, what, (const struct rlimit64 *)to, NULL);
}

API int getrlimit(__rlimit_resource_t what, struct rlimit *to)
{
    return prlimit64(0, what, NULL, (struct rlimit64 *)to);
}
