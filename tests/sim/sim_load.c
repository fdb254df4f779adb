/*
 * sim_load.c - the sim stack's load source: closed-loop clients inside the stack.
 *
 * Callers: the other sim files. When somebody listens on load=PORT it opens `connections` and on
 * each sends a request, counts the bytes of the response, and sends the next at once. Requests are
 * never stored: the server's reads copy them out of a pattern; responses are counted, and with
 * verify=1 compared with the pattern (an echo server). The pattern differs from connection to
 * connection, so that data given to the wrong one is seen. Options, after load=PORT:
 *   connections=64  request_bytes=86  response_bytes=602  requests=N  duration_ms=N  verify=1
 *   request_file=PATH (each request is its content)       per_connection=N (then a new connection)
 *   report=PATH (one JSON line when done; else standard output)
 * Ends after `requests` responses or `duration_ms`, whichever comes first; then closes all.
 */
#include "sim_internal.h"

#include <stdio.h>

#define PATTERN 65521 /* a prime, so that no power-of-two shift of the data looks right */
#define SUB_SHIFT 5   /* the histogram: 32 steps in each power of two of ns: 3 % wide */
#define HIST (64 << SUB_SHIFT)
#define REOPEN_NS 1000000 /* after a broken connection */
#define MAX_REQUEST (1u << 30)

struct load_conn {
    struct load *load;
    struct sock *s; /* NULL: not open */
    uint32_t index;
    uint64_t base;                /* of this connection in the pattern */
    uint64_t sent, checked;       /* bytes of the stream, each way */
    uint32_t to_send, to_receive; /* of the present request */
    uint32_t done;                /* requests on this connection */
    int64_t since;
};

struct load {
    struct sim *m;
    uint16_t port;
    uint64_t connections, request, response, requests, duration_ms, per_connection, verify;
    char report[256], file[256];
    uint8_t *pattern;
    uint32_t pattern_len;
    struct load_conn *conn;
    struct ffl_addr target;
    struct ffl_sim_load_counts n;
    uint64_t hist[HIST];
    uint64_t max_ns;
    int64_t start, end;
};

/* ---- options ------------------------------------------------------------------------------- */

static struct load *load_of(struct sim *m)
{
    if (!m->load) {
        m->load = calloc(1, sizeof(*m->load));
        if (m->load)
            *m->load = (struct load){.m = m, .connections = 64, .request = 86, .response = 602};
    }
    return m->load;
}

static int text(char *to, size_t room, const char *key, const char *val, char *why, size_t whylen)
{
    if (*val && strlen(val) < room) {
        strcpy(to, val);
        return 0;
    }
    snprintf(why, whylen, "the sim stack's option %s wants a path of less than %zu bytes", key,
             room);
    return -EINVAL;
}

int sim_load_option(struct sim *m, const char *key, const char *val, char *why, size_t whylen)
{
    static const struct {
        const char *key;
        size_t off;
        uint64_t lo, hi;
    } numbers[] = {
        {"connections", offsetof(struct load, connections), 1, 100000},
        {"request_bytes", offsetof(struct load, request), 1, MAX_REQUEST},
        {"response_bytes", offsetof(struct load, response), 1, MAX_REQUEST},
        {"requests", offsetof(struct load, requests), 1, UINT64_MAX / 2},
        {"duration_ms", offsetof(struct load, duration_ms), 1, 86400000},
        {"per_connection", offsetof(struct load, per_connection), 1, UINT32_MAX},
        {"verify", offsetof(struct load, verify), 0, 1},
    };
    struct load *l = load_of(m);
    if (!l) {
        snprintf(why, whylen, "out of memory");
        return -ENOMEM;
    }
    if (strcmp(key, "load") == 0) {
        uint64_t port = 0;
        int rc = sim_number(key, val, 1, 65535, &port, why, whylen);
        l->port = (uint16_t)port;
        return rc;
    }
    if (strcmp(key, "report") == 0)
        return text(l->report, sizeof(l->report), key, val, why, whylen);
    if (strcmp(key, "request_file") == 0)
        return text(l->file, sizeof(l->file), key, val, why, whylen);
    for (size_t i = 0; i < FFL_COUNT(numbers); i++)
        if (strcmp(key, numbers[i].key) == 0)
            return sim_number(key, val, numbers[i].lo, numbers[i].hi,
                              (uint64_t *)((char *)l + numbers[i].off), why, whylen);
    snprintf(why, whylen, "the sim stack has no option '%s'", key);
    return -EINVAL;
}

static int pattern_from_file(struct load *l, char *why, size_t whylen)
{
    FILE *f = fopen(l->file, "rb");
    if (!f) {
        int rc = -errno;
        snprintf(why, whylen, "request_file %s: %s", l->file, strerror(errno));
        return rc;
    }
    l->pattern = malloc(1 << 20);
    size_t n = l->pattern ? fread(l->pattern, 1, 1 << 20, f) : 0;
    fclose(f);
    if (n == 0 || n == 1 << 20) {
        snprintf(why, whylen, "request_file %s: empty, or of 1 MiB or more", l->file);
        return -EINVAL;
    }
    l->pattern_len = (uint32_t)n;
    l->request = n;
    return 0;
}

static int make_pattern(struct load *l, char *why, size_t whylen)
{
    l->pattern = malloc(PATTERN);
    if (!l->pattern) {
        snprintf(why, whylen, "out of memory");
        return -ENOMEM;
    }
    l->pattern_len = PATTERN;
    uint32_t x = 12345;
    for (uint32_t i = 0; i < PATTERN; i++) {
        x = x * 1664525 + 1013904223;
        l->pattern[i] = (uint8_t)(x >> 24);
    }
    return 0;
}

int sim_load_check(struct sim *m, char *why, size_t whylen)
{
    struct load *l = m->load;
    if (!l)
        return 0;
    if (!l->port) {
        snprintf(why, whylen, "options of the sim stack's load need load=PORT");
        return -EINVAL;
    }
    int rc = l->file[0] ? pattern_from_file(l, why, whylen) : make_pattern(l, why, whylen);
    if (rc < 0)
        return rc;
    if (l->verify && l->request != l->response) {
        snprintf(why, whylen, "verify=1 checks an echo: request_bytes and response_bytes differ");
        return -EINVAL;
    }
    l->conn = calloc(l->connections, sizeof(*l->conn));
    if (!l->conn) {
        snprintf(why, whylen, "out of memory");
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < l->connections; i++) {
        l->conn[i] = (struct load_conn){.load = l, .index = i};
        l->conn[i].base = l->file[0] ? 0 : (uint64_t)i * 7919;
    }
    return 0;
}

void sim_load_describe(const struct sim *m, char *buf, size_t len)
{
    if (m->load)
        snprintf(buf, len, ", load of %u connections on port %u", (unsigned)m->load->connections,
                 m->load->port);
}

/* ---- a connection -------------------------------------------------------------------------- */

static bool running(const struct load *l)
{
    return l->n.started && !l->n.finished;
}

static void conn_close(struct load_conn *c)
{
    struct sock *s = c->s;
    if (!s)
        return;
    c->s = NULL;
    s->load = NULL; /* its peer's `source` stays: what was sent may still be read */
    c->load->n.open--;
    sim_close(s);
    sim_drop(s);
}

static void conn_open(struct load_conn *c)
{
    struct load *l = c->load;
    struct sock *s = sim_sock_new(l->m, l->target.family, SOCK_STREAM);
    if (!s)
        return;
    c->s = s;
    c->sent = c->checked = 0;
    c->to_send = c->to_receive = c->done = 0;
    l->n.open++;
    s->load = c;
    s->remote = s->local = l->target;
    s->local.port_be = htons((uint16_t)(32768 + c->index % 28000)); /* not in the port table */
    s->state = SIM_CONNECTING;
    sim_hold(s); /* it may end inside */
    sim_send_event(l->m, SIM_EV_SYN, s, 0, NULL);
    sim_drop(s);
}

/* As much of the request as the server's window takes. */
static void conn_pump(struct load_conn *c)
{
    struct sock *s = c->s, *p = s->peer;
    if (!p || !c->to_send)
        return;
    uint32_t room = s->outstanding < p->window ? p->window - s->outstanding : 0;
    uint32_t n = c->to_send < room ? c->to_send : room;
    if (n == 0)
        return;
    c->to_send -= n;
    c->sent += n;
    c->load->n.bytes_out += n;
    s->outstanding += n;
    p->rx_flight += n;
    sim_send_event(c->load->m, SIM_EV_DATA, p, n, NULL);
}

static void conn_request(struct load_conn *c, int64_t now)
{
    c->to_send = (uint32_t)c->load->request;
    c->to_receive = (uint32_t)c->load->response;
    c->since = now;
    conn_pump(c);
}

static void reopen_later(struct load_conn *c)
{
    struct sim *m = c->load->m;
    if (sim_event_at(m, sim_clock(m) + REOPEN_NS, SIM_EV_LOAD_OPEN, NULL, c->index, NULL) < 0)
        ffl_log(FFL_LOG_ERROR, "sim: out of memory, a connection of the load is lost");
}

static unsigned bucket(uint64_t ns)
{
    unsigned top = 63 - (unsigned)__builtin_clzll(ns | 1);
    if (top <= SUB_SHIFT)
        return (unsigned)ns;
    return ((top - SUB_SHIFT) << SUB_SHIFT) + (unsigned)(ns >> (top - SUB_SHIFT));
}

static uint64_t bucket_ns(unsigned b)
{
    unsigned shift = b >> SUB_SHIFT;
    if (shift < 2)
        return b;
    return (uint64_t)((b & ((1u << SUB_SHIFT) - 1)) | 1u << SUB_SHIFT) << (shift - 1);
}

/* One response is complete. */
static void conn_done(struct load_conn *c)
{
    struct load *l = c->load;
    int64_t now = sim_clock(l->m);
    uint64_t took = (uint64_t)(now - c->since);
    l->hist[bucket(took)]++;
    if (took > l->max_ns)
        l->max_ns = took;
    l->n.requests++;
    c->done++;
    if (l->requests && l->n.requests >= l->requests) {
        sim_load_end(l->m);
        return;
    }
    if (l->per_connection && c->done >= l->per_connection) {
        conn_close(c);
        conn_open(c);
        return;
    }
    conn_request(c, now);
}

/* ---- what the network tells ---------------------------------------------------------------- */

void sim_load_listening(struct sim *m, const struct sock *s)
{
    struct load *l = m->load;
    if (!l || l->n.finished || s->local.port_be != htons(l->port))
        return;
    if (l->n.started) { /* again, after its listener had gone */
        for (uint32_t i = 0; i < l->connections; i++)
            if (!l->conn[i].s)
                conn_open(&l->conn[i]);
        return;
    }
    l->target = ffl_addr_plain(&s->local);
    if (ffl_addr_wildcard(&l->target)) {
        l->target = (struct ffl_addr){.family = l->target.family, .port_be = s->local.port_be};
        ffl_addr_set_loopback(&l->target);
    }
    l->n.started = true;
    l->start = sim_clock(m);
    if (l->duration_ms && sim_event_at(m, l->start + (int64_t)l->duration_ms * 1000000,
                                       SIM_EV_LOAD_END, NULL, 0, NULL) < 0)
        ffl_log(FFL_LOG_ERROR, "sim: out of memory, the load has no end");
    for (uint32_t i = 0; i < l->connections; i++)
        conn_open(&l->conn[i]);
}

void sim_load_opened(struct load_conn *c, int err)
{
    if (err) /* nobody listens now: the next listen begins anew */
        sim_load_broken(c);
    else
        conn_request(c, sim_clock(c->load->m));
}

void sim_load_see(struct load_conn *c, const uint8_t *p, size_t n)
{
    struct load *l = c->load;
    if (!l->verify)
        return;
    while (n > 0) {
        size_t at = (c->base + c->checked) % l->pattern_len, part = l->pattern_len - at;
        if (part > n)
            part = n;
        if (memcmp(p, l->pattern + at, part) != 0)
            for (size_t i = 0; i < part; i++)
                l->n.mismatches += p[i] != l->pattern[at + i];
        c->checked += part;
        p += part;
        n -= part;
    }
}

void sim_load_fill(const struct load_conn *c, uint64_t pos, uint8_t *p, size_t n)
{
    const struct load *l = c->load;
    while (n > 0) {
        size_t at = (c->base + pos) % l->pattern_len, part = l->pattern_len - at;
        if (part > n)
            part = n;
        memcpy(p, l->pattern + at, part);
        pos += part;
        p += part;
        n -= part;
    }
}

void sim_load_data(struct load_conn *c, uint32_t n)
{
    struct load *l = c->load;
    struct sock *s = c->s;
    l->n.bytes_in += n;
    if (s->peer) /* read at once */
        sim_send_event(l->m, SIM_EV_WINDOW, s->peer, n, NULL);
    uint32_t take = n < c->to_receive ? n : c->to_receive;
    c->to_receive -= take;
    l->n.surplus += n - take;
    if (take && c->to_receive == 0)
        conn_done(c);
}

void sim_load_window(struct load_conn *c)
{
    conn_pump(c);
}

void sim_load_broken(struct load_conn *c)
{
    struct load *l = c->load;
    bool refused = c->s->state == SIM_OVER && c->s->error == ECONNREFUSED;
    conn_close(c);
    if (!running(l))
        return;
    l->n.broken++;
    if (!refused)
        reopen_later(c); /* a refused one waits for the next listen */
}

void sim_load_reopen(struct sim *m, uint32_t index)
{
    struct load *l = m->load;
    if (running(l) && !l->conn[index].s)
        conn_open(&l->conn[index]);
}

/* ---- the end ------------------------------------------------------------------------------- */

static double percentile_us(const struct load *l, double p)
{
    uint64_t want = (uint64_t)((double)l->n.requests * p), seen = 0;
    for (unsigned b = 0; b < HIST; b++) {
        seen += l->hist[b];
        if (seen > want)
            return (double)bucket_ns(b) / 1e3;
    }
    return (double)l->max_ns / 1e3;
}

static void report(const struct load *l)
{
    double s = (double)(l->end - l->start) / 1e9;
    FILE *f = l->report[0] ? fopen(l->report, "a") : stdout;
    if (!f) {
        ffl_log(FFL_LOG_ERROR, "sim: report %s: %s", l->report, strerror(errno));
        return;
    }
    fprintf(f,
            "{\"stack\": \"sim\", \"connections\": %u, \"request_bytes\": %u, "
            "\"response_bytes\": %u, \"requests\": %llu, \"seconds\": %.6f, "
            "\"requests_per_s\": %.1f, \"p50_us\": %.3f, \"p99_us\": %.3f, \"max_us\": %.3f, "
            "\"bytes_in\": %llu, \"bytes_out\": %llu, \"mismatches\": %llu, \"surplus\": %llu, "
            "\"broken\": %llu}\n",
            (unsigned)l->connections, (unsigned)l->request, (unsigned)l->response,
            (unsigned long long)l->n.requests, s, s > 0 ? (double)l->n.requests / s : 0.0,
            percentile_us(l, 0.50), percentile_us(l, 0.99), (double)l->max_ns / 1e3,
            (unsigned long long)l->n.bytes_in, (unsigned long long)l->n.bytes_out,
            (unsigned long long)l->n.mismatches, (unsigned long long)l->n.surplus,
            (unsigned long long)l->n.broken);
    if ((f == stdout ? fflush(f) : fclose(f)) != 0)
        ffl_log(FFL_LOG_ERROR, "sim: the report could not be written: %s", strerror(errno));
}

void sim_load_end(struct sim *m)
{
    struct load *l = m->load;
    if (!running(l))
        return;
    l->n.finished = true;
    l->end = sim_clock(m);
    for (uint32_t i = 0; i < l->connections; i++)
        conn_close(&l->conn[i]);
    report(l);
}

void sim_load_free(struct sim *m)
{
    struct load *l = m->load;
    if (!l)
        return;
    sim_load_end(m);
    free(l->conn);
    free(l->pattern);
    free(l);
    m->load = NULL;
}

void ffl_sim_load_count(const void *st, struct ffl_sim_load_counts *out)
{
    const struct sim *m = st;
    *out = m->load ? m->load->n : (struct ffl_sim_load_counts){0};
}
