/*
 * lab.h - an instance in the test's own process, and applications to put to it.
 *
 * Callers: most tests of this folder. Two ways to run it:
 *   stepped   the test's thread calls iterate(); with the sim's manual clock all is deterministic.
 *             The application is a `struct raw`: it writes the rings itself, so it can also lie.
 *   running   ffl_instance_run in a thread of its own, for the client library, whose calls wait.
 * Remote peers are played through the stack's own operations (`sim`) or the kernel's sockets.
 */
#ifndef FFL_TEST_LAB_H
#define FFL_TEST_LAB_H

#include "harness.h"

#include "channel.h"
#include "client.h"
#include "handshake.h"
#include "instance.h"
#include "pool.h"
#include "sim.h"
#include "spin.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>

/* ---- the instance -------------------------------------------------------------------------- */

struct lab {
    struct ffl_instance *in;
    struct ffl_instance_opts o;
    char path[64];
    pthread_t thread;
    bool running;
};

extern struct lab lab;
extern void *sim; /* the sim stack's state, when that is the stack */

/* Options in one string for the stack; lab.o may be changed before. */
void lab_defaults(const char *stack);
void lab_start(const char *options);
void lab_start_manual(const char *options); /* clock=manual and these */
void lab_run(void);          /* from now on in a thread, on the second CPU if there are two */
int lab_dial(void);          /* a connection to its unix socket, non-blocking */
unsigned lab_sessions(void); /* from any thread, as the stats page has it */
void lab_stop(void);

int64_t iterate(void);  /* one iteration, stepped */
void iterations(int n); /* several */
/* A real client beside a stepped instance: only calls that do not wait may be used then. */
struct ffl_client *lab_attach_stepped(void);
void step(int64_t ns, int n); /* n iterations, the sim's clock moving by ns before each */

/* ---- a raw application --------------------------------------------------------------------- */

struct raw {
    int sock, app_bell, inst_bell;
    struct ffl_map map;
    struct ffl_ring sq, cq, rxfree, txfree;
    struct ffl_pool tx;
    uint32_t session;
};

/* The handshake, stepped. Status of the reply (FFL_REPLY_*), or -errno. */
int raw_try(struct raw *r, const struct ffl_hello *h);
void raw_attach(struct raw *r);
void raw_attach_sized(struct raw *r, uint32_t max_sockets, uint32_t pool_kib);
bool lab_ticket(struct ffl_ticket *t); /* opens one; false: refused */
void raw_export(struct raw *r, uint32_t handle, const struct ffl_ticket *t);
void raw_gone(struct raw *r); /* closes everything, without a word */
/* The last application goes: nothing may be left of it; then the instance goes too. */
void raw_finish(struct raw *r);
bool raw_rung(int bell);       /* was the doorbell rung since the last look? */
bool raw_alive(struct raw *r); /* has the instance kept the session? */

void raw_put(struct raw *r, struct ffl_entry e); /* writes and commits; fails on a full SQ */
uint32_t raw_arg(struct raw *r, const void *data, size_t len); /* a transmit buffer with it */
void *raw_tx(struct raw *r, uint32_t buf);
const void *raw_rx(const struct raw *r, uint32_t buf);
bool raw_next(struct raw *r, struct ffl_entry *e); /* the next completion, if there is one */
void raw_give(struct raw *r, uint32_t buf);        /* a receive buffer back */
int raw_avail(struct raw *r);

/* Handle 0 of an instance on the host stack is connected to the kernel's *listener:
 * the socket that it has accepted. */
int raw_connected(struct raw *r, int *listener);
/* The next completion after as many iterations as it takes; fails if it is not `op` of `handle`. */
struct ffl_entry raw_expect(struct raw *r, enum ffl_op op, uint32_t handle);
void raw_nothing(struct raw *r); /* a few iterations bring no completion */

void raw_socket(struct raw *r, uint32_t handle, int type);
void raw_listen(struct raw *r, uint32_t handle, const char *ip, int port, uint32_t credits,
                uint8_t flags);
void raw_connect(struct raw *r, uint32_t handle, const char *ip, int port);
/* BIND or CONNECT of a socket that is open. */
void raw_at(struct raw *r, enum ffl_op op, uint32_t handle, const char *ip, int port);
void raw_send(struct raw *r, uint32_t handle, const void *data, size_t len);
void raw_op(struct raw *r, enum ffl_op op, uint32_t handle, int32_t arg, uint8_t flags);

/* Byte i of a stream that shows where a byte is missing or doubled. */
static inline uint8_t pattern(uint64_t i)
{
    return (uint8_t)(i * 167 + i / 256 * 13 + i / 65536 * 7);
}

/* ---- an honest neighbour ------------------------------------------------------------------- */

struct neighbour {
    struct raw r;
    uint32_t h;
    int peer;
    uint32_t count;
};

/* On port 80 of 10.0.0.1, on the sim; and quiet. */
void neighbour_start(struct neighbour *n);
/* A message each way, byte-exact, with nothing else in between. */
void neighbour_works(struct neighbour *n);
void neighbour_end(struct neighbour *n); /* the last session: nothing is left; and the lab's end */

/* What the instance closes on another thread is closed: so many descriptors are open. */
void lab_settled(int fds);

void quiet(void); /* each lie is logged, rightly; not a hundred thousand times here */

/* ---- remote peers over the sim ------------------------------------------------------------- */

struct ffl_addr addr4(const char *ip, int port);
int sim_listen(const char *ip, int port);
int sim_dial(const char *ip, int port);
int sim_answer(int fd); /* accepts; fails when nobody waits */
int sim_put(int fd, const void *p, size_t n);
int sim_take(int fd, void *p, size_t n);
void sim_shut(int fd); /* closes */
/* Reads what is there; checks it against the pattern from *at on. Last result of recv. */
int sim_drain(int fd, uint64_t *at);

/* A stream socket with SO_REUSEPORT as `share`, bound: 0 or -errno. */
int raw_bind(struct raw *r, uint32_t h, const char *ip, int port, bool share);
/* A stepped lab with these options, where `r` listens (handle 0) at 10.0.0.1:80. */
void raw_server(struct raw *r, const char *options, uint8_t flags);
/* An accepted connection: the application's handle, the peer's descriptor. */
uint32_t raw_accepted(struct raw *r, uint32_t listener, int port, int *peer);

#endif
