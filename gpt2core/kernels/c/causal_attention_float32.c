/* Causal self-attention of whole windows in float32, forward and backward, one head at a time within the caches, on any processor.

   Forward keeps the logarithm of each query's sum of exponentials, from which backward computes the weights again, a block of
   keys by a block of queries at a time, so nothing grows with the square of the window. Source: Dao and others, FlashAttention,
   2022, algorithm 4. Called by gpt2core/kernels/causal_attention.py. H heads of size D lie in [B][T][3][H][D] as queries, keys and values.
   Where documents share a window, positions [B][T] say where a token stands in its own, of which it sees no others. */

#include <math.h>

#include "lanes.h"

#define ROWS 6 /* of a tile: with its vectors they fill the registers */
#if LANES == 8 || defined(__SSE2__) && LANES == 4 /* 16 registers */
#define VECTORS 2
#else /* 32 registers */
#define VECTORS 4
#endif
#ifndef KEYS
#define KEYS 64 /* of a block in backward */
#endif
#ifndef QUERIES
#define QUERIES 48 /* of a block in backward: a multiple of ROWS */
#endif

typedef struct {
    const float *first;
    int64_t row, column; /* how far rows and columns are apart */
} matrix;

/* to[r][0 .. COUNT vectors) = (add: what is there +) sum over first <= p < last of left[r][p] * right[p][..]. */
INLINE void tile(const int COUNT, matrix left, const float *right, int64_t wide, float *to, int64_t stride, int64_t rows,
                 int64_t first, int64_t last, const int add) {
    lanes sums[ROWS][VECTORS];
    const float *from[ROWS];
    UNROLL for (int r = 0; r < ROWS; r++) {
        from[r] = left.first + min(r, rows - 1) * left.row;
        UNROLL for (int v = 0; v < COUNT; v++) sums[r][v] = (lanes){0};
    }
    for (int64_t p = first; p < last; p++) {
        lanes columns[VECTORS];
        UNROLL for (int v = 0; v < COUNT; v++) columns[v] = load_lanes(right + p * wide + v * LANES);
        UNROLL for (int r = 0; r < ROWS; r++) {
            const float factor = from[r][p * left.column];
            UNROLL for (int v = 0; v < COUNT; v++) sums[r][v] += factor * columns[v];
        }
    }
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int v = 0; v < COUNT; v++)
            if (r < rows) {
                float *target = to + r * stride + v * LANES;
                store_lanes(target, add ? load_lanes(target) + sums[r][v] : sums[r][v]);
            }
}

/* The same for `columns`, a multiple of LANES. */
INLINE void product(matrix left, const float *right, int64_t wide, float *to, int64_t stride, int64_t rows, int64_t columns,
                    int64_t first, int64_t last, const int add) {
    int64_t j = 0;
    for (; j + VECTORS * LANES <= columns; j += VECTORS * LANES)
        tile(VECTORS, left, right + j, wide, to + j, stride, rows, first, last, add);
    for (; VECTORS > 2 && j + 2 * LANES <= columns; j += 2 * LANES)
        tile(2, left, right + j, wide, to + j, stride, rows, first, last, add);
    for (; j < columns; j += LANES) tile(1, left, right + j, wide, to + j, stride, rows, first, last, add);
}

static void store_product(matrix left, const float *right, int64_t wide, float *to, int64_t stride, int64_t rows,
                          int64_t columns, int64_t last) {
    product(left, right, wide, to, stride, rows, columns, 0, last, 0);
}

static void add_product(matrix left, const float *right, int64_t wide, float *to, int64_t stride, int64_t rows,
                        int64_t columns, int64_t first, int64_t last) {
    product(left, right, wide, to, stride, rows, columns, first, last, 1);
}

/* Rows side by side, each filled up to `wide` with zeros. */
static void pack_rows(const float *from, int64_t stride, int64_t length, int64_t size, float *to, int64_t wide) {
    for (int64_t i = 0; i < length; i++)
        for (int64_t d = 0; d < wide; d += LANES) store_lanes(to + i * wide + d, load_some(from + i * stride + d, size - d));
}

/* Rows become columns: [size][width], filled up to whole vectors with zeros. */
static void pack_columns(const float *from, int64_t stride, int64_t length, int64_t size, float *to, int64_t width) {
    for (int64_t j = 0; j < length; j += LANES)
        for (int64_t d = 0; d < size; d += LANES) {
            lanes block[LANES];
            UNROLL for (int i = 0; i < LANES; i++)
                block[i] = j + i < length ? load_some(from + (j + i) * stride + d, size - d) : (lanes){0};
            transpose(block);
            UNROLL for (int i = 0; i < LANES; i++)
                if (d + i < size) store_lanes(to + (d + i) * width + j, block[i]);
        }
}

/* The first `size` of each row, times its factor where there are any. */
INLINE void unpack_rows(const float *from, int64_t wide, const float *factors, int64_t length, int64_t size, float *to,
                        int64_t stride) {
    for (int64_t i = 0; i < length; i++)
        for (int64_t d = 0; d < size; d += LANES) {
            const lanes values = load_lanes(from + i * wide + d);
            store_some(to + i * stride + d, factors ? factors[i] * values : values, size - d);
        }
}

/* Positions of a row, filled up to whole vectors; more keeps rows from falling onto the same places in the cache. */
INLINE int64_t row_width(int64_t length) { return round_up(length, 16) + 16; }

/* The first key that a query sees. */
INLINE int64_t first_key(const int64_t *positions, int64_t query) { return positions ? query - positions[query] : 0; }

/* Which of the positions from j on lie within first <= . < last. */
INLINE integers within(int32_t j, int32_t first, int32_t last) {
    integers positions;
    UNROLL for (int i = 0; i < LANES; i++) positions[i] = i;
    return (integers)((words)(positions + (j - first)) < (uint32_t)(last - first));
}

/* The scores of a query for first <= j < last, times scale, become exponentials, the others up to `columns` 0; returns the
   logarithm of their sum, and their share in it. */
INLINE float exponentiate(float *scores, float scale, int32_t first, int32_t last, int32_t columns, float *share) {
    const lanes none = (lanes){0} - INFINITY;
    lanes most = none, total = {0};
    for (int32_t j = 0; j < columns; j += LANES) most = larger(most, either(within(j, first, last), load_lanes(scores + j), none));
    const float top = largest(most);
    for (int32_t j = 0; j < columns; j += LANES) {
        const lanes all = exponentials(scale * (load_lanes(scores + j) - top));
        const lanes seen = either(within(j, first, last), all, (lanes){0});
        store_lanes(scores + j, seen);
        total += seen;
    }
    const float sum_of_all = sum(total);
    *share = 1.0f / sum_of_all;
    return scale * top + logf(sum_of_all);
}

typedef struct {
    const float *query; /* of the head's first token; keys and values are `part` and 2 `part` further */
    const int64_t *positions; /* [length], or absent */
    float *out, *log_sums;
    const float *by_out; /* absent in forward */
    float *by_query;
    int64_t stride, part, out_stride, length, size;
} head;

/* Rows first <= i < last of the next head come from memory while this one is computed: they are too far apart for the processor to
   foresee them. */
INLINE void fetch_rows(const head *next, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++)
        for (int64_t d = 0; d < next->size; d += 16) {
            for (int part = 0; part < 3; part++) __builtin_prefetch(next->query + i * next->stride + part * next->part + d, 0, 2);
            if (!next->by_out) continue;
            __builtin_prefetch(next->out + i * next->out_stride + d, 0, 2);
            __builtin_prefetch(next->by_out + i * next->out_stride + d, 0, 2);
        }
}

/* So do the rows of this head's gradient, which are written last. */
INLINE void claim_rows(const head *h, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++)
        for (int64_t d = 0; d < h->size; d += 16)
            for (int part = 0; part < 3; part++) __builtin_prefetch(h->by_query + i * h->stride + part * h->part + d, 1, 2);
}

static void head_forward(const head *h, const head *next, float *workspace) {
    const int64_t width = row_width(h->length), wide = round_up(h->size, LANES);
    const float scale = 1.0f / sqrtf((float)h->size);
    float *keys = workspace, *values = keys + h->size * width, *scores = values + h->length * wide, *mixed = scores + ROWS * width;
    pack_columns(h->query + h->part, h->stride, h->length, h->size, keys, width);
    pack_rows(h->query + 2 * h->part, h->stride, h->length, h->size, values, wide);
    for (int64_t i = 0; i < h->length; i += ROWS) {
        const int64_t rows = min(ROWS, h->length - i), begin = first_key(h->positions, i) / LANES * LANES;
        const int64_t columns = round_up(i + rows, LANES) - begin;
        float share[ROWS];
        fetch_rows(next, i, i + rows);
        store_product((matrix){h->query + i * h->stride, h->stride, 1}, keys + begin, width, scores, width, rows, columns, h->size);
        for (int64_t r = 0; r < rows; r++)
            h->log_sums[i + r] = exponentiate(scores + r * width, scale, first_key(h->positions, i + r) - begin, i + r + 1 - begin,
                                              columns, share + r);
        store_product((matrix){scores, width, 1}, values + begin * wide, wide, mixed, wide, rows, wide, i + rows - begin);
        unpack_rows(mixed, wide, share, rows, h->size, h->out + i * h->out_stride, h->out_stride);
    }
}

/* What backward has of a head, packed, and a block of it. */
typedef struct {
    float *key_columns, *value_columns; /* [size][width] */
    float *queries, *keys, *by_out, *by_queries; /* [length][wide] */
    float *deltas; /* [length]: by how much all scores of a query pull at once */
    float *weights, *by_scores; /* [QUERIES][KEYS] */
    float *by_keys, *by_values; /* [KEYS][wide] */
    int64_t width, wide;
} room;

static room furnish(const head *h, float *workspace) {
    const int64_t width = row_width(h->length), wide = round_up(h->size, LANES), rows = h->length * wide;
    float *next = workspace;
    room made = {.width = width, .wide = wide};
#define TAKE(name, count) made.name = next, next += (count)
    TAKE(key_columns, h->size * width);
    TAKE(value_columns, h->size * width);
    TAKE(queries, rows);
    TAKE(keys, rows);
    TAKE(by_out, rows);
    TAKE(by_queries, rows);
    TAKE(deltas, width);
    TAKE(weights, QUERIES * KEYS);
    TAKE(by_scores, QUERIES * KEYS);
    TAKE(by_keys, KEYS * wide);
    TAKE(by_values, KEYS * wide);
#undef TAKE
    return made;
}

/* Weights of a query for first <= k < last of a block's keys and the gradient by its scores; the others up to `columns` are 0. */
INLINE void weigh(float *weights, float *by_scores, float scale, float log_sum, float delta, int32_t first, int32_t last,
                  int32_t columns) {
    for (int32_t k = 0; k < columns; k += LANES) {
        const lanes all = exponentials(scale * load_lanes(weights + k) - log_sum);
        const lanes seen = either(within(k, min(first, last), last), all, (lanes){0});
        store_lanes(weights + k, seen);
        store_lanes(by_scores + k, scale * seen * (load_lanes(by_scores + k) - delta));
    }
}

/* Queries i <= . < i + count meet keys j <= . < j + columns; returns how many of them see any. */
static int64_t meet(const head *h, const head *next, const room *m, int64_t i, int64_t count, int64_t j, int64_t columns) {
    const float scale = 1.0f / sqrtf((float)h->size);
    for (int64_t r = 0; r < count; r += ROWS) {
        const int64_t query = i + r, rows = min(ROWS, count - r), across = round_up(min(columns, query + rows - j), LANES);
        if (j == 0) fetch_rows(next, query, query + rows), claim_rows(h, query, query + rows);
        if (first_key(h->positions, query) >= j + columns) return r;
        float *weights = m->weights + r * KEYS, *by_scores = m->by_scores + r * KEYS;
        const matrix queries = {m->queries + query * m->wide, m->wide, 1}, outer = {m->by_out + query * m->wide, m->wide, 1};
        store_product(queries, m->key_columns + j, m->width, weights, KEYS, rows, across, h->size);
        store_product(outer, m->value_columns + j, m->width, by_scores, KEYS, rows, across, h->size);
        for (int64_t q = query; q < query + rows; q++, weights += KEYS, by_scores += KEYS)
            weigh(weights, by_scores, scale, h->log_sums[q], m->deltas[q], first_key(h->positions, q) - j, min(columns, q + 1 - j),
                  across);
        add_product((matrix){m->by_scores + r * KEYS, KEYS, 1}, m->keys + j * m->wide, m->wide, m->by_queries + query * m->wide,
                    m->wide, rows, m->wide, 0, min(columns, query + rows - j));
    }
    return count;
}

static void head_backward(const head *h, const head *next, float *workspace) {
    const room m = furnish(h, workspace);
    pack_columns(h->query + h->part, h->stride, h->length, h->size, m.key_columns, m.width);
    pack_columns(h->query + 2 * h->part, h->stride, h->length, h->size, m.value_columns, m.width);
    pack_rows(h->query, h->stride, h->length, h->size, m.queries, m.wide);
    pack_rows(h->query + h->part, h->stride, h->length, h->size, m.keys, m.wide);
    pack_rows(h->by_out, h->out_stride, h->length, h->size, m.by_out, m.wide);
    memset(m.by_queries, 0, h->length * m.wide * sizeof *m.by_queries);
    for (int64_t i = 0; i < h->length; i++) {
        lanes delta = {0};
        for (int64_t d = 0; d < h->size; d += LANES)
            delta += load_some(h->out + i * h->out_stride + d, h->size - d) * load_lanes(m.by_out + i * m.wide + d);
        m.deltas[i] = sum(delta);
    }
    for (int64_t j = 0; j < h->length; j += KEYS) {
        const int64_t columns = min(KEYS, h->length - j);
        memset(m.by_keys, 0, columns * m.wide * sizeof *m.by_keys);
        memset(m.by_values, 0, columns * m.wide * sizeof *m.by_values);
        for (int64_t i = j, met = QUERIES; i < h->length && met == QUERIES; i += QUERIES) {
            met = meet(h, next, &m, i, min(QUERIES, h->length - i), j, columns);
            for (int64_t k = 0; k < columns; k += ROWS) {
                const int64_t rows = min(ROWS, columns - k), first = j + k > i ? j + k - i : 0;
                add_product((matrix){m.by_scores + k, 1, KEYS}, m.queries + i * m.wide, m.wide, m.by_keys + k * m.wide, m.wide,
                            rows, m.wide, first, met);
                add_product((matrix){m.weights + k, 1, KEYS}, m.by_out + i * m.wide, m.wide, m.by_values + k * m.wide, m.wide, rows,
                            m.wide, first, met);
            }
        }
        unpack_rows(m.by_keys, m.wide, NULL, columns, h->size, h->by_query + h->part + j * h->stride, h->stride);
        unpack_rows(m.by_values, m.wide, NULL, columns, h->size, h->by_query + 2 * h->part + j * h->stride, h->stride);
    }
    unpack_rows(m.by_queries, m.wide, NULL, h->length, h->size, h->by_query, h->stride);
}

/* Bytes of workspace that each thread needs. */
int64_t attention_bytes(int64_t length, int64_t size, int64_t backward) {
    const int64_t width = row_width(length), wide = round_up(size, LANES);
    const int64_t forward = size * width + length * wide + ROWS * (width + wide);
    const int64_t back = 2 * size * width + 4 * length * wide + width + 2 * KEYS * (QUERIES + wide);
    return round_up(sizeof(float) * (backward ? back : forward), 64);
}

/* Forward: out [B][T][H][D] and log_sums [B][H][T]. Backward, where `by_out` is given: by_heads, like `heads`. Each of `threads`
   works in a part of the workspace, `part_bytes` long: see gpt2core/kernels/causal_attention.py. */
void attention(const float *heads, const int64_t *positions, float *out, float *log_sums, const float *by_out, float *by_heads,
               char *workspace, int64_t batch, int64_t length, int64_t n_head, int64_t size, int64_t threads, int64_t part_bytes) {
    const int64_t all = batch * n_head, part = n_head * size, stride = 3 * part;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int64_t thread = 0; thread < threads; thread++) {
        const int64_t end = (thread + 1) * all / threads;
        float *own = (float *)(workspace + thread * part_bytes);
        for (int64_t each = thread * all / threads; each < end; each++) {
            head pair[2]; /* this one and the next */
            for (int i = 0; i < 2; i++) {
                const int64_t number = min(each + i, end - 1), window = number / n_head * length, column = number % n_head * size;
                const int64_t begin = window * stride + column, mixed = window * part + column;
                pair[i] = (head){heads + begin, positions ? positions + window : NULL, out + mixed, log_sums + number * length,
                                 by_out ? by_out + mixed : NULL, by_out ? by_heads + begin : NULL, stride, part, part, length, size};
            }
            if (by_out) head_backward(pair, pair + 1, own);
            else head_forward(pair, pair + 1, own);
        }
    }
}
