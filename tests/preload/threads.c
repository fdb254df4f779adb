/*
 * threads.c - servers with several threads, each in a form of its own: how sockets meet threads.
 *
 *     threads pipeline   four threads share every socket: one accepts, one reads (epoll), one
 *                        computes, one writes and closes; descriptors go from each to the next
 *     threads cores      a thread, a listener (SO_REUSEPORT), an epoll each
 *     threads data       the same, with two more threads that compute: data crosses, sockets do not
 *
 * A request is a length (4 bytes, big-endian) and so many bytes; the answer is the same with each
 * byte one higher. It prints its port, serves until standard input ends, and ends with status 0
 * when everything is closed. The last two are for FF_THREAD_SOCKET=1 as well.
 */
#include "check.h"

#include <fcntl.h>
#include <stdbool.h>
#include <sys/eventfd.h>

enum { CORES = 2, COMPUTERS = 2 };

/* ---- what threads hand to one another ------------------------------------------------------- */

struct conn { /* in one thread's hands at a time */
    struct conn *next;
    struct core *core; /* whose it is (data) */
    int fd, copy;      /* copy: the answer's descriptor, dup()ed on the way, or fd itself */
    uint32_t got;      /* bytes of the request so far, its length included */
    uint32_t len;
    unsigned char head[4], *body;
    bool over; /* the stream has ended: close it */
};

struct queue {
    pthread_mutex_t lock;
    pthread_cond_t some;
    struct conn *head, **end;
    bool closed;
    int bell; /* an eventfd that tells of more, or -1 */
};

static void queue_open(struct queue *q, bool bell)
{
    *q = (struct queue){.lock = PTHREAD_MUTEX_INITIALIZER,
                        .some = PTHREAD_COND_INITIALIZER,
                        .bell = bell ? eventfd(0, EFD_NONBLOCK) : -1};
    q->end = &q->head;
}

static void ring(int bell)
{
    uint64_t one = 1;
    CHECK(write(bell, &one, sizeof(one)) == sizeof(one));
}

/* c NULL: nothing more comes. */
static void put(struct queue *q, struct conn *c)
{
    pthread_mutex_lock(&q->lock);
    if (c) {
        c->next = NULL;
        *q->end = c;
        q->end = &c->next;
    }
    q->closed |= !c;
    pthread_cond_broadcast(&q->some);
    pthread_mutex_unlock(&q->lock);
    if (q->bell >= 0)
        ring(q->bell);
}

/* NULL: closed, or (not `waits`) empty. */
static struct conn *get(struct queue *q, bool waits, bool *closed)
{
    pthread_mutex_lock(&q->lock);
    while (waits && !q->head && !q->closed)
        pthread_cond_wait(&q->some, &q->lock);
    struct conn *c = q->head;
    if (c && !(q->head = c->next))
        q->end = &q->head;
    if (closed)
        *closed = q->closed && !c;
    pthread_mutex_unlock(&q->lock);
    return c;
}

/* ---- requests and answers ------------------------------------------------------------------- */

static struct conn *conn_new(int fd)
{
    struct conn *c = calloc(1, sizeof(*c));
    CHECK(c);
    c->fd = c->copy = fd;
    return c;
}

/* Reads on. True: a whole request, or the end of the stream. */
static bool read_request(struct conn *c)
{
    for (;;) {
        bool head = c->got < 4;
        unsigned char *to = head ? c->head + c->got : c->body + (c->got - 4);
        size_t want = head ? 4 - c->got : c->len - (c->got - 4);
        ssize_t n = want ? read(c->fd, to, want) : 0;
        if (n < 0 && errno == EAGAIN)
            return false;
        CHECK(n >= 0);
        if (want && n == 0) {
            CHECK(c->got == 0); /* not in the middle of one */
            c->over = true;
            return true;
        }
        c->got += (uint32_t)n;
        if (c->got == 4 && !c->body) {
            uint32_t be;
            memcpy(&be, c->head, 4);
            c->len = ntohl(be);
            CHECK((c->body = malloc(c->len + 1)));
        }
        if (c->body && c->got == 4 + c->len)
            return true;
    }
}

static void compute(struct conn *c)
{
    for (uint32_t i = 0; i < c->len; i++)
        c->body[i]++;
}

static void write_all(int fd, const unsigned char *data, size_t len)
{
    while (len) {
        ssize_t n = write(fd, data, len);
        if (n < 0) {
            struct pollfd p = {.fd = fd, .events = POLLOUT};
            CHECK(errno == EAGAIN && poll(&p, 1, -1) == 1);
            continue;
        }
        data += n;
        len -= (size_t)n;
    }
}

static void answer(struct conn *c)
{
    write_all(c->copy, c->head, 4);
    write_all(c->copy, c->body, c->len);
    if (c->copy != c->fd)
        CHECK(close(c->copy) == 0);
    c->copy = c->fd;
    free(c->body);
    c->body = NULL;
    c->got = 0;
}

static void conn_close(struct conn *c)
{
    CHECK(close(c->fd) == 0);
    free(c->body);
    free(c);
}

/* ---- sockets -------------------------------------------------------------------------------- */

static int listen_at(int *port, int type)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | type, 0);
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons((uint16_t)*port)};
    socklen_t len = sizeof(sa);
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(fd >= 0);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) == 0);
    CHECK(bind(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0);
    CHECK(listen(fd, 128) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)&sa, &len) == 0);
    *port = ntohs(sa.sin_port);
    return fd;
}

static void control(int epfd, int op, int fd, uint32_t events, void *data)
{
    struct epoll_event ev = {.events = events, .data.ptr = data};
    CHECK(epoll_ctl(epfd, op, fd, &ev) == 0);
}

static void serving(int port)
{
    char byte;
    printf("%d\n", port);
    fflush(stdout);
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
}

/* ---- pipeline ------------------------------------------------------------------------------- */

static struct pipeline {
    int listener, epfd;
    _Atomic bool stop;
    struct queue accepted, read, computed;
} line;

#define ONCE (EPOLLIN | EPOLLONESHOT)

static void *acceptor(void *arg)
{
    for (unsigned n = 0;; n++) {
        int fd = accept(line.listener, NULL, NULL);
        CHECK(fd >= 0);
        if (line.stop) {
            CHECK(close(fd) == 0);
            put(&line.accepted, NULL);
            return arg;
        }
        CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
        if (n % 2)
            put(&line.accepted, conn_new(fd));
        else
            control(line.epfd, EPOLL_CTL_ADD, fd, ONCE, conn_new(fd));
    }
}

static void *reader(void *arg)
{
    struct epoll_event ev[16];
    bool closed = false;
    control(line.epfd, EPOLL_CTL_ADD, line.accepted.bell, EPOLLIN | EPOLLET, NULL);
    while (!closed) {
        int n = epoll_wait(line.epfd, ev, 16, -1);
        CHECK(n > 0);
        for (int i = 0; i < n; i++) {
            struct conn *c = ev[i].data.ptr;
            if (!c)
                while ((c = get(&line.accepted, false, &closed)))
                    control(line.epfd, EPOLL_CTL_ADD, c->fd, ONCE, c);
            else if (read_request(c))
                put(&line.read, c);
            else
                control(line.epfd, EPOLL_CTL_MOD, c->fd, ONCE, c);
        }
    }
    put(&line.read, NULL);
    return arg;
}

static void *computer(void *arg)
{
    struct conn *c;
    for (unsigned n = 0; (c = get(&line.read, true, NULL)); n++) {
        if (!c->over)
            compute(c);
        if (!c->over && n % 2)
            CHECK((c->copy = dup(c->fd)) >= 0);
        put(&line.computed, c);
    }
    put(&line.computed, NULL);
    return arg;
}

static void *writer(void *arg)
{
    struct conn *c;
    while ((c = get(&line.computed, true, NULL))) {
        if (c->over) {
            conn_close(c);
            continue;
        }
        answer(c);
        control(line.epfd, EPOLL_CTL_MOD, c->fd, ONCE, c);
    }
    return arg;
}

static void pipeline(void)
{
    void *(*const parts[])(void *) = {acceptor, reader, computer, writer};
    pthread_t threads[4];
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int port = 0;
    line.listener = listen_at(&port, 0);
    line.epfd = epoll_create1(EPOLL_CLOEXEC);
    queue_open(&line.accepted, true);
    queue_open(&line.read, false);
    queue_open(&line.computed, false);
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, parts[i], NULL) == 0);
    serving(port);
    line.stop = true;
    int last = socket(AF_INET, SOCK_STREAM, 0); /* the acceptor looks */
    sa.sin_port = htons((uint16_t)port);
    CHECK(connect(last, (struct sockaddr *)&sa, sizeof(sa)) == 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    CHECK(close(last) == 0 && close(line.listener) == 0 && close(line.epfd) == 0);
}

/* ---- a thread a core; with threads that compute or without ---------------------------------- */

struct core {
    pthread_t thread;
    struct queue done; /* computed, or closed */
};

static struct core cores[CORES];
static struct queue work;
static bool hands_over; /* data */
static int port;
static pthread_barrier_t found, up; /* the port; all listen */

static void respond(int epfd, struct conn *c)
{
    answer(c);
    if (hands_over)
        control(epfd, EPOLL_CTL_MOD, c->fd, EPOLLIN, c);
}

static void readable(int epfd, struct conn *c)
{
    while (read_request(c)) {
        if (c->over) {
            conn_close(c);
            return;
        }
        if (hands_over) { /* nothing more is read of it until the answer is out */
            control(epfd, EPOLL_CTL_MOD, c->fd, 0, c);
            put(&work, c);
            return;
        }
        compute(c);
        respond(epfd, c);
    }
}

static void *core(void *arg)
{
    struct core *me = arg;
    struct epoll_event ev[16];
    bool closed = false;
    if (me != cores)
        pthread_barrier_wait(&found);
    int listener = listen_at(&port, SOCK_NONBLOCK), epfd = epoll_create1(EPOLL_CLOEXEC), fd;
    if (me == cores)
        pthread_barrier_wait(&found);
    control(epfd, EPOLL_CTL_ADD, listener, EPOLLIN, cores);
    control(epfd, EPOLL_CTL_ADD, me->done.bell, EPOLLIN | EPOLLET, NULL);
    pthread_barrier_wait(&up);
    while (!closed) {
        int n = epoll_wait(epfd, ev, 16, -1);
        CHECK(n > 0);
        for (int i = 0; i < n; i++) {
            struct conn *c = ev[i].data.ptr;
            if (!c) {
                while ((c = get(&me->done, false, &closed)))
                    respond(epfd, c);
            } else if (ev[i].data.ptr != cores) {
                readable(epfd, c);
            } else {
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    c = conn_new(fd);
                    c->core = me;
                    control(epfd, EPOLL_CTL_ADD, fd, EPOLLIN, c);
                }
                CHECK(errno == EAGAIN);
            }
        }
    }
    CHECK(close(listener) == 0 && close(epfd) == 0);
    return NULL;
}

static void *computes(void *arg)
{
    struct conn *c;
    while ((c = get(&work, true, NULL))) {
        compute(c);
        put(&c->core->done, c);
    }
    return arg;
}

static void each_its_own(void)
{
    pthread_t computers[COMPUTERS];
    queue_open(&work, false);
    pthread_barrier_init(&found, NULL, CORES);
    pthread_barrier_init(&up, NULL, CORES + 1);
    for (int i = 0; i < CORES; i++)
        queue_open(&cores[i].done, true);
    for (int i = 0; hands_over && i < COMPUTERS; i++)
        CHECK(pthread_create(&computers[i], NULL, computes, NULL) == 0);
    for (int i = 0; i < CORES; i++)
        CHECK(pthread_create(&cores[i].thread, NULL, core, &cores[i]) == 0);
    pthread_barrier_wait(&up);
    serving(port);
    for (int i = 0; i < CORES; i++) {
        put(&cores[i].done, NULL);
        pthread_join(cores[i].thread, NULL);
    }
    put(&work, NULL);
    for (int i = 0; hands_over && i < COMPUTERS; i++)
        pthread_join(computers[i], NULL);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    hands_over = strcmp(argv[1], "data") == 0;
    if (strcmp(argv[1], "pipeline") == 0)
        pipeline();
    else
        each_its_own();
    return 0;
}
