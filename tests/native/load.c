/*
 * load.c - the sim stack's load source: what it sends, counts and reports.
 */
#include "net.h"

#include "sim.h"

#define MS 1000000LL

struct server {
    struct watch l, conn[256];
    int n;
};

static struct ffl_sim_load_counts load(void)
{
    struct ffl_sim_load_counts n;
    ffl_sim_load_count(st, &n);
    return n;
}

/* A server of the load, stepped until `requests` were answered or nothing happens any more. */
static void serve(struct server *s, uint32_t response, bool echo, int iterations)
{
    static uint8_t buf[1 << 20];
    struct ffl_addr peer;
    for (int t = 0; t < iterations; t++) {
        pump();
        int fd;
        while (s->n < 256 && (fd = ops->accept(st, s->l.fd, &peer)) >= 0)
            watch(&s->conn[s->n++], fd);
        bool moved = false;
        for (int i = 0; i < s->n; i++) {
            struct watch *c = &s->conn[i];
            if (c->fd < 0)
                continue;
            int rc = take(c->fd, buf, sizeof(buf));
            moved |= rc > 0;
            if (rc == 0) {
                CHECK_EQ(ops->close(st, c->fd), 0);
                c->fd = -1;
            } else if (rc > 0 && echo) {
                for (int done = 0, w; done < rc; done += w)
                    if ((w = put(c->fd, buf + done, (size_t)(rc - done))) < 0)
                        FAIL("echo of %d bytes stopped at %d: %d", rc, done, w);
            } else if (rc > 0) {
                CHECK_EQ(put(c->fd, buf, response), response);
            }
        }
        if (load().finished && !moved)
            return;
        ffl_sim_advance(st, 1000);
    }
}

static char report_path[64];

static void end_server(struct server *s)
{
    struct ffl_sim_counts n;
    for (int i = 0; i < s->n; i++)
        if (s->conn[i].fd >= 0)
            CHECK_EQ(ops->close(st, s->conn[i].fd), 0);
    CHECK_EQ(ops->close(st, s->l.fd), 0);
    ffl_sim_advance(st, 1000000000);
    ffl_sim_count(st, &n);
    CHECK_EQ(n.fds, 0);
    CHECK_EQ(n.sockets, 0);
    net_stop();
    unlink(report_path);
}

static void load_start(struct server *s, const char *options)
{
    char text[400];
    snprintf(report_path, sizeof(report_path), "ffl-test-sim-%d.json", (int)getpid());
    snprintf(text, sizeof(text), "clock=manual load=80 report=%s %s", report_path, options);
    unlink(report_path);
    sim_start(text);
    struct ffl_addr at = v4("0.0.0.0", 80);
    CHECK(!load().started);
    memset(s, 0, sizeof(*s));
    listener(&s->l, &at, 1024);
    CHECK(load().started);
}

static void check_report(const char *want)
{
    char text[1024] = "";
    FILE *f = fopen(report_path, "r");
    CHECK(f);
    CHECK(fgets(text, sizeof(text), f));
    CHECK(fgets(text + strlen(text), 100, f) == NULL); /* one line */
    fclose(f);
    unlink(report_path);
    if (!strstr(text, want))
        FAIL("no '%s' in %s", want, text);
    CHECK(text[0] == '{' && text[strlen(text) - 1] == '\n');
}

TEST(closed_loop)
{
    struct server s;
    load_start(&s, "connections=10 requests=1000");
    serve(&s, 602, false, 100000);
    CHECK(load().finished);
    CHECK_EQ(load().requests, 1000);
    CHECK_EQ(load().bytes_in, 1000 * 602);
    CHECK(load().bytes_out >= 1000 * 86 && load().bytes_out <= 1010 * 86);
    CHECK_EQ(load().surplus + load().broken + load().mismatches, 0);
    CHECK_EQ(s.n, 10);
    check_report("\"requests\": 1000,");
    end_server(&s);
}

TEST(with_latency_measures_it)
{
    struct server s;
    load_start(&s, "connections=3 requests=60 latency=10000");
    serve(&s, 602, false, 100000);
    char text[1024];
    FILE *f = fopen(report_path, "r");
    CHECK(f && fgets(text, sizeof(text), f));
    fclose(f);
    double p50 = 0;
    const char *p = strstr(text, "\"p50_us\": ");
    CHECK(p && sscanf(p, "\"p50_us\": %lf", &p50) == 1);
    if (p50 < 19 || p50 > 23)
        FAIL("two ways of 10 us take %f us", p50);
    end_server(&s);
}

TEST(duration)
{
    struct server s;
    load_start(&s, "connections=2 duration_ms=5");
    serve(&s, 602, false, 100000);
    CHECK(load().finished);
    CHECK(load().requests > 1000 && load().requests < 12000);
    check_report("\"seconds\": 0.005");
    end_server(&s);
}

/* Echo, content checked; a request of many windows goes in pieces. */
TEST(verify)
{
    struct server s;
    load_start(&s, "connections=4 requests=40 request_bytes=300001 response_bytes=300001 verify=1");
    serve(&s, 0, true, 100000);
    CHECK_EQ(load().requests, 40);
    CHECK_EQ(load().mismatches, 0);
    check_report("\"mismatches\": 0,");
    end_server(&s);
}

TEST(verify_sees_a_wrong_byte)
{
    struct server s;
    uint8_t buf[100];
    struct ffl_addr peer;
    load_start(&s, "connections=2 requests=4 request_bytes=100 response_bytes=100 verify=1");
    int a = ops->accept(st, s.l.fd, &peer), b = ops->accept(st, s.l.fd, &peer);
    CHECK_EQ(take(a, buf, 100), 100);
    buf[57] ^= 1;
    CHECK_EQ(put(a, buf, 100), 100);
    CHECK_EQ(load().mismatches, 1);
    CHECK_EQ(take(a, buf, 100), 100);
    CHECK_EQ(put(b, buf, 100), 100); /* one connection's data given to the other */
    CHECK(load().mismatches > 50);
    CHECK_EQ(ops->close(st, a), 0);
    CHECK_EQ(ops->close(st, b), 0);
    end_server(&s);
}

TEST(request_file)
{
    struct server s;
    char path[64], options[128], buf[64];
    struct ffl_addr peer;
    snprintf(path, sizeof(path), "ffl-test-request-%d", (int)getpid());
    FILE *f = fopen(path, "w");
    CHECK(f);
    fputs("GET / HTTP/1.1\r\n\r\n", f);
    fclose(f);
    snprintf(options, sizeof(options), "connections=1 requests=5 request_file=%s response_bytes=3",
             path);
    load_start(&s, options);
    unlink(path);
    int fd = ops->accept(st, s.l.fd, &peer);
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(take(fd, buf, sizeof(buf)), 18);
        CHECK(memcmp(buf, "GET / HTTP/1.1\r\n\r\n", 18) == 0);
        CHECK_EQ(put(fd, "yes", 3), 3);
    }
    CHECK_EQ(take(fd, buf, sizeof(buf)), 0);
    CHECK_EQ(ops->close(st, fd), 0);
    check_report("\"requests\": 5,");
    end_server(&s);
}

TEST(counts_surplus_and_broken)
{
    struct server s;
    struct ffl_addr peer;
    char buf[1000] = {0};
    load_start(&s, "connections=2 requests=10");
    int a = ops->accept(st, s.l.fd, &peer), b = ops->accept(st, s.l.fd, &peer);
    CHECK_EQ(put(a, buf, 700), 700);
    CHECK_EQ(load().requests, 1);
    CHECK_EQ(load().surplus, 98);
    CHECK_EQ(ops->close(st, b), 0);
    CHECK_EQ(load().broken, 1);
    CHECK_EQ(load().open, 1);
    ffl_sim_advance(st, 2 * MS);
    CHECK_EQ(load().open, 2); /* it came again */
    CHECK_EQ(ops->close(st, a), 0);
    end_server(&s);
}

TEST(new_connections)
{
    struct server s;
    load_start(&s, "connections=3 requests=200 per_connection=1");
    serve(&s, 602, false, 100000);
    CHECK_EQ(load().requests, 200);
    CHECK_EQ(load().broken, 0);
    CHECK(s.n >= 200);
    end_server(&s);
}

/* The listener goes and comes back: the load waits for it. */
TEST(survives_its_server)
{
    struct server s;
    struct ffl_addr at = v4("0.0.0.0", 80);
    load_start(&s, "connections=5 requests=100 latency=100");
    serve(&s, 602, false, 3);
    for (int i = 0; i < s.n; i++)
        CHECK_EQ(ops->close(st, s.conn[i].fd), 0);
    CHECK_EQ(ops->close(st, s.l.fd), 0);
    ffl_sim_advance(st, 10 * MS);
    CHECK_EQ(load().open, 0);
    CHECK(!load().finished);
    memset(&s, 0, sizeof(s));
    listener(&s.l, &at, 64);
    serve(&s, 602, false, 100000);
    CHECK(load().finished);
    CHECK_EQ(load().requests, 100);
    end_server(&s);
}
