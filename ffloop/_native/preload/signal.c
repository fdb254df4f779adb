/*
 * signal.c - signal handlers: which of them end a call, and when they run.
 *
 * Callers: the program. A blocking call on a stack socket sleeps in epoll, which every handler
 * interrupts. The kernel goes on with a read after a handler with SA_RESTART, and ends a call also
 * for a handler that ran after the call began and before it slept. So the shim's handler runs in
 * place of the program's: it counts, wakes the thread's waiter, and calls the program's handler.
 */
#include "preload.h"

#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define SIGNALS 65

static struct sigaction handlers[SIGNALS];
static bool no_restart[SIGNALS]; /* set by siginterrupt, for signal() */

/* ---- handlers that are put off --------------------------------------------------------------- */

/* A fault's signal cannot wait; 32 and 33 are the C library's own. */
static bool can_wait(int sig)
{
    static const int not[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT, 32, 33};
    for (size_t i = 0; i < FFL_COUNT(not); i++)
        if (not[i] == sig)
            return false;
    return true;
}

/* The signal comes when the shim's handler has returned, even if the program's is SA_NODEFER. */
static void send_again(int sig, siginfo_t *info)
{
    int saved = errno;
    unsigned long later = 1UL << (sig - 1);
    (void)real.syscall(SYS_rt_sigprocmask, SIG_BLOCK, &later, NULL, _NSIG / 8);
    (void)real.syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), sig, info); /* to this thread */
    errno = saved;
}

/*
 * A signal came while its thread is `inside`, where a handler would find tables half changed and
 * the lock taken. The signal is sent again, with its siginfo, and the thread goes on with the
 * signals that can wait blocked: they wait in the kernel until unlock.
 */
static void put_off(int sig, siginfo_t *info, ucontext_t *context)
{
    if (!tls.put_off)
        memcpy(&tls.masked, &context->uc_sigmask, _NSIG / 8); /* the size of the kernel's mask */
    tls.put_off = true;
    for (int i = 1; i < SIGNALS; i++)
        if (can_wait(i))
            sigaddset(&context->uc_sigmask, i);
    send_again(sig, info);
}

void signals_allow(void)
{
    sigset_t mask = tls.masked;
    tls.put_off = false;
    (void)pthread_sigmask(SIG_SETMASK, &mask, NULL); /* waiting signals run before it returns */
}

/* ---- bad pointers ---------------------------------------------------------------------------- */

/* Does the signal keep the shim's handler whatever the program sets? A fault may come from a
 * pointer that the program gave to a call (user.c). */
static bool stays_ours(int sig)
{
    return sig == SIGSEGV || sig == SIGBUS;
}

static bool is_handler(const struct sigaction *a)
{
    return a->sa_handler != SIG_IGN && a->sa_handler != SIG_DFL;
}

static bool is_sent(const siginfo_t *info)
{
    return info->si_code <= 0; /* else the thread's own fault */
}

/* The program has no handler: the default action comes when the shim's handler returns. */
static void without_handler(int sig, siginfo_t *info)
{
    static const struct sigaction none = {.sa_handler = SIG_DFL};
    if (handlers[sig].sa_handler == SIG_IGN && is_sent(info))
        return;                             /* a fault is not ignored */
    (void)real.sigaction(sig, &none, NULL); /* a valid signal */
    if (is_sent(info))                      /* a fault happens again by itself */
        send_again(sig, info);
}

/* The thread blocks the signal, and let it through for an access (user.c). */
static void block_sent(int sig, siginfo_t *info, ucontext_t *context)
{
    sigaddset(&context->uc_sigmask, sig);
    send_again(sig, info);
}

/* ---- handlers -------------------------------------------------------------------------------- */

static void counted(int sig, siginfo_t *info, void *context)
{
    if (tls.lent && stays_ours(sig) && is_sent(info)) {
        block_sent(sig, info, context);
        return;
    }
    if (tls.fault && stays_ours(sig) && !is_sent(info)) {
        sigset_t mask; /* restored here, since the jump goes past the handler's return */
        memcpy(&mask, &((ucontext_t *)context)->uc_sigmask, _NSIG / 8);
        (void)real.syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, _NSIG / 8);
        user_fault();
    }
    if (ffl_unlikely(tls.inside) && can_wait(sig)) {
        put_off(sig, info, context);
        return;
    }
    struct sigaction copy = handlers[sig];
    const struct sigaction *a = &copy;
    if (!is_handler(a)) {
        without_handler(sig, info);
        return;
    }
    if (a->sa_flags & SA_RESETHAND) { /* done here: the kernel's would reset at put_off, too */
        struct sigaction reset = copy;
        reset.sa_handler = SIG_DFL;
        (void)real.sigaction(sig, &reset, NULL); /* a valid signal */
    }
    tls.ran.all++;
    tls.ran.interrupts += !(a->sa_flags & SA_RESTART);
    struct signals before = tls.before; /* the handler may make calls of its own */
    int error = tls.error;
    struct waiter *asleep = tls.asleep;
    void **fault = tls.fault; /* not for faults of the handler's */
    enum faults faults = tls.faults;
    tls.fault = NULL;
    tls.faults = FAULTS_UNKNOWN; /* the handler may have them blocked, and may leave by a jump */
    if (asleep) {
        int saved = errno;
        uint64_t one = 1;
        ssize_t n = real.write(asleep->wake_fd, &one, sizeof(one)); /* EAGAIN: readable */
        (void)n;
        errno = saved;
    }
    a->sa_sigaction(sig, info, context); /* as the kernel: three arguments to any handler */
    tls.before = before;
    tls.error = error;
    tls.asleep = asleep;
    tls.fault = fault;
    tls.faults = faults;
}

/* The action that the kernel gets in place of `act`. */
static struct sigaction ours_for(int sig, const struct sigaction *act)
{
    struct sigaction ours = *act;
    if (!is_handler(act) && !stays_ours(sig))
        return ours;
    ours.sa_flags = (ours.sa_flags | SA_SIGINFO) & (int)~SA_RESETHAND;
    if (!is_handler(act))
        ours.sa_flags |= SA_ONSTACK;
    ours.sa_sigaction = counted;
    return ours;
}

void signal_start(void)
{
    struct sigaction was;
    for (int sig = 1; sig < SIGNALS; sig++)
        if (stays_ours(sig) && real.sigaction(sig, NULL, &was) == 0 && !is_handler(&was))
            (void)sigaction(sig, &was, NULL); /* a valid signal */
}

void signal_exec(bool begins)
{
    for (int sig = 1; sig < SIGNALS; sig++)
        if (stays_ours(sig) && handlers[sig].sa_handler == SIG_IGN) {
            struct sigaction a = begins ? handlers[sig] : ours_for(sig, &handlers[sig]);
            (void)real.sigaction(sig, &a, NULL); /* a valid signal */
        }
}

API int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
    real_start();
    unsigned long mask;                                      /* the kernel's part */
    bool known = set && user_copy(&mask, set, sizeof(mask)); /* `old` may be the same place */
    int rc = real.pthread_sigmask(how, set, old);
    if (rc == 0 && known)
        user_masked(how, mask);
    return rc;
}

API int sigprocmask(int how, const sigset_t *set, sigset_t *old)
{
    int rc = pthread_sigmask(how, set, old);
    if (rc == 0)
        return 0;
    errno = rc;
    return -1;
}

API int sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
    real_start();
    if (sig < 1 || sig >= SIGNALS)
        return real.sigaction(sig, act, old);
    struct sigaction before = handlers[sig], ours, was;
    const struct sigaction *set = act;
    if (act) {
        ours = ours_for(sig, act);
        set = &ours;
        if (ours.sa_sigaction == counted)
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
        sigaddset(&a.sa_mask, sig); /* an invalid signal: sigaction fails */
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
