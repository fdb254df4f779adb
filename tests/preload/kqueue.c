/*
 * kqueue.c - kqueue and kevent of libff_syscall.so, a case a run: `kqueue CASE`.
 *
 * test_kqueue.py builds it as a program would be (`ffloop preload --cflags --libs`) and runs each.
 */
#include <ff_syscall.h>

#include "check.h"

#include <fcntl.h>
#include <sys/wait.h>

static int kq;

static int change(int fd, int filter, int flags, void *udata)
{
    struct kevent k;
    EV_SET(&k, fd, filter, flags, 0, 0, udata);
    return kevent(kq, &k, 1, NULL, 0, NULL);
}

static struct kevent wait_one(void)
{
    struct kevent k;
    struct timespec limit = {60, 0};
    CHECK_EQ(kevent(kq, NULL, 0, &k, 1, &limit), 1);
    return k;
}

static int now(struct kevent *k, int n)
{
    struct timespec zero = {0, 0};
    return kevent(kq, NULL, 0, k, n, &zero);
}

static int nothing(void)
{
    struct kevent k;
    return now(&k, 1) == 0;
}

/* As F-Stack's example does it: a listener, then its connections, in the same kqueue. */
CASE(server)
{
    int l = listening(SOCK_STREAM);
    CHECK_EQ(change(l, EVFILT_READ, EV_ADD, &kq), 0);
    CHECK(nothing());
    int a = connect_to(address_of(l), SOCK_STREAM), b = connect_to(address_of(l), SOCK_STREAM);
    struct kevent k = wait_one();
    CHECK_EQ(k.ident, l);
    CHECK_EQ(k.filter, EVFILT_READ);
    CHECK(k.udata == &kq && !(k.flags & EV_EOF));
    while (k.data < 2)
        k = wait_one();
    CHECK_EQ(k.data, 2);
    int x = accept(l, NULL, NULL), y = accept(l, NULL, NULL);
    CHECK(x >= 0 && y >= 0);
    CHECK(nothing());
    CHECK_EQ(change(x, EVFILT_READ, EV_ADD, NULL), 0);
    CHECK_EQ(write(a, "hello", 5), 5);
    CHECK_EQ(write(b, "no", 2), 2);
    k = wait_one();
    CHECK_EQ(k.ident, x);
    CHECK_EQ(k.data, 5);
    char data[8];
    CHECK_EQ(read(x, data, 8), 5);
    CHECK(nothing());
    close(a);
    k = wait_one();
    CHECK_EQ(k.ident, x);
    CHECK(k.flags & EV_EOF);
    CHECK_EQ(k.data, 0);
    close(x);
    CHECK(nothing());
}

static void both_filters(int type)
{
    int a, b, mark;
    struct kevent k[4];
    pair(SOCK_STREAM | type, &a, &b);
    CHECK_EQ(change(b, EVFILT_READ, EV_ADD, NULL), 0);
    CHECK_EQ(change(b, EVFILT_WRITE, EV_ADD | EV_CLEAR, &mark), 0);
    k[0] = wait_one();
    CHECK_EQ(k[0].filter, EVFILT_WRITE);
    CHECK(k[0].udata == &mark && k[0].data > 0 && (k[0].flags & EV_CLEAR));
    CHECK(nothing()); /* cleared; the other one is level */
    CHECK_EQ(write(a, "x", 1), 1);
    for (int i = 0; i < 3; i++)
        while (wait_one().filter != EVFILT_READ)
            ;
    CHECK_EQ(change(b, EVFILT_WRITE, EV_ADD, NULL), 0);
    int n = now(k, 4);
    CHECK_EQ(n, 2);
    CHECK(k[0].filter != k[1].filter);
    CHECK_EQ(now(k, 1), 1); /* one at a time */
    CHECK_EQ(change(b, EVFILT_READ, EV_DELETE, NULL), 0);
    CHECK_EQ(now(k, 4), 1);
    CHECK_EQ(k[0].filter, EVFILT_WRITE);
    CHECK_EQ(change(b, EVFILT_WRITE, EV_DELETE, NULL), 0);
    CHECK(nothing());
}

CASE(filters_of_a_stack_socket)
{
    both_filters(0);
}

CASE(filters_of_a_kernel_socket)
{
    both_filters(SOCK_KERNEL);
}

CASE(kernel_and_stack_together)
{
    int a, b, c, d;
    pair(SOCK_STREAM, &a, &b);
    pair(SOCK_STREAM | SOCK_KERNEL, &c, &d);
    CHECK_EQ(change(b, EVFILT_READ, EV_ADD, NULL), 0);
    CHECK_EQ(change(d, EVFILT_READ, EV_ADD, NULL), 0);
    CHECK(nothing());
    CHECK_EQ(write(c, "kernel", 6), 6);
    struct kevent k = wait_one();
    CHECK_EQ(k.ident, d);
    CHECK_EQ(k.data, 6);
    char data[8];
    CHECK_EQ(read(d, data, 8), 6);
    CHECK_EQ(write(a, "abc", 3), 3);
    k = wait_one();
    CHECK_EQ(k.ident, b);
    CHECK_EQ(k.data, 3);
}

CASE(pipe_as_well)
{
    int p[2];
    CHECK_EQ(pipe(p), 0);
    CHECK_EQ(change(p[0], EVFILT_READ, EV_ADD, NULL), 0);
    CHECK_EQ(change(p[1], EVFILT_WRITE, EV_ADD | EV_ONESHOT, NULL), 0);
    CHECK_EQ(wait_one().ident, p[1]);
    CHECK(nothing());
    CHECK_EQ(write(p[1], "four", 4), 4);
    CHECK_EQ(wait_one().data, 4);
    close(p[1]);
    char data[8];
    CHECK_EQ(read(p[0], data, 8), 4);
    CHECK(wait_one().flags & EV_EOF);
}

CASE(clear)
{
    int a, b;
    pair(SOCK_STREAM, &a, &b);
    CHECK_EQ(change(b, EVFILT_READ, EV_ADD | EV_CLEAR, NULL), 0);
    CHECK_EQ(write(a, "x", 1), 1);
    CHECK_EQ(wait_one().data, 1);
    CHECK(nothing());
    CHECK_EQ(write(a, "y", 1), 1);
    CHECK_EQ(wait_one().data, 2);
    CHECK(nothing());
}

static void once(int type)
{
    int a, b;
    pair(SOCK_STREAM | type, &a, &b);
    CHECK_EQ(write(a, "x", 1), 1);
    CHECK_EQ(change(b, EVFILT_READ, EV_ADD | EV_ONESHOT, NULL), 0);
    CHECK_EQ(wait_one().data, 1);
    CHECK(nothing());
    CHECK_EQ(change(b, EVFILT_READ, EV_DELETE, NULL), -1);
    CHECK_EQ(errno, ENOENT);
    CHECK_EQ(change(b, EVFILT_READ, EV_ADD | EV_DISPATCH, NULL), 0);
    CHECK_EQ(wait_one().data, 1);
    CHECK(nothing());
    CHECK_EQ(change(b, EVFILT_READ, EV_ENABLE, NULL), 0);
    CHECK_EQ(wait_one().data, 1);
    CHECK_EQ(change(b, EVFILT_READ, EV_ENABLE, NULL), 0);
    CHECK_EQ(change(b, EVFILT_READ, EV_DISABLE, NULL), 0);
    CHECK(nothing());
}

CASE(oneshot_and_dispatch)
{
    once(0);
}

CASE(oneshot_and_dispatch_kernel)
{
    once(SOCK_KERNEL);
}

CASE(errors)
{
    struct kevent k[3], out[3];
    int a, b;
    pair(SOCK_STREAM, &a, &b);
    EV_SET(&k[0], 999, EVFILT_READ, EV_ADD, 0, 0, NULL);
    EV_SET(&k[1], b, -7, EV_ADD, 0, 0, NULL);
    EV_SET(&k[2], b, EVFILT_READ, EV_DELETE, 0, 0, &k);
    CHECK_EQ(kevent(kq, k, 3, out, 3, NULL), 3);
    CHECK((out[0].flags & EV_ERROR) && (out[1].flags & EV_ERROR) && (out[2].flags & EV_ERROR));
    CHECK_EQ(out[0].data, EBADF);
    CHECK_EQ(out[1].data, EINVAL);
    CHECK_EQ(out[2].data, ENOENT);
    CHECK(out[2].udata == &k && out[2].ident == (uintptr_t)b);
    CHECK_EQ(kevent(kq, k, 3, NULL, 0, NULL), -1);
    CHECK_EQ(errno, EBADF);
    EV_SET(&k[0], b, EVFILT_READ, EV_ADD | EV_RECEIPT, 0, 0, NULL);
    CHECK_EQ(kevent(kq, k, 1, out, 3, NULL), 1);
    CHECK((out[0].flags & EV_ERROR) && out[0].data == 0);
    CHECK_EQ(kevent(b, NULL, 0, out, 1, NULL), -1);
    CHECK_EQ(errno, EBADF);
    struct timespec bad = {0, 2000000000};
    CHECK_EQ(kevent(kq, NULL, 0, out, 1, &bad), -1);
    CHECK_EQ(errno, EINVAL);
    CHECK_EQ(kevent(kq, NULL, 0, NULL, 0, NULL), 0);
}

/* Nothing before a connect has ended, then how it ended. */
CASE(connecting)
{
    int l = listening(SOCK_STREAM), s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in a = address_of(l);
    CHECK_EQ(change(s, EVFILT_WRITE, EV_ADD, NULL), 0);
    CHECK_EQ(change(s, EVFILT_READ, EV_ADD, NULL), 0);
    int rc = connect(s, (struct sockaddr *)&a, sizeof(a));
    CHECK(rc == 0 || errno == EINPROGRESS);
    struct kevent k = wait_one();
    CHECK_EQ(k.filter, EVFILT_WRITE);
    CHECK(!(k.flags & EV_EOF));
    close(l);
    close(s);
    s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CHECK_EQ(change(s, EVFILT_WRITE, EV_ADD, NULL), 0);
    rc = connect(s, (struct sockaddr *)&a, sizeof(a)); /* nobody listens there now */
    CHECK(rc == -1 && (errno == EINPROGRESS || errno == ECONNREFUSED));
    k = wait_one();
    CHECK(k.flags & EV_EOF);
    CHECK_EQ(k.fflags, ECONNREFUSED);
}

CASE(reset)
{
    int a, b;
    struct linger now_ = {1, 0};
    pair(SOCK_STREAM, &a, &b);
    CHECK_EQ(change(b, EVFILT_READ, EV_ADD, NULL), 0);
    CHECK_EQ(setsockopt(a, SOL_SOCKET, SO_LINGER, &now_, sizeof(now_)), 0);
    close(a);
    struct kevent k = wait_one();
    CHECK(k.flags & EV_EOF);
    CHECK_EQ(k.fflags, ECONNRESET);
}

/* A filter goes with its descriptor, though another one means the same socket. */
CASE(closed_descriptor)
{
    int a, b;
    pair(SOCK_STREAM, &a, &b);
    CHECK_EQ(change(b, EVFILT_READ, EV_ADD, NULL), 0);
    int copy = dup(b);
    CHECK_EQ(write(a, "x", 1), 1);
    CHECK_EQ(wait_one().ident, b);
    close(b);
    CHECK(nothing());
    char data[2];
    CHECK_EQ(read(copy, data, 2), 1);
}

static void *from_a_thread(void *arg)
{
    int a = *(int *)arg;
    CHECK_EQ(write(a, "x", 1), 1);
    return NULL;
}

CASE(wakes_a_sleeper)
{
    int a, b;
    pthread_t t;
    pair(SOCK_STREAM, &a, &b);
    CHECK_EQ(change(b, EVFILT_READ, EV_ADD, NULL), 0);
    CHECK_EQ(pthread_create(&t, NULL, from_a_thread, &a), 0);
    CHECK_EQ(wait_one().ident, b);
    CHECK_EQ(pthread_join(t, NULL), 0);
}

static void *serves(void *arg)
{
    int l = *(int *)arg;
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    usleep(20000); /* the other one sleeps by now, most likely; if not, it is as well */
    CHECK_EQ(bind(l, (struct sockaddr *)&any, sizeof(any)), 0);
    CHECK_EQ(listen(l, 16), 0);
    (void)connect_to(address_of(l), SOCK_STREAM);
    return NULL;
}

/* The process attaches to its instance while a thread waits already. */
CASE(attached_while_asleep)
{
    int l = socket(AF_INET, SOCK_STREAM, 0);
    pthread_t t;
    CHECK_EQ(change(l, EVFILT_READ, EV_ADD, NULL), 0);
    CHECK_EQ(pthread_create(&t, NULL, serves, &l), 0);
    CHECK_EQ(wait_one().ident, l);
    CHECK_EQ(pthread_join(t, NULL), 0);
}

CASE(timeout)
{
    struct timespec before, after, limit = {0, 30000000};
    struct kevent k;
    clock_gettime(CLOCK_MONOTONIC, &before);
    CHECK_EQ(kevent(kq, NULL, 0, &k, 1, &limit), 0);
    clock_gettime(CLOCK_MONOTONIC, &after);
    long ns = (after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec;
    CHECK(ns >= 30000000);
}

CASE(polled_itself)
{
    int a, b, ep = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLIN}, got;
    pair(SOCK_STREAM, &a, &b);
    CHECK_EQ(change(b, EVFILT_READ, EV_ADD, NULL), 0);
    CHECK_EQ(epoll_ctl(ep, EPOLL_CTL_ADD, kq, &ev), 0);
    struct pollfd p = {.fd = kq, .events = POLLIN};
    CHECK_EQ(poll(&p, 1, 0), 0);
    CHECK_EQ(write(a, "x", 1), 1);
    CHECK_EQ(poll(&p, 1, 60000), 1);
    CHECK_EQ(epoll_wait(ep, &got, 1, 60000), 1);
    CHECK_EQ(wait_one().ident, b);
}

CASE(not_in_a_child)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(change(0, EVFILT_READ, EV_DELETE, NULL) == -1 && errno == EBADF &&
                      fcntl(kq, F_GETFD) == -1
                  ? 0
                  : 1);
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
    CHECK(nothing()); /* the parent's works on */
}

int main(int argc, char **argv)
{
    alarm(120);
    kq = kqueue();
    CHECK(kq >= 0);
    return run_named(argc, argv);
}
