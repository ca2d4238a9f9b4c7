/* Convolutions and linear layers of the CUDA device against the reference device, in each precision: what is
 * tested is what stands above the library (layouts, copies of weights, workspace, biases), so all inputs
 * are numbers that bf16 holds exactly and only the results' own rounding remains. */
#include "tests/gpu_double/cuda_ops.h"

/* Sums of up to 2,048 products of magnitude one in float, in the plan's order, against a double sum: a few
 * hundred times 2^-24 of the largest. */
static const double SUMS = 1e-5;
/* One rounding to bf16: half of 2^-7 of an element, and that of the sum before the bias is added. */
static const double HALF = 1.0 / 128;

static const char *const precisions[] = {"fp32", "tf32", "bf16"};

static void assert_same(const char *test, int number, const char *output, Backend *backend,
                        const Tensor *got, const Tensor *want) {
    char what[96];
    /* an image's gradient in float has been in bf16 before */
    bool rounded = cuda_is_bf16(got) ||
                   (cuda_of(backend)->precision == PRECISION_BF16 && got->rank == 4);
    snprintf(what, sizeof what, "%s %s case %d: %s",
             precisions[cuda_of(backend)->precision], test, number, output);
    ops_assert_near(what, ops_get(backend, got), ops_get(ops_oracle, want),
                    tensor_elements(got), rounded ? HALF : SUMS);
}

/* ---- convolutions */

typedef struct {
    int64_t n, c, h, w, m, r, s;
    Conv2d conv;
    bool bias;
    bool canonical_x; /* as the network's input is */
} Case;

static const Case cases[] = {
    {2, 3, 8, 8, 4, 3, 3, {1, 1, 1}, true, false},
    {2, 3, 15, 15, 16, 3, 3, {1, 1, 1}, false, true},
    {3, 1, 12, 12, 6, 5, 5, {1, 2, 1}, true, true},
    {4, 16, 8, 8, 32, 3, 3, {2, 1, 1}, false, false},
    {4,
     16,
     8,
     8,
     32,
     1,
     1,
     {2, 0, 1},
     true,
     false}, /* filters that need no copy in float */
    {1, 1, 1, 1, 1, 1, 1, {1, 0, 1}, false, true},
    {1, 3, 5, 7, 5, 3, 3, {2, 1, 1}, true, false},
    {2, 3, 6, 5, 7, 2, 3, {3, 2, 1}, true, false},
    {5, 17, 9, 4, 33, 3, 1, {1, 1, 1}, false, false},
    {2, 8, 7, 7, 8, 3, 3, {1, 1, 8}, true, false}, /* one channel a group */
    {2, 6, 5, 5, 4, 3, 3, {1, 1, 2}, true, true},
    {3, 129, 5, 4, 130, 3, 1, {2, 1, 1}, true, false},
};
enum { CASES = sizeof cases / sizeof *cases };

typedef struct {
    Backend *backend;
    Case at;
    Tensor x, w, b, y, dy, dx, dw, db;
} Prepared;

static Prepared prepare(Backend *backend, const Case *c) {
    Prepared p = {.backend = backend, .at = *c};
    int64_t rows = (c->h + 2 * c->conv.padding - c->r) / c->conv.stride + 1;
    int64_t cols = (c->w + 2 * c->conv.padding - c->s) / c->conv.stride + 1;
    Tensor x = tensor_4d(NULL, c->n, c->c, c->h, c->w);
    Tensor w = tensor_4d(NULL, c->m, c->c / c->conv.groups, c->r, c->s);
    Tensor y = tensor_4d(NULL, c->n, c->m, rows, cols);
    const float *host_x = short_random(tensor_elements(&x), 1);
    p.x = c->canonical_x ? ops_canonical_of(backend, x, host_x)
                         : ops_activation_of(backend, x, host_x);
    p.dx = c->canonical_x ? ops_canonical(backend, x) : ops_activation(backend, x);
    p.w = ops_canonical_of(backend, w, short_random(tensor_elements(&w), 2));
    p.b = ops_canonical_of(backend, tensor_1d(NULL, c->m), short_random(c->m, 3));
    p.y = ops_activation(backend, y);
    p.dy = ops_activation_of(backend, y, short_random(tensor_elements(&y), 4));
    p.dw = ops_canonical(backend, w);
    p.db = ops_canonical(backend, tensor_1d(NULL, c->m));
    return p;
}

static void convolve(Prepared *p) {
    const BackendOps *ops = p->backend->ops;
    assert_ok(ops->conv2d_forward(p->backend, 0, &p->at.conv, &p->y, &p->x, &p->w,
                                  p->at.bias ? &p->b : NULL));
    assert_ok(ops->conv2d_backward(p->backend, 0, &p->at.conv, &p->dx, &p->dw, &p->db,
                                   &p->dy, &p->x, &p->w));
}

static void convolutions_agree_with_the_reference(void **state) {
    Backend *backend = *state;
    for (int i = 0; i < CASES; i++) {
        Prepared got = prepare(backend, &cases[i]), want = prepare(ops_oracle, &cases[i]);
        convolve(&got);
        convolve(&want);
        assert_same("convolution", i, "y", backend, &got.y, &want.y);
        assert_same("convolution", i, "dx", backend, &got.dx, &want.dx);
        assert_same("convolution", i, "db", backend, &got.db, &want.db);
        Tensor dw = got.dw; /* a library may give it in bf16: here, with groups */
        const float *got_dw = ops_get(backend, &dw),
                    *want_dw = ops_get(ops_oracle, &want.dw);
        bool half =
            cuda_of(backend)->precision == PRECISION_BF16 && cases[i].conv.groups > 1;
        ops_assert_near("dw", got_dw, want_dw, tensor_elements(&dw), half ? HALF : SUMS);
        ops_release_all(NULL);
    }
}

static void each_gradient_of_a_convolution_can_be_left_out(void **state) {
    Backend *backend = *state;
    for (int i = 0; i < CASES; i += 5) {
        Prepared all = prepare(backend, &cases[i]);
        convolve(&all);
        for (int only = 0; only < 3; only++) {
            Prepared p = prepare(backend, &cases[i]);
            assert_ok(backend->ops->conv2d_backward(
                backend, 0, &p.at.conv, only == 0 ? &p.dx : NULL, only == 1 ? &p.dw : NULL,
                only == 2 ? &p.db : NULL, &p.dy, &p.x, &p.w));
            Tensor *got[] = {&p.dx, &p.dw, &p.db}, *want[] = {&all.dx, &all.dw, &all.db};
            ops_assert_bits("gradient alone", ops_get(backend, got[only]),
                            ops_get(backend, want[only]), tensor_elements(got[only]));
        }
        ops_release_all(NULL);
    }
}

static void what_lies_in_the_workspace_does_not_matter(void **state) {
    Backend *backend = *state;
    for (int i = 0; i < CASES; i++) {
        Prepared first = prepare(backend, &cases[i]), second = prepare(backend, &cases[i]);
        convolve(&first);
        scribble_workspace(backend);
        const BackendOps *ops = backend->ops;
        assert_ok(ops->conv2d_forward(backend, 0, &cases[i].conv, &second.y, &second.x,
                                      &second.w, cases[i].bias ? &second.b : NULL));
        scribble_workspace(backend);
        assert_ok(ops->conv2d_backward(backend, 0, &cases[i].conv, &second.dx, &second.dw,
                                       &second.db, &second.dy, &second.x, &second.w));
        Tensor *pairs[][2] = {{&first.y, &second.y},
                              {&first.dx, &second.dx},
                              {&first.dw, &second.dw},
                              {&first.db, &second.db}};
        for (int k = 0; k < 4; k++)
            ops_assert_bits("scribbled", ops_get(backend, pairs[k][1]),
                            ops_get(backend, pairs[k][0]), tensor_elements(pairs[k][0]));
        ops_release_all(NULL);
    }
}

static void changed_filters_are_used_after_parameters_changed(void **state) {
    Backend *backend = *state;
    Prepared p = prepare(backend, &cases[0]), other = prepare(ops_oracle, &cases[0]);
    convolve(&p);
    float *changed = short_random(tensor_elements(&p.w), 77);
    ops_put(backend, &p.w, changed);
    ops_put(ops_oracle, &other.w, changed);
    convolve(&p);
    convolve(&other);
    assert_same("changed", 0, "y", backend, &p.y, &other.y);
    assert_same("changed", 0, "dx", backend, &p.dx, &other.dx);
}

static void parameters_do_not_move(void **state) {
    Backend *backend = *state;
    Tensor from = ops_canonical(backend, tensor_1d(NULL, 16)),
           to = ops_canonical(backend, tensor_1d(NULL, 16));
    assert_fails(backend->ops->parameters_moved(backend, from.data, to.data, 16),
                 STATUS_UNSUPPORTED, "cannot move 16 parameters");
}

static void filters_of_released_memory_are_forgotten(void **state) {
    Backend *backend = *state;
    BackendMemory before, after;
    backend->ops->memory(backend, &before);
    size_t workspace = cuda_of(backend)->workspace_bytes; /* it may grow, and stays */
    for (int i = 0; i < CASES; i++) {
        Prepared p = prepare(backend, &cases[i]);
        convolve(&p);
        ops_release_all(NULL);
    }
    backend->ops->memory(backend, &after);
    assert_int_equal(after.used - cuda_of(backend)->workspace_bytes,
                     before.used - workspace);
}

/* ---- linear layers */

typedef struct {
    int64_t n, k, m;
    bool bias, float_x, float_y; /* as pooled features and logits are */
} Linear;

static const Linear linears[] = {
    {1, 1, 1, false, false, false},   {2, 3, 5, true, false, true},
    {32, 78, 25, false, true, false}, {7, 17, 33, true, true, true},
    {5, 64, 1, true, false, true},    {64, 1, 100, true, true, false},
    {16, 512, 40, false, true, true}, {33, 20, 10, true, false, false},
};

typedef struct {
    Tensor x, w, b, y, dy, dx, dw, db;
} PreparedLinear;

static Tensor rows_of(Backend *backend, bool canonical, Tensor shape, const float *host) {
    if (host == NULL)
        return canonical ? ops_canonical(backend, shape) : ops_activation(backend, shape);
    return canonical ? ops_canonical_of(backend, shape, host)
                     : ops_activation_of(backend, shape, host);
}

static PreparedLinear prepare_linear(Backend *backend, const Linear *c) {
    Tensor x = tensor_2d(NULL, c->n, c->k), w = tensor_2d(NULL, c->m, c->k);
    Tensor y = tensor_2d(NULL, c->n, c->m), b = tensor_1d(NULL, c->m);
    return (PreparedLinear){
        .x = rows_of(backend, c->float_x, x, short_random(c->n * c->k, 1)),
        .dx = rows_of(backend, c->float_x, x, NULL),
        .w = ops_canonical_of(backend, w, short_random(c->m * c->k, 2)),
        .b = ops_canonical_of(backend, b, short_random(c->m, 3)),
        .y = rows_of(backend, c->float_y, y, NULL),
        .dy = rows_of(backend, c->float_y, y, short_random(c->n * c->m, 4)),
        .dw = ops_canonical(backend, w),
        .db = ops_canonical(backend, b),
    };
}

static void multiply(Backend *backend, PreparedLinear *p, bool bias) {
    const BackendOps *ops = backend->ops;
    assert_ok(ops->linear_forward(backend, 0, &p->y, &p->x, &p->w, bias ? &p->b : NULL));
    scribble_workspace(backend);
    assert_ok(
        ops->linear_backward(backend, 0, &p->dx, &p->dw, &p->db, &p->dy, &p->x, &p->w));
}

static void multiply_reference(PreparedLinear *p, bool bias) {
    const BackendOps *ops = ops_oracle->ops;
    assert_ok(ops->linear_forward(ops_oracle, 0, &p->y, &p->x, &p->w, bias ? &p->b : NULL));
    assert_ok(
        ops->linear_backward(ops_oracle, 0, &p->dx, &p->dw, &p->db, &p->dy, &p->x, &p->w));
}

static void linear_layers_agree_with_the_reference(void **state) {
    Backend *backend = *state;
    for (int i = 0; i < (int)(sizeof linears / sizeof *linears); i++) {
        PreparedLinear got = prepare_linear(backend, &linears[i]);
        PreparedLinear want = prepare_linear(ops_oracle, &linears[i]);
        multiply(backend, &got, linears[i].bias);
        multiply_reference(&want, linears[i].bias);
        assert_same("linear", i, "y", backend, &got.y, &want.y);
        assert_same("linear", i, "dx", backend, &got.dx, &want.dx);
        assert_same("linear", i, "dw", backend, &got.dw, &want.dw);
        assert_same("linear", i, "db", backend, &got.db, &want.db);
        ops_release_all(NULL);
    }
}

static void each_gradient_of_a_linear_layer_can_be_left_out(void **state) {
    Backend *backend = *state;
    PreparedLinear all = prepare_linear(backend, &linears[3]);
    multiply(backend, &all, true);
    for (int only = 0; only < 3; only++) {
        PreparedLinear p = prepare_linear(backend, &linears[3]);
        assert_ok(backend->ops->linear_backward(
            backend, 0, only == 0 ? &p.dx : NULL, only == 1 ? &p.dw : NULL,
            only == 2 ? &p.db : NULL, &p.dy, &p.x, &p.w));
        Tensor *got[] = {&p.dx, &p.dw, &p.db}, *want[] = {&all.dx, &all.dw, &all.db};
        ops_assert_bits("gradient alone", ops_get(backend, got[only]),
                        ops_get(backend, want[only]), tensor_elements(got[only]));
    }
}

/* ---- layouts */

static void a_layout_depends_on_rank_and_precision_alone(void **state) {
    Backend *backend = *state;
    bool half = cuda_of(backend)->precision == PRECISION_BF16;
    size_t element = half ? 2 : 4;
    Tensor image = tensor_4d(NULL, 3, 5, 7, 9), rows = tensor_2d(NULL, 3, 5);
    assert_int_equal(backend->ops->layout(backend, &image), 3 * 5 * 7 * 9 * element);
    assert_int_equal(image.layout, half ? LAYOUT_LAST_BF16 : LAYOUT_LAST_F32);
    assert_int_equal(backend->ops->layout(backend, &rows), 3 * 5 * element);
    assert_int_equal(rows.layout, half ? LAYOUT_ROWS_BF16 : LAYOUT_CANONICAL);
}

int main(void) {
    const OpsTest tests[] = {
        OPS_TEST(convolutions_agree_with_the_reference),
        OPS_TEST(each_gradient_of_a_convolution_can_be_left_out),
        OPS_TEST(what_lies_in_the_workspace_does_not_matter),
        OPS_TEST(changed_filters_are_used_after_parameters_changed),
        OPS_TEST(parameters_do_not_move),
        OPS_TEST(filters_of_released_memory_are_forgotten),
        OPS_TEST(linear_layers_agree_with_the_reference),
        OPS_TEST(each_gradient_of_a_linear_layer_can_be_left_out),
        OPS_TEST(a_layout_depends_on_rank_and_precision_alone),
    };
    return cuda_ops_main(tests, sizeof tests / sizeof *tests);
}
