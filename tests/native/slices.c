/*
 * slices.c - no session delays another, whatever it does that is allowed.
 *
 * Each attack is a row of valid entries, some ten thousand sockets large; at the end the session
 * that made it dies with all that it has. No iteration may take long, by the thread's own clock:
 * what else the machine does is not counted. A neighbour's message goes and comes within a few
 * iterations all the while. On the host stack with as many sockets as the limits of this process
 * allow. How much of the attackers' is done in one iteration is counted too: entries, bytes, closed
 * sockets.
 */
#include "lab.h"

#include "../../ffloop/_native/instance/internal.h"
#include "option.h"

#include <linux/filter.h>
#include <sys/resource.h>
#include <time.h>

#define MANY 10000u
#define ITERATION_NS (25 * 1000000LL * TEST_SLOW) /* half of what another may be delayed */
#define SLICE_NS 200000

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
    plain(FFL_OP_SHUTDOWN, many / 2, SHUT_WR, 0); /* each reference is told, and has its turn */
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

/* Listeners at one port of as many addresses. */
static void one_port(void)
{
    for (uint32_t h = 0; h < many; h++) {
        char ip[32];
        snprintf(ip, sizeof(ip), "127.%u.%u.%u", 1 + h / 62500, h / 250 % 250, 1 + h % 250);
        struct ffl_addr a = addr4(ip, 33334);
        open_socket(h, SOCK_STREAM);
        with_block(FFL_OP_BIND, h, &a, sizeof(a));
        plain(FFL_OP_LISTEN, h, 1, 0);
    }
}

/* A listener with so many references, each of which asks for connections. */
static void askers(void)
{
    struct ffl_addr a = addr4(lab.o.stack->kernel ? "127.0.0.1" : "10.0.0.3", 33335);
    CHECK(lab_ticket(&ticket));
    struct ffl_import x = {.key = ticket.key, .ticket = ticket.id};
    open_socket(0, SOCK_STREAM);
    with_block(FFL_OP_BIND, 0, &a, sizeof(a));
    plain(FFL_OP_LISTEN, 0, 64, 0);
    for (uint32_t h = 1; h < many; h++) {
        with_block(FFL_OP_EXPORT, 0, &x, sizeof(x));
        with_block(FFL_OP_IMPORT, h, &x, sizeof(x));
    }
    for (int i = 0; i < 5; i++) {
        for (uint32_t h = 1; h < many; h++)
            plain(FFL_OP_ARM, h, 0, i % 2 ? FFL_F_ALONE : 0);
        open_socket(many + (uint32_t)i, SOCK_STREAM);
        with_block(FFL_OP_CONNECT, many + (uint32_t)i, &a, sizeof(a));
        settle();
    }
}

/* So many tickets share a socket that is closed at last. */
static void sharers(void)
{
    static struct ffl_ticket t[3000];
    uint32_t n = 0, most = many / 8 < 3000 ? many / 8 : 3000;
    for (uint32_t h = 0; h < 64; h++)
        open_socket(h, SOCK_STREAM);
    while (n < most && lab_ticket(&t[n])) {
        struct ffl_import x = {.key = t[n].key, .ticket = t[n].id};
        with_block(FFL_OP_SHARE, 0, &x, sizeof(x));
        n++;
    }
    CHECK_EQ(n, most);
    settle();
    for (uint32_t h = 0; h < 16; h++)
        plain(FFL_OP_CLOSE, h, 0, FFL_F_ABORT);
    settle();
    while (n)
        close(t[--n].fd);
}

/* ---- how they are told apart ----------------------------------------------------------------- */

static void start_lab(const char *stack)
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
TEST(slices_one_port)
{
    attack("host", one_port);
}
TEST(slices_askers)
{
    attack("sim", askers);
}
TEST(slices_askers_host)
{
    attack("host", askers);
}
TEST(slices_sharers)
{
    attack("sim", sharers);
}
TEST(slices_sharers_host)
{
    attack("host", sharers);
}
TEST(slices_churn)
{
    attack("sim", churn);
}
TEST(slices_churn_host)
{
    attack("host", churn);
}

/* ---- how much is done in one iteration ------------------------------------------------------- */

/* However often it is asked, and whatever is spent after that. */
TEST(slices_stay_over)
{
    struct slice s;
    slice_open(&s, FFL_NS_PER_SEC);
    s.end = 0;
    CHECK(!slice_over(&s)); /* too little to look at the clock */
    slice_spend(&s, SLICE_CLOCK_NS);
    CHECK(slice_over(&s) && slice_over(&s));
    slice_spend(&s, SLICE_ENTRY_NS);
    CHECK(slice_over(&s));
}

#define ENTRIES (SLICE_NS / SLICE_ENTRY_NS) /* of the cheapest */
#define CALLS (SLICE_NS / SLICE_CALL_NS)

/* Iterates until nothing is left: no iteration does more than `most` of it, and none but the last
 * says that it may sleep. */
static void falls(uint64_t (*left)(void), uint64_t most)
{
    uint64_t before = left(), now;
    CHECK(before > 2 * most); /* else nothing is shown */
    for (int i = 0; before; before = now, i++) {
        CHECK(i < 100000);
        int64_t next = iterate();
        now = left();
        CHECK(before - now <= most);
        CHECK(next == 0 || now == 0);
    }
}

static uint64_t waiting(const struct raw *r)
{
    return atomic_load(&r->sq.ctl->tail) - atomic_load(&r->sq.ctl->head);
}

static struct raw crowd[64];

static uint64_t crowd_waiting(void)
{
    uint64_t n = 0;
    for (size_t i = 0; i < FFL_COUNT(crowd); i++)
        n += waiting(&crowd[i]);
    return n;
}

/* A neighbour waits for eight of them, however many there are. */
TEST(slices_count_a_crowd)
{
    start_lab("sim");
    for (size_t i = 0; i < FFL_COUNT(crowd); i++)
        raw_attach_sized(&crowd[i], 16, 256);
    for (size_t i = 0; i < FFL_COUNT(crowd); i++)
        while (ffl_ring_room(&crowd[i].sq, 1) > 0)
            raw_op(&crowd[i], FFL_OP_NOP, 0, 0, 0);
    falls(crowd_waiting, WHOLE_SLICES * ENTRIES);
    for (size_t i = 0; i < FFL_COUNT(crowd); i++)
        raw_gone(&crowd[i]);
    lab_stop();
}

static uint64_t bad_waiting(void)
{
    return waiting(&bad);
}

TEST(slices_count_calls)
{
    start_lab("sim");
    raw_attach(&bad);
    for (uint32_t h = 0; h < 4 * CALLS; h++)
        open_socket(h, SOCK_STREAM);
    falls(bad_waiting, CALLS);
    raw_gone(&bad);
    lab_stop();
}

static uint64_t to_send;

static uint64_t unsent(void)
{
    return to_send - atomic_load(&bad.map.seg->inst.bytes_out);
}

TEST(slices_count_bytes)
{
    static uint8_t much[60000];
    struct ffl_addr a = addr4("10.0.0.3", 9);
    memcpy(much, &a, sizeof(a));
    start_lab("sim");
    raw_attach(&bad);
    for (uint32_t h = 0; h < 64; h++)
        open_socket(h, SOCK_DGRAM);
    settle();
    for (uint32_t h = 0; bad.tx.n[2] > 1; h++) {
        raw_put(&bad, (struct ffl_entry){.op = FFL_OP_SEND,
                                         .flags = FFL_F_ADDR,
                                         .handle = h % 64,
                                         .arg = sizeof(much),
                                         .buf = raw_arg(&bad, much, sizeof(much))});
        to_send += sizeof(much) - sizeof(a);
    }
    falls(unsent, SLICE_NS / SLICE_KIB_NS * 1024);
    raw_gone(&bad);
    lab_stop();
}

/* Datagrams before an option, and before a connect: they are sent as they were submitted. */
TEST(slices_count_datagrams_before_an_option)
{
    const struct ffl_addr to = addr4("10.0.0.3", 9);
    const uint8_t text[sizeof(to) + 1] = {0};
    struct ffl_optarg o = {.level = SOL_SOCKET, .name = SO_BROADCAST, .len = sizeof(int)};
    start_lab("sim");
    raw_attach(&bad);
    open_socket(0, SOCK_DGRAM);
    settle();
    for (to_send = 0; to_send < 4 * CALLS; to_send++) {
        uint32_t buf = raw_arg(&bad, text, sizeof(text));
        memcpy(raw_tx(&bad, buf), &to, sizeof(to));
        raw_put(&bad, (struct ffl_entry){
                          .op = FFL_OP_SEND, .flags = FFL_F_ADDR, .arg = sizeof(text), .buf = buf});
    }
    with_block(FFL_OP_SETSOCKOPT, 0, &o, ffl_optarg_bytes(o.len));
    falls(unsent, CALLS + 2); /* one more from the ready list, before and after the stack's poll */
    struct ffl_entry e = raw_expect(&bad, FFL_OP_SETSOCKOPT, 0);
    CHECK_EQ(e.arg, 0);
    raw_gone(&bad);
    lab_stop();
}

static uint64_t shutdowns(void)
{
    uint64_t n = bad_waiting();
    for (uint32_t h = 0; h < many; h++)
        n += TAILQ_FIRST(&lab.in->sessions)->table[h]->shut >= 0;
    return n;
}

/* Each is a call of the stack, besides the entry that asks for it. */
TEST(slices_count_shutdowns)
{
    start_lab("sim");
    many = 4 * CALLS;
    raw_attach(&bad);
    for (uint32_t h = 0; h < many; h++)
        open_socket(h, SOCK_STREAM);
    settle();
    for (uint32_t h = 0; h < many; h++)
        raw_op(&bad, FFL_OP_SHUTDOWN, h, SHUT_RD, 0);
    falls(shutdowns, CALLS);
    raw_gone(&bad);
    lab_stop();
}

/* Whom a shutdown is told to is paid for by who asked: its next entries wait. */
TEST(slices_count_those_that_a_shutdown_tells)
{
    enum { BEHIND = 8 }; /* too few for a look at the clock */
    start_lab("sim");
    raw_attach(&bad);
    CHECK(lab_ticket(&ticket));
    struct ffl_import x = {.key = ticket.key, .ticket = ticket.id};
    open_socket(0, SOCK_STREAM);
    for (uint32_t h = 1; h <= ENTRIES; h++) {
        with_block(FFL_OP_EXPORT, 0, &x, sizeof(x));
        with_block(FFL_OP_IMPORT, h, &x, sizeof(x));
    }
    settle();
    raw_op(&bad, FFL_OP_SHUTDOWN, 0, SHUT_WR, 0);
    for (int i = 0; i < BEHIND; i++)
        raw_op(&bad, FFL_OP_NOP, 0, 0, 0);
    (void)iterate();
    CHECK_EQ(bad_waiting(), BEHIND);
    settle();
    all_gone(0);
    lab_stop();
}

static uint64_t sockets(void)
{
    return ffl_instance_sockets(lab.in);
}

TEST(slices_count_a_drain)
{
    start_lab("sim");
    many = 8 * CALLS;
    raw_attach(&bad);
    listeners();
    settle();
    ffl_instance_drain(lab.in);
    falls(sockets, CALLS);
    raw_gone(&bad);
    lab_stop();
}

TEST(slices_count_a_death)
{
    start_lab("sim");
    many = 8 * CALLS;
    raw_attach(&bad);
    listeners();
    settle();
    raw_gone(&bad);
    falls(sockets, CALLS);
    lab_stop();
}

/* What a sweep costs ends the slice of the control messages: the next one waits. */
TEST(slices_count_a_sweep)
{
    start_lab("sim");
    raw_attach(&bad);
    CHECK(lab_ticket(&ticket));
    struct ffl_import x = {.key = ticket.key, .ticket = ticket.id};
    for (uint32_t h = 0; h < ENTRIES; h++) {
        open_socket(h, SOCK_STREAM);
        with_block(FFL_OP_EXPORT, h, &x, sizeof(x));
    }
    settle();
    const uint32_t none = 0;
    CHECK_EQ(ffl_ticket_send(ticket.fd, FFL_TICKET_SWEEP, &none, 0), 0);
    CHECK_EQ(ffl_ticket_send(ticket.fd, FFL_TICKET_SWEEP + 1, &none, 0), 0); /* ends the ticket */
    while (TAILQ_EMPTY(&lab.in->dropped))
        (void)iterate();
    CHECK_EQ(lab.in->ledger.n[CHARGE_TICKET], 1);
    while (lab.in->ledger.n[CHARGE_TICKET])
        (void)iterate();
    all_gone(0);
    lab_stop();
}

/* ---- what a listener's close resets ---------------------------------------------------------- */

static int listener;

static uint64_t backlog(void)
{
    int n = OPS(lab.in)->backlog(ST(lab.in), listener);
    return n > 0 ? (uint64_t)n : 0; /* closed: none */
}

static void listen_to_many(uint32_t credits)
{
    start_lab("sim");
    raw_attach(&bad);
    raw_listen(&bad, 0, "10.0.0.3", 80, credits, 0);
    plain(FFL_OP_LISTEN, 0, 4096, 0);
    settle();
    listener = TAILQ_FIRST(&lab.in->sessions)->table[0]->fd;
    for (uint32_t i = 0; i < 4 * CALLS; i++)
        (void)sim_dial("10.0.0.3", 80);
}

TEST(slices_count_a_closed_backlog)
{
    listen_to_many(0);
    plain(FFL_OP_CLOSE, 0, 0, 0);
    falls(backlog, CALLS);
    CHECK_EQ(raw_expect(&bad, FFL_OP_CLOSED, 0).arg, 0);
    raw_finish(&bad);
}

TEST(slices_count_a_backlog_that_is_left)
{
    listen_to_many(0);
    raw_gone(&bad);
    falls(backlog, CALLS);
    lab_stop();
}

TEST(slices_count_a_backlog_in_a_ticket)
{
    listen_to_many(0);
    CHECK(lab_ticket(&ticket));
    raw_export(&bad, 0, &ticket);
    settle();
    for (uint32_t i = 0; i < HELD_LISTS; i++)
        if (!LIST_EMPTY(&lab.in->held[i]))
            listener = LIST_FIRST(&lab.in->held[i])->fd;
    plain(FFL_OP_CLOSE, 0, 0, 0);
    settle();
    CHECK_EQ(backlog(), 4 * CALLS); /* another may still accept them */
    close(ticket.fd);
    falls(backlog, CALLS);
    raw_finish(&bad);
}

static uint64_t charged(void)
{
    return lab.in->ledger.n[CHARGE_SOCKET];
}

/* Connections that were accepted ahead and given back to a listener, which then closes. */
TEST(slices_count_connections_given_back)
{
    static uint32_t accepted[4 * CALLS];
    struct ffl_entry e;
    listen_to_many(4 * CALLS);
    for (uint32_t n = 0; n < 4 * CALLS;) {
        (void)iterate();
        while (raw_next(&bad, &e)) {
            CHECK_EQ(e.op, FFL_OP_ACCEPT);
            raw_give(&bad, e.buf);
            accepted[n++] = (uint32_t)e.arg;
        }
    }
    for (uint32_t n = 0; n < 4 * CALLS; n++)
        plain(FFL_OP_CLOSE, accepted[n], 0, FFL_F_RETURN);
    settle();
    plain(FFL_OP_CLOSE, 0, 0, 0);
    falls(charged, CALLS);
    raw_finish(&bad);
}

/* ---- what one call of the stack does for many sockets ---------------------------------------- */

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

TEST(slices_memberships_are_few)
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

TEST(slices_filters_are_short)
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

TEST(slices_few_receive_one_datagram)
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
TEST(slices_broadcasts_are_for_few)
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

/* Where there are several users the looks at a bind have no way around them: a port that the stack
 * chooses is not the only one that it may. */
TEST(slices_ports_are_not_narrowed)
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
TEST(slices_lists_are_not_known)
{
    uint32_t one[REFERENCES] = {0}, other[REFERENCES] = {0};
    where_references_are(one);
    where_references_are(other);
    CHECK(memcmp(one, other, sizeof(one)) != 0);
}
