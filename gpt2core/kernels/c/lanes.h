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

/* LANES rows of LANES numbers become columns: within each quarter, four lanes long, the numbers of four rows, for which every
   processor has instructions, and then whole quarters. */
#if LANES == 16
#define QUARTERS(Q) Q(0), Q(4), Q(8), Q(12)
#elif LANES == 8
#define QUARTERS(Q) Q(0), Q(4)
#else
#define QUARTERS(Q) Q(0)
#endif
#define SHUFFLE(one, other, Q) __builtin_shufflevector(one, other, QUARTERS(Q))
#define LOWER(q) q, q + LANES, q + 1, q + 1 + LANES
#define UPPER(q) q + 2, q + 2 + LANES, q + 3, q + 3 + LANES
#define LOWER_PAIRS(q) q, q + 1, q + LANES, q + 1 + LANES
#define UPPER_PAIRS(q) q + 2, q + 3, q + 2 + LANES, q + 3 + LANES
#define QUARTER(q) (q), (q) + 1, (q) + 2, (q) + 3
#define LOWER_4(q) QUARTER(q & 4 ? LANES + q - 4 : q)
#define UPPER_4(q) QUARTER(q & 4 ? LANES + q : q + 4)
#define LOWER_8(q) QUARTER(q & 8 ? LANES + q - 8 : q)
#define UPPER_8(q) QUARTER(q & 8 ? LANES + q : q + 8)
INLINE void transpose(lanes r[LANES]) {
    UNROLL for (int i = 0; i < LANES; i += 4) {
        const lanes a = SHUFFLE(r[i], r[i + 1], LOWER), b = SHUFFLE(r[i], r[i + 1], UPPER);
        const lanes c = SHUFFLE(r[i + 2], r[i + 3], LOWER), d = SHUFFLE(r[i + 2], r[i + 3], UPPER);
        r[i] = SHUFFLE(a, c, LOWER_PAIRS), r[i + 1] = SHUFFLE(a, c, UPPER_PAIRS);
        r[i + 2] = SHUFFLE(b, d, LOWER_PAIRS), r[i + 3] = SHUFFLE(b, d, UPPER_PAIRS);
    }
#if LANES >= 8
    UNROLL for (int i = 0; i < LANES; i++)
        if (!(i & 4)) {
            const lanes low = SHUFFLE(r[i], r[i + 4], LOWER_4), high = SHUFFLE(r[i], r[i + 4], UPPER_4);
            r[i] = low, r[i + 4] = high;
        }
#endif
#if LANES == 16
    UNROLL for (int i = 0; i < 8; i++) {
        const lanes low = SHUFFLE(r[i], r[i + 8], LOWER_8), high = SHUFFLE(r[i], r[i + 8], UPPER_8);
        r[i] = low, r[i + 8] = high;
    }
#endif
}

/* Lanes of one where a condition holds, and of the other where it does not. */
INLINE lanes either(integers holds, lanes one, lanes other) { return (lanes)((holds & (integers)one) | (~holds & (integers)other)); }

INLINE lanes larger(lanes one, lanes other) { return either(one > other, one, other); }

/* What JOIN makes of all lanes, in each of them: halves are joined, quarters, pairs and neighbours. */
#define NEIGHBOURS(q) (q) + 1, (q), (q) + 3, (q) + 2
#define NEXT_PAIRS(q) (q) + 2, (q) + 3, (q), (q) + 1
#define NEXT_4(q) QUARTER((q) ^ 4)
#define NEXT_8(q) QUARTER((q) ^ 8)
#define ADD(one, other) ((one) + (other))
#if LANES == 16
#define FOLD_HALVES(JOIN, v) v = JOIN(v, SHUFFLE(v, v, NEXT_8)), v = JOIN(v, SHUFFLE(v, v, NEXT_4))
#elif LANES == 8
#define FOLD_HALVES(JOIN, v) v = JOIN(v, SHUFFLE(v, v, NEXT_4))
#else
#define FOLD_HALVES(JOIN, v) (void)0
#endif
#define FOLD(JOIN, v) FOLD_HALVES(JOIN, v), v = JOIN(v, SHUFFLE(v, v, NEXT_PAIRS)), v = JOIN(v, SHUFFLE(v, v, NEIGHBOURS))

INLINE float sum(lanes value) {
    FOLD(ADD, value);
    return value[0];
}

INLINE lanes largest(lanes value) {
    FOLD(larger, value);
    return value;
}

/* `exponential` of lanes, of which none is to be above 88. */
INLINE lanes exponentials(lanes x) {
    x = either(x < -87.0f, (lanes){0} - 87.0f, x);
    const lanes shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
    const lanes rest = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    lanes power = 1.9875691500e-4f * rest + 1.3981999507e-3f;
    power = power * rest + 8.3334519073e-3f;
    power = power * rest + 4.1665795894e-2f;
    power = power * rest + 1.6666665459e-1f;
    power = power * rest + 5.0000001201e-1f;
    power = power * rest * rest + rest + 1.0f;
    return power * (lanes)(((words)shifted + 127) << 23);
}

#endif
