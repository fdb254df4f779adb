/*
 * hello.c - fuzzes an instance's handshake: what somebody says who connects to its unix socket.
 *
 * One instance for the life of the process; an input is a row of connections, each with a hello
 * that is right, nearly right, cut, too long or noise, with descriptors that nobody asked for, and
 * one that goes before or after the answer; who has got a ticket speaks on it, and may bring others
 * in by it, through a socket of which he keeps both ends. fuzz_units counts the connections.
 * Afterwards nothing of them may be left: no session, no waiting place, no descriptor.
 */
#include "fuzz.h"

#include "lab.h"

#include "../../ffloop/_native/instance/internal.h"

#include <fcntl.h>

const char fuzz_unit[] = "handshakes";
const size_t fuzz_input_max = 1024;

static int base_open;

static void start(void)
{
    lab_defaults("sim");
    lab.o.max_sessions = 4;
    lab.o.max_sockets = 16;
    lab.o.pool_kib = 64;
    lab_start_manual("max_sockets=64");
    ffl_log_open(-1, FFL_LOG_ERROR);
    base_open = test_open_fds();
}

static unsigned pending(void)
{
    return atomic_load_explicit(&lab.in->page->pending, memory_order_relaxed);
}

static size_t message(struct input *in, uint8_t *to, size_t room)
{
    uint32_t k = take(in, 1);
    size_t n = sizeof(struct ffl_hello);
    struct ffl_hello h = {.magic = FFL_MAGIC,
                          .version = FFL_ABI_VERSION,
                          .kind = k % 3 ? FFL_HELLO_TICKET : FFL_HELLO_ATTACH};
    if (k % 6 == 0) {
        h.max_sockets = take(in, 2);
        h.pool_kib = take(in, 2);
    }
    if (k < 96)
        h.version = take(in, 1) % 4 ? h.version : take(in, 4);
    else if (k < 128)
        h.kind = take(in, 1) % 4 ? take(in, 1) : take(in, 4);
    else if (k < 144)
        h.magic ^= take(in, 4);
    memcpy(to, &h, sizeof(h));
    if (k >= 224)
        n = take(in, 1) % (sizeof(h) + 1); /* cut short */
    else if (k >= 208)
        n = sizeof(h) + 1 + take(in, 1); /* or too long */
    else if (k >= 176)
        for (n = take(in, 1) % room; n > 0 && in->n; n--)
            to[n - 1] = (uint8_t)take(in, 1);
    return n < room ? n : room;
}

/* The answer, if there is one, must be whole and honest; what came with it is closed. True:
 * it was a ticket. */
static bool listen_to(int s)
{
    struct ffl_reply r;
    int fds[8], n = 8;
    int rc = ffl_msg_recv(s, &r, sizeof(r), fds, &n);
    if (rc < 0) {
        CHECK(rc == -EAGAIN || rc == -ECONNRESET);
        return false;
    }
    if (rc == 0)
        return false;
    CHECK_EQ(rc, sizeof(r));
    CHECK(r.magic == FFL_MAGIC && memchr(r.why, 0, sizeof(r.why)));
    CHECK(r.status == FFL_REPLY_OK ? !r.why[0] : n == 0 && r.why[0]); /* a ticket brings none */
    for (int i = 0; i < n; i++)
        close(fds[i]);
    fuzz_sessions += n == FFL_ATTACH_FDS;
    return r.status == FFL_REPLY_OK && n == 0;
}

/* Somebody whom a ticket brings in; the socket's other end stays with us for a while. */
static void bring(struct input *in, int s, const void *msg, size_t len)
{
    static uint8_t text[1024];
    uint32_t k = take(in, 1);
    int ends[2];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    (void)ffl_msg_send(s, msg, len, &ends[1], 1); /* it may have ended */
    fuzz_units++;
    if (k % 4)
        (void)fcntl(ends[1], F_SETFL, 0); /* theirs too: it is the same file */
    if (k % 8 == 0)
        close(ends[1]), ends[1] = -1;
    size_t n = message(in, text, sizeof(text));
    (void)ffl_msg_send(ends[0], text, n, NULL, 0);
    if (k % 16 == 1)
        (void)recv(ends[1], text, sizeof(text), MSG_DONTWAIT); /* we take it from under them */
    iterations(2);
    (void)listen_to(ends[0]);
    if (k >= 128)
        close(ends[0]), ends[0] = -1, iterations(1); /* our copy of theirs outlives it */
    if (ends[1] >= 0)
        (void)ffl_msg_send(ends[1], text, 1, NULL, 0), close(ends[1]);
    if (ends[0] >= 0)
        close(ends[0]);
}

/* What the holder of a ticket may say, and what he may not. */
static void speak(struct input *in, int s)
{
    for (int i = 0; i < 3; i++) {
        uint32_t k = take(in, 1);
        struct ffl_ticket_msg m = {.what = k % 5, .n = take(in, 1)};
        size_t len = k < 200 ? sizeof(m) : take(in, 1) % sizeof(m);
        for (uint32_t h = 0; h < FFL_COUNT(m.handles); h++)
            m.handles[h] = k & 64 ? take(in, 4) : h;
        int other = k & 32 ? 0 : s; /* no peer of that kind, or the ticket itself */
        if (k % 5 == FFL_TICKET_CONNECT && k < 160)
            bring(in, s, &m, len);
        else
            (void)ffl_msg_send(s, &m, len, &other, k % 4 == 0);
        iterations(1);
    }
}

static void knock(struct input *in, int *open, int *nopen)
{
    static uint8_t text[1024];
    struct sockaddr_un sa;
    socklen_t len;
    uint32_t k = take(in, 1);
    CHECK_EQ(ffl_unix_addr(lab.path, &sa, &len), 0);
    int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    CHECK(s >= 0);
    while (connect(s, (struct sockaddr *)&sa, len) < 0) {
        CHECK_EQ(errno, EAGAIN); /* so many wait */
        iterations(1);
    }
    fuzz_units++;
    if (k % 4 == 3)
        iterations(1); /* it waits for us first */
    if (k >= 8) {
        size_t n = message(in, text, sizeof(text));
        int extra[3] = {s, 0, lab.in->stats_fd};
        (void)ffl_msg_send(s, text, n, extra, k >= 224 ? 1 + (int)(k % 3) : 0); /* it may refuse */
        if (k % 8 == 5)
            (void)ffl_msg_send(s, text, n, NULL, 0); /* twice */
    }
    if (k % 16 != 4) {
        iterations(2);
        if (listen_to(s))
            speak(in, s);
    }
    if (k % 32 == 9 && *nopen < 8)
        open[(*nopen)++] = s; /* stays a while: other sessions and waiting places beside it */
    else
        close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    int open[8], nopen = 0;
    if (!lab.in)
        start();
    while (in.n)
        knock(&in, open, &nopen);
    while (nopen)
        close(open[--nopen]);
    for (int i = 0; !TAILQ_EMPTY(&lab.in->sessions) || lab.in->ledger.n[CHARGE_TICKET] || pending();
         i++) {
        iterations(1);
        if (i == 100)
            FAIL("left: %u sessions, %u that wait, %u tickets", ffl_instance_sessions(lab.in),
                 pending(), (unsigned)lab.in->ledger.n[CHARGE_TICKET]);
    }
    return 0;
}

void fuzz_end(void)
{
    if (!lab.in)
        return;
    lab_settled(base_open); /* what was sent is closed on another thread */
    CHECK_EQ(ffl_instance_sockets(lab.in), 0);
    lab_stop();
}
