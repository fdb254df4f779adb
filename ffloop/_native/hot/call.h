/*
 * call.h - Call: a coroutine in C, read() or drain() of one of asyncio's streams. call.c has the
 * type, streams.c what a call does.
 */
#ifndef FFL_CALL_H
#define FFL_CALL_H

#include "stream.h"

enum state { NEW, WAITS, ASYNCIO, DONE }; /* WAITS: for the reader's waiter */
enum { PLAIN_NOT = 2 };                   /* beside a PySendResult's values */

typedef struct call Call;
struct kind {
    PyObject *original; /* asyncio's function */
    /* A PySendResult, or PLAIN_NOT; PYGEN_NEXT: `awaited` is set, and nothing sent to it yet. */
    int (*begin)(Call *c, PyObject **result);
    const char *name, *qualname;
};

struct call {
    PyObject_HEAD
    const struct kind *kind;
    PyObject *of, *n;  /* the reader or writer; read()'s argument or NULL */
    PyObject *awaited; /* WAITS: the waiter's iterator; ASYNCIO: asyncio's coroutine */
    enum state state;
    bool running;
};

PyObject *call_new(const struct kind *kind, PyObject *of, PyObject *n);
int call_exec(PyObject *module);

/* streams.c */
PySendResult streams_end_read(Call *c, PySendResult r, PyObject **result);
int streams_stop_waiting(Call *c);

#endif
