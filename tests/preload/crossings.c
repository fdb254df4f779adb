/*
 * crossings.c - one socket, several threads: what happens where they meet. A case a run:
 * `crossings CASE`, natively and under the shim.
 *
 * A case ends with status 0, or says what is not so. Where two orders are possible both are right.
 */
#include "check.h"

#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define OF_A_THREAD(name) CASE(name) /* for FF_THREAD_SOCKET=1 */

enum { ROUNDS = 20, BYTES = 1 << 20 };

static pthread_t start(void *(*body)(void *), void *arg)
{
    pthread_t t;
    CHECK(pthread_create(&t, NULL, body, arg) == 0);
    return t;
}

static intptr_t end(pthread_t t)
{
    void *result;
    CHECK(pthread_join(t, &result) == 0);
    return (intptr_t)result;
}

static int fd_of(void *arg)
{
    return *(int *)arg;
}

/* What a call gives: -errno, or its result. */
static void *result(ssize_t rc)
{
    return (void *)(intptr_t)(rc < 0 ? -errno : rc);
}

/* ---- data ----------------------------------------------------------------------------------- */

static unsigned char byte_at(size_t i)
{
    return (unsigned char)(i * 7 + i / 251);
}

static void *sends(void *arg)
{
    unsigned char data[4096];
    for (size_t at = 0; at < BYTES; at += sizeof(data)) {
        for (size_t i = 0; i < sizeof(data); i++)
            data[i] = byte_at(at + i);
        CHECK(send(fd_of(arg), data, sizeof(data), 0) == sizeof(data));
    }
    return NULL;
}

static void *receives(void *arg)
{
    unsigned char data[3000];
    ssize_t n;
    for (size_t at = 0; at < BYTES; at += (size_t)n) {
        n = recv(fd_of(arg), data, sizeof(data), 0);
        CHECK(n > 0);
        for (ssize_t i = 0; i < n; i++)
            CHECK(data[i] == byte_at(at + (size_t)i));
    }
    return NULL;
}

/* Of each end one thread reads while another writes. */
CASE(both_ways)
{
    int ends[2];
    pair(SOCK_STREAM, &ends[0], &ends[1]);
    pthread_t t[] = {start(sends, &ends[0]), start(receives, &ends[0]), start(sends, &ends[1]),
                     start(receives, &ends[1])};
    for (int i = 0; i < 4; i++)
        end(t[i]);
    CHECK(close(ends[0]) == 0 && close(ends[1]) == 0);
}

static void *counts(void *arg)
{
    char data[512];
    ssize_t n, all = 0;
    while ((n = recv(fd_of(arg), data, sizeof(data), 0)) > 0)
        all += n;
    return result(n < 0 ? n : all);
}

/* Several read one socket, each through its own copy: no byte is lost or given twice. */
CASE(readers_of_one)
{
    int ends[2], copies[3];
    pthread_t t[3];
    pair(SOCK_STREAM, &ends[0], &ends[1]);
    for (int i = 0; i < 3; i++) {
        CHECK((copies[i] = dup(ends[1])) >= 0);
        t[i] = start(counts, &copies[i]);
    }
    CHECK(close(ends[1]) == 0); /* they have their copies */
    sends(&ends[0]);
    CHECK(shutdown(ends[0], SHUT_WR) == 0);
    intptr_t all = 0;
    for (int i = 0; i < 3; i++) {
        all += end(t[i]);
        CHECK(close(copies[i]) == 0);
    }
    CHECK(all == BYTES && close(ends[0]) == 0);
}

static void *datagrams_out(void *arg)
{
    struct sockaddr_in sa = address_of(fd_of(arg));
    for (int i = 0; i < 50; i++) /* all of them fit in its buffer */
        CHECK(sendto(fd_of(arg), &i, sizeof(i), 0, (struct sockaddr *)&sa, sizeof(sa)) ==
              sizeof(i));
    return NULL;
}

static void *datagrams_in(void *arg)
{
    intptr_t n = 0;
    int got;
    while (recv(fd_of(arg), &got, sizeof(got), 0) == sizeof(got) && got >= 0)
        n++;
    return result(n);
}

/* A datagram socket that sends to itself, in four threads. */
CASE(datagrams)
{
    int fd = bound(SOCK_DGRAM), stop = -1;
    struct sockaddr_in sa = address_of(fd);
    pthread_t in[] = {start(datagrams_in, &fd), start(datagrams_in, &fd)};
    pthread_t out[] = {start(datagrams_out, &fd), start(datagrams_out, &fd)};
    end(out[0]);
    end(out[1]);
    for (int i = 0; i < 2; i++)
        CHECK(sendto(fd, &stop, sizeof(stop), 0, (struct sockaddr *)&sa, sizeof(sa)) > 0);
    CHECK(end(in[0]) + end(in[1]) > 0 && close(fd) == 0);
}

/* ---- ends ----------------------------------------------------------------------------------- */

static void *receives_once(void *arg)
{
    char byte;
    return result(recv(fd_of(arg), &byte, 1, 0));
}

static void *sends_on(void *arg)
{
    static const char data[65536];
    ssize_t n;
    while ((n = send(fd_of(arg), data, sizeof(data), MSG_NOSIGNAL)) > 0)
        ;
    return result(n);
}

CASE(shutdown_ends_a_reader)
{
    for (int i = 0; i < ROUNDS; i++) {
        int ends[2];
        pair(SOCK_STREAM, &ends[0], &ends[1]);
        pthread_t t = start(receives_once, &ends[1]);
        CHECK(shutdown(ends[1], SHUT_RD) == 0);
        CHECK(end(t) == 0);
        CHECK(close(ends[0]) == 0 && close(ends[1]) == 0);
    }
}

CASE(shutdown_ends_a_writer)
{
    for (int i = 0; i < ROUNDS; i++) {
        int ends[2];
        pair(SOCK_STREAM, &ends[0], &ends[1]);
        pthread_t t = start(sends_on, &ends[0]);
        CHECK(shutdown(ends[0], SHUT_WR) == 0);
        CHECK(end(t) == -EPIPE);
        CHECK(close(ends[0]) == 0 && close(ends[1]) == 0);
    }
}

static void *accepts(void *arg)
{
    return result(accept(fd_of(arg), NULL, NULL));
}

CASE(shutdown_ends_an_accept)
{
    for (int i = 0; i < ROUNDS; i++) {
        int l = listening(SOCK_STREAM);
        pthread_t t = start(accepts, &l);
        CHECK(shutdown(l, SHUT_RDWR) == 0);
        CHECK(end(t) == -EINVAL);
        CHECK(close(l) == 0);
    }
}

/* ---- close ---------------------------------------------------------------------------------- */

static void *polls(void *arg)
{
    struct pollfd p = {.fd = fd_of(arg), .events = POLLIN};
    CHECK(poll(&p, 1, 60000) == 1);
    return result(p.revents);
}

/* The one that waits keeps it open: what comes wakes it. */
CASE(close_beside_a_poll)
{
    for (int i = 0; i < ROUNDS; i++) {
        int ends[2];
        pair(SOCK_STREAM, &ends[0], &ends[1]);
        int fd = ends[1];
        pthread_t t = start(polls, &fd);
        CHECK(close(ends[1]) == 0);
        (void)send(ends[0], "x", 1, MSG_NOSIGNAL); /* reset, if nobody waited yet */
        intptr_t got = end(t);
        if (!(got & POLLIN || got == POLLNVAL)) {
            fprintf(stderr, "poll said %lx\n", (unsigned long)got);
            exit(1);
        }
        CHECK(recv(fd, &got, 1, 0) == -1 && errno == EBADF);
        CHECK(close(ends[0]) == 0);
    }
}

static pthread_barrier_t looking;

/* Why recv fails in the end;
 * or what poll says that neither a silent socket nor a closed one has. */
static void *looks_on(void *arg)
{
    struct pollfd p = {.fd = fd_of(arg), .events = POLLIN};
    char byte;
    pthread_barrier_wait(&looking);
    for (;;) {
        if (poll(&p, 1, 0) && p.revents != POLLNVAL)
            return result(p.revents);
        ssize_t n = recv(p.fd, &byte, 1, MSG_DONTWAIT);
        if (n == 0 || errno != EAGAIN)
            return result(n);
    }
}

static int by_close(int fd, int other)
{
    (void)other;
    return close(fd);
}

static int by_dup2(int fd, int other)
{
    return dup2(other, fd) == fd ? 0 : -1;
}

static int by_range(int fd, int other)
{
    (void)other;
    return close_range((unsigned)fd, (unsigned)fd, 0);
}

/* Who looks meanwhile sees the socket, or what comes after it: nothing of how it is made. */
static void ends_beside_looks(int (*ends_it)(int fd, int other), int after)
{
    int other = eventfd(0, 0);
    CHECK(other >= 0 && pthread_barrier_init(&looking, NULL, 2) == 0);
    for (int i = 0; i < 20 * ROUNDS; i++) {
        int ends[2];
        pair(SOCK_STREAM, &ends[0], &ends[1]);
        pthread_t t = start(looks_on, &ends[1]);
        pthread_barrier_wait(&looking);
        CHECK(ends_it(ends[1], other) == 0);
        intptr_t got = end(t);
        if (got != -after) {
            fprintf(stderr, "round %d: %ld\n", i, (long)got);
            exit(1);
        }
        CHECK(close(ends[0]) == 0 && (after == EBADF || close(ends[1]) == 0));
    }
    CHECK(close(other) == 0 && pthread_barrier_destroy(&looking) == 0);
}

CASE(close_beside_looks)
{
    ends_beside_looks(by_close, EBADF);
}

CASE(close_range_beside_looks)
{
    ends_beside_looks(by_range, EBADF);
}

CASE(dup2_beside_looks)
{
    ends_beside_looks(by_dup2, ENOTSOCK);
}

struct waits {
    int epfd, bell;
};

static void *waits_for_bell(void *arg)
{
    struct waits *w = arg;
    struct epoll_event ev;
    int n;
    while ((n = epoll_wait(w->epfd, &ev, 1, 60000)) == 1 && ev.data.fd != w->bell)
        ;
    return result(n);
}

/* The registration goes with the descriptor. */
CASE(close_beside_an_epoll)
{
    struct waits w = {.epfd = epoll_create1(0), .bell = eventfd(0, 0)};
    uint64_t one = 1;
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = w.bell};
    CHECK(epoll_ctl(w.epfd, EPOLL_CTL_ADD, w.bell, &ev) == 0);
    for (int i = 0; i < ROUNDS; i++) {
        int ends[2];
        pthread_t t = start(waits_for_bell, &w);
        pair(SOCK_STREAM, &ends[0], &ends[1]);
        ev = (struct epoll_event){.events = EPOLLIN | EPOLLET, .data.fd = ends[1]};
        CHECK(epoll_ctl(w.epfd, EPOLL_CTL_ADD, ends[1], &ev) == 0);
        CHECK(send(ends[0], "x", 1, 0) == 1);
        CHECK(close(ends[1]) == 0 && close(ends[0]) == 0);
        CHECK(write(w.bell, &one, sizeof(one)) == sizeof(one));
        CHECK(end(t) == 1);
        CHECK(read(w.bell, &one, sizeof(one)) == sizeof(one) && one == 1);
    }
    CHECK(close(w.epfd) == 0 && close(w.bell) == 0);
}

/* An epoll that one thread closes while another waits in it, with a stack socket and without. */
CASE(close_of_the_epoll)
{
    for (int i = 0; i < 2 * ROUNDS; i++) {
        struct waits w = {.epfd = epoll_create1(0), .bell = eventfd(0, 0)};
        struct epoll_event ev = {.events = EPOLLIN, .data.fd = w.bell};
        uint64_t one = 1;
        int ends[2] = {-1, -1};
        CHECK(epoll_ctl(w.epfd, EPOLL_CTL_ADD, w.bell, &ev) == 0);
        if (i % 2) {
            pair(SOCK_STREAM, &ends[0], &ends[1]);
            ev.data.fd = ends[1];
            CHECK(epoll_ctl(w.epfd, EPOLL_CTL_ADD, ends[1], &ev) == 0);
        }
        int epfd = w.epfd;
        pthread_t t = start(waits_for_bell, &w);
        CHECK(close(epfd) == 0);
        CHECK(write(w.bell, &one, sizeof(one)) == sizeof(one));
        intptr_t got = end(t);
        CHECK(got == 1 || got == -EBADF);
        CHECK(close(w.bell) == 0);
        for (int k = 0; k < 2 && i % 2; k++)
            CHECK(close(ends[k]) == 0);
    }
}

/* ---- all at once ---------------------------------------------------------------------------- */

enum { CHURNERS = 3, CONNECTIONS = 40 };

static struct {
    int l, pipe[2]; /* accepted descriptors on their way to who closes them */
    struct sockaddr_in sa;
    _Atomic bool over;
} churn;

static void *connects_and_goes(void *arg)
{
    char data[1000] = {1}, back[1000];
    for (int i = 0; i < CONNECTIONS; i++) {
        int fd = connect_to(churn.sa, SOCK_STREAM);
        CHECK(send(fd, data, sizeof(data), 0) == sizeof(data));
        CHECK(recv(fd, back, sizeof(back), MSG_WAITALL) == sizeof(back));
        CHECK(memcmp(data, back, sizeof(data)) == 0);
        CHECK(close(fd) == 0);
    }
    return arg;
}

static void *accepts_and_answers(void *arg)
{
    char data[1000];
    for (;;) {
        int fd = accept(churn.l, NULL, NULL);
        CHECK(fd >= 0);
        ssize_t n = recv(fd, data, sizeof(data), MSG_WAITALL);
        int copy = dup(fd);
        CHECK(copy >= 0 && close(fd) == 0 && (n == 0 || n == sizeof(data)));
        if (n)
            CHECK(send(copy, data, sizeof(data), 0) == sizeof(data));
        CHECK(write(churn.pipe[1], &copy, sizeof(copy)) == sizeof(copy));
        if (n == 0)
            return arg;
    }
}

static void *closes(void *arg)
{
    int fd;
    while (read(churn.pipe[0], &fd, sizeof(fd)) == sizeof(fd))
        CHECK(close(fd) == 0);
    return arg;
}

/* Looks at every descriptor, whatever it is and whoever closes it meanwhile. */
static void *looks(void *arg)
{
    while (!churn.over) {
        struct pollfd all[64];
        for (int i = 0; i < 64; i++) {
            struct sockaddr_in sa;
            struct epoll_event ev;
            struct msghdr none = {.msg_name = NULL};
            socklen_t len = sizeof(sa);
            all[i] = (struct pollfd){.fd = i, .events = POLLIN};
            (void)getsockname(i, (struct sockaddr *)&sa, &len);
            (void)epoll_wait(i, &ev, 1, 0);
            (void)sendmsg(i, &none, MSG_DONTWAIT | MSG_NOSIGNAL);
            (void)fcntl(i, F_GETFL);
        }
        CHECK(poll(all, 64, 0) >= 0);
    }
    return arg;
}

static void *epolls(void *arg)
{
    while (!churn.over) {
        struct epoll_event ev = {.events = EPOLLIN};
        int epfd = epoll_create1(0);
        CHECK(epfd >= 0);
        CHECK(epoll_ctl(epfd, EPOLL_CTL_ADD, churn.l, &ev) == 0);
        CHECK(epoll_ctl(epfd, EPOLL_CTL_ADD, churn.pipe[0], &ev) == 0);
        CHECK(epoll_wait(epfd, &ev, 1, 0) >= 0);
        CHECK(close(epfd) == 0);
    }
    return arg;
}

/* Descriptors come and go, in other threads than where they are used; numbers are used again. */
CASE(churning)
{
    pthread_t clients[CHURNERS], servers[CHURNERS];
    churn.l = listening(SOCK_STREAM);
    churn.sa = address_of(churn.l);
    CHECK(pipe(churn.pipe) == 0);
    pthread_t closer = start(closes, NULL), looker = start(looks, NULL),
              waiter = start(epolls, NULL);
    for (int i = 0; i < CHURNERS; i++) {
        servers[i] = start(accepts_and_answers, NULL);
        clients[i] = start(connects_and_goes, NULL);
    }
    for (int i = 0; i < CHURNERS; i++)
        end(clients[i]);
    for (int i = 0; i < CHURNERS; i++)
        CHECK(close(connect_to(churn.sa, SOCK_STREAM)) == 0); /* one ends each */
    for (int i = 0; i < CHURNERS; i++)
        end(servers[i]);
    churn.over = true;
    end(looker);
    end(waiter);
    CHECK(close(churn.pipe[1]) == 0);
    end(closer);
    CHECK(close(churn.pipe[0]) == 0 && close(churn.l) == 0);
}

/* ---- FF_THREAD_SOCKET=1: a session per thread ----------------------------------------------- */

static struct {
    int ends[2], epfd, fresh, shared;
} mine;

/* Nothing works on another thread's sockets; a fresh socket is whoever's that binds it; an epoll of
 * kernel descriptors is everybody's. */
static void *uses_anothers(void *arg)
{
    char byte;
    struct epoll_event ev = {.events = EPOLLIN};
    struct pollfd p = {.fd = mine.ends[1], .events = POLLIN};
    int own = epoll_create1(0);
    for (int i = 0; i < 2; i++) {
        int fd = mine.ends[i];
        CHECK(recv(fd, &byte, 1, MSG_DONTWAIT) == -1 && send(fd, "y", 1, MSG_NOSIGNAL) == -1);
        CHECK(epoll_ctl(own, EPOLL_CTL_ADD, fd, &ev) == -1 && errno == EXDEV);
        CHECK(dup(fd) == -1 && errno == EXDEV);
        CHECK(dup2(own, fd) == -1 && errno == EXDEV);
        CHECK(close(fd) == -1 && errno == EXDEV);
    }
    CHECK(poll(&p, 1, 0) <= 1 && !(p.revents & POLLIN));
    CHECK(epoll_wait(mine.epfd, &ev, 1, 0) == -1 && errno == EXDEV);
    CHECK(close(mine.epfd) == -1 && errno == EXDEV);
    CHECK(epoll_wait(mine.shared, &ev, 1, 0) == 0);
    CHECK(listen(mine.fresh, 8) == 0);
    int fd = connect_to(address_of(mine.fresh), SOCK_STREAM);
    CHECK(epoll_ctl(own, EPOLL_CTL_ADD, mine.fresh, &ev) == 0 && epoll_wait(own, &ev, 1, -1) == 1);
    CHECK(close(fd) == 0 && close(mine.fresh) == 0 && close(own) == 0);
    return arg;
}

OF_A_THREAD(own_sockets_only)
{
    struct epoll_event ev = {.events = EPOLLIN};
    char byte;
    pair(SOCK_STREAM, &mine.ends[0], &mine.ends[1]);
    mine.epfd = epoll_create1(0);
    mine.shared = epoll_create1(0);
    mine.fresh = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(epoll_ctl(mine.epfd, EPOLL_CTL_ADD, mine.ends[1], &ev) == 0);
    CHECK(send(mine.ends[0], "x", 1, 0) == 1);
    pthread_t t = start(uses_anothers, NULL);
    CHECK(epoll_wait(mine.shared, &ev, 1, 0) == 0);
    end(t);
    CHECK(epoll_wait(mine.epfd, &ev, 1, -1) == 1);
    CHECK(recv(mine.ends[1], &byte, 1, 0) == 1 && byte == 'x');
    CHECK(close(mine.ends[0]) == 0 && close(mine.ends[1]) == 0);
    CHECK(close(mine.epfd) == 0 && close(mine.shared) == 0);
}

static pthread_barrier_t both;

static void *takes_it(void *arg)
{
    char byte;
    pthread_barrier_wait(&both);
    (void)arg;
    return result(recv(mine.ends[1], &byte, 1, MSG_DONTWAIT));
}

/* In a child two threads use an inherited socket at once: it is one's. */
OF_A_THREAD(inherited_by_one)
{
    enum { CHILDREN = 100 };
    int status;
    pair(SOCK_STREAM, &mine.ends[0], &mine.ends[1]);
    CHECK(pthread_barrier_init(&both, NULL, 2) == 0);
    for (int i = 0; i < CHILDREN; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            CHECK(dup2(open("/dev/null", O_WRONLY), STDERR_FILENO) == STDERR_FILENO);
            pthread_t t = start(takes_it, NULL);
            intptr_t here = (intptr_t)takes_it(NULL), there = end(t);
            _exit((here == -EAGAIN) + (there == -EAGAIN) != 1);
        }
        CHECK(waitpid(pid, &status, 0) == pid);
        CHECK_EQ(status, 0);
    }
    CHECK(pthread_barrier_init(&both, NULL, 1) == 0);
    CHECK(end(start(takes_it, NULL)) != -EAGAIN);
    CHECK(close(mine.ends[0]) == 0 && close(mine.ends[1]) == 0);
}

/* ---- EPOLLEXCLUSIVE -------------------------------------------------------------------------- */

enum { LISTENERS = 4, LISTENER = 1, PING = 2 };

static struct one { /* a thread with an epoll of its own */
    int epfd, ping, go;
    _Atomic pid_t tid;
} ones[LISTENERS];
static int told, from; /* told: an event for main; from: the listener */
static _Atomic int seen, served;

static void post(int fd)
{
    uint64_t n = 1;
    CHECK(write(fd, &n, sizeof(n)) == sizeof(n));
}

static void take(int fd)
{
    uint64_t n;
    CHECK(read(fd, &n, sizeof(n)) == sizeof(n));
}

static void *waits_beside_others(void *arg)
{
    struct one *mine = arg;
    mine->tid = (pid_t)syscall(SYS_gettid);
    for (;;) {
        struct epoll_event ev[2];
        bool some = false, pinged = false;
        int n = epoll_wait(mine->epfd, ev, 2, -1);
        CHECK(n > 0);
        for (int i = 0; i < n; i++) {
            some |= ev[i].data.u32 == LISTENER;
            pinged |= ev[i].data.u32 == PING;
        }
        seen += some;
        if (pinged)
            take(mine->ping);
        if (some && !pinged) {
            served = (int)(mine - ones);
            post(told);
            take(mine->go);
            int fd = accept(from, NULL, NULL);
            if (fd < 0)
                return NULL; /* the listener is shut down */
            CHECK(close(fd) == 0);
        }
        post(told);
    }
}

static bool in_epoll(pid_t tid)
{
    char path[64], text[16] = {0};
    snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", (int)tid);
    int fd = tid ? open(path, O_RDONLY) : -1;
    CHECK(!tid || (fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 && close(fd) == 0));
    int number = tid ? atoi(text) : -1;
#ifdef SYS_epoll_wait
    if (number == SYS_epoll_wait)
        return true;
#endif
    return tid && (number == SYS_epoll_pwait || number == SYS_epoll_pwait2);
}

static void all_wait(void)
{
    for (int i = 0; i < LISTENERS; i++)
        while (!in_epoll(ones[i].tid))
            sched_yield();
}

/* A connection wakes one of the threads that wait for it, and the others do not hear of it. */
CASE(exclusive)
{
    pthread_t t[LISTENERS];
    from = listening(SOCK_STREAM);
    told = eventfd(0, EFD_SEMAPHORE);
    for (int i = 0; i < LISTENERS; i++) {
        struct epoll_event e = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.u32 = LISTENER};
        struct epoll_event p = {.events = EPOLLIN, .data.u32 = PING};
        ones[i] = (struct one){epoll_create1(0), eventfd(0, 0), eventfd(0, 0), 0};
        CHECK(epoll_ctl(ones[i].epfd, EPOLL_CTL_ADD, from, &e) == 0);
        CHECK(epoll_ctl(ones[i].epfd, EPOLL_CTL_ADD, ones[i].ping, &p) == 0);
        t[i] = start(waits_beside_others, &ones[i]);
    }
    for (int round = 1; round <= ROUNDS; round++) {
        all_wait();
        int fd = connect_to(address_of(from), SOCK_STREAM);
        take(told);
        for (int i = 0; i < LISTENERS; i++)
            if (i != served) {
                post(ones[i].ping);
                take(told);
            }
        CHECK(seen == round);
        post(ones[served].go);
        take(told);
        CHECK(close(fd) == 0);
    }
    CHECK(shutdown(from, SHUT_RDWR) == 0); /* which all hear of */
    for (int i = 0; i < LISTENERS; i++) {
        post(ones[i].go);
        end(t[i]);
    }
}

static void *leaves(void *arg)
{
    struct epoll_event ev = {.events = EPOLLIN};
    pair(SOCK_STREAM, &mine.ends[0], &mine.ends[1]);
    mine.epfd = epoll_create1(0);
    CHECK(epoll_ctl(mine.epfd, EPOLL_CTL_ADD, mine.ends[1], &ev) == 0);
    return arg;
}

/* Threads come and go; what they leave can be closed, in any order. */
OF_A_THREAD(left_by_a_thread)
{
    char byte;
    for (int i = 0; i < 4; i++) {
        end(start(leaves, NULL));
        CHECK(recv(mine.ends[1], &byte, 1, MSG_DONTWAIT) == -1);
        int all[] = {mine.ends[0], mine.ends[1], mine.epfd};
        for (int k = 0; k < 3; k++)
            CHECK(close(all[(i + k) % 3]) == 0);
    }
}

int main(int argc, char **argv)
{
    alarm(120);
    return run_named(argc, argv);
}
