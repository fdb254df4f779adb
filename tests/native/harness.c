/* harness.c - main and the checks of harness.h. */
#include "harness.h"

#include <sched.h>

static struct test_case *cases;
const char *test_arg;

void test_add(struct test_case *t)
{
    t->next = cases;
    cases = t;
}

void test_fail(const char *file, int line, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    test_say(file, line, fmt, ap);
    va_end(ap);
    fflush(NULL);
    _exit(1); /* at once, also from a thread */
}

bool test_pin(int n)
{
    static cpu_set_t all; /* as the process was started */
    cpu_set_t one;
    if (CPU_COUNT(&all) == 0 && sched_getaffinity(0, sizeof(all), &all) < 0)
        FAIL("sched_getaffinity: %s", strerror(errno));
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &all) || n-- > 0)
            continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        return sched_setaffinity(0, sizeof(one), &one) == 0;
    }
    return false;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        for (const struct test_case *t = cases; t; t = t->next)
            puts(t->name);
        return 2;
    }
    test_arg = argc > 2 ? argv[2] : NULL;
    for (const struct test_case *t = cases; t; t = t->next) {
        if (strcmp(t->name, argv[1]) != 0)
            continue;
        alarm(LIMIT_S);
        int before = test_open_fds();
        t->run();
        int after = test_open_fds();
        if (before != after)
            FAIL("%d descriptors open, %d before", after, before);
        return 0;
    }
    fprintf(stderr, "no case '%s'\n", argv[1]);
    return 2;
}
