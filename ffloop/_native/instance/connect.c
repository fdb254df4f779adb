/*
 * connect.c - operations by which a socket gets its addresses: BIND, LISTEN, CONNECT.
 *
 * Callers: control.c; data.c, when a connect has ended. A socket whose connect failed is as new: it
 * may connect again, or listen.
 */
#include "endpoint.h"
#include "group.h"
#include "life.h"
#include "peers.h"
#include "pump.h"
#include "session.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

int connect_bind(struct endpoint *e, struct ffl_entry q)
{
    struct ffl_instance *in = e->s->in;
    struct ffl_addr a;
    if (answer_arg(e->s, q, &a, sizeof(a)) < 0)
        return -EPROTO;
    int rc = e->fd < 0 ? -e->open_error : 0;
    if (rc == 0 && !ffl_policy_may_bind(&in->o.policy, e->s->uid, ntohs(a.port_be))) {
        ffl_log_within(&e->s->account->log, FFL_LOG_WARNING,
                       "session %u (pid %d): user %u may not bind port %u (--ports)", e->s->id,
                       (int)e->s->pid, (unsigned)e->s->uid, (unsigned)ntohs(a.port_be));
        rc = -EPERM;
    }
    if (rc == 0)
        rc = handover_may_bind(e, &a);
    if (rc == 0)
        rc = rights_bind(e, &a);
    if (rc == 0 && e->dgram)
        rc = group_place(e);
    answer_post(e->s, q, rc, rc < 0 ? FFL_NO_BUF : answer_addresses(e));
    return 0;
}

/* Forgets a connection that has failed. (Another process that was told of its shutdown goes on
 * refusing to send, until it connects itself.) */
static void begin_anew(struct endpoint *e)
{
    e->rx_done = e->eof_hint = e->fin = false;
    e->failed = e->send_error = 0;
    shutdown_set(e, -1);
    e->readable = e->dgram; /* datagrams that came before are still there */
    if (e->group) {
        e->group->connect_error = 0;
        e->group->shut = -1;
    }
    if (!e->dgram)
        group_settings(e)->shut_wr = group_settings(e)->shut_rd = false;
}

int connect_listen(struct endpoint *e, struct ffl_entry q)
{
    struct ffl_instance *in = e->s->in;
    int rc = e->fd < 0 ? -e->open_error : in->draining ? -ESHUTDOWN : 0;
    int on = 1;
    if (rc == 0 && !e->listener)
        rc = handover_share(e);
    if (rc >= 0 && (q.flags & FFL_F_NODELAY)) /* accepted sockets inherit it */
        (void)OPS(in)->setsockopt(ST(in), e->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (rc >= 0)
        rc = OPS(in)->listen(ST(in), e->fd, q.arg); /* of a shared one too: its backlog may be 0 */
    if (rc == 0 && !e->listener) {
        begin_anew(e);
        e->listener = true;
        rc = group_place(e);
        if (rc == 0)
            e->group->listens = true; /* for references in other processes */
    }
    if (rc == 0)
        rc = endpoint_watch(e, FFL_READ);
    answer_post(e->s, q, rc, rc < 0 ? FFL_NO_BUF : answer_addresses(e));
    return 0;
}

/* Answers a connect that has ended; sends queued meanwhile may go. */
void connect_ended(struct endpoint *e)
{
    struct ffl_instance *in = e->s->in;
    int err = 0;
    uint32_t len = sizeof(err);
    int rc = OPS(in)->getsockopt(ST(in), e->fd, SOL_SOCKET, SO_ERROR, &err, &len);
    err = rc < 0 ? -rc : err;
    if (e->group && err)
        e->group->connect_error = err;
    else if (e->group)
        err = e->group->connect_error;
    struct ffl_entry q = {.op = FFL_OP_CONNECT, .tag = e->connect_tag, .handle = e->handle};
    group_connecting(e, false);
    data_unwritable(e, false);
    if (err) {
        e->failed = err;
        shutdown_set(e, -1); /* it was of this connect, not of a later one */
        stats_state(e);
        data_drop_tx(e);
        answer_post(e->s, q, -err, answer_addresses(e));
        if (OPS(in)->kernel) /* then it is as before: may listen, and connect again */
            (void)OPS(in)->connect(ST(in), e->fd, &(struct ffl_addr){.family = AF_UNSPEC});
        return;
    }
    answer_post(e->s, q, 0, answer_addresses(e));
    endpoint_ready(e);
}

int connect_begin(struct endpoint *e, struct ffl_entry q)
{
    struct ffl_instance *in = e->s->in;
    struct ffl_addr a;
    if (answer_arg(e->s, q, &a, sizeof(a)) < 0)
        return -EPROTO;
    if (e->connecting) {
        answer_post(e->s, q, -EALREADY, FFL_NO_BUF);
        return 0;
    }
    int rc = e->fd < 0 ? -e->open_error : 0;
    if (rc == 0 && (!a.family || !OPS(in)->kernel)) /* FreeBSD's dissolves the old one first */
        rc = handover_may_dissolve(e);
    if (rc == 0)
        rc = OPS(in)->connect(ST(in), e->fd, &a);
    if (rc == 0 || rc == -EINPROGRESS) {
        begin_anew(e);
        group_connecting(e, rc == -EINPROGRESS);
        data_unwritable(e, e->connecting);
        e->connect_tag = q.tag;
        int bad_watch = endpoint_watch(e, FFL_READ | FFL_WRITE);
        if (bad_watch < 0) {
            group_connecting(e, false);
            rc = bad_watch;
        }
    }
    stats_state(e);
    if (e->dgram && e->fd >= 0 && !e->connecting) {
        int placed = group_place(e); /* one that fails may have given it an address, or taken it */
        rc = rc < 0 ? rc : placed;
    }
    if (!e->connecting) /* else data_event answers */
        answer_post(e->s, q, rc, rc < 0 ? FFL_NO_BUF : answer_addresses(e));
    return 0;
}
