/*
 * file.c - sendfile and splice with a stack socket, by copying; offsets and errors as the kernel's.
 *
 * Callers: the program. Files and pipes are read and written without the lock.
 */
#include "preload.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK 65536 /* bytes; on the heap, since a caller's stack may be small */

static bool on_stack(int fd)
{
    struct sock *s = maybe_ours(fd) ? sock_enter_stack(fd) : NULL;
    if (s)
        unlock();
    return s;
}

/* ---- sendfile ------------------------------------------------------------------------------ */

static ssize_t send_part(int out, const void *data, size_t len, int flags)
{
    struct sock *s = sock_enter_stack(out);
    struct iovec iov = {(void *)data, len};
    if (!s) {
        errno = EBADF; /* closed by another thread */
        return -1;
    }
    return sock_sent(sock_send(s, &iov, 1, flags), flags);
}

static ssize_t copy_file(int out, int in, off64_t *at, size_t count, char *data)
{
    size_t sent = 0;
    while (sent < count) {
        size_t want = count - sent < CHUNK ? count - sent : CHUNK;
        ssize_t got = pread64(in, data, want, *at);
        if (got <= 0) {
            if (got < 0 && (errno == ESPIPE || errno == EISDIR))
                errno = EINVAL; /* as sendfile(2): no pipes, sockets or directories */
            return sent || got == 0 ? (ssize_t)sent : -1;
        }
        ssize_t n = send_part(out, data, (size_t)got, 0);
        if (n < 0)
            return sent ? (ssize_t)sent : -1;
        *at += n;
        sent += (size_t)n;
        if (n < got)
            break;
    }
    return (ssize_t)sent;
}

/* From a stack socket: to a pipe only, as splice. */
static ssize_t sendfile_to(int out, int in, const off64_t *offset, size_t count)
{
    struct stat st;
    if (fstat(out, &st) < 0)
        return -1;
    if (offset || !S_ISFIFO(st.st_mode)) {
        errno = offset ? ESPIPE : EINVAL;
        return -1;
    }
    bool nonblock = real.fcntl(out, F_GETFL) & O_NONBLOCK;
    return splice(in, NULL, out, NULL, count, nonblock ? SPLICE_F_NONBLOCK : 0);
}

API ssize_t sendfile64(int out, int in, off64_t *offset, size_t count)
{
    real_start();
    if (on_stack(in))
        return sendfile_to(out, in, offset, count);
    if (!on_stack(out))
        return real.sendfile64(out, in, offset, count);
    off64_t at = 0;
    if (offset && (!user_copy(&at, offset, sizeof(at)) || !user_writes(offset, sizeof(at)))) {
        errno = EFAULT;
        return -1;
    }
    if (!offset)
        at = lseek64(in, 0, SEEK_CUR);
    if (at < 0) {
        errno = offset || errno == ESPIPE ? EINVAL : errno;
        return -1;
    }
    char *data = scratch_begin(CHUNK);
    ssize_t n = data ? copy_file(out, in, &at, count, data) : -1;
    int saved = errno;
    if (data)
        scratch_end();
    if (offset)
        *offset = at;
    else
        (void)lseek64(in, at, SEEK_SET); /* cannot fail: seekable, see above */
    errno = saved;
    return n;
}

API ssize_t sendfile(int out, int in, off_t *offset, size_t count)
{
    _Static_assert(sizeof(off_t) == sizeof(off64_t), "64-bit only");
    return sendfile64(out, in, (off64_t *)offset, count);
}

/* ---- splice -------------------------------------------------------------------------------- */

/* SPLICE_F_NONBLOCK is the pipe's; the socket has its own flag. */
static bool would_block(int pipe, short events, bool nonblock)
{
    struct pollfd p = {.fd = pipe, .events = events};
    if (!nonblock || real.poll(&p, 1, 0) != 0)
        return false;
    errno = EAGAIN;
    return true;
}

/* Writes what the pipe has room for: as splice, it waits for the first byte only. A pipe that can
 * be written takes a page. */
static ssize_t fill_pipe(int pipe, const char *data, size_t len)
{
    int waiting = 0, all = real.fcntl(pipe, F_GETPIPE_SZ);
    size_t done = 0;
    if (all >= 0 && len <= (size_t)all && real.ioctl(pipe, FIONREAD, &waiting) == 0 && !waiting)
        return real.write(pipe, data, len);
    do {
        size_t part = len - done < PIPE_BUF ? len - done : PIPE_BUF;
        ssize_t put = real.write(pipe, data + done, part);
        if (put <= 0)
            return done ? (ssize_t)done : put;
        done += (size_t)put;
    } while (done < len && !would_block(pipe, POLLOUT, true));
    return (ssize_t)done;
}

/* Socket to pipe: takes from the socket the bytes that the pipe took. */
static ssize_t to_pipe(int in, int out, size_t len, unsigned flags, char *data)
{
    bool full = would_block(out, POLLOUT, flags & SPLICE_F_NONBLOCK);
    struct sock *s = full ? NULL : sock_enter_stack(in);
    struct iovec iov = {data, len < CHUNK ? len : CHUNK};
    if (!s)
        return -1; /* EAGAIN, or closed by another thread meanwhile */
    ssize_t got = leave(sock_recv(s, &iov, 1, MSG_PEEK));
    if (got <= 0)
        return got;
    ssize_t put = fill_pipe(out, data, (size_t)got);
    if (put > 0 && (s = sock_enter_stack(in))) {
        iov.iov_len = (size_t)put;
        (void)leave(sock_recv(s, &iov, 1, MSG_DONTWAIT)); /* peeked at above */
    }
    return put;
}

/* Waits as splice does until the pipe has bytes: 1; 0 at its end; or -1. */
static int await_bytes(int pipe, bool nonblock)
{
    struct pollfd p = {.fd = pipe, .events = POLLIN};
    call_begins();
    int n = real.poll(&p, 1, 0);
    if (ffl_likely(p.revents & POLLIN))
        return 1;
    if (real.read(pipe, NULL, 0) < 0) /* not open for reading */
        return -1;
    if (n <= 0 && (nonblock || real.fcntl(pipe, F_GETFL) & O_NONBLOCK)) {
        errno = EAGAIN;
        return -1;
    }
    while (n == 0 || (n < 0 && errno == EINTR && !interrupted(true)))
        n = real.poll(&p, 1, -1);
    return n < 0 ? -1 : (p.revents & POLLIN) != 0;
}

/* 0: there is nothing any more. */
static int64_t read_pipe(void *to, size_t len, void *pipe)
{
    struct pollfd p = {.fd = *(const int *)pipe, .events = POLLIN};
    ssize_t got = real.poll(&p, 1, 0) == 1 && p.revents & POLLIN ? real.read(p.fd, to, len) : 0;
    return got < 0 ? -errno : got;
}

/* What the pipe has, sent as by send(2); 0 if it has nothing. A datagram comes by way of `data`. */
static ssize_t send_piped(struct sock *s, int pipe, size_t len, int flags, char *data)
{
    if (s->type == SOCK_DGRAM) {
        int rc = dgram_may_send(s);
        int64_t got = rc < 0 ? rc : read_pipe(data, len, &pipe);
        struct iovec iov = {data, got > 0 ? (size_t)got : 0};
        return got <= 0 ? (ssize_t)got : sock_send(s, &iov, 1, flags);
    }
    int64_t until = until_of(s->sndtimeo);
    ssize_t rc;
    while ((rc = sock_send(s, NULL, 0, 0)) == 0) { /* an error comes before the pipe is read */
        int64_t sent = ffl_client_send_from(s->session->c, s->h, len, read_pipe, &pipe,
                                            flags & MSG_MORE ? FFL_F_MORE : 0);
        if (sent != -EAGAIN)
            return (ssize_t)sent;
        if ((rc = s->nonblock ? -EAGAIN : sock_wait(s, until, false)) < 0)
            break;
    }
    return rc;
}

/* Pipe to socket: takes from the pipe what the socket takes, and nothing where sending fails. */
static ssize_t from_pipe(int in, int out, size_t len, unsigned flags, char *data)
{
    int more = flags & SPLICE_F_MORE ? MSG_MORE : 0;
    for (;;) {
        int there = await_bytes(in, flags & SPLICE_F_NONBLOCK);
        if (there <= 0)
            return there;
        struct sock *s = sock_enter_stack(out);
        if (!s) {
            errno = EBADF; /* closed by another thread */
            return -1;
        }
        bool dgram = s->type == SOCK_DGRAM; /* no SIGPIPE */
        ssize_t n = send_piped(s, in, len < CHUNK ? len : CHUNK, more, data);
        n = dgram ? leave(n) : sock_sent(n, 0);
        if (n != 0) /* else another reader has emptied the pipe */
            return n;
    }
}

API ssize_t splice(int in, off64_t *in_at, int out, off64_t *out_at, size_t len, unsigned flags)
{
    real_start();
    bool from = on_stack(in), to = on_stack(out);
    if ((!from && !to) || !len || flags & ~(SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE))
        return real.splice(in, in_at, out, out_at, len, flags);
    struct stat pipe;
    if (fstat(from ? out : in, &pipe) < 0)
        return -1;
    if (!S_ISFIFO(pipe.st_mode)) { /* one descriptor must be a pipe */
        errno = EINVAL;
        return -1;
    }
    if (in_at || out_at) {
        errno = (from ? out_at : in_at) ? ESPIPE : EINVAL;
        return -1;
    }
    char *data = scratch_begin(CHUNK);
    if (!data)
        return -1;
    ssize_t n = from ? to_pipe(in, out, len, flags, data) : from_pipe(in, out, len, flags, data);
    scratch_end();
    return n;
}
