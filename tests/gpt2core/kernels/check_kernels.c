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
void gelu(const float *, float *, int64_t);
void products(const projection *, const void *, float *, int64_t);
int64_t activation_bytes(void);

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
    float *x = random_numbers(count), *y = random_numbers(count);
    for (int64_t i = 0; i < count; i++) x[i] *= 8;
    gelu(x, y, count);
    for (int64_t i = 0; i < count; i++) {
        const double u = 0.7978845608028654 * (x[i] + 0.044715 * pow(x[i], 3));
        expect(fabs(0.5 * x[i] * (1 + tanh(u)) - y[i]), 2e-6, "gelu", count);
    }
    free(x), free(y);
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

int main(void) {
    const int64_t sizes[][3] = {{1, 1, 1}, {3, 6, 10}, {8, 16, 48}, {37, 131, 51}, {105, 35, 66}, {19, 1097, 21}, {20, 513, 310}};
    for (int i = 0; i < 7; i++)
        for (int way = 0; way < 4; way++) check_multiply(sizes[i][0], sizes[i][1], sizes[i][2], way & 1, way >> 1);
    for (int64_t count = 1; count < 100; count += 11) check_gelu(count);
    check_gelu(5000);
    for (int64_t rows = 1; rows < 18; rows++)
        for (int int8 = 0; int8 < 2; int8++) check_small_weights(rows, 64 * (1 + rows % 3), 1 + 33 * (rows % 4), int8);
    puts("right");
    return 0;
}
