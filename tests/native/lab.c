/* lab.c - see lab.h. */
#include "lab.h"

#include "../../ffloop/_native/instance/internal.h"

#include <poll.h>
#include <sched.h>
#include <time.h>

struct lab lab;
void *sim;

/* ---- the instance -------------------------------------------------------------------------- */

void lab_defaults(const char *stack)
{
    memset(&lab, 0, sizeof(lab));
    ffl_instance_opts_default(&lab.o);
    lab.o.stack = ffl_stack_find(stack);
    CHECK(lab.o.stack);
    lab.o.slice_ns = 3600 * FFL_NS_PER_SEC; /* stepped: an iteration does what there is to do */
    lab.o.max_sockets = 256;
    lab.o.pool_kib = 1024;
    lab.o.spin_us = 0;
    snprintf(lab.path, sizeof(lab.path), "@ffl-test-%d", (int)getpid());
    lab.o.path = lab.path;
}

void lab_start(const char *options)
{
    static char text[512];
    static char *argv[32];
    char why[256] = "";
    int argc = 0;
    if (!lab.o.stack)
        lab_defaults("sim");
    snprintf(text, sizeof(text), "%s", options);
    for (char *p = strtok(text, " "); p; p = strtok(NULL, " "))
        argv[argc++] = p;
    lab.o.stack_opts = (struct ffl_stack_opts){.argc = argc, .argv = argv};
    int rc = ffl_instance_start(&lab.in, &lab.o, why, sizeof(why));
    if (rc < 0)
        FAIL("instance: %d %s", rc, why);
    sim = lab.in->stack.st;
}

void lab_start_manual(const char *options)
{
    char text[256];
    snprintf(text, sizeof(text), "clock=manual %s", options);
    lab_start(text);
}

static void *run(void *arg)
{
    (void)test_pin(1); /* else the two sides often share a CPU, and never meet in a race */
    CHECK_EQ(ffl_instance_run(lab.in), 0);
    return arg;
}

void lab_run(void)
{
    lab.running = true;
    (void)test_pin(0);
    CHECK_EQ(pthread_create(&lab.thread, NULL, run, NULL), 0);
}

unsigned lab_sessions(void)
{
    return atomic_load_explicit(&lab.in->page->sessions, memory_order_relaxed);
}

void lab_stop(void)
{
    if (lab.running) {
        ffl_instance_stop(lab.in);
        pthread_join(lab.thread, NULL);
    }
    ffl_instance_free(lab.in);
    lab.in = NULL;
    sim = NULL;
}

int64_t iterate(void)
{
    lab.in->ctl_due = 0; /* every turn looks at the control epoll, whatever the real clock says */
    return ffl_instance_iterate(lab.in);
}

void iterations(int n)
{
    for (int i = 0; i < n; i++)
        (void)iterate();
}

void step(int64_t ns, int n)
{
    for (int i = 0; i < n; i++) {
        ffl_sim_advance(sim, ns);
        (void)iterate();
    }
}

static void *attach_thread(void *arg)
{
    char why[256];
    struct ffl_client_opts o = {.path = lab.path, .timeout_ms = 60000};
    int rc = ffl_client_attach(arg, &o, why, sizeof(why));
    if (rc < 0)
        FAIL("attach: %s", why);
    return NULL;
}

struct ffl_client *lab_attach_stepped(void)
{
    struct ffl_client *c;
    pthread_t t;
    CHECK_EQ(pthread_create(&t, NULL, attach_thread, &c), 0);
    for (struct timespec ts;
         clock_gettime(CLOCK_REALTIME, &ts), pthread_timedjoin_np(t, NULL, &ts);)
        (void)iterate();
    return c;
}

/* ---- a raw application --------------------------------------------------------------------- */

int lab_dial(void)
{
    struct sockaddr_un sa;
    socklen_t len;
    CHECK_EQ(ffl_unix_addr(lab.path, &sa, &len), 0);
    int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    CHECK(s >= 0);
    CHECK_EQ(connect(s, (struct sockaddr *)&sa, len), 0);
    return s;
}

int raw_try(struct raw *r, const struct ffl_hello *h)
{
    struct ffl_reply reply;
    int fds[FFL_ATTACH_FDS], n = FFL_ATTACH_FDS, rc = -EAGAIN;
    memset(r, 0, sizeof(*r));
    r->sock = lab_dial();
    CHECK_EQ(ffl_msg_send(r->sock, h, sizeof(*h), NULL, 0), sizeof(*h));
    for (int i = 0; i < 10 && rc == -EAGAIN; i++) {
        (void)iterate();
        n = FFL_ATTACH_FDS;
        rc = ffl_msg_recv(r->sock, &reply, sizeof(reply), fds, &n);
    }
    if (rc != sizeof(reply) || reply.status != FFL_REPLY_OK) {
        while (rc >= 0 && n > 0)
            close(fds[--n]);
        close(r->sock);
        return rc < 0                ? rc
               : rc == 0             ? -ECONNRESET
               : rc != sizeof(reply) ? -EPROTO
                                     : (int)reply.status;
    }
    CHECK_EQ(n, FFL_ATTACH_FDS);
    CHECK_EQ(ffl_segment_map(&r->map, fds[0]), 0);
    r->app_bell = fds[1];
    r->inst_bell = fds[2];
    r->session = reply.session;
    ffl_segment_ring(&r->map, FFL_SQ, &r->sq);
    ffl_segment_ring(&r->map, FFL_CQ, &r->cq);
    ffl_segment_ring(&r->map, FFL_RXFREE, &r->rxfree);
    ffl_segment_ring(&r->map, FFL_TXFREE, &r->txfree);
    CHECK_EQ(ffl_pool_init(&r->tx, &r->map.geo.tx), 0);
    return FFL_REPLY_OK;
}

bool lab_ticket(struct ffl_ticket *t)
{
    struct ffl_hello h = {.magic = FFL_MAGIC, .version = FFL_ABI_VERSION, .kind = FFL_HELLO_TICKET};
    struct ffl_reply reply;
    int s = lab_dial();
    CHECK_EQ(ffl_msg_send(s, &h, sizeof(h), NULL, 0), sizeof(h));
    iterations(3);
    if (ffl_msg_recv(s, &reply, sizeof(reply), NULL, NULL) != sizeof(reply) || reply.status) {
        close(s);
        return false;
    }
    *t = (struct ffl_ticket){.fd = s, .id = reply.session, .key = reply.key};
    return true;
}

void raw_export(struct raw *r, uint32_t handle, const struct ffl_ticket *t)
{
    struct ffl_import x = {.key = t->key, .ticket = t->id};
    raw_put(r, (struct ffl_entry){
                   .op = FFL_OP_EXPORT, .handle = handle, .buf = raw_arg(r, &x, sizeof(x))});
}

void raw_attach_sized(struct raw *r, uint32_t max_sockets, uint32_t pool_kib)
{
    struct ffl_hello h = {.magic = FFL_MAGIC,
                          .version = FFL_ABI_VERSION,
                          .kind = FFL_HELLO_ATTACH,
                          .max_sockets = max_sockets,
                          .pool_kib = pool_kib};
    CHECK_EQ(raw_try(r, &h), FFL_REPLY_OK);
}

void raw_attach(struct raw *r)
{
    raw_attach_sized(r, 0, 0);
}

void raw_gone(struct raw *r)
{
    close(r->sock);
    close(r->app_bell);
    close(r->inst_bell);
    ffl_pool_fini(&r->tx);
    ffl_segment_drop(&r->map);
    memset(r, 0, sizeof(*r));
}

bool raw_alive(struct raw *r)
{
    char c;
    iterations(3);
    ssize_t n = recv(r->sock, &c, 1, MSG_DONTWAIT | MSG_PEEK);
    return n < 0 && errno == EAGAIN;
}

void *raw_tx(struct raw *r, uint32_t buf)
{
    return (char *)r->map.seg + ffl_buf_off(&r->map.geo.tx, buf);
}

const void *raw_rx(const struct raw *r, uint32_t buf)
{
    CHECK(ffl_buf_ok(&r->map.geo.rx, buf));
    return (const char *)r->map.seg + ffl_buf_off(&r->map.geo.rx, buf);
}

static void reap_tx(struct raw *r)
{
    for (int n = ffl_ring_avail(&r->txfree); n > 0; n--)
        CHECK_EQ(ffl_pool_put(&r->tx, ffl_ring_get_id(&r->txfree)), 0);
    ffl_ring_consumed(&r->txfree);
}

uint32_t raw_arg(struct raw *r, const void *data, size_t len)
{
    reap_tx(r);
    uint32_t buf = ffl_pool_get(&r->tx, (uint32_t)len);
    CHECK(buf != FFL_NO_BUF);
    CHECK(ffl_buf_size(buf) >= len);
    memcpy(raw_tx(r, buf), data, len);
    return buf;
}

void raw_put(struct raw *r, struct ffl_entry e)
{
    CHECK(ffl_ring_room(&r->sq, 1) > 0);
    ffl_ring_put_entry(&r->sq, e);
    ffl_ring_commit(&r->sq);
}

int raw_avail(struct raw *r)
{
    int n = ffl_ring_avail(&r->cq);
    CHECK(n >= 0);
    return n;
}

bool raw_next(struct raw *r, struct ffl_entry *e)
{
    if (raw_avail(r) == 0)
        return false;
    *e = ffl_ring_get_entry(&r->cq);
    ffl_ring_consumed(&r->cq);
    return true;
}

void raw_give(struct raw *r, uint32_t buf)
{
    if (buf == FFL_NO_BUF)
        return;
    CHECK(ffl_ring_room(&r->rxfree, 1) > 0);
    ffl_ring_put_id(&r->rxfree, buf);
    ffl_ring_commit(&r->rxfree);
}

struct ffl_entry raw_expect(struct raw *r, enum ffl_op op, uint32_t handle)
{
    struct ffl_entry e;
    for (int i = 0; !raw_next(r, &e); i++) {
        if (i == 20)
            FAIL("no completion, waiting for op %d of handle %u", op, handle);
        (void)iterate();
    }
    if (e.op != op || e.handle != handle)
        FAIL("completion op %u of handle %u, arg %d, not op %d of %u", e.op, e.handle, e.arg, op,
             handle);
    return e;
}

void raw_nothing(struct raw *r)
{
    struct ffl_entry e;
    iterations(4);
    if (raw_next(r, &e))
        FAIL("an unexpected completion: op %u of handle %u, arg %d", e.op, e.handle, e.arg);
}

void raw_op(struct raw *r, enum ffl_op op, uint32_t handle, int32_t arg, uint8_t flags)
{
    raw_put(
        r, (struct ffl_entry){
               .op = (uint8_t)op, .flags = flags, .handle = handle, .arg = arg, .buf = FFL_NO_BUF});
}

void raw_socket(struct raw *r, uint32_t handle, int type)
{
    raw_op(r, FFL_OP_SOCKET, handle, AF_INET | type << 8, 0);
}

void raw_at(struct raw *r, enum ffl_op op, uint32_t handle, const char *ip, int port)
{
    struct ffl_addr a = addr4(ip, port);
    raw_put(r,
            (struct ffl_entry){
                .op = (uint8_t)op, .tag = 1, .handle = handle, .buf = raw_arg(r, &a, sizeof(a))});
}

void raw_listen(struct raw *r, uint32_t handle, const char *ip, int port, uint32_t credits,
                uint8_t flags)
{
    raw_socket(r, handle, SOCK_STREAM);
    raw_at(r, FFL_OP_BIND, handle, ip, port);
    struct ffl_entry e = raw_expect(r, FFL_OP_BIND, handle);
    CHECK_EQ(e.arg, 0);
    raw_give(r, e.buf);
    raw_op(r, FFL_OP_LISTEN, handle, 64, 0);
    e = raw_expect(r, FFL_OP_LISTEN, handle);
    CHECK_EQ(e.arg, 0);
    raw_give(r, e.buf);
    if (credits)
        raw_op(r, FFL_OP_ARM, handle, (int32_t)credits, flags);
    iterations(2);
}

void raw_connect(struct raw *r, uint32_t handle, const char *ip, int port)
{
    raw_socket(r, handle, SOCK_STREAM);
    raw_at(r, FFL_OP_CONNECT, handle, ip, port);
}

int raw_connected(struct raw *r, int *listener)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    *listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_EQ(bind(*listener, (struct sockaddr *)&at, len), 0);
    CHECK_EQ(listen(*listener, 1), 0);
    CHECK_EQ(getsockname(*listener, (struct sockaddr *)&at, &len), 0);
    lab_defaults("host");
    lab_start("");
    raw_attach(r);
    raw_connect(r, 0, "127.0.0.1", ntohs(at.sin_port));
    struct ffl_entry e = raw_expect(r, FFL_OP_CONNECT, 0);
    CHECK_EQ(e.arg, 0);
    raw_give(r, e.buf);
    return accept(*listener, NULL, NULL);
}

void raw_send(struct raw *r, uint32_t handle, const void *data, size_t len)
{
    raw_put(r, (struct ffl_entry){.op = FFL_OP_SEND,
                                  .handle = handle,
                                  .arg = (int32_t)len,
                                  .buf = raw_arg(r, data, len)});
}

void raw_finish(struct raw *r)
{
    raw_gone(r);
    iterations(3);
    CHECK_EQ(ffl_instance_sessions(lab.in), 0);
    CHECK_EQ(ffl_instance_sockets(lab.in), 0);
    lab_stop();
}

bool raw_rung(int bell)
{
    uint64_t n;
    return read(bell, &n, sizeof(n)) == sizeof(n);
}

/* ---- remote peers -------------------------------------------------------------------------- */

struct ffl_addr addr4(const char *ip, int port)
{
    struct ffl_addr a = {.family = AF_INET, .port_be = htons((uint16_t)port)};
    CHECK_EQ(inet_pton(AF_INET, ip, a.ip), 1);
    return a;
}

int sim_listen(const char *ip, int port)
{
    struct ffl_addr a = addr4(ip, port);
    int fd = ffl_sim_ops.socket(sim, AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    CHECK_EQ(ffl_sim_ops.bind(sim, fd, &a), 0);
    CHECK_EQ(ffl_sim_ops.listen(sim, fd, 64), 0);
    return fd;
}

int sim_dial(const char *ip, int port)
{
    struct ffl_addr a = addr4(ip, port);
    int fd = ffl_sim_ops.socket(sim, AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    CHECK_EQ(ffl_sim_ops.connect(sim, fd, &a), -EINPROGRESS);
    return fd;
}

int sim_answer(int fd)
{
    struct ffl_addr peer;
    int got = ffl_sim_ops.accept(sim, fd, &peer);
    CHECK(got >= 0);
    return got;
}

int sim_put(int fd, const void *p, size_t n)
{
    struct iovec iov = {.iov_base = (void *)p, .iov_len = n};
    return ffl_sim_ops.send(sim, fd, &iov, 1, NULL, NULL, 0);
}

int sim_take(int fd, void *p, size_t n)
{
    struct iovec iov = {.iov_base = p, .iov_len = n};
    return ffl_sim_ops.recv(sim, fd, &iov, 1, NULL, NULL, NULL);
}

int sim_drain(int fd, uint64_t *at)
{
    uint8_t buf[5000];
    int n;
    while ((n = sim_take(fd, buf, sizeof(buf))) > 0)
        for (int i = 0; i < n; i++, (*at)++)
            if (buf[i] != pattern(*at))
                FAIL("byte %llu of the stream differs", (unsigned long long)*at);
    return n;
}

void sim_shut(int fd)
{
    CHECK_EQ(ffl_sim_ops.close(sim, fd), 0);
}

int raw_bind(struct raw *r, uint32_t h, const char *ip, int port, bool share)
{
    struct ffl_optarg o = {.level = SOL_SOCKET, .name = SO_REUSEPORT, .len = sizeof(int)};
    memcpy(o.data, &(int){share}, sizeof(int));
    raw_socket(r, h, SOCK_STREAM);
    raw_put(r,
            (struct ffl_entry){
                .op = FFL_OP_SETSOCKOPT, .handle = h, .tag = 1, .buf = raw_arg(r, &o, sizeof(o))});
    CHECK_EQ(raw_expect(r, FFL_OP_SETSOCKOPT, h).arg, 0);
    raw_at(r, FFL_OP_BIND, h, ip, port);
    struct ffl_entry e = raw_expect(r, FFL_OP_BIND, h);
    raw_give(r, e.buf);
    return e.arg;
}

void raw_server(struct raw *r, const char *options, uint8_t flags)
{
    lab_start_manual(options);
    raw_attach(r);
    raw_listen(r, 0, "10.0.0.1", 80, 8, flags);
}

uint32_t raw_accepted(struct raw *r, uint32_t listener, int port, int *peer)
{
    *peer = sim_dial("10.0.0.1", port);
    struct ffl_entry e = raw_expect(r, FFL_OP_ACCEPT, listener);
    raw_give(r, e.buf);
    CHECK(e.arg >= (int32_t)r->map.geo.max_sockets);
    return (uint32_t)e.arg;
}

/* ---- an honest neighbour ------------------------------------------------------------------- */

void neighbour_start(struct neighbour *n)
{
    memset(n, 0, sizeof(*n));
    quiet();
    raw_attach(&n->r);
    raw_listen(&n->r, 0, "10.0.0.1", 80, 8, FFL_F_ARM_NEW);
    n->h = raw_accepted(&n->r, 0, 80, &n->peer);
}

void neighbour_works(struct neighbour *n)
{
    char text[32], back[32];
    int len = snprintf(text, sizeof(text), "message %u", n->count++);
    CHECK_EQ(sim_put(n->peer, text, (size_t)len), len);
    struct ffl_entry e = raw_expect(&n->r, FFL_OP_RECV, n->h);
    CHECK_EQ(e.arg, len);
    CHECK(memcmp(raw_rx(&n->r, e.buf), text, (size_t)len) == 0);
    raw_send(&n->r, n->h, raw_rx(&n->r, e.buf), (size_t)len);
    raw_give(&n->r, e.buf);
    iterations(2);
    CHECK_EQ(sim_take(n->peer, back, sizeof(back)), len);
    CHECK(memcmp(text, back, (size_t)len) == 0);
}

void neighbour_end(struct neighbour *n)
{
    CHECK(raw_alive(&n->r));
    sim_shut(n->peer);
    raw_gone(&n->r);
    iterations(3);
    CHECK_EQ(ffl_instance_sessions(lab.in), 0);
    CHECK_EQ(ffl_instance_sockets(lab.in), 0);
    lab_stop();
}

void lab_settled(int fds)
{
    int64_t until = ffl_now_ns() + 60 * FFL_NS_PER_SEC;
    while (test_open_fds() != fds && ffl_now_ns() < until)
        (void)sched_yield();
    CHECK_EQ(test_open_fds(), fds);
}

void quiet(void)
{
    ffl_log_open(-1, FFL_LOG_ERROR);
}
