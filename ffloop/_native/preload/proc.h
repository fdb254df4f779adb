/*
 * proc.h - tickets, for fork.c, exec.c, pass.c and share.c.
 */
#ifndef FFL_PRELOAD_PROC_H
#define FFL_PRELOAD_PROC_H

#include "preload.h"

struct ticket { /* references to sockets, for another process (client.h) */
    struct ffl_ticket t;
    struct ticket *next;     /* during a fork */
    struct session *session; /* during a fork: the session whose sockets it holds */
    int index;               /* of the instance */
    int socks;               /* not imported, not disowned */
};

void ticket_put(struct ticket *t); /* a socket less; the last one closes the ticket */
/* A socket in words, for the process that has its ticket: their length. */
int sock_describe(const struct sock *s, char *text, size_t len);
/* `fd` is that socket from now on, t's to import. False: no memory, or no such words. Locked. */
bool ticket_sock(int fd, struct ticket *t, const char *text);
/* A ticket with references to the sockets of `session` (`exec`: those that stay open), or NULL
 * (reported). Locked. */
struct ticket *export_all(struct session *session, bool exec);
struct ticket *export_sock(struct sock *s); /* the same with s alone */
void import_all(void); /* imports all inherited sockets that were not yet. Locked */
/* A spawn's file actions may give it to the child under another number, close-on-exec or not. */
bool stays_open(int fd, const struct sock *s);

void fork_start(void);
void exec_start(void);

#endif
