/*
 * hot.h - the compiled half of ffloop/_loop: what its parts share.
 *
 * scheduler.c  Scheduler: a loop's callbacks           iteration.c  its iterations
 * handle.c     Handle and TimerHandle                  timers.c     the heap of timers
 * queue.c      the handles that are to run             context.c    contexts, entered and left
 * dispatcher.c Dispatcher: a batch of a session's events, handed out
 * direct.c     the same without a session              acceptor.c   direct mode's listeners
 * stream.c     Stream: stream transports' base class   transfer.c   its reads and writes
 * life.c       how a connection begins and ends        gather.c     a callback's writes go together
 * feed.c       data for asyncio's streams              streams.c    their read() and drain()
 * call.c       coroutines in C, for those              tls.c        Tls: under SSLProtocol
 * watchers.c   Watchers: descriptors that are watched    watching.c   add_reader() and the like
 * pipe.c       transports of pipes                     datagram.c   of kernel datagram sockets
 * page.c       direct mode's stats page
 *
 * The plain cases are here, all others in Python. The limited API of Python 3.11: one wheel serves
 * every later version.
 */
#ifndef FFL_HOT_H
#define FFL_HOT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include "base.h"
#include "client.h"

#include <stdbool.h>

/* Headers from 3.12 on return None, True and False without counting a reference, which 3.11 would
 * miss. A module built with one version runs on the others, so every reference is counted
 * (Py_NewRef). */
#undef Py_RETURN_NONE
#undef Py_RETURN_TRUE
#undef Py_RETURN_FALSE
#undef Py_RETURN_NOTIMPLEMENTED
#pragma GCC poison Py_RETURN_NONE Py_RETURN_TRUE Py_RETURN_FALSE Py_RETURN_NOTIMPLEMENTED

struct stream; /* stream.h */
struct direct; /* direct.c */

typedef struct {
    PyObject_HEAD
    struct ffl_client *c;      /* NULL: closed, and the buffers are released; or direct mode */
    struct direct *direct;     /* direct mode, or NULL */
    Py_buffer segment, events; /* the shared memory; the batch */
    PyObject *ring;            /* the session's Client (binding.py), or None: direct mode */
    PyObject *receivers;       /* of that Client: {handle: Stream or another endpoint} */
    PyObject *orphans;         /* of that Client: the handles to close */
    PyObject *other;           /* other(kind, handle, arg, off) takes every event but plain data */
    int epfd;
    long long longest_ns; /* no wait is longer; < 0: no limit */
    int index, count;     /* the next event, and how many the batch has */
    char *room;           /* dispatcher_room()'s block, or NULL: not asked for yet */
    int queued; /* handles of debug mode in the loop's queue that will dispatch one event each */
    unsigned long thread; /* direct mode: the thread that runs the loop */
    uint64_t waits;
    bool added;          /* direct mode: more is wanted of a socket than at the last wait */
    struct ffl_lag *lag; /* in the session's segment or the page, for others to read (or direct.c's
                            own, until there is a page); or NULL */
} Dispatcher;

/* Replaces a counted reference (Py_XSETREF is not in the limited API). */
void hot_set_ref(PyObject **to, PyObject *value);
struct hot_name {
    PyObject **to;
    const char *text;
};
int hot_intern_all(const struct hot_name *names, size_t n);
/* module.name, as a new reference in *to. */
int hot_import(PyObject **to, const char *module, const char *name);
/* function(self, ...), with arguments as METH_FASTCALL | METH_KEYWORDS gives them. */
PyObject *hot_forward(PyObject *function, PyObject *self, PyObject *const *args, Py_ssize_t n,
                      PyObject *keys);
/* tp_dealloc of this module's types: `clear` drops the object's references. */
void hot_dealloc(PyObject *self, inquiry clear);
/* Makes the type and adds it to the module: a borrowed reference, or NULL. */
PyObject *hot_add_type(PyObject *module, const char *name, PyType_Spec *spec, PyObject *bases);
/* The same for a subclass of a class made in Python (from.base_name), whose own slots stay empty:
 * the fields, `size` bytes, stand at *at, or behind the slots where that is 0; it is set to the
 * place, from which the offsets of members count. */
int hot_add_subtype(PyObject *module, const char *name, PyType_Spec *spec, const char *from,
                    const char *base_name, PyMemberDef *members, size_t size, Py_ssize_t *at,
                    PyTypeObject **out);
/* The exception that is set, if any, is put by while something else is done... */
struct hot_exception {
    PyObject *type, *value, *trace;
};
struct hot_exception hot_put_by(void);
/* ...which has returned `rc`: 0: the exception is set again; -1: it gives way to the new one. 0, or
 * -1 with an exception. */
int hot_set_again(struct hot_exception was, int rc);

/* The fields of a Stream (stream.h); NULL for any other object. */
struct stream *stream_of(PyObject *self);
/* Hands len bytes to a plain protocol. 0 or -1. */
int stream_deliver(PyObject *self, const char *data, size_t len);
/* Drops a call's result: 0, or -1 for NULL. */
int hot_done(PyObject *result);
/* self.name(a): 0 or -1. a may be NULL. */
int hot_call(PyObject *self, PyObject *name, PyObject *a);
/* `except BaseException as exc: self.name(exc, a, b)` for the exception that is set; a and b may be
 * NULL. 0 or -1. Those that end the program (KeyboardInterrupt, SystemExit) stay set. */
int hot_fault(PyObject *self, PyObject *name, PyObject *a, PyObject *b);

/* Waits for a batch (see ffl_client_wait). The number of its events when kernel descriptors other
 * than wake_fd are among them, else 0; -1 with an exception. */
int dispatcher_wait(Dispatcher *d, int64_t timeout_ns, int wake_fd);
/* Calls fn(arg, descriptor, epoll events) for each of the selector's descriptors among the `n`
 * events that dispatcher_wait returned, until it returns -1. */
typedef int kernel_event_fn(void *arg, int fd, unsigned events);
int dispatcher_kernel_events(const Dispatcher *d, int n, kernel_event_fn *fn, void *arg);
/* An iteration has worked for `ns`, which is of the bucket `i`. */
void dispatcher_show_lag(Dispatcher *d, int i, int64_t ns);
/* Hands out the events from index on. 0, or -1 with an exception: what is left stays. */
int dispatcher_hand_out(Dispatcher *d);
#define DISPATCHER_ROOM (256 * 1024) /* bytes per recv, as asyncio's */
/* DISPATCHER_ROOM bytes of memory for data on its way to a plain protocol, or NULL with an
 * exception. Any callback may overwrite them. */
char *dispatcher_room(Dispatcher *d);
extern PyTypeObject *dispatcher_type;

struct direct_counters {
    uint64_t sleeps, events, accepts, bytes_received, sends, bytes_sent;
    uint32_t sockets;
};
struct ffl_instance_page;
struct ffl_instance_page *page_open(int *fd); /* NULL: there is none */
void page_close(struct ffl_instance_page *page, int fd);
void page_note(struct ffl_instance_page *page, uint64_t waits, const struct direct_counters *n);
struct ffl_lag *page_lag(struct ffl_instance_page *page); /* NULL without a page */

/* Direct mode (direct.c). */
struct direct *direct_new(int64_t spin_us);
void direct_free(struct direct *d);
int direct_traverse(const struct direct *d, visitproc visit, void *arg);
int direct_wait(Dispatcher *d, int64_t timeout_ns, int wake_fd); /* as dispatcher_wait */
int direct_dispatch(Dispatcher *d, int fd, unsigned events);
int direct_dispatch_next(Dispatcher *d); /* the event at index */
int direct_kernel_events(const Dispatcher *d, kernel_event_fn *fn, void *arg);
PyObject *direct_others(Dispatcher *d); /* [(descriptor, epoll events)] that are the selector's */
PyObject *
direct_batch(Dispatcher *d); /* [(descriptor, epoll events)] of the batch, which is taken */
/* A Stream, an Acceptor or None: a new reference. */
PyObject *direct_owner(Dispatcher *d, int fd);
PyObject *direct_counters(Dispatcher *d);
struct ffl_lag *direct_lag(struct direct *d); /* until there is a page */
/* Gives the descriptor's events to the owner from now on (0: none); `before`: the events until now.
 * 0, or -1 with an exception. */
int direct_watch(Dispatcher *d, int fd, unsigned events, unsigned before, PyObject *owner);
void direct_take_over(Dispatcher *d, int fd); /* the epoll has an entry that nobody needs */
void direct_accepted(Dispatcher *d);
void direct_sent(Dispatcher *d, size_t bytes);
void direct_received(Dispatcher *d, size_t bytes);
/* One recv, or several of a bulk stream, and their data, end or error handed on. */
int stream_read(Dispatcher *d, PyObject *self);

/* gather.c: a loop's callbacks begin, one has ended and another begins, they end with `rc`. What
 * they have written goes out. 0, or -1 with an exception. */
struct gather; /* what is kept in this thread */
struct gather *gather_here(void);
int gather_begin(struct gather *kept);
int gather_next(struct gather *kept);
int gather_end(struct gather *kept, int rc);
int gather_flush(void); /* sends what is kept. 0 or -1 */

bool acceptor_is(PyObject *owner);
int acceptor_ready(PyObject *acceptor); /* accepts the connections that have come */

bool tls_is(PyObject *protocol); /* a Tls takes data as a plain protocol does */

/* pipe.c, and for datagram.c: asyncio's own transports, by their dictionaries. Is the attribute
 * there and false? */
bool transport_lacks(PyObject *attributes, PyObject *name);
int transport_number(PyObject *attributes, PyObject *name); /* -1: it is none, or not there */
/* A transport's _read_ready: `read` gets its attributes and its loop's dispatcher_room(), and
 * returns 1; 0: `slow`, asyncio's, is to look; -1 with an exception. */
PyObject *transport_read(PyObject *self, int (*read)(PyObject *attributes, char *room),
                         PyObject *slow);
/* type.method, which a class in front of it hides. 0 or -1. */
int transport_method(PyObject **to, const char *module, const char *type, PyObject *method);

int direct_exec(void);
int tls_exec(PyObject *module);
int acceptor_exec(PyObject *module);
int pipe_exec(PyObject *module);
int datagram_exec(PyObject *module);
int stream_exec(PyObject *module);
int dispatcher_exec(PyObject *module);

#endif
