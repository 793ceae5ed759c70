/* What a training step does besides its products, each in one pass over memory, computed in float32. Tensors are of bfloat16 or,
   compiled with FLOAT32, of float32.

   The loops are plain C that compilers turn into vector instructions. Every row, or block of CHUNK elements, is worked out
   by one thread alone, so results do not depend on the number of threads. Compiled by gpt2core/kernels/c_library.py; the docstrings
   in gpt2core/kernels/training_kernels.py say what is given. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "numbers.h"

#ifdef FLOAT32
typedef float element;
INLINE float get(element value) { return value; }
INLINE element put(float value) { return value; }
#else
typedef bfloat16 element;
INLINE float get(element value) { return to_float(value); }
INLINE element put(float value) { return to_bf16(value); }
#endif

#define CHUNK 4096 /* elements that a thread takes at a time */
#define LONG (16 * CHUNK) /* the same where only sums are kept */
#define SUMMED 64 /* rows whose gradients by weight and bias are added up by one thread */
#define BLOCKS(count) (((count) + CHUNK - 1) / CHUNK)
#define PRAGMA(text) _Pragma(#text)
#define SHARED_BY_THREADS(work) PRAGMA(omp parallel for schedule(static) if ((work) > 1 << 15))

/* tanh(u) = 2 s - 1 where s = 1 / (1 + e^-2u), so GELU is x s. */
INLINE float gelu_gate(float x) { return 1.0f / (1.0f + exponential(-1.59576912f * (x + 0.044715f * x * x * x))); }

INLINE void gelu_block(const element *x, element *y, element *slope, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        const float value = get(x[i]), gate = gelu_gate(value);
        y[i] = put(value * gate);
        if (slope) slope[i] = put(gate + value * gate * (1.0f - gate) * (1.59576912f + 0.21406859f * value * value));
    }
}

/* y = GELU(x) and, unless it is NULL, slope = its derivative there. */
void gelu(const element *x, element *y, element *slope, int64_t count) {
    SHARED_BY_THREADS(count)
    for (int64_t first = 0; first < count; first += CHUNK) {
        const int64_t some = min(CHUNK, count - first);
        if (slope) gelu_block(x + first, y + first, slope + first, some);
        else gelu_block(x + first, y + first, NULL, some);
    }
}

/* y = (x - mean) / sqrt(variance + epsilon) * weight + bias, row by row; statistics[r] are a row's mean and the factor behind it. */
void layer_norm(const element *x, const element *weight, const element *bias, element *y, float *statistics, float epsilon,
                int64_t rows, int64_t width) {
    SHARED_BY_THREADS(rows * width)
    for (int64_t r = 0; r < rows; r++) {
        const element *row = x + r * width;
        element *to = y + r * width;
        float values[width], total = 0.0f, squares = 0.0f;
#pragma omp simd reduction(+ : total)
        for (int64_t j = 0; j < width; j++) total += values[j] = get(row[j]);
        const float mean = total / width;
#pragma omp simd reduction(+ : squares)
        for (int64_t j = 0; j < width; j++) squares += (values[j] - mean) * (values[j] - mean);
        const float factor = 1.0f / sqrtf(squares / width + epsilon);
        for (int64_t j = 0; j < width; j++) to[j] = put((values[j] - mean) * factor * get(weight[j]) + get(bias[j]));
        statistics[2 * r] = mean, statistics[2 * r + 1] = factor;
    }
}

/* A row's gradient, and what it adds to those of weight and bias (NULL: not wanted). */
INLINE void layer_norm_row(const element *x, const element *weight, const float *statistics, const element *by_y,
                           element *restrict by_x, float *restrict by_weight, float *restrict by_bias, int64_t width) {
    const float mean = statistics[0], factor = statistics[1];
    float normal[width], pull[width], total = 0.0f, along = 0.0f;
#pragma omp simd reduction(+ : total, along)
    for (int64_t j = 0; j < width; j++) {
        normal[j] = (get(x[j]) - mean) * factor;
        total += pull[j] = get(by_y[j]) * get(weight[j]);
        along += pull[j] * normal[j];
    }
    if (by_weight)
        for (int64_t j = 0; j < width; j++) {
            by_weight[j] += get(by_y[j]) * normal[j];
            by_bias[j] += get(by_y[j]);
        }
    const float middle = total / width, slope = along / width;
    for (int64_t j = 0; j < width; j++) by_x[j] = put(factor * (pull[j] - middle - normal[j] * slope));
}

/* Every SUMMED rows add up what they give to weight and bias in the workspace, [blocks of rows][2][width], and these sums are
   added in their order, to what is there with `add`. Neither is wanted where by_weight is NULL. */
void layer_norm_backward(const element *x, const element *weight, const float *statistics, const element *by_y, element *by_x,
                         float *by_weight, float *by_bias, float *workspace, int64_t add, int64_t rows, int64_t width) {
    const int64_t blocks = ceil_div(rows, SUMMED);
    SHARED_BY_THREADS(rows * width)
    for (int64_t block = 0; block < blocks; block++) {
        float *own = by_weight ? workspace + block * 2 * width : NULL;
        if (own) memset(own, 0, 2 * width * sizeof *own);
        for (int64_t r = block * SUMMED; r < min(rows, (block + 1) * SUMMED); r++)
            layer_norm_row(x + r * width, weight, statistics + 2 * r, by_y + r * width, by_x + r * width, own,
                           own ? own + width : NULL, width);
    }
    if (!by_weight) return;
    for (int64_t block = 1; block < blocks; block++)
        for (int64_t j = 0; j < 2 * width; j++) workspace[j] += workspace[block * 2 * width + j];
    for (int64_t j = 0; j < width; j++) {
        by_weight[j] = workspace[j] + (add ? by_weight[j] : 0.0f);
        by_bias[j] = workspace[width + j] + (add ? by_bias[j] : 0.0f);
    }
}

/* losses[r] = share[r] * -log(softmax of the first n_vocab logits of row r at its target); where `gradients` is set the logits
   become its derivative by them. Rows whose share is 0 are left out, whatever their target. */
void cross_entropy(element *logits, const int64_t *targets, const float *share, float *losses, int64_t gradients,
                   int64_t rows, int64_t n_vocab, int64_t padded) {
    SHARED_BY_THREADS(rows * n_vocab)
    for (int64_t r = 0; r < rows; r++) {
        element *row = logits + r * padded;
        if (share[r] == 0.0f) {
            losses[r] = 0.0f;
            memset(row, 0, padded * sizeof *row);
            continue;
        }
        float most = -INFINITY, total = 0.0f;
#pragma omp simd reduction(max : most)
        for (int64_t j = 0; j < n_vocab; j++) most = get(row[j]) > most ? get(row[j]) : most;
#pragma omp simd reduction(+ : total)
        for (int64_t j = 0; j < n_vocab; j++) total += exponential(get(row[j]) - most);
        const float margin = most - get(row[targets[r]]);
        losses[r] = share[r] * (margin + logf(total));
        if (!gradients) continue;
        const float each = share[r] / total, at_target = share[r] * (expf(-margin) / total - 1.0f);
        for (int64_t j = 0; j < n_vocab; j++) row[j] = put(each * exponential(get(row[j]) - most));
        memset(row + n_vocab, 0, (padded - n_vocab) * sizeof *row);
        row[targets[r]] = put(at_target);
    }
}

INLINE double squares_of_block(const float *values, int64_t count) {
    double total = 0.0;
    for (int64_t first = 0; first < count; first += CHUNK) {
        const int64_t end = min(count, first + CHUNK);
        float part = 0.0f;
#pragma omp simd reduction(+ : part)
        for (int64_t i = first; i < end; i++) part += values[i] * values[i];
        total += part;
    }
    return total;
}

/* Blocks are added up in their order. */
void sum_of_squares(const float *values, double *total, int64_t count) {
    const int64_t blocks = ceil_div(count, LONG);
    double sums[blocks + 1];
    SHARED_BY_THREADS(count)
    for (int64_t block = 0; block < blocks; block++)
        sums[block] = squares_of_block(values + block * LONG, min(LONG, count - block * LONG));
    *total = 0.0;
    for (int64_t block = 0; block < blocks; block++) *total += sums[block];
}

/* Does nothing where the factor is 1. */
void scale(element *values, const float *factor, int64_t count) {
    if (*factor == 1.0f) return;
    SHARED_BY_THREADS(count)
    for (int64_t i = 0; i < count; i++) values[i] = put(*factor * get(values[i]));
}

/* weights = kept * weights - rate * moment / (correction * sqrt(square) + epsilon), for gradients times clip; and a copy,
   where one is wanted. */
void adamw(float *restrict weights, const float *restrict gradient, float *restrict moment, float *restrict square,
           element *restrict copy, float clip, float beta1, float beta2, float kept, float rate, float correction,
           float epsilon, int64_t count) {
    SHARED_BY_THREADS(count)
    for (int64_t block = 0; block < BLOCKS(count); block++) {
        const int64_t end = min(count, (block + 1) * CHUNK);
        for (int64_t i = block * CHUNK; i < end; i++) {
            const float g = clip * gradient[i];
            const float m = moment[i] += (1.0f - beta1) * (g - moment[i]);
            const float v = square[i] = beta2 * square[i] + (1.0f - beta2) * g * g;
            const float w = weights[i] = kept * weights[i] - rate * m / (correction * sqrtf(v) + epsilon);
            if (copy) copy[i] = put(w);
        }
    }
}
