/*
 * fuzz.c - main of the fuzz targets where there is no libFuzzer, and the harness's words for lab.c.
 *
 * Use: TARGET FILE|FOLDER...          runs each input once
 *      TARGET --random SEED COUNT     random inputs until COUNT units are done
 */
#include "fuzz.h"

#include "harness.h"

#include <dirent.h>
#include <sys/stat.h>
#include <time.h>

uint64_t fuzz_units, fuzz_sessions;
const char *test_arg;

void test_fail(const char *file, int line, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    test_say(file, line, fmt, ap);
    va_end(ap);
    abort(); /* libFuzzer keeps the input */
}

bool test_pin(int n)
{
    return n < 0; /* everything here runs on one thread */
}

#ifndef FFL_LIBFUZZER

#define INPUT_LIMIT_S 120

static int inputs;

static void run(const uint8_t *data, size_t size)
{
    alarm(INPUT_LIMIT_S); /* nothing may hang */
    (void)LLVMFuzzerTestOneInput(data, size);
    inputs++;
}

static void run_path(const char *path)
{
    static uint8_t data[1 << 20];
    struct stat st;
    if (stat(path, &st) < 0)
        FAIL("%s: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode)) {
        char below[4096];
        struct dirent **names;
        int n = scandir(path, &names, NULL, alphasort);
        CHECK(n >= 0);
        for (int i = 0; i < n; free(names[i++]))
            if (names[i]->d_name[0] != '.') {
                CHECK(snprintf(below, sizeof(below), "%s/%s", path, names[i]->d_name) < 4096);
                run_path(below);
            }
        free(names);
        return;
    }
    FILE *f = fopen(path, "rb");
    if (!f)
        FAIL("%s: %s", path, strerror(errno));
    size_t n = fread(data, 1, sizeof(data), f);
    fclose(f);
    run(data, n);
}

static void run_random(uint64_t seed, uint64_t count)
{
    static uint8_t data[1 << 16];
    while (fuzz_units < count) {
        size_t n = 1 + test_random(&seed) % fuzz_input_max;
        for (size_t i = 0; i < n; i += 4) {
            uint32_t x = test_random(&seed) << 1 ^ test_random(&seed);
            memcpy(data + i, &x, 4);
        }
        run(data, n);
    }
}

int main(int argc, char **argv)
{
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    if (argc == 4 && strcmp(argv[1], "--random") == 0) {
        run_random(strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10));
    } else if (argc > 1 && argv[1][0] != '-') {
        for (int i = 1; i < argc; i++)
            run_path(argv[i]);
    } else {
        fprintf(stderr, "usage: %s FILE|FOLDER... | --random SEED COUNT\n", argv[0]);
        return 2;
    }
    fuzz_end();
    clock_gettime(CLOCK_MONOTONIC, &b);
    printf("%llu %s in %d inputs and %llu sessions, %.1f s; nothing left\n",
           (unsigned long long)fuzz_units, fuzz_unit, inputs, (unsigned long long)fuzz_sessions,
           (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9);
    return 0;
}

#endif
