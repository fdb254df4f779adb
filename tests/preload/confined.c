/*
 * confined.c - a process that forbids itself almost all system calls (seccomp) and then serves a
 * connection that it has inherited, as sshd's does. `confined CASE`, natively and under the shim.
 *
 * A case ends with status 0, or says what is not so.
 */
#include "check.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define DO(op, what, yes, no) BPF_JUMP(BPF_JMP | BPF_##op | BPF_K, what, yes, no)
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define RETURN(what) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_##what)
#define ALLOW(call) DO(JEQ, SYS_##call, 0, 1), RETURN(ALLOW)

/* Any other call ends the process; there may be no descriptor above 0 for poll, either. */
static void confine(bool by_number, unsigned flags)
{
    struct sock_filter code[] = {
        LOAD(nr),      ALLOW(read),          ALLOW(write),
        ALLOW(close),  ALLOW(shutdown),      ALLOW(ppoll),
#ifdef SYS_poll
        ALLOW(poll),
#endif
        ALLOW(brk),    ALLOW(mmap),          ALLOW(munmap),
        ALLOW(mremap), ALLOW(madvise),       ALLOW(futex),
        ALLOW(getpid), ALLOW(clock_gettime), ALLOW(rt_sigprocmask),
        ALLOW(exit),   ALLOW(exit_group),    RETURN(KILL_PROCESS),
    };
    struct sock_fprog filter = {sizeof(code) / sizeof(*code), code};
    struct rlimit one = {1, 1};
    CHECK(setrlimit(RLIMIT_NOFILE, &one) == 0);
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    if (by_number)
        CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &filter) == 0);
    else
        CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0);
}

static void until_asleep(pid_t pid)
{
    char path[64], line[512], state = 0;
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    while (state != 'S') {
        FILE *f = fopen(path, "r");
        CHECK(f && fgets(line, sizeof(line), f));
        CHECK(sscanf(strrchr(line, ')'), ") %c", &state) == 1 && state != 'Z');
        CHECK(fclose(f) == 0);
    }
}

/* Echoes `rounds` words of 4 bytes. */
static void echo(int fd, int rounds, bool polls)
{
    char b[4];
    for (int i = 0; i < rounds; i++) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (polls)
            CHECK(poll(&p, 1, -1) == 1 && p.revents == POLLIN);
        CHECK(read(fd, b, 4) == 4);
        CHECK(write(fd, b, 4) == 4);
    }
}

/* A child serves, asleep before each word; what it did not read is its parent's. */
static void serve(bool polls, bool by_number)
{
    enum { ROUNDS = 50 };
    int peer, fd, status;
    char b[5];
    pair(SOCK_STREAM, &peer, &fd);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        confine(by_number, 0);
        echo(fd, ROUNDS + 1, polls);
        _exit(0);
    }
    for (int i = 0; i < ROUNDS; i++) {
        until_asleep(pid);
        CHECK(send(peer, "word", 4, 0) == 4);
        CHECK(recv(peer, b, 4, MSG_WAITALL) == 4 && memcmp(b, "word", 4) == 0);
    }
    CHECK(send(peer, "last, left", 10, 0) == 10);
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK_EQ(status, 0);
    CHECK(recv(fd, b, 5, 0) == 5 && memcmp(b, ", lef", 5) == 0);
    CHECK(close(fd) == 0 && close(peer) == 0);
}

CASE(reads)
{
    serve(false, false);
}

CASE(polls)
{
    serve(true, false);
}

CASE(filtered_by_number)
{
    serve(true, true);
}

static struct beside {
    int fd;
    _Atomic pid_t tid;
} beside;

enum { WORDS = 50 };

static void *echoes(void *polls)
{
    beside.tid = (pid_t)syscall(SYS_gettid);
    echo(beside.fd, WORDS, polls);
    return NULL;
}

/* One thread forbids all threads, while another waits for the connection's data. */
static void with_thread(bool polls)
{
    int peer, status, ready[2];
    char b[4];
    CHECK(pipe(ready) == 0);
    pair(SOCK_STREAM, &peer, &beside.fd);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        pthread_t t;
        b[0] = 0;
        CHECK(pthread_create(&t, NULL, echoes, polls ? &beside : NULL) == 0);
        while (!beside.tid)
            ;
        until_asleep(beside.tid);
        confine(true, SECCOMP_FILTER_FLAG_TSYNC);
        CHECK(write(ready[1], b, 1) == 1);
        CHECK(pthread_join(t, NULL) == 0);
        echo(beside.fd, WORDS, polls);
        _exit(0);
    }
    CHECK(close(ready[1]) == 0 && read(ready[0], b, 1) == 1);
    for (int i = 0; i < 2 * WORDS; i++) {
        CHECK(send(peer, "word", 4, 0) == 4);
        CHECK(recv(peer, b, 4, MSG_WAITALL) == 4 && memcmp(b, "word", 4) == 0);
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK_EQ(status, 0);
    CHECK(close(beside.fd) == 0 && close(peer) == 0 && close(ready[0]) == 0);
}

CASE(reads_in_a_thread)
{
    with_thread(false);
}

CASE(polls_in_a_thread)
{
    with_thread(true);
}

/* A filter that was refused changes nothing. */
CASE(refused)
{
    int peer, fd;
    char b;
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, NULL) == -1 && errno == EFAULT);
    CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, NULL) == -1 && errno == EFAULT);
    CHECK(prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 0);
    pair(SOCK_STREAM, &peer, &fd);
    CHECK(send(peer, "x", 1, 0) == 1 && recv(fd, &b, 1, 0) == 1);
    CHECK(close(fd) == 0 && close(peer) == 0);
}

/* Under the shim alone: the instance ends meanwhile (test_contract.py). */
static void alone(void)
{
    int peer, fd;
    char b;
    pair(SOCK_STREAM, &peer, &fd);
    confine(false, 0);
    CHECK(write(1, "ready\n", 6) == 6);
    CHECK(read(fd, &b, 1) == -1 && errno == ECONNRESET);
    CHECK(write(fd, &b, 1) == -1);
    _exit(0);
}

int main(int argc, char **argv)
{
    alarm(120);
    if (argc == 1)
        alone();
    return run_named(argc, argv);
}
