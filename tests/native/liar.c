/*
 * liar.c - rule 7: an instance that lies costs the client its session (-EPROTO), not its life.
 */
#include "lab.h"

#include <sched.h>
#include <sys/eventfd.h>

struct fake {
    int listener, peer, bells[2];
    struct ffl_map map;
    struct ffl_ring cq, txfree;
    pthread_t thread;
    struct ffl_client *c;
    int rc;
    char why[256];
};

static void *fake_attach(void *arg)
{
    struct fake *f = arg;
    struct ffl_client_opts o = {.path = lab.path, .timeout_ms = 60000};
    f->rc = ffl_client_attach(&f->c, &o, f->why, sizeof(f->why));
    return NULL;
}

static void fake_open(struct fake *f)
{
    struct sockaddr_un sa;
    socklen_t len;
    struct ffl_hello h;
    memset(f, 0, sizeof(*f));
    snprintf(lab.path, sizeof(lab.path), "@ffl-fake-%d", (int)getpid());
    CHECK_EQ(ffl_unix_addr(lab.path, &sa, &len), 0);
    f->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    CHECK_EQ(bind(f->listener, (struct sockaddr *)&sa, len), 0);
    CHECK_EQ(listen(f->listener, 4), 0);
    CHECK_EQ(pthread_create(&f->thread, NULL, fake_attach, f), 0);
    f->peer = accept4(f->listener, NULL, NULL, SOCK_CLOEXEC);
    CHECK(f->peer >= 0);
    CHECK_EQ(recv(f->peer, &h, sizeof(h), 0), sizeof(h));
}

static void fake_close(struct fake *f)
{
    close(f->peer);
    close(f->listener);
}

TEST(client_meets_garbage_replies)
{
    uint64_t seed = 4;
    quiet();
    int before = test_open_fds();
    for (int i = 0; i < 300; i++) {
        struct fake f;
        fake_open(&f);
        uint8_t junk[400];
        struct ffl_reply good = {.magic = FFL_MAGIC, .version = FFL_ABI_VERSION};
        for (size_t k = 0; k < sizeof(junk); k++)
            junk[k] = (uint8_t)test_random(&seed);
        size_t len = test_random(&seed) % sizeof(junk);
        int nfds = (int)(test_random(&seed) % 6), fds[6] = {0, 1, 2, 0, 1, 2};
        if (i % 2) { /* a good reply with wrong descriptors, or a status that is none */
            good.status = i % 4 == 1 ? 0 : test_random(&seed);
            memset(good.why, 'x', sizeof(good.why));
            memset(good.stack, 'y', sizeof(good.stack));
            memcpy(junk, &good, sizeof(good));
            len = sizeof(good);
        }
        if (len)
            CHECK_EQ(ffl_msg_send(f.peer, junk, len, fds, nfds), len);
        else
            close(f.peer), f.peer = -1;
        pthread_join(f.thread, NULL);
        CHECK(f.rc < 0);
        CHECK(f.why[0]);
        fake_close(&f);
        CHECK_EQ(test_open_fds(), before);
    }
}

static void fake_session(struct fake *f)
{
    struct ffl_geo geo;
    struct ffl_reply reply = {.magic = FFL_MAGIC, .version = FFL_ABI_VERSION, .stack = "fake"};
    fake_open(f);
    ffl_geo_default(&geo, 16, 64);
    CHECK_EQ(ffl_segment_create(&f->map, &geo, false), 0);
    f->bells[0] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    f->bells[1] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int fds[] = {f->map.memfd, f->bells[0], f->bells[1]};
    CHECK_EQ(ffl_msg_send(f->peer, &reply, sizeof(reply), fds, 3), sizeof(reply));
    pthread_join(f->thread, NULL);
    CHECK_EQ(f->rc, 0);
    ffl_segment_ring(&f->map, FFL_CQ, &f->cq);
    ffl_segment_ring(&f->map, FFL_TXFREE, &f->txfree);
}

static void fake_end(struct fake *f)
{
    ffl_client_detach(f->c);
    ffl_segment_drop(&f->map);
    close(f->bells[0]);
    close(f->bells[1]);
    fake_close(f);
}

static struct ffl_entry random_completion(const struct fake *f, uint64_t *seed)
{
    struct ffl_entry e;
    uint32_t x = test_random(seed), cls = test_random(seed) % FFL_CLASSES;
    e.op = (uint8_t)(x % 50 ? x / 50 % FFL_OP_COUNT : x);
    e.flags = (uint8_t)(test_random(seed) % 3 ? 0 : test_random(seed));
    e.tag = (uint16_t)(test_random(seed) % 4);
    e.handle = x % 97 ? test_random(seed) % 20 : test_random(seed);
    e.arg = x % 3 ? (int32_t)(test_random(seed) % 40) : (int32_t)(test_random(seed) << 1);
    e.buf = x % 5 ? cls << FFL_BUF_CLASS_SHIFT | test_random(seed) % f->map.geo.rx.count[cls]
                  : (x % 2 ? FFL_NO_BUF : test_random(seed) * 2);
    return e;
}

static void use_client(struct ffl_client *c, uint64_t *seed)
{
    struct ffl_event ev[16];
    static char buf[5000];
    int flags;
    struct ffl_addr a = addr4("10.0.0.1", 80);
    int n = ffl_client_wait(c, ev, 16, -1, 0);
    for (int i = 0; i < n; i++)
        if (ev[i].kind == FFL_EV_DATA && ev[i].off) { /* within the segment, whatever was posted */
            CHECK(ev[i].off <= ffl_client_size(c) && ev[i].arg <= ffl_client_size(c) - ev[i].off);
            if (test_random(seed) % 4 == 0)
                (void)ffl_client_unread(c, (int)ev[i].handle);
        }
    int h = (int)(test_random(seed) % 20);
    switch (test_random(seed) % 9) {
    case 0:
        (void)ffl_client_socket(c, AF_INET, test_random(seed) % 3 ? SOCK_STREAM : SOCK_DGRAM, 0, 0);
        break;
    case 1:
        (void)ffl_client_send(c, h, buf, 1 + test_random(seed) % sizeof(buf));
        break;
    case 2:
        (void)ffl_client_recv(c, h, buf, 1 + test_random(seed) % sizeof(buf), 0, &a, &flags);
        break;
    case 3:
        (void)ffl_client_close(c, h, test_random(seed) % 2);
        break;
    case 4:
        (void)ffl_client_push(c, h, test_random(seed) % 2);
        break;
    case 5:
        (void)ffl_client_connect(c, h, &a);
        break;
    case 6:
        (void)ffl_client_want(c, h, test_random(seed) % 4);
        break;
    case 7:
        (void)ffl_client_accept(c, h, NULL);
        break;
    default:
        (void)ffl_client_sendto(c, h, buf, test_random(seed) % sizeof(buf), &a);
    }
}

TEST(r7_client_survives_a_lying_instance)
{
    uint64_t seed = test_arg ? (uint64_t)atoll(test_arg) : 5;
    int dead = 0;
    quiet();
    for (int i = 0; i < 1000 / TEST_SLOW; i++) {
        struct fake f;
        fake_session(&f);
        for (int k = 0; k < 3; k++)
            CHECK(ffl_client_socket(f.c, AF_INET, k ? SOCK_STREAM : SOCK_DGRAM, 0, 0) >= 0);
        for (int k = 0; k < 60; k++) {
            alarm(LIMIT_S);
            use_client(f.c, &seed);
            if (test_random(&seed) % 2) {
                ffl_ring_put_entry(&f.cq, random_completion(&f, &seed));
                ffl_ring_commit(&f.cq);
            }
            uint32_t x = test_random(&seed);
            if (x % 37 == 0)
                atomic_store(&f.map.seg->ring[x / 37 % FFL_RINGS].head, test_random(&seed));
            if (x % 41 == 0)
                atomic_store(&f.map.seg->ring[x / 41 % FFL_RINGS].tail, test_random(&seed));
            if (x % 29 == 0) {
                ffl_ring_put_id(&f.txfree, test_random(&seed) % 3);
                ffl_ring_commit(&f.txfree);
            }
        }
        dead += ffl_client_detached(f.c) == -EPROTO;
        fake_end(&f);
    }
    CHECK(dead > 0);
}

static void *import_thread(void *arg)
{
    struct fake *f = arg;
    f->rc = ffl_client_import(f->c, &(struct ffl_ticket){.id = 1, .key = 1}, 0, AF_INET,
                              SOCK_STREAM, 0);
    return NULL;
}

/* An import is answered with these flags, and another completion comes in the same batch. */
static void imported(struct fake *f, int flags, enum ffl_op op)
{
    struct ffl_ring sq;
    uint64_t one = 1;
    fake_session(f);
    ffl_segment_ring(&f->map, FFL_SQ, &sq);
    CHECK_EQ(pthread_create(&f->thread, NULL, import_thread, f), 0);
    while (ffl_ring_avail(&sq) == 0)
        (void)sched_yield();
    struct ffl_entry q = ffl_ring_get_entry(&sq);
    CHECK_EQ(q.op, FFL_OP_IMPORT);
    ffl_ring_put_entry(&f->cq, (struct ffl_entry){.op = FFL_OP_IMPORT,
                                                  .tag = q.tag,
                                                  .handle = q.handle,
                                                  .arg = flags,
                                                  .buf = FFL_NO_BUF});
    ffl_ring_put_entry(
        &f->cq, (struct ffl_entry){.op = (uint8_t)op, .handle = q.handle, .buf = FFL_NO_BUF});
    ffl_ring_commit(&f->cq);
    CHECK_EQ(write(f->bells[0], &one, sizeof(one)), sizeof(one));
    pthread_join(f->thread, NULL);
    CHECK_EQ(f->rc, (int)q.handle);
}

TEST(client_imports_a_connect_that_has_ended)
{
    struct fake f;
    struct ffl_event ev[8];
    bool writable = false;
    imported(&f, FFL_IMPORT_CONNECTING, FFL_OP_CONNECT);
    (void)ffl_client_want(f.c, f.rc, FFL_WRITE);
    int n = ffl_client_wait(f.c, ev, 8, -1, 0);
    for (int i = 0; i < n; i++)
        writable |= ev[i].kind == FFL_EV_WRITABLE;
    CHECK(writable);
    fake_end(&f);
}

/* The session is lost while a connect is under way: the connect's result is that. */
TEST(client_connects_as_its_session_ends)
{
    struct fake f;
    struct ffl_addr a = addr4("10.0.0.1", 80);
    quiet();
    fake_session(&f);
    CHECK_EQ(ffl_client_socket(f.c, AF_INET, SOCK_STREAM, 0, 0), 0);
    CHECK_EQ(ffl_client_connect(f.c, 0, &a), -EINPROGRESS);
    CHECK_EQ(ffl_client_connect_result(f.c, 0), -EALREADY);
    ffl_ring_put_entry(&f.cq, (struct ffl_entry){.op = FFL_OP_NONE, .buf = FFL_NO_BUF});
    ffl_ring_commit(&f.cq);
    CHECK_EQ(ffl_client_connect_result(f.c, 0), -EPROTO);
    fake_end(&f);
}

/* Another process shut the sending side down just after the import. */
TEST(client_imports_what_is_shut_down)
{
    struct fake f;
    imported(&f, 0, FFL_OP_SHUTDOWN);
    CHECK_EQ(ffl_client_send(f.c, f.rc, "x", 1), -EPIPE);
    fake_end(&f);
}

static const struct completion_lie {
    const char *name;
    struct ffl_entry e;
    bool twice;
} completion_lies[] = {
    {"no operation", {.op = FFL_OP_NONE, .buf = FFL_NO_BUF}, false},
    {"an unknown operation", {.op = 99, .buf = FFL_NO_BUF}, false},
    {"one that has no completion", {.op = FFL_OP_SEND, .buf = FFL_NO_BUF}, false},
    {"a handle that is not open", {.op = FFL_OP_RECV, .handle = 7, .buf = FFL_NO_BUF}, false},
    {"a handle out of range", {.op = FFL_OP_RECV, .handle = 32, .buf = FFL_NO_BUF}, false},
    {"a huge handle", {.op = FFL_OP_RECV, .handle = UINT32_MAX, .buf = FFL_NO_BUF}, false},
    {"data longer than its buffer", {.op = FFL_OP_RECV, .arg = 257, .buf = 0}, false},
    {"a negative length", {.op = FFL_OP_RECV, .arg = -5, .buf = 0}, false},
    {"a buffer class out of range", {.op = FFL_OP_RECV, .arg = 1, .buf = 0x30000000}, false},
    {"a buffer out of range", {.op = FFL_OP_RECV, .arg = 1, .buf = 0x0fffffff}, false},
    {"one buffer twice", {.op = FFL_OP_RECV, .arg = 1, .buf = 3}, true},
    {"an address cut short", {.op = FFL_OP_RECV, .flags = FFL_F_ADDR, .arg = 27, .buf = 0}, false},
    {"an accept on what is no listener",
     {.op = FFL_OP_ACCEPT, .arg = 16, .buf = FFL_NO_BUF},
     false},
    {"names in a buffer out of range", {.op = FFL_OP_CONNECT, .buf = 0x2fffffff}, false},
    {"an answer in a buffer out of range", {.op = FFL_OP_ADDRESSES, .buf = 0x2fffffff}, false},
    {"an error that is none", {.op = FFL_OP_ERROR, .arg = -4096, .buf = FFL_NO_BUF}, false},
    {"the least error", {.op = FFL_OP_CONNECT, .arg = INT32_MIN, .buf = FFL_NO_BUF}, false},
    {"the end of a socket that was not closed", {.op = FFL_OP_CLOSED, .buf = FFL_NO_BUF}, false},
};

TEST(r7_each_lie_of_an_instance_is_seen)
{
    struct ffl_event ev[8];
    quiet();
    for (size_t i = 0; i < FFL_COUNT(completion_lies); i++) {
        const struct completion_lie *lie = &completion_lies[i];
        struct fake f;
        fake_session(&f);
        CHECK_EQ(ffl_client_socket(f.c, AF_INET, SOCK_STREAM, 0, 0), 0);
        CHECK_EQ(ffl_client_wait(f.c, ev, 8, -1, 0), 0);
        for (int k = 0; k <= lie->twice; k++)
            ffl_ring_put_entry(&f.cq, lie->e);
        ffl_ring_commit(&f.cq);
        (void)ffl_client_wait(f.c, ev, 8, -1, 0);
        if (ffl_client_detached(f.c) != -EPROTO)
            FAIL("%s: not seen", lie->name);
        fake_end(&f);
    }
    static const uint32_t ids[] = {0, FFL_NO_BUF, 2u << FFL_BUF_CLASS_SHIFT};
    for (size_t i = 0; i < FFL_COUNT(ids); i++) { /* transmit buffers that were not out */
        struct fake f;
        fake_session(&f);
        ffl_ring_put_id(&f.txfree, ids[i]);
        ffl_ring_commit(&f.txfree);
        (void)ffl_client_wait(f.c, ev, 8, -1, 0);
        CHECK_EQ(ffl_client_detached(f.c), -EPROTO);
        fake_end(&f);
    }
    for (int ring = FFL_CQ; ring <= FFL_TXFREE; ring++) {
        struct fake f;
        fake_session(&f);
        atomic_store(&f.map.seg->ring[ring].tail, 100000);
        (void)ffl_client_wait(f.c, ev, 8, -1, 0);
        CHECK_EQ(ffl_client_detached(f.c), -EPROTO);
        fake_end(&f);
    }
}
