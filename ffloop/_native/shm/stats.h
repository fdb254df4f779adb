/*
 * stats.h - the instance's stats pages: a memfd that the instance alone writes (a seal forbids
 * other writable mappings). A reader opens /proc/PID/fd/N, which works on a stopped or stuck
 * instance too.
 *
 * A header, a table of sessions, a table of sockets. A free slot's first word is 0; it is set last:
 * a reader that finds the same non-zero word before and after its copy has copied one occupant.
 * Counters are relaxed.
 */
#ifndef FFL_STATS_H
#define FFL_STATS_H

#include "layout.h"

#define FFL_STATS_NAME "ffloop-stats"         /* the memfd's, as /proc/PID/fd shows it */
#define FFL_STATS_MAGIC 0x74617453534c4646ULL /* "FFLSStat" */
#define FFL_STATS_VERSION 4u
#define FFL_STATS_SOCKETS (1u << 18) /* slots; pages that were never used take no memory */

enum ffl_sock_state {
    FFL_SOCK_OPEN,
    FFL_SOCK_BOUND,
    FFL_SOCK_LISTENING,
    FFL_SOCK_CONNECTING,
    FFL_SOCK_CONNECTED,
    FFL_SOCK_PEER_DONE, /* connected, and the peer has ended its stream */
    FFL_SOCK_FAILED,
    FFL_SOCK_CLOSING, /* closed by the application, still sending */
};

struct ffl_stat_session {
    _Atomic uint32_t id; /* 0: free */
    int32_t pid;
    uint32_t uid;
    int32_t memfd; /* the segment, as the instance's descriptor number */
    int64_t start_realtime;
    _Atomic uint32_t sockets;
    _Atomic uint32_t dying;   /* its application is gone, its data still being sent */
    _Atomic uint64_t rx_free; /* free bytes of the receive pool at the heartbeat */
    uint64_t rx_total;
    uint8_t pad[16];
};
_Static_assert(sizeof(struct ffl_stat_session) == 64, "stats ABI");

struct ffl_stat_socket {
    _Alignas(64) _Atomic uint32_t serial; /* 0: free */
    uint32_t session, handle;
    uint8_t type; /* SOCK_* */
    _Atomic uint8_t state;
    uint8_t pad[2];
    _Atomic uint64_t bytes_in, bytes_out; /* from and to the stack */
    _Atomic uint32_t rx_held;             /* bytes of receive buffers outstanding */
    _Atomic uint32_t tx_queued;           /* bytes that the stack has not taken */
    struct ffl_addresses addresses;
};
_Static_assert(sizeof(struct ffl_stat_socket) == 128, "stats ABI");

struct ffl_instance_page {
    uint64_t magic;
    uint32_t version;
    int32_t pid;
    int64_t start_realtime; /* seconds since the epoch */
    char stack[16];
    _Atomic uint32_t sessions; /* attached now */
    _Atomic uint32_t dying;    /* their application is gone, their data still being sent */
    _Atomic uint32_t sockets;  /* stack sockets open */
    _Atomic uint32_t pending;  /* connections to the unix socket without a hello yet */
    _Atomic uint64_t sessions_total, sessions_refused, sessions_killed;
    _Atomic uint64_t accepts, turns, sleeps;
    _Atomic uint64_t late_looks; /* after FFL_LOOK_NS, that found unannounced entries */
    _Atomic int64_t heartbeat;   /* CLOCK_MONOTONIC, ns: the last look at all sessions */
    uint32_t size;               /* of the whole file, bytes */
    uint32_t session_off, session_slots, socket_off;
    _Atomic uint32_t socket_top; /* slots at and above it were never used */
    _Atomic uint64_t unlisted;   /* sockets and sessions that found no slot, so far */
    char path[112];              /* of the unix socket; "@name": abstract */
    char describe[160];          /* the stack, in its own words */
    struct ffl_lag lag;          /* of a loop in direct mode */
};
_Static_assert(sizeof(struct ffl_instance_page) <= 4096, "one page");

#endif
