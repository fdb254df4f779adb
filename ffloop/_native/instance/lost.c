/*
 * lost.c - survives the loss of a segment's pages.
 *
 * Callers: start.c. Seals keep a segment's size, not its pages: the application can punch holes. A
 * page comes back as zeros; but where the system has no free huge page, access to a lost huge page
 * is a SIGBUS. The handler maps private zeros in place of the segment, so that the access goes on,
 * and marks the session, which the next iteration ends. For one instance per process.
 */
#include "peers.h"

#include <signal.h>
#include <sys/mman.h>

static struct ffl_instance *guarded;
static struct sigaction before;

static struct ffl_session *owner(const char *at)
{
    struct ffl_session *s = guarded ? TAILQ_FIRST(&guarded->sessions) : NULL;
    while (s && (at < (char *)s->map.seg || at >= (char *)s->map.seg + s->map.geo.size))
        s = TAILQ_NEXT(s, link);
    return s;
}

static void on_bus(int sig, siginfo_t *si, void *context)
{
    struct ffl_session *s = si->si_code > 0 ? owner(si->si_addr) : NULL;
    if (s && mmap(s->map.seg, s->map.geo.size, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED) {
        s->lost = 1;
        return;
    }
    /* Not a segment's: the access faults again, for the earlier handler. */
    sigaction(sig, &before, NULL);
    if (si->si_code <= 0)
        raise(sig);
}

void lost_guard(struct ffl_instance *in)
{
    struct sigaction on = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO};
    if (!guarded && sigaction(SIGBUS, &on, &before) == 0)
        guarded = in;
}

void lost_unguard(struct ffl_instance *in)
{
    if (guarded != in)
        return;
    guarded = NULL;
    (void)sigaction(SIGBUS, &before, NULL); /* `before` came from the kernel: valid */
}
