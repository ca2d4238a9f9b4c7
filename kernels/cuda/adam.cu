/* Adam and AdamW: blocks along a piece, and pieces. What is the same for all parameters is rounded as
 * the CPU's pass rounds it. */
#include "launch.h"

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/pieces.cuh"

typedef struct {
    float *w, *m, *v;
    const float *w_from, *m_from, *v_from;
    const float *g;
    const StepValues *values;
    const StepVerdict *verdict;
    float beta1, rest1, beta2, rest2, epsilon;
} Adam;

template <bool DECOUPLED>
KERNEL void adam_kernel(Adam pass, const OptimizerPiece *pieces, int piece_count) {
    if (pass.verdict->refused != 0) return;
    const float scale = pass.verdict->gradient_scale, lr = pass.values->lr;
    const float step_size = lr / pass.values->correction1;
    const float correction2_sqrt = pass.values->correction2_sqrt;
    for (int index = (int)blockIdx.y; index < piece_count; index += (int)gridDim.y) {
        const OptimizerPiece piece = pieces[index];
        const float decay = DECOUPLED ? 0.0f : piece.weight_decay;
        const float shrink = (float)(1.0 - (double)lr * (double)piece.weight_decay);
        for (int64_t at = piece_begin(); at < piece.count; at += piece_step()) {
            const int64_t quad = piece.first + at;
            float w[4], g[4], m[4], v[4];
            lanes_load<4>(w, pass.w_from + quad);
            lanes_load<4>(g, pass.g + quad);
            lanes_load<4>(m, pass.m_from + quad);
            lanes_load<4>(v, pass.v_from + quad);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float old = DECOUPLED ? w[i] * shrink : w[i];
                float gradient = element_decayed(g[i], scale, decay, w[i]);
                m[i] = element_moment1(m[i], gradient, pass.beta1, pass.rest1);
                v[i] = element_moment2(v[i], gradient, pass.beta2, pass.rest2);
                w[i] = element_adam(old, m[i], v[i], step_size, correction2_sqrt,
                                    pass.epsilon);
            }
            lanes_store<4>(pass.w + quad, w);
            lanes_store<4>(pass.m + quad, m);
            lanes_store<4>(pass.v + quad, v);
        }
    }
}

Status cuda_adam(Backend *self, int worker, const OptimizerPass *pass,
                 const OptimizerPiece *pieces, int piece_count) {
    (void)worker;
    VendorQueue *queue = cuda_of(self)->work;
    if (piece_count <= 0) return STATUS_OK;
    assert(pass->m != NULL && pass->v != NULL);
    assert(pass->m_from != NULL && pass->v_from != NULL);
    assert(lanes_aligned(pass->w) && lanes_aligned(pass->g) && lanes_aligned(pass->m) &&
           lanes_aligned(pass->v));
    assert(lanes_aligned(pass->w_from) && lanes_aligned(pass->m_from) &&
           lanes_aligned(pass->v_from));
    Adam adam = {pass->w,
                 pass->m,
                 pass->v,
                 pass->w_from,
                 pass->m_from,
                 pass->v_from,
                 pass->g,
                 pass->values,
                 pass->verdict,
                 (float)pass->beta1,
                 (float)(1.0 - pass->beta1),
                 (float)pass->beta2,
                 (float)(1.0 - pass->beta2),
                 pass->epsilon};
    int rows = pieces_rows(piece_count);
    if (pass->decoupled)
        return LAUNCH(queue, PIECE_BLOCKS, rows, PIECE_THREADS, (adam_kernel<true>), adam,
                      pieces, piece_count);
    return LAUNCH(queue, PIECE_BLOCKS, rows, PIECE_THREADS, (adam_kernel<false>), adam,
                  pieces, piece_count);
}
