/* Compares the portable kernels with double precision, in one program that a cross compiler, an emulator or a sanitizer can take.
   Prints "right" and ends with 0, or names what is wrong. */

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const void *weight;
    const float *scale, *bias;
    int64_t n_in, n_out;
} projection;

void multiply(const float *, int64_t, int64_t, const float *, int64_t, int64_t, const float *, float *, int64_t, float *,
              int64_t, int64_t, int64_t, int64_t, int64_t);
int64_t multiply_workspace_size(int64_t, int64_t, int64_t);
void gelu(const float *, float *, float *, int64_t);
void layer_norm(const float *, const float *, const float *, float *, float *, float, int64_t, int64_t);
void layer_norm_backward(const float *, const float *, const float *, const float *, float *, float *, float *, float *, int64_t,
                         int64_t, int64_t);
void sum_of_squares(const float *, double *, int64_t);
void products(const projection *, const void *, float *, int64_t);
int64_t activation_bytes(void);
int64_t attention_bytes(int64_t, int64_t, int64_t);
void attention(const float *, const int64_t *, float *, float *, const float *, float *, char *, int64_t, int64_t, int64_t,
               int64_t, int64_t, int64_t);

static float *random_numbers(int64_t count) {
    float *made = malloc(count * sizeof *made);
    for (int64_t i = 0; i < count; i++) made[i] = rand() / (float)RAND_MAX - 0.5f;
    return made;
}

static void expect(double apart, double most, const char *what, int64_t size) {
    if (apart <= most) return;
    printf("%s of size %lld: %g apart\n", what, (long long)size, apart);
    exit(1);
}

static void check_multiply(int64_t rows, int64_t terms, int64_t columns, int left_transposed, int right_transposed) {
    float *left = random_numbers(rows * terms), *right = random_numbers(terms * columns), *bias = random_numbers(columns);
    float *to = random_numbers(rows * columns), *workspace = random_numbers(multiply_workspace_size(terms, columns, 1));
    const int64_t left_row = left_transposed ? 1 : terms, left_column = left_transposed ? rows : 1;
    const int64_t right_row = right_transposed ? 1 : columns, right_column = right_transposed ? terms : 1;
    multiply(left, left_row, left_column, right, right_row, right_column, bias, to, columns, workspace, rows, terms, columns, 0, 1);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            double exact = bias[j];
            for (int64_t p = 0; p < terms; p++)
                exact += (double)left[i * left_row + p * left_column] * right[p * right_row + j * right_column];
            expect(fabs(exact - to[i * columns + j]), 1e-6 * (8 + terms), "multiply", terms);
        }
    free(left), free(right), free(bias), free(to), free(workspace);
}

static void check_gelu(int64_t count) {
    float *x = random_numbers(count), *y = random_numbers(count), *slope = random_numbers(count);
    for (int64_t i = 0; i < count; i++) x[i] *= 8;
    gelu(x, y, slope, count);
    for (int64_t i = 0; i < count; i++) {
        const double t = tanh(0.7978845608028654 * (x[i] + 0.044715 * pow(x[i], 3)));
        const double exact = 0.5 * (1 + t) + 0.5 * x[i] * (1 - t * t) * 0.7978845608028654 * (1 + 0.134145 * x[i] * x[i]);
        expect(fabs(0.5 * x[i] * (1 + t) - y[i]), 2e-6, "gelu", count);
        expect(fabs(exact - slope[i]), 2e-6, "the slope of gelu", count);
    }
    gelu(x, slope, NULL, count);
    expect(memcmp(y, slope, count * sizeof *y) != 0, 0, "gelu without its slope", count);
    free(x), free(y), free(slope);
}

static void check_sum_of_squares(int64_t count) {
    float *values = random_numbers(count);
    double found = 1, exact = 0;
    sum_of_squares(values, &found, count);
    for (int64_t i = 0; i < count; i++) exact += (double)values[i] * values[i];
    expect(fabs(found - exact), 1e-6 * exact, "sum_of_squares", count);
    free(values);
}

/* The gradients follow from the normal values: y without weight and bias. */
static void check_layer_norm(int64_t rows, int64_t width) {
    float *x = random_numbers(rows * width), *weight = random_numbers(width), *bias = random_numbers(width);
    float *y = random_numbers(rows * width), *outer = random_numbers(rows * width), *by_x = random_numbers(rows * width);
    float *statistics = malloc(2 * rows * sizeof *statistics), *workspace = malloc((rows + 63) / 64 * 2 * width * sizeof *workspace);
    float *by_weight = random_numbers(width), *by_bias = random_numbers(width);
    double *normal = malloc(rows * width * sizeof *normal);
    layer_norm(x, weight, bias, y, statistics, 1e-5f, rows, width);
    layer_norm_backward(x, weight, statistics, outer, by_x, by_weight, by_bias, workspace, 0, rows, width);
    for (int64_t r = 0; r < rows; r++) {
        const int64_t row = r * width;
        double mean = 0, variance = 0, middle = 0, slope = 0;
        for (int64_t j = 0; j < width; j++) mean += x[row + j] / (double)width;
        for (int64_t j = 0; j < width; j++) variance += (x[row + j] - mean) * (x[row + j] - mean) / width;
        for (int64_t j = 0; j < width; j++) {
            normal[row + j] = (x[row + j] - mean) / sqrt(variance + 1e-5);
            expect(fabs(normal[row + j] * weight[j] + bias[j] - y[row + j]), 1e-5, "layer_norm", width);
            middle += (double)outer[row + j] * weight[j] / width;
            slope += (double)outer[row + j] * weight[j] * normal[row + j] / width;
        }
        for (int64_t j = 0; j < width; j++) {
            const double exact = ((double)outer[row + j] * weight[j] - middle - normal[row + j] * slope) / sqrt(variance + 1e-5);
            expect(fabs(exact - by_x[row + j]), 1e-5 / sqrt(variance + 1e-5), "gradient of layer_norm", width);
        }
    }
    for (int64_t j = 0; j < width; j++) {
        double exact_weight = 0, exact_bias = 0;
        for (int64_t r = 0; r < rows; r++) {
            exact_weight += outer[r * width + j] * normal[r * width + j];
            exact_bias += outer[r * width + j];
        }
        expect(fabs(exact_weight - by_weight[j]), 1e-5 * (1 + rows), "gradient by weight of layer_norm", width);
        expect(fabs(exact_bias - by_bias[j]), 1e-6 * (1 + rows), "gradient by bias of layer_norm", width);
    }
    free(x), free(weight), free(bias), free(y), free(outer), free(by_x), free(statistics), free(workspace);
    free(by_weight), free(by_bias), free(normal);
}

/* Weights are whole numbers, which bfloat16 and int8 hold exactly; so are inputs, whatever they are rounded to. */
static void check_small_weights(int64_t rows, int64_t n_in, int64_t n_out, int int8) {
    const int64_t panels = (n_out + 31) / 32, held = int8 ? 4 : 2;
    unsigned char *weight = calloc(panels * 32 * n_in, int8 ? 1 : 2), *x = malloc(rows * n_in * activation_bytes());
    float *scale = random_numbers(n_out), *y = random_numbers(rows * n_out), *values = random_numbers(n_out * n_in);
    for (int64_t o = 0; o < n_out; o++)
        for (int64_t i = 0; i < n_in; i++) {
            const float value = values[o * n_in + i] = (float)((o * 7 + i * 3) % 21 - 10);
            const int64_t place = ((o / 32 * (n_in / held) + i / held) * 32 + o % 32) * held + i % held;
            uint32_t bits;
            memcpy(&bits, &value, 4);
            if (int8) ((int8_t *)weight)[place] = (int8_t)value;
            else ((uint16_t *)weight)[place] = bits >> 16;
        }
    for (int64_t i = 0; i < rows * n_in; i++) {
        const float value = (float)(i % 13 - 6);
        uint32_t bits;
        memcpy(&bits, &value, 4);
        if (activation_bytes() == 4) ((uint32_t *)x)[i] = bits;
        else ((uint16_t *)x)[i] = bits >> 16;
    }
    const projection layer = {weight, int8 ? scale : NULL, NULL, n_in, n_out};
    products(&layer, x, y, rows);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = 0; o < n_out; o++) {
            double exact = 0;
            for (int64_t i = 0; i < n_in; i++) exact += values[o * n_in + i] * (double)((r * n_in + i) % 13 - 6);
            if (int8) exact *= scale[o];
            expect(fabs(exact - y[r * n_out + o]), 1e-5 * (1 + fabs(exact)), int8 ? "int8" : "bfloat16", n_out);
        }
    free(weight), free(x), free(scale), free(y), free(values);
}

/* Weight of key j for query i of a head whose queries, keys and values are `size` apart, by the sum that forward left. */
static double weight_of(const float *heads, int64_t size, int64_t i, int64_t j, double log_sum) {
    double score = 0;
    for (int64_t d = 0; d < size; d++) score += (double)heads[i * 3 * size + d] * heads[j * 3 * size + size + d];
    return exp(score / sqrt(size) - log_sum);
}

/* One head; documents are `document` tokens long. The gradients by queries follow from the weights, which add up to 1. */
static void check_attention(int64_t length, int64_t size, int64_t document) {
    float *heads = random_numbers(length * 3 * size), *out = random_numbers(length * size), *log_sums = random_numbers(length);
    float *outer = random_numbers(length * size), *by_heads = random_numbers(length * 3 * size);
    int64_t *positions = malloc(length * sizeof *positions);
    for (int64_t i = 0; i < length; i++) positions[i] = i % document;
    for (int64_t backward = 0; backward < 2; backward++) {
        const int64_t bytes = attention_bytes(length, size, backward);
        char *workspace = malloc(bytes);
        attention(heads, positions, out, log_sums, backward ? outer : NULL, by_heads, workspace, 1, length, 1, size, 1, bytes);
        free(workspace);
    }
    for (int64_t i = 0; i < length; i++) {
        double total = 0, mixed = 0, pull = 0, mean = 0, by_query = 0;
        for (int64_t pass = 0; pass < 2; pass++)
            for (int64_t j = i - positions[i]; j <= i; j++) {
                const double weight = weight_of(heads, size, i, j, log_sums[i]);
                double by_weight = 0;
                for (int64_t d = 0; d < size; d++) by_weight += (double)outer[i * size + d] * heads[j * 3 * size + 2 * size + d];
                if (pass) by_query += weight * (by_weight - mean) * heads[j * 3 * size + size] / sqrt(size);
                else total += weight, mixed += weight * heads[j * 3 * size + 2 * size], pull += weight * by_weight, mean = pull;
            }
        expect(fabs(total - 1), 1e-5, "weights", length);
        expect(fabs(mixed - out[i * size]), 1e-5, "attention", length);
        expect(fabs(by_query - by_heads[i * 3 * size]), 1e-5, "gradient by queries", length);
    }
    for (int64_t i = 0; i < 3 * length * size; i++) expect(isfinite(by_heads[i]) ? 0 : 1, 0, "gradient by heads", length);
    free(heads), free(out), free(log_sums), free(outer), free(by_heads), free(positions);
}

int main(void) {
    const int64_t sizes[][3] = {{1, 1, 1}, {3, 6, 10}, {8, 16, 48}, {37, 131, 51}, {105, 35, 66}, {19, 1097, 21}, {20, 513, 310}};
    for (int i = 0; i < 7; i++)
        for (int way = 0; way < 4; way++) check_multiply(sizes[i][0], sizes[i][1], sizes[i][2], way & 1, way >> 1);
    for (int64_t count = 1; count < 100; count += 11) check_gelu(count);
    check_gelu(5000);
    for (int64_t count = 0; count < 200000; count += 33333) check_sum_of_squares(count);
    for (int64_t rows = 1; rows < 80; rows += 13) check_layer_norm(rows, 1 + 5 * rows);
    for (int64_t length = 1; length < 200; length += 37)
        for (int64_t size = 1; size < 70; size += 15) check_attention(length, size, 3 + length / 2), check_attention(length, size, 5);
    for (int64_t rows = 1; rows < 18; rows++)
        for (int int8 = 0; int8 < 2; int8++) check_small_weights(rows, 64 * (1 + rows % 3), 1 + 33 * (rows % 4), int8);
    puts("right");
    return 0;
}
