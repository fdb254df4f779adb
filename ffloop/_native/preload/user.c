/*
 * user.c - the program's memory, read and written as the kernel does: a bad pointer is EFAULT.
 *
 * Callers: calls that take a pointer from the program, and the client for the bytes that it copies.
 * The access is made without a check; the handler of a fault (signal.c) jumps back here. A thread
 * that blocks the signals of faults would die of one: it lets them through for the access.
 */
#include "preload.h"

#include <setjmp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define PAGE 4096 /* the smallest page there is */

/* The compiler's setjmp is a few stores; the C library's costs ten times as much. clang has the
 * compiler's for few machines. */
#ifdef __x86_64__
typedef void *place_type[5];
#define COME_BACK(place) __builtin_setjmp(place)
#define GO_BACK(place) __builtin_longjmp(place, 1)
#else
typedef jmp_buf place_type;
#define COME_BACK(place) _setjmp(place)
#define GO_BACK(place) _longjmp(place, 1)
#endif
#define EXPECT_FAULT(place) (tls.fault = &(place), COME_BACK(place) != 0)

/* Of a function that is come back to: a fault leaves nothing in the registers that a call may
 * change. GCC would see that the function changes few, and keep its callers' values in the
 * others. */
#if __has_attribute(noipa)
#define COMES_BACK __attribute__((noipa))
#else
#define COMES_BACK __attribute__((noinline))
#endif

void user_fault(void)
{
    if (tls.fault)
        GO_BACK(*(place_type *)tls.fault);
}

/* ---- signals of faults that are blocked ------------------------------------------------------ */

#define FAULTS (1UL << (SIGSEGV - 1) | 1UL << (SIGBUS - 1)) /* in the kernel's mask */

void user_masked(int how, unsigned long set)
{
    bool any = set & FAULTS;
    if (any || (how == SIG_UNBLOCK && tls.faults == FAULTS_BLOCKED))
        tls.faults = FAULTS_UNKNOWN;
    else if (how == SIG_SETMASK)
        tls.faults = FAULTS_COME;
}

/* Returns those that were blocked; 0: none was, or they are let through already. */
static unsigned long let_through(void)
{
    if (ffl_likely(tls.faults == FAULTS_COME || tls.lent))
        return 0;
    unsigned long faults = FAULTS, were = 0;
    tls.lent = true; /* first: a signal that waits comes at once, and is sent again */
    (void)real.syscall(SYS_rt_sigprocmask, SIG_UNBLOCK, &faults, &were, _NSIG / 8);
    tls.lent = were & FAULTS;
    tls.faults = tls.lent ? FAULTS_BLOCKED : FAULTS_COME;
    return were & FAULTS;
}

static void block_again(unsigned long faults)
{
    if (ffl_likely(!faults))
        return;
    tls.lent = false;
    (void)real.syscall(SYS_rt_sigprocmask, SIG_BLOCK, &faults, NULL, _NSIG / 8);
}

/* ---- access ---------------------------------------------------------------------------------- */

COMES_BACK static bool copy(void *to, const void *from, size_t n)
{
    place_type place;
    if (EXPECT_FAULT(place)) {
        tls.fault = NULL;
        return false;
    }
    atomic_signal_fence(memory_order_seq_cst);
    memcpy(to, from, n);
    atomic_signal_fence(memory_order_seq_cst);
    tls.fault = NULL;
    return true;
}

bool user_copy(void *to, const void *from, size_t n)
{
    unsigned long were = let_through();
    bool good = copy(to, from, n);
    block_again(were);
    return good;
}

/* Touches each page of p[*at, n), and counts in *at. Not inlined: the compiler expects only calls
 * to jump to `place`. */
__attribute__((noinline)) static void touch(const char *p, size_t n, bool writes,
                                            volatile size_t *at)
{
    while (*at < n) {
        if (writes)
            (void)__atomic_fetch_or((char *)p + *at, 0, __ATOMIC_RELAXED);
        else
            (void)*((const volatile char *)p + *at);
        *at += PAGE - ((uintptr_t)p + *at) % PAGE;
    }
}

COMES_BACK static size_t touched(const void *p, size_t n, bool writes)
{
    place_type place;
    volatile size_t at = 0;
    if (EXPECT_FAULT(place)) {
        tls.fault = NULL;
        return at;
    }
    atomic_signal_fence(memory_order_seq_cst);
    touch(p, n, writes, &at);
    atomic_signal_fence(memory_order_seq_cst);
    tls.fault = NULL;
    return at;
}

/* How many of the n bytes can be read, or written; n or more: all. */
static size_t reach(const void *p, size_t n, bool writes)
{
    unsigned long were = let_through();
    size_t at = touched(p, n, writes);
    block_again(were);
    return at;
}

size_t user_room(void *p, size_t n)
{
    size_t at = reach(p, n, true);
    return at < n ? at : n;
}

bool user_reads(const void *p, size_t n)
{
    return reach(p, n, false) >= n;
}

bool user_writes(void *p, size_t n)
{
    return reach(p, n, true) >= n;
}

int user_address(struct sockaddr_storage *to, const struct sockaddr *sa, socklen_t len)
{
    if (len > sizeof(*to))
        return -EINVAL;
    return user_copy(to, sa, len) ? 0 : -EFAULT;
}
