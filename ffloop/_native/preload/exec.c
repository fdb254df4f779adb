/*
 * exec.c - stack sockets across exec and spawn.
 *
 * Callers: the program, start.c. The environment names the ticket, and a memory file (the
 * testament) that says which descriptors are stack sockets: by their placeholders' inodes, since a
 * spawn may move descriptors. A variable has no room for many sockets.
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
#define KEEP "_FFLOOP_KEEP" /* from `ffloop preload`: descriptor:inode:path (struct kept) */

/* ---- before exec ---------------------------------------------------------------------------- */

/* A placeholder's inode, and its socket in words. */
struct heir {
    unsigned long ino;
    char words[120];
    int fd; /* after exec: the first descriptor found; or -1 */
};

struct testament {
    const struct ticket *t;
    struct heir *heirs; /* NULL: count only */
    size_t n, room;
};

static void describe(int fd, struct node *n, void *arg)
{
    struct testament *x = arg;
    struct sock *s = (struct sock *)n;
    struct stat st;
    if (n->kind != NODE_SOCK || s->session != x->t->session || !stays_open(fd, s))
        return;
    if (x->heirs && x->n < x->room && fstat(fd, &st) == 0) {
        struct heir *h = &x->heirs[x->n];
        *h = (struct heir){.ino = st.st_ino, .fd = -1};
        (void)sock_describe(s, h->words, sizeof(h->words));
    }
    x->n++;
}

static int by_inode(const void *a, const void *b)
{
    unsigned long x = ((const struct heir *)a)->ino, y = ((const struct heir *)b)->ino;
    return (x > y) - (x < y);
}

/* Writes t's sockets, sorted by inode, into a memory file: its descriptor, or -errno. */
static int write_testament(const struct ticket *t)
{
    struct testament x = {.t = t};
    fd_each(describe, &x);
    x.room = x.n;
    x.n = 0;
    x.heirs = calloc(x.room + 1, sizeof(*x.heirs));
    int fd = x.heirs ? fd_ours(real.memfd_create("ffloop-inherit", 0)) : -ENOMEM;
    if (fd < 0) {
        free(x.heirs);
        return fd;
    }
    fd_each(describe, &x);
    qsort(x.heirs, x.n, sizeof(*x.heirs), by_inode);
    size_t done = 0, all = x.n * sizeof(*x.heirs);
    ssize_t k = 1;
    while (done < all && (k = real.write(fd, (char *)x.heirs + done, all - done)) > 0)
        done += (size_t)k;
    free(x.heirs);
    if (done == all)
        return fd;
    int err = errno;
    fd_ours_close(fd);
    return -err;
}

static void stays(int fd, struct node *n, void *arg)
{
    const struct sock *s = (struct sock *)n;
    if (n->kind == NODE_SOCK && (s->session || s->ticket) && stays_open(fd, s))
        *(bool *)arg = true;
}

struct carry { /* what an exec or spawn takes along */
    struct ticket *t;
    char **envp;
    int testament;
    char var[100];
};

static int count(char *const envp[])
{
    int n = 0;
    while (envp && envp[n])
        n++;
    return n;
}

/* The shim's variables, as they were at the start. They go along with the sockets, even when a
 * program makes a new environment (nginx, for a binary upgrade). */
static char *brought[64];

static void keep_environment(void)
{
    static const char *const names[] = {"LD_PRELOAD=", "FFLOOP_", "FF_", KEEP "="};
    size_t n = 0;
    for (char **e = environ; e && *e && n < FFL_COUNT(brought); e++)
        for (size_t i = 0; i < FFL_COUNT(names); i++)
            if (!strncmp(*e, names[i], strlen(names[i])) && (brought[n] = strdup(*e)))
                n++; /* no memory: without it */
}

static bool has_name(char *const envp[], const char *entry)
{
    size_t len = strcspn(entry, "=") + 1;
    for (; envp && *envp; envp++)
        if (!strncmp(*envp, entry, len))
            return true;
    return false;
}

/* Prepares an exec or a spawn: envp with the shim's variables, or envp. Unlocked before and
 * after. */
static char *const *carry_begin(struct carry *c, char *const envp[])
{
    bool any = false;
    *c = (struct carry){.testament = -1};
    if (!started || tls.inside)
        return envp;
    lock();
    fd_each(stays, &any);
    if (any)
        import_all();
    struct session *session = session_first();
    while (any && session && (!session->socks || ffl_client_detached(session->c)))
        session = session->next;
    if (any && session && (c->t = export_all(session, true)))
        c->testament = write_testament(c->t);
    if (c->t && c->testament < 0)
        report("a program after exec will not have this one's sockets: %s",
               strerror(-c->testament));
    int n = count(envp);
    if (c->testament >= 0)
        c->envp = malloc(((size_t)n + FFL_COUNT(brought) + 2) * sizeof(*c->envp));
    if (c->envp) {
        snprintf(c->var, sizeof(c->var), ENV "=%d:%u:%llu:%d:%d", c->t->t.fd, c->t->t.id,
                 (unsigned long long)c->t->t.key, c->t->index, c->testament);
        memcpy(c->envp, envp, (size_t)n * sizeof(*envp));
        for (char **b = brought; b < brought + FFL_COUNT(brought) && *b; b++)
            if (!has_name(envp, *b))
                c->envp[n++] = *b;
        c->envp[n] = c->var;
        c->envp[n + 1] = NULL;
        (void)real.fcntl(c->t->t.fd, F_SETFD, 0); /* cannot fail: both are open */
        (void)real.fcntl(c->testament, F_SETFD, 0);
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
    if (c->testament >= 0)
        fd_ours_close(c->testament);
    epoll_revive_waited();
    unlock();
    free(c->t);
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

/* Closes the open descriptors from `low` on one by one, but for the shim's: a child needs the
 * ticket. */
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

static void inherit_fd(struct ticket *t, int fd, struct heir *h)
{
    if (h->fd >= 0) {                          /* descriptors of a placeholder are one socket */
        (void)fd_set_node(fd, fd_node(h->fd)); /* ENOMEM: a placeholder without a socket */
        return;
    }
    h->words[sizeof(h->words) - 1] = 0;
    if (!ticket_sock(fd, t, h->words))
        return;
    h->fd = fd;
    const struct sock *s = (struct sock *)fd_node(fd);
    /* an instance that has gone: the import says so */
    (void)ffl_ticket_send(t->t.fd, FFL_TICKET_MARK, &s->ticket_handle, 1);
}

static void find_inherited(struct ticket *t, struct heir *heirs, size_t n)
{
    DIR *d = opendir("/proc/self/fd");
    struct dirent *e;
    while (d && (e = readdir(d))) {
        struct stat st;
        int fd = atoi(e->d_name);
        if (e->d_name[0] == '.' || fd == dirfd(d) || fstat(fd, &st) < 0 || !S_ISSOCK(st.st_mode))
            continue;
        struct heir want = {.ino = st.st_ino}, *h;
        if ((h = bsearch(&want, heirs, n, sizeof(want), by_inode)))
            inherit_fd(t, fd, h);
    }
    if (d)
        closedir(d);
}

/* Reads what write_testament wrote: the number of heirs; the caller frees *heirs. */
static size_t read_testament(int fd, struct heir **heirs)
{
    struct stat st;
    *heirs = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? malloc((size_t)st.st_size + 1) : NULL;
    ssize_t got = *heirs ? pread(fd, *heirs, (size_t)st.st_size, 0) : 0;
    return got > 0 ? (size_t)got / sizeof(**heirs) : 0;
}

static bool is_inode(int fd, unsigned long ino)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode) && st.st_ino == ino;
}

/* Finds the descriptor of KEEP by its inode: a program before this one may have moved it
 * (make_way). */
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
        return; /* closed by a program before this one */
    fd_ours_keep(kept.ticket.fd);
    kept.path = strdup(keep + path); /* ENOMEM: not used */
}

void exec_start(void)
{
    (void)at_quick_exit(proc_end); /* ENOMEM: as if killed */
    keep_environment();
    find_kept(secure_getenv(KEEP));
    const char *v = secure_getenv(ENV);
    if (!v)
        return;
    struct ticket *t = calloc(1, sizeof(*t));
    unsigned long long key;
    int testament;
    bool good =
        t && sscanf(v, "%d:%u:%llu:%d:%d", &t->t.fd, &t->t.id, &key, &t->index, &testament) == 5;
    unsetenv(ENV);
    if (!good) {
        free(t);
        return;
    }
    struct heir *heirs;
    size_t n = read_testament(testament, &heirs);
    real.close(testament);
    t->t.key = key;
    t->socks = 1; /* until ticket_put below */
    t->t.fd = fd_ours(t->t.fd);
    find_inherited(t, heirs, n);
    (void)ffl_ticket_send(t->t.fd, FFL_TICKET_SWEEP, NULL, 0); /* instance gone: nothing to sweep */
    ticket_put(t);
    free(heirs);
}
