/*
 * accept.c - listeners: accepting ahead, connections that other processes may take, accept.
 *
 * Callers: client.h's users; reap.c, for completions of a listener.
 */
#include "internal.h"

#include <errno.h>
#include <sys/socket.h>

static struct ffl_entry asks(struct client_sock *l, enum ffl_op op, uint32_t add)
{
    l->credits += add;
    l->granted |= add > 0;
    l->asking = true;
    return (struct ffl_entry){.op = (uint8_t)op,
                              .flags = l->acc_flags | (l->alone ? FFL_F_ALONE : 0),
                              .handle = l->handle,
                              .arg = (int32_t)add,
                              .buf = FFL_NO_BUF};
}

static void submit_arm(struct ffl_client *c, struct client_sock *l, uint32_t add)
{
    client_submit(c, asks(l, FFL_OP_ARM, add));
}

bool ffl_client_may_come(struct ffl_client *c, int h)
{
    struct client_sock *l = client_sock(c, h);
    bool may = l && l->granted;
    if (may)
        l->granted = false;
    return may;
}

/* The open listener of handle h: 0 or -errno. */
static int find_listener(const struct ffl_client *c, int h, struct client_sock **l)
{
    int rc = client_find(c, h, l);
    if (rc == 0 && !(*l)->listener)
        rc = (*l)->type == SOCK_STREAM ? -EINVAL : -EOPNOTSUPP;
    return rc;
}

static uint32_t missing_credit(const struct client_sock *l)
{
    uint32_t have = l->credits + l->acc_n;
    return have < l->window ? l->window - have : 0;
}

static struct ffl_entry take(struct client_sock *l)
{
    if (!l->window)
        l->window = 1;
    l->paused = false;
    return asks(l, FFL_OP_TAKE, missing_credit(l));
}

/* Without waiting: the connection comes as those that are accepted ahead. */
static void take_soon(struct ffl_client *c, struct client_sock *l)
{
    l->offered = 0;
    client_submit(c, take(l));
}

void client_sock_grant(struct ffl_client *c, struct client_sock *l)
{
    uint32_t add = missing_credit(l);
    bool half = add && add * 2 >= l->window; /* one entry per many accepts */
    if (l->closing || l->paused)
        return;
    if (l->push && l->offered && l->acc_n < l->window)
        take_soon(c, l);
    else if (half)
        submit_arm(c, l, add);
}

void client_sock_accept_ahead(struct ffl_client *c, struct client_sock *l)
{
    if (!l->window) /* not in push mode: one connection ahead */
        l->window = 1;
    if (l->paused || (!l->asking && !l->offered)) {
        l->paused = false;
        submit_arm(c, l, missing_credit(l));
    } else {
        client_sock_grant(c, l);
    }
}

void client_sock_offered(struct ffl_client *c, struct client_sock *l, int32_t n)
{
    l->offered = n > 0 ? (uint32_t)n : 1;
    l->asking = false;
    if (l->closing)
        return;
    if (l->push)
        client_sock_grant(c, l);
    else if (!l->alone) /* a poller is told of each connection, as of an edge */
        submit_arm(c, l, 0);
    client_sock_tell(l, CLIENT_SOCK_READ);
}

void client_sock_took(struct client_sock *l, int32_t what)
{
    l->offered = what == FFL_TAKE_MORE;
    l->asking = what == FFL_TAKE_NONE || (what == FFL_TAKE_LAST && !l->alone);
    if (!l->asking)
        client_sock_tell(l, CLIENT_SOCK_READ); /* waiting calls ask again */
}

int ffl_client_accepting(struct ffl_client *c, int h, int window, unsigned flags)
{
    struct client_sock *s;
    int rc = find_listener(c, h, &s);
    if (rc < 0)
        return rc;
    if (window < 0 || window > 1024)
        return -EINVAL;
    if (window) /* connections under way keep the flags of before */
        s->acc_flags = (uint8_t)(flags & FFL_F_ARM_NEW);
    s->window = (uint32_t)window;
    s->push = s->alone = window > 0;
    s->paused = false;
    if (s->push && s->offered)
        take_soon(c, s);
    else if (window) /* also without missing credit: the listener may be disarmed */
        submit_arm(c, s, missing_credit(s));
    else
        client_submit(c, client_entry(FFL_OP_DISARM, (uint32_t)h));
    if (s->push && s->acc_head)
        client_sock_tell(s, CLIENT_SOCK_READ);
    return 0;
}

struct client_sock *client_sock_accepted(struct client_sock *l)
{
    struct client_sock *s = l->acc_head;
    l->acc_head = s->acc_next;
    if (!l->acc_head)
        l->acc_tail = NULL;
    s->acc_next = NULL;
    s->waits = false;
    l->acc_n--;
    return s;
}

int ffl_client_accept(struct ffl_client *c, int h, struct ffl_addresses *addresses)
{
    struct client_sock *l;
    int rc = find_listener(c, h, &l);
    if (rc < 0)
        return rc;
    if (!l->acc_head)
        client_look(c);
    if (!l->acc_head) {
        if (l->offered)
            take_soon(c, l);
        else if (!l->window || l->paused)
            client_sock_arm(c, l);
        return -EAGAIN;
    }
    struct client_sock *s = client_sock_accepted(l);
    client_sock_grant(c, l);
    if (l->acc_flags & FFL_F_OFFER) {
        l->acc_flags &= ~FFL_F_OFFER & 0xff;
        submit_arm(c, l, missing_credit(l));
    }
    if (addresses)
        *addresses = s->addresses;
    if (s->addresses_buf != FFL_NO_BUF) {
        client_release_buf(c, s->addresses_buf);
        s->addresses_buf = FFL_NO_BUF;
        client_commit(c);
    }
    placeholder_update(l);
    return (int)s->handle;
}

bool ffl_client_asks(const struct ffl_client *c, int h)
{
    const struct client_sock *l = client_sock(c, h);
    return !l || l->asking || rx_readable(l);
}

void ffl_client_alone(struct ffl_client *c, int h, bool alone)
{
    struct client_sock *l = client_sock(c, h);
    if (!l || l->alone == alone)
        return;
    l->alone = alone;
    l->asking = false; /* asks anew, with the flag */
}

int ffl_client_take(struct ffl_client *c, int h)
{
    struct client_sock *l;
    int rc = find_listener(c, h, &l);
    if (rc < 0)
        return rc;
    if (l->acc_head)
        return 0;
    client_look(c);
    while (rc >= 0 && !l->acc_head && (l->offered || !l->asking)) /* offered meanwhile */
        rc = client_call(c, take(l), NULL, 0);
    if (rc == -ETIMEDOUT) /* no error of accept's: the answer, when it comes, makes it readable */
        rc = 0;
    return rc < 0 ? rc : l->acc_head ? 0 : -EAGAIN;
}
