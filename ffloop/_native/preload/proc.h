/*
 * proc.h - sockets for other processes, for fork.c, exec.c, pass.c and share.c.
 */
#ifndef FFL_PRELOAD_PROC_H
#define FFL_PRELOAD_PROC_H

#include "preload.h"

/* Is a call the program's? */
static inline bool looks(void)
{
    return started && !tls.inside;
}

struct portrait { /* a socket, for the process that has its ticket */
    int64_t rcvtimeo, sndtimeo;
    struct ffl_own own;
    int32_t handle, domain, type, proto;
    uint8_t state, nonblock, shut_rd;
};

struct portrait sock_portrait(const struct sock *s);
/* Makes `fd`, of inode `ino` (0: not known), the socket of the portrait, in an inherited session.
 * NULL: no memory. Locked. */
struct node *sock_inherit(int fd, ino_t ino, struct session *session, const struct portrait *p);

struct sock_list {
    struct member {
        struct sock *s;
        int fd;
    } *m;
    size_t n, room;
};
void sock_list_add(struct sock_list *l, struct sock *s, int fd); /* reports that memory lacks */

/* A ticket with references to those of the sockets that are the session's, fd -1: there is none
 * (reported). Then proc_exported. Locked. */
struct ffl_ticket proc_export(struct session *session, const struct sock_list *l);
/* The same with references to all sockets of the session, whose listeners are given. */
struct ffl_ticket proc_export_all(struct session *session, const struct sock_list *listeners);
void proc_exported(void);   /* waiting calls read ahead again */
void proc_import_all(void); /* imports the inherited sockets that are not imported yet. Locked */

void fork_start(void);
void exec_start(void);

#endif
