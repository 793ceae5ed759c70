/* A GPT-2 that reads one token a row at the speed of memory: products with weights in bfloat16 or int8, attention over cached
   positions, and all blocks of a step. Called by gpt2core/native.py, whose docstrings say what is given.

   A result is added up in an order that depends on the matrix alone, so a row gets the same bits whatever its neighbours
   are and however many threads there are.

   A weight matrix lies in panels of PANEL outputs, each read from front to back: [n_in / parts][PANEL][parts], where the parts
   are the 2 bfloat16 or 4 int8 of a 32-bit word. So a vector holds weights of LANES outputs for the same inputs, and no vector
   has to be summed in the end. */

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include "bfloat16.h"

#define LANES 16
#define PANEL (2 * LANES)
#define MOST_ROWS 8 /* of a tile */
#define MOST_WIDTH 256 /* of a head */
#define SMALL (1 << 16) /* with fewer products than this, threads take longer to wake than to compute */
#define HIGH 0xffff0000u
#define UNROLL _Pragma("GCC unroll 16")

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES))); /* of two bfloat16 each */
typedef int32_t integers __attribute__((vector_size(4 * LANES)));

typedef struct {
    const void *weight;       /* panels; int8 if there is a scale */
    const float *scale, *bias; /* [n_out], or absent */
    int64_t n_in, n_out;
} projection;

typedef struct {
    const float *weight, *bias; /* [n_embd] */
} norm;

typedef struct {
    norm ln_1;
    projection attention_in, attention_out;
    norm ln_2;
    projection mlp_in, mlp_out;
} block;

enum after { STORE, ADD, GELU }; /* what becomes of a product: float32, added to float32, or bfloat16 behind a GELU */

#define LOAD(type, name) \
    INLINE type name(const void *from) { \
        type value; \
        memcpy(&value, from, sizeof value); \
        return value; \
    }
LOAD(lanes, load_lanes)
LOAD(words, load_words)
LOAD(uint32_t, load_word)

INLINE lanes low(words word) { return (lanes)(word << 16); }
INLINE lanes high(words word) { return (lanes)(word & HIGH); }

/* total + both bfloat16 of each word times those of x */
INLINE lanes dot(lanes total, words word, words x) {
#ifdef __AVX512BF16__
    return (lanes)_mm512_dpbf16_ps((__m512)total, (__m512bh)word, (__m512bh)x);
#else
    return total + low(word) * low(x) + high(word) * high(x);
#endif
}

INLINE float sum(lanes value) {
    float part[LANES];
    memcpy(part, &value, sizeof part);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) part[i] += part[i + half];
    return part[0];
}

INLINE float gelu(float x) { /* with tanh, which is 1 - 2 / (1 + e^2u) */
    return x / (1 + exponential(-1.595769122f * (x + 0.044715f * x * x * x)));
}

/* Two inputs' weights of each output, as bfloat16, from a word that holds two of these or four int8. */
INLINE words pair(const int INT8, words word, int which) {
    if (!INT8) return word;
    const lanes even = __builtin_convertvector((integers)(word << (24 - 16 * which)) >> 24, lanes);
    const lanes odd = __builtin_convertvector((integers)(word << (16 - 16 * which)) >> 24, lanes);
    return (words)even >> 16 | (words)odd; /* whole numbers up to 127: the low halves are 0 */
}

INLINE void tile(const int INT8, const int ROWS, const void *panel, const bfloat16 *x, int64_t n_in, float *result) {
    const int parts = INT8 ? 4 : 2;
    lanes total[MOST_ROWS][2];
    UNROLL for (int r = 0; r < ROWS; r++) total[r][0] = total[r][1] = (lanes){0};
    for (int64_t i = 0; i < n_in; i += parts, panel = (const uint32_t *)panel + PANEL) {
        const words left = load_words(panel), right = load_words((const uint32_t *)panel + LANES);
        UNROLL for (int which = 0; which < parts / 2; which++) {
            const words left_pair = pair(INT8, left, which), right_pair = pair(INT8, right, which);
            UNROLL for (int r = 0; r < ROWS; r++) {
                const words input = load_word(x + r * n_in + i + 2 * which) + (words){0};
                total[r][0] = dot(total[r][0], left_pair, input);
                total[r][1] = dot(total[r][1], right_pair, input);
            }
        }
    }
    UNROLL for (int r = 0; r < ROWS; r++) memcpy(result + r * PANEL, total[r], sizeof total[r]);
}

static void tile_of(int rows, const projection *p, int64_t first, const bfloat16 *x, float *result) {
    const void *panel = (const char *)p->weight + first * p->n_in * (p->scale ? 1 : 2);
#define CASE(ROWS) \
    case ROWS: \
        if (p->scale) tile(1, ROWS, panel, x, p->n_in, result); \
        else tile(0, ROWS, panel, x, p->n_in, result); \
        break;
    switch (rows) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) }
#undef CASE
}

/* The outputs of one row that a panel holds. */
static void finish(const projection *p, int64_t first, enum after after, float *result, void *y) {
    const int count = p->n_out - first < PANEL ? p->n_out - first : PANEL;
    if (p->scale)
        for (int o = 0; o < count; o++) result[o] *= p->scale[first + o];
    if (p->bias)
        for (int o = 0; o < count; o++) result[o] += p->bias[first + o];
    if (after == STORE) memcpy((float *)y + first, result, count * sizeof *result);
    if (after == ADD)
        for (int o = 0; o < count; o++) ((float *)y)[first + o] += result[o];
    if (after == GELU)
        for (int o = 0; o < count; o++) ((bfloat16 *)y)[first + o] = narrow(gelu(result[o]));
}

/* y[rows][n_out] from x[rows][n_in]. */
static void project(const projection *p, const bfloat16 *x, void *y, int64_t rows, enum after after) {
    const int64_t bytes = p->n_out * (after == GELU ? sizeof(bfloat16) : sizeof(float));
#pragma omp parallel for schedule(static) if (p->n_in * p->n_out * rows > SMALL)
    for (int64_t first = 0; first < p->n_out; first += PANEL)
        for (int64_t row = 0; row < rows; row += MOST_ROWS) {
            const int some = rows - row < MOST_ROWS ? rows - row : MOST_ROWS;
            float result[MOST_ROWS * PANEL];
            tile_of(some, p, first, x + row * p->n_in, result);
            for (int r = 0; r < some; r++) finish(p, first, after, result + r * PANEL, (char *)y + (row + r) * bytes);
        }
}

void products(const projection *p, const bfloat16 *x, float *y, int64_t rows) { project(p, x, y, rows, STORE); }

/* LayerNorm of one row. */
static void normalise(const norm *of, const float *x, bfloat16 *y, int64_t width) {
    lanes total = {0}, squares = {0};
    for (int64_t i = 0; i < width; i += LANES) total += load_lanes(x + i);
    const float mean = sum(total) / width;
    for (int64_t i = 0; i < width; i += LANES) {
        const lanes apart = load_lanes(x + i) - mean;
        squares += apart * apart;
    }
    const float scale = 1 / sqrtf(sum(squares) / width + 1e-5f);
    for (int64_t i = 0; i < width; i++) y[i] = narrow((x[i] - mean) * scale * of->weight[i] + of->bias[i]);
}

/* Sums of pairs of neighbours, those of a in front. */
INLINE lanes neighbours(lanes a, lanes b) {
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

/* Products of the query with LANES keys from j on; those behind `last` are repeated. */
INLINE lanes products_with_keys(const bfloat16 *query, const bfloat16 *keys, int64_t j, int64_t last, int64_t width) {
    lanes product[LANES];
    UNROLL for (int i = 0; i < LANES; i++) {
        const bfloat16 *key = keys + (j + i < last ? j + i : last) * width;
        product[i] = (lanes){0};
        for (int64_t d = 0; d < width; d += PANEL) product[i] = dot(product[i], load_words(key + d), load_words(query + d));
    }
    UNROLL for (int left = LANES / 2; left; left /= 2)
        UNROLL for (int i = 0; i < left; i++) product[i] = neighbours(product[2 * i], product[2 * i + 1]);
    return product[0];
}

/* Values mixed by their scores, VECTORS * PANEL of a head's width. */
INLINE void mix(const int VECTORS, const float *scores, const bfloat16 *values, int64_t last, int64_t width, float share,
                bfloat16 *out) {
    lanes even[2] = {0}, odd[2] = {0};
    for (int64_t j = 0; j <= last; j++)
        UNROLL for (int v = 0; v < VECTORS; v++) {
            const words word = load_words(values + j * width + v * PANEL);
            even[v] += scores[j] * low(word);
            odd[v] += scores[j] * high(word);
        }
    UNROLL for (int v = 0; v < VECTORS; v++)
        for (int i = 0; i < LANES; i++) {
            out[v * PANEL + 2 * i] = narrow(even[v][i] * share);
            out[v * PANEL + 2 * i + 1] = narrow(odd[v][i] * share);
        }
}

/* One head of one row; `scores` has room for a multiple of LANES. */
static void attend_head(const float *query, const float *key, const float *value, bfloat16 *keys, bfloat16 *values,
                        int64_t last, int64_t width, float *scores, bfloat16 *out) {
    bfloat16 scaled[MOST_WIDTH];
    float most = -INFINITY;
    lanes total = {0};
    for (int64_t d = 0; d < width; d++) {
        scaled[d] = narrow(query[d] / sqrtf(width));
        keys[last * width + d] = narrow(key[d]);
        values[last * width + d] = narrow(value[d]);
    }
    for (int64_t j = 0; j <= last; j += LANES) {
        const lanes found = products_with_keys(scaled, keys, j, last, width);
        memcpy(scores + j, &found, sizeof found);
        for (int i = 0; i < LANES; i++) most = found[i] > most ? found[i] : most;
    }
    for (int64_t j = 0; j <= last; j += LANES) {
        for (int i = 0; i < LANES; i++) scores[j + i] = j + i <= last ? exponential(scores[j + i] - most) : 0;
        total += load_lanes(scores + j);
    }
    const float share = 1 / sum(total);
    for (int64_t d = 0; d < width; d += 2 * PANEL)
        if (width - d > PANEL) mix(2, scores, values + d, last, width, share, out + d);
        else mix(1, scores, values + d, last, width, share, out + d);
}

/* New positions [rows][3][heads][width] behind the rows' lengths[row] cached ones [rows][heads][capacity][width]. */
static void attend(const float *new, bfloat16 *keys, bfloat16 *values, const int64_t *lengths, float *scores, bfloat16 *out,
                   int64_t rows, int64_t heads, int64_t capacity, int64_t width) {
    const int64_t n_embd = heads * width, room = (capacity + LANES - 1) / LANES * LANES;
#pragma omp parallel for schedule(static) if (rows * n_embd * capacity > SMALL)
    for (int64_t each = 0; each < rows * heads; each++) {
        const float *query = new + each / heads * 3 * n_embd + each % heads * width;
        attend_head(query, query + n_embd, query + 2 * n_embd, keys + each * capacity * width, values + each * capacity * width,
                    lengths[each / heads], width, scores + each * room, out + each * width);
    }
}

/* x [rows][n_embd] through all blocks; the caches of the layers are `layer_stride` apart. The rest is room to work in:
   input [rows][n_embd], new [rows][3 n_embd], scores [rows][heads][capacity, up to a multiple of LANES], inner
   [rows][4 n_embd]. */
void step(const block *blocks, int64_t n_layer, float *x, bfloat16 *keys, bfloat16 *values, int64_t layer_stride,
          const int64_t *lengths, bfloat16 *input, float *new, float *scores, bfloat16 *inner, int64_t rows, int64_t heads,
          int64_t capacity, int64_t width) {
    const int64_t n_embd = heads * width;
    for (const block *b = blocks; b < blocks + n_layer; b++, keys += layer_stride, values += layer_stride) {
        for (int64_t row = 0; row < rows; row++) normalise(&b->ln_1, x + row * n_embd, input + row * n_embd, n_embd);
        project(&b->attention_in, input, new, rows, STORE);
        attend(new, keys, values, lengths, scores, input, rows, heads, capacity, width);
        project(&b->attention_out, input, x, rows, ADD);
        for (int64_t row = 0; row < rows; row++) normalise(&b->ln_2, x + row * n_embd, input + row * n_embd, n_embd);
        project(&b->mlp_in, input, inner, rows, GELU);
        project(&b->mlp_out, inner, x, rows, ADD);
    }
}
