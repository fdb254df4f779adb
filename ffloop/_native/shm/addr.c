/* addr.c - see addr.h. */
#include "addr.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#define IN6_WITHOUT_SCOPE 24 /* bytes that the kernel accepts as an AF_INET6 address */

static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

int ffl_addr_to_sockaddr(const struct ffl_addr *a, struct sockaddr_storage *ss, uint32_t *len)
{
    memset(ss, 0, sizeof(*ss));
    ss->ss_family = a->family;
    if (a->family == AF_INET) {
        struct sockaddr_in *in = (struct sockaddr_in *)ss;
        in->sin_port = a->port_be;
        memcpy(&in->sin_addr, a->ip, 4);
        *len = sizeof(*in);
        return 0;
    }
    if (a->family == AF_INET6) {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ss;
        in6->sin6_port = a->port_be;
        in6->sin6_flowinfo = a->flowinfo;
        in6->sin6_scope_id = a->scope_id;
        memcpy(&in6->sin6_addr, a->ip, 16);
        *len = sizeof(*in6);
        return 0;
    }
    *len = sizeof(struct sockaddr_in);
    return a->family == AF_UNSPEC ? 0 : -EAFNOSUPPORT;
}

void ffl_addr_from_sockaddr(struct ffl_addr *a, const void *sa, size_t len)
{
    struct sockaddr_in6 six = {0};
    sa_family_t family = AF_UNSPEC;
    memset(a, 0, sizeof(*a));
    if (len >= sizeof(family))
        memcpy(&family, sa, sizeof(family));
    if (family == AF_INET && len >= sizeof(struct sockaddr_in)) {
        struct sockaddr_in in;
        memcpy(&in, sa, sizeof(in));
        a->family = AF_INET;
        a->port_be = in.sin_port;
        memcpy(a->ip, &in.sin_addr, 4);
    } else if (family == AF_INET6 && len >= IN6_WITHOUT_SCOPE) {
        memcpy(&six, sa, len < sizeof(six) ? IN6_WITHOUT_SCOPE : sizeof(six));
        a->family = AF_INET6;
        a->port_be = six.sin6_port;
        a->flowinfo = six.sin6_flowinfo;
        a->scope_id = six.sin6_scope_id;
        memcpy(a->ip, &six.sin6_addr, 16);
    }
}

struct ffl_addr ffl_addr_plain(const struct ffl_addr *a)
{
    if (a->family != AF_INET6 || memcmp(a->ip, mapped, sizeof(mapped)) != 0)
        return *a;
    struct ffl_addr four = {.family = AF_INET, .port_be = a->port_be};
    memcpy(four.ip, a->ip + sizeof(mapped), 4);
    return four;
}

struct ffl_addr ffl_addr_mapped(const struct ffl_addr *a)
{
    if (a->family != AF_INET)
        return *a;
    struct ffl_addr six = {.family = AF_INET6, .port_be = a->port_be};
    memcpy(six.ip, mapped, sizeof(mapped));
    memcpy(six.ip + sizeof(mapped), a->ip, 4);
    return six;
}

static size_t ip_len(const struct ffl_addr *a)
{
    return a->family == AF_INET ? 4 : 16;
}

bool ffl_addr_wildcard(const struct ffl_addr *a)
{
    static const uint8_t zero[16];
    return memcmp(a->ip, zero, ip_len(a)) == 0;
}

void ffl_addr_set_loopback(struct ffl_addr *a)
{
    static const uint8_t four[16] = {127, 0, 0, 1}, six[16] = {[15] = 1};
    memcpy(a->ip, a->family == AF_INET ? four : six, sizeof(a->ip));
}

bool ffl_addr_multicast(const struct ffl_addr *a)
{
    struct ffl_addr p = ffl_addr_plain(a);
    return p.family == AF_INET ? p.ip[0] >> 4 == 14 : p.ip[0] == 0xff;
}

bool ffl_addr_loopback(const struct ffl_addr *a)
{
    static const uint8_t six[16] = {[15] = 1};
    const struct ffl_addr p = ffl_addr_plain(a);
    return p.family == AF_INET ? p.ip[0] == 127 : memcmp(p.ip, six, sizeof(six)) == 0;
}

bool ffl_addr_same_ip(const struct ffl_addr *a, const struct ffl_addr *b)
{
    return a->family == b->family && memcmp(a->ip, b->ip, ip_len(a)) == 0;
}

bool ffl_addr_same(const struct ffl_addr *a, const struct ffl_addr *b)
{
    return ffl_addr_same_ip(a, b) && a->port_be == b->port_be && a->scope_id == b->scope_id;
}

bool ffl_addr_within(const struct ffl_addr *a, const struct ffl_addr *net, unsigned bits)
{
    unsigned rest = bits % 8;
    if (a->family != net->family || memcmp(a->ip, net->ip, bits / 8) != 0)
        return false;
    return !rest || (a->ip[bits / 8] ^ net->ip[bits / 8]) >> (8 - rest) == 0;
}

int ffl_addr_fit(const struct ffl_addr *own, bool only, const struct ffl_addr *to)
{
    const struct ffl_addr p = ffl_addr_plain(own);
    bool link = !p.scope_id || !to->scope_id || p.scope_id == to->scope_id;
    if (!ffl_addr_wildcard(&p))
        return ffl_addr_same_ip(&p, to) && link ? 2 : 0;
    if (p.family == to->family)
        return 1;
    return to->family == AF_INET && !only;
}

bool ffl_addr_overlap(const struct ffl_addr *a, bool a_only, const struct ffl_addr *b, bool b_only)
{
    const struct ffl_addr pa = ffl_addr_plain(a), pb = ffl_addr_plain(b);
    return a->port_be == b->port_be &&
           (ffl_addr_fit(a, a_only, &pb) || ffl_addr_fit(b, b_only, &pa));
}
