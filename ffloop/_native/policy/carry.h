/*
 * carry.h - which options a kernel socket takes along when the stack takes its place, and what it
 * means when the stack refuses one.
 *
 * Callers: the shim when it places a socket, the loop when it promotes one (sock_connect) or adopts
 * one (create_server). The kernel's socket has been told everything; what it says of itself, where a
 * fresh one says something else, is set on the stack's, and its multicast groups are joined. What
 * cannot be read back (a key) goes along in the shim, which has seen it set. Does not wait.
 */
#ifndef FFL_CARRY_H
#define FFL_CARRY_H

#include "layout.h"
#include "option.h"

#define FFL_CARRY_WORDS 3 /* room for a bit per row of the table of options */

struct ffl_carry {
    int fd, fresh;
    const uint64_t *noted;
    bool apart, six_apart; /* the stack's defaults are not this kernel's; an IPv6 socket */
    unsigned next;
    struct ffl_groups *groups; /* of a datagram socket of which nothing is noted */
};

/*
 * The options of the kernel socket `fd` for `stack`, one by one. noted: only of those that were set
 * (ffl_carry_note), or NULL: any. 0, or -errno (no descriptor left). ffl_carry_next: false after the
 * last; `out` has what setsockopt takes. ffl_carry_end whenever begin was 0.
 */
int ffl_carry_begin(struct ffl_carry *k, int fd, const char *stack, const uint64_t *noted);
bool ffl_carry_next(struct ffl_carry *k, struct ffl_optarg *out);
void ffl_carry_end(struct ffl_carry *k);

/* This option was set. False: it cannot be read back, so keep its value. */
bool ffl_carry_note(uint64_t noted[FFL_CARRY_WORDS], int level, int name);

/* The first that was noted from *row on, which moves past it; NULL: there is none. */
const struct ffl_option *ffl_carry_noted(const uint64_t noted[FFL_CARRY_WORDS], unsigned *row);
/* What setsockopt takes, of what getsockopt has said. */
void ffl_carry_as_set(const struct ffl_option *o, void *value);

enum ffl_carry_fate {
    FFL_CARRY_STAYS,   /* the stack is this kernel: the socket stays there, which has taken it */
    FFL_CARRY_GOES_ON, /* the stack is another: a hint, which the log names; */
    FFL_CARRY_FAILS    /* or it restricts: the call fails */
};

/* The stack has refused to set it, with rc (-errno). The fate, and a sentence that names the option. */
enum ffl_carry_fate ffl_carry_refused(const char *stack, int level, int name, int rc, char *why,
                                      size_t whylen);

#endif
