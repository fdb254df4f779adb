/*
 * stream.h - Stream, the compiled base class of stream transports. stream.c has the type,
 * transfer.c reads and writes, gather.c joins writes, life.c begins and ends connections, feed.c
 * feeds asyncio's streams, streams.c is their read() and drain().
 */
#ifndef FFL_STREAM_H
#define FFL_STREAM_H

#include "hot.h"

/* The fields, behind the base class's own (stream_of). NULL and None both mean that there is none
 * (is_set): Python sees NULL as None. */
struct stream {
    PyObject *loop, *protocol, *extra, *server; /* under asyncio's names */
    PyObject *dispatcher;                       /* direct mode: the loop's */
    PyObject *context;                          /* of reading callbacks */
    PyObject *lasting;                          /* from Python 3.15 on: of all callbacks */
    PyObject *backlog, *write_context;
    PyObject *unsendable;                     /* why sending failed, while reading goes on */
    PyObject *sock, *bound, *peer, *flushing; /* direct mode: direct.py's */
    Py_ssize_t high_water, low_water;         /* behind the last reference (STREAM_REFS) */
    struct ffl_client *c;        /* of a session; NULL: the kernel's socket, or detached */
    const unsigned long *thread; /* the thread that runs the loop */
    int handle;                  /* a descriptor in direct mode; -1: closed */
    unsigned watched;            /* direct mode: the events that the epoll has */
    int conn_lost;
    char protocol_paused, protocol_connected;
    char open, begun, paused, closing, eof; /* begun: connection_made was called */
    char buffered;  /* the protocol gives its buffers: get_buffer() and buffer_updated() */
    char feeds;     /* the protocol is one of asyncio's streams: feed.c */
    char lends;     /* the protocol is a Tls, which copies its data at once: it is lent memory */
    char bulk;      /* direct mode: the last recv brought BULK bytes or more */
    char receiving; /* data goes to the protocol at once: begun, not paused, not closing */
    char sending;   /* write() needs no backlog: there is none, no end of file, not closed */
    /* gather.c's */
    PyObject *kept; /* NULL, bytes, or a list of them */
    Py_ssize_t kept_bytes;
    char gathers; /* the last callback that wrote wrote several times */
    char writes;  /* of the callback of this number; 2: or more */
    unsigned wrote_in;
};
#define STREAM_REFS (offsetof(struct stream, high_water) / sizeof(PyObject *))

extern Py_ssize_t stream_at; /* the offset of the fields */

/* The fields of an object that is known to be a Stream. */
static inline struct stream *stream_fields(PyObject *self)
{
    return (struct stream *)((char *)self + stream_at);
}

static inline bool is_set(const PyObject *field)
{
    return field && field != Py_None;
}

/* A connection that was accepted in direct mode, for stream_new. */
struct accepted {
    PyObject *loop, *dispatcher, *server, *bound, *peer;
    int fd;
};
/* A transport that owns the descriptor, of a subclass without an __init__ of its own. */
PyObject *stream_new(PyTypeObject *type, PyObject *protocol, const struct accepted *from);
/* context.run(of.name, a), as a new reference. The callback may replace all of them. */
PyObject *stream_run(struct stream *s, PyObject *of, PyObject *name, PyObject *a);
/* The answer of a BufferedProtocol's get_buffer(), a new reference or NULL, as *room. 0; -1 with an
 * exception. */
int stream_room(PyObject *given, Py_buffer *room);
void stream_detach(struct stream *s); /* no more events; writes take the long way */

int stream_attach(PyObject *self, struct stream *s); /* to its server */
int stream_eof(PyObject *self, struct stream *s);    /* the peer has sent its last byte */
int stream_tell_waiter(PyObject *waiter);            /* set_result(None), unless it was cancelled */
void stream_finalize(PyObject *self);

/* feed.c. Is it a StreamReaderProtocol of asyncio's, unchanged? -1 with an exception. */
int feed_serves(PyObject *protocol);
/* Does the work of its data_received: 1; 0: nothing is done, data_received is to be called; -1 with
 * an exception. */
int feed_reader(PyObject *protocol, const char *data, size_t len);
/* The protocol's reader as a new reference; NULL without an exception: it has gone, or is of an
 * application's class. */
PyObject *feed_reader_of(PyObject *protocol);
/* A method of asyncio's streams. */
struct original {
    PyTypeObject **type;
    const char *qualname;
    PyObject *name, *function; /* NULL: it was changed before this module came */
};
int feed_find(struct original *all, size_t n); /* looks them up: 0 or -1 */
/* Does the class have all of them as asyncio has? -1 with an exception. */
int feed_unchanged(const struct original *all, size_t n);
/* An attribute of a reader or writer, whose classes have none of that name: borrowed, NULL if there
 * is none. */
static inline PyObject *feed_get(PyObject *attributes, PyObject *name)
{
    return PyDict_GetItemWithError(attributes, name);
}
/* The first n of a reader's attributes, in the order in which asyncio sets them. */
enum { LIMIT, LOOP, BUFFER, EOF_FED, WAITER, EXCEPTION, TRANSPORT, PAUSED, READER_NAMES };
extern PyObject *feed_names[READER_NAMES];
/* As feed_get for each of n names; in the dictionary's order that costs a third. */
void feed_get_all(PyObject *attributes, PyObject *const *names, size_t n, PyObject **found);

/* streams.c. protocol.connection_made(transport); the read() of the protocol's reader is compiled
 * then, and the drain() of a server's writer. 0 or -1. */
int streams_begin(PyObject *protocol, PyObject *transport);
bool streams_is_reader(PyObject *reader); /* of asyncio's class, or of ours */

/* gather.c. Is the write that the stream is about to make to be kept? */
bool gather_wants(struct stream *s);
int gather_keep(PyObject *stream, PyObject *data, Py_ssize_t size);

/* Methods of transfer.c, then of life.c. */
PyObject *stream_write(PyObject *self, PyObject *data);
PyObject *stream_send(PyObject *self, PyObject *data);
PyObject *stream_send_pieces(PyObject *self, PyObject *list);
/* What was not sent of bytes, or of a list of them, becomes the backlog; `sent`: or -errno. */
PyObject *stream_write_rest(PyObject *self, PyObject *pieces, PyObject *sent);
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
int streams_exec(PyObject *module);

#endif
