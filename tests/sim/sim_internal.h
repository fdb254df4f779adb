/*
 * sim_internal.h - what the files of the sim stack share.
 *
 * sim.c       options, start and stop, descriptors, poll, the table of operations
 * sim_net.c   the network: the clock's queue, connecting, delivery, resets, datagrams
 * sim_port.c  addresses and ports
 * sim_sock.c  the socket calls
 * sim_opt.c   socket options
 * sim_load.c  the load source
 *
 * Everything runs on one thread. A `struct sock` lives while something holds it: its descriptors
 * (one hold together), its peer, a delivery under way, a queue. A `struct ref` is a descriptor: it
 * has the watch, so that two descriptors of one socket each get their events, as with epoll.
 * Streams: bytes go into the receiver's ring when they are sent and become readable when they are
 * delivered, so the latency costs no copy. The sender counts what the receiver has not read yet
 * (`outstanding`, at most `window`); reading gives it back after the latency.
 */
#ifndef FFL_SIM_INTERNAL_H
#define FFL_SIM_INTERNAL_H

#include "sim.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum sim_state {
    SIM_FRESH,
    SIM_LISTENING,
    SIM_CONNECTING,
    SIM_CONNECTED,
    SIM_OVER /* refused or reset */
};

struct sim;
struct sock;
struct load;
struct load_conn;

struct ref { /* a descriptor */
    struct sock *s;
    struct ref *sibling;     /* of the same socket */
    struct ref *prev, *next; /* in the ready list */
    void *udata;
    int fd;
    uint8_t filters, pending;
    bool ready;
};

struct dgram {
    struct dgram *next;
    struct ffl_addr from, to;
    uint32_t len;
    uint8_t data[];
};

#define SIM_OPTS 64
#define SIM_DGRAM_OVERHEAD 256 /* counted against the window: empty datagrams fill it too */

struct sock {
    struct sim *sim;
    uint32_t holds;
    struct ref *refs;
    struct sock *link; /* in a port's chain (bound) */
    struct sock *wait; /* in a listener's accept or SYN queue */
    uint8_t state, domain, type;
    bool bound, closed;
    struct ffl_addr local, remote;
    struct sock *peer;
    int error;
    /* stream */
    uint8_t *rx;
    uint32_t rx_cap, rx_head, rx_len, rx_flight; /* len: readable; flight: sent, not delivered */
    uint32_t window;                             /* of this end's receive side */
    uint32_t outstanding;                        /* the peer has not read it */
    bool blocked;                                /* a send fell short: owes a WRITE */
    bool fin_in, shut_rd, shut_wr, reset;
    /* datagram */
    struct dgram *dq, **dq_end;
    uint32_t dq_bytes;
    /* listener */
    struct sock *acc, **acc_end, *syn, **syn_end;
    uint32_t acc_n, backlog;
    /* load: this end is the load's, or reads what the load sends */
    struct load_conn *load, *source;
    uint64_t source_pos;
    uint8_t *optval[SIM_OPTS]; /* NULL: the default */
};

enum sim_event_kind {
    SIM_EV_SYN,    /* s: the client */
    SIM_EV_SYNACK, /* s: the client; n: errno */
    SIM_EV_DATA,   /* n: bytes */
    SIM_EV_WINDOW, /* n: bytes that the peer has read */
    SIM_EV_FIN,
    SIM_EV_RST,
    SIM_EV_DGRAM,   /* s: the sender */
    SIM_EV_UNREACH, /* s: the sender */
    SIM_EV_LOAD_END,
    SIM_EV_LOAD_OPEN /* n: connection */
};

struct sim_event {
    int64_t due;
    uint64_t seq; /* first in, first out among equals */
    struct sock *s;
    struct dgram *d;
    uint32_t n;
    uint8_t kind;
};

#define SIM_PORTS 1024
#define SIM_ADDRS 8

struct sim {
    bool manual;
    int64_t clock; /* manual */
    int64_t latency;
    uint32_t window, max_fds;
    struct ffl_addr local[SIM_ADDRS], hole[SIM_ADDRS];
    unsigned nlocal, nhole;
    struct ref **fds;
    uint32_t nfds, cap_fds;
    uint32_t *freed;
    uint32_t nfreed;
    uint32_t open_fds;
    struct ref ready; /* list head */
    struct sock *ports[SIM_PORTS];
    uint32_t next_port, spread;
    struct sim_event *heap;
    uint32_t nheap, cap_heap;
    uint64_t seq;
    struct ffl_sim_counts n;
    struct load *load;
};

/* sim.c */
int sim_fd_new(struct sim *m, struct sock *s); /* fd or -errno; adds a descriptor to `s` */
void sim_raise(struct sock *s, unsigned filters);

/* sim_net.c */
int64_t sim_clock(const struct sim *m);
struct sock *sim_sock_new(struct sim *m, int domain, int type);
void sim_hold(struct sock *s);
void sim_drop(struct sock *s);
/* Delivers after the latency: at once when that is zero. Takes `d` over. */
void sim_send_event(struct sim *m, enum sim_event_kind kind, struct sock *s, uint32_t n,
                    struct dgram *d);
int sim_event_at(struct sim *m, int64_t due, enum sim_event_kind kind, struct sock *s, uint32_t n,
                 struct dgram *d);
void sim_run_due(struct sim *m);
void sim_run_drop(struct sim *m); /* forgets every delivery */
void sim_close(struct sock *s);   /* the last descriptor went */
void sim_unlisten(struct sock *s);
void sim_promote(struct sock *listener); /* SYNs that found the backlog full */
bool sim_readable(const struct sock *s);
bool sim_writable(const struct sock *s);

/* sim_port.c */
int sim_bind(struct sock *s, const struct ffl_addr *a);
bool sim_port_taken(const struct sock *s, const struct ffl_addr *a, bool listening);
struct sock *sim_listener(struct sim *m, const struct ffl_addr *to);
bool sim_in(const struct ffl_addr *set, unsigned n, const struct ffl_addr *a);
struct ffl_addr sim_as(const struct ffl_addr *a, uint8_t domain); /* v4 becomes v4-mapped */
/* How well a socket bound to `local` fits a plain destination: 0 not, 1 as a wildcard,
 * 2 exactly. */
int sim_fit(const struct sock *s, const struct ffl_addr *local, const struct ffl_addr *dst);
struct sock **sim_chain(struct sim *m, uint16_t port_be); /* sockets bound to such ports */
void sim_unbind(struct sock *s);

/* sim_sock.c: the operations; sim.c finds the socket. */
int sim_do_listen(struct sock *s, int backlog);
int sim_do_accept(struct sock *s, struct ffl_addr *peer);
int sim_do_connect(struct sock *s, const struct ffl_addr *a);
int sim_do_send(struct sock *s, const struct iovec *iov, int n, const struct ffl_addr *to);
int sim_do_recv(struct sock *s, const struct iovec *iov, int n, struct ffl_addr *from, int *flags);
int sim_do_shutdown(struct sock *s, int how);

/* sim_opt.c */
int sim_opt_set(struct sock *s, int level, int name, const void *val, uint32_t len);
int sim_opt_get(struct sock *s, int level, int name, void *val, uint32_t *len);
int sim_opt_int(const struct sock *s, int level, int name);
bool sim_opt_abortive(const struct sock *s); /* SO_LINGER on, zero seconds */
int sim_opt_inherit(struct sock *to, const struct sock *from);
void sim_opt_free(struct sock *s);

/* sim_load.c */
int sim_load_option(struct sim *m, const char *key, const char *val, char *why, size_t whylen);
int sim_load_check(struct sim *m, char *why, size_t whylen);
void sim_load_listening(struct sim *m, const struct sock *s);
void sim_load_opened(struct load_conn *c, int err);
void sim_load_data(struct load_conn *c, uint32_t n);
void sim_load_window(struct load_conn *c);
void sim_load_broken(struct load_conn *c);
/* What the server sent, before sim_load_data counts it (verify). */
void sim_load_see(struct load_conn *c, const uint8_t *p, size_t n);
/* What the load's connection sends, from a position of its stream. */
void sim_load_fill(const struct load_conn *c, uint64_t pos, uint8_t *p, size_t n);
void sim_load_end(struct sim *m);
void sim_load_reopen(struct sim *m, uint32_t index);
void sim_load_free(struct sim *m);
void sim_load_describe(const struct sim *m, char *buf, size_t len);

/* "name" wants a number between lo and hi, else -EINVAL and a sentence. */
int sim_number(const char *key, const char *val, uint64_t lo, uint64_t hi, uint64_t *out, char *why,
               size_t whylen);

#endif
