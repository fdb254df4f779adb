/*
 * ledger.h - accounts: each user's part of an instance, and the limits.
 *
 * Callers: the files of instance/, on its one thread. All that is limited is charged here, to its
 * user. A user may have one, and at most three times the rest: the first gets three quarters, the
 * second three quarters of the remainder, and so on. A single admitted user may have everything.
 */
#ifndef FFL_LEDGER_H
#define FFL_LEDGER_H

#include "base.h"

#include <sys/queue.h>
#include <sys/types.h>

enum charge {
    CHARGE_PENDING, /* connections to the unix socket without a hello yet */
    CHARGE_SESSION,
    CHARGE_DYING, /* sessions whose application is gone, data being sent */
    CHARGE_TICKET,
    CHARGE_KEPT,   /* listeners without an application */
    CHARGE_SOCKET, /* references to stack sockets: of sessions, tickets, kept listeners, groups */
    CHARGE_BYTES,  /* bytes that were given back */
    CHARGE_MEMBERSHIP,
    CHARGE_FILTER, /* instructions */
    CHARGES
};

struct account {
    LIST_ENTRY(account) link;
    uid_t uid;
    unsigned holds; /* pointers to it, beside its charges */
    uint64_t n[CHARGES];
    struct ffl_log_limit log; /* of lines about this user */
};

struct ledger {
    LIST_HEAD(, account) accounts;
    bool shared; /* several users may attach */
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

/* May a session that has `has` of `what` have one more? */
bool ledger_share(const struct ledger *l, enum charge what, uint64_t has);

/* The account with most of `what`; NULL: no account has any. */
struct account *ledger_most(const struct ledger *l, enum charge what);

/* Moves a charge of the account from one kind to another, whatever the limits. */
void ledger_move(struct ledger *l, struct account *a, enum charge from, enum charge to);

#endif
