/*
 * place.h - whether a unix socket's path is safe: no other user can put a socket there.
 *
 * Callers: the instance before it binds, the client before it connects, `ffloop doctor`. Any
 * thread; does not wait.
 */
#ifndef FFL_PLACE_H
#define FFL_PLACE_H

#include <stddef.h>
#include <sys/types.h>

/*
 * The directory must be no symbolic link, sticky if every user may write in it, and root's or this
 * user's. A caller that connects also accepts the socket owner's directory; the socket must then be
 * no symbolic link, and root's or this user's if every user (or, unless the directory is the socket
 * owner's, its group) may write there.
 *
 * 0, or -ENOTUNIQ with a sentence in `why`. A missing path is left to bind or connect. `owner`:
 * NULL when the caller binds; else *owner is set to the socket's owner, for ffl_place_peer.
 * Abstract addresses ("@name") have no directory.
 */
int ffl_place_check(const char *path, uid_t *owner, char *why, size_t whylen);

/* After the connect: 0 when the listener is root's, this user's or the socket owner's; else the
 * same. */
int ffl_place_peer(int sock, const char *path, uid_t owner, char *why, size_t whylen);

#endif
