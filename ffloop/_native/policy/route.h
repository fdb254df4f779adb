/*
 * route.h - whether an address is the stack's or the kernel's: FFLOOP_ROUTES.
 *
 * Callers: loop and shim, for each socket that is bound or connected. Rules are
 * "NETWORK[/BITS]=stack|kernel", separated by commas; blanks and case do not matter, and the first
 * match decides. Without a match an address is the stack's, but with fstack loopback is the
 * kernel's. A mapped address (::ffff:a.b.c.d) is the IPv4 address, in rules too.
 */
#ifndef FFL_ROUTE_H
#define FFL_ROUTE_H

#include "addr.h"

#define FFL_ROUTE_RULES 64
#define FFL_BLANKS " \t\r\n" /* ignored around a value */

struct ffl_route {
    unsigned n;
    struct ffl_route_rule {
        struct ffl_addr net; /* plain */
        unsigned bits;
        bool stack;
    } rule[FFL_ROUTE_RULES];
};

/* 0, or -EINVAL with a sentence that names the malformed rule, and no rule in force. `source`: the
 * setting's name, "FFLOOP_ROUTES". */
int ffl_route_parse(struct ffl_route *r, const char *source, const char *text, char *why,
                    size_t whylen);
/* `stack`: the name of the stack that the instance runs. */
bool ffl_route_on_stack(const struct ffl_route *r, const char *stack, const struct ffl_addr *a);

/* Is every address the stack's? */
bool ffl_route_all(const struct ffl_route *r, const char *stack);

/* Does this stack poll (F-Stack)? Then loopback is the kernel's. */
bool ffl_route_polls(const char *stack);
/* Is this stack the application's own kernel? Else the stack has ports and addresses of its own. */
bool ffl_route_same_kernel(const char *stack);

#endif
