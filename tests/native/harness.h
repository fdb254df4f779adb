/*
 * harness.h - the C tests' harness: one executable per file, one process per case.
 *
 * Use: TEST(name) { ... CHECK(...); } and nothing else; harness.c has main. `executable CASE [ARG]`
 * runs one case and exits 0 when it passed; test_native.py runs each as a pytest case. A case that
 * ends with other descriptors open than it began with has failed, and so has one that takes longer
 * than LIMIT_S.
 */
#ifndef FFL_TEST_HARNESS_H
#define FFL_TEST_HARNESS_H

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIMIT_S 150 /* of a busy machine: for what hangs */

struct test_case {
    const char *name;
    void (*run)(void);
    struct test_case *next;
};
void test_add(struct test_case *t);
extern const char *test_arg; /* of the command line, or NULL */

#define TEST(id)                                                                                   \
    static void test_##id(void);                                                                   \
    static struct test_case case_##id = {.name = #id, .run = test_##id};                           \
    __attribute__((constructor)) static void add_##id(void)                                        \
    {                                                                                              \
        test_add(&case_##id);                                                                      \
    }                                                                                              \
    static void test_##id(void)

__attribute__((noreturn, format(printf, 3, 4))) void test_fail(const char *file, int line,
                                                               const char *fmt, ...);
void test_say(const char *file, int line, const char *fmt, va_list ap); /* where, and what */

#define FAIL(...) test_fail(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond))                                                                               \
            FAIL("%s", #cond);                                                                     \
    } while (0)
#define CHECK_EQ(a, b)                                                                             \
    do {                                                                                           \
        long long a_ = (long long)(a), b_ = (long long)(b);                                        \
        if (a_ != b_)                                                                              \
            FAIL("%s = %lld, not %s = %lld", #a, a_, #b, b_);                                      \
    } while (0)

int test_open_fds(void);

/* Puts the calling thread on the n-th CPU that the process may use; false when there is none. */
bool test_pin(int n);

/* A reproducible sequence. */
static inline uint32_t test_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint32_t)(*seed >> 33);
}

/* How much slower than a plain build a sanitizer makes a loop, roughly. */
#if defined(__SANITIZE_THREAD__)
#define TEST_SLOW 10
#elif defined(__SANITIZE_ADDRESS__)
#define TEST_SLOW 3
#else
#define TEST_SLOW 1
#endif

#endif
