/*
 * entries.c - fuzzes what an instance reads: SQ entries, argument blocks, ids in rx-free, ring
 * words, the messages of tickets, rests, and memory that changes while it is used.
 *
 * One instance for the life of the process, on the sim stack with a clock that the input moves. An
 * input is the life of a few sessions of one user, which share sockets. Afterwards nothing of them
 * may be left: not a session, not a socket of the stack, and at the end not a descriptor.
 * fuzz_units counts the entries written.
 */
#include "fuzz.h"

#include "lab.h"

#include "../../ffloop/_native/instance/internal.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <sys/mman.h>

const char fuzz_unit[] = "entries";
const size_t fuzz_input_max = 16384;

#define SOCKETS 16 /* of a session: handles [0, 32) */
#define PEERS 8
#define HELD 64
#define TICKETS 2
#define SESSIONS 3
#define REST 32 /* entries of a rest, at most */
#define KEEP_NS 1000000

static int remote_port[2] = {1000, 1001};
static int remote[2], remote_udp; /* listeners and a datagram socket beyond the network */
static uint32_t base_fds;         /* the sim's descriptors that belong to them */
static int base_open;             /* the process's */

static struct session {
    bool attached;
    struct raw r;
    bool open[2 * SOCKETS], taken[2 * SOCKETS]; /* taken: until CLOSED */
    uint32_t held[HELD], nheld;                 /* receive buffers with us */
    bool words_lie;       /* ring words were written: our own view says nothing any more */
} sessions[SESSIONS], *s; /* s: the one that acts now */

static int peers[PEERS], npeers;
static struct ffl_ticket tickets[TICKETS]; /* fd -1: none */

static void start(void)
{
    lab_defaults("sim");
    lab.o.keep_ns = KEEP_NS;
    lab_start_manual("max_sockets=64 window=8192");
    ffl_log_open(-1, FFL_LOG_ERROR);
    for (int i = 0; i < 2; i++)
        remote[i] = sim_listen("10.0.0.9", remote_port[i]);
    struct ffl_addr a = addr4("10.0.0.9", 1002);
    remote_udp = ffl_sim_ops.socket(sim, AF_INET, SOCK_DGRAM, 0);
    CHECK_EQ(ffl_sim_ops.bind(sim, remote_udp, &a), 0);
    struct ffl_sim_counts n;
    ffl_sim_count(sim, &n);
    base_fds = n.fds;
    base_open = test_open_fds();
}

/* ---- the honest part: what a session that means well would know ---------------------------- */

static void reap_tx(void)
{
    for (int n = ffl_ring_avail(&s->r.txfree); n > 0; n--)
        (void)ffl_pool_put(&s->r.tx,
                           ffl_ring_get_id(&s->r.txfree)); /* it may be one we lied with */
    ffl_ring_consumed(&s->r.txfree);
}

static void reap_cq(bool keep)
{
    int n = ffl_ring_avail(&s->r.cq);
    CHECK(n >= 0 || s->words_lie);
    for (; n > 0; n--) {
        struct ffl_entry e = ffl_ring_get_entry(&s->r.cq);
        if (e.op == FFL_OP_CLOSED && e.handle < 2 * SOCKETS)
            s->open[e.handle] = s->taken[e.handle] = false;
        if (e.op == FFL_OP_ACCEPT && e.arg >= SOCKETS && e.arg < 2 * SOCKETS)
            s->open[e.arg] = s->taken[e.arg] = true;
        if (e.buf == FFL_NO_BUF)
            continue;
        CHECK(s->words_lie || ffl_buf_ok(&s->r.map.geo.rx, e.buf));
        if (keep && s->nheld < HELD)
            s->held[s->nheld++] = e.buf;
        else
            ffl_ring_put_id(&s->r.rxfree, e.buf);
    }
    ffl_ring_consumed(&s->r.cq);
    ffl_ring_commit(&s->r.rxfree);
}

static uint32_t some_handle(struct input *in, bool want_open)
{
    uint32_t k = take(in, 1), n = want_open ? 2 * SOCKETS : SOCKETS;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t h = (k + i) % n;
        if (want_open ? s->open[h] : !s->taken[h])
            return h;
    }
    return FFL_NO_BUF;
}

/* ---- entries ------------------------------------------------------------------------------- */

static struct ffl_addr some_addr(struct input *in)
{
    static const struct {
        const char *ip;
        int port;
    } known[] = {{"10.0.0.1", 80}, {"10.0.0.1", 81},   {"0.0.0.0", 82},    {"10.0.0.1", 0},
                 {"0.0.0.0", 0},   {"10.0.0.9", 1000}, {"10.0.0.9", 1001}, {"10.0.0.9", 1002},
                 {"10.0.0.1", 82}, {"10.0.0.9", 9}};
    uint32_t k = take(in, 1);
    struct ffl_addr a = addr4(known[k % FFL_COUNT(known)].ip, known[k % FFL_COUNT(known)].port);
    if (k >= 200 && k < 220) {
        a.family = AF_INET6;
        memset(a.ip, 0, sizeof(a.ip));
    } else if (k >= 240) {
        for (size_t i = 0; i < sizeof(a); i++)
            ((uint8_t *)&a)[i] = (uint8_t)take(in, 1);
    }
    return a;
}

static struct ffl_optarg some_option(struct input *in)
{
    static const int known[][2] = {
        {SOL_SOCKET, SO_KEEPALIVE}, {SOL_SOCKET, SO_RCVBUF}, {SOL_SOCKET, SO_SNDBUF},
        {SOL_SOCKET, SO_LINGER},    {SOL_SOCKET, SO_ERROR},  {SOL_SOCKET, SO_REUSEADDR},
        {SOL_SOCKET, SO_REUSEPORT}, {IPPROTO_TCP, 1},        {IPPROTO_TCP, 4},
        {IPPROTO_IPV6, 26},         {SOL_SOCKET, SO_TYPE},   {SOL_SOCKET, SO_BINDTODEVICE}};
    uint32_t k = take(in, 1);
    struct ffl_optarg o = {.level = known[k % FFL_COUNT(known)][0],
                           .name = known[k % FFL_COUNT(known)][1],
                           .len = take(in, 1) % (FFL_OPT_MAX + 1)};
    if (k >= 240) {
        o.level = (int32_t)take(in, 4);
        o.name = (int32_t)take(in, 4);
    }
    if (wild(in))
        o.len = take(in, 4);
    for (int i = 0; i < 8; i++)
        o.data[i] = (uint8_t)take(in, 1);
    return o;
}

static const uint8_t ops[] = {
    FFL_OP_SOCKET,    FFL_OP_SOCKET, FFL_OP_BIND,       FFL_OP_LISTEN,     FFL_OP_CONNECT,
    FFL_OP_ARM,       FFL_OP_ARM,    FFL_OP_DISARM,     FFL_OP_SEND,       FFL_OP_SEND,
    FFL_OP_SEND,      FFL_OP_SEND,   FFL_OP_SHUTDOWN,   FFL_OP_CLOSE,      FFL_OP_CONNECT,
    FFL_OP_ADDRESSES, FFL_OP_NOP,    FFL_OP_SETSOCKOPT, FFL_OP_GETSOCKOPT, FFL_OP_BIND,
    FFL_OP_EXPORT,    FFL_OP_IMPORT, FFL_OP_UNREAD,     FFL_OP_TAKE,       FFL_OP_LISTEN,
    FFL_OP_SHARE,     FFL_OP_FILTER, FFL_OP_IMPORT,     FFL_OP_CLOSE,
};

/* Argument and buffer as the operation wants them; the input may change either afterwards. */
static void fill(struct input *in, struct ffl_entry *e)
{
    struct ffl_addr a;
    struct ffl_optarg o;
    struct ffl_import i;
    struct {
        struct ffl_filter f;
        struct sock_filter code[8];
    } filter = {.f = {SOL_SOCKET, SO_ATTACH_FILTER, 1 + e->tag % 8, 0}};
    const struct ffl_ticket *t = &tickets[e->tag % TICKETS];
    const void *block = NULL;
    size_t len = 0;
    switch (e->op) {
    case FFL_OP_FILTER:
        if (wild(in))
            filter.f.len = take(in, 4);
        block = &filter;
        len = sizeof(filter);
        break;
    case FFL_OP_EXPORT:
    case FFL_OP_IMPORT:
    case FFL_OP_SHARE:
        i = (struct ffl_import){t->key, t->id, take(in, 1) % (2 * SOCKETS)};
        block = &i;
        len = sizeof(i);
        break;
    case FFL_OP_SOCKET:
        e->arg = (take(in, 1) % 4 ? AF_INET : AF_INET6) |
                 (take(in, 1) % 3 ? SOCK_STREAM : SOCK_DGRAM) << 8;
        return;
    case FFL_OP_BIND:
    case FFL_OP_CONNECT:
        a = some_addr(in);
        block = &a;
        len = sizeof(a);
        break;
    case FFL_OP_SETSOCKOPT:
    case FFL_OP_GETSOCKOPT:
        o = some_option(in);
        block = &o;
        len = sizeof(o);
        break;
    case FFL_OP_ARM:
    case FFL_OP_TAKE:
        e->arg = (int32_t)(take(in, 1) % 8);
        return;
    case FFL_OP_LISTEN:
        e->arg = (int32_t)(take(in, 1) % 16);
        return;
    case FFL_OP_SHUTDOWN:
        e->arg = (int32_t)(take(in, 1) % 3);
        return;
    case FFL_OP_SEND:
    case FFL_OP_UNREAD:
        len = take(in, 1);
        len = len < 192 ? len + sizeof(a) : len < 240 ? 4096 : 65536;
        e->arg = (int32_t)len;
        break;
    default:
        return;
    }
    reap_tx();
    e->buf = ffl_pool_get(&s->r.tx, (uint32_t)len);
    if (e->buf == FFL_NO_BUF) { /* all are with the instance: nothing to say */
        e->op = FFL_OP_NOP;
        return;
    }
    if (block)
        memcpy(raw_tx(&s->r, e->buf), block, len);
    else if (e->arg > (int32_t)ffl_buf_size(e->buf))
        e->arg = (int32_t)ffl_buf_size(e->buf);
}

static bool opens(uint8_t op)
{
    return op == FFL_OP_SOCKET || op == FFL_OP_IMPORT;
}

/* The next entry. False: there is no room for it in the SQ. */
static bool make_entry(struct input *in, struct ffl_entry *to)
{
    struct ffl_entry e = {.op = ops[take(in, 1) % FFL_COUNT(ops)], .buf = FFL_NO_BUF};
    e.handle = some_handle(in, !opens(e.op));
    if (e.handle == FFL_NO_BUF && e.op != FFL_OP_NOP) { /* none is open, or all are taken */
        e.op = opens(e.op) ? FFL_OP_NOP : FFL_OP_SOCKET;
        if (e.op == FFL_OP_SOCKET)
            e.handle = some_handle(in, false);
        if (e.handle == FFL_NO_BUF)
            e.op = FFL_OP_NOP;
    }
    if (s->words_lie ? ffl_ring_room(&s->r.sq, 1) <= 0 : ffl_ring_room(&s->r.sq, 1) == 0)
        return false;
    uint32_t f = take(in, 1);
    e.flags = (uint8_t)(f < 128   ? f & (FFL_F_ABORT | FFL_F_NODELAY | FFL_F_ARM_NEW)
                        : f < 192 ? f & (FFL_F_ADDR | FFL_F_ABORT | FFL_F_ARM_NEW | FFL_F_RETURN)
                                  : f);
    e.tag = (uint16_t)take(in, 1);
    fill(in, &e);
    uint32_t lie = take(in, 2); /* a field in about a hundred entries is wrong */
    if (lie < 100)
        e.op = (uint8_t)take(in, 1);
    else if (lie < 200)
        e.handle = lie % 2 ? take(in, 4) : take(in, 1) % (2 * SOCKETS + 2);
    else if (lie < 350)
        e.arg = (int32_t)take(in, 4);
    else if (lie < 500)
        e.buf = lie % 2 ? take(in, 4) : take(in, 1) % 3 << FFL_BUF_CLASS_SHIFT | take(in, 1);
    if (e.handle < 2 * SOCKETS && opens(e.op))
        s->open[e.handle] = s->taken[e.handle] = true;
    if (e.handle < 2 * SOCKETS && e.op == FFL_OP_CLOSE)
        s->open[e.handle] = false;
    fuzz_units++;
    *to = e;
    return true;
}

static bool entry(struct input *in)
{
    struct ffl_entry e;
    if (!make_entry(in, &e))
        return false;
    ffl_ring_put_entry(&s->r.sq, e);
    ffl_ring_commit(&s->r.sq);
    return true;
}

/* ---- the rest of what a session and its peers can do --------------------------------------- */

static void peer(struct input *in)
{
    static char data[9000];
    uint32_t k = take(in, 1);
    int i = npeers ? (int)(take(in, 1) % (unsigned)npeers) : -1;
    struct ffl_addr a = addr4("10.0.0.1", 80 + (int)(k / 8 % 3)), from;
    struct iovec iov = {data, 1 + take(in, 1) * 30};
    int fd = -1, flags;
    switch (k % 8) {
    case 0:
        fd = npeers < PEERS ? ffl_sim_ops.socket(sim, AF_INET, SOCK_STREAM, 0) : -1;
        if (fd >= 0)
            (void)ffl_sim_ops.connect(sim, fd, &a);
        break;
    case 1:
        fd = npeers < PEERS ? ffl_sim_ops.accept(sim, remote[k / 8 % 2], &from) : -1;
        break;
    case 2:
        (void)ffl_sim_ops.send(sim, remote_udp, &iov, 1, &a, NULL, 0);
        break;
    case 3:
        while (ffl_sim_ops.recv(sim, remote_udp, &iov, 1, &from, NULL, &flags) > 0)
            ;
        break;
    case 4:
    case 5:
        if (i >= 0)
            (void)ffl_sim_ops.send(sim, peers[i], &iov, 1, NULL, NULL, 0);
        break;
    case 6:
        if (i >= 0)
            (void)ffl_sim_ops.recv(sim, peers[i], &iov, 1, NULL, NULL, &flags);
        break;
    case 7:
        if (i >= 0) {
            sim_shut(peers[i]);
            peers[i] = peers[--npeers];
        }
    }
    if (fd >= 0)
        peers[npeers++] = fd;
}

/* A ticket is opened, spoken to, or closed. */
static void ticket(struct input *in)
{
    uint32_t k = take(in, 1);
    struct ffl_ticket *t = &tickets[k % TICKETS];
    struct ffl_ticket_msg m = {.what = take(in, 1) % 5, .n = take(in, 1) % 70};
    if (t->fd < 0) {
        if (!lab_ticket(t))
            t->fd = -1;
        return;
    }
    for (uint32_t i = 0; i < FFL_COUNT(m.handles) && i < m.n; i++)
        m.handles[i] = take(in, 1) % (2 * SOCKETS);
    if (wild(in))
        m.n = take(in, 4);
    size_t len = k < 240 ? sizeof(m) : take(in, 1) + 1;
    int fds[2] = {s->r.app_bell, s->r.inst_bell}, n = k < 40 ? 1 + (int)(k % 2) : 0;
    if (k < 250)
        (void)ffl_msg_send(t->fd, &m, len < sizeof(m) ? len : sizeof(m), fds,
                           n); /* or it is gone */
    else
        close(t->fd), t->fd = -1;
}

static void give(struct input *in)
{
    uint32_t k = take(in, 1);
    if (s->nheld && k < 250) {
        uint32_t i = k % s->nheld;
        ffl_ring_put_id(&s->r.rxfree, s->held[i]);
        s->held[i] = s->held[--s->nheld];
    } else if (k >= 254) { /* one that we do not have */
        ffl_ring_put_id(&s->r.rxfree, take(in, k == 254 ? 1 : 4));
    }
    ffl_ring_commit(&s->r.rxfree);
}

/* Anything may be written at any time: payloads (no lie), ring words and wait words (lies). */
static void scribble(struct input *in)
{
    struct ffl_segment *seg = s->r.map.seg;
    uint32_t k = take(in, 1), v = take(in, 4);
    if (k < 200) { /* somewhere behind the rings' words */
        uint32_t first = sizeof(*seg) / 4, n = s->r.map.geo.size / 4 - first;
        uint32_t at = first + v % n, rings = s->r.map.geo.rx.off[0] / 4;
        if (at < rings && k >= 20)
            return;
        s->words_lie |= at < rings; /* an entry, perhaps one for us */
        ((volatile uint32_t *)seg)[at] = take(in, 4);
        return;
    }
    if (k < 230) {
        atomic_store(&seg->waits.app, v & 7);
        return;
    }
    if (k < 250)
        return;
    s->words_lie = true;
    struct ffl_ring_ctl *ctl = &seg->ring[v % FFL_RINGS];
    _Atomic uint32_t *word = v & 4 ? &ctl->tail : &ctl->head;
    atomic_store(word, k == 255 ? take(in, 4) : atomic_load(word) + (int8_t)take(in, 1));
}

static bool ended(void) /* has the instance closed our session, perhaps with a last word? */
{
    char c;
    return recv(s->r.sock, &c, 1, MSG_DONTWAIT | MSG_PEEK) >= 0;
}

static void attach(void)
{
    memset(s, 0, sizeof(*s));
    raw_attach_sized(&s->r, SOCKETS, 64);
    s->attached = true;
    fuzz_sessions++;
}

/* The session goes without a word. */
static void go(void)
{
    raw_gone(&s->r);
    s->attached = false;
}

/* Another session acts; one that has ended goes. */
static void turn(struct input *in)
{
    if (s->attached && ended())
        go();
    s = &sessions[take(in, 1) % SESSIONS];
    if (!s->attached)
        attach();
}

/* The session detaches, and leaves a rest, or what is none. */
static void rest(struct input *in)
{
    struct ffl_entry e[REST];
    struct ffl_rest r = {.magic = FFL_MAGIC};
    uint32_t k = take(in, 1), n = 0;
    while (n < k % REST && make_entry(in, &e[n]))
        n++;
    r.n = wild(in) ? take(in, 4) : n;
    int fd = memfd_create("rest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fd >= 0);
    CHECK_EQ(write(fd, e, n * sizeof(e[0])), (ssize_t)(n * sizeof(e[0])));
    if (k < 240)
        CHECK_EQ(fcntl(fd, F_ADD_SEALS, FFL_REST_SEALS), 0);
    (void)ffl_msg_send(s->r.sock, &r, sizeof(r), &fd, 1); /* or it has ended */
    close(fd);
    go();
    turn(in);
}

static void play(struct input *in)
{
    while (in->n) {
        uint32_t k = take(in, 1);
        if (k < 170) {
            if (!entry(in))
                iterations(1);
        } else if (k < 205) {
            ffl_sim_advance(sim, take(in, 1) * 1000);
            iterations(1 + (int)(k % 3));
            if (ended())
                turn(in);
        } else if (k < 221) {
            reap_cq(k < 210);
        } else if (k < 225) {
            turn(in);
        } else if (k < 239) {
            peer(in);
        } else if (k < 240) {
            rest(in);
        } else if (k < 245) {
            ticket(in);
        } else if (k < 252) {
            give(in);
        } else {
            scribble(in);
        }
    }
}

/* What a user is still charged with, or CHARGES: nothing. */
static int charged(void)
{
    int i = 0;
    while (i < CHARGES && !lab.in->ledger.n[i])
        i++;
    return i;
}

/* The sessions and their peers go: soon the instance is as it was before. */
static void leave(void)
{
    struct ffl_addr from;
    for (s = sessions; s < sessions + SESSIONS; s++)
        if (s->attached)
            go();
    while (npeers)
        sim_shut(peers[--npeers]);
    for (int i = 0; i < TICKETS; i++)
        if (tickets[i].fd >= 0)
            close(tickets[i].fd);
    for (int i = 0;; i++) {
        iterations(1);
        ffl_sim_advance(sim, 1000000);
        for (int k = 0, fd; k < 2; k++)
            while ((fd = ffl_sim_ops.accept(sim, remote[k], &from)) >= 0)
                sim_shut(fd);
        struct ffl_sim_counts n;
        ffl_sim_count(sim, &n);
        int charge = charged();
        if (charge == CHARGES && !ffl_instance_sockets(lab.in) && n.fds == base_fds &&
            TAILQ_EMPTY(&lab.in->pending))
            break;
        if (i == 100000) /* kept listeners are on the real clock */
            FAIL("left: %u sockets, %u descriptors of the stack, charge %d",
                 ffl_instance_sockets(lab.in), n.fds - base_fds, charge);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    if (!lab.in)
        start();
    for (int i = 0; i < TICKETS; i++)
        tickets[i].fd = -1;
    s = sessions;
    attach();
    play(&in);
    leave();
    return 0;
}

void fuzz_end(void)
{
    if (!lab.in)
        return;
    lab_settled(base_open);
    lab_stop();
}
