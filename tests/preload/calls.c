/*
 * calls.c - every call that the shim has, made by a C program on a stack socket; see test_calls.py.
 *
 * `calls NAME` runs one case, natively or under the shim, and prints what it saw. Built with
 * _FORTIFY_SOURCE, and once with 64-bit offsets, so that the calls go to the names that the C
 * library's headers make of them: __read_chk, fcntl64, sendfile64. The sizes are volatile: what is
 * known to fit goes to the plain call.
 */
#include "cases.h"

#include <pthread.h>

/* ---- fortified ----------------------------------------------------------------------------- */

CASE(read_chk)
{
    char b[16];
    volatile size_t n = 5;
    connected();
    arrives("hello, world");
    saw("read", read(server, b, n));
    printf("%.5s\n", b);
}

CASE(recv_chk)
{
    char b[16];
    volatile size_t n = 5;
    connected();
    arrives("hello, world");
    saw("recv", recv(server, b, n, MSG_PEEK));
    printf("%.5s\n", b);
    saw("recv", recv(server, b, n, 0));
    printf("%.5s\n", b);
}

CASE(recvfrom_chk)
{
    char b[16];
    volatile size_t n = 16;
    struct sockaddr_in from = {0};
    socklen_t len = sizeof(from);
    connected();
    arrives("hello, world");
    saw("recvfrom", recvfrom(server, b, n, 0, (struct sockaddr *)&from, &len));
    int u = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in a = anywhere();
    NEED(bind(u, (struct sockaddr *)&a, sizeof(a)) == 0);
    a = where(u);
    NEED(sendto(u, "datagram", 8, 0, (struct sockaddr *)&a, sizeof(a)) == 8);
    len = sizeof(from);
    saw("recvfrom", recvfrom(u, b, n, 0, (struct sockaddr *)&from, &len));
    printf("%.8s %d %d\n", b, from.sin_port == a.sin_port, (int)len);
}

CASE(poll_chk)
{
    struct pollfd p[2];
    volatile nfds_t n = 2;
    connected();
    arrives("x");
    p[0] = (struct pollfd){.fd = server, .events = POLLIN};
    p[1] = (struct pollfd){.fd = client, .events = POLLIN};
    saw("poll", poll(p, n, 60000));
    printf("%d %d\n", p[0].revents, p[1].revents);
}

CASE(ppoll_chk)
{
    struct pollfd p[2];
    volatile nfds_t n = 2;
    struct timespec t = soon(60000);
    connected();
    arrives("x");
    p[0] = (struct pollfd){.fd = server, .events = POLLIN};
    p[1] = (struct pollfd){.fd = client, .events = POLLOUT};
    saw("ppoll", ppoll(p, n, &t, NULL));
    printf("%d %d\n", p[0].revents, p[1].revents);
}

CASE(vectors_with_flags)
{
    struct iovec v = {buffer, sizeof(buffer)}, one = {"x", 1};
    connected();
    arrives("hello");
    saw("preadv2", preadv2(server, &v, 1, -1, 0));
    saw("preadv2", preadv2(server, &v, 1, -1, RWF_NOWAIT));
    saw("preadv2", preadv2(server, &v, 1, 0, 0));
    saw("preadv", preadv(server, &v, 1, 0));
    saw("pwritev2", pwritev2(client, &one, 1, -1, 0));
    saw("pwritev2", pwritev2(client, &one, 1, 0, 0));
    saw("syscall", syscall(SYS_pwritev2, client, &one, 1, -1L, -1L, 0));
    heard(server, 2);
    saw("syscall", syscall(SYS_preadv2, server, &v, 1, -1L, -1L, RWF_NOWAIT));
}

/* Too much for the buffer: the program is ended, before anything is overwritten. */
static void overflows(void (*call)(void))
{
    connected();
    arrives("more than eight bytes of it");
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        call();
        _exit(0);
    }
    ends(pid);
}

static volatile size_t too_much = 24;

static void read_too_much(void)
{
    char b[8];
    saw("read", read(server, b, too_much));
}

static void recv_too_much(void)
{
    char b[8];
    saw("recv", recv(server, b, too_much, 0));
}

static void recvfrom_too_much(void)
{
    char b[8];
    saw("recvfrom", recvfrom(server, b, too_much, 0, NULL, NULL));
}

static void poll_too_much(void)
{
    struct pollfd p[1] = {{.fd = server, .events = POLLIN}};
    saw("poll", poll(p, too_much, 0));
}

static void ppoll_too_much(void)
{
    struct pollfd p[1] = {{.fd = server, .events = POLLIN}};
    saw("ppoll", ppoll(p, too_much, NULL, NULL));
}

CASE(read_chk_overflow)
{
    overflows(read_too_much);
}

CASE(recv_chk_overflow)
{
    overflows(recv_too_much);
}

CASE(recvfrom_chk_overflow)
{
    overflows(recvfrom_too_much);
}

CASE(poll_chk_overflow)
{
    overflows(poll_too_much);
}

CASE(ppoll_chk_overflow)
{
    overflows(ppoll_too_much);
}

/* ---- descriptors --------------------------------------------------------------------------- */

CASE(closefrom_ends_streams)
{
    connected();
    int kept = dup2(client, 100), high = dup2(server, 200);
    NEED(kept == 100 && high == 200);
    close(client);
    close(server);
    closefrom(150);
    saw("high", fcntl(200, F_GETFD));
    saw("kept", fcntl(100, F_GETFD));
    heard(100, 1); /* the end: `server` had its last descriptor closed */
}

CASE(close_range_on_exec)
{
    connected();
    saw("close_range", close_range((unsigned)client, (unsigned)client, CLOSE_RANGE_CLOEXEC));
    saw("flags", fcntl(client, F_GETFD));
    saw("send", send(client, "x", 1, 0));
    saw("close_range", close_range((unsigned)client, ~0U, 0));
    saw("client", fcntl(client, F_GETFD));
    saw("wrong", close_range(5, 3, 0));
    saw("unknown", close_range(1000, 1001, 1 << 20));
}

CASE(fcntl_and_dups)
{
    connected();
    int flags = fcntl(client, F_GETFL);
    printf("%x\n", flags);
    saw("F_SETFL", fcntl(client, F_SETFL, flags | O_NONBLOCK));
    saw("read", read(client, buffer, 1));
    int copy = fcntl(client, F_DUPFD_CLOEXEC, 50);
    saw("F_DUPFD_CLOEXEC", copy);
    saw("F_GETFD", fcntl(copy, F_GETFD));
    saw("dup3", dup3(client, 60, O_CLOEXEC));
    saw("dup2", dup2(client, 61));
    saw("dup", dup(client) >= 0);
    saw("send", send(61, "x", 1, 0));
    heard(server, 1);
}

CASE(accept4_flags)
{
    listens();
    client = connects();
    server = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    printf("%x %x\n", fcntl(server, F_GETFL) & O_NONBLOCK, fcntl(server, F_GETFD));
    saw("read", read(server, buffer, 1));
}

CASE(socketpair_is_the_kernels)
{
    int two[2];
    connected();
    saw("socketpair", socketpair(AF_UNIX, SOCK_STREAM, 0, two));
    saw("write", write(two[0], "x", 1));
    heard(two[1], 1);
}

/* ---- data ---------------------------------------------------------------------------------- */

CASE(vectors)
{
    char a[4] = {0}, b[4] = {0};
    struct iovec out[2] = {{"abc", 3}, {"defg", 4}}, in[2] = {{a, 3}, {b, 4}};
    connected();
    saw("writev", writev(client, out, 2));
    heard(server, 7);
    NEED(write(client, "0123456", 7) == 7);
    struct msghdr m = {.msg_iov = in, .msg_iovlen = 2};
    saw("recvmsg", recvmsg(server, &m, MSG_WAITALL));
    printf("%.3s %.4s %x\n", a, b, (unsigned)m.msg_flags);
    m = (struct msghdr){.msg_iov = out, .msg_iovlen = 2};
    saw("sendmsg", sendmsg(server, &m, MSG_NOSIGNAL));
    struct pollfd p = {.fd = client, .events = POLLIN};
    NEED(poll(&p, 1, 60000) == 1);
    saw("readv", readv(client, in, 2));
    printf("%.3s %.4s\n", a, b);
}

CASE(many_messages)
{
    char in[2][8] = {{0}};
    struct iovec out[2] = {{"one", 3}, {"two!", 4}}, to[2] = {{in[0], 3}, {in[1], 4}};
    struct mmsghdr m[2] = {{{.msg_iov = &out[0], .msg_iovlen = 1}, 0},
                           {{.msg_iov = &out[1], .msg_iovlen = 1}, 0}};
    connected();
    saw("sendmmsg", sendmmsg(client, m, 2, 0));
    printf("%u %u\n", m[0].msg_len, m[1].msg_len);
    m[0].msg_hdr.msg_iov = &to[0];
    m[1].msg_hdr.msg_iov = &to[1];
    saw("recvmmsg", recvmmsg(server, m, 2, MSG_WAITALL, NULL));
    printf("%u %u %s %s\n", m[0].msg_len, m[1].msg_len, in[0], in[1]);
}

CASE(sends_a_file)
{
    connected();
    int file = some_file();
    off_t at = 2;
    saw("sendfile", sendfile(client, file, &at, 5));
    printf("%ld\n", (long)at);
    heard(server, 5);
}

CASE(splices)
{
    int p[2];
    connected();
    NEED(pipe(p) == 0 && write(p[1], "through a pipe", 14) == 14);
    saw("splice", splice(p[0], NULL, client, NULL, 14, 0));
    struct pollfd in = {.fd = server, .events = POLLIN};
    NEED(poll(&in, 1, 60000) == 1);
    saw("splice", splice(server, NULL, p[1], NULL, 14, SPLICE_F_NONBLOCK));
    heard(client, 0);
    saw("read", read(p[0], buffer, sizeof(buffer)));
    off64_t at = 0;
    saw("offset", splice(p[0], NULL, client, &at, 1, SPLICE_F_NONBLOCK));
    saw("offset", splice(p[0], &at, client, NULL, 1, SPLICE_F_NONBLOCK));
    saw("offset", splice(server, &at, p[1], NULL, 1, SPLICE_F_NONBLOCK));
    saw("file", splice(some_file(), NULL, client, NULL, 1, 0));
    saw("sockets", splice(server, NULL, client, NULL, 1, 0));
    saw("closed", splice(-1, NULL, client, NULL, 1, 0));
}

/* At an offset: of files, and never of sockets. */
CASE(at_an_offset)
{
    char b[8];
    struct iovec v = {b, 4};
    connected();
    int file = some_file();
    saw("pread", pread(file, b, 4, 3));
    printf("%.4s\n", b);
    saw("preadv", preadv(file, &v, 1, 1));
    printf("%.4s\n", b);
    saw("pwritev", pwritev(file, &v, 1, 6));
    saw("pread", pread(file, b, 4, 6));
    printf("%.4s\n", b);
    saw("preadv2", preadv2(file, &v, 1, 2, 0));
    arrives("data");
    saw("pread", pread(server, b, 4, 0));
    saw("pwrite", pwrite(server, b, 4, 0));
    saw("preadv", preadv(server, &v, 1, 0));
    saw("pwritev", pwritev(server, &v, 1, 0));
    saw("lseek", lseek(server, 0, SEEK_SET));
    heard(server, 4);
}

/* ---- masks and time ------------------------------------------------------------------------ */

CASE(pselect_mask)
{
    sigset_t open;
    fd_set in;
    struct timespec t = soon(60000);
    connected();
    pending(&open);
    FD_ZERO(&in);
    FD_SET(server, &in);
    saw("pselect", pselect(server + 1, &in, NULL, NULL, &t, &open));
    printf("%d signals\n", (int)signals);
}

CASE(pselect_mask_blocks)
{
    sigset_t open, blocked;
    fd_set in;
    struct timespec t = soon(30);
    connected();
    pending(&open);
    sigprocmask(SIG_SETMASK, NULL, &blocked);
    FD_ZERO(&in);
    FD_SET(server, &in);
    begins();
    saw("pselect", pselect(server + 1, &in, NULL, NULL, &t, &blocked));
    printf("%d signals %d\n", (int)signals, lasted(30));
    arrives("x");
    FD_SET(server, &in);
    saw("pselect", pselect(server + 1, &in, NULL, NULL, NULL, &blocked));
    printf("%d signals %d\n", (int)signals, FD_ISSET(server, &in) != 0);
}

CASE(masks_of_calls_that_do_not_wait)
{
    struct timespec none = {0, 0};
    sigset_t open;
    fd_set set;
    connected();
    struct pollfd p = {.fd = server, .events = POLLIN};
    pending(&open);
    saw("ppoll", ppoll(&p, 1, &none, &open));
    printf("%d\n", (int)signals);
    NEED(raise(SIGUSR1) == 0);
    FD_ZERO(&set);
    FD_SET(server, &set);
    saw("pselect", pselect(server + 1, &set, NULL, NULL, &none, &open));
    printf("%d\n", (int)signals);
}

static void *closes_soon(void *unused)
{
    usleep(200000);
    close(server);
    return unused;
}

CASE(polled_until_it_is_closed)
{
    pthread_t t;
    connected();
    struct pollfd p = {.fd = server, .events = POLLIN};
    NEED(pthread_create(&t, NULL, closes_soon, NULL) == 0);
    saw("poll", poll(&p, 1, 500));
    printf("%x\n", (unsigned)p.revents);
    NEED(pthread_join(t, NULL) == 0);
}

CASE(ppoll_mask)
{
    sigset_t open;
    struct pollfd p = {.events = POLLIN};
    struct timespec t = soon(60000);
    connected();
    pending(&open);
    p.fd = server;
    saw("ppoll", ppoll(&p, 1, &t, &open));
    printf("%d signals\n", (int)signals);
}

static int watching(void)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.u32 = 7};
    int ep = epoll_create(1);
    NEED(epoll_ctl(ep, EPOLL_CTL_ADD, server, &ev) == 0);
    return ep;
}

CASE(epoll_pwait_mask)
{
    sigset_t open;
    struct epoll_event ev;
    connected();
    int ep = watching();
    pending(&open);
    saw("epoll_pwait", epoll_pwait(ep, &ev, 1, 5000, &open));
    printf("%d signals\n", (int)signals);
    saw("epoll_pwait", epoll_pwait(ep, &ev, 1, 10, &open));
}

CASE(epoll_pwait2_mask)
{
    sigset_t open;
    struct epoll_event ev;
    struct timespec t = soon(60000);
    connected();
    int ep = watching();
    pending(&open);
    saw("epoll_pwait2", epoll_pwait2(ep, &ev, 1, &t, &open));
    printf("%d signals\n", (int)signals);
}

CASE(epoll_pwait2_time)
{
    struct epoll_event ev;
    struct timespec t = soon(30), wrong = {0, 2000000000};
    connected();
    int ep = watching();
    begins();
    saw("epoll_pwait2", epoll_pwait2(ep, &ev, 1, &t, NULL));
    printf("%d\n", lasted(30));
    saw("epoll_pwait2", epoll_pwait2(ep, &ev, 1, &wrong, NULL));
    arrives("x");
    saw("epoll_pwait2", epoll_pwait2(ep, &ev, 1, NULL, NULL));
    printf("%x %u\n", ev.events, ev.data.u32);
    saw("epoll_wait", epoll_wait(ep, &ev, 1, -1));
}

CASE(select_leaves)
{
    fd_set in, out;
    struct timeval t = {0, 20000};
    connected();
    FD_ZERO(&in);
    FD_ZERO(&out);
    FD_SET(server, &in);
    saw("select", select(server + 1, &in, NULL, NULL, &t));
    FD_SET(server, &in);
    FD_SET(server, &out);
    saw("select", select(server + 1, &in, &out, NULL, NULL));
    printf("%d %d\n", FD_ISSET(server, &in) != 0, FD_ISSET(server, &out) != 0);
}

/* ---- processes ----------------------------------------------------------------------------- */

static char *const own_environment[] = {"FROM=its own", NULL};
static char number[16], self[4096];

/* The program after it: `calls say FD`, which says FROM of its environment. */
static char *const *says(void)
{
    static char *argv[] = {self, "say", number, NULL};
    connected();
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    NEED(n > 0);
    snprintf(number, sizeof(number), "%d", server);
    fflush(stdout);
    return argv;
}

static int say(int fd)
{
    const char *from = getenv("FROM");
    from = from ? from : "nowhere";
    return send(fd, from, strlen(from), 0) == (ssize_t)strlen(from) ? 7 : 8;
}

static void said(pid_t pid)
{
    close(server);
    heard(client, sizeof(buffer));
    ends(pid);
}

#define EXEC(name, how)                                                                            \
    CASE(name)                                                                                     \
    {                                                                                              \
        char *const *argv = says();                                                                \
        pid_t pid = fork();                                                                        \
        if (pid == 0) {                                                                            \
            how;                                                                                   \
            _exit(127);                                                                            \
        }                                                                                          \
        (void)argv;                                                                                \
        said(pid);                                                                                 \
    }

EXEC(exec_l, execl(self, self, "say", number, (char *)NULL))
EXEC(exec_lp, execlp(self, self, "say", number, (char *)NULL))
EXEC(exec_le, execle(self, self, "say", number, (char *)NULL, own_environment))
EXEC(exec_v, execv(self, argv))
EXEC(exec_vp, execvp(self, argv))
EXEC(exec_ve, execve(self, argv, own_environment))
EXEC(exec_vpe, execvpe(self, argv, own_environment))
EXEC(exec_f, fexecve(open(self, O_RDONLY | O_CLOEXEC), argv, own_environment))
EXEC(exec_veat, execveat(AT_FDCWD, self, argv, own_environment, 0))
EXEC(exec_by_number, syscall(SYS_execve, self, argv, own_environment))
EXEC(exec_at_by_number, syscall(SYS_execveat, AT_FDCWD, self, argv, own_environment, 0))

CASE(spawn)
{
    char *const *argv = says();
    pid_t pid;
    printf("%d\n", posix_spawn(&pid, self, NULL, NULL, argv, own_environment));
    said(pid);
}

CASE(spawn_by_path)
{
    char *const *argv = says();
    pid_t pid;
    printf("%d\n", posix_spawnp(&pid, self, NULL, NULL, argv, own_environment));
    said(pid);
}

CASE(vfork_then_exec)
{
    char *const *argv = says();
    pid_t pid = vfork();
    if (pid == 0) {
        execve(self, argv, own_environment);
        _exit(127);
    }
    said(pid);
}

CASE(vfork_then_exit)
{
    connected();
    pid_t pid = vfork();
    if (pid == 0)
        _exit(3);
    ends(pid);
    saw("send", send(client, "still here", 10, 0));
    heard(server, 10);
}

static void leaves(void (*how)(int))
{
    connected();
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        (void)!write(server, "bye", 3);
        how(5);
    }
    said(pid);
}

CASE(leaves_by_underscore_exit)
{
    leaves(_exit);
}

CASE(leaves_by_Exit)
{
    leaves(_Exit);
}

CASE(leaves_by_quick_exit)
{
    leaves(quick_exit);
}

CASE(leaves_by_exit)
{
    leaves(exit);
}

/* ---- by number ----------------------------------------------------------------------------- */

CASE(number_socket_to_shutdown)
{
    struct sockaddr_in a = anywhere(), b;
    socklen_t len = sizeof(a);
    int one = 1, got = 0;
    socklen_t four = sizeof(got);
    int l = (int)syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
    saw("setsockopt", syscall(SYS_setsockopt, l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)));
    saw("getsockopt", syscall(SYS_getsockopt, l, SOL_SOCKET, SO_REUSEADDR, &got, &four));
    printf("%d\n", got);
    saw("bind", syscall(SYS_bind, l, &a, sizeof(a)));
    saw("listen", syscall(SYS_listen, l, 4));
    saw("getsockname", syscall(SYS_getsockname, l, &a, &len));
    int c = (int)syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
    saw("connect", syscall(SYS_connect, c, &a, sizeof(a)));
    len = sizeof(b);
    int s = (int)syscall(SYS_accept, l, &b, &len);
    printf("%d\n", (int)len);
    len = sizeof(b);
    saw("getpeername", syscall(SYS_getpeername, c, &b, &len));
    printf("%d\n", a.sin_port == b.sin_port);
    saw("shutdown", syscall(SYS_shutdown, c, SHUT_WR));
    saw("read", syscall(SYS_read, s, buffer, 1));
    saw("close", syscall(SYS_close, c));
    c = (int)syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
    NEED(syscall(SYS_connect, c, &a, sizeof(a)) == 0);
    s = (int)syscall(SYS_accept4, l, NULL, NULL, SOCK_NONBLOCK);
    saw("read", syscall(SYS_read, s, buffer, 1));
    saw("fcntl", syscall(SYS_fcntl, s, F_SETFD, FD_CLOEXEC));
    saw("fcntl", syscall(SYS_fcntl, s, F_GETFD));
    saw("close_range", syscall(SYS_close_range, s, s, 0));
    saw("end", syscall(SYS_read, c, buffer, 1));
}

CASE(number_data)
{
    char b[16] = {0};
    struct iovec out = {"vector", 6}, in = {b, 6};
    struct msghdr m = {.msg_iov = &out, .msg_iovlen = 1};
    struct mmsghdr mm = {.msg_hdr = m};
    connected();
    saw("write", syscall(SYS_write, client, "abc", 3));
    saw("writev", syscall(SYS_writev, client, &out, 1));
    saw("sendto", syscall(SYS_sendto, client, "def", 3, MSG_NOSIGNAL, NULL, 0));
    saw("sendmsg", syscall(SYS_sendmsg, client, &m, 0));
    saw("sendmmsg", syscall(SYS_sendmmsg, client, &mm, 1, 0));
    int file = some_file(), p[2];
    saw("sendfile", syscall(SYS_sendfile, client, file, NULL, 0));
    until_queued(24);
    saw("recvfrom", syscall(SYS_recvfrom, server, b, 6, MSG_WAITALL, NULL, NULL));
    printf("%s\n", b);
    saw("readv", syscall(SYS_readv, server, &in, 1));
    printf("%s\n", b);
    m.msg_iov = &in;
    saw("recvmsg", syscall(SYS_recvmsg, server, &m, MSG_WAITALL));
    printf("%s\n", b);
    mm.msg_hdr = m;
    saw("recvmmsg", syscall(SYS_recvmmsg, server, &mm, 1, MSG_WAITALL, NULL));
    int queued = -1;
    saw("ioctl", syscall(SYS_ioctl, server, FIONREAD, &queued));
    printf("%d\n", queued);
    NEED(pipe(p) == 0 && write(p[1], "spliced", 7) == 7);
    saw("splice", syscall(SYS_splice, p[0], NULL, client, NULL, 7, 0));
    heard(server, 7);
}

CASE(number_ready)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.u32 = 9};
    struct pollfd p = {.events = POLLIN};
    struct timespec t = soon(20), left = soon(20);
    sigset_t open;
    connected();
    p.fd = server;
    int ep = (int)syscall(SYS_epoll_create1, EPOLL_CLOEXEC);
    saw("epoll_ctl", syscall(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, server, &ev));
    saw("epoll_pwait", syscall(SYS_epoll_pwait, ep, &ev, 1, 10, NULL, 8));
    saw("epoll_pwait2", syscall(SYS_epoll_pwait2, ep, &ev, 1, &t, NULL, 8));
    saw("ppoll", syscall(SYS_ppoll, &p, 1, &left, NULL, 8));
    arrives("x");
    saw("epoll_pwait", syscall(SYS_epoll_pwait, ep, &ev, 1, 1000, NULL, 8));
    printf("%x %u\n", ev.events, ev.data.u32);
    saw("epoll_pwait2", syscall(SYS_epoll_pwait2, ep, &ev, 1, &t, NULL, 8));
    t = soon(60000);
    saw("ppoll", syscall(SYS_ppoll, &p, 1, &t, NULL, 8));
    fd_set in;
    FD_ZERO(&in);
    FD_SET(server, &in);
    saw("pselect6", syscall(SYS_pselect6, server + 1, &in, NULL, NULL, &t, NULL));
    heard(server, 1);
    pending(&open);
    struct {
        const sigset_t *mask;
        size_t size;
    } six = {&open, 8};
    FD_SET(server, &in);
    t = soon(60000);
    saw("pselect6", syscall(SYS_pselect6, server + 1, &in, NULL, NULL, &t, &six));
    printf("%d signals\n", (int)signals);
    saw("dup", syscall(SYS_dup, server) >= 0);
    saw("dup3", syscall(SYS_dup3, server, 90, O_CLOEXEC));
    arrives("y");
    heard(90, 1);
}

#ifdef SYS_poll
CASE(number_older)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.u32 = 9};
    struct pollfd p = {.events = POLLIN};
    struct timeval t = {1, 0};
    connected();
    p.fd = server;
    int ep = (int)syscall(SYS_epoll_create, 1);
    NEED(epoll_ctl(ep, EPOLL_CTL_ADD, server, &ev) == 0);
    saw("epoll_wait", syscall(SYS_epoll_wait, ep, &ev, 1, 10));
    saw("poll", syscall(SYS_poll, &p, 1, 10));
    arrives("x");
    saw("epoll_wait", syscall(SYS_epoll_wait, ep, &ev, 1, 1000));
    saw("poll", syscall(SYS_poll, &p, 1, 1000));
    fd_set in;
    FD_ZERO(&in);
    FD_SET(server, &in);
    saw("select", syscall(SYS_select, server + 1, &in, NULL, NULL, &t));
    saw("dup2", syscall(SYS_dup2, server, 91));
    heard(91, 1);
}
#endif

/* ---- by the C library's other names -------------------------------------------------------- */

#define OTHER(call) __typeof__(&call) other = (__typeof__(&call))dlsym(RTLD_DEFAULT, "__" #call)

CASE(reserved_port)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    int l = socket(AF_INET, SOCK_STREAM, 0);
    saw("bindresvport", bindresvport(l, &a)); /* takes root */
    a = where(l);
    printf("%d\n", a.sin_port && ntohs(a.sin_port) < 1024);
    NEED(listen(l, 1) == 0);
    a = where(l);
    client = socket(AF_INET, SOCK_STREAM, 0);
    saw("bindresvport", bindresvport(client, NULL));
    saw("bindresvport", bindresvport(client, NULL));
    NEED(connect(client, (struct sockaddr *)&a, sizeof(a)) == 0);
    socklen_t len = sizeof(a);
    server = accept(l, (struct sockaddr *)&a, &len);
    printf("%d\n", ntohs(a.sin_port) < 1024);
    arrives("x");
    a.sin_family = AF_INET6;
    saw("bindresvport", bindresvport(l, &a));
    for (int i = 0; i < 2; i++) { /* it goes on after the last, though that is free again */
        listener = socket(AF_INET, SOCK_STREAM, 0);
        saw("bindresvport", bindresvport(listener, NULL));
        printf("%d\n", where(listener).sin_port != a.sin_port);
        a = where(listener);
        close(listener);
    }
}

static char **first_argv, **first_environ;

/* As programs that set their title do: arguments and environment are one piece. */
CASE(title)
{
    char *end = first_argv[0];
    for (char **p = first_argv; *p && *p == end; p++)
        end += strlen(*p) + 1;
    for (char **p = first_environ; *p; p++) {
        NEED(*p == end);
        end += strlen(*p) + 1;
    }
    environ = NULL;
    memset(first_argv[0], 0, (size_t)(end - first_argv[0]));
    connected();
    arrives("x");
    heard(server, 1);
}

CASE(other_names)
{
    connected();
    arrives("abc");
    {
        OTHER(read);
        saw("__read", other(server, buffer, 2));
    }
    {
        OTHER(recv);
        saw("__recv", other(server, buffer, 2, 0));
    }
    {
        OTHER(write);
        saw("__write", other(client, "de", 2));
    }
    {
        OTHER(send);
        saw("__send", other(client, "f", 1, 0));
    }
    heard(server, 3);
    {
        OTHER(fcntl);
        saw("__fcntl", other(server, F_SETFL, O_NONBLOCK));
        saw("read", read(server, buffer, 1));
    }
    {
        OTHER(poll);
        struct pollfd p = {.fd = server, .events = POLLOUT};
        saw("__poll", other(&p, 1, 1000));
    }
    {
        OTHER(dup2);
        saw("__dup2", other(server, 80));
    }
    {
        OTHER(close);
        saw("__close", other(server));
        saw("__close", other(80));
    }
    heard(client, 1);
    {
        OTHER(socket);
        server = other(AF_INET, SOCK_STREAM, 0);
    }
    {
        struct sockaddr_in a = where(listener);
        OTHER(connect);
        saw("__connect", other(server, (struct sockaddr *)&a, sizeof(a)));
    }
    client = accept(listener, NULL, NULL);
    saw("write", write(client, "x", 1));
    heard(server, 1);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "say") == 0)
        return say(atoi(argv[2]));
    first_argv = argv;
    first_environ = environ; /* that of the start: setenv makes another */
    return run_case(argc, argv);
}
