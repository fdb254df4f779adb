/*
 * tickets.c - rule 7: who talks on a ticket, or through one, costs the others nothing.
 */
#include "lab.h"

#include "../../ffloop/_native/instance/session.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

/* Somebody whom a ticket brings in, and the end that the instance has: we keep a copy. */
static void bring(const struct ffl_ticket *t, int ends[2])
{
    struct ffl_ticket_msg m = {.what = FFL_TICKET_CONNECT};
    CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    CHECK_EQ(ffl_msg_send(t->fd, &m, sizeof(m), &ends[1], 1), sizeof(m));
    iterations(2);
}

/* Closing its descriptor is not enough for the instance to be rid of a socket that we have too: it
 * still makes events, for a session, a waiting place, a ticket that is no more. */
TEST(ticket_with_kept_copies)
{
    const struct ffl_hello h = {
        .magic = FFL_MAGIC, .version = FFL_ABI_VERSION, .kind = FFL_HELLO_ATTACH};
    struct neighbour n;
    lab_start("clock=manual");
    neighbour_start(&n);
    int fds = test_open_fds();
    for (uint32_t kind = 0; kind < 5; kind++) { /* 0 and 4: no kind of hello */
        struct ffl_hello hello = h;
        struct ffl_ticket t;
        int ends[2];
        char text[600];
        CHECK(lab_ticket(&t));
        bring(&t, ends);
        hello.kind = kind;
        CHECK_EQ(ffl_msg_send(ends[0], &hello, sizeof(hello), NULL, 0), sizeof(hello));
        iterations(3);
        CHECK(recv(ends[0], text, sizeof(text), 0) > 0);
        close(ends[0]);
        iterations(3);
        neighbour_works(&n);
        close(ends[1]);
        /* No message of a ticket. */
        CHECK_EQ(ffl_msg_send(t.fd, &h, sizeof(h), &t.fd, 1), sizeof(h));
        iterations(3);
        close(t.fd);
        iterations(3);
        CHECK_EQ(lab_sessions(), 1);
        CHECK_EQ(lab.in->ledger.n[CHARGE_TICKET], 0);
        lab_settled(fds);
    }
    neighbour_end(&n);
}

/* A session's connection brings somebody in as a ticket's does, and nothing else but a rest. */
TEST(a_session_brings_somebody)
{
    const struct ffl_hello h = {
        .magic = FFL_MAGIC, .version = FFL_ABI_VERSION, .kind = FFL_HELLO_TICKET};
    struct ffl_ticket_msg drop = {.what = FFL_TICKET_DROP};
    struct neighbour n;
    lab_start("clock=manual");
    neighbour_start(&n);
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC), fds = test_open_fds();
    for (int with = 0; with < 2; with++) { /* a descriptor */
        struct ffl_reply r;
        struct raw s;
        int ends[2];
        raw_attach(&s);
        bring(&(struct ffl_ticket){.fd = s.sock}, ends);
        close(ends[1]);
        CHECK_EQ(ffl_msg_send(ends[0], &h, sizeof(h), NULL, 0), sizeof(h));
        iterations(3);
        CHECK_EQ(ffl_msg_recv(ends[0], &r, sizeof(r), NULL, NULL), sizeof(r));
        CHECK_EQ(r.status, FFL_REPLY_OK);
        CHECK_EQ(lab.in->ledger.n[CHARGE_TICKET], 1);
        CHECK_EQ(lab_sessions(), 2);
        CHECK_EQ(ffl_msg_send(s.sock, &drop, sizeof(drop), &null, with), sizeof(drop));
        iterations(5);
        CHECK_EQ(lab_sessions(), 1);
        close(ends[0]);
        iterations(3);
        CHECK_EQ(lab.in->ledger.n[CHARGE_TICKET], 0);
        raw_gone(&s);
        lab_settled(fds);
    }
    close(null);
    neighbour_end(&n);
}

/* What comes while the instance has no descriptor for it is lost, and no more than that; nor is it
 * the end that there is nothing to read. */
TEST(without_a_descriptor_nobody_comes)
{
    struct rlimit all, none;
    struct ffl_ticket t;
    struct raw s;
    int ends[2], other[2];
    char c;
    lab_start("clock=manual");
    CHECK(lab_ticket(&t));
    raw_attach(&s);
    int fds = test_open_fds();
    const struct ffl_ticket_msg m = {.what = FFL_TICKET_CONNECT};
    for (int i = 0; i < 2; i++) {
        int via = i ? t.fd : s.sock;
        CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
        CHECK_EQ(ffl_msg_send(via, &m, sizeof(m), &ends[1], 1), sizeof(m));
        close(ends[1]);
        CHECK_EQ(getrlimit(RLIMIT_NOFILE, &all), 0);
        none = (struct rlimit){.rlim_cur = 3, .rlim_max = all.rlim_max};
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
        iterations(3);
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &all), 0);
        CHECK_EQ(recv(ends[0], &c, 1, 0), 0); /* its end */
        close(ends[0]);
        bring(&(struct ffl_ticket){.fd = via}, other); /* the next one comes */
        CHECK_EQ(lab.in->ledger.n[CHARGE_PENDING], 1);
        close(other[0]);
        close(other[1]);
        iterations(3);
        lab_settled(fds);
    }
    session_event(TAILQ_FIRST(&lab.in->sessions));
    iterations(3);
    CHECK_EQ(lab_sessions(), 1);
    CHECK_EQ(lab.in->ledger.n[CHARGE_TICKET], 1);
    close(t.fd);
    raw_finish(&s);
}

/* O_NONBLOCK is the file's: of a socket that we have too, we can clear it. */
TEST(ticket_with_a_socket_that_blocks)
{
    struct ffl_hello h = {.magic = FFL_MAGIC, .version = FFL_ABI_VERSION + 1};
    struct neighbour n;
    struct ffl_ticket t;
    int ends[2];
    lab_start("clock=manual");
    neighbour_start(&n);
    CHECK(lab_ticket(&t));
    bring(&t, ends);
    while (send(ends[1], &h, sizeof(h), MSG_DONTWAIT) > 0) /* no room for the answer */
        ;
    CHECK_EQ(fcntl(ends[1], F_SETFL, 0), 0);
    CHECK_EQ(ffl_msg_send(ends[0], &h, sizeof(h), NULL, 0), sizeof(h));
    iterations(3);
    neighbour_works(&n);
    close(ends[0]);
    close(ends[1]);
    close(t.fd);
    iterations(3);
    neighbour_end(&n);
}

/* Who does not know its key puts nothing into a ticket: its holder would take it for his own. */
TEST(ticket_of_somebody_else)
{
    struct neighbour n;
    struct ffl_ticket t;
    lab_start("clock=manual");
    neighbour_start(&n);
    CHECK(lab_ticket(&t));
    for (int i = 0; i < 3; i++) {
        struct raw r;
        struct ffl_ticket guess = t;
        raw_attach(&r);
        raw_socket(&r, 0, SOCK_STREAM);
        guess.key += i == 2 ? 0 : 1u << i;
        guess.id += i == 2; /* there is none: nothing to guess */
        raw_export(&r, 0, &guess);
        iterations(3);
        CHECK_EQ(raw_alive(&r), i == 2);
        raw_gone(&r);
        iterations(3);
        struct ffl_import in = {.key = t.key, .ticket = t.id, .handle = 0};
        raw_attach(&r);
        raw_put(&r, (struct ffl_entry){
                        .op = FFL_OP_IMPORT, .handle = 3, .buf = raw_arg(&r, &in, sizeof(in))});
        CHECK_EQ(raw_expect(&r, FFL_OP_IMPORT, 3).arg, -ENOENT);
        raw_gone(&r);
        iterations(3);
    }
    close(t.fd);
    iterations(3);
    neighbour_works(&n);
    neighbour_end(&n);
}

static unsigned sim_sockets(void)
{
    unsigned n = 0;
    struct ffl_addr a;
    for (int fd = 0; fd < 4096; fd++)
        n += ffl_sim_ops.sockname(sim, fd, false, &a) == 0;
    return n;
}

/* A socket is in a ticket once, however often it is put there: nothing is used up. */
TEST(ticket_that_is_stuffed)
{
    struct neighbour n;
    struct raw r;
    struct ffl_ticket t;
    lab_start("clock=manual");
    neighbour_start(&n);
    raw_attach(&r);
    raw_listen(&r, 0, "10.0.0.1", 81, 0, 0);
    CHECK(lab_ticket(&t));
    unsigned sockets = sim_sockets();
    for (int i = 0; i < 500; i++) {
        raw_export(&r, 0, &t);
        iterations(2);
    }
    CHECK_EQ(sim_sockets(), sockets + 1);
    CHECK(raw_alive(&r));
    raw_gone(&r);
    close(t.fd);
    iterations(3);
    neighbour_works(&n);
    neighbour_end(&n);
}

/* Whoever talks without a pause on a ticket is heard for a while, and then the others are. */
TEST(ticket_that_talks_without_end)
{
    struct neighbour n;
    struct ffl_ticket t;
    struct ffl_ticket_msg m = {.what = FFL_TICKET_MARK};
    int unread, sent = 0;
    lab_start("clock=manual");
    neighbour_start(&n);
    CHECK(lab_ticket(&t));
    CHECK_EQ(fcntl(t.fd, F_SETFL, O_NONBLOCK), 0);
    while (ffl_msg_send(t.fd, &m, sizeof(m), NULL, 0) > 0)
        sent++;
    CHECK(sent > 40);
    lab.in->ctl_due = 0; /* it looks in this iteration */
    (void)iterate();
    CHECK_EQ(ioctl(t.fd, SIOCOUTQ, &unread), 0);
    CHECK(unread > 0);
    neighbour_works(&n);
    close(t.fd);
    iterations(sent);
    CHECK_EQ(lab.in->ledger.n[CHARGE_TICKET], 0);
    neighbour_end(&n);
}

/* One user takes some of the tickets, not all. */
TEST(tickets_without_number)
{
    static struct ffl_ticket t[100];
    size_t n = 0;
    struct neighbour good;
    lab_defaults("sim");
    lab.o.policy.any_user = true;
    lab_start("clock=manual");
    lab.in->ledger.limit[CHARGE_TICKET] = FFL_COUNT(t);
    neighbour_start(&good);
    while (n < FFL_COUNT(t) && lab_ticket(&t[n]))
        n++;
    CHECK_EQ(n, 75);
    close(t[0].fd);
    iterations(3);
    CHECK(lab_ticket(&t[0]));
    for (size_t i = 0; i < n; i++)
        close(t[i].fd);
    iterations(50);
    CHECK_EQ(lab.in->ledger.n[CHARGE_TICKET], 0);
    neighbour_works(&good);
    neighbour_end(&good);
}
