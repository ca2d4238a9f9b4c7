/* Convolutions, channels-last, by the library's plans: y = conv(x, w) + b and its gradients. Filters come
 * from weights.c as the library takes them; their gradient goes back to the canonical order. */
#include "kernels/cuda/host.h"

#include <assert.h>

static VendorConvolution describe(const Cuda *cuda, VendorDirection direction,
                                  const Conv2d *conv, const Tensor *x, const Tensor *w) {
    assert(x->rank == 4 && w->rank == 4 && w->layout == LAYOUT_CANONICAL);
    assert(w->shape[1] * conv->groups == x->shape[1] && w->shape[0] % conv->groups == 0);
    return (VendorConvolution){.direction = direction,
                               .n = x->shape[0],
                               .c = x->shape[1],
                               .h = x->shape[2],
                               .w = x->shape[3],
                               .m = w->shape[0],
                               .r = w->shape[2],
                               .s = w->shape[3],
                               .stride = conv->stride,
                               .padding = conv->padding,
                               .groups = conv->groups,
                               .type = cuda_compute_type(cuda),
                               .tf32 = cuda->precision == PRECISION_TF32};
}

static CudaLayout last_layout(const Cuda *cuda) {
    return cuda->precision == PRECISION_BF16 ? LAYOUT_LAST_BF16 : LAYOUT_LAST_F32;
}

/* Bytes of workspace for a tensor that comes or goes in canonical order: the network's input. */
static size_t staged_bytes(const Cuda *cuda, const Tensor *tensor) {
    if (tensor->layout == (int)last_layout(cuda)) return 0;
    assert(tensor->layout == LAYOUT_CANONICAL);
    return cuda_aligned((size_t)tensor_elements(tensor) *
                        cuda_type_size(cuda_compute_type(cuda)));
}

/* The tensor channels-last: itself, or of the same shape at `staged`. */
static Tensor last_of(const Cuda *cuda, const Tensor *tensor, void *staged) {
    Tensor last = *tensor;
    if (tensor->layout == (int)last_layout(cuda)) return last;
    last.data = staged;
    last.layout = (int)last_layout(cuda);
    return last;
}

Status cuda_conv2d_forward(Backend *self, int worker, const Conv2d *conv, Tensor *y,
                           const Tensor *x, const Tensor *w, const Tensor *b) {
    Cuda *cuda = cuda_of(self);
    assert(y->layout == (int)last_layout(cuda) && y->shape[1] == w->shape[0]);
    cuda->doing = "a convolution";
    VendorConvolution what = describe(cuda, VENDOR_FORWARD, conv, x, w);
    VendorPlan *plan;
    TRY(cuda_plans_convolution(cuda, &what, &plan));
    const void *filters;
    TRY(cuda_weights_of(cuda, w, &filters));
    size_t staged = staged_bytes(cuda, x);
    void *workspace;
    TRY(cuda_workspace(cuda, staged + vendor_plan_workspace(plan), &workspace));
    Tensor last = last_of(cuda, x, workspace);
    if (staged > 0) TRY(cuda_reorder(self, worker, &last, x));
    TRY(vendor_plan_run(cuda->work, plan, y->data, last.data, filters, NULL,
                        (char *)workspace + staged));
    if (b == NULL) return STATUS_OK;
    return cuda_add_bias(cuda->work, y->data, what.type, b->data,
                         tensor_elements(y) / y->shape[1], y->shape[1]);
}

static Status backward_data(Cuda *cuda, int worker, const Conv2d *conv, Tensor *dx,
                            const Tensor *dy, const Tensor *w) {
    VendorConvolution what = describe(cuda, VENDOR_BACKWARD_DATA, conv, dx, w);
    VendorPlan *plan;
    TRY(cuda_plans_convolution(cuda, &what, &plan));
    const void *filters;
    TRY(cuda_weights_of(cuda, w, &filters));
    size_t staged = staged_bytes(cuda, dx);
    void *workspace;
    TRY(cuda_workspace(cuda, staged + vendor_plan_workspace(plan), &workspace));
    Tensor last = last_of(cuda, dx, workspace);
    TRY(vendor_plan_run(cuda->work, plan, last.data, dy->data, filters, NULL,
                        (char *)workspace + staged));
    return staged > 0 ? cuda_reorder(&cuda->base, worker, dx, &last) : STATUS_OK;
}

static Status backward_weights(Cuda *cuda, int worker, const Conv2d *conv, Tensor *dw,
                               const Tensor *dy, const Tensor *x) {
    VendorConvolution what = describe(cuda, VENDOR_BACKWARD_WEIGHTS, conv, x, dw);
    VendorPlan *plan;
    TRY(cuda_plans_convolution(cuda, &what, &plan));
    VendorType type = vendor_plan_output(plan);
    int64_t m = dw->shape[0], c = dw->shape[1], rs = dw->shape[2] * dw->shape[3];
    bool in_place = type == VENDOR_F32 && (rs == 1 || c == 1);
    size_t result =
        in_place ? 0 : cuda_aligned((size_t)(m * c * rs) * cuda_type_size(type));
    size_t staged = staged_bytes(cuda, x);
    void *workspace;
    TRY(cuda_workspace(cuda, result + staged + vendor_plan_workspace(plan), &workspace));
    void *last_dw = in_place ? (void *)dw->data : workspace;
    Tensor last = last_of(cuda, x, (char *)workspace + result);
    if (staged > 0) TRY(cuda_reorder(&cuda->base, worker, &last, x));
    TRY(vendor_plan_run(cuda->work, plan, last_dw, last.data, dy->data, NULL,
                        (char *)workspace + result + staged));
    if (in_place) return STATUS_OK;
    return cuda_filter_from_last(cuda->work, dw->data, last_dw, type, m, c, rs);
}

Status cuda_conv2d_backward(Backend *self, int worker, const Conv2d *conv, Tensor *dx,
                            Tensor *dw, Tensor *db, const Tensor *dy, const Tensor *x,
                            const Tensor *w) {
    Cuda *cuda = cuda_of(self);
    assert(dy->layout == (int)last_layout(cuda));
    cuda->doing = "the gradient of a convolution";
    if (dx != NULL) TRY(backward_data(cuda, worker, conv, dx, dy, w));
    if (dw != NULL) TRY(backward_weights(cuda, worker, conv, dw, dy, x));
    if (db == NULL) return STATUS_OK;
    int64_t rows = tensor_elements(dy) / dy->shape[1];
    void *workspace;
    TRY(cuda_workspace(cuda, cuda_column_sums_workspace(rows, dy->shape[1]), &workspace));
    return cuda_column_sums(cuda->work, db->data, dy->data, cuda_compute_type(cuda), rows,
                            dy->shape[1], workspace);
}
