/* idle.c - many connections that say nothing at first are all heard; see test_contract.py. */
#include "cases.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#define MOST 20000
#define MANY 5000
#define THREADS 1000
#define CHILDREN 4

static int arrived[2], go[2]; /* pipes: all are connected; now they speak */
static int *fds;

/* So many as descriptors allow, here and at the instance, which has the same limit. */
static int many(int most)
{
    struct rlimit r;
    NEED(getrlimit(RLIMIT_NOFILE, &r) == 0);
    r.rlim_cur = r.rlim_max;
    NEED(setrlimit(RLIMIT_NOFILE, &r) == 0);
    int n = r.rlim_cur / 2 < (rlim_t)most ? (int)(r.rlim_cur / 2) : most;
    return n - n % CHILDREN;
}

/* ---- the clients ----------------------------------------------------------------------------- */

/* Another program, natively: `idle clients PORT N`, to the address in SERVER, if any. They end in a
 * reset, and leave the ports free. */
static int clients(int port, int n)
{
    char byte;
    static const struct linger reset = {1, 0};
    struct sockaddr_in a = anywhere();
    a.sin_port = htons((uint16_t)port);
    if (getenv("SERVER"))
        NEED(inet_pton(AF_INET, getenv("SERVER"), &a.sin_addr) == 1);
    (void)many(n);
    fds = calloc((size_t)n, sizeof(*fds));
    for (int i = 0; i < n; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM, 0);
        NEED(setsockopt(fds[i], SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) == 0);
        NEED(connect(fds[i], (struct sockaddr *)&a, sizeof(a)) == 0);
    }
    NEED(write(3, "a", 1) == 1 && read(4, &byte, 1) == 1);
    for (int i = 0; i < n; i++)
        NEED(write(fds[i], "?", 1) == 1);
    for (int i = 0; i < n; i++)
        NEED(read(fds[i], &byte, 1) == 1);
    return 0;
}

static void clients_begin(int n)
{
    char port[16], count[16];
    snprintf(port, sizeof(port), "%d", ntohs(where(listener).sin_port));
    snprintf(count, sizeof(count), "%d", n);
    NEED(pipe(arrived) == 0 && pipe(go) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        NEED(dup2(dup(go[0]), 4) == 4 && dup2(dup(arrived[1]), 3) == 3);
        unsetenv("LD_PRELOAD");
        execl("/proc/self/exe", "idle", "clients", port, count, (char *)0);
        _exit(9);
    }
    NEED(pid > 0);
}

static void clients_speak(void)
{
    char byte;
    NEED(read(arrived[0], &byte, 1) == 1 && write(go[1], "g", 1) == 1);
}

static void clients_end(void)
{
    int status;
    NEED(wait(&status) > 0);
    saw("the clients", WEXITSTATUS(status));
}

/* How many come. */
static int many_listen(int most)
{
    int n = many(most);
    alarm(120);
    listens();
    NEED(listen(listener, 4096) == 0);
    clients_begin(n);
    fds = calloc((size_t)n, sizeof(*fds));
    return n;
}

static void answers(int fd)
{
    char byte;
    NEED(recv(fd, &byte, 1, 0) == 1 && send(fd, &byte, 1, 0) == 1);
}

/* ---- the ways to wait for them --------------------------------------------------------------- */

CASE(with_epoll)
{
    int n = many_listen(MOST), epfd = epoll_create1(0);
    struct epoll_event ev[64];
    for (int i = 0; i < n; i++) {
        fds[i] = accept(listener, NULL, NULL);
        struct epoll_event in = {.events = EPOLLIN, .data.fd = fds[i]};
        NEED(epoll_ctl(epfd, EPOLL_CTL_ADD, fds[i], &in) == 0);
    }
    clients_speak();
    for (int heard_of = 0; heard_of < n;) {
        int k = epoll_wait(epfd, ev, 64, -1);
        for (int i = 0; i < k; i++)
            answers(ev[i].data.fd);
        heard_of += k;
    }
    clients_end();
}

CASE(with_poll)
{
    int n = many_listen(MANY);
    struct pollfd *set = calloc((size_t)n, sizeof(*set));
    for (int i = 0; i < n; i++)
        set[i] = (struct pollfd){.fd = accept(listener, NULL, NULL), .events = POLLIN};
    clients_speak();
    for (int left = n; left > 0;) {
        NEED(poll(set, (nfds_t)n, -1) > 0);
        for (int i = 0; i < n; i++)
            if (set[i].revents) {
                answers(set[i].fd);
                set[i].fd = -1;
                left--;
            }
    }
    clients_end();
}

/* One after the other: the last ones have said something long before they are asked. */
CASE(with_blocking_calls)
{
    int n = many_listen(MANY);
    for (int i = 0; i < n; i++)
        fds[i] = accept(listener, NULL, NULL);
    clients_speak();
    for (int i = 0; i < n; i++)
        answers(fds[i]);
    clients_end();
}

static void *one(void *arg)
{
    answers((int)(intptr_t)arg);
    return NULL;
}

CASE(with_threads)
{
    pthread_t threads[THREADS];
    pthread_attr_t small;
    NEED(pthread_attr_init(&small) == 0 && pthread_attr_setstacksize(&small, 65536) == 0);
    NEED(many_listen(THREADS) == THREADS);
    for (int i = 0; i < THREADS; i++) {
        int fd = accept(listener, NULL, NULL);
        NEED(pthread_create(&threads[i], &small, one, (void *)(intptr_t)fd) == 0);
    }
    clients_speak();
    for (int i = 0; i < THREADS; i++)
        NEED(pthread_join(threads[i], NULL) == 0);
    clients_end();
}

/* Each child accepts its part, then hears it. */
CASE(with_children)
{
    int n = many_listen(MANY), status, ready[2];
    char byte;
    NEED(pipe(ready) == 0);
    pid_t children[CHILDREN];
    for (int c = 0; c < CHILDREN; c++) {
        children[c] = fork();
        if (children[c])
            continue;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (int i = 0; i < n / CHILDREN; i++)
            NEED((fds[i] = accept(listener, NULL, NULL)) >= 0);
        NEED(write(ready[1], "r", 1) == 1);
        for (int i = 0; i < n / CHILDREN; i++)
            answers(fds[i]);
        _exit(0);
    }
    for (int c = 0; c < CHILDREN; c++)
        NEED(read(ready[0], &byte, 1) == 1);
    clients_speak();
    for (int c = 0; c < CHILDREN; c++) {
        NEED(waitpid(children[c], &status, 0) == children[c]);
        saw("a child", WEXITSTATUS(status));
    }
    clients_end();
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "clients") == 0)
        return clients(atoi(argv[2]), atoi(argv[3]));
    return run_case(argc, argv);
}
