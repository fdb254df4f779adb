/* prefork.c - processes that share a listener: nobody has a connection before it accepts;
 * see test_contract.py. */
#include "cases.h"

#include <sys/prctl.h>

#define CHILDREN 4
#define SLOW 3
#define QUICK 40

static pid_t children[CHILDREN];
static int started[2];

/* ---- the ways to wait for a connection ------------------------------------------------------- */

typedef int way(void); /* a connection */

static int blocks(void)
{
    return accept(listener, NULL, NULL);
}

/* Accepts once `ready` has said that there is something. */
static int tries(void (*ready)(void))
{
    int fd;
    while ((fd = accept4(listener, NULL, NULL, 0)) < 0) {
        NEED(errno == EAGAIN);
        ready();
    }
    return fd;
}

static void polls(void)
{
    struct pollfd p = {.fd = listener, .events = POLLIN};
    NEED(poll(&p, 1, -1) == 1);
}

static int polled(void)
{
    polls();
    return tries(polls);
}

static void selects(void)
{
    fd_set set;
    FD_ZERO(&set);
    FD_SET(listener, &set);
    NEED(select(listener + 1, &set, NULL, NULL, NULL) == 1);
}

static int selected(void)
{
    selects();
    return tries(selects);
}

static int epfd = -1;

static void epolls(void)
{
    struct epoll_event ev;
    NEED(epoll_wait(epfd, &ev, 1, -1) == 1);
}

static int with_epoll(uint32_t events)
{
    struct epoll_event ev = {.events = events};
    if (epfd < 0) {
        epfd = epoll_create1(0);
        NEED(epoll_ctl(epfd, EPOLL_CTL_ADD, listener, &ev) == 0);
    }
    if (!(events & EPOLLET)) /* an edge may have gone by */
        epolls();
    return tries(epolls);
}

static int by_level(void)
{
    return with_epoll(EPOLLIN);
}

static int by_edge(void)
{
    return with_epoll(EPOLLIN | EPOLLET);
}

static int exclusively(void)
{
    return with_epoll(EPOLLIN | EPOLLEXCLUSIVE);
}

static int exclusively_by_edge(void)
{
    return with_epoll(EPOLLIN | EPOLLET | EPOLLEXCLUSIVE);
}

/* ---- the server ------------------------------------------------------------------------------ */

/* Answers each byte; a connection lasts until its client closes it. */
static void serves(way *next)
{
    char byte;
    NEED(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && write(started[1], "s", 1) == 1);
    for (;;) {
        int fd = next();
        NEED(fd >= 0);
        while (read(fd, &byte, 1) == 1)
            NEED(write(fd, &byte, 1) == 1);
        close(fd);
    }
}

static void begins_with(way *next, bool blocking)
{
    char byte;
    listens();
    NEED(blocking || fcntl(listener, F_SETFL, O_NONBLOCK) == 0);
    NEED(pipe(started) == 0);
    for (int i = 0; i < CHILDREN; i++) {
        children[i] = fork();
        if (children[i] == 0)
            serves(next);
        NEED(children[i] > 0);
    }
    for (int i = 0; i < CHILDREN; i++)
        NEED(read(started[0], &byte, 1) == 1);
}

static void is_answered(int fd)
{
    char byte;
    NEED(write(fd, "?", 1) == 1 && read(fd, &byte, 1) == 1);
}

static void all_end(void)
{
    for (int i = 0; i < CHILDREN; i++) {
        kill(children[i], SIGKILL);
        waitpid(children[i], NULL, 0);
    }
}

/* All but one are busy with a connection each that goes on:
 * the others' connections are the last one's. */
static void beside_slow_ones(way *next, bool blocking)
{
    int slow[SLOW];
    begins_with(next, blocking);
    for (int i = 0; i < SLOW; i++) {
        slow[i] = connects();
        is_answered(slow[i]);
    }
    for (int i = 0; i < QUICK; i++) {
        int fd = connects();
        is_answered(fd);
        close(fd);
    }
    saw("quick ones", QUICK);
    for (int i = 0; i < SLOW; i++) {
        is_answered(slow[i]);
        close(slow[i]);
    }
    all_end();
}

CASE(accept_blocks)
{
    beside_slow_ones(blocks, true);
}

CASE(poll_then_accept)
{
    beside_slow_ones(polled, false);
}

CASE(select_then_accept)
{
    beside_slow_ones(selected, false);
}

CASE(epoll_by_level)
{
    beside_slow_ones(by_level, false);
}

CASE(epoll_by_edge)
{
    beside_slow_ones(by_edge, false);
}

CASE(epoll_exclusive)
{
    beside_slow_ones(exclusively, false);
}

CASE(epoll_exclusive_by_edge)
{
    beside_slow_ones(exclusively_by_edge, false);
}

/* ---- many at once ---------------------------------------------------------------------------- */

/* They came before anybody accepts: one child is busy with the first,
 * the rest are for the others. */
CASE(came_before_anybody_accepted)
{
    int fd[8];
    char byte;
    listens();
    NEED(pipe(started) == 0);
    for (int i = 0; i < 8; i++) {
        fd[i] = connects();
        NEED(write(fd[i], "?", 1) == 1);
    }
    for (int i = 0; i < CHILDREN; i++)
        if ((children[i] = fork()) == 0)
            serves(blocks);
    int answered = 0;
    for (int i = 1; i < 8; i++) { /* the first stays open until the end */
        NEED(read(fd[i], &byte, 1) == 1 &&
             shutdown(fd[i], SHUT_WR) == 0); /* children have it, too */
        answered++;
    }
    saw("the others", answered);
    NEED(read(fd[0], &byte, 1) == 1);
    all_end();
}

static void the_last_answers(void)
{
    for (int i = 0; i < QUICK; i++) {
        int fd = connects();
        is_answered(fd);
        close(fd);
    }
    saw("answered by the last", QUICK);
    all_end();
}

/* Of several that wait some die: what was offered to them is the others'. */
CASE(some_that_wait_are_killed)
{
    begins_with(blocks, true);
    for (int i = 0; i < CHILDREN - 1; i++) {
        int fd = connects();
        kill(children[i], SIGKILL);
        waitpid(children[i], NULL, 0);
        close(fd);
    }
    the_last_answers();
}

/* Some are stopped while they wait. */
CASE(some_that_wait_are_stopped)
{
    begins_with(polled, false);
    for (int i = 0; i < CHILDREN - 1; i++)
        kill(children[i], SIGSTOP);
    the_last_answers();
}

/* Who asks without waiting is told the truth, also when a child has taken it. */
CASE(asked_without_waiting)
{
    struct pollfd p;
    listens();
    p = (struct pollfd){.fd = listener, .events = POLLIN};
    NEED(fcntl(listener, F_SETFL, O_NONBLOCK) == 0);
    int fd = connects();
    saw("there is one", poll(&p, 1, 0));
    pid_t pid = fork();
    if (pid == 0) {
        saw("so it is for a child", poll(&p, 1, 0));
        server = accept(listener, NULL, NULL);
        saw("who takes it", server >= 0);
        saw("and there is no other", accept(listener, NULL, NULL));
        _exit(0);
    }
    ends(pid);
    saw("none for the parent", accept(listener, NULL, NULL));
    saw("none to poll for", poll(&p, 1, 0));
    close(fd);
    fd = connects();
    saw("another", accept(listener, NULL, NULL) >= 0);
}

/* The parent alone accepts;
 * what it was told of is given to it unasked when the others have gone. */
CASE(the_others_go)
{
    struct pollfd p;
    int hold[2];
    char byte;
    listens();
    NEED(pipe(hold) == 0);
    p = (struct pollfd){.fd = listener, .events = POLLIN};
    pid_t pid = fork();
    if (pid == 0) {
        close(hold[1]);
        _exit(read(hold[0], &byte, 1) != 0);
    }
    int first = connects();
    saw("poll", poll(&p, 1, -1));
    close(hold[1]);
    ends(pid);
    int second = connects();
    saw("accept", accept(listener, NULL, NULL) >= 0);
    saw("accept", accept(listener, NULL, NULL) >= 0);
    saw("no more", poll(&p, 1, 0));
    close(first);
    close(second);
}

int main(int argc, char **argv)
{
    return run_case(argc, argv);
}
