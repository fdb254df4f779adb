/* children.c - a child has its parent's sockets, however it came to be; see test_contract.py. */
#include "cases.h"

#include <dirent.h>
#include <linux/sched.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>

/* ---- the ways to make one -------------------------------------------------------------------- */

static int works(void *unused)
{
    (void)unused;
    if (read(server, buffer, 4) != 4 || write(server, "done", 4) != 4)
        _exit(1);
    close(server);
    _exit(0);
}

/* In the child 0. */
typedef pid_t way(void);

static void child_of(way *make)
{
    connected();
    NEED(write(client, "work", 4) == 4);
    pid_t pid = make();
    if (pid == 0)
        works(NULL);
    NEED(pid > 0);
    ends(pid);
    heard(client, 4);
    saw("the parent's still", write(server, "x", 1));
    close(server);
    heard(client, 8);
    client = connects();
    server = accept(listener, NULL, NULL);
    saw("a new one", write(client, "y", 1));
    heard(server, 1);
}

static char stack[65536] __attribute__((aligned(16)));

static pid_t with_function(void)
{
    return clone(works, stack + sizeof(stack), SIGCHLD, NULL);
}

static pid_t by_clone(void)
{
    return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

static pid_t by_clone3(void)
{
    struct clone_args a = {.exit_signal = SIGCHLD};
    return (pid_t)syscall(SYS_clone3, &a, sizeof(a));
}

static pid_t by_number(void)
{
#ifdef SYS_fork
    return (pid_t)syscall(SYS_fork);
#else
    return by_clone();
#endif
}

CASE(forked)
{
    child_of(fork);
}

CASE(forked_without_handlers)
{
    child_of(_Fork);
}

CASE(vforked)
{
    static int ends_of[2], first;
    connected();
    NEED(pipe2(ends_of, O_NONBLOCK) == 0);
    for (int i = 0; i < 50; i++) { /* the parent goes on when it has ended */
        pid_t pid = vfork();
        if (pid == 0)
            _exit(write(ends_of[1], "x", 1) != 1);
        first += read(ends_of[0], buffer, 1) == 1;
        NEED(pid > 0 && waitpid(pid, NULL, 0) == pid);
    }
    saw("before its parent", first);
    pid_t pid = vfork();
    if (pid == 0)
        _exit(write(server, "done", 4) != 4);
    ends(pid);
    heard(client, 4);
    pid = vfork();
    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", "exit 5", NULL);
        _exit(1);
    }
    ends(pid);
    saw("the parent's still", write(server, "x", 1));
    heard(client, 1);
}

CASE(cloned)
{
    child_of(with_function);
}

CASE(cloned_by_number)
{
    child_of(by_clone);
}

CASE(cloned3_by_number)
{
    child_of(by_clone3);
}

CASE(forked_by_number)
{
    child_of(by_number);
}

CASE(closes_and_goes)
{
    connected();
    pid_t pid = _Fork();
    if (pid == 0) {
        close(client);
        close(server);
        syscall(SYS_exit_group, 0);
    }
    ends(pid);
    saw("write", write(client, "here", 4));
    heard(server, 4);
}

static int closes(void *fd)
{
    _exit(close(*(int *)fd));
}

/* A child that shares descriptors, not memory. What it does to the descriptors of a program that
 * has stack sockets is its own. */
CASE(shares_descriptors)
{
    int fd = dup(1);
    pid_t pid = clone(closes, stack + sizeof(stack), CLONE_FILES | SIGCHLD, &fd);
    NEED(pid > 0);
    ends(pid);
    saw("closed", fcntl(fd, F_GETFD));
    connected();
    pid = clone(works, stack + sizeof(stack), CLONE_FILES | SIGCHLD, NULL);
    NEED(pid > 0 && write(client, "work", 4) == 4);
    ends(pid);
    heard(client, 4);
    saw("the parent's still", write(client, "x", 1));
}

static int execs(void *unused)
{
    (void)unused;
    dup2(server, 1);
    execl("/bin/echo", "echo", "from a new program", (char *)0);
    _exit(9);
}

CASE(shares_memory_until_it_execs)
{
    connected();
    pid_t pid = clone(execs, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
    NEED(pid > 0);
    ends(pid);
    close(server);
    heard(client, sizeof(buffer));
}

/* ---- what a child makes of a socket ---------------------------------------------------------- */

/* The parent's socket, of which nothing was asked before; the child makes something of it,
 * and goes. */
static void by_a_child(int fd, void (*make)(int fd))
{
    pid_t pid = fork();
    if (pid == 0) {
        make(fd);
        _exit(0);
    }
    ends(pid);
}

static void connects_it(int fd)
{
    struct sockaddr_in a = where(listener);
    NEED(connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && write(fd, "child", 5) == 5);
}

static void binds_it(int fd)
{
    struct sockaddr_in a = anywhere();
    NEED(bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
}

static void listens_on_it(int fd)
{
    NEED(listen(fd, 8) == 0);
}

static void binds_and_listens(int fd)
{
    binds_it(fd);
    listens_on_it(fd);
}

CASE(a_child_connects_it)
{
    struct sockaddr_in a;
    socklen_t len = sizeof(a);
    listens();
    client = socket(AF_INET, SOCK_STREAM, 0);
    by_a_child(client, connects_it);
    server = accept(listener, NULL, NULL);
    heard(server, 5);
    saw("getpeername", getpeername(client, (struct sockaddr *)&a, &len));
    printf("%d\n", a.sin_port == where(listener).sin_port);
    saw("write", write(client, "parent", 6));
    heard(server, 6);
    saw("back", write(server, "back", 4));
    heard(client, 4);
}

CASE(a_child_connects_it_and_the_parent_polls)
{
    listens();
    client = socket(AF_INET, SOCK_STREAM, 0);
    by_a_child(client, connects_it);
    server = accept(listener, NULL, NULL);
    NEED(write(server, "back", 4) == 4);
    struct pollfd p = {.fd = client, .events = POLLIN};
    saw("poll", poll(&p, 1, 5000));
    printf("%x\n", (unsigned)p.revents);
    heard(client, 4);
}

static void serves(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    listener = fd;
    client = connects();
    saw("poll", poll(&p, 1, 5000));
    server = accept(fd, NULL, NULL);
    NEED(write(client, "hello", 5) == 5);
    heard(server, 5);
}

CASE(a_child_binds_it_and_listens)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    by_a_child(fd, binds_and_listens);
    serves(fd);
}

CASE(a_child_binds_it)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    by_a_child(fd, binds_it);
    printf("has a port %d\n", where(fd).sin_port != 0);
    listens_on_it(fd);
    serves(fd);
}

CASE(a_child_listens_on_it)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    binds_it(fd);
    by_a_child(fd, listens_on_it);
    serves(fd);
}

CASE(the_next_child_uses_it)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    by_a_child(fd, binds_and_listens);
    by_a_child(fd, serves);
}

/* ---- what it does first ---------------------------------------------------------------------- */

/* Until the process sleeps, or has ended. */
static void until_it_sleeps(pid_t pid)
{
    char path[64], state = 'R';
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    while (state == 'R') {
        FILE *f = fopen(path, "r");
        NEED(f != NULL && fscanf(f, "%*d (%*[^)]) %c", &state) == 1);
        fclose(f);
    }
}

static bool woken(int n)
{
    return n == 1 && !lasted(4000);
}

static bool by_poll(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return woken(poll(&p, 1, 5000));
}

static bool by_select(int fd)
{
    fd_set set;
    struct timeval five = {5, 0};
    FD_ZERO(&set);
    FD_SET(fd, &set);
    return woken(select(fd + 1, &set, NULL, NULL, &five));
}

static bool by_epoll(int fd)
{
    int ep = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLIN};
    NEED(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) == 0);
    return woken(epoll_wait(ep, &ev, 1, 5000));
}

static void waits(bool (*how)(int fd), bool listens)
{
    connected();
    begins();
    pid_t pid = fork();
    if (pid == 0)
        _exit(!how(listens ? listener : server));
    until_it_sleeps(pid);
    if (listens)
        client = connects();
    else
        NEED(write(client, "x", 1) == 1);
    ends(pid);
}

CASE(polls_a_connection)
{
    waits(by_poll, false);
}

CASE(selects_a_connection)
{
    waits(by_select, false);
}

CASE(polls_a_connection_by_epoll)
{
    waits(by_epoll, false);
}

CASE(polls_a_listener)
{
    waits(by_poll, true);
}

CASE(selects_a_listener)
{
    waits(by_select, true);
}

CASE(polls_after_exec)
{
    char number[16];
    connected();
    snprintf(number, sizeof(number), "%d", server);
    pid_t pid = fork();
    if (pid == 0) {
        execl("/proc/self/exe", "children", "polls", number, (char *)0);
        _exit(9);
    }
    until_it_sleeps(pid);
    NEED(write(client, "x", 1) == 1);
    ends(pid);
}

/* `children pairs N`: N descriptors, two per connection, that were there before the exec. */
#define FIRST 100

static int pairs(int n)
{
    char byte = 0;
    for (int fd = FIRST; fd < FIRST + n; fd += 2)
        NEED(write(fd, "x", 1) == 1 && read(fd + 1, &byte, 1) == 1 && byte == 'x');
    return 0;
}

CASE(many_after_exec)
{
    struct rlimit r;
    char n[16];
    NEED(getrlimit(RLIMIT_NOFILE, &r) == 0);
    r.rlim_cur = r.rlim_max < 4096 ? r.rlim_max : 4096;
    NEED(setrlimit(RLIMIT_NOFILE, &r) == 0);
    int most = r.rlim_cur < 4096 ? (int)r.rlim_cur / 4 * 2 : 3400;
    listens();
    for (int i = 0; i < most; i += 2) {
        client = connects();
        server = accept(listener, NULL, NULL);
        NEED(dup2(client, FIRST + i) >= 0 && dup2(server, FIRST + i + 1) >= 0);
        NEED(close(client) == 0 && close(server) == 0);
    }
    snprintf(n, sizeof(n), "%d", most);
    execl("/proc/self/exe", "children", "pairs", n, "", (char *)0);
    NEED(false);
}

/* ---- a parent with many ---------------------------------------------------------------------- */

/* Pages that the process and its child touch for a fork, beyond those of a fork before. */
static long pages_of_a_fork(void)
{
    struct rusage before, after;
    long n = 0;
    for (int who = RUSAGE_CHILDREN; who <= RUSAGE_SELF; who++) {
        NEED(getrusage(who, &before) == 0);
        pid_t pid = fork();
        if (pid == 0)
            _exit(0);
        NEED(pid > 0 && waitpid(pid, NULL, 0) == pid);
        NEED(getrusage(who, &after) == 0);
        n += after.ru_minflt - before.ru_minflt;
    }
    return n;
}

CASE(a_fork_touches_no_socket)
{
    enum { CONNECTIONS = 600 };
    struct rlimit r;
    NEED(getrlimit(RLIMIT_NOFILE, &r) == 0);
    r.rlim_cur = r.rlim_max < 2048 ? r.rlim_max : 2048;
    NEED(setrlimit(RLIMIT_NOFILE, &r) == 0);
    connected();
    (void)pages_of_a_fork();
    long few = pages_of_a_fork();
    for (rlim_t i = 0; i < CONNECTIONS && 2 * i + 300 < r.rlim_cur; i++)
        NEED(connects() >= 0 && accept(listener, NULL, NULL) >= 0);
    (void)pages_of_a_fork();
    saw("as many pages as with few", pages_of_a_fork() < few + 60);
}

static int held; /* a pipe: the child lives until the parent closes it */

static pid_t child_that_waits(void)
{
    int ends_of[2];
    NEED(pipe(ends_of) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(ends_of[1]);
        _exit(read(ends_of[0], buffer, 1) != 0);
    }
    close(ends_of[0]);
    held = ends_of[1];
    return pid;
}

/* What was closed before the fork is not the child's, though its bytes are still on their way. */
CASE(closed_before_the_fork)
{
    static char much[1 << 20];
    size_t n = 0;
    ssize_t k;
    connected();
    NEED(fcntl(server, F_SETFL, O_NONBLOCK) == 0);
    while ((k = write(server, much, sizeof(much))) > 0)
        n += (size_t)k;
    close(server);
    pid_t pid = child_that_waits();
    while ((k = read(client, much, sizeof(much))) > 0)
        n -= (size_t)k;
    saw("all of it, and the end", k < 0 ? k : (long)n);
    close(held);
    ends(pid);
}

/* Nor is a connection that nobody has accepted yet. */
CASE(accepted_after_the_fork)
{
    connected(); /* the listener has accepted: others may be accepted ahead */
    close(server);
    close(client);
    client = connects();
    NEED(write(client, "early", 5) == 5);
    pid_t pid = child_that_waits();
    server = accept(listener, NULL, NULL);
    heard(server, 5);
    close(server);
    heard(client, 1); /* its end */
    close(held);
    ends(pid);
}

/* The child's is the socket of the fork, not that which the parent has at its number since. */
CASE(the_parents_numbers_are_used_again)
{
    int go[2];
    connected();
    NEED(pipe(go) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        NEED(read(go[0], buffer, 1) == 1);
        NEED(read(server, buffer, 5) == 5);
        _exit(write(server, buffer, 5) != 5);
    }
    int old = client, was = server;
    close(server);
    client = connects();
    server = accept(listener, NULL, NULL);
    saw("the same number", server == was);
    NEED(write(old, "first", 5) == 5 && write(client, "other", 5) == 5);
    NEED(write(go[1], "x", 1) == 1);
    ends(pid);
    heard(old, 5);
    heard(server, 5);
}

/* Read by the parent's library, not by the parent: the child's. */
CASE(read_by_the_child)
{
    connected();
    arrives("before the fork");
    pid_t pid = fork();
    if (pid == 0) {
        heard(server, 15);
        fflush(stdout);
        _exit(0);
    }
    ends(pid);
    NEED(write(client, "after", 5) == 5);
    heard(server, 5);
}

CASE(a_grandchild_has_it)
{
    connected();
    pid_t pid = fork();
    if (pid == 0) {
        pid = fork();
        if (pid == 0)
            works(NULL);
        close(server);
        ends(pid);
        fflush(stdout);
        _exit(0);
    }
    close(server);
    NEED(write(client, "work", 4) == 4);
    heard(client, 8);
    ends(pid);
}

/* A process that closes thousands of its parent's sockets has little to say about each. */
CASE(closes_all)
{
    connected();
    for (int i = 0; i < 200; i++)
        NEED(connects() >= 0 && accept(listener, NULL, NULL) >= 0);
    pid_t pid = fork();
    if (pid == 0) {
        NEED(close_range(3, ~0U, 0) == 0);
        _exit(read(held, buffer, 1) >= 0);
    }
    ends(pid);
    close(server);
    heard(client, 1);
}

static void shuts_down(int fd)
{
    NEED(shutdown(fd, SHUT_WR) == 0);
}

CASE(a_child_shuts_it_down)
{
    connected();
    by_a_child(server, shuts_down);
    heard(client, 1); /* its end */
    saw("the parent's send", send(server, "x", 1, MSG_NOSIGNAL));
    NEED(write(client, "hello", 5) == 5);
    heard(server, 5);
}

/* Until `fd` has been told of its peer's reset, which no call takes. */
static void told_of_a_reset(int fd)
{
    struct pollfd p = {.fd = fd};
    struct linger now = {1, 0};
    NEED(setsockopt(client, SOL_SOCKET, SO_LINGER, &now, sizeof(now)) == 0 && close(client) == 0);
    NEED(poll(&p, 1, 5000) == 1);
}

static void uses(int fd)
{
    saw("the child's recv", recv(fd, buffer, 1, MSG_DONTWAIT));
    saw("its send", send(fd, "x", 1, MSG_NOSIGNAL));
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    NEED(poll(&p, 1, 5000) == 1);
    printf("%x\n", (unsigned)p.revents);
}

CASE(a_child_has_what_was_shut_down)
{
    connected();
    NEED(shutdown(server, SHUT_WR) == 0);
    by_a_child(server, uses);
}

CASE(a_child_has_what_was_reset)
{
    connected();
    told_of_a_reset(server);
    by_a_child(server, uses);
}

static void writes_and_closes(int fd)
{
    NEED(write(fd, "first ", 6) == 6 && close(fd) == 0);
}

CASE(what_a_child_closed_was_sent_before_its_end)
{
    connected();
    by_a_child(server, writes_and_closes);
    NEED(write(server, "second", 6) == 6);
    heard(client, 12);
}

static void sends_at_once(int fd)
{
    int on = 1;
    NEED(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0);
}

CASE(a_child_sets_an_option)
{
    int on = 0;
    socklen_t len = sizeof(on);
    connected();
    by_a_child(server, sends_at_once);
    NEED(getsockopt(server, IPPROTO_TCP, TCP_NODELAY, &on, &len) == 0);
    saw("it is on", on != 0);
}

/* Nobody has read what came: the last close is a reset, whoever closes last. */
CASE(closed_unread_by_the_parent_first)
{
    connected();
    arrives("unread");
    pid_t pid = child_that_waits();
    close(server);
    close(held);
    ends(pid);
    saw("read", read(client, buffer, 1));
}

CASE(closed_unread_by_the_child_first)
{
    connected();
    arrives("unread");
    pid_t pid = fork();
    if (pid == 0) {
        close(server);
        _exit(0);
    }
    ends(pid);
    close(server);
    saw("read", read(client, buffer, 1));
}

/* ---- threads that wait meanwhile ------------------------------------------------------------- */

static void *reads(void *unused)
{
    heard(server, 5);
    return unused;
}

static int epoll_of_server(void)
{
    int ep = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLIN};
    NEED(epoll_ctl(ep, EPOLL_CTL_ADD, server, &ev) == 0);
    return ep;
}

static void *waits_in_epoll(void *ep)
{
    struct epoll_event ev;
    saw("epoll_wait", epoll_wait(*(int *)ep, &ev, 1, 10000));
    return NULL;
}

static void *accepts(void *unused)
{
    saw("accept", accept(listener, NULL, NULL) >= 0);
    return unused;
}

/* The state of the process's other thread; 0: there is none. */
static char other_thread(void)
{
    DIR *d = opendir("/proc/self/task");
    struct dirent *e;
    char path[64], state = 0;
    while (d && (e = readdir(d)))
        if (e->d_name[0] != '.' && atoi(e->d_name) != getpid()) {
            snprintf(path, sizeof(path), "/proc/self/task/%d/stat", atoi(e->d_name));
            FILE *f = fopen(path, "r");
            NEED(f != NULL && fscanf(f, "%*d (%*[^)]) %c", &state) == 1);
            fclose(f);
        }
    closedir(d);
    return state;
}

static void beside_a_thread(void *(*f)(void *), void *arg, void (*meanwhile)(void))
{
    pthread_t t;
    NEED(pthread_create(&t, NULL, f, arg) == 0);
    while (other_thread() == 'R')
        ;
    meanwhile();
    NEED(pthread_join(t, NULL) == 0);
}

static void forks_and_writes(void)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    ends(pid);
    NEED(write(client, "hello", 5) == 5);
}

static void passes_and_writes(void)
{
    int two[2];
    NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, two) == 0);
    NEED(sendmsg(two[0], with_fd(server), 0) == 1);
    NEED(write(client, "hello", 5) == 5);
}

static void forks_and_connects(void)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    ends(pid);
    NEED(connects() >= 0);
}

CASE(a_thread_reads_while_another_forks)
{
    connected();
    beside_a_thread(reads, NULL, forks_and_writes);
}

static void *forks_at_once(void *unused)
{
    pid_t pid = fork();
    if (pid == 0) {
        (void)!write(client, "x", 1);
        _exit(0);
    }
    NEED(waitpid(pid, NULL, 0) == pid);
    return unused;
}

/* The fork comes before the read, while it looks once more before it sleeps, or later. */
CASE(a_thread_forks_while_another_begins_to_read)
{
    pthread_t t;
    connected();
    for (int i = 0; i < 20; i++) {
        NEED(pthread_create(&t, NULL, forks_at_once, NULL) == 0);
        NEED(read(server, buffer, 1) == 1 && pthread_join(t, NULL) == 0);
    }
    saw("read", 20);
}

CASE(a_thread_waits_in_epoll_while_another_forks)
{
    connected();
    int ep = epoll_of_server();
    beside_a_thread(waits_in_epoll, &ep, forks_and_writes);
}

CASE(a_thread_waits_in_epoll_while_another_passes_the_socket)
{
    connected();
    int ep = epoll_of_server();
    beside_a_thread(waits_in_epoll, &ep, passes_and_writes);
}

CASE(a_thread_accepts_while_another_forks)
{
    connected();
    beside_a_thread(accepts, NULL, forks_and_connects);
}

/* One process writes, and asks whether it may; what comes is the other's. */
static void writer_beside_a_reader(short events)
{
    enum { ROUNDS = 200 };
    connected();
    pid_t reader = fork();
    if (reader == 0) {
        for (unsigned i = 0, got; i < ROUNDS; i++)
            if (recv(server, &got, sizeof(got), MSG_WAITALL) != sizeof(got) || got != i)
                _exit(1);
        _exit(0);
    }
    for (unsigned i = 0; i < ROUNDS; i++) {
        struct pollfd p = {.fd = server, .events = events};
        NEED(write(client, &i, sizeof(i)) == sizeof(i));
        NEED(poll(&p, 1, 1000) == 1 && write(server, "x", 1) == 1);
        NEED(read(client, buffer, 1) == 1);
    }
    ends(reader);
}

CASE(asks_for_room_beside_a_reader)
{
    writer_beside_a_reader(POLLOUT);
}

/* ---- what it may do -------------------------------------------------------------------------- */

static void without_descriptors(int (*take)(void))
{
    connected();
    NEED(write(client, "x", 1) == 1);
    pid_t pid = fork();
    if (pid == 0) {
        NEED(take() == 0);
        int one = read(server, buffer, 1) == 1 && write(server, "y", 1) == 1 ? 0 : 1;
        _exit(one || socket(AF_INET, SOCK_STREAM, 0) >= 0 || errno != EMFILE);
    }
    ends(pid);
    heard(client, 1);
}

static int by_setrlimit(void)
{
    return setrlimit(RLIMIT_NOFILE, &(struct rlimit){0, 0});
}

static int by_prlimit(void)
{
    return prlimit(0, RLIMIT_NOFILE, &(struct rlimit){0, 0}, NULL);
}

CASE(takes_its_descriptors_away)
{
    without_descriptors(by_setrlimit);
}

CASE(takes_its_descriptors_away_by_prlimit)
{
    without_descriptors(by_prlimit);
}

int main(int argc, char **argv)
{
    if (argc == 4)
        return pairs(atoi(argv[2]));
    if (argc == 3) {
        begins();
        return !by_poll(atoi(argv[2]));
    }
    return run_case(argc, argv);
}
