/* addr.c - struct ffl_addr to and from Linux's sockaddr. See stack.h. */
#include "stack.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

int ffl_addr_to_sockaddr(const struct ffl_addr *a, struct sockaddr_storage *ss, uint32_t *len)
{
    memset(ss, 0, sizeof(*ss));
    if (a->family == AF_INET) {
        struct sockaddr_in *in = (struct sockaddr_in *)ss;
        in->sin_family = AF_INET;
        in->sin_port = a->port_be;
        memcpy(&in->sin_addr, a->ip, 4);
        *len = sizeof(*in);
        return 0;
    }
    if (a->family == AF_INET6) {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ss;
        in6->sin6_family = AF_INET6;
        in6->sin6_port = a->port_be;
        in6->sin6_flowinfo = a->flowinfo;
        in6->sin6_scope_id = a->scope_id;
        memcpy(&in6->sin6_addr, a->ip, 16);
        *len = sizeof(*in6);
        return 0;
    }
    if (a->family == AF_UNSPEC) { /* dissolves a datagram socket's association */
        ss->ss_family = AF_UNSPEC;
        *len = sizeof(struct sockaddr_in);
        return 0;
    }
    return -EAFNOSUPPORT;
}

void ffl_addr_from_sockaddr(struct ffl_addr *a, const struct sockaddr_storage *ss)
{
    memset(a, 0, sizeof(*a));
    if (ss->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)ss;
        a->family = AF_INET;
        a->port_be = in->sin_port;
        memcpy(a->ip, &in->sin_addr, 4);
    } else if (ss->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)ss;
        a->family = AF_INET6;
        a->port_be = in6->sin6_port;
        a->flowinfo = in6->sin6_flowinfo;
        a->scope_id = in6->sin6_scope_id;
        memcpy(a->ip, &in6->sin6_addr, 16);
    }
}
