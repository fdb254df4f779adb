/* fstack_ports.c - the table of listeners. See fstack_ports.h. */
#include "fstack_ports.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

bool fstack_ports_taken(const struct fstack_ports *p, const struct fstack_listener *l)
{
    for (int i = 0; i < p->n; i++) {
        const struct fstack_listener *o = &p->v[i];
        if (o->fd != l->fd && !o->late && !(o->shared && l->shared) &&
            ffl_addr_overlap(&o->a, o->v6only, &l->a, l->v6only))
            return true;
    }
    return false;
}

bool fstack_ports_beside(const struct fstack_ports *p, const struct ffl_addr *a)
{
    for (int i = 0; i < p->n; i++) {
        const struct fstack_listener *l = &p->v[i];
        if (l->shared && !l->late && ffl_addr_same(&l->a, a))
            return true;
    }
    return false;
}

const struct ffl_addr *fstack_ports_late(const struct fstack_ports *p, int fd)
{
    for (int i = 0; i < p->n; i++)
        if (p->v[i].fd == fd && p->v[i].late)
            return &p->v[i].a;
    return NULL;
}

int fstack_ports_add(struct fstack_ports *p, const struct fstack_listener *l)
{
    fstack_ports_remove(p, l->fd); /* listen may be called again */
    if (p->n == p->cap) {
        int cap = p->cap ? 2 * p->cap : 16;
        struct fstack_listener *v = realloc(p->v, (size_t)cap * sizeof(*v));
        if (!v)
            return -ENOMEM;
        p->v = v;
        p->cap = cap;
    }
    p->v[p->n++] = *l;
    return 0;
}

int fstack_ports_dup(struct fstack_ports *p, int fd, int copy)
{
    for (int i = 0; i < p->n; i++)
        if (p->v[i].fd == fd) {
            struct fstack_listener l = p->v[i]; /* add may move the table */
            l.fd = copy;
            l.late = false;
            return fstack_ports_add(p, &l);
        }
    return 0;
}

void fstack_ports_remove(struct fstack_ports *p, int fd)
{
    for (int i = 0; i < p->n; i++)
        if (p->v[i].fd == fd) {
            p->v[i] = p->v[--p->n];
            return;
        }
}
