/* queue.c - a circular array of references that grows. See queue.h. */
#include "queue.h"
#include "handle.h"

#define FIRST_ROOM 64
#define FETCH 8 /* places from an item to the one that is fetched, its callback half as many */
#define KEPT_ROOM 4096 /* an empty queue keeps so many places at most */

typedef struct {
    PyObject_HEAD
    PyObject **items;
    size_t room; /* a power of two, or 0 */
    size_t head, size;
} Queue;

static PyTypeObject *queue_type;

static PyObject **slot(Queue *q, size_t i)
{
    return &q->items[(q->head + i) & (q->room - 1)];
}

PyObject *queue_new(void)
{
    return PyType_GenericAlloc(queue_type, 0);
}

Py_ssize_t queue_size(PyObject *queue)
{
    return (Py_ssize_t)((Queue *)queue)->size;
}

/* Moves the items to an array of `room` places. */
static int resize(Queue *q, size_t room)
{
    PyObject **items = PyMem_Calloc(room, sizeof(*items));
    if (!items) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < q->size; i++)
        items[i] = *slot(q, i);
    PyMem_Free(q->items);
    q->items = items;
    q->room = room;
    q->head = 0;
    return 0;
}

int queue_append(PyObject *queue, PyObject *item)
{
    Queue *q = (Queue *)queue;
    if (q->size == q->room && resize(q, q->room ? q->room * 2 : FIRST_ROOM) < 0)
        return -1;
    *slot(q, q->size++) = Py_NewRef(item);
    return 0;
}

PyObject *queue_popleft(PyObject *queue)
{
    Queue *q = (Queue *)queue;
    if (!q->size)
        return NULL;
    PyObject *item = *slot(q, 0);
    q->head++;
    if (--q->size == 0 && q->room > KEPT_ROOM) {
        PyMem_Free(q->items);
        q->items = NULL;
        q->room = q->head = 0;
    }
    return item;
}

void queue_fetch(PyObject *queue)
{
    Queue *q = (Queue *)queue;
    if (q->size <= FETCH)
        return;
    __builtin_prefetch(*slot(q, FETCH));
    handle_fetch(*slot(q, FETCH / 2));
}

void queue_track(PyObject *queue)
{
    Queue *q = (Queue *)queue;
    for (size_t i = 0; i < q->size; i++)
        handle_track(*slot(q, i));
}

static int queue_traverse(PyObject *self, visitproc visit, void *arg)
{
    Queue *q = (Queue *)self;
    for (size_t i = 0; i < q->size; i++)
        Py_VISIT(*slot(q, i));
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int queue_clear(PyObject *self)
{
    PyObject *item;
    while ((item = queue_popleft(self)))
        handle_drop(item);
    return 0;
}

static int queue_release(PyObject *self)
{
    queue_clear(self);
    PyMem_Free(((Queue *)self)->items);
    return 0;
}

static void queue_dealloc(PyObject *self)
{
    hot_dealloc(self, queue_release);
}

static PyObject *py_append(PyObject *self, PyObject *item)
{
    return queue_append(self, item) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *py_popleft(PyObject *self, PyObject *unused)
{
    PyObject *item = queue_popleft(self);
    if (item)
        handle_track(item);
    else
        PyErr_SetString(PyExc_IndexError, "pop from an empty queue");
    return item;
}

static PyObject *py_clear(PyObject *self, PyObject *unused)
{
    queue_clear(self);
    return Py_NewRef(Py_None);
}

static PyObject *py_item(PyObject *self, Py_ssize_t i)
{
    if (i < 0 || i >= queue_size(self)) {
        PyErr_SetString(PyExc_IndexError, "queue index out of range");
        return NULL;
    }
    PyObject *item = *slot((Queue *)self, (size_t)i);
    handle_track(item);
    return Py_NewRef(item);
}

static PyMethodDef queue_methods[] = {
    {"append", py_append, METH_O, "Adds an item at the end."},
    {"popleft", py_popleft, METH_NOARGS, "Takes the first item. Raises IndexError."},
    {"clear", py_clear, METH_NOARGS, "Drops all items."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot queue_slots[] = {
    {Py_tp_doc, "Handles that are to run, first in, first out."},
    {Py_tp_dealloc, queue_dealloc},
    {Py_tp_traverse, queue_traverse},
    {Py_tp_clear, queue_clear},
    {Py_tp_methods, queue_methods},
    {Py_sq_length, queue_size},
    {Py_sq_item, py_item},
    {0, NULL},
};

static PyType_Spec queue_spec = {
    .name = "ffloop._native._hot.Queue",
    .basicsize = sizeof(Queue),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = queue_slots,
};

int queue_exec(PyObject *module)
{
    queue_type = (PyTypeObject *)hot_add_type(module, "Queue", &queue_spec, NULL);
    return queue_type ? 0 : -1;
}
