/*
 * neighbours.c - what a good application gets beside bad ones.
 *
 * One thread steps the instance and plays all its applications and their peers, on the sim, so that
 * the same happens each time. The good one's share is what it gets beside three that do the same
 * work. Then the three are a slow reader, one whose pools are full, and a hostile one that
 * attaches, writes entries at random until its session is ended, and attaches again. What the
 * instance does meanwhile is counted in calls of the stack and bytes: per message of the good one
 * it may be a quarter more than beside equals.
 */
#include "lab.h"

#include "../../ffloop/_native/instance/internal.h"

#define SIZE 1024      /* bytes a message */
#define CONNECTIONS 16 /* of a worker, each with one message under way */
#define POURED 32      /* connections of one that does not read */
#define ROUNDS 500

/* ---- what the instance does ------------------------------------------------------------------ */

static uint64_t work; /* in bytes; a call is as much as 10 KiB (slice.h) */
static struct ffl_stack_ops counted;

static int weigh(int n)
{
    work += SLICE_CALL_NS * 1024 / SLICE_KIB_NS + (n > 0 ? (uint64_t)n : 0);
    return n;
}

static int count_send(void *st, int fd, const struct iovec *iov, int n, const struct ffl_addr *to,
                      const struct ffl_ctl *ctl, int flags)
{
    return weigh(ffl_sim_ops.send(st, fd, iov, n, to, ctl, flags));
}

static int count_recv(void *st, int fd, const struct iovec *iov, int n, struct ffl_addr *from,
                      struct ffl_ctl *ctl, int *flags)
{
    return weigh(ffl_sim_ops.recv(st, fd, iov, n, from, ctl, flags));
}

static int count_accept(void *st, int fd, struct ffl_addr *peer)
{
    int got = ffl_sim_ops.accept(st, fd, peer);
    (void)weigh(0);
    return got;
}

static int count_socket(void *st, int domain, int type, int proto)
{
    int fd = ffl_sim_ops.socket(st, domain, type, proto);
    (void)weigh(0);
    return fd;
}

static void start(void)
{
    lab_defaults("sim");
    counted = ffl_sim_ops;
    counted.send = count_send;
    counted.recv = count_recv;
    counted.accept = count_accept;
    counted.socket = count_socket;
    lab.o.stack = &counted;
    lab.o.pool_kib = 2048;
    lab_start_manual("");
    quiet();
}

/* ---- applications and their peers ------------------------------------------------------------ */

struct app {
    struct raw r;
    uint32_t h[POURED];
    int peer[POURED];
    unsigned n;
};

static void begin(struct app *a, int port, unsigned n, uint8_t flags)
{
    raw_attach(&a->r);
    raw_listen(&a->r, 0, "10.0.0.1", port, 64, flags);
    a->n = n;
    for (unsigned i = 0; i < n; i++)
        a->h[i] = raw_accepted(&a->r, 0, port, &a->peer[i]);
}

static void end(struct app *a)
{
    for (unsigned i = 0; i < a->n; i++)
        sim_shut(a->peer[i]);
    raw_gone(&a->r);
    iterations(10);
}

/* Both ends of a worker's connections send back what comes. Bytes that its peers got. */
static uint64_t echo(struct app *a)
{
    static char text[65536];
    struct ffl_entry e;
    uint64_t got = 0;
    for (unsigned i = 0; i < a->n; i++)
        for (int n; (n = sim_take(a->peer[i], text, sizeof(text))) > 0; got += (uint64_t)n)
            CHECK_EQ(sim_put(a->peer[i], text, (size_t)n), n);
    while (raw_next(&a->r, &e)) {
        CHECK_EQ(e.op, FFL_OP_RECV);
        raw_send(&a->r, e.handle, raw_rx(&a->r, e.buf), (size_t)e.arg);
        raw_give(&a->r, e.buf);
    }
    return got;
}

static void begin_echo(struct app *a, int port)
{
    static char text[SIZE];
    begin(a, port, CONNECTIONS, FFL_F_ARM_NEW);
    for (unsigned i = 0; i < a->n; i++)
        CHECK_EQ(sim_put(a->peer[i], text, sizeof(text)), SIZE);
}

/* Its peers send as much as they may. */
static void pour(struct app *a)
{
    static char text[65536];
    for (unsigned i = 0; i < a->n; i++)
        while (sim_put(a->peer[i], text, sizeof(text)) > 0)
            ;
}

/* It takes one buffer in ten rounds. */
static void read_slowly(struct app *a, int round)
{
    struct ffl_entry e;
    pour(a);
    if (round % 10 == 0 && raw_next(&a->r, &e))
        raw_give(&a->r, e.buf);
}

/* Its transmit pool is full of what peers do not take, its receive pool of what it does not give
 * back; and it tries to send on. */
static void fill_pools(struct app *a, int round)
{
    static char text[4096];
    struct raw *r = &a->r;
    struct ffl_entry e;
    pour(a);
    while (raw_next(r, &e)) /* kept */
        ;
    for (unsigned i = 0; i < a->n; i++) {
        uint32_t h = a->h[(i + (unsigned)round) % a->n];
        if (ffl_ring_room(&r->sq, 2) >= 2 && r->tx.n[1] + r->tx.n[2] > 1)
            raw_send(r, h, text, sizeof(text));
        raw_op(r, FFL_OP_ARM, h, 0, 0);
    }
}

static struct ffl_entry some_entry(uint64_t *seed)
{
    uint32_t x = test_random(seed);
    return (struct ffl_entry){.op = (uint8_t)(x % 8 ? x / 8 % FFL_OP_COUNT : x / 8),
                              .flags = (uint8_t)test_random(seed),
                              .tag = (uint16_t)x,
                              .handle = test_random(seed) % 4,
                              .arg = (int32_t)(test_random(seed) % 1000),
                              .buf = x % 3 ? test_random(seed) % 64 : FFL_NO_BUF};
}

static unsigned hostile_sessions;

static void be_hostile(struct raw *r, uint64_t *seed)
{
    if (r->sock && !raw_alive(r))
        raw_gone(r);
    if (!r->sock) {
        raw_attach(r);
        hostile_sessions++;
    }
    for (int i = 0; i < 8 && ffl_ring_room(&r->sq, 1) > 0; i++)
        raw_put(r, some_entry(seed));
}

/* ---- the comparison -------------------------------------------------------------------------- */

static struct app good, other[3];

static void turn(void)
{
    step(1000000, 2);
}

struct share { /* bytes of the good one's; work of the instance per byte */
    uint64_t got;
    double cost;
};

static struct share beside_equals(void)
{
    uint64_t got = 0;
    for (int i = 0; i < 3; i++)
        begin_echo(&other[i], 81 + i);
    work = 0;
    for (int round = 0; round < ROUNDS; round++) {
        got += echo(&good);
        for (int i = 0; i < 3; i++)
            (void)echo(&other[i]);
        turn();
    }
    struct share share = {got, (double)work / (double)got};
    for (int i = 0; i < 3; i++)
        end(&other[i]);
    return share;
}

static struct share beside_bad_ones(void)
{
    struct raw hostile = {0};
    uint64_t seed = 7, got = 0;
    begin(&other[0], 81, 4, FFL_F_ARM_NEW);
    begin(&other[1], 82, POURED, FFL_F_ARM_NEW);
    work = 0;
    for (int round = 0; round < ROUNDS; round++) {
        got += echo(&good);
        read_slowly(&other[0], round);
        fill_pools(&other[1], round);
        be_hostile(&hostile, &seed);
        turn();
    }
    struct share share = {got, (double)work / (double)got};
    const struct ffl_stat_session *s = lab.in->stat_sessions; /* the full one's is not the first */
    while (atomic_load(&s->id) != other[1].r.session)
        s++;
    CHECK(atomic_load(&s->rx_free) < s->rx_total / 2); /* what the shares leave of it (pool.h) */
    CHECK(hostile_sessions > 10);
    if (hostile.sock)
        raw_gone(&hostile);
    end(&other[0]);
    end(&other[1]);
    return share;
}

TEST(a_good_one_gets_its_share)
{
    start();
    begin_echo(&good, 80);
    struct share equal = beside_equals(), bad = beside_bad_ones();
    printf("%llu bytes for %.0f each beside equals, %llu for %.0f beside bad ones\n",
           (unsigned long long)equal.got, equal.cost, (unsigned long long)bad.got, bad.cost);
    CHECK(equal.got >= (uint64_t)SIZE * CONNECTIONS * ROUNDS / 4);
    CHECK(bad.got >= equal.got - equal.got / 5);
    CHECK(bad.cost < 1.25 * equal.cost);
    end(&good);
    lab_stop();
}
