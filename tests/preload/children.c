/* children.c - a child has its parent's sockets, however it came to be; see test_contract.py. */
#include "cases.h"

#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
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
    saw("poll", poll(&p, 1, 60000));
    printf("%x\n", (unsigned)p.revents);
    heard(client, 4);
}

static void serves(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    listener = fd;
    client = connects();
    saw("poll", poll(&p, 1, 60000));
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
    return n == 1 && !lasted(50000);
}

static bool by_poll(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return woken(poll(&p, 1, 60000));
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
    return woken(epoll_wait(ep, &ev, 1, 60000));
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

/* This program anew, in a child that has `server`: what it does there first. */
static pid_t first_after_exec(const char *what)
{
    char number[16];
    connected();
    snprintf(number, sizeof(number), "%d", server);
    pid_t pid = fork();
    if (pid == 0) {
        execl("/proc/self/exe", "children", what, number, (char *)0);
        _exit(9);
    }
    return pid;
}

CASE(polls_after_exec)
{
    pid_t pid = first_after_exec("polls");
    until_it_sleeps(pid);
    NEED(write(client, "x", 1) == 1);
    ends(pid);
}

static int vforks(int fd)
{
    int status = 0;
    pid_t pid = vfork();
    if (pid == 0)
        _exit(write(fd, "done", 4) != 4);
    NEED(pid > 0 && waitpid(pid, &status, 0) == pid);
    return status;
}

CASE(vforks_after_exec)
{
    ends(first_after_exec("vforks"));
    heard(client, 4);
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

/* Two descriptors that a program after an exec has. */
static void all_after_exec(void)
{
    connected();
    NEED(dup2(client, FIRST) >= 0 && dup2(server, FIRST + 1) >= 0);
    NEED(close(client) == 0 && close(server) == 0 && close(listener) == 0);
}

/* A connection that it has not. */
static void connected_until_exec(void)
{
    connected();
    NEED(fcntl(server, F_SETFD, FD_CLOEXEC) == 0 && fcntl(client, F_SETFD, FD_CLOEXEC) == 0);
}

static void some_after_exec(void)
{
    all_after_exec();
    connected_until_exec();
}

static char *const two[] = {"children", "pairs", "2", "", NULL};

CASE(all_after_a_childs_exec)
{
    all_after_exec();
    pid_t pid = fork();
    if (pid == 0) {
        saw("no such program", execv("/no/such/program", two));
        saw("nor this", execv("/no/such/program", two));
        execv("/proc/self/exe", two);
        _exit(9);
    }
    ends(pid);
    pairs(2);
}

CASE(a_program_without_the_shim_holds_no_others)
{
    int in[2];
    connected_until_exec();
    NEED(pipe2(in, O_CLOEXEC) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(in[0], 0);
        execle("/bin/cat", "cat", (char *)0, (char *[]){"LD_PRELOAD=", NULL});
        _exit(9);
    }
    close(server); /* the listener is the child's too */
    struct pollfd p = {.fd = client, .events = POLLIN};
    NEED(poll(&p, 1, 60000) == 1);
    heard(client, 1);
    close(in[1]);
    ends(pid);
}

CASE(some_after_a_childs_exec)
{
    some_after_exec();
    NEED(write(client, "before", 6) == 6);
    pid_t pid = fork();
    if (pid == 0) {
        saw("no such program", execv("/no/such/program", two));
        heard(server, 6); /* the child has what it had */
        saw("nor this", execv("/no/such/program", two));
        execv("/proc/self/exe", two);
        _exit(9);
    }
    ends(pid);
    pairs(2);
    close(server);
    heard(client, 1);
}

CASE(some_after_a_spawn)
{
    pid_t pid;
    some_after_exec();
    for (int i = 0; i < 3; i++) {
        NEED(posix_spawn(&pid, "/proc/self/exe", NULL, NULL, two, environ) == 0);
        ends(pid);
        pairs(2);
    }
    NEED(posix_spawn(&pid, "/bin/cat", NULL, NULL, (char *[]){"cat", "/no/such/file", NULL},
                     environ) == 0);
    close(server); /* it is not the other program's */
    heard(client, 1);
    NEED(waitpid(pid, NULL, 0) == pid);
    pairs(2);
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

static void *forks(void *unused)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    ends(pid);
    return unused;
}

/* In a child without free descriptors one thread uses an inherited epoll for the first time, which
 * takes a while, and another forks. What either reads ahead is the parent's. */
CASE(two_threads_without_descriptors)
{
    enum { CHILDREN = 20, PIPES = 400 };
    struct epoll_event ev = {.events = EPOLLIN};
    int epfd = epoll_create1(0), two[2];
    NEED(setrlimit(RLIMIT_NOFILE, &(struct rlimit){1000, 2000}) == 0);
    for (int i = 0; i < PIPES; i++)
        NEED(pipe(two) == 0 && epoll_ctl(epfd, EPOLL_CTL_ADD, two[0], &ev) == 0);
    connected();
    NEED(epoll_ctl(epfd, EPOLL_CTL_ADD, server, &ev) == 0);
    NEED(write(client, "x", 1) == 1);
    for (int i = 0; i < CHILDREN; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            pthread_t t;
            while (dup(epfd) >= 0)
                ;
            NEED(pthread_create(&t, NULL, forks, NULL) == 0);
            NEED(epoll_wait(epfd, &ev, 1, 0) >= 0);
            NEED(pthread_join(t, NULL) == 0);
            _exit(0);
        }
        ends(pid);
    }
    heard(server, 1);
}

static void *reads_one(void *unused)
{
    NEED(read(server, buffer, 1) == 1);
    return unused;
}

CASE(a_thread_of_a_child_reads_a_part)
{
    connected();
    NEED(write(client, "abc", 3) == 3);
    pid_t pid = fork();
    if (pid == 0) {
        pthread_t t;
        NEED(pthread_create(&t, NULL, reads_one, NULL) == 0 && pthread_join(t, NULL) == 0);
        _exit(0);
    }
    ends(pid);
    close(client);
    heard(server, 2);
}

static atomic_bool over;

static void *closes_from(void *unused)
{
    posix_spawn_file_actions_t a;
    while (!over) {
        NEED(posix_spawn_file_actions_init(&a) == 0);
        NEED(posix_spawn_file_actions_addclosefrom_np(&a, 3) == 0);
        NEED(posix_spawn_file_actions_destroy(&a) == 0);
    }
    return unused;
}

/* While one thread prepares spawns that close all descriptors, which may be beyond the limit,
 * another one's children and the process itself have the limit that was set. */
CASE(the_limit_beside_a_closefrom)
{
    enum { CHILDREN = 200, LIMIT = 200 };
    struct rlimit r = {LIMIT, 1000};
    pthread_t t;
    connected();
    NEED(setrlimit(RLIMIT_NOFILE, &r) == 0);
    NEED(pthread_create(&t, NULL, closes_from, NULL) == 0);
    for (int i = 0; i < CHILDREN; i++) {
        int status;
        pid_t pid = fork();
        NEED(pid >= 0);
        if (pid == 0)
            _exit(getrlimit(RLIMIT_NOFILE, &r) != 0 || r.rlim_cur != LIMIT ||
                  fcntl(0, F_DUPFD, LIMIT) >= 0);
        NEED(waitpid(pid, &status, 0) == pid && status == 0);
        NEED(getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur == LIMIT);
        for (int k = 1; k >= 0; k--) { /* what is set, and what was, in one place */
            r = (struct rlimit){LIMIT - k, 1000};
            NEED(prlimit(0, RLIMIT_NOFILE, &r, &r) == 0 && r.rlim_cur == LIMIT - !k);
        }
        r = (struct rlimit){1001, 1000};
        NEED(setrlimit(RLIMIT_NOFILE, &r) < 0 && errno == EINVAL);
    }
    over = true;
    NEED(pthread_join(t, NULL) == 0);
    NEED(write(client, "x", 1) == 1);
    heard(server, 1);
}

int main(int argc, char **argv)
{
    if (argc == 4)
        return pairs(atoi(argv[2]));
    if (argc == 3) {
        begins();
        return strcmp(argv[1], "vforks") == 0 ? vforks(atoi(argv[2])) : !by_poll(atoi(argv[2]));
    }
    return run_case(argc, argv);
}
