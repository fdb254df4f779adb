/*
 * life.h - an instance's start and end, and its stats pages.
 *
 * Callers: serve.c; stats_*: whoever changes what a page shows.
 */
#ifndef FFL_INSTANCE_LIFE_H
#define FFL_INSTANCE_LIFE_H

#include "internal.h"

/* start.c */
/* Closes every socket; the sessions themselves go with the instance. */
void sessions_close(struct ffl_instance *in);

/* drain.c */
/* Stops the listeners, a slice per session and iteration. True: there are more. */
bool drain_listeners(struct ffl_instance *in);
bool drain_over(struct ffl_instance *in); /* true: this iteration is the last */

/* stats.c */
int stats_open(struct ffl_instance *in, char *why, size_t whylen);
void stats_close(struct ffl_instance *in);
void stats_session(struct ffl_session *s);
void stats_session_end(struct ffl_session *s);
void stats_sessions(struct ffl_instance *in); /* their numbers, from the ledger */
void stats_socket(struct endpoint *e);
void stats_socket_end(struct endpoint *e);
void stats_state(struct endpoint *e); /* after a change of its state */

static inline void stats_outstanding(struct endpoint *e)
{
    atomic_store_explicit(&e->st->rx_held, e->rx_outstanding, memory_order_relaxed);
}

static inline void stats_queued(struct endpoint *e, uint32_t more, uint32_t less)
{
    uint32_t n = atomic_load_explicit(&e->st->tx_queued, memory_order_relaxed);
    atomic_store_explicit(&e->st->tx_queued, n + more - less, memory_order_relaxed);
}

#endif
