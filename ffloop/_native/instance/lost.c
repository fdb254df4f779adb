/*
 * lost.c - survives the loss of a segment's pages.
 *
 * Callers: serve.c. A segment's seals hold its size, not its pages: the application can punch holes.
 * An ordinary page comes back as zeros; a huge one only while the system has a free one, and then
 * the access is a SIGBUS. The handler puts private zeros in the place of the whole segment, so that
 * the access goes on as if the application had written zeros, and marks the session, which ends
 * with the iteration. Process-wide, as signals are; for one instance per process.
 */
#include "internal.h"

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
    sigaction(sig, &before,
              NULL); /* not ours: the access faults again, for the handler before us */
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
    (void)sigaction(SIGBUS, &before, NULL); /* it was valid when it was set */
}
