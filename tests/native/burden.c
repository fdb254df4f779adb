/*
 * burden.c - what one call of the stack does for many sockets is limited per user: memberships,
 * filters, broadcasts; and an application cannot know in which lists its sockets are.
 */
#include "attacker.h"

#include "addr.h"
#include "option.h"

#include <linux/filter.h>

static int takes_all(void *st, int fd, int level, int name, const void *val, uint32_t len)
{
    return 0;
}

static int32_t answer_of(enum ffl_op op, uint32_t h, const void *block, size_t len)
{
    with_block(op, h, block, len);
    struct ffl_entry e = raw_expect(&bad, op, h);
    raw_give(&bad, e.buf);
    return e.arg;
}

static int32_t member(uint32_t h, int name)
{
    struct ffl_optarg o = {.level = IPPROTO_IPV6, .name = name, .len = 20};
    return answer_of(FFL_OP_SETSOCKOPT, h, &o, sizeof(o));
}

static int32_t filter(uint32_t h, uint32_t n)
{
    static struct {
        struct ffl_filter f;
        struct sock_filter code[FFL_FILTER_MAX];
    } p;
    p.f = (struct ffl_filter){.level = SOL_SOCKET, .name = SO_ATTACH_FILTER, .len = n};
    return answer_of(FFL_OP_FILTER, h, &p, sizeof(p.f) + n * sizeof(p.code[0]));
}

static struct ffl_stack_ops lenient;

static void start_lenient(void)
{
    start_lab("sim");
    lab_stop();
    lenient = ffl_sim_ops;
    lenient.setsockopt = takes_all;
    lab.o.stack = &lenient;
    lab.o.user_memberships = 3;
    lab_start_manual("");
    raw_attach(&bad);
    for (uint32_t h = 0; h < 2; h++)
        open_socket(h, SOCK_DGRAM);
}

/* All that an application has joined and attached ends with its sockets. */
static void nothing_is_charged(void)
{
    for (uint32_t h = 0; h < 2; h++)
        plain(FFL_OP_CLOSE, h, 0, 0);
    settle();
    CHECK_EQ(lab.in->ledger.n[CHARGE_MEMBERSHIP], 0);
    CHECK_EQ(lab.in->ledger.n[CHARGE_FILTER], 0);
    raw_finish(&bad);
}

TEST(memberships_are_few)
{
    start_lenient();
    for (uint32_t i = 0; i < 3; i++)
        CHECK_EQ(member(i % 2, IPV6_JOIN_GROUP), 0);
    CHECK_EQ(member(1, IPV6_JOIN_GROUP), -ENOBUFS);
    CHECK_EQ(member(0, IPV6_LEAVE_GROUP), 0);
    CHECK_EQ(member(1, MCAST_JOIN_GROUP), 0);
    CHECK_EQ(member(1, MCAST_JOIN_SOURCE_GROUP), -ENOBUFS);
    nothing_is_charged();
}

TEST(filters_are_short)
{
    start_lenient();
    lab.in->ledger.user_limit[CHARGE_FILTER] = 100;
    CHECK_EQ(filter(0, 40), 0);
    CHECK_EQ(filter(1, 61), -ENOMEM);
    CHECK_EQ(filter(1, 50), 0);
    CHECK_EQ(filter(1, 60), -ENOMEM); /* the old one stays */
    CHECK_EQ(filter(1, 10), 0);       /* in its place */
    CHECK_EQ(filter(0, 40), 0);
    struct ffl_optarg off = {.level = SOL_SOCKET, .name = SO_DETACH_FILTER, .len = sizeof(int)};
    CHECK_EQ(answer_of(FFL_OP_SETSOCKOPT, 0, &off, sizeof(off)), 0);
    CHECK_EQ(filter(1, 90), 0); /* what the first has given back */
    nothing_is_charged();
}

TEST(few_receive_one_datagram)
{
    struct ffl_addr a = addr4("10.0.0.3", 9);
    start_lenient();
    lab.in->port_most = 1;
    CHECK_EQ(answer_of(FFL_OP_BIND, 0, &a, sizeof(a)), 0);
    a = addr4("10.0.0.4", 9);
    CHECK_EQ(answer_of(FFL_OP_BIND, 1, &a, sizeof(a)), -ENOBUFS);
    a.port_be = htons(10);
    CHECK_EQ(answer_of(FFL_OP_BIND, 1, &a, sizeof(a)), 0);
    nothing_is_charged();
}

/* A datagram of one byte, without an error or with this one. */
static void sends(uint32_t h, const struct ffl_addr *to, int err)
{
    struct {
        struct ffl_addr to;
        char byte;
    } d = {*to, 'x'};
    raw_put(&bad, (struct ffl_entry){.op = FFL_OP_SEND,
                                     .flags = FFL_F_ADDR,
                                     .handle = h,
                                     .arg = sizeof(*to) + 1,
                                     .buf = raw_arg(&bad, &d, sizeof(*to) + 1)});
    if (err)
        CHECK_EQ(raw_expect(&bad, FFL_OP_ERROR, h).arg, err);
    else
        raw_nothing(&bad);
}

/* One broadcast or multicast is for all sockets at a port that have its address or none, in one
 * call of the stack: a user has few of them. A datagram for one is sent however many there are. */
TEST(broadcasts_are_for_few)
{
    static const char *const for_all[] = {"0.0.0.0", "224.1.1.1", "255.255.255.255"};
    struct ffl_optarg reuse = {.level = SOL_SOCKET, .name = SO_REUSEADDR, .len = sizeof(int)},
                      may = reuse;
    memcpy(reuse.data, &(int){1}, sizeof(int));
    memcpy(may.data, &(int){1}, sizeof(int));
    may.name = SO_BROADCAST;
    start_lab("host");
    lab.in->cast_most = 2;
    raw_attach(&bad);
    for (uint32_t h = 0; h < 10; h++) {
        open_socket(h, SOCK_DGRAM);
        CHECK_EQ(answer_of(FFL_OP_SETSOCKOPT, h, &reuse, ffl_optarg_bytes(reuse.len)), 0);
    }
    struct ffl_addr a = addr4("0.0.0.0", 0);
    CHECK_EQ(answer_of(FFL_OP_BIND, 0, &a, sizeof(a)), 0);
    int port = ntohs(TAILQ_FIRST(&lab.in->sessions)->table[0]->group->at.port_be);
    a = addr4("224.1.1.1", port);
    CHECK_EQ(answer_of(FFL_OP_BIND, 1, &a, sizeof(a)), 0);
    for (size_t i = 0; i < FFL_COUNT(for_all); i++) {
        a = addr4(for_all[i], port);
        CHECK_EQ(answer_of(FFL_OP_BIND, 2, &a, sizeof(a)), -ENOBUFS);
    }
    a = addr4("127.255.255.255", port); /* loopback's broadcasts */
    CHECK_EQ(answer_of(FFL_OP_BIND, 2, &a, sizeof(a)), -ENOBUFS);
    a = addr4("127.0.0.1", port);
    for (uint32_t h = 2; h < 10; h++)
        CHECK_EQ(answer_of(FFL_OP_BIND, h, &a, sizeof(a)), 0);
    CHECK_EQ(answer_of(FFL_OP_SETSOCKOPT, 9, &may, ffl_optarg_bytes(may.len)), 0);
    sends(9, &a, 0);
    for (uint32_t h = 0; h < 2; h++)
        plain(FFL_OP_CLOSE, h, 0, 0);
    settle();
    a = addr4("0.0.0.0", port);
    open_socket(0, SOCK_DGRAM);
    CHECK_EQ(answer_of(FFL_OP_SETSOCKOPT, 0, &reuse, ffl_optarg_bytes(reuse.len)), 0);
    CHECK_EQ(answer_of(FFL_OP_BIND, 0, &a, sizeof(a)), 0);
    raw_finish(&bad);
}

/* A connected socket has an address, and gets no broadcast: a server has one for each client. */
TEST(a_peer_each_is_not_for_all)
{
    struct ffl_optarg reuse = {.level = SOL_SOCKET, .name = SO_REUSEADDR, .len = sizeof(int)};
    struct ffl_addr peer = addr4("127.0.0.1", 9), none = {.family = AF_UNSPEC};
    memcpy(reuse.data, &(int){1}, sizeof(int));
    start_lab("host");
    lab.in->cast_most = 2;
    raw_attach(&bad);
    struct ffl_addr a = addr4("0.0.0.0", 0);
    for (uint32_t h = 0; h < 6; h++) {
        open_socket(h, SOCK_DGRAM);
        CHECK_EQ(answer_of(FFL_OP_SETSOCKOPT, h, &reuse, ffl_optarg_bytes(reuse.len)), 0);
        CHECK_EQ(answer_of(FFL_OP_BIND, h, &a, sizeof(a)), 0);
        a.port_be = TAILQ_FIRST(&lab.in->sessions)->table[0]->group->at.port_be;
        if (h < 4)
            CHECK_EQ(answer_of(FFL_OP_CONNECT, h, &peer, sizeof(peer)), 0);
    }
    open_socket(6, SOCK_DGRAM);
    CHECK_EQ(answer_of(FFL_OP_SETSOCKOPT, 6, &reuse, ffl_optarg_bytes(reuse.len)), 0);
    CHECK_EQ(answer_of(FFL_OP_BIND, 6, &a, sizeof(a)), -ENOBUFS);
    CHECK_EQ(answer_of(FFL_OP_CONNECT, 1, &none, sizeof(none)), -ENOBUFS); /* were for all again */
    CHECK_EQ(answer_of(FFL_OP_CONNECT, 1, &peer, sizeof(peer)), 0);
    CHECK_EQ(answer_of(FFL_OP_CONNECT, 4, &none, sizeof(none)), 0); /* changes nothing */
    plain(FFL_OP_CLOSE, 4, 0, 0);
    settle();
    CHECK_EQ(answer_of(FFL_OP_CONNECT, 1, &none, sizeof(none)), 0);
    CHECK_EQ(answer_of(FFL_OP_BIND, 6, &a, sizeof(a)), -ENOBUFS);
    raw_finish(&bad);
}

static void counts_at(uint16_t port_be, int32_t answer)
{
    struct ffl_addr a = addr4("127.0.0.1", ntohs(port_be));
    lab.in->port_most = 1;
    CHECK_EQ(answer_of(FFL_OP_BIND, 1, &a, sizeof(a)), answer);
    for (uint32_t h = 0; h < 2; h++)
        plain(FFL_OP_CLOSE, h, 0, 0);
    settle();
    raw_finish(&bad);
}

static struct group *group0(void)
{
    return TAILQ_FIRST(&lab.in->sessions)->table[0]->group;
}

static uint16_t port0(void)
{
    struct ffl_addr a;
    int fd = TAILQ_FIRST(&lab.in->sessions)->table[0]->fd;
    CHECK_EQ(OPS(lab.in)->sockname(ST(lab.in), fd, false, &a), 0);
    CHECK(a.port_be);
    return a.port_be;
}

static void start_two(void)
{
    start_lab("host");
    raw_attach(&bad);
    for (uint32_t h = 0; h < 2; h++)
        open_socket(h, SOCK_DGRAM);
}

/* A port that the stack gave is known, by whichever way the socket came to it. */
TEST(a_send_after_a_dissolve_has_a_port)
{
    struct ffl_addr peer = addr4("127.0.0.1", 9), none = {.family = AF_UNSPEC};
    start_two();
    CHECK_EQ(answer_of(FFL_OP_CONNECT, 0, &peer, sizeof(peer)), 0);
    CHECK_EQ(answer_of(FFL_OP_CONNECT, 0, &none, sizeof(none)), 0);
    sends(0, &peer, 0);
    counts_at(port0(), -ENOBUFS);
}

TEST(a_connect_that_fails_gives_a_port)
{
    struct ffl_addr all = addr4("255.255.255.255", 9);
    start_two();
    CHECK_EQ(answer_of(FFL_OP_CONNECT, 0, &all, sizeof(all)), -EACCES);
    counts_at(port0(), -ENOBUFS);
}

/* FreeBSD's: a peer is given up before the next is tried, and with it the socket's own address. */
static struct ffl_addr own;

static int connects(void *st, int fd, const struct ffl_addr *to)
{
    own = addr4(to->family ? "10.0.0.3" : "0.0.0.0", 9);
    return 0;
}

static int is_at(void *st, int fd, bool peer, struct ffl_addr *a)
{
    *a = own;
    return peer && ffl_addr_wildcard(&own) ? -ENOTCONN : 0;
}

TEST(a_peer_is_given_up_for_another)
{
    struct ffl_addr peer = addr4("10.0.0.2", 9), none = {.family = AF_UNSPEC};
    start_lenient();
    lenient.connect = connects;
    lenient.sockname = is_at;
    CHECK_EQ(answer_of(FFL_OP_CONNECT, 0, &peer, sizeof(peer)), 0);
    CHECK(!ffl_addr_wildcard(&group0()->at));
    lab.in->cast_most = 0;
    CHECK_EQ(answer_of(FFL_OP_CONNECT, 0, &none, sizeof(none)), -ENOBUFS);
    CHECK_EQ(answer_of(FFL_OP_CONNECT, 0, &peer, sizeof(peer)), -ENOBUFS);
    lab.in->cast_most = 1;
    CHECK_EQ(answer_of(FFL_OP_CONNECT, 0, &none, sizeof(none)), 0);
    CHECK(ffl_addr_wildcard(&group0()->at)); /* wider than it was placed */
    CHECK_EQ(answer_of(FFL_OP_CONNECT, 0, &peer, sizeof(peer)), 0);
    lab.in->cast_most = 0;
    CHECK_EQ(answer_of(FFL_OP_CONNECT, 0, &peer, sizeof(peer)), -ENOBUFS);
    nothing_is_charged();
}

/* Where there are several users the looks at a bind have no way around them: a port that the stack
 * chooses is not the only one that it may. */
TEST(ports_are_not_narrowed)
{
    struct ffl_optarg o = {.level = IPPROTO_IP, .name = IP_LOCAL_PORT_RANGE, .len = sizeof(int)};
    memcpy(o.data, &(uint32_t){40000u << 16 | 40000u}, sizeof(int));
    start_lab("host");
    raw_attach(&bad);
    lab.in->ledger.shared = true;
    open_socket(0, SOCK_DGRAM);
    CHECK_EQ(answer_of(FFL_OP_SETSOCKOPT, 0, &o, ffl_optarg_bytes(o.len)), -ENOPROTOOPT);
    raw_finish(&bad);
}

/* ---- lists that an application does not choose ----------------------------------------------- */

#define REFERENCES 20u

static void where_references_are(uint32_t at[REFERENCES])
{
    start_lab("sim");
    raw_attach(&bad);
    CHECK(lab_ticket(&ticket));
    struct ffl_import x = {.key = ticket.key, .ticket = ticket.id};
    for (uint32_t h = 0; h < REFERENCES; h++) {
        open_socket(h, SOCK_STREAM);
        with_block(FFL_OP_EXPORT, h, &x, sizeof(x));
    }
    settle();
    for (uint32_t i = 0; i < HELD_LISTS; i++) {
        struct held *held;
        LIST_FOREACH(held, &lab.in->held[i], key)
        at[held->handle] = i;
    }
    all_gone(0);
    lab_stop();
}

/* Tickets are numbered, and handles chosen: who knew the lists could put all references in one. */
TEST(lists_are_not_known)
{
    uint32_t one[REFERENCES] = {0}, other[REFERENCES] = {0};
    where_references_are(one);
    where_references_are(other);
    CHECK(memcmp(one, other, sizeof(one)) != 0);
}
