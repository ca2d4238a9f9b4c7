/* Sums over rows: bias gradients and means over pixels. */
#include "kernels/cpu/cpu.h"

#include "kernels/cpu/block.h"

/* Row r of the tile goes to running sum r mod 4. */
static void sum_tile(Block x, int64_t rows, double *sums) {
    enum { RUNNING = 4 };
    Lane16 running[RUNNING] = {0};
    int64_t whole = rows - rows % RUNNING;
    for (int64_t row = 0; row < whole; row += RUNNING)
        for (int i = 0; i < RUNNING; i++)
            for (int half = 0; half < BLOCK_HALVES; half++)
                running[i].half[half] +=
                    block_load(x.data + (row + i) * x.stride + half * 8);
    for (int i = 0; i < RUNNING - 1; i++)
        if (whole + i < rows)
            for (int half = 0; half < BLOCK_HALVES; half++)
                running[i].half[half] +=
                    block_load(x.data + (whole + i) * x.stride + half * 8);
    float total[BLOCK_CHANNELS];
    for (int half = 0; half < BLOCK_HALVES; half++)
        block_store(total + half * 8, (running[0].half[half] + running[1].half[half]) +
                                          (running[2].half[half] + running[3].half[half]));
    for (int i = 0; i < BLOCK_CHANNELS; i++)
        sums[i] += (double)total[i];
}

Status columns_sum(Worker *worker, float *out, const float *x, int64_t rows,
                   int64_t columns, double scale) {
    size_t bytes = (size_t)(columns + BLOCK_CHANNELS) * sizeof(double);
    double *sums;
    TRY(cpu_scratch(worker, SCRATCH_SUMS, bytes, &sums));
    memset(sums, 0, bytes);
    float copy[BLOCK_ROWS * BLOCK_CHANNELS];
    for (int64_t row = 0; row < rows; row += BLOCK_ROWS) {
        int64_t count = rows - row < BLOCK_ROWS ? rows - row : BLOCK_ROWS;
        for (int64_t c = 0; c < columns; c += BLOCK_CHANNELS)
            sum_tile(block_at(x + row * columns + c, columns, count, columns - c, copy),
                     count, sums + c);
    }
    for (int64_t c = 0; c < columns; c++)
        out[c] = (float)(sums[c] * scale);
    return STATUS_OK;
}
