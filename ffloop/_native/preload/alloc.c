/*
 * alloc.c - the shim's own malloc, free, calloc, realloc and strdup, not exported.
 *
 * Callers: everything that is linked into the shim. A signal handler may call socket() while it
 * interrupts the program's malloc, so the shim cannot use the C library's. Blocks are powers of two
 * in pieces of mapped memory; freed blocks are kept by size; a large block is a mapping of its own.
 * The lock is held `inside`, for a few instructions, and signal handlers are put off then
 * (signal.c). AddressSanitizer's malloc takes no handlers either: in its build this one stays, and
 * poisons what is not in use.
 */
#include "preload.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define LEAST 5 /* blocks of 32 bytes, with the head */
#define MOST 17 /* blocks of 128 KiB; larger: a mapping */
#define PIECE ((size_t)1 << 18)

struct head { /* before each block */
    size_t size;
    struct head *next; /* of a free block */
};
_Static_assert(sizeof(struct head) == 16, "blocks are as aligned as malloc's");

static struct head *free_blocks[MOST + 1];
static char *piece;
static size_t left; /* bytes of the piece */
static atomic_flag taken = ATOMIC_FLAG_INIT;

/* ---- AddressSanitizer ------------------------------------------------------------------------ */

#ifdef FFL_POISONS
#include <sanitizer/asan_interface.h>

#define REST 64 /* freed blocks of a size that are not used again yet */

static struct head *resting[MOST + 1][REST];
static unsigned freed[MOST + 1];

/* Puts a freed block to rest; one that has rested comes back, or NULL. */
static struct head *rested(struct head *h, unsigned k)
{
    struct head **place = &resting[k][freed[k]++ % REST], *was = *place;
    *place = h;
    if (was)
        ASAN_UNPOISON_MEMORY_REGION(was, sizeof(*was));
    return was;
}
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))

static struct head *rested(struct head *h, unsigned k)
{
    (void)k;
    return h;
}
#endif

/* ---- blocks ---------------------------------------------------------------------------------- */

static bool enter(void)
{
    bool was = tls.inside;
    tls.inside = true;
    atomic_signal_fence(memory_order_seq_cst);
    while (atomic_flag_test_and_set_explicit(&taken, memory_order_acquire))
        ffl_cpu_relax();
    return was;
}

static void go(bool was)
{
    atomic_flag_clear_explicit(&taken, memory_order_release); /* pairs with enter's acquire */
    atomic_signal_fence(memory_order_seq_cst);
    tls.inside = was;
    if (!was)
        signals_come();
}

void alloc_before_fork(void)
{
    while (atomic_flag_test_and_set_explicit(&taken, memory_order_acquire))
        ffl_cpu_relax();
}

void alloc_after_fork(void)
{
    atomic_flag_clear_explicit(&taken, memory_order_release);
}

static void *map(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static struct head *carve(size_t size)
{
    if (left < size) { /* the rest of the piece is lost */
        char *fresh = map(PIECE);
        if (!fresh)
            return NULL;
        piece = fresh;
        left = PIECE;
        ASAN_POISON_MEMORY_REGION(piece, PIECE);
    }
    struct head *h = (struct head *)piece;
    ASAN_UNPOISON_MEMORY_REGION(h, sizeof(*h));
    piece += size;
    left -= size;
    return h;
}

static unsigned class_of(size_t size)
{
    unsigned k = LEAST;
    while (((size_t)1 << k) < size)
        k++;
    return k;
}

void *malloc(size_t n)
{
    size_t size = n + sizeof(struct head);
    struct head *h;
    if (n > SIZE_MAX / 2) {
        errno = ENOMEM;
        return NULL;
    }
    if (size > (size_t)1 << MOST) {
        h = map(size);
    } else {
        unsigned k = class_of(size);
        size = (size_t)1 << k;
        bool was = enter();
        if ((h = free_blocks[k]))
            free_blocks[k] = h->next;
        else
            h = carve(size);
        go(was);
    }
    if (!h) {
        errno = ENOMEM;
        return NULL;
    }
    h->size = size;
    ASAN_UNPOISON_MEMORY_REGION(h + 1, n);
    return h + 1;
}

void free(void *p)
{
    if (!p)
        return;
    struct head *h = (struct head *)p - 1;
    if (h->size > (size_t)1 << MOST) {
        int saved = errno;
        (void)munmap(h, h->size); /* cannot fail: mapped by malloc */
        errno = saved;
        return;
    }
    unsigned k = class_of(h->size);
    ASAN_POISON_MEMORY_REGION(h, h->size);
    bool was = enter();
    if ((h = rested(h, k))) {
        h->next = free_blocks[k];
        free_blocks[k] = h;
    }
    go(was);
}

void *calloc(size_t n, size_t size)
{
    size_t all;
    if (__builtin_mul_overflow(n, size, &all)) {
        errno = ENOMEM;
        return NULL;
    }
    void *p = malloc(all);
    return p ? memset(p, 0, all) : NULL;
}

void *realloc(void *p, size_t n)
{
    if (!p)
        return malloc(n);
    size_t has = ((struct head *)p - 1)->size - sizeof(struct head);
    ASAN_UNPOISON_MEMORY_REGION(p, n <= has ? n : has);
    if (n <= has)
        return p;
    void *fresh = malloc(n);
    if (fresh) {
        memcpy(fresh, p, has);
        free(p);
    }
    return fresh;
}

char *strdup(const char *text)
{
    size_t n = strlen(text) + 1;
    char *copy = malloc(n);
    return copy ? memcpy(copy, text, n) : NULL;
}
