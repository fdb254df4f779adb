/*
 * neighbours.c - what a good application gets beside bad ones.
 *
 * Five processes: the instance (host stack), a good client, and three beside it. Its share is what
 * it gets while the three do the same work as it does. Then the three are a slow reader, one whose
 * pools are full, and a hostile one that attaches, writes entries at random until its session is
 * ended, and attaches again. The two settings take turns, so that the machine's moods meet both, and
 * the medians are compared: the good one must get 0.8 of its share.
 */
#include "lab.h"

#include "../../ffloop/_native/client/internal.h"
#include "../../ffloop/_native/instance/internal.h"

#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define SIZE 1024      /* bytes a message */
#define CONNECTIONS 16 /* of a worker, each with one message under way */
#define ROUNDS 7
#define TRIES 3
#define ROUND_NS (FFL_NS_PER_SEC / 5)

static _Atomic uint64_t *done; /* messages that went there and back: of the good one */
static _Atomic uint64_t *hostile_sessions;
static double full_pool; /* what is free of it */

static struct ffl_client *attach(void)
{
    struct ffl_client_opts o = {.path = lab.path, .timeout_ms = 5000};
    struct ffl_client *c;
    char why[256];
    return ffl_client_attach(&c, &o, why, sizeof(why)) < 0 ? NULL : c;
}

static int listener(struct ffl_client *c, struct ffl_addr *a)
{
    struct ffl_addresses addresses;
    *a = addr4("127.0.0.1", 0);
    int h = ffl_client_socket(c, AF_INET, SOCK_STREAM, 0, 0);
    CHECK_EQ(ffl_client_bind(c, h, a), 0);
    CHECK_EQ(ffl_client_listen(c, h, 128, FFL_F_NODELAY), 0);
    CHECK_EQ(ffl_client_accepting(c, h, 64, FFL_F_ARM_NEW), 0);
    CHECK_EQ(ffl_client_addresses(c, h, &addresses), 0);
    *a = addresses.local;
    return h;
}

/* Sends itself messages over connections of its own, both ends of which are in its session: all the
 * work is this process's and the instance's. */
static void work(_Atomic uint64_t *count)
{
    static char text[SIZE];
    struct ffl_event ev[256];
    struct ffl_addr a;
    struct ffl_client *c = attach();
    CHECK(c);
    int l = listener(c, &a);
    for (int i = 0; i < CONNECTIONS; i++) {
        int h = ffl_client_socket(c, AF_INET, SOCK_STREAM, 0, FFL_F_NODELAY);
        CHECK_EQ(ffl_client_push(c, h, true), 0);
        CHECK_EQ(ffl_client_connect(c, h, &a), -EINPROGRESS);
    }
    for (;;) {
        int n = ffl_client_wait(c, ev, 256, -1, -1);
        CHECK(n >= 0);
        for (int i = 0; i < n; i++) {
            if (ev[i].kind == FFL_EV_ACCEPT && (int)ev[i].handle == l)
                CHECK_EQ(ffl_client_push(c, (int)ev[i].arg, true), 0);
            else if (ev[i].kind == FFL_EV_CONNECT)
                CHECK(ev[i].arg == 0 && ffl_client_send(c, (int)ev[i].handle, text, SIZE) == SIZE);
            else if (ev[i].kind == FFL_EV_DATA) { /* in whatever pieces: the same bytes back */
                CHECK_EQ(ffl_client_send(c, (int)ev[i].handle, text, ev[i].arg), ev[i].arg);
                atomic_fetch_add(count, ev[i].arg);
            } else
                CHECK(ev[i].kind != FFL_EV_LOST);
        }
    }
}

static int dial(const struct ffl_addr *a)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = a->port_be};
    memcpy(&in.sin_addr, a->ip, 4);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_EQ(connect(fd, (struct sockaddr *)&in, sizeof(in)), 0);
    return fd;
}

static void *pour(void *arg) /* as fast as the peer takes it */
{
    static char text[65536];
    while (send(*(int *)arg, text, sizeof(text), MSG_NOSIGNAL) > 0)
        ;
    return NULL;
}

static int accepted(struct ffl_client *c)
{
    struct ffl_event ev[16];
    for (;;)
        for (int n = ffl_client_wait(c, ev, 16, -1, -1); n-- > 0;)
            if (ev[n].kind == FFL_EV_ACCEPT)
                return (int)ev[n].arg;
}

/* Four peers pour; it reads a little every ten milliseconds. */
static void read_slowly(void)
{
    static char text[4096];
    struct ffl_addr a;
    struct ffl_client *c = attach();
    pthread_t t[4];
    int fd[4], h[4];
    CHECK(c);
    (void)listener(c, &a);
    for (int i = 0; i < 4; i++) {
        fd[i] = dial(&a);
        h[i] = accepted(c);
        CHECK_EQ(pthread_create(&t[i], NULL, pour, &fd[i]), 0);
    }
    for (;;) {
        for (int i = 0; i < 4; i++)
            (void)ffl_client_recv(c, h[i], text, sizeof(text), 0, NULL, NULL);
        (void)poll(NULL, 0, 10);
    }
}

/* Its transmit pool is full of what peers do not take, its receive pool of what it does not give
 * back; and it tries to send on. */
static void fill_pools(void)
{
    static char text[65536];
    struct ffl_event ev[16];
    struct ffl_addr a;
    struct ffl_client *c = attach();
    pthread_t t[32];
    int fd[32], h[32];
    CHECK(c);
    (void)listener(c, &a);
    for (int i = 0; i < 32; i++) {
        fd[i] = dial(&a);
        h[i] = accepted(c);
        CHECK_EQ(pthread_create(&t[i], NULL, pour, &fd[i]), 0);
        (void)ffl_client_arm(c, h[i], 0);
    }
    for (;;) {
        for (int i = 0; i < 32; i++) {
            (void)ffl_client_send(c, h[i], text, sizeof(text));
            (void)ffl_client_want(c, h[i], 2);
        }
        (void)ffl_client_wait(c, ev, 16, -1, FFL_NS_PER_SEC / 1000);
    }
}

static struct ffl_entry some_entry(uint64_t *seed)
{
    uint32_t x = test_random(seed);
    return (struct ffl_entry){.op = (uint8_t)(x % 8 ? x / 8 % FFL_OP_COUNT : x / 8),
                              .flags = (uint8_t)test_random(seed),
                              .tag = (uint16_t)x,
                              .handle = test_random(seed) % 4,
                              .arg = (int32_t)(test_random(seed) % 1000),
                              .buf = x % 3 ? test_random(seed) % 64 : FFL_NO_BUF};
}

static void be_hostile(void)
{
    uint64_t seed = 7;
    quiet();
    for (;;) {
        struct ffl_client *c = attach();
        if (!c)
            continue;
        atomic_fetch_add(hostile_sessions, 1);
        struct pollfd p = {.fd = c->sock, .events = POLLIN | POLLRDHUP};
        while (poll(&p, 1, 0) == 0) {
            for (int i = 0; i < 8 && ffl_ring_room(&c->ch.out, 1) > 0; i++)
                ffl_ring_put_entry(&c->ch.out, some_entry(&seed));
            ffl_ring_commit(&c->ch.out);
            (void)client_ring(c->inst_bell);
        }
        ffl_client_detach(c);
    }
}

static pid_t begin(int role)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid > 0)
        return pid;
    static _Atomic uint64_t unseen;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(0);
    role == 0   ? work(done)
    : role == 1 ? work(&unseen)
    : role == 2 ? read_slowly()
    : role == 3 ? fill_pools()
                : be_hostile();
    _exit(1);
}

static void end(pid_t pid)
{
    int status;
    CHECK_EQ(kill(pid, SIGKILL), 0);
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL); /* none has failed */
}

/* What the receive pool of a process's session has free, as the instance's page has it. */
static double rx_free(pid_t pid)
{
    for (uint32_t i = 0; i < lab.in->page->session_slots; i++) {
        const struct ffl_stat_session *s = &lab.in->stat_sessions[i];
        if (atomic_load(&s->id) && s->pid == pid)
            return (double)atomic_load(&s->rx_free) / (double)s->rx_total;
    }
    FAIL("process %d has no session", (int)pid);
}

/* Messages a second of the good one, beside three of these. */
static double beside(const int *roles)
{
    pid_t others[3];
    for (int i = 0; i < 3; i++)
        others[i] = begin(roles[i]);
    (void)poll(NULL, 0, 300); /* until they are what they are */
    uint64_t before = atomic_load(done);
    int64_t began = ffl_now_ns();
    (void)poll(NULL, 0, (int)(ROUND_NS / 1000000));
    double got = (double)(atomic_load(done) - before) / SIZE;
    double took = (double)(ffl_now_ns() - began) / 1e9;
    full_pool = roles[1] == 3 ? rx_free(others[1]) : full_pool;
    for (int i = 0; i < 3; i++)
        end(others[i]);
    (void)poll(NULL, 0, 50); /* what they left is being cleared away */
    return got / took;
}

static int by_size(const void *a, const void *b)
{
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

static double median(double *v)
{
    qsort(v, ROUNDS, sizeof(*v), by_size);
    return v[ROUNDS / 2];
}

/* One comparison: true when the good one gets 0.8 of its share. */
static bool compare(void)
{
    static const int equal[] = {1, 1, 1}, bad[] = {2, 3, 4};
    double share[ROUNDS], got[ROUNDS];
    uint64_t before = atomic_load(hostile_sessions);
    for (int i = 0; i < ROUNDS; i++) {
        share[i] = beside(equal);
        got[i] = beside(bad);
    }
    double a = median(share), b = median(got);
    printf(
        "share %.0f messages a second, beside bad ones %.0f: %.2f of it; %.0f%% of the full pool "
        "free; %llu hostile sessions\n",
        a, b, b / a, 100 * full_pool, (unsigned long long)(*hostile_sessions - before));
    CHECK(*hostile_sessions > before);
    CHECK(full_pool < 0.5); /* what the shares leave of it (pool.h) */
    return b > 0.8 * a;
}

TEST(a_good_one_gets_its_share)
{
    done = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(done != MAP_FAILED);
    hostile_sessions = done + 8;
    lab_defaults("host");
    lab.o.pool_kib = 2048;
    lab_start("");
    pid_t in = fork();
    if (in == 0) {
        quiet();
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        _exit(ffl_instance_run(lab.in) != 0);
    }
    pid_t good = begin(0);
    bool fair = false;
    for (int i = 0; i < TRIES && !fair; i++) /* a machine that does other things has its moods */
        fair = compare();
    end(good);
    end(in);
    CHECK(fair);
    ffl_instance_free(lab.in);
}
