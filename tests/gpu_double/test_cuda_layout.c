/* How the CUDA device lays out numbers: reordering, filters, conversions, and the passes over rows that its
 * products share. Memory is looked at byte for byte. */
#include "tests/gpu_double/cuda_ops.h"

/* A tensor's elements as they lie. */
static float *raw(Backend *backend, const void *device, int64_t count, bool half) {
    float *host = ops_host(count);
    if (!half) {
        ops_fetched(backend, host, device, (size_t)count * sizeof *host);
        return host;
    }
    uint16_t *shorts = (uint16_t *)ops_host(count);
    ops_fetched(backend, shorts, device, (size_t)count * sizeof *shorts);
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits = (uint32_t)shorts[i] << 16;
        memcpy(&host[i], &bits, sizeof bits);
    }
    return host;
}

/* (n, rows, columns) with the last two turned. */
static float *turned(const float *x, int64_t n, int64_t rows, int64_t columns) {
    float *y = ops_host(n * rows * columns);
    for (int64_t b = 0; b < n; b++)
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++)
                y[(b * columns + j) * rows + i] = x[(b * rows + i) * columns + j];
    return y;
}

static float *rounded(const float *x, int64_t count, bool half) {
    float *y = ops_host(count);
    for (int64_t i = 0; i < count; i++)
        y[i] = half ? short_of(x[i]) : x[i];
    return y;
}

static const int64_t more_images[][4] = {
    {2, 33, 6, 11}, {1, 3, 32, 32}, {3, 70, 1, 40}, {70000, 2, 1, 2}};

static Tensor laid(int index) {
    if (index < IMAGE_SHAPES) return image_shape(index);
    const int64_t *s = more_images[index - IMAGE_SHAPES];
    return tensor_4d(NULL, s[0], s[1], s[2], s[3]);
}

static void images_have_their_channels_last(void **state) {
    Backend *backend = *state;
    bool half = cuda_of(backend)->precision == PRECISION_BF16;
    for (int s = 0; s < IMAGE_SHAPES + 4; s++) {
        Tensor shape = laid(s);
        int64_t n = shape.shape[0], c = shape.shape[1], count = tensor_elements(&shape);
        int64_t plane = shape.shape[2] * shape.shape[3];
        const float *host = ops_random(count, 1);
        Tensor given = ops_canonical_of(backend, shape, host);
        Tensor image = ops_activation(backend, shape), back = ops_canonical(backend, shape);
        assert_ok(backend->ops->reorder(backend, 0, &image, &given));
        const float *want = rounded(turned(host, n, c, plane), count, half);
        ops_assert_bits("image", raw(backend, image.data, count, half), want, count);
        assert_ok(backend->ops->reorder(backend, 0, &back, &image));
        ops_assert_bits("and back", raw(backend, back.data, count, false),
                        rounded(host, count, half), count);
        Tensor copy = ops_activation(backend, shape);
        assert_ok(backend->ops->reorder(backend, 0, &copy, &image));
        ops_assert_bits("copy", raw(backend, copy.data, count, half), want, count);
        ops_release_to(0);
    }
}

static void flattened_images_are_in_canonical_order(void **state) {
    Backend *backend = *state;
    bool half = cuda_of(backend)->precision == PRECISION_BF16;
    for (int s = 0; s < IMAGE_SHAPES + 4; s++) {
        Tensor shape = laid(s);
        int64_t count = tensor_elements(&shape), n = shape.shape[0];
        const float *host = ops_random(count, 1), *want = rounded(host, count, half);
        Tensor image = ops_activation_of(backend, shape, host);
        Tensor flat[] = {ops_activation(backend, tensor_2d(NULL, n, count / n)),
                         ops_canonical(backend, tensor_2d(NULL, n, count / n))};
        for (int k = 0; k < 2; k++) {
            assert_ok(backend->ops->reorder(backend, 0, &flat[k], &image));
            ops_assert_bits("rows", raw(backend, flat[k].data, count, half && k == 0), want,
                            count);
            Tensor back = ops_activation(backend, shape);
            assert_ok(backend->ops->reorder(backend, 0, &back, &flat[k]));
            ops_assert_bits("image", ops_get(backend, &back), want, count);
        }
        Tensor given = ops_canonical_of(backend, shape, host); /* as the network's input */
        assert_ok(backend->ops->reorder(backend, 0, &flat[0], &given));
        ops_assert_bits("input", raw(backend, flat[0].data, count, half), want, count);
        ops_release_to(0);
    }
}

static void filters_are_turned_and_turned_back(void **state) {
    Backend *backend = *state;
    VendorQueue *queue = cuda_of(backend)->work;
    const int64_t filters[][3] = {{1, 1, 1},  {6, 1, 25},   {16, 3, 9}, {5, 7, 1},
                                  {4, 64, 9}, {33, 40, 49}, {3, 130, 4}};
    for (int f = 0; f < 7; f++)
        for (int half = 0; half < 2; half++) {
            int64_t m = filters[f][0], c = filters[f][1], rs = filters[f][2];
            int64_t count = m * c * rs;
            const float *host = ops_random(count, 1);
            Tensor w = ops_canonical_of(backend, tensor_1d(NULL, count), host);
            Tensor back = ops_canonical(backend, w);
            void *last = ops_memory(backend, (size_t)count * sizeof(float));
            VendorType type = half ? VENDOR_BF16 : VENDOR_F32;
            assert_ok(cuda_filter_to_last(queue, last, type, w.data, m, c, rs));
            ops_assert_bits("last", raw(backend, last, count, half),
                            rounded(turned(host, m, c, rs), count, half), count);
            assert_ok(cuda_filter_from_last(queue, back.data, last, type, m, c, rs));
            ops_assert_bits("back", ops_get(backend, &back), rounded(host, count, half),
                            count);
            ops_release_to(0);
        }
}

/* Halves between two bf16 go to the even one; what is beyond the largest is infinite; NaN stays. */
static void conversion_rounds_to_nearest(void **state) {
    Backend *backend = *state;
    VendorQueue *queue = cuda_of(backend)->work;
    const int64_t counts[] = {0, 1, 7, 8, 9, 1000, 4099};
    for (int i = 0; i < 7; i++) {
        int64_t count = counts[i];
        const float edges[] = {0x1.01p0f, 0x1.03p0f, 0x1.02fffep0f, -0x1.01p0f,
                               3.4e38f,   INFINITY,  0x1p-133f,     0x1.8p-134f};
        float *host = ops_random(count, 1);
        for (int64_t k = 0; k < 8 && k < count; k++)
            host[count - 1 - k] = edges[k];
        Tensor from = ops_canonical_of(backend, tensor_1d(NULL, count), host);
        Tensor back = ops_canonical(backend, from);
        for (int64_t offset = 0; offset < 2; offset++) { /* also where no 16 bytes begin */
            uint16_t *half = ops_memory(backend, (size_t)(count + 1) * sizeof *half);
            assert_ok(cuda_convert(queue, half + offset, VENDOR_BF16, from.data, VENDOR_F32,
                                   count));
            assert_ok(cuda_convert(queue, back.data, VENDOR_F32, half + offset, VENDOR_BF16,
                                   count));
            ops_assert_bits("there and back", ops_get(backend, &back),
                            rounded(host, count, true), count);
        }
        ops_release_to(0);
    }
    const float nan = NAN;
    float *one = ops_placed(backend, &nan, sizeof nan);
    void *half = ops_memory(backend, 2);
    assert_ok(cuda_convert(queue, half, VENDOR_BF16, one, VENDOR_F32, 1));
    assert_true(isnan(raw(backend, half, 1, true)[0]));
}

static const int64_t matrices[][2] = {{1, 1},    {1, 10},    {300, 10}, {5000, 1},
                                      {1000, 3}, {33, 64},   {4096, 8}, {64, 1000},
                                      {7, 4104}, {2000, 130}};

static void *matrix(Backend *backend, const float *host, int64_t count, bool half) {
    float *x = ops_placed(backend, host, (size_t)count * sizeof *host);
    if (!half) return x;
    void *shorts = ops_memory(backend, (size_t)count * 2);
    assert_ok(
        cuda_convert(cuda_of(backend)->work, shorts, VENDOR_BF16, x, VENDOR_F32, count));
    return shorts;
}

/* Double sums, rounded once: half a unit of float, and the last bit of a sum that cancels. */
static void column_sums_are_those_of_double_arithmetic(void **state) {
    Backend *backend = *state;
    for (int s = 0; s < 20; s++) {
        int64_t rows = matrices[s / 2][0], columns = matrices[s / 2][1];
        bool half = s % 2 != 0;
        const float *host = short_random(rows * columns, 1);
        float *want = ops_host(columns);
        for (int64_t c = 0; c < columns; c++) {
            double sum = 0;
            for (int64_t r = 0; r < rows; r++)
                sum += (double)host[r * columns + c];
            want[c] = (float)sum;
        }
        Tensor sums = ops_canonical(backend, tensor_1d(NULL, columns));
        void *workspace = ops_memory(backend, cuda_column_sums_workspace(rows, columns));
        assert_ok(cuda_column_sums(
            cuda_of(backend)->work, sums.data, matrix(backend, host, rows * columns, half),
            half ? VENDOR_BF16 : VENDOR_F32, rows, columns, workspace));
        ops_assert_near("sums", ops_get(backend, &sums), want, columns, 1.2e-7);
        ops_release_to(0);
    }
    Tensor sums = ops_canonical(backend, tensor_1d(NULL, 3));
    assert_ok(
        cuda_column_sums(cuda_of(backend)->work, sums.data, NULL, VENDOR_F32, 0, 3, NULL));
    const float zeros[3] = {0};
    ops_assert_bits("of no rows", ops_get(backend, &sums), zeros, 3);
}

static void a_bias_is_added_to_every_row(void **state) {
    Backend *backend = *state;
    for (int s = 0; s < 20; s++) {
        int64_t rows = matrices[s / 2][0], columns = matrices[s / 2][1];
        bool half = s % 2 != 0;
        const float *host = short_random(rows * columns, 1), *bias = ops_random(columns, 2);
        float *want = ops_host(rows * columns);
        for (int64_t i = 0; i < rows * columns; i++)
            want[i] =
                half ? short_of(host[i] + bias[i % columns]) : host[i] + bias[i % columns];
        void *y = matrix(backend, host, rows * columns, half);
        assert_ok(cuda_add_bias(cuda_of(backend)->work, y, half ? VENDOR_BF16 : VENDOR_F32,
                                ops_placed(backend, bias, (size_t)columns * sizeof *bias),
                                rows, columns));
        ops_assert_bits("y", raw(backend, y, rows * columns, half), want, rows * columns);
        ops_release_to(0);
    }
}

int main(void) {
    const OpsTest tests[] = {
        OPS_TEST(images_have_their_channels_last),
        OPS_TEST(flattened_images_are_in_canonical_order),
        OPS_TEST(filters_are_turned_and_turned_back),
        OPS_TEST(conversion_rounds_to_nearest),
        OPS_TEST(column_sums_are_those_of_double_arithmetic),
        OPS_TEST(a_bias_is_added_to_every_row),
    };
    return cuda_ops_main(tests, sizeof tests / sizeof *tests);
}
