/*
 * carry.h - the options that a kernel socket carries over to the stack socket in its place, and the
 * fate of the call when the stack refuses an option.
 *
 * Callers: the shim when it places a socket, the loop when it promotes or adopts a socket. Options
 * in which the kernel socket differs from a fresh socket are set on the stack socket, and its
 * multicast groups are joined. Options that cannot be read back (a key) carry over in the shim
 * only, which has seen them set. Does not wait.
 */
#ifndef FFL_CARRY_H
#define FFL_CARRY_H

#include "layout.h"
#include "option.h"

#define FFL_CARRY_WORDS 4 /* room for a bit per row of the table of options */

struct ffl_carry {
    int fd, fresh;
    const uint64_t *noted;
    bool apart, six_apart; /* the stack's defaults are not this kernel's; an IPv6 socket */
    unsigned next;
    struct ffl_groups *groups;   /* of a datagram socket, when nothing is noted */
    struct sock_filter *program; /* of a filter: the last option's value points to it */
};

/*
 * Reads the options of the kernel socket `fd` for `stack`, one by one: those in `noted`
 * (ffl_carry_note), or with NULL any. 0, or -errno (no descriptor left). ffl_carry_next: false
 * after the last; `out` is for setsockopt. ffl_carry_end follows each begin that returned 0.
 */
int ffl_carry_begin(struct ffl_carry *k, int fd, const char *stack, const uint64_t *noted);
bool ffl_carry_next(struct ffl_carry *k, struct ffl_optarg *out);
void ffl_carry_end(struct ffl_carry *k);

/* Notes that this option was set. False: it cannot be read back, so the caller keeps its value. */
bool ffl_carry_note(uint64_t noted[FFL_CARRY_WORDS], int level, int name);

/* The first noted option from *row on, and *row moves past it; NULL: there is none. */
const struct ffl_option *ffl_carry_noted(const uint64_t noted[FFL_CARRY_WORDS], unsigned *row);
/* Turns getsockopt's value into setsockopt's. */
void ffl_carry_as_set(const struct ffl_option *o, void *value);

enum ffl_carry_fate {
    FFL_CARRY_STAYS,   /* the stack is this kernel's: the socket stays a kernel socket */
    FFL_CARRY_GOES_ON, /* another stack, and the option is a hint: the log names it */
    FFL_CARRY_FAILS    /* another stack, and the option restricts: the call fails */
};

/* The stack has refused the option with rc (-errno): its fate, and a sentence that names it. */
enum ffl_carry_fate ffl_carry_refused(const char *stack, int level, int name, int rc, char *why,
                                      size_t whylen);

#endif
