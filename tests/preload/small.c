/*
 * small.c - every call on a thread with the smallest stack there is; see test_contract.py.
 *
 * How much of it a call takes is seen by a pattern: 4 KiB at most.
 */
#include "cases.h"

#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>

enum {
    STACK = 16384,
    MAY = 4096 + 2048
}; /* bytes; what binds a name at its first call takes some */

static unsigned char area[4 * STACK] __attribute__((aligned(4096)));
static void (*call)(void);

static void *runs(void *unused)
{
    (void)unused;
    call();
    return NULL;
}

static void nothing(void)
{
}

/* Bytes of the stack that a thread has touched. */
static size_t touched(void (*what)(void))
{
    pthread_attr_t attr;
    pthread_t thread;
    memset(area, 0x5a, sizeof(area));
    call = what;
    NEED(pthread_attr_init(&attr) == 0);
    NEED(pthread_attr_setstack(&attr, area + sizeof(area) - STACK, STACK) == 0);
    NEED(pthread_create(&thread, &attr, runs, NULL) == 0 && pthread_join(thread, NULL) == 0);
    size_t i = 0;
    while (i < sizeof(area) && area[i] == 0x5a)
        i++;
    return sizeof(area) - i;
}

static void takes(void (*what)(void))
{
    size_t least = touched(nothing), more = touched(what);
    if (more > least + MAY || more > STACK)
        printf("%zu bytes more than nothing\n", more - least);
}

static void talk(void)
{
    NEED(write(client, "hello", 5) == 5 && read(server, buffer, 5) == 5);
    NEED(send(client, "hello", 5, 0) == 5 && recv(server, buffer, 5, MSG_PEEK) == 5);
    struct iovec v = {buffer, 5};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    NEED(recvmsg(server, &m, 0) == 5 && sendmsg(server, &m, 0) == 5);
    NEED(recv(client, buffer, 5, MSG_WAITALL) == 5);
}

static void wait_for(void)
{
    struct pollfd p = {.fd = server, .events = POLLOUT};
    struct timeval zero = {0, 0};
    fd_set set;
    FD_ZERO(&set);
    FD_SET(server, &set);
    NEED(poll(&p, 1, 60000) == 1 && select(server + 1, NULL, &set, NULL, &zero) == 1);
    p.events = POLLIN;
    NEED(poll(&p, 1, 10) == 0);
    int ep = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLOUT};
    NEED(epoll_ctl(ep, EPOLL_CTL_ADD, server, &ev) == 0 && epoll_wait(ep, &ev, 1, 60000) == 1);
    close(ep);
}

static int file, tube[2];

static void copy(void)
{
    off_t at = 0;
    NEED(sendfile(client, file, &at, 10) == 10 && read(server, buffer, 10) == 10);
    NEED(write(client, "hello", 5) == 5 && splice(server, NULL, tube[1], NULL, 5, 0) == 5);
    NEED(splice(tube[0], NULL, client, NULL, 5, 0) == 5 && read(server, buffer, 5) == 5);
}

static void live(void)
{
    struct sockaddr_in a = where(listener);
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    socklen_t len = sizeof(on);
    NEED(connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
    int other = accept(listener, NULL, NULL), copied = dup(other);
    NEED(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on)) == 0);
    NEED(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, &len) == 0);
    NEED(shutdown(fd, SHUT_WR) == 0 && read(other, buffer, 1) == 0);
    NEED(close(fd) == 0 && close(other) == 0 && close(copied) == 0);
}

static void fill(void)
{
    static char many[64][16384];
    struct iovec v[64];
    for (int i = 0; i < 64; i++)
        v[i] = (struct iovec){many[i], sizeof(many[i])};
    NEED(fcntl(client, F_SETFL, O_NONBLOCK) == 0);
    while (writev(client, v, 64) > 0)
        ;
    NEED(errno == EAGAIN);
}

CASE(talks)
{
    connected();
    takes(talk);
}

CASE(waits)
{
    connected();
    takes(wait_for);
}

CASE(copies)
{
    connected();
    file = some_file();
    NEED(pipe(tube) == 0);
    takes(copy);
}

CASE(lives)
{
    connected();
    takes(live);
}

CASE(fills)
{
    connected();
    takes(fill);
}

static void other_spellings(void)
{
    struct iovec v = {buffer, 5};
    struct mmsghdr many[2] = {{.msg_hdr = {.msg_iov = &v, .msg_iovlen = 1}},
                              {.msg_hdr = {.msg_iov = &v, .msg_iovlen = 1}}};
    NEED(writev(client, &v, 1) == 5 && readv(server, &v, 1) == 5);
    NEED(pwritev2(client, &v, 1, -1, 0) == 5 && preadv2(server, &v, 1, -1, 0) == 5);
    NEED(sendto(client, buffer, 5, 0, NULL, 0) == 5);
    NEED(recvfrom(server, buffer, 5, MSG_WAITALL, NULL, NULL) == 5);
    NEED(sendmmsg(client, many, 2, 0) == 2);
    NEED(recvmmsg(server, many, 2, MSG_WAITALL, NULL) == 2);
    NEED(dprintf(client, "%s", "text") == 4 && recv(server, buffer, 4, MSG_WAITALL) == 4);
}

static void other_waits(void)
{
    struct pollfd p = {.fd = server, .events = POLLOUT};
    struct timespec limit = {1, 0};
    struct epoll_event ev = {.events = EPOLLOUT};
    fd_set set;
    FD_ZERO(&set);
    FD_SET(server, &set);
    NEED(ppoll(&p, 1, &limit, NULL) == 1 &&
         pselect(server + 1, NULL, &set, NULL, &limit, NULL) == 1);
    NEED(syscall(SYS_ppoll, &p, 1, &limit, NULL, 8) == 1);
    int ep = epoll_create1(0), outer = epoll_create1(0);
    NEED(epoll_ctl(ep, EPOLL_CTL_ADD, server, &ev) == 0);
    NEED(epoll_pwait(ep, &ev, 1, 100, NULL) == 1 && epoll_pwait2(ep, &ev, 1, &limit, NULL) == 1);
    ev.events = EPOLLIN;
    NEED(epoll_ctl(outer, EPOLL_CTL_ADD, ep, &ev) == 0 && epoll_wait(outer, &ev, 1, 100) == 1);
    NEED(close(ep) == 0 && close(outer) == 0);
}

static void asks(void)
{
    struct sockaddr_in a = anywhere();
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_DGRAM, 0), n;
    struct tcp_info info;
    NEED(bind(fd, (struct sockaddr *)&a, len) == 0);
    NEED(getsockname(fd, (struct sockaddr *)&a, &len) == 0);
    NEED(sendto(fd, "x", 1, 0, (struct sockaddr *)&a, len) == 1);
    NEED(recvfrom(fd, buffer, 1, 0, (struct sockaddr *)&a, &len) == 1 && close(fd) == 0);
    len = sizeof(a);
    NEED(getpeername(server, (struct sockaddr *)&a, &len) == 0);
    NEED(ioctl(server, FIONREAD, &n) == 0 && fcntl(server, F_GETFL) >= 0);
    len = sizeof(info);
    NEED(getsockopt(server, IPPROTO_TCP, TCP_INFO, &info, &len) == 0);
    int copied = fcntl(server, F_DUPFD_CLOEXEC, 50);
    NEED(copied >= 50 && dup2(server, copied) == copied && close_range(50, 60, 0) == 0);
}

static int ends_of[2];

static void passes(void)
{
    struct msghdr *m = with_fd(server);
    NEED(sendmsg(ends_of[0], m, 0) == 1 && recvmsg(ends_of[1], m, 0) == 1);
    memcpy(&server, CMSG_DATA(CMSG_FIRSTHDR(m)), sizeof(int));
    NEED(write(client, "x", 1) == 1 && read(server, buffer, 1) == 1);
}

static void forks(void)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(write(client, "x", 1) != 1);
    int status;
    NEED(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
    NEED(read(server, buffer, 1) == 1);
}

CASE(talks_otherwise)
{
    connected();
    takes(other_spellings);
}

CASE(waits_otherwise)
{
    connected();
    takes(other_waits);
}

CASE(is_asked)
{
    connected();
    takes(asks);
}

CASE(is_passed_on)
{
    connected();
    NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, ends_of) == 0);
    takes(passes);
}

CASE(has_children)
{
    connected();
    takes(forks);
}

/* As vsftpd's processes, which may have 200 MiB. */
CASE(little_address_space)
{
    NEED(setrlimit(RLIMIT_AS, &(struct rlimit){200 << 20, 200 << 20}) == 0);
    connected();
    arrives("hello");
    heard(server, 5);
}

/* The limit comes when the process has its sockets: it is for the program's memory. */
CASE(a_limit_of_memory_that_comes_late)
{
    struct rlimit limit = {200 << 20, 200 << 20};
    connected();
    NEED(setrlimit(RLIMIT_AS, &limit) == 0);
    limit.rlim_cur = 190 << 20;
    NEED(setrlimit(RLIMIT_AS, &limit) == 0);
    NEED(getrlimit(RLIMIT_AS, &limit) == 0);
    printf("%ld of %ld MiB\n", (long)limit.rlim_cur >> 20, (long)limit.rlim_max >> 20);
    NEED(syscall(SYS_prlimit64, 0, RLIMIT_AS, NULL, &limit) == 0);
    printf("%ld of %ld MiB\n", (long)limit.rlim_cur >> 20, (long)limit.rlim_max >> 20);
    void *some = mmap(NULL, 64 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    saw("64 MiB", some != MAP_FAILED);
    saw("1 GiB", mmap(NULL, 1 << 30, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
    for (int i = 0; i < 200; i++)
        NEED(connects() >= 0 && accept(listener, NULL, NULL) >= 0);
    pid_t pid = fork();
    if (pid == 0) {
        NEED(read(server, buffer, 5) == 5);
        NEED(mmap(NULL, 64 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
        _exit(write(server, "there", 5) != 5);
    }
    NEED(write(client, "hello", 5) == 5);
    ends(pid);
    heard(client, 5);
}

int main(int argc, char **argv)
{
    return run_case(argc, argv);
}
