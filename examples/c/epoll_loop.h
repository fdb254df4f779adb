/*
 * epoll_loop.h - serves listeners on one epoll, for ever.
 */
#ifndef EPOLL_LOOP_H
#define EPOLL_LOOP_H

#include "hello.h"

#include <sys/epoll.h>

static void watch(int ep, int fd, bool listens)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = (uint64_t)listens << 32 | (uint32_t)fd};
    if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) < 0)
        die("epoll_ctl");
}

static void serve(const int *listeners, int n)
{
    int ep = epoll_create1(0);
    if (ep < 0)
        die("epoll_create1");
    for (int i = 0; i < n; i++)
        watch(ep, listeners[i], true);
    for (;;) {
        struct epoll_event ev[512];
        n = epoll_wait(ep, ev, 512, -1);
        if (n < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < n; i++) {
            int fd = (int)ev[i].data.u64, accepted;
            if (ev[i].data.u64 >> 32)
                while ((accepted = accept_one(fd)) >= 0)
                    watch(ep, accepted, false);
            else
                answer(fd);
        }
    }
}

#endif
