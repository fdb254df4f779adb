/*
 * mirror.c - loopback for programs on F-Stack, which has no way to its own addresses.
 *
 * Preloaded before the shim, for tests only. 127.0.0.1 to .4 and ::1 are the stack's addresses
 * where a program binds, and what the network mirrors to them (fstack/net.py) where it connects
 * or sends; read back, both are loopback's again. A bad pointer is left to who is called next.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define PREFIX 0x0a610000u /* 10.97.0.0; 10.97.1.0 is mirrored */
#define LAST 4
static const uint8_t stack6[] = {0xfd, 0x97, [15] = 2}, mirror6[] = {0xfd, 0x97, 0, 1, [15] = 2};

ssize_t __recvfrom_chk(int fd, void *data, size_t n, size_t size, int flags, struct sockaddr *a,
                       socklen_t *len);

#define CALLS(X)                                                                                   \
    X(bind)                                                                                        \
    X(connect)                                                                                     \
    X(sendto)                                                                                      \
    X(sendmsg)                                                                                     \
    X(sendmmsg)                                                                                    \
    X(getsockname)                                                                                 \
    X(getpeername) X(accept) X(accept4) X(recvfrom) X(__recvfrom_chk) X(recvmsg) X(recvmmsg)

#define FIELD(name) __typeof__(&name) name;
static struct {
    CALLS(FIELD)
} next;

/* Before the first call, which may be one of another library's constructor. */
__attribute__((constructor)) static void find(void)
{
#define FIND(name) next.name = (__typeof__(&name))dlsym(RTLD_NEXT, #name);
    CALLS(FIND)
}

#define NEXT(name) (next.name ? (void)0 : find(), next.name)

/* ---- addresses ------------------------------------------------------------------------------- */

/* `sent`: as a destination. */
static void there4(uint8_t *at, bool sent)
{
    uint32_t a;
    memcpy(&a, at, sizeof(a));
    a = ntohl(a);
    if (a == INADDR_ANY && sent)
        a = INADDR_LOOPBACK;
    if (a < INADDR_LOOPBACK || a >= INADDR_LOOPBACK + LAST)
        return;
    a = htonl(PREFIX + (sent ? 0x100 : 0) + 2 + (a - INADDR_LOOPBACK));
    memcpy(at, &a, sizeof(a));
}

static void back4(uint8_t *at)
{
    uint32_t a;
    memcpy(&a, at, sizeof(a));
    a = (ntohl(a) & ~0x100u) - PREFIX - 2;
    if (a >= LAST)
        return;
    a = htonl(INADDR_LOOPBACK + a);
    memcpy(at, &a, sizeof(a));
}

/* Its bytes; false: they are not there. */
static bool copied(void *to, const void *from, size_t n)
{
    struct iovec there = {(void *)from, n}, here = {to, n};
    return from && process_vm_readv(getpid(), &here, 1, &there, 1, 0) == (ssize_t)n;
}

/* The address of `len` bytes, or in its place a changed copy in `at`. */
static const struct sockaddr *there(const struct sockaddr *a, socklen_t len, bool sent,
                                    struct sockaddr_storage *at)
{
    if (len > sizeof(*at) || len < sizeof(struct sockaddr_in) || !copied(at, a, len))
        return a;
    struct in6_addr *six = &((struct sockaddr_in6 *)at)->sin6_addr;
    if (at->ss_family == AF_INET)
        there4((uint8_t *)&((struct sockaddr_in *)at)->sin_addr, sent);
    else if (at->ss_family != AF_INET6 || len < sizeof(struct sockaddr_in6))
        return a;
    else if (IN6_IS_ADDR_V4MAPPED(six))
        there4(six->s6_addr + 12, sent);
    else if (IN6_IS_ADDR_LOOPBACK(six) || (sent && IN6_IS_ADDR_UNSPECIFIED(six)))
        memcpy(six, sent ? mirror6 : stack6, sizeof(*six));
    return (struct sockaddr *)at;
}

static void back(struct sockaddr *a, socklen_t room)
{
    if (!a || room < sizeof(struct sockaddr_in))
        return;
    if (a->sa_family == AF_INET)
        back4((uint8_t *)&((struct sockaddr_in *)a)->sin_addr);
    if (a->sa_family != AF_INET6 || room < sizeof(struct sockaddr_in6))
        return;
    struct in6_addr *six = &((struct sockaddr_in6 *)a)->sin6_addr;
    if (IN6_IS_ADDR_V4MAPPED(six))
        back4(six->s6_addr + 12);
    else if (memcmp(six, stack6, sizeof(*six)) == 0 || memcmp(six, mirror6, sizeof(*six)) == 0)
        *six = in6addr_loopback;
}

/* ---- calls that take an address -------------------------------------------------------------- */

int bind(int fd, const struct sockaddr *a, socklen_t len)
{
    struct sockaddr_storage at;
    return NEXT(bind)(fd, there(a, len, false, &at), len);
}

int connect(int fd, const struct sockaddr *a, socklen_t len)
{
    struct sockaddr_storage at;
    return NEXT(connect)(fd, there(a, len, true, &at), len);
}

ssize_t sendto(int fd, const void *data, size_t n, int flags, const struct sockaddr *a,
               socklen_t len)
{
    struct sockaddr_storage at;
    return NEXT(sendto)(fd, data, n, flags, there(a, len, true, &at), len);
}

/* The message, or in its place a copy with another address. */
static const struct msghdr *message(const struct msghdr *m, struct msghdr *copy,
                                    struct sockaddr_storage *at)
{
    if (!copied(copy, m, sizeof(*m)) || !copy->msg_name)
        return m;
    if ((int)copy->msg_namelen > (int)sizeof(*at))
        copy->msg_namelen = sizeof(*at); /* as the kernel does */
    copy->msg_name = (void *)there(copy->msg_name, copy->msg_namelen, true, at);
    return copy;
}

ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
    struct msghdr copy;
    struct sockaddr_storage at;
    return NEXT(sendmsg)(fd, message(m, &copy, &at), flags);
}

int sendmmsg(int fd, struct mmsghdr *m, unsigned n, int flags)
{
    struct msghdr each;
    struct sockaddr_storage at;
    for (unsigned i = 0; i < n && copied(&each, &m[i].msg_hdr, sizeof(each)); i++)
        if (there(each.msg_name, each.msg_namelen, true, &at) == (void *)&at)
            memcpy(each.msg_name, &at, each.msg_namelen); /* the program's own, for good */
    return NEXT(sendmmsg)(fd, m, n, flags);
}

/* ---- calls that give one --------------------------------------------------------------------- */

/* `room`: of `a`, before the call. */
static socklen_t room_of(const socklen_t *len)
{
    socklen_t room = 0;
    return copied(&room, len, sizeof(room)) ? room : 0;
}

#define NAMED(call, ...)                                                                           \
    socklen_t room = room_of(len);                                                                 \
    __typeof__(call(__VA_ARGS__)) rc = NEXT(call)(__VA_ARGS__);                                    \
    if (rc >= 0 && len)                                                                            \
        back(a, room < *len ? room : *len);                                                        \
    return rc

int getsockname(int fd, struct sockaddr *a, socklen_t *len)
{
    NAMED(getsockname, fd, a, len);
}

int getpeername(int fd, struct sockaddr *a, socklen_t *len)
{
    NAMED(getpeername, fd, a, len);
}

int accept(int fd, struct sockaddr *a, socklen_t *len)
{
    NAMED(accept, fd, a, len);
}

int accept4(int fd, struct sockaddr *a, socklen_t *len, int flags)
{
    NAMED(accept4, fd, a, len, flags);
}

ssize_t recvfrom(int fd, void *data, size_t n, int flags, struct sockaddr *a, socklen_t *len)
{
    NAMED(recvfrom, fd, data, n, flags, a, len);
}

ssize_t __recvfrom_chk(int fd, void *data, size_t n, size_t size, int flags, struct sockaddr *a,
                       socklen_t *len)
{
    NAMED(__recvfrom_chk, fd, data, n, size, flags, a, len);
}

ssize_t recvmsg(int fd, struct msghdr *m, int flags)
{
    ssize_t rc = NEXT(recvmsg)(fd, m, flags);
    if (rc >= 0)
        back(m->msg_name, m->msg_namelen);
    return rc;
}

int recvmmsg(int fd, struct mmsghdr *m, unsigned n, int flags, struct timespec *limit)
{
    int rc = NEXT(recvmmsg)(fd, m, n, flags, limit);
    for (int i = 0; i < rc; i++)
        back(m[i].msg_hdr.msg_name, m[i].msg_hdr.msg_namelen);
    return rc;
}
