/* Batch norm with the residual and relu that follow it, in as few passes over memory as possible:
 * two forward (statistics, result), two backward (sums with the residual's gradient, dx).
 *
 * Statistics are taken tile by tile: mean and squared deviations of 64 rows in float, joined in
 * double with the rows before them, in the order of the rows. So there is no cancellation however
 * far the mean is from zero, and the order depends on the shape alone.
 *
 * Where 16 does not divide the channels, several rows are read as one wide row whose channels repeat:
 * eight rows of 6 channels as one of 48. Then every tile is whole, and the repetitions' sums are joined
 * at the end. */
#include "kernels/cpu/cpu.h"

#include "kernels/cpu/block.h"
#include "kernels/element.h"

static int64_t channels_of(const Tensor *x) {
    return x->shape[1];
}
static int64_t rows_of(const Tensor *x) {
    return tensor_elements(x) / x->shape[1];
}
static int64_t at_most(int64_t value, int64_t limit) {
    return value < limit ? value : limit;
}

/* An activation as wide rows, whose channels repeat `folds` times. */
typedef struct {
    int64_t rows, channels; /* of the wide form */
    int64_t period, folds; /* channels = period · folds; the tensor has `period` channels */
} Wide;

static Wide wide_of(const Tensor *x) {
    int64_t rows = rows_of(x), period = channels_of(x), folds = 1;
    while (period * folds % BLOCK_CHANNELS != 0)
        folds *= 2;
    if (rows % folds != 0) folds = 1; /* narrow tiles are copied beside zeros */
    return (Wide){rows / folds, period * folds, period, folds};
}

/* out[i] = the value of wide channel c + i. */
static void repeat(float *out, const float *values, const Wide *wide, int64_t c,
                   int64_t width) {
    int64_t at = c % wide->period;
    for (int64_t i = 0; i < width; i++) {
        out[i] = values[at];
        at = at + 1 == wide->period ? 0 : at + 1;
    }
}

/* ---- sums over the rows of one tile. Row r goes to running sum r mod 2, of each quantity. */
enum { RUNNING = 2 };

static void add_up(const Lane16 running[RUNNING], float out[BLOCK_CHANNELS]) {
    for (int half = 0; half < BLOCK_HALVES; half++)
        block_store(out + half * 8, running[0].half[half] + running[1].half[half]);
}

static void tile_sum(Block x, int64_t rows, float sum[BLOCK_CHANNELS]) {
    Lane16 running[RUNNING] = {0};
    for (int64_t row = 0; row < rows; row += RUNNING)
        for (int i = 0; i < RUNNING; i++)
            for (int half = 0; half < BLOCK_HALVES && row + i < rows; half++)
                running[i].half[half] +=
                    block_load(x.data + (row + i) * x.stride + half * 8);
    add_up(running, sum);
}

static void tile_squares(Block x, int64_t rows, const float mean[BLOCK_CHANNELS],
                         float sum[BLOCK_CHANNELS]) {
    Lane16 running[RUNNING] = {0};
    Lane8 means[BLOCK_HALVES] = {block_load(mean), block_load(mean + 8)};
    for (int64_t row = 0; row < rows; row += RUNNING)
        for (int i = 0; i < RUNNING; i++)
            for (int half = 0; half < BLOCK_HALVES && row + i < rows; half++) {
                Lane8 d =
                    block_load(x.data + (row + i) * x.stride + half * 8) - means[half];
                running[i].half[half] += d * d;
            }
    add_up(running, sum);
}

typedef struct {
    double mean[BLOCK_CHANNELS], squares[BLOCK_CHANNELS]; /* sum of squared deviations */
} Moments;

/* Joins the mean and the squares of one channel's `rows` values to those of `before` others (Chan,
 * Golub, LeVeque). */
static void join(double *mean, double *squares, int64_t before, double more_mean,
                 double more_squares, int64_t rows) {
    double share = (double)rows / (double)(before + rows);
    double delta = more_mean - *mean;
    *mean += delta * share;
    *squares += more_squares + delta * delta * ((double)before * share);
}

/* Joins a tile of `rows` to the moments of the `before` rows above it. */
static void join_tile(Moments *moments, int64_t before, Block x, int64_t rows) {
    float sum[BLOCK_CHANNELS], mean[BLOCK_CHANNELS], squares[BLOCK_CHANNELS];
    tile_sum(x, rows, sum);
    for (int i = 0; i < BLOCK_CHANNELS; i++)
        mean[i] = sum[i] / (float)rows;
    tile_squares(x, rows, mean, squares);
    for (int i = 0; i < BLOCK_CHANNELS; i++)
        join(&moments->mean[i], &moments->squares[i], before, (double)mean[i],
             (double)squares[i], rows);
}

/* ---- the normalising pass */

/* Per channel, what the pass needs, for one tile's channels (zeros beyond the tensor's). */
typedef struct {
    float mean[BLOCK_CHANNELS], inverse_std[BLOCK_CHANNELS];
    float gamma[BLOCK_CHANNELS], beta[BLOCK_CHANNELS];
    float mean_dbeta[BLOCK_CHANNELS], mean_dgamma[BLOCK_CHANNELS];
} Channels;

static void load_channels(Channels *out, const BatchNorm *norm, const float *mean,
                          const float *inverse_std, const Wide *wide, int64_t c,
                          int64_t width) {
    *out = (Channels){0};
    repeat(out->mean, mean, wide, c, width);
    repeat(out->inverse_std, inverse_std, wide, c, width);
    repeat(out->gamma, norm->gamma->data, wide, c, width);
    repeat(out->beta, norm->beta->data, wide, c, width);
}

/* y may be x: hence no restrict, and the promise that iterations are independent. */
static inline __attribute__((always_inline)) void
normalize_row(float *y, const float *x, const float *residual, const Channels *by,
              int64_t width, bool with_residual, bool relu) {
#pragma GCC ivdep
    for (int64_t i = 0; i < width; i++) {
        float z = element_batch_norm(x[i], by->mean[i], by->inverse_std[i], by->gamma[i],
                                     by->beta[i]);
        if (with_residual) z += residual[i];
        y[i] = relu ? element_relu(z) : z;
    }
}

static inline __attribute__((always_inline)) void
normalize_tile(float *y, const float *x, const float *residual, const Channels *by,
               int64_t rows, int64_t stride, int64_t width, bool with_residual, bool relu) {
    Channels copy = *by; /* ours alone: no store can change it */
    for (int64_t row = 0; row < rows; row++) {
        int64_t at = row * stride;
        const float *added = with_residual ? residual + at : NULL;
        if (width == BLOCK_CHANNELS)
            normalize_row(y + at, x + at, added, &copy, BLOCK_CHANNELS, with_residual,
                          relu);
        else
            normalize_row(y + at, x + at, added, &copy, width, with_residual, relu);
    }
}

static void normalize(const BatchNorm *norm, float *y, const float *x,
                      const float *residual, const float *mean, const float *inverse_std,
                      const Wide *wide) {
    int64_t rows = wide->rows, channels = wide->channels;
    for (int64_t row = 0; row < rows; row += BLOCK_ROWS)
        for (int64_t c = 0; c < channels; c += BLOCK_CHANNELS) {
            int64_t count = at_most(rows - row, BLOCK_ROWS), at = row * channels + c;
            int64_t width = at_most(channels - c, BLOCK_CHANNELS);
            Channels by;
            load_channels(&by, norm, mean, inverse_std, wide, c, width);
            const float *added = residual != NULL ? residual + at : NULL;
            if (residual != NULL && norm->relu)
                normalize_tile(y + at, x + at, added, &by, count, channels, width, true,
                               true);
            else if (residual != NULL)
                normalize_tile(y + at, x + at, added, &by, count, channels, width, true,
                               false);
            else if (norm->relu)
                normalize_tile(y + at, x + at, added, &by, count, channels, width, false,
                               true);
            else
                normalize_tile(y + at, x + at, added, &by, count, channels, width, false,
                               false);
        }
}

static Status normalize_tensor(Worker *worker, const BatchNorm *norm, Tensor *y,
                               const float *x, const float *mean,
                               const float *inverse_std) {
    const float *residual = NULL;
    if (norm->residual != NULL)
        TRY(layout_rows_of(worker, SCRATCH_W, norm->residual, &residual));
    float *to;
    TRY(layout_rows_for(worker, SCRATCH_Y, y, &to));
    Wide wide = wide_of(y);
    normalize(norm, to, x, residual, mean, inverse_std, &wide);
    layout_rows_store(y, to);
    return STATUS_OK;
}

/* moments[c / 16] describes channels c .. c + 15 of the tensor. */
static Status take_moments(Worker *worker, const float *x, const Wide *wide,
                           Moments **out) {
    int64_t rows = wide->rows, channels = wide->channels;
    int64_t tiles = (channels + BLOCK_CHANNELS - 1) / BLOCK_CHANNELS;
    Moments *moments;
    TRY(cpu_scratch(worker, SCRATCH_SUMS, (size_t)tiles * sizeof *moments, &moments));
    memset(moments, 0, (size_t)tiles * sizeof *moments);
    float copy[BLOCK_ROWS * BLOCK_CHANNELS];
    for (int64_t row = 0; row < rows; row += BLOCK_ROWS)
        for (int64_t tile = 0; tile < tiles; tile++) {
            int64_t count = at_most(rows - row, BLOCK_ROWS), c = tile * BLOCK_CHANNELS;
            Block block =
                block_at(x + row * channels + c, channels, count, channels - c, copy);
            join_tile(&moments[tile], row, block, count);
        }
    for (int64_t c = wide->period; c < channels; c++) {
        int64_t to = c % wide->period, before = rows * (c / wide->period);
        Moments *left = &moments[to / BLOCK_CHANNELS];
        const Moments *right = &moments[c / BLOCK_CHANNELS];
        int64_t l = to % BLOCK_CHANNELS, r = c % BLOCK_CHANNELS;
        join(&left->mean[l], &left->squares[l], before, right->mean[r], right->squares[r],
             rows);
    }
    *out = moments;
    return STATUS_OK;
}

Status cpu_batch_norm_forward(Backend *self, int worker, const BatchNorm *norm, Tensor *y,
                              const Tensor *x, Tensor *mean, Tensor *inverse_std,
                              Tensor *batch_mean, Tensor *batch_variance) {
    Worker *mine = cpu_worker(self, worker);
    int64_t rows = rows_of(x), channels = channels_of(x);
    double freedom = rows > 1 ? (double)(rows - 1) : 1.0; /* one value: its variance is 0 */
    const float *from;
    TRY(layout_rows_of(mine, SCRATCH_X, x, &from));
    Wide wide = wide_of(x);
    Moments *moments;
    TRY(take_moments(mine, from, &wide, &moments));
    for (int64_t c = 0; c < channels; c++) {
        const Moments *tile = &moments[c / BLOCK_CHANNELS];
        double squares = tile->squares[c % BLOCK_CHANNELS];
        double variance = squares / (double)rows;
        mean->data[c] = (float)tile->mean[c % BLOCK_CHANNELS];
        inverse_std->data[c] =
            (float)(1.0 / __builtin_sqrt(variance + (double)norm->epsilon));
        batch_mean->data[c] = mean->data[c];
        batch_variance->data[c] = (float)(squares / freedom);
    }
    return normalize_tensor(mine, norm, y, from, mean->data, inverse_std->data);
}

Status cpu_batch_norm_inference(Backend *self, int worker, const BatchNorm *norm, Tensor *y,
                                const Tensor *x, const Tensor *running_mean,
                                const Tensor *running_variance) {
    Worker *mine = cpu_worker(self, worker);
    int64_t channels = channels_of(x);
    const float *from;
    TRY(layout_rows_of(mine, SCRATCH_X, x, &from));
    float *inverse_std;
    TRY(cpu_scratch(mine, SCRATCH_SUMS, (size_t)channels * sizeof(float), &inverse_std));
    for (int64_t c = 0; c < channels; c++)
        inverse_std[c] = (float)(1.0 / __builtin_sqrt((double)running_variance->data[c] +
                                                      (double)norm->epsilon));
    return normalize_tensor(mine, norm, y, from, running_mean->data, inverse_std);
}

/* ---- backward */

/* dz = dy · [y > 0] with relu, else dy; adds dz and dz·(x − mean) of the tile to the sums, and
 * stores dz where `dz` is given. */
static inline __attribute__((always_inline)) void
backward_tile_sums(Block dy, Block y, Block x, const float *mean, int64_t rows, bool relu,
                   float *dz, int64_t dz_stride, double *dbeta, double *dgamma) {
    typedef int Mask8 __attribute__((vector_size(32)));
    Lane16 plain[RUNNING] = {0}, weighted[RUNNING] = {0};
    Lane8 means[BLOCK_HALVES] = {block_load(mean), block_load(mean + 8)};
    for (int64_t row = 0; row < rows; row += RUNNING)
        for (int i = 0; i < RUNNING; i++)
            for (int half = 0; half < BLOCK_HALVES && row + i < rows; half++) {
                int64_t r = row + i, at = half * 8;
                Lane8 d = block_load(dy.data + r * dy.stride + at);
                if (relu)
                    d = (Lane8)((Mask8)d & (block_load(y.data + r * y.stride + at) > 0.0f));
                if (dz != NULL) block_store(dz + r * dz_stride + at, d);
                plain[i].half[half] += d;
                weighted[i].half[half] +=
                    d * (block_load(x.data + r * x.stride + at) - means[half]);
            }
    float sums[BLOCK_CHANNELS];
    add_up(plain, sums);
    for (int i = 0; i < BLOCK_CHANNELS; i++)
        dbeta[i] += (double)sums[i];
    add_up(weighted, sums);
    for (int i = 0; i < BLOCK_CHANNELS; i++)
        dgamma[i] += (double)sums[i];
}

/* Like the forward pass: dx may be dy. */
static inline __attribute__((always_inline)) void
backward_row(float *dx, const float *dy, const float *y, const float *x, const Channels *by,
             int64_t width, bool relu) {
#pragma GCC ivdep
    for (int64_t i = 0; i < width; i++) {
        float dz = relu ? element_relu_gradient(dy[i], y[i]) : dy[i];
        dx[i] = element_batch_norm_gradient(dz, x[i], by->mean[i], by->inverse_std[i],
                                            by->gamma[i], by->mean_dbeta[i],
                                            by->mean_dgamma[i]);
    }
}

static inline __attribute__((always_inline)) void
backward_tile(float *dx, const float *dy, const float *y, const float *x,
              const Channels *by, int64_t rows, int64_t stride, int64_t width, bool relu) {
    Channels copy = *by;
    for (int64_t row = 0; row < rows; row++) {
        int64_t at = row * stride;
        const float *result = relu ? y + at : NULL;
        if (width == BLOCK_CHANNELS)
            backward_row(dx + at, dy + at, result, x + at, &copy, BLOCK_CHANNELS, relu);
        else
            backward_row(dx + at, dy + at, result, x + at, &copy, width, relu);
    }
}

/* One backward call, all operands as rows of channels. */
typedef struct {
    const BatchNorm *norm;
    Wide wide;
    const float *dy, *y, *x, *mean, *inverse_std;
    float *dx, *dresidual; /* dresidual or NULL */
    double *dbeta,
        *dgamma; /* per wide channel; dgamma still lacks the factor inverse_std */
} Backward;

static void backward_sums(const Backward *b) {
    int64_t channels = b->wide.channels;
    float copies[3][BLOCK_ROWS * BLOCK_CHANNELS], narrow[BLOCK_ROWS * BLOCK_CHANNELS];
    for (int64_t row = 0; row < b->wide.rows; row += BLOCK_ROWS)
        for (int64_t c = 0; c < channels; c += BLOCK_CHANNELS) {
            int64_t rows = at_most(b->wide.rows - row, BLOCK_ROWS), at = row * channels + c;
            int64_t width = at_most(channels - c, BLOCK_CHANNELS);
            Block dy = block_at(b->dy + at, channels, rows, width, copies[0]);
            Block x = block_at(b->x + at, channels, rows, width, copies[1]);
            Block y = {0};
            if (b->norm->relu) y = block_at(b->y + at, channels, rows, width, copies[2]);
            float mean[BLOCK_CHANNELS] = {0};
            repeat(mean, b->mean, &b->wide, c, width);
            bool whole = width == BLOCK_CHANNELS;
            float *dz = b->dresidual == NULL ? NULL : whole ? b->dresidual + at : narrow;
            int64_t dz_stride = whole ? channels : BLOCK_CHANNELS;
            if (b->norm->relu)
                backward_tile_sums(dy, y, x, mean, rows, true, dz, dz_stride, b->dbeta + c,
                                   b->dgamma + c);
            else
                backward_tile_sums(dy, y, x, mean, rows, false, dz, dz_stride, b->dbeta + c,
                                   b->dgamma + c);
            for (int64_t r = 0; dz == narrow && r < rows; r++)
                memcpy(b->dresidual + at + r * channels, narrow + r * BLOCK_CHANNELS,
                       (size_t)width * sizeof *narrow);
        }
}

/* mean_dbeta, mean_dgamma: over all rows, per channel of the tensor. */
static void backward_result(const Backward *b, const float *mean_dbeta,
                            const float *mean_dgamma) {
    int64_t channels = b->wide.channels;
    bool relu = b->norm->relu && b->dresidual == NULL; /* dresidual has the mask in it */
    const float *dz = b->dresidual != NULL ? b->dresidual : b->dy;
    for (int64_t row = 0; row < b->wide.rows; row += BLOCK_ROWS)
        for (int64_t c = 0; c < channels; c += BLOCK_CHANNELS) {
            int64_t rows = at_most(b->wide.rows - row, BLOCK_ROWS), at = row * channels + c;
            int64_t width = at_most(channels - c, BLOCK_CHANNELS);
            Channels by;
            load_channels(&by, b->norm, b->mean, b->inverse_std, &b->wide, c, width);
            repeat(by.mean_dbeta, mean_dbeta, &b->wide, c, width);
            repeat(by.mean_dgamma, mean_dgamma, &b->wide, c, width);
            if (relu)
                backward_tile(b->dx + at, dz + at, b->y + at, b->x + at, &by, rows,
                              channels, width, true);
            else
                backward_tile(b->dx + at, dz + at, NULL, b->x + at, &by, rows, channels,
                              width, false);
        }
}

Status cpu_batch_norm_backward(Backend *self, int worker, const BatchNorm *norm, Tensor *dx,
                               Tensor *dgamma, Tensor *dbeta, Tensor *dresidual,
                               const Tensor *dy, const Tensor *y, const Tensor *x,
                               const Tensor *mean, const Tensor *inverse_std) {
    Worker *mine = cpu_worker(self, worker);
    Backward b = {.norm = norm,
                  .wide = wide_of(x),
                  .mean = mean->data,
                  .inverse_std = inverse_std->data};
    TRY(layout_rows_of(mine, SCRATCH_X, x, &b.x));
    TRY(layout_rows_of(mine, SCRATCH_Y, dy, &b.dy));
    if (norm->relu) TRY(layout_rows_of(mine, SCRATCH_W, y, &b.y));
    TRY(layout_rows_for(mine, SCRATCH_EXTRA, dx, &b.dx));
    if (dresidual != NULL)
        TRY(layout_rows_for(mine, SCRATCH_RESIDUAL, dresidual, &b.dresidual));

    int64_t period = b.wide.period, room = b.wide.channels + BLOCK_CHANNELS;
    size_t bytes = (size_t)(2 * room) * (sizeof(double) + sizeof(float));
    TRY(cpu_scratch(mine, SCRATCH_SUMS, bytes, &b.dbeta));
    memset(b.dbeta, 0, bytes);
    b.dgamma = b.dbeta + room;
    float *mean_dbeta = (float *)(void *)(b.dgamma + room),
          *mean_dgamma = mean_dbeta + room;
    backward_sums(&b);
    for (int64_t c = period; c < b.wide.channels; c++) {
        b.dbeta[c % period] += b.dbeta[c];
        b.dgamma[c % period] += b.dgamma[c];
    }
    double rows = (double)rows_of(x);
    for (int64_t c = 0; c < period; c++) {
        dbeta->data[c] = (float)b.dbeta[c];
        dgamma->data[c] = (float)(b.dgamma[c] * (double)inverse_std->data[c]);
        mean_dbeta[c] = (float)(b.dbeta[c] / rows);
        mean_dgamma[c] = (float)((double)dgamma->data[c] / rows);
    }
    backward_result(&b, mean_dbeta, mean_dgamma);
    layout_rows_store(dx, b.dx);
    if (dresidual != NULL) layout_rows_store(dresidual, b.dresidual);
    return STATUS_OK;
}
