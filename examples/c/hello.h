/*
 * hello.h - what the five servers share: a page, a listener, an accepted connection, an answer.
 *
 * Ordinary socket calls, as for the kernel. A request is one read, as curl's and wrk's are.
 */
#ifndef HELLO_H
#define HELLO_H

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define BODY "<!doctype html><title>ffloop</title>Hello, world.\n"
_Static_assert(sizeof(BODY) - 1 == 50, "Content-Length");
static const char page[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 50\r\n\r\n" BODY;

static inline void die(const char *what)
{
    perror(what);
    exit(1);
}

/* A non-blocking listener; `flags` are added to the socket's type. Port 0: a free port. */
static inline int listen_at(uint32_t address, int port, int flags)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(address)};
    int yes = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | flags, 0);
    if (fd < 0)
        die("socket");
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &yes, sizeof(yes)) < 0)
        die("setsockopt");
    if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
        die("bind");
    if (listen(fd, 1024) < 0)
        die("listen");
    return fd;
}

static inline int port_of(int fd)
{
    struct sockaddr_in a;
    socklen_t len = sizeof(a);
    if (getsockname(fd, (struct sockaddr *)&a, &len) < 0)
        die("getsockname");
    return ntohs(a.sin_port);
}

static inline void say_port(int port)
{
    printf("port %d\n", port);
    fflush(stdout);
}

/* The next connection, non-blocking; -1 where there is none. */
static inline int accept_one(int listener)
{
    int yes = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    if (fd >= 0)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes)); /* optional */
    else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
        perror("accept4");
    return fd;
}

/* Answers a request, or closes a connection that has ended. */
static inline void answer(int fd)
{
    char request[4096];
    ssize_t n = recv(fd, request, sizeof(request), 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0 || send(fd, page, sizeof(page) - 1, MSG_NOSIGNAL) < (ssize_t)sizeof(page) - 1)
        close(fd); /* the end, a reset, or a peer that does not read */
}

#endif
