/*
 * fstack_conf.h - the options of the F-Stack stack, and the configuration file they lead to.
 *
 * Callers: fstack.c. conf=PATH names F-Stack's own file, used unchanged; or iface=NAME and
 * addr=A.B.C.D/BITS write a small one over DPDK's net_af_packet, for machines without a NIC for
 * DPDK. Everything that can be checked before ff_init is, since ff_init exits on failure.
 */
#ifndef FFL_FSTACK_CONF_H
#define FFL_FSTACK_CONF_H

#include "stack.h"

#define FSTACK_MAX_EAL 32

struct fstack_conf {
    char path[256];     /* of the configuration file */
    char proc_type[16]; /* primary, secondary, auto */
    int proc_id;
    int nprocs;                /* lcores of the mask: one process each */
    char *eal[FSTACK_MAX_EAL]; /* extra arguments, each owned */
    int neal;
    int memfd;                /* of the written configuration, or -1 */
    char addr[64], addr6[64]; /* of the first port, for the start-up line */
    char iface[32];
};

/* 0, or -errno with a sentence for the user. */
int fstack_conf_read(struct fstack_conf *c, const struct ffl_stack_opts *opts, char *why,
                     size_t whylen);
void fstack_conf_free(struct fstack_conf *c);
void fstack_conf_describe(const struct fstack_conf *c, int cpu, char *buf, size_t len);

#endif
