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
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define ENV "_FFLOOP_INHERIT"
#define KEEP "_FFLOOP_KEEP" /* from `ffloop preload`: descriptor:inode:path (struct kept) */

/* ---- before exec ---------------------------------------------------------------------------- */

struct heir {          /* a descriptor, and its socket */
    unsigned long ino; /* of the placeholder */
    int fd;            /* its number before the exec */
    struct portrait p;
    struct node *made; /* after the exec: the socket; NULL: not found yet */
};

struct heirs {
    struct sock_list l;
    struct sock_list others; /* that end at the exec, in an inherited ticket */
    bool moved;              /* some get other numbers: a spawn's file actions name them */
};

/* Lists the descriptors of sockets that stay open. */
static void list_heir(int fd, struct node *n, void *arg)
{
    struct heirs *x = arg;
    struct sock *s = (struct sock *)n;
    if (n->kind != NODE_SOCK || !s->session)
        return;
    if (n->cloexec || (!s->spawned && real.fcntl(fd, F_GETFD) & FD_CLOEXEC)) {
        if (s->session->inherited)
            sock_list_add(&x->others, s, fd);
        return;
    }
    sock_list_add(&x->l, s, fd);
    x->moved |= s->spawned;
}

static bool all_of(const struct sock_list *l, const struct session *of)
{
    for (size_t i = 0; i < l->n; i++)
        if (l->m[i].s->session != of)
            return false;
    return true;
}

/* The session of a parent that has all the sockets, where none is imported yet: the program after
 * an exec can have the parent's ticket. A program without the shim would hold the others that are
 * in it: if they are fewer, they are imported. NULL: there is none. */
static struct session *parents(const struct heirs *x)
{
    const struct sock_list *l = &x->l, *others = &x->others;
    struct session *of = l->n > others->n ? l->m[0].s->session : NULL;
    if (!of || !of->inherited || of->ticket.fd < 0 || !all_of(l, of) || !all_of(others, of))
        return NULL;
    for (size_t i = 0; i < others->n; i++)
        if (others->m[i].s->session == of)     /* it may have several descriptors */
            (void)proc_import(others->m[i].s); /* reports */
    return of;
}

/* The session of the first socket that is attached: only its sockets go along. NULL: none is. */
static struct session *one_session(const struct sock_list *l)
{
    struct session *of = NULL;
    for (size_t i = 0; i < l->n; i++) {
        struct sock *s = l->m[i].s;
        sock_current(s);
        if (!of && s->session && !ffl_client_detached(s->session->c))
            of = s->session;
    }
    return of;
}

static int by_inode(const void *a, const void *b)
{
    unsigned long x = ((const struct heir *)a)->ino, y = ((const struct heir *)b)->ino;
    return (x > y) - (x < y);
}

static int write_all(const char *name, const void *data, size_t size)
{
    struct room more = {0};
    int fd;
    do
        fd = fd_ours(real.memfd_create(name, 0));
    while (room_for(&more, fd));
    size_t done = 0;
    ssize_t k = 1;
    while (fd >= 0 && done < size &&
           (k = real.write(fd, (const char *)data + done, size - done)) > 0)
        done += (size_t)k;
    if (fd < 0 || done == size)
        return fd;
    int err = errno;
    fd_ours_close(fd);
    return -err;
}

/* Writes the session's sockets, sorted by inode, into a memory file: its descriptor, or -errno. */
static int write_testament(const struct session *session, const struct sock_list *l)
{
    struct heir *heirs = calloc(l->n, sizeof(*heirs));
    size_t n = 0;
    if (!heirs)
        return -ENOMEM;
    for (size_t i = 0; i < l->n; i++)
        if (l->m[i].s->session == session)
            heirs[n++] = (struct heir){
                .ino = l->m[i].s->node.ino, .fd = l->m[i].fd, .p = sock_portrait(l->m[i].s)};
    qsort(heirs, n, sizeof(*heirs), by_inode);
    int fd = write_all("ffloop-inherit", heirs, n * sizeof(*heirs));
    free(heirs);
    return fd;
}

struct carry { /* what an exec or spawn takes along */
    struct ffl_ticket t;
    int testament;
    char var[100], home[40];
};

/* The entries of an environment; -1: a bad pointer, with which the exec fails. */
static int count(char *const envp[])
{
    char *entry, first;
    if (!started || tls.inside || !envp)
        return 0;
    for (int n = 0;; n++) {
        if (!user_copy(&entry, envp + n, sizeof(entry)))
            return -1;
        if (!entry)
            return n;
        if (!user_copy(&first, entry, 1))
            return -1;
    }
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

static bool brings(char *const envp[])
{
    for (char **b = brought; b < brought + FFL_COUNT(brought) && *b; b++)
        if (has_name(envp, *b))
            return true;
    return false;
}

/* Adds the shim's variables to the n of `all`, and that which names ticket and testament: how many
 * there are then. */
static int inherited(struct carry *c, int index, bool moved, char **all, int n)
{
    snprintf(c->var, sizeof(c->var), ENV "=%d:%u:%llu:%d:%d:%d", c->t.fd, c->t.id,
             (unsigned long long)c->t.key, index, c->testament, moved);
    all[n] = NULL;
    for (char **b = brought; b < brought + FFL_COUNT(brought) && *b; b++)
        if (!has_name(all, *b)) {
            all[n++] = *b;
            all[n] = NULL;
        }
    all[n++] = c->var;
    (void)real.fcntl(c->t.fd, F_SETFD, 0); /* cannot fail: both are open */
    (void)real.fcntl(c->testament, F_SETFD, 0);
    return n;
}

/* `all`, with room for envp's n entries and BESIDE, becomes the environment for an exec. */
#define BESIDE (FFL_COUNT(brought) + 3)
static void environment(struct carry *c, int index, bool moved, char *const envp[], int n,
                        char **all)
{
    for (int i = 0; i < n; i++)
        all[i] = envp[i];
    bool shimmed = c->testament >= 0 || brings(envp); /* else the next program's is its own */
    if (shimmed && place_home() && !has_name(envp, FFL_HOME_NETNS "=")) {
        snprintf(c->home, sizeof(c->home), FFL_HOME_NETNS "=%llu",
                 (unsigned long long)place_home());
        all[n++] = c->home;
    }
    if (c->testament >= 0)
        n = inherited(c, index, moved, all, n);
    all[n] = NULL;
}

/* Prepares an exec, or a `spawn`: the environment for it, envp or `all`. Unlocked before and
 * after. */
static char *const *carry_begin(struct carry *c, char *const envp[], int n, char **all, bool spawn)
{
    *c = (struct carry){.t.fd = -1, .testament = -1};
    if (!started || tls.inside || n < 0)
        return envp;
    signal_exec(true);
    lock();
    struct heirs x = {.moved = false};
    fd_each(list_heir, &x);
    struct session *session = spawn ? NULL : parents(&x);
    if (session) { /* a descriptor of its own: another thread may close the session's */
        c->t = session->ticket;
        c->t.fd = fd_ours(real.dup(c->t.fd));
    }
    if (c->t.fd < 0 && (session = one_session(&x.l)))
        c->t = proc_export(session, &x.l);
    if (c->t.fd >= 0)
        c->testament = write_testament(session, &x.l);
    if (c->t.fd >= 0 && c->testament < 0)
        report("a program after exec will not have this one's sockets: %s",
               strerror(-c->testament));
    environment(c, session ? session->index : 0, x.moved, envp, n, all);
    free(x.l.m);
    free(x.others.m);
    unlock();
    return all;
}

static void carry_end(struct carry *c)
{
    int saved = errno;
    signal_exec(false);
    errno = saved;
    if (c->t.fd < 0)
        return;
    lock();
    fd_ours_close(c->t.fd);
    proc_exported();
    fd_ours_close(c->testament); /* negative: none */
    unlock();
    errno = saved;
}

#define CARRIES(name, spawn, params, args)                                                         \
    API int name params                                                                            \
    {                                                                                              \
        real_start();                                                                              \
        struct carry c;                                                                            \
        int n = count(envp);                                                                       \
        char *all[n < 0 ? 1 : (size_t)n + BESIDE]; /* no malloc: it may be a handler */            \
        envp = carry_begin(&c, envp, n, all, spawn);                                               \
        int rc = real.name args;                                                                   \
        carry_end(&c);                                                                             \
        return rc;                                                                                 \
    }

CARRIES(execve, false, (const char *path, char *const argv[], char *const envp[]),
        (path, argv, envp))
CARRIES(execvpe, false, (const char *file, char *const argv[], char *const envp[]),
        (file, argv, envp))
CARRIES(fexecve, false, (int fd, char *const argv[], char *const envp[]), (fd, argv, envp))
CARRIES(execveat, false,
        (int dir, const char *path, char *const argv[], char *const envp[], int flags),
        (dir, path, argv, envp, flags))
CARRIES(posix_spawn, true,
        (pid_t * pid, const char *path, const posix_spawn_file_actions_t *actions,
         const posix_spawnattr_t *attr, char *const argv[], char *const envp[]),
        (pid, path, actions, attr, argv, envp))
CARRIES(posix_spawnp, true,
        (pid_t * pid, const char *file, const posix_spawn_file_actions_t *actions,
         const posix_spawnattr_t *attr, char *const argv[], char *const envp[]),
        (pid, file, actions, attr, argv, envp))

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

API int posix_spawn_file_actions_adddup2(posix_spawn_file_actions_t *actions, int fd, int newfd)
{
    real_start();
    if (maybe_ours(fd)) {
        lock();
        struct node *n = fd_node(fd);
        if (n && n->kind == NODE_SOCK) {
            ((struct sock *)n)->spawned = true;
            n->cloexec = false;
        }
        unlock();
    }
    return real.posix_spawn_file_actions_adddup2(actions, fd, newfd);
}

/* Calls f for each open descriptor of the process. False: /proc cannot be read. */
static bool each_open(void (*f)(int fd, void *arg), void *arg)
{
    DIR *d = opendir("/proc/self/fd");
    struct dirent *e;
    if (!d)
        return false;
    while ((e = readdir(d)))
        if (e->d_name[0] != '.' && atoi(e->d_name) != dirfd(d))
            f(atoi(e->d_name), arg);
    closedir(d);
    return true;
}

struct closefrom {
    posix_spawn_file_actions_t *actions;
    int low, rc;
};

static void add_close(int fd, void *arg)
{
    struct closefrom *c = arg;
    const struct node *n = fd_node(fd);
    if (c->rc == 0 && fd >= c->low && !(n && n->kind == NODE_OURS)) /* a child needs the ticket */
        c->rc = posix_spawn_file_actions_addclose(c->actions, fd);
}

static int last(int low)
{
    int most = (int)sysconf(_SC_OPEN_MAX) - 1;
    return most > low ? most : low;
}

/* Closes the descriptors one by one. A program may have some beyond its limit, which addclose does
 * not take: the limit is as high as it may be meanwhile. Beyond the hard limit there is nothing of
 * the shim's that the child needs: the last number that there may be is closed with all above. */
API int posix_spawn_file_actions_addclosefrom_np(posix_spawn_file_actions_t *actions, int low)
{
    real_start();
    struct closefrom c = {actions, low, 0};
    bool listed = false;
    if (started && !tls.inside) {
        struct room more = {0};
        lock();
        (void)room_for(&more, -EMFILE);
        listed = each_open(add_close, &c);
        if (c.rc == EBADF)
            c.rc = real.posix_spawn_file_actions_addclosefrom_np(actions, last(low));
        (void)room_for(&more, 0);
        unlock();
    }
    return listed ? c.rc : real.posix_spawn_file_actions_addclosefrom_np(actions, low);
}

/* ---- after exec ---------------------------------------------------------------------------- */

struct inheritance {
    struct session *session;
    struct heir *heirs; /* sorted by inode */
    size_t n;
    uint32_t *wanted, k; /* handles of those that are found */
};

/* Makes fd the socket of heir i, if it is that placeholder. */
static void inherit_fd(struct inheritance *x, int fd, size_t i)
{
    struct stat st;
    struct heir *h = &x->heirs[i];
    if (fd_node(fd) || fstat(fd, &st) < 0 || !S_ISSOCK(st.st_mode) || st.st_ino != h->ino)
        return;
    while (i > 0 && x->heirs[i - 1].ino == h->ino)
        h = &x->heirs[--i]; /* descriptors of a placeholder are one socket: */
    struct node *n = h->made;
    if (n) {
        (void)fd_set_node(fd, n); /* ENOMEM: a placeholder without a socket */
        return;
    }
    h->made = n = sock_inherit(fd, st.st_ino, x->session, &h->p);
    if (n)
        x->wanted[x->k++] = (uint32_t)h->p.handle;
}

/* For any descriptor, since a spawn has moved some. */
static void inherit_moved(int fd, void *arg)
{
    struct inheritance *x = arg;
    struct stat st = {0};
    (void)fstat(fd, &st); /* no heir has inode 0 */
    struct heir want = {.ino = st.st_ino};
    const struct heir *h = bsearch(&want, x->heirs, x->n, sizeof(want), by_inode);
    if (h)
        inherit_fd(x, fd, (size_t)(h - x->heirs));
}

static void find_inherited(struct inheritance *x, bool moved)
{
    x->wanted = malloc((x->n + 1) * sizeof(*x->wanted));
    for (size_t i = 0; x->wanted && i < x->n; i++)
        inherit_fd(x, x->heirs[i].fd, i);
    if (x->wanted && moved)
        (void)each_open(inherit_moved, x); /* no /proc: those stay placeholders */
    /* an instance that has gone: the imports say so */
    if (x->k)
        (void)ffl_ticket_send(x->session->ticket.fd, FFL_TICKET_MARK, x->wanted, x->k);
    (void)ffl_ticket_send(x->session->ticket.fd, FFL_TICKET_SWEEP, NULL, 0);
    free(x->wanted);
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

static void keep_if(int fd, void *ino)
{
    if (is_inode(fd, *(const unsigned long *)ino))
        kept.ticket.fd = fd;
}

/* Finds the descriptor of KEEP by its inode: a program before this one may have moved it
 * (make_way). */
static void find_kept(const char *keep)
{
    unsigned long ino;
    int path = 0;
    if (!keep || sscanf(keep, "%d:%lu:%n", &kept.ticket.fd, &ino, &path) != 2 || !path)
        return;
    if (!is_inode(kept.ticket.fd, ino))
        (void)each_open(keep_if, &ino);
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
    struct ffl_ticket t;
    unsigned long long key;
    int index, testament, moved;
    bool good =
        sscanf(v, "%d:%u:%llu:%d:%d:%d", &t.fd, &t.id, &key, &index, &testament, &moved) == 6;
    unsetenv(ENV);
    if (!good)
        return;
    struct inheritance x = {0};
    x.n = read_testament(testament, &x.heirs);
    real.close(testament);
    t.key = key;
    t.fd = fd_ours(t.fd);
    if ((x.session = session_inherit(&t, index))) {
        find_inherited(&x, moved);
        session_put(x.session);
    }
    free(x.heirs);
}
