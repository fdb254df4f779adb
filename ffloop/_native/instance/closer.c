/*
 * closer.c - closes descriptors that peers have sent, on a thread of its own.
 *
 * Callers: listen.c, admit.c, ticket.c, session.c. A file's last close takes as long as its sender
 * arranged: a TCP socket lingers, a huge unlinked file is freed; and a socket's close also closes
 * the descriptors in its queue. One thread per process, made when a hostile peer first causes such
 * a close. A close that waits is interrupted (interrupt.c): the file is closed all the same.
 */
#include "peers.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUSY 64 /* descriptors that wait: from this number on, no new peer is heard */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t some = PTHREAD_COND_INITIALIZER;
static int *queue; /* a stack: the order does not matter */
static unsigned n, cap;
static bool started;

static void *work(void *arg)
{
    cpu_set_t all;
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++)
        CPU_SET(cpu, &all);
    (void)sched_setaffinity(0, sizeof(all), &all); /* an lcore is the stack's alone */
    pthread_mutex_lock(&lock);
    for (;;) {
        while (n == 0)
            pthread_cond_wait(&some, &lock);
        int fd = queue[--n];
        pthread_mutex_unlock(&lock);
        interrupt_begin();
        close(fd);
        interrupt_end();
        pthread_mutex_lock(&lock);
    }
    return arg;
}

/* The process's signals are for its other threads; only SIGURG, which interrupts a close, comes
 * here. */
static bool start(void)
{
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGURG);
    if (pthread_attr_init(&attr) != 0)
        return false;
    (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    started = pthread_create(&thread, &attr, work, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return started;
}

static bool room(void)
{
    if (n < cap)
        return true;
    int *grown = realloc(queue, (cap + BUSY) * sizeof(*queue));
    if (!grown)
        return false;
    queue = grown;
    cap += BUSY;
    return true;
}

void closer_close(int fd)
{
    pthread_mutex_lock(&lock);
    bool taken = (started || start()) && room();
    if (taken)
        queue[n++] = fd;
    pthread_cond_signal(&some);
    pthread_mutex_unlock(&lock);
    if (taken)
        return;
    interrupt_begin(); /* no memory or no thread: at least the close is cut short */
    close(fd);
    interrupt_end();
}

bool closer_busy(void)
{
    pthread_mutex_lock(&lock);
    bool busy = n >= BUSY;
    pthread_mutex_unlock(&lock);
    return busy;
}

void closer_drop(int sock)
{
    char c;
    (void)shutdown(sock, SHUT_RD); /* from here on nothing comes into its queue */
    ssize_t got = recv(sock, &c, 1, MSG_PEEK | MSG_DONTWAIT);
    if (got < 0) /* a reset is told once, ahead of the queue */
        got = recv(sock, &c, 1, MSG_PEEK | MSG_DONTWAIT);
    if (got == 0)
        close(sock);
    else
        closer_close(sock);
}

int closer_recv(int sock, void *data, size_t len, int *fd)
{
    int fds[FFL_MSG_FDS], nfds = FFL_MSG_FDS;
    int got = ffl_msg_recv(sock, data, len, fds, &nfds);
    *fd = nfds == 1 && got >= 0 ? fds[0] : -1;
    if (*fd >= 0)
        return got;
    for (int i = 0; i < nfds; i++)
        closer_close(fds[i]);
    return nfds ? -EPROTO : got;
}
