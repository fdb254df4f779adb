/* async.c - O_ASYNC: signals for what comes to a socket; see test_contract.py. */
#include "cases.h"

#include <pthread.h>

static sigset_t waited_for;

static void armed(int fd, int number)
{
    sigemptyset(&waited_for);
    sigaddset(&waited_for, number);
    NEED(sigprocmask(SIG_BLOCK, &waited_for, NULL) == 0);
    NEED(fcntl(fd, F_SETOWN, getpid()) == 0);
    NEED(number == SIGIO || fcntl(fd, F_SETSIG, number) == 0);
    NEED(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC) == 0);
    printf("O_ASYNC %d, signal %d, owner %d\n", (fcntl(fd, F_GETFL) & O_ASYNC) != 0,
           fcntl(fd, F_GETSIG), fcntl(fd, F_GETOWN) == getpid());
}

/* The next signal, in time; `fd`: what it is to be of. */
static void comes(const char *what, int fd, long ms)
{
    struct timespec limit = {ms / 1000, ms % 1000 * 1000000};
    siginfo_t info = {.si_fd = -1};
    int number = sigtimedwait(&waited_for, &info, &limit);
    saw(what, number);
    if (number >= SIGRTMIN)
        printf("of it %d, POLL_IN %d, band %lx\n", info.si_fd == fd, info.si_code == POLL_IN,
               info.si_band);
}

CASE(a_connection)
{
    listens();
    armed(listener, SIGIO);
    client = connects();
    comes("SIGIO", listener, 10000);
    server = accept(listener, NULL, NULL);
    saw("accepted without it", fcntl(server, F_GETFL) & O_ASYNC);
}

CASE(data_at_who_accepted)
{
    connected();
    armed(server, SIGIO);
    NEED(write(client, "x", 1) == 1);
    comes("SIGIO", server, 10000);
    heard(server, 1);
}

CASE(data_by_a_signal_that_says_of_what)
{
    connected();
    armed(server, SIGRTMIN + 3);
    for (int i = 0; i < 3; i++) {
        NEED(write(client, "x", 1) == 1);
        comes("signal", server, 10000);
        heard(server, 1);
    }
    NEED(fcntl(server, F_SETFL, fcntl(server, F_GETFL) & ~O_ASYNC) == 0);
    arrives("y");
    comes("switched off", server, 0);
}

CASE(armed_before_it_listens)
{
    struct sockaddr_in a = anywhere();
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    NEED(bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
    armed(fd, SIGRTMIN + 1);
    NEED(ioctl(fd, FIOASYNC, &on) == 0 && listen(fd, 8) == 0);
    listener = fd;
    while (sigtimedwait(&waited_for, NULL, &(struct timespec){0, 0}) > 0)
        ; /* what listen() itself has caused */
    client = connects();
    comes("signal", fd, 10000);
    NEED(accept(fd, NULL, NULL) >= 0);
}

CASE(the_end)
{
    connected();
    armed(server, SIGRTMIN);
    NEED(close(client) == 0);
    comes("signal", server, 10000);
    heard(server, 1);
}

CASE(a_datagram)
{
    struct sockaddr_in a = anywhere();
    int fd = socket(AF_INET, SOCK_DGRAM, 0), from = socket(AF_INET, SOCK_DGRAM, 0);
    NEED(bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
    a = where(fd);
    armed(fd, SIGRTMIN);
    NEED(sendto(from, "x", 1, 0, (struct sockaddr *)&a, sizeof(a)) == 1);
    comes("signal", fd, 10000);
    heard(fd, 1);
    connected(); /* a test looks for a connection */
}

/* Through the copy it is the same socket, and it stays the parent's. */
CASE(of_a_copy_after_a_fork)
{
    connected();
    int copy = dup(server);
    armed(server, SIGRTMIN);
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    ends(pid);
    NEED(write(client, "x", 1) == 1);
    comes("signal", server, 10000);
    heard(copy, 1);
    saw("flags", fcntl(copy, F_GETFL) & O_ASYNC);
}

static void *waits_for_it(void *of)
{
    struct f_owner_ex me = {F_OWNER_TID, gettid()};
    NEED(fcntl(server, F_SETOWN_EX, &me) == 0 && write(client, "x", 1) == 1);
    comes("the thread's", *(int *)of, 10000);
    return NULL;
}

CASE(to_a_thread)
{
    pthread_t t;
    connected();
    armed(server, SIGRTMIN);
    NEED(pthread_create(&t, NULL, waits_for_it, &server) == 0);
    NEED(pthread_join(t, NULL) == 0);
    comes("nobody else's", server, 0);
}

int main(int argc, char **argv)
{
    return run_case(argc, argv);
}
