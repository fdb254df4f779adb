/* place.c - see place.h. */
#include "place.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static bool trusted(uid_t uid)
{
    return uid == 0 || uid == geteuid();
}

/* The directory of a path; cut only where the path is too long for an address. */
static void dir_of(const char *path, char *dir, size_t size)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        snprintf(dir, size, ".");
    else
        snprintf(dir, size, "%.*s", slash == path ? 1 : (int)(slash - path), path);
}

int ffl_place_check(const char *path, uid_t *owner, char *why, size_t whylen)
{
    struct stat d, s;
    char dir[256];
    if (owner)
        *owner = geteuid();
    if (path[0] == '@')
        return 0;
    dir_of(path, dir, sizeof(dir));
    if (lstat(dir, &d) < 0)
        return 0;
    bool there = lstat(path, &s) == 0, open = d.st_mode & S_IWOTH;
    if (owner && !there)
        return 0; /* a socket made meanwhile is checked by ffl_place_peer */
    if (S_ISLNK(d.st_mode))
        snprintf(why, whylen, "'%s' is a symbolic link: name the directory itself", dir);
    else if (open && !(d.st_mode & S_ISVTX))
        snprintf(why, whylen, "every user may write in '%s': chmod o-w, or name another place",
                 dir);
    else if (!trusted(d.st_uid) && !(owner && there && s.st_uid == d.st_uid))
        snprintf(why, whylen,
                 "'%s' belongs to user %u, who could put another socket there: name a directory "
                 "of this user (%u) or of root",
                 dir, (unsigned)d.st_uid, (unsigned)geteuid());
    else if (owner && there && S_ISLNK(s.st_mode))
        snprintf(why, whylen, "'%s' is a symbolic link: name the socket itself", path);
    else if (owner && there && !trusted(s.st_uid) &&
             (open || (d.st_mode & S_IWGRP && s.st_uid != d.st_uid)))
        snprintf(
            why, whylen,
            "'%s' is of user %u, and %s may write in '%s': have the instance listen where only "
            "its user may",
            path, (unsigned)s.st_uid, open ? "every user" : "a group", dir);
    else {
        if (owner && there)
            *owner = s.st_uid;
        return 0;
    }
    return -ENOTUNIQ;
}

int ffl_place_peer(int sock, const char *path, uid_t owner, char *why, size_t whylen)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);
    if (path[0] == '@' || getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0 ||
        trusted(cred.uid) || cred.uid == owner)
        return 0;
    snprintf(why, whylen, "user %u listens at '%s', which is of user %u", (unsigned)cred.uid, path,
             (unsigned)owner);
    return -ENOTUNIQ;
}
