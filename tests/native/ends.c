/*
 * ends.c - how a connection ends: no byte that came is lost by what came after it, and a peer whose
 * bytes or connection nobody took is told so. An instance on the host stack, stepped; kernel peers.
 */
#include "lab.h"

#include "../../ffloop/_native/instance/internal.h"

#include <errno.h>
#include <string.h>

static struct raw r;
static int listener; /* the kernel's */
static int peer;

/* Handle 0 is connected to `peer`; `flags` of its ARM, or not armed. */
static void connected(bool armed)
{
    peer = raw_connected(&r, &listener);
    if (armed)
        raw_op(&r, FFL_OP_ARM, 0, 0, 0);
    iterations(2);
}

static void finish(void)
{
    close(peer);
    close(listener);
    raw_finish(&r);
}

static void say(const char *text)
{
    CHECK_EQ(send(peer, text, strlen(text), 0), (ssize_t)strlen(text));
}

static void peer_resets(void)
{
    const struct linger l = {.l_onoff = 1};
    CHECK_EQ(setsockopt(peer, SOL_SOCKET, SO_LINGER, &l, sizeof(l)), 0);
    close(peer);
    peer = -1;
}

/* The next that comes of handle 0 is this text. */
static void expect_data(const char *text)
{
    struct ffl_entry e = raw_expect(&r, FFL_OP_RECV, 0);
    CHECK_EQ(e.arg, strlen(text));
    CHECK(memcmp(raw_rx(&r, e.buf), text, strlen(text)) == 0);
    raw_give(&r, e.buf);
}

static void expect_end(void)
{
    struct ffl_entry e = raw_expect(&r, FFL_OP_RECV, 0);
    CHECK_EQ(e.arg, 0);
    CHECK_EQ(e.buf, FFL_NO_BUF);
}

static void expect_error(int err, uint8_t flags)
{
    struct ffl_entry e = raw_expect(&r, FFL_OP_ERROR, 0);
    CHECK_EQ(e.arg, -err);
    CHECK_EQ(e.flags, flags);
}

/* What the peer's next read says: a count, or -errno. */
static int peer_reads(void)
{
    char byte;
    iterations(2);
    ssize_t n = recv(peer, &byte, 1, 0);
    return n < 0 ? -errno : (int)n;
}

/* The reset is told of to who sends; who reads gets all that came, and the end that came. */
TEST(answer_end_reset)
{
    connected(true);
    say("answer");
    CHECK_EQ(shutdown(peer, SHUT_WR), 0);
    peer_resets();
    iterations(4);
    struct ffl_entry e;
    char got[16];
    int n = 0;
    bool end = false, told = false;
    while (raw_next(&r, &e)) { /* the error goes its own way, beside the bytes and their end */
        if (e.op == FFL_OP_ERROR) {
            CHECK_EQ(e.flags, FFL_F_SENDING);
            CHECK_EQ(e.arg, -EPIPE);
            told = true;
            continue;
        }
        CHECK_EQ(e.op, FFL_OP_RECV);
        CHECK(!end);
        end = e.arg == 0;
        if (end)
            continue;
        memcpy(got + n, raw_rx(&r, e.buf), (size_t)e.arg);
        n += e.arg;
        raw_give(&r, e.buf);
    }
    CHECK_EQ(n, 6);
    CHECK(memcmp(got, "answer", 6) == 0);
    CHECK(end && told);
    finish();
}

/* A send that is refused does not take with it what came before it. */
TEST(refused_send)
{
    connected(false);
    say("answer");
    peer_resets();
    raw_send(&r, 0, "late", 4);
    expect_error(ECONNRESET, FFL_F_SENDING);
    raw_nothing(&r);
    raw_op(&r, FFL_OP_ARM, 0, 0, 0);
    expect_data("answer");
    expect_error(ECONNRESET, 0);
    raw_nothing(&r);
    finish();
}

TEST(refused_send_after_the_end)
{
    connected(false);
    say("answer");
    CHECK_EQ(shutdown(peer, SHUT_WR), 0);
    iterations(2);
    peer_resets();
    raw_send(&r, 0, "late", 4);
    expect_error(EPIPE, FFL_F_SENDING);
    raw_op(&r, FFL_OP_ARM, 0, 0, 0);
    expect_data("answer");
    expect_end();
    raw_nothing(&r);
    finish();
}

/* Handle 2 becomes a second reference to the socket of `handle`. */
static void share_it(uint32_t handle)
{
    struct ffl_ticket t;
    CHECK(lab_ticket(&t));
    raw_export(&r, handle, &t);
    struct ffl_import x = {.key = t.key, .ticket = t.id, .handle = handle};
    raw_put(&r, (struct ffl_entry){
                    .op = FFL_OP_IMPORT, .handle = 2, .buf = raw_arg(&r, &x, sizeof(x))});
    CHECK(raw_expect(&r, FFL_OP_IMPORT, 2).arg >= 0);
    close(t.fd);
}

/* What one reference has asked for holds for all, whichever of them told the stack. */
TEST(a_shutdown_is_not_the_peers_end)
{
    connected(true);
    share_it(0);
    raw_op(&r, FFL_OP_SHUTDOWN, 0, SHUT_RDWR, 0);
    raw_send(&r, 2, "x", 1); /* the end waits for it */
    CHECK_EQ(raw_expect(&r, FFL_OP_SHUTDOWN, 2).arg, 0);
    iterations(4);
    struct endpoint **table = TAILQ_FIRST(&lab.in->sessions)->table;
    CHECK(table[0]->rx_done || table[0]->eof_hint); /* it was told */
    CHECK(!table[0]->fin && !table[2]->fin);
    finish();
}

static struct sockaddr_in address_of(int fd)
{
    struct sockaddr_in at;
    socklen_t len = sizeof(at);
    CHECK_EQ(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    return at;
}

/* A shutdown that waited for a connect that failed is not the next connect's;
 * `sender`, the socket's only reference or another one, sends. */
static void connects_anew(uint32_t sender)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int nobody = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); /* has the port, and refuses */
    CHECK_EQ(bind(nobody, (struct sockaddr *)&at, sizeof(at)), 0);
    connected(false);
    raw_socket(&r, 1, SOCK_STREAM);
    if (sender != 1)
        share_it(1);
    raw_at(&r, FFL_OP_CONNECT, 1, "127.0.0.1", ntohs(address_of(nobody).sin_port));
    raw_op(&r, FFL_OP_SHUTDOWN, 1, SHUT_WR, 0);
    if (sender != 1)
        (void)raw_expect(&r, FFL_OP_SHUTDOWN, sender);
    struct ffl_entry e = raw_expect(&r, FFL_OP_CONNECT, 1);
    CHECK_EQ(e.arg, -ECONNREFUSED);
    raw_give(&r, e.buf);
    close(nobody);
    raw_at(&r, FFL_OP_CONNECT, 1, "127.0.0.1", ntohs(address_of(listener).sin_port));
    e = raw_expect(&r, FFL_OP_CONNECT, 1);
    CHECK_EQ(e.arg, 0);
    raw_give(&r, e.buf);
    raw_send(&r, sender, "x", 1);
    iterations(3);
    char byte[2];
    int other = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    CHECK_EQ(recv(other, byte, sizeof(byte), MSG_DONTWAIT), 1);
    CHECK_EQ(recv(other, byte, sizeof(byte), MSG_DONTWAIT), -1); /* and not the end */
    close(other);
    finish();
}

TEST(a_new_connect_begins_with_both_sides_open)
{
    connects_anew(1);
}

TEST(a_new_connect_begins_with_both_sides_open_for_all)
{
    connects_anew(2);
}

/* A read ends at an urgent byte, which is no end of what is there. */
TEST(behind_an_urgent_byte)
{
    connected(true);
    say("abc");
    CHECK_EQ(send(peer, "!", 1, MSG_OOB), 1);
    say("efg");
    char got[16];
    for (int n = 0; n < 6;) {
        struct ffl_entry e = raw_expect(&r, FFL_OP_RECV, 0);
        memcpy(got + n, raw_rx(&r, e.buf), (size_t)e.arg);
        n += e.arg;
        raw_give(&r, e.buf);
    }
    CHECK(memcmp(got, "abcefg", 6) == 0);
    finish();
}

/* A datagram that came before the socket was connected is there after. */
TEST(datagram_before_connect)
{
    lab_defaults("host");
    lab_start("");
    raw_attach(&r);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}, to;
    socklen_t len = sizeof(at);
    peer = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    CHECK_EQ(bind(peer, (struct sockaddr *)&at, len), 0);
    CHECK_EQ(getsockname(peer, (struct sockaddr *)&at, &len), 0);
    raw_socket(&r, 0, SOCK_DGRAM);
    raw_at(&r, FFL_OP_BIND, 0, "127.0.0.1", 0);
    struct ffl_entry e = raw_expect(&r, FFL_OP_BIND, 0);
    const struct ffl_addresses *addresses = raw_rx(&r, e.buf);
    to = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = addresses->local.port_be};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    raw_give(&r, e.buf);
    CHECK_EQ(sendto(peer, "hello", 5, 0, (struct sockaddr *)&to, sizeof(to)), 5);
    iterations(4);
    raw_at(&r, FFL_OP_CONNECT, 0, "127.0.0.1", ntohs(at.sin_port));
    e = raw_expect(&r, FFL_OP_CONNECT, 0);
    raw_give(&r, e.buf);
    raw_op(&r, FFL_OP_ARM, 0, 0, 0);
    e = raw_expect(&r, FFL_OP_RECV, 0);
    CHECK_EQ(e.arg, sizeof(struct ffl_addr) + 5);
    raw_give(&r, e.buf);
    close(peer);
    raw_finish(&r);
}

/* The application took `taken` of the five bytes that were read ahead, and closes. */
static int closed_after(int32_t taken)
{
    connected(true);
    say("hello");
    struct ffl_entry e = raw_expect(&r, FFL_OP_RECV, 0);
    CHECK_EQ(e.arg, 5);
    raw_give(&r, e.buf);
    raw_op(&r, FFL_OP_CLOSE, 0, taken, 0);
    (void)raw_expect(&r, FFL_OP_CLOSED, 0);
    int said = peer_reads();
    finish();
    return said;
}

TEST(close_with_unread_bytes)
{
    CHECK_EQ(closed_after(3), -ECONNRESET);
}

TEST(close_with_all_read)
{
    CHECK_EQ(closed_after(5), 0);
}

/* Accepted ahead, and the listener closes: as for the kernel, nobody has accepted it. */
TEST(connections_that_nobody_accepted)
{
    lab_defaults("host");
    lab_start("");
    raw_attach(&r);
    raw_socket(&r, 0, SOCK_STREAM);
    raw_at(&r, FFL_OP_BIND, 0, "127.0.0.1", 0);
    struct ffl_entry e = raw_expect(&r, FFL_OP_BIND, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    at.sin_port = ((const struct ffl_addresses *)raw_rx(&r, e.buf))->local.port_be;
    raw_give(&r, e.buf);
    raw_op(&r, FFL_OP_LISTEN, 0, 8, 0);
    raw_give(&r, raw_expect(&r, FFL_OP_LISTEN, 0).buf);
    raw_op(&r, FFL_OP_ARM, 0, 1, 0);
    iterations(2);
    int dialled[2]; /* one is accepted ahead, one waits in the kernel */
    for (int i = 0; i < 2; i++) {
        dialled[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK_EQ(connect(dialled[i], (struct sockaddr *)&at, sizeof(at)), 0);
    }
    e = raw_expect(&r, FFL_OP_ACCEPT, 0);
    uint32_t ahead = (uint32_t)e.arg;
    raw_give(&r, e.buf);
    raw_op(&r, FFL_OP_CLOSE, 0, 0, 0);
    (void)raw_expect(&r, FFL_OP_CLOSED, 0);
    raw_op(&r, FFL_OP_CLOSE, ahead, 0, FFL_F_ABORT | FFL_F_RETURN);
    (void)raw_expect(&r, FFL_OP_CLOSED, ahead);
    for (int i = 0; i < 2; i++) {
        peer = dialled[i];
        CHECK_EQ(peer_reads(), -ECONNRESET);
        close(peer);
    }
    raw_finish(&r);
}
