/*
 * app.h - an application over the client library, beside an instance that runs (lab_run) or is
 * another process.
 *
 * Callers: faults.c, heavy.c, handed.c. Its peers are the kernel's sockets. Nothing here waits
 * longer than a minute.
 */
#ifndef FFL_TEST_APP_H
#define FFL_TEST_APP_H

#include "lab.h"

void host_lab(void); /* an instance with the host stack and large pools, running */

struct ffl_client *attach(void); /* to lab.path */
/* A listener at *a, which becomes its address; shared: with SO_REUSEPORT. Its handle. */
int listen_on(struct ffl_client *c, struct ffl_addr *a, int window, bool shared);
int kernel_dial(const struct ffl_addr *a); /* a peer: a socket of the kernel's, connected */

/* Waits for an event of this kind and handle (or any handle: -1). Other events that came with it
 * are kept for later calls, but their data is not for use. */
struct ffl_event await(struct ffl_client *c, enum ffl_event_kind kind, int h);
void await_forget(void); /* the kept events */

/* Until the instance has let go of all but so many sessions and sockets. */
void settled(unsigned sessions, unsigned sockets);

#endif
