/*
 * proc.h - tickets, for fork.c, exec.c, pass.c and share.c.
 */
#ifndef FFL_PRELOAD_PROC_H
#define FFL_PRELOAD_PROC_H

#include "preload.h"

struct ticket { /* references to sockets, for another process (client.h) */
    struct ffl_ticket t;
    struct ticket *next;     /* during a fork */
    struct session *session; /* of the exporting process, whose sockets the ticket has */
    int index;               /* of the instance */
    int socks;               /* sockets neither imported nor disowned yet */
};

void ticket_put(struct ticket *t); /* a socket less; the last closes the ticket */
/* Writes the socket in words, for the process that has its ticket: their length. */
int sock_describe(const struct sock *s, char *text, size_t len);
/* Makes `fd` the socket of these words, to be imported from t. False: no memory, or malformed.
 * Locked. */
bool ticket_sock(int fd, struct ticket *t, const char *text);
/* A ticket with references to the sockets of `session` (`exec`: those that stay open), or NULL
 * (reported). Locked. */
struct ticket *export_all(struct session *session, bool exec);
struct ticket *export_sock(struct sock *s); /* with s alone */
void import_all(void); /* imports the inherited sockets that are not imported yet. Locked */
/* Does fd stay open after exec? A socket that a spawn's file actions name does, under another
 * number. */
bool stays_open(int fd, const struct sock *s);

void fork_start(void);
void exec_start(void);

#endif
