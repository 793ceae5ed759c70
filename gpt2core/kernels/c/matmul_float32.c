/* Products of float32 matrices on any processor: blocks of both are packed so that a tile of ROWS x COLUMNS sums stays in the
   registers while its numbers come from the nearest caches.

   Every sum is made in an order that depends on the shapes alone, so results do not depend on the number of threads. How blocks
   are cut: Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008. Called by gpt2core/kernels/matmul.py,
   whose docstrings say what is given. */

#include "lanes.h"

#define ROWS 6 /* of a tile: with its vectors they fill the registers */
#if LANES == 8 || defined(__SSE2__) && LANES == 4 /* 16 registers */
#define VECTORS 2
#else /* 32 registers */
#define VECTORS 4
#endif
#define COLUMNS (VECTORS * LANES)
#ifndef DEEP
#define DEEP 800 /* terms that are summed over at a time */
#endif
#ifndef TALL
#define TALL (LANES == 16 ? 192 : 132) /* rows, a multiple of ROWS, that a thread has packed: they stay in its second cache */
#endif
#define FEW 512 /* columns of the right matrix for which rows of the left one are not packed, but read where they lie */
#define BROAD 3072 /* columns of the right matrix that are packed at a time, for all threads */
#define LINE 16 /* numbers of a line of a cache */
#define SUMMED 256 /* columns that a thread adds up at a time */


/* The largest equal parts, multiples of `multiple`, that are no longer than `most`. */
INLINE int64_t equal_part(int64_t length, int64_t most, int64_t multiple) {
    return round_up(ceil_div(length, ceil_div(length, most)), multiple);
}

/* WIDTH lines of `depth` numbers side by side, [depth][WIDTH]; those behind `lines` are zeros. Up to LANES numbers behind them
   may be overwritten where WIDTH is no multiple of LANES. */
INLINE void pack(const int WIDTH, const float *from, int64_t line, int64_t step, int64_t depth, int64_t lines, float *to) {
    if (step == 1 && line != 1) {
        for (int first = 0; first < WIDTH; first += LANES)
            for (int64_t p = 0; p < depth; p += LANES) {
                lanes block[LANES];
                UNROLL for (int i = 0; i < LANES; i++) {
                    const int64_t which = first + i;
                    block[i] = which < lines && which < WIDTH ? load_some(from + which * line + p, depth - p) : (lanes){0};
                }
                transpose(block);
                UNROLL for (int i = 0; i < LANES; i++)
                    if (p + i < depth) store_lanes(to + (p + i) * WIDTH + first, block[i]);
            }
        return;
    }
    for (int64_t p = 0; p < depth; p++, from += step, to += WIDTH) {
        if (lines >= WIDTH) memcpy(to, from, WIDTH * sizeof *to);
        else
            for (int64_t i = 0; i < WIDTH; i++) to[i] = i < lines ? from[i] : 0.0f;
    }
}

/* Sums over ROWS lines of the left matrix, `row` apart with numbers `step` apart; those behind `rows` are not read. */
INLINE void tile(lanes sums[ROWS][VECTORS], const float *left, int64_t row, int64_t step, int64_t rows, const float *right,
                 int64_t depth) {
    const float *from[ROWS];
    UNROLL for (int r = 0; r < ROWS; r++) {
        from[r] = left + min(r, rows - 1) * row;
        UNROLL for (int v = 0; v < VECTORS; v++) sums[r][v] = (lanes){0};
    }
    for (int64_t p = 0; p < depth; p++, right += COLUMNS) {
        lanes columns[VECTORS];
        UNROLL for (int v = 0; v < VECTORS; v++) columns[v] = load_lanes(right + v * LANES);
        UNROLL for (int r = 0; r < ROWS; r++)
            UNROLL for (int v = 0; v < VECTORS; v++) sums[r][v] += from[r][p * step] * columns[v];
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

/* A block of rows, packed or, where `row` says how far they are apart, in place, by all packed columns from `first` to `last`.
   Each tile fetches its share of the columns that come next, which lie in a cache that all threads use. */
static void multiply_block(const float *left, int64_t row, const float *right, int64_t depth, float *to, int64_t stride,
                           int64_t rows, int64_t first, int64_t last, const float *bias, int64_t add) {
    const int64_t share = round_up(ceil_div(depth * COLUMNS, ceil_div(rows, ROWS)), LINE);
    for (int64_t j = first; j < last; j += COLUMNS) {
        const float *next = right + (j + COLUMNS < last ? j + COLUMNS : first) * depth;
        for (int64_t i = 0; i < rows; i += ROWS, next += share) {
            float *target = to + i * stride + j;
            lanes sums[ROWS][VECTORS];
            for (int64_t p = 0; p < share; p += LINE) __builtin_prefetch(next + p, 0, 2);
            UNROLL for (int r = 0; r < ROWS; r++) __builtin_prefetch(target + min(r, rows - i - 1) * stride, 1);
            if (row) tile(sums, left + i * row, row, 1, rows - i, right + j * depth, depth);
            else tile(sums, left + i * depth, 1, ROWS, ROWS, right + j * depth, depth);
            store_tile(sums, target, stride, rows - i, last - j, bias ? bias + j : NULL, add);
        }
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
    return min(DEEP, terms + LANES) * (broad + threads * TALL) + (threads + 1) * LANES;
}

/* to [rows][columns] = left [rows][terms] @ right [terms][columns] + bias [columns], or (add) + what is there. */
void multiply(const float *left, int64_t left_row, int64_t left_column, const float *right, int64_t right_row,
              int64_t right_column, const float *bias, float *to, int64_t to_row, float *workspace, int64_t rows, int64_t terms,
              int64_t columns, int64_t add, int64_t threads) {
    const int64_t deep = equal_part(terms, DEEP, 1), broad = equal_part(columns, BROAD, COLUMNS);
    const int64_t tiles = ceil_div(rows, ROWS), row_blocks = min(round_up(ceil_div(rows, TALL), threads), tiles);
    const int64_t groups = row_blocks >= threads ? 1 : ceil_div(2 * threads, row_blocks);
    const int64_t in_place = left_column == 1 && columns <= FEW;
    int64_t number = 0;
#pragma omp parallel num_threads(threads)
    {
        float *own = workspace + deep * broad + next_number(&number) * (deep * TALL + LANES);
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
                    const int64_t block = item / groups, i = block * tiles / row_blocks * ROWS, j = item % groups * group;
                    const int64_t some = min((block + 1) * tiles / row_blocks * ROWS, rows) - i;
                    if (j >= width) continue;
                    const float *from = left + i * left_row + start * left_column;
                    for (int64_t r = 0; r < some && !in_place; r += ROWS)
                        pack(ROWS, from + r * left_row, left_row, left_column, depth, some - r, own + r * depth);
                    multiply_block(in_place ? from : own, in_place ? left_row : 0, workspace, depth, to + i * to_row + column,
                                   to_row, some, j, min(width, j + group), bias ? bias + column : NULL, add || start);
                }
            }
        }
    }
}
