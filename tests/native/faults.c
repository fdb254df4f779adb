/*
 * faults.c - rules 3, 8 and 9 from the application's end, and what is heavy: large sends, slow
 * readers, many connections, sudden deaths.
 *
 * The client library and a running instance, over the host stack or the sim's load. Peers on the
 * host stack are plain kernel sockets.
 */
#include "lab.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define SEC FFL_NS_PER_SEC

static uint8_t pattern(uint64_t i)
{
    return (uint8_t)(i * 167 + i / 256 * 13 + i / 65536 * 7);
}

/* ---- an application ------------------------------------------------------------------------ */

static struct ffl_client *attach(uint32_t tx_cap)
{
    struct ffl_client *c;
    char why[256];
    struct ffl_client_opts o = {.path = lab.path, .timeout_ms = 60000, .tx_cap = tx_cap};
    int rc = ffl_client_attach(&c, &o, why, sizeof(why));
    if (rc < 0)
        FAIL("attach: %s", why);
    return c;
}

static int listen_on(struct ffl_client *c, struct ffl_addr *a, int window)
{
    struct ffl_addresses addresses;
    int h = ffl_client_socket(c, AF_INET, SOCK_STREAM, 0, 0);
    CHECK(h >= 0);
    CHECK_EQ(ffl_client_bind(c, h, a), 0);
    CHECK_EQ(ffl_client_listen(c, h, 128, FFL_F_NODELAY), 0);
    CHECK_EQ(ffl_client_accepting(c, h, window, FFL_F_ARM_NEW), 0);
    CHECK_EQ(ffl_client_addresses(c, h, &addresses), 0);
    *a = addresses.local;
    return h;
}

/* Events that came with the one awaited; for later. Their data is not for use. */
static struct ffl_event kept[4096];
static int nkept;

static bool keep_or_take(struct ffl_event *ev, int n, enum ffl_event_kind kind, int h,
                         struct ffl_event *found)
{
    bool have = false;
    for (int i = 0; i < n; i++) {
        if (!have && ev[i].kind == kind && (h < 0 || ev[i].handle == (uint32_t)h)) {
            *found = ev[i];
            have = true;
        } else if (nkept < (int)FFL_COUNT(kept)) {
            kept[nkept++] = ev[i];
        }
    }
    return have;
}

/* Waits for an event of this kind and handle (or any handle: -1). */
static struct ffl_event await(struct ffl_client *c, enum ffl_event_kind kind, int h)
{
    struct ffl_event ev[64], found;
    int n = nkept;
    static struct ffl_event old[FFL_COUNT(kept)];
    memcpy(old, kept, sizeof(kept));
    nkept = 0;
    if (keep_or_take(old, n, kind, h, &found))
        return found;
    for (int64_t until = ffl_now_ns() + 60 * SEC; ffl_now_ns() < until;) {
        n = ffl_client_wait(c, ev, 64, -1, SEC);
        CHECK(n >= 0);
        if (keep_or_take(ev, n, kind, h, &found))
            return found;
    }
    FAIL("no event of kind %d for handle %d", kind, h);
}

static int kernel_dial(const struct ffl_addr *a)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = a->port_be};
    memcpy(&in.sin_addr, a->ip, 4);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    CHECK_EQ(connect(fd, (struct sockaddr *)&in, sizeof(in)), 0);
    struct timeval limit = {.tv_sec = 60};
    CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
    return fd;
}

static void host_lab(void)
{
    lab_defaults("host");
    lab.o.pool_kib = 32 * 1024;
    lab_start("");
    lab_run();
}

/* The instance lets go of sockets and sessions a moment after it was told. */
static void settled(unsigned sessions, unsigned sockets)
{
    int64_t until = ffl_now_ns() + 60 * SEC;
    while (ffl_instance_sockets(lab.in) != sockets || lab_sessions() != sessions) {
        if (ffl_now_ns() > until)
            FAIL("%u sessions and %u sockets are left, not %u and %u", lab_sessions(),
                 ffl_instance_sockets(lab.in), sessions, sockets);
        (void)poll(NULL, 0, 1);
    }
}

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
    struct ffl_client *c = attach(0);
    struct ffl_addr a = addr4("127.0.0.1", 0);
    listen_on(c, &a, 8);
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
    struct ffl_client *c = attach(0);
    struct ffl_addr a = addr4("127.0.0.1", 0);
    listen_on(c, &a, 64);
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
    nkept = 0; /* it may have been told before, of room that another then took */
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
    struct ffl_client *c = attach(0);
    struct ffl_addr a = addr4("127.0.0.1", 0);
    listen_on(c, &a, 8);
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

/* ---- 8: a session dies with its socket ----------------------------------------------------- */

/* A child process that waits for a word and then runs `body`, never to return. */
static pid_t child(void (*body)(int ready), int *go, int *ready)
{
    int down[2], up[2];
    CHECK_EQ(pipe2(down, O_CLOEXEC), 0);
    CHECK_EQ(pipe2(up, O_CLOEXEC), 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        char c;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(down[1]);
        close(up[0]);
        snprintf(lab.path, sizeof(lab.path), "@ffl-test-%d", (int)getppid()); /* as lab_defaults */
        if (read(down[0], &c, 1) == 1)
            body(up[1]);
        _exit(3);
    }
    close(down[0]);
    close(up[1]);
    *go = down[1];
    *ready = up[0];
    return pid;
}

static void tell(int fd, const void *p, size_t n)
{
    CHECK_EQ(write(fd, p, n), n);
}

static void hear(int fd, void *p, size_t n)
{
    struct pollfd pf = {.fd = fd, .events = POLLIN};
    CHECK_EQ(poll(&pf, 1, 60000), 1);
    CHECK_EQ(read(fd, p, n), n);
}

/* Everything an application can have in hand: listener, data both ways, a send that is stuck. */
static void busy_application(int ready)
{
    static uint8_t data[1 << 20];
    struct ffl_client *c = attach(0);
    struct ffl_addr a = addr4("127.0.0.1", 0);
    listen_on(c, &a, 8);
    tell(ready, &a, sizeof(a));
    for (int i = 0; i < 3; i++) {
        int h = (int)await(c, FFL_EV_ACCEPT, -1).arg;
        for (int k = 0; i == 1 && k < 100; k++)
            (void)ffl_client_send(c, h, data, sizeof(data));
        if (i == 2)
            CHECK(ffl_client_socket(c, AF_INET, SOCK_STREAM, 0, 0) >= 0);
    }
    tell(ready, "r", 1);
    for (;;)
        pause();
}

static void killed(void (*body)(int ready))
{
    int go, ready, fd[3];
    struct ffl_addr a;
    char c;
    pid_t pid = child(body, &go, &ready);
    int before = test_open_fds();
    host_lab();
    int running = test_open_fds();
    tell(go, "g", 1);
    hear(ready, &a, sizeof(a));
    for (int i = 0; i < 3; i++)
        fd[i] = kernel_dial(&a);
    hear(ready, &c, 1);
    CHECK_EQ(lab_sessions(), 1);
    struct ffl_client *other = attach(0); /* is not disturbed */
    CHECK_EQ(kill(pid, SIGKILL), 0);
    CHECK_EQ(waitpid(pid, NULL, 0), pid);
    for (int i = 0; i < 3; i++) { /* its connections end; what it had sent is delivered first */
        static char buf[1 << 16];
        ssize_t n;
        while ((n = recv(fd[i], buf, sizeof(buf), 0)) > 0)
            ;
        CHECK(n == 0 || errno == ECONNRESET);
        close(fd[i]);
    }
    settled(1, 0);
    CHECK_EQ(ffl_client_ping(other), 0);
    ffl_client_detach(other);
    settled(0, 0);
    int64_t until = ffl_now_ns() + 60 * SEC;
    while (test_open_fds() != running && ffl_now_ns() < until)
        (void)poll(NULL, 0, 1);
    CHECK_EQ(test_open_fds(), running);
    lab_stop();
    CHECK_EQ(test_open_fds(), before);
    close(go);
    close(ready);
}

TEST(r8_killed_application_leaves_nothing)
{
    killed(busy_application);
}

/* A forked child of it lives on, holding copies of its descriptors;
 * the session ends all the same. */
static void forking_application(int ready)
{
    struct ffl_client *c = attach(0);
    struct ffl_addr a = addr4("127.0.0.1", 0);
    listen_on(c, &a, 8);
    pid_t pid = (pid_t)syscall(57 /* x86-64: fork without its handlers, as a vfork or clone is */);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, 0);
        alarm(LIMIT_S);
        for (;;)
            pause();
    }
    tell(ready, &a, sizeof(a));
    for (int i = 0; i < 3; i++)
        (void)await(c, FFL_EV_ACCEPT, -1);
    tell(ready, "r", 1);
    for (;;)
        pause();
}

TEST(r8_a_surviving_child_does_not_keep_the_session)
{
#if defined(__x86_64__)
    prctl(PR_SET_CHILD_SUBREAPER, 1); /* the grandchild comes to us, to be ended */
    killed(forking_application);
    FILE *f = fopen("/proc/thread-self/children", "r");
    int pid;
    CHECK(f);
    while (fscanf(f, "%d", &pid) == 1)
        kill(pid, SIGKILL);
    fclose(f);
    while (waitpid(-1, NULL, 0) > 0)
        ;
#else
    (void)forking_application;
#endif
}

/* ---- 9: the instance dies ------------------------------------------------------------------ */

static void instance_process(int ready)
{
    lab_defaults("host");
    snprintf(lab.path, sizeof(lab.path), "@ffl-test-child-%d", (int)getppid());
    lab.o.pool_kib = 65536; /* more buffers than the SQ has entries */
    lab.o.max_sockets = 65536;
    lab_start("");
    tell(ready, "r", 1);
    (void)ffl_instance_run(lab.in);
    _exit(0);
}

static void *ping_for_ever(void *arg)
{
    int rc;
    while ((rc = ffl_client_ping(arg)) == 0)
        ;
    return (void *)(intptr_t)rc;
}

static pid_t start_child_instance(int *go, int *ready)
{
    char c;
    pid_t pid = child(instance_process, go, ready);
    tell(*go, "g", 1);
    hear(*ready, &c, 1);
    snprintf(lab.path, sizeof(lab.path), "@ffl-test-child-%d", (int)getpid());
    return pid;
}

static void end_child_instance(pid_t pid, int go, int ready)
{
    CHECK_EQ(kill(pid, SIGKILL), 0);
    CHECK_EQ(waitpid(pid, NULL, 0), pid);
    close(go);
    close(ready);
}

TEST(r9_a_dead_instance_is_seen_at_once)
{
    int go, ready;
    struct ffl_event ev[16];
    char buf[8];
    pid_t pid = start_child_instance(&go, &ready);
    struct ffl_client *c = attach(0);
    struct ffl_addr a = addr4("127.0.0.1", 0);
    int l = listen_on(c, &a, 8);
    int fd = kernel_dial(&a);
    int h = (int)await(c, FFL_EV_ACCEPT, -1).arg;
    CHECK_EQ(ffl_client_instance_pid(c), pid);
    CHECK_EQ(kill(pid, SIGKILL), 0);
    CHECK_EQ(waitpid(pid, NULL, 0), pid);
    int n = ffl_client_wait(c, ev, 16, -1, -1);
    CHECK(n >= 1 && ev[n - 1].kind == FFL_EV_LOST && ev[n - 1].arg == ECONNRESET);
    CHECK_EQ(ffl_client_wait(c, ev, 16, -1, 0), 0); /* told once */
    CHECK_EQ(ffl_client_detached(c), -ECONNRESET);
    CHECK_EQ(ffl_client_send(c, h, "x", 1), -ECONNRESET);
    CHECK_EQ(ffl_client_recv(c, h, buf, 1, 0, NULL, NULL), -ECONNRESET);
    CHECK_EQ(ffl_client_socket(c, AF_INET, SOCK_STREAM, 0, 0), -ECONNRESET);
    CHECK_EQ(ffl_client_bind(c, l, &a), -ECONNRESET);
    CHECK_EQ(ffl_client_ping(c), -ECONNRESET);
    CHECK_EQ(ffl_client_close(c, h, false), 0);
    ffl_client_detach(c);
    char why[256];
    struct ffl_client_opts o = {.path = lab.path};
    CHECK_EQ(ffl_client_attach(&c, &o, why, sizeof(why)), -ECONNREFUSED);
    CHECK(strstr(why, lab.path) != NULL);
    close(fd);
    close(go);
    close(ready);
}

TEST(r9_a_waiting_call_fails_with_the_instance)
{
    int go, ready;
    pthread_t t;
    void *rc;
    pid_t pid = start_child_instance(&go, &ready);
    struct ffl_client *c = attach(0);
    CHECK_EQ(pthread_create(&t, NULL, ping_for_ever, c), 0);
    (void)poll(NULL, 0, 20);
    CHECK_EQ(kill(pid, SIGSTOP), 0); /* so that a ping is certainly waiting */
    (void)poll(NULL, 0, 20);
    CHECK_EQ(kill(pid, SIGKILL), 0);
    pthread_join(t, &rc);
    CHECK_EQ((intptr_t)rc, -ECONNRESET);
    CHECK_EQ(waitpid(pid, NULL, 0), pid);
    ffl_client_detach(c);
    close(go);
    close(ready);
}

/* ---- an instance that stands still ---------------------------------------------------------- */

/* The instance stands still: the client queues what the SQ does not take, and goes on. */
TEST(r4_client_never_waits_for_room)
{
    int go, ready, h[6000];
    struct ffl_session_stats s;
    pid_t pid = start_child_instance(&go, &ready);
    struct ffl_client *c = attach(0);
    CHECK_EQ(kill(pid, SIGSTOP), 0);
    for (int i = 0; i < 6000; i++) {
        h[i] = ffl_client_socket(c, AF_INET, SOCK_STREAM, 0, 0);
        CHECK(h[i] >= 0);
    }
    for (int i = 0; i < 6000; i++)
        CHECK_EQ(ffl_client_close(c, h[i], false), 0);
    ffl_client_stats(c, &s);
    CHECK(s.sq_full > 6000);
    CHECK_EQ(kill(pid, SIGCONT), 0);
    for (int i = 0; i < 6000; i++)
        (void)await(c, FFL_EV_CLOSED, -1);
    CHECK_EQ(ffl_client_open_sockets(c), 0);
    ffl_client_detach(c);
    end_child_instance(pid, go, ready);
}

/* What was taken by send before a detach arrives, though the SQ was full when it was taken; and the
 * detach waits for nobody: the instance is stopped until it is over. */
TEST(r8_detach_loses_nothing)
{
    enum { N = 20 };
    int go, ready, fd[N], h[N];
    uint64_t sent[N] = {0};
    static uint8_t buf[65536];
    struct ffl_session_stats s;
    pid_t pid = start_child_instance(&go, &ready);
    struct ffl_client *c = attach(0);
    struct ffl_addr a = addr4("127.0.0.1", 0);
    listen_on(c, &a, 32);
    for (int i = 0; i < N; i++) {
        fd[i] = kernel_dial(&a);
        h[i] = (int)await(c, FFL_EV_ACCEPT, -1).arg;
    }
    CHECK_EQ(kill(pid, SIGSTOP), 0); /* while the application sends and leaves */
    for (int k = 0; k < 300; k++)
        for (int i = 0; i < N; i++) {
            uint8_t b[100];
            for (size_t j = 0; j < sizeof(b); j++)
                b[j] = pattern(sent[i] + j);
            int64_t n = ffl_client_send(c, h[i], b, sizeof(b));
            sent[i] += n > 0 ? (uint64_t)n : 0;
        }
    ffl_client_stats(c, &s);
    CHECK(s.sq_full > 0);
    ffl_client_detach(c);
    CHECK_EQ(kill(pid, SIGCONT), 0);
    for (int i = 0; i < N; i++) {
        uint64_t got = 0;
        ssize_t n;
        while ((n = recv(fd[i], buf, sizeof(buf), 0)) > 0)
            for (ssize_t k = 0; k < n; k++, got++)
                CHECK_EQ(buf[k], pattern(got));
        CHECK_EQ(n, 0);
        CHECK_EQ(got, sent[i]);
        close(fd[i]);
    }
    end_child_instance(pid, go, ready);
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
    struct ffl_client *c = attach(0);
    CHECK_EQ(ffl_segment_map(&m, dup(ffl_client_memfd(c))), 0);
    struct ffl_addr a = addr4("10.0.0.1", 80);
    listen_on(c, &a, 64);
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
