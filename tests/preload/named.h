/* named.h - programs of cases: `PROGRAM CASE` runs one. */
#include <stdio.h>
#include <string.h>

struct named {
    const char *name;
    void (*run)(void);
    struct named *next;
};
static struct named *cases;

#define CASE(which)                                                                                \
    static void which(void);                                                                       \
    __attribute__((constructor)) static void add_##which(void)                                     \
    {                                                                                              \
        static struct named it = {#which, which, NULL};                                            \
        it.next = cases;                                                                           \
        cases = &it;                                                                               \
    }                                                                                              \
    static void which(void)

/* An exit status: 0, or 2 where there is no such case. */
static inline int run_named(int argc, char **argv)
{
    for (struct named *it = cases; it && argc == 2; it = it->next)
        if (strcmp(it->name, argv[1]) == 0) {
            it->run();
            return 0;
        }
    fprintf(stderr, "which CASE?\n");
    return 2;
}
