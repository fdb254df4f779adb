/*
 * memory.c - rule 7: what an application writes into its memory, takes from it, leaves in it.
 *
 * Random entries, scribbled words, holes: the liar's session ends, an honest one beside it goes on.
 */
#include "lab.h"

#include "../../ffloop/_native/instance/internal.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* ---- random entries ------------------------------------------------------------------------ */

static struct ffl_entry random_entry(struct raw *r, uint64_t *seed)
{
    static const uint32_t handles[] = {0, 1, 2, 3, 256, 257, 258, 259};
    struct ffl_entry e;
    uint32_t x = test_random(seed);
    e.op = (uint8_t)(x % 50 ? x / 50 % FFL_OP_COUNT : x);
    e.flags = (uint8_t)(test_random(seed) % 3 ? 0 : test_random(seed));
    e.tag = (uint16_t)test_random(seed);
    e.handle = x % 97 ? handles[test_random(seed) % FFL_COUNT(handles)] : test_random(seed);
    e.arg = x % 3 ? (int32_t)(test_random(seed) % 300) : (int32_t)(test_random(seed) << 1);
    uint32_t cls = test_random(seed) % FFL_CLASSES;
    e.buf = x % 5 ? cls << FFL_BUF_CLASS_SHIFT | test_random(seed) % r->map.geo.tx.count[cls]
                  : (x % 2 ? FFL_NO_BUF : test_random(seed) * 2);
    if (e.op == FFL_OP_SOCKET && x % 5)
        e.arg = (test_random(seed) % 2 ? AF_INET : AF_INET6) |
                (test_random(seed) % 2 ? SOCK_STREAM : SOCK_DGRAM) << 8;
    if (ffl_buf_ok(&r->map.geo.tx, e.buf) && x % 7) { /* something that could be an argument */
        struct ffl_addr a = addr4("10.0.0.7", (int)(test_random(seed) % 4));
        memcpy(raw_tx(r, e.buf), &a, sizeof(a));
    }
    return e;
}

static void fuzz(uint64_t seed, int rounds, void (*more)(struct raw *r, uint64_t *seed))
{
    struct neighbour n;
    int sessions = 0;
    lab_start("clock=manual max_sockets=64");
    neighbour_start(&n);
    unsigned sockets = ffl_instance_sockets(lab.in);
    for (int i = 0; i < rounds; i++) {
        struct raw r;
        raw_attach(&r);
        sessions++;
        for (int k = 0; k < 60; k++) {
            for (uint32_t burst = test_random(&seed) % 8; burst > 0; burst--)
                if (ffl_ring_room(&r.sq, 1) > 0)
                    raw_put(&r, random_entry(&r, &seed));
            if (more)
                more(&r, &seed);
            ffl_sim_advance(sim, 1000);
            alarm(LIMIT_S); /* no iteration may hang */
            (void)iterate();
        }
        neighbour_works(&n);
        raw_gone(&r);
        iterations(2);
        CHECK_EQ(ffl_instance_sockets(lab.in), sockets);
    }
    CHECK_EQ(sessions, rounds);
    neighbour_end(&n);
}

TEST(r7_random_entries)
{
    fuzz(test_arg ? (uint64_t)atoll(test_arg) : 1, 1500 / TEST_SLOW, NULL);
}

/* Anything may stand anywhere that the application can write. */
static void scribble(struct raw *r, uint64_t *seed)
{
    uint32_t *words = (uint32_t *)r->map.seg, n = r->map.geo.size / 4;
    uint32_t x = test_random(seed);
    if (x % 4 == 0)
        atomic_store((_Atomic uint32_t *)&r->map.seg->ring[x / 4 % FFL_RINGS].head,
                     x % 3 ? x / 16 % 5000 : test_random(seed));
    if (x % 4 == 1)
        atomic_store((_Atomic uint32_t *)&r->map.seg->ring[x / 4 % FFL_RINGS].tail,
                     x % 3 ? x / 16 % 5000 : test_random(seed));
    if (x % 4 == 2)
        words[test_random(seed) % (sizeof(struct ffl_segment) / 4)] = test_random(seed);
    if (x % 4 == 3)
        for (int i = 0; i < 100; i++)
            words[test_random(seed) % n] = test_random(seed);
    for (uint32_t i = 0; x % 5 == 0 && i < 4; i++)
        raw_give(r, x % 2 ? test_random(seed) % 40 : test_random(seed));
}

static void scribble_quietly(struct raw *r, uint64_t *seed)
{
    scribble(r, seed);
    /* our own view must not stop the test: it begins anew from what stands there */
    r->sq.tail = atomic_load(&r->sq.ctl->tail);
    r->sq.head = r->sq.tail - test_random(seed) % 64;
    r->rxfree.tail = atomic_load(&r->rxfree.ctl->tail);
    r->rxfree.head = r->rxfree.tail - test_random(seed) % 64;
}

TEST(r7_scribbled_memory)
{
    fuzz(test_arg ? (uint64_t)atoll(test_arg) : 2, 1500 / TEST_SLOW, scribble_quietly);
}

/* ---- memory that changes at any moment ------------------------------------------------------- */

struct scribbler {
    _Atomic int stop;
    _Atomic uint32_t *words; /* a mapping of its own */
    uint32_t n;
    uint64_t seed;
};

static void *scribbles(void *arg)
{
    struct scribbler *s = arg;
    while (!atomic_load(&s->stop)) {
        uint32_t x = test_random(&s->seed);
        uint32_t n = x % 4 ? sizeof(struct ffl_segment) / 4 : s->n; /* most often the words */
        _Atomic uint32_t *w = s->words + test_random(&s->seed) % n;
        uint32_t was = atomic_load(w);
        atomic_store(w, x % 5 == 0   ? test_random(&s->seed)
                        : x % 5 == 1 ? was + x / 64 % 9 - 4
                                     : was ^ 1u << x / 64 % 32);
        for (uint32_t pause = x / 64 % 4096; pause > 0; pause--)
            ffl_cpu_relax();
    }
    return NULL;
}

/* Calls that no answer of the instance's is needed for, or that end in time without one. */
static void use(struct ffl_client *c, const struct ffl_addr *to, uint64_t *seed)
{
    static char buf[20000];
    struct ffl_event ev[16];
    struct ffl_addr from;
    int flags, h = (int)(test_random(seed) % 4);
    switch (test_random(seed) % 8) {
    case 0:
        h = ffl_client_socket(c, AF_INET, test_random(seed) % 2 ? SOCK_STREAM : SOCK_DGRAM, 0, 0);
        (void)ffl_client_connect(c, h, to);
        break;
    case 1:
        (void)ffl_client_send(c, h, buf, 1 + test_random(seed) % sizeof(buf));
        break;
    case 2:
        (void)ffl_client_recv(c, h, buf, sizeof(buf), 0, &from, &flags);
        break;
    case 3:
        (void)ffl_client_sendto(c, h, buf, test_random(seed) % 1000, to);
        break;
    case 4:
        (void)ffl_client_close(c, h, test_random(seed) % 2);
        break;
    case 5:
        (void)ffl_client_want(c, h, FFL_WRITE);
        break;
    default:
        for (int n = ffl_client_wait(c, ev, 16, -1, 100000), i = 0; i < n; i++)
            CHECK(ev[i].kind != FFL_EV_DATA || !ev[i].off ||
                  (ev[i].off <= ffl_client_size(c) && ev[i].arg <= ffl_client_size(c) - ev[i].off));
    }
}

/* While both sides work, and between any two of their instructions: neither side breaks, whichever
 * finds the lie, and the neighbour does not notice. */
TEST(r7_memory_scribbled_at_any_moment)
{
    struct ffl_client *other, *c;
    char why[256];
    uint64_t seed = test_arg ? (uint64_t)atoll(test_arg) : 7;
    int ended = 0;
    lab_defaults("host");
    lab.o.pool_kib = 1024;
    lab_start("");
    quiet();
    lab_run();
    struct ffl_client_opts o = {.path = lab.path, .timeout_ms = 60000};
    struct ffl_addr nobody = addr4("127.0.0.1", 1);
    CHECK_EQ(ffl_client_attach(&other, &o, why, sizeof(why)), 0);
    for (int i = 0; i < 100 / TEST_SLOW; i++) {
        struct scribbler s = {.seed = seed + (uint64_t)i};
        pthread_t thread;
        CHECK_EQ(ffl_client_attach(&c, &o, why, sizeof(why)), 0);
        s.n = ffl_client_size(c) / 4;
        s.words = mmap(NULL, 4ul * s.n, PROT_READ | PROT_WRITE, MAP_SHARED, ffl_client_memfd(c), 0);
        CHECK(s.words != MAP_FAILED);
        CHECK_EQ(pthread_create(&thread, NULL, scribbles, &s), 0);
        for (int k = 0; k < 200 && !ffl_client_detached(c); k++)
            use(c, &nobody, &seed);
        atomic_store(&s.stop, 1);
        pthread_join(thread, NULL);
        ended += ffl_client_detached(c) != 0;
        ffl_client_detach(c);
        munmap(s.words, 4ul * s.n);
        CHECK_EQ(ffl_client_ping(other), 0);
    }
    CHECK(ended > 0);
    ffl_client_detach(other);
    while (lab_sessions() > 0 || atomic_load(&lab.in->page->sockets) > 0)
        (void)poll(NULL, 0, 1); /* the case has a time limit */
    lab_stop();
}

/* ---- memory that is taken away -------------------------------------------------------------- */

/* The size is sealed. Holes can be punched: on ordinary pages they are zeros, and that is a lie or
 * none, as any other scribbling. */
TEST(r7_punched_memory)
{
    struct neighbour n;
    struct raw r;
    lab_start("clock=manual");
    neighbour_start(&n);
    raw_attach(&r);
    raw_listen(&r, 0, "10.0.0.2", 81, 8, 0);
    int fd = r.map.memfd;
    CHECK(ftruncate(fd, 4096) < 0 && errno == EPERM);
    CHECK(ftruncate(fd, (off_t)r.map.geo.size * 2) < 0 && errno == EPERM);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) < 0 && errno == EPERM);
    CHECK_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, r.map.geo.size), 0);
    CHECK_EQ(madvise(r.map.seg, r.map.geo.size, MADV_REMOVE), 0);
    neighbour_works(&n);
    CHECK(!raw_alive(&r)); /* it had submitted; its tail says otherwise now */
    raw_gone(&r);
    neighbour_works(&n);
    neighbour_end(&n);
}

static void faults_now(void *seg,
                       size_t size) /* each access is a SIGBUS, as a hole without a page */
{
    int fd = memfd_create("empty", MFD_CLOEXEC);
    CHECK(fd >= 0);
    CHECK(mmap(seg, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == seg);
    close(fd);
}

TEST(r7_lost_memory)
{
    struct neighbour n;
    struct raw r;
    lab_start("clock=manual");
    neighbour_start(&n);
    unsigned sockets = ffl_instance_sockets(lab.in);
    int fds = test_open_fds();
    for (int ready = 0; ready < 2; ready++) { /* idle, and with data to read and to send */
        raw_attach(&r);
        raw_listen(&r, 0, "10.0.0.1", 81, 8, FFL_F_ARM_NEW);
        int peer;
        uint32_t h = raw_accepted(&r, 0, 81, &peer);
        if (ready) {
            raw_send(&r, h, "hello", 5);
            CHECK_EQ(sim_put(peer, "hello", 5), 5);
        }
        struct ffl_session *s = TAILQ_LAST(&lab.in->sessions, session_list);
        CHECK_EQ(s->id, r.session);
        faults_now(s->map.seg, s->map.geo.size);
        neighbour_works(&n);
        CHECK(!raw_alive(&r));
        raw_gone(&r);
        sim_shut(peer);
        iterations(3);
        CHECK_EQ(ffl_instance_sockets(lab.in), sockets);
        CHECK_EQ(test_open_fds(), fds);
    }
    neighbour_end(&n);
}

/* The same as it would be done: all huge pages are taken, the segment's own among them. */
TEST(r7_punched_huge_pages)
{
    struct neighbour n;
    struct raw r;
    void *page, *taken = NULL;
    lab_defaults("sim");
    lab.o.huge = true;
    lab_start("clock=manual");
    neighbour_start(&n);
    raw_attach(&r);
    raw_listen(&r, 0, "10.0.0.2", 81, 8, 0);
    struct stat st;
    CHECK_EQ(fstat(r.map.memfd, &st), 0);
    if (st.st_blksize != 2 << 20)
        FAIL("it needs 16 MiB of free huge pages (vm.nr_hugepages)");
    size_t size = r.map.geo.size, all = 0;
    CHECK_EQ(fallocate(r.map.memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)size), 0);
    while ((page = mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0)) !=
           MAP_FAILED) {
        *(void **)page = taken;
        taken = page;
        all++;
    }
    CHECK(all >= size >> 21);
    neighbour_works(&n);
    CHECK(!raw_alive(&r));
    for (; taken; taken = page) {
        page = *(void **)taken;
        munmap(taken, 2 << 20);
    }
    raw_gone(&r);
    neighbour_works(&n);
    neighbour_end(&n);
}

/* ---- memory that is left behind -------------------------------------------------------------- */

/* Bytes of a file in memory. */
static uint64_t memory(int fd)
{
    struct stat st;
    CHECK_EQ(fstat(fd, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

/* The memory that an application leaves behind is released by pieces: much would hold up the
 * others. */
TEST(r7_memory_that_is_left_behind)
{
    enum { MUCH = 16 << 20, MOST = 3 << 20 }; /* bytes; MOST: of one iteration */
    struct neighbour n;
    struct raw r;
    lab_defaults("sim");
    lab.o.pool_kib = MUCH >> 10;
    lab.o.slice_ns = 1000; /* the least work */
    lab_start("clock=manual");
    neighbour_start(&n);
    raw_attach(&r);
    int fd = dup(r.map.memfd);
    memset((char *)r.map.seg + r.map.geo.rx.off[0], 1, MUCH);
    raw_gone(&r);
    uint64_t before = memory(fd), now;
    CHECK(before >= MUCH);
    for (int i = 0; lab_sessions() + atomic_load(&lab.in->page->dying) > 1; before = now, i++) {
        CHECK(i < 1000);
        (void)iterate();
        now = memory(fd);
        CHECK(before - now <= MOST);
    }
    CHECK(before <= 4096); /* a note of the iteration, on the stats page */
    close(fd);
    neighbour_end(&n);
}
