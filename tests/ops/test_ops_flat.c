/* Flat passes on every device: optimizers against PyTorch's formulas in double, and that it does not
 * matter where a range is split. */
#include "tests/ops/ops.h"

enum { COUNT = 16 * 67 };

static float *device_of(Backend *backend, const float *host, int64_t count) {
    float *device = ops_memory(backend, (size_t)count * sizeof *host);
    assert_ok(backend->ops->copy_in(backend, device, host, (size_t)count * sizeof *host));
    return device;
}

static float *host_of(Backend *backend, const float *device, int64_t count) {
    float *host = ops_host(count);
    assert_ok(backend->ops->finish(backend, 0));
    assert_ok(backend->ops->finish(backend, 1));
    assert_ok(backend->ops->copy_out(backend, host, device, (size_t)count * sizeof *host));
    return host;
}

/* A verdict that lets everything pass. */
static const StepVerdict *good(Backend *backend, float gradient_scale) {
    StepVerdict verdict = {.gradient_scale = gradient_scale};
    return ops_placed(backend, &verdict, sizeof verdict);
}

static const StepVerdict *refusal(Backend *backend) {
    StepVerdict verdict = {.gradient_scale = 1, .refused = 1};
    return ops_placed(backend, &verdict, sizeof verdict);
}

static void accumulation_adds_each_element(void **state) {
    Backend *backend = *state;
    const float *x = ops_random(COUNT, 1), *y = ops_random(COUNT, 2);
    float *dx = device_of(backend, x, COUNT), *dy = device_of(backend, y, COUNT);
    assert_ok(backend->ops->accumulate(backend, 0, dy, dx, COUNT));
    float *want = ops_host(COUNT);
    for (int i = 0; i < COUNT; i++)
        want[i] = y[i] + x[i];
    ops_assert_bits("y", host_of(backend, dy, COUNT), want, COUNT);
}

/* Two roundings against none. */
static void blending_moves_running_statistics(void **state) {
    Backend *backend = *state;
    const float *x = ops_random(COUNT, 1), *y = ops_random(COUNT, 2);
    float *dx = device_of(backend, x, COUNT), *dy = device_of(backend, y, COUNT);
    assert_ok(
        backend->ops->blend(backend, 0, dy, dy, dx, COUNT, 0.1f, 0.25f, good(backend, 1)));
    float *want = ops_host(COUNT);
    for (int i = 0; i < COUNT; i++)
        want[i] = (float)(0.9 * (double)y[i] + 0.1 * 0.25 * (double)x[i]);
    const float *got = host_of(backend, dy, COUNT);
    ops_assert_near("y", got, want, COUNT, 2e-7);
    assert_ok(
        backend->ops->blend(backend, 0, dy, dy, dx, COUNT, 0.1f, 0.25f, refusal(backend)));
    ops_assert_bits("y after a refused step", host_of(backend, dy, COUNT), got, COUNT);
}

static void blending_out_of_place_gives_the_bits_of_that_in_place(void **state) {
    Backend *backend = *state;
    const float *x = ops_random(COUNT, 1), *y = ops_random(COUNT, 2);
    float *dx = device_of(backend, x, COUNT), *in_place = device_of(backend, y, COUNT);
    float *from = device_of(backend, y, COUNT);
    float *to = ops_memory(backend, COUNT * sizeof *to);
    const float *before = host_of(backend, to, COUNT);
    assert_ok(backend->ops->blend(backend, 0, to, from, dx, COUNT, 0.1f, 0.25f,
                                  refusal(backend)));
    ops_assert_bits("refused", host_of(backend, to, COUNT), before, COUNT);
    const StepVerdict *verdict = good(backend, 1);
    assert_ok(backend->ops->blend(backend, 0, in_place, in_place, dx, COUNT, 0.1f, 0.25f,
                                  verdict));
    assert_ok(backend->ops->blend(backend, 0, to, from, dx, COUNT, 0.1f, 0.25f, verdict));
    ops_assert_bits("y", host_of(backend, to, COUNT), host_of(backend, in_place, COUNT),
                    COUNT);
    ops_assert_bits("from", host_of(backend, from, COUNT), y, COUNT);
}

static double sum_of(Backend *backend, int worker, const float *x, int64_t count) {
    double *sums = ops_memory(backend, sizeof *sums), sum = 0;
    float *device = device_of(backend, x, count);
    assert_ok(backend->ops->sum_squares(backend, worker, device, count, count + 16, sums));
    if (count > 0) ops_fetched(backend, &sum, sums, sizeof sum);
    return sum;
}

static void the_sum_of_squares_is_that_of_double_arithmetic(void **state) {
    Backend *backend = *state;
    for (int64_t count = 0; count <= COUNT; count += 16 * 11) {
        const float *x = ops_random(COUNT, 1);
        double want = ops_dot(x, x, count);
        double got = sum_of(backend, 0, x, count), again = sum_of(backend, 1, x, count);
        assert_true(fabs(got - want) <= 1e-13 * want);
        assert_memory_equal(&got, &again, sizeof got);
    }
}

static void sums_of_squares_of_many_chunks_are_those_of_each_alone(void **state) {
    Backend *backend = *state;
    enum { CHUNK = 16 * 10, CHUNKS = (COUNT + CHUNK - 1) / CHUNK };
    const float *x = ops_random(COUNT, 1);
    double got[CHUNKS], *sums = ops_memory(backend, sizeof got);
    assert_ok(backend->ops->sum_squares(backend, 0, device_of(backend, x, COUNT), COUNT,
                                        CHUNK, sums));
    ops_fetched(backend, got, sums, sizeof got);
    for (int i = 0; i < CHUNKS; i++) {
        int64_t left = COUNT - i * CHUNK;
        double want = sum_of(backend, 1, x + i * CHUNK, left < CHUNK ? left : CHUNK);
        assert_memory_equal(&got[i], &want, sizeof want);
    }
}

static void the_sum_of_squares_has_the_bits_of_the_reference(void **state) {
    Backend *backend = *state;
    const float *x = ops_random(COUNT, 1);
    double got = sum_of(backend, 0, x, COUNT), want = sum_of(ops_oracle, 0, x, COUNT);
    assert_memory_equal(&got, &want, sizeof got);
}

static void
the_sum_of_squares_neither_overflows_nor_hides_what_is_not_finite(void **state) {
    Backend *backend = *state;
    float x[32] = {0};
    for (int i = 0; i < 32; i++)
        x[i] = 1e38f;
    double got = sum_of(backend, 0, x, 32);
    assert_true(fabs(got / (32 * (double)1e38f * (double)1e38f) - 1) < 1e-14);
    const float wrong[] = {NAN, INFINITY, -INFINITY};
    for (int k = 0; k < 3; k++)
        for (int at = 0; at < 32; at += 31) {
            memset(x, 0, sizeof x);
            x[at] = wrong[k];
            assert_true(!isfinite(sum_of(backend, 0, x, 32)));
        }
}

/* ---- the verdict */

static StepVerdict judged(Backend *backend, const double *sums, int64_t chunks, double clip,
                          float loss) {
    float metrics[METRICS] = {[METRIC_LOSS] = loss, [METRIC_CORRECT] = 7};
    StepVerdict verdict, *device = ops_memory(backend, sizeof verdict);
    assert_ok(backend->ops->judge(
        backend, 0, ops_placed(backend, sums, (size_t)chunks * sizeof *sums), chunks, clip,
        ops_placed(backend, metrics, sizeof metrics), device));
    ops_fetched(backend, &verdict, device, sizeof verdict);
    return verdict;
}

/* Added one after the other, or in another tree, these sums give 1e16 or 1e16 + 2. */
static void a_norm_is_the_root_of_the_tree_over_its_chunks(void **state) {
    const double sums[] = {1e16, 1, 1, 1, 1};
    volatile double left = sums[0] + sums[1], right = sums[2] + sums[3];
    volatile double four = left + right, all = four + sums[4];
    StepVerdict verdict = judged(*state, sums, 5, 0, 3.5f);
    double want = sqrt(all);
    assert_memory_equal(&verdict.norm, &want, sizeof want);
    assert_true(verdict.loss == 3.5f && verdict.correct == 7);
    assert_true(verdict.gradient_scale == 1 && verdict.refused == 0);
}

static void a_gradient_is_clipped_where_it_is_longer_than_allowed(void **state) {
    const double sums[] = {9, 16};
    assert_true(judged(*state, sums, 2, 5, 1).gradient_scale == 1);
    assert_true(judged(*state, sums, 2, 0, 1).gradient_scale == 1);
    assert_true(judged(*state, sums, 2, 2.5, 1).gradient_scale ==
                (float)(2.5 / (5 + 1e-6)));
}

static void a_loss_or_a_norm_that_is_not_finite_is_refused(void **state) {
    const double fine[] = {1, 2}, endless[] = {1, INFINITY}, nowhere[] = {NAN, 1};
    assert_int_equal(judged(*state, fine, 2, 1, 1).refused, 0);
    assert_int_equal(judged(*state, endless, 2, 1, 1).refused, 1);
    assert_int_equal(judged(*state, nowhere, 2, 0, 1).refused, 1);
    assert_int_equal(judged(*state, fine, 2, 1, NAN).refused, 1);
    assert_int_equal(judged(*state, fine, 2, 1, -INFINITY).refused, 1);
}

/* ---- optimizers */

typedef struct {
    const char *name;
    bool adam, has_momentum;
    float lr, gradient_scale, weight_decay;
    OptimizerPass pass; /* constants; the pointers are set by the run */
} Case;

static const Case cases[] = {
    {"sgd", false, false, 0.1f, 1, 0, {.nesterov = false}},
    {"sgd, decay, clipped", false, false, 0.1f, 0.37f, 0.01f, {.nesterov = false}},
    {"momentum", false, true, 0.1f, 1, 5e-4f, {.momentum = 0.9f}},
    {"nesterov", false, true, 0.1f, 0.5f, 0, {.momentum = 0.9f, .nesterov = true}},
    {"adam", true, true, 1e-2f, 1, 0, {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8f}},
    {"adam, decay",
     true,
     true,
     1e-2f,
     0.5f,
     0.1f,
     {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-6f}},
    {"adamw",
     true,
     true,
     1e-2f,
     1,
     0.1f,
     {.beta1 = 0.8, .beta2 = 0.99, .epsilon = 1e-8f, .decoupled = true}},
};
enum { CASES = sizeof cases / sizeof *cases, STEPS = 5 };

typedef struct {
    float *w, *m, *v; /* host */
} Result;

static Status step_of(Backend *backend, const Case *c, int worker,
                      const OptimizerPass *pass, const OptimizerPiece *pieces, int count) {
    return c->adam ? backend->ops->adam(backend, worker, pass, pieces, count)
                   : backend->ops->sgd(backend, worker, pass, pieces, count);
}

/* STEPS steps of one optimizer; with `split`, each in two pieces by two workers. */
static Result run(Backend *backend, const Case *c, int64_t split) {
    const float *zero = ops_host(COUNT);
    OptimizerPass pass = c->pass;
    pass.w = device_of(backend, ops_random(COUNT, 1), COUNT);
    pass.m = c->has_momentum ? device_of(backend, zero, COUNT) : NULL;
    pass.v = c->adam ? device_of(backend, zero, COUNT) : NULL;
    pass.verdict = good(backend, c->gradient_scale);
    const OptimizerPiece pieces[] = {{0, split, c->weight_decay},
                                     {split, COUNT - split, c->weight_decay}};
    const OptimizerPiece *device = ops_placed(backend, pieces, sizeof pieces);
    pass = ops_in_place(pass);
    for (int step = 1; step <= STEPS; step++) {
        StepValues values = {.lr = c->lr,
                             .correction1 = (float)(1 - pow(pass.beta1, step)),
                             .correction2_sqrt = (float)sqrt(1 - pow(pass.beta2, step))};
        pass.values = ops_placed(backend, &values, sizeof values);
        pass.g = device_of(backend, ops_random(COUNT, 10 + (uint32_t)step), COUNT);
        assert_ok(step_of(backend, c, 1, &pass, device + 1, 1));
        if (split > 0) assert_ok(step_of(backend, c, 0, &pass, device, 1));
        assert_ok(backend->ops->finish(backend, 0));
        assert_ok(backend->ops->finish(backend, 1));
    }
    Result result = {.w = host_of(backend, pass.w, COUNT)};
    if (c->has_momentum) result.m = host_of(backend, pass.m, COUNT);
    if (c->adam) result.v = host_of(backend, pass.v, COUNT);
    return result;
}

/* One parameter's STEPS steps as PyTorch's documentation writes them, in double. */
static double trained(const Case *c, int64_t at, const float *w0, float *const g[STEPS],
                      double *second_moment) {
    const OptimizerPass *p = &c->pass;
    double w = (double)w0[at], m = 0, v = 0, lr = (double)c->lr;
    double decay = (double)c->weight_decay, mu = (double)p->momentum;
    for (int step = 1; step <= STEPS; step++) {
        double gradient = (double)g[step - 1][at] * (double)c->gradient_scale;
        if (p->decoupled)
            w -= lr * decay * w;
        else
            gradient += decay * w;
        if (c->adam) {
            m = p->beta1 * m + (1 - p->beta1) * gradient;
            v = p->beta2 * v + (1 - p->beta2) * gradient * gradient;
            double m_hat = m / (1 - pow(p->beta1, step)),
                   v_hat = v / (1 - pow(p->beta2, step));
            w -= lr * m_hat / (sqrt(v_hat) + (double)p->epsilon);
        } else if (c->has_momentum) {
            m = step == 1 ? gradient
                          : mu * m + gradient; /* the buffer starts as the gradient */
            w -= lr * (p->nesterov ? gradient + mu * m : m);
        } else {
            w -= lr * gradient;
        }
    }
    *second_moment = v;
    return w;
}

/* A dozen roundings of 2^-24 a step, and Adam's quotient near small gradients: 2e-6 of the largest
 * parameter, a ten-thousandth of what the steps moved it. */
static void optimizers_follow_the_formulas_of_pytorch(void **state) {
    for (int i = 0; i < CASES; i++) {
        Result got = run(*state, &cases[i], 0);
        const float *w0 = ops_random(COUNT, 1);
        float *g[STEPS], *want = ops_host(COUNT), *want_v = ops_host(COUNT);
        for (uint32_t step = 1; step <= STEPS; step++)
            g[step - 1] = ops_random(COUNT, 10 + step);
        for (int64_t k = 0; k < COUNT; k++) {
            double v;
            want[k] = (float)trained(&cases[i], k, w0, g, &v);
            want_v[k] = (float)v;
        }
        ops_assert_near(cases[i].name, got.w, want, COUNT, 2e-6);
        if (cases[i].adam) ops_assert_near("v", got.v, want_v, COUNT, 2e-6);
        ops_release_all(NULL);
    }
}

static void optimizers_do_not_care_where_a_range_is_split(void **state) {
    for (int i = 0; i < CASES; i++) {
        Result whole = run(*state, &cases[i], 0);
        for (int64_t split = 16; split < COUNT; split += 16 * 13) {
            Result parts = run(*state, &cases[i], split);
            ops_assert_bits(cases[i].name, parts.w, whole.w, COUNT);
            if (whole.m != NULL) ops_assert_bits(cases[i].name, parts.m, whole.m, COUNT);
            if (whole.v != NULL) ops_assert_bits(cases[i].name, parts.v, whole.v, COUNT);
        }
        ops_release_all(NULL);
    }
}

static void optimizers_have_the_bits_of_the_reference(void **state) {
    for (int i = 0; i < CASES; i++) {
        Result got = run(*state, &cases[i], 16), want = run(ops_oracle, &cases[i], 0);
        ops_assert_bits(cases[i].name, got.w, want.w, COUNT);
        ops_release_all(NULL);
    }
}

/* Many pieces at once, some with decay, some left out: each element as if its piece were alone. */
static void many_pieces_in_one_pass_are_those_passes_one_by_one(void **state) {
    Backend *backend = *state;
    const OptimizerPiece pieces[] = {
        {0, 16, 0}, {16, 16 * 40, 0.1f}, {16 * 41, 32, 0}, {16 * 50, 16 * 17, 0.01f}};
    enum { PIECES = sizeof pieces / sizeof *pieces };
    for (int i = 0; i < CASES; i++) {
        const Case *c = &cases[i];
        StepValues values = {.lr = c->lr, .correction1 = 0.1f, .correction2_sqrt = 0.03f};
        float *got[2][3] = {{NULL}};
        for (int way = 0; way < 2; way++) {
            OptimizerPass pass = c->pass;
            pass.w = device_of(backend, ops_random(COUNT, 1), COUNT);
            pass.m =
                c->has_momentum ? device_of(backend, ops_random(COUNT, 2), COUNT) : NULL;
            pass.v = c->adam ? device_of(backend, ops_random(COUNT, 3), COUNT) : NULL;
            pass.g = device_of(backend, ops_random(COUNT, 4), COUNT);
            pass.verdict = good(backend, c->gradient_scale);
            pass.values = ops_placed(backend, &values, sizeof values);
            pass = ops_in_place(pass);
            const OptimizerPiece *device = ops_placed(backend, pieces, sizeof pieces);
            if (way == 0) assert_ok(step_of(backend, c, 0, &pass, device, PIECES));
            for (int k = 0; way == 1 && k < PIECES; k++)
                assert_ok(step_of(backend, c, 0, &pass, device + k, 1));
            got[way][0] = host_of(backend, pass.w, COUNT);
            if (c->has_momentum) got[way][1] = host_of(backend, pass.m, COUNT);
            if (c->adam) got[way][2] = host_of(backend, pass.v, COUNT);
        }
        for (int k = 0; k < 3; k++)
            if (got[0][k] != NULL) ops_assert_bits(c->name, got[0][k], got[1][k], COUNT);
        const float *before = ops_random(COUNT, 1);
        ops_assert_bits("between pieces", got[0][0] + 16 * 43, before + 16 * 43, 16 * 7);
        assert_memory_not_equal(got[0][0] + 16 * 50, before + 16 * 50, 16 * 17);
        ops_release_all(NULL);
    }
}

static void a_refused_step_changes_nothing(void **state) {
    Backend *backend = *state;
    const OptimizerPiece piece = {0, COUNT, 0.1f};
    for (int i = 0; i < CASES; i++) {
        const Case *c = &cases[i];
        StepValues values = {.lr = 1, .correction1 = 1, .correction2_sqrt = 1};
        OptimizerPass pass = c->pass;
        const float *first[] = {ops_random(COUNT, 1), ops_random(COUNT, 2),
                                ops_random(COUNT, 3)};
        pass.w = device_of(backend, first[0], COUNT);
        pass.m = c->has_momentum ? device_of(backend, first[1], COUNT) : NULL;
        pass.v = c->adam ? device_of(backend, first[2], COUNT) : NULL;
        pass.g = device_of(backend, ops_random(COUNT, 4), COUNT);
        pass.verdict = refusal(backend);
        pass.values = ops_placed(backend, &values, sizeof values);
        pass = ops_in_place(pass);
        assert_ok(
            step_of(backend, c, 0, &pass, ops_placed(backend, &piece, sizeof piece), 1));
        ops_assert_bits(c->name, host_of(backend, pass.w, COUNT), first[0], COUNT);
        if (c->has_momentum)
            ops_assert_bits(c->name, host_of(backend, pass.m, COUNT), first[1], COUNT);
        if (c->adam)
            ops_assert_bits(c->name, host_of(backend, pass.v, COUNT), first[2], COUNT);
        ops_release_all(NULL);
    }
}

/* ---- out of place */

enum { ARENAS = 3, ROOM = 16 * 300 };

/* Of one line, of several stretches of the cpu's loop and a bit, next to each other and with a gap. */
static const OptimizerPiece spread[] = {{0, 16, 0.1f},
                                        {16, 16 * 33, 0},
                                        {16 * 34, 512, 0.1f},
                                        {16 * 70, 16 * 199, 0.01f},
                                        {16 * 270, 32, 0}};
enum { SPREAD = sizeof spread / sizeof *spread };

/* The same with another decay: a case of its own for the loops that fold it in. */
static const OptimizerPiece *spread_of(Backend *backend, bool decays) {
    OptimizerPiece pieces[SPREAD];
    memcpy(pieces, spread, sizeof pieces);
    for (int i = 0; i < SPREAD && !decays; i++)
        pieces[i].weight_decay = 0;
    return ops_placed(backend, pieces, sizeof pieces);
}

typedef struct {
    OptimizerPass pass;
    const float *before[ARENAS]; /* the sources; NULL where the case has none */
    float *from[ARENAS];         /* of the device */
} Moving;

static Moving moving_of(Backend *backend, const Case *c, const StepVerdict *verdict) {
    StepValues values = {.lr = c->lr, .correction1 = 0.1f, .correction2_sqrt = 0.03f};
    Moving moving = {.pass = c->pass};
    const bool has[ARENAS] = {true, c->has_momentum, c->adam};
    for (uint32_t i = 0; i < ARENAS; i++) {
        if (!has[i]) continue;
        float *host = ops_random(ROOM, 20 + i);
        for (int k = 0; k < ROOM && i == 2; k++)
            host[k] *= host[k];
        moving.before[i] = host;
        moving.from[i] = device_of(backend, host, ROOM);
    }
    moving.pass.w_from = moving.from[0];
    moving.pass.m_from = moving.from[1];
    moving.pass.v_from = moving.from[2];
    moving.pass.g = device_of(backend, ops_random(ROOM, 30), ROOM);
    moving.pass.verdict = verdict;
    moving.pass.values = ops_placed(backend, &values, sizeof values);
    return moving;
}

/* Writes into new memory, every byte 0xff before. */
static void move_away(Backend *backend, Moving *moving, float *to[ARENAS]) {
    for (int i = 0; i < ARENAS; i++)
        to[i] = moving->before[i] != NULL ? ops_memory(backend, ROOM * sizeof **to) : NULL;
    moving->pass.w = to[0];
    moving->pass.m = to[1];
    moving->pass.v = to[2];
}

static void assert_sources_untouched(Backend *backend, const char *name,
                                     const Moving *moving) {
    for (int i = 0; i < ARENAS; i++)
        if (moving->before[i] != NULL)
            ops_assert_bits(name, host_of(backend, moving->from[i], ROOM),
                            moving->before[i], ROOM);
}

static void out_of_place_like_in_place(Backend *backend, const Case *c, float scale,
                                       bool decays) {
    const StepVerdict *verdict = good(backend, scale);
    const OptimizerPiece *pieces = spread_of(backend, decays);
    Moving away = moving_of(backend, c, verdict), stay = moving_of(backend, c, verdict);
    float *to[ARENAS];
    move_away(backend, &away, to);
    stay.pass.w = stay.from[0];
    stay.pass.m = stay.from[1];
    stay.pass.v = stay.from[2];
    assert_ok(step_of(backend, c, 0, &away.pass, pieces, SPREAD));
    assert_ok(step_of(backend, c, 0, &stay.pass, pieces, SPREAD));
    assert_sources_untouched(backend, c->name, &away);
    const float *unwritten =
        host_of(backend, ops_memory(backend, ROOM * sizeof **to), ROOM);
    for (int i = 0; i < ARENAS; i++) {
        if (to[i] == NULL) continue;
        const float *got = host_of(backend, to[i], ROOM);
        const float *want = host_of(backend, stay.from[i], ROOM);
        int64_t end = 0;
        for (int k = 0; k < SPREAD; k++) {
            int64_t first = spread[k].first, count = spread[k].count;
            ops_assert_bits("between pieces", got + end, unwritten, first - end);
            ops_assert_bits(c->name, got + first, want + first, count);
            assert_memory_not_equal(got + first, stay.before[i] + first,
                                    (size_t)count * sizeof *got);
            end = first + count;
        }
        ops_assert_bits("after the pieces", got + end, unwritten, ROOM - end);
    }
}

static void an_optimizer_out_of_place_gives_the_bits_of_one_in_place(void **state) {
    const float scales[] = {1, 0.37f};
    for (int i = 0; i < CASES; i++)
        for (int clipped = 0; clipped < 2; clipped++)
            for (int decays = 0; decays < 2; decays++) {
                out_of_place_like_in_place(*state, &cases[i], scales[clipped], decays == 1);
                ops_release_all(NULL);
            }
}

static void an_optimizer_out_of_place_has_the_bits_of_the_reference(void **state) {
    for (int i = 0; i < CASES; i++) {
        Backend *both[] = {*state, ops_oracle};
        float *to[2][ARENAS];
        for (int d = 0; d < 2; d++) {
            Moving moving = moving_of(both[d], &cases[i], good(both[d], 0.37f));
            move_away(both[d], &moving, to[d]);
            assert_ok(step_of(both[d], &cases[i], 0, &moving.pass, spread_of(both[d], true),
                              SPREAD));
        }
        for (int k = 0; k < ARENAS; k++)
            if (to[0][k] != NULL)
                ops_assert_bits(cases[i].name, host_of(both[0], to[0][k], ROOM),
                                host_of(both[1], to[1][k], ROOM), ROOM);
        ops_release_all(NULL);
    }
}

static void a_refused_step_out_of_place_writes_nothing(void **state) {
    Backend *backend = *state;
    for (int i = 0; i < CASES; i++) {
        Moving moving = moving_of(backend, &cases[i], refusal(backend));
        float *to[ARENAS];
        move_away(backend, &moving, to);
        const float *unwritten =
            host_of(backend, ops_memory(backend, ROOM * sizeof **to), ROOM);
        assert_ok(
            step_of(backend, &cases[i], 0, &moving.pass, spread_of(backend, true), SPREAD));
        assert_sources_untouched(backend, cases[i].name, &moving);
        for (int k = 0; k < ARENAS; k++)
            if (to[k] != NULL)
                ops_assert_bits(cases[i].name, host_of(backend, to[k], ROOM), unwritten,
                                ROOM);
        ops_release_all(NULL);
    }
}

int main(void) {
    const OpsTest tests[] = {
        OPS_TEST(accumulation_adds_each_element),
        OPS_TEST(blending_moves_running_statistics),
        OPS_TEST(the_sum_of_squares_is_that_of_double_arithmetic),
        OPS_TEST(sums_of_squares_of_many_chunks_are_those_of_each_alone),
        OPS_TEST(the_sum_of_squares_has_the_bits_of_the_reference),
        OPS_TEST(the_sum_of_squares_neither_overflows_nor_hides_what_is_not_finite),
        OPS_TEST(a_norm_is_the_root_of_the_tree_over_its_chunks),
        OPS_TEST(a_gradient_is_clipped_where_it_is_longer_than_allowed),
        OPS_TEST(a_loss_or_a_norm_that_is_not_finite_is_refused),
        OPS_TEST(optimizers_follow_the_formulas_of_pytorch),
        OPS_TEST(optimizers_do_not_care_where_a_range_is_split),
        OPS_TEST(optimizers_have_the_bits_of_the_reference),
        OPS_TEST(many_pieces_in_one_pass_are_those_passes_one_by_one),
        OPS_TEST(a_refused_step_changes_nothing),
        OPS_TEST(blending_out_of_place_gives_the_bits_of_that_in_place),
        OPS_TEST(an_optimizer_out_of_place_gives_the_bits_of_one_in_place),
        OPS_TEST(an_optimizer_out_of_place_has_the_bits_of_the_reference),
        OPS_TEST(a_refused_step_out_of_place_writes_nothing),
    };
    return ops_main(tests, sizeof tests / sizeof *tests);
}
