/*
 * ring.c - how long a round trip over the ring takes: `ffloop-ring-bench`.
 *
 * Two threads, in place of application and instance: one asks, one answers, over the SQ and the CQ
 * of a segment. Spinning on two CPUs, sleeping on two, sleeping on one; then the same through the
 * client and an instance (a NOP). Prints a table; with --json PATH ("-": standard output) a JSON
 * line too. --scale N divides the number of round trips by N.
 */
#include "channel.h"
#include "client.h"
#include "instance.h"
#include "spin.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define BATCH 200 /* round trips per sample when spinning: reading the clock takes 20-50 ns */

struct side {
    struct ffl_channel ch;
    int bell;
    int cpu;
    bool sleeps;
    long rounds;
};

struct result {
    const char *name, *key;
    bool done;
    double p50, p99, min; /* ns per round trip */
};

static void die(const char *what, int err)
{
    fprintf(stderr, "ffloop-ring-bench: %s: %s\n", what, strerror(err));
    exit(1);
}

static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (cpu >= 0 && sched_setaffinity(0, sizeof(set), &set) < 0)
        die("sched_setaffinity", errno);
}

/* The n-th CPU that this process may use, or -1. */
static int cpu_at(const cpu_set_t *allowed, int n)
{
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, allowed) && n-- == 0)
            return cpu;
    return -1;
}

/* ---- the ring alone ------------------------------------------------------------------------ */

static int ring_bell(int fd)
{
    uint64_t one = 1;
    return write(fd, &one, sizeof(one)) < 0 ? -errno : 0;
}

static void put(struct side *s, struct ffl_entry e)
{
    int rc = ffl_channel_put(&s->ch, e);
    if (rc == 0)
        rc = ffl_channel_commit(&s->ch);
    if (rc < 0)
        die("put", -rc);
}

static void doze(struct side *s)
{
    uint64_t n;
    if (ffl_channel_doze(&s->ch, FFL_WAIT_QUEUE) == 1 && read(s->bell, &n, sizeof(n)) < 0)
        die("eventfd", errno);
    ffl_channel_rouse(&s->ch);
}

static int take(void *to, struct ffl_entry e)
{
    *(struct ffl_entry *)to = e;
    return 0;
}

static struct ffl_entry get(struct side *s)
{
    struct ffl_entry e;
    while (ffl_channel_drain(&s->ch, 1, take, &e) <= 0)
        if (s->sleeps)
            doze(s);
        else
            ffl_cpu_relax();
    return e;
}

static void *answerer(void *arg)
{
    struct side *s = arg;
    pin(s->cpu);
    for (long i = 0; i < s->rounds; i++)
        put(s, get(s));
    return NULL;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void summarize(struct result *r, double *sample, long n)
{
    long skip = n / 10; /* warming up */
    sample += skip;
    n -= skip;
    qsort(sample, (size_t)n, sizeof(*sample), by_value);
    r->min = sample[0];
    r->p50 = sample[n / 2];
    r->p99 = sample[n - 1 - n / 100];
    r->done = true;
}

static void ring_alone(struct result *r, int cpu_a, int cpu_b, bool sleeps, long samples, int batch)
{
    struct ffl_geo geo;
    struct ffl_map m;
    ffl_geo_default(&geo, 16, 64);
    int rc = ffl_segment_create(&m, &geo, false);
    if (rc < 0)
        die("segment", -rc);
    struct side a = {.sleeps = sleeps, .bell = eventfd(0, EFD_CLOEXEC)}; /* read() blocks */
    struct side b = {
        .sleeps = sleeps, .bell = eventfd(0, EFD_CLOEXEC), .cpu = cpu_b, .rounds = samples * batch};
    ffl_channel_open(&a.ch, &m, FFL_SIDE_APP, b.bell, ring_bell);
    ffl_channel_open(&b.ch, &m, FFL_SIDE_INST, a.bell, ring_bell);
    double *sample = calloc((size_t)samples, sizeof(*sample));
    pthread_t t;
    if (!sample || a.bell < 0 || b.bell < 0 || pthread_create(&t, NULL, answerer, &b) != 0)
        die("set-up", ENOMEM);
    pin(cpu_a);
    for (long i = 0; i < samples; i++) {
        int64_t before = ffl_now_ns();
        for (int k = 0; k < batch; k++) {
            put(&a, (struct ffl_entry){.op = FFL_OP_NOP, .arg = k});
            if (get(&a).arg != k)
                die("a wrong answer", EPROTO);
        }
        sample[i] = (double)(ffl_now_ns() - before) / batch;
    }
    pthread_join(t, NULL);
    summarize(r, sample, samples);
    free(sample);
    close(a.bell);
    close(b.bell);
    ffl_segment_drop(&m);
}

/* ---- through the client and an instance ---------------------------------------------------- */

struct served {
    struct ffl_instance *in;
    int cpu;
};

static void *serve(void *arg)
{
    struct served *s = arg;
    pin(s->cpu);
    (void)ffl_instance_run(s->in);
    return NULL;
}

static void through_instance(struct result *r, int cpu_a, int cpu_b, bool sleeps, long samples)
{
    struct ffl_instance_opts o;
    struct ffl_client *c;
    char why[256], path[64];
    ffl_instance_opts_default(&o);
    snprintf(path, sizeof(path), "@ffloop-ring-bench-%d", (int)getpid());
    o.stack = ffl_stack_find("host"); /* a NOP does not reach the stack */
    o.path = path;
    o.spin_us = sleeps ? 0 : FFL_SPIN_FOREVER;
    struct served s = {.cpu = cpu_b};
    int rc = ffl_instance_start(&s.in, &o, why, sizeof(why));
    pthread_t t;
    if (rc < 0 || pthread_create(&t, NULL, serve, &s) != 0)
        die("instance", -rc);
    struct ffl_client_opts co = {.path = path, .spin_us = o.spin_us};
    rc = ffl_client_attach(&c, &co, why, sizeof(why));
    double *sample = calloc((size_t)samples, sizeof(*sample));
    if (rc < 0 || !sample)
        die("attach", -rc);
    pin(cpu_a);
    for (long i = 0; i < samples; i++) {
        int64_t before = ffl_now_ns();
        rc = ffl_client_ping(c);
        sample[i] = (double)(ffl_now_ns() - before);
        if (rc < 0)
            die("ping", -rc);
    }
    summarize(r, sample, samples);
    free(sample);
    ffl_client_detach(c);
    ffl_instance_stop(s.in);
    pthread_join(t, NULL);
    ffl_instance_free(s.in);
}

/* ---- output -------------------------------------------------------------------------------- */

static void print_table(const struct result *r, int n)
{
    printf("%-52s %10s %10s %10s\n", "round trip, ns", "p50", "p99", "least");
    for (int i = 0; i < n; i++)
        if (r[i].done)
            printf("%-52s %10.0f %10.0f %10.0f\n", r[i].name, r[i].p50, r[i].p99, r[i].min);
        else
            printf("%-52s %10s\n", r[i].name, "needs two CPUs");
}

static void print_json(const char *path, const struct result *r, int n, int cpus)
{
    FILE *f = strcmp(path, "-") == 0 ? stdout : fopen(path, "w");
    if (!f)
        die(path, errno);
    fprintf(f, "{\"benchmark\": \"ring\", \"cpus\": %d", cpus);
    for (int i = 0; i < n; i++)
        if (r[i].done)
            fprintf(f, ", \"%s\": {\"p50_ns\": %.1f, \"p99_ns\": %.1f, \"min_ns\": %.1f}", r[i].key,
                    r[i].p50, r[i].p99, r[i].min);
    fprintf(f, "}\n");
    if (f != stdout && fclose(f) != 0)
        die(path, errno);
}

int main(int argc, char **argv)
{
    const char *json = NULL;
    long scale = 1;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0 && i + 1 < argc) {
            json = argv[++i];
        } else if (strcmp(argv[i], "--scale") == 0 && i + 1 < argc && atol(argv[i + 1]) > 0) {
            scale = atol(argv[++i]);
        } else {
            fprintf(stderr, "usage: ffloop-ring-bench [--json PATH] [--scale N]\n");
            return 2;
        }
    }
    struct result r[] = {
        {.name = "ring, two CPUs, both spin", .key = "spin"},
        {.name = "ring, two CPUs, both sleep", .key = "sleep"},
        {.name = "ring, one CPU, both sleep", .key = "sleep_one_cpu"},
        {.name = "client and instance (NOP), two CPUs, instance spins", .key = "nop_spin"},
        {.name = "client and instance (NOP), two CPUs, both sleep", .key = "nop_sleep"},
        {.name = "client and instance (NOP), one CPU, both sleep", .key = "nop_sleep_one_cpu"},
    };
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) < 0)
        die("sched_getaffinity", errno);
    int a = cpu_at(&allowed, 0), b = cpu_at(&allowed, 1);
    if (b >= 0) {
        ring_alone(&r[0], a, b, false, 20000 / scale + 10, BATCH);
        ring_alone(&r[1], a, b, true, 20000 / scale + 10, 1);
        through_instance(&r[3], a, b, false, 200000 / scale + 10);
        through_instance(&r[4], a, b, true, 20000 / scale + 10);
    }
    ring_alone(&r[2], a, a, true, 100000 / scale + 10, 1);
    through_instance(&r[5], a, a, true, 100000 / scale + 10);
    print_table(r, (int)FFL_COUNT(r));
    if (json)
        print_json(json, r, (int)FFL_COUNT(r), CPU_COUNT(&allowed));
    return 0;
}
