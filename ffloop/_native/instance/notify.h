/*
 * notify.h - messages to a service manager: sd_notify's protocol, without its library.
 *
 * Callers: main.c opens, main.c and drain.c send. One process, one thread. Without NOTIFY_SOCKET,
 * or before notify_open, nothing is sent.
 */
#ifndef FFL_NOTIFY_H
#define FFL_NOTIFY_H

/* Takes NOTIFY_SOCKET (a path or "@name") out of the environment. 0, or -errno: it is unusable. */
int notify_open(void);
void notify_close(void);

/* Sends one datagram of NAME=value lines. Never waits; a failure is logged. */
void notify_send(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
