/*
 * pump.h - what moves between the stack and the rings: bytes, connections, shutdowns, errors.
 *
 * Callers: the iteration, with the session's slice open; a pump that is cut short says that there
 * is more.
 */
#ifndef FFL_INSTANCE_PUMP_H
#define FFL_INSTANCE_PUMP_H

#include "internal.h"

/* data.c */
void data_event(struct endpoint *e, const struct ffl_stack_event *ev);
bool data_pump(struct endpoint *e); /* true: there is more to do next iteration */
void data_fail(struct endpoint *e, int err);
/* A stream's sends fail from now on, by any reference; received data, and its end, are still
 * read. */
void data_fail_sends(struct endpoint *e, int err);
void data_dgram_error(struct endpoint *e, int rc); /* tells of it: the socket goes on */

/* receive.c */
bool data_receive(struct endpoint *e);  /* true: there is more to do next iteration */
int data_rxfree(struct ffl_session *s); /* takes receive buffers back; count or -EPROTO */

/* transmit.c */
void data_queue(struct endpoint *e, uint32_t buf); /* at the tail of e's sends */
/* Sends what the stack takes of the queue; then does a shutdown or close that waits for it. */
void data_flush(struct endpoint *e);
void data_drop_tx(struct endpoint *e);
/* The stack takes no more of its bytes, or does again. */
void data_unwritable(struct endpoint *e, bool on);

/* shutdown.c */
void shutdown_ask(struct endpoint *e, int how); /* the application's SHUTDOWN */
void shutdown_set(struct endpoint *e, int how); /* the pending one, or -1: none */
static inline bool shutdown_sending(int how)
{
    return how == SHUT_WR || how == SHUT_RDWR;
}
bool shutdown_waits(const struct endpoint *e); /* for entries that are to be executed before it */
/* e's sends are sent, or dropped: its pending shutdown is done, or waits for other references'. */
void shutdown_now(struct endpoint *e);

/* accept.c */
bool accept_pump(struct endpoint *l); /* data_pump of a listener */
int data_accept(struct endpoint *l);  /* one connection for `l`: 0 or -errno */
/* A shortage that may end: `l` is looked at again in a second, as asyncio does. */
void data_accept_later(struct endpoint *l, int err);
/* Before the last reference to a listener is closed: resets the connections that wait there, for a
 * slice; the close would reset all at once. False: there are more. */
bool backlog_clear(struct ffl_instance *in, int fd);
bool endpoint_clear(const struct endpoint *e); /* the same, if `e` is such a reference */

/* report.c */
bool report_pump(struct endpoint *e); /* true: there were reports */

#endif
