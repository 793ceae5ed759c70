/* A GPT-2 that reads one token a row at the speed of memory: products with weights in bfloat16 or int8, attention over cached
   positions, and all blocks of a step. Called by gpt2core/kernels/inference.py, whose docstrings say what is given.

   A result is added up in an order that depends on the matrix alone, so a row gets the same bits whatever its neighbours
   are and however many threads there are.

   A weight matrix lies in panels of PANEL outputs, each read from front to back: [n_in / parts][PANEL][parts], where the parts
   are the 2 bfloat16 or 4 int8 of a 32-bit word. So a vector holds weights of LANES outputs for the same inputs, and no vector
   has to be summed in the end. */

#include <math.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include "lanes.h"

#define PANEL 32
#define VECTORS (PANEL / LANES) /* of a panel */
#if LANES == 16
#define MOST_ROWS 8 /* of a tile */
#else
#define MOST_ROWS 4
#endif
#define MIXED (LANES == 16 ? 2 : 4) /* vectors of values that are mixed together */
#define MOST_WIDTH 256              /* of a head */
#define SMALL (1 << 16) /* with fewer products than this, threads take longer to wake than to compute */
#define SCORES 16 /* what the length of a row of scores is a multiple of */
#define HIGH 0xffff0000u

/* What weights and keys are multiplied by: rounded to bfloat16 only where the processor multiplies pairs of it. */
#ifdef __AVX512BF16__
typedef bfloat16 activation;
INLINE activation to_activation(float value) { return to_bf16(value); }
#else
typedef float activation;
INLINE activation to_activation(float value) { return value; }
#endif

int64_t activation_bytes(void) { return sizeof(activation); }

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

INLINE words load_words(const void *from) {
    words value;
    memcpy(&value, from, sizeof value);
    return value;
}

INLINE lanes low(words word) { return (lanes)(word << 16); }
INLINE lanes high(words word) { return (lanes)(word & HIGH); }

INLINE float gelu(float x) { /* with tanh, which is 1 - 2 / (1 + e^2u) */
    return x / (1 + exponential(-1.595769122f * (x + 0.044715f * x * x * x)));
}

/* The weights of input `which` of the four of a word in int8. */
INLINE lanes whole(words word, int which) {
    return __builtin_convertvector((integers)(word << (24 - 8 * which)) >> 24, lanes);
}

/* total + the weights of a word, of two bfloat16 or four int8, times the inputs from x on. */
INLINE lanes add_products(const int INT8, lanes total, words word, const activation *x) {
#ifdef __AVX512BF16__
    UNROLL for (int half = 0; half < 1 + INT8; half++) {
        uint32_t pair;
        memcpy(&pair, x + 2 * half, sizeof pair);
        const words weights = !INT8 ? word : (words)whole(word, 2 * half) >> 16 | (words)whole(word, 2 * half + 1);
        total = (lanes)_mm512_dpbf16_ps((__m512)total, (__m512bh)weights, (__m512bh)(pair - (words){0}));
    }
    return total; /* int8 are whole numbers up to 127: in bfloat16 their low halves are 0 */
#else
    if (!INT8) return total + low(word) * x[0] + high(word) * x[1];
    UNROLL for (int which = 0; which < 4; which++) total += whole(word, which) * x[which];
    return total;
#endif
}

/* COUNT vectors of a panel, from `panel` on, for ROWS rows: result [ROWS][PANEL]. */
INLINE void tile(const int INT8, const int ROWS, const int COUNT, const uint32_t *panel, const activation *x, int64_t n_in,
                 float *result) {
    const int held = INT8 ? 4 : 2;
    lanes total[MOST_ROWS][VECTORS];
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int v = 0; v < COUNT; v++) total[r][v] = (lanes){0};
    for (int64_t i = 0; i < n_in; i += held, panel += PANEL) {
        words word[VECTORS];
        UNROLL for (int v = 0; v < COUNT; v++) word[v] = load_words(panel + v * LANES);
        UNROLL for (int r = 0; r < ROWS; r++)
            UNROLL for (int v = 0; v < COUNT; v++) total[r][v] = add_products(INT8, total[r][v], word[v], x + r * n_in + i);
    }
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int v = 0; v < COUNT; v++) store_lanes(result + r * PANEL + v * LANES, total[r][v]);
}

/* One row reads a panel once; several go through it by two vectors, since registers are few. */
INLINE void whole_panel(const int INT8, const int ROWS, const uint32_t *panel, const activation *x, int64_t n_in,
                        float *result) {
    if (ROWS == 1) tile(INT8, 1, VECTORS, panel, x, n_in, result);
    else
        for (int v = 0; v < VECTORS; v += 2) tile(INT8, ROWS, 2, panel + v * LANES, x, n_in, result + v * LANES);
}

static void tile_of(int rows, const projection *p, int64_t first, const activation *x, float *result) {
    const uint32_t *panel = (const uint32_t *)((const char *)p->weight + first * p->n_in * (p->scale ? 1 : 2));
#define CASE(ROWS) \
    case ROWS: \
        if (p->scale) whole_panel(1, ROWS, panel, x, p->n_in, result); \
        else whole_panel(0, ROWS, panel, x, p->n_in, result); \
        break;
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4)
#if MOST_ROWS > 4
        CASE(5) CASE(6) CASE(7) CASE(8)
#endif
    }
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
        for (int o = 0; o < count; o++) ((activation *)y)[first + o] = to_activation(gelu(result[o]));
}

/* y[rows][n_out] from x[rows][n_in]. */
static void project(const projection *p, const activation *x, void *y, int64_t rows, enum after after) {
    const int64_t bytes = p->n_out * (after == GELU ? sizeof(activation) : sizeof(float));
#pragma omp parallel for schedule(static) if (p->n_in * p->n_out * rows > SMALL)
    for (int64_t first = 0; first < p->n_out; first += PANEL)
        for (int64_t row = 0; row < rows; row += MOST_ROWS) {
            const int some = rows - row < MOST_ROWS ? rows - row : MOST_ROWS;
            float result[MOST_ROWS * PANEL];
            tile_of(some, p, first, x + row * p->n_in, result);
            for (int r = 0; r < some; r++) finish(p, first, after, result + r * PANEL, (char *)y + (row + r) * bytes);
        }
}

void products(const projection *p, const activation *x, float *y, int64_t rows) { project(p, x, y, rows, STORE); }

/* LayerNorm of one row. */
static void normalise(const norm *of, const float *x, activation *y, int64_t width) {
    lanes total = {0}, squares = {0};
    for (int64_t i = 0; i < width; i += LANES) total += load_lanes(x + i);
    const float mean = sum(total) / width;
    for (int64_t i = 0; i < width; i += LANES) {
        const lanes apart = load_lanes(x + i) - mean;
        squares += apart * apart;
    }
    const float scale = 1 / sqrtf(sum(squares) / width + 1e-5f);
    for (int64_t i = 0; i < width; i++) y[i] = to_activation((x[i] - mean) * scale * of->weight[i] + of->bias[i]);
}

/* A query, ready to be multiplied by keys: their even numbers meet one half, their odd ones the other. */
#ifdef __AVX512BF16__
typedef bfloat16 query_row[MOST_WIDTH];
INLINE void set_query(query_row to, int64_t d, float value) { to[d] = to_bf16(value); }
INLINE lanes add_keys(lanes total, words key, const query_row query, int64_t d) {
    return (lanes)_mm512_dpbf16_ps((__m512)total, (__m512bh)key, (__m512bh)load_words(query + d));
}
#else
typedef float query_row[MOST_WIDTH];
INLINE void set_query(query_row to, int64_t d, float value) { to[d / 2 + d % 2 * (MOST_WIDTH / 2)] = value; }
INLINE lanes add_keys(lanes total, words key, const query_row query, int64_t d) {
    return total + low(key) * load_lanes(query + d / 2) + high(key) * load_lanes(query + MOST_WIDTH / 2 + d / 2);
}
#endif

/* Sums of pairs of neighbours, those of a in front. */
#if LANES == 16
#define EVEN(a, b) __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
#define ODD(a, b) __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)
#elif LANES == 8
#define EVEN(a, b) __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14)
#define ODD(a, b) __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15)
#else
#define EVEN(a, b) __builtin_shufflevector(a, b, 0, 2, 4, 6)
#define ODD(a, b) __builtin_shufflevector(a, b, 1, 3, 5, 7)
#endif
INLINE lanes neighbours(lanes a, lanes b) { return EVEN(a, b) + ODD(a, b); }

/* Products of the query with LANES keys from j on; those behind `last` are repeated. */
INLINE lanes products_with_keys(const query_row query, const bfloat16 *keys, int64_t j, int64_t last, int64_t width) {
    lanes product[LANES];
    UNROLL for (int i = 0; i < LANES; i++) {
        const bfloat16 *key = keys + min(j + i, last) * width;
        product[i] = (lanes){0};
        for (int64_t d = 0; d < width; d += 2 * LANES) product[i] = add_keys(product[i], load_words(key + d), query, d);
    }
    UNROLL for (int left = LANES / 2; left; left /= 2)
        UNROLL for (int i = 0; i < left; i++) product[i] = neighbours(product[2 * i], product[2 * i + 1]);
    return product[0];
}

/* Values mixed by their scores, COUNT vectors of words of a head's width. */
INLINE void mix(const int COUNT, const float *scores, const bfloat16 *values, int64_t last, int64_t width, float share,
                activation *out) {
    lanes even[4] = {0}, odd[4] = {0};
    for (int64_t j = 0; j <= last; j++)
        UNROLL for (int v = 0; v < COUNT; v++) {
            const words word = load_words(values + j * width + v * 2 * LANES);
            even[v] += scores[j] * low(word);
            odd[v] += scores[j] * high(word);
        }
    UNROLL for (int v = 0; v < COUNT; v++)
        for (int i = 0; i < LANES; i++) {
            out[v * 2 * LANES + 2 * i] = to_activation(even[v][i] * share);
            out[v * 2 * LANES + 2 * i + 1] = to_activation(odd[v][i] * share);
        }
}

/* One head of one row; `scores` has space for a multiple of LANES. */
static void attend_head(const float *query, const float *key, const float *value, bfloat16 *keys, bfloat16 *values,
                        int64_t last, int64_t width, float *scores, activation *out) {
    query_row scaled;
    float most = -INFINITY;
    lanes total = {0};
    for (int64_t d = 0; d < width; d++) {
        set_query(scaled, d, query[d] / sqrtf(width));
        keys[last * width + d] = to_bf16(key[d]);
        values[last * width + d] = to_bf16(value[d]);
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
    for (int64_t d = 0; d < width;) {
        const int several = width - d >= MIXED * 2 * LANES;
        if (several) mix(MIXED, scores, values + d, last, width, share, out + d);
        else mix(1, scores, values + d, last, width, share, out + d);
        d += (several ? MIXED : 1) * 2 * LANES;
    }
}

/* New positions [rows][3][heads][width] behind the rows' lengths[row] cached ones [rows][heads][capacity][width]. */
static void attend(const float *new, bfloat16 *keys, bfloat16 *values, const int64_t *lengths, float *scores, activation *out,
                   int64_t rows, int64_t heads, int64_t capacity, int64_t width) {
    const int64_t n_embd = heads * width, row = round_up(capacity, SCORES);
#pragma omp parallel for schedule(static) if (rows * n_embd * capacity > SMALL)
    for (int64_t each = 0; each < rows * heads; each++) {
        const float *query = new + each / heads * 3 * n_embd + each % heads * width;
        attend_head(query, query + n_embd, query + 2 * n_embd, keys + each * capacity * width, values + each * capacity * width,
                    lengths[each / heads], width, scores + each * row, out + each * width);
    }
}

/* x [rows][n_embd] through all blocks; the caches of the layers are `layer_stride` apart. The rest is workspace:
   input [rows][n_embd], new [rows][3 n_embd], scores [rows][heads][capacity, up to a multiple of SCORES], inner
   [rows][4 n_embd]. */
void step(const block *blocks, int64_t n_layer, float *x, bfloat16 *keys, bfloat16 *values, int64_t layer_stride,
          const int64_t *lengths, activation *input, float *new, float *scores, activation *inner, int64_t rows, int64_t heads,
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
