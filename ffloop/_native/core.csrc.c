/*
 * The cffi module ffloop._native._core: the client library and nothing else (see client.h).
 *
 * cffi drops the GIL around every call. Most calls here touch memory only and take less than
 * dropping it does; and a program with threads would lose the interpreter in the middle of each
 * write. So the calls keep it, and those that may wait drop it themselves.
 */
#include "calls.h"
#include "carry.h"
#include "choice.h"
#include "client.h"
#include "option.h"
#include "place.h"
#include "selector.h"
#include "setting.h"
#include "spin.h"
#include "stats.h"

#undef Py_BEGIN_ALLOW_THREADS
#undef Py_END_ALLOW_THREADS
#define Py_BEGIN_ALLOW_THREADS {
#define Py_END_ALLOW_THREADS }

#define WAITS(NAME, PARAMETERS, ARGUMENTS)                                                         \
    static int waiting_##NAME PARAMETERS                                                           \
    {                                                                                              \
        PyThreadState *thread = PyEval_SaveThread();                                               \
        int rc = ffl_client_##NAME ARGUMENTS;                                                      \
        PyEval_RestoreThread(thread);                                                              \
        return rc;                                                                                 \
    }

WAITS(attach, (struct ffl_client * *out, const struct ffl_client_opts *o, char *why, size_t whylen),
      (out, o, why, whylen))
WAITS(wait, (struct ffl_client * c, struct ffl_event *ev, int max, int epfd, int64_t timeout_ns),
      (c, ev, max, epfd, timeout_ns))
WAITS(bind, (struct ffl_client * c, int h, const struct ffl_addr *a), (c, h, a))
WAITS(listen, (struct ffl_client * c, int h, int backlog, unsigned flags), (c, h, backlog, flags))
WAITS(getsockopt, (struct ffl_client * c, int h, int level, int name, void *val, uint32_t *len),
      (c, h, level, name, val, len))
WAITS(setsockopt,
      (struct ffl_client * c, int h, int level, int name, const void *val, uint32_t len),
      (c, h, level, name, val, len))
WAITS(addresses, (struct ffl_client * c, int h, struct ffl_addresses *out), (c, h, out))
WAITS(look, (struct ffl_client * c, int h), (c, h))
WAITS(ping, (struct ffl_client * c), (c))

WAITS(ticket, (const struct ffl_client_opts *o, struct ffl_ticket *out, char *why, size_t whylen),
      (o, out, why, whylen))

WAITS(give_back, (struct ffl_client * c, int h), (c, h))
WAITS(export, (struct ffl_client * c, int h, const struct ffl_ticket *t), (c, h, t))
WAITS(import,
      (struct ffl_client * c, const struct ffl_ticket *t, uint32_t handle, int domain, int type,
       int proto),
      (c, t, handle, domain, type, proto))

static int waiting_start(struct ffl_direct **out, const char *native, int argc, char **argv,
                         const char *path, char *why, size_t whylen)
{
    PyThreadState *thread = PyEval_SaveThread();
    int rc = ffl_direct_start(out, native, argc, argv, path, why, whylen);
    PyEval_RestoreThread(thread);
    return rc;
}

static void waiting_stop(struct ffl_direct *d)
{
    PyThreadState *thread = PyEval_SaveThread();
    ffl_direct_stop(d);
    PyEval_RestoreThread(thread);
}

#define WAITS_ON(NAME, PARAMETERS, ARGUMENTS)                                                      \
    static int waiting_##NAME PARAMETERS                                                           \
    {                                                                                              \
        PyThreadState *thread = timeout_ns ? PyEval_SaveThread() : NULL;                           \
        int rc = ffl_##NAME ARGUMENTS;                                                             \
        if (thread)                                                                                \
            PyEval_RestoreThread(thread);                                                          \
        return rc;                                                                                 \
    }

WAITS_ON(selector_poll, (struct ffl_selector * s, int *pairs, int max, int64_t timeout_ns),
         (s, pairs, max, timeout_ns))
WAITS_ON(kqueue_wait, (struct ffl_kqueue * kq, struct kevent *events, int room, int64_t timeout_ns),
         (kq, events, room, timeout_ns))

static void waiting_detach(struct ffl_client *c)
{
    PyThreadState *thread = PyEval_SaveThread();
    ffl_client_detach(c);
    PyEval_RestoreThread(thread);
}

#define ffl_direct_start waiting_start
#define ffl_direct_stop waiting_stop
#define ffl_client_ticket waiting_ticket
#define ffl_client_give_back waiting_give_back
#define ffl_client_export waiting_export
#define ffl_client_import waiting_import
#define ffl_client_detach waiting_detach
#define ffl_client_attach waiting_attach
#define ffl_client_wait waiting_wait
#define ffl_client_bind waiting_bind
#define ffl_client_listen waiting_listen
#define ffl_client_getsockopt waiting_getsockopt
#define ffl_client_setsockopt waiting_setsockopt
#define ffl_client_addresses waiting_addresses
#define ffl_client_look waiting_look
#define ffl_client_ping waiting_ping
#define ffl_selector_poll waiting_selector_poll
#define ffl_kqueue_wait waiting_kqueue_wait
