/* option.c - the one table of socket options. See option.h. */
#include "option.h"

#include "base.h"
#include "layout.h"

#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <netinet/udp.h>
#include <sys/socket.h>

/* Names that an older C library lacks. */
#ifndef SO_TIMESTAMP_NEW
#define SO_TIMESTAMP_NEW 63
#define SO_TIMESTAMPNS_NEW 64
#define SO_TIMESTAMPING_NEW 65
#define SO_RCVTIMEO_NEW 66
#define SO_SNDTIMEO_NEW 67
#endif
#ifndef SO_DETACH_REUSEPORT_BPF
#define SO_DETACH_REUSEPORT_BPF 68
#endif
#ifndef SO_PREFER_BUSY_POLL
#define SO_PREFER_BUSY_POLL 69
#define SO_BUSY_POLL_BUDGET 70
#endif
#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#define SO_BUF_LOCK 72
#endif
#ifndef SO_RESERVE_MEM
#define SO_RESERVE_MEM 73
#define SO_TXREHASH 74
#define SO_RCVMARK 75
#endif
#ifndef IPV6_ROUTER_ALERT_ISOLATE
#define IPV6_ROUTER_ALERT_ISOLATE 30
#endif
#ifndef SO_RCVPRIORITY
#define SO_RCVPRIORITY 82
#endif
#ifndef TCP_IS_MPTCP
#define TCP_IS_MPTCP 43
#define TCP_RTO_MAX_MS 44
#define TCP_RTO_MIN_US 45
#define TCP_DELACK_MAX_US 46
#endif
#ifndef UDP_NO_CHECK6_TX
#define UDP_NO_CHECK6_TX 101
#define UDP_NO_CHECK6_RX 102
#endif
#ifndef IP_NODEFRAG
#define IP_NODEFRAG 22
#endif
#ifndef IP_RECVERR_RFC4884
#define IP_RECVERR_RFC4884 26
#endif
#ifndef IP_PROTOCOL
#define IP_PROTOCOL 52
#endif
#ifndef IPV6_RECVERR_RFC4884
#define IPV6_RECVERR_RFC4884 31
#endif
#ifndef IPV6_FREEBIND
#define IPV6_FREEBIND 78
#endif
/* Names that are the kernel's alone. */
#define SO_ORIGINAL_DST 80
#define IP6T_SO_ORIGINAL_DST 80
#define IPV6_2292PKTINFO 2
#define IPV6_2292HOPOPTS 3
#define IPV6_2292DSTOPTS 4
#define IPV6_2292RTHDR 5
#define IPV6_2292PKTOPTIONS 6
#define IPV6_2292HOPLIMIT 8
#define IPV6_FLOWINFO 11
#define IPV6_FLOWLABEL_MGR 32
#define IPV6_FLOWINFO_SEND 33

/* FreeBSD's numbers. Levels are Linux's but for the socket's own. */
#define BSD_SOL 0xffff

#define R FFL_OPTION_GET
#define W FFL_OPTION_SET
#define RW (FFL_OPTION_GET | FFL_OPTION_SET | FFL_OPTION_CARRY) /* a setting */
#define DOES (FFL_OPTION_GET | FFL_OPTION_SET)                  /* settable, and not one to carry */
#define NARROW FFL_OPTION_RESTRICTS
#define ADMIN FFL_OPTION_ADMIN
#define CTL (RW | FFL_OPTION_CTL)
#define ASKS FFL_OPTION_ASKS
#define JOIN (FFL_OPTION_SET | FFL_OPTION_JOIN)
#define LEAVE (FFL_OPTION_SET | FFL_OPTION_LEAVE)
#define STAMP (CTL | FFL_OPTION_STAMP)
#define REPORT (RW | FFL_OPTION_REPORT)

#define INT FFL_OPTION_INT, 4
#define BOOL FFL_OPTION_BOOL, 4
#define HALVED FFL_OPTION_HALVED, 4
#define STRUCT(n) FFL_OPTION_STRUCT, n
#define STRING(n) FFL_OPTION_STRING, n
#define PROGRAM FFL_OPTION_PROGRAM, sizeof(struct sock_fprog)

#define NO FFL_BSD_NONE, 0, 0
#define BSD(level, name) FFL_BSD_VALUE, level, name

#define OPT(...) OPT_(__VA_ARGS__) /* expanded twice: INT and the like become two arguments */
#define OPT_(level_, name_, text_, flags_, kind_, size_, bsd_, bsd_level_, bsd_name_)              \
    {.text = text_,                                                                                \
     .level = level_,                                                                              \
     .name = name_,                                                                                \
     .size = size_,                                                                                \
     .kind = kind_,                                                                                \
     .flags = flags_,                                                                              \
     .bsd = bsd_,                                                                                  \
     .bsd_level = bsd_level_,                                                                      \
     .bsd_name = bsd_name_}

#define SOCK(name, ...) OPT(SOL_SOCKET, name, #name, __VA_ARGS__)
#define TCP(name, ...) OPT(IPPROTO_TCP, name, #name, __VA_ARGS__)
#define UDP(name, ...) OPT(IPPROTO_UDP, name, #name, __VA_ARGS__)
#define IP(name, ...) OPT(IPPROTO_IP, name, #name, __VA_ARGS__)
#define IP6(name, ...) OPT(IPPROTO_IPV6, name, #name, __VA_ARGS__)

/* clang-format off */
static const struct ffl_option table[] = {
    SOCK(SO_REUSEADDR, RW, BOOL, BSD(BSD_SOL, 0x4)),
    /* FreeBSD's SO_REUSEPORT alone gives the last listener everything: this is SO_REUSEPORT_LB */
    SOCK(SO_REUSEPORT, RW, BOOL, BSD(BSD_SOL, 0x10000)),
    SOCK(SO_KEEPALIVE, RW, BOOL, BSD(BSD_SOL, 0x8)),
    SOCK(SO_BROADCAST, RW, BOOL, BSD(BSD_SOL, 0x20)),
    SOCK(SO_OOBINLINE, RW, BOOL, BSD(BSD_SOL, 0x100)),
    SOCK(SO_DONTROUTE, RW | NARROW, BOOL, BSD(BSD_SOL, 0x10)),
    SOCK(SO_SNDBUF, RW, HALVED, BSD(BSD_SOL, 0x1001)),
    SOCK(SO_RCVBUF, RW, HALVED, BSD(BSD_SOL, 0x1002)),
    SOCK(SO_SNDBUFFORCE, W | ADMIN, INT, NO),
    SOCK(SO_RCVBUFFORCE, W | ADMIN, INT, NO),
    SOCK(SO_SNDLOWAT, R, INT, BSD(BSD_SOL, 0x1003)),
    SOCK(SO_RCVLOWAT, RW, INT, BSD(BSD_SOL, 0x1004)),
    SOCK(SO_RCVTIMEO, RW | FFL_OPTION_LOCAL, STRUCT(16), NO),
    SOCK(SO_SNDTIMEO, RW | FFL_OPTION_LOCAL, STRUCT(16), NO),
    SOCK(SO_RCVTIMEO_NEW, RW | FFL_OPTION_LOCAL, STRUCT(16), NO),
    SOCK(SO_SNDTIMEO_NEW, RW | FFL_OPTION_LOCAL, STRUCT(16), NO),
    SOCK(SO_LINGER, RW | NARROW, STRUCT(8), BSD(BSD_SOL, 0x80)),
    SOCK(SO_PRIORITY, RW, INT, FFL_BSD_FAMILY, 0, 75), /* the frame's priority, 802.1p */
    SOCK(SO_NO_CHECK, RW, BOOL, NO),
    SOCK(SO_BSDCOMPAT, DOES, BOOL, NO),
    SOCK(SO_DEBUG, DOES | ADMIN, BOOL, NO),
    SOCK(SO_PASSCRED, RW, BOOL, NO), /* without effect */
    SOCK(SO_MARK, RW | NARROW | ADMIN, INT, NO),
    SOCK(SO_BINDTODEVICE, RW | NARROW, STRING(16), NO),
    SOCK(SO_BINDTOIFINDEX, DOES | NARROW, INT, NO),
    SOCK(SO_MAX_PACING_RATE, RW, STRUCT(8), NO),
    SOCK(SO_INCOMING_CPU, RW, INT, NO),
    SOCK(SO_BUSY_POLL, RW | ADMIN, INT, NO),
    SOCK(SO_PREFER_BUSY_POLL, RW | ADMIN, BOOL, NO),
    SOCK(SO_BUSY_POLL_BUDGET, W | ADMIN, INT, NO),
    SOCK(SO_BUF_LOCK, RW, INT, NO),
    SOCK(SO_RESERVE_MEM, RW, INT, NO),
    SOCK(SO_TXREHASH, RW, INT, NO),
    SOCK(SO_NOFCS, RW, BOOL, NO),
    SOCK(SO_CNX_ADVICE, W, INT, NO),
    SOCK(SO_PASSSEC, DOES, BOOL, NO),
    SOCK(SO_PEERNAME, R, STRUCT(28), NO),
    SOCK(SO_PEERGROUPS, R, STRUCT(FFL_OPT_MAX), NO),
    SOCK(SO_BPF_EXTENSIONS, R, INT, NO),
    SOCK(SO_NETNS_COOKIE, R, STRUCT(8), NO),
    SOCK(SO_TIMESTAMP, STAMP, BOOL, NO), /* F-Stack's clock begins when it starts */
    SOCK(SO_TIMESTAMPNS, STAMP, BOOL, NO),
    SOCK(SO_TIMESTAMP_NEW, STAMP, BOOL, NO),
    SOCK(SO_TIMESTAMPNS_NEW, STAMP, BOOL, NO),
    SOCK(SO_TIMESTAMPING, STAMP | REPORT, STRUCT(8), NO),
    SOCK(SO_TIMESTAMPING_NEW, STAMP | REPORT, STRUCT(8), NO),
    SOCK(SO_RXQ_OVFL, CTL, BOOL, NO),
    SOCK(SO_RCVMARK, CTL, BOOL, NO),
    SOCK(SO_RCVPRIORITY, CTL, BOOL, NO),
    SOCK(SO_WIFI_STATUS, CTL, BOOL, NO),
    SOCK(SO_TXTIME, REPORT, STRUCT(8), NO),
    SOCK(SO_SELECT_ERR_QUEUE, RW, BOOL, NO),
    /* the program itself crosses the ring (FFL_OP_FILTER), not its address */
    SOCK(SO_ATTACH_FILTER, W | NARROW | FFL_OPTION_CARRY, PROGRAM, NO),
    SOCK(SO_ATTACH_REUSEPORT_CBPF, W | NARROW, PROGRAM, NO),
    SOCK(SO_DETACH_FILTER, W | FFL_OPTION_DETACH, INT, NO),
    SOCK(SO_DETACH_REUSEPORT_BPF, W | FFL_OPTION_DETACH, INT, NO),
    SOCK(SO_LOCK_FILTER, RW, BOOL, NO), /* after the filter */
    /* descriptors of the caller's process: the instance would use its own */
    SOCK(SO_ATTACH_BPF, NARROW, INT, NO),
    SOCK(SO_ATTACH_REUSEPORT_EBPF, NARROW, INT, NO),
    /* the client's (struct ffl_own) */
    SOCK(SO_ZEROCOPY, RW, BOOL, NO),
    SOCK(SO_PEEK_OFF, RW, INT, NO),
    SOCK(SO_ERROR, R, INT, FFL_BSD_ERRNO, BSD_SOL, 0x1007),
    SOCK(SO_TYPE, R, INT, BSD(BSD_SOL, 0x1008)),
    SOCK(SO_DOMAIN, R, INT, NO), /* FreeBSD's AF_INET6 is another number; the client knows */
    SOCK(SO_PROTOCOL, R, INT, BSD(BSD_SOL, 0x1016)),
    SOCK(SO_ACCEPTCONN, R, BOOL, BSD(BSD_SOL, 0x2)),
    SOCK(SO_PEERCRED, R, STRUCT(12), NO),
    SOCK(SO_MEMINFO, R, STRUCT(64), NO),
    SOCK(SO_INCOMING_NAPI_ID, R, INT, NO),
    SOCK(SO_COOKIE, R, STRUCT(8), NO),

    TCP(TCP_NODELAY, RW, BOOL, BSD(IPPROTO_TCP, 0x1)),
    TCP(TCP_CORK, RW, BOOL, BSD(IPPROTO_TCP, 0x4)),
    TCP(TCP_MAXSEG, RW, INT, BSD(IPPROTO_TCP, 0x2)),
    TCP(TCP_KEEPIDLE, RW, INT, BSD(IPPROTO_TCP, 0x100)),
    TCP(TCP_KEEPINTVL, RW, INT, BSD(IPPROTO_TCP, 0x200)),
    TCP(TCP_KEEPCNT, RW, INT, BSD(IPPROTO_TCP, 0x400)),
    TCP(TCP_INFO, R, STRUCT(FFL_OPT_MAX), FFL_BSD_TCP_INFO, IPPROTO_TCP, 0x20),
    TCP(TCP_CONGESTION, RW, STRING(16), BSD(IPPROTO_TCP, 0x40)),
    TCP(TCP_CC_INFO, R, STRUCT(64), NO),
    TCP(TCP_ULP, R, STRING(16), NO), /* setting it would change the bytes' meaning */
    TCP(TCP_MD5SIG, W | NARROW, STRUCT(216), NO),
    TCP(TCP_MD5SIG_EXT, W | NARROW, STRUCT(216), NO),
    TCP(TCP_QUICKACK, DOES, BOOL, NO),
    TCP(TCP_WINDOW_CLAMP, RW, INT, NO),
    TCP(TCP_USER_TIMEOUT, RW, INT, NO),
    TCP(TCP_SYNCNT, RW, INT, NO),
    TCP(TCP_LINGER2, RW, INT, NO),
    TCP(TCP_DEFER_ACCEPT, RW, INT, NO),
    TCP(TCP_FASTOPEN, RW, INT, NO),
    TCP(TCP_FASTOPEN_CONNECT, RW, BOOL, NO),
    TCP(TCP_FASTOPEN_KEY, DOES, STRUCT(32), NO),
    TCP(TCP_FASTOPEN_NO_COOKIE, RW, BOOL, NO),
    TCP(TCP_NOTSENT_LOWAT, RW, INT, NO),
    TCP(TCP_THIN_LINEAR_TIMEOUTS, RW, BOOL, NO),
    TCP(TCP_THIN_DUPACK, RW, BOOL, NO),
    TCP(TCP_TIMESTAMP, DOES, INT, NO),
    TCP(TCP_SAVE_SYN, RW, BOOL, NO),
    TCP(TCP_SAVED_SYN, R, STRUCT(FFL_OPT_MAX), NO),
    TCP(TCP_TX_DELAY, RW, INT, NO),
    TCP(TCP_IS_MPTCP, R, INT, NO),
    TCP(TCP_RTO_MAX_MS, RW, INT, NO),
    TCP(TCP_RTO_MIN_US, RW, INT, NO),
    TCP(TCP_DELACK_MAX_US, RW, INT, NO),
    TCP(TCP_INQ, RW, BOOL, NO), /* the client's (struct ffl_own) */

    UDP(UDP_CORK, RW, BOOL, NO),
    UDP(UDP_SEGMENT, RW, INT, NO),
    UDP(UDP_GRO, STAMP, BOOL, NO),
    UDP(UDP_ENCAP, RW, INT, NO),
    UDP(UDP_NO_CHECK6_TX, RW, BOOL, NO),
    UDP(UDP_NO_CHECK6_RX, RW, BOOL, NO),

    IP(IP_TOS, RW, INT, BSD(IPPROTO_IP, 3)),
    IP(IP_TTL, RW | NARROW, INT, BSD(IPPROTO_IP, 4)),
    IP(IP_MINTTL, RW | NARROW, INT, BSD(IPPROTO_IP, 66)),
    IP(IP_MTU_DISCOVER, RW, INT, NO),
    IP(IP_MTU, R, INT, NO),
    IP(IP_FREEBIND, RW, BOOL, NO),
    IP(IP_TRANSPARENT, RW | ADMIN, BOOL, NO),
    IP(IP_BIND_ADDRESS_NO_PORT, RW, BOOL, NO),
    IP(IP_LOCAL_PORT_RANGE, RW | NARROW, INT, NO),
    IP(IP_UNICAST_IF, RW | NARROW, INT, NO),
    IP(IP_PROTOCOL, R, INT, NO),
    IP(IP_MULTICAST_IF, RW, STRUCT(12), BSD(IPPROTO_IP, 9)),
    IP(IP_MULTICAST_TTL, RW | NARROW, INT, BSD(IPPROTO_IP, 10)),
    IP(IP_MULTICAST_LOOP, RW, BOOL, BSD(IPPROTO_IP, 11)),
    IP(IP_MULTICAST_ALL, RW | NARROW, BOOL, NO),
    IP(IP_ADD_MEMBERSHIP, JOIN, STRUCT(12), BSD(IPPROTO_IP, 12)),
    IP(IP_DROP_MEMBERSHIP, LEAVE, STRUCT(12), BSD(IPPROTO_IP, 13)),
    IP(IP_ADD_SOURCE_MEMBERSHIP, JOIN | NARROW, STRUCT(12), FFL_BSD_SOURCE, IPPROTO_IP, 70),
    IP(IP_DROP_SOURCE_MEMBERSHIP, LEAVE, STRUCT(12), FFL_BSD_SOURCE, IPPROTO_IP, 71),
    IP(IP_BLOCK_SOURCE, W | NARROW, STRUCT(12), FFL_BSD_SOURCE, IPPROTO_IP, 72),
    IP(IP_UNBLOCK_SOURCE, W, STRUCT(12), FFL_BSD_SOURCE, IPPROTO_IP, 73),
    IP(MCAST_JOIN_GROUP, JOIN, STRUCT(136), NO),
    IP(MCAST_LEAVE_GROUP, LEAVE, STRUCT(136), NO),
    IP(MCAST_JOIN_SOURCE_GROUP, JOIN | NARROW, STRUCT(264), NO),
    IP(MCAST_LEAVE_SOURCE_GROUP, LEAVE, STRUCT(264), NO),
    IP(MCAST_BLOCK_SOURCE, W | NARROW, STRUCT(264), NO),
    IP(MCAST_UNBLOCK_SOURCE, W, STRUCT(264), NO),
    IP(IP_MSFILTER, DOES | NARROW | ASKS, STRUCT(FFL_OPT_MAX), NO),
    IP(MCAST_MSFILTER, DOES | NARROW | ASKS, STRUCT(FFL_OPT_MAX), NO),
    IP(IP_HDRINCL, DOES, BOOL, NO), /* of raw sockets: for the kernel's own errors */
    IP(IP_ROUTER_ALERT, DOES, INT, NO),
    IP(IP_NODEFRAG, DOES, BOOL, NO),
    IP(IP_PKTOPTIONS, R, STRUCT(FFL_OPT_MAX), NO),
    IP(SO_ORIGINAL_DST, R, STRUCT(16), NO),
    IP(IP_OPTIONS, RW | NARROW, STRUCT(40), NO),
    IP(IP_IPSEC_POLICY, NARROW, STRUCT(FFL_OPT_MAX), NO),
    IP(IP_XFRM_POLICY, NARROW, STRUCT(FFL_OPT_MAX), NO),
    IP(IP_RECVERR, REPORT, BOOL, NO),
    IP(IP_RECVERR_RFC4884, REPORT, BOOL, NO),
    IP(IP_PASSSEC, CTL, BOOL, NO),
    IP(IP_PKTINFO, CTL, BOOL, BSD(IPPROTO_IP, 7)), /* FreeBSD gives the address alone */
    IP(IP_RECVTTL, CTL, BOOL, BSD(IPPROTO_IP, 65)),
    IP(IP_RECVTOS, CTL, BOOL, BSD(IPPROTO_IP, 68)),
    IP(IP_RECVOPTS, CTL, BOOL, NO),
    IP(IP_RETOPTS, CTL, BOOL, NO),
    IP(IP_RECVORIGDSTADDR, CTL, BOOL, NO),
    IP(IP_CHECKSUM, CTL, BOOL, NO),
    IP(IP_RECVFRAGSIZE, CTL, BOOL, NO),

    IP6(IPV6_V6ONLY, RW | NARROW, BOOL, BSD(IPPROTO_IPV6, 27)),
    IP6(IPV6_TCLASS, RW, INT, BSD(IPPROTO_IPV6, 61)),
    IP6(IPV6_UNICAST_HOPS, RW | NARROW, INT, BSD(IPPROTO_IPV6, 4)),
    IP6(IPV6_MINHOPCOUNT, RW | NARROW, INT, NO),
    IP6(IPV6_MTU_DISCOVER, RW, INT, NO),
    IP6(IPV6_MTU, DOES, INT, NO),
    IP6(IPV6_DONTFRAG, RW, BOOL, BSD(IPPROTO_IPV6, 62)),
    IP6(IPV6_PATHMTU, R, STRUCT(32), NO),
    IP6(IPV6_AUTOFLOWLABEL, RW, BOOL, NO),
    IP6(IPV6_ADDR_PREFERENCES, RW, INT, NO),
    IP6(IPV6_FREEBIND, RW, BOOL, NO),
    IP6(IPV6_TRANSPARENT, RW | ADMIN, BOOL, NO),
    IP6(IPV6_UNICAST_IF, RW | NARROW, INT, NO),
    IP6(IPV6_MULTICAST_IF, RW, INT, BSD(IPPROTO_IPV6, 9)),
    IP6(IPV6_MULTICAST_HOPS, RW | NARROW, INT, BSD(IPPROTO_IPV6, 10)),
    IP6(IPV6_MULTICAST_LOOP, RW, BOOL, BSD(IPPROTO_IPV6, 11)),
    IP6(IPV6_MULTICAST_ALL, RW | NARROW, BOOL, NO),
    IP6(IPV6_JOIN_GROUP, JOIN, STRUCT(20), BSD(IPPROTO_IPV6, 12)),
    IP6(IPV6_LEAVE_GROUP, LEAVE, STRUCT(20), BSD(IPPROTO_IPV6, 13)),
    IP6(MCAST_JOIN_GROUP, JOIN, STRUCT(136), NO),
    IP6(MCAST_LEAVE_GROUP, LEAVE, STRUCT(136), NO),
    IP6(MCAST_JOIN_SOURCE_GROUP, JOIN | NARROW, STRUCT(264), NO),
    IP6(MCAST_LEAVE_SOURCE_GROUP, LEAVE, STRUCT(264), NO),
    IP6(MCAST_BLOCK_SOURCE, W | NARROW, STRUCT(264), NO),
    IP6(MCAST_UNBLOCK_SOURCE, W, STRUCT(264), NO),
    IP6(IPV6_IPSEC_POLICY, NARROW, STRUCT(FFL_OPT_MAX), NO),
    IP6(IPV6_XFRM_POLICY, NARROW, STRUCT(FFL_OPT_MAX), NO),
    IP6(IPV6_RECVERR, REPORT, BOOL, NO),
    IP6(IPV6_RECVERR_RFC4884, REPORT, BOOL, NO),
    IP6(IPV6_ADDRFORM, R, INT, NO), /* setting it would make an IPv4 socket of it */
    IP6(IPV6_ROUTER_ALERT, DOES, INT, NO),
    IP6(IPV6_JOIN_ANYCAST, JOIN, STRUCT(20), NO),
    IP6(IPV6_LEAVE_ANYCAST, LEAVE, STRUCT(20), NO),
    IP6(IPV6_FLOWLABEL_MGR, DOES | ASKS, STRUCT(32), NO),
    IP6(IPV6_FLOWINFO_SEND, RW, BOOL, NO),
    IP6(IPV6_ROUTER_ALERT_ISOLATE, RW, BOOL, NO),
    IP6(IPV6_PKTINFO, DOES, STRUCT(20), NO),
    IP6(IPV6_HOPOPTS, DOES, STRUCT(FFL_OPT_MAX), NO),
    IP6(IPV6_RTHDRDSTOPTS, DOES, STRUCT(FFL_OPT_MAX), NO),
    IP6(IPV6_RTHDR, DOES, STRUCT(FFL_OPT_MAX), NO),
    IP6(IPV6_DSTOPTS, DOES, STRUCT(FFL_OPT_MAX), NO),
    IP6(IP6T_SO_ORIGINAL_DST, R, STRUCT(28), NO),
    IP6(MCAST_MSFILTER, DOES | NARROW | ASKS, STRUCT(FFL_OPT_MAX), NO),
    IP6(IPV6_2292PKTOPTIONS, DOES, STRUCT(FFL_OPT_MAX), NO),
    IP6(IPV6_2292PKTINFO, CTL, BOOL, NO),
    IP6(IPV6_2292HOPOPTS, CTL, BOOL, NO),
    IP6(IPV6_2292DSTOPTS, CTL, BOOL, NO),
    IP6(IPV6_2292RTHDR, CTL, BOOL, NO),
    IP6(IPV6_2292HOPLIMIT, CTL, BOOL, NO),
    IP6(IPV6_FLOWINFO, CTL, BOOL, NO),
    IP6(IPV6_RECVHOPOPTS, CTL, BOOL, NO),
    IP6(IPV6_RECVRTHDR, CTL, BOOL, NO),
    IP6(IPV6_RECVDSTOPTS, CTL, BOOL, NO),
    IP6(IPV6_RECVPATHMTU, CTL, BOOL, NO),
    IP6(IPV6_RECVPKTINFO, CTL, BOOL, BSD(IPPROTO_IPV6, 36)),
    IP6(IPV6_RECVHOPLIMIT, CTL, BOOL, BSD(IPPROTO_IPV6, 37)),
    IP6(IPV6_RECVTCLASS, CTL, BOOL, BSD(IPPROTO_IPV6, 57)),
    IP6(IPV6_RECVORIGDSTADDR, CTL, BOOL, NO),
    IP6(IPV6_RECVFRAGSIZE, CTL, BOOL, NO),
};
/* clang-format on */

const struct ffl_option *ffl_option_at(unsigned i)
{
    return i < FFL_COUNT(table) ? &table[i] : NULL;
}

const struct ffl_option *ffl_option_find(int level, int name)
{
    for (unsigned i = 0; i < FFL_COUNT(table); i++)
        if (table[i].level == level && table[i].name == name)
            return &table[i];
    return NULL;
}

#define ANY INT32_MIN

static const struct sendable {
    int level, type;
    size_t len; /* bytes of the value */
    int min;    /* of an int, up to 255; or ANY: not checked here */
} sendable[] = {
    {SOL_SOCKET, SO_TIMESTAMPING, sizeof(uint32_t), ANY},
    {SOL_SOCKET, SO_TXTIME, sizeof(uint64_t), ANY},
    {IPPROTO_UDP, UDP_SEGMENT, sizeof(uint16_t), ANY},
    {IPPROTO_IP, IP_PKTINFO, sizeof(struct in_pktinfo), ANY},
    {IPPROTO_IP, IP_TTL, sizeof(int), 1},
    {IPPROTO_IP, IP_TOS, sizeof(int), 0},
    {IPPROTO_IP, IP_TOS, 1, ANY},
    {IPPROTO_IPV6, IPV6_PKTINFO, 20, ANY},
    {IPPROTO_IPV6, IPV6_HOPLIMIT, sizeof(int), -1},
    {IPPROTO_IPV6, IPV6_TCLASS, sizeof(int), -1},
    {IPPROTO_IPV6, IPV6_DONTFRAG, sizeof(int), ANY},
};

static bool sendable_one(const struct cmsghdr *c, const void *data)
{
    int value;
    bool other = c->cmsg_level != SOL_SOCKET && c->cmsg_level != IPPROTO_UDP &&
                 c->cmsg_level != IPPROTO_IP && c->cmsg_level != IPPROTO_IPV6;
    if (other || (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS))
        return true; /* the kernel passes over it */
    for (size_t i = 0; i < FFL_COUNT(sendable); i++) {
        const struct sendable *s = &sendable[i];
        if (s->level != c->cmsg_level || s->type != c->cmsg_type || c->cmsg_len != CMSG_LEN(s->len))
            continue;
        if (s->min == ANY)
            return true;
        memcpy(&value, data, sizeof(value));
        return value >= s->min && value <= 255;
    }
    return false;
}

int ffl_ctl_check(const struct ffl_ctl *ctl)
{
    struct cmsghdr c;
    if (ctl->len > FFL_CTL_MAX)
        return -EINVAL;
    for (uint32_t at = 0; at + sizeof(c) <= ctl->len; at += (uint32_t)CMSG_ALIGN(c.cmsg_len)) {
        memcpy(&c, ctl->data + at, sizeof(c));
        if (c.cmsg_len < sizeof(c) || c.cmsg_len > ctl->len - at ||
            !sendable_one(&c, ctl->data + at + CMSG_LEN(0)))
            return -EINVAL;
    }
    return 0;
}
