/* Products of bfloat16 matrices, summed in float32: what a training step spends most of its time on.

   Numbers are multiplied in pairs (AVX512-BF16): a word is two neighbours along what is summed over. A tile of ROWS x COLUMNS
   sums stays in the registers, while its words come from the caches: those of the right matrix are packed for it, and those of
   the left one are read where they lie if they can be. Every sum is made by one thread alone, in an order that depends on the
   shapes only, so results do not depend on the number of threads. How blocks are cut: Goto and van de Geijn, Anatomy of
   High-Performance Matrix Multiplication, 2008. Called by gpt2core/kernels/matmul.py, whose docstrings say what is given. */

#include "pairs.h"

#define VECTORS 3
#define COLUMNS (VECTORS * LANES)
#define ROWS 8
#define PACKED (150 * 1024) /* words of the right matrix that stay in a core's second cache */
#define DEEP 4096           /* more than this is summed over in parts of PART, and sums are put aside meanwhile */
#define PART 1024
#define TALL 2048 /* rows that a gradient by weights is summed over at a time */
#define STRIP 128 /* rows of such a gradient that a thread makes at a time */


/* A right matrix [depth][columns] whose words are of two rows: [pairs][COLUMNS]; adds up the columns where `total` is given. */
static void pack_rows(const bfloat16 *from, int64_t stride, int64_t depth, int64_t columns, word *to, float *total) {
    for (int v = 0; v < VECTORS; v++) {
        const __mmask16 which = lanes_before(columns - v * LANES);
        __m512 sums = total ? _mm512_maskz_loadu_ps(which, total + v * LANES) : _mm512_setzero_ps();
        for (int64_t i = 0; i < depth; i += 2) {
            const bfloat16 *row = from + i * stride + v * LANES;
            const __m512i words = interleaved(row, i + 1 < depth ? row + stride : NULL, which);
            _mm512_storeu_si512(to + i / 2 * COLUMNS + v * LANES, words);
            if (total) sums = _mm512_add_ps(sums, _mm512_add_ps(low_half(words), high_half(words)));
        }
        if (total) _mm512_mask_storeu_ps(total + v * LANES, which, sums);
    }
}

/* The same of a right matrix that is stored transposed, [columns][depth]; depth is even. */
static void pack_transposed(const bfloat16 *from, int64_t stride, int64_t depth, int64_t columns, word *to) {
    for (int64_t p = 0; p < depth / 2; p += LANES)
        for (int v = 0; v < VECTORS; v++) {
            const __mmask16 which = lanes_before(depth / 2 - p);
            __m512i words[LANES];
            UNROLL for (int i = 0; i < LANES; i++) {
                const int64_t column = v * LANES + i;
                words[i] = _mm512_maskz_loadu_epi32(column < columns ? which : 0, from + column * stride + 2 * p);
            }
            transpose(words);
            UNROLL for (int i = 0; i < LANES; i++) _mm512_storeu_si512(to + (p + i) * COLUMNS + v * LANES, words[i]);
        }
}

/* A left matrix that is stored transposed, [depth][rows], as tiles of words of two rows: [rows / ROWS][pairs][ROWS]. */
static void pack_left(const bfloat16 *from, int64_t stride, int64_t depth, int64_t rows, int64_t pairs, word *to) {
    for (int64_t j = 0; j < rows; j += LANES)
        for (int64_t i = 0; i < depth; i += 2) {
            const bfloat16 *row = from + i * stride + j;
            const __m512i words = interleaved(row, i + 1 < depth ? row + stride : NULL, lanes_before(rows - j));
            word *target = to + j * pairs + i / 2 * ROWS;
            _mm256_storeu_si256((__m256i *)target, _mm512_castsi512_si256(words));
            _mm256_storeu_si256((__m256i *)(target + ROWS * pairs), _mm512_extracti64x4_epi64(words, 1));
        }
}

/* A tile of sums: columns of packed words `right` with rows of words that lie in `left` as pack_left left them, or (`stride`
   bfloat16 apart) as they were; rows from `rows` on are not looked at. */
INLINE void tile(__m512 sums[ROWS][VECTORS], const bfloat16 *left, const int64_t stride, int64_t rows, const word *right,
                 int64_t pairs) {
    const bfloat16 *row[ROWS];
    UNROLL for (int r = 0; r < ROWS; r++) {
        row[r] = left + min(r, rows - 1) * stride;
        UNROLL for (int v = 0; v < VECTORS; v++) sums[r][v] = _mm512_setzero_ps();
    }
    for (int64_t p = 0; p < pairs; p++) {
        __m512bh columns[VECTORS];
        UNROLL for (int v = 0; v < VECTORS; v++) columns[v] = (__m512bh)_mm512_loadu_si512(right + p * COLUMNS + v * LANES);
        UNROLL for (int r = 0; r < ROWS; r++) {
            word value;
            memcpy(&value, stride ? row[r] + 2 * p : left + 2 * (p * ROWS + r), sizeof value);
            UNROLL for (int v = 0; v < VECTORS; v++)
                sums[r][v] = _mm512_dpbf16_ps(sums[r][v], (__m512bh)_mm512_set1_epi32(value), columns[v]);
        }
    }
}

/* Sums that were put aside are added, and sums are put aside. */
INLINE void add_sums(__m512 sums[ROWS][VECTORS], const float *from, int64_t stride, int64_t rows, int64_t columns) {
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int v = 0; v < VECTORS; v++)
            if (r < rows) sums[r][v] += _mm512_maskz_loadu_ps(lanes_before(columns - v * LANES), from + r * stride + v * LANES);
}

INLINE void store_sums(__m512 sums[ROWS][VECTORS], float *to, int64_t stride, int64_t rows, int64_t columns) {
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int v = 0; v < VECTORS; v++)
            if (r < rows) _mm512_mask_storeu_ps(to + r * stride + v * LANES, lanes_before(columns - v * LANES), sums[r][v]);
}

INLINE void store_rounded(__m512 sums[ROWS][VECTORS], const bfloat16 *bias, bfloat16 *to, int64_t stride, int64_t rows,
                          int64_t columns) {
    UNROLL for (int v = 0; v < VECTORS; v++) {
        const __mmask16 which = lanes_before(columns - v * LANES);
        const __m512 added = bias ? low_half(load(bias + v * LANES, which)) : _mm512_setzero_ps();
        UNROLL for (int r = 0; r < ROWS; r++)
            if (r < rows) {
                const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(sums[r][v] + added);
                _mm256_mask_storeu_epi16(to + r * stride + v * LANES, which, rounded);
            }
    }
}

typedef struct {
    const bfloat16 *x; /* [rows][x_stride], of which n_in count */
    int64_t x_stride;
    const bfloat16 *weight; /* [n_in][n_out], or transposed [n_out][n_in] */
    int64_t transposed;
    const bfloat16 *bias; /* [n_out], or absent */
    bfloat16 *out;        /* [rows][out_stride], of which n_out are written */
    int64_t out_stride;
    float *sums; /* [rows][n_out] to put sums aside, or absent where all is summed over at once */
    int64_t rows, n_in, n_out;
} product;

/* Rows first <= i < last of some panels of COLUMNS outputs. */
static void multiply_block(const product *p, int64_t first, int64_t last, int64_t panel, int64_t panels, word *packed) {
    const int64_t part = p->sums ? PART : p->n_in, each = round_up(ceil_div(min(part, p->n_in), 2), LANES) * COLUMNS;
    for (int64_t start = 0; start < p->n_in; start += part) {
        const int64_t depth = min(part, p->n_in - start), done = start + depth == p->n_in;
        for (int64_t j = 0; j < panels; j++) {
            const int64_t column = (panel + j) * COLUMNS, columns = min(COLUMNS, p->n_out - column);
            word *to = packed + j * each;
            if (p->transposed) pack_transposed(p->weight + column * p->n_in + start, p->n_in, depth, columns, to);
            else pack_rows(p->weight + start * p->n_out + column, p->n_out, depth, columns, to, NULL);
        }
        for (int64_t i = first; i < last; i += ROWS)
            for (int64_t j = 0; j < panels; j++) {
                const int64_t column = (panel + j) * COLUMNS, columns = min(COLUMNS, p->n_out - column), rows = last - i;
                float *aside = p->sums ? p->sums + i * p->n_out + column : NULL;
                __m512 sums[ROWS][VECTORS];
                tile(sums, p->x + i * p->x_stride + start, p->x_stride, rows, packed + j * each, ceil_div(depth, 2));
                if (start) add_sums(sums, aside, p->n_out, rows, columns);
                bfloat16 *target = p->out + i * p->out_stride + column;
                if (!done) store_sums(sums, aside, p->n_out, rows, columns);
                else store_rounded(sums, p->bias ? p->bias + column : NULL, target, p->out_stride, rows, columns);
            }
    }
}

/* Words of the workspace to multiply in. */
int64_t multiply_workspace_size(int64_t rows, int64_t n_in, int64_t n_out, int64_t threads) {
    return threads * PACKED + (n_in > DEEP ? rows * n_out : 0);
}

void multiply(const bfloat16 *x, int64_t x_stride, const bfloat16 *weight, int64_t transposed, const bfloat16 *bias,
              bfloat16 *out, int64_t out_stride, word *workspace, int64_t rows, int64_t n_in, int64_t n_out, int64_t threads) {
    float *sums = n_in > DEEP ? (float *)(workspace + threads * PACKED) : NULL;
    const product of = {x, x_stride, weight, transposed, bias, out, out_stride, sums, rows, n_in, n_out};
    const int64_t panels = ceil_div(n_out, COLUMNS), depth = n_in > DEEP ? PART : n_in;
    const int64_t fitting = PACKED / (round_up(ceil_div(depth, 2), LANES) * COLUMNS);
    const int64_t each = ceil_div(panels, threads * ceil_div(panels, threads * fitting)), blocks = ceil_div(panels, each);
    const int64_t slice = round_up(ceil_div(rows, ceil_div(threads, blocks)), ROWS), slices = ceil_div(rows, slice);
    int64_t number = 0;
#pragma omp parallel num_threads(threads)
    {
        const int64_t own = next_number(&number);
#pragma omp for schedule(dynamic)
        for (int64_t block = 0; block < blocks * slices; block++) {
            const int64_t panel = block / slices * each, first = block % slices * slice;
            multiply_block(&of, first, min(rows, first + slice), panel, min(each, panels - panel), workspace + own * PACKED);
        }
    }
}

/* Rows first <= i < last of a gradient [n_in][n_out], whose right matrix is packed. */
static void add_strip(const bfloat16 *x, int64_t x_stride, const word *packed, word *left, float *to, int64_t depth,
                      int64_t first, int64_t last, int64_t n_out, int64_t add) {
    const int64_t pairs = ceil_div(depth, 2);
    pack_left(x + first, x_stride, depth, last - first, pairs, left);
    for (int64_t column = 0; column < n_out; column += COLUMNS)
        for (int64_t i = first; i < last; i += ROWS) {
            const int64_t rows = last - i, columns = min(COLUMNS, n_out - column);
            float *target = to + i * n_out + column;
            __m512 sums[ROWS][VECTORS];
            UNROLL for (int r = 0; r < ROWS; r++)
                UNROLL for (int v = 0; v < VECTORS; v++) __builtin_prefetch(target + r * n_out + v * LANES, 1);
            tile(sums, (const bfloat16 *)(left + (i - first) * pairs), 0, rows, packed + column * pairs, pairs);
            if (add) add_sums(sums, target, n_out, rows, columns);
            store_sums(sums, target, n_out, rows, columns);
        }
}

/* Words of the workspace to make a gradient in. */
int64_t gradient_workspace_size(int64_t rows, int64_t n_out, int64_t threads) {
    return ceil_div(min(TALL, rows), 2) * (round_up(n_out, COLUMNS) + threads * STRIP);
}

void multiply_gradient(const bfloat16 *x, int64_t x_stride, const bfloat16 *by_out, float *by_weight, float *by_bias,
                       word *workspace, int64_t rows, int64_t n_in, int64_t n_out, int64_t add, int64_t threads) {
    const int64_t strip = min(STRIP, round_up(ceil_div(n_in, threads), LANES)), most_pairs = ceil_div(min(TALL, rows), 2);
    word *strips = workspace + most_pairs * round_up(n_out, COLUMNS);
    if (by_bias && !add) memset(by_bias, 0, n_out * sizeof *by_bias);
    for (int64_t start = 0; start < rows; start += TALL) {
        const int64_t depth = min(TALL, rows - start), pairs = ceil_div(depth, 2);
        int64_t number = 0;
#pragma omp parallel num_threads(threads)
        {
            const int64_t own = next_number(&number);
#pragma omp for schedule(dynamic)
            for (int64_t column = 0; column < n_out; column += COLUMNS)
                pack_rows(by_out + start * n_out + column, n_out, depth, min(COLUMNS, n_out - column), workspace + column * pairs,
                          by_bias ? by_bias + column : NULL);
#pragma omp for schedule(dynamic)
            for (int64_t first = 0; first < n_in; first += strip)
                add_strip(x + start * x_stride, x_stride, workspace, strips + own * STRIP * most_pairs, by_weight, depth, first,
                          min(n_in, first + strip), n_out, add || start);
        }
    }
}
