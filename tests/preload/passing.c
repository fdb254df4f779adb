/* passing.c - sockets that go to another process over a unix socket; see test_contract.py. */
#include "cases.h"

static int way[2]; /* the unix sockets */

static void send_all(const int *fds, size_t n, const char *text)
{
    char room[CMSG_SPACE(8 * sizeof(int))] = {0};
    struct iovec v = {(void *)text, strlen(text)};
    struct msghdr m = {.msg_iov = &v,
                       .msg_iovlen = 1,
                       .msg_control = room,
                       .msg_controllen = CMSG_SPACE(n * sizeof(int))};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(n * sizeof(int));
    memcpy(CMSG_DATA(c), fds, n * sizeof(int));
    NEED(sendmsg(way[0], &m, 0) == (ssize_t)strlen(text));
}

static void take_all(int *fds, size_t n)
{
    char room[CMSG_SPACE(8 * sizeof(int))];
    struct iovec v = {buffer, sizeof(buffer)};
    struct msghdr m = {
        .msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
    NEED(recvmsg(way[1], &m, 0) > 0);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    NEED(c != NULL && c->cmsg_len == CMSG_LEN(n * sizeof(int)));
    memcpy(fds, CMSG_DATA(c), n * sizeof(int));
}

static int take_one(void)
{
    int fd;
    take_all(&fd, 1);
    return fd;
}

/* Starts who receives, before there is a socket to inherit. */
static pid_t receiver(int (*work)(void))
{
    NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, way) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(way[0]);
        _exit(work());
    }
    close(way[1]);
    return pid;
}

static int answers(void)
{
    int fd = take_one();
    ssize_t n = recv(fd, buffer, sizeof(buffer), 0);
    return n < 0 || write(fd, buffer, (size_t)n) != n;
}

CASE(a_connection)
{
    pid_t pid = receiver(answers);
    connected();
    send_all(&server, 1, "it");
    close(server);
    NEED(write(client, "over there", 10) == 10);
    heard(client, 10);
    ends(pid);
    heard(client, 1);
}

/* Read ahead by the sender, and not read. */
CASE(a_connection_with_data)
{
    pid_t pid = receiver(answers);
    connected();
    arrives("came before");
    send_all(&server, 1, "it");
    close(server);
    heard(client, 11);
    ends(pid);
}

CASE(a_connection_that_both_keep)
{
    pid_t pid = receiver(answers);
    connected();
    send_all(&server, 1, "it");
    NEED(write(client, "x", 1) == 1);
    heard(client, 1);
    ends(pid);
    saw("write", write(server, "y", 1));
    close(server);
    heard(client, 2);
}

static int accepts(void)
{
    int l = take_one();
    for (int i = 0; i < 3; i++) {
        int fd = accept(l, NULL, NULL);
        if (fd < 0 || write(fd, "accepted", 8) != 8 || close(fd) < 0)
            return 1;
    }
    return 0;
}

CASE(a_listener)
{
    pid_t pid = receiver(accepts);
    listens();
    int early = connects();
    send_all(&listener, 1, "it");
    heard(early, 8);
    for (int i = 0; i < 2; i++)
        heard(connects(), 8);
    ends(pid);
}

static int looks(void)
{
    int fds[4];
    struct sockaddr_in a;
    socklen_t len = sizeof(a);
    take_all(fds, 4);
    int flags = fcntl(fds[0], F_GETFL), type = 0;
    socklen_t size = sizeof(type);
    if (!(flags & O_NONBLOCK) || read(fds[0], buffer, 1) >= 0 || errno != EAGAIN)
        return 1;
    if (getpeername(fds[1], (struct sockaddr *)&a, &len) < 0 || a.sin_family != AF_INET)
        return 2;
    if (getsockopt(fds[2], SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_DGRAM)
        return 3;
    return write(fds[3], "to the pipe", 11) != 11 || write(fds[1], "to the peer", 11) != 11;
}

CASE(several_of_all_kinds)
{
    int ends_of_pipe[2];
    pid_t pid = receiver(looks);
    connected();
    int u = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in a = anywhere();
    NEED(bind(u, (struct sockaddr *)&a, sizeof(a)) == 0 && pipe(ends_of_pipe) == 0);
    NEED(fcntl(client, F_SETFL, O_NONBLOCK) == 0);
    send_all((int[]){client, server, u, ends_of_pipe[1]}, 4, "all");
    ends(pid);
    saw("read", read(ends_of_pipe[0], buffer, 11));
    fcntl(client, F_SETFL, 0);
    heard(client, 11);
}

/* The one who was to have it never takes it. */
CASE(nobody_takes_it)
{
    NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, way) == 0);
    connected();
    send_all(&server, 1, "it");
    close(server);
    struct pollfd p = {.fd = client, .events = POLLIN};
    saw("still there", poll(&p, 1, 100));
    close(way[0]);
    close(way[1]);
    heard(client, 1);
}

CASE(into_the_same_process)
{
    NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, way) == 0);
    connected();
    send_all(&server, 1, "it");
    int copy = take_one();
    close(server);
    NEED(write(client, "x", 1) == 1);
    heard(copy, 1);
    close(copy);
    heard(client, 1);
}

static int connects_and_says(void)
{
    int fds[2];
    struct sockaddr_in a;
    socklen_t len = sizeof(a);
    take_all(fds, 2);
    NEED(getsockname(fds[1], (struct sockaddr *)&a, &len) == 0);
    return connect(fds[0], (struct sockaddr *)&a, len) < 0 || write(fds[0], "child", 5) != 5;
}

/* A socket that neither is bound nor connected yet: what the receiver does is done to the
 * sender's. */
CASE(before_it_is_connected)
{
    pid_t pid = receiver(connects_and_says);
    listens();
    client = socket(AF_INET, SOCK_STREAM, 0);
    send_all((int[]){client, listener}, 2, "both");
    ends(pid);
    server = accept(listener, NULL, NULL);
    heard(server, 5);
    saw("write", write(client, "parent", 6));
    heard(server, 6);
}

int main(int argc, char **argv)
{
    return run_case(argc, argv);
}
