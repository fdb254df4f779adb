/*
 * peers.h - who comes to the instance: its unix socket, admission, rights, descriptors that peers
 * send.
 *
 * A peer is hostile: no call here waits for one.
 */
#ifndef FFL_INSTANCE_PEERS_H
#define FFL_INSTANCE_PEERS_H

#include "internal.h"

/* listen.c */
int listen_open(struct ffl_instance *in, char *why, size_t whylen);
void listen_close(struct ffl_instance *in);
int ctl_add(struct ffl_instance *in, int fd, uint32_t events, struct src *src);
/* Takes fd out of the control epoll and closes it by `how` (ffl_close). Closing alone is not enough
 * where another process has the same file, as an application has the doorbells. */
void ctl_drop(struct ffl_instance *in, int *fd, void (*how)(int fd));
/* Waits up to timeout_ns for the control epoll and handles its events: the count, or < 0. */
int ctl_wait(struct ffl_instance *in, int64_t timeout_ns);

/* path.c */
/* Binds to o.path, and listens. 0, or -errno with or without a sentence in `why`. */
int path_bind(struct ffl_instance *in, int s, char *why, size_t whylen);
void path_leave(struct ffl_instance *in); /* if the instance has it */

/* admit.c */
/* Takes sock over. brought: a ticket's holder answers for the peer; else the policy decides. */
void admit_peer(struct ffl_instance *in, int sock, bool brought);
void admit_not(struct ffl_instance *in, int sock, const char *why); /* sends `why`, and closes */
void admit_event(struct pending *p);
void admit_lost(struct account *a);                  /* closer_recv had no descriptor: logs it */
bool admit_make_room(struct ffl_instance *in);       /* false: no peer is waiting */
void admit_sweep(struct ffl_instance *in, bool all); /* frees the peers that are done, or all */

/* closer.c */
void closer_close(int fd); /* takes it, and returns at once */
bool closer_busy(void);    /* many descriptors wait to be closed: no new peer is heard */
/* Closes a socket in whose queue a peer's descriptors may wait: at once if the queue is empty. */
void closer_drop(int sock);
/* ffl_msg_recv for a message with one descriptor at most: *fd, or -1. More are -EPROTO; -EMFILE:
 * the message is gone. */
int closer_recv(int sock, void *data, size_t len, int *fd);

/* rights.c */
void rights_start(struct ffl_instance *in);
/* The network capabilities that the session's process itself has; its pidfd is open. */
uint64_t rights_of(const struct ffl_session *s);
void rights_own(struct ffl_session *s, int fd); /* gives a new socket to the session's user */
int rights_bind(struct endpoint *e, const struct ffl_addr *a);
int rights_setsockopt(struct endpoint *e, const struct ffl_optarg *o);

/* interrupt.c */
int bell_ring(int fd); /* 0 or -errno; -EINTR when the write would have waited */
/* Between these two, a system call that waits fails with EINTR after some milliseconds. */
void interrupt_begin(void);
void interrupt_end(void);

/* lost.c */
void lost_guard(struct ffl_instance *in);
void lost_unguard(struct ffl_instance *in);

#endif
