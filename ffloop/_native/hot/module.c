/* module.c - ffloop._native._hot and the helpers of its parts. See hot.h. */
#include "context.h"
#include "scheduler.h"

void hot_set_ref(PyObject **to, PyObject *value)
{
    PyObject *old = *to;
    Py_INCREF(value);
    *to = value;
    Py_XDECREF(old);
}

int hot_done(PyObject *result)
{
    Py_XDECREF(result);
    return result ? 0 : -1;
}

int hot_intern_all(const struct hot_name *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!*names[i].to && !(*names[i].to = PyUnicode_InternFromString(names[i].text)))
            return -1;
    return 0;
}

int hot_import(PyObject **to, const char *module, const char *name)
{
    PyObject *m = PyImport_ImportModule(module);
    Py_XDECREF(*to);
    *to = m ? PyObject_GetAttrString(m, name) : NULL;
    Py_XDECREF(m);
    return *to ? 0 : -1;
}

PyObject *hot_forward(PyObject *function, PyObject *self, PyObject *const *args, Py_ssize_t n,
                      PyObject *keys)
{
    PyObject *all = PyTuple_New(n + 1), *kw = PyDict_New(), *r = NULL;
    if (!all || !kw)
        goto out;
    PyTuple_SetItem(all, 0, Py_NewRef(self));
    for (Py_ssize_t i = 0; i < n; i++)
        PyTuple_SetItem(all, i + 1, Py_NewRef(args[i]));
    for (Py_ssize_t i = 0; keys && i < PyTuple_Size(keys); i++)
        if (PyDict_SetItem(kw, PyTuple_GetItem(keys, i), args[n + i]) < 0)
            goto out;
    r = PyObject_Call(function, all, kw);
out:
    Py_XDECREF(all);
    Py_XDECREF(kw);
    return r;
}

void hot_dealloc(PyObject *self, inquiry clear)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    clear(self);
    freefunc release = PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

PyObject *hot_add_type(PyObject *module, const char *name, PyType_Spec *spec, PyObject *bases)
{
    PyObject *type = PyType_FromSpecWithBases(spec, bases);
    if (!type)
        return NULL;
    int rc = PyModule_AddObjectRef(module, name, type);
    Py_DECREF(type); /* the module holds it */
    return rc < 0 ? NULL : type;
}

int hot_add_subtype(PyObject *module, const char *name, PyType_Spec *spec, const char *from,
                    const char *base_name, PyMemberDef *members, size_t size, Py_ssize_t *at,
                    PyTypeObject **out)
{
    PyObject *base = NULL, *base_size = NULL;
    if (hot_import(&base, from, base_name) < 0)
        return -1;
    base_size = PyObject_GetAttrString(base, "__basicsize__");
    if (base_size && !spec->basicsize) {
        Py_ssize_t behind = PyLong_AsSsize_t(base_size), end;
        *at = *at ? *at : behind;
        for (PyMemberDef *m = members; m->name; m++)
            m->offset += *at;
        end = *at + (Py_ssize_t)size;
        spec->basicsize = (int)(end > behind ? end : behind);
    }
    if (base_size)
        *out = (PyTypeObject *)hot_add_type(module, name, spec, base);
    Py_XDECREF(base_size);
    Py_DECREF(base);
    return *out ? 0 : -1;
}

/* As an object; NULL for one that is to end the program, which stays set. */
static PyObject *take_exception(void)
{
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) || PyErr_ExceptionMatches(PyExc_SystemExit))
        return NULL;
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    if (trace)
        PyException_SetTraceback(value, trace);
    Py_XDECREF(type);
    Py_XDECREF(trace);
    return value;
}

struct hot_exception hot_put_by(void)
{
    struct hot_exception was;
    PyErr_Fetch(&was.type, &was.value, &was.trace);
    return was;
}

int hot_set_again(struct hot_exception was, int rc)
{
    if (rc == 0) {
        PyErr_Restore(was.type, was.value, was.trace);
        return was.type ? -1 : 0;
    }
    Py_XDECREF(was.type);
    Py_XDECREF(was.value);
    Py_XDECREF(was.trace);
    return -1;
}

/* The exception that this frame or coroutine handles, and none that an outer one does. It handles
 * none afterwards. */
static PyObject *handled_here(void)
{
    PyObject *handled = PyErr_GetHandledException();
    PyErr_SetHandledException(NULL);
    PyObject *outer = PyErr_GetHandledException();
    if (outer == handled)
        Py_CLEAR(handled);
    Py_XDECREF(outer);
    return handled;
}

int hot_fault(PyObject *self, PyObject *name, PyObject *a, PyObject *b)
{
    PyObject *exc = take_exception();
    if (!exc)
        return -1;
    PyObject *own = handled_here();
    PyErr_SetHandledException(exc); /* what sys.exc_info() is to say */
    Py_INCREF(self);
    PyObject *r = PyObject_CallMethodObjArgs(self, name, exc, a, b, NULL);
    Py_DECREF(self);
    PyErr_SetHandledException(own);
    Py_XDECREF(own);
    Py_DECREF(exc);
    return hot_done(r);
}

static int module_exec(PyObject *module)
{
    if (context_exec() < 0 || stream_exec(module) < 0 || dispatcher_exec(module) < 0 ||
        direct_exec() < 0 || acceptor_exec(module) < 0 || pipe_exec(module) < 0 ||
        datagram_exec(module) < 0)
        return -1;
    return tls_exec(module) < 0 ? -1 : scheduler_exec(module);
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "ffloop._native._hot",
    .m_doc = "The compiled half of the Python face.",
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__hot(void);
PyMODINIT_FUNC PyInit__hot(void)
{
    return PyModuleDef_Init(&module_def);
}
