/*
 * seam.c - one suite for every stack behind stack.h; its argument names the stack (host, sim).
 *
 * What the instance relies on, asked for through the seam alone. Where stacks may differ (how much
 * a buffer holds, whether `data` is known) the test does not care.
 */
#include "net.h"

static void start(void)
{
    CHECK(test_arg);
    net_start(test_arg, 0, NULL);
}

static void start_pair(struct watch *a, struct watch *b)
{
    start();
    connected(a, b);
}

TEST(describes_itself)
{
    start();
    char buf[128] = "";
    ops->describe(st, buf, sizeof(buf));
    CHECK(strlen(buf) > 0);
    CHECK_EQ(ops->run == NULL, true);
    net_stop();
}

TEST(unknown_option)
{
    char why[128] = "", opt[] = "no_such_option=1", *argv[] = {opt};
    struct ffl_stack_opts o = {.argc = 1, .argv = argv};
    ops = ffl_stack_find(test_arg);
    CHECK_EQ(ops->start(&st, &o, why, sizeof(why)), -EINVAL);
    CHECK(strstr(why, "no_such_option"));
}

TEST(wrong_family)
{
    start();
    CHECK_EQ(ops->socket(st, 255, SOCK_STREAM, 0), -EAFNOSUPPORT);
    int fd = sock(AF_INET, SOCK_STREAM);
    struct ffl_addr a = v6("::1", 0);
    CHECK_EQ(ops->bind(st, fd, &a), -EAFNOSUPPORT);
    CHECK_EQ(ops->connect(st, fd, &a), -EAFNOSUPPORT);
    net_end(fd);
}

TEST(bad_descriptor)
{
    start();
    int fd = sock(AF_INET, SOCK_STREAM);
    CHECK_EQ(ops->close(st, fd), 0);
    char c = 0;
    struct ffl_addr a;
    CHECK_EQ(ops->close(st, fd), -EBADF);
    CHECK_EQ(put(fd, &c, 1), -EBADF);
    CHECK_EQ(take(fd, &c, 1), -EBADF);
    CHECK_EQ(ops->accept(st, fd, &a), -EBADF);
    CHECK_EQ(ops->dup(st, fd), -EBADF);
    net_stop();
}

TEST(echo)
{
    struct watch a, b;
    start_pair(&a, &b);
    char buf[64];
    CHECK_EQ(take(b.fd, buf, sizeof(buf)), -EAGAIN);
    CHECK_EQ(put(a.fd, "hello", 5), 5);
    await(&b, FFL_READ);
    CHECK_EQ(take(b.fd, buf, sizeof(buf)), 5);
    CHECK(memcmp(buf, "hello", 5) == 0);
    CHECK_EQ(take(b.fd, buf, sizeof(buf)), -EAGAIN);
    CHECK_EQ(put(b.fd, "world", 5), 5);
    await(&a, FFL_READ);
    CHECK_EQ(take(a.fd, buf, 2), 2);
    CHECK_EQ(take(a.fd, buf + 2, 60), 3);
    CHECK(memcmp(buf, "world", 5) == 0);
    net_end(a.fd, b.fd);
}

TEST(gather_and_scatter)
{
    struct watch a, b;
    start_pair(&a, &b);
    struct iovec out[] = {{(void *)"one", 3}, {(void *)"", 0}, {(void *)"three", 5}};
    CHECK_EQ(ops->send(st, a.fd, out, 3, NULL, NULL, 0), 8);
    await(&b, FFL_READ);
    char x[4], y[10];
    struct iovec in[] = {{x, sizeof(x)}, {y, sizeof(y)}};
    struct ffl_addr from;
    int flags = -1;
    CHECK_EQ(ops->recv(st, b.fd, in, 2, &from, NULL, &flags), 8);
    CHECK(memcmp(x, "onet", 4) == 0 && memcmp(y, "hree", 4) == 0);
    CHECK_EQ(flags & MSG_TRUNC, 0);
    net_end(a.fd, b.fd);
}

TEST(names)
{
    start();
    struct watch l, a, b;
    struct ffl_addr at = v4("127.0.0.1", 0), x, y;
    int fresh = sock(AF_INET, SOCK_STREAM);
    CHECK_EQ(ops->sockname(st, fresh, false, &x), 0);
    CHECK_EQ(x.family, AF_INET);
    CHECK_EQ(x.port_be, 0);
    CHECK_EQ(ops->sockname(st, fresh, true, &x), -ENOTCONN);
    CHECK_EQ(ops->close(st, fresh), 0);
    listener(&l, &at, 8);
    dial(&a, &at);
    await(&l, FFL_READ);
    struct ffl_addr peer = {0};
    int fd = ops->accept(st, l.fd, &peer);
    CHECK(fd >= 0);
    watch(&b, fd);
    await(&a, FFL_WRITE);
    CHECK_EQ(ops->sockname(st, a.fd, false, &x), 0);
    CHECK_EQ(ops->sockname(st, b.fd, true, &y), 0);
    CHECK(same_addr(&x, &y));
    CHECK(same_addr(&x, &peer));
    CHECK_EQ(ops->sockname(st, a.fd, true, &x), 0);
    CHECK_EQ(ops->sockname(st, b.fd, false, &y), 0);
    CHECK(same_addr(&x, &y) && same_addr(&x, &at));
    net_end(a.fd, b.fd, l.fd);
}

TEST(ipv6)
{
    start();
    struct watch l, a, b;
    struct ffl_addr at = v6("::1", 0), x;
    listener(&l, &at, 8);
    dial(&a, &at);
    answer(&b, &l);
    await(&a, FFL_WRITE);
    CHECK_EQ(ops->sockname(st, b.fd, true, &x), 0);
    CHECK_EQ(x.family, AF_INET6);
    CHECK_EQ(put(b.fd, "six", 3), 3);
    char buf[8];
    take_all(&a, buf, 3);
    net_end(a.fd, b.fd, l.fd);
}

/* A wildcard IPv6 listener takes IPv4 too, unless IPV6_V6ONLY. */
TEST(dual_stack)
{
    start();
    struct watch a, b, l;
    int fd = sock(AF_INET6, SOCK_STREAM);
    struct ffl_addr any = v6("::", 0), to, peer, mapped = v6("::ffff:127.0.0.1", 0);
    CHECK_EQ(ops->bind(st, fd, &any), 0);
    CHECK_EQ(ops->listen(st, fd, 8), 0);
    CHECK_EQ(ops->sockname(st, fd, false, &any), 0);
    watch(&l, fd);
    to = v4("127.0.0.1", ntohs(any.port_be));
    dial(&a, &to);
    answer(&b, &l);
    CHECK_EQ(ops->sockname(st, b.fd, true, &peer), 0);
    CHECK_EQ(peer.family, AF_INET6);
    CHECK(memcmp(peer.ip, mapped.ip, 16) == 0);
    shut_pair(&a, &b);
    int v4only = sock(AF_INET, SOCK_STREAM);
    CHECK_EQ(ops->bind(st, v4only, &to), -EADDRINUSE);
    CHECK_EQ(ops->close(st, fd), 0);

    int rc = -EADDRINUSE; /* somebody else may have the port in IPv4 */
    for (int i = 0; i < 50 && rc == -EADDRINUSE; i++) {
        int six = sock(AF_INET6, SOCK_STREAM);
        CHECK_EQ(set_int(six, IPPROTO_IPV6, IPV6_V6ONLY, 1), 0);
        any = v6("::", 0);
        CHECK_EQ(ops->bind(st, six, &any), 0);
        CHECK_EQ(ops->sockname(st, six, false, &any), 0);
        to = v4("0.0.0.0", ntohs(any.port_be));
        rc = ops->bind(st, v4only, &to);
        CHECK_EQ(ops->close(st, six), 0);
    }
    CHECK_EQ(rc, 0); /* both families on one port, as asyncio does */
    net_end(v4only);
}

TEST(refused)
{
    start();
    struct watch l, a;
    struct ffl_addr at = v4("127.0.0.1", 0);
    listener(&l, &at, 8);
    CHECK_EQ(ops->close(st, l.fd), 0);
    int fd = sock(AF_INET, SOCK_STREAM);
    int rc = ops->connect(st, fd, &at);
    CHECK(rc == -EINPROGRESS || rc == -ECONNREFUSED);
    if (rc == -EINPROGRESS) {
        watch(&a, fd);
        await(&a, FFL_WRITE);
        CHECK(a.eof);
        CHECK_EQ(get_int(fd, SOL_SOCKET, SO_ERROR), ECONNREFUSED);
        CHECK_EQ(get_int(fd, SOL_SOCKET, SO_ERROR), 0); /* cleared by the look */
    }
    net_end(fd);
}

TEST(connect_twice)
{
    start();
    struct watch l, a, b;
    struct ffl_addr at = v4("127.0.0.1", 0);
    listener(&l, &at, 8);
    dial(&a, &at);
    answer(&b, &l);
    await(&a, FFL_WRITE);
    CHECK_EQ(get_int(a.fd, SOL_SOCKET, SO_ERROR), 0);
    int rc = ops->connect(st, a.fd, &at);
    CHECK(rc == -EISCONN || rc == 0); /* Linux says 0 once to the call that learns of it */
    CHECK_EQ(ops->connect(st, a.fd, &at), -EISCONN);
    net_end(a.fd, b.fd, l.fd);
}

TEST(not_connected)
{
    start();
    char c;
    struct ffl_addr a;
    int fd = sock(AF_INET, SOCK_STREAM);
    CHECK_EQ(take(fd, &c, 1), -ENOTCONN);
    CHECK_EQ(put(fd, "x", 1), -EPIPE);
    CHECK_EQ(ops->shutdown(st, fd, SHUT_WR), -ENOTCONN);
    CHECK_EQ(ops->accept(st, fd, &a), -EINVAL);
    net_end(fd);
}

TEST(port_in_use)
{
    start();
    struct watch l;
    struct ffl_addr at = v4("127.0.0.1", 0);
    listener(&l, &at, 8);
    int fd = sock(AF_INET, SOCK_STREAM);
    CHECK_EQ(ops->bind(st, fd, &at), -EADDRINUSE);
    struct ffl_addr any = v4("0.0.0.0", ntohs(at.port_be));
    CHECK_EQ(ops->bind(st, fd, &any), -EADDRINUSE);
    CHECK_EQ(set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1), 0);
    CHECK_EQ(ops->bind(st, fd, &at), -EADDRINUSE); /* the other did not agree */
    CHECK_EQ(ops->close(st, l.fd), 0);
    CHECK_EQ(ops->bind(st, fd, &at), 0);
    struct ffl_addr other = v4("127.0.0.1", 0);
    CHECK_EQ(ops->bind(st, fd, &other), -EINVAL); /* bound once */
    net_end(fd);
}

TEST(reuse_port)
{
    start();
    int a = sock(AF_INET, SOCK_STREAM), b = sock(AF_INET, SOCK_STREAM),
        c = sock(AF_INET, SOCK_STREAM);
    struct ffl_addr at = v4("127.0.0.1", 0);
    CHECK_EQ(set_int(a, SOL_SOCKET, SO_REUSEPORT, 1), 0);
    CHECK_EQ(set_int(b, SOL_SOCKET, SO_REUSEPORT, 1), 0);
    CHECK_EQ(ops->bind(st, a, &at), 0);
    CHECK_EQ(ops->sockname(st, a, false, &at), 0);
    CHECK_EQ(ops->bind(st, b, &at), 0);
    CHECK_EQ(ops->bind(st, c, &at), -EADDRINUSE);
    CHECK_EQ(ops->listen(st, a, 8), 0);
    CHECK_EQ(ops->listen(st, b, 8), 0);
    net_end(a, b, c);
}

TEST(address_not_local)
{
    if (strcmp(test_arg, "sim") == 0) {
        char opt[] = "local=127.0.0.1", *argv[] = {opt};
        net_start("sim", 1, argv);
    } else {
        start();
    }
    int fd = sock(AF_INET, SOCK_STREAM);
    struct ffl_addr a = v4("203.0.113.7", 0); /* TEST-NET-3 */
    CHECK_EQ(ops->bind(st, fd, &a), -EADDRNOTAVAIL);
    a = v4("127.0.0.1", 0);
    CHECK_EQ(ops->bind(st, fd, &a), 0);
    net_end(fd);
}

/* Sends until the stack says no, reads all, and is told that there is room again. */
TEST(window_fills_and_opens)
{
    struct watch a, b;
    start_pair(&a, &b);
    static char buf[32768], back[32768];
    for (size_t i = 0; i < sizeof(buf); i++)
        buf[i] = (char)(i * 7 + i / 251);
    size_t sent = 0, got = 0;
    int rc;
    for (int i = 0; i < 3; i++) { /* the kernel may take a little more when it has looked again */
        while ((rc = put(a.fd, buf + sent % sizeof(buf), sizeof(buf) - sent % sizeof(buf))) > 0)
            sent += (size_t)rc;
        CHECK_EQ(rc, -EAGAIN);
        pump();
    }
    a.ready &= ~FFL_WRITE;
    CHECK(!await_or_not(&a, FFL_WRITE, 20000000)); /* full is full until it is read */
    while (got < sent) {
        rc = take_soon(&b, back, sizeof(back));
        CHECK(rc > 0);
        for (int i = 0; i < rc; i++)
            CHECK_EQ(back[i], buf[(got + (size_t)i) % sizeof(buf)]);
        got += (size_t)rc;
    }
    await(&a, FFL_WRITE);
    CHECK(put(a.fd, "x", 1) == 1);
    take_all(&b, back, 1);
    net_end(a.fd, b.fd);
}

/* A large transfer with edges alone: any lost edge stops it. */
TEST(transfer_by_edges)
{
    struct watch a, b;
    start_pair(&a, &b);
    static uint8_t out[200000], in[65536];
    uint64_t seed = 4, total = (uint64_t)(50u << 20) / TEST_SLOW, sent = 0, got = 0;
    bool can_send = true, can_read = true;
    while (got < total) {
        while (can_send && sent < total) {
            uint64_t left = total - sent;
            uint32_t n = 1 + test_random(&seed) % sizeof(out);
            if (n > left)
                n = (uint32_t)left;
            for (uint32_t i = 0; i < n; i++)
                out[i] = (uint8_t)((sent + i) * 131 >> 3);
            int rc = put(a.fd, out, n);
            can_send = rc == (int)n;
            CHECK(rc > 0 || rc == -EAGAIN);
            if (rc > 0)
                sent += (uint32_t)rc;
        }
        while (can_read) {
            int rc = take(b.fd, in, 1 + test_random(&seed) % sizeof(in));
            can_read = rc != -EAGAIN;
            CHECK(rc > 0 || rc == -EAGAIN);
            for (int i = 0; i < rc; i++, got++)
                if (in[i] != (uint8_t)(got * 131 >> 3))
                    FAIL("byte %llu differs", (unsigned long long)got);
        }
        if (got == total)
            break;
        for (int64_t until = ffl_now_ns() + 60 * FFL_NS_PER_SEC; !(a.ready & FFL_WRITE || b.ready);)
            if (pump() == 0 && !net_wait(until))
                FAIL("no event after %llu bytes of %llu sent", (unsigned long long)got,
                     (unsigned long long)sent);
        can_read |= (b.ready & FFL_READ) != 0;
        can_send |= (a.ready & FFL_WRITE) != 0;
        a.ready = b.ready = 0;
    }
    net_end(a.fd, b.fd);
}

TEST(half_close)
{
    struct watch a, b;
    start_pair(&a, &b);
    char buf[16];
    CHECK_EQ(put(a.fd, "last", 4), 4);
    CHECK_EQ(ops->shutdown(st, a.fd, SHUT_WR), 0);
    CHECK_EQ(put(a.fd, "x", 1), -EPIPE);
    take_all(&b, buf, 4);
    CHECK_EQ(take_soon(&b, buf, sizeof(buf)), 0);
    while (!b.eof)
        await(&b, FFL_READ);
    CHECK_EQ(take(b.fd, buf, sizeof(buf)), 0); /* for ever */
    CHECK_EQ(put(b.fd, "answer", 6), 6);       /* the other half is open */
    take_all(&a, buf, 6);
    CHECK_EQ(ops->shutdown(st, b.fd, SHUT_WR), 0);
    CHECK_EQ(take_soon(&a, buf, sizeof(buf)), 0);
    net_end(a.fd, b.fd);
}

TEST(close_ends_the_stream)
{
    struct watch a, b;
    start_pair(&a, &b);
    char buf[16];
    CHECK_EQ(put(a.fd, "bye", 3), 3);
    CHECK_EQ(ops->close(st, a.fd), 0);
    take_all(&b, buf, 3);
    CHECK_EQ(take_soon(&b, buf, sizeof(buf)), 0);
    while (!b.eof)
        await(&b, FFL_READ);
    net_end(b.fd);
}

/* Closing with unread data is a reset, and what arrives after a close is answered with one. */
TEST(reset_on_unread_data)
{
    struct watch a, b;
    start_pair(&a, &b);
    char buf[16];
    CHECK_EQ(put(a.fd, "unread", 6), 6);
    await(&b, FFL_READ);
    CHECK_EQ(ops->close(st, b.fd), 0);
    CHECK_EQ(take_soon(&a, buf, sizeof(buf)), -ECONNRESET);
    CHECK(a.eof || await_or_not(&a, FFL_READ | FFL_WRITE, 60 * FFL_NS_PER_SEC));
    CHECK_EQ(take(a.fd, buf, sizeof(buf)), 0); /* the error is told once */
    CHECK_EQ(put(a.fd, "x", 1), -EPIPE);
    net_end(a.fd);
}

/* The stack's thread serves everybody: nobody's SO_LINGER makes it wait in close. */
TEST(linger_does_not_wait)
{
    struct watch a, b;
    start_pair(&a, &b);
    struct linger l = {.l_onoff = 1, .l_linger = 60};
    static const char much[65536];
    CHECK_EQ(ops->setsockopt(st, a.fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l)), 0);
    while (put(a.fd, much, sizeof(much)) > 0) /* more than the peer takes */
        ;
    int64_t began = ffl_now_ns();
    CHECK_EQ(ops->close(st, a.fd), 0);
    CHECK(ffl_now_ns() - began < 10 * FFL_NS_PER_SEC);
    net_end(b.fd);
}

TEST(send_after_the_peer_closed)
{
    struct watch a, b;
    start_pair(&a, &b);
    CHECK_EQ(ops->close(st, b.fd), 0);
    int rc = put(a.fd, "one", 3);
    for (int i = 0; rc > 0; i++) { /* the first is taken; its reset comes back */
        CHECK(i < 100);
        (void)await_or_not(&a, FFL_READ | FFL_WRITE, 50000000);
        rc = put(a.fd, "two", 3);
    }
    CHECK(rc == -EPIPE || rc == -ECONNRESET);
    net_end(a.fd);
}

TEST(linger_zero_is_a_reset)
{
    struct watch a, b;
    start_pair(&a, &b);
    struct linger l = {.l_onoff = 1};
    CHECK_EQ(ops->setsockopt(st, a.fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l)), 0);
    CHECK_EQ(ops->close(st, a.fd), 0);
    char buf[4];
    CHECK_EQ(take_soon(&b, buf, sizeof(buf)), -ECONNRESET);
    net_end(b.fd);
}

TEST(so_error_tells_of_a_reset)
{
    struct watch a, b;
    start_pair(&a, &b);
    CHECK_EQ(put(a.fd, "unread", 6), 6);
    await(&b, FFL_READ);
    CHECK_EQ(ops->close(st, b.fd), 0);
    while (!a.eof)
        await(&a, FFL_READ);
    CHECK_EQ(get_int(a.fd, SOL_SOCKET, SO_ERROR), ECONNRESET);
    net_end(a.fd);
}

/* A closed listener resets those who were waiting to be accepted. */
TEST(listener_closes)
{
    start();
    struct watch l, a;
    struct ffl_addr at = v4("127.0.0.1", 0);
    listener(&l, &at, 8);
    dial(&a, &at);
    await(&l, FFL_READ);
    await(&a, FFL_WRITE);
    CHECK_EQ(ops->close(st, l.fd), 0);
    char c;
    CHECK_EQ(take_soon(&a, &c, 1), -ECONNRESET);
    net_end(a.fd);
}

TEST(many_accepts)
{
    start();
    struct watch l, a[40], b[40];
    struct ffl_addr at = v4("127.0.0.1", 0);
    listener(&l, &at, 64);
    for (int i = 0; i < 40; i++)
        dial(&a[i], &at);
    for (int i = 0; i < 40; i++)
        answer(&b[i], &l);
    struct ffl_addr peer;
    CHECK_EQ(ops->accept(st, l.fd, &peer), -EAGAIN);
    for (int i = 0; i < 40; i++) {
        await(&a[i], FFL_WRITE);
        shut_pair(&a[i], &b[i]);
    }
    net_end(l.fd);
}

/* The first event after a watch tells what is true already. */
TEST(watch_tells_what_is_true)
{
    start();
    struct watch l, a, b;
    struct ffl_addr at = v4("127.0.0.1", 0), peer;
    listener(&l, &at, 8);
    dial(&a, &at);
    await(&a, FFL_WRITE);
    CHECK_EQ(put(a.fd, "early", 5), 5);
    await(&l, FFL_READ);
    int fd = ops->accept(st, l.fd, &peer);
    CHECK(fd >= 0);
    char buf[8];
    while (take(fd, buf, 1) == -EAGAIN)
        ; /* the kernel delivers without being asked; a clock does not stand still */
    watch(&b, fd);
    await(&b, FFL_READ);
    await(&b, FFL_WRITE);
    CHECK_EQ(take(b.fd, buf, sizeof(buf)), 4);
    net_end(a.fd, b.fd, l.fd);
}

TEST(closing_ends_events)
{
    struct watch a, b;
    start_pair(&a, &b);
    while (pump() > 0)
        ;
    CHECK_EQ(put(a.fd, "x", 1), 1);
    CHECK_EQ(ops->close(st, b.fd), 0);
    b.events = 0;
    while (pump() > 0)
        ;
    CHECK_EQ(b.events, 0);
    net_end(a.fd);
}

/* No event without news: an idle, drained socket stays silent. */
TEST(edges_not_levels)
{
    struct watch a, b;
    start_pair(&a, &b);
    CHECK_EQ(put(a.fd, "xyz", 3), 3);
    await(&b, FFL_READ);
    while (pump() > 0)
        ;
    a.events = b.events = 0;
    CHECK(!await_or_not(&b, FFL_READ, 10000000)); /* unread, and told already */
    CHECK_EQ(b.events, 0);
    CHECK_EQ(put(a.fd, "more", 4), 4);
    await(&b, FFL_READ); /* news */
    char buf[16];
    take_all(&b, buf, 7);
    net_end(a.fd, b.fd);
}

/* A second descriptor keeps the socket, with its own watch; the last close ends it. */
TEST(dup_is_another_reference)
{
    start();
    struct watch a, b, c;
    connected(&a, &b);
    int fd = ops->dup(st, b.fd);
    CHECK(fd >= 0 && fd != b.fd);
    watch(&c, fd);
    await(&c, FFL_WRITE);
    CHECK_EQ(ops->close(st, b.fd), 0);
    CHECK_EQ(put(a.fd, "still", 5), 5);
    char buf[8];
    take_all(&c, buf, 5);
    CHECK_EQ(put(c.fd, "here", 4), 4);
    take_all(&a, buf, 4);
    CHECK_EQ(ops->close(st, c.fd), 0);
    CHECK_EQ(take_soon(&a, buf, sizeof(buf)), 0);
    net_end(a.fd);
}

TEST(options)
{
    start();
    struct watch a, b, l;
    int fd = sock(AF_INET, SOCK_STREAM);
    CHECK_EQ(get_int(fd, SOL_SOCKET, SO_TYPE), SOCK_STREAM);
    CHECK_EQ(get_int(fd, SOL_SOCKET, SO_DOMAIN), AF_INET);
    CHECK_EQ(get_int(fd, SOL_SOCKET, SO_PROTOCOL), IPPROTO_TCP);
    CHECK_EQ(get_int(fd, SOL_SOCKET, SO_ACCEPTCONN), 0);
    CHECK_EQ(get_int(fd, IPPROTO_TCP, TCP_NODELAY), 0);
    static const struct {
        int level, name, value;
    } opt[] = {
        {IPPROTO_TCP, TCP_NODELAY, 1},   {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, 33}, {IPPROTO_TCP, TCP_KEEPINTVL, 7},
        {IPPROTO_TCP, TCP_KEEPCNT, 3},   {IPPROTO_TCP, TCP_USER_TIMEOUT, 5000},
        {SOL_SOCKET, SO_REUSEADDR, 1},
    };
    for (size_t i = 0; i < FFL_COUNT(opt); i++) {
        CHECK_EQ(set_int(fd, opt[i].level, opt[i].name, opt[i].value), 0);
        CHECK_EQ(get_int(fd, opt[i].level, opt[i].name), opt[i].value);
    }
    CHECK_EQ(set_int(fd, SOL_SOCKET, 9999, 1), -ENOPROTOOPT);
    CHECK_EQ(set_int(fd, IPPROTO_TCP, TCP_REPAIR, 1), -ENOPROTOOPT);
    CHECK_EQ(ops->setsockopt(st, fd, IPPROTO_TCP, TCP_NODELAY, "", 1), -EINVAL);
    struct ffl_addr at = v4("127.0.0.1", 0);
    CHECK_EQ(ops->bind(st, fd, &at), 0);
    CHECK_EQ(ops->listen(st, fd, 4), 0);
    CHECK_EQ(get_int(fd, SOL_SOCKET, SO_ACCEPTCONN), 1);
    CHECK_EQ(ops->sockname(st, fd, false, &at), 0);
    watch(&l, fd);
    dial(&a, &at);
    answer(&b, &l);
    CHECK_EQ(get_int(b.fd, IPPROTO_TCP, TCP_NODELAY), 1); /* from its listener */
    CHECK_EQ(get_int(a.fd, IPPROTO_TCP, TCP_NODELAY), 0);
    net_end(a.fd, b.fd, fd);
}

/* Beyond what fits a small buffer; not on the sim, whose options are few. */
TEST(long_options)
{
    start();
    if (strcmp(test_arg, "host") == 0) {
        struct group_source_req g = {.gsr_interface = 1};
        struct sockaddr_in group = {.sin_family = AF_INET}, source = group;
        CHECK_EQ(inet_pton(AF_INET, "239.1.2.3", &group.sin_addr), 1);
        CHECK_EQ(inet_pton(AF_INET, "127.0.0.1", &source.sin_addr), 1);
        memcpy(&g.gsr_group, &group, sizeof(group));
        memcpy(&g.gsr_source, &source, sizeof(source));
        int fd = sock(AF_INET, SOCK_DGRAM);
        CHECK_EQ(ops->setsockopt(st, fd, IPPROTO_IP, MCAST_JOIN_SOURCE_GROUP, &g, sizeof(g)), 0);
        CHECK_EQ(ops->setsockopt(st, fd, IPPROTO_IP, MCAST_LEAVE_SOURCE_GROUP, &g, sizeof(g)), 0);
        CHECK_EQ(ops->close(st, fd), 0);
        struct watch a, b;
        struct tcp_info info;
        uint32_t len = sizeof(info);
        connected(&a, &b);
        CHECK_EQ(ops->getsockopt(st, a.fd, IPPROTO_TCP, TCP_INFO, &info, &len), 0);
        CHECK_EQ(len, sizeof(info));
        CHECK_EQ(info.tcpi_state, TCP_ESTABLISHED);
        CHECK(info.tcpi_snd_cwnd > 0);
        shut_pair(&a, &b);
    }
    net_stop();
}

TEST(datagrams)
{
    start();
    struct watch a, b;
    struct ffl_addr at = v4("127.0.0.1", 0), from, mine = v4("127.0.0.1", 0);
    int fa = sock(AF_INET, SOCK_DGRAM), fb = sock(AF_INET, SOCK_DGRAM);
    CHECK_EQ(ops->bind(st, fa, &mine), 0);
    CHECK_EQ(ops->sockname(st, fa, false, &mine), 0);
    CHECK_EQ(ops->bind(st, fb, &at), 0);
    CHECK_EQ(ops->sockname(st, fb, false, &at), 0);
    watch(&a, fa);
    watch(&b, fb);
    char buf[64];
    CHECK_EQ(take(fb, buf, sizeof(buf)), -EAGAIN);
    struct iovec iov = {.iov_base = (void *)"datagram", .iov_len = 8};
    CHECK_EQ(ops->send(st, fa, &iov, 1, &at, NULL, 0), 8);
    iov = (struct iovec){.iov_base = (void *)"", .iov_len = 0};
    CHECK_EQ(ops->send(st, fa, &iov, 1, &at, NULL, 0), 0); /* an empty one is one */
    await(&b, FFL_READ);
    iov = (struct iovec){.iov_base = buf, .iov_len = 5};
    int flags = 0;
    CHECK_EQ(ops->recv(st, fb, &iov, 1, &from, NULL, &flags), 5);
    CHECK(memcmp(buf, "datag", 5) == 0);
    CHECK(flags & MSG_TRUNC);
    CHECK(same_addr(&from, &mine));
    int rc;
    while ((rc = ops->recv(st, fb, &iov, 1, &from, NULL, &flags)) == -EAGAIN)
        await(&b, FFL_READ);
    CHECK_EQ(rc, 0);
    CHECK_EQ(flags & MSG_TRUNC, 0);
    CHECK_EQ(put(fb, "x", 1), -EDESTADDRREQ);
    CHECK_EQ(ops->connect(st, fb, &mine), 0);
    CHECK_EQ(put(fb, "back", 4), 4);
    take_all(&a, buf, 4);
    static char big[66000];
    CHECK_EQ(put(fb, big, sizeof(big)), -EMSGSIZE);
    net_end(a.fd, b.fd);
}

/* A connected datagram socket hears its peer only, and learns that nobody listens. */
TEST(connected_datagrams)
{
    start();
    struct watch a, b, c;
    struct ffl_addr pa = v4("127.0.0.1", 0), pb = pa, none = {.family = AF_UNSPEC};
    int fa = sock(AF_INET, SOCK_DGRAM), fb = sock(AF_INET, SOCK_DGRAM),
        fc = sock(AF_INET, SOCK_DGRAM);
    CHECK_EQ(ops->bind(st, fa, &pa), 0);
    CHECK_EQ(ops->sockname(st, fa, false, &pa), 0);
    CHECK_EQ(ops->bind(st, fb, &pb), 0);
    CHECK_EQ(ops->sockname(st, fb, false, &pb), 0);
    CHECK_EQ(ops->connect(st, fb, &pa), 0);
    watch(&a, fa);
    watch(&b, fb);
    watch(&c, fc);
    struct iovec iov = {.iov_base = (void *)"stranger", .iov_len = 8};
    (void)ops->send(st, fc, &iov, 1, &pb, NULL, 0);
    iov = (struct iovec){.iov_base = (void *)"friend", .iov_len = 6};
    CHECK_EQ(ops->send(st, fa, &iov, 1, &pb, NULL, 0), 6);
    char buf[16];
    await(&b, FFL_READ);
    CHECK_EQ(take(fb, buf, sizeof(buf)), 6);
    CHECK_EQ(take(fb, buf, sizeof(buf)), -EAGAIN);
    CHECK_EQ(ops->close(st, fa), 0);
    CHECK_EQ(put(fb, "anybody", 7), 7);
    while (!(get_int(fb, SOL_SOCKET, SO_ERROR) == ECONNREFUSED))
        CHECK(await_or_not(&b, FFL_READ | FFL_WRITE, 60 * FFL_NS_PER_SEC));
    CHECK_EQ(ops->connect(st, fb, &none), 0);
    CHECK_EQ(put(fb, "x", 1), -EDESTADDRREQ);
    net_end(b.fd, c.fd);
}
