/* ready.c - sources, watches and ready lists. See ready.h. */
#include "ready.h"

#include <unistd.h>

static void push(struct ffl_poll *p, struct ffl_watch *w)
{
    w->queued = true;
    w->rd_next = NULL;
    w->rd_prev = p->tail;
    if (p->tail)
        p->tail->rd_next = w;
    else
        p->head = w;
    p->tail = w;
}

static void take_off(struct ffl_watch *w)
{
    struct ffl_poll *p = w->poll;
    if (w->rd_prev)
        w->rd_prev->rd_next = w->rd_next;
    else
        p->head = w->rd_next;
    if (w->rd_next)
        w->rd_next->rd_prev = w->rd_prev;
    else
        p->tail = w->rd_prev;
    w->queued = false;
}

void ffl_poll_kick(struct ffl_poll *p)
{
    uint64_t one = 1;
    /* EAGAIN: readable already. */
    ssize_t n = p->wake_fd < 0 ? 0 : write(p->wake_fd, &one, sizeof(one));
    (void)n;
}

void ffl_watch_add(struct ffl_poll *p, struct ffl_source *s, struct ffl_watch *w)
{
    w->poll = p;
    w->source = s;
    w->queued = false;
    w->next = s->watches;
    s->watches = w;
    p->watches++;
}

void ffl_watch_del(struct ffl_watch *w)
{
    if (!w->source)
        return;
    struct ffl_watch **at = &w->source->watches;
    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
    w->source = NULL;
    w->poll->watches--;
    if (w->queued)
        take_off(w);
}

void ffl_source_tell(struct ffl_source *s, uint32_t what)
{
    bool served = false, all = what & (EPOLLERR | EPOLLHUP);
    for (struct ffl_watch *w = s->watches; w; w = w->next) {
        bool exclusive = w->events & EPOLLEXCLUSIVE && !all;
        if (!(w->events & what & FFL_WATCH_ALL) || (exclusive && served))
            continue;
        ffl_watch_tell(w);
        if (exclusive && w->poll->waits > w->poll->served) {
            w->poll->served++;
            served = true;
        }
    }
}

void ffl_watch_tell(struct ffl_watch *w)
{
    struct ffl_poll *p = w->poll;
    if (!(w->events & FFL_WATCH_ALL))
        return;
    if (!w->queued) {
        push(p, w);
        if (p->asleep)
            ffl_poll_kick(p);
    }
    if (p->self) /* as the kernel: edges of an epoll in an epoll are those of what is in it */
        ffl_source_tell(p->self, EPOLLIN | EPOLLRDNORM);
}

static uint32_t ask(struct ffl_watch *w)
{
    return w->source->ask(w->source, w) & w->events;
}

void ffl_watch_begin(struct ffl_watch *w)
{
    if (ask(w))
        ffl_watch_tell(w);
}

struct ffl_watch *ffl_poll_take(struct ffl_poll *p)
{
    struct ffl_watch *w = p->head;
    if (w)
        take_off(w);
    return w;
}

bool ffl_poll_ready(struct ffl_poll *p)
{
    struct ffl_watch *next;
    for (struct ffl_watch *w = p->head; w; w = next) {
        next = w->rd_next;
        if (ask(w))
            return true;
        take_off(w);
    }
    return false;
}

int ffl_poll_harvest(struct ffl_poll *p, struct epoll_event *ev, int max)
{
    int n = 0;
    struct ffl_watch *last = p->tail, *w = NULL;
    while (n < max && w != last && (w = p->head)) {
        uint32_t got = ask(w);
        take_off(w);
        if (!got)
            continue;
        ev[n++] = (struct epoll_event){.events = got, .data.u64 = w->data};
        if (w->events & EPOLLONESHOT)
            w->events &= FFL_WATCH_FLAGS;
        else if (!(w->events & EPOLLET))
            push(p, w);
    }
    return n;
}

void ffl_poll_clear(struct ffl_poll *p)
{
    while (ffl_poll_take(p))
        ;
}
