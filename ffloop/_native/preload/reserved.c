/*
 * reserved.c - bindresvport(3): a port that takes root, 512 to 1023.
 *
 * Callers: the program (rsh's and NFS's kin). The C library's function makes bind's system call
 * itself, and so would name the placeholder alone.
 */
#include "preload.h"

#include <netinet/in.h>
#include <unistd.h>

enum { LOW = 512, FIRST = 600, END = 1024 };

API int bindresvport(int fd, struct sockaddr_in *at)
{
    real_start();
    if (!maybe_ours(fd))
        return real.bindresvport(fd, at);
    struct sockaddr_in any = {.sin_family = AF_INET};
    struct sockaddr_in *a = at ? at : &any;
    if (a->sin_family != AF_INET) {
        errno = EAFNOSUPPORT;
        return -1;
    }
    static _Atomic int next; /* as the C library: on from the last; 0: not all from one */
    int start = (next ? next : FIRST + getpid() % (END - FIRST)) - LOW, rc = -1;
    errno = EADDRINUSE;
    for (int i = 0; i < END - LOW && rc < 0 && errno == EADDRINUSE; i++) {
        a->sin_port = htons((uint16_t)(LOW + (start + i) % (END - LOW)));
        rc = bind(fd, (const struct sockaddr *)a, sizeof(*a));
    }
    if (rc == 0)
        next = ntohs(a->sin_port) + 1;
    return rc;
}
