/* ledger.c - see ledger.h. */
#include "ledger.h"

#include <errno.h>
#include <stdlib.h>

/* An account stays for a second after its last use, for the limit of its log. */
static void sweep(struct ledger *l)
{
    int64_t now = ffl_now_ns();
    struct account *a = LIST_FIRST(&l->accounts), *next;
    for (; a; a = next) {
        next = LIST_NEXT(a, link);
        uint64_t any = a->holds;
        for (int i = 0; i < CHARGES; i++)
            any |= a->n[i];
        if (any || now - a->log.since < FFL_NS_PER_SEC)
            continue;
        LIST_REMOVE(a, link);
        free(a);
    }
}

struct account *ledger_hold(struct ledger *l, uid_t uid)
{
    struct account *a;
    LIST_FOREACH(a, &l->accounts, link)
    if (a->uid == uid)
        break;
    if (!a) {
        sweep(l);
        a = calloc(1, sizeof(*a));
        if (!a)
            return NULL;
        a->uid = uid;
        LIST_INSERT_HEAD(&l->accounts, a, link);
    }
    a->holds++;
    return a;
}

void ledger_drop(struct ledger *l, struct account *a)
{
    if (a)
        a->holds--;
}

void ledger_free(struct ledger *l)
{
    struct account *a;
    while ((a = LIST_FIRST(&l->accounts))) {
        LIST_REMOVE(a, link);
        free(a);
    }
}

bool ledger_share(const struct ledger *l, enum charge what, uint64_t has)
{
    uint64_t total = l->n[what] + 1, left = total < l->limit[what] ? l->limit[what] - total : 0;
    return has + 1 <= 3 * left;
}

static bool fits(const struct ledger *l, const struct account *a, enum charge what, uint64_t n)
{
    uint64_t total = l->n[what] + n, mine = a->n[what] + n;
    if (total > l->limit[what])
        return false;
    if (l->user_limit[what])
        return mine <= l->user_limit[what];
    return !l->shared || mine <= 3 * (l->limit[what] - total) || mine == 1;
}

int ledger_charge(struct ledger *l, struct account *a, enum charge what, uint64_t n)
{
    if (!fits(l, a, what, n))
        return -EDQUOT;
    l->n[what] += n;
    a->n[what] += n;
    return 0;
}

void ledger_discharge(struct ledger *l, struct account *a, enum charge what, uint64_t n)
{
    l->n[what] -= n;
    a->n[what] -= n;
}

void ledger_move(struct ledger *l, struct account *a, enum charge from, enum charge to)
{
    ledger_discharge(l, a, from, 1);
    l->n[to]++;
    a->n[to]++;
}

struct account *ledger_most(const struct ledger *l, enum charge what)
{
    struct account *a, *most = NULL;
    LIST_FOREACH(a, &l->accounts, link)
    if (a->n[what] && (!most || a->n[what] > most->n[what]))
        most = a;
    return most;
}
