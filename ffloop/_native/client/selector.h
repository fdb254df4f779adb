/*
 * selector.h - an epoll over kernel descriptors and the stack sockets of one session.
 *
 * Callers: the cffi module, for FFSelector and Kqueue. For a thread without an event loop: its client
 * is `quiet`, and only one thread uses both. Everything goes by descriptor number; a number that stands for
 * a stack socket is made known first (place). Returns 0, a count, or -errno.
 */
#ifndef FFL_SELECTOR_H
#define FFL_SELECTOR_H

#include "client.h"
#include "kqueue.h"

struct ffl_selector;

struct ffl_selector *ffl_selector_new(void); /* NULL: errno */
void ffl_selector_free(struct ffl_selector *s);
/* Its stack sockets are this client's. NULL: that one has ended; its sockets stay, always ready. */
int ffl_selector_use(struct ffl_selector *s, struct ffl_client *c);
/* `fd` stands for the stack socket `h`; h < 0: for one whose session has ended. */
int ffl_selector_place(struct ffl_selector *s, int fd, int h);
void ffl_selector_forget(struct ffl_selector *s, int fd); /* it is about to be closed */

/* Watches a number for `events` (epoll's bits), in place of what it was watched for; 0: not at all. */
int ffl_selector_set(struct ffl_selector *s, int fd, uint32_t events);
/* Waits, nanoseconds at most (-1: for ever): pairs of a number and its events, `max` of them at most.
 * 0 also after a while, to be called again. -EINTR: a signal. */
int ffl_selector_poll(struct ffl_selector *s, int *pairs, int max, int64_t timeout_ns);
/* A descriptor that polls readable when a wait may have something to tell. */
int ffl_selector_fd(struct ffl_selector *s);

/* A kqueue over it: in place of set and poll. */
struct ffl_kqueue *ffl_selector_kqueue(struct ffl_selector *s);

#endif
