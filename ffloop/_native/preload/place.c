/*
 * place.c - which stack and which instance a socket goes to, and where the thread runs.
 *
 * Callers: sock.c, at bind, listen or connect. With fstack, loopback stays on the kernel; rules
 * (FFLOOP_ROUTES, "NETWORK/BITS=stack|kernel", first match wins) say otherwise. Of several
 * instances (FF_NB_FSTACK_INSTANCE) a process uses number FF_PROC_ID; with FF_THREAD_SOCKET its
 * next thread the next one; with FF_MULTI_SC listeners of one address are spread over all, for the
 * children of a fork to take one each.
 */
#include "preload.h"

#include <arpa/inet.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

struct rule {
    int family, bits;
    uint8_t ip[16];
    bool stack;
};

#define RULES 64
static struct rule rules[RULES];
static int nrules;

static bool parse(const char *text, size_t len, struct rule *r)
{
    char word[80], *what, *bits;
    if (len >= sizeof(word))
        return false;
    memcpy(word, text, len);
    word[len] = '\0';
    if (!(what = strchr(word, '=')))
        return false;
    *what++ = '\0';
    if (!(bits = strchr(word, '/')))
        bits = NULL;
    else
        *bits++ = '\0';
    *r = (struct rule){.family = strchr(word, ':') ? AF_INET6 : AF_INET};
    int most = r->family == AF_INET ? 32 : 128;
    r->bits = bits ? atoi(bits) : most;
    r->stack = !strcmp(what, "stack");
    return inet_pton(r->family, word, r->ip) == 1 && r->bits >= 0 && r->bits <= most &&
           (r->stack || !strcmp(what, "kernel"));
}

void route_start(void)
{
    const char *p = options.routes;
    while (p && *p && nrules < RULES) {
        size_t len = strcspn(p, ",");
        if (parse(p, len, &rules[nrules]))
            nrules++;
        else
            report("FFLOOP_ROUTES: '%.*s' is not NETWORK/BITS=stack or =kernel: it is not used",
                   (int)len, p);
        p += len + (p[len] == ',');
    }
}

static bool within(const struct rule *r, const struct ffl_addr *a)
{
    if (r->family != a->family || memcmp(r->ip, a->ip, (size_t)r->bits / 8) != 0)
        return false;
    int rest = r->bits % 8;
    return !rest || (r->ip[r->bits / 8] ^ a->ip[r->bits / 8]) >> (8 - rest) == 0;
}

static bool is_loopback(const struct ffl_addr *a)
{
    static const uint8_t six[16] = {[15] = 1}, mapped[13] = {[10] = 0xff, 0xff, 127};
    if (a->family == AF_INET)
        return a->ip[0] == 127;
    return !memcmp(a->ip, six, 16) || !memcmp(a->ip, mapped, 13);
}

bool route(const struct sc *sc, const struct ffl_addr *a)
{
    for (int i = 0; i < nrules; i++)
        if (within(&rules[i], a))
            return rules[i].stack;
    return !(sc->fstack && is_loopback(a));
}

/* ---- of several instances ------------------------------------------------------------------ */

static int mine = -1; /* FF_MULTI_SC: this process's, once it has taken its listener */

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

/* The first number that no other socket of the address has. */
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

int place_instance(struct sock *s, const struct ffl_addr *a)
{
    if (options.per_thread)
        return (int)(((int64_t)options.proc_id + worker() - 1) % options.instances);
    if (options.multi_sc && a && a->port_be && s->reuse_port) {
        s->ordinal = next_ordinal(s, a);
        s->bound = *a;
        return (int)(((int64_t)options.proc_id + s->ordinal) % options.instances);
    }
    return mine >= 0 ? mine : options.proc_id % options.instances;
}

/* ---- CPUs ---------------------------------------------------------------------------------- */

/* The calling thread to the CPU `up` places above the first of the mask. */
static void pin(int64_t up)
{
    if (!options.initial_lcore)
        return;
    int64_t cpu = __builtin_ctzll(options.initial_lcore) + up;
    cpu_set_t set;
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
        pin((int64_t)options.proc_id + worker() - 1);
    else if (!options.multi_sc && first)
        pin(options.proc_id);
}

void place_imported(const struct sock *s)
{
    if (!options.multi_sc || !s->bound.family || mine >= 0)
        return;
    mine = s->sc->index;
    pin((int64_t)options.proc_id + s->ordinal);
}
