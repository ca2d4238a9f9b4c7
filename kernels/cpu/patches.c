/* The weight gradient of a convolution with many channels and few pixels, as one matrix product:
 * dw (M, C·R·S) = dyᵀ (M, rows) · patches (rows, C·R·S), where a row is a pixel of y and its patch is
 * the window of x that it saw. The product comes out canonical, so the large weights of deep layers
 * are written once; oneDNN's own kernel writes them blocked, and they are then reordered.
 *
 * Measured with oneDNN 2.6.3 on one Zen 5 core, ms, this : its kernel and the reorder, 3×3:
 *   avx512  512→512 4×4 N4 1.7 : 4.9, N16 6.0 : 10.2; 256→512 7×7 stride 2 N4 0.8 : 2.0, N16 3.0 : 5.4;
 *           256→256 7×7 N4 1.1 : 1.6, but N16 5.2 : 4.7; 64→64 7×7 N8 0.18 : 0.14
 *   avx2    512→512 4×4 N4 2.9 : 8.8, N16 11.5 : 29; 256→256 7×7 N4 2.5 : 3.2, N16 10.6 : 10.1 */
#include "kernels/cpu/cpu.h"

bool patches_can(const Conv2d *conv, const Tensor *dw, const Tensor *dy) {
    enum { CHANNELS = 128, ROWS = 256 };
    return conv->groups == 1 && dw->shape[0] >= CHANNELS && dw->shape[1] >= CHANNELS &&
           dy->shape[0] * dy->shape[2] * dy->shape[3] <= ROWS;
}

/* Writes the patch of one pixel of y: (C, R·S) row-major, from x (H, W, C), whose padding is zero.
 * top, left: where the window begins in x. */
static void write_patch(float *restrict patch, const float *restrict x, const Tensor *shape,
                        const Tensor *dw, int64_t top, int64_t left) {
    int64_t channels = shape->shape[1], height = shape->shape[2], width = shape->shape[3];
    int64_t rows = dw->shape[2], columns = dw->shape[3], window = rows * columns;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t s = 0; s < columns; s++) {
            float *to = patch + r * columns + s;
            int64_t h = top + r, w = left + s;
            bool inside = h >= 0 && h < height && w >= 0 && w < width;
            const float *from = inside ? x + (h * width + w) * channels : x;
            for (int64_t c = 0; c < channels; c++)
                to[c * window] = inside ? from[c] : 0.0f;
        }
}

Status patches_weights(Worker *worker, const Conv2d *conv, Tensor *dw, const Tensor *dy,
                       const Tensor *x) {
    const float *pixels, *gradients;
    TRY(layout_rows_of(worker, SCRATCH_X, x, &pixels));
    TRY(layout_rows_of(worker, SCRATCH_Y, dy, &gradients));
    int64_t outputs = dw->shape[0], size = tensor_elements(dw) / outputs;
    int64_t samples = dy->shape[0], height = dy->shape[2], width = dy->shape[3];
    int64_t rows = samples * height * width, sample = tensor_elements(x) / samples;
    float *patches;
    TRY(cpu_scratch(worker, SCRATCH_W, (size_t)(rows * size) * sizeof(float), &patches));
    float *patch = patches;
    for (int64_t n = 0; n < samples; n++)
        for (int64_t h = 0; h < height; h++)
            for (int64_t w = 0; w < width; w++, patch += size)
                write_patch(patch, pixels + n * sample, x, dw,
                            h * conv->stride - conv->padding,
                            w * conv->stride - conv->padding);
    TRY_LIBRARY(dnnl_sgemm('T', 'N', outputs, size, rows, 1.0f, gradients, outputs, patches,
                           size, 0.0f, dw->data, size));
    return STATUS_OK;
}
