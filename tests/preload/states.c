/* states.c - what became of a socket is known to every call that asks; see test_contract.py. */
#include "cases.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>

/* ---- the peer has gone ----------------------------------------------------------------------- */

static void goes(int fd, bool reset)
{
    struct linger now = {1, 0};
    if (reset)
        NEED(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)) == 0);
    NEED(close(fd) == 0);
}

/* Until `fd` is told, by writing alone; the limit is a test's. */
static void writes_until_told(int fd)
{
    signal(SIGPIPE, SIG_IGN);
    begins();
    while (write(fd, "x", 1) == 1 && !lasted(60000))
        ;
    saw("told in time", !lasted(60000));
    printf("%d\n", errno == EPIPE || errno == ECONNRESET);
}

CASE(who_connected_writes_after_the_end)
{
    connected();
    goes(server, false);
    writes_until_told(client);
}

CASE(who_accepted_writes_after_the_end)
{
    connected();
    goes(client, false);
    writes_until_told(server);
}

CASE(who_connected_writes_after_a_reset)
{
    connected();
    goes(server, true);
    writes_until_told(client);
}

CASE(who_accepted_writes_after_a_reset)
{
    connected();
    goes(client, true);
    writes_until_told(server);
}

CASE(who_sends_datagrams_to_nobody)
{
    int u = socket(AF_INET, SOCK_DGRAM, 0), v = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in a = anywhere();
    NEED(bind(u, (struct sockaddr *)&a, sizeof(a)) == 0);
    a = where(u);
    NEED(connect(v, (struct sockaddr *)&a, sizeof(a)) == 0 && close(u) == 0);
    begins();
    while (send(v, "x", 1, 0) == 1 && !lasted(60000))
        ;
    saw("send", lasted(60000) ? 0 : -1);
    connected(); /* a test looks for a connection */
}

/* One call that does not wait, of a socket of which nothing was asked before. */
static bool asks(int how, int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN | POLLRDHUP};
    struct timeval zero = {0, 0};
    struct epoll_event ev = {.events = EPOLLIN};
    socklen_t len = sizeof(int);
    fd_set set;
    int n = 0;
    switch (how) {
    case 0:
        return recv(fd, buffer, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || errno != EAGAIN;
    case 1:
        return poll(&p, 1, 0) == 1;
    case 2:
        FD_ZERO(&set);
        FD_SET(fd, &set);
        return select(fd + 1, &set, NULL, NULL, &zero) == 1;
    case 3:
        n = epoll_create1(0);
        NEED(epoll_ctl(n, EPOLL_CTL_ADD, fd, &ev) == 0);
        ev.events = 0;
        n = epoll_wait(n, &ev, 1, 0);
        return n == 1;
    case 4:
        NEED(ioctl(fd, FIONREAD, &n) == 0);
        return n > 0;
    default:
        NEED(getsockopt(fd, SOL_SOCKET, SO_ERROR, &n, &len) == 0);
        return n == ECONNRESET;
    }
}

/* The way through the stack takes its time: asked until the answer comes, or never does. */
static void asked(int how, bool accepted, void (*happens)(int peer))
{
    connected();
    int fd = accepted ? server : client;
    happens(accepted ? client : server);
    begins();
    bool seen = false;
    while (!seen && !lasted(60000))
        seen = asks(how, fd);
    saw("seen", seen);
}

static void ends_it(int peer)
{
    goes(peer, false);
}

static void resets_it(int peer)
{
    goes(peer, true);
}

static void sends_some(int peer)
{
    NEED(write(peer, "1234", 4) == 4);
}

#define ASKED(name, how, happens)                                                                  \
    CASE(connected_##name)                                                                         \
    {                                                                                              \
        asked(how, false, happens);                                                                \
    }                                                                                              \
    CASE(accepted_##name)                                                                          \
    {                                                                                              \
        asked(how, true, happens);                                                                 \
    }

ASKED(peeks_at_the_end, 0, ends_it)
ASKED(peeks_at_a_reset, 0, resets_it)
ASKED(polls, 1, ends_it)
ASKED(selects, 2, ends_it)
ASKED(polls_by_epoll, 3, ends_it)
ASKED(counts_bytes, 4, sends_some)
ASKED(takes_the_error, 5, resets_it)

CASE(name_of_a_peer_that_has_gone)
{
    struct sockaddr_in a;
    socklen_t len = sizeof(a);
    connected();
    goes(server, true);
    begins();
    int rc = 0;
    while (rc == 0 && !lasted(60000))
        rc = getpeername(client, (struct sockaddr *)&a, &len);
    saw("getpeername", rc);
}

/* Asked once, without waiting, when the peer's close has returned; `inherits`: of the listener. */
static bool knows_of_a_reset(int how, bool inherits)
{
    struct sockaddr_in a;
    socklen_t len = sizeof(a);
    client = connects();
    server = accept(listener, NULL, NULL);
    NEED(server >= 0);
    if (inherits)
        NEED(close(server) == 0);
    else
        goes(client, true);
    int fd = inherits ? client : server;
    struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT};
    bool known;
    if (how == 0)
        known = getpeername(fd, (struct sockaddr *)&a, &len) < 0 && errno == ENOTCONN;
    else if (how == 1)
        known = recv(fd, buffer, 1, MSG_DONTWAIT) < 0 && errno == ECONNRESET;
    else if (how == 2)
        known = asks(5, fd);
    else if (how == 3)
        known = poll(&p, 1, 0) == 1 && p.revents & POLLERR;
    else
        known = send(fd, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno == ECONNRESET;
    NEED(close(fd) == 0);
    return known;
}

CASE(reset_when_close_has_returned)
{
    int known[5] = {0};
    listens();
    for (int i = 0; i < 500; i++)
        known[i % 5] += knows_of_a_reset(i % 5, false);
    for (int how = 0; how < 5; how++)
        printf("%d ", known[how]);
}

CASE(linger_of_a_listener)
{
    struct linger now = {1, 0};
    int known = 0;
    listens();
    NEED(setsockopt(listener, SOL_SOCKET, SO_LINGER, &now, sizeof(now)) == 0);
    for (int i = 0; i < 100; i++)
        known += knows_of_a_reset(i % 5, true);
    printf("%d\n", known);
}

CASE(asked_before_it_is_connected_after_a_fork)
{
    connected();
    int fresh = socket(AF_INET, SOCK_STREAM, 0);
    struct pollfd p = {.fd = fresh, .events = POLLIN};
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    NEED(child > 0 && waitpid(child, NULL, 0) == child);
    for (int i = 0; i < 2; i++) {
        saw("poll", poll(&p, 1, 0));
        printf("%x\n", p.revents);
        NEED(write(client, "x", 1) == 1 &&
             recv(server, buffer, 1, 0) == 1); /* time for an answer */
    }
}

/* Who reads no more: the peer's bytes are refused when sending has ended, too. */
CASE(shut_down_in_two_steps)
{
    signal(SIGPIPE, SIG_IGN);
    for (int first = SHUT_RD; first <= SHUT_WR; first++) {
        connected();
        NEED(shutdown(server, first) == 0 && shutdown(server, SHUT_WR - first) == 0);
        saw("recv", recv(client, buffer, 1, 0));
        writes_until_told(client);
    }
    connected();
    NEED(shutdown(server, SHUT_RD) == 0);
    goes(client, true);
    begins();
    ssize_t n = 0;
    while (n == 0 && !lasted(5000))
        n = recv(server, buffer, 1, 0);
    saw("recv", n);
}

CASE(name_of_a_peer_when_both_have_ended)
{
    struct sockaddr_in a;
    socklen_t len = sizeof(a);
    for (int how = SHUT_WR; how <= SHUT_RDWR; how++) {
        connected();
        NEED(shutdown(client, how) == 0 && recv(server, buffer, 1, 0) == 0);
        saw("getpeername", getpeername(client, (struct sockaddr *)&a, &len));
        goes(server, false);
        begins();
        int rc = 0;
        while (rc == 0 && !lasted(5000))
            rc = getpeername(client, (struct sockaddr *)&a, &len);
        saw("getpeername", rc);
        saw("shutdown", shutdown(client, SHUT_RD));
    }
}

CASE(listener_closes_before_accept)
{
    listens();
    client = connects();
    NEED(write(client, "request", 7) == 7);
    struct pollfd p = {.fd = listener, .events = POLLIN};
    NEED(poll(&p, 1, 60000) == 1 && close(listener) == 0);
    saw("recv", recv(client, buffer, 1, 0));
    connected(); /* on the stack, as its instance counts */
}

/* The backlog, which has room for one, is the program's: polled is not accepted. */
CASE(backlog_of_who_has_not_accepted)
{
    struct sockaddr_in a;
    int late = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    listens();
    NEED(listen(listener, 0) == 0);
    a = where(listener);
    client = connects();
    struct pollfd p[] = {{.fd = listener, .events = POLLIN}, {.fd = late, .events = POLLOUT}};
    NEED(poll(p, 1, 60000) == 1);
    NEED(connect(late, (struct sockaddr *)&a, sizeof(a)) < 0 && errno == EINPROGRESS);
    saw("connected", poll(p + 1, 1, 100));
    NEED(shutdown(listener, SHUT_RDWR) == 0);
    saw("recv", recv(client, buffer, 1, 0));
    connected(); /* on the stack, as its instance counts */
}

/* ---- a datagram in pieces -------------------------------------------------------------------- */

static void datagrams(struct sockaddr_in *a)
{
    *a = anywhere();
    server = socket(AF_INET, SOCK_DGRAM, 0);
    client = socket(AF_INET, SOCK_DGRAM, 0);
    NEED(bind(server, (struct sockaddr *)a, sizeof(*a)) == 0);
    *a = where(server);
    NEED(connect(client, (struct sockaddr *)a, sizeof(*a)) == 0);
}

static void comes(void)
{
    ssize_t n = recv(server, buffer, sizeof(buffer), 0);
    printf("%zd %.*s\n", n, (int)n, buffer);
}

CASE(more_of_a_datagram)
{
    static char large[65507];
    struct sockaddr_in a;
    struct iovec two[] = {{"cd", 2}, {"ef", 2}};
    struct msghdr m = {.msg_iov = two, .msg_iovlen = 2};
    datagrams(&a);
    saw("send", send(client, "ab", 2, MSG_MORE));
    saw("sendmsg", sendmsg(client, &m, MSG_MORE));
    saw("recv", recv(server, buffer, 1, MSG_DONTWAIT));
    saw("write", write(client, "gh", 2));
    comes();
    saw("send", send(client, "ij", 2, MSG_MORE));
    saw("too much", send(client, large, sizeof(large), 0));
    saw("send", send(client, "kl", 2, 0));
    comes();
    saw("sendto", sendto(client, "mn", 2, MSG_MORE, (struct sockaddr *)&a, sizeof(a)));
    saw("nothing more", send(client, "", 0, 0));
    comes();
    saw("kept", send(client, "op", 2, MSG_MORE));
    saw("close", close(client));
    connected(); /* a test looks for a connection */
}

/* Segments with data that the server has got; Linux's place in struct tcp_info. */
static unsigned segments(void)
{
    unsigned info[40];
    socklen_t len = sizeof(info);
    NEED(getsockopt(server, IPPROTO_TCP, TCP_INFO, info, &len) == 0 && len >= 156);
    return info[152 / sizeof(*info)];
}

/* The kernel may send what it holds back after 200 ms, which a busy machine may need between the
 * two: it is enough to have seen them once in one segment. */
CASE(more_of_a_stream)
{
    int old;
    unsigned n = 2;
    begins();
    while (n > 1 && !lasted(10000)) {
        socklen_t len = sizeof(old);
        connected();
        NEED(send(client, "ab", 2, MSG_MORE) == 2);
        NEED(getsockopt(client, SOL_SOCKET, SO_RCVBUF, &old, &len) == 0); /* the stack has it now */
        NEED(send(client, "c", 1, 0) == 1 && recv(server, buffer, 3, MSG_WAITALL) == 3);
        n = segments();
        NEED(close(client) == 0 && close(server) == 0 && close(listener) == 0);
    }
    printf("%u\n", n);
    connected();
    saw("send", send(client, "last", 4, MSG_MORE));
    saw("shutdown", shutdown(client, SHUT_WR));
    heard(server, sizeof(buffer));
}

CASE(what_comes_when_reading_was_shut)
{
    connected();
    saw("shutdown", shutdown(server, SHUT_RD));
    saw("recv", recv(server, buffer, 8, 0));
    for (int i = 0; i < 2; i++) {
        ssize_t n = 0;
        NEED(write(client, "abc", 3) == 3);
        begins();
        while (n == 0 && !lasted(5000))
            n = recv(server, buffer, 8, 0);
        saw("recv", n);
    }
    saw("write", write(server, "x", 1));
    saw("shutdown", shutdown(server, SHUT_WR));
    heard(client, 8);
    saw("recv", recv(server, buffer, 8, 0));
}

/* ---- back to what it was --------------------------------------------------------------------- */

/* ---- asked once, without waiting ------------------------------------------------------------- */

static int receiver(void)
{
    struct sockaddr_in a = anywhere();
    int u = socket(AF_INET, SOCK_DGRAM, 0);
    NEED(bind(u, (struct sockaddr *)&a, sizeof(a)) == 0);
    return u;
}

CASE(asked_after_a_fork)
{
    for (int how = 0; how < 5; how++) {
        connected();
        arrives("1234");
        pid_t child = fork();
        if (child == 0)
            _exit(0);
        NEED(child > 0 && waitpid(child, NULL, 0) == child);
        saw("seen", asks(how, server));
    }
}

CASE(datagrams_of_who_has_not_asked)
{
    int u = receiver(), later = receiver(), v = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in a = where(u), b = where(later);
    NEED(sendto(v, "x", 1, 0, (struct sockaddr *)&a, sizeof(a)) == 1);
    for (int i = 0; i < 4; i++) { /* so the first has come too */
        NEED(sendto(v, "y", 1, 0, (struct sockaddr *)&b, sizeof(b)) == 1);
        NEED(recv(later, buffer, 1, 0) == 1);
    }
    saw("recv", recv(u, buffer, 1, MSG_DONTWAIT));
    connected(); /* a test looks for a connection */
}

CASE(accepts_all_that_wait)
{
    int n = 0;
    listens();
    NEED(listen(listener, 64) == 0 && fcntl(listener, F_SETFL, O_NONBLOCK) == 0);
    for (int i = 0; i < 40; i++)
        (void)connects();
    while (accept(listener, NULL, NULL) >= 0)
        n++;
    saw("accepted", n);
}

/* ---- an error after a part ------------------------------------------------------------------- */

CASE(reset_after_a_part)
{
    connected();
    arrives("abc");
    goes(client, true);
    struct pollfd p = {.fd = server};
    NEED(poll(&p, 1, 60000) == 1);
    for (int i = 0; i < 3; i++)
        saw("recv", recv(server, buffer, 8, MSG_WAITALL));
}

CASE(bad_pointer_after_a_message)
{
    int u = receiver(), v = receiver();
    struct sockaddr_in a = where(u), b = where(v);
    struct iovec to[] = {{buffer, 8}, {(void *)8, 8}};
    struct mmsghdr m[] = {{.msg_hdr = {.msg_iov = &to[0], .msg_iovlen = 1}},
                          {.msg_hdr = {.msg_iov = &to[1], .msg_iovlen = 1}}};
    NEED(connect(u, (struct sockaddr *)&b, sizeof(b)) == 0);
    for (int i = 0; i < 3; i++)
        NEED(sendto(v, "abc", 3, 0, (struct sockaddr *)&a, sizeof(a)) == 3);
    NEED(recv(u, buffer, 8, 0) == 3);
    saw("recvmmsg", recvmmsg(u, m, 2, 0, NULL));
    saw("recvmmsg", recvmmsg(u, m, 1, MSG_DONTWAIT, NULL));
    connected(); /* a test looks for a connection */
}

CASE(error_of_a_dissolved_connection)
{
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    int error = 0;
    socklen_t len = sizeof(error);
    connected();
    NEED(connect(client, &none, sizeof(none)) == 0);
    NEED(getsockopt(client, SOL_SOCKET, SO_ERROR, &error, &len) == 0);
    saw("SO_ERROR", error);
}

CASE(error_of_a_dissolved_connection_that_was_reset)
{
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    connected();
    goes(server, true);
    struct pollfd p = {.fd = client};
    NEED(poll(&p, 1, 5000) == 1);
    saw("connect", connect(client, &none, sizeof(none)));
    saw("recv", recv(client, buffer, 1, 0));
    saw("recv", recv(client, buffer, 1, 0));
}

CASE(connected_again_with_an_error)
{
    int u = receiver(), v = receiver();
    struct sockaddr_in gone = where(v), a = where(u);
    NEED(connect(u, (struct sockaddr *)&gone, sizeof(gone)) == 0 && close(v) == 0);
    NEED(send(u, "x", 1, 0) == 1);
    struct pollfd p = {.fd = u};
    NEED(poll(&p, 1, 60000) == 1); /* ECONNREFUSED has come */
    saw("connect", connect(u, (struct sockaddr *)&a, sizeof(a)));
    saw("send", send(u, "x", 1, 0));
    connected(); /* a test looks for a connection */
}

CASE(dissolved)
{
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    struct sockaddr_in a;
    socklen_t len = sizeof(a);
    connected();
    saw("connect", connect(client, &none, sizeof(none)));
    saw("recv", recv(server, buffer, 1, 0));
    saw("getpeername", getpeername(client, (struct sockaddr *)&a, &len));
    a = where(listener);
    saw("connect", connect(client, (struct sockaddr *)&a, sizeof(a)));
    server = accept(listener, NULL, NULL);
    saw("write", write(client, "again", 5));
    heard(server, 5);
}

/* Set before and after it was connected, an option is the socket's. */
CASE(options_outlive_a_connection)
{
    static const struct {
        int level, name, value;
    } set[] = {{SOL_SOCKET, SO_KEEPALIVE, 1},   {IPPROTO_TCP, TCP_NODELAY, 1},
               {IPPROTO_TCP, TCP_KEEPIDLE, 77}, {SOL_SOCKET, SO_RCVBUF, 70000},
               {IPPROTO_TCP, TCP_KEEPINTVL, 9}, {IPPROTO_IP, IP_TOS, 16}};
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    listens();
    struct sockaddr_in a = where(listener);
    client = socket(AF_INET, SOCK_STREAM, 0);
    for (size_t i = 0; i < sizeof(set) / sizeof(*set); i++) {
        if (i == 2)
            NEED(connect(client, (struct sockaddr *)&a, sizeof(a)) == 0);
        NEED(setsockopt(client, set[i].level, set[i].name, &set[i].value, sizeof(int)) == 0);
    }
    saw("connect", connect(client, &none, sizeof(none)));
    NEED(connect(client, (struct sockaddr *)&a, sizeof(a)) == 0);
    for (size_t i = 0; i < sizeof(set) / sizeof(*set); i++) {
        int value = 0;
        socklen_t len = sizeof(value);
        NEED(getsockopt(client, set[i].level, set[i].name, &value, &len) == 0);
        printf("%d\n", value);
    }
    saw("accept", accept(listener, NULL, NULL) >= 0);
}

/* Servers set options of what they have accepted, gone or not. */
CASE(options_of_a_connection_that_was_reset)
{
    int n = 4;
    uint8_t state = 0;
    socklen_t len = sizeof(state);
    connected();
    goes(client, true);
    struct pollfd p = {.fd = server};
    NEED(poll(&p, 1, 60000) == 1);
    saw("TCP_KEEPCNT", setsockopt(server, IPPROTO_TCP, TCP_KEEPCNT, &n, sizeof(n)));
    saw("TCP_INFO", getsockopt(server, IPPROTO_TCP, TCP_INFO, &state, &len));
    printf("%d\n", state == TCP_CLOSE);
}

CASE(dissolved_before_it_was_connected)
{
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    listens();
    client = socket(AF_INET, SOCK_STREAM, 0);
    saw("connect", connect(client, &none, sizeof(none)));
    struct sockaddr_in a = where(listener);
    saw("connect", connect(client, (struct sockaddr *)&a, sizeof(a)));
    saw("accept", accept(listener, NULL, NULL) >= 0);
}

/* A connect that nothing answers: to the address in SILENT, or to a listener that has no room for
 * one more. (F-Stack answers whether there is room or not.) */
static int stuck(void)
{
    struct sockaddr_in a = anywhere();
    if (getenv("SILENT")) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        a.sin_port = htons(9);
        NEED(inet_pton(AF_INET, getenv("SILENT"), &a.sin_addr) == 1);
        NEED(connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0 && errno == EINPROGRESS);
        return fd;
    }
    listener = socket(AF_INET, SOCK_STREAM, 0);
    NEED(bind(listener, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(listener, 0) == 0);
    a = where(listener);
    for (;;) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        NEED(connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0 && errno == EINPROGRESS);
        if (poll(&p, 1, 300) == 0)
            return fd;
    }
}

CASE(shut_down_while_connecting)
{
    int fd = stuck();
    saw("shutdown", shutdown(fd, SHUT_RDWR));
    struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT};
    saw("poll", poll(&p, 1, 60000));
    printf("%#x\n", p.revents);
    saw("recv", recv(fd, buffer, 1, 0));
    saw("recv", recv(fd, buffer, 1, 0));
    connected(); /* a test looks for a connection */
}

/* ---- while it is the kernel's still ---------------------------------------------------------- */

CASE(bound_without_a_family)
{
    struct sockaddr_in none = {.sin_port = 0};
    listener = socket(AF_INET, SOCK_STREAM, 0);
    saw("bind", bind(listener, (struct sockaddr *)&none, sizeof(none)));
    saw("listen", listen(listener, 8));
    client = connects();
    saw("accept", accept(listener, NULL, NULL) >= 0);
    none.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    saw("bind", bind(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&none, sizeof(none)));
}

static void opened_fast(bool message)
{
    listens();
    struct sockaddr_in a = where(listener);
    struct iovec v = {"query", 5};
    struct msghdr m = {.msg_name = &a, .msg_namelen = sizeof(a), .msg_iov = &v, .msg_iovlen = 1};
    client = socket(AF_INET, SOCK_STREAM, 0);
    saw("send", message
                    ? sendmsg(client, &m, MSG_FASTOPEN)
                    : sendto(client, "query", 5, MSG_FASTOPEN, (struct sockaddr *)&a, sizeof(a)));
    server = accept(listener, NULL, NULL);
    heard(server, 5);
    saw("write", write(server, "answer", 6));
    heard(client, 6);
    saw("again", sendto(client, "x", 1, MSG_FASTOPEN, (struct sockaddr *)&a, sizeof(a)));
}

CASE(opened_fast_by_sendto)
{
    opened_fast(false);
}

CASE(opened_fast_by_sendmsg)
{
    opened_fast(true);
}

/* ---- what a pipe keeps ----------------------------------------------------------------------- */

/* The pipe keeps what the socket does not take. */
static void spliced_into(const char *what, int fd)
{
    int p[2], left = -1;
    NEED(pipe(p) == 0 && write(p[1], "abc", 3) == 3);
    signals = 0;
    saw(what, splice(p[0], NULL, fd, NULL, 3, 0));
    NEED(ioctl(p[0], FIONREAD, &left) == 0 && read(p[0], buffer, (size_t)left) == left);
    printf("  keeps %d, SIGPIPE %d\n", left, signals);
    saw("  empty", splice(p[0], NULL, fd, NULL, 3, SPLICE_F_NONBLOCK));
    NEED(close(p[1]) == 0);
    saw("  ended", splice(p[0], NULL, fd, NULL, 3, 0));
}

/* What is no longer in the pipe has been sent, also where the sockets have little room. */
CASE(spliced_without_room)
{
    enum { MANY = 40 };
    static char block[65536];
    int p[2], fds[MANY], left;
    long in = 0, out = 0;
    NEED(pipe(p) == 0 && fcntl(p[1], F_SETFL, O_NONBLOCK) == 0);
    listens();
    for (int i = 0; i < MANY; i++) {
        fds[i] = connects();
        NEED(accept(listener, NULL, NULL) >= 0 && fcntl(fds[i], F_SETFL, O_NONBLOCK) == 0);
    }
    for (int i = 0; i < 10 * MANY; i++) {
        ssize_t n = write(p[1], block, sizeof(block));
        in += n > 0 ? n : 0;
        n = splice(p[0], NULL, fds[i % MANY], NULL, sizeof(block), SPLICE_F_NONBLOCK);
        out += n > 0 ? n : 0;
    }
    NEED(ioctl(p[0], FIONREAD, &left) == 0);
    printf("%d\n", in == out + left);
}

CASE(spliced_into_what_does_not_send)
{
    struct sigaction on = {.sa_handler = count};
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    NEED(sigaction(SIGPIPE, &on, NULL) == 0);
    connected();
    spliced_into("listener", listener);
    struct sockaddr_in a = anywhere();
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    NEED(bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
    spliced_into("bound", fd);
    NEED(shutdown(client, SHUT_WR) == 0);
    spliced_into("shut down", client);
    NEED(connect(client, &none, sizeof(none)) == 0);
    spliced_into("dissolved", client);
    connected();
    goes(server, true);
    struct pollfd p = {.fd = client};
    NEED(poll(&p, 1, 60000) == 1);
    spliced_into("reset", client);
    spliced_into("told of it", client);
    connected();
    a = where(listener);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    NEED(close(listener) == 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0);
    spliced_into("refused", fd);
    spliced_into("datagrams", receiver());
}

CASE(spliced_while_connecting)
{
    int p[2], left = -1, fd = stuck();
    NEED(pipe(p) == 0 && write(p[1], "abc", 3) == 3);
    saw("splice", splice(p[0], NULL, fd, NULL, 3, 0));
    NEED(ioctl(p[0], FIONREAD, &left) == 0);
    printf("keeps %d\n", left);
    connected(); /* a test looks for a connection */
}

/* A connection that is shut down on both sides, and then reset: the reset is told, once. */
CASE(reset_after_both_sides_were_shut_down)
{
    connected();
    struct pollfd p = {.fd = server, .events = POLLIN};
    NEED(shutdown(server, SHUT_RDWR) == 0);
    goes(client, true);
    while (!(p.revents & POLLERR))
        NEED(poll(&p, 1, 60000) == 1);
    saw("recv", recv(server, buffer, 1, MSG_DONTWAIT));
    saw("recv", recv(server, buffer, 1, MSG_DONTWAIT));
}

static void shut_unconnected(int fd, int how)
{
    struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET};
    struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT | POLLRDHUP};
    int ep = epoll_create1(0);
    NEED(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) == 0);
    saw("epoll_wait", epoll_wait(ep, &ev, 1, 0));
    saw("shutdown", shutdown(fd, how));
    ev.events = 0;
    saw("epoll_wait", epoll_wait(ep, &ev, 1, 0));
    NEED(poll(&p, 1, 0) == 1);
    printf("%#x %#x\n", ev.events, (unsigned)p.revents);
    saw("recv", recv(fd, buffer, 1, 0));
    saw("send", send(fd, "x", 1, MSG_NOSIGNAL));
    close(fd);
    close(ep);
}

CASE(shut_down_before_it_is_connected)
{
    connected(); /* a test looks for a connection */
    for (int how = SHUT_RD; how <= SHUT_RDWR; how++) {
        struct sockaddr_in a = anywhere();
        shut_unconnected(socket(AF_INET, SOCK_STREAM, 0), how);
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        NEED(bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
        shut_unconnected(fd, how);
    }
    saw("shutdown", shutdown(listener, SHUT_RD));
    shut_unconnected(listener, SHUT_RDWR);
}

/* What connect() makes of it, and connect(AF_UNSPEC) before that. */
static void connects_after(int how, bool bound, bool dissolved)
{
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    struct sockaddr_in a = anywhere(), to = where(listener);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT | POLLRDHUP};
    NEED(!bound || bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
    saw("shutdown", shutdown(fd, how));
    if (dissolved)
        saw("dissolved", connect(fd, &none, sizeof(none)));
    NEED(poll(&p, 1, 0) == 1);
    printf("%#x\n", (unsigned)p.revents);
    saw("connect", connect(fd, (struct sockaddr *)&to, sizeof(to)));
    NEED(poll(&p, 1, 0) == 1);
    printf("%#x\n", (unsigned)p.revents);
    saw("send", send(fd, "x", 1, MSG_NOSIGNAL));
    NEED(close(accept(listener, NULL, NULL)) == 0 && close(fd) == 0);
}

CASE(shut_down_and_then_connected)
{
    connected(); /* a test looks for a connection */
    for (int bound = 0; bound < 2; bound++) {
        connects_after(SHUT_RD, bound, false);
        for (int how = SHUT_RD; how <= SHUT_RDWR; how++)
            connects_after(how, bound, true);
    }
}

CASE(shut_down_before_a_datagram_begins)
{
    connected(); /* a test looks for a connection */
    struct sockaddr_in a = anywhere();
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    NEED(bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
    a = where(fd);
    NEED(connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && shutdown(fd, SHUT_WR) == 0);
    saw("send", send(fd, "x", 1, MSG_MORE));
    saw("send", send(fd, "x", 1, 0));
}

/* What has just come is not taken for the end of the stream. */
CASE(peeked_at_in_pieces)
{
    char first[2], second[3];
    struct iovec v[] = {{first, sizeof(first)}, {second, sizeof(second)}};
    struct msghdr m = {.msg_iov = v, .msg_iovlen = 2};
    connected();
    ssize_t n;
    begins();
    NEED(write(client, "what comes", 10) == 10);
    while ((n = recvmsg(server, &m, MSG_PEEK | MSG_DONTWAIT)) < 0 && !lasted(60000))
        NEED(errno == EAGAIN);
    saw("some", n > 0);
    until_queued(10);
    saw("recvmsg", recvmsg(server, &m, MSG_PEEK));
    printf("%.2s%.3s\n", first, second);
    saw("recv", recv(server, NULL, 4, MSG_PEEK | MSG_TRUNC));
}

/* FIONREAD asks for bytes, and leaves an error to the next call. */
CASE(asked_for_bytes_after_a_refusal)
{
    connected(); /* a test looks for a connection */
    int u = socket(AF_INET, SOCK_DGRAM, 0), v = socket(AF_INET, SOCK_DGRAM, 0), n, err = 0;
    socklen_t len = sizeof(err);
    struct sockaddr_in a = anywhere();
    struct pollfd p = {.fd = v};
    NEED(bind(u, (struct sockaddr *)&a, sizeof(a)) == 0);
    a = where(u);
    NEED(connect(v, (struct sockaddr *)&a, sizeof(a)) == 0 && close(u) == 0);
    NEED(send(v, "x", 1, 0) == 1 && poll(&p, 1, 60000) == 1);
    saw("FIONREAD", ioctl(v, FIONREAD, &n));
    NEED(getsockopt(v, SOL_SOCKET, SO_ERROR, &err, &len) == 0);
    printf("%d %s\n", n, strerrorname_np(err));
}

int main(int argc, char **argv)
{
    return run_case(argc, argv);
}
