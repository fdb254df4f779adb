/*
 * sim_net.c - the sim stack's network: the queue of deliveries, connections, datagrams.
 *
 * Callers: sim.c, sim_sock.c, sim_load.c. A delivery happens one latency after it was sent; with no
 * latency at once, inside the call that sends it, which is why no delivery may free the socket of
 * its caller (descriptors and deliveries hold it). Linux's loopback is the model for what a reset,
 * a refusal or a full backlog looks like; there is no TIME_WAIT, so a port is free at once.
 */
#include "sim_internal.h"

/* ---- sockets in memory --------------------------------------------------------------------- */

struct sock *sim_sock_new(struct sim *m, int domain, int type)
{
    struct sock *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->sim = m;
    s->holds = 1;
    s->domain = (uint8_t)domain;
    s->type = (uint8_t)type;
    s->window = m->window;
    s->dq_end = &s->dq;
    s->acc_end = &s->acc;
    s->syn_end = &s->syn;
    m->n.sockets++;
    return s;
}

void sim_hold(struct sock *s)
{
    s->holds++;
}

static void free_dgrams(struct sock *s)
{
    while (s->dq) {
        struct dgram *d = s->dq;
        s->dq = d->next;
        free(d);
    }
    s->dq_end = &s->dq;
    s->dq_bytes = 0;
}

static __attribute__((noinline)) void sock_free(struct sock *s)
{
    s->sim->n.sockets--;
    free_dgrams(s);
    sim_opt_free(s);
    free(s->rx);
    free(s);
}

void sim_drop(struct sock *s)
{
    if (--s->holds == 0)
        sock_free(s);
}

static void queue_push(struct sock ***end, struct sock *s)
{
    sim_hold(s);
    s->wait = NULL;
    **end = s;
    *end = &s->wait;
}

/* The caller has the queue's hold now. */
static struct sock *queue_pop(struct sock **head, struct sock ***end)
{
    struct sock *s = *head;
    if (s) {
        *head = s->wait;
        if (!*head)
            *end = head;
        s->wait = NULL;
    }
    return s;
}

/* ---- the queue of deliveries --------------------------------------------------------------- */

int64_t sim_clock(const struct sim *m)
{
    return m->manual ? m->clock : ffl_now_ns();
}

static bool earlier(const struct sim_event *a, const struct sim_event *b)
{
    return a->due != b->due ? a->due < b->due : a->seq < b->seq;
}

static int heap_push(struct sim *m, struct sim_event e)
{
    if (m->nheap == m->cap_heap) {
        uint32_t cap = m->cap_heap ? m->cap_heap * 2 : 64;
        struct sim_event *grown = realloc(m->heap, cap * sizeof(e));
        if (!grown)
            return -ENOMEM;
        m->heap = grown;
        m->cap_heap = cap;
    }
    uint32_t i = m->nheap++;
    for (uint32_t up; i > 0 && earlier(&e, &m->heap[up = (i - 1) / 2]); i = up)
        m->heap[i] = m->heap[up];
    m->heap[i] = e;
    return 0;
}

static struct sim_event heap_pop(struct sim *m)
{
    struct sim_event top = m->heap[0], last = m->heap[--m->nheap];
    uint32_t i = 0;
    for (;;) {
        uint32_t c = 2 * i + 1;
        if (c >= m->nheap)
            break;
        if (c + 1 < m->nheap && earlier(&m->heap[c + 1], &m->heap[c]))
            c++;
        if (!earlier(&m->heap[c], &last))
            break;
        m->heap[i] = m->heap[c];
        i = c;
    }
    if (m->nheap)
        m->heap[i] = last;
    return top;
}

static void apply(struct sim *m, const struct sim_event *e);

int sim_event_at(struct sim *m, int64_t due, enum sim_event_kind kind, struct sock *s, uint32_t n,
                 struct dgram *d)
{
    int rc = heap_push(
        m, (struct sim_event){
               .due = due, .seq = m->seq++, .kind = (uint8_t)kind, .s = s, .n = n, .d = d});
    if (rc == 0 && s)
        sim_hold(s);
    return rc;
}

void sim_send_event(struct sim *m, enum sim_event_kind kind, struct sock *s, uint32_t n,
                    struct dgram *d)
{
    if (ffl_likely(m->latency == 0)) {
        sim_hold(s);
        apply(m, &(struct sim_event){.kind = (uint8_t)kind, .s = s, .n = n, .d = d});
        sim_drop(s);
        return;
    }
    if (sim_event_at(m, sim_clock(m) + m->latency, kind, s, n, d) < 0) {
        ffl_log(FFL_LOG_ERROR, "sim: out of memory, a delivery is lost");
        free(d);
    }
}

void sim_run_due(struct sim *m)
{
    if (m->nheap == 0)
        return;
    int64_t now = sim_clock(m);
    while (m->nheap && m->heap[0].due <= now) {
        struct sim_event e = heap_pop(m);
        apply(m, &e);
        if (e.s)
            sim_drop(e.s);
    }
}

static void unlink_peers(struct sock *s);

void sim_run_drop(struct sim *m)
{
    while (m->nheap) {
        struct sim_event e = heap_pop(m);
        free(e.d);
        if (!e.s)
            continue;
        if (e.s->closed)
            unlink_peers(e.s);
        sim_drop(e.s);
    }
}

/* ---- readiness ----------------------------------------------------------------------------- */

bool sim_readable(const struct sock *s)
{
    if (s->state == SIM_LISTENING)
        return s->acc_n > 0;
    if (s->type == SOCK_DGRAM)
        return s->dq || s->error || s->shut_rd;
    return s->rx_len || s->fin_in || s->error || s->shut_rd || s->state == SIM_OVER;
}

/* A quarter of the window, as a kernel waits for a part of the buffer: no event a byte. */
bool sim_writable(const struct sock *s)
{
    if (s->type == SOCK_DGRAM)
        return true;
    if (s->state != SIM_CONNECTED || !s->peer)
        return s->state == SIM_OVER;
    if (s->shut_wr || s->error)
        return true;
    uint32_t window = s->peer->window;
    return s->outstanding <= window - (window + 3) / 4;
}

/* ---- connections --------------------------------------------------------------------------- */

static void unlink_peers(struct sock *s)
{
    struct sock *p = s->peer;
    if (!p)
        return;
    s->peer = p->peer = NULL;
    sim_drop(p);
    sim_drop(s);
}

/* The two ends of a new connection; the child waits in the listener's queue. */
static int establish(struct sock *l, struct sock *c)
{
    struct sock *child = sim_sock_new(l->sim, l->domain, SOCK_STREAM);
    if (!child)
        return -ENOMEM;
    int rc = sim_opt_inherit(child, l);
    if (rc < 0) {
        sim_drop(child);
        return rc;
    }
    struct ffl_addr to = ffl_addr_plain(&c->remote), from = ffl_addr_plain(&c->local);
    child->state = SIM_CONNECTED;
    child->local = sim_as(&to, l->domain);
    child->remote = sim_as(&from, l->domain);
    child->source = c->load;
    child->peer = c;
    c->peer = child;
    sim_hold(c);
    sim_hold(child);
    queue_push(&l->acc_end, child);
    l->acc_n++;
    sim_drop(child); /* peer and queue hold it */
    sim_raise(l, FFL_READ);
    sim_send_event(l->sim, SIM_EV_SYNACK, c, 0, NULL);
    return 0;
}

static void refuse(struct sock *c)
{
    sim_send_event(c->sim, SIM_EV_SYNACK, c, ECONNREFUSED, NULL);
}

static void on_syn(struct sock *c)
{
    struct ffl_addr to = ffl_addr_plain(&c->remote);
    if (c->closed || sim_in(c->sim->hole, c->sim->nhole, &to))
        return;
    struct sock *l = sim_listener(c->sim, &to);
    if (!l)
        refuse(c);
    else if (l->acc_n > l->backlog) /* one more than asked for, as Linux counts */
        queue_push(&l->syn_end, c);
    else if (establish(l, c) < 0)
        refuse(c);
}

void sim_promote(struct sock *l)
{
    while (l->syn && l->acc_n <= l->backlog) {
        struct sock *c = queue_pop(&l->syn, &l->syn_end);
        if (!c->closed && establish(l, c) < 0)
            refuse(c);
        sim_drop(c);
    }
}

static void on_synack(struct sock *c, int err)
{
    if (c->closed || c->state != SIM_CONNECTING)
        return; /* closing it told the other end */
    c->state = err ? SIM_OVER : SIM_CONNECTED;
    c->error = err;
    sim_raise(c, err ? FFL_READ | FFL_WRITE : FFL_WRITE);
    if (c->load)
        sim_load_opened(c->load, err);
}

static void on_data(struct sock *s, uint32_t n)
{
    s->rx_flight -= n;
    if (s->closed) { /* nobody will read it */
        if (s->peer)
            sim_send_event(s->sim, SIM_EV_RST, s->peer, 0, NULL);
        return;
    }
    if (s->reset)
        return;
    if (s->load) {
        sim_load_data(s->load, n);
        return;
    }
    s->rx_len += n;
    sim_raise(s, FFL_READ);
}

static void on_window(struct sock *s, uint32_t n)
{
    s->outstanding -= n;
    if (s->closed || s->reset)
        return;
    if (s->load) {
        sim_load_window(s->load);
        return;
    }
    if (s->blocked && sim_writable(s)) {
        s->blocked = false;
        sim_raise(s, FFL_WRITE);
    }
}

static void on_fin(struct sock *s)
{
    if (s->closed || s->reset)
        return;
    s->fin_in = true;
    sim_raise(s, FFL_READ);
    if (s->load)
        sim_load_broken(s->load);
}

static void on_rst(struct sock *s)
{
    if (!s->closed && !s->reset) {
        s->sim->n.resets++;
        s->reset = true;
        s->state = SIM_OVER;
        s->error = s->fin_in && !s->shut_wr ? EPIPE : ECONNRESET; /* as Linux in CLOSE_WAIT */
        sim_raise(s, FFL_READ | FFL_WRITE);
        if (s->load)
            sim_load_broken(s->load);
    }
    unlink_peers(s);
}

void sim_unlisten(struct sock *s)
{
    s->state = SIM_FRESH;
    s->acc_n = 0;
    for (struct sock *c; (c = queue_pop(&s->acc, &s->acc_end));) {
        c->closed = true;
        if (c->peer)
            sim_send_event(s->sim, SIM_EV_RST, c->peer, 0, NULL);
        sim_drop(c);
    }
    for (struct sock *c; (c = queue_pop(&s->syn, &s->syn_end));) {
        if (!c->closed)
            refuse(c);
        sim_drop(c);
    }
}

void sim_close(struct sock *s)
{
    struct sim *m = s->sim;
    if (s->state == SIM_LISTENING)
        sim_unlisten(s);
    sim_unbind(s);
    s->closed = true;
    free_dgrams(s);
    if (s->peer && !s->reset) {
        bool rude = s->rx_len || s->state == SIM_CONNECTING || sim_opt_abortive(s);
        if (rude)
            sim_send_event(m, SIM_EV_RST, s->peer, 0, NULL);
        else if (!s->shut_wr)
            sim_send_event(m, SIM_EV_FIN, s->peer, 0, NULL);
    }
    free(s->rx);
    s->rx = NULL;
    if (s->peer && s->peer->closed)
        unlink_peers(s);
}

/* ---- datagrams ----------------------------------------------------------------------------- */

static struct sock *dgram_target(struct sim *m, const struct dgram *d)
{
    struct ffl_addr to = ffl_addr_plain(&d->to), from = ffl_addr_plain(&d->from);
    struct sock *best = NULL;
    int score = 0;
    for (struct sock *o = *sim_chain(m, to.port_be); o; o = o->link) {
        if (o->type != SOCK_DGRAM || o->local.port_be != to.port_be)
            continue;
        int f = sim_fit(o, &o->local, &to);
        if (f && o->remote.family) { /* connected: from there only */
            struct ffl_addr r = ffl_addr_plain(&o->remote);
            f = r.port_be == from.port_be && ffl_addr_same_ip(&r, &from) ? f + 2 : 0;
        }
        if (f > score) {
            score = f;
            best = o;
        }
    }
    return best;
}

static void on_dgram(struct sock *sender, struct dgram *d)
{
    struct sim *m = sender->sim;
    struct ffl_addr to = ffl_addr_plain(&d->to);
    struct sock *s = sim_in(m->hole, m->nhole, &to) ? NULL : dgram_target(m, d);
    if (s && (!s->dq || s->dq_bytes + d->len + SIM_DGRAM_OVERHEAD <= s->window)) {
        struct ffl_addr from = ffl_addr_plain(&d->from);
        d->from = sim_as(&from, s->domain);
        *s->dq_end = d;
        s->dq_end = &d->next;
        s->dq_bytes += d->len + SIM_DGRAM_OVERHEAD;
        sim_raise(s, FFL_READ);
        return;
    }
    if (!s && !sim_in(m->hole, m->nhole, &to) && !sender->closed)
        sim_send_event(m, SIM_EV_UNREACH, sender, 0, NULL);
    free(d);
}

static void on_unreach(struct sock *s)
{
    if (s->closed || !s->remote.family)
        return; /* Linux tells connected sockets only */
    s->error = ECONNREFUSED;
    sim_raise(s, FFL_READ | FFL_WRITE);
}

static void apply(struct sim *m, const struct sim_event *e)
{
    switch ((enum sim_event_kind)e->kind) {
    case SIM_EV_SYN:
        on_syn(e->s);
        break;
    case SIM_EV_SYNACK:
        on_synack(e->s, (int)e->n);
        break;
    case SIM_EV_DATA:
        on_data(e->s, e->n);
        break;
    case SIM_EV_WINDOW:
        on_window(e->s, e->n);
        break;
    case SIM_EV_FIN:
        on_fin(e->s);
        break;
    case SIM_EV_RST:
        on_rst(e->s);
        break;
    case SIM_EV_DGRAM:
        on_dgram(e->s, e->d);
        break;
    case SIM_EV_UNREACH:
        on_unreach(e->s);
        break;
    case SIM_EV_LOAD_END:
        sim_load_end(m);
        break;
    case SIM_EV_LOAD_OPEN:
        sim_load_reopen(m, e->n);
        break;
    }
}
