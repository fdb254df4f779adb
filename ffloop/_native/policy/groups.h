/*
 * groups.h - the multicast groups that a kernel socket has joined; no socket option lists them.
 *
 * Callers: carry.c. The kernel lists each interface's groups (/proc/net/igmp) and says whether a socket
 * is in one (MCAST_MSFILTER). IPv4 groups; IPv6 groups of an IPv6 socket. Does not wait.
 */
#ifndef FFL_GROUPS_H
#define FFL_GROUPS_H

#include "layout.h"

struct ffl_groups;

/* NULL, and no groups are known: no memory, or no /proc. */
struct ffl_groups *ffl_groups_open(int fd);
/* The next thing to set so that another socket of this kernel (`apart`: of another stack, whose
 * interfaces are not these: its default one) is in the same groups. False after the last. */
bool ffl_groups_next(struct ffl_groups *g, bool apart, struct ffl_optarg *out);
void ffl_groups_close(struct ffl_groups *g);

#endif
