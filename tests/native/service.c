/* service.c - an instance as a service: who may attach and bind, quotas, notification,
 * the drain. */
#include "lab.h"

#include "../../ffloop/_native/instance/internal.h"

#include "notify.h"
#include "policy.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

/* ---- the policy ---------------------------------------------------------------------------- */

TEST(policy_ports)
{
    struct ffl_policy p = {0};
    char why[200];
    CHECK(ffl_policy_may_bind(&p, 7, 80)); /* no rule: no bound */
    CHECK_EQ(ffl_policy_add_ports(&p, "7=80,443,8000-8002", why, sizeof(why)), 0);
    CHECK_EQ(ffl_policy_add_ports(&p, "*=9000-65535", why, sizeof(why)), 0);
    CHECK_EQ(p.nports, 4);
    static const struct {
        uid_t uid;
        uint16_t port;
        bool may;
    } cases[] = {{7, 80, true},    {7, 443, true},  {7, 8000, true},  {7, 8002, true},
                 {7, 8003, false}, {7, 81, false},  {7, 7999, false}, {8, 80, false},
                 {0, 80, false},   {8, 9000, true}, {0, 65535, true}, {8, 8999, false},
                 {8, 0, true}};
    for (size_t i = 0; i < FFL_COUNT(cases); i++)
        if (ffl_policy_may_bind(&p, cases[i].uid, cases[i].port) != cases[i].may)
            FAIL("user %u, port %u", (unsigned)cases[i].uid, cases[i].port);
}

TEST(policy_says_what_is_wrong)
{
    static const char *const rules[] = {"",        "80",    "7=",      "=80",
                                        "7=0",     "7=x",   "7=80-",   "7=90-80",
                                        "7=65536", "7=-80", "7=1-2-3", "nobody-by-this-name=80"};
    for (size_t i = 0; i < FFL_COUNT(rules); i++) {
        struct ffl_policy p = {0};
        char why[200] = "";
        if (ffl_policy_add_ports(&p, rules[i], why, sizeof(why)) != -EINVAL || !why[0])
            FAIL("'%s' was taken: %s", rules[i], why);
    }
    struct ffl_policy p = {0};
    char why[200] = "";
    CHECK_EQ(ffl_policy_add_user(&p, "nobody-by-this-name", why, sizeof(why)), -EINVAL);
    CHECK(strstr(why, "nobody-by-this-name"));
    CHECK_EQ(ffl_policy_set_group(&p, "-1", why, sizeof(why)), -EINVAL);
    for (int i = 0; i < FFL_POLICY_USERS; i++)
        CHECK_EQ(ffl_policy_add_user(&p, "7", why, sizeof(why)), 0);
    CHECK_EQ(ffl_policy_add_user(&p, "7", why, sizeof(why)), -E2BIG);
    for (int i = 0; i < FFL_POLICY_PORTS; i++)
        CHECK_EQ(ffl_policy_add_ports(&p, "7=80", why, sizeof(why)), 0);
    CHECK_EQ(ffl_policy_add_ports(&p, "7=80", why, sizeof(why)), -E2BIG);
}

TEST(policy_admits)
{
    struct ffl_policy p = {0};
    char why[200];
    int s[2];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0);
    CHECK_EQ(ffl_policy_mode(&p), 0600);
    CHECK(ffl_policy_admits(&p, s[0], 0, 0));
    CHECK(ffl_policy_admits(&p, s[0], geteuid(), getegid()));
    CHECK(!ffl_policy_admits(&p, s[0], 54321, 54321));
    CHECK_EQ(ffl_policy_set_group(&p, "54322", why, sizeof(why)), 0);
    CHECK_EQ(ffl_policy_mode(&p), 0660);
    CHECK(!ffl_policy_admits(&p, s[0], 54321, 54321));
    CHECK(ffl_policy_admits(&p, s[0], 54321, 54322));
    CHECK_EQ(ffl_policy_add_user(&p, "54321", why, sizeof(why)), 0);
    CHECK_EQ(ffl_policy_mode(&p), 0666);
    CHECK(ffl_policy_admits(&p, s[0], 54321, 54321));
    CHECK(!ffl_policy_admits(&p, s[0], 54320, 54320));
    p.any_user = true;
    CHECK(ffl_policy_admits(&p, s[0], 54320, 54320));
    close(s[0]);
    close(s[1]);
}

TEST(port_policy_is_kept)
{
    struct raw r;
    char rule[64], why[200];
    lab_defaults("sim");
    snprintf(rule, sizeof(rule), "%u=8080", (unsigned)geteuid());
    CHECK_EQ(ffl_policy_add_ports(&lab.o.policy, rule, why, sizeof(why)), 0);
    lab_start_manual("");
    quiet();
    raw_attach(&r);
    raw_socket(&r, 0, SOCK_STREAM);
    raw_at(&r, FFL_OP_BIND, 0, "10.0.0.1", 8081);
    CHECK_EQ(raw_expect(&r, FFL_OP_BIND, 0).arg, -EPERM);
    raw_listen(&r, 1, "10.0.0.1", 8080, 4, 0); /* this one it may */
    raw_finish(&r);
}

TEST(quotas_of_a_session_and_of_a_user)
{
    struct raw a, r;
    lab_defaults("sim");
    lab.o.user_sessions = 1;
    lab.o.entries = 64;
    lab_start_manual("");
    quiet();
    struct ffl_hello h = {.magic = FFL_MAGIC, .version = FFL_ABI_VERSION, .kind = FFL_HELLO_ATTACH};
    CHECK_EQ(raw_try(&a, &h), FFL_REPLY_OK);
    CHECK_EQ(a.map.geo.ring_size[FFL_SQ], 64);
    CHECK_EQ(a.map.geo.ring_size[FFL_CQ], 64);
    CHECK_EQ(raw_try(&r, &h), FFL_REPLY_QUOTA);
    raw_gone(&a);
    iterations(3);
    CHECK_EQ(raw_try(&r, &h), FFL_REPLY_OK);
    raw_finish(&r);
}

/* A listener that waits in a ticket for its process is its user's all the same. */
TEST(ports_in_tickets)
{
    struct raw a, b;
    struct ffl_ticket t;
    if (geteuid() != 0)
        return; /* takes root: two users */
    lab_defaults("sim");
    lab.o.policy.any_user = true;
    lab_start_manual("");
    raw_attach(&a);
    CHECK_EQ(raw_bind(&a, 0, "10.0.0.1", 80, true), 0);
    raw_op(&a, FFL_OP_LISTEN, 0, 8, 0);
    CHECK_EQ(raw_expect(&a, FFL_OP_LISTEN, 0).arg, 0);
    CHECK(lab_ticket(&t));
    raw_export(&a, 0, &t);
    raw_op(&a, FFL_OP_CLOSE, 0, 0, 0);
    (void)raw_expect(&a, FFL_OP_CLOSED, 0);
    CHECK_EQ(seteuid(54321), 0);
    raw_attach(&b);
    CHECK_EQ(seteuid(0), 0);
    CHECK_EQ(raw_bind(&b, 0, "10.0.0.1", 80, true), -EADDRINUSE);
    CHECK_EQ(raw_bind(&a, 1, "10.0.0.1", 80, true), 0);
    close(t.fd);
    raw_gone(&a);
    iterations(3);
    CHECK_EQ(raw_bind(&b, 1, "10.0.0.1", 80, true), 0);
    raw_finish(&b);
}

/* Sessions that end, slowly, one after the other:
 * of one user there are never more than it may have. */
TEST(quotas_and_sessions_that_linger)
{
    struct raw r;
    int peer[20];
    static const char much[60000];
    lab_defaults("sim");
    lab.o.user_sessions = 1;
    lab.o.max_sessions = 8;
    lab_start_manual("");
    quiet();
    for (size_t i = 0; i < FFL_COUNT(peer); i++) {
        raw_attach(&r);
        raw_listen(&r, 0, "10.0.0.1", 80, 8, 0);
        uint32_t h = raw_accepted(&r, 0, 80, &peer[i]);
        for (int k = 0; k < 6; k++)
            raw_send(&r, h, much, sizeof(much)); /* more than the peer takes, who does not read */
        iterations(3);
        raw_gone(&r);
        iterations(3);
        unsigned dying = atomic_load_explicit(&lab.in->page->dying, memory_order_relaxed);
        CHECK_EQ(dying, 1);
    }
    for (size_t i = 0; i < FFL_COUNT(peer); i++)
        sim_shut(peer[i]);
    lab_stop();
}

/* Huge pages are DPDK's: a session takes some only where it is asked to. */
TEST(sessions_on_ordinary_pages)
{
    struct raw r;
    struct stat st;
    lab_start_manual("");
    CHECK(!lab.o.huge);
    raw_attach(&r);
    CHECK_EQ(fstat(r.map.memfd, &st), 0);
    CHECK(st.st_blksize < 2 << 20);
    raw_finish(&r);
}

/* ---- the drain ----------------------------------------------------------------------------- */

static void drain_lab(int64_t drain_ns)
{
    lab_defaults("sim");
    lab.o.drain_ns = drain_ns;
    lab_start_manual("");
    quiet();
}

TEST(drain_without_sockets_ends_at_once)
{
    struct raw r;
    drain_lab(3600 * FFL_NS_PER_SEC);
    raw_attach(&r);
    iterations(3);
    ffl_instance_drain(lab.in);
    CHECK_EQ(iterate() < 0 || iterate() < 0, true);
    raw_gone(&r);
    lab_stop();
}

TEST(drain_waits_for_connections)
{
    struct raw r;
    char got[8];
    int peer;
    drain_lab(3600 * FFL_NS_PER_SEC);
    raw_attach(&r);
    raw_listen(&r, 0, "10.0.0.1", 80, 8, 0);
    uint32_t h = raw_accepted(&r, 0, 80, &peer);
    ffl_instance_drain(lab.in);
    CHECK(iterate() >= 0);
    CHECK_EQ(raw_expect(&r, FFL_OP_ERROR, 0).arg, -ESHUTDOWN); /* the session is told */
    struct sockaddr_un sa;
    socklen_t len;
    int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    CHECK_EQ(ffl_unix_addr(lab.path, &sa, &len), 0);
    CHECK_EQ(connect(s, (struct sockaddr *)&sa, len), -1); /* and nobody attaches any more */
    CHECK_EQ(errno, ECONNREFUSED);
    close(s);
    raw_socket(&r, 1, SOCK_STREAM);
    raw_op(&r, FFL_OP_LISTEN, 1, 8, 0);
    CHECK_EQ(raw_expect(&r, FFL_OP_LISTEN, 1).arg, -ESHUTDOWN);
    raw_op(&r, FFL_OP_CLOSE, 1, 0, 0);
    (void)raw_expect(&r, FFL_OP_CLOSED, 1);
    raw_send(&r, h, "answer", 6); /* a connection goes on */
    iterations(3);
    CHECK_EQ(sim_take(peer, got, sizeof(got)), 6);
    raw_op(&r, FFL_OP_CLOSE, 0, 0, 0); /* closing what has failed is no lie */
    (void)raw_expect(&r, FFL_OP_CLOSED, 0);
    raw_op(&r, FFL_OP_CLOSE, h, 0, 0);
    bool ended = false;
    for (int i = 0; i < 4 && !ended; i++)
        ended = iterate() < 0;
    CHECK(ended);
    sim_shut(peer);
    raw_gone(&r);
    lab_stop();
}

TEST(drain_ends_in_time_and_sends_what_was_submitted)
{
    struct raw r;
    char got[8];
    int peer;
    drain_lab(0);
    raw_attach(&r);
    raw_listen(&r, 0, "10.0.0.1", 80, 8, 0);
    uint32_t h = raw_accepted(&r, 0, 80, &peer);
    ffl_instance_drain(lab.in);
    raw_send(&r, h, "last", 4);
    bool ended = false;
    for (int i = 0; i < 3 && !ended; i++)
        ended = iterate() < 0;
    CHECK(ended);
    CHECK_EQ(sim_take(peer, got, sizeof(got)), 4);
    sim_shut(peer);
    raw_gone(&r);
    lab_stop();
}

TEST(stop_ends_a_drain)
{
    struct raw r;
    int peer;
    drain_lab(3600 * FFL_NS_PER_SEC);
    raw_attach(&r);
    raw_listen(&r, 0, "10.0.0.1", 80, 8, 0);
    (void)raw_accepted(&r, 0, 80, &peer);
    ffl_instance_drain(lab.in);
    for (int i = 0; i < 10; i++)
        CHECK(iterate() >= 0);
    ffl_instance_stop(lab.in);
    CHECK(iterate() < 0);
    sim_shut(peer);
    raw_gone(&r);
    lab_stop();
}

/* ---- the service manager ------------------------------------------------------------------- */

static int manager_at(const char *address)
{
    struct sockaddr_un sa;
    socklen_t len;
    int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    CHECK_EQ(ffl_unix_addr(address, &sa, &len), 0);
    CHECK_EQ(bind(s, (struct sockaddr *)&sa, len), 0);
    CHECK_EQ(setenv("NOTIFY_SOCKET", address, 1), 0);
    return s;
}

static void is_told(const char *address)
{
    char got[512];
    int s = manager_at(address);
    CHECK_EQ(notify_open(), 0);
    CHECK(!getenv("NOTIFY_SOCKET"));
    notify_send("READY=1\nSTATUS=%d", 5);
    CHECK_EQ(recv(s, got, sizeof(got), 0), 16);
    CHECK_EQ(memcmp(got, "READY=1\nSTATUS=5", 16), 0);
    notify_close();
    notify_send("nobody hears");
    CHECK_EQ(recv(s, got, sizeof(got), 0), -1);
    close(s);
}

TEST(notify)
{
    char name[64];
    snprintf(name, sizeof(name), "@ffl-notify-%d", (int)getpid());
    is_told(name);
    char path[100];
    snprintf(path, sizeof(path), "/tmp/ffl-notify-%d", (int)getpid());
    is_told(path);
    unlink(path);
    CHECK_EQ(setenv("NOTIFY_SOCKET", "relative", 1), 0);
    CHECK_EQ(notify_open(), -EINVAL);
    CHECK_EQ(setenv("NOTIFY_SOCKET", "/nowhere/at/all", 1), 0);
    CHECK_EQ(notify_open(), -ENOENT);
    notify_send("READY=1");
}

/* A peer that says nothing does not keep it, whoever it is and however often it comes. */
TEST(embedded_does_not_wait_for_who_is_silent)
{
    struct raw r;
    lab_defaults("sim");
    lab.o.embedded = true;
    lab_start_manual("");
    raw_attach(&r);
    int silent = lab_dial();
    iterations(3);
    CHECK_EQ(lab.in->ledger.n[CHARGE_PENDING], 1);
    raw_gone(&r);
    while (iterate() >= 0)
        ;
    CHECK_EQ(lab.in->ledger.n[CHARGE_PENDING], 1);
    close(silent);
    lab_stop();
}
