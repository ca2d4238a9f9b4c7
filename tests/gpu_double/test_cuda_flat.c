/* Flat passes of the CUDA device: sums of squares, the verdict, running statistics and optimizers. What is
 * elementwise has the reference's bits. */
#include "tests/gpu_double/cuda_ops.h"

/* ---- sums */

static void accumulation_has_the_bits_of_the_reference(void **state) {
    Backend *backend = *state;
    const int64_t counts[] = {0, 16, 1024, 16 * 67, 65536 + 16};
    for (int i = 0; i < 5; i++) {
        Tensor shape = tensor_1d(NULL, counts[i]);
        Pair y = canonical_pair_of(backend, shape, ops_random(counts[i], 1));
        Pair x = canonical_pair_of(backend, shape, ops_random(counts[i], 2));
        assert_ok(ops_oracle->ops->accumulate(ops_oracle, 0, y.reference.data,
                                              x.reference.data, counts[i]));
        assert_ok(
            backend->ops->accumulate(backend, 0, y.device.data, x.device.data, counts[i]));
        assert_like("y", backend, y, 0);
    }
}

static void sums_of(Backend *backend, double *sums, const float *x, int64_t count,
                    int64_t chunk, int64_t offset) {
    int64_t chunks = (count + chunk - 1) / chunk;
    float *room = ops_memory(backend, (size_t)(count + offset) * sizeof *x);
    double *device = ops_memory(backend, (size_t)(chunks + 1) * sizeof *sums);
    assert_ok(backend->ops->copy_in(backend, room + offset, x, (size_t)count * sizeof *x));
    assert_ok(backend->ops->sum_squares(backend, 0, room + offset, count, chunk, device));
    ops_fetched(backend, sums, device, (size_t)chunks * sizeof *sums);
}

/* Exact squares, added in double in two orders. */
static void sums_of_squares_are_those_of_the_reference(void **state) {
    Backend *backend = *state;
    const int64_t cases[][2] = {{16, 65536},         {16 * 67, 64},    {65536, 65536},
                                {65536 + 48, 65536}, {5 * 4096, 4096}, {1000, 37}};
    for (int i = 0; i < 6; i++) {
        double got[64], want[64];
        int64_t count = cases[i][0], chunk = cases[i][1];
        const float *x = ops_random(count, 1);
        sums_of(backend, got, x, count, chunk, 0);
        sums_of(ops_oracle, want, x, count, chunk, 0);
        for (int64_t k = 0; k < (count + chunk - 1) / chunk; k++)
            if (!(fabs(got[k] - want[k]) <= 1e-13 * want[k]))
                fail_msg("chunk %d of case %d is %.17g, not %.17g", (int)k, i, got[k],
                         want[k]);
    }
}

static void where_numbers_lie_does_not_change_their_sum_of_squares(void **state) {
    Backend *backend = *state;
    double there[2], elsewhere[2];
    const float *x = ops_random(70000, 1);
    sums_of(backend, there, x, 70000, 65536, 0);
    for (int64_t offset = 1; offset < 4; offset++) {
        sums_of(backend, elsewhere, x, 70000, 65536, offset);
        assert_memory_equal(there, elsewhere, sizeof there);
    }
}

static void a_sum_of_squares_neither_overflows_nor_hides_what_is_not_finite(void **state) {
    Backend *backend = *state;
    const float values[] = {1e38f, NAN, INFINITY, -INFINITY};
    for (int k = 0; k < 4; k++)
        for (int64_t at = 0; at < 4096; at += 4095) {
            float *x = ops_host(4096);
            double sum;
            x[at] = values[k];
            sums_of(backend, &sum, x, 4096, 65536, 0);
            assert_true(k == 0 ? sum == (double)1e38f * (double)1e38f : !isfinite(sum));
        }
}

/* ---- the verdict */

static StepVerdict judged(Backend *backend, const double *sums, int64_t chunks,
                          double clip_norm, float loss) {
    float metrics[METRICS] = {[METRIC_LOSS] = loss, [METRIC_CORRECT] = 7};
    StepVerdict verdict, *device = ops_memory(backend, sizeof verdict);
    assert_ok(backend->ops->judge(
        backend, 0, ops_placed(backend, sums, (size_t)chunks * sizeof *sums), chunks,
        clip_norm, ops_placed(backend, metrics, sizeof metrics), device));
    ops_fetched(backend, &verdict, device, sizeof verdict);
    return verdict;
}

static void assert_same_verdict(Backend *backend, const double *sums, int64_t chunks,
                                double clip_norm, float loss) {
    StepVerdict got = judged(backend, sums, chunks, clip_norm, loss);
    StepVerdict want = judged(ops_oracle, sums, chunks, clip_norm, loss);
    if (isnan(want.norm)) {
        assert_true(isnan(got.norm));
        got.norm = want.norm;
    }
    if (isnan(want.loss)) {
        assert_true(isnan(got.loss));
        got.loss = want.loss = 0;
    }
    if (memcmp(&got.norm, &want.norm, sizeof got.norm) != 0)
        fail_msg("the norm of %lld chunks is %.17g, not %.17g", (long long)chunks, got.norm,
                 want.norm);
    assert_true(got.loss == want.loss && got.correct == want.correct);
    assert_true(got.gradient_scale == want.gradient_scale);
    assert_int_equal(got.refused, want.refused);
}

/* Random sums of very different sizes: another tree gives other bits. */
static void a_verdict_is_the_references_for_any_number_of_chunks(void **state) {
    Backend *backend = *state;
    const int64_t counts[] = {0,    1,    2,    3,    4,    5,    6,     7,     8,
                              31,   32,   33,   63,   170,  171,  511,   512,   513,
                              1000, 1023, 1024, 1025, 2047, 4097, 16384, 16385, 23000};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        double *sums = malloc((size_t)(counts[i] + 1) * sizeof *sums);
        assert_non_null(sums);
        Rng rng = rng_at(77, RNG_TEST, 0, (uint32_t)i);
        for (int64_t k = 0; k < counts[i]; k++)
            sums[k] = (double)rng_uniform(rng, 1, (uint32_t)k) *
                      (double)(1u << rng_below(rng, 2, (uint32_t)k, 30));
        assert_same_verdict(backend, sums, counts[i], 0, 3.5f);
        assert_same_verdict(backend, sums, counts[i], 1.25, 3.5f);
        free(sums);
        ops_release_to(0);
    }
}

static void what_is_not_finite_is_refused(void **state) {
    Backend *backend = *state;
    const double sums[] = {1, NAN, INFINITY};
    for (int k = 0; k < 3; k++) {
        assert_same_verdict(backend, &sums[k], 1, 1, 2);
        assert_same_verdict(backend, &sums[k], 1, 0, NAN);
        assert_same_verdict(backend, &sums[k], 1, 0, -INFINITY);
    }
    assert_int_equal(judged(backend, sums, 1, 0, 2).refused, 0);
    assert_int_equal(judged(backend, sums, 2, 0, 2).refused, 1);
    assert_int_equal(judged(backend, sums, 1, 0, NAN).refused, 1);
}

/* ---- what a verdict lets pass */

static const StepVerdict *verdict_of(Backend *backend, uint32_t refused) {
    StepVerdict verdict = {.gradient_scale = 0.37f, .refused = refused};
    return ops_placed(backend, &verdict, sizeof verdict);
}

static void blending_has_the_bits_of_the_reference_unless_refused(void **state) {
    Backend *backend = *state;
    enum { COUNT = 16 * 67 };
    for (uint32_t refused = 0; refused < 2; refused++) {
        const float *before = ops_random(COUNT, 1);
        Pair y = canonical_pair_of(backend, tensor_1d(NULL, COUNT), before);
        Pair x = canonical_pair_of(backend, tensor_1d(NULL, COUNT), ops_random(COUNT, 2));
        Pair away = canonical_pair_poisoned(backend, tensor_1d(NULL, COUNT));
        const float *unwritten = ops_get(backend, &away.device);
        const StepVerdict *verdict = verdict_of(backend, refused);
        assert_ok(backend->ops->blend(backend, 0, away.device.data, y.device.data,
                                      x.device.data, COUNT, 0.1f, 0.3f, verdict));
        ops_assert_bits("from", ops_get(backend, &y.device), before, COUNT);
        assert_ok(ops_oracle->ops->blend(ops_oracle, 0, y.reference.data, y.reference.data,
                                         x.reference.data, COUNT, 0.1f, 0.3f,
                                         verdict_of(ops_oracle, refused)));
        assert_ok(backend->ops->blend(backend, 0, y.device.data, y.device.data,
                                      x.device.data, COUNT, 0.1f, 0.3f, verdict));
        assert_like("y", backend, y, 0);
        ops_assert_bits("y out of place", ops_get(backend, &away.device),
                        refused ? unwritten : ops_get(backend, &y.device), COUNT);
        assert_int_equal(refused, memcmp(ops_get(backend, &y.device), before,
                                         COUNT * sizeof *before) == 0);
    }
}

/* Pieces of one 16 floats and of more than a pass of blocks, with a gap that no piece covers. */
static const OptimizerPiece pieces[] = {
    {0, 16, 0.0f}, {16, 65536, 0.1f}, {65552, 4096 + 48, 0.05f}, {80000, 8000, 0.0f}};
enum { PIECES = sizeof pieces / sizeof *pieces, ARENA = 90000 };

typedef Status (*Optimizer)(Backend *, int, const OptimizerPass *, const OptimizerPiece *,
                            int);

typedef struct {
    Pair w, m, v, g;
} Arenas;

static void apply(Backend *backend, bool adam, OptimizerPass pass, const Arenas *arenas,
                  uint32_t refused) {
    bool device = backend != ops_oracle;
    StepValues values = {
        .step = 3, .lr = 0.01f, .correction1 = 0.34f, .correction2_sqrt = 0.06f};
    pass.w = device ? arenas->w.device.data : arenas->w.reference.data;
    if (pass.m != NULL) pass.m = device ? arenas->m.device.data : arenas->m.reference.data;
    if (adam) pass.v = device ? arenas->v.device.data : arenas->v.reference.data;
    pass = ops_in_place(pass);
    pass.g = device ? arenas->g.device.data : arenas->g.reference.data;
    pass.values = ops_placed(backend, &values, sizeof values);
    pass.verdict = verdict_of(backend, refused);
    Optimizer optimizer = adam ? backend->ops->adam : backend->ops->sgd;
    assert_ok(
        optimizer(backend, 0, &pass, ops_placed(backend, pieces, sizeof pieces), PIECES));
    assert_ok(optimizer(backend, 0, &pass, NULL, 0));
}

static void step_both(Backend *backend, bool adam, OptimizerPass pass) {
    Tensor shape = tensor_1d(NULL, ARENA);
    float *v = ops_random(ARENA, 3);
    for (int i = 0; i < ARENA; i++)
        v[i] *= v[i];
    const float *w = ops_random(ARENA, 1);
    Arenas arenas = {canonical_pair_of(backend, shape, w),
                     canonical_pair_of(backend, shape, ops_random(ARENA, 2)),
                     canonical_pair_of(backend, shape, v),
                     canonical_pair_of(backend, shape, ops_random(ARENA, 4))};
    apply(backend, adam, pass, &arenas, 1);
    ops_assert_bits("w after a refused step", ops_get(backend, &arenas.w.device), w, ARENA);
    assert_like("m after a refused step", backend, arenas.m, 0);
    assert_like("v after a refused step", backend, arenas.v, 0);
    for (int step = 0; step < 2; step++) {
        apply(ops_oracle, adam, pass, &arenas, 0);
        apply(backend, adam, pass, &arenas, 0);
    }
    assert_like("w", backend, arenas.w, 0);
    assert_like("m", backend, arenas.m, 0);
    assert_like("v", backend, arenas.v, 0);
    assert_true(memcmp(ops_get(backend, &arenas.w.device), w, ARENA * sizeof *w) != 0);
    ops_release_to(0);
}

/* One step from one set of arenas into another, which is poisoned, against the reference's in place. */
static void step_away(Backend *backend, bool adam, OptimizerPass pass, uint32_t refused) {
    Tensor shape = tensor_1d(NULL, ARENA);
    const bool has[] = {true, pass.m != NULL, adam};
    Pair from[3], to[3];
    float *before[3];
    for (uint32_t i = 0; i < 3; i++) {
        before[i] = ops_random(ARENA, 1 + i);
        for (int k = 0; k < ARENA && i == 2; k++)
            before[i][k] *= before[i][k];
        from[i] = canonical_pair_of(backend, shape, before[i]);
        to[i] = canonical_pair_poisoned(backend, shape);
    }
    Pair g = canonical_pair_of(backend, shape, ops_random(ARENA, 4));
    apply(ops_oracle, adam, pass, &(Arenas){from[0], from[1], from[2], g}, refused);
    StepValues values = {
        .step = 3, .lr = 0.01f, .correction1 = 0.34f, .correction2_sqrt = 0.06f};
    pass.w = to[0].device.data;
    pass.w_from = from[0].device.data;
    pass.m = has[1] ? to[1].device.data : NULL;
    pass.m_from = has[1] ? from[1].device.data : NULL;
    pass.v = has[2] ? to[2].device.data : NULL;
    pass.v_from = has[2] ? from[2].device.data : NULL;
    pass.g = g.device.data;
    pass.values = ops_placed(backend, &values, sizeof values);
    pass.verdict = verdict_of(backend, refused);
    const OptimizerPiece *placed = ops_placed(backend, pieces, sizeof pieces);
    Optimizer optimizer = adam ? backend->ops->adam : backend->ops->sgd;
    const float *unwritten = ops_get(backend, &to[0].device);
    assert_ok(optimizer(backend, 0, &pass, placed, PIECES));
    for (int i = 0; i < 3; i++) {
        ops_assert_bits("a source", ops_get(backend, &from[i].device), before[i], ARENA);
        const float *got = ops_get(backend, &to[i].device);
        for (int k = 0; k < PIECES; k++)
            ops_assert_bits("out of place", got + pieces[k].first,
                            has[i] && !refused ? from[i].reference.data + pieces[k].first
                                               : unwritten,
                            pieces[k].count);
        int64_t end = pieces[PIECES - 1].first + pieces[PIECES - 1].count;
        ops_assert_bits("after the pieces", got + end, unwritten, ARENA - end);
    }
    ops_release_to(0);
}

/* NULL or not is what a pass is asked for; where the moment lies is the test's. */
static float moment_wanted;

static void sgd_has_the_bits_of_the_reference(void **state) {
    step_both(*state, false, (OptimizerPass){.momentum = 0});
    step_both(*state, false, (OptimizerPass){.momentum = 0.9f, .m = &moment_wanted});
    step_both(*state, false,
              (OptimizerPass){.momentum = 0.9f, .m = &moment_wanted, .nesterov = true});
}

static void adam_has_the_bits_of_the_reference(void **state) {
    OptimizerPass pass = {
        .m = &moment_wanted, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8f};
    step_both(*state, true, pass);
    pass.decoupled = true;
    step_both(*state, true, pass);
}

static void a_pass_out_of_place_has_the_bits_of_the_reference_unless_refused(void **state) {
    const OptimizerPass sgd[] = {
        {.momentum = 0},
        {.momentum = 0.9f, .m = &moment_wanted},
        {.momentum = 0.9f, .m = &moment_wanted, .nesterov = true},
    };
    OptimizerPass adam = {
        .m = &moment_wanted, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8f};
    for (uint32_t refused = 0; refused < 2; refused++) {
        for (int i = 0; i < 3; i++)
            step_away(*state, false, sgd[i], refused);
        adam.decoupled = false;
        step_away(*state, true, adam, refused);
        adam.decoupled = true;
        step_away(*state, true, adam, refused);
    }
}

int main(void) {
    const OpsTest tests[] = {
        OPS_TEST(accumulation_has_the_bits_of_the_reference),
        OPS_TEST(sums_of_squares_are_those_of_the_reference),
        OPS_TEST(where_numbers_lie_does_not_change_their_sum_of_squares),
        OPS_TEST(a_sum_of_squares_neither_overflows_nor_hides_what_is_not_finite),
        OPS_TEST(a_verdict_is_the_references_for_any_number_of_chunks),
        OPS_TEST(what_is_not_finite_is_refused),
        OPS_TEST(blending_has_the_bits_of_the_reference_unless_refused),
        OPS_TEST(sgd_has_the_bits_of_the_reference),
        OPS_TEST(adam_has_the_bits_of_the_reference),
        OPS_TEST(a_pass_out_of_place_has_the_bits_of_the_reference_unless_refused),
    };
    return cuda_ops_main(tests, sizeof tests / sizeof *tests);
}
