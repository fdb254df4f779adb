/*
 * points.h - fault points: named places at which a test makes something fail.
 *
 * Callers: exhaust.c. The points are calls that cross a border (memory, descriptors, mappings, the
 * pools, the doorbells, the stack), replaced when the test is linked (--wrap, CMakeLists.txt): the
 * product has no trace of them. One plan at a time: at point `p`, let `skip` crossings pass, then
 * fail `times`. Where: on one thread, or, with `iterations`, in an instance's stepped iterations.
 */
#ifndef FFL_TEST_POINTS_H
#define FFL_TEST_POINTS_H

#include "lab.h"

enum point {
    POINT_MEMORY,      /* malloc, calloc, realloc: NULL */
    POINT_DESCRIPTOR,  /* EMFILE: socket, socketpair, accept4, eventfd, epoll_create1... */
    POINT_MAPPING,     /* mmap: ENOMEM; epoll_ctl that adds: ENOSPC */
    POINT_POOL,        /* no buffer of a shared pool is free */
    POINT_BELL,        /* a doorbell is rung, and nobody hears it */
    POINT_SHORT_READ,  /* half of a message of the handshake comes */
    POINT_SHORT_WRITE, /* half of it goes */
    POINT_INTERRUPT,   /* the stack's accept, recv and send: EINTR */
    POINT_DEATH,       /* the process is killed, at a crossing of any of the others */
    POINTS
};

extern const char *const point_names[POINTS];

struct plan {
    enum point p;
    unsigned skip, times;
    pthread_t who; /* with `iterations`: not looked at */
    bool iterations;
};

void points_arm(const struct plan *plan);
unsigned points_end(void); /* disarms: how many failed */

/* The stack, with POINT_INTERRUPT. */
const struct ffl_stack_ops *points_stack(const struct ffl_stack_ops *of);

#endif
