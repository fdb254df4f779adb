/*
 * report.c - moves a socket's error queue to the application.
 *
 * Callers: data.c, receive.c, transmit.c. The stack says that there are reports by an event with
 * `error`; for a socket whose options ask for reports, the error queue is looked at before each
 * send, too, since a report of an earlier datagram would fail it. A report that finds no buffer is
 * dropped, as the kernel does without memory.
 */
#include "pump.h"
#include "session.h"

#include <sys/socket.h>

#define REPORTS_AT_ONCE 64

struct report { /* as it is in a buffer; without control messages the data follows the address */
    struct ffl_addr to;
    struct ffl_ctl ctl;
    uint8_t data[65536 - sizeof(struct ffl_addr) - sizeof(struct ffl_ctl)];
};

static void post(struct endpoint *e, const struct report *r, uint32_t n, int msg_flags)
{
    struct ffl_session *s = e->s;
    uint8_t flags = FFL_F_ADDR | (msg_flags & MSG_TRUNC ? FFL_F_TRUNC : 0) |
                    (msg_flags & MSG_CTRUNC ? FFL_F_CTL_CUT : 0) | (r->ctl.len ? FFL_F_CTL : 0);
    uint32_t front = ffl_front_bytes(flags), buf;
    uint8_t *to = answer_room(s, front + n, &buf);
    if (!to)
        return;
    memcpy(to, r, front);
    memcpy(to + front, r->data, n);
    session_post(s, (struct ffl_entry){.op = FFL_OP_REPORT,
                                       .flags = flags,
                                       .handle = e->handle,
                                       .arg = (int32_t)(front + n),
                                       .buf = buf});
}

bool report_pump(struct endpoint *e)
{
    static struct report r;
    struct ffl_instance *in = e->s->in;
    struct iovec iov = {r.data, sizeof(r.data)};
    e->reports = false;
    if (!OPS(in)->report || e->fd < 0 || e->s->dying)
        return false;
    for (int i = 0; i < REPORTS_AT_ONCE && !session_stuffed(e->s); i++) {
        int msg_flags = 0;
        r.to = (struct ffl_addr){0};
        r.ctl.len = 0;
        int n = OPS(in)->report(ST(in), e->fd, &iov, &r.to, &r.ctl, &msg_flags);
        slice_spend_call(&in->slice, n > 0 ? (size_t)n : 0);
        if (n < 0)
            return i;
        post(e, &r, (uint32_t)n, msg_flags);
    }
    e->reports = true;
    return true;
}
