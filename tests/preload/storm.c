/*
 * storm.c - signal handlers that make calls, while calls are made; see test_contract.py.
 *
 * A timer sends signals faster than they are taken. What POSIX calls async-signal-safe works in a
 * handler whatever it interrupts: malloc, or a call on the very same socket.
 */
#include "cases.h"

#include <pthread.h>

static int storm = 3000; /* signals; `STORM=1000000 storm CASE`: so many */

static volatile sig_atomic_t handled, broken;
static int probe[2]; /* a connection of the handler's own */

/* With two threads there are locks to be taken. */
static void *idles(void *unused)
{
    sigset_t all;
    (void)unused;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    while (pause() < 0)
        ;
    return NULL;
}

static void by_storm(void (*handler)(int), void (*work)(void))
{
    struct sigaction on = {.sa_handler = handler, .sa_flags = SA_RESTART};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    struct itimerspec often = {{0, 30000}, {0, 30000}}, never = {{0, 0}, {0, 0}};
    pthread_t other;
    timer_t timer;
    sigset_t quiet, open;
    if (getenv("STORM")) {
        storm = atoi(getenv("STORM"));
        alarm(120 + (unsigned)storm / 1000);
    }
    sigemptyset(&quiet);
    sigaddset(&quiet, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &quiet, &open);
    NEED(pthread_create(&other, NULL, idles, NULL) == 0);
    pthread_sigmask(SIG_SETMASK, &open, NULL);
    NEED(sigaction(SIGUSR1, &on, NULL) == 0 && timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    NEED(timer_settime(timer, 0, &often, NULL) == 0);
    while (handled < storm)
        work();
    NEED(timer_settime(timer, 0, &never, NULL) == 0);
    printf("all handled, broken %d\n", (int)broken);
}

static void checked(bool well)
{
    int saved = errno;
    broken += !well;
    handled = handled + 1;
    errno = saved;
}

static void makes_sockets(int number)
{
    (void)number;
    int saved = errno, fd = socket(AF_INET, SOCK_STREAM, 0), copy = dup(fd);
    checked(fd >= 0 && copy >= 0 && close(fd) == 0 && close(copy) == 0);
    errno = saved;
}

static void talks(int number)
{
    char b;
    if (handled >= storm) /* the work is to end, too */
        return;
    int saved = errno;
    struct pollfd p = {.fd = probe[1], .events = POLLIN};
    (void)number;
    bool well = send(probe[0], "x", 1, MSG_DONTWAIT) == 1 && poll(&p, 1, 60000) == 1;
    checked(well && recv(probe[1], &b, 1, 0) == 1);
    errno = saved;
}

static void allocates(void)
{
    static void *held[256];
    static unsigned seed = 1;
    seed = seed * 1103515245 + 12345;
    unsigned i = seed >> 16 & 255;
    free(held[i]);
    held[i] = malloc(16 + (seed >> 8) % 600);
    NEED(held[i] != NULL);
}

static void exchanges(void)
{
    char b;
    NEED(write(client, "y", 1) == 1 && read(server, &b, 1) == 1 && b == 'y');
}

static void opens_and_closes(void)
{
    struct sockaddr_in a = anywhere();
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    NEED(bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(fd, 4) == 0 && close(fd) == 0);
}

static void connections(void)
{
    storm = 400; /* each is a way through the stack and back */
    connected();
    probe[0] = client;
    probe[1] = server;
    connected();
}

CASE(sockets_while_it_allocates)
{
    connected();
    by_storm(makes_sockets, allocates);
}

CASE(sockets_while_it_talks)
{
    connections();
    by_storm(makes_sockets, exchanges);
}

CASE(talk_while_it_talks)
{
    connections();
    by_storm(talks, exchanges);
}

CASE(talk_while_it_allocates)
{
    connections();
    by_storm(talks, allocates);
}

CASE(talk_while_it_opens_and_closes)
{
    connections();
    by_storm(talks, opens_and_closes);
}

/* ---- what a handler is told, and how often --------------------------------------------------- */

static int sum, added; /* by handlers that may interrupt each other */

static void adds(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    (void)__atomic_add_fetch(&sum, info->si_value.sival_int, __ATOMIC_RELAXED);
    (void)__atomic_add_fetch(&added, 1, __ATOMIC_RELAXED);
}

/* Each of a queue of real-time signals arrives once, with its value, whatever it interrupts. */
static void values(int flags, void (*work)(void))
{
    enum { EACH = 2000 };
    struct sigaction on = {.sa_sigaction = adds, .sa_flags = SA_RESTART | SA_SIGINFO | flags};
    connected();
    NEED(sigaction(SIGRTMIN + 3, &on, NULL) == 0);
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        for (int i = 1; i <= EACH; i++)
            while (sigqueue(parent, SIGRTMIN + 3, (union sigval){i}) < 0)
                sched_yield();
        _exit(0);
    }
    while (__atomic_load_n(&added, __ATOMIC_RELAXED) < EACH)
        work();
    ends(pid);
    printf("sum %d\n", sum);
}

CASE(queued_values)
{
    values(0, exchanges);
}

/* A handler that its own signal may interrupt. */
CASE(queued_values_without_deferring)
{
    values(SA_NODEFER, opens_and_closes);
}

static void once(int number)
{
    (void)number;
    handled = handled + 1;
}

/* SA_RESETHAND: the second one is the default's. */
CASE(one_shot)
{
    struct sigaction on = {.sa_handler = once, .sa_flags = (int)SA_RESETHAND}, now;
    connected();
    NEED(sigaction(SIGUSR2, &on, NULL) == 0 && raise(SIGUSR2) == 0);
    NEED(sigaction(SIGUSR2, NULL, &now) == 0);
    printf("handled %d default %d\n", (int)handled, now.sa_handler == SIG_DFL);
    pid_t pid = fork();
    if (pid == 0) {
        raise(SIGUSR2);
        _exit(0);
    }
    ends(pid);
}

int main(int argc, char **argv)
{
    return run_case(argc, argv);
}
