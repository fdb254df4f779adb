/*
 * admit.c - who is heard, what a peer can make the instance wait for, whose rights count.
 *
 * As root: the strangers are other users, who come and go by seteuid.
 */
#include "lab.h"

#include "../../ffloop/_native/instance/peers.h"

#include <linux/capability.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif
#define STRANGER 54321
#define LINGER_S 60
#define AT_ONCE_NS (LINGER_S * FFL_NS_PER_SEC / 2)

static void as_user(uid_t uid)
{
    CHECK_EQ(seteuid(uid), 0);
}

/* ---- what is sent with a message ------------------------------------------------------------- */

/* A TCP socket whose last close waits: it has bytes that its peer does not take. */
static int lingering(int listener)
{
    static const char much[65536];
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t len = sizeof(at);
    struct linger l = {1, LINGER_S};
    int size = 4096;
    CHECK_EQ(getsockname(listener, (struct sockaddr *)&at, &len), 0);
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_EQ(setsockopt(s, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
    CHECK_EQ(connect(s, (struct sockaddr *)&at, sizeof(at)), 0);
    while (send(s, much, sizeof(much), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
        continue;
    CHECK_EQ(setsockopt(s, SOL_SOCKET, SO_LINGER, &l, sizeof(l)), 0);
    return s;
}

static int loopback_listener(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), size = 4096;
    CHECK_EQ(setsockopt(l, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)), 0);
    CHECK_EQ(bind(l, (struct sockaddr *)&at, sizeof(at)), 0);
    CHECK_EQ(listen(l, 64), 0);
    return l;
}

static void send_lingering(int sock, const void *msg, size_t len, int n)
{
    int fds[16], l = loopback_listener();
    CHECK(n <= (int)FFL_COUNT(fds));
    for (int i = 0; i < n; i++)
        fds[i] = lingering(l);
    CHECK_EQ(ffl_msg_send(sock, msg, len, fds, n), len);
    for (int i = 0; i < n; i++)
        close(fds[i]);
    /* the listener stays: its queue holds the other ends, whose close would be a reset */
}

static void turns_at_once(int n, const char *what)
{
    int64_t began = ffl_now_ns();
    iterations(n);
    if (ffl_now_ns() - began > AT_ONCE_NS)
        FAIL("%s: the instance waited for %.1f s", what, (double)(ffl_now_ns() - began) / 1e9);
}

static const struct ffl_hello attach = {
    .magic = FFL_MAGIC, .version = FFL_ABI_VERSION, .kind = FFL_HELLO_ATTACH};

static void linger_in_a_hello(int n)
{
    int s = lab_dial();
    send_lingering(s, &attach, sizeof(attach), n);
    turns_at_once(4, "a hello");
    close(s);
    turns_at_once(4, "the end of who said it");
}

TEST(close_never_waits_hello)
{
    struct neighbour n;
    lab_start_manual("");
    neighbour_start(&n);
    linger_in_a_hello(1);
    linger_in_a_hello(9);
    neighbour_works(&n);
    as_user(STRANGER); /* not admitted, and so not heard */
    int s = lab_dial();
    for (int i = 0; i < 3; i++)
        send_lingering(s, &attach, sizeof(attach), 3);
    as_user(0);
    turns_at_once(4, "a stranger's hello");
    close(s);
    turns_at_once(4, "a stranger's end");
    neighbour_works(&n);
    _exit(0); /* the descriptors are being closed elsewhere, in their own time */
}

TEST(close_never_waits_session)
{
    struct neighbour n;
    struct raw r;
    lab_start_manual("");
    neighbour_start(&n);
    raw_attach(&r);
    send_lingering(r.sock, "x", 1, 3);
    turns_at_once(4, "a word on a session's socket");
    neighbour_works(&n);
    _exit(0);
}

TEST(close_never_waits_ticket)
{
    const struct ffl_ticket_msg connect = {.what = FFL_TICKET_CONNECT},
                                mark = {.what = FFL_TICKET_MARK};
    const struct ffl_ticket_msg *const says[] = {&connect, &connect, &mark};
    static const int with[] = {1, 9, 2};
    struct neighbour n;
    lab_start_manual("");
    neighbour_start(&n);
    for (int i = 0; i < 3; i++) {
        struct ffl_ticket t;
        CHECK(lab_ticket(&t));
        send_lingering(t.fd, says[i], sizeof(*says[i]), with[i]);
        send_lingering(t.fd, &connect, sizeof(connect), 2); /* never read: it has ended */
        turns_at_once(6, "a ticket's message");
        close(t.fd);
        turns_at_once(4, "a ticket's end");
        neighbour_works(&n);
    }
    _exit(0);
}

/* The timer goes on however many of its ticks come between the look at it and the call. */
TEST(a_late_call_is_cut_short)
{
    uint64_t full = UINT64_MAX - 1, one = 1;
    int bell = eventfd(0, EFD_CLOEXEC); /* which blocks */
    CHECK_EQ(write(bell, &full, sizeof(full)), sizeof(full));
    for (int ticks = 0; ticks < 5; ticks++) {
        interrupt_begin();
        for (int i = 0; i < ticks; i++)
            CHECK_EQ(pthread_kill(pthread_self(), SIGURG), 0);
        CHECK_EQ(write(bell, &one, sizeof(one)), -1); /* else it waits for the case's time limit */
        CHECK_EQ(errno, EINTR);
        interrupt_end();
        CHECK_EQ(bell_ring(bell), -EINTR);
    }
    close(bell);
}

/* ---- who is heard ---------------------------------------------------------------------------- */

static enum ffl_reply_status answer(int s)
{
    struct ffl_reply r;
    iterations(3);
    CHECK_EQ(ffl_msg_recv(s, &r, sizeof(r), NULL, NULL), sizeof(r));
    return r.status;
}

TEST(strangers_are_told_and_not_heard)
{
    int fds = test_open_fds();
    lab_start_manual("");
    quiet();
    as_user(STRANGER);
    int s = lab_dial();
    as_user(0);
    CHECK_EQ(answer(s), FFL_REPLY_REFUSED); /* before it has said anything */
    CHECK_EQ(ffl_msg_send(s, &attach, sizeof(attach), NULL, 0), sizeof(attach));
    iterations(3);
    CHECK_EQ(ffl_instance_sessions(lab.in), 0);
    close(s);
    iterations(3);
    CHECK_EQ(lab.in->ledger.n[CHARGE_PENDING], 0);
    lab_stop();
    lab_settled(fds);
}

/* What cannot say that its other side is gone would stay for ever. */
TEST(only_peers_are_brought_in)
{
    struct ffl_ticket_msg m = {.what = FFL_TICKET_CONNECT};
    struct ffl_ticket t;
    int pair[2], more[2], kinds[4], fds = test_open_fds();
    lab_start_manual("");
    quiet();
    CHECK(lab_ticket(&t));
    kinds[0] = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    kinds[1] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0); /* not connected */
    CHECK_EQ(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair), 0);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, more), 0);
    kinds[2] = pair[0];
    kinds[3] = more[0];
    for (size_t i = 0; i < FFL_COUNT(kinds); i++) {
        CHECK_EQ(ffl_msg_send(t.fd, &m, sizeof(m), &kinds[i], 1), sizeof(m));
        iterations(2);
        CHECK_EQ(lab.in->ledger.n[CHARGE_PENDING], 0);
        close(kinds[i]);
    }
    close(t.fd);
    close(pair[1]);
    close(more[1]);
    iterations(3);
    lab_stop();
    lab_settled(fds);
}

/* ---- whose rights count ---------------------------------------------------------------------- */

static int listen_at(struct raw *r, uint32_t h, int port)
{
    int rc = raw_bind(r, h, "127.0.0.1", port, true);
    if (rc < 0)
        return rc;
    raw_op(r, FFL_OP_LISTEN, h, 8, 0);
    struct ffl_entry e = raw_expect(r, FFL_OP_LISTEN, h);
    raw_give(r, e.buf);
    return e.arg;
}

/* A listener of the kernel's, of the present user, that shares its port. */
static int kernel_listener(int *port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    CHECK_EQ(setsockopt(s, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)), 0);
    CHECK_EQ(bind(s, (struct sockaddr *)&at, sizeof(at)), 0);
    CHECK_EQ(listen(s, 8), 0);
    CHECK_EQ(getsockname(s, (struct sockaddr *)&at, &len), 0);
    *port = ntohs(at.sin_port);
    return s;
}

/* A port below 1024 that nobody has: what is bound there is closed again. */
static int low_port(void)
{
    for (int port = 600; port < 1024; port++) {
        struct sockaddr_in at = {.sin_family = AF_INET,
                                 .sin_port = htons((uint16_t)port),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        int rc = bind(s, (struct sockaddr *)&at, sizeof(at));
        close(s);
        if (rc == 0)
            return port;
    }
    FAIL("no port below 1024 is free");
}

static void rights_lab(struct raw *own, struct raw *other)
{
    lab_defaults("host");
    lab.o.policy.any_user = true;
    lab_start("");
    quiet();
    as_user(STRANGER);
    raw_attach(other);
    as_user(0); /* which gives this process, of which root's session is, its capabilities back */
    raw_attach(own);
    rights_start(lab.in);
}

TEST(rights_are_the_callers)
{
    struct raw root, other;
    int low, port, theirs;
    if (geteuid() != 0)
        return; /* takes root: two users */
    low = low_port();
    int l = kernel_listener(&port);
    rights_lab(&root, &other);
    CHECK_EQ(raw_bind(&other, 0, "127.0.0.1", low, false), -EACCES);
    CHECK_EQ(raw_bind(&root, 0, "127.0.0.1", low, false), 0);
    CHECK_EQ(listen_at(&other, 1, port), -EADDRINUSE); /* root's own, in the kernel */
    CHECK_EQ(listen_at(&root, 1, port), 0);
    as_user(STRANGER);
    int k = kernel_listener(&theirs);
    as_user(0);
    rights_start(lab.in);
    CHECK_EQ(listen_at(&other, 2, theirs), 0); /* what it may natively it may here */
    CHECK_EQ(listen_at(&root, 2, theirs), -EADDRINUSE);
    raw_gone(&root);
    iterations(3);
    raw_finish(&other);
    close(l);
    close(k);
}

TEST(rights_that_a_rule_gives)
{
    struct raw other;
    char rule[32], why[200];
    if (geteuid() != 0)
        return;
    int low = low_port();
    lab_defaults("host");
    snprintf(rule, sizeof(rule), "%d=%d", STRANGER, low);
    CHECK_EQ(ffl_policy_add_ports(&lab.o.policy, rule, why, sizeof(why)), 0);
    lab.o.policy.any_user = true;
    lab_start("");
    quiet();
    as_user(STRANGER);
    raw_attach(&other);
    as_user(0);
    rights_start(lab.in);
    CHECK_EQ(raw_bind(&other, 0, "127.0.0.1", low, false), 0);
    raw_finish(&other);
}

/* An instance that cannot give its sockets away, since it has no right to: nobody gets at its own
 * user's listeners by it, and those of one user share a port all the same. */
TEST(rights_of_an_instance_without_any)
{
    struct raw other, more;
    int port, free_port;
    if (geteuid() != 0)
        return;
    lab_defaults("host");
    lab.o.policy.any_user = true;
    as_user(STRANGER);
    int l = kernel_listener(&port);
    close(kernel_listener(&free_port));
    lab_start("");
    as_user(0);
    as_user(STRANGER + 1);
    raw_attach(&other);
    raw_attach(&more);
    as_user(0);
    as_user(STRANGER);
    quiet();
    CHECK_EQ(listen_at(&other, 0, port), -EADDRINUSE);
    CHECK_EQ(listen_at(&other, 1, free_port), 0);
    CHECK_EQ(listen_at(&more, 1, free_port), 0);
    raw_gone(&more);
    iterations(3);
    raw_finish(&other);
    as_user(0);
    close(l);
}

/* A process of this number, which calls `run`; -1: the kernel has no such call, or refuses it. */
static pid_t fork_as(pid_t pid, void (*run)(void *arg), void *arg)
{
    struct {
        uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
        uint64_t set_tid, set_tid_size, cgroup;
    } a = {.exit_signal = SIGCHLD, .set_tid = (uintptr_t)&pid, .set_tid_size = 1};
    long rc = syscall(SYS_clone3, &a, sizeof(a));
    if (rc == 0) {
        run(arg);
        _exit(0);
    }
    return rc < 0 ? -1 : (pid_t)rc;
}

/* Takes up all capabilities that the instance, this test's process, may have; says so and waits. */
static void with_all_rights(void *arg)
{
    struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct d[2];
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    CHECK_EQ(syscall(SYS_capget, &h, d), 0);
    for (int i = 0; i < 2; i++)
        d[i].effective = d[i].permitted;
    CHECK_EQ(syscall(SYS_capset, &h, d), 0);
    CHECK_EQ(ffl_msg_send(*(const int *)arg, "c", 1, NULL, 0), 1);
    for (;;)
        (void)pause();
}

static int refusal; /* of SO_PEERPIDFD: what a kernel says that has none for this peer */

int __wrap_getsockopt(int fd, int level, int name, void *val, socklen_t *len);
int __real_getsockopt(int fd, int level, int name, void *val, socklen_t *len);
int __wrap_getsockopt(int fd, int level, int name, void *val, socklen_t *len)
{
    if (!refusal || level != SOL_SOCKET || name != SO_PEERPIDFD)
        return __real_getsockopt(fd, level, name, val, len);
    errno = refusal;
    return -1;
}

/* A peer leaves its connection to another process and ends; a process with more rights gets its
 * number. */
static void a_successor_attaches(void)
{
    int fds[2], sock, n = 1, peerpid;
    socklen_t len = sizeof(peerpid);
    char c;
    if (geteuid() != 0)
        return;
    lab_defaults("host");
    lab_start("");
    quiet();
    CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds), 0);
    pid_t pid = fork();
    if (pid == 0) { /* without a capability, before it connects */
        struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
        struct __user_cap_data_struct none[2] = {0};
        if (syscall(SYS_capset, &h, none) == 0 && (sock = lab_dial()) >= 0)
            (void)ffl_msg_send(fds[1], "c", 1, &sock, 1);
        _exit(0);
    }
    CHECK_EQ(waitpid(pid, NULL, 0), pid);
    CHECK_EQ(ffl_msg_recv(fds[0], &c, 1, &sock, &n), 1);
    pid_t other = fork_as(pid, with_all_rights, &fds[1]);
    bool told = getsockopt(sock, SOL_SOCKET, SO_PEERPIDFD, &peerpid, &len) == 0;
    if (told)
        close(peerpid);
    if (other == pid && (told || errno != ENOPROTOOPT)) { /* else nothing tells the two apart */
        CHECK_EQ(recv(fds[0], &c, 1, 0), 1);
        CHECK_EQ(ffl_msg_send(sock, &attach, sizeof(attach), NULL, 0), sizeof(attach));
        const struct ffl_session *s;
        while (!(s = TAILQ_FIRST(&lab.in->sessions))) /* it ends soon: its process has */
            (void)iterate();
        CHECK_EQ(s->caps, 0);
    }
    if (other > 0) {
        CHECK_EQ(kill(other, SIGKILL), 0);
        CHECK_EQ(waitpid(other, NULL, 0), other);
    }
    close(sock);
    close(fds[0]);
    close(fds[1]);
    iterations(3);
    lab_stop();
}

TEST(rights_are_not_a_successors)
{
    /* Kernels from 6.5 have no pidfd of a peer that has ended, until they do. */
    static const int says[] = {0, EINVAL, ESRCH};
    for (size_t i = 0; i < FFL_COUNT(says); i++) {
        refusal = says[i];
        a_successor_attaches();
    }
}

/* ---- the handshake ------------------------------------------------------------------------- */

TEST(handshake_garbage)
{
    struct neighbour n;
    uint64_t seed = 3;
    uint8_t junk[600];
    lab_start("clock=manual");
    neighbour_start(&n);
    int fds = test_open_fds();
    for (int i = 0; i < 500; i++) {
        for (size_t k = 0; k < sizeof(junk); k++)
            junk[k] = (uint8_t)test_random(&seed);
        size_t len = 1 + test_random(&seed) % sizeof(junk);
        struct ffl_hello h = {.magic = FFL_MAGIC, .version = FFL_ABI_VERSION, .kind = junk[0]};
        if (i % 3 == 0 && h.kind != FFL_HELLO_ATTACH)
            memcpy(junk, &h, len < sizeof(h) ? len : sizeof(h));
        int s = lab_dial();
        int extra[2] = {s, s};
        CHECK_EQ(ffl_msg_send(s, junk, len, extra, i % 5 == 0 ? 2 : 0), len);
        iterations(3);
        struct ffl_reply reply;
        int rc = ffl_msg_recv(s, &reply, sizeof(reply), NULL, NULL);
        if (rc > 0) {
            CHECK_EQ(rc, sizeof(reply));
            CHECK(reply.status != FFL_REPLY_OK);
            CHECK(reply.why[0]);
        } else {
            CHECK(rc == 0 || rc == -ECONNRESET);
        }
        close(s);
        lab_settled(fds);
    }
    neighbour_works(&n);
    neighbour_end(&n);
}

TEST(handshake_answers)
{
    struct raw r;
    lab_defaults("sim");
    lab.o.max_sessions = 2;
    lab_start("clock=manual");
    quiet();
    struct ffl_hello h = {
        .magic = FFL_MAGIC, .version = FFL_ABI_VERSION + 1, .kind = FFL_HELLO_ATTACH};
    CHECK_EQ(raw_try(&r, &h), FFL_REPLY_VERSION);
    h.version = FFL_ABI_VERSION;
    h.kind = 9;
    CHECK_EQ(raw_try(&r, &h), FFL_REPLY_BAD);
    h.kind = FFL_HELLO_ATTACH;
    h.magic = 1;
    CHECK_EQ(raw_try(&r, &h), FFL_REPLY_BAD);
    h.magic = FFL_MAGIC;
    struct raw a, b;
    h.max_sockets = h.pool_kib = UINT32_MAX; /* wishes: the instance's limits hold */
    CHECK_EQ(raw_try(&a, &h), FFL_REPLY_OK);
    CHECK_EQ(a.map.geo.max_sockets, 256);
    h.max_sockets = h.pool_kib = 1;
    CHECK_EQ(raw_try(&b, &h), FFL_REPLY_OK);
    CHECK_EQ(b.map.geo.max_sockets, 1);
    CHECK_EQ(raw_try(&r, &h), FFL_REPLY_QUOTA);
    raw_gone(&b);
    iterations(3);
    CHECK_EQ(raw_try(&r, &h), FFL_REPLY_OK); /* its place is free again */
    raw_gone(&a);
    raw_gone(&r);
    iterations(3);
    CHECK_EQ(ffl_instance_sessions(lab.in), 0);
    lab_stop();
}

/* Those who connect and say nothing take neither the instance's time nor its places for ever. */
TEST(handshake_silence)
{
    struct neighbour n;
    int s[200];
    lab_start("clock=manual");
    neighbour_start(&n);
    for (int i = 0; i < 200; i++) {
        s[i] = lab_dial();
        (void)iterate();
        if (i % 50 == 0)
            neighbour_works(&n);
    }
    for (int i = 0; i < 200; i++)
        close(s[i]);
    iterations(5);
    struct raw r;
    raw_attach(&r);
    raw_gone(&r);
    neighbour_works(&n);
    neighbour_end(&n);
}
