/* ready.c - the readiness engine alone: what is told, to whom, and how often. */
#include "harness.h"

#include "ready.h"

#include <sys/eventfd.h>
#include <unistd.h>

struct thing { /* a source whose state the test sets */
    struct ffl_source source;
    uint32_t now;
};

static uint32_t ask(struct ffl_source *s, const struct ffl_watch *w)
{
    (void)w;
    return ffl_container_of(s, struct thing, source)->now;
}

static struct thing make(void)
{
    return (struct thing){.source.ask = ask};
}

static void set(struct thing *t, uint32_t now)
{
    uint32_t what = now & ~t->now;
    t->now = now;
    ffl_source_tell(&t->source, what);
}

static struct ffl_poll poll_of(int wake_fd)
{
    return (struct ffl_poll){.wake_fd = wake_fd};
}

static void watch(struct ffl_poll *p, struct thing *t, struct ffl_watch *w, uint32_t events)
{
    *w = (struct ffl_watch){.events = events, .data = 7};
    ffl_watch_add(p, &t->source, w);
    ffl_watch_begin(w);
}

static uint32_t harvest(struct ffl_poll *p)
{
    struct epoll_event ev[4];
    int n = ffl_poll_harvest(p, ev, 4);
    CHECK(n <= 1);
    CHECK(n == 0 || ev[0].data.u64 == 7);
    return n ? ev[0].events : 0;
}

TEST(level_edge_and_one_shot)
{
    const uint32_t flags[] = {0, EPOLLET, EPOLLONESHOT};
    const int told[] = {3, 1, 1}; /* of three looks while it is so */
    for (size_t i = 0; i < FFL_COUNT(flags); i++) {
        struct thing t = make();
        struct ffl_poll p = poll_of(-1);
        struct ffl_watch w;
        watch(&p, &t, &w, EPOLLIN | flags[i]);
        CHECK_EQ(harvest(&p), 0);
        set(&t, EPOLLIN);
        int n = 0;
        for (int k = 0; k < 3; k++)
            n += harvest(&p) == EPOLLIN;
        CHECK_EQ(n, told[i]);
        t.now = 0;
        set(&t, EPOLLIN); /* again: not for the one-shot one */
        CHECK_EQ(harvest(&p), flags[i] & EPOLLONESHOT ? 0 : EPOLLIN);
        ffl_watch_del(&w);
        CHECK(!p.head && p.watches == 0);
    }
}

/* An edge-triggered watch hears of what it asks for, not of the other direction. */
TEST(other_changes_are_no_edge)
{
    struct thing t = make();
    struct ffl_poll p = poll_of(-1);
    struct ffl_watch w;
    t.now = EPOLLOUT;
    watch(&p, &t, &w, EPOLLOUT | EPOLLET);
    CHECK_EQ(harvest(&p), EPOLLOUT);
    set(&t, EPOLLOUT | EPOLLIN);
    CHECK_EQ(harvest(&p), 0);
    t.now = EPOLLIN;
    set(&t, EPOLLOUT | EPOLLIN);
    CHECK_EQ(harvest(&p), EPOLLOUT);
    ffl_watch_del(&w);
}

#define POLLS 3

static unsigned kicks(const struct ffl_poll *p)
{
    uint64_t n = 0;
    return read(p->wake_fd, &n, sizeof(n)) == sizeof(n) ? (unsigned)n : 0;
}

/* Of polls that wait, one hears of a change; of two changes, two; then those that are left. */
TEST(exclusive)
{
    struct thing t = make();
    struct ffl_poll p[POLLS];
    struct ffl_watch w[POLLS];
    for (int i = 0; i < POLLS; i++) {
        p[i] = poll_of(eventfd(0, EFD_NONBLOCK));
        CHECK(p[i].wake_fd >= 0);
        p[i].waits = p[i].asleep = 1;
        watch(&p[i], &t, &w[i], EPOLLIN | EPOLLEXCLUSIVE);
    }
    for (unsigned round = 1; round <= POLLS + 1; round++) {
        t.now = 0;
        set(&t, EPOLLIN);
        unsigned told = 0, kicked = 0;
        for (int i = 0; i < POLLS; i++) {
            told += p[i].head != NULL;
            kicked += kicks(&p[i]);
        }
        CHECK_EQ(told, round < POLLS ? round : POLLS);
        CHECK_EQ(kicked, round <= POLLS);
    }
    for (int i = 0; i < POLLS; i++) {
        CHECK_EQ(harvest(&p[i]), EPOLLIN);
        ffl_watch_del(&w[i]);
        close(p[i].wake_fd);
    }
}

/* One where nobody waits keeps the news for a call to come, and another hears too; of an
 * end all do. */
TEST(exclusive_beside_others)
{
    struct thing t = make();
    struct ffl_poll p[POLLS];
    struct ffl_watch w[POLLS];
    for (int i = 0; i < POLLS; i++) {
        p[i] = poll_of(-1);
        watch(&p[i], &t, &w[i], EPOLLIN | EPOLLHUP | (i ? (uint32_t)EPOLLEXCLUSIVE : 0));
    }
    p[2].waits = 1; /* the first in the source's list */
    set(&t, EPOLLIN);
    CHECK(p[0].head && !p[1].head && p[2].head);
    ffl_poll_clear(&p[2]);
    p[2].waits = p[2].served = 0;
    p[1].waits = 1;
    set(&t, EPOLLOUT); /* not what they want */
    CHECK(!p[2].head);
    t.now = 0;
    set(&t, EPOLLIN);
    CHECK(p[1].head && p[2].head);
    ffl_poll_clear(&p[1]);
    set(&t, EPOLLIN | EPOLLHUP);
    for (int i = 0; i < POLLS; i++) {
        CHECK(p[i].head != NULL);
        ffl_watch_del(&w[i]);
    }
}
