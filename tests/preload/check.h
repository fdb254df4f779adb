/* check.h - for C programs that end with status 0, or say what is not so. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "named.h"

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #x, strerror(errno));           \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

#define CHECK_EQ(a, b)                                                                             \
    do {                                                                                           \
        long long a_ = (long long)(a), b_ = (long long)(b);                                        \
        if (a_ != b_) {                                                                            \
            fprintf(stderr, "%s:%d: %s is %lld, not %lld (%s)\n", __FILE__, __LINE__, #a, a_, b_,  \
                    strerror(errno));                                                              \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

/* ---- sockets; `type`: SOCK_STREAM or SOCK_DGRAM, with flags -------------------------------- */

static inline struct sockaddr_in address_of(int fd)
{
    struct sockaddr_in sa;
    socklen_t len = sizeof(sa);
    CHECK(getsockname(fd, (struct sockaddr *)&sa, &len) == 0);
    return sa;
}

static inline int bound(int type)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, type, 0);
    CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0);
    return fd;
}

static inline int listening(int type)
{
    int fd = bound(type);
    CHECK(listen(fd, 64) == 0);
    return fd;
}

static inline int connect_to(struct sockaddr_in sa, int type)
{
    int fd = socket(AF_INET, type, 0);
    CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0);
    return fd;
}

static inline int accepted(int l)
{
    int fd = accept(l, NULL, NULL);
    CHECK(fd >= 0);
    return fd;
}

/* Two ends of a connection. */
static inline void pair(int type, int *a, int *b)
{
    int l = listening(type);
    *a = connect_to(address_of(l), type);
    *b = accepted(l);
    CHECK(close(l) == 0);
}
