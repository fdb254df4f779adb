/*
 * session.h - sessions, and the operations that applications submit.
 *
 * Callers: the iteration (serve.c), the pumps and the control epoll. A session that is killed or
 * has ended stays until session_reap.
 */
#ifndef FFL_INSTANCE_SESSION_H
#define FFL_INSTANCE_SESSION_H

#include "internal.h"

/* session.c */
/* Takes sock over on success. -EDQUOT: too many sessions, of all or of the user. */
int session_new(struct ffl_instance *in, int sock, const struct ffl_hello *h,
                const struct ucred *cred, struct account *a, struct ffl_session **out);
void session_kill(struct ffl_session *s, const char *why);      /* a bad entry */
void session_last_word(struct ffl_session *s, const char *why); /* to its application's log */
void session_event(struct ffl_session *s); /* its application says something, or is gone */
void session_end(struct ffl_session *s);   /* its application is gone */
/* Works on the sessions that end, a slice each, and frees those that are done. True: there is
 * more. */
bool session_reap(struct ffl_instance *in);
void session_free(struct ffl_session *s);
void session_post(struct ffl_session *s, struct ffl_entry e);
/* Executes submitted entries, `most` at most, until the slice is over: the count, or < 0 and the
 * session is dead. */
int session_drain(struct ffl_session *s, int most);
void session_commit(struct ffl_session *s); /* commits completions and returned buffers */
void session_committed(struct ffl_session *s, int rc); /* acts on a commit's result */
bool session_stuffed(const struct ffl_session *s);     /* the CQ is full: no pump may post more */
void session_tx_release(struct ffl_session *s, uint32_t buf);
void *session_buf(struct ffl_session *s, const struct ffl_pool_geo *p, uint32_t buf);

/* answer.c */
/* Copies the entry's argument block out and gives its buffer back. 0 or -EPROTO. */
int answer_arg(struct ffl_session *s, struct ffl_entry e, void *arg, size_t len);
/* The same for an option, whose length is in the block; `set`: copies the value as well. */
int answer_option(struct ffl_session *s, struct ffl_entry e, struct ffl_optarg *o, bool set);
struct sock_filter;
int answer_filter(struct ffl_session *s, struct ffl_entry e, struct ffl_filter *f,
                  struct sock_filter *code); /* FFL_FILTER_MAX of them */
/* A receive buffer that holds `len` bytes, and counts for no endpoint; NULL and FFL_NO_BUF: none is
 * free. answer_put copies `data` into it. */
void *answer_room(struct ffl_session *s, size_t len, uint32_t *buf);
uint32_t answer_put(struct ffl_session *s, const void *data, size_t len);
uint32_t answer_addresses(struct endpoint *e); /* answer_put of the socket's addresses */
void answer_post(struct ffl_session *s, struct ffl_entry q, int32_t res, uint32_t buf);

/* control.c: executes one SQ entry. 0; FFL_CHANNEL_LATER: nothing is done, the slice is over; or
 * -EPROTO with a reason when the session must end. */
int control_entry(struct ffl_session *s, struct ffl_entry e, const char **why);
void control_close(struct endpoint *e, bool abort);

/* connect.c: operations, as control.c's; and a connect's end, which it answers: sends queued
 * meanwhile may go. */
int connect_bind(struct endpoint *e, struct ffl_entry q);
int connect_listen(struct endpoint *e, struct ffl_entry q);
int connect_begin(struct endpoint *e, struct ffl_entry q);
void connect_ended(struct endpoint *e);

#endif
