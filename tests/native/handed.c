/*
 * handed.c - what one application leaves to the next, by the client library: connections that it had
 * accepted ahead, connects under way. What the instance does for it: handover.c.
 */
#include "app.h"

#include "../../ffloop/_native/instance/internal.h"

#include <poll.h>

static int kernel_ask(const struct ffl_addr *a)
{
    int fd = kernel_dial(a);
    CHECK_EQ(write(fd, "question", 8), 8);
    return fd;
}

/* The instance's ENOBUFS is not "done, but there was no buffer for the addresses". */
TEST(a_refused_bind_is_told)
{
    struct ffl_addresses addresses;
    struct ffl_addr any = addr4("0.0.0.0", 0);
    int h[2];
    lab_defaults("host");
    lab_start("");
    lab.in->port_most = 1;
    lab_run();
    struct ffl_client *c = attach();
    for (int i = 0; i < 2; i++)
        h[i] = ffl_client_socket(c, AF_INET, SOCK_DGRAM, 0, 0);
    CHECK_EQ(ffl_client_bind(c, h[0], &any), 0);
    CHECK_EQ(ffl_client_addresses(c, h[0], &addresses), 0);
    CHECK_EQ(ffl_client_bind(c, h[1], &addresses.local), -ENOBUFS);
    CHECK_EQ(ffl_client_addresses(c, h[1], &addresses), 0);
    CHECK_EQ(addresses.local.port_be, 0);
    CHECK_EQ(ffl_client_bind(c, h[1], &any), 0);
    ffl_client_detach(c);
    lab_stop();
}

#define PEERS 8

/* Eight connections, each with a word, that one client has accepted ahead and never handed on: two
 * others get them. */
static void leave_some(bool reaped, bool detach)
{
    struct ffl_addr a = addr4("127.0.0.1", 0);
    struct ffl_session_stats st;
    struct ffl_event ev[64];
    int peer[PEERS], accepts = 0;
    size_t bytes = 0;
    lab_defaults("host");
    lab_start("");
    lab_run();
    struct ffl_client *first = attach(), *others[] = {attach(), attach()};
    int h = listen_on(first, &a, 16, true);
    for (int i = 0; i < PEERS; i++)
        peer[i] = kernel_ask(&a);
    do {
        if (reaped)
            CHECK_EQ(ffl_client_ping(first), 0);
        (void)poll(NULL, 0, 1);
        ffl_client_stats(first, &st); /* of the shared memory: it reaps nothing */
    } while (st.accepts < PEERS);
    for (size_t o = 0; o < FFL_COUNT(others); o++)
        listen_on(others[o], &a, 16, true);
    if (detach)
        ffl_client_detach(first);
    if (!detach) {
        CHECK_EQ(ffl_client_accepting(first, h, 0, 0), 0);
        CHECK_EQ(ffl_client_close(first, h, false), 0);
    }
    for (int64_t until = ffl_now_ns() + 60 * FFL_NS_PER_SEC; bytes < PEERS * 8;) {
        if (ffl_now_ns() > until)
            FAIL("%d connections and %zu bytes came", accepts, bytes);
        for (size_t o = 0; o < FFL_COUNT(others); o++) {
            int n = ffl_client_wait(others[o], ev, 64, -1, FFL_NS_PER_SEC / 200);
            for (int i = 0; i < n; i++) {
                CHECK(ev[i].kind == FFL_EV_ACCEPT || ev[i].kind == FFL_EV_DATA);
                bytes += ev[i].kind == FFL_EV_DATA ? ev[i].arg : 0;
                accepts += ev[i].kind == FFL_EV_ACCEPT;
                if (ev[i].kind == FFL_EV_ACCEPT)
                    CHECK_EQ(ffl_client_push(others[o], (int)ev[i].arg, true), 0);
            }
        }
        if (!detach)
            CHECK(ffl_client_wait(first, ev, 64, -1, 0) >= 0);
    }
    CHECK_EQ(accepts, PEERS);
    for (int i = 0; i < PEERS; i++)
        close(peer[i]);
    if (!detach)
        ffl_client_detach(first);
    for (size_t o = 0; o < FFL_COUNT(others); o++)
        ffl_client_detach(others[o]);
    lab_stop();
}

/* Two loops have the port, and one is busy with something else: the other has all connections. */
TEST(who_does_not_look_holds_none)
{
    struct ffl_addr a = addr4("127.0.0.1", 0);
    struct ffl_event ev[64];
    int peer[PEERS];
    lab_defaults("host");
    lab_start("");
    lab_run();
    struct ffl_client *busy = attach(), *other = attach();
    int h = listen_on(busy, &a, 16, true);
    listen_on(other, &a, 16, true);
    CHECK_EQ(ffl_client_ping(busy), 0); /* it asks */
    for (int i = 0; i < PEERS; i++)
        peer[i] = kernel_ask(&a);
    for (int accepts = 0; accepts < PEERS;) { /* the case has a time limit */
        int n = ffl_client_wait(other, ev, 64, -1, FFL_NS_PER_SEC);
        for (int i = 0; i < n; i++)
            accepts += ev[i].kind == FFL_EV_ACCEPT;
    }
    CHECK_EQ(ffl_client_close(busy, h, false), 0);
    for (int i = 0; i < PEERS; i++)
        close(peer[i]);
    ffl_client_detach(busy);
    ffl_client_detach(other);
    lab_stop();
}

TEST(a_listener_is_closed)
{
    leave_some(true, false);
}

TEST(a_listener_is_closed_with_all_under_way)
{
    leave_some(false, false);
}

TEST(a_session_ends)
{
    leave_some(true, true);
}

TEST(a_session_ends_with_all_under_way)
{
    leave_some(false, true);
}

/* ---- a connect that is under way when its socket is handed on -------------------------------- */

/* Until `kind` of `h` comes; its arg. */
static int64_t wait_for(struct ffl_client *c, int h, unsigned kind)
{
    struct ffl_event ev[16];
    for (;;) { /* the case has a time limit */
        int n = ffl_client_wait(c, ev, 16, -1, FFL_NS_PER_SEC);
        CHECK(n >= 0);
        for (int i = 0; i < n; i++)
            if (ev[i].kind == kind && (int)ev[i].handle == h)
                return ev[i].arg;
    }
}

static void hand_on_a_connect(const char *address, int error)
{
    struct ffl_client *parent, *child;
    struct ffl_ticket t;
    char why[256];
    struct ffl_addr a = addr4(address, 80);
    lab_defaults("sim");
    lab_start("latency=20000000");
    quiet();
    int l = sim_listen("10.9.9.9", 80);
    lab_run();
    struct ffl_client_opts o = {.path = lab.path};
    CHECK_EQ(ffl_client_attach(&parent, &o, why, sizeof(why)), 0);
    CHECK_EQ(ffl_client_attach(&child, &o, why, sizeof(why)), 0);
    CHECK_EQ(ffl_client_ticket(&o, &t, why, sizeof(why)), 0);
    int h = ffl_client_socket(parent, AF_INET, SOCK_STREAM, 0, 0);
    CHECK_EQ(ffl_client_connect(parent, h, &a), -EINPROGRESS);
    CHECK_EQ(ffl_client_export(parent, h, &t), 0);
    CHECK_EQ(wait_for(parent, h, FFL_EV_CONNECT), error);
    int mine = ffl_client_import(child, &t, (uint32_t)h, AF_INET, SOCK_STREAM, 0);
    CHECK(mine >= 0);
    CHECK_EQ(wait_for(child, mine, FFL_EV_CONNECT), error); /* for it, too */
    ffl_client_detach(child);
    ffl_client_detach(parent);
    close(t.fd);
    if (lab.running) {
        ffl_instance_stop(lab.in);
        pthread_join(lab.thread, NULL);
        lab.running = false;
    }
    sim_shut(l);
    lab_stop();
}

TEST(a_connect_that_ends_before_it_is_imported)
{
    hand_on_a_connect("10.9.9.9", 0);
}

TEST(a_connect_that_fails_before_it_is_imported)
{
    hand_on_a_connect("10.9.9.8", ECONNREFUSED);
}
