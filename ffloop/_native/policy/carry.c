/* carry.c - see carry.h. */
#include "carry.h"

#include "groups.h"
#include "route.h"

#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* ---- reading a socket's options ------------------------------------------------------------ */

static int ask(int fd, int name)
{
    int value = 0;
    socklen_t len = sizeof(value);
    return getsockopt(fd, SOL_SOCKET, name, &value, &len) < 0 ? -errno : value;
}

#define ROWS (64 * FFL_CARRY_WORDS)

static bool is_v6only(const struct ffl_option *o)
{
    return o->level == IPPROTO_IPV6 && o->name == IPV6_V6ONLY;
}

static bool nothing(const uint64_t *noted)
{
    for (int i = 0; noted && i < FFL_CARRY_WORDS; i++)
        if (noted[i])
            return false;
    return noted != NULL;
}

int ffl_carry_begin(struct ffl_carry *k, int fd, const char *stack, const uint64_t *noted)
{
    int domain = ask(fd, SO_DOMAIN), type = ask(fd, SO_TYPE), proto = ask(fd, SO_PROTOCOL);
    if (domain < 0 || type < 0 || proto < 0)
        return -ENOTSOCK;
    *k = (struct ffl_carry){.fd = fd, .fresh = -1, .noted = noted};
    k->apart = !ffl_route_same_kernel(stack);
    k->six_apart = k->apart && domain == AF_INET6;
    if (nothing(noted) && !k->six_apart) {
        k->next = 2 * ROWS;
        return 0;
    }
    if (type == SOCK_DGRAM && !noted)
        k->groups = ffl_groups_open(fd);
    k->fresh = socket(domain, type | SOCK_CLOEXEC, proto);
    if (k->fresh >= 0 || noted) /* noted options need no fresh socket */
        return 0;
    int rc = -errno;
    ffl_groups_close(k->groups);
    return rc;
}

void ffl_carry_end(struct ffl_carry *k)
{
    ffl_close(&k->fresh, NULL);
    ffl_groups_close(k->groups);
    free(k->program);
}

/* Reads the option of `fd` into `out`; or -errno, and `out` has no value. */
static int read_one(int fd, const struct ffl_option *o, struct ffl_optarg *out)
{
    socklen_t len = o->size;
    memset(out, 0, sizeof(*out));
    out->level = o->level;
    out->name = o->name;
    if (getsockopt(fd, o->level, o->name, out->data, &len) < 0)
        return -errno;
    out->len = len;
    return 0;
}

/* A filter is read by instructions, and set by the address of its program. */
static bool has_program(struct ffl_carry *k, const struct ffl_option *o, struct ffl_optarg *out)
{
    socklen_t n = FFL_FILTER_MAX;
    if (!k->program)
        k->program = malloc(n * sizeof(*k->program));
    if (!k->program || getsockopt(k->fd, o->level, o->name, k->program, &n) < 0 || !n)
        return false;
    struct sock_fprog p = {(uint16_t)n, k->program};
    *out = (struct ffl_optarg){.level = o->level, .name = o->name, .len = sizeof(p)};
    memcpy(out->data, &p, sizeof(p));
    return true;
}

static bool differs(struct ffl_carry *k, const struct ffl_option *o, struct ffl_optarg *out)
{
    struct ffl_optarg fresh;
    if (o->kind == FFL_OPTION_PROGRAM)
        return has_program(k, o, out);
    int rc = read_one(k->fd, o, out);
    bool hint = k->noted && k->apart && !(o->flags & FFL_OPTION_RESTRICTS);
    if (k->fresh < 0 || hint || (is_v6only(o) && k->six_apart))
        return rc == 0; /* the stack's default is not known here */
    if (rc != read_one(k->fresh, o, &fresh))
        return true;
    return rc == 0 && memcmp(out, &fresh, sizeof(fresh)) != 0;
}

static bool due(const struct ffl_carry *k, unsigned row, const struct ffl_option *o)
{
    const unsigned both = FFL_OPTION_CARRY | FFL_OPTION_LOCAL;
    if (k->noted && !(k->noted[row / 64] >> row % 64 & 1) && !(is_v6only(o) && k->six_apart))
        return false;
    return (o->flags & both) == FFL_OPTION_CARRY;
}

void ffl_carry_as_set(const struct ffl_option *o, void *value)
{
    int n;
    if (o->kind != FFL_OPTION_HALVED)
        return;
    memcpy(&n, value, sizeof(n));
    n /= 2;
    memcpy(value, &n, sizeof(n));
}

const struct ffl_option *ffl_carry_noted(const uint64_t noted[FFL_CARRY_WORDS], unsigned *row)
{
    const struct ffl_option *o;
    while (*row < ROWS && (o = ffl_option_at(*row))) {
        unsigned i = (*row)++;
        if (noted[i / 64] >> i % 64 & 1)
            return o;
    }
    return NULL;
}

/* Two rounds, SOL_SOCKET's options in the second: setting IP_TOS also sets SO_PRIORITY. */
bool ffl_carry_next(struct ffl_carry *k, struct ffl_optarg *out)
{
    while (k->next < 2 * ROWS) {
        unsigned row = k->next % ROWS, second = k->next++ >= ROWS;
        const struct ffl_option *o = ffl_option_at(row);
        if (!o || (o->level == SOL_SOCKET) != second || !due(k, row, o) || !differs(k, o, out))
            continue;
        ffl_carry_as_set(o, out->data);
        return true;
    }
    return k->groups && ffl_groups_next(k->groups, k->apart, out);
}

bool ffl_carry_note(uint64_t bits[FFL_CARRY_WORDS], int level, int name)
{
    const struct ffl_option *o;
    for (unsigned row = 0; row < ROWS && (o = ffl_option_at(row)); row++)
        if (o->level == level && o->name == name && o->flags & FFL_OPTION_CARRY) {
            bits[row / 64] |= 1ull << row % 64;
            return true;
        }
    return false;
}

/* ---- options that a stack refuses ---------------------------------------------------------- */

/* An error of the session or the machine, not of the option. */
static bool broken(int rc)
{
    return rc == -ECONNRESET || rc == -EPROTO || rc == -ETIMEDOUT || rc == -ENOBUFS ||
           rc == -ENOMEM || rc == -EBADF;
}

enum ffl_carry_fate ffl_carry_refused(const char *stack, int level, int name, int rc, char *why,
                                      size_t whylen)
{
    const struct ffl_option *o = ffl_option_find(level, name);
    char number[48];
    snprintf(number, sizeof(number), "option %d of level %d", name, level);
    const char *text = o ? o->text : number;
    bool restricts = o && o->flags & FFL_OPTION_RESTRICTS;
    enum ffl_carry_fate fate = broken(rc)                     ? FFL_CARRY_FAILS
                               : ffl_route_same_kernel(stack) ? FFL_CARRY_STAYS
                               : restricts                    ? FFL_CARRY_FAILS
                                                              : FFL_CARRY_GOES_ON;
    static const char *const then[] = {
        [FFL_CARRY_STAYS] = "the socket stays on the kernel, which has taken it",
        [FFL_CARRY_GOES_ON] = "the socket goes on without",
        [FFL_CARRY_FAILS] = "without it the socket would do what it is not to do",
    };
    snprintf(why, whylen, "%s was set on the socket, and the %s stack refuses it (%s): %s", text,
             stack, ffl_strerror(-rc), then[fate]);
    return fate;
}
