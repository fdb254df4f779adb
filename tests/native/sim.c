/*
 * sim.c - what only the sim stack has: its clock, its options, determinism. Its load: load.c.
 *
 * The seam's own semantics are in seam.c, for every stack.
 */
#include "net.h"

#include "sim.h"

#define MS 1000000LL

static int try_start(const char *options, char *why, size_t len)
{
    static char text[512];
    char *argv[32];
    void *state = NULL;
    int argc = 0;
    snprintf(text, sizeof(text), "%s", options);
    for (char *p = strtok(text, " "); p; p = strtok(NULL, " "))
        argv[argc++] = p;
    struct ffl_stack_opts o = {.argc = argc, .argv = argv};
    *why = '\0';
    int rc = ffl_sim_ops.start(&state, &o, why, len);
    if (rc == 0)
        ffl_sim_ops.stop(state);
    return rc;
}

TEST(malformed_options)
{
    static const char *const bad[] = {
        "latency",
        "=5",
        "latency=",
        "latency=-1",
        "latency=1x",
        "latency=99999999999999999999",
        "window=0",
        "clock=sundial",
        "load=0",
        "load=70000",
        "load=80 connections=0",
        "connections=5",
        "local=nowhere",
        "blackhole=300.1.1.1",
        "max_sockets=0",
        "load=80 verify=2",
        "no_such=1",
        "load=80 verify=1",
        "load=80 request_file=/no/such/file",
        "load=80 report=",
        "load=80 requests=0",
        "a_key_that_is_far_too_long_to_be_one=1",
        "local=::1 local=::2 local=::3 local=::4 local=::5 local=::6 local=::7 local=::8 local=::9",
    };
    for (size_t i = 0; i < FFL_COUNT(bad); i++) {
        char why[256];
        int rc = try_start(bad[i], why, sizeof(why));
        if (rc != -EINVAL && rc != -ENOENT)
            FAIL("'%s' gave %d", bad[i], rc);
        if (strlen(why) < 15)
            FAIL("'%s' gave no reason: '%s'", bad[i], why);
    }
    char why[256];
    CHECK_EQ(try_start("latency=0 window=1 clock=manual local=::1 blackhole=10.0.0.1 max_sockets=9",
                       why, sizeof(why)),
             0);
}

TEST(clock_moves_only_when_told)
{
    sim_start("clock=manual latency=1000000");
    CHECK_EQ(ffl_sim_now(st), FFL_NS_PER_SEC);
    pump();
    CHECK_EQ(ffl_sim_now(st), FFL_NS_PER_SEC);
    ffl_sim_advance(st, 5);
    CHECK_EQ(ffl_sim_now(st), FFL_NS_PER_SEC + 5);
    CHECK_EQ(ops->deadline(st), INT64_MAX);
    net_stop();
}

TEST(latency_is_one_way)
{
    sim_start("clock=manual latency=1000000");
    struct watch l, a, b;
    struct ffl_addr at = v4("10.1.2.3", 80), peer;
    listener(&l, &at, 8);
    dial(&a, &at);
    pump();
    CHECK(!l.ready && !a.ready);
    ffl_sim_advance(st, MS - 1);
    pump();
    CHECK(!l.ready); /* the SYN is under way */
    ffl_sim_advance(st, 1);
    CHECK_EQ(ops->deadline(st), 0); /* an event waits */
    pump();
    CHECK_EQ(l.ready, FFL_READ);
    CHECK_EQ(l.data, 1);
    CHECK(!a.ready);
    ffl_sim_advance(st, MS);
    pump();
    CHECK_EQ(a.ready, FFL_WRITE); /* a round trip */
    int fd = ops->accept(st, l.fd, &peer);
    watch(&b, fd);
    CHECK_EQ(put(a.fd, "data", 4), 4);
    char buf[8];
    ffl_sim_advance(st, MS - 1);
    CHECK_EQ(take(b.fd, buf, 8), -EAGAIN);
    ffl_sim_advance(st, 1);
    pump();
    CHECK(b.ready & FFL_READ);
    CHECK_EQ(b.data, 4);
    CHECK_EQ(take(b.fd, buf, 8), 4);
    net_end(a.fd, b.fd, l.fd);
}

TEST(window_opens_after_the_latency)
{
    sim_start("clock=manual latency=1000000 window=1000");
    struct watch l, a, b;
    struct ffl_addr at = v4("10.0.0.1", 80), peer;
    static char buf[4000];
    listener(&l, &at, 8);
    dial(&a, &at);
    ffl_sim_advance(st, 2 * MS);
    watch(&b, ops->accept(st, l.fd, &peer));
    CHECK_EQ(put(a.fd, buf, 4000), 1000); /* short */
    CHECK_EQ(put(a.fd, buf, 4000), -EAGAIN);
    ffl_sim_advance(st, MS);
    while (pump() > 0)
        ;
    a.ready = 0;
    CHECK_EQ(take(b.fd, buf, 4000), 1000);
    pump();
    CHECK_EQ(a.ready, 0);
    CHECK_EQ(put(a.fd, buf, 1), -EAGAIN); /* the sender does not know yet */
    ffl_sim_advance(st, MS);
    pump();
    CHECK_EQ(a.ready, FFL_WRITE);
    CHECK_EQ(put(a.fd, buf, 4000), 1000);
    net_end(a.fd, b.fd, l.fd);
}

/* What came before a reset and was not read belongs to no later connection of the socket. */
TEST(a_connection_tried_again_begins_empty)
{
    sim_start("clock=manual window=1000");
    struct watch l, a, b;
    struct ffl_addr at = v4("10.0.0.1", 80), peer;
    struct linger reset = {.l_onoff = 1};
    static char buf[2000];
    listener(&l, &at, 8);
    dial(&a, &at);
    watch(&b, ops->accept(st, l.fd, &peer));
    CHECK_EQ(put(b.fd, buf, 74), 74);
    CHECK_EQ(ops->setsockopt(st, b.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)), 0);
    CHECK_EQ(ops->close(st, b.fd), 0);
    CHECK_EQ(ops->connect(st, a.fd, &at), -EINPROGRESS);
    watch(&b, ops->accept(st, l.fd, &peer));
    CHECK_EQ(take(a.fd, buf, sizeof(buf)), -EAGAIN);
    for (int i = 0; i < 3; i++) { /* and the window counts its own bytes only */
        CHECK_EQ(put(b.fd, buf, 2000), 1000);
        CHECK_EQ(take(a.fd, buf, 2000), 1000);
    }
    net_end(a.fd, b.fd, l.fd);
}

/* The WRITE event is owed to a send that fell short, and to no other. */
TEST(no_write_event_without_a_short_send)
{
    sim_start("clock=manual window=1000");
    struct watch a, b;
    connected(&a, &b);
    static char buf[1000];
    while (pump() > 0)
        ;
    a.ready = 0;
    CHECK_EQ(put(a.fd, buf, 1000), 1000); /* full, but nothing fell short */
    CHECK_EQ(take(b.fd, buf, 1000), 1000);
    pump();
    CHECK_EQ(a.ready, 0);
    CHECK_EQ(put(a.fd, buf, 1000), 1000);
    CHECK_EQ(put(a.fd, buf, 1), -EAGAIN);
    CHECK_EQ(take(b.fd, buf, 100), 100); /* a tenth: not worth an event */
    pump();
    CHECK_EQ(a.ready, 0);
    CHECK_EQ(take(b.fd, buf, 500), 500);
    pump();
    CHECK_EQ(a.ready, FFL_WRITE);
    net_end(a.fd, b.fd);
}

TEST(order_on_the_wire)
{
    sim_start("clock=manual latency=500");
    struct watch l, a, b;
    struct ffl_addr at = v4("10.0.0.1", 80), peer;
    listener(&l, &at, 8);
    dial(&a, &at);
    ffl_sim_advance(st, 1000);
    watch(&b, ops->accept(st, l.fd, &peer));
    for (int i = 0; i < 100; i++) {
        CHECK_EQ(put(a.fd, &(char){(char)i}, 1), 1);
        ffl_sim_advance(st, 7);
    }
    CHECK_EQ(ops->shutdown(st, a.fd, SHUT_WR), 0);
    ffl_sim_advance(st, 499);
    char buf[128];
    int got = take(b.fd, buf, sizeof(buf));
    CHECK_EQ(got, 100);
    for (int i = 0; i < 100; i++)
        CHECK_EQ(buf[i], i);
    CHECK_EQ(take(b.fd, buf, 1), -EAGAIN); /* the FIN comes last */
    ffl_sim_advance(st, 1);
    CHECK_EQ(take(b.fd, buf, 1), 0);
    net_end(a.fd, b.fd, l.fd);
}

TEST(blackhole_never_answers)
{
    sim_start("clock=manual latency=1000 blackhole=192.0.2.1 blackhole=2001:db8::1");
    struct watch a, b;
    struct ffl_addr four = v4("192.0.2.1", 80), six = v6("2001:db8::1", 80);
    dial(&a, &four);
    dial(&b, &six);
    ffl_sim_advance(st, 3600 * FFL_NS_PER_SEC);
    pump();
    CHECK_EQ(a.ready | b.ready, 0);
    CHECK_EQ(ops->connect(st, a.fd, &four), -EALREADY);
    CHECK_EQ(put(a.fd, "x", 1), -EAGAIN);
    CHECK_EQ(take(a.fd, &(char){0}, 1), -EAGAIN);
    net_end(a.fd, b.fd);
}

TEST(no_route_to_what_is_not_local)
{
    sim_start("local=10.0.0.1");
    int fd = sock(AF_INET, SOCK_STREAM);
    struct ffl_addr away = v4("10.0.0.2", 80);
    CHECK_EQ(ops->connect(st, fd, &away), -ENETUNREACH);
    net_end(fd);
}

/* One more than the backlog is taken, as on Linux; the rest connect when there is room. */
TEST(backlog)
{
    sim_start("clock=manual");
    struct watch l, a[5], b[5];
    struct ffl_addr at = v4("10.0.0.1", 80), peer;
    listener(&l, &at, 1);
    for (int i = 0; i < 5; i++)
        dial(&a[i], &at);
    while (pump() > 0)
        ;
    for (int i = 0; i < 5; i++)
        CHECK_EQ(a[i].ready & FFL_WRITE, i < 2 ? FFL_WRITE : 0);
    for (int i = 0; i < 5; i++) {
        int fd = ops->accept(st, l.fd, &peer);
        CHECK(fd >= 0);
        watch(&b[i], fd);
    }
    while (pump() > 0)
        ;
    for (int i = 0; i < 5; i++) {
        CHECK(a[i].ready & FFL_WRITE);
        shut_pair(&a[i], &b[i]);
    }
    net_end(l.fd);
}

TEST(waiting_connects_are_refused_with_the_listener)
{
    sim_start("clock=manual");
    struct watch l, a[4];
    struct ffl_addr at = v4("10.0.0.1", 80);
    listener(&l, &at, 0);
    for (int i = 0; i < 4; i++)
        dial(&a[i], &at);
    CHECK_EQ(ops->close(st, a[2].fd), 0); /* gave up while it waited */
    CHECK_EQ(ops->close(st, l.fd), 0);
    while (pump() > 0)
        ;
    CHECK_EQ(get_int(a[0].fd, SOL_SOCKET, SO_ERROR), ECONNRESET);
    CHECK_EQ(get_int(a[1].fd, SOL_SOCKET, SO_ERROR), ECONNREFUSED);
    CHECK_EQ(get_int(a[3].fd, SOL_SOCKET, SO_ERROR), ECONNREFUSED);
    net_end(a[0].fd, a[1].fd, a[3].fd);
}

TEST(out_of_descriptors)
{
    sim_start("clock=manual max_sockets=3");
    struct watch l, a;
    struct ffl_addr at = v4("10.0.0.1", 80), peer;
    listener(&l, &at, 8);
    dial(&a, &at);
    int extra = sock(AF_INET, SOCK_STREAM);
    CHECK_EQ(ops->socket(st, AF_INET, SOCK_STREAM, 0), -EMFILE);
    CHECK_EQ(ops->accept(st, l.fd, &peer), -EMFILE);
    CHECK_EQ(ops->close(st, extra), 0);
    int fd = ops->accept(st, l.fd, &peer); /* it had stayed in the queue */
    CHECK(fd >= 0);
    net_end(fd, l.fd, a.fd);
}

TEST(reuse_port_takes_turns)
{
    sim_start("clock=manual");
    struct watch l[3], a[9];
    struct ffl_addr at = v4("0.0.0.0", 80), to = v4("10.9.9.9", 80);
    for (int i = 0; i < 3; i++) {
        int fd = sock(AF_INET, SOCK_STREAM);
        CHECK_EQ(set_int(fd, SOL_SOCKET, SO_REUSEPORT, 1), 0);
        CHECK_EQ(ops->bind(st, fd, &at), 0);
        CHECK_EQ(ops->listen(st, fd, 8), 0);
        watch(&l[i], fd);
    }
    for (int i = 0; i < 9; i++)
        dial(&a[i], &to);
    while (pump() > 0)
        ;
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(l[i].data, 3);
        CHECK_EQ(ops->close(st, l[i].fd), 0);
    }
    for (int i = 0; i < 9; i++)
        CHECK_EQ(ops->close(st, a[i].fd), 0);
    net_stop();
}

/* A specific address wins over the wildcard. */
TEST(best_listener)
{
    sim_start("clock=manual");
    struct watch any, one, a;
    struct ffl_addr w = v4("0.0.0.0", 80), s = v4("10.0.0.1", 80), to = v4("10.0.0.1", 80);
    int f1 = sock(AF_INET, SOCK_STREAM), f2 = sock(AF_INET, SOCK_STREAM);
    CHECK_EQ(set_int(f1, SOL_SOCKET, SO_REUSEPORT, 1), 0);
    CHECK_EQ(set_int(f2, SOL_SOCKET, SO_REUSEPORT, 1), 0);
    CHECK_EQ(ops->bind(st, f1, &w), 0);
    CHECK_EQ(ops->bind(st, f2, &s), 0);
    CHECK_EQ(ops->listen(st, f1, 8), 0);
    CHECK_EQ(ops->listen(st, f2, 8), 0);
    watch(&any, f1);
    watch(&one, f2);
    dial(&a, &to);
    while (pump() > 0)
        ;
    CHECK(one.ready & FFL_READ);
    CHECK(!(any.ready & FFL_READ));
    net_end(a.fd, any.fd, one.fd);
}

/* Connections at any stage of their life end with the stack; ASan looks for what is left. */
TEST(stop_in_the_middle)
{
    for (int latency = 0; latency < 2; latency++)
        for (int steps = 0; steps < 8; steps++) {
            sim_start(latency ? "clock=manual latency=10" : "clock=manual");
            struct watch l, a[4];
            struct ffl_addr at = v4("10.0.0.1", 80), peer;
            int got = -1;
            listener(&l, &at, 1);
            for (int i = 0; i < 4; i++)
                dial(&a[i], &at);
            for (int i = 0; i < steps; i++) {
                ffl_sim_advance(st, 6);
                if (got < 0)
                    got = ops->accept(st, l.fd, &peer);
                (void)put(a[0].fd, "data", 4);
                if (got >= 0)
                    (void)put(got, "answer", 6);
                if (i == 3)
                    CHECK_EQ(ops->close(st, a[1].fd), 0);
                if (i == 5 && got >= 0)
                    CHECK_EQ(ops->close(st, got), 0);
            }
            net_stop();
        }
}

TEST(nothing_stays_in_memory)
{
    sim_start("clock=manual latency=3");
    struct ffl_sim_counts n;
    uint64_t seed = 8;
    struct watch l;
    struct ffl_addr at = v4("10.0.0.1", 80), peer;
    listener(&l, &at, 4);
    int open[32], nopen = 0;
    for (int i = 0; i < 20000; i++) {
        uint32_t r = test_random(&seed);
        int fd = -1;
        if (r % 5 == 0 && nopen < 31) {
            fd = sock(AF_INET, SOCK_STREAM);
            CHECK_EQ(ops->connect(st, fd, &at), -EINPROGRESS);
        } else if (r % 5 == 1 && nopen < 31) {
            fd = ops->accept(st, l.fd, &peer);
        } else if (nopen > 0) {
            uint32_t k = r / 5 % (uint32_t)nopen;
            char buf[64] = {0};
            if (r % 5 == 2) {
                CHECK_EQ(ops->close(st, open[k]), 0);
                open[k] = open[--nopen];
            } else if (r % 5 == 3) {
                (void)put(open[k], buf, 1 + r % 64);
            } else if (r % 7 == 0) {
                (void)ops->shutdown(st, open[k], (int)(r % 3));
            } else {
                (void)take(open[k], buf, sizeof(buf));
            }
        }
        if (fd >= 0)
            open[nopen++] = fd;
        if (r % 3 == 0)
            ffl_sim_advance(st, r % 8);
        if (r % 11 == 0)
            pump();
    }
    while (nopen > 0)
        CHECK_EQ(ops->close(st, open[--nopen]), 0);
    CHECK_EQ(ops->close(st, l.fd), 0);
    ffl_sim_advance(st, 1000);
    ffl_sim_count(st, &n);
    CHECK_EQ(n.fds, 0);
    CHECK_EQ(n.events, 0);
    CHECK_EQ(n.sockets, 0);
    CHECK(n.accepts > 100);
    net_stop();
}

static uint64_t trace(void)
{
    sim_start("clock=manual latency=100 window=5000");
    struct watch l, a[8], b[8];
    struct ffl_addr at = v4("10.0.0.1", 80), peer;
    static char buf[3000];
    uint64_t seed = 6, hash = 1469598103934665603ULL;
    int n = 0;
    listener(&l, &at, 3);
    for (int i = 0; i < 8; i++)
        dial(&a[i], &at);
    for (int i = 0; i < 3000; i++) {
        int fd = n < 8 ? ops->accept(st, l.fd, &peer) : -1;
        if (fd >= 0)
            watch(&b[n++], fd);
        uint32_t r = test_random(&seed);
        int rc = put(a[r % 8].fd, buf, 1 + r % sizeof(buf));
        int got = n > 0 ? take(b[r % (uint32_t)n].fd, buf, 1 + r % 999) : 0;
        ffl_sim_advance(st, r % 40);
        int events = pump();
        hash = (hash ^ (uint64_t)(uint32_t)(rc * 31 + got * 7 + events)) * 1099511628211ULL;
    }
    net_stop();
    return hash;
}

TEST(the_same_calls_give_the_same_events)
{
    uint64_t first = trace();
    CHECK(trace() == first);
    CHECK(trace() == first);
}

TEST(datagrams_are_dropped_when_the_queue_is_full)
{
    sim_start("clock=manual window=4000");
    struct watch b;
    struct ffl_addr at = v4("10.0.0.1", 53);
    int fa = sock(AF_INET, SOCK_DGRAM), fb = sock(AF_INET, SOCK_DGRAM);
    CHECK_EQ(ops->bind(st, fb, &at), 0);
    watch(&b, fb);
    static char buf[1000];
    struct iovec iov = {.iov_base = buf, .iov_len = sizeof(buf)};
    for (int i = 0; i < 10; i++)
        CHECK_EQ(ops->send(st, fa, &iov, 1, &at, NULL, 0), 1000);
    int got = 0;
    while (take(fb, buf, sizeof(buf)) == 1000)
        got++;
    CHECK_EQ(got, 3);
    CHECK_EQ(ops->send(st, fa, &iov, 1, &at, NULL, 0), 1000);
    CHECK_EQ(take(fb, buf, sizeof(buf)), 1000); /* there is room again */
    net_end(fa, fb);
}
