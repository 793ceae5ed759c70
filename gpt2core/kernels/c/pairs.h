/* Pairs of bfloat16, which AVX512-BF16 multiplies and adds up in one instruction: a word is two neighbours along what is summed
   over, and a vector has words of LANES rows or columns. */

#ifndef __AVX512BF16__
#error "needs products of bfloat16"
#endif

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "numbers.h"

#define LANES 16
#define UNROLL _Pragma("GCC unroll 16")

typedef uint32_t word;

INLINE __mmask16 lanes_before(int64_t count) { return count >= LANES ? 0xffff : count <= 0 ? 0 : (1 << count) - 1; }

INLINE __m512i load(const bfloat16 *from, __mmask16 which) { return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(which, from)); }
INLINE __m512 low_half(__m512i words) { return (__m512)_mm512_slli_epi32(words, 16); }
INLINE __m512 high_half(__m512i words) { return (__m512)_mm512_and_si512(words, _mm512_set1_epi32(0xffff0000)); }

/* Words of two rows, of which the second may be missing, for LANES columns. */
INLINE __m512i interleaved(const bfloat16 *first, const bfloat16 *second, __mmask16 which) {
    const __m512i low = load(first, which);
    return second ? _mm512_or_si512(low, _mm512_slli_epi32(load(second, which), 16)) : low;
}

/* Sixteen rows of sixteen words become columns: four steps, each of which brings words together from twice as far. */
INLINE void transpose(__m512i r[LANES]) {
    __m512i t[LANES];
    UNROLL for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    UNROLL for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    UNROLL for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}
