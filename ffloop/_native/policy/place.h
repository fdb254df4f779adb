/*
 * place.h - is a socket's path one where nobody else can put another socket?
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
 * 0, or -ENOTUNIQ with a sentence in `why`. What is not there is for bind or connect to say. *owner
 * gets the socket's owner when it is there, for ffl_place_peer; may be NULL: this is for binding.
 * Abstract addresses ("@name") have no directory.
 */
int ffl_place_check(const char *path, uid_t *owner, char *why, size_t whylen);

/* After the connect: whoever listens there is root, this user or the socket's owner. The same. */
int ffl_place_peer(int sock, const char *path, uid_t owner, char *why, size_t whylen);

#endif
