/*
 * groups.h - the multicast groups that a kernel socket has joined, which no option tells of.
 *
 * Callers: carry.c. The kernel lists the groups of its interfaces, and answers whether a socket is in
 * one (MCAST_MSFILTER). IPv4 groups, and IPv6's of an IPv6 socket. Does not wait.
 */
#ifndef FFL_GROUPS_H
#define FFL_GROUPS_H

#include "layout.h"

struct ffl_groups;

/* NULL: no memory, or the lists are not to be read (no /proc): none are known then. */
struct ffl_groups *ffl_groups_open(int fd);
/* The next thing to set so that another socket of this kernel (`apart`: of another stack, whose
 * interfaces are not these: its default one) is in the same groups. False after the last. */
bool ffl_groups_next(struct ffl_groups *g, bool apart, struct ffl_optarg *out);
void ffl_groups_close(struct ffl_groups *g);

#endif
