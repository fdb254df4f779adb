/* options.c - see options.h. */
#include "options.h"

#include "choice.h"
#include "module.h"

#include <errno.h>
#include <getopt.h>
#include <libgen.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HELP_COLUMN 22
#define HELP_WIDTH 96
#define WHY 400 /* room for a sentence */

struct row;
typedef void (*setter)(struct ffl_instance_opts *o, const struct row *r, const char *text);

struct row {
    const char *name; /* NULL: `help` is a heading */
    const char *arg;  /* NULL: it takes none */
    setter set;
    size_t at; /* of a number, flag or string: its offset in the options, */
    long min, max;
    const char *help;
};

/* The stack's options, as key=value; they live as long as the process. */
static char *stack_args[64];
static int stack_argc;
static long proc_id; /* the instance's number: part of the usual path, and F-Stack's proc_id */

/* ---- setters of options -------------------------------------------------------------------- */

static void __attribute__((noreturn, format(printf, 1, 2))) wrong(const char *fmt, ...)
{
    va_list ap;
    fprintf(stderr, "ffloop-instance: ");
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\n");
    exit(2);
}

static void *field(struct ffl_instance_opts *o, const struct row *r)
{
    return (char *)o + r->at;
}

static long number(const struct row *r, const char *text)
{
    char *end;
    errno = 0;
    long v = strtol(text, &end, 10);
    if (errno || end == text || *end || v < r->min || v > r->max)
        wrong("--%s takes a whole number from %ld to %ld, not '%s'", r->name, r->min, r->max, text);
    return v;
}

static void set_int(struct ffl_instance_opts *o, const struct row *r, const char *text)
{
    *(int *)field(o, r) = (int)number(r, text);
}

static void set_unsigned(struct ffl_instance_opts *o, const struct row *r, const char *text)
{
    *(unsigned *)field(o, r) = (unsigned)number(r, text);
}

static void set_int64(struct ffl_instance_opts *o, const struct row *r, const char *text)
{
    *(int64_t *)field(o, r) = number(r, text);
}

static void set_seconds(struct ffl_instance_opts *o, const struct row *r, const char *text)
{
    *(int64_t *)field(o, r) = number(r, text) * FFL_NS_PER_SEC;
}

static void set_microseconds(struct ffl_instance_opts *o, const struct row *r, const char *text)
{
    *(int64_t *)field(o, r) = number(r, text) * 1000;
}

static void set_string(struct ffl_instance_opts *o, const struct row *r, const char *text)
{
    *(const char **)field(o, r) = text;
}

static void set_true(struct ffl_instance_opts *o, const struct row *r, const char *text)
{
    *(bool *)field(o, r) = true;
}

static void set_false(struct ffl_instance_opts *o, const struct row *r, const char *text)
{
    *(bool *)field(o, r) = false;
}

/* NULL: `why` is a sentence. */
static const struct ffl_module *fstack(char why[WHY])
{
    char native[PATH_MAX] = "";
    const struct ffl_module *module = NULL;
    if (readlink("/proc/self/exe", native, sizeof(native) - 1) < 0)
        snprintf(why, WHY, "/proc/self/exe cannot be read: mount -t proc proc /proc");
    else
        ffl_module_load(&module, dirname(native), why, WHY);
    return module;
}

static void set_stack(struct ffl_instance_opts *o, const struct row *r, const char *text)
{
    char why[WHY];
    o->stack = ffl_stack_find(text);
    if (!o->stack && strcmp(text, "fstack") == 0) {
        const struct ffl_module *module = fstack(why);
        if (!module)
            wrong("%s", why);
        o->stack = module->stack;
    }
    if (!o->stack)
        wrong("--stack takes host or fstack, not '%s'", text);
}

static void set_entries(struct ffl_instance_opts *o, const struct row *r, const char *text)
{
    long n = number(r, text);
    if (n & (n - 1))
        wrong("--entries takes a power of two, not %ld", n);
    o->entries = (uint32_t)n;
}

static void set_mode(struct ffl_instance_opts *o, const struct row *r, const char *text)
{
    char *end;
    errno = 0;
    long v = strtol(text, &end, 8);
    if (errno || end == text || *end || v < 0 || v > 0777)
        wrong("--mode takes an octal mode as in 660, not '%s'", text);
    o->mode = (int)v;
}

static void policy(const struct row *r,
                   int (*add)(struct ffl_policy *, const char *, char *, size_t),
                   struct ffl_policy *p, const char *text)
{
    char why[200] = "out of memory";
    if (add(p, text, why, sizeof(why)) < 0)
        wrong("--%s: %s", r->name, why);
}

static void add_user(struct ffl_instance_opts *o, const struct row *r, const char *text)
{
    policy(r, ffl_policy_add_user, &o->policy, text);
}

static void set_group(struct ffl_instance_opts *o, const struct row *r, const char *text)
{
    policy(r, ffl_policy_set_group, &o->policy, text);
}

static void add_ports(struct ffl_instance_opts *o, const struct row *r, const char *text)
{
    policy(r, ffl_policy_add_ports, &o->policy, text);
}

static void set_log_level(struct ffl_instance_opts *o, const struct row *r, const char *text)
{
    int level = ffl_log_level_parse(text);
    if (level < 0)
        wrong("--log-level takes error, warning, info or debug, not '%s'", text);
    ffl_log_open(2, (enum ffl_log_level)level);
}

static void set_proc_id(struct ffl_instance_opts *o, const struct row *r, const char *text)
{
    proc_id = number(r, text);
}

static void stack_arg(const char *key, const char *value)
{
    char *text = NULL;
    if (stack_argc == (int)FFL_COUNT(stack_args) ||
        (key ? asprintf(&text, "%s=%s", key, value) : asprintf(&text, "%s", value)) < 0)
        wrong("too many options");
    stack_args[stack_argc++] = text;
}

static void add_stack_arg(struct ffl_instance_opts *o, const struct row *r, const char *text)
{
    stack_arg(r->name, text);
}

static void show_help(struct ffl_instance_opts *o, const struct row *r, const char *text);

static void show_version(struct ffl_instance_opts *o, const struct row *r, const char *text)
{
    char why[WHY];
    printf("ffloop-instance %s\nstacks: ", FFL_VERSION);
    for (int i = 0; ffl_stacks[i]; i++)
        printf("%s%s", i ? ", " : "", ffl_stacks[i]->name);
    const struct ffl_module *module = fstack(why);
    if (module)
        printf(", fstack (%s)\n", module->built);
    else
        printf("\nno fstack: %s\n", why);
    exit(0);
}

/* ---- the table of options ------------------------------------------------------------------ */

#define AT(member) offsetof(struct ffl_instance_opts, member)

static const struct row rows[] = {
    {"stack", "NAME", set_stack, 0, 0, 0, "host (this kernel's TCP, the default), fstack"},
    {"socket", "PATH", set_string, AT(path), 0, 0,
     "unix socket to listen on; \"@name\" is an abstract one (default: "
     "$XDG_RUNTIME_DIR/ffloop/instance.sock, or under /run)"},
    {"proc-id", "N", set_proc_id, 0, 0, 127,
     "which of several instances this is; F-Stack: of its lcores (default 0)"},
    {"listen-fd", "N", set_int, AT(listen_fd), 0, INT_MAX,
     "take over a listening SOCK_SEQPACKET socket instead"},
    {"embedded", NULL, set_true, AT(embedded), 0, 0, "detach at once, end with the last session"},
    {"spin", "US", set_int64, AT(spin_us), -1, 1000000,
     "spin limit in microseconds; 0 never, -1 for ever (default: 50 while that pays)"},
    {"sq-poll", "US", set_int64, AT(sq_poll_us), 0, 1000,
     "stacks that poll: look at the SQs for so long per iteration (default 20)"},
    {"slice", "US", set_microseconds, AT(slice_ns), 10, 1000000,
     "of an iteration, for one session's work (default 200; 100 where the stack polls)"},
    {"max-sessions", "N", set_unsigned, AT(max_sessions), 1, 65536, "(default 64)"},
    {"user-sessions", "N", set_unsigned, AT(user_sessions), 1, 65536,
     "of one user (default: three quarters where others are admitted, else all)"},
    {"user-memberships", "N", set_unsigned, AT(user_memberships), 1, 1 << 20,
     "of multicast groups, of one user; the kernel walks all of them at each close (default 1024)"},
    {"max-sockets", "N", set_unsigned, AT(max_sockets), 16, 1 << 20, "per session (default 65536)"},
    {"pool-kib", "N", set_unsigned, AT(pool_kib), 1024, 400 * 1024,
     "buffers per session and side (default 131072)"},
    {"entries", "N", set_entries, 0, 64, 65536,
     "slots of a session's rings, a power of two from 64 to 65536: what it may have in flight "
     "(default 4096)"},
    {"rx-cap", "BYTES", set_unsigned, AT(rx_cap), 4096, 1 << 28,
     "read ahead per socket (default 262144)"},
    {"huge", NULL, set_true, AT(huge), 0, 0,
     "sessions on huge pages, as long as there are some; DPDK needs them more"},
    {"no-huge", NULL, set_false, AT(huge), 0, 0, "sessions on ordinary pages (the default)"},
    {"any-user", NULL, set_true, AT(policy.any_user), 0, 0,
     "every local user may attach (default: this user and root)"},
    {"allow-user", "USER", add_user, 0, 0, 0, "this one may, too; may be repeated"},
    {"group", "GROUP", set_group, 0, 0, 0, "its members may, too, and the socket is the group's"},
    {"mode", "OCTAL", set_mode, 0, 0, 0,
     "of the socket (default 600; 660 with --group; 666 with --any-user and --allow-user, where "
     "the instance itself looks who comes)"},
    {"ports", "USER=PORT[-PORT][,...]", add_ports, 0, 0, 0,
     "USER (\"*\": everyone) may bind these ports, those below 1024 too; given once or more, "
     "nobody, not even root, may bind others but a free one (port 0)"},
    {"drain", "SECONDS", set_seconds, AT(drain_ns), 0, 86400,
     "after SIGTERM, for connections to close (default 5)"},
    {"keep-listeners", "SECONDS", set_seconds, AT(keep_ns), 0, 86400,
     "a listener with SO_REUSEPORT that nobody has any more stays for so long, for the user's "
     "next application at its address (default 0)"},
    {"log-level", "LEVEL", set_log_level, 0, 0, 0, "error, warning, info, debug (default warning)"},
    {"help", NULL, show_help, 0, 0, 0, "print this"},
    {"version", NULL, show_version, 0, 0, 0, "print it, and the stacks that are installed"},
    {NULL, NULL, NULL, 0, 0, 0, "F-Stack (--stack fstack; the same as key=value):"},
    {"conf", "FILE", add_stack_arg, 0, 0, 0, "F-Stack's config.ini, as it is"},
    {"proc-type", "TYPE", add_stack_arg, 0, 0, 0, "primary (default), secondary, auto"},
    {"eal", "\"ARGS\"", add_stack_arg, 0, 0, 0, "more arguments for DPDK's EAL"},
    {NULL, NULL, NULL, 0, 0, 0, "instead of --conf, over an interface of the kernel's:"},
    {"iface", "NAME", add_stack_arg, 0, 0, 0, "the interface"},
    {"driver", "DRIVER", add_stack_arg, 0, 0, 0, "DPDK's: af_packet (default) or af_xdp"},
    {"addr", "A.B.C.D/BITS[,B...]", add_stack_arg, 0, 0, 0, "its addresses"},
    {"gateway", "A.B.C.D", add_stack_arg, 0, 0, 0, "of IPv4"},
    {"addr6", "A/BITS", add_stack_arg, 0, 0, 0, "its IPv6 address"},
    {"gateway6", "A", add_stack_arg, 0, 0, 0, "of IPv6"},
    {"pkt-tx-delay", "US", add_stack_arg, 0, 0, 0, "F-Stack's pkt_tx_delay"},
    {"idle-sleep", "US", add_stack_arg, 0, 0, 0, "F-Stack's idle_sleep"},
    {"lcore-mask", "HEX", add_stack_arg, 0, 0, 0, "the CPU to run on"},
};

/* ---- the help text ------------------------------------------------------------------------- */

/* Prints words from HELP_COLUMN to HELP_WIDTH; the line has `used` characters already. */
static void print_wrapped(const char *text, size_t used)
{
    while (*text) {
        size_t n = strcspn(text, " ");
        if (used > HELP_COLUMN && used + 1 + n > HELP_WIDTH) {
            printf("\n%*s", HELP_COLUMN, "");
            used = HELP_COLUMN;
        }
        used += (size_t)printf("%s%.*s", used > HELP_COLUMN ? " " : "", (int)n, text);
        text += n + strspn(text + n, " ");
    }
    printf("\n");
}

static void print_row(const struct row *r)
{
    if (!r->name) {
        printf("%s\n", r->help);
        return;
    }
    int used = printf("  --%s%s%s", r->name, r->arg ? " " : "", r->arg ? r->arg : "");
    if (used > HELP_COLUMN - 2) {
        printf("\n");
        used = 0;
    }
    printf("%*s", HELP_COLUMN - used, "");
    print_wrapped(r->help, HELP_COLUMN);
}

static void show_help(struct ffl_instance_opts *o, const struct row *r, const char *text)
{
    printf("usage: ffloop-instance [options] [STACK OPTION key=value ...]\n");
    for (size_t i = 0; i < FFL_COUNT(rows); i++)
        print_row(&rows[i]);
    exit(0);
}

/* ---- parsing the command line -------------------------------------------------------------- */

/* The first of the usual paths at which applications look; makes its directory. */
static const char *usual_path(void)
{
    static char path[FFL_CHOICE_PATH];
    int rc = ffl_choice_place(NULL, 0, (int)proc_id, path, sizeof(path));
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

static void long_options(struct option *to)
{
    for (size_t i = 0; i < FFL_COUNT(rows); i++)
        if (rows[i].name)
            *to++ = (struct option){rows[i].name, rows[i].arg ? required_argument : no_argument,
                                    NULL, 256 + (int)i};
    *to = (struct option){0};
}

void options_parse(int argc, char **argv, struct ffl_instance_opts *o)
{
    struct option options[FFL_COUNT(rows) + 1];
    int c;
    long_options(options);
    argv[0] = program_invocation_short_name; /* for getopt's own messages */
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        if (c == 'h')
            show_help(o, NULL, NULL);
        if (c < 256)
            wrong("try --help");
        rows[c - 256].set(o, &rows[c - 256], optarg);
    }
    if (proc_id && strcmp(o->stack->name, "fstack") == 0) {
        char id[16];
        snprintf(id, sizeof(id), "%ld", proc_id);
        stack_arg("proc-id", id);
    }
    for (; optind < argc; optind++)
        stack_arg(NULL, argv[optind]);
    o->stack_opts = (struct ffl_stack_opts){.argc = stack_argc, .argv = stack_args};
    if (!o->path && o->listen_fd < 0)
        o->path = usual_path();
}
