/*
 * slices.c - no session delays another, whatever it does that is allowed.
 *
 * Each attack is a row of valid entries, some ten thousand sockets large; at the end the session that
 * made it dies with all that it has. No iteration may take long, by the thread's own clock: what else the
 * machine does is not counted. A neighbour's message goes and comes within a few iterations all the while.
 * On the host stack with as many sockets as the limits of this process allow.
 */
#include "lab.h"

#include "../../ffloop/_native/instance/internal.h"

#include <sys/resource.h>
#include <time.h>

#define MANY 10000u
#define ITERATION_NS (10 * 1000000LL * TEST_SLOW) /* a fifth of what another may be delayed */

static uint32_t many;
static struct raw bad;
static int64_t worst;

static int64_t cpu_ns(void)
{
    struct timespec ts;
    CHECK_EQ(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts), 0);
    return ts.tv_sec * FFL_NS_PER_SEC + ts.tv_nsec;
}

static void timed_iteration(void)
{
    int64_t began = cpu_ns();
    (void)iterate();
    int64_t took = cpu_ns() - began;
    worst = took > worst ? took : worst;
}

static void empty_cq(void)
{
    struct ffl_entry e;
    while (raw_next(&bad, &e)) {
        if (e.op == FFL_OP_LISTEN || e.op == FFL_OP_IMPORT)
            CHECK(e.arg >= 0); /* else it would be no attack */
        raw_give(&bad, e.buf);
    }
}

static bool all_read(void)
{
    return ffl_ring_room(&bad.sq, bad.sq.size) == (int)bad.sq.size;
}

/* Room in the SQ, and buffers, for `n` entries more. */
static void make_room(uint32_t n)
{
    while (ffl_ring_room(&bad.sq, n) < (int)n) {
        timed_iteration();
        empty_cq();
    }
}

static void settle(void)
{
    do {
        timed_iteration();
        empty_cq();
    } while (!all_read());
}

/* Buffers of the class that are free, after as many iterations as it takes. */
static void make_buffers(int cls)
{
    while (bad.tx.n[cls] < 2) {
        timed_iteration();
        empty_cq();
        CHECK_EQ(ffl_pool_put(&bad.tx, raw_arg(&bad, "x", 1)), 0); /* which takes others back */
    }
}

static void with_block(enum ffl_op op, uint32_t h, const void *block, size_t len)
{
    make_room(1);
    make_buffers(0);
    raw_put(&bad, (struct ffl_entry){
                      .op = (uint8_t)op, .tag = 1, .handle = h, .buf = raw_arg(&bad, block, len)});
}

static void plain(enum ffl_op op, uint32_t h, int32_t arg, uint8_t flags)
{
    make_room(1);
    raw_op(&bad, op, h, arg, flags);
}

static void open_socket(uint32_t h, int type)
{
    plain(FFL_OP_SOCKET, h, AF_INET | type << 8, 0);
}

/* ---- the attacks ----------------------------------------------------------------------------- */

static void listeners(void)
{
    struct ffl_addr a = addr4(lab.o.stack->kernel ? "127.0.0.1" : "10.0.0.3", 0);
    for (uint32_t h = 0; h < many; h++) {
        open_socket(h, SOCK_STREAM);
        with_block(FFL_OP_BIND, h, &a, sizeof(a));
        plain(FFL_OP_LISTEN, h, 1, 0);
    }
}

/* One address bound again and again, beside so many sockets that others might have there. */
static void binds(void)
{
    struct ffl_addr a = addr4(lab.o.stack->kernel ? "127.0.0.1" : "10.0.0.3", 0);
    for (uint32_t h = 0; h < many; h++) {
        open_socket(h, SOCK_DGRAM);
        with_block(FFL_OP_BIND, h, &a, sizeof(a));
    }
    a.port_be = htons(33333);
    for (uint32_t i = 0; i < many; i++)
        with_block(FFL_OP_BIND, 0, &a, sizeof(a));
}

static struct ffl_ticket ticket;

/* So many references to one socket, closed at one moment; then there are as many in a ticket. */
static void references(void)
{
    CHECK(lab_ticket(&ticket));
    struct ffl_import x = {.key = ticket.key, .ticket = ticket.id};
    open_socket(0, SOCK_STREAM);
    for (uint32_t h = 1; h < many; h++) {
        with_block(FFL_OP_EXPORT, 0, &x, sizeof(x));
        with_block(FFL_OP_IMPORT, h, &x, sizeof(x));
        plain(FFL_OP_ARM, h, 0, 0);
    }
    for (int i = 0; i < 300; i++) {
        make_room(1);
        make_buffers(0);
        raw_put(&bad,
                (struct ffl_entry){.op = FFL_OP_UNREAD, .arg = 1, .buf = raw_arg(&bad, "x", 1)});
    }
    settle();
    for (uint32_t h = 1; h < many; h++)
        plain(FFL_OP_CLOSE, h, 0, FFL_F_ABORT);
    settle();
    for (uint32_t h = 1; h < many; h++) {
        open_socket(h, SOCK_STREAM);
        with_block(FFL_OP_EXPORT, h, &x, sizeof(x));
        plain(FFL_OP_CLOSE, h, 0, FFL_F_ABORT);
    }
}

static void exports(void)
{
    struct ffl_import x = {.ticket = 0x7fffffff};
    open_socket(0, SOCK_STREAM);
    for (uint32_t i = 0; i < many; i++)
        with_block(FFL_OP_EXPORT, 0, &x, sizeof(x));
}

static void connects(void)
{
    struct ffl_addr a = addr4(lab.o.stack->kernel ? "127.0.0.1" : "10.0.0.9", 1);
    for (uint32_t h = 0; h < many; h++) {
        open_socket(h, SOCK_STREAM);
        with_block(FFL_OP_CONNECT, h, &a, sizeof(a));
    }
}

static void datagrams(void)
{
    static uint8_t much[60000];
    struct ffl_addr a = addr4(lab.o.stack->kernel ? "127.0.0.1" : "10.0.0.3", 9);
    memcpy(much, &a, sizeof(a));
    for (uint32_t h = 0; h < 16; h++)
        open_socket(h, SOCK_DGRAM);
    for (uint32_t i = 0; i < many; i++) {
        make_room(1);
        make_buffers(2);
        raw_put(&bad, (struct ffl_entry){.op = FFL_OP_SEND,
                                         .flags = FFL_F_ADDR,
                                         .handle = i % 16,
                                         .arg = sizeof(much),
                                         .buf = raw_arg(&bad, much, sizeof(much))});
    }
}

static void churn(void)
{
    for (uint32_t i = 0; i < many; i++) {
        open_socket(i % 64, SOCK_STREAM);
        plain(FFL_OP_CLOSE, i % 64, 0, FFL_F_ABORT);
        if (i % 64 == 63)
            settle();
    }
}

/* ---- how they are told apart ----------------------------------------------------------------- */

static void start_lab(const char *stack)
{
    struct rlimit rl;
    lab_defaults(stack);
    lab.o.max_sockets = 65536;
    lab.o.pool_kib = 4096;
    lab.o.slice_ns = 200000;
    lab_start(lab.o.stack->kernel ? "" : "clock=manual max_sockets=65536");
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &rl), 0);
    many = rl.rlim_cur < 3 * MANY && lab.o.stack->kernel ? (uint32_t)rl.rlim_cur / 3 : MANY;
    quiet();
}

/* The session goes, with all that it has; and the ticket. */
static void all_gone(unsigned sessions)
{
    if (ticket.fd > 0)
        close(ticket.fd);
    raw_gone(&bad);
    for (int i = 0; lab_sessions() + atomic_load(&lab.in->page->dying) > sessions ||
                    !TAILQ_EMPTY(&lab.in->dropped);
         i++) {
        CHECK(i < 100000);
        timed_iteration();
    }
}

static void attack(const char *stack, void (*f)(void))
{
    struct neighbour n;
    start_lab(stack);
    bool sim_there = !lab.o.stack->kernel;
    if (sim_there)
        neighbour_start(&n);
    raw_attach(&bad);
    worst = 0;
    f();
    if (sim_there)
        neighbour_works(&n); /* in the middle of it */
    settle();
    all_gone(sim_there);
    if (worst > ITERATION_NS)
        FAIL("%s: an iteration of %.1f ms", stack, (double)worst / 1e6);
    if (sim_there)
        neighbour_end(&n);
    else
        lab_stop();
}

TEST(slices_listeners)
{
    attack("sim", listeners);
}
TEST(slices_listeners_host)
{
    attack("host", listeners);
}
TEST(slices_binds)
{
    attack("sim", binds);
}
TEST(slices_binds_host)
{
    attack("host", binds);
}
TEST(slices_references)
{
    attack("sim", references);
}
TEST(slices_references_host)
{
    attack("host", references);
}
TEST(slices_exports)
{
    attack("sim", exports);
}
TEST(slices_connects)
{
    attack("sim", connects);
}
TEST(slices_connects_host)
{
    attack("host", connects);
}
TEST(slices_datagrams)
{
    attack("sim", datagrams);
}
TEST(slices_datagrams_host)
{
    attack("host", datagrams);
}
TEST(slices_churn)
{
    attack("sim", churn);
}
TEST(slices_churn_host)
{
    attack("host", churn);
}
