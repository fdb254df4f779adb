/*
 * call.c - submitting entries, and operations that wait for their answer.
 *
 * Callers: the other files of client/. An entry that finds the SQ full goes to a private queue, in
 * order; no call waits for room. One operation at a time waits; its tag finds the answer.
 */
#include "internal.h"

#include "limit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int client_ring(int bell)
{
    uint64_t one = 1;
    ssize_t n = write(bell, &one, sizeof(one)); /* EAGAIN: the counter is full */
    (void)n;
    return 0;
}

void client_commit(struct ffl_client *c)
{
    if (!c->detached && ffl_channel_commit(&c->ch) < 0)
        client_lose(c, EPROTO, "SQ head out of range");
}

void client_put(struct ffl_client *c, struct ffl_entry e)
{
    if (ffl_unlikely(c->detached))
        return;
    int rc = ffl_channel_put(&c->ch, e);
    if (ffl_unlikely(rc == -EPROTO))
        client_lose(c, EPROTO, "SQ head out of range");
    else if (ffl_unlikely(rc < 0)) /* a lost entry breaks the order */
        client_lose(c, ENOMEM, "out of memory for submissions");
}

void client_submit(struct ffl_client *c, struct ffl_entry e)
{
    client_put(c, e);
    client_commit(c);
}

uint32_t client_buf(struct ffl_client *c, uint32_t want)
{
    uint32_t buf = ffl_pool_get(&c->tx, want);
    if (buf == FFL_NO_BUF) {
        client_reap(c); /* may bring buffers back */
        buf = ffl_pool_get(&c->tx, want);
    }
    if (buf != FFL_NO_BUF)
        c->tx_serial[ffl_buf_slot(&c->tx.geo, buf)] = 0; /* charged to no socket */
    return buf;
}

uint32_t client_whole_buf(struct ffl_client *c, uint32_t want)
{
    uint32_t buf = client_buf(c, want);
    if (buf != FFL_NO_BUF && ffl_buf_size(buf) < want) { /* only smaller buffers are left */
        (void)ffl_pool_put(&c->tx, buf);
        return FFL_NO_BUF;
    }
    return buf;
}

uint32_t client_arg(struct ffl_client *c, const void *data, size_t len)
{
    uint32_t buf = client_whole_buf(c, (uint32_t)len);
    if (buf != FFL_NO_BUF)
        memcpy((char *)c->map.seg + ffl_buf_off(&c->tx.geo, buf), data, len);
    return buf;
}

/* Until the answer, the time-out or the session's end: spins, yields, sleeps (client.h). */
static int wait_answer(struct ffl_client *c)
{
    struct ffl_limit limit = ffl_limit(c->timeout_ms);
    struct ffl_event none[2];
    for (;;) {
        client_reap(c);
        if (c->call.done)
            return c->call.res;
        if (c->detached)
            return -c->detached;
        int64_t left = ffl_limit_left(&limit);
        if (left == 0)
            return -ETIMEDOUT;
        client_sleep(c, none, 0, c->own_epfd, left, false);
    }
}

int client_call(struct ffl_client *c, struct ffl_entry e, void *out, size_t len)
{
    if (c->detached)
        return -c->detached;
    if (++c->next_tag == 0)
        c->next_tag = 1;
    e.tag = c->next_tag;
    c->call = (struct call){.tag = e.tag, .buf = FFL_NO_BUF};
    client_submit(c, e);
    int rc = wait_answer(c);
    c->call.tag = 0;
    if (rc >= 0 && out) {
        if (c->call.buf == FFL_NO_BUF) /* the instance had no buffer for the answer */
            rc = -ENOBUFS;
        else
            memcpy(out, (char *)c->map.seg + ffl_buf_off(&c->map.geo.rx, c->call.buf),
                   len < ffl_buf_size(c->call.buf) ? len : ffl_buf_size(c->call.buf));
    }
    if (c->call.buf != FFL_NO_BUF) {
        client_release_buf(c, c->call.buf);
        client_commit(c);
    }
    return rc;
}

int ffl_client_ping(struct ffl_client *c)
{
    return client_call(c, client_entry(FFL_OP_NOP, 0), NULL, 0);
}

int ffl_client_catch_up(struct ffl_client *c)
{
    struct ffl_entry e = client_entry(FFL_OP_NOP, 0);
    e.flags = FFL_F_LOOK;
    return client_call(c, e, NULL, 0);
}
