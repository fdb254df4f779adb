/*
 * main.c - the instance executable: options, signals, the start-up line.
 *
 * Callers: `ffloop instance`, the embedded start in ffloop/_session/discovery.py, service managers. Writes one
 * line to standard output when it is ready and tells the service manager, logs to standard error. Exit
 * status: 0 after SIGTERM (a drain; the second ends at once) or SIGINT, 1 when it could not start, 2 for a usage error.
 */
#include "choice.h"
#include "instance.h"
#include "notify.h"
#include "spin.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
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

static const char usage[] =
    "usage: ffloop-instance [options] [STACK OPTION key=value ...]\n"
    "  --stack NAME        host (this kernel's TCP, the default), sim (in memory), fstack%s\n"
    "  --socket PATH       unix socket to listen on; \"@name\" is an abstract one (default:\n"
    "                      $XDG_RUNTIME_DIR/ffloop/instance.sock, or under /run)\n"
    "  --proc-id N         which of several instances this is; F-Stack: of its lcores (default 0)\n"
    "  --listen-fd N       take over a listening SOCK_SEQPACKET socket instead\n"
    "  --embedded          detach at once, end with the last session\n"
    "  --spin US           spin limit in microseconds; 0 never, -1 for ever (default: adaptive)\n"
    "  --sq-poll US        stacks that poll: look at the SQs for so long a turn (default 20)\n"
    "  --max-sessions N    (default 64)\n"
    "  --user-sessions N   of one user (default: as many)\n"
    "  --max-sockets N     a session (default 65536)\n"
    "  --pool-kib N        buffers a session, a side (default 16384)\n"
    "  --entries N         slots of a session's rings, a power of two from 64 to 65536: what it "
    "may\n"
    "                      have in flight (default 4096)\n"
    "  --rx-cap BYTES      read ahead a socket (default 262144)\n"
    "  --no-huge           sessions on ordinary pages only\n"
    "  --any-user          every local user may attach (default: this user and root)\n"
    "  --allow-user USER   this one may, too; may be repeated\n"
    "  --group GROUP       its members may, too, and the socket is the group's\n"
    "  --mode OCTAL        of the socket (default 600; 660 with --group; 666 with --any-user and\n"
    "                      --allow-user, where the instance itself looks who comes)\n"
    "  --ports USER=PORT[-PORT][,...]\n"
    "                      USER (\"*\": everyone) may bind these ports; given once or more, "
    "nobody,\n"
    "                      not even root, may bind others but a free one (port 0)\n"
    "  --drain SECONDS     after SIGTERM, for connections to close (default 5)\n"
    "  --keep-listeners SECONDS\n"
    "                      a listener with SO_REUSEPORT that nobody has any more stays for so "
    "long, "
    "for\n"
    "                      the user's next application at its address (default 0)\n"
    "  --log-level LEVEL   error, warning, info, debug (default warning)\n"
    "  --version           print it\n"
    "F-Stack (--stack fstack; the same as key=value):\n"
    "  --conf FILE         F-Stack's config.ini, as it is\n"
    "  --proc-type TYPE    primary (default), secondary, auto\n"
    "  --eal \"ARGS\"        more arguments for DPDK's EAL\n"
    "  --iface NAME --addr A.B.C.D/BITS[,B...] [--gateway G] [--addr6 A/BITS] [--gateway6 G]\n"
    "  [--pkt-tx-delay US] [--idle-sleep US] [--lcore-mask HEX]\n"
    "                      instead of --conf: over DPDK's net_af_packet on this interface\n";

enum {
    OPT_STACK = 256,
    OPT_SOCKET,
    OPT_LISTEN_FD,
    OPT_EMBEDDED,
    OPT_SPIN,
    OPT_SQ_POLL,
    OPT_MAX_SESSIONS,
    OPT_MAX_SOCKETS,
    OPT_POOL,
    OPT_RX_CAP,
    OPT_NO_HUGE,
    OPT_ANY_USER,
    OPT_LOG,
    OPT_HELP,
    OPT_VERSION,
    OPT_STACK_KEY,
    OPT_PROC_ID,
    OPT_ENTRIES,
    OPT_USER_SESSIONS,
    OPT_ALLOW_USER,
    OPT_GROUP,
    OPT_MODE,
    OPT_PORTS,
    OPT_DRAIN,
    OPT_KEEP
};

static const struct option options[] = {
    {"stack", required_argument, NULL, OPT_STACK},
    {"socket", required_argument, NULL, OPT_SOCKET},
    {"listen-fd", required_argument, NULL, OPT_LISTEN_FD},
    {"embedded", no_argument, NULL, OPT_EMBEDDED},
    {"spin", required_argument, NULL, OPT_SPIN},
    {"sq-poll", required_argument, NULL, OPT_SQ_POLL},
    {"max-sessions", required_argument, NULL, OPT_MAX_SESSIONS},
    {"max-sockets", required_argument, NULL, OPT_MAX_SOCKETS},
    {"pool-kib", required_argument, NULL, OPT_POOL},
    {"rx-cap", required_argument, NULL, OPT_RX_CAP},
    {"no-huge", no_argument, NULL, OPT_NO_HUGE},
    {"any-user", no_argument, NULL, OPT_ANY_USER},
    {"entries", required_argument, NULL, OPT_ENTRIES},
    {"user-sessions", required_argument, NULL, OPT_USER_SESSIONS},
    {"allow-user", required_argument, NULL, OPT_ALLOW_USER},
    {"group", required_argument, NULL, OPT_GROUP},
    {"mode", required_argument, NULL, OPT_MODE},
    {"ports", required_argument, NULL, OPT_PORTS},
    {"drain", required_argument, NULL, OPT_DRAIN},
    {"keep-listeners", required_argument, NULL, OPT_KEEP},
    {"log-level", required_argument, NULL, OPT_LOG},
    {"help", no_argument, NULL, OPT_HELP},
    {"version", no_argument, NULL, OPT_VERSION},
    {"conf", required_argument, NULL, OPT_STACK_KEY},
    {"proc-type", required_argument, NULL, OPT_STACK_KEY},
    {"proc-id", required_argument, NULL, OPT_PROC_ID},
    {"eal", required_argument, NULL, OPT_STACK_KEY},
    {"iface", required_argument, NULL, OPT_STACK_KEY},
    {"addr", required_argument, NULL, OPT_STACK_KEY},
    {"gateway", required_argument, NULL, OPT_STACK_KEY},
    {"addr6", required_argument, NULL, OPT_STACK_KEY},
    {"gateway6", required_argument, NULL, OPT_STACK_KEY},
    {"pkt-tx-delay", required_argument, NULL, OPT_STACK_KEY},
    {"idle-sleep", required_argument, NULL, OPT_STACK_KEY},
    {"lcore-mask", required_argument, NULL, OPT_STACK_KEY},
    {NULL, 0, NULL, 0},
};

static long number(const char *what, const char *text, long min, long max)
{
    char *end;
    errno = 0;
    long v = strtol(text, &end, 10);
    if (errno || end == text || *end || v < min || v > max) {
        fprintf(stderr, "ffloop-instance: --%s takes a whole number from %ld to %ld, not '%s'\n",
                what, min, max, text);
        exit(2);
    }
    return v;
}

static int mode(const char *text)
{
    char *end;
    errno = 0;
    long v = strtol(text, &end, 8);
    if (!errno && end != text && !*end && v >= 0 && v <= 0777)
        return (int)v;
    fprintf(stderr, "ffloop-instance: --mode takes an octal mode as in 660, not '%s'\n", text);
    exit(2);
}

static uint32_t entries(const char *text)
{
    long n = number("entries", text, 64, 65536);
    if ((n & (n - 1)) == 0)
        return (uint32_t)n;
    fprintf(stderr, "ffloop-instance: --entries takes a power of two, not %ld\n", n);
    exit(2);
}

static void policy(const char *option,
                   int (*add)(struct ffl_policy *, const char *, char *, size_t),
                   struct ffl_policy *p, const char *text)
{
    char why[200] = "out of memory";
    if (add(p, text, why, sizeof(why)) == 0)
        return;
    fprintf(stderr, "ffloop-instance: --%s: %s\n", option, why);
    exit(2);
}

static const struct ffl_stack_ops *stack_named(const char *name)
{
    const struct ffl_stack_ops *ops = ffl_stack_find(name);
    if (ops)
        return ops;
    fprintf(stderr, "ffloop-instance: no stack '%s' in this build; it has:", name);
    for (int i = 0; ffl_stacks[i]; i++)
        fprintf(stderr, " %s", ffl_stacks[i]->name);
    fprintf(stderr, "%s\n",
            strcmp(name, "fstack")
                ? ""
                : " (F-Stack is built in when FF_PATH is set at install time: docs/fstack.md)");
    exit(2);
}

static enum ffl_log_level parse_level(const char *text)
{
    int level = ffl_log_level_parse(text);
    if (level < 0) {
        fprintf(stderr,
                "ffloop-instance: --log-level takes error, warning, info or debug, "
                "not '%s'\n",
                text);
        exit(2);
    }
    return (enum ffl_log_level)level;
}

/* The stack's own options become key=value, as sim takes them. Kept for the process's life. */
static char *stack_args[64];
static int stack_argc;
static int proc_id; /* of several instances: names the usual socket, and F-Stack's process */

static void stack_arg(const char *key, const char *value)
{
    char *text = NULL;
    if (stack_argc == (int)FFL_COUNT(stack_args) ||
        (key ? asprintf(&text, "%s=%s", key, value) : asprintf(&text, "%s", value)) < 0) {
        fprintf(stderr, "ffloop-instance: too many options\n");
        exit(2);
    }
    stack_args[stack_argc++] = text;
}

/* Where applications look when nothing names an instance; its folder is made. */
static const char *usual_path(void)
{
    static char path[FFL_CHOICE_PATH];
    int rc = ffl_choice_place(NULL, 0, proc_id, path, sizeof(path));
    char *slash = rc < 0 ? NULL : strrchr(path, '/');
    if (slash) {
        *slash = '\0';
        rc = mkdir(path, 0755) < 0 && errno != EEXIST ? -errno : 0;
    }
    if (rc < 0) {
        fprintf(stderr, "ffloop-instance: %s: %s; name a socket with --socket PATH\n", path,
                strerror(-rc));
        exit(1);
    }
    *slash = '/';
    return path;
}

static void parse(int argc, char **argv, struct ffl_instance_opts *o)
{
    int c, which = 0;
    argv[0] = program_invocation_short_name; /* for getopt's own messages */
    while ((c = getopt_long(argc, argv, "h", options, &which)) != -1) {
        switch (c) {
        case OPT_STACK:
            o->stack = stack_named(optarg);
            break;
        case OPT_SOCKET:
            o->path = optarg;
            break;
        case OPT_LISTEN_FD:
            o->listen_fd = (int)number("listen-fd", optarg, 0, INT_MAX);
            break;
        case OPT_EMBEDDED:
            o->embedded = true;
            break;
        case OPT_SPIN:
            o->spin_us = number("spin", optarg, -1, 1000000);
            break;
        case OPT_SQ_POLL:
            o->sq_poll_us = number("sq-poll", optarg, 0, 1000);
            break;
        case OPT_MAX_SESSIONS:
            o->max_sessions = (unsigned)number("max-sessions", optarg, 1, 65536);
            break;
        case OPT_MAX_SOCKETS:
            o->max_sockets = (uint32_t)number("max-sockets", optarg, 16, 1 << 20);
            break;
        case OPT_POOL:
            o->pool_kib = (uint32_t)number("pool-kib", optarg, 1024, 400 * 1024);
            break;
        case OPT_RX_CAP:
            o->rx_cap = (uint32_t)number("rx-cap", optarg, 4096, 1 << 28);
            break;
        case OPT_NO_HUGE:
            o->huge = false;
            break;
        case OPT_ANY_USER:
            o->policy.any_user = true;
            break;
        case OPT_ENTRIES:
            o->entries = entries(optarg);
            break;
        case OPT_USER_SESSIONS:
            o->user_sessions = (unsigned)number("user-sessions", optarg, 1, 65536);
            break;
        case OPT_ALLOW_USER:
            policy("allow-user", ffl_policy_add_user, &o->policy, optarg);
            break;
        case OPT_GROUP:
            policy("group", ffl_policy_set_group, &o->policy, optarg);
            break;
        case OPT_MODE:
            o->mode = mode(optarg);
            break;
        case OPT_PORTS:
            policy("ports", ffl_policy_add_ports, &o->policy, optarg);
            break;
        case OPT_DRAIN:
            o->drain_ns = number("drain", optarg, 0, 86400) * FFL_NS_PER_SEC;
            break;
        case OPT_KEEP:
            o->keep_ns = number("keep-listeners", optarg, 0, 86400) * FFL_NS_PER_SEC;
            break;
        case OPT_LOG:
            ffl_log_open(2, parse_level(optarg));
            break;
        case OPT_PROC_ID:
            proc_id = (int)number("proc-id", optarg, 0, 127);
            break;
        case OPT_STACK_KEY:
            stack_arg(options[which].name, optarg);
            break;
        case 'h':
        case OPT_HELP:
            printf(usage, ffl_stack_find("fstack") ? "" : " (not in this build)");
            exit(0);
        case OPT_VERSION:
            printf("ffloop-instance %s\n", FFL_VERSION);
            exit(0);
        default:
            fprintf(stderr, "ffloop-instance: try --help\n");
            exit(2);
        }
    }
    if (proc_id && strcmp(o->stack->name, "fstack") == 0) {
        char id[16];
        snprintf(id, sizeof(id), "%d", proc_id);
        stack_arg("proc-id", id);
    }
    for (; optind < argc; optind++)
        stack_arg(NULL, argv[optind]);
    o->stack_opts = (struct ffl_stack_opts){.argc = stack_argc, .argv = stack_args};
    if (!o->path && o->listen_fd < 0)
        o->path = usual_path();
}

/*
 * Leaves the application's process group and parentage, so that its Ctrl-C, its waitpid(-1) and its
 * end do not concern this process; the unix socket alone ties it to its sessions. The application's own
 * child stays until the instance is up, and its exit status says whether it is. Returns where to
 * write that word.
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
            setsid();
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
 * A stack that sleeps is woken by every first submission. As a batch task the woken instance takes an
 * idle CPU at once but does not push an application off its own in the middle of its work, which
 * would cost a doorbell and two switches an answer. A stack that polls has its core to itself.
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
    parse(argc, argv, &o);
    int up = o.embedded ? detach() : -1;
    umask(077);
    int notify = o.embedded ? 0 : ffl_notify_open(); /* embedded: the application's, not ours */
    if (notify < 0)
        ffl_log(FFL_LOG_WARNING, "NOTIFY_SOCKET cannot be used: %s", strerror(-notify));
    struct sigaction ignore = {.sa_handler = SIG_IGN}, stop = {.sa_handler = on_signal};
    sigaction(SIGPIPE, &ignore, NULL);
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
    ffl_notify("READY=1\nMAINPID=%d\nSTATUS=stack %s (%s)", (int)getpid(), o.stack->name, desc);
    if (up >= 0) {
        if (write(up, "", 1) != 1)
            ffl_log(FFL_LOG_INFO, "who started this instance has gone");
        close(up);
    }
    int rc = ffl_instance_run(in);
    running = NULL;
    ffl_notify("STOPPING=1\nSTATUS=ending");
    ffl_instance_free(in);
    ffl_notify_close();
    if (rc < 0)
        fprintf(stderr, "ffloop-instance: %s\n", strerror(-rc));
    return rc < 0;
}
