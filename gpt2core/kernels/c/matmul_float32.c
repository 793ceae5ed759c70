/* Products of float32 matrices on any processor: blocks of both are packed so that a tile of ROWS x COLUMNS sums stays in the
   registers while its numbers come from the nearest caches.

   Every sum is made in an order that depends on the shapes alone, so results do not depend on the number of threads. How blocks
   are cut: Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008. Called by gpt2core/kernels/matmul.py,
   whose docstrings say what is given. */

#include "lanes.h"

#if LANES == 8 || defined(__SSE2__) && LANES == 4 /* 16 registers */
#define ROWS 6
#define VECTORS 2
#else /* 32 registers */
#define ROWS 8
#define VECTORS 3
#endif
#define COLUMNS (VECTORS * LANES)
#ifndef DEEP
#define DEEP 512 /* terms that are summed over at a time */
#endif
#ifndef TALL
#define TALL 96 /* rows of the left matrix that a thread has packed at a time: they stay in its second cache */
#endif
#define SUMMED 256 /* columns that a thread adds up at a time */
#define BROAD 3072 /* columns of the right matrix that are packed at a time, for all threads */


/* The largest equal parts, multiples of `multiple`, that are no longer than `most`. */
INLINE int64_t equal_part(int64_t length, int64_t most, int64_t multiple) {
    return round_up(ceil_div(length, ceil_div(length, most)), multiple);
}

/* WIDTH lines of `depth` numbers side by side, [depth][WIDTH]; those behind `lines` are zeros. */
INLINE void pack(const int WIDTH, const float *from, int64_t line, int64_t step, int64_t depth, int64_t lines, float *to) {
    if (step == 1 && line != 1) {
        for (int64_t p = 0; p < depth; p += LANES)
            for (int first = 0; first < WIDTH; first += LANES) {
                lanes block[LANES];
                UNROLL for (int i = 0; i < LANES; i++) {
                    const int64_t which = first + i;
                    block[i] = which < lines && which < WIDTH ? load_some(from + which * line + p, depth - p) : (lanes){0};
                }
                transpose(block);
                for (int i = 0; i < LANES && p + i < depth; i++)
                    store_some(to + (p + i) * WIDTH + first, block[i], WIDTH - first);
            }
        return;
    }
    if (lines >= WIDTH) {
        for (int64_t p = 0; p < depth; p++) memcpy(to + p * WIDTH, from + p * step, WIDTH * sizeof *to);
        return;
    }
    for (int64_t p = 0; p < depth; p++)
        for (int first = 0; first < WIDTH; first += LANES)
            store_some(to + p * WIDTH + first, load_some(from + p * step + first, min(lines - first, WIDTH - first)), WIDTH - first);
}

INLINE void tile(lanes sums[ROWS][VECTORS], const float *left, const float *right, int64_t depth) {
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int v = 0; v < VECTORS; v++) sums[r][v] = (lanes){0};
    for (int64_t p = 0; p < depth; p++, left += ROWS, right += COLUMNS) {
        lanes columns[VECTORS];
        UNROLL for (int v = 0; v < VECTORS; v++) columns[v] = load_lanes(right + v * LANES);
        UNROLL for (int r = 0; r < ROWS; r++)
            UNROLL for (int v = 0; v < VECTORS; v++) sums[r][v] += left[r] * columns[v];
    }
}

/* Adds to what is there or, without `add`, to the bias. Tiles that do not fit go through memory. */
INLINE void store_tile(lanes sums[ROWS][VECTORS], float *to, int64_t stride, int64_t rows, int64_t columns, const float *bias,
                       int64_t add) {
    if (rows >= ROWS && columns >= COLUMNS) {
        UNROLL for (int v = 0; v < VECTORS; v++) {
            const lanes each = bias ? load_lanes(bias + v * LANES) : (lanes){0};
            UNROLL for (int r = 0; r < ROWS; r++) {
                float *target = to + r * stride + v * LANES;
                store_lanes(target, sums[r][v] + (add ? load_lanes(target) : each));
            }
        }
        return;
    }
    float found[ROWS][COLUMNS];
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int v = 0; v < VECTORS; v++) store_lanes(found[r] + v * LANES, sums[r][v]);
    for (int64_t r = 0; r < min(ROWS, rows); r++)
        for (int64_t j = 0; j < min(COLUMNS, columns); j++)
            to[r * stride + j] = found[r][j] + (add ? to[r * stride + j] : bias ? bias[j] : 0.0f);
}

/* A block of packed rows by all packed columns from `first` to `last`. */
static void multiply_block(const float *left, const float *right, int64_t depth, float *to, int64_t stride, int64_t rows,
                           int64_t first, int64_t last, const float *bias, int64_t add) {
    for (int64_t j = first; j < last; j += COLUMNS)
        for (int64_t i = 0; i < rows; i += ROWS) {
            float *target = to + i * stride + j;
            lanes sums[ROWS][VECTORS];
            UNROLL for (int r = 0; r < ROWS; r++) __builtin_prefetch(target + min(r, rows - i - 1) * stride, 1);
            tile(sums, left + i * depth, right + j * depth, depth);
            store_tile(sums, target, stride, rows - i, last - j, bias ? bias + j : NULL, add);
        }
}

/* to [columns] = (add: what is there +) the sum of all rows. */
void sum_rows(const float *from, float *to, int64_t rows, int64_t columns, int64_t add, int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t first = 0; first < columns; first += SUMMED) {
        const int64_t count = min(SUMMED, columns - first);
        float sums[SUMMED] = {0};
        const float *row = from + first;
        int64_t i = 0;
        for (; i + 4 <= rows; i += 4, row += 4 * columns)
            for (int64_t j = 0; j < count; j++)
                sums[j] = sums[j] + row[j] + row[columns + j] + row[2 * columns + j] + row[3 * columns + j];
        for (; i < rows; i++, row += columns)
            for (int64_t j = 0; j < count; j++) sums[j] += row[j];
        for (int64_t j = 0; j < count; j++) to[first + j] = sums[j] + (add ? to[first + j] : 0.0f);
    }
}

/* Numbers of workspace that `multiply` needs. */
int64_t multiply_workspace_size(int64_t terms, int64_t columns, int64_t threads) {
    const int64_t broad = round_up(min(BROAD, columns), COLUMNS) + COLUMNS;
    return min(DEEP, terms + LANES) * (broad + threads * (TALL + ROWS)) + LANES;
}

/* to [rows][columns] = left [rows][terms] @ right [terms][columns] + bias [columns], or (add) + what is there. */
void multiply(const float *left, int64_t left_row, int64_t left_column, const float *right, int64_t right_row,
              int64_t right_column, const float *bias, float *to, int64_t to_row, float *workspace, int64_t rows, int64_t terms,
              int64_t columns, int64_t add, int64_t threads) {
    const int64_t deep = equal_part(terms, DEEP, 1), broad = equal_part(columns, BROAD, COLUMNS);
    const int64_t blocks = ceil_div(rows, TALL), tall = equal_part(ceil_div(rows, round_up(blocks, threads)), TALL, ROWS);
    const int64_t row_blocks = ceil_div(rows, tall), groups = row_blocks >= threads ? 1 : ceil_div(2 * threads, row_blocks);
    int64_t number = 0;
#pragma omp parallel num_threads(threads)
    {
        float *own = workspace + deep * (broad + next_number(&number) * round_up(tall, ROWS));
        for (int64_t column = 0; column < columns; column += broad) {
            const int64_t width = min(broad, columns - column), group = round_up(ceil_div(width, groups), COLUMNS);
            for (int64_t start = 0; start < terms; start += deep) {
                const int64_t depth = min(deep, terms - start);
#pragma omp for schedule(dynamic)
                for (int64_t j = 0; j < width; j += COLUMNS) {
                    const float *from = right + start * right_row + (column + j) * right_column;
                    pack(COLUMNS, from, right_column, right_row, depth, width - j, workspace + j * depth);
                }
#pragma omp for schedule(dynamic)
                for (int64_t item = 0; item < row_blocks * groups; item++) {
                    const int64_t i = item / groups * tall, j = item % groups * group, some = min(tall, rows - i);
                    if (j >= width) continue;
                    for (int64_t r = 0; r < some; r += ROWS) {
                        const float *from = left + (i + r) * left_row + start * left_column;
                        pack(ROWS, from, left_row, left_column, depth, some - r, own + r * depth);
                    }
                    multiply_block(own, workspace, depth, to + i * to_row + column, to_row, some, j, min(width, j + group),
                                   bias ? bias + column : NULL, add || start);
                }
            }
        }
    }
}
