/*
 * leaving.c - calls that are left by a cancellation or a jump, many times; see test_contract.py.
 *
 * `STORM=100000 leaving CASE`: so many. At any moment of the call, and not only while it sleeps.
 */
#include "cases.h"

#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>

static int storm = 1000;
static int epfd, full[2], file; /* an epoll; a connection in which there is no room */

/* ---- the calls: they wait, though the kernel may find room for a byte more ------------------- */

static char bytes[65536];

static void in_recv(void)
{
    (void)recv(server, bytes, 1, 0);
}

static void in_read(void)
{
    (void)!read(server, bytes, 1);
}

static void in_recvmsg(void)
{
    struct iovec iov = {bytes, 1};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    (void)recvmsg(server, &m, 0);
}

static void in_recvmmsg(void)
{
    struct iovec iov = {bytes, 1};
    struct mmsghdr m = {.msg_hdr = {.msg_iov = &iov, .msg_iovlen = 1}};
    (void)recvmmsg(server, &m, 1, 0, NULL);
}

static void in_accept(void)
{
    (void)accept(listener, NULL, NULL);
}

static void in_poll(void)
{
    struct pollfd p[] = {{.fd = server, .events = POLLIN}, {.fd = listener, .events = POLLIN}};
    (void)poll(p, 2, -1);
}

static void in_ppoll(void)
{
    struct pollfd p = {.fd = server, .events = POLLIN};
    (void)ppoll(&p, 1, NULL, NULL);
}

static void in_select(void)
{
    fd_set set;
    FD_ZERO(&set);
    FD_SET(server, &set);
    (void)select(server + 1, &set, NULL, NULL, NULL);
}

static void in_pselect(void)
{
    fd_set set;
    FD_ZERO(&set);
    FD_SET(listener, &set);
    (void)pselect(listener + 1, &set, NULL, NULL, NULL, NULL);
}

static void in_epoll_wait(void)
{
    struct epoll_event ev;
    (void)epoll_wait(epfd, &ev, 1, -1);
}

static void in_epoll_pwait(void)
{
    struct epoll_event ev;
    (void)epoll_pwait(epfd, &ev, 1, -1, NULL);
}

static void in_send(void)
{
    (void)send(full[0], bytes, 1, MSG_NOSIGNAL);
}

static void in_writev(void)
{
    struct iovec iov[] = {{bytes, 1}, {bytes, 1}};
    (void)!writev(full[0], iov, 2);
}

static void in_sendfile(void)
{
    off_t from = 0;
    (void)sendfile(full[0], file, &from, 10);
}

static void (*const calls[])(void) = {
    in_recv,   in_read,    in_recvmsg,    in_recvmmsg,    in_accept, in_poll,   in_ppoll,
    in_select, in_pselect, in_epoll_wait, in_epoll_pwait, in_send,   in_writev, in_sendfile};
/* The last one is no cancellation point. */
enum { CALLS = sizeof(calls) / sizeof(*calls), CANCELLED = CALLS - 1 };

/* ---- before and after ------------------------------------------------------------------------ */

static int open_now(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    NEED(d != NULL);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void fills_up(int fd)
{
    for (int sent = 1; sent; poll(NULL, 0, 100)) { /* what is on its way arrives, and leaves room */
        sent = 0;
        while (send(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
            sent++;
        while (send(fd, bytes, 1, MSG_DONTWAIT) > 0)
            sent++;
    }
}

static void scene(void)
{
    struct epoll_event in = {.events = EPOLLIN};
    if (getenv("STORM"))
        storm = atoi(getenv("STORM"));
    alarm(120 + (unsigned)storm / 100);
    connected();
    full[0] = client;
    full[1] = server;
    fills_up(full[0]);
    client = connects();
    server = accept(listener, NULL, NULL);
    file = some_file();
    epfd = epoll_create1(0);
    NEED(epoll_ctl(epfd, EPOLL_CTL_ADD, server, &in) == 0);
    NEED(epoll_ctl(epfd, EPOLL_CTL_ADD, listener, &in) == 0);
}

/* All goes on as if none of the calls had been made. */
static void goes_on(void)
{
    struct epoll_event ev;
    arrives("abc");
    saw("epoll_wait", epoll_wait(epfd, &ev, 1, -1));
    heard(server, 3);
    saw("write", write(server, "de", 2));
    heard(client, 2);
    int another = connects(), fd = accept(listener, NULL, NULL);
    saw("accept", fd >= 0);
    NEED(close(another) == 0 && close(fd) == 0);
    struct pollfd p = {.fd = full[0], .events = POLLOUT};
    while (poll(&p, 1, 10) == 0)
        NEED(recv(full[1], bytes, sizeof(bytes), 0) > 0);
    saw("there is room again", p.revents);
    close(server);
    heard(client, 1);
}

/* ---- cancelled ------------------------------------------------------------------------------- */

static _Atomic int begun;

static void *makes_it(void *arg)
{
    begun = 1;
    calls[(intptr_t)arg]();
    return NULL;
}

/* Sooner and later: some never reach the call, some sleep in it. */
static void waits_a_little(int i)
{
    while (!begun)
        sched_yield();
    for (int k = 0; k < i % 17; k++)
        sched_yield();
}

CASE(cancelled)
{
    scene();
    int before = 0;
    for (int i = 0; i < storm; i++) {
        pthread_t t;
        begun = 0;
        NEED(pthread_create(&t, NULL, makes_it, (void *)(intptr_t)(i % CANCELLED)) == 0);
        waits_a_little(i);
        NEED(pthread_cancel(t) == 0 && pthread_join(t, NULL) == 0);
        if (i == CALLS)
            before = open_now();
    }
    saw("descriptors more", open_now() - before);
    goes_on();
}

/* ---- jumped out of --------------------------------------------------------------------------- */

static sigjmp_buf out;
static volatile int jumps;

static void jump(int number)
{
    (void)number;
    jumps = jumps + 1;
    siglongjmp(out, 1);
}

static int open_in_peace(void)
{
    sigset_t quiet;
    sigemptyset(&quiet);
    sigaddset(&quiet, SIGUSR1);
    sigprocmask(SIG_BLOCK, &quiet, NULL);
    int n = open_now();
    sigprocmask(SIG_UNBLOCK, &quiet, NULL);
    return n;
}

static void jumps_out_of_all(void)
{
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    struct itimerspec often = {{0, 40000}, {0, 40000}}, never = {{0, 0}, {0, 0}};
    timer_t timer;
    NEED(signal(SIGUSR1, jump) != SIG_ERR);
    NEED(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    static int before; /* each of them has been made once */
    if (!sigsetjmp(out, 1))
        NEED(timer_settime(timer, 0, &often, NULL) == 0);
    else if (jumps == CALLS)
        before = open_in_peace();
    while (jumps < storm)
        calls[jumps % CALLS]();
    signal(SIGUSR1, SIG_IGN);
    NEED(timer_settime(timer, 0, &never, NULL) == 0);
    saw("descriptors more", before ? open_now() - before : 0);
    goes_on();
}

CASE(jumped_out_of)
{
    scene();
    jumps_out_of_all();
}

static void *idles(void *unused)
{
    (void)unused;
    while (pause() < 0)
        ;
    return NULL;
}

/* With two threads there are locks to be held. */
CASE(jumped_out_of_beside_a_thread)
{
    pthread_t other;
    sigset_t all, open;
    scene();
    sigfillset(&all);
    NEED(pthread_sigmask(SIG_BLOCK, &all, &open) == 0);
    NEED(pthread_create(&other, NULL, idles, NULL) == 0);
    NEED(pthread_sigmask(SIG_SETMASK, &open, NULL) == 0);
    jumps_out_of_all();
}

int main(int argc, char **argv)
{
    return run_case(argc, argv);
}
