/*
 * groups.h - the multicast groups that a kernel socket has joined; no socket option lists them.
 *
 * Callers: carry.c. The kernel lists each interface's groups (/proc/net/igmp, igmp6) and says
 * whether a socket is in a group (MCAST_MSFILTER). IPv6 groups only of IPv6 sockets. Does not wait.
 */
#ifndef FFL_GROUPS_H
#define FFL_GROUPS_H

#include "layout.h"

struct ffl_groups;

/* NULL: no memory. Without /proc no groups are found. */
struct ffl_groups *ffl_groups_open(int fd);
/* The next option to set so that another socket is in the same groups, on the same interfaces;
 * `apart`: a socket of another stack, on that stack's default interface. False after the last. */
bool ffl_groups_next(struct ffl_groups *g, bool apart, struct ffl_optarg *out);
void ffl_groups_close(struct ffl_groups *g);

#endif
