/*
 * hostile.c - rule 7: nothing read from shared memory, or from a socket, is trusted.
 *
 * A lying application loses its session and nothing else: beside it an honest one goes on, and what
 * the liar held comes back. Meant for ASan and UBSan as much as for its own checks, as memory.c,
 * tickets.c and liar.c are.
 */
#include "lab.h"

#include <linux/filter.h>

#include "../../ffloop/_native/instance/internal.h"

#include <fcntl.h>
#include <netinet/udp.h>
#include <sys/mman.h>

/* ---- one lie each -------------------------------------------------------------------------- */

static uint32_t mine; /* a connected handle of the liar */

static void lie_close_twice(struct raw *r)
{
    raw_op(r, FFL_OP_CLOSE, mine, 0, FFL_F_ABORT);
    raw_op(r, FFL_OP_CLOSE, mine, 0, FFL_F_ABORT);
}

static void send_entry(struct raw *r, int32_t len, uint32_t buf, uint8_t flags)
{
    raw_put(r, (struct ffl_entry){
                   .op = FFL_OP_SEND, .flags = flags, .handle = mine, .arg = len, .buf = buf});
}

static void lie_send_one_buffer_twice(struct raw *r)
{
    uint32_t buf = raw_arg(r, "x", 1);
    /* the peer reads nothing, so that the first is still held when the second comes */
    static char fill[65536];
    for (int i = 0; i < 3; i++)
        raw_send(r, mine, fill, sizeof(fill));
    send_entry(r, 1, buf, 0);
    send_entry(r, 1, buf, 0);
}

static void lie_argument_in_a_foreign_buffer(struct raw *r)
{
    raw_put(r, (struct ffl_entry){.op = FFL_OP_SETSOCKOPT, .handle = mine, .buf = 0xefffffff});
}

static void lie_option_too_long(struct raw *r)
{
    struct ffl_optarg o = {.level = SOL_SOCKET, .name = SO_KEEPALIVE, .len = FFL_OPT_MAX + 1};
    raw_put(r, (struct ffl_entry){
                   .op = FFL_OP_SETSOCKOPT, .handle = mine, .buf = raw_arg(r, &o, sizeof(o))});
}

static void lie_option_beyond_its_buffer(struct raw *r)
{
    struct ffl_optarg o = {.level = SOL_SOCKET, .name = SO_KEEPALIVE, .len = FFL_OPT_MAX};
    uint32_t buf = raw_arg(r, &o, ffl_optarg_bytes(0));
    CHECK(ffl_buf_size(buf) < sizeof(o));
    raw_put(r, (struct ffl_entry){.op = FFL_OP_SETSOCKOPT, .handle = mine, .buf = buf});
}

static void lie_option_wanted_too_long(struct raw *r)
{
    struct ffl_optarg o = {.level = SOL_SOCKET, .name = SO_KEEPALIVE, .len = UINT32_MAX};
    raw_put(r, (struct ffl_entry){
                   .op = FFL_OP_GETSOCKOPT, .handle = mine, .buf = raw_arg(r, &o, sizeof(o))});
}

/* An address in this process, where the instance would read. */
static void lie_option_that_points_to_a_program(struct raw *r)
{
    static struct sock_filter all = {BPF_RET | BPF_K, 0, 0, UINT32_MAX};
    struct sock_fprog p = {1, &all};
    struct ffl_optarg o = {.level = SOL_SOCKET, .name = SO_ATTACH_FILTER, .len = sizeof(p)};
    memcpy(o.data, &p, sizeof(p));
    raw_put(r, (struct ffl_entry){
                   .op = FFL_OP_SETSOCKOPT, .handle = mine, .buf = raw_arg(r, &o, sizeof(o))});
}

static void filter_entry(struct raw *r, int name, uint32_t len)
{
    struct {
        struct ffl_filter head;
        struct sock_filter code[2];
    } f = {{.level = SOL_SOCKET, .name = name, .len = len}, {{BPF_RET | BPF_K, 0, 0, UINT32_MAX}}};
    raw_put(r,
            (struct ffl_entry){
                .op = FFL_OP_FILTER, .handle = mine, .tag = 3, .buf = raw_arg(r, &f, sizeof(f))});
}

static void lie_control_messages_of_a_stream_given_back(struct raw *r)
{
    struct ffl_ctl none = {0};
    raw_put(r, (struct ffl_entry){.op = FFL_OP_UNREAD,
                                  .flags = FFL_F_CTL,
                                  .handle = mine,
                                  .arg = sizeof(none),
                                  .buf = raw_arg(r, &none, sizeof(none))});
}

static void lie_credit_huge(struct raw *r)
{
    for (int i = 0; i < 10; i++)
        raw_op(r, FFL_OP_ARM, 0, 4096, 0);
}

static void lie_cq_head(struct raw *r)
{
    /* seen when the instance looks: when its own copy shows the ring full */
    atomic_store(&r->cq.ctl->head, r->cq.head + 100000);
    for (uint32_t i = 0; i < r->cq.size + 2; i++)
        raw_op(r, FFL_OP_NOP, 0, 0, 0), (void)(i % 512 == 511 ? iterate() : 0);
}

/* The eventfd is shared, its O_NONBLOCK too: full and blocking, it would hold whoever rings it. */
static void lie_doorbell_that_blocks(struct raw *r)
{
    uint64_t full = UINT64_MAX - 1;
    CHECK_EQ(write(r->app_bell, &full, sizeof(full)), sizeof(full));
    CHECK_EQ(fcntl(r->app_bell, F_SETFL, 0), 0);
    atomic_store(&r->map.seg->waits.app, FFL_WAIT_QUEUE);
    raw_op(r, FFL_OP_NOP, 0, 0, 0);
}

/* Of one entry each. */
#define LIES(X)                                                                                    \
    X(op_zero, raw_op(r, FFL_OP_NONE, 0, 0, 0))                                                    \
    X(op_unknown, raw_op(r, FFL_OP_COUNT, 0, 0, 0))                                                \
    X(op_255, raw_op(r, (enum ffl_op)255, mine, 0, 0))                                             \
    X(op_completion_only, raw_op(r, FFL_OP_CLOSED, mine, 0, 0))                                    \
    X(handle_not_open, raw_op(r, FFL_OP_ARM, 77, 0, 0))                                            \
    X(handle_out_of_range, raw_op(r, FFL_OP_CLOSE, 2 * r->map.geo.max_sockets, 0, 0))              \
    X(handle_max, raw_op(r, FFL_OP_CLOSE, UINT32_MAX, 0, 0))                                       \
    X(handle_of_a_neighbour, raw_op(r, FFL_OP_CLOSE, r->map.geo.max_sockets + 1, 0, 0))            \
    X(socket_twice, raw_socket(r, 0, SOCK_STREAM))                                                 \
    X(socket_in_the_instances_range, raw_socket(r, r->map.geo.max_sockets, SOCK_STREAM))           \
    X(send_no_buffer, send_entry(r, 10, FFL_NO_BUF, 0))                                            \
    X(send_class_out_of_range, send_entry(r, 10, 3u << FFL_BUF_CLASS_SHIFT, 0))                    \
    X(send_index_out_of_range,                                                                     \
      send_entry(r, 10, 2u << FFL_BUF_CLASS_SHIFT | r->map.geo.tx.count[2], 0))                    \
    X(send_negative, send_entry(r, -1, raw_arg(r, "x", 1), 0))                                     \
    X(send_longer_than_the_buffer, send_entry(r, 257, raw_arg(r, "x", 1), 0))                      \
    X(send_huge, send_entry(r, INT32_MAX, raw_arg(r, "x", 1), 0))                                  \
    X(send_address_cut_short,                                                                      \
      send_entry(r, (int32_t)sizeof(struct ffl_addr) - 1, raw_arg(r, "x", 1), FFL_F_ADDR))         \
    X(argument_without_a_buffer, raw_op(r, FFL_OP_CONNECT, mine, 0, 0))                            \
    X(filter_of_another_option, filter_entry(r, SO_RCVBUF, 1))                                     \
    X(filter_without_a_program, filter_entry(r, SO_ATTACH_FILTER, 0))                              \
    X(filter_beyond_its_buffer, filter_entry(r, SO_ATTACH_FILTER, 31))                             \
    X(filter_too_long, filter_entry(r, SO_ATTACH_FILTER, FFL_FILTER_MAX + 1))                      \
    X(shutdown_how, raw_op(r, FFL_OP_SHUTDOWN, mine, 3, 0))                                        \
    X(credit_negative, raw_op(r, FFL_OP_ARM, 0, -1, 0))                                            \
    X(sq_tail, atomic_store(&r->sq.ctl->tail, r->sq.tail + r->sq.size + 1))                        \
    X(sq_tail_backwards, atomic_store(&r->sq.ctl->tail, r->sq.tail - 1))                           \
    X(rxfree_foreign, raw_give(r, FFL_NO_BUF - 1))                                                 \
    X(rxfree_never_given, raw_give(r, 2u << FFL_BUF_CLASS_SHIFT | 1))                              \
    X(rxfree_tail, atomic_store(&r->rxfree.ctl->tail, r->rxfree.tail + r->rxfree.size + 1))

#define TELL(name, entry)                                                                          \
    static void lie_##name(struct raw *r)                                                          \
    {                                                                                              \
        entry;                                                                                     \
    }
LIES(TELL)

#define LIE(name) {#name, lie_##name}
#define ROW(name, entry) LIE(name),
static const struct {
    const char *name;
    void (*tell)(struct raw *r);
} lies[] = {
    LIES(ROW) LIE(close_twice),
    LIE(send_one_buffer_twice),
    LIE(argument_in_a_foreign_buffer),
    LIE(option_too_long),
    LIE(option_beyond_its_buffer),
    LIE(option_wanted_too_long),
    LIE(option_that_points_to_a_program),
    LIE(control_messages_of_a_stream_given_back),
    LIE(credit_huge),
    LIE(cq_head),
    LIE(doorbell_that_blocks),
};

TEST(r7_each_lie_ends_its_session_only)
{
    struct neighbour n;
    lab_start("clock=manual");
    neighbour_start(&n);
    unsigned sockets = ffl_instance_sockets(lab.in);
    int fds = test_open_fds();
    for (size_t i = 0; i < FFL_COUNT(lies); i++) {
        struct raw r;
        int peer;
        raw_attach(&r);
        raw_listen(&r, 0, "10.0.0.2", 81, 8, 0);
        peer = sim_dial("10.0.0.2", 81);
        struct ffl_entry e = raw_expect(&r, FFL_OP_ACCEPT, 0);
        mine = (uint32_t)e.arg;
        if (strcmp(lies[i].name, "send_address_cut_short") == 0) { /* for datagram sockets */
            mine = 3;
            raw_socket(&r, mine, SOCK_DGRAM);
        }
        CHECK(raw_alive(&r));
        lies[i].tell(&r);
        neighbour_works(&n);
        if (raw_alive(&r))
            FAIL("'%s' was not seen", lies[i].name);
        raw_gone(&r);
        sim_shut(peer);
        iterations(3);
        if (ffl_instance_sockets(lab.in) != sockets || test_open_fds() != fds)
            FAIL("'%s' left %u sockets for %u, %d descriptors for %d", lies[i].name,
                 ffl_instance_sockets(lab.in), sockets, test_open_fds(), fds);
        neighbour_works(&n);
    }
    neighbour_end(&n);
}

/* What an application leaves behind when it goes (handshake.h), and is no such thing. */
TEST(r7_a_rest_that_is_none)
{
    struct neighbour n;
    struct ffl_entry lie = {.op = 250, .handle = 7};
    enum { PIPE, OPEN, SHORT, FOREIGN, LIE, CASES };
    lab_start_manual("");
    quiet();
    neighbour_start(&n);
    int fds = test_open_fds();
    for (int k = 0; k < CASES; k++) {
        struct raw r;
        struct ffl_rest rest = {.magic = FFL_MAGIC + (k == FOREIGN), .n = k == SHORT ? 2 : 1};
        int fd = memfd_create("rest", MFD_ALLOW_SEALING), ends[2];
        CHECK(fd >= 0 && pipe(ends) == 0);
        CHECK_EQ(write(fd, &lie, sizeof(lie)), sizeof(lie));
        CHECK(k == OPEN || fcntl(fd, F_ADD_SEALS, FFL_REST_SEALS) == 0);
        raw_attach(&r);
        CHECK(ffl_msg_send(r.sock, &rest, sizeof(rest), k == PIPE ? &ends[0] : &fd, 1) > 0);
        raw_gone(&r);
        close(fd);
        close(ends[0]);
        close(ends[1]);
        iterations(5);
        CHECK_EQ(lab_sessions(), 1);
        neighbour_works(&n);
    }
    lab_settled(fds);
    neighbour_end(&n);
}

/* Answers that nobody will read: none is kept, however many are asked for. */
TEST(r7_a_rest_that_asks)
{
    enum { N = 20000 };
    static struct ffl_entry ask[N];
    struct ffl_rest rest = {.magic = FFL_MAGIC, .n = N};
    struct raw r;
    for (int i = 0; i < N; i++)
        ask[i] = (struct ffl_entry){.op = FFL_OP_NOP, .tag = 1, .buf = FFL_NO_BUF};
    int fd = memfd_create("rest", MFD_ALLOW_SEALING);
    CHECK_EQ(write(fd, ask, sizeof(ask)), sizeof(ask));
    CHECK_EQ(fcntl(fd, F_ADD_SEALS, FFL_REST_SEALS), 0);
    lab_start_manual("");
    raw_attach(&r);
    CHECK(ffl_msg_send(r.sock, &rest, sizeof(rest), &fd, 1) > 0);
    close(fd);
    iterations(5);
    CHECK_EQ(ffl_instance_sessions(lab.in), 0);
    CHECK_EQ(raw_avail(&r), 0);
    raw_finish(&r);
}

/* Only what an application may have, though the stack, with the instance's rights, has more. */
TEST(sockets_of_other_kinds)
{
    static const struct {
        int domain, type, proto, rc;
    } kinds[] = {
        {AF_PACKET, SOCK_RAW, 0, -EAFNOSUPPORT},       {AF_NETLINK, SOCK_RAW, 0, -EAFNOSUPPORT},
        {AF_UNIX, SOCK_STREAM, 0, -EAFNOSUPPORT},      {AF_INET, SOCK_RAW, 1, -ESOCKTNOSUPPORT},
        {AF_INET6, SOCK_RAW, 58, -ESOCKTNOSUPPORT},    {AF_INET, SOCK_DGRAM, 1, -EPROTONOSUPPORT},
        {AF_INET, SOCK_STREAM, 132, -EPROTONOSUPPORT},
    };
    struct raw r;
    lab_defaults("host");
    lab_start("");
    raw_attach(&r);
    for (uint32_t h = 0; h < FFL_COUNT(kinds); h++) {
        raw_put(&r, (struct ffl_entry){.op = FFL_OP_SOCKET,
                                       .handle = h,
                                       .arg = kinds[h].domain | kinds[h].type << 8 |
                                              kinds[h].proto << 16});
        CHECK_EQ(raw_expect(&r, FFL_OP_SOCKET, h).arg, kinds[h].rc);
    }
    raw_finish(&r);
}

/* An option that says where to write: at an address in the instance, which is this process. */
TEST(options_that_point)
{
    static uint8_t victim[4096];
    struct raw r;
    int l, peer = raw_connected(&r, &l);
    CHECK_EQ(send(peer, "written by a peer", 17, 0), 17);
    struct { /* of TCP_ZEROCOPY_RECEIVE (35): linux/tcp.h goes not with netinet/tcp.h */
        uint64_t address;
        uint32_t length, skip, inq;
        int32_t err;
        uint64_t copybuf;
        int32_t copybuf_len;
        uint32_t flags;
        uint64_t control, controllen;
        uint32_t msg_flags, reserved;
    } z = {.copybuf = (uintptr_t)victim, .copybuf_len = sizeof(victim)};
    struct ffl_optarg o = {.level = IPPROTO_TCP, .name = 35, .len = sizeof(z)};
    _Static_assert(sizeof(z) <= sizeof(o.data), "an option's room");
    memcpy(o.data, &z, sizeof(z));
    raw_put(&r,
            (struct ffl_entry){
                .op = FFL_OP_GETSOCKOPT, .handle = 0, .tag = 7, .buf = raw_arg(&r, &o, sizeof(o))});
    struct ffl_entry e = raw_expect(&r, FFL_OP_GETSOCKOPT, 0);
    CHECK_EQ(victim[0], 0);
    CHECK_EQ(e.arg, -ENOPROTOOPT);
    close(peer);
    close(l);
    raw_finish(&r);
}

/* A bound datagram socket as handles 0 and 1; its address. */
static struct sockaddr_in twice(struct raw *r, struct ffl_ticket *t)
{
    struct ffl_addr a = addr4("127.0.0.1", 0);
    struct ffl_addresses at;
    raw_socket(r, 0, SOCK_DGRAM);
    raw_put(r, (struct ffl_entry){.op = FFL_OP_BIND, .tag = 1, .buf = raw_arg(r, &a, sizeof(a))});
    struct ffl_entry e = raw_expect(r, FFL_OP_BIND, 0);
    memcpy(&at, raw_rx(r, e.buf), sizeof(at));
    raw_give(r, e.buf);
    CHECK(lab_ticket(t));
    raw_export(r, 0, t);
    struct ffl_import x = {.key = t->key, .ticket = t->id};
    raw_put(r,
            (struct ffl_entry){.op = FFL_OP_IMPORT, .handle = 1, .buf = raw_arg(r, &x, sizeof(x))});
    CHECK(raw_expect(r, FFL_OP_IMPORT, 1).arg >= 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = at.local.port_be};
    memcpy(&to.sin_addr, at.local.ip, sizeof(to.sin_addr));
    return to;
}

/* Answers take all receive buffers but one of the largest. Returns their number. */
static uint32_t hold_buffers(struct raw *r, uint32_t *held, uint32_t room)
{
    uint32_t n = 0, large = 0;
    while (large < r->map.geo.rx.count[2] - 1) {
        CHECK(n < room);
        raw_put(r, (struct ffl_entry){.op = FFL_OP_ADDRESSES, .tag = 1, .buf = FFL_NO_BUF});
        held[n] = raw_expect(r, FFL_OP_ADDRESSES, 0).buf;
        large += held[n++] >> FFL_BUF_CLASS_SHIFT == 2;
    }
    return n;
}

/* Two references to one socket: an option set through one of them is the other's, too. Here it
 * makes many datagrams one, which takes two buffers. */
TEST(an_option_of_another_reference)
{
    struct ffl_optarg o = {.level = IPPROTO_UDP, .name = UDP_GRO, .len = sizeof(int), .data = {1}};
    static uint8_t text[65340];
    const int size = 1210, n = sizeof(text);
    uint32_t held[256];
    struct ffl_ticket t;
    struct ffl_entry e;
    struct raw r;
    lab_defaults("host");
    lab_start("");
    raw_attach(&r);
    struct sockaddr_in to = twice(&r, &t);
    raw_put(&r, (struct ffl_entry){
                    .op = FFL_OP_SETSOCKOPT, .tag = 1, .buf = raw_arg(&r, &o, sizeof(o))});
    CHECK_EQ(raw_expect(&r, FFL_OP_SETSOCKOPT, 0).arg, 0);
    uint32_t nheld = hold_buffers(&r, held, FFL_COUNT(held));
    raw_op(&r, FFL_OP_ARM, 1, 0, 0);
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK_EQ(setsockopt(s, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof(size)), 0);
    CHECK_EQ(sendto(s, text, sizeof(text), 0, (struct sockaddr *)&to, sizeof(to)), n);
    raw_nothing(&r);
    while (nheld)
        raw_give(&r, held[--nheld]);
    for (int left = n; left > 0; raw_give(&r, e.buf)) {
        e = raw_expect(&r, FFL_OP_RECV, 1);
        left -= e.arg - (int)ffl_front_bytes(e.flags);
    }
    close(s);
    close(t.fd);
    raw_finish(&r);
}

/* The answer to a TAKE, and the connection that comes before it, if one does. */
static int32_t take(struct raw *r, uint32_t listener, uint32_t *connection)
{
    raw_put(r, (struct ffl_entry){
                   .op = FFL_OP_TAKE, .tag = 9, .handle = listener, .arg = 1, .buf = FFL_NO_BUF});
    struct ffl_entry e;
    for (int i = 0; i < 20; i++) {
        iterations(1);
        while (raw_next(r, &e)) {
            raw_give(r, e.buf);
            if (e.op == FFL_OP_ACCEPT)
                *connection = (uint32_t)e.arg;
            if (e.op == FFL_OP_TAKE)
                return e.arg;
        }
    }
    FAIL("no answer to a TAKE");
}

/* A listener that another reference takes for a stream: bytes given back are no connections, nor
 * connections bytes, and neither stay behind. */
TEST(bytes_and_connections_given_back)
{
    struct raw r;
    struct ffl_ticket t;
    uint32_t c = 0;
    lab_start_manual("");
    quiet();
    raw_attach(&r);
    CHECK_EQ(raw_bind(&r, 0, "10.0.0.1", 80, false), 0);
    CHECK(lab_ticket(&t));
    raw_export(&r, 0, &t);
    struct ffl_import x = {.key = t.key, .ticket = t.id};
    raw_put(&r, (struct ffl_entry){
                    .op = FFL_OP_IMPORT, .handle = 1, .buf = raw_arg(&r, &x, sizeof(x))});
    CHECK_EQ(raw_expect(&r, FFL_OP_IMPORT, 1).arg, 0);
    raw_put(&r, (struct ffl_entry){
                    .op = FFL_OP_UNREAD, .handle = 1, .arg = 1, .buf = raw_arg(&r, "x", 1)});
    raw_op(&r, FFL_OP_LISTEN, 0, 64, 0);
    struct ffl_entry e = raw_expect(&r, FFL_OP_LISTEN, 0);
    raw_give(&r, e.buf);
    int peer = sim_dial("10.0.0.1", 80);
    iterations(3);
    CHECK_EQ(take(&r, 0, &c), FFL_TAKE_LAST);
    raw_op(&r, FFL_OP_CLOSE, c, 0, FFL_F_RETURN);
    raw_op(&r, FFL_OP_ARM, 1, 0, 0);
    iterations(3);
    CHECK_EQ(take(&r, 0, &c), FFL_TAKE_LAST);
    raw_gone(&r);
    close(t.fd);
    iterations(5);
    for (int i = 0; i < CHARGES; i++)
        CHECK_EQ(lab.in->ledger.n[i], 0);
    sim_shut(peer);
    lab_stop();
}

/* A session that can make the instance log cannot make it log without end. */
TEST(log_that_is_flooded)
{
    struct raw r;
    char line[4096];
    unsigned lines = 0;
    FILE *log = tmpfile();
    lab_start_manual("");
    ffl_log_open(fileno(log), FFL_LOG_WARNING);
    time_t began = time(NULL);
    raw_attach(&r);
    raw_socket(&r, 0, SOCK_STREAM);
    for (int i = 0; i < 20000; i++) {
        raw_export(&r, 0, &(struct ffl_ticket){.id = 99});
        if (i % 100 == 99)
            iterations(1);
    }
    iterations(3);
    time_t took = time(NULL) - began;
    quiet();
    rewind(log);
    while (fgets(line, sizeof(line), log))
        lines++;
    CHECK(lines > 0);
    CHECK(lines <= 100 * ((unsigned)took + 2));
    (void)fclose(log);
    raw_finish(&r);
}
