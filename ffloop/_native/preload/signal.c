/*
 * signal.c - which handlers end a call.
 *
 * Callers: the program. A blocking call on a stack socket sleeps in epoll, which every handler
 * interrupts; the kernel would go on with a read after a handler with SA_RESTART, and it would end
 * any call for one that ran when the call had begun and did not sleep yet. So handlers are reached
 * through one of ours, which counts, and kicks what the thread is about to sleep on.
 */
#include "preload.h"

#include <string.h>

#define SIGNALS 65

static struct sigaction handlers[SIGNALS];
static bool no_restart[SIGNALS]; /* siginterrupt: of handlers that signal() sets */

static void counted(int sig, siginfo_t *info, void *context)
{
    const struct sigaction *a = &handlers[sig];
    tls.ran.all++;
    tls.ran.interrupts += !(a->sa_flags & SA_RESTART);
    struct signals before = tls.before; /* the handler may make calls of its own */
    struct waiter *asleep = tls.asleep;
    if (asleep) {
        int saved = errno;
        uint64_t one = 1;
        ssize_t n = real.write(asleep->kick, &one, sizeof(one)); /* full: readable already */
        (void)n;
        errno = saved;
    }
    a->sa_sigaction(sig, info, context); /* the kernel, too, passes three to any */
    tls.before = before;
    tls.asleep = asleep;
}

static bool is_handler(const struct sigaction *a)
{
    return a->sa_handler != SIG_IGN && a->sa_handler != SIG_DFL;
}

API int sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
    real_start();
    if (sig < 1 || sig >= SIGNALS)
        return real.sigaction(sig, act, old);
    struct sigaction before = handlers[sig], ours, was;
    const struct sigaction *set = act;
    if (act && is_handler(act)) {
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
ALSO(sigaction, __sigaction);

API int siginterrupt(int sig, int interrupt)
{
    struct sigaction a;
    if (sigaction(sig, NULL, &a) < 0)
        return -1;
    no_restart[sig] = interrupt;
    a.sa_flags = interrupt ? a.sa_flags & ~SA_RESTART : a.sa_flags | SA_RESTART;
    return sigaction(sig, &a, NULL);
}

/* ---- the older names: the C library's own would go past sigaction --------------------------- */

static sighandler_t set(int sig, sighandler_t handler, int flags)
{
    struct sigaction a = {.sa_handler = handler, .sa_flags = flags}, old;
    if (handler == SIG_ERR) {
        errno = EINVAL;
        return SIG_ERR;
    }
    if (!(flags & SA_NODEFER))
        sigaddset(&a.sa_mask, sig); /* a wrong number: sigaction says so */
    return sigaction(sig, &a, &old) < 0 ? SIG_ERR : old.sa_handler;
}

API sighandler_t signal(int sig, sighandler_t handler)
{
    return set(sig, handler, sig > 0 && sig < SIGNALS && no_restart[sig] ? 0 : SA_RESTART);
}

sighandler_t bsd_signal(int sig, sighandler_t handler);

API sighandler_t bsd_signal(int sig, sighandler_t handler)
{
    return signal(sig, handler);
}

API sighandler_t ssignal(int sig, sighandler_t handler)
{
    return signal(sig, handler);
}

sighandler_t __sysv_signal(int sig, sighandler_t handler);

API sighandler_t __sysv_signal(int sig, sighandler_t handler)
{
    return set(sig, handler, SA_RESETHAND | SA_NODEFER);
}

API sighandler_t sysv_signal(int sig, sighandler_t handler)
{
    return __sysv_signal(sig, handler);
}
