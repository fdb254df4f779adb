/*
 * faults.c - rules 8 and 9 from the application's end: sudden deaths, and an instance that stands
 * still.
 *
 * The client library, and an instance in a thread or another process, on the host stack.
 */
#include "app.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define SEC FFL_NS_PER_SEC

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
    struct ffl_client *c = attach();
    struct ffl_addr a = addr4("127.0.0.1", 0);
    listen_on(c, &a, 8, false);
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
    struct ffl_client *other = attach(); /* is not disturbed */
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
    struct ffl_client *c = attach();
    struct ffl_addr a = addr4("127.0.0.1", 0);
    listen_on(c, &a, 8, false);
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
    struct ffl_client *c = attach();
    struct ffl_addr a = addr4("127.0.0.1", 0);
    int l = listen_on(c, &a, 8, false);
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
    struct ffl_client *c = attach();
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
    struct ffl_client *c = attach();
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
    struct ffl_client *c = attach();
    struct ffl_addr a = addr4("127.0.0.1", 0);
    listen_on(c, &a, 32, false);
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
