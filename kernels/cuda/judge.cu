/* What a step's update has to know of its gradient: the norm from the chunks' sums, whether to clip,
 * whether to refuse.
 *
 * The sums are added in the tree of src/core/tree.h. It is the tree that a binary counter builds: element
 * follows element, two subtrees of one size become one, and at the end what is left is added from the
 * right. Groups of 2^k neighbours are subtrees of it: threads make these, then fewer threads groups of
 * groups. */
#include "launch.h"

#include "kernels/cuda/cuda.h"
#include "kernels/element.h"

#include <assert.h>

enum {
    THREADS = 256,
    LEVELS_MAX = 12, /* of a first group: 512 · 2^12 chunks are more than any memory has */
    GROUPS = 512,
    GROUPS_LEVELS = 5,
    TOPS = GROUPS >> GROUPS_LEVELS,
    TOPS_LEVELS = 4,
};

/* The tree sum of values[0 .. count), 1 ≤ count ≤ 2^LEVELS. Levels are unrolled, so that the counter's
 * subtrees lie in registers. */
template <int LEVELS> DEVICE double tree_sum(const double *values, uint32_t count) {
    double subtree[LEVELS + 1];
#pragma unroll
    for (int level = 0; level <= LEVELS; level++)
        subtree[level] = 0.0;
    for (uint32_t at = 0; at < count; at++) {
        double sum = values[at];
        bool carry = true;
#pragma unroll
        for (int level = 0; level <= LEVELS; level++) {
            const bool full = (at >> level & 1u) != 0;
            if (carry && full) sum = subtree[level] + sum;
            if (carry && !full) subtree[level] = sum;
            carry = carry && full;
        }
    }
    double sum = 0.0;
    bool begun = false;
#pragma unroll
    for (int level = 0; level <= LEVELS; level++)
        if ((count >> level & 1u) != 0) {
            sum = begun ? subtree[level] + sum : subtree[level];
            begun = true;
        }
    return sum;
}

DEVICE uint32_t group_of(uint32_t first, uint32_t size, uint32_t count) {
    return count - first < size ? count - first : size;
}

KERNEL void judge_kernel(const double *sums, uint32_t chunks, int levels, double clip_norm,
                         const float *metrics, StepVerdict *verdict) {
    SHARED(double, groups, GROUPS);
    SHARED(double, tops, TOPS);
    const uint32_t size = 1u << levels, count = (chunks + size - 1) >> levels;
    for (uint32_t group = threadIdx.x; group < count; group += THREADS)
        groups[group] =
            tree_sum<LEVELS_MAX>(sums + group * size, group_of(group * size, size, chunks));
    __syncthreads();
    const uint32_t wide = 1u << GROUPS_LEVELS, first = threadIdx.x * wide;
    if (first < count)
        tops[threadIdx.x] =
            tree_sum<GROUPS_LEVELS>(groups + first, group_of(first, wide, count));
    __syncthreads();
    if (threadIdx.x != 0) return;
    double sum = chunks > 0 ? tree_sum<TOPS_LEVELS>(tops, (count + wide - 1) / wide) : 0.0;
    double norm = __builtin_sqrt(sum);
    float loss = metrics[METRIC_LOSS];
    bool clips = clip_norm > 0.0 && norm > clip_norm;
    bool finite = norm - norm == 0.0 && loss - loss == 0.0f;
    verdict->norm = norm;
    verdict->loss = loss;
    verdict->correct = metrics[METRIC_CORRECT];
    verdict->gradient_scale = clips ? (float)(clip_norm / (norm + 1e-6)) : 1.0f;
    verdict->refused = finite ? 0u : 1u;
}

Status cuda_judge(Backend *self, int worker, const double *sums, int64_t chunks,
                  double clip_norm, const float *metrics, StepVerdict *verdict) {
    (void)worker;
    int levels = 0;
    while ((int64_t)GROUPS << levels < chunks)
        levels++;
    assert(levels <= LEVELS_MAX);
    return LAUNCH(cuda_of(self)->work, 1, 1, THREADS, judge_kernel, sums, (uint32_t)chunks,
                  levels, clip_norm, metrics, verdict);
}
