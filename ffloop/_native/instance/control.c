/*
 * control.c - executes the entries of a session's SQ.
 *
 * Callers: session.c. Per socket, operations take effect in order: sends queued before a
 * SHUTDOWN or CLOSE go first. An entry that no correct client writes (an unknown op, a handle that
 * is not open, a buffer out of range or used twice) is -EPROTO and ends the session.
 */
#include "endpoint.h"
#include "group.h"
#include "life.h"
#include "peers.h"
#include "pump.h"
#include "session.h"
#include "option.h"

#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

static int bad(const char **why, const char *reason)
{
    *why = reason;
    return -EPROTO;
}

/* ---- operations on endpoints --------------------------------------------------------------- */

static int add_credits(struct endpoint *l, struct ffl_entry q)
{
    if (q.arg < 0 || q.arg > 4096)
        return -EPROTO;
    l->credits += (uint32_t)q.arg;
    l->arm_new = q.flags & FFL_F_ARM_NEW;
    l->offers = q.flags & FFL_F_OFFER;
    return l->credits > 4096 ? -EPROTO : 0;
}

static int op_arm(struct endpoint *e, struct ffl_entry q)
{
    if (e->listener) {
        if (add_credits(e, q) < 0)
            return -EPROTO;
        if (e->group)
            offer_ask(e, q.flags & FFL_F_ALONE);
    }
    e->armed = e->s->arming;
    if (e->readable || e->listener || e->group)
        endpoint_ready(e);
    return 0;
}

/* The application's own accept(). */
static int op_take(struct endpoint *e, struct ffl_entry q)
{
    if (!e->listener || add_credits(e, q) < 0)
        return -EPROTO;
    e->alone = q.flags & FFL_F_ALONE;
    e->armed = e->s->arming;
    int rc = e->group && !e->failed ? offer_take(e, !q.tag) : -EINVAL;
    if (q.tag)
        answer_post(e->s, q, rc, FFL_NO_BUF);
    else if (rc < 0)
        data_accept_later(e, -rc);
    return 0;
}

static int op_unread(struct endpoint *e, struct ffl_entry q)
{
    struct ffl_session *s = e->s;
    const struct ffl_pool_geo *p = &s->map.geo.tx;
    if (!ffl_buf_ok(p, q.buf) || s->tx[ffl_buf_slot(p, q.buf)].outstanding || q.arg < 0 ||
        (uint32_t)q.arg > ffl_buf_size(q.buf) || e->listener ||
        !(q.flags & FFL_F_ADDR) == e->dgram || (uint32_t)q.arg < ffl_front_bytes(q.flags) ||
        (q.flags & FFL_F_CTL && !e->dgram))
        return -EPROTO;
    e->rx_posted -= (uint32_t)q.arg - ffl_front_bytes(q.flags);
    bool lacks = e->failed == ENOBUFS; /* bytes before these are lost: the stream ends there */
    int rc = lacks ? 0
                   : group_unread(e, session_buf(s, p, q.buf), (uint32_t)q.arg,
                                  q.flags & (FFL_F_ADDR | FFL_F_TRUNC | FFL_F_CTL | FFL_F_CTL_CUT));
    session_tx_release(s, q.buf);
    slice_spend_call(&s->in->slice, (uint32_t)q.arg);
    if (rc < 0)
        data_fail(e, -rc); /* the stream lacks these bytes */
    return 0;
}

static int op_export(struct endpoint *e, struct ffl_entry q)
{
    struct ffl_import x;
    if (answer_arg(e->s, q, &x, sizeof(x)) < 0)
        return -EPROTO;
    int rc = ticket_export(e, &x);
    if (rc == -EPROTO) /* a guessed key */
        return rc;
    if (rc < 0) /* the import will fail */
        ffl_log_within(&e->s->account->log, FFL_LOG_WARNING, "session %u: export: %s", e->s->id,
                       strerror(-rc));
    return 0;
}

static int op_disarm(struct endpoint *e, struct ffl_entry q)
{
    e->armed = 0; /* a listener keeps its credit: both sides count alike */
    if (e->listener && e->group)
        offer_leave(e);
    return 0;
}

static int op_send(struct endpoint *e, struct ffl_entry q)
{
    struct ffl_session *s = e->s;
    const struct ffl_pool_geo *p = &s->map.geo.tx;
    if (!ffl_buf_ok(p, q.buf) || q.arg < 0 || (uint32_t)q.arg > ffl_buf_size(q.buf))
        return -EPROTO;
    if ((uint32_t)q.arg < ffl_front_bytes(q.flags) || (q.flags & FFL_F_CTL && !e->dgram))
        return -EPROTO;
    struct tx_slot *slot = &s->tx[ffl_buf_slot(p, q.buf)];
    if (slot->outstanding)
        return -EPROTO;
    /* The error was reported, or sending shut down: what comes later is dropped. */
    if (e->failed || e->send_error || (group_settings(e)->shut_wr && !e->dgram && e->shut < 0) ||
        e->fd < 0) {
        session_tx_release(s, q.buf);
        return 0;
    }
    *slot = (struct tx_slot){
        .next = FFL_NO_BUF, .len = (uint32_t)q.arg, .flags = q.flags, .outstanding = true};
    data_queue(e, q.buf);
    stats_queued(e, (uint32_t)q.arg - ffl_front_bytes(q.flags), 0);
    if (!e->unwritable && !e->connecting)
        endpoint_ready(e);
    return 0;
}

static int op_shutdown(struct endpoint *e, struct ffl_entry q)
{
    if (q.arg < SHUT_RD || q.arg > SHUT_RDWR)
        return -EPROTO;
    shutdown_ask(e, q.arg);
    return 0;
}

void control_close(struct endpoint *e, bool abort)
{
    e->closing = true;
    e->closed = e->s->in->next_serial;
    e->armed = 0;
    stats_state(e);
    if (abort && e->tx_head != FFL_NO_BUF && !e->failed && !e->unwritable) {
        e->closing = false; /* bytes that the stack takes at once are sent before the abort */
        data_flush(e);
        e->closing = true;
    }
    if (e->dead)
        return;
    if (abort || e->fd < 0 || e->failed || e->connecting || e->listener)
        data_drop_tx(e);
    if (e->tx_head != FFL_NO_BUF)
        data_flush(e);
    if (e->dead)
        return;
    if (e->tx_head == FFL_NO_BUF)
        endpoint_close(e);
    else
        endpoint_timer(e, LINGER_NS);
}

static int set_option(struct endpoint *e, const struct ffl_option *o, const struct ffl_optarg *arg,
                      uint32_t filter)
{
    if (e->tx_head != FFL_NO_BUF && !e->unwritable && !e->connecting)
        data_flush(e); /* the option is for later sends */
    bool range = o && o->level == IPPROTO_IP && o->name == IP_LOCAL_PORT_RANGE;
    if (range && e->dgram && e->s->in->ledger.shared)
        return -ENOPROTOOPT; /* with SO_REUSEADDR the stack gives it a port that another user has */
    int rc = e->fd < 0 ? -e->open_error : burden_charge(e, o, filter);
    if (rc < 0)
        return rc;
    rc = rights_setsockopt(e, arg);
    burden_settle(e, o, filter, rc == 0);
    if (rc == 0 && o) {
        group_settings(e)->stamped |= (o->flags & FFL_OPTION_STAMP) != 0;
        group_settings(e)->reporting |= (o->flags & FFL_OPTION_REPORT) != 0;
    }
    return rc;
}

static int op_setsockopt(struct endpoint *e, struct ffl_entry q)
{
    struct ffl_optarg o;
    if (answer_option(e->s, q, &o, true) < 0)
        return -EPROTO;
    const struct ffl_option *row = ffl_option_find(o.level, o.name);
    if (row && row->kind == FFL_OPTION_PROGRAM)
        return -EPROTO; /* its address would be one of this process */
    int rc = set_option(e, row, &o, 0);
    if (q.tag)
        answer_post(e->s, q, rc, FFL_NO_BUF);
    return 0;
}

static int op_filter(struct endpoint *e, struct ffl_entry q)
{
    static struct sock_filter code[FFL_FILTER_MAX];
    struct ffl_filter f;
    if (answer_filter(e->s, q, &f, code) < 0)
        return -EPROTO;
    const struct ffl_option *row = ffl_option_find(f.level, f.name);
    if (!row || row->kind != FFL_OPTION_PROGRAM)
        return -EPROTO;
    struct sock_fprog program = {(uint16_t)f.len, code};
    struct ffl_optarg o = {.level = f.level, .name = f.name, .len = sizeof(program)};
    memcpy(o.data, &program, sizeof(program));
    int rc = set_option(e, row, &o, burden_of_filter(code, f.len));
    answer_post(e->s, q, rc, FFL_NO_BUF);
    return 0;
}

static int op_getsockopt(struct endpoint *e, struct ffl_entry q)
{
    struct ffl_instance *in = e->s->in;
    struct ffl_optarg o;
    if (answer_option(e->s, q, &o, false) < 0)
        return -EPROTO;
    int rc = e->fd < 0 ? -e->open_error
                       : OPS(in)->getsockopt(ST(in), e->fd, o.level, o.name, o.data, &o.len);
    answer_post(e->s, q, rc, rc < 0 ? FFL_NO_BUF : answer_put(e->s, &o, ffl_optarg_bytes(o.len)));
    return 0;
}

static int op_addresses(struct endpoint *e, struct ffl_entry q)
{
    answer_post(e->s, q, e->fd < 0 ? -e->open_error : 0,
                e->fd < 0 ? FFL_NO_BUF : answer_addresses(e));
    return 0;
}

/* ---- dispatch of entries ------------------------------------------------------------------- */

/* The stack would open raw, packet and netlink sockets too, with the instance's rights. */
static int may_open(int domain, int type, int proto)
{
    if (domain != AF_INET && domain != AF_INET6)
        return -EAFNOSUPPORT;
    if (type != SOCK_STREAM && type != SOCK_DGRAM)
        return -ESOCKTNOSUPPORT;
    return proto == 0 || proto == (type == SOCK_STREAM ? IPPROTO_TCP : IPPROTO_UDP)
               ? 0
               : -EPROTONOSUPPORT;
}

static int open_socket(struct ffl_session *s, int domain, int type, int proto)
{
    int fd = session_charge(s);
    if (fd < 0)
        return fd;
    fd = OPS(s->in)->socket(ST(s->in), domain, type, proto);
    if (fd < 0)
        session_discharge(s);
    else
        rights_own(s, fd);
    return fd;
}

static int op_socket(struct ffl_session *s, struct ffl_entry q, const char **why)
{
    struct ffl_instance *in = s->in;
    if (q.handle >= s->n || s->table[q.handle])
        return bad(why, "SOCKET with a handle that is taken or out of range");
    int domain = q.arg & 0xff, type = q.arg >> 8 & 0xff, proto = q.arg >> 16 & 0xff;
    int fd = may_open(domain, type, proto);
    if (fd == 0)
        fd = open_socket(s, domain, type, proto);
    struct endpoint *e = endpoint_new(s, q.handle, fd < 0 ? -1 : fd, type == SOCK_DGRAM);
    if (!e) {
        if (fd >= 0) {
            OPS(in)->close(ST(in), fd);
            session_discharge(s);
        }
        return bad(why, "out of memory for a socket");
    }
    e->open_error = fd < 0 ? -fd : 0;
    int on = 1, rc = fd < 0 ? fd : 0;
    if (rc == 0 && (q.flags & FFL_F_NODELAY) && type == SOCK_STREAM)
        (void)OPS(in)->setsockopt(ST(in), fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (rc == 0 && e->dgram)
        rc = endpoint_watch(e, FFL_READ | FFL_WRITE);
    if (rc < 0)
        answer_post(s, q, rc, FFL_NO_BUF); /* success is silent */
    return 0;
}

static int op_share(struct ffl_session *s, struct ffl_entry q, const char **why)
{
    struct ffl_import x;
    if (answer_arg(s, q, &x, sizeof(x)) < 0)
        return bad(why, "SHARE with a bad buffer");
    if (!(q.flags & FFL_F_ARMED)) /* else nothing is armed now */
        s->arming += s->arming == UINT32_MAX ? 2 : 1;
    int rc = ticket_share(s, &x);
    if (rc == -EPROTO)
        return bad(why, "SHARE with a wrong key");
    if (rc < 0) /* the imports will fail */
        ffl_log_within(&s->account->log, FFL_LOG_WARNING, "session %u: share: %s", s->id,
                       strerror(-rc));
    return 0;
}

static int op_import(struct ffl_session *s, struct ffl_entry q, const char **why)
{
    struct ffl_import i;
    if (q.handle >= s->n || s->table[q.handle])
        return bad(why, "IMPORT with a handle that is taken or out of range");
    if (answer_arg(s, q, &i, sizeof(i)) < 0)
        return bad(why, "IMPORT with a bad buffer");
    int rc = ticket_import(s, q.handle, &i);
    if (rc == -EPROTO)
        return bad(why, "IMPORT with a wrong key");
    if (rc < 0) { /* the handle is open all the same, as after a SOCKET that failed */
        struct endpoint *e = endpoint_new(s, q.handle, -1, false);
        if (!e)
            return bad(why, "out of memory for a socket");
        e->open_error = -rc;
    }
    answer_post(s, q, rc, FFL_NO_BUF);
    return 0;
}

typedef int (*endpoint_op)(struct endpoint *e, struct ffl_entry q);

static const endpoint_op endpoint_ops[FFL_OP_COUNT] = {
    [FFL_OP_BIND] = connect_bind,
    [FFL_OP_LISTEN] = connect_listen,
    [FFL_OP_CONNECT] = connect_begin,
    [FFL_OP_ARM] = op_arm,
    [FFL_OP_DISARM] = op_disarm,
    [FFL_OP_TAKE] = op_take,
    [FFL_OP_UNREAD] = op_unread,
    [FFL_OP_EXPORT] = op_export,
    [FFL_OP_SEND] = op_send,
    [FFL_OP_SHUTDOWN] = op_shutdown,
    [FFL_OP_SETSOCKOPT] = op_setsockopt,
    [FFL_OP_FILTER] = op_filter,
    [FFL_OP_GETSOCKOPT] = op_getsockopt,
    [FFL_OP_ADDRESSES] = op_addresses,
};

/* Queued datagrams keep the peer and the options that the socket had when they were submitted.
 * False: the slice is over before they are sent. */
static bool send_before(struct endpoint *e)
{
    while (e->dgram && e->tx_head != FFL_NO_BUF && !e->unwritable && !e->connecting && !e->dead &&
           e->fd >= 0) {
        if (slice_over(&e->s->in->slice))
            return false;
        data_flush(e); /* at least one datagram goes */
    }
    return true;
}

int control_entry(struct ffl_session *s, struct ffl_entry q, const char **why)
{
    if (q.op == FFL_OP_SOCKET)
        return op_socket(s, q, why);
    if (q.op == FFL_OP_IMPORT)
        return op_import(s, q, why);
    if (q.op == FFL_OP_SHARE)
        return op_share(s, q, why);
    if (q.op == FFL_OP_NOP && q.flags & FFL_F_LOOK && !s->looking) {
        s->look = q;
        s->looking = s->in->looking = true;
        return 0;
    }
    if (q.op == FFL_OP_NOP) {
        answer_post(s, q, q.arg, FFL_NO_BUF);
        return 0;
    }
    if (q.op >= FFL_OP_COUNT || (!endpoint_ops[q.op] && q.op != FFL_OP_CLOSE))
        return bad(why, "unknown operation");
    struct endpoint *e = q.handle < 2 * s->n ? s->table[q.handle] : NULL;
    if (!e || e->closing)
        return bad(why, "operation on a handle that is not open");
    e->touched = true;
    if (q.op == FFL_OP_CLOSE) {
        if (!endpoint_clear(e))
            return FFL_CHANNEL_LATER;
        e->returned = q.flags & FFL_F_RETURN;
        bool given = e->returned && group_return(e);
        e->reset = !given && (e->returned || (uint32_t)q.arg != e->rx_posted);
        control_close(e, e->reset || q.flags & FFL_F_ABORT);
        return 0;
    }
    bool changes = q.op == FFL_OP_CONNECT || q.op == FFL_OP_SETSOCKOPT || q.op == FFL_OP_FILTER;
    if (changes && !send_before(e))
        return FFL_CHANNEL_LATER;
    if (endpoint_ops[q.op](e, q) < 0)
        return bad(why, "buffer or argument out of range");
    return 0;
}
