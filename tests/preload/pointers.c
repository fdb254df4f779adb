/* pointers.c - bad pointers: EFAULT, as from the kernel,
 * and the socket and its bytes are as before. */
#include "cases.h"

#include <pthread.h>
#include <sys/mman.h>

static char *page;     /* the last bytes that are there; then comes nothing */
static void *nowhere;  /* the first that is not */
static void *constant; /* to be read only */

static void pages(void)
{
    page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    constant = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    NEED(page != MAP_FAILED && constant != MAP_FAILED);
    NEED(mprotect(page + 4096, 4096, PROT_NONE) == 0);
    nowhere = page + 4096;
    connected();
}

CASE(bytes_in)
{
    pages();
    arrives("hello");
    saw("read", read(server, nowhere, 5));
    saw("into constants", read(server, constant, 5));
    saw("recv", recv(server, nowhere, 5, 0));
    saw("peek", recv(server, nowhere, 5, MSG_PEEK));
    saw("recvfrom", recvfrom(server, nowhere, 5, 0, NULL, NULL));
    saw("the first three", read(server, page + 4093, 5) > 3);
    saw("nothing to write", recv(server, nowhere, 0, 0));
    heard(server, 5);
}

CASE(bytes_out)
{
    pages();
    saw("write", write(client, nowhere, 5));
    saw("send", send(client, nowhere, 5, 0));
    saw("sendto", sendto(client, nowhere, 5, 0, NULL, 0));
    saw("to nowhere", sendto(client, "hello", 5, 0, nowhere, 16));
    saw("of no length", sendto(client, "hello", 5, 0, (struct sockaddr *)page, (socklen_t)-1));
    for (int i = 0; i < 3000; i++) /* each has had a buffer of the pool for a moment */
        NEED(write(client, nowhere, 4096) < 0 && errno == EFAULT);
    arrives("hello");
    heard(server, 5);
}

CASE(vectors)
{
    struct iovec good[2] = {{buffer, 3}, {buffer + 3, 2}}, bad[2] = {{buffer, 0}, {NULL, 5}};
    pages();
    bad[1].iov_base = nowhere;
    arrives("hello");
    saw("readv of nothing", readv(server, nowhere, 1));
    saw("readv into nothing", readv(server, bad, 2));
    saw("too long", readv(server, &(struct iovec){buffer, (size_t)-1}, 1));
    saw("writev of nothing", writev(client, nowhere, 1));
    saw("writev from nothing", writev(client, bad, 2));
    saw("writev, too long", writev(client, &(struct iovec){buffer, (size_t)-1}, 1));
    saw("readv", readv(server, good, 2));
}

CASE(messages)
{
    struct msghdr vector = {.msg_iovlen = 1}, data = {.msg_iovlen = 1};
    struct mmsghdr many[2] = {{.msg_len = 0}};
    struct iovec iov = {.iov_len = 5};
    pages();
    vector.msg_iov = nowhere;
    data.msg_iov = &iov;
    iov.iov_base = nowhere;
    arrives("hello");
    saw("recvmsg", recvmsg(server, nowhere, 0));
    saw("its vector", recvmsg(server, &vector, 0));
    saw("its data", recvmsg(server, &data, 0));
    saw("sendmsg", sendmsg(client, nowhere, 0));
    saw("its vector", sendmsg(client, &vector, 0));
    saw("its data", sendmsg(client, &data, 0));
    saw("recvmmsg", recvmmsg(server, nowhere, 1, MSG_DONTWAIT, NULL));
    saw("sendmmsg", sendmmsg(client, nowhere, 1, 0));
    saw("no time-out", recvmmsg(server, many, 2, 0, &(struct timespec){1, 1000000000}));
    struct msghdr control = {.msg_iov = &iov, .msg_iovlen = 1, .msg_controllen = 64};
    int ends_of[2];
    iov.iov_base = buffer;
    control.msg_control = nowhere;
    NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, ends_of) == 0);
    saw("its control messages", sendmsg(ends_of[0], &control, 0));
    saw("before time", recvmmsg(server, many, 2, 0, &(struct timespec){-1, 0}));
    heard(server, 5);
}

CASE(datagrams)
{
    struct sockaddr_in a = anywhere();
    struct iovec iov[2] = {{buffer, 2}, {NULL, 5}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
    socklen_t len = sizeof(a);
    pages();
    iov[1].iov_base = nowhere;
    server = socket(AF_INET, SOCK_DGRAM, 0);
    client = socket(AF_INET, SOCK_DGRAM, 0);
    NEED(bind(server, (struct sockaddr *)&a, len) == 0);
    a = where(server);
    saw("to nowhere", sendto(client, "hello", 5, 0, nowhere, len));
    saw("from nowhere", sendto(client, nowhere, 5, 0, (struct sockaddr *)&a, len));
    NEED(connect(client, (struct sockaddr *)&a, len) == 0);
    saw("in pieces", sendmsg(client, &m, 0));
    arrives("first");
    saw("into nothing", recv(server, nowhere, 5, 0));
    saw("it is gone", recv(server, buffer, 5, MSG_DONTWAIT));
    arrives("second");
    saw("no name", recvfrom(server, buffer, 6, 0, nowhere, &len));
    arrives("third");
    saw("no length", recvfrom(server, buffer, 5, 0, (struct sockaddr *)&a, nowhere));
    arrives("fourth");
    heard(server, 6);
}

CASE(lengths_of_addresses)
{
    static const int lengths[] = {-1, 0, 15, 128, 129, 4000};
    struct iovec iov = {"hello", 5};
    pages();
    struct sockaddr *to = (struct sockaddr *)page;
    server = socket(AF_INET, SOCK_DGRAM, 0);
    *(struct sockaddr_in *)page = anywhere();
    NEED(bind(server, to, sizeof(struct sockaddr_in)) == 0);
    *(struct sockaddr_in *)page = where(server);
    for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
        struct msghdr m = {.msg_name = to, .msg_iov = &iov, .msg_iovlen = 1};
        socklen_t len = m.msg_namelen = (socklen_t)lengths[i];
        client = socket(AF_INET, SOCK_DGRAM, 0);
        saw("sendto", sendto(client, "hello", 5, 0, to, len));
        saw("sendmsg", sendmsg(client, &m, 0));
        saw("connect", connect(client, to, len));
        NEED(connect(client, to, sizeof(struct sockaddr_in)) == 0);
        saw("sendto, connected", sendto(client, "hello", 5, 0, to, len));
        saw("sendmsg, connected", sendmsg(client, &m, 0));
        close(client);
    }
}

CASE(names)
{
    struct sockaddr_in a;
    socklen_t len = sizeof(a), negative = (socklen_t)-1;
    pages();
    saw("getsockname", getsockname(server, nowhere, &len));
    saw("its length", getsockname(server, (struct sockaddr *)&a, nowhere));
    saw("a negative one", getsockname(server, (struct sockaddr *)&a, &negative));
    saw("getpeername", getpeername(server, nowhere, &len));
    arrives("once");
    saw("a negative one", recvfrom(server, buffer, 2, 0, (struct sockaddr *)&a, &negative));
    saw("no length", recvfrom(server, buffer, 2, 0, (struct sockaddr *)&a, nowhere));
    saw("bind", bind(socket(AF_INET, SOCK_STREAM, 0), nowhere, len));
    saw("connect", connect(socket(AF_INET, SOCK_STREAM, 0), nowhere, len));
    saw("too long", connect(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)page, 4000));
    int lost = connects();
    saw("accept", accept(listener, nowhere, &len));
    saw("that was closed", recv(lost, buffer, 1, 0));
    lost = connects();
    saw("accept's length", accept(listener, (struct sockaddr *)&a, nowhere));
    saw("that, too", recv(lost, buffer, 1, 0));
    client = connects();
    saw("the next", accept(listener, NULL, NULL) >= 0);
}

CASE(options)
{
    int on = 1;
    socklen_t len = sizeof(on);
    pages();
    saw("set", setsockopt(server, SOL_SOCKET, SO_KEEPALIVE, nowhere, len));
    saw("get", getsockopt(server, SOL_SOCKET, SO_KEEPALIVE, nowhere, &len));
    saw("its length", getsockopt(server, SOL_SOCKET, SO_KEEPALIVE, &on, nowhere));
    saw("a time-out", getsockopt(server, SOL_SOCKET, SO_RCVTIMEO, nowhere, &len));
    saw("what waits", ioctl(server, FIONREAD, nowhere));
}

CASE(readiness)
{
    struct pollfd p = {.fd = 0, .events = POLLIN};
    int ep = epoll_create1(0);
    fd_set set;
    pages();
    arrives("hello");
    p.fd = server;
    FD_ZERO(&set);
    FD_SET(server, &set);
    saw("poll", poll(nowhere, 1, 0));
    saw("ppoll", ppoll(nowhere, 1, NULL, NULL));
    saw("select", select(server + 1, nowhere, NULL, NULL, NULL));
    saw("to write", select(server + 1, &set, nowhere, NULL, NULL));
    saw("epoll_ctl", epoll_ctl(ep, EPOLL_CTL_ADD, server, nowhere));
    NEED(epoll_ctl(ep, EPOLL_CTL_ADD, server, &(struct epoll_event){.events = EPOLLIN}) == 0);
    saw("epoll_wait", epoll_wait(ep, nowhere, 4, 60000));
    saw("poll after all", poll(&p, 1, 60000));
}

CASE(events_beyond_the_first)
{
    struct epoll_event ev = {.events = EPOLLOUT}, *last;
    int ep = epoll_create1(0);
    pages();
    last = (struct epoll_event *)((char *)nowhere - sizeof(*last));
    NEED(epoll_ctl(ep, EPOLL_CTL_ADD, server, &ev) == 0);
    NEED(epoll_ctl(ep, EPOLL_CTL_ADD, client, &ev) == 0);
    saw("both", epoll_wait(ep, last - 1, 2, 60000));
    saw("one finds room", epoll_wait(ep, last, 2, 60000));
    saw("none", epoll_wait(ep, nowhere, 2, 60000));
    saw("both", epoll_wait(ep, last - 1, 2, 60000));
}

CASE(by_number)
{
    struct pollfd p = {.fd = 0, .events = POLLIN};
    struct timespec limit = {0, 20000000}, much = {100, 0}, wrong = {0, 1000000000};
    fd_set set;
    sigset_t none;
    sigemptyset(&none);
    FD_ZERO(&set);
    pages();
    p.fd = server;
    FD_SET(server, &set);
    struct {
        void *mask;
        size_t size;
    } open = {&none, 7};
    saw("a mask's size", syscall(SYS_ppoll, &p, 1, NULL, &none, 7));
    saw("a pair's", syscall(SYS_pselect6, server + 1, &set, NULL, NULL, NULL, &open));
    saw("no pair", syscall(SYS_pselect6, server + 1, &set, NULL, NULL, NULL, nowhere));
    saw("no time", syscall(SYS_ppoll, &p, 1, nowhere, NULL, 8));
    saw("no time", syscall(SYS_pselect6, server + 1, &set, NULL, NULL, nowhere, NULL));
#ifdef SYS_select
    saw("no time", syscall(SYS_select, server + 1, &set, NULL, NULL, nowhere));
#endif
    saw("wrong time", syscall(SYS_ppoll, &p, 1, &wrong, NULL, 8));
    saw("over", syscall(SYS_ppoll, &p, 1, &limit, NULL, 8));
    saw("nothing is left", limit.tv_sec == 0 && limit.tv_nsec == 0);
    arrives("hello");
    open.size = 8;
    saw("ready", syscall(SYS_pselect6, server + 1, &set, NULL, NULL, &much, &open));
    saw("much is left", much.tv_sec == 99 && much.tv_nsec > 0);
    pending(&none);
    FD_ZERO(&set);
    FD_SET(listener, &set);
    saw("what comes", syscall(SYS_pselect6, listener + 1, &set, NULL, NULL, &much, &open));
    saw("ran", signals);
}

CASE(files)
{
    pages();
    saw("sendfile", sendfile(client, some_file(), nowhere, 4));
    saw("its offset", sendfile(client, some_file(), constant, 4));
}

CASE(environments)
{
    char *bad[] = {"A=b", nowhere, NULL}, *args[] = {"true", NULL};
    pages();
    saw("nowhere", execve("/bin/true", args, nowhere));
    saw("an entry", execve("/bin/true", args, bad));
}

CASE(children)
{
    pages();
    saw("clone3", syscall(SYS_clone3, nowhere, 88));
    saw("beyond the end", syscall(SYS_clone3, page + 4032, 88));
    saw("too small", syscall(SYS_clone3, page, 8));
}

/* ---- a program's own faults ------------------------------------------------------------------ */

CASE(no_handler)
{
    struct sigaction a;
    pid_t pid;
    pages();
    NEED(sigaction(SIGSEGV, NULL, &a) == 0);
    saw("none", a.sa_handler == SIG_DFL && a.sa_flags == 0);
    if ((pid = fork()) == 0)
        *(volatile char *)nowhere = 1;
    ends(pid);
    if ((pid = fork()) == 0) {
        raise(SIGSEGV);
        pause();
    }
    ends(pid);
    if ((pid = fork()) == 0) {
        signal(SIGBUS, SIG_IGN);
        raise(SIGBUS);
        _exit(3);
    }
    ends(pid);
}

static void mended(int number, siginfo_t *info, void *context)
{
    (void)context;
    printf("%d at %d\n", number, info->si_addr == nowhere);
    arrives("from the handler");
    NEED(mprotect(nowhere, 4096, PROT_READ | PROT_WRITE) == 0);
}

CASE(its_own_handler)
{
    struct sigaction a = {.sa_sigaction = mended, .sa_flags = SA_SIGINFO};
    pages();
    NEED(sigaction(SIGSEGV, &a, NULL) == 0);
    arrives("x");
    saw("a bad pointer is not for it", read(server, nowhere, 5));
    heard(server, 1);
    *(volatile char *)nowhere = 1;
    heard(server, 16);
    NEED(sigaction(SIGSEGV, NULL, &a) == 0);
    saw("it is there", a.sa_sigaction == mended && (a.sa_flags & SA_SIGINFO));
}

/* ---- where the signals of faults do not come ------------------------------------------------- */

static sigset_t faults(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGSEGV);
    sigaddset(&set, SIGBUS);
    return set;
}

/* One of each way to use the program's memory. */
static void bad_pointers(void)
{
    struct epoll_event ev = {.events = EPOLLIN};
    int ep = epoll_create1(0);
    NEED(ep >= 0 && epoll_ctl(ep, EPOLL_CTL_ADD, server, &ev) == 0);
    arrives("x");
    saw("read", read(server, nowhere, 1));
    saw("write", write(client, nowhere, 1));
    saw("readv", readv(server, nowhere, 1));
    saw("sendmsg", sendmsg(client, nowhere, 0));
    saw("poll", poll(nowhere, 1, 0));
    saw("select", select(server + 1, nowhere, NULL, NULL, NULL));
    saw("epoll_wait", epoll_wait(ep, nowhere, 1, 0));
    saw("getsockname", getsockname(server, nowhere, nowhere));
    heard(server, 1);
    close(ep);
}

CASE(blocked)
{
    sigset_t set = faults(), now;
    pages();
    NEED(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    bad_pointers();
    NEED(sigprocmask(SIG_BLOCK, NULL, &now) == 0);
    saw("still blocked", sigismember(&now, SIGSEGV) + 2 * sigismember(&now, SIGBUS));
    NEED(sigprocmask(SIG_UNBLOCK, &set, NULL) == 0);
    bad_pointers();
    sigfillset(&set);
    NEED(pthread_sigmask(SIG_SETMASK, &set, NULL) == 0);
    bad_pointers();
    sigemptyset(&set);
    NEED(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &set, NULL, _NSIG / 8) == 0);
    bad_pointers();
    sigfillset(&set);
    NEED(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &set, NULL, _NSIG / 8) == 0);
    bad_pointers();
}

static void *in_a_thread(void *unused)
{
    bad_pointers();
    return unused;
}

CASE(blocked_in_a_new_thread)
{
    sigset_t set = faults(), were;
    pthread_t t;
    pages();
    NEED(pthread_sigmask(SIG_BLOCK, &set, &were) == 0);
    NEED(pthread_create(&t, NULL, in_a_thread, NULL) == 0);
    NEED(pthread_sigmask(SIG_SETMASK, &were, NULL) == 0);
    NEED(pthread_join(t, NULL) == 0);
    bad_pointers();
}

CASE(ignored)
{
    pages();
    signal(SIGSEGV, SIG_IGN);
    signal(SIGBUS, SIG_IGN);
    bad_pointers();
    NEED(raise(SIGSEGV) == 0 && raise(SIGBUS) == 0);
    saw("ignored", signal(SIGSEGV, SIG_DFL) == SIG_IGN);
    bad_pointers();
}

static void in_its_handler(int number)
{
    (void)number;
    bad_pointers();
    NEED(mprotect(nowhere, 4096, PROT_READ | PROT_WRITE) == 0);
}

CASE(in_the_handler_of_a_fault)
{
    pages();
    signal(SIGSEGV, in_its_handler);
    *(volatile char *)nowhere = 1;
    NEED(mprotect(nowhere, 4096, PROT_NONE) == 0);
    bad_pointers();
}

static void in_a_handler(int number)
{
    (void)number;
    bad_pointers();
}

CASE(blocked_by_a_handler)
{
    struct sigaction a = {.sa_handler = in_a_handler, .sa_mask = faults()};
    pages();
    NEED(sigaction(SIGUSR1, &a, NULL) == 0 && raise(SIGUSR1) == 0);
    bad_pointers();
}

/* It was sent while it is blocked: it waits, whatever the thread reads meanwhile. */
CASE(blocked_and_sent)
{
    sigset_t set = faults(), waiting;
    pages();
    signal(SIGSEGV, count);
    NEED(sigprocmask(SIG_BLOCK, &set, NULL) == 0 && raise(SIGSEGV) == 0);
    arrives("hello");
    heard(server, 5);
    NEED(sigpending(&waiting) == 0);
    saw("waits", sigismember(&waiting, SIGSEGV) + 2 * signals);
    NEED(sigprocmask(SIG_UNBLOCK, &set, NULL) == 0);
    saw("has come", signals);
}

/* A fault that is the program's own ends it, blocked or not. */
CASE(blocked_and_its_own)
{
    sigset_t set = faults();
    pages();
    signal(SIGSEGV, count);
    pid_t pid = fork();
    if (pid == 0) {
        NEED(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
        *(volatile char *)nowhere = 1;
        _exit(3);
    }
    ends(pid);
}

/* A mapping is longer than its file: SIGBUS. */
CASE(a_file_cut_short)
{
    sigset_t set = faults();
    int fd = memfd_create("short", 0);
    connected();
    nowhere = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    NEED(nowhere != MAP_FAILED);
    bad_pointers();
    NEED(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    bad_pointers();
}

static sigset_t masked;

static void after_it(int number)
{
    (void)number;
    saw("read", read(server, nowhere, 1));
    NEED(sigprocmask(SIG_BLOCK, NULL, &masked) == 0);
}

CASE(the_mask_stays)
{
    sigset_t now;
    pages();
    arrives("x");
    saw("read", read(server, nowhere, 1));
    NEED(sigprocmask(SIG_BLOCK, NULL, &now) == 0);
    saw("blocked", sigismember(&now, SIGSEGV));
    signal(SIGUSR1, after_it);
    NEED(raise(SIGUSR1) == 0);
    saw("blocked in a handler", sigismember(&masked, SIGUSR1) + 2 * sigismember(&masked, SIGSEGV));
}

int main(int argc, char **argv)
{
    return run_case(argc, argv);
}
