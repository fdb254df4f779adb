/*
 * page.c - the stats page of a loop in direct mode: the header of an instance's page (shm/stats.h)
 * in a sealed memfd, which `ffloop stat` reads as it reads an instance's, also where the process is
 * stopped.
 *
 * Caller: direct.c. A loop works without a page, too (memfd_create denied, no descriptor left).
 */
#include "hot.h"

#include "stats.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define SIZE 4096

static void fill(struct ffl_instance_page *page)
{
    page->version = FFL_STATS_VERSION;
    page->pid = (int32_t)getpid();
    page->start_realtime = (int64_t)time(NULL);
    page->size = page->session_off = page->socket_off = SIZE; /* no tables */
    snprintf(page->stack, sizeof(page->stack), "host");
    snprintf(page->path, sizeof(page->path), "direct");
    snprintf(page->describe, sizeof(page->describe),
             "direct mode: this kernel's TCP, in the application's own thread");
    page->magic = FFL_STATS_MAGIC;
}

struct ffl_instance_page *page_open(int *fd)
{
    *fd = memfd_create(FFL_STATS_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (*fd < 0)
        return NULL;
    void *p = ftruncate(*fd, SIZE) < 0
                  ? MAP_FAILED
                  : mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    if (p == MAP_FAILED) {
        ffl_close(fd, NULL);
        return NULL;
    }
    /* If that fails: no reader maps a page without seals. */
    (void)fcntl(*fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL);
    fill(p);
    return p;
}

void page_close(struct ffl_instance_page *page, int fd)
{
    if (page) {
        munmap(page, SIZE);
        close(fd);
    }
}

static void set(_Atomic uint64_t *to, uint64_t value)
{
    atomic_store_explicit(to, value, memory_order_relaxed);
}

struct ffl_lag *page_lag(struct ffl_instance_page *page)
{
    return page ? &page->lag : NULL;
}

void page_note(struct ffl_instance_page *page, uint64_t waits, const struct direct_counters *n)
{
    set(&page->accepts, n->accepts);
    set(&page->turns, waits);
    set(&page->sleeps, n->sleeps);
    atomic_store_explicit(&page->sockets, n->sockets, memory_order_relaxed);
}
