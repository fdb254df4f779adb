/*
 * share.c - all sockets of a session go into a ticket by one operation, for a forked process.
 */
#include "lab.h"

#include "internal.h"

enum { N = 40 }; /* sockets, by handle */

static void share(struct raw *r, const struct ffl_ticket *t)
{
    struct ffl_import x = {.key = t->key, .ticket = t->id};
    raw_put(r, (struct ffl_entry){.op = FFL_OP_SHARE, .buf = raw_arg(r, &x, sizeof(x))});
    iterations(1);
}

static int32_t import(struct raw *r, const struct ffl_ticket *t, uint32_t from, uint32_t handle)
{
    struct ffl_import x = {.key = t->key, .ticket = t->id, .handle = from};
    raw_put(r, (struct ffl_entry){
                   .op = FFL_OP_IMPORT, .handle = handle, .buf = raw_arg(r, &x, sizeof(x))});
    return raw_expect(r, FFL_OP_IMPORT, handle).arg;
}

static void drop(const struct ffl_ticket *t, uint32_t handle)
{
    CHECK_EQ(ffl_ticket_send(t->fd, FFL_TICKET_DROP, &handle, 1), 0);
    iterations(2);
}

static void close_it(struct raw *r, uint32_t handle)
{
    raw_op(r, FFL_OP_CLOSE, handle, 0, FFL_F_ABORT);
    (void)raw_expect(r, FFL_OP_CLOSED, handle);
}

static uint64_t references(void)
{
    return lab.in->ledger.n[CHARGE_SOCKET];
}

/* A parent with N sockets that are in the ticket, and a child. */
static void family(struct raw *parent, struct raw *child, struct ffl_ticket *t)
{
    lab_defaults("sim");
    lab_start_manual("");
    raw_attach(parent);
    raw_attach(child);
    for (uint32_t h = 0; h < N; h++)
        raw_socket(parent, h, SOCK_STREAM);
    CHECK(lab_ticket(t));
    share(parent, t);
}

static void end(struct raw *parent, struct raw *child, const struct ffl_ticket *t, bool alive)
{
    close(t->fd);
    iterations(5);
    if (alive)
        raw_gone(parent);
    iterations(N);
    raw_finish(child);
}

TEST(a_reference_is_made_when_it_is_imported)
{
    struct raw parent, child;
    struct ffl_ticket t;
    family(&parent, &child, &t);
    CHECK_EQ(references(), N);
    CHECK_EQ(import(&child, &t, 7, 0), 0);
    CHECK_EQ(import(&child, &t, 7, 1), -ENOENT); /* once */
    CHECK_EQ(import(&child, &t, N, 2), -ENOENT); /* the parent has no such socket */
    CHECK_EQ(references(), N + 1);
    close_it(&parent, 7);
    CHECK_EQ(references(), N);
    end(&parent, &child, &t, true);
}

TEST(a_socket_that_its_parent_closes_stays)
{
    struct raw parent, child;
    struct ffl_ticket t;
    family(&parent, &child, &t);
    close_it(&parent, 3);
    CHECK_EQ(references(), N); /* the parent's is the ticket's now */
    raw_socket(&parent, 3, SOCK_STREAM);
    CHECK_EQ(import(&child, &t, 3, 0), 0);       /* the closed one, */
    CHECK_EQ(import(&child, &t, 3, 1), -ENOENT); /* not that which has its handle now */
    close_it(&parent, 3);
    CHECK_EQ(references(), N);
    end(&parent, &child, &t, true);
}

TEST(what_the_child_drops_goes)
{
    struct raw parent, child;
    struct ffl_ticket t;
    family(&parent, &child, &t);
    drop(&t, 5);
    close_it(&parent, 5);
    CHECK_EQ(references(), N - 1);
    close_it(&parent, 6);
    CHECK_EQ(references(), N - 1);
    drop(&t, 6);
    CHECK_EQ(references(), N - 2);
    CHECK_EQ(import(&child, &t, 5, 0), -ENOENT);
    CHECK_EQ(import(&child, &t, 6, 1), -ENOENT);
    end(&parent, &child, &t, true);
}

TEST(sockets_outlive_the_parent_and_end_with_the_ticket)
{
    struct raw parent, child;
    struct ffl_ticket t;
    family(&parent, &child, &t);
    raw_gone(&parent);
    iterations(2 * N); /* a slice each */
    CHECK_EQ(references(), N);
    CHECK_EQ(import(&child, &t, 0, 0), 0);
    close(t.fd);
    iterations(2 * N);
    CHECK_EQ(references(), 1);
    raw_finish(&child);
}

TEST(two_children_have_each_a_reference)
{
    struct raw parent, child;
    struct ffl_ticket t, other;
    family(&parent, &child, &t);
    CHECK(lab_ticket(&other));
    raw_socket(&parent, N, SOCK_STREAM); /* after the first child's fork */
    share(&parent, &other);
    CHECK_EQ(import(&child, &t, N, 0), -ENOENT);
    CHECK_EQ(import(&child, &other, N, 1), 0);
    close_it(&parent, 1);
    CHECK_EQ(references(), N + 1 + 2); /* the child's; and two in tickets, for the parent's */
    CHECK_EQ(import(&child, &t, 1, 2), 0);
    CHECK_EQ(import(&child, &other, 1, 3), 0);
    close(other.fd);
    end(&parent, &child, &t, true);
}

/* The second share of a ticket is refused; a wrong key ends the session. */
TEST(a_ticket_is_shared_once)
{
    struct raw parent, child;
    struct ffl_ticket t;
    family(&parent, &child, &t);
    quiet();
    share(&parent, &t);
    CHECK(raw_alive(&parent));
    t.key ^= 1;
    share(&parent, &t);
    CHECK(!raw_alive(&parent));
    raw_gone(&parent);
    end(&parent, &child, &t, false);
}

/* What a program has closed, or has never heard of, is no other process's, though the instance has
 * not closed it yet. */
TEST(closed_before_the_fork)
{
    struct raw r;
    struct ffl_ticket t;
    static uint8_t much[4096];
    int peer, other;
    raw_server(&r, "window=1000", 0);
    uint32_t closed = raw_accepted(&r, 0, 80, &peer), unknown = raw_accepted(&r, 0, 80, &other);
    for (int i = 0; i < 12; i++) /* more than the stack takes */
        raw_send(&r, closed, much, sizeof(much));
    raw_op(&r, FFL_OP_CLOSE, closed, 0, 0);
    CHECK(lab_ticket(&t));
    share(&r, &t);
    raw_op(&r, FFL_OP_CLOSE, unknown, 0, FFL_F_ABORT | FFL_F_RETURN);
    (void)raw_expect(&r, FFL_OP_CLOSED, unknown);
    /* the listener, that which is still to be sent, and that which the listener has again */
    CHECK_EQ(references(), 3);
    for (int i = 0; i < 1000 && references() > 2; i++) {
        while (sim_take(peer, much, sizeof(much)) > 0)
            ;
        iterations(1);
    }
    CHECK_EQ(references(), 2);
    sim_shut(peer);
    sim_shut(other);
    close(t.fd);
    iterations(3);
    raw_finish(&r);
}

TEST(nothing_more_is_read_ahead)
{
    struct raw r;
    struct ffl_ticket t;
    int peer;
    raw_server(&r, "", FFL_F_ARM_NEW);
    uint32_t h = raw_accepted(&r, 0, 80, &peer);
    CHECK(lab_ticket(&t));
    share(&r, &t);
    CHECK_EQ(sim_put(peer, "hello", 5), 5);
    raw_nothing(&r);
    raw_op(&r, FFL_OP_ARM, h, 0, 0);
    raw_give(&r, raw_expect(&r, FFL_OP_RECV, h).buf);
    sim_shut(peer);
    close(t.fd);
    iterations(3);
    raw_finish(&r);
}

/* ---- the end of a stream that two processes send to ------------------------------------------ */

enum { EACH = 4096, SENDS = 12 }; /* in all, more than the stack takes */

/* A connection of `parent` and, by handle 0, `child`'s; `first` is drained first. */
static uint32_t two_senders(struct raw *parent, struct raw *child, bool child_first, int *peer)
{
    struct ffl_ticket t;
    lab_defaults("sim");
    lab_start_manual("window=1000");
    if (child_first)
        raw_attach(child);
    raw_attach(parent);
    if (!child_first)
        raw_attach(child);
    raw_listen(parent, 0, "10.0.0.1", 80, 8, 0);
    uint32_t h = raw_accepted(parent, 0, 80, peer);
    CHECK(lab_ticket(&t));
    share(parent, &t);
    CHECK_EQ(import(child, &t, h, 0), 0);
    close(t.fd);
    iterations(3);
    return h;
}

static void sends_much(struct raw *r, uint32_t handle)
{
    static const uint8_t much[EACH];
    for (int i = 0; i < SENDS; i++)
        raw_send(r, handle, much, sizeof(much));
}

/* The peer reads all that was sent, and then the end. */
static void arrives_before_the_end(int peer, size_t wanted)
{
    static uint8_t got[65536];
    size_t n = 0;
    int k = -EAGAIN;
    for (int i = 0; i < 1000 && k != 0; i++) {
        while ((k = sim_take(peer, got, sizeof(got))) > 0)
            n += (size_t)k;
        iterations(1);
    }
    CHECK_EQ(k, 0);
    CHECK_EQ(n, wanted);
}

static void ends_after_both(bool child_first)
{
    struct raw parent, child;
    int peer;
    uint32_t h = two_senders(&parent, &child, child_first, &peer);
    sends_much(&parent, h); /* none of it executed yet */
    sends_much(&child, 0);
    raw_op(&child, FFL_OP_SHUTDOWN, 0, SHUT_WR, 0);
    raw_op(&child, FFL_OP_CLOSE, 0, 0, 0);
    (void)raw_expect(&parent, FFL_OP_SHUTDOWN, h);
    arrives_before_the_end(peer, 2 * SENDS * EACH);
    (void)raw_expect(&child, FFL_OP_CLOSED, 0);
    CHECK_EQ(sim_put(peer, "hello", 5), 5); /* the parent reads on */
    raw_op(&parent, FFL_OP_ARM, h, 0, 0);
    raw_give(&parent, raw_expect(&parent, FFL_OP_RECV, h).buf);
    sim_shut(peer);
    raw_gone(&parent);
    iterations(3);
    raw_finish(&child);
}

TEST(the_end_comes_after_what_another_process_sent)
{
    ends_after_both(false);
}

TEST(the_end_comes_after_what_another_process_is_yet_to_be_drained_of)
{
    ends_after_both(true);
}

/* It takes no completions, so that its SQ rests; but another's end does not wait for it. */
TEST(the_end_comes_after_what_a_stopped_process_sent)
{
    struct raw parent, child;
    int peer;
    uint32_t h = two_senders(&parent, &child, false, &peer);
    const struct ffl_session *s = TAILQ_FIRST(&lab.in->sessions);
    while (s->ch.over.n <= 1024) {
        raw_op(&parent, FFL_OP_NOP, 0, 0, 0);
        iterations(1);
    }
    sends_much(&parent, h);
    iterations(3);
    CHECK_EQ(ffl_ring_room(&parent.sq, parent.sq.size), (int)parent.sq.size - SENDS);
    raw_op(&child, FFL_OP_SHUTDOWN, 0, SHUT_WR, 0);
    arrives_before_the_end(peer, SENDS * EACH);
    sim_shut(peer);
    raw_gone(&parent);
    iterations(3);
    raw_finish(&child);
}

TEST(the_end_comes_after_what_a_gone_process_left)
{
    struct raw parent, child;
    int peer;
    uint32_t h = two_senders(&parent, &child, false, &peer);
    sends_much(&parent, h);
    raw_gone(&parent);
    raw_op(&child, FFL_OP_SHUTDOWN, 0, SHUT_WR, 0);
    arrives_before_the_end(peer, SENDS * EACH);
    sim_shut(peer);
    raw_finish(&child);
}

/* Closed at once, so that what it had is dropped: it holds up nobody. */
TEST(the_end_does_not_wait_for_what_was_dropped)
{
    struct raw parent, child;
    int peer;
    uint32_t h = two_senders(&parent, &child, false, &peer);
    sends_much(&parent, h);
    raw_op(&child, FFL_OP_SHUTDOWN, 0, SHUT_RDWR, 0);
    (void)raw_expect(&parent, FFL_OP_SHUTDOWN, h);
    raw_op(&parent, FFL_OP_CLOSE, h, 0, FFL_F_ABORT);
    (void)raw_expect(&parent, FFL_OP_CLOSED, h);
    arrives_before_the_end(peer, 1000); /* what the stack had */
    sim_shut(peer);
    raw_gone(&parent);
    iterations(3);
    raw_finish(&child);
}

/* The connection's reference is in a ticket when its other one shuts it down. */
TEST(what_is_in_a_ticket_is_shut_down_too)
{
    struct raw r;
    struct ffl_ticket t;
    int peer;
    raw_server(&r, "", 0);
    uint32_t h = raw_accepted(&r, 0, 80, &peer);
    CHECK(lab_ticket(&t));
    raw_export(&r, h, &t);
    raw_op(&r, FFL_OP_SHUTDOWN, h, SHUT_WR, 0);
    iterations(2);
    CHECK_EQ(import(&r, &t, h, 1), FFL_IMPORT_SHUT_WR);
    arrives_before_the_end(peer, 0);
    sim_shut(peer);
    close(t.fd);
    iterations(3);
    raw_finish(&r);
}

/* ---- some of a session's sockets ------------------------------------------------------------- */

static void mark(const struct ffl_ticket *t, const uint32_t *handles, uint32_t n)
{
    CHECK_EQ(ffl_ticket_send(t->fd, FFL_TICKET_MARK, handles, n), 0);
    CHECK_EQ(ffl_ticket_send(t->fd, FFL_TICKET_SWEEP, NULL, 0), 0);
    iterations(2);
}

/* Those that are not marked stay the parent's alone, and close with it. */
TEST(what_is_not_marked_goes)
{
    struct raw parent, child;
    struct ffl_ticket t;
    family(&parent, &child, &t);
    mark(&t, (uint32_t[]){3, 7, 9}, 3);
    CHECK_EQ(references(), N);
    close_it(&parent, 3);
    close_it(&parent, 4);
    CHECK_EQ(references(), N - 1); /* the parent's 3 is the ticket's now */
    CHECK_EQ(import(&child, &t, 4, 0), -ENOENT);
    CHECK_EQ(import(&child, &t, 5, 1), -ENOENT);
    CHECK_EQ(import(&child, &t, 3, 2), 0);
    mark(&t, (uint32_t[]){9, 3}, 2); /* by the program after the exec: 7 was closed, */
    CHECK_EQ(import(&child, &t, 7, 3), -ENOENT);
    CHECK_EQ(import(&child, &t, 9, 4), 0);
    CHECK_EQ(import(&child, &t, 3, 5), -ENOENT); /* and nothing comes twice */
    end(&parent, &child, &t, true);
}

/* The socket is closed between the marks and the sweep. */
TEST(what_is_marked_and_closed_stays)
{
    struct raw parent, child;
    struct ffl_ticket t;
    family(&parent, &child, &t);
    CHECK_EQ(ffl_ticket_send(t.fd, FFL_TICKET_MARK, (uint32_t[]){6}, 1), 0);
    iterations(2);
    close_it(&parent, 6);
    close_it(&parent, 8);
    CHECK_EQ(ffl_ticket_send(t.fd, FFL_TICKET_SWEEP, NULL, 0), 0);
    iterations(2);
    CHECK_EQ(references(), N - 1);
    CHECK_EQ(import(&child, &t, 6, 0), 0);
    CHECK_EQ(import(&child, &t, 8, 1), -ENOENT);
    end(&parent, &child, &t, true);
}

TEST(sockets_stay_armed)
{
    struct raw r;
    struct ffl_ticket t;
    int peer;
    raw_server(&r, "", FFL_F_ARM_NEW);
    uint32_t h = raw_accepted(&r, 0, 80, &peer);
    CHECK(lab_ticket(&t));
    struct ffl_import x = {.key = t.key, .ticket = t.id};
    raw_put(&r, (struct ffl_entry){
                    .op = FFL_OP_SHARE, .flags = FFL_F_ARMED, .buf = raw_arg(&r, &x, sizeof(x))});
    CHECK_EQ(sim_put(peer, "hello", 5), 5);
    raw_give(&r, raw_expect(&r, FFL_OP_RECV, h).buf);
    sim_shut(peer);
    close(t.fd);
    iterations(3);
    raw_finish(&r);
}

/* As after weeks of a thousand connections per second. */
TEST(an_old_socket_is_shared)
{
    struct raw parent, child;
    struct ffl_ticket t, later;
    family(&parent, &child, &t);
    lab.in->next_serial += 3ull << 30;
    CHECK(lab_ticket(&later));
    share(&parent, &later);
    CHECK_EQ(import(&child, &later, 7, 0), 0);
    close(later.fd);
    end(&parent, &child, &t, true);
}

/* After 2^32 sockets, too, a buffer that comes back is its socket's. */
TEST(a_late_sockets_buffers_are_counted)
{
    struct raw r;
    int peer;
    lab_defaults("sim");
    raw_server(&r, "", FFL_F_ARM_NEW);
    lab.in->next_serial = UINT32_MAX;
    uint32_t h = raw_accepted(&r, 0, 80, &peer);
    const struct endpoint *e = TAILQ_FIRST(&lab.in->sessions)->table[h];
    CHECK(e->st->serial);
    CHECK_EQ(sim_put(peer, "hello", 5), 5);
    uint32_t buf = raw_expect(&r, FFL_OP_RECV, h).buf;
    CHECK(e->rx_outstanding > 0);
    raw_give(&r, buf);
    iterations(2);
    CHECK_EQ(e->rx_outstanding, 0);
    sim_shut(peer);
    raw_finish(&r);
}

/* A kept listener whose time is up leaves the connections to a child that has it. */
TEST(a_kept_listener_is_a_childs)
{
    enum { MANY = 40 };
    struct raw parent, child;
    struct ffl_ticket t;
    int peer[MANY];
    lab_defaults("sim");
    lab.o.keep_ns = 1;
    lab_start_manual("");
    raw_attach(&parent);
    raw_attach(&child);
    CHECK_EQ(raw_bind(&parent, 0, "10.0.0.1", 80, true), 0);
    raw_op(&parent, FFL_OP_LISTEN, 0, MANY, 0);
    CHECK_EQ(raw_expect(&parent, FFL_OP_LISTEN, 0).arg, 0);
    CHECK(lab_ticket(&t));
    share(&parent, &t);
    for (int i = 0; i < MANY; i++)
        peer[i] = sim_dial("10.0.0.1", 80);
    raw_gone(&parent); /* it ends, and is kept, before the child has imported anything */
    iterations(5);
    CHECK_EQ(import(&child, &t, 0, 1), FFL_IMPORT_LISTENER);
    while (!TAILQ_EMPTY(&lab.in->kept))
        iterations(1);
    raw_op(&child, FFL_OP_ARM, 1, MANY, 0);
    for (int i = 0; i < MANY; i++)
        raw_give(&child, raw_expect(&child, FFL_OP_ACCEPT, 1).buf);
    for (int i = 0; i < MANY; i++)
        sim_shut(peer[i]);
    end(&parent, &child, &t, false);
}
