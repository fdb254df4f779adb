/*
 * handshake.h - the messages on an instance's unix socket (SOCK_SEQPACKET).
 *
 * Callers: client/attach.c, instance/admit.c, session.c and ticket.c. One hello, one reply; then the
 * socket carries at most one last message of each side, the instance's reason or the application's rest,
 * and says by its end that a side is gone. A reply to an attach carries three
 * descriptors: the memfd, the application's doorbell, the instance's doorbell. A reply to a stats
 * query carries one: the instance's stats page, read only.
 */
#ifndef FFL_HANDSHAKE_H
#define FFL_HANDSHAKE_H

#include "layout.h"

#include <sys/socket.h>
#include <sys/un.h>

enum ffl_hello_kind { FFL_HELLO_ATTACH = 1, FFL_HELLO_STATS = 2, FFL_HELLO_TICKET = 3 };

struct ffl_hello {
    uint64_t magic;
    uint32_t version;
    uint32_t kind;        /* enum ffl_hello_kind */
    uint32_t max_sockets; /* wanted; 0: the instance's default */
    uint32_t pool_kib;    /* wanted a side; 0: the instance's default */
    uint32_t reserved[4];
};

enum ffl_reply_status {
    FFL_REPLY_OK,
    FFL_REPLY_VERSION, /* `version` is the instance's */
    FFL_REPLY_REFUSED, /* the peer's uid may not use this instance */
    FFL_REPLY_QUOTA,   /* too many sessions, of all or of one user */
    FFL_REPLY_BAD,     /* not a hello */
    FFL_REPLY_NOMEM,   /* the segment could not be made */
};

struct ffl_reply {
    uint64_t magic;
    uint32_t version;
    uint32_t status;
    int32_t pid;      /* the instance's */
    uint32_t session; /* id; of a ticket: its */
    char stack[16];   /* "host", "fstack" */
    char why[128];    /* for the user, when status is not OK */
    uint64_t key;     /* of a ticket; what comes before this is the same in every version */
};

/* An application that goes leaves what has found its SQ full, in the memfd that comes with this, which can
 * be written to no more: so its end waits for nobody. */
struct ffl_rest {
    uint64_t magic;
    uint32_t n; /* entries */
};
#define FFL_REST_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

/*
 * A ticket: a connection that holds references to stack sockets (FFL_OP_EXPORT) for a process that may
 * not exist yet. Its holder sends these messages; there are no replies.
 */
enum ffl_ticket_what {
    FFL_TICKET_CONNECT, /* with one end of a socketpair, whose other end may attach, whoever has it */
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
 * socket's O_NONBLOCK says, which a peer may share. Returns the bytes of the message, or -errno.
 * recv: *nfds is the room for descriptors, then their count; the caller closes them whatever is
 * returned. Descriptors beyond the room are closed. A message that was cut is -EPROTO.
 */
int ffl_msg_send(int sock, const void *data, size_t len, const int *fds, int nfds);
int ffl_msg_recv(int sock, void *data, size_t len, int *fds, int *nfds);

#endif
