/* ledger.c - what one user, and one session, may hold; and the heap of timers. */
#include "lab.h"

#include "../../ffloop/_native/instance/internal.h"

#include <sys/resource.h>

/* ---- the ledger itself ----------------------------------------------------------------------- */

static uint64_t takes(struct ledger *l, struct account *a, enum charge what)
{
    uint64_t n = 0;
    while (ledger_charge(l, a, what, 1) == 0)
        n++;
    return n;
}

TEST(ledger_leaves_some_to_others)
{
    struct ledger l = {.shared = true, .limit = {[CHARGE_SESSION] = 64, [CHARGE_KEPT] = 4}};
    struct account *a[4];
    static const uint64_t parts[] = {48, 12, 3, 1};
    for (uid_t u = 0; u < 4; u++) {
        CHECK((a[u] = ledger_hold(&l, u)));
        CHECK_EQ(takes(&l, a[u], CHARGE_SESSION), parts[u]);
    }
    CHECK_EQ(ledger_most(&l, CHARGE_SESSION)->uid, 0);
    ledger_discharge(&l, a[0], CHARGE_SESSION, 8);
    CHECK(takes(&l, a[3], CHARGE_SESSION) > 0);
    CHECK_EQ(takes(&l, a[0], CHARGE_KEPT), 3);
    ledger_move(&l, a[0], CHARGE_KEPT, CHARGE_DYING); /* beyond any limit: it is there already */
    CHECK_EQ(a[0]->n[CHARGE_DYING], 1);
    ledger_free(&l);
}

TEST(ledger_of_one_user)
{
    struct ledger l = {.limit = {[CHARGE_SESSION] = 64}, .user_limit = {[CHARGE_TICKET] = 5}};
    struct account *a = ledger_hold(&l, 1);
    l.limit[CHARGE_TICKET] = 100;
    CHECK_EQ(takes(&l, a, CHARGE_SESSION), 64); /* there is nobody to leave any to */
    CHECK_EQ(takes(&l, a, CHARGE_TICKET), 5);
    ledger_free(&l);
}

TEST(ledger_forgets_who_has_nothing)
{
    struct ledger l = {.limit = {[CHARGE_SESSION] = 9}};
    for (uid_t u = 0; u < 100; u++) {
        struct account *a = ledger_hold(&l, u);
        CHECK(a);
        a->log.since = ffl_now_ns() - 2 * FFL_NS_PER_SEC; /* it has said nothing lately */
        if (u == 50)
            CHECK_EQ(ledger_charge(&l, a, CHARGE_SESSION, 1), 0);
        ledger_drop(&l, a);
    }
    unsigned n = 0;
    struct account *a;
    LIST_FOREACH(a, &l.accounts, link)
    n++;
    CHECK_EQ(n, 2); /* the one that has something, and the last */
    ledger_free(&l);
}

/* ---- timers ---------------------------------------------------------------------------------- */

#define TIMERS 2000

struct numbered {
    struct timer t;
    bool fired;
};
static int64_t last_due;
static unsigned fired;

static void fire(struct timer *t)
{
    struct numbered *n = ffl_container_of(t, struct numbered, t);
    CHECK(!t->set && !n->fired && t->due >= last_due);
    last_due = t->due;
    n->fired = true;
    fired++;
}

TEST(timers_fire_in_order)
{
    static struct numbered n[TIMERS];
    struct timers ts = {0};
    uint64_t seed = 9;
    unsigned cancelled = 0;
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < TIMERS; i++) {
            n[i].t.fire = fire;
            timers_set(&ts, &n[i].t, test_random(&seed) % 1000); /* anew, the second time */
        }
    for (int i = 0; i < TIMERS; i += 3, cancelled++)
        timers_cancel(&ts, &n[i].t);
    CHECK(timers_sleep(&ts) >= 0);
    timers_look(&ts, 499);
    timers_run(&ts, INT64_MAX);
    for (int i = 0; i < TIMERS; i++)
        CHECK_EQ(n[i].fired, i % 3 && n[i].t.due <= 499);
    timers_look(&ts, 1000);
    timers_run(&ts, INT64_MAX);
    CHECK_EQ(fired, TIMERS - cancelled);
    CHECK_EQ(timers_sleep(&ts), INT64_MAX);
}

/* ---- in an instance -------------------------------------------------------------------------- */

static const struct ffl_hello attach = {
    .magic = FFL_MAGIC, .version = FFL_ABI_VERSION, .kind = FFL_HELLO_ATTACH, .max_sockets = 8};

/* One user leaves sessions of a shared instance to others, by default. */
TEST(sessions_of_one_user)
{
    static struct raw r[8];
    struct raw other;
    size_t n = 0;
    if (geteuid() != 0)
        return; /* takes root: two users */
    lab_defaults("sim");
    lab.o.max_sessions = FFL_COUNT(r);
    lab.o.policy.any_user = true;
    lab_start_manual("");
    quiet();
    while (n < FFL_COUNT(r) && raw_try(&r[n], &attach) == FFL_REPLY_OK)
        n++;
    CHECK_EQ(n, 6);
    CHECK_EQ(seteuid(54321), 0);
    CHECK_EQ(raw_try(&other, &attach), FFL_REPLY_OK);
    CHECK_EQ(seteuid(0), 0);
    while (n > 0)
        raw_gone(&r[--n]);
    iterations(3);
    raw_finish(&other);
}

/* How many sockets it gets before it is refused. */
static uint32_t sockets(struct raw *r, uint32_t most)
{
    struct ffl_entry e;
    for (uint32_t h = 0; h < most; h++) {
        raw_socket(r, h, SOCK_STREAM);
        iterations(1);
        if (raw_next(r, &e)) {
            CHECK_EQ(e.arg, -EMFILE);
            return h;
        }
    }
    return most;
}

/* One session does not get all descriptors: others attach, and have some. */
TEST(descriptors_of_one_session)
{
    struct raw a, b;
    struct rlimit rl;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &rl), 0);
    rl.rlim_cur = rl.rlim_max = 200;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &rl), 0);
    lab_defaults("host");
    lab.o.max_sessions = 4;
    lab_start("");
    quiet();
    uint64_t all = lab.in->ledger.limit[CHARGE_SOCKET];
    CHECK_EQ(all, 150); /* a quarter is for who attaches */
    raw_attach(&a);
    CHECK_EQ(sockets(&a, 256), all * 3 / 4);
    raw_attach(&b);
    CHECK(sockets(&b, 256) >= all / 8);
    raw_gone(&b);
    iterations(3);
    raw_finish(&a);
}

/* What is given back and nobody reads is paid for by who gave it. */
TEST(memory_for_what_is_given_back)
{
    struct raw r;
    static uint8_t much[60000];
    uint32_t n = 0;
    struct ffl_entry e;
    lab_defaults("sim");
    lab_start_manual("");
    quiet();
    raw_attach(&r);
    raw_socket(&r, 0, SOCK_STREAM);
    while (n < 1000 && !raw_next(&r, &e)) {
        raw_put(&r, (struct ffl_entry){.op = FFL_OP_UNREAD,
                                       .arg = sizeof(much),
                                       .buf = raw_arg(&r, much, sizeof(much))});
        iterations(1);
        n++;
    }
    CHECK_EQ(e.op, FFL_OP_ERROR); /* the socket has lost some */
    CHECK_EQ(e.arg, -ENOBUFS);
    CHECK(n * sizeof(much) <= 5ull * lab.o.pool_kib * 1024);
    CHECK(lab.in->ledger.n[CHARGE_BYTES] <= lab.in->ledger.user_limit[CHARGE_BYTES]);
    for (uint32_t i = 0; i < n; i++) { /* no more of it, and no harm */
        raw_put(&r, (struct ffl_entry){.op = FFL_OP_UNREAD,
                                       .arg = sizeof(much),
                                       .buf = raw_arg(&r, much, sizeof(much))});
        iterations(1);
    }
    CHECK(raw_alive(&r));
    raw_op(&r, FFL_OP_CLOSE, 0, 0, FFL_F_ABORT);
    (void)raw_expect(&r, FFL_OP_CLOSED, 0);
    CHECK_EQ(lab.in->ledger.n[CHARGE_BYTES], 0);
    raw_finish(&r);
}

/* References in a ticket count as well, and go with it. */
TEST(references_in_tickets_count)
{
    struct raw r;
    struct ffl_ticket t;
    lab_defaults("sim");
    lab_start_manual("");
    raw_attach(&r);
    raw_listen(&r, 0, "10.0.0.1", 80, 0, 0);
    CHECK(lab_ticket(&t));
    CHECK_EQ(lab.in->ledger.n[CHARGE_SOCKET], 1);
    raw_export(&r, 0, &t);
    iterations(2);
    CHECK_EQ(lab.in->ledger.n[CHARGE_SOCKET], 2);
    close(t.fd);
    iterations(3);
    CHECK_EQ(lab.in->ledger.n[CHARGE_SOCKET], 1);
    raw_finish(&r);
    (void)t;
}

/* ---- the whole key --------------------------------------------------------------------------- */

static bool survives(struct raw *r, const struct ffl_ticket *t, bool import)
{
    struct ffl_import x = {.key = t->key, .ticket = t->id};
    struct ffl_entry e;
    if (import)
        raw_put(r,
                (struct ffl_entry){
                    .op = FFL_OP_IMPORT, .handle = 3, .tag = 1, .buf = raw_arg(r, &x, sizeof(x))});
    else
        raw_export(r, 0, t);
    bool alive = raw_alive(r);
    while (alive && raw_next(r, &e))
        CHECK(e.op == FFL_OP_IMPORT && e.arg == -ENOENT);
    return alive;
}

TEST(a_guess_at_a_tickets_key_ends_the_session)
{
    struct ffl_ticket t;
    lab_start_manual("");
    quiet();
    CHECK(lab_ticket(&t));
    for (int bit = 0; bit < 64; bit += 7)
        for (int import = 0; import < 2; import++) {
            struct ffl_ticket guess = t;
            struct raw r;
            raw_attach(&r);
            raw_socket(&r, 0, SOCK_STREAM);
            guess.id += 1; /* one that is not there: it may have ended */
            CHECK(survives(&r, &guess, import));
            guess.id = t.id;
            guess.key ^= 1ull << bit;
            CHECK(!survives(&r, &guess, import));
            raw_gone(&r);
            iterations(3);
        }
    close(t.fd);
    iterations(3);
    lab_stop();
}

/* ---- descriptors, used up -------------------------------------------------------------------- */

/* Who waits on the unix socket does not keep an instance awake that has no descriptor for it. */
TEST(no_descriptor_for_a_peer)
{
    static int held[4096];
    int n = 0, fd;
    struct ffl_reply reply;
    lab_start_manual("");
    quiet();
    int s = lab_dial();
    while (n < (int)FFL_COUNT(held) && (fd = dup(s)) >= 0)
        held[n++] = fd;
    if (n == (int)FFL_COUNT(held)) { /* a limit that this test can reach */
        struct rlimit rl;
        CHECK_EQ(getrlimit(RLIMIT_NOFILE, &rl), 0);
        rl.rlim_cur = (rlim_t)held[n - 1] + 1;
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &rl), 0);
    }
    iterations(2);
    CHECK_EQ(ffl_msg_recv(s, &reply, sizeof(reply), NULL, NULL), sizeof(reply));
    CHECK_EQ(reply.status, FFL_REPLY_NOMEM);
    CHECK(strstr(reply.why, "ulimit"));
    CHECK(iterate() > 0); /* it may sleep */
    while (n > 0)
        close(held[--n]);
    close(s);
    iterations(2);
    lab_stop();
}
