/* Each thread carries four floats of the sum through all additions of a pass: every term is read once,
 * and sums that wait for their right half lie in shared memory, in columns that no other thread sees. */
#include "launch.h"

#include "dist/cuda/tree_sum.h"

enum {
    THREADS = 128, /* with the waiting sums' 14 KiB a block an H200's processor still holds 16 blocks */
    AHEAD = 4,     /* terms that are asked for before the first is needed */
    LANES = 4      /* floats in a Vec4 */
};

DEVICE Vec4 sum_of(Vec4 a, Vec4 b) {
    return Vec4{a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}

KERNEL void tree_sum(TreePass pass, int64_t length) {
    SHARED(Vec4, waiting, (TREE_DEPTH - 1) * THREADS);
    const int64_t at = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * LANES;
    if (at >= length) return;
    Vec4 *column = waiting + threadIdx.x;
    int depth = 0;
    Vec4 newest = vec4_load(pass.terms[0] + at);
    for (int first = 1; first < pass.count; first += AHEAD) {
        Vec4 terms[AHEAD];
        for (int i = 0; i < AHEAD; i++)
            if (first + i < pass.count) terms[i] = vec4_load(pass.terms[first + i] + at);
        for (int i = 0; i < AHEAD; i++) {
            if (first + i >= pass.count) break;
            column[depth++ * THREADS] = newest;
            newest = terms[i];
            for (int left = pass.additions[first + i]; left > 0; left--)
                newest = sum_of(column[--depth * THREADS], newest);
        }
    }
    vec4_store(pass.sum + at, newest);
}

Status cuda_tree_sum(VendorQueue *queue, const TreePass *pass, int64_t length) {
    const int64_t blocks = (length / LANES + THREADS - 1) / THREADS;
    return LAUNCH(queue, blocks, 1, THREADS, tree_sum, *pass, length);
}
