/* attacker.c - see attacker.h. */
#include "attacker.h"

#include <sys/resource.h>
#include <time.h>

#define MANY 10000u

uint32_t many;
struct raw bad;
int64_t worst;
struct ffl_ticket ticket;

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

void make_room(uint32_t n)
{
    while (ffl_ring_room(&bad.sq, n) < (int)n) {
        timed_iteration();
        empty_cq();
    }
}

void settle(void)
{
    do {
        timed_iteration();
        empty_cq();
    } while (!all_read());
}

void make_buffers(int cls)
{
    while (bad.tx.n[cls] < 2) {
        timed_iteration();
        empty_cq();
        CHECK_EQ(ffl_pool_put(&bad.tx, raw_arg(&bad, "x", 1)), 0); /* which takes others back */
    }
}

void with_block(enum ffl_op op, uint32_t h, const void *block, size_t len)
{
    make_room(1);
    make_buffers(0);
    raw_put(&bad, (struct ffl_entry){
                      .op = (uint8_t)op, .tag = 1, .handle = h, .buf = raw_arg(&bad, block, len)});
}

void plain(enum ffl_op op, uint32_t h, int32_t arg, uint8_t flags)
{
    make_room(1);
    raw_op(&bad, op, h, arg, flags);
}

void open_socket(uint32_t h, int type)
{
    plain(FFL_OP_SOCKET, h, AF_INET | type << 8, 0);
}

void listeners(void)
{
    struct ffl_addr a = addr4(lab.o.stack->kernel ? "127.0.0.1" : "10.0.0.3", 0);
    for (uint32_t h = 0; h < many; h++) {
        open_socket(h, SOCK_STREAM);
        with_block(FFL_OP_BIND, h, &a, sizeof(a));
        plain(FFL_OP_LISTEN, h, 1, 0);
    }
}

void start_lab(const char *stack)
{
    struct rlimit rl;
    lab_defaults(stack);
    lab.o.max_sockets = 65536;
    lab.o.pool_kib = 16384;
    lab.o.slice_ns = SLICE_NS;
    lab_start(lab.o.stack->kernel ? "" : "clock=manual max_sockets=65536");
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &rl), 0);
    many = rl.rlim_cur < 3 * MANY && lab.o.stack->kernel ? (uint32_t)rl.rlim_cur / 3 : MANY;
    quiet();
}

void all_gone(unsigned sessions)
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
