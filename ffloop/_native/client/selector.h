/*
 * selector.h - an epoll over kernel descriptors and the stack sockets of one session.
 *
 * Callers: the cffi module, for FFSelector and Kqueue, in a thread without an event loop: one thread uses it and its
 * client, which is `quiet`. Sockets are named by descriptor numbers; a number that stands for a stack socket is
 * announced first (place). Returns 0, a count, or -errno.
 */
#ifndef FFL_SELECTOR_H
#define FFL_SELECTOR_H

#include "client.h"
#include "kqueue.h"

struct ffl_selector;

struct ffl_selector *ffl_selector_new(void); /* NULL: errno */
void ffl_selector_free(struct ffl_selector *s);
/* Its stack sockets are this client's. NULL: the client has ended; its sockets stay, always ready. */
int ffl_selector_use(struct ffl_selector *s, struct ffl_client *c);
/* `fd` stands for the stack socket `h`; h < 0: for one whose session has ended. */
int ffl_selector_place(struct ffl_selector *s, int fd, int h);
void ffl_selector_forget(struct ffl_selector *s, int fd); /* it is about to be closed */

/* Watches a number for `events` (epoll's bits) in place of those before; 0: not any more. */
int ffl_selector_set(struct ffl_selector *s, int fd, uint32_t events);
/* Waits, timeout_ns at most (-1: for ever), and fills pairs of a number and its events, `max` at most. 0 also
 * after FFL_LOOK_NS: call it again. -EINTR: a signal. */
int ffl_selector_poll(struct ffl_selector *s, int *pairs, int max, int64_t timeout_ns);
/* A descriptor that polls readable when ffl_selector_poll may have events. */
int ffl_selector_fd(struct ffl_selector *s);

/* A kqueue over it: in place of set and poll. */
struct ffl_kqueue *ffl_selector_kqueue(struct ffl_selector *s);

#endif
