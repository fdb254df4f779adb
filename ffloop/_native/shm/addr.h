/*
 * addr.h - struct ffl_addr: to and from Linux's sockaddr, and which addresses mean the same.
 *
 * Callers: all code that compares or converts an address. Pure functions. An IPv4-mapped IPv6
 * address (::ffff:a.b.c.d) means the IPv4 address: compare addresses in plain form
 * (ffl_addr_plain).
 */
#ifndef FFL_ADDR_H
#define FFL_ADDR_H

#include "layout.h"

struct sockaddr_storage;

/* *len is set to the length that bind and connect take. AF_UNSPEC (family 0) dissolves a datagram
 * socket's association. 0, or -EAFNOSUPPORT. */
int ffl_addr_to_sockaddr(const struct ffl_addr *a, struct sockaddr_storage *ss, uint32_t *len);
/* Family 0: `sa` is of another family, or shorter than its family needs (24 bytes are enough for
 * AF_INET6, which then has no scope). */
void ffl_addr_from_sockaddr(struct ffl_addr *a, const void *sa, size_t len);

struct ffl_addr ffl_addr_plain(const struct ffl_addr *a);  /* mapped: as AF_INET */
struct ffl_addr ffl_addr_mapped(const struct ffl_addr *a); /* AF_INET: as AF_INET6 */

void ffl_addr_set_loopback(struct ffl_addr *a); /* 127.0.0.1 or ::1, by its family */

bool ffl_addr_wildcard(const struct ffl_addr *a);
bool ffl_addr_loopback(const struct ffl_addr *a);                          /* mapped too */
bool ffl_addr_multicast(const struct ffl_addr *a);                         /* mapped too */
bool ffl_addr_same_ip(const struct ffl_addr *a, const struct ffl_addr *b); /* and family */
bool ffl_addr_same(const struct ffl_addr *a, const struct ffl_addr *b); /* port and scope as well */
/* Do the first `bits` of two addresses of one family agree? */
bool ffl_addr_within(const struct ffl_addr *a, const struct ffl_addr *net, unsigned bits);

/* How well a socket that is bound to `own` fits the plain destination `to`: 0 not, 1 as a wildcard,
 * 2 exactly. only: the socket's IPV6_V6ONLY. Ports are not compared. */
int ffl_addr_fit(const struct ffl_addr *own, bool only, const struct ffl_addr *to);
/* Could one packet match both addresses? a_only, b_only: the IPV6_V6ONLY of each socket. */
bool ffl_addr_overlap(const struct ffl_addr *a, bool a_only, const struct ffl_addr *b, bool b_only);

#endif
