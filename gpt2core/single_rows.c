/* Products of a few rows with a weight matrix, and attention of one new position over cached ones, at the speed of memory.

   A result is added up in an order that depends on the matrix alone, so a row gets the same bits whatever its neighbours
   are and however many threads there are. Called by gpt2core/native.py, whose docstrings say what is given.

   Weights are read as 32-bit words of 2 bfloat16 or 4 int8 each, and unpacked part by part by shifts. So the inputs lie
   in the same order: of every WIDTH words first all first parts, then all second ones (`gather` does that). */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define WIDTH 16       /* words side by side */
#define MOST_ROWS 8    /* of a tile */
#define AHEAD 4096     /* bytes that weights are asked for before they are needed */
#define MOST_WIDTH 256 /* of a head */
#define INLINE static inline __attribute__((always_inline))

typedef float lanes __attribute__((vector_size(4 * WIDTH)));
typedef int32_t words __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t bfloat16;

INLINE lanes load(const float *from) {
    lanes value;
    memcpy(&value, from, sizeof value);
    return value;
}

INLINE words load_words(const void *from) {
    words value;
    memcpy(&value, from, sizeof value);
    return value;
}

/* The given part of each word, 0 being the one at the lowest address. */
INLINE lanes bfloat16_part(words word, int part) { return (lanes)(part ? word & (int32_t)0xffff0000 : word << 16); }
INLINE lanes int8_part(words word, int part) { return __builtin_convertvector((word << (24 - 8 * part)) >> 24, lanes); }

INLINE bfloat16 to_bfloat16(float value) { /* rounds half to even */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

INLINE float sum(lanes value) {
    float part[WIDTH];
    memcpy(part, &value, sizeof part);
    for (int half = WIDTH / 2; half; half /= 2)
        for (int i = 0; i < half; i++) part[i] += part[i + half];
    return part[0];
}

/* y[r][o] = bias[o] + scale[o] * sum over i of w[o][i] x[r][i]; scale and bias may be absent; PARTS divides a word. */
#define DEFINE_PRODUCTS(type, PARTS)                                                                                       \
    INLINE void type##_tile(const int OUT, const int ROWS, const type *w, const float *scale, const float *bias,           \
                            const float *x, float *y, int64_t n_in, int64_t n_out) {                                       \
        lanes total[4][MOST_ROWS] = {{{0}}};                                                                               \
        for (int64_t i = 0; i < n_in; i += WIDTH * PARTS)                                                                  \
            _Pragma("GCC unroll 4") for (int o = 0; o < OUT; o++) {                                                        \
                const words word = load_words(w + o * n_in + i);                                                           \
                __builtin_prefetch((const char *)(w + o * n_in + i) + AHEAD);                                              \
                _Pragma("GCC unroll 4") for (int part = 0; part < PARTS; part++) {                                         \
                    const lanes weight = type##_part(word, part);                                                          \
                    _Pragma("GCC unroll 8") for (int r = 0; r < ROWS; r++)                                                 \
                        total[o][r] += weight * load(x + r * n_in + i + part * WIDTH);                                     \
                }                                                                                                          \
            }                                                                                                              \
        _Pragma("GCC unroll 4") for (int o = 0; o < OUT; o++)                                                              \
            _Pragma("GCC unroll 8") for (int r = 0; r < ROWS; r++)                                                         \
                y[r * n_out + o] = sum(total[o][r]) * (scale ? scale[o] : 1.0f) + (bias ? bias[o] : 0.0f);                 \
    }                                                                                                                      \
    static void type##_tile_of(int out, int rows, const type *w, const float *scale, const float *bias, const float *x,    \
                               float *y, int64_t n_in, int64_t n_out) {                                                    \
        switch (out * 16 + rows) {                                                                                         \
            CASE(type, 4, 1) CASE(type, 4, 2) CASE(type, 4, 3) CASE(type, 4, 4)                                            \
            CASE(type, 2, 5) CASE(type, 2, 6) CASE(type, 2, 7) CASE(type, 2, 8)                                            \
            CASE(type, 1, 1) CASE(type, 1, 2) CASE(type, 1, 3) CASE(type, 1, 4)                                            \
            CASE(type, 1, 5) CASE(type, 1, 6) CASE(type, 1, 7) CASE(type, 1, 8)                                            \
        }                                                                                                                  \
    }                                                                                                                      \
    void type##_products(const type *w, const float *scale, const float *bias, const float *x, float *y, int64_t rows,     \
                         int64_t n_in, int64_t n_out) {                                                                    \
        for (int64_t row = 0; row < rows; row += MOST_ROWS) {                                                              \
            const int some = rows - row < MOST_ROWS ? rows - row : MOST_ROWS, usual = some <= 4 ? 4 : 2;                   \
            _Pragma("omp parallel for schedule(static) if (n_in * n_out > 1 << 16)")                                       \
            for (int64_t first = 0; first < n_out; first += usual)                                                         \
                for (int64_t o = first, out; o < n_out && o < first + usual; o += out) {                                   \
                    out = n_out - first < usual ? 1 : usual;                                                               \
                    type##_tile_of(out, some, w + o * n_in, scale ? scale + o : 0, bias ? bias + o : 0,                    \
                                   x + row * n_in, y + row * n_out + o, n_in, n_out);                                      \
                }                                                                                                          \
        }                                                                                                                  \
    }
#define CASE(type, OUT, ROWS) \
    case OUT * 16 + ROWS: type##_tile(OUT, ROWS, w, scale, bias, x, y, n_in, n_out); break;

typedef int8_t int8;
DEFINE_PRODUCTS(bfloat16, 2)
DEFINE_PRODUCTS(int8, 4)

INLINE void gather(const float *from, float *to, int64_t count) { /* pairs */
    for (int64_t i = 0; i < count; i++) to[i / (2 * WIDTH) * 2 * WIDTH + i % 2 * WIDTH + i / 2 % WIDTH] = from[i];
}

static void attend_head(const float *query, const float *key, const float *value, bfloat16 *keys, bfloat16 *values,
                        int64_t length, int64_t width, float *scores, float *out) {
    const float scale = 1.0f / sqrtf((float)width);
    float q[MOST_WIDTH], mixed[MOST_WIDTH] = {0}, most = -INFINITY, total = 0.0f;
    gather(query, q, width);
    for (int64_t d = 0; d < width; d++) {
        keys[length * width + d] = to_bfloat16(key[d]);
        values[length * width + d] = to_bfloat16(value[d]);
    }
    for (int64_t j = 0; j <= length; j++) {
        lanes products = {0};
        for (int64_t d = 0; d < width; d += 2 * WIDTH) {
            const words word = load_words(keys + j * width + d);
            products += bfloat16_part(word, 0) * load(q + d) + bfloat16_part(word, 1) * load(q + d + WIDTH);
        }
        scores[j] = scale * sum(products);
        most = scores[j] > most ? scores[j] : most;
    }
    for (int64_t j = 0; j <= length; j++) total += scores[j] = expf(scores[j] - most);
    for (int64_t j = 0; j <= length; j++)
        for (int64_t d = 0; d < width; d += 2 * WIDTH) {
            const words word = load_words(values + j * width + d);
            const lanes even = load(mixed + d) + scores[j] * bfloat16_part(word, 0);
            const lanes odd = load(mixed + d + WIDTH) + scores[j] * bfloat16_part(word, 1);
            memcpy(mixed + d, &even, sizeof even);
            memcpy(mixed + d + WIDTH, &odd, sizeof odd);
        }
    for (int64_t d = 0; d < width; d++) out[d] = mixed[d / (2 * WIDTH) * 2 * WIDTH + d % 2 * WIDTH + d / 2 % WIDTH] / total;
}

/* One new position of each row: its key and value [rows][heads][width], `stride` floats from row to row, are written
   behind the row's lengths[row] cached ones, [rows][heads][capacity][width]; out is [rows][heads][width]. */
void attend_cached(const float *query, const float *key, const float *value, int64_t stride, bfloat16 *keys,
                   bfloat16 *values, const int64_t *lengths, float *scores, float *out, int64_t rows, int64_t heads,
                   int64_t capacity, int64_t width) {
#pragma omp parallel for schedule(static) if (rows * heads * capacity * width > 1 << 16)
    for (int64_t each = 0; each < rows * heads; each++) {
        const int64_t row = each / heads, from = row * stride + each % heads * width, cached = each * capacity * width;
        attend_head(query + from, key + from, value + from, keys + cached, values + cached, lengths[row], width,
                    scores + each * capacity, out + each * width);
    }
}
