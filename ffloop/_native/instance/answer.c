/*
 * answer.c - the arguments of control operations, and their answers.
 *
 * Callers: control.c.
 */
#include "internal.h"
#include "option.h"

#include <errno.h>
#include <linux/filter.h>
#include <string.h>

/* The entry's argument block; NULL: the session may not use that buffer. */
static const void *arg_of(struct ffl_session *s, struct ffl_entry e)
{
    const struct ffl_pool_geo *p = &s->map.geo.tx;
    bool sound = ffl_buf_ok(p, e.buf) && !s->tx[ffl_buf_slot(p, e.buf)].outstanding;
    return sound ? session_buf(s, p, e.buf) : NULL;
}

int answer_arg(struct ffl_session *s, struct ffl_entry e, void *arg, size_t len)
{
    const void *from = arg_of(s, e);
    if (!from)
        return -EPROTO;
    memcpy(arg, from, len); /* a buffer of any class holds it */
    session_tx_release(s, e.buf);
    return 0;
}

int answer_option(struct ffl_session *s, struct ffl_entry e, struct ffl_optarg *o, bool set)
{
    const uint8_t *from = arg_of(s, e);
    if (!from)
        return -EPROTO;
    memcpy(o, from, ffl_optarg_bytes(0));
    if (o->len > FFL_OPT_MAX)
        return -EPROTO;
    const struct ffl_option *row = ffl_option_find(o->level, o->name);
    bool given = set || (row && row->flags & FFL_OPTION_ASKS);
    if (given && ffl_optarg_bytes(o->len) > ffl_buf_size(e.buf))
        return -EPROTO;
    if (given)
        memcpy(o->data, from + ffl_optarg_bytes(0), o->len);
    session_tx_release(s, e.buf);
    return 0;
}

int answer_filter(struct ffl_session *s, struct ffl_entry e, struct ffl_filter *f,
                  struct sock_filter *code)
{
    const uint8_t *from = arg_of(s, e);
    if (!from)
        return -EPROTO;
    memcpy(f, from, sizeof(*f));
    if (!f->len || f->len > FFL_FILTER_MAX ||
        sizeof(*f) + f->len * sizeof(code[0]) > ffl_buf_size(e.buf))
        return -EPROTO;
    memcpy(code, from + sizeof(*f), f->len * sizeof(code[0]));
    session_tx_release(s, e.buf);
    return 0;
}

uint32_t answer_put(struct ffl_session *s, const void *data, size_t len)
{
    uint32_t buf = ffl_pool_get(&s->rx, (uint32_t)len);
    if (buf != FFL_NO_BUF && ffl_buf_size(buf) < len) {
        (void)ffl_pool_put(&s->rx, buf); /* only smaller buffers are left */
        return FFL_NO_BUF;
    }
    if (buf == FFL_NO_BUF)
        return buf;
    s->rx_owner[ffl_buf_slot(&s->rx.geo, buf)] = 0; /* counted for no endpoint */
    memcpy(session_buf(s, &s->rx.geo, buf), data, len);
    return buf;
}

void answer_post(struct ffl_session *s, struct ffl_entry q, int32_t res, uint32_t buf)
{
    session_post(s, (struct ffl_entry){
                        .op = q.op, .tag = q.tag, .handle = q.handle, .arg = res, .buf = buf});
}

uint32_t answer_addresses(struct endpoint *e)
{
    struct ffl_addresses n = {0};
    struct ffl_instance *in = e->s->in;
    (void)OPS(in)->sockname(ST(in), e->fd, false, &n.local); /* family 0 if it is unknown */
    if (!e->listener)
        (void)OPS(in)->sockname(ST(in), e->fd, true, &n.peer);
    e->st->addresses = n;
    stats_state(e);
    return answer_put(e->s, &n, sizeof(n));
}
