/*
 * small.c - every call on a thread with the smallest stack there is; see test_contract.py.
 *
 * How much of it a call takes is seen by a pattern: 4 KiB at most.
 */
#include "cases.h"

#include <pthread.h>

enum {
    STACK = 16384,
    MAY = 4096 + 2048
}; /* bytes; what binds a name at its first call takes some */

static unsigned char area[4 * STACK] __attribute__((aligned(4096)));
static void (*call)(void);

static void *runs(void *unused)
{
    (void)unused;
    call();
    return NULL;
}

static void nothing(void)
{
}

/* Bytes of the stack that a thread has touched. */
static size_t touched(void (*what)(void))
{
    pthread_attr_t attr;
    pthread_t thread;
    memset(area, 0x5a, sizeof(area));
    call = what;
    NEED(pthread_attr_init(&attr) == 0);
    NEED(pthread_attr_setstack(&attr, area + sizeof(area) - STACK, STACK) == 0);
    NEED(pthread_create(&thread, &attr, runs, NULL) == 0 && pthread_join(thread, NULL) == 0);
    size_t i = 0;
    while (i < sizeof(area) && area[i] == 0x5a)
        i++;
    return sizeof(area) - i;
}

static void takes(void (*what)(void))
{
    size_t least = touched(nothing), more = touched(what);
    if (more > least + MAY || more > STACK)
        printf("%zu bytes more than nothing\n", more - least);
}

static void talk(void)
{
    NEED(write(client, "hello", 5) == 5 && read(server, buffer, 5) == 5);
    NEED(send(client, "hello", 5, 0) == 5 && recv(server, buffer, 5, MSG_PEEK) == 5);
    struct iovec v = {buffer, 5};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    NEED(recvmsg(server, &m, 0) == 5 && sendmsg(server, &m, 0) == 5);
    NEED(recv(client, buffer, 5, MSG_WAITALL) == 5);
}

static void wait_for(void)
{
    struct pollfd p = {.fd = server, .events = POLLOUT};
    struct timeval zero = {0, 0};
    fd_set set;
    FD_ZERO(&set);
    FD_SET(server, &set);
    NEED(poll(&p, 1, 100) == 1 && select(server + 1, NULL, &set, NULL, &zero) == 1);
    p.events = POLLIN;
    NEED(poll(&p, 1, 10) == 0);
    int ep = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLOUT};
    NEED(epoll_ctl(ep, EPOLL_CTL_ADD, server, &ev) == 0 && epoll_wait(ep, &ev, 1, 100) == 1);
    close(ep);
}

static int file, tube[2];

static void copy(void)
{
    off_t at = 0;
    NEED(sendfile(client, file, &at, 10) == 10 && read(server, buffer, 10) == 10);
    NEED(write(client, "hello", 5) == 5 && splice(server, NULL, tube[1], NULL, 5, 0) == 5);
    NEED(splice(tube[0], NULL, client, NULL, 5, 0) == 5 && read(server, buffer, 5) == 5);
}

static void live(void)
{
    struct sockaddr_in a = where(listener);
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    socklen_t len = sizeof(on);
    NEED(connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
    int other = accept(listener, NULL, NULL), copied = dup(other);
    NEED(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on)) == 0);
    NEED(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, &len) == 0);
    NEED(shutdown(fd, SHUT_WR) == 0 && read(other, buffer, 1) == 0);
    NEED(close(fd) == 0 && close(other) == 0 && close(copied) == 0);
}

static void fill(void)
{
    static char many[64][16384];
    struct iovec v[64];
    for (int i = 0; i < 64; i++)
        v[i] = (struct iovec){many[i], sizeof(many[i])};
    NEED(fcntl(client, F_SETFL, O_NONBLOCK) == 0);
    while (writev(client, v, 64) > 0)
        ;
    NEED(errno == EAGAIN);
}

CASE(talks)
{
    connected();
    takes(talk);
}

CASE(waits)
{
    connected();
    takes(wait_for);
}

CASE(copies)
{
    connected();
    file = some_file();
    NEED(pipe(tube) == 0);
    takes(copy);
}

CASE(lives)
{
    connected();
    takes(live);
}

CASE(fills)
{
    connected();
    takes(fill);
}

int main(int argc, char **argv)
{
    return run_case(argc, argv);
}
