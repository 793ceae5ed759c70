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

#define LINE 16 /* numbers of a line of a cache */

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

/* The first `size` numbers of each row, times its factor where there are any. */
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

/* Which of LANES positions from j on lie within first <= . < last. */
INLINE integers within(int32_t j, int32_t first, int32_t last) {
    integers positions;
    UNROLL for (int i = 0; i < LANES; i++) positions[i] = i;
    return (integers)((words)(positions + (j - first)) < (uint32_t)(last - first));
}

/* Scores of ROWS queries: those for first <= j < last become exponentials, the others up to `columns` 0. Returns of each query one
   through their sum, and the sum's logarithm. All are worked on at once, since within a row each step waits for the one before. */
INLINE void softmax(float *scores, int64_t width, float scale, const int32_t *first, const int32_t *last, int32_t columns,
                    float *shares, float *log_sums) {
    const lanes least = (lanes){0} - INFINITY;
    lanes most[ROWS], total[ROWS];
    UNROLL for (int r = 0; r < ROWS; r++) most[r] = least, total[r] = (lanes){0};
    for (int32_t j = 0; j < columns; j += LANES)
        UNROLL for (int r = 0; r < ROWS; r++)
            most[r] = larger(most[r], either(within(j, first[r], last[r]), load_lanes(scores + r * width + j), least));
    UNROLL for (int r = 0; r < ROWS; r++) most[r] = largest(most[r]);
    for (int32_t j = 0; j < columns; j += LANES)
        UNROLL for (int r = 0; r < ROWS; r++) {
            float *at = scores + r * width + j;
            const lanes all = exponentials(scale * (load_lanes(at) - most[r]));
            const lanes weights = either(within(j, first[r], last[r]), all, (lanes){0});
            store_lanes(at, weights);
            total[r] += weights;
        }
    float sums[ROWS];
    UNROLL for (int r = 0; r < ROWS; r++) sums[r] = sum(total[r]), shares[r] = 1.0f / sums[r];
    for (int r = 0; r < ROWS; r++) log_sums[r] = scale * most[r][0] + logf(sums[r]);
}

typedef struct {
    const float *query; /* of the head's first token; keys and values are `part` and 2 `part` further */
    const int64_t *positions; /* [length], or absent */
    float *out, *log_sums;
    const float *by_out; /* absent in forward, as is: */
    float *by_query;
    int64_t stride, part, out_stride, length, size;
} head;

#define PREFETCH(row, size, writes) \
    for (int64_t d = 0; d < (size); d += LINE) __builtin_prefetch((row) + d, writes, 2)

/* Asks for rows first <= i < last of a head that comes next: too short and far apart for a processor to foresee. */
INLINE void fetch(const head *h, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) {
        for (int part = 0; part < 3; part++) PREFETCH(h->query + i * h->stride + part * h->part, h->size, 0);
        if (!h->by_out) continue;
        PREFETCH(h->out + i * h->out_stride, h->size, 0);
        PREFETCH(h->by_out + i * h->out_stride, h->size, 0);
    }
}

/* The same for rows of the gradient that are going to be written. */
INLINE void claim(const head *h, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++)
        for (int part = 0; part < 3; part++) PREFETCH(h->by_query + i * h->stride + part * h->part, h->size, 1);
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
        float shares[ROWS], log_sums[ROWS];
        int32_t first[ROWS], last[ROWS];
        for (int r = 0; r < ROWS; r++) {
            const int64_t query = i + min(r, rows - 1);
            first[r] = first_key(h->positions, query) - begin, last[r] = query + 1 - begin;
        }
        fetch(next, i, i + rows);
        store_product((matrix){h->query + i * h->stride, h->stride, 1}, keys + begin, width, scores, width, rows, columns, h->size);
        softmax(scores, width, scale, first, last, columns, shares, log_sums);
        memcpy(h->log_sums + i, log_sums, rows * sizeof *log_sums);
        store_product((matrix){scores, width, 1}, values + begin * wide, wide, mixed, wide, rows, wide, i + rows - begin);
        unpack_rows(mixed, wide, shares, rows, h->size, h->out + i * h->out_stride, h->out_stride);
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
        if (j == 0) fetch(next, query, query + rows), claim(h, query, query + rows); /* each row once */
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

/* The products of what a query got and the gradient by it. */
static void sum_deltas(const head *h, const room *m) {
    for (int64_t i = 0; i < h->length; i += LANES) {
        lanes block[LANES] = {0}, deltas = {0};
        UNROLL for (int r = 0; r < LANES; r++) {
            const float *out = h->out + (i + r) * h->out_stride, *by_out = m->by_out + (i + r) * m->wide;
            for (int64_t d = 0; i + r < h->length && d < h->size; d += LANES)
                block[r] += load_some(out + d, h->size - d) * load_lanes(by_out + d);
        }
        transpose(block);
        UNROLL for (int r = 0; r < LANES; r++) deltas += block[r];
        store_lanes(m->deltas + i, deltas);
    }
}

static void head_backward(const head *h, const head *next, float *workspace) {
    const room m = furnish(h, workspace);
    pack_columns(h->query + h->part, h->stride, h->length, h->size, m.key_columns, m.width);
    pack_columns(h->query + 2 * h->part, h->stride, h->length, h->size, m.value_columns, m.width);
    pack_rows(h->query, h->stride, h->length, h->size, m.queries, m.wide);
    pack_rows(h->query + h->part, h->stride, h->length, h->size, m.keys, m.wide);
    pack_rows(h->by_out, h->out_stride, h->length, h->size, m.by_out, m.wide);
    memset(m.by_queries, 0, h->length * m.wide * sizeof *m.by_queries);
    sum_deltas(h, &m);
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

/* Head number `which` of all windows, as `attention` is given them. */
static head find_head(const float *heads, const int64_t *positions, float *out, float *log_sums, const float *by_out,
                      float *by_heads, int64_t length, int64_t n_head, int64_t size, int64_t which) {
    const int64_t part = n_head * size, window = which / n_head * length, column = which % n_head * size;
    const int64_t begin = window * 3 * part + column, mixed = window * part + column;
    return (head){.query = heads + begin, .positions = positions ? positions + window : NULL, .out = out + mixed,
                  .log_sums = log_sums + which * length, .by_out = by_out ? by_out + mixed : NULL,
                  .by_query = by_heads ? by_heads + begin : NULL, .stride = 3 * part, .part = part, .out_stride = part,
                  .length = length, .size = size};
}

/* Forward: out [B][T][H][D] and log_sums [B][H][T]. Backward, where `by_out` is given: by_heads, like `heads`. Each of `threads`
   works in a part of the workspace, `part_bytes` long: see gpt2core/kernels/causal_attention.py. */
void attention(const float *heads, const int64_t *positions, float *out, float *log_sums, const float *by_out, float *by_heads,
               char *workspace, int64_t batch, int64_t length, int64_t n_head, int64_t size, int64_t threads, int64_t part_bytes) {
#define HEAD(which) find_head(heads, positions, out, log_sums, by_out, by_heads, length, n_head, size, which)
    const int64_t all = batch * n_head;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int64_t thread = 0; thread < threads; thread++) {
        const int64_t end = (thread + 1) * all / threads;
        float *own = (float *)(workspace + thread * part_bytes);
        for (int64_t each = thread * all / threads; each < end; each++) {
            const head one = HEAD(each), next = HEAD(min(each + 1, end - 1));
            if (by_out) head_backward(&one, &next, own);
            else head_forward(&one, &next, own);
        }
    }
#undef HEAD
}
