/*
 * option.h - the table of socket options: the type, rights and stacks of each.
 *
 * Callers: stack/ (the options that it takes, and how); client/, the shim and the loop (the options
 * that carry over when a socket is placed, promoted or adopted). An option without a row is
 * ENOPROTOOPT everywhere. Rights are checked by the kernel (instance/rights.c).
 */
#ifndef FFL_OPTION_H
#define FFL_OPTION_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#ifndef IP_LOCAL_PORT_RANGE
#define IP_LOCAL_PORT_RANGE 51
#endif

/* The value's type: how to read it from one socket and set it on another. */
enum ffl_option_kind {
    FFL_OPTION_INT,
    FFL_OPTION_BOOL,   /* an int; FreeBSD gives any other value than 0 for "on" */
    FFL_OPTION_HALVED, /* an int of which Linux gives back twice what was set */
    FFL_OPTION_STRUCT, /* `size` bytes at most */
    FFL_OPTION_STRING, /* the same; may be shorter, with or without a NUL */
    FFL_OPTION_PROGRAM /* a struct sock_fprog, which points to a program for classic BPF */
};

#define FFL_OPTION_GET 0x01u /* the host stack can read it */
#define FFL_OPTION_SET 0x02u /* the host stack can set it; without both: no stack has it */
/* Its value, read from one socket, can be set on another to the same effect; a stack that lacks it
 * refuses it by name. The others are state, or an act (a membership) that cannot be read back. */
#define FFL_OPTION_CARRY 0x04u
/* The option restricts which peers the socket serves or reaches, or how: never dropped in
 * silence. */
#define FFL_OPTION_RESTRICTS 0x08u
#define FFL_OPTION_ADMIN 0x10u /* setting it takes CAP_NET_ADMIN, or CAP_NET_RAW for some */
#define FFL_OPTION_CTL 0x20u   /* asks for control messages, which a datagram socket gets */
#define FFL_OPTION_STAMP 0x40u /* asks for control messages, which a stream gets, too */
/* Concerns the calls, not the connection: the application's side applies it. */
#define FFL_OPTION_LOCAL 0x80u
#define FFL_OPTION_REPORT 0x100u  /* asks for reports in the error queue */
#define FFL_OPTION_ASKS 0x200u    /* getsockopt reads the value, too: it says what is asked */
#define FFL_OPTION_JOIN 0x400u    /* a membership of a multicast group more; */
#define FFL_OPTION_LEAVE 0x800u   /* and one less: in the row after its JOIN */
#define FFL_OPTION_DETACH 0x1000u /* takes a filter off */

/* How F-Stack's value is made: FreeBSD's level and name are in the row. */
enum ffl_option_bsd {
    FFL_BSD_NONE,
    FFL_BSD_VALUE, /* the same value */
    FFL_BSD_ERRNO,
    FFL_BSD_TCP_INFO,
    FFL_BSD_SOURCE, /* struct ip_mreq_source: its fields stand in another order */
    FFL_BSD_FAMILY  /* at the level of the socket's family, IPv4 or IPv6 */
};

struct ffl_option {
    const char *text;    /* "SO_MARK" */
    int32_t level, name; /* Linux's */
    uint16_t size;       /* bytes of the value, at most */
    uint8_t kind;        /* enum ffl_option_kind */
    uint16_t flags;      /* FFL_OPTION_* */
    uint8_t bsd;         /* enum ffl_option_bsd */
    int32_t bsd_level, bsd_name;
};

const struct ffl_option *ffl_option_find(int level, int name); /* NULL: in no row */
const struct ffl_option *ffl_option_at(unsigned i);            /* NULL after the last */

struct ffl_ctl;
/* May a datagram be sent with these control messages? 0, or -EINVAL: malformed, a value that the
 * kernel refuses, or a message that is in no row. */
int ffl_ctl_check(const struct ffl_ctl *ctl);

#endif
