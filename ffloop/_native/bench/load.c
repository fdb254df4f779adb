/*
 * load.c - the load of `ffloop bench`: `ffloop-load WHAT HOST PORT CONNECTIONS SECONDS BYTES`.
 *
 * One thread, kernel sockets, a message under way per connection. WHAT: "echo" sends BYTES (0: a
 * small message) and waits until as many came back; "http" asks for / and waits for the whole
 * answer; "connect" does as "http" on a new connection per request. Prints one line, RESULT and
 * JSON: requests, seconds, bytes received, p50 and p99 in microseconds, errors.
 */
#include "base.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static const char REQUEST[] = "GET / HTTP/1.1\r\nHost: bench\r\n\r\n";

enum what { ECHO, HTTP, CONNECT };
enum { PER_ADDRESS = 4096, ADDRESSES = 250 };

struct conn {
    int fd;
    size_t unsent;
    size_t missing; /* bytes of the answer; of HTTP: of its body, 0 until the head is whole */
    bool in_head;
    size_t head_len;
    char head[512];
    int64_t asked; /* ns */
};

static struct {
    enum what what;
    struct sockaddr_in to;
    const char *message;
    size_t len;
    int epfd;
    uint64_t bytes, errors;
    uint32_t *times; /* 0.1 us per answer */
    size_t answers, room;
} load;

static void die(const char *what)
{
    fprintf(stderr, "ffloop-load: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* ---- a connection -------------------------------------------------------------------------- */

static void fail(struct conn *c)
{
    load.errors++;
    close(c->fd);
    c->fd = -1;
}

static void send_rest(struct conn *c)
{
    while (c->unsent) {
        ssize_t n = send(c->fd, load.message + load.len - c->unsent, c->unsent, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR || errno == ENOTCONN))
            return; /* epoll tells, edge-triggered */
        if (n < 0) {
            fail(c);
            return;
        }
        c->unsent -= (size_t)n;
    }
}

static void ask(struct conn *c)
{
    c->unsent = load.len;
    c->in_head = load.what != ECHO;
    c->head_len = 0;
    c->missing = c->in_head ? 0 : load.len;
    c->asked = ffl_now_ns();
    send_rest(c);
}

/* Loopback's other addresses, in turn: one has 28,000 ports, each of which is taken for a second
 * after its connection, and a search among few that are free would be what is measured. */
static void bind_source(int fd)
{
    static uint32_t made;
    struct sockaddr_in from = {.sin_family = AF_INET};
    uint32_t to = ntohl(load.to.sin_addr.s_addr);
    int one = 1;
    if (load.what != CONNECT || to >> 24 != 127)
        return;
    from.sin_addr.s_addr = htonl((127U << 24) + 0x10000 + made++ / PER_ADDRESS % ADDRESSES);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
    if (bind(fd, (struct sockaddr *)&from, sizeof(from)) < 0)
        die("bind");
}

static void open_conn(struct conn *c)
{
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    bind_source(c->fd);
    int64_t began = ffl_now_ns();
    if (connect(c->fd, (struct sockaddr *)&load.to, sizeof(load.to)) < 0 && errno != EINPROGRESS)
        die("connect");
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
    if (epoll_ctl(load.epfd, EPOLL_CTL_ADD, c->fd, &ev) < 0)
        die("epoll_ctl");
    ask(c);
    c->asked = began;
}

static void answered(struct conn *c)
{
    if (load.answers == load.room) {
        load.room = load.room ? load.room * 2 : 1 << 16;
        load.times = realloc(load.times, load.room * sizeof(*load.times));
        if (!load.times)
            die("realloc");
    }
    load.times[load.answers++] = (uint32_t)((ffl_now_ns() - c->asked) / 100);
    if (load.what == CONNECT) {
        close(c->fd);
        open_conn(c);
    } else {
        ask(c);
    }
}

/* Looks for the end of the head: the bytes of `data` that are the head's, or -1: a bad answer. */
static long parse_head(struct conn *c, const char *data, size_t len)
{
    size_t before = c->head_len, take = sizeof(c->head) - 1 - before;
    if (take > len)
        take = len;
    memcpy(c->head + before, data, take);
    c->head[c->head_len += take] = '\0';
    const char *end = strstr(c->head, "\r\n\r\n");
    if (!end)
        return take == len ? (long)len : -1;
    const char *length = strcasestr(c->head, "\r\ncontent-length:");
    if (strncmp(c->head, "HTTP/1.1 200", 12) != 0 || !length || length > end)
        return -1;
    c->missing = strtoul(length + strlen("\r\ncontent-length:"), NULL, 10);
    c->in_head = false;
    return end + 4 - c->head - (long)before;
}

/* Takes received bytes. True: the answer is whole. */
static bool take(struct conn *c, const char *data, size_t len)
{
    load.bytes += len;
    if (c->in_head) {
        long head = parse_head(c, data, len);
        if (head < 0) {
            fail(c);
            return false;
        }
        len -= (size_t)head;
    }
    if (len > c->missing) {
        fail(c);
        return false;
    }
    c->missing -= len;
    return !c->in_head && c->missing == 0;
}

static void ready(struct conn *c)
{
    static char data[256 * 1024];
    if (c->unsent)
        send_rest(c);
    while (c->fd >= 0) {
        ssize_t n = recv(c->fd, data, sizeof(data), 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) {
            fail(c);
            return;
        }
        if (take(c, data, (size_t)n)) {
            answered(c);
            return; /* a later event brings the next answer */
        }
    }
}

/* ---- the run ------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void report(double seconds)
{
    size_t n = load.answers;
    if (n)
        qsort(load.times, n, sizeof(*load.times), by_value);
    printf("RESULT {\"requests\": %zu, \"seconds\": %.6f, \"bytes\": %llu, \"p50\": %.1f, "
           "\"p99\": %.1f, \"errors\": %llu}\n",
           n, seconds, (unsigned long long)load.bytes, n ? load.times[n / 2] / 10.0 : 0,
           n ? load.times[n * 99 / 100] / 10.0 : 0, (unsigned long long)load.errors);
}

static void run(struct conn *conns, int count, double seconds)
{
    int64_t began = ffl_now_ns(), end = began + (int64_t)(seconds * 1e9), now;
    for (int i = 0; i < count; i++)
        open_conn(&conns[i]);
    while ((now = ffl_now_ns()) < end) {
        struct epoll_event ev[64];
        int n = epoll_wait(load.epfd, ev, 64, (int)((end - now) / 1000000) + 1);
        for (int i = 0; i < n; i++)
            ready(ev[i].data.ptr);
    }
    report((double)(now - began) / 1e9);
}

static void set_message(size_t bytes)
{
    load.message = REQUEST;
    load.len = strlen(REQUEST);
    if (load.what != ECHO || !bytes)
        return;
    char *made = malloc(bytes);
    if (!made)
        die("malloc");
    load.message = memset(made, 'x', bytes);
    load.len = bytes;
}

int main(int argc, char **argv)
{
    static const char *const WHATS[] = {"echo", "http", "connect"};
    size_t what = 0;
    if (argc == 7)
        while (what < FFL_COUNT(WHATS) && strcmp(argv[1], WHATS[what]) != 0)
            what++;
    int count = argc == 7 ? atoi(argv[4]) : 0;
    double seconds = argc == 7 ? atof(argv[5]) : 0;
    long bytes = argc == 7 ? atol(argv[6]) : 0;
    if (argc != 7 || what == FFL_COUNT(WHATS) || count < 1 || seconds <= 0 || bytes < 0 ||
        inet_pton(AF_INET, argv[2], &load.to.sin_addr) != 1) {
        fprintf(stderr,
                "usage: ffloop-load echo|http|connect IPV4 PORT CONNECTIONS SECONDS BYTES\n");
        return 2;
    }
    load.what = (enum what)what;
    load.to.sin_family = AF_INET;
    load.to.sin_port = htons((uint16_t)atoi(argv[3]));
    set_message((size_t)bytes);
    load.epfd = epoll_create1(EPOLL_CLOEXEC);
    struct conn *conns = calloc((size_t)count, sizeof(*conns));
    if (load.epfd < 0 || !conns)
        die("start");
    run(conns, count, seconds);
    return 0;
}
