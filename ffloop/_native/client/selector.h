/*
 * selector.h - an epoll over kernel descriptors and the stack sockets of one session.
 *
 * Callers: the cffi module, for FFSelector and Kqueue, in a thread without an event loop: one
 * thread uses the selector and its client, which is `quiet`. Sockets are named by numbers: a
 * descriptor's, or one that stands for a stack socket and is announced first (place). Returns 0, a
 * count, or -errno.
 */
#ifndef FFL_SELECTOR_H
#define FFL_SELECTOR_H

#include "client.h"
#include "kqueue.h"

struct ffl_selector;

struct ffl_selector *ffl_selector_new(void); /* NULL: errno */
void ffl_selector_free(struct ffl_selector *s);
/* Stack sockets are client c's from now on. Those of the client before stay, always ready. NULL: no
 * client. */
int ffl_selector_use(struct ffl_selector *s, struct ffl_client *c);
/* `fd` stands for stack socket `h`; h < 0: for a stack socket whose session has ended. */
int ffl_selector_place(struct ffl_selector *s, int fd, int h);
void ffl_selector_forget(struct ffl_selector *s, int fd); /* before the socket is closed */

/* Watches number fd for `events` (epoll's bits) in place of earlier ones; 0: ends the watch. */
int ffl_selector_set(struct ffl_selector *s, int fd, uint32_t events);
/* Waits, timeout_ns at most (-1: for ever), and fills `max` pairs at most: a number and its events.
 * 0 also after FFL_LOOK_NS, for the caller may have missed a signal: wait again. -EINTR: a
 * signal. */
int ffl_selector_poll(struct ffl_selector *s, int *pairs, int max, int64_t timeout_ns);
/* A descriptor that polls readable when ffl_selector_poll may have events. */
int ffl_selector_fd(struct ffl_selector *s);

/* A kqueue over the selector, in place of set and poll. */
struct ffl_kqueue *ffl_selector_kqueue(struct ffl_selector *s);

#endif
