/*
 * direct.c - an instance in the thread of its client: nobody is woken, nobody sleeps, all is
 * served.
 *
 * The stack is sim's with a loop of its own, as F-Stack has one. Measured by counts of that loop's
 * rounds.
 */
#include "lab.h"

#include "direct.h"
#include "driver.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

extern const struct ffl_stack_ops ffl_sim_ops;

static struct ffl_stack_ops looping;
static struct ffl_driver driver;
static struct ffl_client *c;
static int entries, rounds; /* of the stack's loop */

static int run_loop(void *st, ffl_iterate_fn iterate, void *arg)
{
    entries++;
    do
        rounds++;
    while (iterate(arg) >= 0);
    return 0;
}

static int start_here(void **st, const struct ffl_stack_opts *opts, char *why, size_t whylen)
{
    int rc = ffl_sim_ops.start(st, opts, why, whylen);
    sim = *st;
    return rc;
}

static void start(void)
{
    char why[256] = "", path[64];
    struct ffl_stack_opts none = {0};
    snprintf(path, sizeof(path), "@ffl-test-direct-%d", (int)getpid());
    looping = ffl_sim_ops;
    looping.run = run_loop;
    looping.start = start_here;
    CHECK_EQ(ffl_direct_open(&driver, &looping, &none, path, why, sizeof(why)), 0);
    struct ffl_client_opts o = {.path = path, .driver = &driver};
    int rc = ffl_client_attach(&c, &o, why, sizeof(why));
    if (rc < 0)
        FAIL("attach: %d %s", rc, why);
}

static void finish(void)
{
    struct ffl_session_stats st;
    ffl_client_stats(c, &st);
    CHECK_EQ(st.sleeps, 0);
    CHECK_EQ(st.app_wakes, 0);
    CHECK_EQ(st.inst_wakes, 0);
    CHECK_EQ(st.spins, 0);
    ffl_client_detach(c);
    ffl_direct_close(&driver);
}

/* The next event of a wait without limit. */
static struct ffl_event next_event(enum ffl_event_kind kind)
{
    static struct ffl_event ev[16];
    int n = ffl_client_wait(c, ev, FFL_COUNT(ev), -1, -1);
    CHECK_EQ(n, 1);
    CHECK_EQ(ev[0].kind, kind);
    return ev[0];
}

static int listener(void)
{
    struct ffl_addr a = addr4("10.0.0.1", 80);
    int h = ffl_client_socket(c, AF_INET, SOCK_STREAM, 0, 0);
    CHECK(h >= 0);
    CHECK_EQ(ffl_client_bind(c, h, &a), 0); /* calls that wait: the stack works meanwhile */
    CHECK_EQ(ffl_client_listen(c, h, 8, 0), 0);
    return h;
}

static int server(void)
{
    int h = listener();
    CHECK_EQ(ffl_client_accepting(c, h, 8, FFL_F_ARM_NEW), 0);
    CHECK_EQ(ffl_client_ping(c), 0);
    return h;
}

TEST(serves_in_one_thread)
{
    char back[8] = "";
    struct ffl_event ev[4];
    start();
    server();
    int peer = sim_dial("10.0.0.1", 80);
    int h = (int)next_event(FFL_EV_ACCEPT).arg;
    CHECK_EQ(ffl_client_push(c, h, true), 0);
    for (int i = 0; i < 100; i++) {
        CHECK_EQ(sim_put(peer, "ask", 3), 3);
        CHECK_EQ(next_event(FFL_EV_DATA).arg, 3);
        CHECK_EQ(ffl_client_send(c, h, "tell", 4), 4);
        CHECK_EQ(ffl_client_wait(c, ev, FFL_COUNT(ev), -1, 0), 0);
        CHECK_EQ(sim_take(peer, back, sizeof(back)), 4);
    }
    sim_shut(peer);
    next_event(FFL_EV_EOF);
    finish();
}

/* What a wait without time does: what was submitted goes to the stack,
 * and its loop goes round once. */
TEST(a_look_is_one_iteration)
{
    struct ffl_event ev[4];
    start();
    entries = rounds = 0;
    for (int i = 1; i <= 10; i++) {
        CHECK_EQ(ffl_client_wait(c, ev, FFL_COUNT(ev), -1, 0), 0);
        CHECK_EQ(entries, i);
        CHECK_EQ(rounds, i);
    }
    finish();
}

/* A call that says EAGAIN has let the stack work: who only asks gets on. */
TEST(asking_again_is_enough)
{
    char byte;
    start();
    int l = listener();
    int peer = sim_dial("10.0.0.1", 80), h = -EAGAIN;
    for (int i = 0; i < 10 && h == -EAGAIN; i++)
        h = ffl_client_accept(c, l, NULL);
    CHECK(h >= 0);
    CHECK_EQ(sim_put(peer, "x", 1), 1);
    int64_t n = -EAGAIN;
    for (int i = 0; i < 10 && n == -EAGAIN; i++)
        n = ffl_client_recv(c, h, &byte, 1, 0, NULL, NULL);
    CHECK_EQ(n, 1);
    sim_shut(peer);
    finish();
}

static int epoll_of(int fd)
{
    int epfd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = fd};
    CHECK(epfd >= 0);
    CHECK_EQ(epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev), 0);
    return epfd;
}

/* 50 us of a loop whose rounds take 10 ns or more. */
#define WITHIN 5000

/* The kernel's descriptors are looked at while the stack's loop goes round. */
TEST(kernel_descriptors_are_served)
{
    struct ffl_event ev[4];
    start();
    int bell = eventfd(1, EFD_CLOEXEC), epfd = epoll_of(bell);
    for (int i = 0; i < 20; i++) {
        rounds = 0;
        CHECK_EQ(ffl_client_wait(c, ev, FFL_COUNT(ev), epfd, -1), 1);
        CHECK_EQ(ev[0].kind, FFL_EV_FD);
        CHECK_EQ((int)ev[0].handle, bell);
        CHECK(rounds <= WITHIN);
    }
    close(epfd);
    close(bell);
    finish();
}

/* Also while the stack has something to tell in each wait. */
TEST(a_busy_stack_leaves_the_kernel_its_turn)
{
    struct ffl_event ev[8];
    start();
    server();
    int bell = eventfd(1, EFD_CLOEXEC), epfd = epoll_of(bell);
    int peer = sim_dial("10.0.0.1", 80);
    int h = (int)next_event(FFL_EV_ACCEPT).arg, waits = 0;
    CHECK_EQ(ffl_client_push(c, h, true), 0);
    for (bool seen = false; !seen; waits++) {
        CHECK_EQ(sim_put(peer, "x", 1), 1);
        int n = ffl_client_wait(c, ev, FFL_COUNT(ev), epfd, -1);
        CHECK(n >= 1);
        CHECK(waits < WITHIN);
        for (int i = 0; i < n; i++)
            seen |= ev[i].kind == FFL_EV_FD;
    }
    sim_shut(peer);
    close(epfd);
    close(bell);
    finish();
}

/* A time-out ends a wait in which nothing comes. */
TEST(a_wait_ends_in_time)
{
    struct ffl_event ev[4];
    start();
    int64_t before = ffl_now_ns();
    CHECK_EQ(ffl_client_wait(c, ev, FFL_COUNT(ev), -1, 2000000), 0);
    CHECK(ffl_now_ns() - before >= 2000000);
    finish();
}

/* A fork has neither the session nor the stack: its calls fail and touch nothing. */
TEST(a_fork_has_no_stack)
{
    struct ffl_event ev[4];
    start();
    int h = server(), status;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        rounds = 0;
        CHECK_EQ(ffl_client_ping(c), -ECONNRESET);
        CHECK_EQ(ffl_client_accept(c, h, NULL), -ECONNRESET);
        CHECK_EQ(ffl_client_wait(c, ev, FFL_COUNT(ev), -1, 0), 1);
        CHECK_EQ(ev[0].kind, FFL_EV_LOST);
        ffl_client_detach(c);
        CHECK_EQ(rounds, 0);
        _exit(0);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
    CHECK_EQ(ffl_client_ping(c), 0);
    finish();
}
