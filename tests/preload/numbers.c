/*
 * numbers.c - a descriptor ends, past the names that the shim has, and its number is used again;
 * see test_contract.py.
 *
 * What ends it is the C library's own close, as in code of the library itself.
 */
#include "cases.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

static int (*unseen_close)(int);
static int spare; /* a descriptor to be copied */

static void find_close(void)
{
    *(void **)&unseen_close = dlsym(dlopen("libc.so.6", RTLD_NOW), "close");
    NEED(unseen_close != NULL);
}

/* A connection whose client's number is free, and nobody was told. */
static int freed(void)
{
    find_close();
    connected();
    int number = client;
    NEED(unseen_close(number) == 0);
    return number;
}

static const char *kind(int fd)
{
    struct stat st;
    NEED(fstat(fd, &st) == 0);
    return S_ISREG(st.st_mode)    ? "file"
           : S_ISFIFO(st.st_mode) ? "pipe"
           : S_ISSOCK(st.st_mode) ? "socket"
           : S_ISCHR(st.st_mode)  ? "device"
                                  : "other";
}

/* It is what was made: what is written to it is not the network's,
 * where the connection has ended. */
static void is_itself(const char *what, int fd, int number)
{
    uint64_t one = 1;
    saw(what, fd);
    printf("the number %d, a %s\n", fd == number, kind(fd));
    saw("write", write(fd, &one, sizeof(one)));
    heard(server, sizeof(one));
}

#define MADE(name, expression)                                                                     \
    CASE(name)                                                                                     \
    {                                                                                              \
        spare = open("/dev/null", O_RDWR);                                                         \
        int number = freed();                                                                      \
        is_itself(#name, expression, number);                                                      \
    }

static int first(int rc, const int two[2])
{
    return rc < 0 ? -1 : two[0];
}

static sigset_t none;
static int two[2];
static char name[] = "/tmp/numbers-XXXXXX";

static int unlinked(int fd)
{
    unlink(name);
    return fd;
}

MADE(by_open, open("/dev/null", O_RDWR))
MADE(by_open_of_a_new_file, unlinked(mkstemp(name)))
MADE(by_openat, openat(AT_FDCWD, "/dev/null", O_RDWR))
MADE(by_creat, creat("/dev/null", 0600))
MADE(by_tmpfile_mode, open("/tmp", O_TMPFILE | O_RDWR, 0600))
MADE(by_pipe, first(pipe(two), two))
MADE(by_pipe2, first(pipe2(two, O_CLOEXEC), two))
MADE(by_socketpair, first(socketpair(AF_UNIX, SOCK_STREAM, 0, two), two))
MADE(by_eventfd, eventfd(0, 0))
MADE(by_timerfd, timerfd_create(CLOCK_MONOTONIC, 0))
MADE(by_signalfd, signalfd(-1, &none, 0))
MADE(by_memfd, memfd_create("numbers", 0))
MADE(by_inotify, inotify_init1(0))
MADE(by_epoll, epoll_create1(0))
MADE(by_dup, dup(spare))
MADE(by_dupfd, fcntl(spare, F_DUPFD, 0))
MADE(by_a_unix_socket, socket(AF_UNIX, SOCK_DGRAM, 0))
MADE(by_number, (int)syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR, 0))
MADE(by_number_of_memfd, (int)syscall(SYS_memfd_create, "numbers", 0))
MADE(by_stream, fileno(fopen("/dev/null", "r+")))
MADE(by_tmpfile, fileno(tmpfile()))

CASE(by_dup2)
{
    spare = open("/dev/null", O_RDWR);
    int number = freed();
    is_itself("dup2", dup2(spare, number), number);
}

CASE(by_accept_of_a_unix_socket)
{
    struct sockaddr_un {
        sa_family_t family;
        char path[16];
    } a = {AF_UNIX, "\0numbers"};
    int l = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM, 0);
    snprintf(a.path + 1, sizeof(a.path) - 1, "n%d", getpid());
    NEED(bind(l, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(l, 1) == 0);
    NEED(connect(c, (struct sockaddr *)&a, sizeof(a)) == 0);
    int number = freed();
    is_itself("accept", accept(l, NULL, NULL), number);
}

/* A descriptor comes over a unix socket. */
CASE(by_scm_rights)
{
    spare = open("/dev/null", O_RDWR);
    struct msghdr *m = with_fd(spare);
    NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, two) == 0 && sendmsg(two[0], m, 0) == 1);
    int number = freed(), fd;
    NEED(recvmsg(two[1], m, 0) == 1);
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(m)), sizeof(int));
    is_itself("recvmsg", fd, number);
}

CASE(by_accept_of_a_connection)
{
    int number = freed();
    client = connects();
    int again = accept(listener, NULL, NULL);
    printf("the number %d\n", client == number);
    saw("write", write(client, "new", 3));
    heard(again, 3);
    saw("close", close(again));
}

/* What was copied lives on in its copy. */
CASE(a_copy_lives_on)
{
    connected();
    find_close();
    int copy = dup(client), number = client;
    NEED(unseen_close(number) == 0);
    int file = open("/dev/null", O_RDWR);
    printf("the number %d, a %s\n", file == number, kind(file));
    saw("write", write(file, "lost", 4));
    saw("write", write(copy, "alive", 5));
    heard(server, 5);
    close(copy);
    heard(server, 1);
}

/* Nobody has made anything: the number is free. */
CASE(nothing_is_there)
{
    int number = freed();
    saw("close", close(number));
    saw("fcntl", fcntl(number, F_GETFD));
    heard(server, 1);
}

/* A program may have any number, also one that is taken by what is not the program's. */
static int takes_all(void)
{
    int failed = 0;
    spare = open("/dev/null", O_RDWR);
    for (int fd = 64; fd < 1024; fd++)
        failed += dup2(spare, fd) != fd;
    return failed;
}

CASE(takes_every_number)
{
    struct epoll_event ev = {.events = EPOLLIN};
    struct rlimit most = {1024, 1024};
    NEED(setrlimit(RLIMIT_NOFILE, &most) == 0);
    connected();
    int ep = epoll_create1(0);
    NEED(epoll_ctl(ep, EPOLL_CTL_ADD, server, &ev) == 0 && epoll_wait(ep, &ev, 1, 0) == 0);
    saw("refused", takes_all());
    saw("write", write(client, "x", 1));
    saw("epoll_wait", epoll_wait(ep, &ev, 1, 60000));
    heard(server, 1);
    for (int fd = 64; fd < 1024; fd++)
        NEED(fcntl(fd, F_GETFD) == 0 && close(fd) == 0);
    pid_t pid = fork();
    if (pid == 0)
        _exit(write(client, "y", 1) != 1);
    ends(pid);
    heard(server, 1);
}

/* ---- no number is free ----------------------------------------------------------------------- */

static void takes_the_rest(void)
{
    struct rlimit few;
    NEED(getrlimit(RLIMIT_NOFILE, &few) == 0);
    few.rlim_cur = 32; /* the hard limit stays */
    NEED(setrlimit(RLIMIT_NOFILE, &few) == 0);
    while (fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0) >= 0)
        ;
    NEED(errno == EMFILE);
}

static void *waits(void *unused)
{
    saw("recv", recv(server, buffer, 1, 0));
    return unused;
}

CASE(waits_at_the_limit)
{
    pthread_t t;
    connected();
    takes_the_rest();
    pid_t pid = fork();
    if (pid == 0)
        _exit(write(client, "x", 1) != 1);
    NEED(pthread_create(&t, NULL, waits, NULL) == 0 && pthread_join(t, NULL) == 0);
    ends(pid);
    saw("dup", dup(STDIN_FILENO));
}

CASE(an_epoll_at_the_limit)
{
    struct epoll_event ev = {.events = EPOLLIN};
    connected();
    int ep = epoll_create1(0);
    takes_the_rest();
    saw("epoll_ctl", epoll_ctl(ep, EPOLL_CTL_ADD, server, &ev));
    arrives("x");
    saw("epoll_wait", epoll_wait(ep, &ev, 1, 60000));
    saw("dup", dup(STDIN_FILENO));
}

/* With a descriptor of the kernel's in it. */
CASE(inherits_an_epoll_at_the_limit)
{
    struct epoll_event ev = {.events = EPOLLIN};
    NEED(pipe(two) == 0);
    connected();
    int ep = epoll_create1(0);
    NEED(epoll_ctl(ep, EPOLL_CTL_ADD, two[0], &ev) == 0);
    NEED(epoll_ctl(ep, EPOLL_CTL_ADD, server, &ev) == 0);
    takes_the_rest();
    arrives("x");
    pid_t pid = fork();
    if (pid == 0) {
        saw("epoll_wait", epoll_wait(ep, &ev, 1, 60000));
        saw("dup", dup(STDIN_FILENO));
        _exit(0);
    }
    ends(pid);
}

CASE(execs_at_the_limit)
{
    connected();
    takes_the_rest();
    pid_t pid = fork();
    if (pid == 0) {
        dup2(client, STDOUT_FILENO);
        execl("/bin/echo", "echo", "after", NULL);
        _exit(1);
    }
    ends(pid);
    heard(server, 6);
}

CASE(passes_at_the_limit)
{
    int two[2];
    NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, two) == 0);
    connected();
    takes_the_rest();
    saw("sendmsg", sendmsg(two[0], with_fd(client), 0));
    close(client);
    struct msghdr *m = with_fd(-1);
    saw("recvmsg", recvmsg(two[1], m, 0));
    memcpy(&client, CMSG_DATA(CMSG_FIRSTHDR(m)), sizeof(int));
    saw("write", write(client, "passed", 6));
    heard(server, 6);
}

int main(int argc, char **argv)
{
    return run_case(argc, argv);
}
