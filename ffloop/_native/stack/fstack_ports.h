/*
 * fstack_ports.h - the table of listeners, by which bind and listen on F-Stack refuse what Linux
 * refuses.
 *
 * Callers: fstack.c. With SO_REUSEADDR, which every server sets, FreeBSD lets one socket listen on
 * an address and another on the wildcard at the same port, so that one application could take
 * another's connections. Linux does so only where both set SO_REUSEPORT ("shared" here).
 */
#ifndef FFL_FSTACK_PORTS_H
#define FFL_FSTACK_PORTS_H

#include "stack.h"

struct fstack_ports {
    struct fstack_listener {
        int fd;
        bool shared;
        bool v6only;
        bool late; /* neither listening nor bound yet: fstack.c, bind_late */
        struct ffl_addr a;
    } *v;
    int n, cap;
};

/* Does another socket listen at an address that conflicts with this one's? */
bool fstack_ports_taken(const struct fstack_ports *p, const struct fstack_listener *l);
/* Does a shared socket listen at this very address? */
bool fstack_ports_beside(const struct fstack_ports *p, const struct ffl_addr *a);
/* The address that `fd` is to be bound to, or NULL. */
const struct ffl_addr *fstack_ports_late(const struct fstack_ports *p, int fd);
int fstack_ports_add(struct fstack_ports *p, const struct fstack_listener *l);
int fstack_ports_dup(struct fstack_ports *p, int fd, int copy); /* 0 if fd does not listen */
void fstack_ports_remove(struct fstack_ports *p, int fd);

#endif
