/* handshake.c - messages with descriptors: whole, short, with too many; nothing leaks. */
#include "harness.h"

#include "handshake.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/resource.h>

static void pair(int s[2])
{
    CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, s), 0);
}

static void unpair(const int s[2])
{
    close(s[0]);
    close(s[1]);
}

TEST(addresses)
{
    struct sockaddr_un sa;
    socklen_t len;
    CHECK_EQ(ffl_unix_addr("/run/x", &sa, &len), 0);
    CHECK_EQ(len, offsetof(struct sockaddr_un, sun_path) + 7);
    CHECK(strcmp(sa.sun_path, "/run/x") == 0);
    CHECK_EQ(ffl_unix_addr("@name", &sa, &len), 0);
    CHECK_EQ(len, offsetof(struct sockaddr_un, sun_path) + 5);
    CHECK_EQ(sa.sun_path[0], 0);
    CHECK(memcmp(sa.sun_path + 1, "name", 4) == 0);
    CHECK_EQ(ffl_unix_addr("", &sa, &len), -EINVAL);
    CHECK_EQ(ffl_unix_addr("@", &sa, &len), -EINVAL);
    char path[200];
    memset(path, 'a', sizeof(path));
    path[sizeof(sa.sun_path)] = '\0';
    CHECK_EQ(ffl_unix_addr(path, &sa, &len), -ENAMETOOLONG);
    path[sizeof(sa.sun_path) - 1] = '\0';
    CHECK_EQ(ffl_unix_addr(path, &sa, &len), 0);
    CHECK(len <= sizeof(sa));
}

TEST(message_with_descriptors)
{
    int s[2], sent[3], got[3], n = 3;
    struct ffl_reply out = {.magic = FFL_MAGIC, .status = FFL_REPLY_OK}, in;
    pair(s);
    for (int i = 0; i < 3; i++)
        sent[i] = eventfd((unsigned)i + 1, EFD_NONBLOCK);
    CHECK_EQ(ffl_msg_send(s[0], &out, sizeof(out), sent, 3), sizeof(out));
    CHECK_EQ(ffl_msg_recv(s[1], &in, sizeof(in), got, &n), sizeof(in));
    CHECK_EQ(n, 3);
    CHECK(memcmp(&in, &out, sizeof(in)) == 0);
    for (int i = 0; i < 3; i++) {
        uint64_t v;
        CHECK(fcntl(got[i], F_GETFD) & FD_CLOEXEC);
        CHECK_EQ(read(got[i], &v, sizeof(v)), sizeof(v));
        CHECK_EQ(v, i + 1);
        close(got[i]);
        close(sent[i]);
    }
    unpair(s);
}

TEST(message_without_descriptors)
{
    int s[2], got[3], n = 3;
    char c;
    pair(s);
    CHECK_EQ(ffl_msg_send(s[0], "x", 1, NULL, 0), 1);
    CHECK_EQ(ffl_msg_recv(s[1], &c, 1, got, &n), 1);
    CHECK_EQ(n, 0);
    CHECK_EQ(ffl_msg_recv(s[1], &c, 1, NULL, NULL), -EAGAIN);
    close(s[0]);
    CHECK_EQ(ffl_msg_recv(s[1], &c, 1, NULL, NULL), 0);    /* the peer is gone */
    CHECK_EQ(ffl_msg_send(s[1], "x", 1, NULL, 0), -EPIPE); /* and no signal */
    close(s[1]);
}

/* The harness counts descriptors: whatever came beyond the room is closed. */
static void send_many(int sock, int count, size_t len)
{
    union {
        char buf[CMSG_SPACE(sizeof(int) * 64)];
        struct cmsghdr align;
    } u;
    char data[256] = {0};
    struct iovec iov = {.iov_base = data, .iov_len = len};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = u.buf,
                         .msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count)};
    memset(&u, 0, sizeof(u));
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
    int fd = eventfd(0, 0);
    for (int i = 0; i < count; i++)
        memcpy(CMSG_DATA(c) + (size_t)i * sizeof(int), &fd, sizeof(int));
    CHECK_EQ(sendmsg(sock, &msg, 0), len);
    close(fd);
}

TEST(more_descriptors_than_room)
{
    int s[2];
    char data[16];
    pair(s);
    for (int count = 1; count <= 40; count++)
        for (int room = 0; room <= 3; room++) {
            int got[3] = {-1, -1, -1}, n = room, before = test_open_fds();
            send_many(s[0], count, 8);
            int rc = ffl_msg_recv(s[1], data, sizeof(data), got, &n);
            if (rc < 0) {
                CHECK_EQ(rc, -EPROTO);
            } else {
                CHECK_EQ(rc, 8);
                CHECK(n <= room);
                for (int i = 0; i < n; i++)
                    close(got[i]);
            }
            CHECK_EQ(test_open_fds(), before);
        }
    for (int i = 0; i < 20; i++) { /* no room given at all: none may stay open */
        send_many(s[0], 3, 8);
        (void)ffl_msg_recv(s[1], data, sizeof(data), NULL, NULL);
    }
    unpair(s);
}

TEST(message_longer_than_room)
{
    int s[2], got[3], n = 3;
    char data[16];
    pair(s);
    int before = test_open_fds();
    send_many(s[0], 2, 200);
    CHECK_EQ(ffl_msg_recv(s[1], data, sizeof(data), got, &n), -EPROTO);
    while (n > 0) /* ours, whatever the message was */
        close(got[--n]);
    CHECK_EQ(test_open_fds(), before);
    unpair(s);
}

/* Who lacks descriptors is told so, not that the peer is false. */
TEST(no_descriptor_for_the_message)
{
    int s[2], got[3], n = 3;
    char data[16];
    struct rlimit before, none;
    pair(s);
    send_many(s[0], 3, 8);
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    int lowest = dup(s[1]);
    close(lowest); /* it is free, and no lower one */
    none = (struct rlimit){(rlim_t)lowest, before.rlim_max};
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    CHECK_EQ(ffl_msg_recv(s[1], data, sizeof(data), got, &n), -EMFILE);
    CHECK_EQ(n, 0);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
    unpair(s);
}

TEST(not_a_socket)
{
    char c;
    int fd = eventfd(0, EFD_NONBLOCK);
    CHECK_EQ(ffl_msg_recv(fd, &c, 1, NULL, NULL), -ENOTSOCK);
    CHECK_EQ(ffl_msg_send(fd, &c, 1, NULL, 0), -ENOTSOCK);
    CHECK_EQ(ffl_msg_send(-1, &c, 1, NULL, 0), -EBADF);
    close(fd);
}
