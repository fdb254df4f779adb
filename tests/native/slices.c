/*
 * slices.c - no session delays another, whatever it does that is allowed.
 *
 * Each attack is a row of valid entries, some ten thousand sockets large; at the end the session
 * that made it dies with all that it has. No iteration may take long, by the thread's own clock:
 * what else the machine does is not counted. A neighbour's message goes and comes within a few
 * iterations all the while. How much is done in one iteration: counts.c.
 */
#include "attacker.h"

#define ITERATION_NS (25 * 1000000LL * TEST_SLOW) /* half of what another may be delayed */

/* ---- the attacks ----------------------------------------------------------------------------- */

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
