/*
 * heavy.c - rule 3 from the application's end, and what is heavy: large sends, slow readers, many
 * connections.
 *
 * The client library and a running instance, over the host stack or the sim's load. Peers on the
 * host stack are plain kernel sockets.
 */
#include "app.h"

#include <fcntl.h>
#include <poll.h>

#define SEC FFL_NS_PER_SEC

/* ---- 3: large sends, slow readers ---------------------------------------------------------- */

struct reader {
    int fd;
    uint64_t want, got;
};

static void *read_all(void *arg)
{
    struct reader *r = arg;
    static uint8_t buf[1 << 18];
    while (r->got < r->want) {
        ssize_t n = recv(r->fd, buf, sizeof(buf), 0);
        if (n <= 0)
            FAIL("recv after %llu bytes: %s", (unsigned long long)r->got, strerror(errno));
        for (ssize_t i = 0; i < n; i++, r->got++)
            if (buf[i] != pattern(r->got))
                FAIL("byte %llu differs", (unsigned long long)r->got);
    }
    return NULL;
}

/* Far more than the pool and the cap: it goes through only if freed space wakes the sender. */
TEST(r3_one_send_of_100_mb)
{
    host_lab();
    struct ffl_client *c = attach();
    struct ffl_addr a = addr4("127.0.0.1", 0);
    listen_on(c, &a, 8, false);
    struct reader r = {.fd = kernel_dial(&a), .want = (100u << 20) / TEST_SLOW};
    int h = (int)await(c, FFL_EV_ACCEPT, -1).arg;
    uint8_t *data = malloc(r.want);
    CHECK(data);
    for (uint64_t i = 0; i < r.want; i++)
        data[i] = pattern(i);
    pthread_t t;
    CHECK_EQ(pthread_create(&t, NULL, read_all, &r), 0);
    uint64_t sent = 0;
    int64_t n = ffl_client_send(c, h, data, r.want);
    CHECK(n > 0 && (uint64_t)n < r.want);
    CHECK(ffl_client_unsent(c, h) <= (4 << 20) + 65536); /* the default cap holds */
    for (sent = (uint64_t)n; sent < r.want; sent += n > 0 ? (uint64_t)n : 0) {
        (void)await(c, FFL_EV_WRITABLE, h);
        n = ffl_client_send(c, h, data + sent, r.want - sent);
        CHECK(n > 0 || n == -EAGAIN);
    }
    pthread_join(t, NULL);
    CHECK_EQ(r.got, r.want);
    free(data);
    close(r.fd);
    ffl_client_detach(c);
    settled(0, 0);
    lab_stop();
}

/* Connections whose peers never read, beside one whose peer does. */
TEST(r3_readers_that_never_read)
{
    enum { SLOW = 60 };
    static uint8_t data[1 << 20], back[1 << 16];
    int slow[SLOW], handle[SLOW];
    lab_defaults("host");
    lab.o.pool_kib = 2048; /* less than the caps of all together */
    lab_start("");
    lab_run();
    struct ffl_client *c = attach();
    struct ffl_addr a = addr4("127.0.0.1", 0);
    listen_on(c, &a, 64, false);
    for (int i = 0; i < SLOW; i++) {
        slow[i] = kernel_dial(&a);
        handle[i] = (int)await(c, FFL_EV_ACCEPT, -1).arg;
    }
    /* Rounds in a row in which every one said no: the kernel's buffers are full too. */
    int full = 0;
    for (int64_t until = ffl_now_ns() + 60 * SEC; full < 20;) {
        struct ffl_event ev[16];
        bool all = true;
        for (int i = 0; i < SLOW; i++) {
            int64_t n = ffl_client_send(c, handle[i], data, sizeof(data));
            CHECK(n > 0 || n == -EAGAIN);
            all &= n == -EAGAIN;
        }
        full = all ? full + 1 : 0;
        CHECK(ffl_client_wait(c, ev, 16, -1, full ? 2000000 : 0) >= 0);
        CHECK(ffl_now_ns() < until);
    }
    int fast = kernel_dial(&a);
    int h = (int)await(c, FFL_EV_ACCEPT, -1).arg;
    for (int i = 0; i < 200; i++) { /* a megabyte and more through what they left */
        int64_t n;
        while ((n = ffl_client_send(c, h, data, 8192)) == -EAGAIN)
            (void)await(c, FFL_EV_WRITABLE, h);
        CHECK(n > 0);
        for (int64_t got = 0; got < n;) {
            ssize_t m = recv(fast, back, sizeof(back), 0);
            CHECK(m > 0);
            got += m;
        }
    }
    /* one of them reads after all: its sender is told */
    await_forget(); /* it may have been told before, of room that another then took */
    while (ffl_client_send(c, handle[7], data, 1) > 0)
        ;
    int flags = fcntl(slow[7], F_GETFL);
    CHECK_EQ(fcntl(slow[7], F_SETFL, flags | O_NONBLOCK), 0);
    bool told = false;
    for (int64_t until = ffl_now_ns() + 60 * SEC; !told && ffl_now_ns() < until;) {
        struct ffl_event ev[16];
        while (recv(slow[7], data, sizeof(data), 0) > 0)
            ;
        int n = ffl_client_wait(c, ev, 16, -1, 1000000);
        for (int i = 0; i < n; i++)
            told |= ev[i].kind == FFL_EV_WRITABLE && ev[i].handle == (uint32_t)handle[7];
    }
    CHECK(told);
    for (int i = 0; i < SLOW; i++)
        close(slow[i]);
    close(fast);
    ffl_client_detach(c);
    settled(0, 0);
    lab_stop();
}

/* An error arrives by itself and surfaces once, on the next call, as TCP's do. */
TEST(r3_an_error_surfaces_on_the_next_call)
{
    host_lab();
    struct ffl_client *c = attach();
    struct ffl_addr a = addr4("127.0.0.1", 0);
    listen_on(c, &a, 8, false);
    int fd = kernel_dial(&a);
    int h = (int)await(c, FFL_EV_ACCEPT, -1).arg;
    CHECK_EQ(ffl_client_want(c, h, 1), 0);
    struct linger l = {.l_onoff = 1};
    CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l)), 0);
    close(fd);
    (void)await(c, FFL_EV_READABLE, h);
    char buf[8];
    CHECK_EQ(ffl_client_recv(c, h, buf, sizeof(buf), 0, NULL, NULL), -ECONNRESET);
    CHECK_EQ(ffl_client_recv(c, h, buf, sizeof(buf), 0, NULL, NULL), 0);
    CHECK_EQ(ffl_client_send(c, h, "x", 1), -EPIPE);
    CHECK_EQ(ffl_client_close(c, h, false), 0);
    (void)await(c, FFL_EV_CLOSED, h);
    ffl_client_detach(c);
    lab_stop();
}

/* ---- an echo server under the sim's load ---------------------------------------------------- */

struct leftover {
    uint8_t *data;
    size_t len, off;
    bool closing;
};
static struct leftover rest[1024];

static void echo_close(struct ffl_client *c, uint32_t h)
{
    free(rest[h].data);
    rest[h] = (struct leftover){.closing = true};
    CHECK_EQ(ffl_client_close(c, (int)h, false), 0);
}

static void echo_data(struct ffl_client *c, uint32_t h, const uint8_t *p, size_t len)
{
    struct leftover *l = &rest[h];
    CHECK(!l->data); /* paused while something is left */
    int64_t n = ffl_client_send(c, (int)h, p, len);
    if (n == (int64_t)len)
        return;
    if (n < 0 && n != -EAGAIN) {
        echo_close(c, h);
        return;
    }
    size_t done = n > 0 ? (size_t)n : 0;
    *l = (struct leftover){.data = malloc(len - done), .len = len - done};
    CHECK(l->data);
    memcpy(l->data, p + done, l->len);
    CHECK_EQ(ffl_client_push(c, (int)h, false), 0);
}

static void echo_writable(struct ffl_client *c, uint32_t h)
{
    struct leftover *l = &rest[h];
    if (!l->data)
        return;
    int64_t n = ffl_client_send(c, (int)h, l->data + l->off, l->len - l->off);
    if (n < 0 && n != -EAGAIN) {
        echo_close(c, h);
        return;
    }
    l->off += n > 0 ? (size_t)n : 0;
    if (l->off < l->len)
        return;
    free(l->data);
    *l = (struct leftover){0};
    CHECK_EQ(ffl_client_push(c, (int)h, true), 0);
}

static void echo_event(struct ffl_client *c, const uint8_t *seg, const struct ffl_event *e)
{
    static uint8_t heap[1 << 17];
    uint32_t h = e->handle;
    switch (e->kind) {
    case FFL_EV_ACCEPT:
        CHECK(e->arg < FFL_COUNT(rest));
        rest[e->arg] = (struct leftover){0};
        CHECK_EQ(ffl_client_push(c, (int)e->arg, true), 0);
        break;
    case FFL_EV_DATA:
        if (rest[h].closing)
            break;
        if (rest[h].data) { /* paused within this batch */
            if (e->off)
                CHECK_EQ(ffl_client_unread(c, (int)h), 0);
        } else if (e->off) {
            echo_data(c, h, seg + e->off, e->arg);
        } else {
            int64_t n = ffl_client_recv(c, (int)h, heap, sizeof(heap), 0, NULL, NULL);
            CHECK(n > 0);
            echo_data(c, h, heap, (size_t)n);
        }
        break;
    case FFL_EV_WRITABLE:
        echo_writable(c, h);
        break;
    case FFL_EV_EOF:
    case FFL_EV_ERROR:
        if (!rest[h].closing)
            echo_close(c, h);
        break;
    default:
        break;
    }
}

/* Serves until the load has written its report; checks that nothing came wrong. */
static void echo_under_load(const char *options, const char *want)
{
    char text[300], report[64], line[1024] = "";
    struct ffl_event ev[64];
    struct ffl_map m;
    snprintf(report, sizeof(report), "ffl-load-%d.json", (int)getpid());
    snprintf(text, sizeof(text), "load=80 verify=1 report=%s %s", report, options);
    unlink(report);
    lab_defaults("sim");
    lab.o.pool_kib = 4096;
    lab_start(text);
    lab_run();
    struct ffl_client *c = attach();
    CHECK_EQ(ffl_segment_map(&m, dup(ffl_client_memfd(c))), 0);
    struct ffl_addr a = addr4("10.0.0.1", 80);
    listen_on(c, &a, 64, false);
    int64_t until = ffl_now_ns() + 80 * SEC, look = 0;
    while (ffl_now_ns() < until) {
        int n = ffl_client_wait(c, ev, 64, -1, 5000000);
        CHECK(n >= 0);
        for (int i = 0; i < n; i++)
            echo_event(c, (const uint8_t *)m.seg, &ev[i]);
        if (ffl_now_ns() > look + 5000000) {
            look = ffl_now_ns();
            if (access(report, F_OK) == 0)
                break;
        }
    }
    until = ffl_now_ns() + 60 * SEC;
    while (ffl_client_open_sockets(c) > 1 && ffl_now_ns() < until) { /* the ends of the streams */
        int n = ffl_client_wait(c, ev, 64, -1, 5000000);
        for (int k = 0; k < n; k++)
            echo_event(c, (const uint8_t *)m.seg, &ev[k]);
    }
    CHECK_EQ(ffl_client_open_sockets(c), 1);
    FILE *f = fopen(report, "r");
    if (!f)
        FAIL("the load did not end");
    CHECK(fgets(line, sizeof(line), f));
    fclose(f);
    unlink(report);
    printf("%s", line);
    CHECK(strstr(line, "\"mismatches\": 0, \"surplus\": 0, \"broken\": 0"));
    if (!strstr(line, want))
        FAIL("no '%s' in %s", want, line);
    ffl_segment_drop(&m);
    ffl_client_detach(c);
    settled(0, 0);
    lab_stop();
}

TEST(echo_small_messages)
{
    echo_under_load("connections=50 request_bytes=100 response_bytes=100 requests=50000",
                    "\"requests\": 50000,");
}

TEST(echo_large_messages)
{
    echo_under_load("connections=8 request_bytes=1000001 response_bytes=1000001 requests=100",
                    "\"requests\": 100,");
}

/* Caps are met on both sides: 40 connections of a window's worth through a small pool. */
TEST(echo_through_a_small_pool)
{
    echo_under_load("connections=200 window=16384 request_bytes=70000 response_bytes=70000 "
                    "requests=2000 latency=20000",
                    "\"requests\": 2000,");
}

TEST(ten_thousand_connections)
{
    echo_under_load("connections=50 request_bytes=100 response_bytes=100 requests=10000 "
                    "per_connection=1",
                    "\"requests\": 10000,");
}
