/*
 * stream.h - Stream, the compiled base class of stream transports. stream.c is the type, transfer.c
 * reads and writes, life.c is how a connection begins and ends, feed.c feeds asyncio's streams.
 */
#ifndef FFL_STREAM_H
#define FFL_STREAM_H

#include "hot.h"

/* The fields, behind the base class's own (stream_of). What Python sees is NULL as None, so that both
 * say that there is none (is_set). */
struct stream {
    PyObject *loop, *protocol, *extra, *server;      /* under asyncio's names */
    PyObject *dispatcher;                            /* direct mode: whose descriptor it is */
    PyObject *context;                               /* of reading callbacks */
    PyObject *lasting;                               /* from Python 3.15 on: of all its callbacks */
    PyObject *deliver, *get_buffer, *buffer_updated; /* the protocol's; NULL where it has none */
    PyObject *backlog, *write_context;
    PyObject *unsendable;                        /* why sending failed, while reading goes on */
    PyObject *sock, *listener, *peer, *flushing; /* direct mode: direct.py's */
    Py_ssize_t high_water, low_water;            /* behind the last reference (STREAM_REFS) */
    struct ffl_client *c;        /* of a session; NULL: the kernel's socket, or detached */
    const unsigned long *thread; /* whose the loop is */
    int handle;                  /* a descriptor in direct mode; -1: closed */
    unsigned watched;            /* direct mode: the epoll's events */
    int conn_lost;
    char protocol_paused, protocol_connected;
    char open, begun, paused, closing, eof; /* begun: connection_made was called */
    char feeds;                             /* the protocol is one of asyncio's streams: feed.c */
    char lends;     /* the protocol is a Tls: what it is handed is copied at once, so it is lent */
    char bulk;      /* direct mode: the last recv brought much */
    char receiving; /* data goes to the protocol at once: begun, not paused, not closing */
    char sending;   /* write() goes out at once: no backlog, no end of file, not closed */
};
#define STREAM_REFS (offsetof(struct stream, high_water) / sizeof(PyObject *))

extern Py_ssize_t stream_at; /* where the fields stand */

/* Of what is known to be a Stream. */
static inline struct stream *stream_fields(PyObject *self)
{
    return (struct stream *)((char *)self + stream_at);
}

static inline bool is_set(const PyObject *field)
{
    return field && field != Py_None;
}

/* What a connection that was accepted in direct mode is made of. */
struct accepted {
    PyObject *loop, *dispatcher, *server, *listener, *peer;
    int fd;
};
/* A transport, of a subclass without an __init__ of its own, that owns the descriptor. */
PyObject *stream_new(PyTypeObject *type, PyObject *protocol, const struct accepted *from);
/* context.run(callback, a), as a new reference. The callback may replace both. */
PyObject *stream_run(struct stream *s, PyObject *callback, PyObject *a);
/* What a BufferedProtocol's get_buffer() gave, a new reference or NULL, as *room: 0; -1 with an exception. */
int stream_room(PyObject *given, Py_buffer *room);
void stream_detach(struct stream *s); /* no more events; writes take the long way */

int stream_attach(PyObject *self, struct stream *s); /* to its server */
int stream_eof(PyObject *self, struct stream *s);    /* the peer has sent its last byte */
int stream_tell_waiter(PyObject *waiter);            /* set_result(None), unless it was cancelled */
void stream_finalize(PyObject *self);

/* feed.c. Is it one of asyncio's StreamReaderProtocols, as they are? -1 with an exception. */
int feed_serves(PyObject *protocol);
/* Its data_received: 1; 0: nothing is done, it is to be called; -1 with an exception. */
int feed_reader(PyObject *protocol, const char *data, size_t len);

/* Methods of transfer.c, then of life.c. */
PyObject *stream_write(PyObject *self, PyObject *data);
PyObject *stream_send(PyObject *self, PyObject *data);
PyObject *stream_send_pieces(PyObject *self, PyObject *list);
PyObject *stream_begin(PyObject *self, PyObject *const *args, Py_ssize_t n);
PyObject *stream_end(PyObject *self, PyObject *const *args, Py_ssize_t n);
PyObject *stream_close(PyObject *self, PyObject *unused);
PyObject *stream_is_closing(PyObject *self, PyObject *unused);
PyObject *stream_is_reading(PyObject *self, PyObject *unused);
PyObject *stream_read_eof(PyObject *self, PyObject *unused);
PyObject *stream_resume(PyObject *self, PyObject *unused);
PyObject *stream_stop_reading(PyObject *self, PyObject *unused);
PyObject *stream_tell_writable(PyObject *self, PyObject *wanted);

int transfer_exec(void);
int life_exec(void);
int feed_exec(void);

#endif
