/* selector.c - stack sockets and kernel descriptors in one epoll, by whom it is polled, its end. */
#include "lab.h"

#include "selector.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#define NUMBER 1000 /* stands for the stack socket */

static struct ffl_selector *sel;
static struct ffl_client *c;
static int h, peer, outer; /* outer: somebody's epoll that has the selector's descriptor */

static bool outer_ready(void)
{
    struct epoll_event ev;
    return epoll_wait(outer, &ev, 1, 0) == 1;
}

/* What one poll finds of NUMBER, without a wait. */
static int found(void)
{
    int pairs[8];
    int n = ffl_selector_poll(sel, pairs, 4, 0);
    CHECK(n == 0 || (n == 1 && pairs[0] == NUMBER));
    return n ? pairs[1] : 0;
}

/* A connected socket; its selector's descriptor was asked for before there was a session. */
static void begin(void)
{
    struct epoll_event ev = {.events = EPOLLIN};
    struct ffl_addr to = addr4("10.0.0.9", 80);
    lab_start_manual("");
    c = lab_attach_stepped();
    ffl_client_quiet(c, true);
    sel = ffl_selector_new();
    outer = epoll_create1(EPOLL_CLOEXEC);
    CHECK(sel && outer >= 0);
    CHECK_EQ(epoll_ctl(outer, EPOLL_CTL_ADD, ffl_selector_fd(sel), &ev), 0);
    CHECK_EQ(ffl_selector_use(sel, c), 0);
    int l = sim_listen("10.0.0.9", 80);
    h = ffl_client_socket(c, AF_INET, SOCK_STREAM, 0, 0);
    CHECK_EQ(ffl_client_connect(c, h, &to), -EINPROGRESS);
    CHECK_EQ(ffl_selector_place(sel, NUMBER, h), 0);
    CHECK_EQ(ffl_selector_set(sel, NUMBER, EPOLLOUT), 0);
    CHECK(!outer_ready());
    step(1000000, 8);
    peer = sim_answer(l);
    step(1000000, 8);
    CHECK(outer_ready());
    CHECK_EQ(found(), EPOLLOUT);
    CHECK_EQ(ffl_selector_set(sel, NUMBER, EPOLLIN), 0);
    while (outer_ready())
        CHECK_EQ(found(), 0);
    step(1000000, 8);
    sim_shut(l);
}

static void end(void)
{
    ffl_selector_free(sel);
    close(outer);
    ffl_client_detach(c);
    iterations(20);
    lab_stop();
}

TEST(who_polls_its_descriptor_hears_of_what_comes)
{
    char byte;
    begin();
    for (int i = 0; i < 3; i++) {
        CHECK(!outer_ready());
        CHECK_EQ(sim_put(peer, "x", 1), 1);
        step(1000000, 8);
        CHECK(outer_ready());
        CHECK_EQ(found(), EPOLLIN);
        CHECK(outer_ready()); /* level-triggered: nobody has read it */
        CHECK_EQ(ffl_client_recv(c, h, &byte, 1, 0, NULL, NULL), 1);
        while (outer_ready())
            CHECK_EQ(found(), 0);
    }
    sim_shut(peer);
    end();
}

/* Another sleep of the thread's, in a call that waits, does not take the doorbell away. */
TEST(a_call_that_waits_leaves_the_doorbell_on)
{
    begin();
    CHECK(ffl_sleep_doze(c));
    ffl_sleep_rouse(c);
    CHECK_EQ(sim_put(peer, "x", 1), 1);
    step(1000000, 8);
    CHECK(outer_ready());
    CHECK_EQ(found(), EPOLLIN);
    CHECK(ffl_sleep_doze(c)); /* what it finds is known already */
    CHECK_EQ(sim_put(peer, "y", 1), 1);
    step(1000000, 8);
    CHECK(!ffl_sleep_doze(c));
    ffl_sleep_rouse(c);
    CHECK(outer_ready());
    sim_shut(peer);
    end();
}

TEST(kernel_descriptors_and_stack_sockets_take_turns)
{
    int fd = eventfd(1, EFD_NONBLOCK), pair[2], of_kernel = 0;
    begin();
    CHECK_EQ(sim_put(peer, "x", 1), 1);
    step(1000000, 8);
    CHECK_EQ(ffl_selector_set(sel, fd, EPOLLIN), 0);
    for (int i = 0; i < 10; i++) { /* room for one, and both are ready */
        CHECK_EQ(ffl_selector_poll(sel, pair, 1, 0), 1);
        of_kernel += pair[0] == fd;
        CHECK(pair[0] == fd || pair[0] == NUMBER);
    }
    CHECK_EQ(of_kernel, 5);
    CHECK_EQ(ffl_selector_set(sel, fd, 0), 0);
    CHECK_EQ(found(), EPOLLIN);
    close(fd);
    sim_shut(peer);
    end();
}

/* A closed number is forgotten; the sockets of a session that has ended are ready, whatever for. */
TEST(ends)
{
    begin();
    ffl_selector_forget(sel, NUMBER);
    CHECK_EQ(ffl_selector_place(sel, NUMBER, h), 0);
    CHECK_EQ(ffl_selector_set(sel, NUMBER, EPOLLIN), 0);
    CHECK_EQ(found(), 0);
    CHECK_EQ(ffl_selector_use(sel, NULL), 0);
    CHECK_EQ(found(), EPOLLIN | EPOLLERR | EPOLLHUP);
    CHECK_EQ(ffl_selector_set(sel, NUMBER, EPOLLOUT), 0);
    CHECK_EQ(found(), EPOLLOUT | EPOLLERR | EPOLLHUP);
    ffl_selector_forget(sel, NUMBER);
    CHECK_EQ(found(), 0);
    sim_shut(peer);
    end();
}

/* A socket that is closed while it is watched leaves the selector, as it leaves an epoll. */
TEST(a_closed_socket_is_not_told_of)
{
    begin();
    CHECK_EQ(sim_put(peer, "x", 1), 1);
    step(1000000, 8);
    CHECK_EQ(found(), EPOLLIN);
    (void)ffl_client_close(c, h, true);
    CHECK_EQ(found(), 0);
    step(1000000, 8);
    CHECK_EQ(found(), 0);
    CHECK_EQ(ffl_client_socket(c, AF_INET, SOCK_STREAM, 0, 0), h); /* free without a wait */
    sim_shut(peer);
    end();
}
