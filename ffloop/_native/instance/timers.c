/* timers.c - see timers.h. */
#include "timers.h"

/* Melds two heaps, each without siblings. */
static struct timer *meld(struct timer *a, struct timer *b)
{
    if (!a || !b)
        return a ? a : b;
    if (b->due < a->due) {
        struct timer *t = a;
        a = b;
        b = t;
    }
    b->prev = a;
    b->next = a->child;
    if (a->child)
        a->child->prev = b;
    a->child = b;
    return a;
}

/* Melds a removed timer's children in pairs, then the pairs from last to first. */
static struct timer *meld_siblings(struct timer *t)
{
    struct timer *pairs = NULL, *all = NULL;
    while (t) {
        struct timer *a = t, *b = a->next;
        t = b ? b->next : NULL;
        a->next = a->prev = NULL;
        if (b)
            b->next = b->prev = NULL;
        a = meld(a, b);
        a->next = pairs;
        pairs = a;
    }
    while (pairs) {
        struct timer *a = pairs;
        pairs = a->next;
        a->next = NULL;
        all = meld(all, a);
    }
    return all;
}

void timers_cancel(struct timers *ts, struct timer *t)
{
    if (!t->set)
        return;
    if (t != ts->first) {
        *(t->prev->child == t ? &t->prev->child : &t->prev->next) = t->next;
        if (t->next)
            t->next->prev = t->prev;
    }
    struct timer *below = meld_siblings(t->child);
    ts->first = t == ts->first ? below : meld(ts->first, below);
    t->child = t->next = t->prev = NULL;
    t->set = false;
}

void timers_set(struct timers *ts, struct timer *t, int64_t ns)
{
    timers_cancel(ts, t);
    t->due = ts->now + ns;
    t->set = true;
    ts->first = meld(ts->first, t);
}

void timers_run(struct timers *ts, int64_t until)
{
    while (ts->first && ts->first->due <= ts->now) {
        struct timer *t = ts->first;
        timers_cancel(ts, t);
        t->fire(t);
        if (ffl_now_ns() >= until)
            return;
    }
}
