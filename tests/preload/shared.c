/* shared.c - what a process does with a socket while others have it too; see test_contract.py. */
#include "cases.h"

#include <dirent.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/resource.h>

/* ---- a parent and its child ------------------------------------------------------------------ */

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

static char much[1 << 20];

static size_t sends_as_much_as_it_can(void)
{
    size_t n = 0;
    ssize_t k;
    NEED(fcntl(server, F_SETFL, O_NONBLOCK) == 0);
    while ((k = write(server, much, sizeof(much))) > 0)
        n += (size_t)k;
    return n;
}

static void all_is_heard(size_t n)
{
    ssize_t k;
    while ((k = read(client, much, sizeof(much))) > 0)
        n -= (size_t)k;
    saw("all of it, and the end", k < 0 ? k : (long)n);
}

/* What was closed before the fork is not the child's, though its bytes are still on their way. */
CASE(closed_before_the_fork)
{
    connected();
    size_t n = sends_as_much_as_it_can();
    close(server);
    pid_t pid = child_that_waits();
    all_is_heard(n);
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

/* A child reads the first of the bytes that are there, and has no more of the socket, at its end or
 * by `ends` == false: the parent reads the rest, then what came later, then the end. */
static void read_in_part(bool ends)
{
    enum { ROUNDS = 40 };
    for (int i = 0; i < ROUNDS; i++) {
        int go[2];
        connected();
        NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, go) == 0 && write(client, "abc", 3) == 3);
        pid_t pid = fork();
        if (pid == 0) {
            close(client);
            NEED(read(server, buffer, 1) == 1 && read(go[0], buffer, 1) == 1);
            NEED(ends || (close(server) == 0 && write(go[0], "x", 1) == 1));
            _exit(!ends && read(go[0], buffer, 1) != 1);
        }
        NEED(write(client, "d", 1) == 1 && write(go[1], "x", 1) == 1);
        NEED(ends ? waitpid(pid, NULL, 0) == pid : read(go[1], buffer, 1) == 1);
        close(client);
        NEED(recv(server, buffer, 3, MSG_WAITALL) == 3 && memcmp(buffer, "bcd", 3) == 0);
        NEED(read(server, buffer, 1) == 0);
        NEED(ends || (write(go[1], "x", 1) == 1 && waitpid(pid, NULL, 0) == pid));
        close(server), close(listener), close(go[0]), close(go[1]);
    }
}

CASE(read_in_part_by_a_child_that_ends)
{
    read_in_part(true);
}

CASE(read_in_part_by_a_child_that_closes)
{
    read_in_part(false);
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

/* Many closes that reset: each peer knows when the call has returned. */
CASE(resets_all)
{
    enum { CONNECTIONS = 100 };
    static const struct linger reset = {1, 0};
    int clients[CONNECTIONS], resets = 0;
    listens();
    NEED(setsockopt(listener, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) == 0);
    for (int i = 0; i < CONNECTIONS; i++) { /* the clients' numbers are the lower ones */
        clients[i] = connects();
        NEED(clients[i] < 500 && (server = accept(listener, NULL, NULL)) >= 0);
        NEED(dup2(server, 500 + i) == 500 + i && close(server) == 0);
    }
    NEED(close_range(500, ~0U, 0) == 0);
    for (int i = 0; i < CONNECTIONS; i++)
        resets += recv(clients[i], buffer, 1, MSG_DONTWAIT) < 0 && errno == ECONNRESET;
    saw("all", resets == CONNECTIONS);
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
    struct pollfd p = {.fd = server, .events = POLLIN | POLLOUT | POLLRDHUP};
    NEED(poll(&p, 1, 5000) == 1);
    printf("%x\n", (unsigned)p.revents);
    saw("nothing has come", recv(server, buffer, 1, MSG_DONTWAIT));
    saw("the parent's send", send(server, "x", 1, MSG_NOSIGNAL));
    NEED(write(client, "hello", 5) == 5);
    heard(server, 5);
}

CASE(a_child_shuts_it_down_behind_the_parents_bytes)
{
    connected();
    size_t n = sends_as_much_as_it_can();
    by_a_child(server, shuts_down);
    saw("the parent's send", send(server, "x", 1, MSG_NOSIGNAL));
    all_is_heard(n);
}

/* The child has had it since before they were sent; the parent ends before they are read. */
CASE(a_child_shuts_it_down_behind_a_gone_process_s_bytes)
{
    size_t n;
    int go[2], sent[2];
    connected();
    NEED(pipe(go) == 0 && pipe(sent) == 0);
    pid_t pid = fork(), sender = pid ? fork() : 0;
    if (pid == 0) {
        NEED(read(go[0], buffer, 1) == 1);
        shuts_down(server);
        _exit(0);
    }
    if (sender == 0) {
        n = sends_as_much_as_it_can();
        _exit(write(sent[1], &n, sizeof(n)) != sizeof(n));
    }
    ends(sender);
    NEED(read(sent[0], &n, sizeof(n)) == sizeof(n) && write(go[1], "x", 1) == 1);
    ends(pid);
    all_is_heard(n);
}

/* Received over a unix socket, in the same process or another. */
CASE(what_was_passed_is_shut_down_behind_its_senders_bytes)
{
    int two[2], got;
    connected();
    NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, two) == 0);
    NEED(sendmsg(two[0], with_fd(server), 0) == 1);
    size_t n = sends_as_much_as_it_can();
    struct msghdr *m = with_fd(-1);
    NEED(recvmsg(two[1], m, 0) == 1);
    memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(m)), sizeof(got));
    shuts_down(got);
    close(got);
    saw("the sender's send", send(server, "x", 1, MSG_NOSIGNAL));
    all_is_heard(n);
}

/* Until `fd` has been told of its peer's reset, which no call takes. */
static void told_of_a_reset(int fd)
{
    struct pollfd p = {.fd = fd};
    struct linger now = {1, 0};
    NEED(setsockopt(client, SOL_SOCKET, SO_LINGER, &now, sizeof(now)) == 0 && close(client) == 0);
    NEED(poll(&p, 1, 60000) == 1);
}

static void uses(int fd)
{
    saw("the child's recv", recv(fd, buffer, 1, MSG_DONTWAIT));
    saw("its send", send(fd, "x", 1, MSG_NOSIGNAL));
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    NEED(poll(&p, 1, 60000) == 1);
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

static int datagrams(void)
{
    struct sockaddr_in a = anywhere();
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    NEED(bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
    return fd;
}

static void connects_to_client(int fd)
{
    struct sockaddr_in a = where(client);
    NEED(connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
}

CASE(a_child_connects_a_datagram_socket)
{
    struct sockaddr_in a;
    socklen_t len = sizeof(a);
    connected();
    server = datagrams();
    client = datagrams();
    by_a_child(server, connects_to_client);
    saw("send", send(server, "hello", 5, 0));
    heard(client, 5);
    saw("getpeername", getpeername(server, (struct sockaddr *)&a, &len));
    saw("its port", a.sin_port == where(client).sin_port);
    a = where(server);
    NEED(connect(client, (struct sockaddr *)&a, sizeof(a)) == 0 && send(client, "you", 3, 0) == 3);
    heard(server, 3);
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
    saw("epoll_wait", epoll_wait(*(int *)ep, &ev, 1, 60000));
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

static void forks_twice_and_writes(void)
{
    for (int i = 0; i < 2; i++) {
        pid_t pid = fork();
        if (pid == 0)
            _exit(0);
        ends(pid);
    }
    NEED(write(client, "hello", 5) == 5);
}

/* The reader spins, or sleeps, or has been woken, at each of the forks. */
CASE(a_thread_reads_while_another_forks_twice)
{
    for (int i = 0; i < 20; i++) {
        connected();
        beside_a_thread(reads, NULL, forks_twice_and_writes);
        close(client);
        close(server);
        close(listener);
    }
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
        NEED(poll(&p, 1, 60000) == 1 && write(server, "x", 1) == 1);
        NEED(read(client, buffer, 1) == 1);
    }
    ends(reader);
}

CASE(asks_for_room_beside_a_reader)
{
    writer_beside_a_reader(POLLOUT);
}

static void writes_one(int fd)
{
    NEED(send(fd, "x", 1, MSG_NOSIGNAL) == 1);
}

/* A child's send meets an error, and the child has gone: its parent, which reads nothing, hears of
 * it. */
static void told_after_a_childs_send(int fd)
{
    by_a_child(fd, writes_one);
    int err = 0;
    socklen_t len = sizeof(err);
    begins();
    while (!err && !lasted(60000))
        NEED(getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) == 0);
    printf("%s\n", strerrorname_np(err));
}

CASE(a_childs_send_meets_a_reset)
{
    connected();
    close(server);
    told_after_a_childs_send(client);
    saw("send", send(client, "x", 1, MSG_NOSIGNAL));
}

CASE(a_childs_datagram_is_refused)
{
    connected(); /* a test looks for a connection */
    int u = socket(AF_INET, SOCK_DGRAM, 0), v = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in a = anywhere();
    NEED(bind(u, (struct sockaddr *)&a, sizeof(a)) == 0);
    a = where(u);
    NEED(connect(v, (struct sockaddr *)&a, sizeof(a)) == 0 && close(u) == 0);
    told_after_a_childs_send(v);
}

/* The error of a dissolved connection is told also where a child has had the connection. */
CASE(dissolved_beside_a_child)
{
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    struct pollfd p = {.events = POLLIN | POLLOUT};
    int err;
    socklen_t len = sizeof(err);
    connected();
    p.fd = client;
    pid_t pid = child_that_waits();
    NEED(connect(client, &none, sizeof(none)) == 0);
    saw("poll", poll(&p, 1, 0));
    printf("%#x\n", (unsigned)p.revents);
    NEED(getsockopt(client, SOL_SOCKET, SO_ERROR, &err, &len) == 0);
    printf("%s\n", strerrorname_np(err));
    close(held);
    ends(pid);
}

static void nothing(int fd)
{
    (void)fd;
}

static void early_then_reset(void)
{
    struct linger now = {1, 0};
    struct pollfd p = {.events = POLLIN};
    connected();
    p.fd = server;
    arrives("early");
    NEED(setsockopt(client, SOL_SOCKET, SO_LINGER, &now, sizeof(now)) == 0 && close(client) == 0);
    while (!(p.revents & POLLHUP))
        NEED(poll(&p, 1, 60000) == 1);
}

/* What came before a reset is read, and then the reset, though a fork was in between. */
CASE(early_bytes_then_a_reset_and_a_fork)
{
    early_then_reset();
    by_a_child(server, nothing);
    saw("recv", recv(server, buffer, sizeof(buffer), 0));
    saw("recv", recv(server, buffer, sizeof(buffer), 0));
    saw("recv", recv(server, buffer, sizeof(buffer), 0));
}

static void reads_early(int fd)
{
    saw("recv", recv(fd, buffer, sizeof(buffer), 0));
    saw("recv", recv(fd, buffer, sizeof(buffer), 0));
}

CASE(early_bytes_then_a_reset_are_the_childs)
{
    early_then_reset();
    by_a_child(server, reads_early);
}

CASE(datagrams_before_a_shutdown_and_a_fork)
{
    connected(); /* a test looks for a connection */
    struct sockaddr_in a = anywhere();
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    NEED(bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
    a = where(fd);
    NEED(connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && send(fd, "x", 1, 0) == 1);
    NEED(poll(&p, 1, 60000) == 1 && shutdown(fd, SHUT_RD) == 0);
    by_a_child(fd, nothing);
    saw("recv", recv(fd, buffer, sizeof(buffer), 0));
    saw("recv", recv(fd, buffer, sizeof(buffer), 0));
}

static struct sockaddr_in to_whom;

static void sends_there(int fd)
{
    NEED(sendto(fd, "x", 1, 0, (struct sockaddr *)&to_whom, sizeof(to_whom)) == 1);
}

/* A socket that has lost its address gets one from whichever process sends first. */
CASE(a_child_gives_a_dissolved_socket_its_address)
{
    connected(); /* a test looks for a connection */
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    struct sockaddr_in a = anywhere();
    int u = socket(AF_INET, SOCK_DGRAM, 0), v = socket(AF_INET, SOCK_DGRAM, 0);
    NEED(bind(u, (struct sockaddr *)&a, sizeof(a)) == 0);
    to_whom = where(u);
    NEED(connect(v, (struct sockaddr *)&to_whom, sizeof(to_whom)) == 0);
    NEED(connect(v, &none, sizeof(none)) == 0);
    by_a_child(v, sends_there);
    sends_there(v);
    saw("recv", recv(u, buffer, sizeof(buffer), 0));
    saw("recv", recv(u, buffer, sizeof(buffer), 0));
}

int main(int argc, char **argv)
{
    return run_case(argc, argv);
}
