/* direct.c - an instance in the thread of its application. See direct.h. */
#include "direct.h"

#include "internal.h"

#include <errno.h>
#include <stdlib.h>

#define REST_NS FFL_NS_PER_SEC /* at a loop's end, for peers to take the rest */

struct direct {
    struct ffl_instance *in;
    bool (*enough)(void *caller); /* of the run under way */
    void *caller;
    int64_t until; /* when send_rest gives up */
};

static void submit(void *arg)
{
    struct direct *d = arg;
    (void)ffl_instance_iterate(d->in); /* < 0 only after a stop: not asked for here */
}

static int64_t one_iteration(void *arg)
{
    struct direct *d = arg;
    int64_t next = ffl_instance_iterate(d->in);
    return next < 0 || d->enough(d->caller) ? -1 : next;
}

static void run(void *arg, bool (*enough)(void *caller), void *caller)
{
    struct direct *d = arg;
    d->enough = enough;
    d->caller = caller;
    (void)OPS(d->in)->run(ST(d->in), one_iteration, d); /* its iterations report errors */
}

int ffl_direct_open(struct ffl_driver *out, const struct ffl_stack_ops *stack,
                    const struct ffl_stack_opts *opts, const char *path, char *why, size_t whylen)
{
    struct ffl_instance_opts o;
    struct direct *d = calloc(1, sizeof(*d));
    if (!d)
        return -ENOMEM;
    ffl_instance_opts_default(&o);
    o.stack = stack;
    o.stack_opts = *opts;
    o.path = path;
    o.direct = true;
    int rc = ffl_instance_start(&d->in, &o, why, whylen);
    if (rc < 0)
        free(d);
    else
        *out = (struct ffl_driver){.arg = d, .submit = submit, .run = run};
    return rc;
}

/* Sends data that was submitted before the clients detached, as any instance does. */
static int64_t send_rest(void *arg)
{
    struct direct *d = arg;
    int64_t next = ffl_instance_iterate(d->in);
    return ffl_instance_sockets(d->in) && ffl_now_ns() < d->until ? next : -1;
}

void ffl_direct_close(struct ffl_driver *driver)
{
    struct direct *d = driver->arg;
    d->until = ffl_now_ns() + REST_NS;
    (void)OPS(d->in)->run(ST(d->in), send_rest, d);
    ffl_instance_free(d->in);
    free(d);
}
