/* Multilayer perceptrons in float32 on a CPU, equal to `algd.algorithm.mlp.MLP`.

   With a library's matrix products, bias and activation take separate passes over memory, and a layer is computed for
   all rows before the next layer. Here bias and activation are applied in registers, a block of rows goes through all
   layers before the next block, and rows with zero gradient are skipped. The order of every sum is independent of the
   number of threads.

   `algd.execution.native.library` builds this file for the processor's instruction set; vectors are the compiler's
   generic ones, so that it works on any CPU. */

#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
enum { LANES = 16, TILE = 8 };
#elif defined(__AVX__)
enum { LANES = 8, TILE = 6 };
#else
enum { LANES = 4, TILE = 6 };
#endif
enum { WIDTH = 2 * LANES, BLOCK = 64 / TILE * TILE };
/* A tile is TILE rows by WIDTH columns of sums, as many as fit into the registers. A block of rows stays in the caches
   while it is multiplied by all panels of the weights, WIDTH columns each. */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t mask __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* Operation after a sum: none; an activation; or a product with its slope, from what the forward pass kept. */
enum { NOTHING, RELU, SILU, RELU_SLOPE, SILU_SLOPE };

static inline vec pick(mask where, vec yes, vec no) { return (vec)((where & (mask)yes) | (~where & (mask)no)); }

/* e^x to three units in the last place, with x clipped to |x| ≤ 87. x = n log 2 + r, with log 2 in two parts so that n
   times the first is exact; e^r by the polynomial of least error on |r| ≤ log(2)/2. */
static inline vec exponential(vec x) {
    const vec zero = {0}, limit = zero + 87.0f;
    x = pick(x > limit, limit, pick(x < -limit, -limit, x));
    /* Adding 1.5 · 2²³ rounds to an integer, which is then in the lowest bits. */
    const float magic = 12582912.0f;
    vec shifted = x * 1.44269504f + magic, n = shifted - magic;
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = r * 8.3124796e-3f + 4.1890550e-2f;
    p = p * r + 1.6667116e-1f;
    p = p * r + 4.9999228e-1f;
    p = p * (r * r) + r + 1.0f;
    return p * (vec)(((mask)shifted << 23) + 0x3f800000);
}

/* Write one vector of results. kept is read for a slope, and written by SILU if it is not NULL. Comparisons are such
   that NaN stays NaN. */
static inline void finish(int after, vec x, float *kept, float *out) {
    const vec zero = {0};
    if (after == RELU) {
        x = pick(x < zero, zero, x);
    } else if (after == SILU) {
        /* Where the exponential is clipped, and x − y first: for |x| > 2²⁴ the 1 would be lost. */
        vec sigmoid = pick(x < -87.0f, zero, 1.0f / (1.0f + exponential(-x))), y = x * sigmoid;
        if (kept) *(vec *)kept = sigmoid * (1.0f + (x - y));
        x = y;
    } else if (after == RELU_SLOPE) {
        x = pick(*(vec *)kept <= zero, zero, x);
    } else if (after == SILU_SLOPE) {
        x *= *(vec *)kept;
    }
    *(vec *)out = x;
}

/* Write `width` ≤ WIDTH results of one row, from their sums and initial values (start; NULL: 0). */
static inline void finish_row(int after, int width, const vec sum[2], const float *start, float *kept, float *out) {
    if (width == WIDTH) {
        for (int c = 0; c < 2; c++) {
            vec x = sum[c];
            if (start) x += *(const vec *)(start + c * LANES);
            finish(after, x, kept ? kept + c * LANES : NULL, out + c * LANES);
        }
        return;
    }
    float starts[WIDTH] = {0}, keeps[WIDTH] = {0}, outs[WIDTH];
    if (start) memcpy(starts, start, 4 * width);
    if (kept && after != SILU) memcpy(keeps, kept, 4 * width);
    for (int c = 0; c < 2; c++)
        finish(after, sum[c] + *(const vec *)(starts + c * LANES), keeps + c * LANES, outs + c * LANES);
    if (kept && after == SILU) memcpy(kept, keeps, 4 * width);
    memcpy(out, outs, 4 * width);
}

/* sum[r] = Σ_q a[r·by_row + q·by_column] panel[q], for r < height, q < k. A constant height keeps the sums in
   registers; one of the strides is 1. */
static inline __attribute__((always_inline)) void sum_tile(const int height, int k, const float *a, long by_row,
                                                           long by_column, const float *panel, vec sum[][2]) {
    vec sums[TILE][2] = {0};
    for (int q = 0; q < k; q++, panel += WIDTH, a += by_column) {
        vec left = *(const vec *)panel, right = *(const vec *)(panel + LANES);
        for (int r = 0; r < height; r++) {
            sums[r][0] += a[r * by_row] * left;
            sums[r][1] += a[r * by_row] * right;
        }
    }
    memcpy(sum, sums, height * sizeof sums[0]);
}

/* The height of the tallest tile that `left` rows fill. */
static inline int tile_height(int left) { return left >= TILE ? TILE : left >= 4 ? 4 : left >= 2 ? 2 : 1; }

static inline __attribute__((always_inline)) void sum_rows(int height, int k, const float *a, long by_row,
                                                           long by_column, const float *panel, vec sum[][2]) {
    switch (height) {
        case TILE: sum_tile(TILE, k, a, by_row, by_column, panel, sum); break;
        case 4: sum_tile(4, k, a, by_row, by_column, panel, sum); break;
        case 2: sum_tile(2, k, a, by_row, by_column, panel, sum); break;
        default: sum_tile(1, k, a, by_row, by_column, panel, sum);
    }
}

/* Σ_k a[k] b[k]. */
static inline float dot(int k, const float *a, const float *b) {
    vec sums[4] = {0};
    int q = 0;
    for (; q + 4 * LANES <= k; q += 4 * LANES)
        for (int c = 0; c < 4; c++) sums[c] += *(const vec *)(a + q + c * LANES) * *(const vec *)(b + q + c * LANES);
    vec all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    float sum = 0;
    for (int c = 0; c < LANES; c++) sum += all[c];
    for (; q < k; q++) sum += a[q] * b[q];
    return sum;
}

static inline int least(int a, int b) { return a < b ? a : b; }

/* Number of floats in the panels of a (k, n) matrix. */
long panel_size(int k, int n) { return (long)(n + WIDTH - 1) / WIDTH * WIDTH * k; }

typedef float quad __attribute__((vector_size(16), aligned(4), may_alias));
#ifdef __clang__
#define CHOOSE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t quad_mask __attribute__((vector_size(16)));
#define CHOOSE(a, b, ...) __builtin_shuffle(a, b, (quad_mask){__VA_ARGS__})
#endif

/* to[r·WIDTH + c] = from[c·by_row + r] for r, c < 4. */
static inline void transpose(const float *from, long by_row, float *to) {
    quad a = *(const quad *)from, b = *(const quad *)(from + by_row);
    quad c = *(const quad *)(from + 2 * by_row), d = *(const quad *)(from + 3 * by_row);
    quad left = CHOOSE(a, b, 0, 4, 1, 5), right = CHOOSE(c, d, 0, 4, 1, 5);
    *(quad *)to = CHOOSE(left, right, 0, 1, 4, 5);
    *(quad *)(to + WIDTH) = CHOOSE(left, right, 2, 3, 6, 7);
    left = CHOOSE(a, b, 2, 6, 3, 7), right = CHOOSE(c, d, 2, 6, 3, 7);
    *(quad *)(to + 2 * WIDTH) = CHOOSE(left, right, 0, 1, 4, 5);
    *(quad *)(to + 3 * WIDTH) = CHOOSE(left, right, 2, 3, 6, 7);
}

/* Pack the matrix w[q·by_k + j·by_n], q < k, j < n, into panels of WIDTH columns, the last one padded with zeros. One
   of the strides is 1. */
static void pack_one(int k, int n, const float *w, long by_k, long by_n, float *panels) {
    for (int j = 0; j < n; j += WIDTH, panels += (long)k * WIDTH) {
        int width = least(WIDTH, n - j);
        const float *from = w + j * by_n;
        if (width < WIDTH) memset(panels, 0, 4L * k * WIDTH);
        if (by_n == 1) {
            for (int q = 0; q < k; q++) memcpy(panels + q * WIDTH, from + q * by_k, 4 * width);
            continue;
        }
        int low = k / 4 * 4, left = width / 4 * 4;
        for (int q = 0; q < low; q += 4)
            for (int c = 0; c < left; c += 4) transpose(from + q + c * by_n, by_n, panels + q * WIDTH + c);
        for (int q = 0; q < k; q++)
            for (int c = q < low ? left : 0; c < width; c++) panels[q * WIDTH + c] = from[q + c * by_n];
    }
}

/* Pack `members` matrices into panels. */
void pack(int members, int k, int n, const float *w, long by_member, long by_k, long by_n, float *panels) {
    for (int m = 0; m < members; m++) pack_one(k, n, w + m * by_member, by_k, by_n, panels + m * panel_size(k, n));
}

/* One layer of all members. Matrices are panels, or, if by_row > 0, their transpose with this row stride. */
typedef struct {
    int k, n;                               /* x (k) ↦ y (n) */
    const float *forward, *backward, *bias; /* (k, n), (n, k), (n), with member stride by_member; bias NULL: 0 */
    long forward_by_member, forward_by_row, backward_by_member, backward_by_row, bias_by_member;
    float *of_weight, *of_bias;             /* gradients: (members, n, k) and (members, n); of_bias NULL: none */
} Layer;

/* Rows of a matrix: those with these numbers; NULL: all, in order. data NULL: no matrix. */
typedef struct {
    float *data;
    const int *numbers;
} Rows;

static inline float *row_of(Rows rows, int row, int width) {
    return rows.data + (long)(rows.numbers ? rows.numbers[row] : row) * width;
}

/* Prefetch WIDTH numbers. */
static inline void fetch(const float *numbers) {
    __builtin_prefetch(numbers);
    __builtin_prefetch(numbers + LANES);
}

/* out = after(start + x w), for `count` rows of x (k); row i starts from start[(first + i) / repeat · by_start]. */
static inline __attribute__((always_inline)) void multiply_and(
    const int after, int count, int k, int n, const float *x, const float *w, long by_row, const float *start,
    long by_start, int first, int repeat, Rows kept, Rows out) {
    for (int j = 0; j < n; j += WIDTH) {
        int width = least(WIDTH, n - j);
        for (int i = 0, height; i < count; i += height) {
            const float *a = x + (long)i * k;
            vec sum[TILE][2];
            height = tile_height(count - i);
            /* Fetch what is combined with the sums while they are computed. */
            for (int r = 0; r < height; r++) {
                if (kept.data) fetch(row_of(kept, i + r, n) + j);
                if (start) fetch(start + (first + i + r) / repeat * by_start + j);
            }
            if (by_row) {
                float sums[TILE][WIDTH] = {0};
                for (int r = 0; r < height; r++)
                    for (int c = 0; c < width; c++) sums[r][c] = dot(k, a + r * k, w + (j + c) * by_row);
                memcpy(sum, sums, sizeof sum);
            } else {
                sum_rows(height, k, a, k, 1, w + (long)j * k, sum);
            }
            for (int r = 0; r < height; r++)
                finish_row(after, width, sum[r], start ? start + (first + i + r) / repeat * by_start + j : NULL,
                           kept.data ? row_of(kept, i + r, n) + j : NULL, row_of(out, i + r, n) + j);
        }
    }
}

#define MULTIPLY(after) \
    case after: multiply_and(after, count, k, n, x, w, by_row, start, by_start, first, repeat, kept, out); break

static void multiply(int after, int count, int k, int n, const float *x, const float *w, long by_row,
                     const float *start, long by_start, int first, int repeat, Rows kept, Rows out) {
    switch (after) {
        MULTIPLY(NOTHING); MULTIPLY(RELU); MULTIPLY(SILU); MULTIPLY(RELU_SLOPE); MULTIPLY(SILU_SLOPE);
    }
}

/* Number of floats of scratch per thread, if no layer's k or n is more than `widest`. */
long scratch_size(int widest) { return 2L * BLOCK * widest; }

/* `members` networks of `count` layers, with `activation` (RELU or SILU) after all but the last. */
typedef struct {
    int threads, members, count, activation, widest; /* no layer's k or n is more than `widest` */
    const Layer *layers;
    float *scratch; /* threads · scratch_size(widest) */
} Network;

/* In the functions below a block of rows goes through all layers before the next block, so that a layer's output stays
   in the caches. Buffers with values of every layer are concatenations of (members, rows, n).

   x: (members, rows, k of the first layer), with member stride x_by_member (0: one x for all). */

/* Compute values, the last layer's sums, (members, rows, n).

   start: replaces the first bias, at [m · start_by_member + r / repeat · start_by_row]; NULL: the bias.
   inputs, slopes: the activations' values, and SiLU's slopes, of every layer except the last; NULL: not written. */
void forward(const Network *network, int rows, const float *x, long x_by_member, const float *start,
             long start_by_member, long start_by_row, int repeat, float *inputs, float *slopes, float *values) {
    const int members = network->members, count = network->count, widest = network->widest;
    const Layer *layers = network->layers;
    #pragma omp parallel for collapse(2) schedule(static) num_threads(network->threads) if (network->threads > 1)
    for (int m = 0; m < members; m++)
        for (int first = 0; first < rows; first += BLOCK) {
            float *mine = network->scratch + omp_get_thread_num() * scratch_size(widest);
            const float *in = x + m * x_by_member + (long)first * layers[0].k;
            long before = 0;
            for (int i = 0; i < count; i++) {
                const Layer *layer = layers + i;
                int n = layer->n, last = i == count - 1, given = i == 0 && start;
                long at = before + ((long)m * rows + first) * n;
                float *out = last ? values + at - before : inputs ? inputs + at : mine + i % 2 * BLOCK * widest;
                const float *bias = layer->bias ? layer->bias + m * layer->bias_by_member : NULL;
                multiply(last ? NOTHING : network->activation, least(BLOCK, rows - first), layer->k, n, in,
                         layer->forward + m * layer->forward_by_member, layer->forward_by_row,
                         given ? start + m * start_by_member : bias, given ? start_by_row : 0, first,
                         given ? repeat : 1, (Rows){slopes && !last ? slopes + at : NULL, NULL}, (Rows){out, NULL});
                in = out;
                before += (long)members * rows * n;
            }
        }
}

/* From ∂f/∂values, (members, rows, n of the last layer), compute `found`, ∂f/∂sums of every layer except the last, and
   `result`, ∂f/∂x, (members, rows, k of the first layer); one of them may be NULL.

   kept: what `forward` wrote: ReLU's values (inputs), or SiLU's slopes.
   chosen: (members, rows), whose first counts[m] entries are the rows to compute, and then found is NULL; NULL: all. */
void backward(const Network *network, int rows, float *kept, const float *gradient, const int *chosen,
              const int *counts, float *found, float *result) {
    const int members = network->members, count = network->count, widest = network->widest;
    const int slope = network->activation == RELU ? RELU_SLOPE : SILU_SLOPE;
    const Layer *layers = network->layers;
    long size = 0;
    for (int i = 0; i < count - 1; i++) size += (long)members * rows * layers[i].n;
    #pragma omp parallel for collapse(2) schedule(static) num_threads(network->threads) if (network->threads > 1)
    for (int m = 0; m < members; m++)
        for (int first = 0; first < rows; first += BLOCK) {
            const int *numbers = chosen ? chosen + (long)m * rows + first : NULL;
            int height = least(BLOCK, (chosen ? counts[m] : rows) - first), n = layers[count - 1].n;
            long origin = (long)m * rows + (chosen ? 0 : first), before = size;
            float *mine = network->scratch + omp_get_thread_num() * scratch_size(widest);
            const float *in = gradient + origin * n;
            if (chosen && height > 0) {
                float *gathered = mine + count % 2 * BLOCK * widest;
                for (int i = 0; i < height; i++) memcpy(gathered + i * n, in + (long)numbers[i] * n, 4 * n);
                in = gathered;
            }
            for (int i = count - 1; i >= (result ? 0 : 1) && height > 0; i--) {
                const Layer *layer = layers + i;
                int k = layer->k;
                before -= i ? (long)members * rows * k : 0;
                long at = before + origin * k;
                Rows out = i == 0 ? (Rows){result + at, numbers} : found ? (Rows){found + at, numbers}
                                  : (Rows){mine + i % 2 * BLOCK * widest, NULL};
                multiply(i == 0 ? NOTHING : slope, height, layer->n, k, in,
                         layer->backward + m * layer->backward_by_member, layer->backward_by_row, NULL, 0, 0, 1,
                         (Rows){i == 0 ? NULL : kept + at, numbers}, out);
                in = out.data;
            }
        }
}

/* Compute of_weight = gᵀ x and of_bias = Σ_rows g of one layer. Returns 0 if there is no memory. */
static int layer_gradients(int threads, int members, int rows, const Layer *layer, const float *g, const float *x,
                           long x_by_member) {
    int k = layer->k, n = layer->n, matrices = x_by_member ? members : 1;
    float *panels = malloc(sizeof(float) * panel_size(rows, k) * matrices);
    if (!panels) return 0;
    pack(matrices, rows, k, x, x_by_member, k, 1, panels);
    #pragma omp parallel for collapse(2) schedule(static) num_threads(threads) if (threads > 1)
    for (int m = 0; m < members; m++)
        for (int j = 0; j < k; j += WIDTH) {
            const float *panel = panels + (x_by_member ? m * panel_size(rows, k) : 0) + (long)j * rows;
            for (int i = 0, height; i < n; i += height) {
                vec sum[TILE][2];
                height = tile_height(n - i);
                sum_rows(height, rows, g + (long)m * rows * n + i, 1, n, panel, sum);
                for (int r = 0; r < height; r++) {
                    float *to = layer->of_weight + ((long)m * n + i + r) * k + j;
                    finish_row(NOTHING, least(WIDTH, k - j), sum[r], NULL, NULL, to);
                }
            }
        }
    free(panels);
    for (int m = 0; m < members && layer->of_bias; m++) {
        float *sums = layer->of_bias + (long)m * n;
        memset(sums, 0, 4L * n);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < n; j++) sums[j] += g[((long)m * rows + i) * n + j];
    }
    return 1;
}

/* Compute every layer's of_weight and of_bias, from the inputs of `forward`, `found` of `backward`, and ∂f/∂values.
   Returns 0 if there is no memory. */
int gradients(const Network *network, int rows, const float *x, long x_by_member, const float *inputs,
              const float *found, const float *gradient) {
    const int members = network->members, count = network->count;
    for (int i = 0; i < count; i++) {
        const Layer *layer = network->layers + i;
        const float *g = i == count - 1 ? gradient : found;
        if (!layer_gradients(network->threads, members, rows, layer, g, x, x_by_member)) return 0;
        if (i == count - 1) break;
        x = inputs, x_by_member = (long)rows * layer->n;
        inputs += members * x_by_member, found += members * x_by_member;
    }
    return 1;
}

/* List the rows where slopes, (members, rows), are not zero, in the form that `backward` takes. */
void choose(int members, int rows, const float *slopes, int *chosen, int *counts) {
    for (int m = 0; m < members; m++, chosen += rows, slopes += rows) {
        int count = 0;
        for (int i = 0; i < rows; i++) {
            chosen[count] = i;
            count += slopes[i] != 0.0f;
        }
        counts[m] = count;
    }
}
