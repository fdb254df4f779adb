/*
 * path.c - the unix socket's path: one instance has it at a time, and no process can connect before
 * the socket has its group and mode.
 *
 * Callers: listen.c. The instance holds a lock, NAME.lock beside the socket, from before it looks
 * whether the path is free until it has left the path. The socket is bound in a directory that only
 * this user may enter, gets group and mode there, listens, and is then renamed: no other user can
 * swap it meanwhile.
 */
#include "peers.h"

#include "place.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK_TRIES 10 /* an instance that ends removes its lock file */

/* ---- the path's lock ----------------------------------------------------------------------- */

static void lock_name(const struct path *p, char *to, size_t len)
{
    snprintf(to, len, "%s.lock", p->name);
}

static bool same_file(int dir, const char *name, int fd)
{
    struct stat a, b;
    return fstatat(dir, name, &a, AT_SYMLINK_NOFOLLOW) == 0 && fstat(fd, &b) == 0 &&
           a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* 0; -EADDRINUSE: another instance has the lock; -ENOTUNIQ: the file is another user's. */
static int take_lock(struct path *p)
{
    char name[sizeof(p->name) + 8];
    struct stat st;
    int rc = -EADDRINUSE;
    lock_name(p, name, sizeof(name));
    for (int i = 0; i < LOCK_TRIES; i++) {
        int fd = openat(p->dir, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
            return -errno;
        rc = fstat(fd, &st) < 0                 ? -errno
             : st.st_uid != geteuid()           ? -ENOTUNIQ
             : flock(fd, LOCK_EX | LOCK_NB) < 0 ? -EADDRINUSE
                                                : 0;
        if (rc == 0 && same_file(p->dir, name, fd)) {
            p->lock = fd;
            return 0;
        }
        close(fd);
        if (rc < 0)
            break;
    }
    return rc < 0 ? rc : -EADDRINUSE;
}

static void drop_lock(struct path *p)
{
    char name[sizeof(p->name) + 8];
    lock_name(p, name, sizeof(name));
    if (p->lock >= 0)
        (void)unlinkat(p->dir, name,
                       0); /* locked: an instance that opens it later sees that it is unlinked */
    ffl_close(&p->lock, NULL);
    ffl_close(&p->dir, NULL);
}

/* ---- the socket ---------------------------------------------------------------------------- */

/* 0: the path is free, or a socket on which no process listens; -EADDRINUSE: a process listens;
 * -EEXIST: no socket. */
static int check_free(const struct path *p, const struct sockaddr_un *sa, socklen_t len)
{
    struct stat st;
    if (fstatat(p->dir, p->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(st.st_mode))
        return -EEXIST;
    int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s < 0)
        return -errno;
    int rc =
        connect(s, (const struct sockaddr *)sa, len) < 0 && errno == ECONNREFUSED ? 0 : -EADDRINUSE;
    close(s);
    return rc;
}

/* bind has no dirfd: the current directory is changed for a moment. */
static int bind_in(int dir, int s, const char *name)
{
    struct sockaddr_un sa;
    socklen_t len;
    int rc = ffl_unix_addr(name, &sa, &len), here = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (rc == 0)
        rc = fchdir(dir) < 0 || bind(s, (struct sockaddr *)&sa, len) < 0 ? -errno : 0;
    if ((here < 0 || fchdir(here) < 0) && chdir("/") < 0) /* `here` may not be entered again */
        ffl_log(FFL_LOG_WARNING, "chdir /: %s", strerror(errno));
    ffl_close(&here, NULL);
    return rc;
}

static int give_access(const struct ffl_instance *in, int dir, char *why, size_t whylen)
{
    const struct ffl_policy *p = &in->o.policy;
    const char *name = in->path.name;
    mode_t mode = in->o.mode < 0 ? ffl_policy_mode(p) : (mode_t)in->o.mode;
    if (p->has_group && fchownat(dir, name, (uid_t)-1, p->group, AT_SYMLINK_NOFOLLOW) < 0) {
        int rc = -errno;
        snprintf(why, whylen, "cannot give '%s' to group %u: %s (this user must be in that group)",
                 in->o.path, (unsigned)p->group, strerror(-rc));
        return rc;
    }
    return fchmodat(dir, name, mode, 0) < 0 ? -errno : 0;
}

/* Binds the socket, sets group and mode, listens, and renames the socket to its path. */
static int put_in_place(struct ffl_instance *in, int s, char *why, size_t whylen)
{
    struct path *p = &in->path;
    struct stat st;
    uint64_t number;
    char private[32];
    if (getrandom(&number, sizeof(number), 0) != sizeof(number))
        return -EIO;
    snprintf(private, sizeof(private), ".ffloop-%016llx", (unsigned long long)number);
    if (mkdirat(p->dir, private, 0700) < 0)
        return -errno;
    int dir = openat(p->dir, private, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int rc = dir < 0 ? -errno : bind_in(dir, s, p->name);
    if (rc == 0)
        rc = give_access(in, dir, why, whylen);
    if (rc == 0 && (listen(s, 128) < 0 || fstatat(dir, p->name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
                    renameat(dir, p->name, p->dir, p->name) < 0))
        rc = -errno;
    if (rc == 0) {
        p->dev = st.st_dev;
        p->ino = st.st_ino;
    } else if (dir >= 0) {
        (void)unlinkat(dir, p->name, 0); /* if the socket was bound */
    }
    ffl_close(&dir, NULL);
    (void)unlinkat(p->dir, private, AT_REMOVEDIR);
    return rc;
}

static int open_dir(struct path *p, const char *path)
{
    const char *slash = strrchr(path, '/');
    char dir[sizeof(((struct sockaddr_un *)0)->sun_path) + 1] = ".";
    if (slash)
        snprintf(dir, sizeof(dir), "%.*s", slash == path ? 1 : (int)(slash - path), path);
    snprintf(p->name, sizeof(p->name), "%s", slash ? slash + 1 : path);
    p->dir = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return p->dir < 0 ? -errno : 0;
}

int path_bind(struct ffl_instance *in, int s, char *why, size_t whylen)
{
    const char *path = in->o.path;
    struct path *p = &in->path;
    struct sockaddr_un sa;
    socklen_t len;
    int rc = ffl_unix_addr(path, &sa, &len);
    if (rc < 0) {
        snprintf(why, whylen, "socket path '%s': %s", path, strerror(-rc));
        return rc;
    }
    if (path[0] == '@')
        return bind(s, (struct sockaddr *)&sa, len) < 0 || listen(s, 128) < 0 ? -errno : 0;
    rc = ffl_place_check(path, NULL, why, whylen);
    if (rc == 0)
        rc = open_dir(p, path);
    if (rc == 0)
        rc = take_lock(p);
    if (rc == -ENOTUNIQ && !why[0])
        snprintf(why, whylen, "'%s.lock' is another user's: name another --socket", path);
    if (rc == 0)
        rc = check_free(p, &sa, len);
    if (rc == 0)
        rc = put_in_place(in, s, why, whylen);
    if (rc < 0)
        drop_lock(p);
    return rc;
}

void path_leave(struct ffl_instance *in)
{
    struct path *p = &in->path;
    struct stat st;
    if (p->lock >= 0 && fstatat(p->dir, p->name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        st.st_dev == p->dev && st.st_ino == p->ino)
        (void)unlinkat(p->dir, p->name, 0); /* only the socket bound here */
    drop_lock(p);                           /* a successor may take the path from now on */
}
