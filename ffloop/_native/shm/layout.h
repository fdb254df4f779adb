/*
 * layout.h - the ABI of a session: one memfd shared by an application and an instance.
 *
 * Callers: ring.h, segment.c and through them both sides. Fixed-width types and offsets only.
 * Invariants: FFL_ABI_VERSION changes with any change here; the two sides agree on it in the
 * handshake. The instance writes the geometry once, before the application sees the memory; both
 * sides copy it and never read it again.
 * docs/shared-memory.md draws this picture and lists the ordering pairs.
 */
#ifndef FFL_LAYOUT_H
#define FFL_LAYOUT_H

#include "base.h"

#include <stdatomic.h>

#define FFL_MAGIC 0x436b636f534c4646ULL /* "FFLSockC" */
#define FFL_ABI_VERSION 9u

/* ---- entries ------------------------------------------------------------------------------- */

/* One slot of the SQ or the CQ. In the SQ `arg` is a length or a small argument; in the CQ it is
 * a result: a count or value >= 0, or -errno (Linux numbers). */
struct ffl_entry {
    uint8_t op;      /* enum ffl_op */
    uint8_t flags;   /* FFL_F_* */
    uint16_t tag;    /* SQ: echoed by the completion of a control operation; 0: no call waits */
    uint32_t handle; /* of a socket, in its session */
    int32_t arg;
    uint32_t buf; /* buffer id, or FFL_NO_BUF */
};
_Static_assert(sizeof(struct ffl_entry) == 16, "entry ABI");

#define FFL_NO_BUF 0xffffffffu

/*
 * Operations. SQ meaning / CQ meaning. Control operations answer with a completion of the same
 * op and tag, result in `arg`; SOCKET, SEND, ARM, DISARM, SHUTDOWN do not answer when they succeed.
 */
enum ffl_op {
    FFL_OP_NONE,
    FFL_OP_SOCKET,     /* open `handle` (application's range); arg = domain | type<<8 | proto<<16 */
    FFL_OP_BIND,       /* buf: struct ffl_addr / buf: the address bound, a struct ffl_addresses */
    FFL_OP_LISTEN,     /* arg = backlog / buf: struct ffl_addresses */
    FFL_OP_CONNECT,    /* buf: struct ffl_addr / when it has ended; buf: struct ffl_addresses */
    FFL_OP_ARM,        /* stream, datagram: start reading ahead; listener: arg = accepts to add, and
                        * say when a connection waits (OFFER), if nothing is accepted ahead */
    FFL_OP_DISARM,     /* stop reading ahead */
    FFL_OP_SEND,       /* buf, arg = bytes in buf (with FFL_F_ADDR the ffl_addr is counted too) */
    FFL_OP_SHUTDOWN,   /* arg = SHUT_*, after the sends before it / another reference's SHUT_WR */
    FFL_OP_CLOSE,      /* after the sends before it, or at once with FFL_F_ABORT; arg = bytes of the
                        * stream that the application took, modulo 2^32: where it left some, the
                        * close is a reset / - */
    FFL_OP_SETSOCKOPT, /* buf: struct ffl_optarg / result */
    FFL_OP_GETSOCKOPT, /* buf: struct ffl_optarg / buf: struct ffl_optarg */
    FFL_OP_ADDRESSES,  /* - / buf: struct ffl_addresses */
    FFL_OP_RECV,       /* - / data: buf, arg = bytes; arg = 0 and no buf: end of stream */
    FFL_OP_ACCEPT, /* - / on a listener: arg = new handle (instance's range), buf: ffl_addresses */
    FFL_OP_ERROR,  /* - / arg = -errno: the socket failed; on a stream the last, but for CLOSED */
    FFL_OP_CLOSED, /* - / the last completion of a handle, which may then be used again */
    FFL_OP_UNREAD, /* buf, arg = bytes: read ahead and given back, for the next reader / - */
    FFL_OP_EXPORT, /* buf: ffl_import (its handle says nothing): a reference for a ticket / - */
    FFL_OP_SHARE,  /* of no handle; buf as EXPORT: references to all sockets of the session for a
                    * ticket, and nothing more is read ahead, unless FFL_F_ARMED / - */
    FFL_OP_IMPORT, /* open `handle` (application's range), buf: ffl_import / FFL_IMPORT_* */
    FFL_OP_TAKE, /* listener: one connection, now; arg = accepts to add / after its ACCEPT, where it
                    * has a tag: enum ffl_take */
    FFL_OP_OFFER,  /* - / on a listener: arg connections wait, for the first TAKEs */
    FFL_OP_FILTER, /* buf: struct ffl_filter / result */
    FFL_OP_REPORT, /* - / from the error queue; buf, arg = bytes, as a RECV of a datagram */
    FFL_OP_NOP,    /* answers with its own arg: a round trip */
    FFL_OP_COUNT
};

/* Flags. */
#define FFL_F_ADDR 0x01u    /* SEND, RECV, UNREAD: the buffer begins with a struct ffl_addr */
#define FFL_F_ABORT 0x02u   /* CLOSE: drop unsent data */
#define FFL_F_MORE 0x02u    /* SEND of a stream: more comes soon; the stack may wait for that */
#define FFL_F_NODELAY 0x04u /* SOCKET, LISTEN: TCP_NODELAY on this socket / on accepted ones */
#define FFL_F_ARM_NEW 0x08u /* ARM on a listener: accepted sockets begin armed */
#define FFL_F_LOOK 0x01u    /* NOP: to be answered when the stack was looked at */
#define FFL_F_ALONE 0x01u   /* ARM, TAKE: one of the endpoints with it is told of a connection */
#define FFL_F_OFFER 0x02u   /* ARM, TAKE: nothing is accepted ahead */
#define FFL_F_ARMED 0x01u   /* SHARE: the sockets stay armed */
#define FFL_F_TRUNC 0x10u   /* RECV, UNREAD of a datagram: it was cut to the buffer */
#define FFL_F_RETURN 0x20u  /* CLOSE: accepted ahead; back to the listener's other references */
#define FFL_F_CTL                                                                                  \
    0x40u /* SEND, RECV, UNREAD of a datagram: after the ffl_addr a struct ffl_ctl; RECV of a      \
           * stream: at the start */
#define FFL_F_CTL_CUT 0x80u /* RECV, UNREAD of a datagram: not all control messages found room */
/* ERROR of a stream: its sends alone fail; received data is still to be read. */
#define FFL_F_SENDING 0x80u

/* The result of a TAKE. An OFFER tells of the next connection after NONE,
 * and after LAST unless the TAKE had FFL_F_ALONE. */
enum ffl_take { FFL_TAKE_NONE, FFL_TAKE_LAST, FFL_TAKE_MORE };

/* ---- argument blocks, at the start of a buffer --------------------------------------------- */

struct ffl_addr {    /* Linux numbers; port and ip in network order */
    uint16_t family; /* AF_INET 2, AF_INET6 10; 0: none */
    uint16_t port_be;
    uint32_t flowinfo; /* AF_INET6, network order */
    uint32_t scope_id; /* AF_INET6, host order */
    uint8_t ip[16];    /* AF_INET: the first four */
};
_Static_assert(sizeof(struct ffl_addr) == 28, "addr ABI");

#define FFL_CTL_MAX 252
struct ffl_ctl { /* control messages, as in Linux's msg_control */
    uint32_t len;
    uint8_t data[FFL_CTL_MAX];
};
_Static_assert(sizeof(struct ffl_ctl) == 256, "ctl ABI");

/* Bytes of a SEND or RECV that come before its data. */
static inline uint32_t ffl_front_bytes(uint8_t flags)
{
    return (flags & FFL_F_ADDR ? (uint32_t)sizeof(struct ffl_addr) : 0) +
           (flags & FFL_F_CTL ? (uint32_t)sizeof(struct ffl_ctl) : 0);
}

struct ffl_addresses {
    struct ffl_addr local;
    struct ffl_addr peer;
};
_Static_assert(sizeof(struct ffl_addresses) == 56, "addresses ABI");

#define FFL_OPT_MAX 512 /* bytes: TCP_INFO has 280 and grows; struct group_source_req has 264 */
struct ffl_optarg {     /* Linux level and option names */
    int32_t level;
    int32_t name;
    uint32_t len; /* bytes used (SET) or wanted (GET) of data, at most FFL_OPT_MAX */
    uint8_t data[FFL_OPT_MAX];
};
_Static_assert(sizeof(struct ffl_optarg) == 524, "optarg ABI");

/* Bytes of a struct ffl_optarg in a buffer, with `len` bytes of data. */
static inline uint32_t ffl_optarg_bytes(uint32_t len)
{
    return (uint32_t)offsetof(struct ffl_optarg, data) + len;
}

#define FFL_FILTER_MAX 4096 /* instructions, Linux's limit */
struct ffl_filter {         /* SO_ATTACH_FILTER and the like; the program follows */
    int32_t level;
    int32_t name;
    uint32_t len; /* instructions, each a struct sock_filter of 8 bytes */
    uint32_t reserved;
};
_Static_assert(sizeof(struct ffl_filter) == 16, "filter ABI");

struct ffl_import { /* names a reference in a ticket (handshake.h) */
    uint64_t key;
    uint32_t ticket;
    uint32_t handle; /* the exporting session's */
};
_Static_assert(sizeof(struct ffl_import) == 16, "import ABI");
#define FFL_IMPORT_LISTENER 1
#define FFL_IMPORT_CONNECTING 2
#define FFL_IMPORT_SHUT_WR 4

/* ---- buffers ------------------------------------------------------------------------------- */

/* A buffer id is class << 28 | index. Classes: control blocks and small messages, a page, bulk. */
#define FFL_CLASSES 3
#define FFL_BUF_CLASS_SHIFT 28
#define FFL_BUF_INDEX_MASK 0x0fffffffu
static const uint8_t ffl_class_shift[FFL_CLASSES] = {8, 12, 16};

static inline uint32_t ffl_class_size(unsigned cls)
{
    return 1u << ffl_class_shift[cls];
}

/* ---- shared control words ------------------------------------------------------------------ */

/* One ring's control: each word has one writer and a cache line of its own. Free-running. */
struct ffl_ring_ctl {
    _Alignas(FFL_CACHELINE) _Atomic uint32_t tail; /* written by the producer */
    _Alignas(FFL_CACHELINE) _Atomic uint32_t head; /* written by the consumer */
};

/* The wait word: what a sleeping side waits for; 0: awake. The other side rings only if a bit is
 * set that its commit concerns, and clears the word: one wake per sleep. */
#define FFL_WAIT_QUEUE 1u /* new entries: CQ (application), SQ (instance) */
/* Buffers came back: tx-free (application; tx_unwritable too), rx-free (instance). */
#define FFL_WAIT_FREE 2u
#define FFL_WAIT_SPACE 4u /* room: in the SQ (application), in the CQ (instance) */
#define FFL_WAIT_SPINS 8u /* alone in the word: it spins for the CQ, and needs no doorbell */

struct ffl_waits {
    _Alignas(FFL_CACHELINE) _Atomic uint32_t app;
    _Alignas(FFL_CACHELINE) _Atomic uint32_t inst;
};

/* Counters, each written by one side only, relaxed. */
struct ffl_app_stats {
    _Alignas(FFL_CACHELINE) _Atomic uint64_t submitted;
    _Atomic uint64_t reaped;
    _Atomic uint64_t sleeps, wakes; /* times the application blocked; rang the instance */
    _Atomic uint64_t spins, spin_hits;
    _Atomic uint64_t sq_full, pool_empty;
    _Atomic uint64_t bytes_sent, bytes_received;
    _Atomic uint32_t sockets;
    _Atomic uint64_t late_looks; /* after FFL_LOOK_NS, that found unannounced entries */
};

struct ffl_inst_stats {
    _Alignas(FFL_CACHELINE) _Atomic uint64_t consumed;
    _Atomic uint64_t posted;
    _Atomic uint64_t wakes; /* times the instance rang the application */
    _Atomic uint64_t cq_full, pool_empty;
    _Atomic uint64_t bytes_in, bytes_out;
    _Atomic uint64_t accepts;
    /* Bytes of transmit buffers of unwritable sockets: the stack takes none. */
    _Atomic uint64_t tx_unwritable;
    _Atomic uint32_t sockets;
};

/* How long the iterations of the application's loop worked; the application writes it. */
#define FFL_LAGS 24
struct ffl_lag {
    _Atomic uint64_t ns; /* the sum */
    /* Below 1, 2, 4, ... us (of 1,024 ns); the last: and above. */
    _Atomic uint64_t counts[FFL_LAGS];
};

/* ---- the segment --------------------------------------------------------------------------- */

enum ffl_ring_id { FFL_SQ, FFL_RXFREE, FFL_CQ, FFL_TXFREE, FFL_RINGS };

struct ffl_pool_geo {
    uint32_t count[FFL_CLASSES]; /* buffers in each class */
    uint32_t off[FFL_CLASSES];   /* of the class's first buffer, from the segment's start */
    uint32_t reserve; /* smallest buffers kept for sockets that hold none; no part of the shares */
};

struct ffl_geo {
    uint64_t magic;
    uint32_t version;
    uint32_t size;                 /* of the segment, bytes */
    uint32_t max_sockets;          /* application's handles [0, n), instance's [n, 2n) */
    uint32_t session;              /* id, for logs */
    uint32_t ring_size[FFL_RINGS]; /* slots, a power of two */
    uint32_t ring_off[FFL_RINGS];  /* of the slots */
    struct ffl_pool_geo rx, tx;
};

struct ffl_segment { /* at offset 0 */
    struct ffl_geo geo;
    _Alignas(4096) struct ffl_ring_ctl ring[FFL_RINGS];
    struct ffl_waits waits;
    _Alignas(4096) struct ffl_app_stats app; /* the stats page */
    struct ffl_inst_stats inst;
    struct ffl_lag lag;
    uint8_t pad[]; /* slots and buffers follow at geo's offsets */
};

_Static_assert(offsetof(struct ffl_segment, ring) == 4096, "segment ABI");
_Static_assert(offsetof(struct ffl_segment, app) == 8192, "segment ABI");
_Static_assert(sizeof(struct ffl_segment) == 12288, "segment ABI");

#endif
