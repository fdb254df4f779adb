/*
 * ring.c - the SPSC ring and its wake protocol: order, wrap-around, a hostile peer, no lost wake.
 *
 * The two ends are two threads here, as ThreadSanitizer can only see one process; test_native.py
 * always runs this file under it too.
 */
#include "harness.h"

#include "ring.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>

#define SLOTS 64u

struct shared {
    struct ffl_ring_ctl ctl;
    struct ffl_ring_ctl back;
    struct ffl_waits waits;
    struct ffl_entry slots[SLOTS];
    struct ffl_entry back_slots[SLOTS];
    uint32_t ids[SLOTS];
};

static struct shared *shared_new(void)
{
    struct shared *sh = aligned_alloc(64, (sizeof(*sh) + 63) / 64 * 64);
    CHECK(sh);
    memset(sh, 0, sizeof(*sh));
    return sh;
}

static struct ffl_entry entry(uint32_t i)
{
    return (struct ffl_entry){.op = (uint8_t)i,
                              .flags = (uint8_t)(i >> 8),
                              .tag = (uint16_t)~i,
                              .handle = i,
                              .arg = (int32_t)(i * 2654435761u),
                              .buf = ~i};
}

static void check_entry(struct ffl_entry e, uint32_t i)
{
    struct ffl_entry want = entry(i);
    if (memcmp(&e, &want, sizeof(e)) != 0)
        FAIL("entry %u came as %u", i, e.handle);
}

/* ---- one thread ---------------------------------------------------------------------------- */

TEST(fill_and_drain)
{
    struct shared *sh = shared_new();
    struct ffl_ring p, c;
    ffl_ring_init(&p, &sh->ctl, sh->slots, SLOTS);
    ffl_ring_init(&c, &sh->ctl, sh->slots, SLOTS);
    for (uint32_t i = 0; i < SLOTS; i++) {
        CHECK_EQ(ffl_ring_room(&p, 1), SLOTS - i);
        ffl_ring_put_entry(&p, entry(i));
    }
    CHECK_EQ(ffl_ring_room(&p, 1), 0);
    CHECK_EQ(ffl_ring_avail(&c), 0); /* nothing is visible before the publish */
    CHECK(ffl_ring_unpublished(&p));
    CHECK(!ffl_ring_pending(&c));
    ffl_ring_publish(&p);
    CHECK(!ffl_ring_unpublished(&p));
    CHECK(ffl_ring_pending(&c));
    CHECK_EQ(ffl_ring_avail(&c), SLOTS);
    for (uint32_t i = 0; i < SLOTS; i++)
        check_entry(ffl_ring_get_entry(&c), i);
    CHECK_EQ(ffl_ring_avail(&c), 0);
    CHECK_EQ(ffl_ring_room(&p, 1), 0); /* read, but not given back */
    ffl_ring_consumed(&c);
    CHECK_EQ(ffl_ring_room(&p, 1), SLOTS);
    free(sh);
}

TEST(room_looks_again_only_when_it_must)
{
    struct shared *sh = shared_new();
    struct ffl_ring p;
    ffl_ring_init(&p, &sh->ctl, sh->slots, SLOTS);
    for (uint32_t i = 0; i < 10; i++)
        ffl_ring_put_entry(&p, entry(i));
    atomic_store(&sh->ctl.head, 10);
    CHECK_EQ(ffl_ring_room(&p, 54), 54); /* its own copy is enough */
    CHECK_EQ(ffl_ring_room(&p, 55), 64);
    free(sh);
}

TEST(counters_wrap)
{
    struct shared *sh = shared_new();
    struct ffl_ring p, c;
    ffl_ring_init(&p, &sh->ctl, sh->slots, SLOTS);
    ffl_ring_init(&c, &sh->ctl, sh->slots, SLOTS);
    uint32_t start = 0u - 1000;
    p.tail = p.head = c.tail = c.head = start;
    atomic_store(&sh->ctl.tail, start);
    atomic_store(&sh->ctl.head, start);
    uint32_t out = 0, in = 0;
    while (in < 5000) {
        while (ffl_ring_room(&p, 1) > 0)
            ffl_ring_put_entry(&p, entry(out++));
        ffl_ring_publish(&p);
        for (int n = ffl_ring_avail(&c); n > 0; n--)
            check_entry(ffl_ring_get_entry(&c), in++);
        ffl_ring_consumed(&c);
    }
    CHECK_EQ(in, out);
    free(sh);
}

/* Whatever the peer writes, a count is within the ring or the session ends. */
TEST(hostile_tail)
{
    struct shared *sh = shared_new();
    uint64_t seed = 1;
    for (int i = 0; i < 2000000 / TEST_SLOW; i++) {
        struct ffl_ring c;
        ffl_ring_init(&c, &sh->ctl, sh->slots, SLOTS);
        c.head = c.tail = test_random(&seed);
        uint32_t lie = test_random(&seed);
        if (i & 1)
            lie = c.head + lie % 131 - 1;
        atomic_store_explicit(&sh->ctl.tail, lie, memory_order_relaxed);
        int n = ffl_ring_avail(&c);
        if (lie - c.head > SLOTS)
            CHECK_EQ(n, -EPROTO);
        else
            CHECK_EQ(n, lie - c.head);
    }
    free(sh);
}

TEST(hostile_head)
{
    struct shared *sh = shared_new();
    uint64_t seed = 2;
    for (int i = 0; i < 2000000 / TEST_SLOW; i++) {
        struct ffl_ring p;
        ffl_ring_init(&p, &sh->ctl, sh->slots, SLOTS);
        p.tail = test_random(&seed);
        p.head = p.tail - SLOTS; /* full, as far as it knows */
        uint32_t lie = test_random(&seed);
        if (i & 1)
            lie = p.tail - lie % 131 + 1;
        atomic_store_explicit(&sh->ctl.head, lie, memory_order_relaxed);
        int n = ffl_ring_room(&p, 1);
        if (p.tail - lie > SLOTS)
            CHECK_EQ(n, -EPROTO);
        else
            CHECK_EQ(n, SLOTS - (p.tail - lie));
    }
    free(sh);
}

TEST(wait_word)
{
    _Atomic uint32_t word = 0;
    CHECK(!ffl_wait_take(&word, FFL_WAIT_QUEUE));
    ffl_wait_raise(&word, FFL_WAIT_QUEUE | FFL_WAIT_FREE);
    CHECK(!ffl_wait_take(&word, FFL_WAIT_SPACE)); /* it waits for something else */
    CHECK(ffl_wait_take(&word, FFL_WAIT_FREE));
    CHECK(!ffl_wait_take(&word, FFL_WAIT_QUEUE)); /* one wake a sleep */
    ffl_wait_raise(&word, FFL_WAIT_QUEUE);
    ffl_wait_lower(&word);
    CHECK(!ffl_wait_take(&word, FFL_WAIT_QUEUE));
}

/* ---- two threads --------------------------------------------------------------------------- */

#define MANY (3000000u / TEST_SLOW)

static void *produce(void *arg)
{
    struct shared *sh = arg;
    struct ffl_ring p;
    uint64_t seed = 3;
    ffl_ring_init(&p, &sh->ctl, sh->slots, SLOTS);
    for (uint32_t i = 0; i < MANY;) {
        uint32_t batch = 1 + test_random(&seed) % 7;
        int room = ffl_ring_room(&p, batch);
        CHECK(room >= 0 && room <= (int)SLOTS);
        if (room == 0)
            sched_yield();
        for (; room > 0 && batch > 0 && i < MANY; room--, batch--)
            ffl_ring_put_entry(&p, entry(i++));
        if (i & 8)
            ffl_ring_publish(&p);
        else
            ffl_ring_publish_quiet(&p);
    }
    return NULL;
}

TEST(spsc_entries)
{
    struct shared *sh = shared_new();
    pthread_t t;
    CHECK_EQ(pthread_create(&t, NULL, produce, sh), 0);
    struct ffl_ring c;
    ffl_ring_init(&c, &sh->ctl, sh->slots, SLOTS);
    for (uint32_t i = 0; i < MANY;) {
        int n = ffl_ring_avail(&c);
        CHECK(n >= 0 && n <= (int)SLOTS);
        if (n == 0)
            sched_yield();
        for (; n > 0; n--) {
            check_entry(ffl_ring_get_entry(&c), i++);
            if (i % 5 == 0)
                ffl_ring_consumed(&c);
        }
        ffl_ring_consumed(&c);
    }
    pthread_join(t, NULL);
    free(sh);
}

static void *produce_ids(void *arg)
{
    struct shared *sh = arg;
    struct ffl_ring p;
    ffl_ring_init(&p, &sh->ctl, sh->ids, SLOTS);
    for (uint32_t i = 0; i < MANY;) {
        int room = ffl_ring_room(&p, 1);
        if (room == 0)
            sched_yield();
        for (; room > 0 && i < MANY; room--)
            ffl_ring_put_id(&p, i++ * 7);
        ffl_ring_publish(&p);
    }
    return NULL;
}

TEST(spsc_ids)
{
    struct shared *sh = shared_new();
    pthread_t t;
    CHECK_EQ(pthread_create(&t, NULL, produce_ids, sh), 0);
    struct ffl_ring c;
    ffl_ring_init(&c, &sh->ctl, sh->ids, SLOTS);
    for (uint32_t i = 0; i < MANY;) {
        int n = ffl_ring_avail(&c);
        if (n == 0)
            sched_yield();
        for (; n > 0; n--)
            CHECK_EQ(ffl_ring_get_id(&c), i++ * 7);
        ffl_ring_consumed(&c);
    }
    pthread_join(t, NULL);
    free(sh);
}

/* ---- R3: no wake-up is lost ---------------------------------------------------------------- */

/* What a side that waits for space looks at once more; R3's other half, with ffl_ring_consumed. */
static bool ring_gave(const struct ffl_ring *r)
{
    return atomic_load_explicit(&r->ctl->head, memory_order_seq_cst) != r->head;
}

/*
 * The litmus test of R3 (store buffering): publish and look at the wait word, against raise and look
 * at the ring, let go at the same moment on two CPUs. If each misses the other, a sleeper would
 * never be woken. Needs two CPUs to show anything.
 */
struct litmus {
    struct shared *sh;
    _Atomic uint32_t go, done; /* the round; go = ENOUGH ends it */
    bool space;                /* the sleeper waits for room, and the other gives some */
    bool woke;
};

#define ROUNDS (4000000u / TEST_SLOW)

#define ENOUGH UINT32_MAX
#define LITMUS_NS (4 * FFL_NS_PER_SEC) /* the other CPU may be busy with something else */

static bool meet(struct litmus *l, uint32_t round, uint64_t *seed)
{
    uint32_t go, spins = 0;
    while ((go = atomic_load_explicit(&l->go, memory_order_acquire)) != round) {
        if (go == ENOUGH)
            return false;
        if (++spins > 2000)
            sched_yield(); /* the other may not be running at all */
    }
    for (uint32_t n = test_random(seed) % 8; n > 0; n--)
        atomic_signal_fence(memory_order_seq_cst); /* a few cycles */
    return true;
}

static void *litmus_waker(void *arg)
{
    struct litmus *l = arg;
    struct ffl_ring r;
    uint64_t seed = 21;
    (void)test_pin(1);
    ffl_ring_init(&r, &l->sh->ctl, l->sh->slots, SLOTS);
    for (uint32_t i = 1; i <= ROUNDS; i++) {
        if (!l->space)
            ffl_ring_put_entry(&r, entry(i));
        if (!meet(l, i, &seed))
            break;
        if (l->space) {
            r.head++;
            ffl_ring_consumed(&r);
        } else {
            ffl_ring_publish(&r);
        }
        l->woke = ffl_wait_take(&l->sh->waits.app, FFL_WAIT_QUEUE);
        atomic_store_explicit(&l->done, i, memory_order_release);
    }
    return NULL;
}

static void litmus(bool space)
{
    struct litmus l = {.sh = shared_new(), .space = space};
    struct ffl_ring r;
    uint64_t seed = 22, missed = 0;
    ffl_ring_init(&r, &l.sh->ctl, l.sh->slots, SLOTS);
    pthread_t t;
    (void)test_pin(0);
    CHECK_EQ(pthread_create(&t, NULL, litmus_waker, &l), 0);
    int64_t until = ffl_now_ns() + LITMUS_NS;
    for (uint32_t i = 1; i <= ROUNDS && (i % 1024 || ffl_now_ns() < until); i++) {
        atomic_store_explicit(&l.go, i, memory_order_release);
        (void)meet(&l, i, &seed);
        ffl_wait_raise(&l.sh->waits.app, FFL_WAIT_QUEUE);
        bool saw = space ? ring_gave(&r) : ffl_ring_pending(&r);
        for (uint32_t spins = 0; atomic_load_explicit(&l.done, memory_order_acquire) != i; spins++)
            if (spins > 2000)
                sched_yield();
        missed += !saw && !l.woke;
        r.head = i; /* read; or, as the producer, the head last seen */
        ffl_wait_lower(&l.sh->waits.app);
    }
    atomic_store_explicit(&l.go, ENOUGH, memory_order_release);
    pthread_join(t, NULL);
    free(l.sh);
    if (missed)
        FAIL("%llu of %u rounds lost the wake-up", (unsigned long long)missed, ROUNDS);
}

TEST(litmus_queue)
{
    litmus(false);
}

TEST(litmus_space)
{
    litmus(true);
}

/*
 * Two sides as in the product: each has a wait word and a doorbell, polled edge by edge. Every time
 * a side finds nothing it sleeps; a lost wake-up is a sleep that only the time limit of poll ends.
 * Both directions, and the ring is small, so that sleeping for space happens as well.
 */
struct side {
    struct ffl_ring out, in;
    _Atomic uint32_t *mine, *theirs;
    int bell, their_bell;
    uint32_t total;
    uint64_t sleeps, rung;
    bool echo;
};

static void ring_bell(struct side *s, uint32_t bits)
{
    if (!ffl_wait_take(s->theirs, bits))
        return;
    uint64_t one = 1;
    s->rung++;
    CHECK_EQ(write(s->their_bell, &one, sizeof(one)), sizeof(one));
}

static void sleep_on(struct side *s, uint32_t bits)
{
    ffl_wait_raise(s->mine, bits);
    bool work = (bits & FFL_WAIT_QUEUE && ffl_ring_pending(&s->in));
    if (bits & FFL_WAIT_SPACE)
        work |=
            atomic_load_explicit(&s->out.ctl->head, memory_order_seq_cst) != s->out.tail - SLOTS;
    if (!work) {
        struct pollfd p = {.fd = s->bell, .events = POLLIN};
        uint64_t n;
        s->sleeps++;
        if (poll(&p, 1, 5000) != 1)
            FAIL("a wake-up was lost after %llu sleeps", (unsigned long long)s->sleeps);
        CHECK_EQ(read(s->bell, &n, sizeof(n)), sizeof(n));
    }
    ffl_wait_lower(s->mine);
}

static void *stress_side(void *arg)
{
    struct side *s = arg;
    uint64_t seed = s->echo ? 11 : 12;
    uint32_t sent = 0, got = 0;
    for (;;) {
        int n = ffl_ring_avail(&s->in);
        CHECK(n >= 0);
        for (int i = 0; i < n; i++)
            CHECK_EQ(ffl_ring_get_entry(&s->in).handle, got++);
        if (n > 0) {
            ffl_ring_consumed(&s->in);
            ring_bell(s, FFL_WAIT_SPACE);
        }
        if (!s->echo && sent == s->total && got == s->total)
            return NULL;
        if (s->echo && got == s->total && sent == got)
            return NULL;
        uint32_t due = s->echo ? got : s->total, want = 1 + test_random(&seed) % (2 * SLOTS);
        int room = ffl_ring_room(&s->out, 1);
        CHECK(room >= 0);
        uint32_t before = sent;
        while (room-- > 0 && sent != due && want-- > 0)
            ffl_ring_put_entry(&s->out, entry(sent++));
        if (sent != before) {
            ffl_ring_publish(&s->out);
            ring_bell(s, FFL_WAIT_QUEUE);
        }
        for (uint32_t pause = test_random(&seed) % 64; pause > 0; pause--)
            ffl_cpu_relax();
        if (n == 0 && sent == before) /* nothing came and nothing went: sleep for either */
            sleep_on(s, FFL_WAIT_QUEUE | (sent != due ? FFL_WAIT_SPACE : 0));
    }
}

static void stress(uint32_t total)
{
    struct shared *sh = shared_new();
    int a = eventfd(0, EFD_CLOEXEC), b = eventfd(0, EFD_CLOEXEC);
    struct side x = {.mine = &sh->waits.app,
                     .theirs = &sh->waits.inst,
                     .bell = a,
                     .their_bell = b,
                     .total = total};
    struct side y = {.mine = &sh->waits.inst,
                     .theirs = &sh->waits.app,
                     .bell = b,
                     .their_bell = a,
                     .total = total,
                     .echo = true};
    ffl_ring_init(&x.out, &sh->ctl, sh->slots, SLOTS);
    ffl_ring_init(&y.in, &sh->ctl, sh->slots, SLOTS);
    ffl_ring_init(&y.out, &sh->back, sh->back_slots, SLOTS);
    ffl_ring_init(&x.in, &sh->back, sh->back_slots, SLOTS);
    pthread_t t;
    CHECK_EQ(pthread_create(&t, NULL, stress_side, &y), 0);
    stress_side(&x);
    pthread_join(t, NULL);
    printf("%u entries each way, %llu + %llu sleeps, %llu + %llu bells\n", total,
           (unsigned long long)x.sleeps, (unsigned long long)y.sleeps, (unsigned long long)x.rung,
           (unsigned long long)y.rung);
    CHECK(x.sleeps + y.sleeps > 100);
    close(a);
    close(b);
    free(sh);
}

TEST(no_lost_wake_up)
{
    stress(test_arg ? (uint32_t)atol(test_arg) : 5000000u / TEST_SLOW);
}

/* One entry at a time: each is a sleep and a wake, or nearly one. */
static _Atomic uint32_t turn_limit;

static void *ping_side(void *arg)
{
    struct side *s = arg;
    uint32_t got = 0, sent = 0, limit = atomic_load(&turn_limit);
    for (;;) {
        if (!s->echo && sent == got && sent < limit) {
            CHECK(ffl_ring_room(&s->out, 1) > 0);
            ffl_ring_put_entry(&s->out, entry(sent++));
            ffl_ring_publish(&s->out);
            ring_bell(s, FFL_WAIT_QUEUE);
        }
        if (got == limit)
            return NULL;
        if (ffl_ring_avail(&s->in) == 0) {
            sleep_on(s, FFL_WAIT_QUEUE);
            continue;
        }
        CHECK_EQ(ffl_ring_get_entry(&s->in).handle, got++);
        ffl_ring_consumed(&s->in);
        if (s->echo) {
            ffl_ring_put_entry(&s->out, entry(sent++));
            ffl_ring_publish(&s->out);
            ring_bell(s, FFL_WAIT_QUEUE);
        }
    }
}

static void ping(uint32_t turns, bool one_cpu)
{
    struct shared *sh = shared_new();
    int a = eventfd(0, EFD_CLOEXEC), b = eventfd(0, EFD_CLOEXEC);
    struct side x = {.mine = &sh->waits.app, .theirs = &sh->waits.inst, .bell = a, .their_bell = b};
    struct side y = {.mine = &sh->waits.inst,
                     .theirs = &sh->waits.app,
                     .bell = b,
                     .their_bell = a,
                     .echo = true};
    ffl_ring_init(&x.out, &sh->ctl, sh->slots, SLOTS);
    ffl_ring_init(&y.in, &sh->ctl, sh->slots, SLOTS);
    ffl_ring_init(&y.out, &sh->back, sh->back_slots, SLOTS);
    ffl_ring_init(&x.in, &sh->back, sh->back_slots, SLOTS);
    atomic_store(&turn_limit, turns);
    if (one_cpu)
        (void)test_pin(0); /* inherited by the thread; a wake is cheapest there, so most turns */
    pthread_t t;
    CHECK_EQ(pthread_create(&t, NULL, ping_side, &y), 0);
    ping_side(&x);
    pthread_join(t, NULL);
    printf("%u turns, %llu + %llu sleeps\n", turns, (unsigned long long)x.sleeps,
           (unsigned long long)y.sleeps);
    CHECK(x.sleeps + y.sleeps > turns / 100);
    close(a);
    close(b);
    free(sh);
}

TEST(ping_pong_two_cpus)
{
    ping(test_arg ? (uint32_t)atol(test_arg) : 100000u / TEST_SLOW, false);
}

TEST(ping_pong_one_cpu)
{
    ping(test_arg ? (uint32_t)atol(test_arg) : 600000u / TEST_SLOW, true);
}
