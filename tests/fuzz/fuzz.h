/*
 * fuzz.h - the fuzz targets' frame: bytes in, decisions out.
 *
 * A target is LLVMFuzzerTestOneInput, as libFuzzer calls it, on one instance (or client) after
 * another in this process. Built by gcc, fuzz.c has a main of its own: it runs kept inputs, or
 * makes as many random ones as it takes for COUNT units (entries, handshakes). A target reads its
 * input as decisions of a hostile peer that are mostly right, since a session ends with its first
 * lie: what only a long session reaches would never be reached otherwise.
 */
#ifndef FFL_FUZZ_H
#define FFL_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Each target has these. */
extern const char fuzz_unit[];
extern const size_t fuzz_input_max; /* bytes of a random input */
void fuzz_end(void);                /* nothing may be left; ends what the inputs shared */

extern uint64_t fuzz_units, fuzz_sessions;

struct input {
    const uint8_t *p;
    size_t n;
};

/* The next `bytes` bytes as a number; zeros when the input has ended. */
static inline uint32_t take(struct input *in, unsigned bytes)
{
    uint32_t v = 0;
    while (bytes-- > 0) {
        v = v << 8 | (in->n ? *in->p : 0);
        in->p += in->n > 0;
        in->n -= in->n > 0;
    }
    return v;
}

/* Once in 256: what follows is to be wrong. */
static inline bool wild(struct input *in)
{
    return take(in, 1) == 0xff;
}

#endif
