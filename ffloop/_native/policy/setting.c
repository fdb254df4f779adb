/* setting.c - see setting.h. */
#include "setting.h"

#include "spin.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/auxv.h>

#define LOOP FFL_SETTING_LOOP
#define SHIM FFL_SETTING_SHIM
#define BOTH (LOOP | SHIM)
#define FIELD(name) .field = offsetof(struct ffl_config, name)
#define COUNT(name, of, least, most)                                                               \
    .kind = FFL_SETTING_COUNT, FIELD(name), .unit = (of), .min = (least), .max = (most)

#define WORDS(...)                                                                                 \
    (const char *const[])                                                                          \
    {                                                                                              \
        __VA_ARGS__, NULL                                                                          \
    }

static const struct ffl_setting table[] = {
    {"FFLOOP_INSTANCE", "instance", FFL_SETTING_TEXT, BOTH, true, FIELD(instance),
     .otherwise = "the usual places",
     .meaning =
         "socket of the instance; `@name` is an abstract address. Of a loop also `direct` (no "
         "instance: the kernel's sockets, in the loop's own thread, which is what a loop "
         "does where no instance runs) and `spawn` (a child process with the host stack)"},
    {"FFLOOP_STACK", "stack", FFL_SETTING_WORD, BOTH, true, FIELD(stack),
     .words = WORDS("host", "fstack"), .otherwise = "any",
     .meaning = "insist on this stack: it is an error when the instance runs another"},
    {"FFLOOP_FSTACK", "fstack", FFL_SETTING_TEXT, LOOP, false, FIELD(fstack), .otherwise = "none",
     .meaning =
         "with stack `fstack` and instance `direct`: F-Stack's options, as `ffloop instance` "
         "has them: `--conf config.ini`, or `--iface veth0 --addr 10.99.0.2/24`"},
    {"FFLOOP_ROUTES", "routes", FFL_SETTING_ROUTES, BOTH, true, FIELD(routes),
     .otherwise = "all to the stack, but loopback with fstack",
     .meaning = "`10.0.0.0/8=stack,127.0.0.0/8=kernel`: which addresses are the stack's, as "
                "destinations and to bind to; the first match decides"},
    {"FFLOOP_KERNEL_SOCKETS", "kernel_sockets", FFL_SETTING_WORD, LOOP, true, FIELD(kernel_sockets),
     .words = WORDS("adopt", "both", "kernel", "error"),
     .otherwise = "`kernel` with the host stack, else `adopt`",
     .meaning = "what becomes of kernel sockets that the application hands in to serve"},
    {"FFLOOP_FALLBACK", "", FFL_SETTING_WORD, SHIM, true, FIELD(fallback), .words = WORDS("kernel"),
     .meaning = "without an instance, sockets stay on the kernel; otherwise bind, listen and "
                "connect fail with ENETDOWN"},
    {"FFLOOP_DUAL_LISTEN", "dual_listen", FFL_SETTING_FLAG, BOTH, false, FIELD(dual_listen),
     .otherwise = "0",
     .meaning = "ports that the stack serves are served on the kernel too; not with the host "
                "stack, which is the kernel"},
    {"FFLOOP_REUSE_PORT", "reuse_port", FFL_SETTING_FLAG, LOOP, false, FIELD(reuse_port),
     .otherwise = "0", .meaning = "listeners share their port with other processes'"},
    {"FFLOOP_RECONNECT", "reconnect", FFL_SETTING_FLAG, LOOP, false, FIELD(reconnect),
     .otherwise = "1", .meaning = "attach and listen again when the instance is back"},
    {"FFLOOP_SPIN_US", "spin_us", FFL_SETTING_SPIN, BOTH, false, FIELD(spin_us), 0, INT_MAX,
     .otherwise = "`auto`",
     .meaning = "microseconds to spin before sleeping, `auto` or `forever`; the shim spins 50 at "
                "most"},
    {"FFLOOP_POOL_KIB", "pool_kib", COUNT(pool_kib, "KiB", 0, INT_MAX), .users = BOTH,
     .otherwise = "the instance's", .meaning = "buffer memory per side of a session, KiB"},
    {"FFLOOP_TX_CAP", "tx_cap", COUNT(tx_cap, "bytes", 0, INT_MAX), .users = BOTH,
     .otherwise = "4194304", .meaning = "bytes that one socket may have unsent"},
    {"FFLOOP_MAX_SOCKETS", "max_sockets", COUNT(max_sockets, "sockets", 0, INT_MAX), .users = BOTH,
     .otherwise = "the instance's", .meaning = "sockets of the session"},
    {"FFLOOP_TIMEOUT_MS", "timeout_ms", COUNT(timeout_ms, "milliseconds", 0, INT_MAX),
     .users = BOTH, .otherwise = "10000",
     .meaning = "limit of the handshake and of calls that wait for the instance, ms"},
    {"FFLOOP_LOG", "", FFL_SETTING_WORD, SHIM, false, FIELD(log),
     .words = WORDS("error", "warning", "info", "debug"), .otherwise = "`error`",
     .meaning = "how much the shim logs"},
    {"FFLOOP_LOG_FILE", "", FFL_SETTING_TEXT, SHIM, false, FIELD(log_file),
     .otherwise = "standard error", .meaning = "the file that the shim's log goes to"},
    {"FFLOOP_INSTANCE_LOG", "", FFL_SETTING_TEXT, LOOP, false, FIELD(instance_log),
     .otherwise = "none", .meaning = "the file that an embedded instance's log goes to"},
    {"FFLOOP_INSTANCE_LOG_LEVEL", "", FFL_SETTING_WORD, LOOP, false, FIELD(instance_log_level),
     .words = WORDS("error", "warning", "info", "debug"), .otherwise = "`warning`",
     .meaning = "how much an embedded instance logs"},
    {"FFLOOP_INSTANCE_EXECUTABLE", "", FFL_SETTING_TEXT, LOOP, false, FIELD(instance_executable),
     .otherwise = "the package's", .meaning = "the executable of embedded instances"},
    {"FF_NB_FSTACK_INSTANCE", "instances", COUNT(instances, "instances", 1, 1024), .users = BOTH,
     .places = true, .otherwise = "1",
     .meaning = "how many instances there are (`instance.sock`, `instance-1.sock`, ...), one per "
                "worker"},
    {"FF_PROC_ID", "proc_id", COUNT(proc_id, "which worker", 0, INT_MAX), .users = BOTH,
     .places = true, .otherwise = "0",
     .meaning = "which worker this is: its first loop (thread, listener) uses instance FF_PROC_ID "
                "mod FF_NB_FSTACK_INSTANCE, its next one the next"},
    {"FF_INITIAL_LCORE_ID", "initial_lcore", FFL_SETTING_MASK, BOTH, false, FIELD(initial_lcore),
     .otherwise = "any CPU",
     .meaning = "CPU mask in hexadecimal: worker i runs i places above its first CPU"},
    {"FF_THREAD_SOCKET", "", FFL_SETTING_FLAG, SHIM, false, FIELD(per_thread), .otherwise = "0",
     .meaning = "a session per thread, no lock; a socket, or an epoll that has one, used or closed "
                "in another thread fails"},
    {"FF_MULTI_SC", "", FFL_SETTING_FLAG, SHIM, false, FIELD(multi_sc), .otherwise = "0",
     .meaning = "listeners of one address (`SO_REUSEPORT`, before a fork) go to one instance after "
                "the other; a child that takes one has its other sockets there too"},
    {"FFLOOP_IO_URING", "", FFL_SETTING_FLAG, SHIM, false, FIELD(io_uring), .otherwise = "0",
     .meaning = "1: io_uring is the kernel's, and what goes through it sees no stack socket; else "
                "io_uring_setup fails with ENOSYS, and programs that have another way take it"},
    {"FF_KERNEL_EVENT", "", FFL_SETTING_WORD, SHIM, false, FIELD(kernel_event), .words = WORDS("1"),
     .otherwise = "1", .meaning = "always so: kernel and stack descriptors in one epoll"},
    {"FF_PATH", "", FFL_SETTING_TEXT, FFL_SETTING_BUILD, false, FIELD(ff_path),
     .otherwise = "an installed one",
     .meaning = "F-Stack's folder, for `pip install ffloop-fstack`"},
};

const struct ffl_setting *ffl_setting_at(unsigned i)
{
    return i < FFL_COUNT(table) ? &table[i] : NULL;
}

/* ---- parsing values ------------------------------------------------------------------------ */

static int find(const char *text, const char *const *words)
{
    for (int i = 0; words[i]; i++)
        if (strcasecmp(text, words[i]) == 0)
            return i;
    return -1;
}

static bool parse_count(const char *text, int64_t min, int64_t max, int64_t *out)
{
    char *end;
    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    *out = strtoll(text, &end, 10);
    return !errno && !*end && *out >= min && *out <= max;
}

static bool parse_mask(const char *text, uint64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 16);
    return !errno && !*end && *text != '-' && *text != '+' && *out;
}

static bool parse_flag(const char *text, bool *out)
{
    int i = find(text, WORDS("0", "no", "false", "1", "yes", "true"));
    *out = i >= 3;
    return i >= 0;
}

static bool parse_spin(const char *text, const struct ffl_setting *row, int64_t *out)
{
    int i = find(text, WORDS("auto", "forever"));
    if (i < 0)
        return parse_count(text, row->min, row->max, out);
    *out = i == 0 ? FFL_SPIN_AUTO : FFL_SPIN_FOREVER;
    return true;
}

/* "'host' or 'fstack'" */
static void list_words(const char *const *words, char *out, size_t len)
{
    size_t n = 0;
    out[0] = '\0';
    for (int i = 0; words[i] && n < len; i++) {
        const char *sep = i == 0 ? "" : words[i + 1] ? ", " : " or ";
        n += (size_t)snprintf(out + n, len - n, "%s'%s'", sep, words[i]);
    }
}

void ffl_setting_expected(const struct ffl_setting *row, char *out, size_t len)
{
    switch (row->kind) {
    case FFL_SETTING_TEXT:
        snprintf(out, len, "a text");
        break;
    case FFL_SETTING_ROUTES:
        snprintf(out, len, "NETWORK/BITS=stack or =kernel, by commas");
        break;
    case FFL_SETTING_WORD:
        list_words(row->words, out, len);
        break;
    case FFL_SETTING_FLAG:
        snprintf(out, len, "0 or 1");
        break;
    case FFL_SETTING_SPIN:
        snprintf(out, len, "a number of microseconds, 'auto' or 'forever'");
        break;
    case FFL_SETTING_MASK:
        snprintf(out, len, "a CPU mask in hexadecimal, such as 0x4");
        break;
    default:
        snprintf(out, len, "a whole number (%s) from %lld to %lld", row->unit, (long long)row->min,
                 (long long)row->max);
    }
}

static bool parse(const struct ffl_setting *row, const char *text, void *field)
{
    int i;
    switch (row->kind) {
    case FFL_SETTING_WORD:
        if ((i = find(text, row->words)) >= 0)
            *(const char **)field = row->words[i];
        return i >= 0;
    case FFL_SETTING_FLAG:
        return parse_flag(text, field);
    case FFL_SETTING_SPIN:
        return parse_spin(text, row, field);
    case FFL_SETTING_MASK:
        return parse_mask(text, field);
    default:
        return parse_count(text, row->min, row->max, field);
    }
}

/* Copies the text without blanks around it. False: longer than any value. */
static bool trim(char *out, size_t len, const char *text)
{
    text += strspn(text, FFL_BLANKS);
    size_t n = strlen(text);
    while (n && strchr(FFL_BLANKS, text[n - 1]))
        n--;
    if (n >= len)
        return false;
    memcpy(out, text, n);
    out[n] = '\0';
    return true;
}

int ffl_config_set(struct ffl_config *c, const struct ffl_setting *row, const char *source,
                   const char *value, char *why, size_t whylen)
{
    struct ffl_config made = *c; /* a malformed value changes nothing */
    void *field = (char *)&made + row->field;
    char text[64], wanted[128];
    if (row->kind == FFL_SETTING_TEXT) {
        *(const char **)field = value;
    } else if (row->kind == FFL_SETTING_ROUTES) {
        if (ffl_route_parse(field, source, value, why, whylen) < 0)
            return -EINVAL;
    } else if (!trim(text, sizeof(text), value) || !parse(row, text, field)) {
        ffl_setting_expected(row, wanted, sizeof(wanted));
        snprintf(why, whylen, "%s='%.80s': expected %s", source, value, wanted);
        return -EINVAL;
    }
    *c = made;
    return 0;
}

/* ---- the environment ----------------------------------------------------------------------- */

void ffl_config_init(struct ffl_config *c)
{
    *c = (struct ffl_config){.reconnect = true, .spin_us = FFL_SPIN_AUTO, .instances = 1};
}

bool ffl_config_read(struct ffl_config *c, unsigned user, const char *(*get)(const char *variable),
                     void (*bad)(const char *why))
{
    char why[FFL_SETTING_WHY];
    bool well = true;
    for (unsigned i = 0; i < FFL_COUNT(table); i++) {
        const struct ffl_setting *row = &table[i];
        const char *value = row->users & user ? get(row->variable) : NULL;
        if (!value || !*value ||
            ffl_config_set(c, row, row->variable, value, why, sizeof(why)) == 0)
            continue;
        bad(why);
        well &= !row->places;
    }
    return well;
}

bool ffl_setting_trusted(void)
{
    return !getauxval(AT_SECURE);
}
