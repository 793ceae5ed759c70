/* Vectors of float32 as wide as the processor's: everything that is written with them compiles for any processor, and is as
   long as LANES says. */

#ifndef LANES_H
#define LANES_H

#include "numbers.h"

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4 /* SSE2, NEON */
#endif
#define UNROLL _Pragma("GCC unroll 16")

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t integers __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));

INLINE lanes load_lanes(const float *from) {
    lanes value;
    memcpy(&value, from, sizeof value);
    return value;
}

INLINE void store_lanes(float *to, lanes value) { memcpy(to, &value, sizeof value); }

INLINE lanes load_some(const float *from, int64_t count) { /* the first ones, and zeros */
    if (count >= LANES) return load_lanes(from);
    float part[LANES] = {0};
    for (int64_t i = 0; i < count; i++) part[i] = from[i];
    return load_lanes(part);
}

INLINE void store_some(float *to, lanes value, int64_t count) {
    if (count >= LANES) store_lanes(to, value);
    else
        for (int64_t i = 0; i < count; i++) to[i] = value[i];
}

INLINE float sum(lanes value) {
    float part[LANES];
    memcpy(part, &value, sizeof part);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) part[i] += part[i + half];
    return part[0];
}

/* LANES rows of LANES numbers become columns: each step interleaves the two halves, and after log2(LANES) of them all are where
   they belong. */
#if LANES == 16
#define FRONT(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define BACK(a, b) __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif LANES == 8
#define FRONT(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define BACK(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#else
#define FRONT(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define BACK(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#endif
INLINE void transpose(lanes r[LANES]) {
    lanes t[LANES];
    UNROLL for (int step = 1; step < LANES; step *= 2) {
        UNROLL for (int i = 0; i < LANES / 2; i++) {
            t[2 * i] = FRONT(r[i], r[i + LANES / 2]);
            t[2 * i + 1] = BACK(r[i], r[i + LANES / 2]);
        }
        UNROLL for (int i = 0; i < LANES; i++) r[i] = t[i];
    }
}

#endif
