/* Linear layers by the library's plans for products: y = x · wᵀ + b and its gradients. In bf16 what a
 * neighbour left in float (pooled features, the gradient of logits) is rounded first. */
#include "kernels/cuda/host.h"

#include <assert.h>

/* An operand in the type that products take: itself, or rounded at `staged`. */
static size_t staged_bytes(const Cuda *cuda, const Tensor *tensor) {
    assert(tensor->rank == 2);
    VendorType type = cuda_compute_type(cuda);
    return cuda_type_of(tensor) == type
               ? 0
               : cuda_aligned((size_t)tensor_elements(tensor) * cuda_type_size(type));
}

static Status operand(Cuda *cuda, const Tensor *tensor, void *staged, const void **out) {
    VendorType type = cuda_compute_type(cuda), has = cuda_type_of(tensor);
    *out = has == type ? (const void *)tensor->data : staged;
    if (has == type) return STATUS_OK;
    return cuda_convert(cuda->work, staged, type, tensor->data, has,
                        tensor_elements(tensor));
}

static VendorGemm describe(const Cuda *cuda, VendorType out) {
    return (VendorGemm){.type = cuda_compute_type(cuda),
                        .out = out,
                        .tf32 = cuda->precision == PRECISION_TF32};
}

Status cuda_linear_forward(Backend *self, int worker, Tensor *y, const Tensor *x,
                           const Tensor *w, const Tensor *b) {
    (void)worker;
    Cuda *cuda = cuda_of(self);
    assert(y->shape[0] == x->shape[0] && y->shape[1] == w->shape[0] &&
           x->shape[1] == w->shape[1]);
    cuda->doing = "a linear layer";
    VendorGemm what = describe(cuda, cuda_type_of(y));
    what.rows = y->shape[0];
    what.columns = y->shape[1];
    what.inner = x->shape[1];
    what.transpose_b = true; /* w is (M,K) */
    what.bias =
        b != NULL && what.out == VENDOR_F32; /* libraries add a float bias to floats */
    VendorPlan *plan;
    TRY(cuda_plans_gemm(cuda, &what, &plan));
    const void *weights, *rows;
    TRY(cuda_weights_of(cuda, w, &weights));
    size_t staged = staged_bytes(cuda, x);
    void *workspace;
    TRY(cuda_workspace(cuda, staged + vendor_plan_workspace(plan), &workspace));
    TRY(operand(cuda, x, workspace, &rows));
    TRY(vendor_plan_run(cuda->work, plan, y->data, rows, weights,
                        what.bias ? b->data : NULL, (char *)workspace + staged));
    if (b == NULL || what.bias) return STATUS_OK;
    return cuda_add_bias(cuda->work, y->data, what.out, b->data, y->shape[0], y->shape[1]);
}

/* dx (N,K) = dy (N,M) · w (M,K) */
static Status backward_data(Cuda *cuda, Tensor *dx, const Tensor *dy, const Tensor *w) {
    VendorGemm what = describe(cuda, cuda_type_of(dx));
    what.rows = dy->shape[0];
    what.columns = w->shape[1];
    what.inner = dy->shape[1];
    VendorPlan *plan;
    TRY(cuda_plans_gemm(cuda, &what, &plan));
    const void *weights, *rows;
    TRY(cuda_weights_of(cuda, w, &weights));
    size_t staged = staged_bytes(cuda, dy);
    void *workspace;
    TRY(cuda_workspace(cuda, staged + vendor_plan_workspace(plan), &workspace));
    TRY(operand(cuda, dy, workspace, &rows));
    return vendor_plan_run(cuda->work, plan, dx->data, rows, weights, NULL,
                           (char *)workspace + staged);
}

/* dw (M,K) = dyᵀ (M,N) · x (N,K), in float */
static Status backward_weights(Cuda *cuda, Tensor *dw, const Tensor *dy, const Tensor *x) {
    VendorGemm what = describe(cuda, VENDOR_F32);
    what.rows = dy->shape[1];
    what.columns = x->shape[1];
    what.inner = dy->shape[0];
    what.transpose_a = true;
    VendorPlan *plan;
    TRY(cuda_plans_gemm(cuda, &what, &plan));
    size_t staged_dy = staged_bytes(cuda, dy), staged = staged_dy + staged_bytes(cuda, x);
    void *workspace;
    TRY(cuda_workspace(cuda, staged + vendor_plan_workspace(plan), &workspace));
    const void *gradients, *rows;
    TRY(operand(cuda, dy, workspace, &gradients));
    TRY(operand(cuda, x, (char *)workspace + staged_dy, &rows));
    return vendor_plan_run(cuda->work, plan, dw->data, gradients, rows, NULL,
                           (char *)workspace + staged);
}

Status cuda_linear_backward(Backend *self, int worker, Tensor *dx, Tensor *dw, Tensor *db,
                            const Tensor *dy, const Tensor *x, const Tensor *w) {
    (void)worker;
    Cuda *cuda = cuda_of(self);
    cuda->doing = "the gradient of a linear layer";
    if (dx != NULL) TRY(backward_data(cuda, dx, dy, w));
    if (dw != NULL) TRY(backward_weights(cuda, dw, dy, x));
    if (db == NULL) return STATUS_OK;
    void *workspace;
    TRY(cuda_workspace(cuda, cuda_column_sums_workspace(dy->shape[0], dy->shape[1]),
                       &workspace));
    return cuda_column_sums(cuda->work, db->data, dy->data, cuda_type_of(dy), dy->shape[0],
                            dy->shape[1], workspace);
}
