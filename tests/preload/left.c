/*
 * left.c - calls that do not return: a thread that is cancelled in one, a handler that jumps out of
 * one, a descriptor that is closed beside one. `left CASE`, natively and under the shim.
 *
 * A case ends with status 0, or says what is not so.
 */
#include "check.h"

#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/select.h>
#include <sys/syscall.h>

/* What the calls are made on: a connection, and a listener. */
struct scene {
    int l, peer, fd;
    _Atomic int tid;
    long (*call)(struct scene *s);
    sigjmp_buf out;
    pthread_t main;
};

static struct scene scene;

static void open_scene(struct scene *s)
{
    s->l = listening(SOCK_STREAM);
    s->peer = connect_to(address_of(s->l), SOCK_STREAM);
    s->fd = accepted(s->l);
}

/* The socket goes on as if the call had not been made; and its close is one. */
static void goes_on(struct scene *s)
{
    char b[4];
    CHECK(send(s->peer, "abc", 3, 0) == 3);
    CHECK(recv(s->fd, b, 4, 0) == 3);
    CHECK(send(s->fd, "de", 2, 0) == 2);
    CHECK(recv(s->peer, b, 4, 0) == 2);
    int another = connect_to(address_of(s->l), SOCK_STREAM), fd = accepted(s->l);
    CHECK(close(fd) == 0 && close(another) == 0);
    CHECK(close(s->fd) == 0);
    CHECK(recv(s->peer, b, 4, 0) == 0);
    CHECK(close(s->peer) == 0 && close(s->l) == 0);
}

/* ---- the calls ------------------------------------------------------------------------------ */

static long in_recv(struct scene *s)
{
    char b;
    return recv(s->fd, &b, 1, 0);
}

static long in_accept(struct scene *s)
{
    return accept(s->l, NULL, NULL);
}

static long in_poll(struct scene *s)
{
    struct pollfd p[] = {{.fd = s->fd, .events = POLLIN}, {.fd = s->l, .events = POLLIN}};
    return poll(p, 2, -1);
}

static long in_select(struct scene *s)
{
    fd_set set;
    FD_ZERO(&set);
    FD_SET(s->fd, &set);
    return select(s->fd + 1, &set, NULL, NULL, NULL);
}

static long in_epoll(struct scene *s)
{
    struct epoll_event ev = {.events = EPOLLIN};
    static int ep = -1;
    if (ep < 0) {
        ep = epoll_create1(0);
        CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, s->fd, &ev) == 0);
    }
    return epoll_wait(ep, &ev, 1, -1);
}

static long (*const calls[])(struct scene *) = {in_recv, in_accept, in_poll, in_select, in_epoll};

/* Until the thread of the scene sleeps, in the kernel, without a limit that a lock would have. */
static void wait_asleep(struct scene *s)
{
    char path[64], line[256];
    int tid, calm = 0;
    while (!(tid = atomic_load(&s->tid)))
        sched_yield();
    snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
    while (calm < 50) { /* a lock that it waits for is given back at once */
        FILE *f = fopen(path, "re");
        CHECK(f && fgets(line, sizeof(line), f));
        fclose(f);
        calm = strstr(line, ") S ") ? calm + 1 : 0;
        sched_yield();
    }
}

static void *makes_the_call(void *arg)
{
    struct scene *s = arg;
    atomic_store(&s->tid, (int)syscall(SYS_gettid));
    return (void *)(intptr_t)s->call(s);
}

/* ---- cases ---------------------------------------------------------------------------------- */

static void *uses_its_stack(void *unused)
{
    volatile char used[65536];
    memset((void *)used, 0x41, sizeof(used));
    return unused;
}

static void cancelled(long (*call)(struct scene *))
{
    pthread_t t;
    void *result;
    memset(&scene, 0, sizeof(scene));
    open_scene(&scene);
    scene.call = call;
    CHECK(pthread_create(&t, NULL, makes_the_call, &scene) == 0);
    wait_asleep(&scene);
    CHECK(pthread_cancel(t) == 0);
    CHECK(pthread_join(t, &result) == 0 && result == PTHREAD_CANCELED);
    CHECK(pthread_create(&t, NULL, uses_its_stack, NULL) == 0 && pthread_join(t, NULL) == 0);
    goes_on(&scene);
}

static void jump(int sig)
{
    (void)sig;
    siglongjmp(scene.out, 1);
}

static void *signals_main(void *arg)
{
    struct scene *s = arg;
    wait_asleep(s);
    CHECK(pthread_kill(s->main, SIGUSR1) == 0);
    return NULL;
}

static void jumped_out(long (*call)(struct scene *))
{
    pthread_t t;
    memset(&scene, 0, sizeof(scene));
    open_scene(&scene);
    scene.main = pthread_self();
    CHECK(signal(SIGUSR1, jump) != SIG_ERR);
    CHECK(pthread_create(&t, NULL, signals_main, &scene) == 0);
    if (!sigsetjmp(scene.out, 1)) {
        atomic_store(&scene.tid, (int)syscall(SYS_gettid));
        CHECK(call(&scene) == -2); /* it does not return */
    }
    CHECK(pthread_join(t, NULL) == 0);
    goes_on(&scene);
}

static void nested(int sig) /* a call in a handler, inside the call that it interrupts */
{
    struct pollfd p = {.fd = scene.fd, .events = POLLIN};
    (void)sig;
    CHECK(poll(&p, 1, 1) == 0);
    CHECK(send(scene.fd, "h", 1, 0) == 1);
}

static void *feeds_main(void *arg)
{
    struct scene *s = arg;
    char b;
    (void)signals_main(s);
    CHECK(recv(s->peer, &b, 1, 0) == 1 && b == 'h');
    CHECK(send(s->peer, "z", 1, 0) == 1);
    return NULL;
}

CASE(call_in_a_handler)
{
    pthread_t t;
    char b;
    open_scene(&scene);
    scene.main = pthread_self();
    CHECK(signal(SIGUSR1, nested) != SIG_ERR); /* SA_RESTART */
    CHECK(pthread_create(&t, NULL, feeds_main, &scene) == 0);
    atomic_store(&scene.tid, (int)syscall(SYS_gettid));
    CHECK(recv(scene.fd, &b, 1, 0) == 1 && b == 'z');
    CHECK(pthread_join(t, NULL) == 0);
    goes_on(&scene);
}

/* Linux lets the call run to its end. */
CASE(closed_beside_a_reader)
{
    pthread_t t;
    void *result;
    char b;
    open_scene(&scene);
    scene.call = in_recv;
    CHECK(pthread_create(&t, NULL, makes_the_call, &scene) == 0);
    wait_asleep(&scene);
    CHECK(close(scene.fd) == 0);
    CHECK(send(scene.peer, "x", 1, 0) == 1);
    CHECK(pthread_join(t, &result) == 0 && result == (void *)1);
    CHECK(recv(scene.peer, &b, 1, 0) == 0); /* and then it is closed */
}

static long in_poll_of_a_number(struct scene *s)
{
    struct pollfd p = {.fd = s->fd, .events = POLLIN};
    return poll(&p, 1, -1) == 1 ? p.revents : -1;
}

static long in_poll_of_two(struct scene *s)
{
    struct pollfd p[] = {{.fd = s->fd, .events = POLLIN}, {.fd = s->l, .events = POLLIN}};
    return poll(p, 2, -1) == 1 ? p[0].revents : -1;
}

/* A woken poll asks the number anew, also where its socket goes on. */
static void closed_beside(long (*call)(struct scene *))
{
    pthread_t t;
    void *result;
    char b;
    open_scene(&scene);
    int copy = dup(scene.fd);
    scene.call = call;
    CHECK(pthread_create(&t, NULL, makes_the_call, &scene) == 0);
    wait_asleep(&scene);
    CHECK(close(scene.fd) == 0);
    CHECK(send(scene.peer, "x", 1, 0) == 1);
    CHECK(pthread_join(t, &result) == 0);
    CHECK_EQ((intptr_t)result, POLLNVAL);
    CHECK(recv(copy, &b, 1, 0) == 1 && close(copy) == 0);
}

CASE(closed_beside_a_poll)
{
    closed_beside(in_poll_of_a_number);
}

CASE(closed_beside_a_poll_of_two)
{
    closed_beside(in_poll_of_two);
}

static int moved;

static long in_moved(struct scene *s)
{
    struct epoll_event got = {0};
    (void)s;
    return epoll_wait(moved, &got, 1, 60000) == 1 ? (long)got.data.u32 : -1;
}

/* An epoll is itself, whatever number it has, and whoever has the number that it had. */
CASE(epoll_by_another_number)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.u32 = 7}, got;
    pthread_t t;
    void *result;
    open_scene(&scene);
    int ep = epoll_create1(0);
    CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, scene.fd, &ev) == 0);
    moved = dup(ep);
    CHECK(moved >= 0 && close(ep) == 0);
    CHECK(send(scene.peer, "w", 1, 0) == 1);
    CHECK(epoll_wait(moved, &got, 1, 60000) == 1 && got.data.u32 == 7);
    CHECK(recv(scene.fd, &got, 1, 0) == 1);
    int other = epoll_create1(0);
    CHECK(other == ep);
    int beside = connect_to(address_of(scene.l), SOCK_STREAM);
    CHECK(epoll_ctl(other, EPOLL_CTL_ADD, beside, &ev) == 0);
    scene.call = in_moved;
    CHECK(pthread_create(&t, NULL, makes_the_call, &scene) == 0);
    wait_asleep(&scene);
    CHECK(send(scene.peer, "x", 1, 0) == 1);
    CHECK(pthread_join(t, &result) == 0 && result == (void *)7);
    CHECK(epoll_wait(other, &got, 1, 0) == 0);
    int one = accept(scene.l, NULL, NULL);
    CHECK(send(one, "y", 1, 0) == 1);
    CHECK(epoll_wait(other, &got, 1, 60000) == 1);
    CHECK(close(moved) == 0 && close(other) == 0 && close(one) == 0 && close(beside) == 0);
}

CASE(cancelled_in_calls)
{
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]) - 1; i++)
        cancelled(calls[i]);
}

CASE(cancelled_in_epoll)
{
    cancelled(in_epoll);
}

CASE(jumped_out_of_calls)
{
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]) - 1; i++)
        jumped_out(calls[i]);
}

CASE(jumped_out_of_epoll)
{
    jumped_out(in_epoll);
}

int main(int argc, char **argv)
{
    alarm(120);
    return run_named(argc, argv);
}
