/*
 * cases.h - what the C programs of the differential tests share; see test_calls.py.
 *
 * `PROGRAM CASE` runs one case, natively or under the shim, and prints what it saw.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "named.h"

extern char **environ;
static int listener = -1, client = -1, server = -1;
static char buffer[64];

/* ---- what was seen ------------------------------------------------------------------------- */

static inline void saw(const char *what, long rc)
{
    printf("%s %s\n", what, rc < 0 ? strerrorname_np(errno) : "");
    if (rc >= 0)
        printf("  %ld\n", rc);
    fflush(stdout);
}

static inline void need(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

#define NEED(x) need(x, #x)

static inline struct sockaddr_in anywhere(void)
{
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static inline struct sockaddr_in where(int fd)
{
    struct sockaddr_in a;
    socklen_t len = sizeof(a);
    NEED(getsockname(fd, (struct sockaddr *)&a, &len) == 0);
    return a;
}

static inline void listens(void)
{
    struct sockaddr_in a = anywhere();
    listener = socket(AF_INET, SOCK_STREAM, 0);
    NEED(bind(listener, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(listener, 8) == 0);
}

static inline int connects(void)
{
    struct sockaddr_in a = where(listener);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    NEED(connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
    return fd;
}

static inline void connected(void)
{
    listens();
    client = connects();
    server = accept(listener, NULL, NULL);
    NEED(server >= 0);
}

static inline void until_queued(int bytes) /* at `server` */
{
    struct pollfd p = {.fd = server, .events = POLLIN};
    int queued = 0;
    while (queued < bytes) {
        NEED(poll(&p, 1, 60000) == 1);
        NEED(ioctl(server, FIONREAD, &queued) == 0);
    }
}

static inline void arrives(const char *text) /* at `server` */
{
    NEED(write(client, text, strlen(text)) == (ssize_t)strlen(text));
    until_queued((int)strlen(text));
}

/* What `fd` gives until its end, or until `want` bytes are there. */
static inline void heard(int fd, size_t want)
{
    size_t n = 0;
    ssize_t k;
    while (n < want && (k = recv(fd, buffer + n, want - n, 0)) > 0)
        n += (size_t)k;
    printf("heard %.*s\n", (int)n, buffer);
}

/* A message with one descriptor. */
static inline struct msghdr *with_fd(int fd)
{
    static char room[CMSG_SPACE(sizeof(int))];
    static struct iovec v = {buffer, 1};
    static struct msghdr m;
    m = (struct msghdr){
        .msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
    *CMSG_FIRSTHDR(&m) = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), &fd, sizeof(int));
    return &m;
}

static inline void ends(pid_t pid)
{
    int status;
    NEED(waitpid(pid, &status, 0) == pid);
    if (WIFSIGNALED(status))
        printf("signal %d\n", WTERMSIG(status));
    else
        printf("status %d\n", WEXITSTATUS(status));
}

/* A child makes something of a socket, and goes. */
static inline void by_a_child(int fd, void (*make)(int fd))
{
    pid_t pid = fork();
    if (pid == 0) {
        make(fd);
        _exit(0);
    }
    ends(pid);
}

static volatile sig_atomic_t signals;

static inline void count(int number)
{
    (void)number;
    signals = signals + 1;
}

/* SIGUSR1 is blocked and pending; `open` lets it through. */
static inline void pending(sigset_t *open)
{
    struct sigaction on = {.sa_handler = count, .sa_flags = SA_RESTART};
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    NEED(sigaction(SIGUSR1, &on, NULL) == 0 && sigprocmask(SIG_BLOCK, &blocked, open) == 0);
    sigdelset(open, SIGUSR1);
    NEED(raise(SIGUSR1) == 0);
}

static inline struct timespec soon(long ms)
{
    return (struct timespec){ms / 1000, ms % 1000 * 1000000};
}

static struct timespec began;

static inline void begins(void)
{
    clock_gettime(CLOCK_MONOTONIC, &began);
}

static inline bool lasted(long ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (t.tv_sec - began.tv_sec) * 1000 + (t.tv_nsec - began.tv_nsec) / 1000000 >= ms;
}

static inline int some_file(void)
{
    FILE *f = tmpfile();
    NEED(f != NULL);
    int fd = fileno(f);
    NEED(pwrite(fd, "0123456789", 10, 0) == 10);
    return fd;
}

static inline int run_case(int argc, char **argv)
{
    alarm(120);
    setenv("FROM", "the parent", 1);
    return run_named(argc, argv);
}
