/*
 * hostile.c - rule 7: nothing read from shared memory, or from a socket, is trusted.
 *
 * A lying application loses its session and nothing else: beside it an honest one goes on, and what
 * the liar held comes back. A lying instance costs the client its session (-EPROTO), not its life.
 * Meant for ASan and UBSan as much as for its own checks.
 */
#include "lab.h"

#include <linux/filter.h>

#include "../../ffloop/_native/instance/internal.h"

#include <fcntl.h>
#include <sched.h>
#include <linux/sockios.h>
#include <netinet/udp.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>

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

/* Bytes of a file in memory. */
static uint64_t memory(int fd)
{
    struct stat st;
    CHECK_EQ(fstat(fd, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

/* The memory that an application leaves behind is released by pieces: much would hold up the
 * others. */
TEST(r7_memory_that_is_left_behind)
{
    enum { MUCH = 16 << 20, MOST = 3 << 20 }; /* bytes; MOST: of one iteration */
    struct neighbour n;
    struct raw r;
    lab_defaults("sim");
    lab.o.pool_kib = MUCH >> 10;
    lab.o.slice_ns = 1000; /* the least work */
    lab_start("clock=manual");
    neighbour_start(&n);
    raw_attach(&r);
    int fd = dup(r.map.memfd);
    memset((char *)r.map.seg + r.map.geo.rx.off[0], 1, MUCH);
    raw_gone(&r);
    uint64_t before = memory(fd), now;
    CHECK(before >= MUCH);
    for (int i = 0; lab_sessions() + atomic_load(&lab.in->page->dying) > 1; before = now, i++) {
        CHECK(i < 1000);
        (void)iterate();
        now = memory(fd);
        CHECK(before - now <= MOST);
    }
    CHECK(before <= 4096); /* a note of the iteration, on the stats page */
    close(fd);
    neighbour_end(&n);
}

/* ---- memory that is taken away -------------------------------------------------------------- */

/* The size is sealed. Holes can be punched: on ordinary pages they are zeros, and that is a lie or
 * none, as any other scribbling. */
TEST(r7_punched_memory)
{
    struct neighbour n;
    struct raw r;
    lab_start("clock=manual");
    neighbour_start(&n);
    raw_attach(&r);
    raw_listen(&r, 0, "10.0.0.2", 81, 8, 0);
    int fd = r.map.memfd;
    CHECK(ftruncate(fd, 4096) < 0 && errno == EPERM);
    CHECK(ftruncate(fd, (off_t)r.map.geo.size * 2) < 0 && errno == EPERM);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) < 0 && errno == EPERM);
    CHECK_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, r.map.geo.size), 0);
    CHECK_EQ(madvise(r.map.seg, r.map.geo.size, MADV_REMOVE), 0);
    neighbour_works(&n);
    CHECK(!raw_alive(&r)); /* it had submitted; its tail says otherwise now */
    raw_gone(&r);
    neighbour_works(&n);
    neighbour_end(&n);
}

static void faults_now(void *seg,
                       size_t size) /* each access is a SIGBUS, as a hole without a page */
{
    int fd = memfd_create("empty", MFD_CLOEXEC);
    CHECK(fd >= 0);
    CHECK(mmap(seg, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == seg);
    close(fd);
}

TEST(r7_lost_memory)
{
    struct neighbour n;
    struct raw r;
    lab_start("clock=manual");
    neighbour_start(&n);
    unsigned sockets = ffl_instance_sockets(lab.in);
    int fds = test_open_fds();
    for (int ready = 0; ready < 2; ready++) { /* idle, and with data to read and to send */
        raw_attach(&r);
        raw_listen(&r, 0, "10.0.0.1", 81, 8, FFL_F_ARM_NEW);
        int peer;
        uint32_t h = raw_accepted(&r, 0, 81, &peer);
        if (ready) {
            raw_send(&r, h, "hello", 5);
            CHECK_EQ(sim_put(peer, "hello", 5), 5);
        }
        struct ffl_session *s = TAILQ_LAST(&lab.in->sessions, session_list);
        CHECK_EQ(s->id, r.session);
        faults_now(s->map.seg, s->map.geo.size);
        neighbour_works(&n);
        CHECK(!raw_alive(&r));
        raw_gone(&r);
        sim_shut(peer);
        iterations(3);
        CHECK_EQ(ffl_instance_sockets(lab.in), sockets);
        CHECK_EQ(test_open_fds(), fds);
    }
    neighbour_end(&n);
}

/* The same as it would be done: all huge pages are taken, the segment's own among them. */
TEST(r7_punched_huge_pages)
{
    struct neighbour n;
    struct raw r;
    void *page, *taken = NULL;
    lab_defaults("sim");
    lab.o.huge = true;
    lab_start("clock=manual");
    neighbour_start(&n);
    raw_attach(&r);
    raw_listen(&r, 0, "10.0.0.2", 81, 8, 0);
    struct stat st;
    CHECK_EQ(fstat(r.map.memfd, &st), 0);
    if (st.st_blksize != 2 << 20)
        FAIL("it needs 16 MiB of free huge pages (vm.nr_hugepages)");
    size_t size = r.map.geo.size, all = 0;
    CHECK_EQ(fallocate(r.map.memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)size), 0);
    while ((page = mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0)) !=
           MAP_FAILED) {
        *(void **)page = taken;
        taken = page;
        all++;
    }
    CHECK(all >= size >> 21);
    neighbour_works(&n);
    CHECK(!raw_alive(&r));
    for (; taken; taken = page) {
        page = *(void **)taken;
        munmap(taken, 2 << 20);
    }
    raw_gone(&r);
    neighbour_works(&n);
    neighbour_end(&n);
}

/* ---- random entries ------------------------------------------------------------------------ */

static struct ffl_entry random_entry(struct raw *r, uint64_t *seed)
{
    static const uint32_t handles[] = {0, 1, 2, 3, 256, 257, 258, 259};
    struct ffl_entry e;
    uint32_t x = test_random(seed);
    e.op = (uint8_t)(x % 50 ? x / 50 % FFL_OP_COUNT : x);
    e.flags = (uint8_t)(test_random(seed) % 3 ? 0 : test_random(seed));
    e.tag = (uint16_t)test_random(seed);
    e.handle = x % 97 ? handles[test_random(seed) % FFL_COUNT(handles)] : test_random(seed);
    e.arg = x % 3 ? (int32_t)(test_random(seed) % 300) : (int32_t)(test_random(seed) << 1);
    uint32_t cls = test_random(seed) % FFL_CLASSES;
    e.buf = x % 5 ? cls << FFL_BUF_CLASS_SHIFT | test_random(seed) % r->map.geo.tx.count[cls]
                  : (x % 2 ? FFL_NO_BUF : test_random(seed) * 2);
    if (e.op == FFL_OP_SOCKET && x % 5)
        e.arg = (test_random(seed) % 2 ? AF_INET : AF_INET6) |
                (test_random(seed) % 2 ? SOCK_STREAM : SOCK_DGRAM) << 8;
    if (ffl_buf_ok(&r->map.geo.tx, e.buf) && x % 7) { /* something that could be an argument */
        struct ffl_addr a = addr4("10.0.0.7", (int)(test_random(seed) % 4));
        memcpy(raw_tx(r, e.buf), &a, sizeof(a));
    }
    return e;
}

static void fuzz(uint64_t seed, int rounds, void (*more)(struct raw *r, uint64_t *seed))
{
    struct neighbour n;
    int sessions = 0;
    lab_start("clock=manual max_sockets=64");
    neighbour_start(&n);
    unsigned sockets = ffl_instance_sockets(lab.in);
    for (int i = 0; i < rounds; i++) {
        struct raw r;
        raw_attach(&r);
        sessions++;
        for (int k = 0; k < 60; k++) {
            for (uint32_t burst = test_random(&seed) % 8; burst > 0; burst--)
                if (ffl_ring_room(&r.sq, 1) > 0)
                    raw_put(&r, random_entry(&r, &seed));
            if (more)
                more(&r, &seed);
            ffl_sim_advance(sim, 1000);
            alarm(20); /* no iteration may hang */
            (void)iterate();
        }
        neighbour_works(&n);
        raw_gone(&r);
        iterations(2);
        CHECK_EQ(ffl_instance_sockets(lab.in), sockets);
    }
    CHECK_EQ(sessions, rounds);
    neighbour_end(&n);
}

TEST(r7_random_entries)
{
    fuzz(test_arg ? (uint64_t)atoll(test_arg) : 1, 1500 / TEST_SLOW, NULL);
}

/* Anything may stand anywhere that the application can write. */
static void scribble(struct raw *r, uint64_t *seed)
{
    uint32_t *words = (uint32_t *)r->map.seg, n = r->map.geo.size / 4;
    uint32_t x = test_random(seed);
    if (x % 4 == 0)
        atomic_store((_Atomic uint32_t *)&r->map.seg->ring[x / 4 % FFL_RINGS].head,
                     x % 3 ? x / 16 % 5000 : test_random(seed));
    if (x % 4 == 1)
        atomic_store((_Atomic uint32_t *)&r->map.seg->ring[x / 4 % FFL_RINGS].tail,
                     x % 3 ? x / 16 % 5000 : test_random(seed));
    if (x % 4 == 2)
        words[test_random(seed) % (sizeof(struct ffl_segment) / 4)] = test_random(seed);
    if (x % 4 == 3)
        for (int i = 0; i < 100; i++)
            words[test_random(seed) % n] = test_random(seed);
    for (uint32_t i = 0; x % 5 == 0 && i < 4; i++)
        raw_give(r, x % 2 ? test_random(seed) % 40 : test_random(seed));
}

static void scribble_quietly(struct raw *r, uint64_t *seed)
{
    scribble(r, seed);
    /* our own view must not stop the test: it begins anew from what stands there */
    r->sq.tail = atomic_load(&r->sq.ctl->tail);
    r->sq.head = r->sq.tail - test_random(seed) % 64;
    r->rxfree.tail = atomic_load(&r->rxfree.ctl->tail);
    r->rxfree.head = r->rxfree.tail - test_random(seed) % 64;
}

TEST(r7_scribbled_memory)
{
    fuzz(test_arg ? (uint64_t)atoll(test_arg) : 2, 1500 / TEST_SLOW, scribble_quietly);
}

/* ---- the handshake ------------------------------------------------------------------------- */

TEST(handshake_garbage)
{
    struct neighbour n;
    uint64_t seed = 3;
    uint8_t junk[600];
    lab_start("clock=manual");
    neighbour_start(&n);
    int fds = test_open_fds();
    for (int i = 0; i < 500; i++) {
        for (size_t k = 0; k < sizeof(junk); k++)
            junk[k] = (uint8_t)test_random(&seed);
        size_t len = 1 + test_random(&seed) % sizeof(junk);
        struct ffl_hello h = {.magic = FFL_MAGIC, .version = FFL_ABI_VERSION, .kind = junk[0]};
        if (i % 3 == 0 && h.kind != FFL_HELLO_ATTACH)
            memcpy(junk, &h, len < sizeof(h) ? len : sizeof(h));
        int s = lab_dial();
        int extra[2] = {s, s};
        CHECK_EQ(ffl_msg_send(s, junk, len, extra, i % 5 == 0 ? 2 : 0), len);
        iterations(3);
        struct ffl_reply reply;
        int rc = ffl_msg_recv(s, &reply, sizeof(reply), NULL, NULL);
        if (rc > 0) {
            CHECK_EQ(rc, sizeof(reply));
            CHECK(reply.status != FFL_REPLY_OK);
            CHECK(reply.why[0]);
        } else {
            CHECK(rc == 0 || rc == -ECONNRESET);
        }
        close(s);
        lab_settled(fds);
    }
    neighbour_works(&n);
    neighbour_end(&n);
}

TEST(handshake_answers)
{
    struct raw r;
    lab_defaults("sim");
    lab.o.max_sessions = 2;
    lab_start("clock=manual");
    quiet();
    struct ffl_hello h = {
        .magic = FFL_MAGIC, .version = FFL_ABI_VERSION + 1, .kind = FFL_HELLO_ATTACH};
    CHECK_EQ(raw_try(&r, &h), FFL_REPLY_VERSION);
    h.version = FFL_ABI_VERSION;
    h.kind = 9;
    CHECK_EQ(raw_try(&r, &h), FFL_REPLY_BAD);
    h.kind = FFL_HELLO_ATTACH;
    h.magic = 1;
    CHECK_EQ(raw_try(&r, &h), FFL_REPLY_BAD);
    h.magic = FFL_MAGIC;
    struct raw a, b;
    h.max_sockets = h.pool_kib = UINT32_MAX; /* wishes: the instance's limits hold */
    CHECK_EQ(raw_try(&a, &h), FFL_REPLY_OK);
    CHECK_EQ(a.map.geo.max_sockets, 256);
    h.max_sockets = h.pool_kib = 1;
    CHECK_EQ(raw_try(&b, &h), FFL_REPLY_OK);
    CHECK_EQ(b.map.geo.max_sockets, 1);
    CHECK_EQ(raw_try(&r, &h), FFL_REPLY_QUOTA);
    raw_gone(&b);
    iterations(3);
    CHECK_EQ(raw_try(&r, &h), FFL_REPLY_OK); /* its place is free again */
    raw_gone(&a);
    raw_gone(&r);
    iterations(3);
    CHECK_EQ(ffl_instance_sessions(lab.in), 0);
    lab_stop();
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

/* Those who connect and say nothing take neither the instance's time nor its places for ever. */
TEST(handshake_silence)
{
    struct neighbour n;
    int s[200];
    lab_start("clock=manual");
    neighbour_start(&n);
    for (int i = 0; i < 200; i++) {
        s[i] = lab_dial();
        (void)iterate();
        if (i % 50 == 0)
            neighbour_works(&n);
    }
    for (int i = 0; i < 200; i++)
        close(s[i]);
    iterations(5);
    struct raw r;
    raw_attach(&r);
    raw_gone(&r);
    neighbour_works(&n);
    neighbour_end(&n);
}

/* Somebody whom a ticket brings in, and the end that the instance has: we keep a copy. */
static void bring(const struct ffl_ticket *t, int ends[2])
{
    struct ffl_ticket_msg m = {.what = FFL_TICKET_CONNECT};
    CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    CHECK_EQ(ffl_msg_send(t->fd, &m, sizeof(m), &ends[1], 1), sizeof(m));
    iterations(2);
}

/* Closing its descriptor is not enough for the instance to be rid of a socket that we have too: it
 * still makes events, for a session, a waiting place, a ticket that is no more. */
TEST(ticket_with_kept_copies)
{
    const struct ffl_hello h = {
        .magic = FFL_MAGIC, .version = FFL_ABI_VERSION, .kind = FFL_HELLO_ATTACH};
    struct neighbour n;
    lab_start("clock=manual");
    neighbour_start(&n);
    int fds = test_open_fds();
    for (uint32_t kind = 0; kind < 5; kind++) { /* 0 and 4: no kind of hello */
        struct ffl_hello hello = h;
        struct ffl_ticket t;
        int ends[2];
        char text[600];
        CHECK(lab_ticket(&t));
        bring(&t, ends);
        hello.kind = kind;
        CHECK_EQ(ffl_msg_send(ends[0], &hello, sizeof(hello), NULL, 0), sizeof(hello));
        iterations(3);
        CHECK(recv(ends[0], text, sizeof(text), 0) > 0);
        close(ends[0]);
        iterations(3);
        neighbour_works(&n);
        close(ends[1]);
        /* No message of a ticket. */
        CHECK_EQ(ffl_msg_send(t.fd, &h, sizeof(h), &t.fd, 1), sizeof(h));
        iterations(3);
        close(t.fd);
        iterations(3);
        CHECK_EQ(lab_sessions(), 1);
        CHECK_EQ(lab.in->ledger.n[CHARGE_TICKET], 0);
        lab_settled(fds);
    }
    neighbour_end(&n);
}

/* O_NONBLOCK is the file's: of a socket that we have too, we can clear it. */
TEST(ticket_with_a_socket_that_blocks)
{
    struct ffl_hello h = {.magic = FFL_MAGIC, .version = FFL_ABI_VERSION + 1};
    struct neighbour n;
    struct ffl_ticket t;
    int ends[2];
    lab_start("clock=manual");
    neighbour_start(&n);
    CHECK(lab_ticket(&t));
    bring(&t, ends);
    while (send(ends[1], &h, sizeof(h), MSG_DONTWAIT) > 0) /* no room for the answer */
        ;
    CHECK_EQ(fcntl(ends[1], F_SETFL, 0), 0);
    CHECK_EQ(ffl_msg_send(ends[0], &h, sizeof(h), NULL, 0), sizeof(h));
    iterations(3);
    neighbour_works(&n);
    close(ends[0]);
    close(ends[1]);
    close(t.fd);
    iterations(3);
    neighbour_end(&n);
}

/* Who does not know its key puts nothing into a ticket: its holder would take it for his own. */
TEST(ticket_of_somebody_else)
{
    struct neighbour n;
    struct ffl_ticket t;
    lab_start("clock=manual");
    neighbour_start(&n);
    CHECK(lab_ticket(&t));
    for (int i = 0; i < 3; i++) {
        struct raw r;
        struct ffl_ticket guess = t;
        raw_attach(&r);
        raw_socket(&r, 0, SOCK_STREAM);
        guess.key += i == 2 ? 0 : 1u << i;
        guess.id += i == 2; /* there is none: nothing to guess */
        raw_export(&r, 0, &guess);
        iterations(3);
        CHECK_EQ(raw_alive(&r), i == 2);
        raw_gone(&r);
        iterations(3);
        struct ffl_import in = {.key = t.key, .ticket = t.id, .handle = 0};
        raw_attach(&r);
        raw_put(&r, (struct ffl_entry){
                        .op = FFL_OP_IMPORT, .handle = 3, .buf = raw_arg(&r, &in, sizeof(in))});
        CHECK_EQ(raw_expect(&r, FFL_OP_IMPORT, 3).arg, -ENOENT);
        raw_gone(&r);
        iterations(3);
    }
    close(t.fd);
    iterations(3);
    neighbour_works(&n);
    neighbour_end(&n);
}

static unsigned sim_sockets(void)
{
    unsigned n = 0;
    struct ffl_addr a;
    for (int fd = 0; fd < 4096; fd++)
        n += ffl_sim_ops.sockname(sim, fd, false, &a) == 0;
    return n;
}

/* A socket is in a ticket once, however often it is put there: nothing is used up. */
TEST(ticket_that_is_stuffed)
{
    struct neighbour n;
    struct raw r;
    struct ffl_ticket t;
    lab_start("clock=manual");
    neighbour_start(&n);
    raw_attach(&r);
    raw_listen(&r, 0, "10.0.0.1", 81, 0, 0);
    CHECK(lab_ticket(&t));
    unsigned sockets = sim_sockets();
    for (int i = 0; i < 500; i++) {
        raw_export(&r, 0, &t);
        iterations(2);
    }
    CHECK_EQ(sim_sockets(), sockets + 1);
    CHECK(raw_alive(&r));
    raw_gone(&r);
    close(t.fd);
    iterations(3);
    neighbour_works(&n);
    neighbour_end(&n);
}

/* Whoever talks without a pause on a ticket is heard for a while, and then the others are. */
TEST(ticket_that_talks_without_end)
{
    struct neighbour n;
    struct ffl_ticket t;
    struct ffl_ticket_msg m = {.what = FFL_TICKET_MARK};
    int unread, sent = 0;
    lab_start("clock=manual");
    neighbour_start(&n);
    CHECK(lab_ticket(&t));
    CHECK_EQ(fcntl(t.fd, F_SETFL, O_NONBLOCK), 0);
    while (ffl_msg_send(t.fd, &m, sizeof(m), NULL, 0) > 0)
        sent++;
    CHECK(sent > 40);
    lab.in->ctl_due = 0; /* it looks in this iteration */
    (void)iterate();
    CHECK_EQ(ioctl(t.fd, SIOCOUTQ, &unread), 0);
    CHECK(unread > 0);
    neighbour_works(&n);
    close(t.fd);
    iterations(sent);
    CHECK_EQ(lab.in->ledger.n[CHARGE_TICKET], 0);
    neighbour_end(&n);
}

/* One user takes some of the tickets, not all. */
TEST(tickets_without_number)
{
    static struct ffl_ticket t[100];
    size_t n = 0;
    struct neighbour good;
    lab_defaults("sim");
    lab.o.policy.any_user = true;
    lab_start("clock=manual");
    lab.in->ledger.limit[CHARGE_TICKET] = FFL_COUNT(t);
    neighbour_start(&good);
    while (n < FFL_COUNT(t) && lab_ticket(&t[n]))
        n++;
    CHECK_EQ(n, 75);
    close(t[0].fd);
    iterations(3);
    CHECK(lab_ticket(&t[0]));
    for (size_t i = 0; i < n; i++)
        close(t[i].fd);
    iterations(50);
    CHECK_EQ(lab.in->ledger.n[CHARGE_TICKET], 0);
    neighbour_works(&good);
    neighbour_end(&good);
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

/* ---- a lying instance ---------------------------------------------------------------------- */

struct fake {
    int listener, peer, bells[2];
    struct ffl_map map;
    struct ffl_ring cq, txfree;
    pthread_t thread;
    struct ffl_client *c;
    int rc;
    char why[256];
};

static void *fake_attach(void *arg)
{
    struct fake *f = arg;
    struct ffl_client_opts o = {.path = lab.path, .timeout_ms = 2000};
    f->rc = ffl_client_attach(&f->c, &o, f->why, sizeof(f->why));
    return NULL;
}

static void fake_open(struct fake *f)
{
    struct sockaddr_un sa;
    socklen_t len;
    struct ffl_hello h;
    memset(f, 0, sizeof(*f));
    snprintf(lab.path, sizeof(lab.path), "@ffl-fake-%d", (int)getpid());
    CHECK_EQ(ffl_unix_addr(lab.path, &sa, &len), 0);
    f->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    CHECK_EQ(bind(f->listener, (struct sockaddr *)&sa, len), 0);
    CHECK_EQ(listen(f->listener, 4), 0);
    CHECK_EQ(pthread_create(&f->thread, NULL, fake_attach, f), 0);
    f->peer = accept4(f->listener, NULL, NULL, SOCK_CLOEXEC);
    CHECK(f->peer >= 0);
    CHECK_EQ(recv(f->peer, &h, sizeof(h), 0), sizeof(h));
}

static void fake_close(struct fake *f)
{
    close(f->peer);
    close(f->listener);
}

TEST(client_meets_garbage_replies)
{
    uint64_t seed = 4;
    quiet();
    int before = test_open_fds();
    for (int i = 0; i < 300; i++) {
        struct fake f;
        fake_open(&f);
        uint8_t junk[400];
        struct ffl_reply good = {.magic = FFL_MAGIC, .version = FFL_ABI_VERSION};
        for (size_t k = 0; k < sizeof(junk); k++)
            junk[k] = (uint8_t)test_random(&seed);
        size_t len = test_random(&seed) % sizeof(junk);
        int nfds = (int)(test_random(&seed) % 6), fds[6] = {0, 1, 2, 0, 1, 2};
        if (i % 2) { /* a good reply with wrong descriptors, or a status that is none */
            good.status = i % 4 == 1 ? 0 : test_random(&seed);
            memset(good.why, 'x', sizeof(good.why));
            memset(good.stack, 'y', sizeof(good.stack));
            memcpy(junk, &good, sizeof(good));
            len = sizeof(good);
        }
        if (len)
            CHECK_EQ(ffl_msg_send(f.peer, junk, len, fds, nfds), len);
        else
            close(f.peer), f.peer = -1;
        pthread_join(f.thread, NULL);
        CHECK(f.rc < 0);
        CHECK(f.why[0]);
        fake_close(&f);
        CHECK_EQ(test_open_fds(), before);
    }
}

static void fake_session(struct fake *f)
{
    struct ffl_geo geo;
    struct ffl_reply reply = {.magic = FFL_MAGIC, .version = FFL_ABI_VERSION, .stack = "fake"};
    fake_open(f);
    ffl_geo_default(&geo, 16, 64);
    CHECK_EQ(ffl_segment_create(&f->map, &geo, false), 0);
    f->bells[0] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    f->bells[1] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int fds[] = {f->map.memfd, f->bells[0], f->bells[1]};
    CHECK_EQ(ffl_msg_send(f->peer, &reply, sizeof(reply), fds, 3), sizeof(reply));
    pthread_join(f->thread, NULL);
    CHECK_EQ(f->rc, 0);
    ffl_segment_ring(&f->map, FFL_CQ, &f->cq);
    ffl_segment_ring(&f->map, FFL_TXFREE, &f->txfree);
}

static void fake_end(struct fake *f)
{
    ffl_client_detach(f->c);
    ffl_segment_drop(&f->map);
    close(f->bells[0]);
    close(f->bells[1]);
    fake_close(f);
}

static struct ffl_entry random_completion(const struct fake *f, uint64_t *seed)
{
    struct ffl_entry e;
    uint32_t x = test_random(seed), cls = test_random(seed) % FFL_CLASSES;
    e.op = (uint8_t)(x % 50 ? x / 50 % FFL_OP_COUNT : x);
    e.flags = (uint8_t)(test_random(seed) % 3 ? 0 : test_random(seed));
    e.tag = (uint16_t)(test_random(seed) % 4);
    e.handle = x % 97 ? test_random(seed) % 20 : test_random(seed);
    e.arg = x % 3 ? (int32_t)(test_random(seed) % 40) : (int32_t)(test_random(seed) << 1);
    e.buf = x % 5 ? cls << FFL_BUF_CLASS_SHIFT | test_random(seed) % f->map.geo.rx.count[cls]
                  : (x % 2 ? FFL_NO_BUF : test_random(seed) * 2);
    return e;
}

static void use_client(struct ffl_client *c, uint64_t *seed)
{
    struct ffl_event ev[16];
    static char buf[5000];
    int flags;
    struct ffl_addr a = addr4("10.0.0.1", 80);
    int n = ffl_client_wait(c, ev, 16, -1, 0);
    for (int i = 0; i < n; i++)
        if (ev[i].kind == FFL_EV_DATA && ev[i].off) { /* within the segment, whatever was posted */
            CHECK(ev[i].off <= ffl_client_size(c) && ev[i].arg <= ffl_client_size(c) - ev[i].off);
            if (test_random(seed) % 4 == 0)
                (void)ffl_client_unread(c, (int)ev[i].handle);
        }
    int h = (int)(test_random(seed) % 20);
    switch (test_random(seed) % 9) {
    case 0:
        (void)ffl_client_socket(c, AF_INET, test_random(seed) % 3 ? SOCK_STREAM : SOCK_DGRAM, 0, 0);
        break;
    case 1:
        (void)ffl_client_send(c, h, buf, 1 + test_random(seed) % sizeof(buf));
        break;
    case 2:
        (void)ffl_client_recv(c, h, buf, 1 + test_random(seed) % sizeof(buf), 0, &a, &flags);
        break;
    case 3:
        (void)ffl_client_close(c, h, test_random(seed) % 2);
        break;
    case 4:
        (void)ffl_client_push(c, h, test_random(seed) % 2);
        break;
    case 5:
        (void)ffl_client_connect(c, h, &a);
        break;
    case 6:
        (void)ffl_client_want(c, h, test_random(seed) % 4);
        break;
    case 7:
        (void)ffl_client_accept(c, h, NULL);
        break;
    default:
        (void)ffl_client_sendto(c, h, buf, test_random(seed) % sizeof(buf), &a);
    }
}

TEST(r7_client_survives_a_lying_instance)
{
    uint64_t seed = test_arg ? (uint64_t)atoll(test_arg) : 5;
    int dead = 0;
    quiet();
    for (int i = 0; i < 1000 / TEST_SLOW; i++) {
        struct fake f;
        fake_session(&f);
        for (int k = 0; k < 3; k++)
            CHECK(ffl_client_socket(f.c, AF_INET, k ? SOCK_STREAM : SOCK_DGRAM, 0, 0) >= 0);
        for (int k = 0; k < 60; k++) {
            alarm(20);
            use_client(f.c, &seed);
            if (test_random(&seed) % 2) {
                ffl_ring_put_entry(&f.cq, random_completion(&f, &seed));
                ffl_ring_commit(&f.cq);
            }
            uint32_t x = test_random(&seed);
            if (x % 37 == 0)
                atomic_store(&f.map.seg->ring[x / 37 % FFL_RINGS].head, test_random(&seed));
            if (x % 41 == 0)
                atomic_store(&f.map.seg->ring[x / 41 % FFL_RINGS].tail, test_random(&seed));
            if (x % 29 == 0) {
                ffl_ring_put_id(&f.txfree, test_random(&seed) % 3);
                ffl_ring_commit(&f.txfree);
            }
        }
        dead += ffl_client_detached(f.c) == -EPROTO;
        fake_end(&f);
    }
    CHECK(dead > 0);
}

static void *import_thread(void *arg)
{
    struct fake *f = arg;
    f->rc = ffl_client_import(f->c, &(struct ffl_ticket){.id = 1, .key = 1}, 0, AF_INET,
                              SOCK_STREAM, 0);
    return NULL;
}

/* The answer to an import, and the end of the connect that was under way, in one batch. */
TEST(client_imports_a_connect_that_has_ended)
{
    struct fake f;
    struct ffl_ring sq;
    struct ffl_event ev[8];
    uint64_t one = 1;
    bool writable = false;
    fake_session(&f);
    ffl_segment_ring(&f.map, FFL_SQ, &sq);
    CHECK_EQ(pthread_create(&f.thread, NULL, import_thread, &f), 0);
    while (ffl_ring_avail(&sq) == 0)
        (void)sched_yield();
    struct ffl_entry q = ffl_ring_get_entry(&sq);
    CHECK_EQ(q.op, FFL_OP_IMPORT);
    ffl_ring_put_entry(&f.cq, (struct ffl_entry){.op = FFL_OP_IMPORT,
                                                 .tag = q.tag,
                                                 .handle = q.handle,
                                                 .arg = FFL_IMPORT_CONNECTING,
                                                 .buf = FFL_NO_BUF});
    ffl_ring_put_entry(
        &f.cq, (struct ffl_entry){.op = FFL_OP_CONNECT, .handle = q.handle, .buf = FFL_NO_BUF});
    ffl_ring_commit(&f.cq);
    CHECK_EQ(write(f.bells[0], &one, sizeof(one)), sizeof(one));
    pthread_join(f.thread, NULL);
    CHECK_EQ(f.rc, (int)q.handle);
    (void)ffl_client_want(f.c, f.rc, FFL_WRITE);
    int n = ffl_client_wait(f.c, ev, 8, -1, 0);
    for (int i = 0; i < n; i++)
        writable |= ev[i].kind == FFL_EV_WRITABLE;
    CHECK(writable);
    fake_end(&f);
}

static const struct completion_lie {
    const char *name;
    struct ffl_entry e;
    bool twice;
} completion_lies[] = {
    {"no operation", {.op = FFL_OP_NONE, .buf = FFL_NO_BUF}, false},
    {"an unknown operation", {.op = 99, .buf = FFL_NO_BUF}, false},
    {"one that has no completion", {.op = FFL_OP_SEND, .buf = FFL_NO_BUF}, false},
    {"a handle that is not open", {.op = FFL_OP_RECV, .handle = 7, .buf = FFL_NO_BUF}, false},
    {"a handle out of range", {.op = FFL_OP_RECV, .handle = 32, .buf = FFL_NO_BUF}, false},
    {"a huge handle", {.op = FFL_OP_RECV, .handle = UINT32_MAX, .buf = FFL_NO_BUF}, false},
    {"data longer than its buffer", {.op = FFL_OP_RECV, .arg = 257, .buf = 0}, false},
    {"a negative length", {.op = FFL_OP_RECV, .arg = -5, .buf = 0}, false},
    {"a buffer class out of range", {.op = FFL_OP_RECV, .arg = 1, .buf = 0x30000000}, false},
    {"a buffer out of range", {.op = FFL_OP_RECV, .arg = 1, .buf = 0x0fffffff}, false},
    {"one buffer twice", {.op = FFL_OP_RECV, .arg = 1, .buf = 3}, true},
    {"an address cut short", {.op = FFL_OP_RECV, .flags = FFL_F_ADDR, .arg = 27, .buf = 0}, false},
    {"an accept on what is no listener",
     {.op = FFL_OP_ACCEPT, .arg = 16, .buf = FFL_NO_BUF},
     false},
    {"names in a buffer out of range", {.op = FFL_OP_CONNECT, .buf = 0x2fffffff}, false},
    {"an answer in a buffer out of range", {.op = FFL_OP_ADDRESSES, .buf = 0x2fffffff}, false},
    {"the end of a socket that was not closed", {.op = FFL_OP_CLOSED, .buf = FFL_NO_BUF}, false},
};

TEST(r7_each_lie_of_an_instance_is_seen)
{
    struct ffl_event ev[8];
    quiet();
    for (size_t i = 0; i < FFL_COUNT(completion_lies); i++) {
        const struct completion_lie *lie = &completion_lies[i];
        struct fake f;
        fake_session(&f);
        CHECK_EQ(ffl_client_socket(f.c, AF_INET, SOCK_STREAM, 0, 0), 0);
        CHECK_EQ(ffl_client_wait(f.c, ev, 8, -1, 0), 0);
        for (int k = 0; k <= lie->twice; k++)
            ffl_ring_put_entry(&f.cq, lie->e);
        ffl_ring_commit(&f.cq);
        (void)ffl_client_wait(f.c, ev, 8, -1, 0);
        if (ffl_client_detached(f.c) != -EPROTO)
            FAIL("%s: not seen", lie->name);
        fake_end(&f);
    }
    static const uint32_t ids[] = {0, FFL_NO_BUF, 2u << FFL_BUF_CLASS_SHIFT};
    for (size_t i = 0; i < FFL_COUNT(ids); i++) { /* transmit buffers that were not out */
        struct fake f;
        fake_session(&f);
        ffl_ring_put_id(&f.txfree, ids[i]);
        ffl_ring_commit(&f.txfree);
        (void)ffl_client_wait(f.c, ev, 8, -1, 0);
        CHECK_EQ(ffl_client_detached(f.c), -EPROTO);
        fake_end(&f);
    }
    for (int ring = FFL_CQ; ring <= FFL_TXFREE; ring++) {
        struct fake f;
        fake_session(&f);
        atomic_store(&f.map.seg->ring[ring].tail, 100000);
        (void)ffl_client_wait(f.c, ev, 8, -1, 0);
        CHECK_EQ(ffl_client_detached(f.c), -EPROTO);
        fake_end(&f);
    }
}
