/* Sizes, numbers in bfloat16, and what is computed in float32. */

#ifndef NUMBERS_H
#define NUMBERS_H

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

typedef uint16_t bfloat16;

INLINE int64_t min(int64_t one, int64_t other) { return one < other ? one : other; }
INLINE int64_t ceil_div(int64_t value, int64_t size) { return (value + size - 1) / size; }
INLINE int64_t round_up(int64_t value, int64_t multiple) { return ceil_div(value, multiple) * multiple; }

/* The threads of a team ask for a number each, by which they find their part of a workspace. */
INLINE int64_t next_number(int64_t *number) {
    int64_t own;
#pragma omp atomic capture
    own = (*number)++;
    return own;
}

INLINE float to_float(bfloat16 value) {
    const uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

INLINE bfloat16 to_bf16(float value) { /* rounds half to even */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

/* e^x within 2 units in the last place, as 2^n 2^f with |f| <= 1/2; infinite above 88.4, and never below e^-87. */
INLINE float exponential(float x) {
    x = x < -87.0f ? -87.0f : x > 89.0f ? 89.0f : x;
    const float shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f; /* 1.5 * 2^23 drops the fraction */
    const float rest = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float power = 1.9875691500e-4f;
    power = power * rest + 1.3981999507e-3f;
    power = power * rest + 8.3334519073e-3f;
    power = power * rest + 4.1665795894e-2f;
    power = power * rest + 1.6666665459e-1f;
    power = power * rest + 5.0000001201e-1f;
    power = power * rest * rest + rest + 1.0f;
    uint32_t bits;
    float scale;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127) << 23;
    memcpy(&scale, &bits, sizeof scale);
    return power * scale;
}

#endif
