/*
 * place.h - whether a unix socket's path is safe: no other user can put a socket there.
 *
 * Callers: the instance before it binds, the client before it connects, `ffloop doctor`. Any thread;
 * does not wait.
 */
#ifndef FFL_PLACE_H
#define FFL_PLACE_H

#include <stddef.h>
#include <sys/types.h>

/*
 * The directory must be no symbolic link, and be writable by others only if it is sticky. It belongs
 * to root or to this process's user; to one that connects also to the socket's own user, who has to
 * be root or this one in a directory where everybody may write.
 *
 * 0, or -ENOTUNIQ with a sentence in `why`. A missing path is left to bind or connect. *owner is set to
 * the owner of the socket at the path, for ffl_place_peer; NULL when the caller binds.
 * Abstract addresses ("@name") have no directory.
 */
int ffl_place_check(const char *path, uid_t *owner, char *why, size_t whylen);

/* After the connect: the listener is root, this user or the socket's owner. Returns the same. */
int ffl_place_peer(int sock, const char *path, uid_t owner, char *why, size_t whylen);

#endif
