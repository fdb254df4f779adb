/*
 * kqueue_loop.h - serves a listener on one kqueue, for ever.
 */
#ifndef KQUEUE_LOOP_H
#define KQUEUE_LOOP_H

#include "hello.h"

#include <ff_syscall.h>

static void watch(int kq, int fd)
{
    struct kevent change;
    EV_SET(&change, fd, EVFILT_READ, EV_ADD, 0, 0, NULL);
    if (kevent(kq, &change, 1, NULL, 0, NULL) < 0)
        die("kevent");
}

static void serve(int listener)
{
    int kq = kqueue();
    if (kq < 0)
        die("kqueue");
    watch(kq, listener);
    for (;;) {
        struct kevent ev[512];
        int n = kevent(kq, NULL, 0, ev, 512, NULL);
        if (n < 0 && errno != EINTR)
            die("kevent");
        for (int i = 0; i < n; i++) {
            int fd = (int)ev[i].ident;
            if (fd != listener)
                answer(fd); /* EV_EOF too: recv returns the end after the data */
            else            /* data: connections that wait to be accepted */
                for (int64_t k = ev[i].data; k > 0 && (fd = accept_one(listener)) >= 0; k--)
                    watch(kq, fd);
        }
    }
}

#endif
