/*
 * channel.c - a session's two ends: what one commits, the other sees or is woken for.
 *
 * The two ends are two threads here, since ThreadSanitizer can only see one process; test_native.py
 * always runs this file under it too. They do what the client and the instance do, by their own
 * functions.
 */
#include "harness.h"

#include "../../ffloop/_native/client/internal.h"
#include "../../ffloop/_native/instance/peers.h"
#include "../../ffloop/_native/instance/session.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define SLOTS 64u

/* Both ends of a session, without the socket between them. */
struct pair {
    struct ffl_map map;
    struct ffl_client c;
    struct ffl_session s;
    struct ffl_instance in;
    struct ffl_instance_page page;
};

static struct pair *pair_new(uint32_t slots)
{
    struct pair *p = calloc(1, sizeof(*p));
    struct ffl_geo geo;
    CHECK(p);
    ffl_geo_default(&geo, 16, 64);
    geo.ring_size[FFL_SQ] = geo.ring_size[FFL_CQ] = slots;
    CHECK_EQ(ffl_segment_create(&p->map, &geo, false), 0);
    p->s.map = p->c.map = p->map;
    p->s.in = &p->in;
    p->in.page = &p->page;
    p->s.app_bell = p->c.app_bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    p->s.inst_bell = p->c.inst_bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ffl_channel_open(&p->s.ch, &p->map, FFL_SIDE_INST, p->s.app_bell, bell_ring);
    ffl_channel_open(&p->c.ch, &p->map, FFL_SIDE_APP, p->c.inst_bell, client_ring);
    return p;
}

static void pair_free(struct pair *p)
{
    ffl_channel_close(&p->s.ch);
    ffl_channel_close(&p->c.ch);
    ffl_segment_drop(&p->map);
    close(p->s.app_bell);
    close(p->s.inst_bell);
    free(p);
}

static struct ffl_entry entry(uint32_t i)
{
    return (struct ffl_entry){.op = FFL_OP_NOP, .handle = i, .arg = (int32_t)i, .buf = ~i};
}

static int in_order(void *next, struct ffl_entry e)
{
    uint32_t *n = next;
    struct ffl_entry want = entry(*n);
    if (memcmp(&e, &want, sizeof(e)) != 0)
        FAIL("entry %u came as %u", *n, e.handle);
    (*n)++;
    return 0;
}

static int id_in_order(void *next, uint32_t id)
{
    uint32_t *n = next;
    CHECK_EQ(id, *n);
    (*n)++;
    return 0;
}

static uint32_t rung(int bell)
{
    uint64_t n = 0;
    ssize_t got = read(bell, &n, sizeof(n));
    return got < 0 ? 0 : (uint32_t)n;
}

/* ---- one thread ---------------------------------------------------------------------------- */

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

TEST(wait_word_of_a_side_that_spins)
{
    _Atomic uint32_t word = 0;
    ffl_wait_spin(&word, true);
    CHECK(!ffl_wait_take(&word, FFL_WAIT_FREE));
    CHECK_EQ(word, FFL_WAIT_SPINS); /* nothing that it spins for */
    CHECK(!ffl_wait_take(&word, FFL_WAIT_QUEUE));
    CHECK_EQ(word, 0);
    ffl_wait_raise(&word, FFL_WAIT_QUEUE); /* another thread sleeps */
    ffl_wait_spin(&word, true);
    ffl_wait_spin(&word, false);
    CHECK(ffl_wait_take(&word, FFL_WAIT_QUEUE));
}

/* Nothing is visible before the commit, and all of it after: entries, and buffers given back. */
TEST(commit_shows_all)
{
    struct pair *p = pair_new(SLOTS);
    uint32_t got = 0, back = 0;
    for (uint32_t i = 0; i < 5; i++) {
        CHECK_EQ(ffl_channel_put(&p->c.ch, entry(i)), 0);
        CHECK_EQ(ffl_channel_give(&p->c.ch, i), 0);
    }
    CHECK_EQ(ffl_channel_drain(&p->s.ch, 64, in_order, &got), 0);
    CHECK_EQ(ffl_channel_reclaim(&p->s.ch, id_in_order, &back), 0);
    CHECK_EQ(ffl_channel_commit(&p->c.ch), 0);
    CHECK_EQ(ffl_channel_drain(&p->s.ch, 3, in_order, &got), 3);
    CHECK_EQ(ffl_channel_drain(&p->s.ch, 64, in_order, &got), 2);
    CHECK_EQ(ffl_channel_reclaim(&p->s.ch, id_in_order, &back), 5);
    pair_free(p);
}

/* Who goes to sleep has committed what it put and gave back, and rung for it. */
TEST(sleeping_commits)
{
    struct pair *p = pair_new(SLOTS);
    uint32_t back = 7, got = 0;
    CHECK_EQ(ffl_channel_doze(&p->s.ch, FFL_WAIT_FREE), 1);
    CHECK_EQ(ffl_channel_give(&p->c.ch, 7), 0);
    CHECK_EQ(rung(p->c.inst_bell), 0);
    CHECK_EQ(ffl_channel_doze(&p->c.ch, FFL_WAIT_QUEUE), 1);
    CHECK_EQ(rung(p->c.inst_bell), 1);
    CHECK_EQ(ffl_channel_reclaim(&p->s.ch, id_in_order, &back), 1);
    CHECK_EQ(ffl_channel_put(&p->s.ch, entry(0)), 0);
    CHECK_EQ(ffl_channel_doze(&p->s.ch, FFL_WAIT_QUEUE), 1);
    CHECK_EQ(rung(p->s.app_bell), 1);
    CHECK_EQ(ffl_channel_drain(&p->c.ch, 64, in_order, &got), 1);
    pair_free(p);
}

/* What found the ring full follows, in order, when there is room; and a sleeper waits for that,
 * once the queue stays as long as it is. */
TEST(what_finds_no_room_follows)
{
    struct pair *p = pair_new(SLOTS);
    uint32_t got = 0;
    for (uint32_t i = 0; i < 3 * SLOTS; i++)
        CHECK_EQ(ffl_channel_put(&p->c.ch, entry(i)), 0);
    CHECK_EQ(ffl_channel_doze(&p->c.ch, FFL_WAIT_QUEUE), 1);
    for (uint32_t round = 1; round <= 3; round++) {
        CHECK_EQ(ffl_channel_drain(&p->s.ch, 1000, in_order, &got), SLOTS);
        CHECK_EQ(ffl_channel_commit(&p->s.ch), 0);
        CHECK_EQ(rung(p->s.app_bell), round < 3);
        CHECK_EQ(ffl_channel_doze(&p->c.ch, FFL_WAIT_QUEUE), round == 3); /* the queue is shorter */
        CHECK_EQ(ffl_channel_doze(&p->c.ch, FFL_WAIT_QUEUE), 1);
    }
    CHECK_EQ(got, 3 * SLOTS);
    pair_free(p);
}

/* ---- R3: no wake-up is lost ---------------------------------------------------------------- */

/*
 * The litmus test of R3 (store buffering): the end of a batch and the look at the wait word,
 * against going to sleep, let go at the same moment on two CPUs. If each misses the other, a
 * sleeper would never be woken. Needs two CPUs to show anything.
 */
enum what { TO_APP, TO_INST, BACK_TO_APP, BACK_TO_INST, ROOM_FOR_APP, ROOM_FOR_INST };

struct litmus {
    struct pair *p;
    enum what what;
    uint32_t batch;            /* what one commit is for */
    _Atomic uint32_t go, done; /* the round; go = ENOUGH ends it */
};

#define ENOUGH UINT32_MAX

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

static int ignore(void *arg, struct ffl_entry e)
{
    (void)arg;
    (void)e;
    return 0;
}

/* The waker's side of one: puts it where it is visible to nobody yet. */
static void put_one(struct litmus *l)
{
    struct pair *p = l->p;
    switch (l->what) {
    case TO_APP:
        session_post(&p->s, entry(0));
        break;
    case TO_INST:
        client_put(&p->c, entry(0));
        break;
    case BACK_TO_APP:
        CHECK_EQ(ffl_channel_give(&p->s.ch, 1), 0);
        break;
    case BACK_TO_INST:
        CHECK_EQ(ffl_channel_give(&p->c.ch, 1), 0);
        break;
    case ROOM_FOR_APP:
        CHECK_EQ(ffl_channel_drain(&p->s.ch, 1, ignore, NULL), 1);
        break;
    default:
        CHECK_EQ(ffl_channel_drain(&p->c.ch, 1, ignore, NULL), 1);
    }
}

static void *litmus_waker(void *arg)
{
    struct litmus *l = arg;
    struct pair *p = l->p;
    uint64_t seed = 21;
    (void)test_pin(1);
    for (uint32_t i = 1;; i++) {
        bool room = l->what >= ROOM_FOR_APP; /* seen at once: none before the sleeper is ready */
        for (uint32_t k = 1; k < l->batch && !room; k++)
            put_one(l);
        if (!meet(l, i, &seed))
            return NULL;
        for (uint32_t k = 1; k < l->batch && room; k++)
            put_one(l);
        put_one(l);
        if (l->what == TO_APP || l->what == BACK_TO_APP || l->what == ROOM_FOR_APP)
            session_commit(&p->s);
        else
            client_commit(&p->c);
        atomic_store_explicit(&l->done, i, memory_order_release);
    }
}

static int ignore_id(void *arg, uint32_t id)
{
    (void)arg;
    (void)id;
    return 0;
}

/* One round of the sleeper. False: it saw nothing, and nobody rang. */
static bool sleep_once(struct litmus *l, uint32_t round, uint64_t *seed)
{
    struct pair *p = l->p;
    bool app = l->what == TO_APP || l->what == BACK_TO_APP || l->what == ROOM_FOR_APP;
    struct ffl_channel *ch = app ? &p->c.ch : &p->s.ch;
    bool room = l->what >= ROOM_FOR_APP;
    CHECK_EQ(ffl_channel_commit(ch), 0);
    while (room && ch->over.n < l->batch) /* the ring is full, and some wait */
        CHECK_EQ(ffl_channel_put(ch, entry(0)), 0);
    CHECK_EQ(ffl_channel_commit(ch), 0);
    atomic_store_explicit(&l->go, round, memory_order_release);
    (void)meet(l, round, seed);
    for (uint32_t n = test_random(seed) % 256; n > 0; n--)
        atomic_signal_fence(memory_order_seq_cst);
    if (round % 2)
        ffl_wait_spin(ch->waits, true);
    bool saw = ffl_channel_doze(ch, room ? 0 : FFL_WAIT_QUEUE | FFL_WAIT_FREE) == 0;
    for (uint32_t spins = 0; atomic_load_explicit(&l->done, memory_order_acquire) != round; spins++)
        if (spins > 2000)
            sched_yield();
    bool woken = atomic_load_explicit(ch->waits, memory_order_relaxed) == 0;
    ffl_channel_rouse(ch);
    CHECK(ffl_channel_drain(ch, INT32_MAX, ignore, NULL) >= 0);
    CHECK(ffl_channel_reclaim(ch, ignore_id, NULL) >= 0);
    return saw || woken;
}

static void litmus_batch(enum what what, uint32_t batch, int64_t ns)
{
    struct litmus l = {.p = pair_new(what >= ROOM_FOR_APP ? SLOTS : 4096), .what = what};
    uint64_t seed = 22 + batch, missed = 0;
    uint32_t i = 0;
    pthread_t t;
    l.batch = batch;
    (void)test_pin(0);
    CHECK_EQ(pthread_create(&t, NULL, litmus_waker, &l), 0);
    int64_t until = ffl_now_ns() + ns;
    while (++i < 64 || i % 64 || ffl_now_ns() < until)
        missed += !sleep_once(&l, i, &seed);
    atomic_store_explicit(&l.go, ENOUGH, memory_order_release);
    pthread_join(t, NULL);
    pair_free(l.p);
    if (missed)
        FAIL("%d, batches of %u: %llu of %u rounds lost the wake-up", (int)what, batch,
             (unsigned long long)missed, i);
}

#define LITMUS_NS (6 * FFL_NS_PER_SEC)

static void litmus(enum what what)
{
    for (uint32_t batch = 1; batch <= 64; batch++)
        litmus_batch(what, batch, LITMUS_NS / 64);
}

TEST(litmus_to_the_application)
{
    litmus(TO_APP);
}

TEST(litmus_to_the_instance)
{
    litmus(TO_INST);
}

TEST(litmus_buffers_to_the_application)
{
    litmus(BACK_TO_APP);
}

TEST(litmus_buffers_to_the_instance)
{
    litmus(BACK_TO_INST);
}

TEST(litmus_room_for_the_application)
{
    litmus(ROOM_FOR_APP);
}

TEST(litmus_room_for_the_instance)
{
    litmus(ROOM_FOR_INST);
}

/*
 * Two sides as in the product: each sleeps whenever it finds nothing; a lost wake-up is a sleep
 * that only the time limit of poll ends. Both directions, and the rings are small, so that sleeping
 * for room happens as well.
 */
struct side {
    struct ffl_channel *ch;
    int bell;
    uint32_t total, got;
    uint64_t sleeps;
    bool echo;
};

static void sleep_on(struct side *s)
{
    if (s->got % 2) {
        ffl_wait_spin(s->ch->waits, true);
        if (ffl_channel_pending(s->ch, FFL_WAIT_QUEUE))
            ffl_wait_spin(s->ch->waits, false);
    }
    if (ffl_channel_doze(s->ch, FFL_WAIT_QUEUE)) {
        struct pollfd p = {.fd = s->bell, .events = POLLIN};
        int n;
        s->sleeps++;
        while ((n = poll(&p, 1, 60000)) < 0 && errno == EINTR)
            ; /* interrupt.c's timer */
        if (n != 1)
            FAIL("a wake-up was lost after %llu sleeps", (unsigned long long)s->sleeps);
        CHECK(rung(s->bell) > 0);
    }
    ffl_channel_rouse(s->ch);
}

static void *stress_side(void *arg)
{
    struct side *s = arg;
    uint64_t seed = s->echo ? 11 : 12;
    uint32_t sent = 0;
    for (;;) {
        int n = ffl_channel_drain(s->ch, INT32_MAX, in_order, &s->got);
        CHECK(n >= 0);
        uint32_t due = s->echo ? s->got : s->total, want = 1 + test_random(&seed) % (2 * SLOTS);
        uint32_t before = sent;
        while (sent != due && want-- > 0 && s->ch->over.n < SLOTS)
            CHECK_EQ(ffl_channel_put(s->ch, entry(sent++)), 0);
        CHECK_EQ(ffl_channel_commit(s->ch), 0);
        if (s->got == s->total && sent == s->total && !s->ch->over.n)
            return NULL;
        for (uint32_t pause = test_random(&seed) % 64; pause > 0; pause--)
            ffl_cpu_relax();
        if (n == 0 && sent == before && (sent == due || s->ch->over.n))
            sleep_on(s);
    }
}

/* One entry at a time: each is a sleep and a wake, or nearly one. */
static void *ping_side(void *arg)
{
    struct side *s = arg;
    uint32_t sent = 0;
    while (s->got < s->total) {
        if (sent < s->got + !s->echo) {
            CHECK_EQ(ffl_channel_put(s->ch, entry(sent++)), 0);
            CHECK_EQ(ffl_channel_commit(s->ch), 0);
        } else if (ffl_channel_drain(s->ch, INT32_MAX, in_order, &s->got) == 0) {
            sleep_on(s);
        }
    }
    if (sent < s->got) {
        CHECK_EQ(ffl_channel_put(s->ch, entry(sent)), 0);
        CHECK_EQ(ffl_channel_commit(s->ch), 0);
    }
    return NULL;
}

/* How often they slept. */
static uint64_t two_sides(void *(*run)(void *), uint32_t total)
{
    struct pair *p = pair_new(SLOTS);
    struct side x = {.ch = &p->c.ch, .bell = p->c.app_bell, .total = total};
    struct side y = {.ch = &p->s.ch, .bell = p->s.inst_bell, .total = total, .echo = true};
    pthread_t t;
    CHECK_EQ(pthread_create(&t, NULL, run, &y), 0);
    (void)run(&x);
    pthread_join(t, NULL);
    printf("%u entries each way, %llu + %llu sleeps\n", total, (unsigned long long)x.sleeps,
           (unsigned long long)y.sleeps);
    pair_free(p);
    return x.sleeps + y.sleeps;
}

TEST(no_lost_wake_up)
{
    CHECK(two_sides(stress_side, test_arg ? (uint32_t)atol(test_arg) : 5000000u / TEST_SLOW) > 100);
}

TEST(ping_pong_two_cpus)
{
    uint32_t iterations = 100000u / TEST_SLOW;
    CHECK(two_sides(ping_side, iterations) > iterations / 100);
}

TEST(ping_pong_one_cpu)
{
    uint32_t iterations = 600000u / TEST_SLOW;
    (void)test_pin(0); /* inherited by the thread; a wake is cheapest there, so most iterations */
    CHECK(two_sides(ping_side, iterations) > iterations / 100);
}
