/*
 * client.c - fuzzes what a client reads: the handshake's answer, the geometry, completions,
 * returned buffers, ring words, and memory that changes while it is used.
 *
 * An input is one session: an application that uses the client as client.h allows, and an instance
 * that is played here. That one answers as an instance would, mostly; what it says of handles,
 * lengths, buffers and tags may be wrong at any time. There is no other thread: the client's
 * message calls are replaced by the linker (fuzz/CMakeLists.txt), and answers lie in the ring
 * before the call that waits for them. Afterwards no descriptor may be left. fuzz_units counts
 * completions and returned buffers.
 */
#include "fuzz.h"

#include "lab.h"

#include "../../ffloop/_native/client/internal.h"

#include <sys/eventfd.h>

const char fuzz_unit[] = "completions";
const size_t fuzz_input_max = 8192;

#define SOCKETS 16 /* handles [0, 32) */
#define HANDLES (2 * SOCKETS)

static struct session {
    struct ffl_map map; /* the instance's */
    struct ffl_ring sq, cq, rxfree, txfree;
    struct ffl_pool rx;
    int bells[2], peer, placeholder;
    struct ffl_reply reply;
    int nfds;
    bool open[HANDLES], listener[HANDLES], dgram[HANDLES]; /* as the instance has it */
    uint32_t credits[HANDLES];
    bool words_lie;
    struct ffl_client *c;
    bool mine[HANDLES]; /* as the application has it: it may use them */
    bool watches;       /* which of the two ways it learns of events */
    struct ffl_poll poll;
    struct ffl_source source[HANDLES];
    struct ffl_watch watch[HANDLES];
} s;

/* ---- the handshake ------------------------------------------------------------------------- */

/* The client sends two messages: its end of a connection to the ticket, and its hello. At its end
 * perhaps a third, its rest, which nobody reads. */
int __real_ffl_msg_send(int sock, const void *data, size_t len, const int *fds, int nfds);
int __wrap_ffl_msg_send(int sock, const void *data, size_t len, const int *fds, int nfds)
{
    if (len == sizeof(struct ffl_rest))
        return (int)len;
    if (nfds == 1) {
        s.peer = dup(fds[0]);
        return (int)len;
    }
    const int given[] = {s.map.memfd, s.bells[0], s.bells[1]};
    CHECK_EQ(__real_ffl_msg_send(s.peer, &s.reply, sizeof(s.reply), given, s.nfds),
             sizeof(s.reply));
    return (int)len;
}

static void spoil_geometry(struct input *in)
{
    uint32_t *words = (uint32_t *)&s.map.seg->geo, n = sizeof(s.map.seg->geo) / 4;
    for (uint32_t k = 1 + take(in, 1) % 3; k > 0; k--) {
        uint32_t at = take(in, 1) % n, how = take(in, 1);
        words[at] = how < 128   ? words[at] + (uint32_t)(int8_t)take(in, 1)
                    : how < 200 ? words[at] << (how % 8)
                                : take(in, 4);
    }
}

static bool begin(struct input *in)
{
    struct ffl_geo geo;
    memset(&s, 0, sizeof(s));
    s.peer = -1;
    ffl_geo_default(&geo, SOCKETS, 64);
    geo.ring_size[FFL_SQ] = geo.ring_size[FFL_CQ] = 64u << take(in, 1) % 3;
    CHECK_EQ(ffl_segment_create(&s.map, &geo, false), 0);
    CHECK_EQ(ffl_pool_init(&s.rx, &s.map.geo.rx), 0);
    ffl_segment_ring(&s.map, FFL_SQ, &s.sq);
    ffl_segment_ring(&s.map, FFL_CQ, &s.cq);
    ffl_segment_ring(&s.map, FFL_RXFREE, &s.rxfree);
    ffl_segment_ring(&s.map, FFL_TXFREE, &s.txfree);
    for (int i = 0; i < 2; i++)
        CHECK((s.bells[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) >= 0);
    CHECK((s.placeholder = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) >= 0);
    s.reply = (struct ffl_reply){.magic = FFL_MAGIC, .version = FFL_ABI_VERSION, .stack = "fuzz"};
    s.nfds = FFL_ATTACH_FDS;
    uint32_t k = take(in, 1);
    if (k >= 248)
        spoil_geometry(in);
    else if (k >= 244)
        s.nfds = (int)(k - 244);
    else if (k >= 236)
        ((uint8_t *)&s.reply)[take(in, 1) % sizeof(s.reply)] = (uint8_t)take(in, 1);
    s.watches = k % 4 == 0;
    struct ffl_ticket via = {.fd = -1};
    struct ffl_client_opts o = {.timeout_ms = 1, .spin_us = 0, .via = &via};
    char why[256];
    int rc = ffl_client_attach(&s.c, &o, why, sizeof(why));
    CHECK(rc == 0 || why[0]);
    return rc == 0;
}

static void end(void)
{
    if (s.c)
        ffl_client_detach(s.c);
    ffl_pool_fini(&s.rx);
    ffl_segment_drop(&s.map);
    for (int i = 0; i < 2; i++)
        close(s.bells[i]);
    if (s.peer >= 0)
        close(s.peer);
    close(s.placeholder);
}

/* ---- the instance -------------------------------------------------------------------------- */

static void post(struct input *in, struct ffl_entry e)
{
    uint32_t lie = take(in, 2); /* a field in about a hundred completions is wrong */
    if (lie < 100)
        e.op = (uint8_t)take(in, 1);
    else if (lie < 200)
        e.handle = lie % 2 ? take(in, 4) : take(in, 1) % (HANDLES + 2);
    else if (lie < 350)
        e.arg = (int32_t)take(in, 4);
    else if (lie < 500)
        e.buf = lie % 2 ? take(in, 4) : take(in, 1) % 3 << FFL_BUF_CLASS_SHIFT | take(in, 1);
    else if (lie < 600)
        e.flags = (uint8_t)take(in, 1);
    if (!s.words_lie && ffl_ring_room(&s.cq, 1) <= 0)
        return;
    ffl_ring_put_entry(&s.cq, e);
    ffl_ring_commit(&s.cq);
    fuzz_units++;
}

static uint32_t block(const void *data, size_t len)
{
    uint32_t buf = ffl_pool_get(&s.rx, (uint32_t)len);
    if (buf != FFL_NO_BUF && ffl_buf_size(buf) >= len)
        memcpy((char *)s.map.seg + ffl_buf_off(&s.map.geo.rx, buf), data, len);
    return buf;
}

static void take_back(void)
{
    for (int n = ffl_ring_avail(&s.rxfree); n > 0; n--)
        (void)ffl_pool_put(&s.rx, ffl_ring_get_id(&s.rxfree)); /* it may be one we lied with */
    ffl_ring_consumed(&s.rxfree);
}

/* The answer that an instance would give to an entry of the SQ. */
static void answer(struct input *in, struct ffl_entry q)
{
    const struct ffl_addresses addresses = {addr4("10.0.0.1", 80), addr4("10.0.0.2", 81)};
    const struct ffl_optarg o = {.len = take(in, 2) % (FFL_OPT_MAX + 1)};
    struct ffl_entry e = {.op = q.op, .tag = q.tag, .handle = q.handle, .buf = FFL_NO_BUF};
    uint32_t h = q.handle % HANDLES;
    e.arg = take(in, 1) < 224 ? 0 : -(int32_t)(1 + take(in, 1) % 130);
    if (q.buf != FFL_NO_BUF) {
        ffl_ring_put_id(&s.txfree, q.buf);
        ffl_ring_commit(&s.txfree);
        fuzz_units++;
    }
    switch (q.op) {
    case FFL_OP_SOCKET:
        s.open[h] = true;
        s.dgram[h] = (q.arg >> 8 & 0xff) == SOCK_DGRAM;
        s.listener[h] = false;
        s.credits[h] = 0;
        if (e.arg == 0)
            return;
        break;
    case FFL_OP_LISTEN:
        s.listener[h] = e.arg == 0;
        e.buf = block(&addresses, sizeof(addresses));
        break;
    case FFL_OP_BIND:
    case FFL_OP_CONNECT:
    case FFL_OP_ADDRESSES:
        e.buf = e.arg == 0 ? block(&addresses, sizeof(addresses)) : FFL_NO_BUF;
        break;
    case FFL_OP_GETSOCKOPT:
        e.buf = block(&o, sizeof(o));
        break;
    case FFL_OP_IMPORT:
        s.open[h] = true;
        e.arg = e.arg < 0 ? e.arg : (int32_t)(take(in, 1) % 4);
        s.listener[h] = e.arg & FFL_IMPORT_LISTENER;
        break;
    case FFL_OP_NOP:
    case FFL_OP_SETSOCKOPT:
        break;
    case FFL_OP_CLOSE:
        s.open[h] = false;
        e.op = FFL_OP_CLOSED;
        break;
    case FFL_OP_ARM:
        s.credits[h] += (uint32_t)q.arg;
        return;
    case FFL_OP_TAKE:
        s.credits[h] += (uint32_t)q.arg;
        e.arg = (int32_t)(take(in, 1) % 3);
        if (!q.tag)
            return;
        break;
    default:
        return;
    }
    post(in, e);
}

static void serve(struct input *in)
{
    int n = ffl_ring_avail(&s.sq), most = 1 + take(in, 1) % 64;
    CHECK(n >= 0 || s.words_lie); /* an application that means well never lies */
    for (int i = 0; i < n && i < most; i++)
        answer(in, ffl_ring_get_entry(&s.sq));
    ffl_ring_consumed(&s.sq);
    take_back();
}

/* What an instance says of itself: data, ends, errors, connections. */
static void speak(struct input *in)
{
    uint32_t h = take(in, 1) % HANDLES, k = take(in, 1);
    for (uint32_t i = 0; i < HANDLES && !s.open[h]; i++)
        h = (h + 1) % HANDLES;
    if (!s.open[h])
        return;
    struct ffl_entry e = {.op = FFL_OP_RECV, .handle = h, .buf = FFL_NO_BUF};
    const struct ffl_addresses addresses = {addr4("10.0.0.1", 80), addr4("10.0.0.2", 81)};
    if (s.listener[h] && s.credits[h] && k < 230) {
        uint32_t new = SOCKETS + k % SOCKETS;
        for (uint32_t i = 0; i < SOCKETS && s.open[new]; i++)
            new = SOCKETS + (new + 1) % SOCKETS;
        s.credits[h]--;
        s.open[new] = true;
        s.listener[new] = s.dgram[new] = false;
        e.op = FFL_OP_ACCEPT;
        e.arg = (int32_t)new;
        e.buf = k % 8 ? block(&addresses, sizeof(addresses)) : FFL_NO_BUF;
    } else if (k < 220) {
        uint32_t want = k < 150 ? 256 : k < 215 ? 4096 : 65536;
        e.buf = ffl_pool_get(&s.rx, want);
        e.arg = e.buf == FFL_NO_BUF ? 0 : (int32_t)(take(in, 2) % (ffl_buf_size(e.buf) + 1));
        if (s.dgram[h] && e.buf != FFL_NO_BUF) {
            e.flags = FFL_F_ADDR | (k % 8 ? 0 : FFL_F_TRUNC);
            e.arg +=
                e.arg < (int32_t)sizeof(struct ffl_addr) ? (int32_t)sizeof(struct ffl_addr) : 0;
        }
    } else if (k < 240) {
        e.op = FFL_OP_ERROR;
        e.arg = -(int32_t)(k - 219);
    } else if (s.listener[h] && k < 250) {
        e.op = FFL_OP_OFFER;
    } else if (k < 246) {
        e.op = FFL_OP_CONNECT;
        e.arg = k % 2 ? 0 : -111;
    } /* else the end of the stream */
    post(in, e);
}

/* Anything may be written at any time: payloads (no lie), slots, words (lies). */
static void scribble(struct input *in)
{
    struct ffl_segment *seg = s.map.seg;
    uint32_t k = take(in, 1), v = take(in, 4);
    if (k < 200) {
        uint32_t first = sizeof(*seg) / 4, n = s.map.geo.size / 4 - first, at = first + v % n;
        if (at < s.map.geo.rx.off[0] / 4 && k >= 20)
            return;
        s.words_lie |= at < s.map.geo.rx.off[0] / 4;
        ((volatile uint32_t *)seg)[at] = take(in, 4);
    } else if (k < 225) {
        atomic_store(&seg->waits.inst, v & 7);
    } else if (k < 240) {
        atomic_store(&seg->inst.tx_unwritable, v);
    } else {
        s.words_lie = true;
        struct ffl_ring_ctl *ctl = &seg->ring[v % FFL_RINGS];
        _Atomic uint32_t *word = v & 4 ? &ctl->tail : &ctl->head;
        atomic_store(word,
                     k >= 250 ? take(in, 4) : atomic_load(word) + (uint32_t)(int8_t)take(in, 1));
    }
}

/* ---- the application ----------------------------------------------------------------------- */

static void own(int h, bool is)
{
    CHECK(h >= 0 && h < HANDLES);
    s.mine[h] = is;
    if (!s.watches)
        return;
    ffl_watch_del(&s.watch[h]);
    if (is) {
        s.watch[h].events = FFL_WATCH_ALL;
        ffl_watch_add(&s.poll, &s.source[h], &s.watch[h]);
        CHECK_EQ(ffl_client_watch(s.c, h, &s.source[h]), 0);
    }
}

static void on_event(struct input *in, const struct ffl_event *ev)
{
    uint32_t size = ffl_client_size(s.c);
    CHECK(ev->off <= size && (ev->kind != FFL_EV_DATA || !ev->off || ev->arg <= size - ev->off));
    if (ev->kind == FFL_EV_ACCEPT)
        own((int)ev->arg, true);
    if (ev->kind == FFL_EV_DATA && take(in, 1) % 4 == 0)
        (void)ffl_client_unread(s.c, (int)ev->handle);
}

static void look(struct input *in)
{
    struct ffl_event ev[16];
    struct ffl_watch *w;
    if (!s.watches) {
        int n = ffl_client_wait(s.c, ev, 16, -1, 0);
        CHECK(n >= 0 && n <= 16);
        for (int i = 0; i < n; i++)
            on_event(in, &ev[i]);
        return;
    }
    ffl_client_reap(s.c);
    while ((w = ffl_poll_take(&s.poll)))
        CHECK(s.mine[w - s.watch]);
    if (take(in, 1) % 2) {
        (void)ffl_sleep_doze(s.c);
        ffl_sleep_rouse(s.c);
    }
}

/* A call that waits has its answer before it: with the tag that it will have. */
static void call_ahead(struct input *in, enum ffl_op op, int h)
{
    struct ffl_client *c = s.c;
    if (c->ch.over.n || take(in, 1) > 240) /* behind others in the SQ, or none comes: 1 ms */
        return;
    serve(in);
    uint16_t tag = (uint16_t)(c->next_tag + 1);
    answer(in,
           (struct ffl_entry){
               .op = (uint8_t)op, .tag = tag ? tag : 1, .handle = (uint32_t)h, .buf = FFL_NO_BUF});
}

static void call(struct input *in)
{
    static uint8_t data[70000];
    struct ffl_client *c = s.c;
    struct ffl_addr a = addr4("10.0.0.1", 80);
    struct ffl_addresses addresses;
    struct ffl_pending pending;
    struct iovec iov[2] = {{data, take(in, 1)}, {data, take(in, 2)}};
    size_t len = take(in, 1) % 8 ? take(in, 1) : take(in, 2);
    uint32_t k = take(in, 1), optlen = k % 70;
    int h = (int)(take(in, 1) % HANDLES), flags, got;
    for (int i = 0; i < HANDLES && !s.mine[h]; i++)
        h = (h + 1) % HANDLES;
    CHECK(!s.mine[h] || client_sock(c, h)); /* what it has been given stays until it closes it */
    if (!s.mine[h])
        k = k % 2 ? 0 : 1;
    switch (k % 32) {
    case 0:
    case 1:
        got = ffl_client_socket(c, k & 32 ? AF_INET : AF_INET6, k & 64 ? SOCK_STREAM : SOCK_DGRAM,
                                0, 0);
        if (got >= 0)
            own(got, true);
        break;
    case 2:
        call_ahead(in, FFL_OP_BIND, h);
        (void)ffl_client_bind(c, h, &a);
        break;
    case 3:
        call_ahead(in, FFL_OP_LISTEN, h);
        (void)ffl_client_listen(c, h, 8, 0);
        break;
    case 4:
        if (!s.watches)
            (void)ffl_client_accepting(c, h, (int)(len % 16), FFL_F_ARM_NEW);
        else
            (void)ffl_client_arm(c, h, (int)(len % 16));
        break;
    case 5:
        if ((got = ffl_client_accept(c, h, &addresses)) >= 0)
            own(got, true);
        break;
    case 6:
        (void)ffl_client_connect(c, h, &a);
        break;
    case 7:
        call_ahead(in, FFL_OP_ADDRESSES, h);
        (void)ffl_client_addresses(c, h, &addresses);
        break;
    case 8:
        call_ahead(in, FFL_OP_GETSOCKOPT, h);
        if (ffl_client_getsockopt(c, h, (int)(k / 32), (int)len, data, &optlen) == 0)
            CHECK(optlen <= FFL_OPT_MAX);
        break;
    case 9:
        call_ahead(in, FFL_OP_SETSOCKOPT, h);
        (void)ffl_client_setsockopt(c, h, (int)(k / 32), (int)len, data, optlen);
        break;
    case 10:
        call_ahead(in, FFL_OP_NOP, 0);
        (void)ffl_client_ping(c);
        break;
    case 11:
        call_ahead(in, FFL_OP_IMPORT,
                   (int)(c->ids.nfreed ? c->ids.freed[c->ids.nfreed - 1] : c->ids.fresh));
        got = ffl_client_import(c, &(struct ffl_ticket){.id = 1}, 0, AF_INET, SOCK_STREAM, 0);
        if (got >= 0)
            own(got, true);
        break;
    case 12:
        ffl_client_export(c, h, &(struct ffl_ticket){.id = 1});
        break;
    case 13:
        ffl_client_disarm(c, h);
        (void)ffl_client_give_back(c, h);
        break;
    case 14:
        if (!s.watches)
            (void)ffl_client_push(c, h, k & 32);
        break;
    case 15:
        if (!s.watches)
            (void)ffl_client_want(c, h, 1 + k / 32 % 3);
        else
            ffl_client_want_room(c, h);
        break;
    case 16:
        (void)ffl_client_placeholder(c, h, s.placeholder);
        break;
    case 17:
        (void)ffl_client_shutdown(c, h, (int)(k / 32 % 3));
        break;
    case 18:
    case 19:
        own(h, false);
        (void)ffl_client_close(c, h, k & 32);
        break;
    case 20:
        (void)ffl_client_take_error(c, h);
        (void)ffl_client_state(c, h);
        (void)ffl_client_ready(c, h);
        (void)ffl_client_pending(c, h, &pending);
        (void)ffl_client_unsent(c, h);
        break;
    case 21:
    case 22:
        CHECK(ffl_client_sendv(c, h, iov, 2, 0) <= (int64_t)(iov[0].iov_len + iov[1].iov_len));
        break;
    case 23:
        CHECK(ffl_client_sendto(c, h, data, len, k & 32 ? &a : NULL) <= (int64_t)len);
        break;
    case 24:
    case 25:
    case 26:
        CHECK(ffl_client_send(c, h, data, len) <= (int64_t)len);
        break;
    default:
        CHECK(ffl_client_recv(c, h, data, len, k & 32 ? MSG_PEEK : 0, &a, &flags) <= (int64_t)len);
    }
}

/* ---- an input ------------------------------------------------------------------------------ */

#define AFTER_DEATH 20 /* what an application still does that has not noticed */

static void play(struct input *in)
{
    for (int dead = 0; in->n && dead < AFTER_DEATH; dead += ffl_client_detached(s.c) != 0) {
        uint32_t k = take(in, 1);
        if (k < 100)
            call(in);
        else if (k < 140)
            serve(in);
        else if (k < 200)
            speak(in);
        else if (k < 246)
            look(in);
        else if (k < 254)
            scribble(in);
        else if (take(in, 1) < 16 && s.peer >= 0)
            close(s.peer), s.peer = -1, look(in); /* it has ended */
    }
}

static int base_open; /* descriptors of the process */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    if (!base_open) {
        ffl_log_open(-1, FFL_LOG_ERROR);
        base_open = test_open_fds();
    }
    if (begin(&in)) {
        fuzz_sessions++;
        play(&in);
    }
    end();
    return 0;
}

void fuzz_end(void)
{
    CHECK_EQ(test_open_fds(), base_open);
}
