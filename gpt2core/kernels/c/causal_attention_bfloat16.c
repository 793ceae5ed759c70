/* Causal self-attention of whole windows in bfloat16, forward and backward, one head at a time within the caches.

   Products are made of dot products of pairs (AVX512-BF16): a word is two neighbours along what is summed over. Nothing is
   kept for backward, which computes the weights again. Called by gpt2core/kernels/causal_attention.py. H heads of size D lie in [B][T][3][H][D]
   as queries, keys and values; D is a multiple of 16. */

#include <math.h>

#include "pairs.h"

#define ROWS 6 /* of a tile: with 4 vectors each they fill the registers */

/* c[r][0..16 C) = sum over pairs first <= p < last of a[r * row + p * pair] . b[p * wide_b + column]. */
INLINE void tile(const int C, const word *a, int64_t row, int64_t pair, const word *b, int64_t wide_b, float *c,
                 int64_t wide_c, int64_t rows, int64_t first, int64_t last) {
    __m512 sums[ROWS][4];
    const word *from[ROWS];
    for (int r = 0; r < ROWS; r++) {
        from[r] = a + min(r, rows - 1) * row;
        for (int v = 0; v < C; v++) sums[r][v] = _mm512_setzero_ps();
    }
    for (int64_t p = first; p < last; p++) {
        __m512bh right[4];
        _Pragma("GCC unroll 4") for (int v = 0; v < C; v++) right[v] = (__m512bh)_mm512_loadu_si512(b + p * wide_b + 16 * v);
        _Pragma("GCC unroll 6") for (int r = 0; r < ROWS; r++) {
            const __m512bh left = (__m512bh)_mm512_set1_epi32(from[r][p * pair]);
            _Pragma("GCC unroll 4") for (int v = 0; v < C; v++) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], left, right[v]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < C; v++) _mm512_storeu_ps(c + r * wide_c + 16 * v, sums[r][v]);
}

/* The same for `columns`, a multiple of 16. */
static void product(const word *a, int64_t row, int64_t pair, const word *b, int64_t wide_b, float *c, int64_t wide_c,
                    int64_t rows, int64_t columns, int64_t first, int64_t last) {
    int64_t j = 0;
    for (; j + 64 <= columns; j += 64) tile(4, a, row, pair, b + j, wide_b, c + j, wide_c, rows, first, last);
    if (columns - j == 48) tile(3, a, row, pair, b + j, wide_b, c + j, wide_c, rows, first, last);
    if (columns - j == 32) tile(2, a, row, pair, b + j, wide_b, c + j, wide_c, rows, first, last);
    if (columns - j == 16) tile(1, a, row, pair, b + j, wide_b, c + j, wide_c, rows, first, last);
}

/* Words of neighbours in a row, [D / 2][width]. */
static void pack_rows(const bfloat16 *from, int64_t stride, int64_t length, int64_t size, word *to, int64_t width) {
    for (int64_t j = 0; j < length; j += LANES)
        for (int64_t d = 0; d < size / 2; d += LANES) {
            __m512i words[LANES];
            UNROLL for (int i = 0; i < LANES; i++) {
                const __mmask16 which = j + i < length ? lanes_before(size / 2 - d) : 0;
                words[i] = _mm512_maskz_loadu_epi32(which, from + (j + i) * stride + 2 * d);
            }
            transpose(words);
            UNROLL for (int i = 0; i < LANES; i++)
                if (d + i < size / 2) _mm512_storeu_si512(to + (d + i) * width + j, words[i]);
        }
}

/* Words of neighbours in a column, [(length + 1) / 2][width], of `columns`, a multiple of 16. */
static void pack_columns(const bfloat16 *from, int64_t stride, int64_t length, int64_t columns, word *to, int64_t width) {
    for (int64_t i = 0; i < length; i += 2)
        for (int64_t d = 0; d < columns; d += LANES) {
            const bfloat16 *row = from + i * stride + d;
            _mm512_storeu_si512(to + i / 2 * width + d, interleaved(row, i + 1 < length ? row + stride : NULL, 0xffff));
        }
}

/* The weights of queries first..first + rows for `columns` keys, bfloat16 [ROWS][width]. */
static void weigh(const bfloat16 *query, int64_t stride, const word *keys, int64_t width, int64_t size, int64_t first,
                  int64_t rows, int64_t columns, float *scores, bfloat16 *weights) {
    const float scale = 1.0f / sqrtf((float)size);
    product((const word *)(query + first * stride), stride / 2, 1, keys, width, scores, width, rows, columns, 0, size / 2);
    for (int64_t r = 0; r < rows; r++) {
        float *row = scores + r * width, most = -INFINITY, total = 0.0f;
        for (int64_t j = first + r + 1; j < columns; j++) row[j] = -INFINITY;
#pragma omp simd reduction(max : most)
        for (int64_t j = 0; j < columns; j++) most = row[j] > most ? row[j] : most;
#pragma omp simd reduction(+ : total)
        for (int64_t j = 0; j < columns; j++) total += row[j] = exponential(scale * (row[j] - most));
        const float share = 1.0f / total;
        for (int64_t j = 0; j < columns; j++) weights[r * width + j] = to_bf16(share * row[j]);
        for (int64_t j = first + r + 1; j < columns; j++) weights[r * width + j] = 0;
    }
    memset(weights + rows * width, 0, (ROWS - rows) * width * sizeof *weights);
}

static void round_rows(const float *from, int64_t size, int64_t rows, bfloat16 *to, int64_t stride) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t d = 0; d < size; d++) to[r * stride + d] = to_bf16(from[r * size + d]);
}

/* Positions of a row, filled up to whole vectors; one more keeps rows from falling onto the same places in the cache. */
static int64_t row_width(int64_t length) { return (length + LANES - 1) / LANES * LANES + LANES; }

static void head_forward(const bfloat16 *query, int64_t stride, int64_t part, int64_t length, int64_t size, bfloat16 *out,
                         int64_t out_stride, void *workspace) {
    const int64_t width = row_width(length);
    word *keys = workspace, *values = keys + size / 2 * width;
    float *scores = (float *)(values + (length + 1) / 2 * size), *mixed = scores + ROWS * width;
    bfloat16 *weights = (bfloat16 *)(mixed + ROWS * size);
    pack_rows(query + part, stride, length, size, keys, width);
    pack_columns(query + 2 * part, stride, length, size, values, size);
    for (int64_t i = 0; i < length; i += ROWS) {
        const int64_t rows = min(ROWS, length - i), columns = (i + rows + 15) / 16 * 16;
        weigh(query, stride, keys, width, size, i, rows, columns, scores, weights);
        product((word *)weights, width / 2, 1, values, size, mixed, size, rows, size, 0, (i + rows + 1) / 2);
        round_rows(mixed, size, rows, out + i * out_stride, out_stride);
    }
}

static void head_backward(const bfloat16 *query, int64_t stride, int64_t part, int64_t length, int64_t size,
                          const bfloat16 *by_out, int64_t out_stride, bfloat16 *by_query, void *workspace) {
    const int64_t width = row_width(length), pairs = (length + 1) / 2;
    const float scale = 1.0f / sqrtf((float)size);
    word *keys = workspace, *values = keys + size / 2 * width, *key_pairs = values + size / 2 * width;
    word *query_pairs = key_pairs + pairs * size, *out_pairs = query_pairs + pairs * size;
    word *all_weights = out_pairs + pairs * size, *all_scores = all_weights + (pairs + ROWS) * width;
    float *scores = (float *)(all_scores + (pairs + ROWS) * width), *by_weights = scores + ROWS * width;
    float *sums = by_weights + ROWS * width;
    bfloat16 *weights = (bfloat16 *)(sums + ROWS * size), *by_scores = weights + ROWS * width;
    pack_rows(query + part, stride, length, size, keys, width);
    pack_rows(query + 2 * part, stride, length, size, values, width);
    pack_columns(query, stride, length, size, query_pairs, size);
    pack_columns(query + part, stride, length, size, key_pairs, size);
    pack_columns(by_out, out_stride, length, size, out_pairs, size);
    for (int64_t i = 0; i < length; i += ROWS) {
        const int64_t rows = min(ROWS, length - i), columns = (i + rows + 15) / 16 * 16;
        weigh(query, stride, keys, width, size, i, rows, columns, scores, weights);
        product((const word *)(by_out + i * out_stride), out_stride / 2, 1, values, width, by_weights, width, rows, columns, 0,
                size / 2);
        memset(by_scores, 0, ROWS * width * sizeof *by_scores);
        for (int64_t r = 0; r < rows; r++) {
            const bfloat16 *weight = weights + r * width;
            const float *by_weight = by_weights + r * width;
            float mean = 0.0f;
#pragma omp simd reduction(+ : mean)
            for (int64_t j = 0; j < columns; j++) mean += to_float(weight[j]) * by_weight[j];
            for (int64_t j = 0; j < columns; j++)
                by_scores[r * width + j] = to_bf16(scale * to_float(weight[j]) * (by_weight[j] - mean));
        }
        product((word *)by_scores, width / 2, 1, key_pairs, size, sums, size, rows, size, 0, (i + rows + 1) / 2);
        round_rows(sums, size, rows, by_query + i * stride, stride);
        pack_columns(weights, width, ROWS, columns, all_weights + i / 2 * width, width);
        pack_columns(by_scores, width, ROWS, columns, all_scores + i / 2 * width, width);
    }
    for (int64_t j = 0; j < length; j += ROWS) {
        const int64_t rows = min(ROWS, length - j);
        product(all_scores + j, 1, width, query_pairs, size, sums, size, rows, size, j / 2, pairs);
        round_rows(sums, size, rows, by_query + part + j * stride, stride);
        product(all_weights + j, 1, width, out_pairs, size, sums, size, rows, size, j / 2, pairs);
        round_rows(sums, size, rows, by_query + 2 * part + j * stride, stride);
    }
}

/* Forward, out [B][T][H][D]; or, where the gradient by it is given, backward, out like `heads`. Each of `threads` works in a part
   of the workspace, `part_bytes` long: see gpt2core/kernels/causal_attention.py. */
void attention(const bfloat16 *heads, const bfloat16 *by_out, bfloat16 *out, char *workspace, int64_t batch, int64_t length,
               int64_t n_head, int64_t size, int64_t threads, int64_t part_bytes) {
    const int64_t part = n_head * size, stride = 3 * part, all = batch * n_head;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int64_t thread = 0; thread < threads; thread++)
        for (int64_t each = thread * all / threads; each < (thread + 1) * all / threads; each++) {
            const int64_t window = each / n_head * length, head = each % n_head * size;
            const int64_t begin = window * stride + head, mixed = window * part + head;
            char *own = workspace + thread * part_bytes;
            if (by_out) head_backward(heads + begin, stride, part, length, size, by_out + mixed, part, out + begin, own);
            else head_forward(heads + begin, stride, part, length, size, out + mixed, part, own);
        }
}
