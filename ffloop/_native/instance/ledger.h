/*
 * ledger.h - what each user holds of an instance, and how much that may be.
 *
 * Callers: the files of instance/, on its one thread. Everything of which there is an end is charged
 * here and nowhere else, to the user whose it is. What one holds may be at most three times what is
 * then left, so one user gets three quarters, the next three quarters of the rest, and there is some
 * for whoever comes. Where one user alone is admitted, it has everything.
 */
#ifndef FFL_LEDGER_H
#define FFL_LEDGER_H

#include "base.h"

#include <sys/queue.h>
#include <sys/types.h>

enum charge {
    CHARGE_PENDING, /* connections to the unix socket without a hello yet */
    CHARGE_SESSION,
    CHARGE_DYING, /* sessions whose application is gone, still sending */
    CHARGE_TICKET,
    CHARGE_KEPT,   /* listeners without an application */
    CHARGE_SOCKET, /* references to stack sockets: of sessions, tickets, kept, given back */
    CHARGE_BYTES,  /* of memory for what was given back */
    CHARGES
};

struct account {
    LIST_ENTRY(account) link;
    uid_t uid;
    unsigned holds; /* who points to it, beside what is charged */
    uint64_t n[CHARGES];
    struct ffl_log_budget log; /* of lines about this user */
};

struct ledger {
    LIST_HEAD(, account) accounts;
    bool shared; /* more users than one may come */
    uint64_t n[CHARGES];
    uint64_t limit[CHARGES];
    uint64_t user_limit[CHARGES]; /* in place of the share; 0: the share */
};

/* The user's account, held; NULL without memory. */
struct account *ledger_hold(struct ledger *l, uid_t uid);
void ledger_drop(struct ledger *l, struct account *a); /* NULL is none */
void ledger_free(struct ledger *l);

/* 0 or -EDQUOT, and nothing is charged. */
int ledger_charge(struct ledger *l, struct account *a, enum charge what, uint64_t n);
void ledger_discharge(struct ledger *l, struct account *a, enum charge what, uint64_t n);

/* May one who holds `has` of `what` have one more, for others that are not users? */
bool ledger_share(const struct ledger *l, enum charge what, uint64_t has);

/* Who holds most of `what`; NULL: nobody holds any. */
struct account *ledger_most(const struct ledger *l, enum charge what);

/* Takes what was charged from `from` to `to`, whatever the limits: it is there already. */
void ledger_move(struct ledger *l, struct account *a, enum charge from, enum charge to);

#endif
