/*
 * signal.c - which handlers want calls to be interrupted.
 *
 * Callers: the program. A blocking call on a stack socket sleeps in epoll, which every handler
 * interrupts; the kernel would go on with a read after a handler with SA_RESTART. So handlers
 * without it are reached through one of ours, which counts.
 */
#include "preload.h"

#include <string.h>

static struct sigaction handlers[65];

static void counted(int sig, siginfo_t *info, void *context)
{
    const struct sigaction *a = &handlers[sig];
    tls.interrupts++;
    if (a->sa_flags & SA_SIGINFO)
        a->sa_sigaction(sig, info, context);
    else
        a->sa_handler(sig);
}

static bool wrapped(const struct sigaction *a)
{
    return !(a->sa_flags & SA_RESTART) && a->sa_handler != SIG_IGN && a->sa_handler != SIG_DFL;
}

API int sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
    real_start();
    if (sig < 1 || sig > 64)
        return real.sigaction(sig, act, old);
    struct sigaction before = handlers[sig], ours, was;
    const struct sigaction *set = act;
    if (act && wrapped(act)) {
        ours = *act;
        ours.sa_flags |= SA_SIGINFO;
        ours.sa_sigaction = counted;
        set = &ours;
        handlers[sig] = *act;
    }
    int rc = real.sigaction(sig, set, &was);
    if (rc < 0) {
        handlers[sig] = before;
        return rc;
    }
    if (old)
        *old = was.sa_sigaction == counted ? before : was;
    return 0;
}

API int siginterrupt(int sig, int interrupt)
{
    struct sigaction a;
    if (sigaction(sig, NULL, &a) < 0)
        return -1;
    a.sa_flags = interrupt ? a.sa_flags & ~SA_RESTART : a.sa_flags | SA_RESTART;
    return sigaction(sig, &a, NULL);
}
