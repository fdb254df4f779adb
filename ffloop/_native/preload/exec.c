/*
 * exec.c - stack sockets across exec and spawn.
 *
 * Callers: the program, start.c. A program after exec finds in its environment which descriptors (by
 * their placeholders' inodes, so however they were moved) are stack sockets, and the ticket.
 */
#include "proc.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ENV "_FFLOOP_INHERIT"
#define KEEP "_FFLOOP_KEEP" /* of `ffloop preload`: descriptor:inode:path, see struct kept */

/* ---- exec ---------------------------------------------------------------------------------- */

struct text {
    char *p;
    size_t len, cap;
    bool any;
    const struct ticket *t;
};

static void describe(int fd, struct node *n, void *arg)
{
    struct text *x = arg;
    struct sock *s = (struct sock *)n;
    struct stat st;
    if (n->kind != NODE_SOCK || !s->session || s->session != x->t->session || !stays_open(fd, s) ||
        fstat(fd, &st) < 0)
        return;
    char one[160];
    int k = snprintf(one, sizeof(one), ";%lu:", (unsigned long)st.st_ino);
    k += sock_describe(s, one + k, sizeof(one) - (size_t)k);
    if (x->len + (size_t)k >= x->cap)
        return; /* more than ARG_MAX lets pass */
    memcpy(x->p + x->len, one, (size_t)k + 1);
    x->len += (size_t)k;
    x->any = true;
}

static void stays(int fd, struct node *n, void *arg)
{
    const struct sock *s = (struct sock *)n;
    if (n->kind == NODE_SOCK && (s->session || s->ticket) && stays_open(fd, s))
        *(bool *)arg = true;
}

struct carry { /* what an exec takes along */
    struct ticket *t;
    char **envp;
    char *var;
};

static int count(char *const envp[])
{
    int n = 0;
    while (envp && envp[n])
        n++;
    return n;
}

/* The variables that brought the shim here, as they were at the start. They go along with the sockets,
 * even when a program makes a new environment (nginx, for a binary upgrade). */
static char *brought[64];

static void keep_environment(void)
{
    static const char *const names[] = {"LD_PRELOAD=", "FFLOOP_", "FF_", KEEP "="};
    size_t n = 0;
    for (char **e = environ; e && *e && n < FFL_COUNT(brought); e++)
        for (size_t i = 0; i < FFL_COUNT(names); i++)
            if (!strncmp(*e, names[i], strlen(names[i])) && (brought[n] = strdup(*e)))
                n++; /* no memory: it does not go along */
}

static bool has_name(char *const envp[], const char *entry)
{
    size_t len = strcspn(entry, "=") + 1;
    for (; envp && *envp; envp++)
        if (!strncmp(*envp, entry, len))
            return true;
    return false;
}

/* Prepares an exec or a spawn: envp with ours in it. Unlocked before and after. */
static char *const *carry_begin(struct carry *c, char *const envp[])
{
    bool any = false;
    *c = (struct carry){0};
    if (!started || tls.inside)
        return envp;
    lock();
    fd_each(stays, &any);
    if (any)
        import_all();
    struct session *session = session_first();
    while (any && session && (!session->socks || ffl_client_detached(session->c)))
        session = session->next;
    enum { ROOM = 100000 };
    if (any && session && (c->t = export_all(session, true)))
        c->var = malloc(ROOM);
    int n = count(envp);
    if (c->var)
        c->envp = malloc(((size_t)n + FFL_COUNT(brought) + 2) * sizeof(*c->envp));
    if (c->envp) {
        struct text x = {.p = c->var, .cap = ROOM, .t = c->t};
        x.len = (size_t)snprintf(c->var, ROOM, ENV "=%d:%u:%llu:%d", c->t->t.fd, c->t->t.id,
                                 (unsigned long long)c->t->t.key, c->t->index);
        fd_each(describe, &x);
        memcpy(c->envp, envp, (size_t)n * sizeof(*envp));
        for (char **b = brought; b < brought + FFL_COUNT(brought) && *b; b++)
            if (!has_name(envp, *b))
                c->envp[n++] = *b;
        c->envp[n] = c->var;
        c->envp[n + 1] = NULL;
        (void)real.fcntl(c->t->t.fd, F_SETFD, 0); /* it is open */
    }
    unlock();
    return c->envp ? c->envp : envp;
}

static void carry_end(struct carry *c)
{
    if (!c->t)
        return;
    int saved = errno;
    lock();
    fd_ours_close(c->t->t.fd);
    epoll_revive_waited();
    unlock();
    free(c->t);
    free(c->var);
    free(c->envp);
    errno = saved;
}

API int execve(const char *path, char *const argv[], char *const envp[])
{
    real_start();
    struct carry c;
    int rc = real.execve(path, argv, carry_begin(&c, envp));
    carry_end(&c);
    return rc;
}

API int execvpe(const char *file, char *const argv[], char *const envp[])
{
    real_start();
    struct carry c;
    int rc = real.execvpe(file, argv, carry_begin(&c, envp));
    carry_end(&c);
    return rc;
}

API int fexecve(int fd, char *const argv[], char *const envp[])
{
    real_start();
    struct carry c;
    int rc = real.fexecve(fd, argv, carry_begin(&c, envp));
    carry_end(&c);
    return rc;
}

API int execveat(int dir, const char *path, char *const argv[], char *const envp[], int flags)
{
    real_start();
    struct carry c;
    int rc = real.execveat(dir, path, argv, carry_begin(&c, envp), flags);
    carry_end(&c);
    return rc;
}

API int execv(const char *path, char *const argv[])
{
    return execve(path, argv, environ);
}

API int execvp(const char *file, char *const argv[])
{
    return execvpe(file, argv, environ);
}

#define ARGV(first, ap, envp)                                                                      \
    size_t n = 1;                                                                                  \
    va_start(ap, first);                                                                           \
    while (va_arg(ap, char *))                                                                     \
        n++;                                                                                       \
    va_end(ap);                                                                                    \
    char *argv[n + 1];                                                                             \
    va_start(ap, first);                                                                           \
    argv[0] = (char *)first;                                                                       \
    for (size_t i = 1; i <= n; i++)                                                                \
        argv[i] = va_arg(ap, char *);                                                              \
    char *const *envp = environ

API int execl(const char *path, const char *arg, ...)
{
    va_list ap;
    ARGV(arg, ap, envp);
    va_end(ap);
    return execve(path, argv, envp);
}

API int execlp(const char *file, const char *arg, ...)
{
    va_list ap;
    ARGV(arg, ap, envp);
    va_end(ap);
    return execvpe(file, argv, envp);
}

API int execle(const char *path, const char *arg, ...)
{
    va_list ap;
    ARGV(arg, ap, envp);
    envp = va_arg(ap, char *const *);
    va_end(ap);
    return execve(path, argv, envp);
}

API int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                    const posix_spawnattr_t *attr, char *const argv[], char *const envp[])
{
    real_start();
    struct carry c;
    int rc = real.posix_spawn(pid, path, actions, attr, argv, carry_begin(&c, envp));
    carry_end(&c);
    return rc;
}

API int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
                     const posix_spawnattr_t *attr, char *const argv[], char *const envp[])
{
    real_start();
    struct carry c;
    int rc = real.posix_spawnp(pid, file, actions, attr, argv, carry_begin(&c, envp));
    carry_end(&c);
    return rc;
}

API int posix_spawn_file_actions_adddup2(posix_spawn_file_actions_t *actions, int fd, int newfd)
{
    real_start();
    if (maybe_ours(fd)) {
        lock();
        struct node *n = fd_node(fd);
        if (n && n->kind == NODE_SOCK)
            ((struct sock *)n)->spawned = true;
        unlock();
    }
    return real.posix_spawn_file_actions_adddup2(actions, fd, newfd);
}

/* Those that are open, but not ours: a child needs the ticket. */
API int posix_spawn_file_actions_addclosefrom_np(posix_spawn_file_actions_t *actions, int low)
{
    real_start();
    DIR *d = started && !tls.inside ? opendir("/proc/self/fd") : NULL;
    struct dirent *e;
    int rc = 0;
    if (!d)
        return real.posix_spawn_file_actions_addclosefrom_np(actions, low);
    lock();
    while (rc == 0 && (e = readdir(d))) {
        int fd = atoi(e->d_name);
        const struct node *n = fd_node(fd);
        if (e->d_name[0] != '.' && fd >= low && fd != dirfd(d) && !(n && n->kind == NODE_OURS))
            rc = posix_spawn_file_actions_addclose(actions, fd);
    }
    unlock();
    closedir(d);
    return rc;
}

/* ---- after exec ---------------------------------------------------------------------------- */

static bool inherit_fd(struct ticket *t, int fd, unsigned long ino, const char *list)
{
    for (const char *p = strchr(list, ';'); p; p = strchr(p + 1, ';')) {
        unsigned long want;
        int at = 0;
        if (sscanf(p, ";%lu:%n", &want, &at) != 1 || want != ino || !at)
            continue;
        if (!ticket_sock(fd, t, p + at))
            return false;
        const struct sock *s = (struct sock *)fd_node(fd);
        /* it is gone: the import says so */
        (void)ffl_ticket_send(t->t.fd, FFL_TICKET_MARK, &s->ticket_handle, 1);
        return true;
    }
    return false;
}

static void find_inherited(struct ticket *t, const char *list)
{
    DIR *d = opendir("/proc/self/fd");
    struct { /* copies of one placeholder are one socket */
        unsigned long ino;
        int fd;
    } seen[1024];
    int n = 0;
    struct dirent *e;
    while (d && (e = readdir(d))) {
        struct stat st;
        int fd = atoi(e->d_name), i = 0;
        if (e->d_name[0] == '.' || fd == dirfd(d) || fstat(fd, &st) < 0 || !S_ISSOCK(st.st_mode))
            continue;
        while (i < n && seen[i].ino != st.st_ino)
            i++;
        if (i < n) {
            (void)fd_set_node(fd, fd_node(seen[i].fd)); /* ENOMEM: it stays a placeholder */
        } else if (inherit_fd(t, fd, st.st_ino, list) && n < (int)FFL_COUNT(seen)) {
            seen[n].ino = st.st_ino;
            seen[n++].fd = fd;
        }
    }
    if (d)
        closedir(d);
}

static bool is_inode(int fd, unsigned long ino)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode) && st.st_ino == ino;
}

/* A program before this one may have wanted its number (fd_ours moves then). */
static void find_kept(const char *keep)
{
    unsigned long ino;
    int path = 0;
    if (!keep || sscanf(keep, "%d:%lu:%n", &kept.ticket.fd, &ino, &path) != 2 || !path)
        return;
    DIR *d = is_inode(kept.ticket.fd, ino) ? NULL : opendir("/proc/self/fd");
    struct dirent *e;
    while (d && (e = readdir(d)))
        if (e->d_name[0] != '.' && is_inode(atoi(e->d_name), ino))
            kept.ticket.fd = atoi(e->d_name);
    if (d)
        closedir(d);
    if (!is_inode(kept.ticket.fd, ino))
        return; /* it was closed on the way */
    fd_ours_keep(kept.ticket.fd);
    kept.path = strdup(keep + path); /* ENOMEM: without it */
}

void exec_start(void)
{
    (void)at_quick_exit(proc_end); /* ENOMEM: as if it was killed */
    keep_environment();
    find_kept(secure_getenv(KEEP));
    const char *v = secure_getenv(ENV);
    if (!v)
        return;
    struct ticket *t = calloc(1, sizeof(*t));
    char *list = strdup(v);
    unsigned long long key;
    unsetenv(ENV);
    if (!t || !list || sscanf(list, "%d:%u:%llu:%d", &t->t.fd, &t->t.id, &key, &t->index) != 4) {
        free(t);
        free(list);
        return;
    }
    t->t.key = key;
    t->socks = 1; /* while we look */
    t->t.fd = fd_ours(t->t.fd);
    find_inherited(t, list);
    (void)ffl_ticket_send(t->t.fd, FFL_TICKET_SWEEP, NULL, 0); /* gone: nothing to sweep */
    ticket_put(t);
    free(list);
}
