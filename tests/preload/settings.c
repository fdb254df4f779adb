/* settings.c - what a program sets on a connection that is there; see test_contract.py. */
#include "cases.h"

#include <linux/errqueue.h>
#include <netinet/tcp.h>
#include <pthread.h>

static void set(int level, int name, const char *text, int value)
{
    int read_back = -1;
    socklen_t len = sizeof(read_back);
    printf("%s\n", text);
    saw("set", setsockopt(server, level, name, &value, sizeof(value)));
    saw("get", getsockopt(server, level, name, &read_back, &len));
    printf("%d, %u bytes\n", read_back, len);
}

#define SET(level, name, value) set(level, name, #name, value)

/* Programs clear what they do not want of a descriptor that somebody gave them. */
CASE(switched_off)
{
    char route[40];
    socklen_t len = sizeof(route);
    connected();
    SET(SOL_SOCKET, SO_TIMESTAMP, 0);
    SET(SOL_SOCKET, SO_TIMESTAMPNS, 0);
    SET(SOL_SOCKET, SO_ZEROCOPY, 0);
    SET(IPPROTO_IP, IP_RECVERR, 0);
    SET(IPPROTO_TCP, TCP_INQ, 0);
    saw("no IP_OPTIONS", setsockopt(server, IPPROTO_IP, IP_OPTIONS, NULL, 0));
    saw("IP_OPTIONS", getsockopt(server, IPPROTO_IP, IP_OPTIONS, route, &len));
    printf("%u bytes\n", len);
}

/* ---- SO_PEEK_OFF ----------------------------------------------------------------------------- */

static void peeks(size_t len)
{
    struct iovec two[] = {{buffer, 2}, {buffer + 2, len - 2}};
    struct msghdr m = {.msg_iov = two, .msg_iovlen = 2};
    memset(buffer, '.', sizeof(buffer));
    saw("peek", len < 3 ? recv(server, buffer, len, MSG_PEEK | MSG_DONTWAIT)
                        : recvmsg(server, &m, MSG_PEEK | MSG_DONTWAIT));
    int at = -2;
    socklen_t size = sizeof(at);
    NEED(getsockopt(server, SOL_SOCKET, SO_PEEK_OFF, &at, &size) == 0);
    printf("%.8s, then at %d\n", buffer, at);
}

static void reads(size_t len)
{
    memset(buffer, '.', sizeof(buffer));
    saw("read", read(server, buffer, len));
    printf("%.8s\n", buffer);
}

static void *sends_later(void *at)
{
    struct pollfd never = {.fd = -1};
    (void)at;
    (void)poll(&never, 1, 20); /* either order is right: the peek waits, or finds it */
    NEED(write(client, "xyz", 3) == 3);
    return NULL;
}

CASE(peeks_on)
{
    pthread_t t;
    connected();
    arrives("0123456789");
    peeks(2);
    peeks(2);
    SET(SOL_SOCKET, SO_PEEK_OFF, 0);
    peeks(2);
    peeks(4);
    reads(3);
    peeks(2);
    SET(SOL_SOCKET, SO_PEEK_OFF, 5);
    peeks(8);
    peeks(1);
    NEED(pthread_create(&t, NULL, sends_later, NULL) == 0);
    saw("peek that waits", recv(server, buffer, 3, MSG_PEEK | MSG_WAITALL));
    NEED(pthread_join(t, NULL) == 0);
    reads(20);
    peeks(1);
    NEED(close(client) == 0);
    saw("at the end", recv(server, buffer, 3, MSG_PEEK));
    SET(SOL_SOCKET, SO_PEEK_OFF, -1);
}

CASE(peeks_on_as_its_listener)
{
    int at = 2;
    listens();
    NEED(setsockopt(listener, SOL_SOCKET, SO_PEEK_OFF, &at, sizeof(at)) == 0);
    client = connects();
    server = accept(listener, NULL, NULL);
    arrives("0123");
    peeks(2);
}

CASE(peeks_after_a_fork)
{
    connected();
    arrives("0123456789");
    SET(SOL_SOCKET, SO_PEEK_OFF, 2);
    SET(IPPROTO_TCP, TCP_INQ, 1);
    pid_t child = fork();
    if (child == 0) {
        peeks(3);
        _exit(0);
    }
    NEED(child > 0 && waitpid(child, NULL, 0) == child);
    SET(SOL_SOCKET, SO_PEEK_OFF, 4);
    saw("peek", recv(server, buffer, 6, MSG_PEEK | MSG_WAITALL));
    printf("%.6s\n", buffer);
}

/* ---- time stamps ----------------------------------------------------------------------------- */

/* The kernel begins to stamp some time after the first socket has asked for it. */
static void stamps_begin(void)
{
    struct pollfd never = {.fd = -1};
    for (bool stamped = false; !stamped; (void)poll(&never, 1, 1)) {
        char room[200];
        struct iovec v = {buffer, 1};
        struct msghdr m = {
            .msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
        NEED(write(client, "x", 1) == 1 && recvmsg(server, &m, 0) == 1);
        stamped = m.msg_controllen > 0;
    }
}

static void stamped(size_t len)
{
    char room[200];
    struct iovec v = {buffer, len};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = 200};
    saw("recvmsg", recvmsg(server, &m, 0));
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
        printf("%d %d %zu\n", c->cmsg_level, c->cmsg_type, c->cmsg_len);
}

CASE(stamps_of_a_stream)
{
    connected();
    SET(SOL_SOCKET, SO_TIMESTAMP, 1);
    stamps_begin();
    arrives("0123456789");
    stamped(4);
    stamped(1);
    SET(IPPROTO_TCP, TCP_INQ, 1);
    stamped(2);
    stamped(20);
    SET(SOL_SOCKET, SO_TIMESTAMP, 0);
}

/* ---- SO_ZEROCOPY ----------------------------------------------------------------------------- */

/* One report, or -1. */
static int reports(uint32_t *first, uint32_t *last)
{
    char room[128];
    struct msghdr m = {.msg_control = room, .msg_controllen = sizeof(room)};
    struct sock_extended_err e;
    ssize_t n = recvmsg(server, &m, MSG_ERRQUEUE);
    if (n < 0)
        return -1;
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    NEED(n == 0 && m.msg_flags == MSG_ERRQUEUE && c);
    memcpy(&e, CMSG_DATA(c), sizeof(e));
    NEED(c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR);
    NEED(c->cmsg_len == CMSG_LEN(sizeof(e) + sizeof(struct sockaddr_in)));
    NEED(e.ee_errno == 0 && e.ee_origin == SO_EE_ORIGIN_ZEROCOPY);
    NEED(e.ee_code == SO_EE_CODE_ZEROCOPY_COPIED);
    *first = e.ee_info;
    *last = e.ee_data;
    return 0;
}

CASE(sends_without_a_copy)
{
    struct pollfd p = {.fd = 0};
    uint32_t first, last = UINT32_MAX, next = 0;
    connected();
    p.fd = server;
    saw("without the option", send(server, "ab", 2, MSG_ZEROCOPY));
    heard(client, 2); /* acknowledged with what follows */
    saw("no report", reports(&first, &last));
    SET(SOL_SOCKET, SO_ZEROCOPY, 1);
    SET(SOL_SOCKET, SO_ZEROCOPY, 2);
    for (int i = 0; i < 3; i++)
        saw("send", send(server, "cd", 2, MSG_ZEROCOPY));
    saw("plain", send(server, "ef", 2, 0));
    heard(client, 8);
    for (; next < 3; next = last + 1) {
        NEED(poll(&p, 1, 60000) == 1 && p.revents & POLLERR);
        NEED(reports(&first, &last) == 0);
        NEED(first == next && last >= first);
    }
    printf("%u reported\n", next);
    saw("none is left", reports(&first, &last));
    saw("quiet", poll(&p, 1, 0));
}

CASE(an_accepted_socket_has_its_listeners_time_outs)
{
    struct timeval short_one = {0, 50000}, long_one = {77, 0}, t;
    socklen_t len = sizeof(t);
    listens();
    NEED(setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &short_one, len) == 0);
    NEED(setsockopt(listener, SOL_SOCKET, SO_SNDTIMEO, &long_one, len) == 0);
    client = connects();
    server = accept(listener, NULL, NULL);
    NEED(getsockopt(server, SOL_SOCKET, SO_SNDTIMEO, &t, &len) == 0);
    saw("to send", t.tv_sec);
    saw("recv", recv(server, buffer, 1, 0));
}

int main(int argc, char **argv)
{
    return run_case(argc, argv);
}
