/* context.c - the interpreter's functions of contexts. See context.h. */
#include "context.h"

#include <dlfcn.h>

static struct {
    PyObject *(*copy_current)(void);
    PyObject *(*copy)(PyObject *context);
    int (*enter)(PyObject *context);
    int (*leave)(PyObject *context);
} api;

PyObject *context_copy_current(void)
{
    return api.copy_current();
}

PyObject *context_copy(PyObject *context)
{
    return api.copy(context);
}

int context_enter(PyObject *context)
{
    return api.enter(context);
}

PyObject *context_leave(PyObject *context, PyObject *result)
{
    if (api.leave(context) < 0)
        Py_CLEAR(result);
    return result;
}

PyObject *context_run(PyObject *context, PyObject *callback, PyObject *args)
{
    if (api.enter(context) < 0)
        return NULL;
    return context_leave(context, PyObject_Call(callback, args, NULL));
}

static int find(void *to, const char *name)
{
    *(void **)to = dlsym(RTLD_DEFAULT, name);
    if (!*(void **)to)
        PyErr_Format(PyExc_ImportError, "ffloop needs CPython: this interpreter has no %s", name);
    return *(void **)to ? 0 : -1;
}

int context_exec(void)
{
    if (find(&api.copy_current, "PyContext_CopyCurrent") < 0 ||
        find(&api.copy, "PyContext_Copy") < 0 || find(&api.enter, "PyContext_Enter") < 0)
        return -1;
    return find(&api.leave, "PyContext_Exit");
}
