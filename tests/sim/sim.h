/*
 * sim.h - what a test may do with a sim stack beyond the seam: move its clock, count what it holds.
 *
 * Callers: tests/native, benchmarks. `st` is the state that ffl_sim_ops.start made. A test that
 * shares the stack with an instance in its own process plays the remote peer through ffl_sim_ops:
 * sockets that nobody watches give no events and are simply called.
 */
#ifndef FFL_SIM_H
#define FFL_SIM_H

#include "stack.h"

extern const struct ffl_stack_ops ffl_sim_ops;

/* The stack's time, ns. With clock=manual it starts at one second and moves only here. */
int64_t ffl_sim_now(const void *st);

/* Moves a manual clock forward and delivers, in order of time, what falls due. */
void ffl_sim_advance(void *st, int64_t ns);

struct ffl_sim_counts {
    uint32_t fds;     /* descriptors open */
    uint32_t sockets; /* sockets in memory: open, in flight, or a closed one's peer */
    uint32_t events;  /* deliveries under way */
    uint64_t sends, recvs, accepts, resets;
};
void ffl_sim_count(const void *st, struct ffl_sim_counts *out);

/* What the load source has seen so far; all zero without load=. */
struct ffl_sim_load_counts {
    uint64_t requests, bytes_in, bytes_out;
    uint64_t mismatches; /* verify=1: bytes that were not the echo */
    uint64_t surplus;    /* bytes beyond a response */
    uint64_t broken;     /* connections that ended or were refused while the load ran */
    uint32_t open;       /* connections open */
    bool started, finished;
};
void ffl_sim_load_count(const void *st, struct ffl_sim_load_counts *out);

#endif
