/* option.c - the one table of socket options. See option.h. */
#include "option.h"

#include "base.h"
#include "layout.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <netinet/udp.h>
#include <sys/socket.h>

/* Names that an older C library lacks. */
#ifndef SO_TIMESTAMP_NEW
#define SO_TIMESTAMP_NEW 63
#define SO_TIMESTAMPNS_NEW 64
#endif
#ifndef IP_LOCAL_PORT_RANGE
#define IP_LOCAL_PORT_RANGE 51
#endif
#ifndef IP_PROTOCOL
#define IP_PROTOCOL 52
#endif
#ifndef IPV6_FREEBIND
#define IPV6_FREEBIND 78
#endif

/* FreeBSD's numbers. Levels are Linux's but for the socket's own. */
#define BSD_SOL 0xffff

#define R FFL_OPTION_GET
#define W FFL_OPTION_SET
#define RW (FFL_OPTION_GET | FFL_OPTION_SET | FFL_OPTION_CARRY) /* a setting */
#define DOES (FFL_OPTION_GET | FFL_OPTION_SET)                  /* settable, and not one to carry */
#define NARROW FFL_OPTION_RESTRICTS
#define ADMIN FFL_OPTION_ADMIN
#define CTL (RW | FFL_OPTION_CTL)
#define CTL_DGRAM (CTL | FFL_OPTION_DGRAM)

#define INT FFL_OPTION_INT, 4
#define BOOL FFL_OPTION_BOOL, 4
#define HALVED FFL_OPTION_HALVED, 4
#define STRUCT(n) FFL_OPTION_STRUCT, n
#define STRING(n) FFL_OPTION_STRING, n

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
    SOCK(SO_TIMESTAMP, CTL_DGRAM, BOOL, NO), /* F-Stack's clock begins when it starts */
    SOCK(SO_TIMESTAMPNS, CTL_DGRAM, BOOL, NO),
    SOCK(SO_TIMESTAMP_NEW, CTL_DGRAM, BOOL, NO),
    SOCK(SO_TIMESTAMPNS_NEW, CTL_DGRAM, BOOL, NO),
    SOCK(SO_RXQ_OVFL, CTL_DGRAM, BOOL, NO),
    /* pointers into, or descriptors of, the caller's process: the instance would use its own */
    SOCK(SO_ATTACH_FILTER, NARROW | FFL_OPTION_CARRY, STRUCT(16), NO),
    SOCK(SO_ATTACH_BPF, NARROW, INT, NO),
    SOCK(SO_ATTACH_REUSEPORT_CBPF, NARROW, STRUCT(16), NO),
    SOCK(SO_ATTACH_REUSEPORT_EBPF, NARROW, INT, NO),
    /* they need the error queue, or the stack's receive queue: neither crosses the ring */
    SOCK(SO_TIMESTAMPING, FFL_OPTION_CARRY, INT, NO),
    SOCK(SO_ZEROCOPY, FFL_OPTION_CARRY, BOOL, NO),
    SOCK(SO_TXTIME, FFL_OPTION_CARRY, STRUCT(8), NO),
    SOCK(SO_PEEK_OFF, FFL_OPTION_CARRY, INT, NO),
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
    TCP(TCP_INQ, FFL_OPTION_CARRY, BOOL, NO), /* by a stream's control messages */

    UDP(UDP_CORK, FFL_OPTION_CARRY, BOOL, NO),
    UDP(UDP_SEGMENT, FFL_OPTION_CARRY, INT, NO),
    UDP(UDP_GRO, FFL_OPTION_CARRY, BOOL, NO),
    UDP(UDP_ENCAP, FFL_OPTION_CARRY, INT, NO),

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
    IP(IP_ADD_MEMBERSHIP, W, STRUCT(12), BSD(IPPROTO_IP, 12)),
    IP(IP_DROP_MEMBERSHIP, W, STRUCT(12), BSD(IPPROTO_IP, 13)),
    IP(IP_ADD_SOURCE_MEMBERSHIP, W | NARROW, STRUCT(12), FFL_BSD_SOURCE, IPPROTO_IP, 70),
    IP(IP_DROP_SOURCE_MEMBERSHIP, W, STRUCT(12), FFL_BSD_SOURCE, IPPROTO_IP, 71),
    IP(IP_BLOCK_SOURCE, W | NARROW, STRUCT(12), FFL_BSD_SOURCE, IPPROTO_IP, 72),
    IP(IP_UNBLOCK_SOURCE, W, STRUCT(12), FFL_BSD_SOURCE, IPPROTO_IP, 73),
    IP(MCAST_JOIN_GROUP, W, STRUCT(136), NO),
    IP(MCAST_LEAVE_GROUP, W, STRUCT(136), NO),
    IP(MCAST_JOIN_SOURCE_GROUP, W | NARROW, STRUCT(264), NO),
    IP(MCAST_LEAVE_SOURCE_GROUP, W, STRUCT(264), NO),
    IP(MCAST_BLOCK_SOURCE, W | NARROW, STRUCT(264), NO),
    IP(MCAST_UNBLOCK_SOURCE, W, STRUCT(264), NO),
    IP(IP_MSFILTER, DOES | NARROW, STRUCT(FFL_OPT_MAX), NO),
    IP(IP_OPTIONS, FFL_OPTION_CARRY | NARROW, STRUCT(40), NO),
    IP(IP_IPSEC_POLICY, NARROW, STRUCT(FFL_OPT_MAX), NO),
    IP(IP_XFRM_POLICY, NARROW, STRUCT(FFL_OPT_MAX), NO),
    IP(IP_RECVERR, FFL_OPTION_CARRY, BOOL, NO),
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
    IP6(IPV6_JOIN_GROUP, W, STRUCT(20), BSD(IPPROTO_IPV6, 12)),
    IP6(IPV6_LEAVE_GROUP, W, STRUCT(20), BSD(IPPROTO_IPV6, 13)),
    IP6(MCAST_JOIN_GROUP, W, STRUCT(136), NO),
    IP6(MCAST_LEAVE_GROUP, W, STRUCT(136), NO),
    IP6(MCAST_JOIN_SOURCE_GROUP, W | NARROW, STRUCT(264), NO),
    IP6(MCAST_LEAVE_SOURCE_GROUP, W, STRUCT(264), NO),
    IP6(MCAST_BLOCK_SOURCE, W | NARROW, STRUCT(264), NO),
    IP6(MCAST_UNBLOCK_SOURCE, W, STRUCT(264), NO),
    IP6(IPV6_IPSEC_POLICY, NARROW, STRUCT(FFL_OPT_MAX), NO),
    IP6(IPV6_XFRM_POLICY, NARROW, STRUCT(FFL_OPT_MAX), NO),
    IP6(IPV6_RECVERR, FFL_OPTION_CARRY, BOOL, NO),
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

bool ffl_ctl_sendable(const struct ffl_ctl *ctl)
{
    static const int sendable[][2] = {
        {IPPROTO_IP, IP_PKTINFO},     {IPPROTO_IP, IP_TOS},          {IPPROTO_IP, IP_TTL},
        {IPPROTO_IPV6, IPV6_PKTINFO}, {IPPROTO_IPV6, IPV6_HOPLIMIT}, {IPPROTO_IPV6, IPV6_TCLASS},
    };
    if (ctl->len > FFL_CTL_MAX)
        return false;
    for (uint32_t at = 0; at + sizeof(struct cmsghdr) <= ctl->len;) {
        struct cmsghdr c;
        memcpy(&c, ctl->data + at, sizeof(c));
        if (c.cmsg_len < sizeof(c) || c.cmsg_len > ctl->len - at)
            return false;
        bool known = false;
        for (size_t i = 0; i < FFL_COUNT(sendable); i++)
            known |= sendable[i][0] == c.cmsg_level && sendable[i][1] == c.cmsg_type;
        if (!known)
            return false;
        at += (uint32_t)CMSG_ALIGN(c.cmsg_len);
    }
    return true;
}
