/*
 * place.c - which instance a socket goes to, and which CPU the thread runs on.
 *
 * Callers: sock.c, session.c, share.c. Of several instances (choice.h) a process uses number
 * FF_PROC_ID. With FF_THREAD_SOCKET the process's n-th thread uses the n-th instance from there;
 * with FF_MULTI_SC listeners at one address are spread over all instances, and each child of a fork
 * takes one listener. None of them has sockets of a network namespace that the program enters.
 */
#include "preload.h"
#include "choice.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

/* ---- instances ----------------------------------------------------------------------------- */

static int mine = -1; /* FF_MULTI_SC: the instance of the listener that it imported; or -1 */

struct taken {
    const struct sock *s;
    const struct ffl_addr *a;
    bool ordinals[1024];
};

static void note_taken(int fd, struct node *n, void *arg)
{
    struct taken *t = arg;
    const struct sock *s = (const struct sock *)n;
    (void)fd;
    if (n->kind == NODE_SOCK && s != t->s && !memcmp(&s->bound, t->a, sizeof(s->bound)) &&
        s->ordinal < (int)FFL_COUNT(t->ordinals))
        t->ordinals[s->ordinal] = true;
}

/* The lowest ordinal that no other socket at the address has. */
static int next_ordinal(const struct sock *s, const struct ffl_addr *a)
{
    struct taken t = {.s = s, .a = a};
    fd_each(note_taken, &t);
    int k = 0;
    while (k < (int)FFL_COUNT(t.ordinals) - 1 && t.ordinals[k])
        k++;
    return k;
}

/* The thread's number, from 1. */
static int worker(void)
{
    static _Atomic int threads;
    if (!tls.worker)
        tls.worker = atomic_fetch_add(&threads, 1) + 1;
    return tls.worker;
}

static int of_worker(int64_t nth)
{
    return ffl_choice_index((int)options.proc_id, nth, (int)options.instances);
}

int place_instance(struct sock *s, const struct ffl_addr *a)
{
    if (options.per_thread)
        return of_worker(worker() - 1);
    if (options.multi_sc && a && a->port_be && s->reuse_port) {
        s->ordinal = next_ordinal(s, a);
        s->bound = *a;
        return of_worker(s->ordinal);
    }
    return mine >= 0 ? mine : of_worker(0);
}

/* ---- CPUs ---------------------------------------------------------------------------------- */

/* Pins the calling thread to the CPU `up` places above the first CPU of FF_INITIAL_LCORE_ID. */
static void pin(int64_t up)
{
    int64_t cpu = ffl_choice_cpu(options.initial_lcore, up);
    cpu_set_t set;
    if (cpu < 0)
        return;
    CPU_ZERO(&set);
    if (cpu < CPU_SETSIZE)
        CPU_SET((size_t)cpu, &set);
    if (sched_setaffinity(0, sizeof(set), &set) < 0)
        report("FF_INITIAL_LCORE_ID and FF_PROC_ID lead to CPU %lld, which this process cannot "
               "use: it runs where it may",
               (long long)cpu);
}

void place_attached(bool first)
{
    if (options.per_thread)
        pin(options.proc_id + worker() - 1);
    else if (!options.multi_sc && first)
        pin(options.proc_id);
}

void place_imported(const struct sock *s)
{
    if (!options.multi_sc || !s->bound.family || mine >= 0)
        return;
    mine = s->session->index;
    pin(options.proc_id + s->ordinal);
}

/* ---- network namespaces ---------------------------------------------------------------------- */

static uint64_t home; /* that in which the first program under the shim started; 0: not known */

static uint64_t netns_of(int fd)
{
    uint64_t cookie = 0;
    socklen_t len = sizeof(cookie);
    int rc = real.getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &len);
    return rc < 0 ? 0 : cookie; /* before Linux 5.14 */
}

bool place_elsewhere(int fd)
{
    uint64_t here = home && !ffl_confined ? netns_of(fd) : 0; /* a filter may kill for it */
    static _Atomic bool said;
    if (!here || here == home)
        return false;
    if (!atomic_exchange(&said, true))
        ffl_log(FFL_LOG_INFO, "in another network namespace than that of the start: its sockets "
                              "are the kernel's");
    return true;
}

uint64_t place_home(void)
{
    return home;
}

void place_start(void)
{
    const char *v = secure_getenv(FFL_HOME_NETNS);
    int fd = v ? -1 : real.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    home = v ? strtoull(v, NULL, 10) : netns_of(fd);
    if (fd >= 0)
        real.close(fd);
}
