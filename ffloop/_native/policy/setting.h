/*
 * setting.h - every variable of the environment (FFLOOP_*, FF_*): one table, one parser.
 *
 * Callers: the shim, the loop for its arguments and the environment, docs/configuration.md's table.
 * Blanks around a value and case do not matter, but for texts; an empty value is none. A process
 * with more rights than its starter (set-user-id, file capabilities) ignores the environment: its
 * starter must not choose where its data goes.
 */
#ifndef FFL_SETTING_H
#define FFL_SETTING_H

#include "route.h"

#define FFL_SETTING_WHY 320 /* room for a sentence */

/* A value per row of the table. */
struct ffl_config {
    const char *instance; /* NULL: the usual places */
    const char *stack;    /* NULL: any */
    const char *fstack;   /* F-Stack's options, for instance=direct */
    struct ffl_route routes;
    const char *kernel_sockets; /* NULL: the stack decides */
    const char *fallback;       /* "kernel", or NULL */
    bool dual_listen, reconnect, reuse_port;
    int64_t spin_us; /* or FFL_SPIN_* */
    int64_t pool_kib, tx_cap, max_sockets, timeout_ms;
    const char *log, *log_file;
    const char *instance_log, *instance_log_level, *instance_executable;
    int64_t instances, proc_id;
    uint64_t initial_lcore; /* a CPU mask, 0: none */
    bool per_thread, multi_sc, io_uring;
    const char *kernel_event;
    const char *ff_path;
};

enum ffl_setting_kind {
    FFL_SETTING_TEXT,
    FFL_SETTING_ROUTES,
    FFL_SETTING_WORD,  /* one of `words` */
    FFL_SETTING_FLAG,  /* 1, yes, true; 0, no, false */
    FFL_SETTING_COUNT, /* a whole number of `unit`, min to max */
    FFL_SETTING_SPIN,  /* a count, or "auto", or "forever" */
    FFL_SETTING_MASK   /* hexadecimal, not 0 */
};

enum ffl_setting_user { FFL_SETTING_LOOP = 1, FFL_SETTING_SHIM = 2, FFL_SETTING_BUILD = 4 };

struct ffl_setting {
    const char *variable;
    const char *argument; /* new_event_loop's and run's, "" for none */
    int kind;             /* enum ffl_setting_kind */
    unsigned users;       /* enum ffl_setting_user */
    bool places;          /* it says where sockets go: while malformed, no socket is placed */
    size_t field;         /* offset in struct ffl_config */
    int64_t min, max;
    const char *unit;
    const char *const *words; /* of WORD; NULL after the last */
    const char *otherwise;    /* the default, in words, for the documentation; or NULL */
    const char *meaning;      /* its meaning, for the documentation */
};

/* The i-th row, NULL after the last. */
const struct ffl_setting *ffl_setting_at(unsigned i);

/* The row's values, in words: "a whole number (KiB) from 0 to 5". */
void ffl_setting_expected(const struct ffl_setting *row, char *out, size_t len);

/* A config in which nothing is set. */
void ffl_config_init(struct ffl_config *c);
/*
 * Sets the row's field. Texts and words are not copied: words are the table's, a text is `value`.
 * `source`: the variable's or argument's name, for the sentence. 0, or -EINVAL with a sentence:
 * SOURCE='VALUE': expected ...
 */
int ffl_config_set(struct ffl_config *c, const struct ffl_setting *row, const char *source,
                   const char *value, char *why, size_t whylen);
/*
 * Sets the fields of the environment's variables for `user`. `get` returns a variable's text, which
 * must stay valid, or NULL. Malformed values are not set; `bad` is called with a sentence for each.
 * False: a malformed value says where sockets go.
 */
bool ffl_config_read(struct ffl_config *c, unsigned user, const char *(*get)(const char *variable),
                     void (*bad)(const char *why));

/* May the environment be used? Not in a process with more rights than its starter. */
bool ffl_setting_trusted(void);

#endif
