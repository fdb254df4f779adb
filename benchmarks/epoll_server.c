/*
 * epoll_server.c - answers each read with 602 bytes and keeps the connection; for preload.py.
 *
 * Built once and run under both libraries, so it makes only calls that F-Stack's own adapter
 * intercepts: ioctl's FIONBIO, accept, epoll_create after the first socket, epoll_wait with a
 * time-out.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PAGE = 602 };
static char page[PAGE + 1];

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void watch(int ep, int fd)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) < 0)
        die("epoll_ctl");
}

static void answer(int fd)
{
    char request[1024];
    ssize_t n = read(fd, request, sizeof(request));
    if (n <= 0 || write(fd, page, PAGE) != PAGE)
        close(fd);
}

int main(int argc, char **argv)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)(argc > 1 ? atoi(argv[1]) : 8080))};
    struct epoll_event ev[512];
    int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    int n = snprintf(page, sizeof(page), "HTTP/1.1 200 OK\r\nContent-Length: 562\r\n\r\n");
    memset(page + n, 'x', (size_t)(PAGE - n));
    if (listener < 0 || ioctl(listener, FIONBIO, &on) < 0)
        die("socket");
    if (bind(listener, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(listener, 512) < 0)
        die("listen");
    int ep = epoll_create(512);
    if (ep < 0)
        die("epoll_create");
    watch(ep, listener);
    for (;;) {
        n = epoll_wait(ep, ev, 512, 100);
        if (n < 0 && errno != EINTR) /* EINTR: SIGSTOP and SIGCONT */
            die("epoll_wait");
        for (int i = 0, fd; i < n; i++)
            if (ev[i].data.fd != listener)
                answer(ev[i].data.fd);
            else
                while ((fd = accept(listener, NULL, NULL)) >= 0)
                    watch(ep, fd);
    }
}
