/*
 * stats.h - the instance's stats page: a memfd of one page, written by the instance only, read by
 * anyone who got it through FFL_HELLO_STATS or from /proc/PID/fd. Relaxed counters.
 */
#ifndef FFL_STATS_H
#define FFL_STATS_H

#include "layout.h"

#define FFL_STATS_MAGIC 0x74617453534c4646ULL /* "FFLSStat" */

struct ffl_instance_page {
    uint64_t magic;
    uint32_t version;
    int32_t pid;
    int64_t start_realtime; /* seconds since the epoch */
    char stack[16];
    _Atomic uint32_t sessions; /* attached now */
    _Atomic uint32_t dying;    /* gone, still sending what they had submitted */
    _Atomic uint32_t sockets;  /* stack sockets open */
    _Atomic uint32_t pending;  /* connections to the unix socket without a hello yet */
    _Atomic uint64_t sessions_total, sessions_refused, sessions_killed;
    _Atomic uint64_t accepts, turns, sleeps;
};
_Static_assert(sizeof(struct ffl_instance_page) <= 4096, "one page");

#endif
