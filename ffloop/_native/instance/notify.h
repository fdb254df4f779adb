/*
 * notify.h - what a service manager hears: sd_notify's protocol, without its library.
 *
 * Callers: main.c opens, main.c and drain.c send. One process, one thread. Without NOTIFY_SOCKET,
 * or before ffl_notify_open, nothing is sent.
 */
#ifndef FFL_NOTIFY_H
#define FFL_NOTIFY_H

/* Takes NOTIFY_SOCKET (a path or "@name") out of the environment. 0, or -errno: it cannot be used. */
int ffl_notify_open(void);
void ffl_notify_close(void);

/* One datagram of NAME=value lines. What cannot be delivered is logged; nothing waits for it. */
void ffl_notify(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
