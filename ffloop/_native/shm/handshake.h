/*
 * handshake.h - the messages on an instance's unix socket (SOCK_SEQPACKET).
 *
 * Callers: client/, instance/. One hello, one reply. After an attach each side sends at most one
 * last message, the instance its reason and the application its rest; the socket's end says that
 * the other side is gone. Before its rest an application may bring others in (FFL_TICKET_CONNECT).
 * A reply to an attach carries three descriptors: the memfd, the application's doorbell, the
 * instance's doorbell.
 */
#ifndef FFL_HANDSHAKE_H
#define FFL_HANDSHAKE_H

#include "layout.h"

#include <sys/socket.h>
#include <sys/un.h>

enum ffl_hello_kind { FFL_HELLO_ATTACH = 1, FFL_HELLO_TICKET = 2 };

struct ffl_hello {
    uint64_t magic;
    uint32_t version;
    uint32_t kind;        /* enum ffl_hello_kind */
    uint32_t max_sockets; /* wanted; 0: the instance's default */
    uint32_t pool_kib;    /* wanted per side; 0: the instance's default */
    uint32_t reserved[4];
};

enum ffl_reply_status {
    FFL_REPLY_OK,
    FFL_REPLY_VERSION, /* `version` is the instance's */
    FFL_REPLY_REFUSED, /* the peer's uid may not use this instance */
    FFL_REPLY_QUOTA,   /* too many sessions, of all or of one user */
    FFL_REPLY_BAD,     /* not a hello */
    FFL_REPLY_NOMEM,   /* no memory or descriptor; for a ticket, also too many of one user */
};

struct ffl_reply {
    uint64_t magic;
    uint32_t version;
    uint32_t status;
    int32_t pid;      /* the instance's */
    uint32_t session; /* the session's id, or the ticket's */
    char stack[16];   /* "host", "fstack" */
    char why[128];    /* a sentence for the user, when status is not OK */
    uint64_t key;     /* of a ticket; the fields before this are the same in every version */
};

/* The last message of an application that detaches: with it comes a memfd, sealed against writing,
 * of the entries that found the SQ full. So detaching does not wait for room. */
struct ffl_rest {
    uint64_t magic;
    uint32_t n; /* entries */
};
#define FFL_REST_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

/*
 * A ticket: a connection that holds references to stack sockets (FFL_OP_EXPORT) for a process that
 * may not exist yet. Its holder sends these messages; there are no replies.
 */
enum ffl_ticket_what {
    FFL_TICKET_CONNECT, /* brings one end of a socketpair; a holder of the other end may attach. A
                           session's application may send this too */
    FFL_TICKET_DROP,    /* these handles are not wanted */
    FFL_TICKET_MARK,    /* these handles are wanted; SWEEP then drops the others */
    FFL_TICKET_SWEEP
};

struct ffl_ticket_msg {
    uint32_t what;
    uint32_t n;
    uint32_t handles[62];
};

#define FFL_ATTACH_FDS 3
#define FFL_MSG_FDS 253 /* the kernel's most in one message */

/* "@name" is an abstract address, anything else a path. Fills sa and its length; -ENAMETOOLONG
 * or -EINVAL. */
int ffl_unix_addr(const char *path, struct sockaddr_un *sa, socklen_t *len);

/*
 * Sends or receives one message with descriptors (received CLOEXEC). Never waits, whatever the
 * socket's O_NONBLOCK says: another process may share that flag. Returns the message's bytes or
 * -errno (-EPROTO: it was cut; -EMFILE: this process may have no more descriptors). recv: *nfds is
 * the room for descriptors, then their count; the caller closes them also after an error.
 * Descriptors beyond the room are closed.
 */
int ffl_msg_send(int sock, const void *data, size_t len, const int *fds, int nfds);
int ffl_msg_recv(int sock, void *data, size_t len, int *fds, int *nfds);

#endif
