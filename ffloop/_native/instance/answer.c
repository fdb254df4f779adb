/*
 * answer.c - the arguments of control operations, and their answers.
 *
 * Callers: control.c; accept.c and report.c for what they tell beside an entry.
 */
#include "endpoint.h"
#include "session.h"
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

void *answer_room(struct ffl_session *s, size_t len, uint32_t *buf)
{
    *buf = ffl_pool_get(&s->rx, (uint32_t)len);
    if (*buf != FFL_NO_BUF && ffl_buf_size(*buf) < len) {
        (void)ffl_pool_put(&s->rx, *buf); /* only smaller buffers are left */
        *buf = FFL_NO_BUF;
    }
    if (*buf == FFL_NO_BUF)
        return NULL;
    s->rx_owner[ffl_buf_slot(&s->rx.geo, *buf)] = 0; /* counted for no endpoint */
    return session_buf(s, &s->rx.geo, *buf);
}

uint32_t answer_put(struct ffl_session *s, const void *data, size_t len)
{
    uint32_t buf;
    void *to = answer_room(s, len, &buf);
    if (to)
        memcpy(to, data, len);
    return buf;
}

void answer_post(struct ffl_session *s, struct ffl_entry q, int32_t res, uint32_t buf)
{
    session_post(s, (struct ffl_entry){
                        .op = q.op, .tag = q.tag, .handle = q.handle, .arg = res, .buf = buf});
}

uint32_t answer_addresses(struct endpoint *e)
{
    endpoint_addresses(e);
    return answer_put(e->s, &e->st->addresses, sizeof(e->st->addresses));
}
