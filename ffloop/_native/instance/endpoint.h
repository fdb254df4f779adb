/*
 * endpoint.h - endpoints, and what the options of their sockets cost.
 *
 * Callers: sessions, pumps and tickets. Each reference to a stack socket is charged before it is
 * made.
 */
#ifndef FFL_INSTANCE_ENDPOINT_H
#define FFL_INSTANCE_ENDPOINT_H

#include "internal.h"

/* endpoint.c */
/* A handle for an accepted socket, or -EMFILE, -ENOMEM. The release takes any handle back. */
int endpoint_handle(struct ffl_session *s);
void endpoint_handle_release(struct ffl_session *s, uint32_t handle);
/* Charges the session with one more reference to a stack socket; discharges one. -EMFILE: the
 * session's quota, or its user's, is used up. */
int session_charge(struct ffl_session *s);
void session_discharge(struct ffl_session *s);
/* fd, if there is one, has been charged. */
struct endpoint *endpoint_new(struct ffl_session *s, uint32_t handle, int fd, bool dgram);
bool endpoint_option(const struct endpoint *e, int level, int name); /* is it set? */
bool endpoint_v6only(const struct endpoint *e,
                     const struct ffl_addr *a); /* bound to `a`: IPV6_V6ONLY */
void endpoint_addresses(struct endpoint *e);    /* asks the stack, for the stats page */
/* Does the stack have unread bytes, which its close would not make a reset? The kernel's does. */
bool fd_unread(struct ffl_instance *in, int fd);
/* Closes a connection so that its peer sees a reset. */
int fd_reset(struct ffl_instance *in, int fd);
void endpoint_close(struct endpoint *e); /* closes the stack socket, posts CLOSED, buries */
void endpoint_close_fd(struct endpoint *e,
                       bool reset); /* the stack socket alone; the endpoint stays */
static inline bool endpoint_armed(const struct endpoint *e)
{
    return e->armed == e->s->arming;
}
/* Into the ready list, to be pumped; into the stalled list, until a receive buffer comes back. */
void endpoint_ready(struct endpoint *e);
void endpoint_stall(struct endpoint *e);
void endpoint_timer(struct endpoint *e, int64_t ns); /* from now on */
/* Registers for events, once: a refused connect may be tried again. */
int endpoint_watch(struct endpoint *e, unsigned filters);
void endpoint_bury(struct ffl_instance *in);

/* burden.c */
struct sock_filter;
struct ffl_option;
uint32_t burden_of_filter(const struct sock_filter *code, uint32_t n); /* instructions */
/* Before an option is set: 0, -ENOBUFS: its user has its memberships, -ENOMEM: its filters. */
int burden_charge(struct endpoint *e, const struct ffl_option *o, uint32_t filter);
/* After it: has it been done? */
void burden_settle(struct endpoint *e, const struct ffl_option *o, uint32_t filter, bool done);
/* May what is sent to all sockets at `a` be for one at `at` of the same port, too? */
bool burden_beside(const struct ffl_addr *at, const struct ffl_addr *a);
/* May a user that has `own` datagram sockets at the port, some of them `beside` it, bind one to
 * `a`? 0 or -ENOBUFS. */
int burden_bind(struct ffl_instance *in, const struct ffl_addr *a, uint32_t own, uint32_t beside);
void burden_end(struct ffl_instance *in, struct account *a, struct settings *s); /* of all */

#endif
