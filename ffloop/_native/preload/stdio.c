/*
 * stdio.c - the C library's streams on stack sockets.
 *
 * Callers: the C library. A stream reads, writes and closes its descriptor inside the library, past
 * the shim's calls, but through a table of functions: one table for bytes, one for wide characters.
 * Three entries of each table are replaced, so that all streams of the process (fdopen's, standard
 * input and output after an exec, C++'s) behave as read, write and close. dprintf uses no such
 * table.
 */
#include "preload.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>
#include <wchar.h>

/* The pointer to the table follows the FILE; its entries (libioP.h) have not moved since 1999. */
enum { READ = 14, WRITE = 15, CLOSE = 17, ENTRIES = 21 };

static ssize_t (*file_read)(FILE *, void *, ssize_t);
static ssize_t (*file_write)(FILE *, const void *, ssize_t);
static int (*file_close)(FILE *);

/* Does the stream's descriptor still stand for a stack socket? A stream asks seldom enough for
 * fd_holds. */
static bool on_socket(const FILE *f)
{
    if (ffl_likely(!maybe_ours(f->_fileno)))
        return false;
    lock();
    bool yes = fd_holds(f->_fileno);
    unlock();
    return yes;
}

static ssize_t stream_read(FILE *f, void *to, ssize_t len)
{
    return on_socket(f) ? read(f->_fileno, to, (size_t)len) : file_read(f, to, len);
}

/* The bytes written; fewer than `len`: an error, which the stream's flags keep. */
static ssize_t stream_write(FILE *f, const void *from, ssize_t len)
{
    if (!on_socket(f))
        return file_write(f, from, len);
    ssize_t done = 0, n;
    while (done < len) {
        if ((n = write(f->_fileno, (const char *)from + done, (size_t)(len - done))) < 0) {
            f->_flags |= _IO_ERR_SEEN;
            break;
        }
        done += n;
    }
    return done;
}

static int stream_close(FILE *f)
{
    return on_socket(f) ? close(f->_fileno) : file_close(f);
}

static void **table_of(FILE *f)
{
    return *(void ***)(f + 1);
}

static int write_table(void **table)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = (uintptr_t)table & ~(page - 1);
    size_t len = (uintptr_t)(table + ENTRIES) - first;
    if (mprotect((void *)first, len, PROT_READ | PROT_WRITE) < 0)
        return -errno;
    table[READ] = (void *)stream_read;
    table[WRITE] = (void *)stream_write;
    table[CLOSE] = (void *)stream_close;
    return mprotect((void *)first, len, PROT_READ) < 0 ? -errno : 0;
}

/* Has the table, at the places that we know, the functions that the C library exports? */
static bool known(void **table)
{
    return table[READ] == dlsym(RTLD_DEFAULT, "_IO_file_read") &&
           table[WRITE] == dlsym(RTLD_DEFAULT, "_IO_file_write") &&
           table[CLOSE] == dlsym(RTLD_DEFAULT, "_IO_file_close");
}

void stdio_start(void)
{
    FILE *f = fdopen(real.eventfd(0, EFD_CLOEXEC), "r");
    if (!f)
        return; /* no descriptor, or no memory */
    void **bytes = table_of(f);
    (void)fwide(f, 1); /* f has the other table from now on */
    void **wide = table_of(f);
    (void)fclose(f);
    if (!known(bytes) || !known(wide)) {
        ffl_log(FFL_LOG_WARNING,
                "this C library's streams are not known: they see no stack socket");
        return;
    }
    file_read = (ssize_t (*)(FILE *, void *, ssize_t))bytes[READ];
    file_write = (ssize_t (*)(FILE *, const void *, ssize_t))bytes[WRITE];
    file_close = (int (*)(FILE *))bytes[CLOSE];
    int rc = write_table(bytes);
    if (rc == 0)
        rc = write_table(wide);
    if (rc < 0)
        ffl_log(FFL_LOG_WARNING, "streams see no stack socket: %s", strerror(-rc));
}

/* ---- streams that are made ------------------------------------------------------------------ */

static FILE *made(FILE *f)
{
    if (f)
        (void)fd_made(f->_fileno);
    return f;
}

#define MAKES(name, params, args)                                                                  \
    API FILE *name params                                                                          \
    {                                                                                              \
        real_start();                                                                              \
        return made(real.name args);                                                               \
    }

MAKES(fopen, (const char *path, const char *mode), (path, mode))
MAKES(fopen64, (const char *path, const char *mode), (path, mode))
MAKES(tmpfile, (void), ())
MAKES(tmpfile64, (void), ())
MAKES(popen, (const char *command, const char *mode), (command, mode))

/* The C library keeps the number: it makes the new descriptor, by a call of its own, in place of
 * the old. */
static FILE *remade(FILE *f, int was)
{
    if (was >= 0)
        (void)fd_made(was);
    return made(f);
}

API FILE *freopen(const char *path, const char *mode, FILE *f)
{
    real_start();
    int was = f->_fileno;
    return remade(real.freopen(path, mode, f), was);
}

API FILE *freopen64(const char *path, const char *mode, FILE *f)
{
    real_start();
    int was = f->_fileno;
    return remade(real.freopen64(path, mode, f), was);
}

/* ---- perror: the C library's writes to a copy of the descriptor ------------------------------ */

API void perror(const char *what)
{
    real_start();
    int fd = fileno(stderr), saved = errno;
    char room[128];
    if (!maybe_ours(fd)) {
        real.perror(what);
        return;
    }
    bool named = what && *what;
    dprintf(fd, "%s%s%s\n", named ? what : "", named ? ": " : "",
            strerror_r(saved, room, sizeof(room)));
    errno = saved;
}

/* ---- dprintf -------------------------------------------------------------------------------- */

int __vsnprintf_chk(char *to, size_t room, int flag, size_t size, const char *format, va_list ap);
int __vdprintf_chk(int fd, int flag, const char *format, va_list ap);
int __dprintf_chk(int fd, int flag, const char *format, ...);

static int write_all(int fd, const char *text, int len)
{
    for (ssize_t done = 0, n; done < len; done += n)
        if ((n = write(fd, text + done, (size_t)(len - done))) < 0)
            return -1;
    return len;
}

/* `flag`: of _FORTIFY_SOURCE; 0: not fortified. */
API int __vdprintf_chk(int fd, int flag, const char *format, va_list ap)
{
    real_start();
    if (!maybe_ours(fd))
        return real.__vdprintf_chk(fd, flag, format, ap);
    char few[1024];
    va_list again;
    va_copy(again, ap);
    int len = __vsnprintf_chk(few, sizeof(few), flag, sizeof(few), format, ap);
    char *text = len < (int)sizeof(few) ? few : scratch_begin((size_t)len + 1);
    if (text && text != few)
        len = __vsnprintf_chk(text, (size_t)len + 1, flag, (size_t)len + 1, format, again);
    va_end(again);
    int rc = len < 0 || !text ? -1 : write_all(fd, text, len);
    if (text && text != few)
        scratch_end();
    return rc;
}

API int vdprintf(int fd, const char *format, va_list ap)
{
    return __vdprintf_chk(fd, 0, format, ap);
}

#define DPRINTF(fd, flag, format)                                                                  \
    va_list ap;                                                                                    \
    va_start(ap, format);                                                                          \
    int n = __vdprintf_chk(fd, flag, format, ap);                                                  \
    va_end(ap);                                                                                    \
    return n

API int __dprintf_chk(int fd, int flag, const char *format, ...)
{
    DPRINTF(fd, flag, format);
}

API int dprintf(int fd, const char *format, ...)
{
    DPRINTF(fd, 0, format);
}
