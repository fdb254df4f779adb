/* fstack_life.c - F-Stack's life in a process. See fstack_life.h. */
#include "fstack_life.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "ff_api.h"

int __real_rte_eal_init(int argc, char **argv);
void __real_rte_delay_us_sleep(unsigned us);
void __real_exit(int status) __attribute__((noreturn));
int __wrap_rte_eal_init(int argc, char **argv);
int __real_rte_eal_mp_remote_launch(int (*f)(void *), void *arg, int call);
int __wrap_rte_eal_mp_remote_launch(int (*f)(void *), void *arg, int call);
void __wrap_rte_delay_us_sleep(unsigned us);
void __wrap_exit(int status) __attribute__((noreturn));
int rte_eal_cleanup(void); /* DPDK's, whose headers set the compiler's flags */

static struct {
    enum { OUTSIDE, BEGINNING, LAUNCHING, RUNNING } in; /* the part of F-Stack that runs */
    jmp_buf out;                                        /* the way out of that part */
    const struct fstack_conf *conf; /* while BEGINNING: for the calls that come out of ff_init */
    bool tried, begun;
    pid_t pid;
    pthread_t thread;
    int (*loop)(void *); /* F-Stack's, and its argument */
    void *loop_arg;
    ffl_iterate_fn iterate; /* while RUNNING */
    void *arg;
    int64_t next; /* the last result of iterate */
} life;

/* ---- F-Stack's calls to the outside -------------------------------------------------------- */

/* Adds the extra arguments to those that F-Stack builds from its configuration. */
int __wrap_rte_eal_init(int argc, char **argv)
{
    char *args[128];
    int n = 0;
    for (; n < argc && n < 64; n++)
        args[n] = argv[n];
    for (int i = 0; life.conf && i < life.conf->neal && n < (int)FFL_COUNT(args) - 1; i++)
        args[n++] = life.conf->eal[i];
    args[n] = NULL;
    return __real_rte_eal_init(n, args);
}

void __wrap_exit(int status)
{
    if (life.in == BEGINNING)
        longjmp(life.out, 1);
    __real_exit(status);
}

/* ff_run starts its loop with this call, and ends F-Stack when the call returns. */
int __wrap_rte_eal_mp_remote_launch(int (*f)(void *), void *arg, int call)
{
    if (life.in != LAUNCHING)
        return __real_rte_eal_mp_remote_launch(f, arg, call);
    life.loop = f;
    life.loop_arg = arg;
    longjmp(life.out, 1);
}

/* idle_sleep: F-Stack sleeps after an iteration without packets,
 * even if `iterate` has work left. */
void __wrap_rte_delay_us_sleep(unsigned us)
{
    if (life.in == RUNNING && life.next < (int64_t)us * 1000)
        us = life.next > 0 ? (unsigned)(life.next / 1000) : 0;
    if (us)
        __real_rte_delay_us_sleep(us);
}

/* ---- the beginning ------------------------------------------------------------------------- */

static void end_with_process(void)
{
    if (life.begun && life.pid == getpid())
        (void)rte_eal_cleanup(); /* the process ends: nobody hears of a failure */
}

static int call_turn(void *unused)
{
    life.next = life.iterate(life.arg);
    if (life.next < 0)
        longjmp(life.out, 1); /* F-Stack's loop holds no resource at this point */
    return 0;
}

/* False: F-Stack gave up. */
static bool init(const struct fstack_conf *conf)
{
    char conf_arg[512], type_arg[64], id_arg[32];
    snprintf(conf_arg, sizeof(conf_arg), "--conf=%s", conf->path);
    snprintf(type_arg, sizeof(type_arg), "--proc-type=%s", conf->proc_type);
    snprintf(id_arg, sizeof(id_arg), "--proc-id=%d", conf->proc_id);
    char *argv[] = {"ffloop", conf_arg, type_arg, id_arg, NULL};
    life.conf = conf;
    life.in = BEGINNING;
    if (setjmp(life.out) == 0 && ff_init(4, argv) == 0) {
        life.in = LAUNCHING;
        ff_run(call_turn, NULL);
    }
    life.in = OUTSIDE;
    life.conf = NULL;
    return life.loop != NULL;
}

/* ff_init prints its configuration on standard output, which is the application's. */
static int init_quietly(const struct fstack_conf *conf, bool *well)
{
    fflush(stdout);
    int saved = dup(1);
    if (saved < 0 || dup2(2, 1) < 0)
        return -errno;
    *well = init(conf);
    fflush(stdout);
    int rc = dup2(saved, 1) < 0 ? -errno : 0;
    close(saved);
    return rc;
}

int fstack_life_begin(const struct fstack_conf *conf, char *why, size_t whylen)
{
    bool well = false;
    if (life.tried) {
        snprintf(why, whylen,
                 "F-Stack could not start before in this process, and is not tried twice: start "
                 "another process");
        return -EIO;
    }
    life.tried = true;
    life.pid = getpid();
    life.thread = pthread_self();
    int rc = init_quietly(conf, &well);
    if (rc == 0 && !well) {
        snprintf(why, whylen,
                 "F-Stack could not start with %s: its own message is on standard error%s; "
                 "docs/fstack.md lists the usual causes",
                 conf->path, geteuid() ? " (it needs root for most of what it uses)" : "");
        return -EIO;
    }
    life.begun = rc == 0;
    if (life.begun && atexit(end_with_process) != 0)
        rc = -ENOMEM;
    return rc;
}

int fstack_life_usable(char *why, size_t whylen)
{
    if (life.pid != getpid())
        snprintf(
            why, whylen,
            "this process is a fork of one where F-Stack runs (pid %d), whose memory is not its "
            "own: start another program, or fork before the loop is made",
            (int)life.pid);
    else if (!pthread_equal(life.thread, pthread_self()))
        snprintf(why, whylen,
                 "F-Stack belongs to the thread that started it: make and run the loop there");
    else
        return 0;
    return -EPERM;
}

/* ---- running ------------------------------------------------------------------------------- */

void fstack_life_run(ffl_iterate_fn iterate, void *arg)
{
    life.iterate = iterate;
    life.arg = arg;
    life.next = 0;
    life.in = RUNNING;
    if (setjmp(life.out) == 0)
        life.loop(life.loop_arg);
    life.in = OUTSIDE;
}
