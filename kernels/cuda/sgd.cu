/* SGD, with momentum and Nesterov's where asked for: blocks along a piece, and pieces. */
#include "launch.h"

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/pieces.cuh"

template <bool MOMENTUM, bool NESTEROV>
KERNEL void sgd_kernel(OptimizerPass pass, const OptimizerPiece *pieces, int piece_count) {
    if (pass.verdict->refused != 0) return;
    const float scale = pass.verdict->gradient_scale, lr = pass.values->lr;
    for (int index = (int)blockIdx.y; index < piece_count; index += (int)gridDim.y) {
        const OptimizerPiece piece = pieces[index];
        for (int64_t at = piece_begin(); at < piece.count; at += piece_step()) {
            const int64_t quad = piece.first + at;
            float w[4], g[4], m[4];
            lanes_load<4>(w, pass.w_from + quad);
            lanes_load<4>(g, pass.g + quad);
            if constexpr (MOMENTUM) lanes_load<4>(m, pass.m_from + quad);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float step = element_decayed(g[i], scale, piece.weight_decay, w[i]);
                if constexpr (MOMENTUM) {
                    m[i] = element_momentum(m[i], step, pass.momentum);
                    step = NESTEROV ? element_momentum(m[i], step, pass.momentum) : m[i];
                }
                w[i] = element_descend(w[i], step, lr);
            }
            if constexpr (MOMENTUM) lanes_store<4>(pass.m + quad, m);
            lanes_store<4>(pass.w + quad, w);
        }
    }
}

Status cuda_sgd(Backend *self, int worker, const OptimizerPass *pass,
                const OptimizerPiece *pieces, int piece_count) {
    (void)worker;
    VendorQueue *queue = cuda_of(self)->work;
    if (piece_count <= 0) return STATUS_OK;
    assert(lanes_aligned(pass->w) && lanes_aligned(pass->g) && lanes_aligned(pass->m));
    assert(lanes_aligned(pass->w_from) && lanes_aligned(pass->m_from));
    assert((pass->m == NULL) == (pass->m_from == NULL));
    int rows = pieces_rows(piece_count);
    if (pass->m == NULL)
        return LAUNCH(queue, PIECE_BLOCKS, rows, PIECE_THREADS, (sgd_kernel<false, false>),
                      *pass, pieces, piece_count);
    if (pass->nesterov)
        return LAUNCH(queue, PIECE_BLOCKS, rows, PIECE_THREADS, (sgd_kernel<true, true>),
                      *pass, pieces, piece_count);
    return LAUNCH(queue, PIECE_BLOCKS, rows, PIECE_THREADS, (sgd_kernel<true, false>),
                  *pass, pieces, piece_count);
}
