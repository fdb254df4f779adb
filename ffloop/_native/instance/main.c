/*
 * main.c - the instance executable: signals, the start-up line.
 *
 * Callers: `ffloop instance`, the embedded start in ffloop/_session/discovery.py, service managers.
 * Once ready, writes one line to standard output and tells the service manager; logs to standard
 * error. Exit status: 0 after SIGTERM (a drain; a second SIGTERM ends at once) or SIGINT, 1 when
 * the instance could not start, 2 for a usage error.
 */
#include "instance.h"
#include "notify.h"
#include "options.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct ffl_instance *running;

static void on_signal(int sig)
{
    static sig_atomic_t terms;
    int saved = errno;
    if (running && sig == SIGTERM && terms++ == 0)
        ffl_instance_drain(running);
    else if (running)
        ffl_instance_stop(running);
    errno = saved;
}

/*
 * Leaves the application's process group and parentage: its Ctrl-C, waitpid(-1) and end do not
 * concern the instance. It stays in the application's session: the kernel's autogroups share a
 * CPU out between sessions first, and where other processes keep the CPUs busy two sessions that
 * wake each other wait a time slice for each wake. The application's own child stays until the
 * instance is up, and its exit status says whether it is. Returns the descriptor on which to tell
 * that child.
 */
static int detach(void)
{
    int up[2];
    char word;
    if (pipe2(up, O_CLOEXEC) < 0) {
        fprintf(stderr, "ffloop-instance: pipe: %s\n", strerror(errno));
        exit(1);
    }
    for (int i = 0; i < 2; i++) {
        pid_t pid = fork();
        if (pid < 0) {
            fprintf(stderr, "ffloop-instance: fork: %s\n", strerror(errno));
            exit(1);
        }
        if (pid > 0) {
            close(up[1]);
            _exit(i == 0 && read(up[0], &word, 1) != 1);
        }
        if (i == 0)
            setpgid(0, 0); /* cannot fail in a fresh child */
    }
    close(up[0]);
    if (chdir("/") < 0)
        ffl_log(FFL_LOG_WARNING, "chdir /: %s", strerror(errno));
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null >= 0) { /* standard error stays: the log goes there */
        dup2(null, 0);
        dup2(null, 1);
        if (null > 2)
            close(null);
    }
    return up[1];
}

/*
 * Each first submission wakes an instance whose stack sleeps. A batch task takes an idle CPU at
 * once, but does not push an application off its CPU, which would cost a doorbell and two switches
 * per answer. A stack that polls has its core to itself.
 */
static void be_patient(const struct ffl_stack_ops *stack)
{
    struct sched_param none = {0};
    if (!stack->run && sched_setscheduler(0, SCHED_BATCH, &none) < 0)
        ffl_log(FFL_LOG_INFO, "SCHED_BATCH: %s", strerror(errno)); /* a seccomp filter, perhaps */
}

int main(int argc, char **argv)
{
    struct ffl_instance_opts o;
    char why[256], desc[160];
    ffl_instance_opts_default(&o);
    o.stack = ffl_stack_find("host");
    ffl_log_open(2, FFL_LOG_WARNING);
    options_parse(argc, argv, &o);
    int up = o.embedded ? detach() : -1;
    umask(077);
    /* Embedded: NOTIFY_SOCKET is the application's. */
    int notify = o.embedded ? 0 : notify_open();
    if (notify < 0)
        ffl_log(FFL_LOG_WARNING, "NOTIFY_SOCKET cannot be used: %s", strerror(-notify));
    struct sigaction ignore = {.sa_handler = SIG_IGN}, stop = {.sa_handler = on_signal};
    sigaction(SIGPIPE, &ignore, NULL);
    sigaction(SIGTTOU, &ignore, NULL); /* embedded, it logs to the application's terminal */
    sigaction(SIGXFSZ, &ignore, NULL); /* shared memory counts as a file: EFBIG says so */
    struct ffl_instance *in;
    if (ffl_instance_start(&in, &o, why, sizeof(why)) < 0) {
        fprintf(stderr, "ffloop-instance: %s\n", why);
        return 1;
    }
    running = in;
    be_patient(o.stack);
    sigaction(SIGTERM, &stop, NULL);
    sigaction(o.embedded ? SIGHUP : SIGINT, o.embedded ? &ignore : &stop, NULL);
    ffl_instance_describe(in, desc, sizeof(desc));
    printf("ffloop instance ready: stack %s (%s), socket %s, pid %d\n", o.stack->name, desc,
           o.path ? o.path : "inherited", (int)getpid());
    fflush(stdout);
    notify_send("READY=1\nMAINPID=%d\nSTATUS=stack %s (%s)", (int)getpid(), o.stack->name, desc);
    if (up >= 0) {
        if (write(up, "", 1) != 1)
            ffl_log(FFL_LOG_INFO, "who started this instance has gone");
        close(up);
    }
    int rc = ffl_instance_run(in);
    running = NULL;
    notify_send("STOPPING=1\nSTATUS=ending");
    ffl_instance_free(in);
    notify_close();
    if (rc < 0)
        fprintf(stderr, "ffloop-instance: %s\n", strerror(-rc));
    return rc < 0;
}
