/*
 * exhaust.c - what happens when something fails that hardly ever does.
 *
 * A life (of an application, of a client) is led again and again, and each time one crossing
 * further on a fault point fails (points.h), once or from there on, until a life meets none.
 * Whatever happens to that life is an error that says what it is; afterwards nothing of it may be
 * left, and a neighbour has noticed nothing.
 */
#include "points.h"

#include "calls.h"

#include "../../ffloop/_native/instance/internal.h"

#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/wait.h>

#define ALWAYS 0x7fffffffu

/* ---- the instance, in iterations ------------------------------------------------------------- */

static uint32_t base_fds; /* of the sim, the neighbour's */

static void put(struct raw *r, enum ffl_op op, uint32_t handle, const void *arg, size_t len)
{
    raw_put(r, (struct ffl_entry){
                   .op = (uint8_t)op, .tag = 7, .handle = handle, .buf = raw_arg(r, arg, len)});
}

/* Takes what has come; the last handle that was accepted. */
static uint32_t reap(struct raw *r)
{
    struct ffl_entry e;
    uint32_t accepted = FFL_NO_BUF;
    atomic_store(&r->map.seg->waits.app, FFL_WAIT_QUEUE | FFL_WAIT_FREE);
    iterations(3);
    while (raw_next(r, &e)) {
        if (e.op == FFL_OP_ACCEPT)
            accepted = (uint32_t)e.arg;
        raw_give(r, e.buf);
    }
    return accepted;
}

static void use_ticket(struct raw *r, uint32_t h)
{
    struct ffl_ticket t;
    if (!lab_ticket(&t))
        return;
    raw_export(r, h, &t);
    (void)reap(r);
    struct ffl_import i = {.key = t.key, .ticket = t.id, .handle = h};
    put(r, FFL_OP_IMPORT, 5, &i, sizeof(i));
    (void)reap(r);
    raw_put(r, (struct ffl_entry){
                   .op = FFL_OP_UNREAD, .handle = h, .arg = 3, .buf = raw_arg(r, "abc", 3)});
    raw_op(r, FFL_OP_ARM, 5, 0, 0);
    (void)reap(r);
    close(t.fd);
}

static void serve_one(struct raw *r, uint32_t h, int peer)
{
    static char text[5000];
    struct ffl_optarg o = {.level = SOL_SOCKET, .name = SO_RCVBUF, .len = 4};
    (void)sim_put(peer, text, sizeof(text));
    (void)reap(r);
    for (int i = 0; i < 20; i++)
        raw_send(r, h, text, 4096);
    (void)reap(r);
    while (sim_take(peer, text, sizeof(text)) > 0)
        iterations(1);
    put(r, FFL_OP_GETSOCKOPT, h, &o, sizeof(o));
    raw_op(r, FFL_OP_ADDRESSES, h, 0, 0);
    (void)reap(r);
}

/* An application's life: it goes on with what it has. */
static void application(void)
{
    struct ffl_hello hello = {
        .magic = FFL_MAGIC, .version = FFL_ABI_VERSION, .kind = FFL_HELLO_ATTACH};
    struct ffl_addr a = addr4("10.0.0.1", 81);
    struct raw r;
    int peers[3], n = 0;
    if (raw_try(&r, &hello) != FFL_REPLY_OK)
        return;
    raw_socket(&r, 1, SOCK_DGRAM);
    raw_socket(&r, 0, SOCK_STREAM);
    put(&r, FFL_OP_BIND, 0, &a, sizeof(a));
    raw_op(&r, FFL_OP_LISTEN, 0, 8, 0);
    raw_op(&r, FFL_OP_ARM, 0, 8, FFL_F_ARM_NEW);
    (void)reap(&r);
    uint32_t h = FFL_NO_BUF;
    while (n < 3) {
        peers[n++] = sim_dial("10.0.0.1", 81);
        uint32_t more = reap(&r);
        h = more == FFL_NO_BUF ? h : more;
        if (more != FFL_NO_BUF)
            serve_one(&r, h, peers[n - 1]);
    }
    use_ticket(&r, h == FFL_NO_BUF ? 0 : h);
    if (h != FFL_NO_BUF)
        raw_op(&r, FFL_OP_CLOSE, h, 0, 0);
    (void)reap(&r);
    raw_gone(&r);
    while (n > 0)
        sim_shut(peers[--n]);
}

static uint32_t sim_fds(void)
{
    struct ffl_sim_counts counts;
    ffl_sim_count(sim, &counts);
    return counts.fds;
}

static void nothing_left(const char *what, unsigned skip, unsigned sockets, int fds)
{
    for (int i = 0; i < 1000; i++) {
        step(1000000, 1);
        unsigned dying = atomic_load_explicit(&lab.in->page->dying, memory_order_relaxed);
        unsigned pending = atomic_load_explicit(&lab.in->page->pending, memory_order_relaxed);
        if (lab_sessions() == 1 && ffl_instance_sockets(lab.in) == sockets && !dying && !pending &&
            sim_fds() == base_fds && test_open_fds() == fds)
            return;
    }
    FAIL("%s, the %u. time: %u sessions, %u sockets for %u, %u of the stack for %u, %d descriptors "
         "for %d are left",
         what, skip, lab_sessions(), ffl_instance_sockets(lab.in), sockets, sim_fds(), base_fds,
         test_open_fds(), fds);
}

static void exhaust_instance(enum point p, unsigned times)
{
    struct neighbour n;
    unsigned failed = 1, skip = 0;
    lab_defaults("sim");
    lab.o.stack = points_stack(lab.o.stack);
    lab_start("clock=manual");
    neighbour_start(&n);
    neighbour_works(&n);
    unsigned sockets = ffl_instance_sockets(lab.in);
    int fds = test_open_fds();
    base_fds = sim_fds();
    for (; failed; skip++) {
        CHECK(skip < 5000);
        points_arm(&(struct plan){.p = p, .skip = skip, .times = times, .iterations = true});
        application();
        failed = points_end();
        nothing_left(point_names[p], skip, sockets, fds);
        neighbour_works(&n);
    }
    printf("%s: %u lives\n", point_names[p], skip);
    CHECK(skip > 1);
    neighbour_end(&n);
}

static const enum point instance_points[] = {POINT_MEMORY,      POINT_DESCRIPTOR, POINT_MAPPING,
                                             POINT_POOL,        POINT_BELL,       POINT_SHORT_READ,
                                             POINT_SHORT_WRITE, POINT_INTERRUPT};

TEST(instance_once)
{
    for (size_t i = 0; i < FFL_COUNT(instance_points); i++)
        exhaust_instance(instance_points[i], 1);
}

TEST(instance_from_then_on)
{
    for (size_t i = 0; i < FFL_COUNT(instance_points); i++)
        if (instance_points[i] != POINT_INTERRUPT) /* that would be a stack that never works */
            exhaust_instance(instance_points[i], ALWAYS);
}

/* It cannot start: a reason, and nothing left. */
TEST(instance_start)
{
    static const enum point points[] = {POINT_MEMORY, POINT_DESCRIPTOR, POINT_MAPPING};
    lab_defaults("host");
    int fds = test_open_fds();
    for (size_t i = 0; i < FFL_COUNT(points); i++) {
        unsigned failed = 1, skip = 0;
        for (; failed; skip++) {
            char why[256];
            points_arm(&(struct plan){points[i], skip, 1, pthread_self(), false});
            int rc = ffl_instance_start(&lab.in, &lab.o, why, sizeof(why));
            failed = points_end();
            /* a call that is only tried out (calls.h) is made again where it is needed */
            bool tried = points[i] == POINT_DESCRIPTOR && skip < FFL_CALLS;
            CHECK(rc == 0 ? !failed || tried : failed && why[0]);
            if (rc == 0)
                ffl_instance_free(lab.in);
            CHECK_EQ(test_open_fds(), fds);
        }
        CHECK(skip > 1);
    }
}

/* A connection that finds no memory costs its listener neither a handle nor credit:
 * here is one of each. */
TEST(accept_without_memory)
{
    unsigned failed = 1;
    int fresh;
    lab_start("clock=manual");
    quiet();
    for (unsigned skip = 0; failed; skip++) {
        struct raw r;
        raw_attach_sized(&r, 1, 0);
        raw_listen(&r, 0, "10.0.0.1", 81, 1, 0);
        int peer = sim_dial("10.0.0.1", 81);
        points_arm(&(struct plan){.p = POINT_MEMORY, .skip = skip, .times = 1, .iterations = true});
        iterations(5);
        failed = points_end();
        if (raw_avail(&r) == 0) {
            fresh = sim_dial("10.0.0.1", 81);
            CHECK_EQ(raw_expect(&r, FFL_OP_ACCEPT, 0).arg, 1);
            sim_shut(fresh);
        }
        raw_gone(&r);
        sim_shut(peer);
        iterations(3);
        CHECK_EQ(ffl_instance_sockets(lab.in), 0);
    }
    lab_stop();
}

/* ---- the client ---------------------------------------------------------------------------- */

static void may_fail(int64_t rc) /* and says why */
{
    if (rc < 0 && rc != -ENOMEM && rc != -ENOBUFS && rc != -EMFILE && rc != -ENOSPC &&
        rc != -EAGAIN && rc != -ECONNRESET && rc != -EBADF && rc != -EINVAL)
        FAIL("an odd error: %s", strerror((int)-rc));
}

/* The next event of this kind for a while, or of none: the handle or argument, or -1. */
static int event(struct ffl_client *c, enum ffl_event_kind kind)
{
    struct ffl_event ev[16];
    int found = -1;
    for (int64_t until = ffl_now_ns() + FFL_NS_PER_SEC / 5; found < 0 && ffl_now_ns() < until;) {
        int n = ffl_client_wait(c, ev, 16, -1, FFL_NS_PER_SEC / 50);
        may_fail(n);
        for (int i = 0; i < n; i++)
            if (ev[i].kind == FFL_EV_LOST)
                return -1;
            else if (ev[i].kind == kind)
                found = (int)ev[i].arg;
    }
    return found;
}

static int dial(const struct ffl_addr *a)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = a->port_be};
    memcpy(&in.sin_addr, a->ip, 4);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0)
        (void)connect(fd, (struct sockaddr *)&in, sizeof(in));
    return fd;
}

static void talk(struct ffl_client *c, int h, int peer, int placeholder)
{
    static char text[200000];
    struct iovec iov[2] = {{text, 100}, {text, sizeof(text) - 100}};
    int on = 1;
    uint32_t len = sizeof(on);
    may_fail(ffl_client_setsockopt(c, h, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)));
    may_fail(ffl_client_getsockopt(c, h, IPPROTO_TCP, TCP_NODELAY, &on, &len));
    may_fail(ffl_client_placeholder(c, h, placeholder));
    may_fail(ffl_client_push(c, h, true));
    ssize_t n = send(peer, text, 50000, MSG_NOSIGNAL);
    if (event(c, FFL_EV_DATA) > 0)
        (void)ffl_client_unread(c, h);
    may_fail(ffl_client_push(c, h, false));
    n += send(peer, text, 50000, MSG_NOSIGNAL);
    may_fail(ffl_client_want(c, h, 1));
    (void)event(c, FFL_EV_READABLE);
    for (int i = 0; i < 3; i++)
        may_fail(ffl_client_recv(c, h, text, sizeof(text), 0, NULL, NULL));
    may_fail(ffl_client_sendv(c, h, iov, 2, 0));
    may_fail(ffl_client_send(c, h, text, 20000));
    may_fail(ffl_client_want(c, h, 2));
    (void)event(c, FFL_EV_WRITABLE);
    while ((n = recv(peer, text, sizeof(text), 0)) > 0)
        ;
    may_fail(ffl_client_ping(c));
}

/* A client's life, as an application leads it. Returns whether it attached. */
static bool client(const char *path)
{
    struct ffl_client_opts o = {.path = path, .timeout_ms = 60000, .pool_kib = 1024};
    struct ffl_client *c;
    struct ffl_addresses addresses = {0};
    struct ffl_addr a = addr4("127.0.0.1", 0);
    char why[256];
    int rc = ffl_client_attach(&c, &o, why, sizeof(why));
    if (rc < 0) {
        if (!why[0])
            FAIL("attach: %d without a reason", rc);
        return false;
    }
    int placeholder = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int l = ffl_client_socket(c, AF_INET, SOCK_STREAM, 0, 0), peer = -1, h;
    may_fail(l);
    may_fail(ffl_client_bind(c, l, &a));
    may_fail(ffl_client_listen(c, l, 8, 0));
    may_fail(ffl_client_accepting(c, l, 4, FFL_F_ARM_NEW));
    rc = ffl_client_addresses(c, l, &addresses);
    may_fail(rc);
    if (rc == 0 && (peer = dial(&addresses.local)) >= 0 && (h = event(c, FFL_EV_ACCEPT)) >= 0) {
        talk(c, h, peer, placeholder);
        may_fail(ffl_client_close(c, h, false));
        (void)event(c, FFL_EV_CLOSED);
    }
    may_fail(ffl_client_close(c, l, false));
    ffl_client_detach(c);
    close(placeholder);
    if (peer >= 0)
        close(peer);
    return true;
}

/* The instance, a thread beside us, lets go of everything a moment after it was told. */
static void settled(const char *what, unsigned skip, int fds)
{
    int64_t until = ffl_now_ns() + 60 * FFL_NS_PER_SEC;
    while (ffl_instance_sockets(lab.in) || lab_sessions() || test_open_fds() != fds) {
        if (ffl_now_ns() > until)
            FAIL("%s, the %u. time: %u sessions, %u sockets, %d descriptors for %d are left", what,
                 skip, lab_sessions(), ffl_instance_sockets(lab.in), test_open_fds(), fds);
        (void)poll(NULL, 0, 1);
    }
}

static void exhaust_client(enum point p, unsigned times)
{
    unsigned failed = 1, skip = 0;
    int fds = test_open_fds();
    for (; failed; skip++) {
        CHECK(skip < 2000);
        alarm(LIMIT_S);
        points_arm(&(struct plan){p, skip, times, pthread_self(), false});
        (void)client(lab.path);
        failed = points_end();
        settled(point_names[p], skip, fds);
    }
    printf("%s: %u lives\n", point_names[p], skip);
    CHECK(skip > 1);
}

static void host_lab(void)
{
    lab_defaults("host");
    lab_start("");
    lab_run();
    quiet();
}

TEST(client_once)
{
    static const enum point points[] = {POINT_MEMORY, POINT_DESCRIPTOR, POINT_MAPPING,
                                        POINT_POOL,   POINT_SHORT_READ, POINT_SHORT_WRITE};
    host_lab();
    for (size_t i = 0; i < FFL_COUNT(points); i++)
        exhaust_client(points[i], 1);
    lab_stop();
}

TEST(client_from_then_on)
{
    static const enum point points[] = {POINT_MEMORY, POINT_DESCRIPTOR, POINT_POOL};
    host_lab();
    for (size_t i = 0; i < FFL_COUNT(points); i++)
        exhaust_client(points[i], ALWAYS);
    lab_stop();
}

/* Rings of 64 slots, and nobody's life is another for it. */
TEST(small_rings)
{
    lab_defaults("host");
    lab.o.entries = 64;
    lab_start("");
    lab_run();
    int fds = test_open_fds();
    for (int i = 0; i < 20; i++) {
        CHECK(client(lab.path));
        settled("small rings", (unsigned)i, fds);
    }
    lab_stop();
}

/* Ten times what they hold, either way: everything arrives, in order. */
TEST(full_rings)
{
    struct raw r;
    struct ffl_entry e;
    struct ffl_client *c;
    lab_defaults("sim");
    lab.o.entries = 64;
    lab.o.pool_kib = 16384;
    lab_start("clock=manual");
    raw_attach(&r);
    for (int i = 0; i < 640; i++) {
        raw_op(&r, FFL_OP_NOP, 0, i, 0);
        if (i % 64 == 63)
            iterations(1);
    }
    CHECK(atomic_load(&r.map.seg->inst.cq_full) > 500);
    for (int i = 0; i < 640; i++) {
        while (!raw_next(&r, &e))
            iterations(1);
        CHECK_EQ(e.arg, i);
    }
    int server = sim_listen("10.0.0.9", 9);
    struct ffl_addr a = addr4("10.0.0.9", 9);
    c = lab_attach_stepped();
    int h = ffl_client_socket(c, AF_INET, SOCK_STREAM, 0, 0);
    CHECK_EQ(ffl_client_connect(c, h, &a), -EINPROGRESS);
    step(1000000, 20);
    (void)event(c, FFL_EV_CONNECT);
    for (int i = 0; i < 640; i++)
        CHECK_EQ(ffl_client_send(c, h, (char[]){(char)i}, 1), 1);
    struct ffl_session_stats stats;
    ffl_client_stats(c, &stats);
    CHECK(stats.sq_full > 500);
    int peer = sim_answer(server), got = 0;
    char text[640];
    while (got < 640) {
        step(1000000, 5);
        ffl_client_reap(c);
        int n = sim_take(peer, text, sizeof(text));
        for (int i = 0; i < n; i++)
            CHECK_EQ(text[i], (char)got++);
    }
    sim_shut(peer);
    sim_shut(server);
    ffl_client_detach(c);
    raw_finish(&r);
}

/* ---- a lost doorbell ----------------------------------------------------------------------- */

static struct ffl_event next(struct ffl_client *c)
{
    struct ffl_event ev[4];
    int n;
    while ((n = ffl_client_wait(c, ev, 4, -1, -1)) == 0)
        ;
    CHECK_EQ(n, 1);
    return ev[0];
}

/* How long an answer takes when the doorbell is lost that this thread rings for it. */
static double lose_one(struct ffl_client *c, const struct ffl_addr *listener, pthread_t who)
{
    const _Atomic uint32_t *word = &TAILQ_FIRST(&lab.in->sessions)->map.seg->waits.inst;
    while (!atomic_load(word)) /* the instance is about to sleep */
        sched_yield();
    points_arm(&(struct plan){POINT_BELL, 0, 1, who, false});
    int64_t began = ffl_now_ns();
    if (pthread_equal(who, pthread_self())) {
        CHECK_EQ(ffl_client_ping(c), 0);
    } else {
        int peer = dial(listener);
        struct ffl_event ev = next(c);
        CHECK_EQ(ev.kind, FFL_EV_ACCEPT);
        CHECK_EQ(ffl_client_close(c, (int)ev.arg, true), 0);
        CHECK_EQ(next(c).kind, FFL_EV_CLOSED);
        close(peer);
    }
    (void)points_end();
    return (double)(ffl_now_ns() - began) / 1e9;
}

/* It delays by a second (FFL_LOOK_NS), whoever lost it, and stalls nobody. */
TEST(lost_doorbell)
{
    struct ffl_client_opts o = {.path = NULL, .timeout_ms = 60000};
    struct ffl_client *c;
    struct ffl_addresses addresses;
    struct ffl_addr a = addr4("127.0.0.1", 0);
    char why[256];
    host_lab();
    int fds = test_open_fds();
    o.path = lab.path;
    CHECK_EQ(ffl_client_attach(&c, &o, why, sizeof(why)), 0);
    int l = ffl_client_socket(c, AF_INET, SOCK_STREAM, 0, 0);
    CHECK_EQ(ffl_client_bind(c, l, &a), 0);
    CHECK_EQ(ffl_client_listen(c, l, 8, 0), 0);
    CHECK_EQ(ffl_client_accepting(c, l, 4, 0), 0);
    CHECK_EQ(ffl_client_addresses(c, l, &addresses), 0);
    for (int theirs = 0; theirs < 2; theirs++) {
        double took = 0;
        for (int i = 0; i < 100 && took < 0.5;
             i++) { /* until the sleeper had really fallen asleep */
            (void)poll(NULL, 0, i);
            took = lose_one(c, &addresses.local, theirs ? lab.thread : pthread_self());
        }
        printf("%s: %.3f s\n", theirs ? "the instance's" : "the application's", took);
        CHECK(took > 0.5 && took < 60);
    }
    ffl_client_detach(c);
    settled("a doorbell", 0, fds);
    lab_stop();
}

/* ---- sudden death -------------------------------------------------------------------------- */

#define STEP_DEATHS (TEST_SLOW > 1 ? 5 : 1) /* crossings from one death to the next */

/* True: it was killed. */
static bool was_killed(pid_t pid)
{
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
    return WIFSIGNALED(status);
}

TEST(client_dies_anywhere)
{
    unsigned skip = 0;
    bool killed = true;
    host_lab();
    int fds = test_open_fds();
    for (; killed; skip += STEP_DEATHS) {
        alarm(LIMIT_S);
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            points_arm(&(struct plan){POINT_DEATH, skip, 1, pthread_self(), false});
            _exit(!client(lab.path));
        }
        killed = was_killed(pid);
        settled("death", skip, fds);
    }
    printf("%u deaths\n", skip / STEP_DEATHS);
    CHECK(skip > STEP_DEATHS);
    lab_stop();
}

TEST(instance_dies_anywhere)
{
    unsigned skip = 0;
    bool killed = true;
    lab_defaults("host");
    quiet();
    int fds = test_open_fds();
    for (; killed; skip += STEP_DEATHS) {
        int up[2];
        char word;
        alarm(LIMIT_S);
        CHECK_EQ(pipe(up), 0);
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            lab_start("");
            CHECK_EQ(write(up[1], "", 1), 1);
            points_arm(&(struct plan){POINT_DEATH, skip, 1, pthread_self(), false});
            _exit(ffl_instance_run(lab.in) != 0);
        }
        close(up[1]);
        CHECK_EQ(read(up[0], &word, 1), 1);
        close(up[0]);
        int64_t began = ffl_now_ns();
        (void)client(lab.path);
        CHECK(ffl_now_ns() - began < 30 * FFL_NS_PER_SEC); /* and no call waited for the dead */
        CHECK_EQ(test_open_fds(), fds);
        killed = !client(lab.path);
        CHECK_EQ(kill(pid, SIGKILL), 0);
        CHECK(was_killed(pid));
    }
    printf("%u deaths\n", skip / STEP_DEATHS);
    CHECK(skip > STEP_DEATHS);
}
