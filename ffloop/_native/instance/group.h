/*
 * group.h - stack sockets with several references: in one session or several, in tickets, kept.
 *
 * A group is made when a second reference, an address or something given back needs it; its
 * references share what it holds.
 */
#ifndef FFL_INSTANCE_GROUP_H
#define FFL_INSTANCE_GROUP_H

#include "internal.h"

/* group.c */
struct group *group_of(struct endpoint *e); /* made when there is none; NULL: no memory */
void group_join(struct endpoint *e, struct group *g);
void group_leave(struct endpoint *e);               /* its descriptor is, or will be, closed */
void group_connecting(struct endpoint *e, bool on); /* e->connecting, and the group's count */
struct group *group_ref(struct group *g);
void group_unref(struct ffl_instance *in, struct group *g); /* NULL is none */
/* Frees what was given back and has no reference any more, for a slice. True: there is more. */
bool groups_forget(struct ffl_instance *in);
static inline struct settings *group_settings(struct endpoint *e)
{
    return e->group ? &e->group->settings : &e->settings;
}
/* The socket listens, or receives, or its address has changed: group_at finds it at its port from
 * now on, or no more. 0 or -ENOMEM. */
int group_place(struct endpoint *e);
/* The first group of that kind at the port. group_next: the next after g. */
struct group *group_at(const struct ffl_instance *in, uint16_t port_be, bool dgram);
struct group *group_next(const struct group *g);
void group_accepted(struct endpoint *l, struct endpoint *e,
                    struct group *unread); /* of group_accept, or NULL */
/* Gives bytes back. flags: FFL_F_* of a datagram. 0 or -ENOBUFS. */
int group_unread(struct endpoint *e, const void *data, uint32_t len, uint8_t flags);
/* Gives an accepted connection back to its listener's other references. False: there are none. */
bool group_return(struct endpoint *e);
bool group_shared(const struct endpoint *e); /* has the socket other references? */
bool group_has_bytes(const struct endpoint *e);
bool group_has_connection(const struct endpoint *l);
uint32_t group_size(const struct endpoint *e); /* bytes of the first piece that was given back */
uint32_t group_take(struct endpoint *e, void *to, uint32_t room, uint8_t *flags);
/* A connection that was given back, charged to l's session. -EMFILE: the session's quota is used
 * up. */
int group_accept(struct endpoint *l, struct ffl_addr *peer, struct group **unread);

/* offer.c */
void offer_start(struct group *g);
void offer_renew(struct group *g); /* after a connection came or a reference went */
/* `l` asks to be told of the next connection that waits. */
void offer_ask(struct endpoint *l, bool alone);
/* It could not take what it was told of, and takes it that it still asks. */
void offer_again(struct endpoint *l);
void offer_leave(struct endpoint *l); /* it asks no more */
/* Tells the askers, if a connection waits. */
void offer_tell(struct endpoint *l);
/* Is nothing accepted ahead for `l`? */
bool offer_alone(const struct endpoint *l);
/* Gives `l` a connection now: FFL_TAKE_*, or -errno. again: `l` then asks in any case. */
int offer_take(struct endpoint *l, bool again);

/* handover.c */
/* Does a socket of e's user listen, or receive, where `e` is to be bound? */
bool handover_ours(const struct endpoint *e, const struct ffl_addr *a);
/* 0; -EADDRINUSE: at `a` another user's socket of this instance listens or receives; -ENOBUFS:
 * e's user has port_most sockets at the port, or cast_most where one datagram is for all. */
int handover_may_bind(const struct endpoint *e, const struct ffl_addr *a);
/* May connect(AF_UNSPEC) give `e` the address again to which it was bound (FreeBSD's: all)? As
 * above. */
int handover_may_dissolve(const struct endpoint *e);
/* Before `e` listens: 1 when it now shares an earlier listener, 0 when it is the first, or
 * -errno. */
int handover_share(struct endpoint *e);
/* Before a gone application's sockets are closed: gives back the connections it never heard of. */
void handover_unseen(struct ffl_session *s);
/* Before `e` is closed: keeps its listener for a while if `e` is the last reference. */
void handover_keep(struct endpoint *e);
bool handover_keeps(const struct endpoint *e); /* will it, as far as the charges allow? */
/* Closes the kept listeners, for a slice. True: there are more. */
bool handover_end(struct ffl_instance *in);

/* ticket.c */
/* Takes sock over on success. -EDQUOT: too many tickets, of all or of the user. */
int ticket_new(struct ffl_instance *in, int sock, struct account *a, uint32_t *id, uint64_t *key);
void ticket_event(struct ticket *t);
void tickets_end(struct ffl_instance *in); /* all of them */
/* Closes dropped references for a slice. True: there are more. */
bool tickets_close(struct ffl_instance *in);
/* Puts references to all sockets that the session has now into the ticket, without a look at each:
 * a reference is made when it is imported, or when its socket is closed. Errors as below, or
 * -EBUSY, -ENOMEM. */
int ticket_share(struct ffl_session *s, const struct ffl_import *x);
bool ticket_shares(const struct endpoint *e); /* has such a ticket a reference to e's socket? */
void ticket_keep(struct endpoint *e);         /* before e is closed: makes the references to it */
void tickets_forget(struct ffl_session *s);   /* before s is freed */
/* Puts a reference into the ticket. -EPROTO: a wrong key; -ENOENT: no such ticket (any more). */
int ticket_export(struct endpoint *e, const struct ffl_import *x);
/* Opens `handle`; FFL_IMPORT_*, or as above, or -errno. */
int ticket_import(struct ffl_session *s, uint32_t handle, const struct ffl_import *x);

#endif
