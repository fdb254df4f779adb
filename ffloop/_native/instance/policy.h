/*
 * policy.h - the users that may attach to an instance, and the ports that they may bind.
 *
 * Callers: options.c fills a policy in; path.c, admit.c, control.c and rights.c ask. Plain data,
 * copied with the options; names are looked up while it is filled in.
 */
#ifndef FFL_POLICY_H
#define FFL_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define FFL_POLICY_USERS 64
#define FFL_POLICY_PORTS 128

struct ffl_policy_ports {
    uid_t uid;
    bool everyone; /* then uid is unused */
    uint16_t first, last;
};

struct ffl_policy {
    bool any_user;  /* every local user may attach */
    bool has_group; /* members of group may */
    gid_t group;
    uid_t users[FFL_POLICY_USERS]; /* so may these */
    unsigned nusers;
    struct ffl_policy_ports ports[FFL_POLICY_PORTS]; /* none: every port */
    unsigned nports;
};

/* Each adds one option's value; 0, or -errno with a sentence in `why`. Users and groups are names
 * or numbers. */
int ffl_policy_add_user(struct ffl_policy *p, const char *user, char *why, size_t whylen);
int ffl_policy_set_group(struct ffl_policy *p, const char *group, char *why, size_t whylen);
/* "USER=PORT[-PORT][,PORT[-PORT]...]"; USER may be "*", for everyone. */
int ffl_policy_add_ports(struct ffl_policy *p, const char *rule, char *why, size_t whylen);

/* The unix socket's mode under the policy. */
mode_t ffl_policy_mode(const struct ffl_policy *p);

/* May the peer of this connected unix socket attach? This process's user and root always may. */
bool ffl_policy_admits(const struct ffl_policy *p, int sock, uid_t uid, gid_t gid);

/* May the user bind this port? Port 0 (any free one): everybody may. */
bool ffl_policy_may_bind(const struct ffl_policy *p, uid_t uid, uint16_t port);

#endif
