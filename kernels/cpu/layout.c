/* The layout of activations, and the ways in and out of it. */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <string.h>

size_t cpu_layout(Backend *self, Tensor *tensor) {
    (void)self;
    enum { IMAGE_CHANNELS = 3 };
    bool image = tensor->rank == 4 && tensor->shape[1] <= IMAGE_CHANNELS;
    tensor->layout = tensor->rank == 4 && !image ? LAYOUT_NHWC : LAYOUT_CANONICAL;
    return (size_t)tensor_elements(tensor) * sizeof(float);
}

/* y (columns, rows) = x (rows, columns) transposed, in tiles that stay in the first-level cache. */
void layout_transpose(float *restrict y, const float *restrict x, int64_t rows,
                      int64_t columns) {
    enum { TILE = 32 };
    for (int64_t row = 0; row < rows; row += TILE)
        for (int64_t column = 0; column < columns; column += TILE) {
            int64_t row_end = row + TILE < rows ? row + TILE : rows;
            int64_t column_end = column + TILE < columns ? column + TILE : columns;
            for (int64_t c = column; c < column_end; c++)
                for (int64_t r = row; r < row_end; r++)
                    y[c * rows + r] = x[r * columns + c];
        }
}

/* Channels and pixels of one sample of an activation. */
static int64_t channels_of(const Tensor *x) {
    return x->shape[1];
}
static int64_t pixels_of(const Tensor *x) {
    return x->rank == 4 ? x->shape[2] * x->shape[3] : 1;
}

/* Whether canonical memory already is rows of channels. */
static bool is_rows(const Tensor *x) {
    return x->layout == LAYOUT_NHWC || channels_of(x) == 1 || pixels_of(x) == 1;
}

Status cpu_reorder(Backend *self, int worker, Tensor *y, const Tensor *x) {
    cpu_worker(self, worker);
    assert(tensor_elements(y) == tensor_elements(x) && x->shape[0] == y->shape[0]);
    const Tensor *activation = x->rank == 4 ? x : y; /* the other may be its flat form */
    int64_t channels = channels_of(activation), pixels = pixels_of(activation);
    bool from_rows = x->layout == LAYOUT_NHWC, to_rows = y->layout == LAYOUT_NHWC;
    if (from_rows == to_rows || channels == 1 || pixels == 1) {
        memcpy(y->data, x->data, (size_t)tensor_elements(x) * sizeof(float));
        return STATUS_OK;
    }
    for (int64_t n = 0; n < x->shape[0]; n++) {
        int64_t at = n * channels * pixels;
        if (from_rows)
            layout_transpose(y->data + at, x->data + at, pixels, channels);
        else
            layout_transpose(y->data + at, x->data + at, channels, pixels);
    }
    return STATUS_OK;
}

Status layout_rows_of(Worker *worker, ScratchUse use, const Tensor *x, const float **out) {
    *out = x->data;
    if (is_rows(x)) return STATUS_OK;
    float *copy;
    TRY(cpu_scratch(worker, use, (size_t)tensor_elements(x) * sizeof(float), &copy));
    int64_t channels = channels_of(x), pixels = pixels_of(x);
    for (int64_t n = 0; n < x->shape[0]; n++)
        layout_transpose(copy + n * channels * pixels, x->data + n * channels * pixels,
                         channels, pixels);
    *out = copy;
    return STATUS_OK;
}

Status layout_rows_for(Worker *worker, ScratchUse use, const Tensor *y, float **out) {
    *out = y->data;
    if (is_rows(y)) return STATUS_OK;
    return cpu_scratch(worker, use, (size_t)tensor_elements(y) * sizeof(float), out);
}

void layout_rows_store(const Tensor *y, const float *rows) {
    if (rows == y->data) return;
    int64_t channels = channels_of(y), pixels = pixels_of(y);
    for (int64_t n = 0; n < y->shape[0]; n++)
        layout_transpose(y->data + n * channels * pixels, rows + n * channels * pixels,
                         pixels, channels);
}
