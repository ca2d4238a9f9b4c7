/* Passes over a (rows × columns) matrix whose columns each have numbers of their own: channels-last
 * activations, whose rows are pixels. A thread keeps to its few columns and goes down the rows.
 *
 * Sums down the columns are made in double and in one order, which follows from the shape and the element
 * type alone: a thread adds its rows of a chunk in turn, a block adds its threads in turn, and the chunks
 * are added by a second kernel. Include "launch.h" first. */
#pragma once

#include "kernels/cuda/lanes.cuh"

#include <assert.h>

enum {
    COLUMNS_THREADS = 256,
    COLUMNS_LANES_MAX = 32,
    COLUMNS_SUM_BLOCKS =
        264, /* chunks × groups of columns, at most: two on each multiprocessor of an H200 */
    COLUMNS_SUM_ROWS = 8, /* of a thread, at least */
    COLUMNS_PASS_BLOCKS = 2048,
    COLUMNS_PASS_ROWS = 4,
    COLUMNS_TOGETHER = 8, /* columns of a block of the second kernel */
};

/* How a matrix is shared out: block (chunk, group) has chunk_rows rows of lanes · width columns. */
typedef struct {
    int64_t rows, columns, chunk_rows, chunks, groups;
    uint32_t lanes; /* threads side by side: a power of two */
} Columns;

static inline int64_t columns_divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

static inline Columns columns_cut(int64_t rows, int64_t columns, int width,
                                  int64_t blocks_max, int64_t thread_rows) {
    int64_t vectors = columns / width, lanes = 1;
    while (lanes < vectors && lanes < COLUMNS_LANES_MAX)
        lanes *= 2;
    int64_t groups = columns_divide_up(vectors, lanes), step = COLUMNS_THREADS / lanes;
    int64_t chunks_max = blocks_max / groups > 1 ? blocks_max / groups : 1;
    int64_t chunk_rows =
        columns_divide_up(columns_divide_up(rows, chunks_max), step) * step;
    if (chunk_rows < thread_rows * step) chunk_rows = thread_rows * step;
    return {rows,   columns,        chunk_rows, columns_divide_up(rows, chunk_rows),
            groups, (uint32_t)lanes};
}

/* Elements that a thread takes side by side: 16 bytes where every row begins at a multiple of them. */
template <typename T> static inline int columns_width(int64_t columns) {
    return columns % Lanes<T>::COUNT == 0 ? (int)Lanes<T>::COUNT : 1;
}

/* A thread's place: its first column, its first row, and where its chunk ends. */
typedef struct {
    int64_t column, row, end;
    uint32_t step; /* rows to its next one */
} ColumnsPlace;

template <int WIDTH> DEVICE ColumnsPlace columns_place(const Columns &cut) {
    uint32_t lane = threadIdx.x & (cut.lanes - 1), step = COLUMNS_THREADS / cut.lanes;
    int64_t first = blockIdx.x * cut.chunk_rows, end = first + cut.chunk_rows;
    ColumnsPlace place;
    place.column = ((int64_t)blockIdx.y * cut.lanes + lane) * WIDTH;
    place.row = first + threadIdx.x / cut.lanes;
    place.end = end < cut.rows ? end : cut.rows;
    place.step = step;
    return place;
}

/* ---- sums. `Terms` has
 *   VALUES, WIDTH, AT_ONCE                    sums a column; columns a thread; its rows under way
 *   begin(terms, constants, column)           what a thread keeps of its columns
 *   add<ROWS>(terms, sums, constants, at, apart)
 *                                             adds what the elements from index `at` on give, in ROWS rows
 *                                             `apart` from each other; all loads come before the sums */

template <typename Terms>
KERNEL void columns_partials_kernel(Terms terms, Columns cut, double *partials) {
    constexpr int WIDTH = Terms::WIDTH, VALUES = Terms::VALUES;
    SHARED(double, all, VALUES *WIDTH *COLUMNS_THREADS);
    const ColumnsPlace place = columns_place<WIDTH>(cut);
    double sums[VALUES][WIDTH];
#pragma unroll
    for (int value = 0; value < VALUES; value++)
#pragma unroll
        for (int i = 0; i < WIDTH; i++)
            sums[value][i] = 0.0;
    if (place.column < cut.columns) {
        float constants[WIDTH];
        Terms::begin(terms, constants, place.column);
        constexpr int AT_ONCE = Terms::AT_ONCE;
        const int64_t apart = place.step * cut.columns;
        int64_t row = place.row;
        for (; row + (AT_ONCE - 1) * place.step < place.end; row += AT_ONCE * place.step)
            Terms::template add<AT_ONCE>(terms, sums, constants,
                                         row * cut.columns + place.column, apart);
        for (; row < place.end; row += place.step)
            Terms::template add<1>(terms, sums, constants, row * cut.columns + place.column,
                                   apart);
    }
#pragma unroll
    for (int value = 0; value < VALUES; value++)
#pragma unroll
        for (int i = 0; i < WIDTH; i++)
            all[(value * WIDTH + i) * COLUMNS_THREADS + threadIdx.x] = sums[value][i];
    __syncthreads();

    /* of one sum, the threads of a lane lie `lanes` apart; many are first folded into 16 */
    const uint32_t lanes = cut.lanes, fold = 16;
    uint32_t deep = place.step;
    if (deep > 2 * fold) {
        for (uint32_t k = threadIdx.x; k < VALUES * WIDTH * fold * lanes;
             k += COLUMNS_THREADS) {
            double *own = all + k / (fold * lanes) * COLUMNS_THREADS + k % (fold * lanes);
            double sum = own[0];
            for (uint32_t other = fold; other < deep; other += fold)
                sum += own[other * lanes];
            own[0] = sum;
        }
        deep = fold;
        __syncthreads();
    }
    for (uint32_t k = threadIdx.x; k < VALUES * WIDTH * lanes; k += COLUMNS_THREADS) {
        uint32_t plane = k / lanes, lane = k % lanes;
        const double *own = all + plane * COLUMNS_THREADS + lane;
        double sum = own[0];
        for (uint32_t other = 1; other < deep; other++)
            sum += own[other * lanes];
        int64_t column = ((int64_t)blockIdx.y * lanes + lane) * WIDTH + plane % WIDTH;
        if (column < cut.columns)
            partials[((int64_t)blockIdx.x * VALUES + plane / WIDTH) * cut.columns +
                     column] = sum;
    }
}

/* `Result` has VALUES and store(result, column, totals). */
template <typename Result>
KERNEL void columns_totals_kernel(Result result, int64_t columns, int64_t chunks,
                                  const double *partials) {
    constexpr int VALUES = Result::VALUES;
    constexpr uint32_t DEEP = COLUMNS_THREADS / COLUMNS_TOGETHER;
    SHARED(double, all, VALUES *COLUMNS_THREADS);
    uint32_t side = threadIdx.x % COLUMNS_TOGETHER;
    int64_t column = (int64_t)blockIdx.x * COLUMNS_TOGETHER + side;
    double sums[VALUES];
#pragma unroll
    for (int value = 0; value < VALUES; value++)
        sums[value] = 0.0;
    if (column < columns)
#pragma unroll 4
        for (int64_t chunk = threadIdx.x / COLUMNS_TOGETHER; chunk < chunks; chunk += DEEP)
#pragma unroll
            for (int value = 0; value < VALUES; value++)
                sums[value] += partials[(chunk * VALUES + value) * columns + column];
#pragma unroll
    for (int value = 0; value < VALUES; value++)
        all[value * COLUMNS_THREADS + threadIdx.x] = sums[value];
    __syncthreads();
    if (threadIdx.x >= COLUMNS_TOGETHER || column >= columns) return;
#pragma unroll
    for (int value = 0; value < VALUES; value++)
        for (uint32_t deep = 1; deep < DEEP; deep++)
            sums[value] += all[value * COLUMNS_THREADS + deep * COLUMNS_TOGETHER + side];
    Result::store(result, column, sums);
}

static inline Columns columns_sum_cut(int64_t rows, int64_t columns, int width) {
    return columns_cut(rows, columns, width, COLUMNS_SUM_BLOCKS, COLUMNS_SUM_ROWS);
}

/* Bytes that columns_sum needs for `values` sums a column of elements of either type. */
static inline size_t columns_workspace(int64_t rows, int64_t columns, int values) {
    int64_t wide = columns_sum_cut(rows, columns, columns_width<float>(columns)).chunks;
    int64_t short_ = columns_sum_cut(rows, columns, columns_width<Bf16>(columns)).chunks;
    int64_t chunks = wide > short_ ? wide : short_;
    return (size_t)(chunks * values * columns) * sizeof(double);
}

/* Sums terms down all columns and gives the totals to `result`; rows and columns ≥ 1. */
template <typename Terms, typename Result>
static Status columns_sum(VendorQueue *queue, Terms terms, Result result, int64_t rows,
                          int64_t columns, double *partials) {
    Columns cut = columns_sum_cut(rows, columns, Terms::WIDTH);
    TRY(LAUNCH(queue, cut.chunks, cut.groups, COLUMNS_THREADS,
               (columns_partials_kernel<Terms>), terms, cut, partials));
    return LAUNCH(queue, columns_divide_up(columns, COLUMNS_TOGETHER), 1, COLUMNS_THREADS,
                  (columns_totals_kernel<Result>), result, columns, cut.chunks,
                  (const double *)partials);
}

/* ---- elementwise passes */

static inline Columns columns_pass_cut(int64_t rows, int64_t columns, int width) {
    return columns_cut(rows, columns, width, COLUMNS_PASS_BLOCKS, COLUMNS_PASS_ROWS);
}
