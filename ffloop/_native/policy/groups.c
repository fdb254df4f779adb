/* groups.c - see groups.h. */
#include "groups.h"

#include "addr.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define SOURCES 64 /* of one group; the kernel's own limit is 10 unless it is raised */

struct ffl_groups {
    int fd;
    FILE *lists[2]; /* IPv4's, IPv6's; NULL: done, or not wanted */
    unsigned ifindex;
    bool join_due; /* `filter`'s group is to be joined; then its sources follow, from `source` on */
    unsigned source;
    union {
        struct group_filter filter;
        uint8_t room[GROUP_FILTER_SIZE(SOURCES)];
    };
};

struct ffl_groups *ffl_groups_open(int fd)
{
    struct ffl_groups *g = calloc(1, sizeof(*g));
    int domain = 0;
    socklen_t len = sizeof(domain);
    if (!g)
        return NULL;
    g->fd = fd;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0) {
        g->lists[0] = fopen("/proc/net/igmp", "re");
        g->lists[1] = domain == AF_INET6 ? fopen("/proc/net/igmp6", "re") : NULL;
    }
    return g;
}

void ffl_groups_close(struct ffl_groups *g)
{
    for (int i = 0; g && i < 2; i++)
        if (g->lists[i])
            fclose(g->lists[i]);
    free(g);
}

/* A line of /proc/net/igmp: an interface ("1 lo : ..."), or a group of it ("<tab>010000E0 ..."). */
static bool parse4(struct ffl_groups *g, const char *line, struct ffl_addr *group)
{
    unsigned ip;
    if (line[0] != '\t') {
        (void)sscanf(line, "%u", &g->ifindex); /* the title line has none */
        return false;
    }
    if (sscanf(line, " %8x", &ip) != 1)
        return false;
    *group = (struct ffl_addr){.family = AF_INET};
    memcpy(group->ip, &ip, sizeof(ip));
    return true;
}

/* A line of /proc/net/igmp6: "1 lo ff020000000000000000000000000001 ...". */
static bool parse6(struct ffl_groups *g, const char *line, struct ffl_addr *group)
{
    char hex[33];
    *group = (struct ffl_addr){.family = AF_INET6};
    if (sscanf(line, "%u %*s %32s", &g->ifindex, hex) != 2)
        return false;
    for (int i = 0; i < 16; i++)
        if (sscanf(hex + 2 * i, "%2hhx", &group->ip[i]) != 1)
            return false;
    return true;
}

static int level_of(const struct ffl_groups *g)
{
    return g->filter.gf_group.ss_family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP;
}

/* Is the socket in the group? Then g->filter has the group's sources. */
static bool ask(struct ffl_groups *g, const struct ffl_addr *group)
{
    socklen_t len = sizeof(g->room);
    uint32_t n;
    memset(g->room, 0, sizeof(g->room));
    g->filter.gf_interface = g->ifindex;
    g->filter.gf_numsrc = SOURCES;
    if (ffl_addr_to_sockaddr(group, &g->filter.gf_group, &n) < 0 ||
        getsockopt(g->fd, level_of(g), MCAST_MSFILTER, g->room, &len) < 0)
        return false;
    if (g->filter.gf_numsrc > SOURCES)
        g->filter.gf_numsrc = SOURCES;
    g->join_due = g->filter.gf_fmode == MCAST_EXCLUDE;
    g->source = 0;
    return true;
}

static bool next_group(struct ffl_groups *g)
{
    char line[256];
    struct ffl_addr group;
    for (int i = 0; i < 2; i++) {
        while (g->lists[i] && fgets(line, sizeof(line), g->lists[i]))
            if ((i ? parse6 : parse4)(g, line, &group) && ask(g, &group))
                return true;
        if (g->lists[i])
            fclose(g->lists[i]);
        g->lists[i] = NULL;
    }
    return false;
}

static void put(struct ffl_optarg *out, int level, int name, const void *val, size_t len)
{
    *out = (struct ffl_optarg){.level = level, .name = name, .len = (uint32_t)len};
    memcpy(out->data, val, len);
}

static void put_group(const struct ffl_groups *g, bool apart, struct ffl_optarg *out)
{
    struct group_req here;
    struct ip_mreq there = {.imr_interface.s_addr = INADDR_ANY};
    struct ipv6_mreq there6 = {.ipv6mr_interface = 0};
    memset(&here, 0, sizeof(here)); /* the padding too */
    here.gr_interface = g->ifindex;
    here.gr_group = g->filter.gf_group;
    if (!apart) {
        put(out, level_of(g), MCAST_JOIN_GROUP, &here, sizeof(here));
    } else if (level_of(g) == IPPROTO_IP) {
        there.imr_multiaddr = ((const struct sockaddr_in *)&here.gr_group)->sin_addr;
        put(out, IPPROTO_IP, IP_ADD_MEMBERSHIP, &there, sizeof(there));
    } else {
        there6.ipv6mr_multiaddr = ((const struct sockaddr_in6 *)&here.gr_group)->sin6_addr;
        put(out, IPPROTO_IPV6, IPV6_JOIN_GROUP, &there6, sizeof(there6));
    }
}

/* A source to let in or keep out; on the default interface where the stack is apart. */
static void put_source(const struct ffl_groups *g, bool apart, unsigned i, struct ffl_optarg *out)
{
    bool in = g->filter.gf_fmode == MCAST_INCLUDE;
    struct group_source_req r;
    memset(&r, 0, sizeof(r)); /* the padding too */
    r.gsr_interface = apart ? 0 : g->ifindex;
    r.gsr_group = g->filter.gf_group;
    r.gsr_source = g->filter.gf_slist[i];
    put(out, level_of(g), in ? MCAST_JOIN_SOURCE_GROUP : MCAST_BLOCK_SOURCE, &r, sizeof(r));
}

bool ffl_groups_next(struct ffl_groups *g, bool apart, struct ffl_optarg *out)
{
    while (!g->join_due && g->source == g->filter.gf_numsrc)
        if (!next_group(g))
            return false;
    if (g->join_due)
        put_group(g, apart, out);
    else
        put_source(g, apart, g->source++, out);
    g->join_due = false;
    return true;
}
