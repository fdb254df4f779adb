/*
 * ready.h - readiness: sources, the watches on them, and the polls' ready lists.
 *
 * Callers: the rest of client/, the shim. As in the kernel: a source (a socket, a poll that is
 * itself polled) has watches; a change of the source puts each of its watches, once, into the ready
 * list of its poll, and wakes the poll's sleepers. The reader of the list asks each source for its
 * conditions. A level-triggered watch that is still ready stays in the list; an edge-triggered one
 * leaves it; a one-shot one is disarmed. The user data comes with each event.
 *
 * Independent of rings and descriptors: the owner of a source tells the source of changes. If
 * several threads have the owner, its lock is held.
 */
#ifndef FFL_READY_H
#define FFL_READY_H

#include "base.h"

#include <sys/epoll.h>

/* Bits of a watch's events that are not conditions. */
#define FFL_WATCH_FLAGS                                                                            \
    ((uint32_t)EPOLLWAKEUP | (uint32_t)EPOLLONESHOT | (uint32_t)EPOLLET | (uint32_t)EPOLLEXCLUSIVE)
#define FFL_WATCH_ALL (~FFL_WATCH_FLAGS)

struct ffl_watch {
    struct ffl_poll *poll;
    struct ffl_source *source;           /* NULL: not watching */
    struct ffl_watch *next;              /* of the source */
    struct ffl_watch *rd_next, *rd_prev; /* of the poll's ready list */
    bool queued;
    uint32_t events; /* epoll's: conditions, and EPOLLET, EPOLLONESHOT */
    uint64_t data;
};

struct ffl_source {
    struct ffl_watch *watches;
    /* Which of w->events, and of the events that are always told, are true; and arms the others. */
    uint32_t (*ask)(struct ffl_source *s, const struct ffl_watch *w);
};

struct ffl_poll {
    struct ffl_watch *head, *tail; /* may be ready, the longest wait first */
    unsigned watches;
    unsigned asleep;        /* calls that sleep on the poll, and that `wake_fd` wakes */
    unsigned waits, served; /* calls that will read the list; of them those with an event to come */
    int wake_fd;            /* an eventfd, edge-triggered and never read, or -1 */
    bool passing;           /* of one waiting call, and ends with the call */
    struct ffl_source *self; /* this poll as a source of other polls; or NULL */
};

void ffl_poll_kick(struct ffl_poll *p);
void ffl_watch_add(struct ffl_poll *p, struct ffl_source *s, struct ffl_watch *w);
void ffl_watch_del(struct ffl_watch *w); /* idempotent */
/* The watch's source may be ready, and is asked when the list is next read. */
void ffl_watch_tell(struct ffl_watch *w);
/* For a new or changed watch: tells the watch if its source is ready now. */
void ffl_watch_begin(struct ffl_watch *w);

/* Conditions among `what` (epoll's bits; FFL_WATCH_ALL: any) may be true now: tells the watches. Of
 * the exclusive watches, those up to the first whose poll has a free waiting call; all of them of
 * an error or a hang-up. */
void ffl_source_tell(struct ffl_source *s, uint32_t what);

/* Takes the head off the ready list; NULL: the list is empty. */
struct ffl_watch *ffl_poll_take(struct ffl_poll *p);
/* Is a watch ready? Takes watches that are not off the list. */
bool ffl_poll_ready(struct ffl_poll *p);
/* Reads the ready list once: events, `max` at most. */
int ffl_poll_harvest(struct ffl_poll *p, struct epoll_event *ev, int max);
void ffl_poll_clear(struct ffl_poll *p); /* empties the ready list */

#endif
