/* What is special to the cpu device: results that depend on nothing but the arguments, whichever
 * worker, neighbours, history and addresses, and an instruction set that is pinned once. */
#include "tests/ops/ops.h"

#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS = 4, CLASSES = 10, RESULT_ROOM = 1 << 16 };

/* Every result of one training pass, one after the other, canonical. */
typedef struct {
    int64_t count;
    float values[RESULT_ROOM];
} Results;

/* A small network's parameters, shared by all workers as in training. */
typedef struct {
    Tensor w1, w2, gamma, beta, w3, b3;
} Parameters;

typedef struct {
    Backend *backend;
    const Parameters *parameters;
    int worker, samples;
    int shift; /* cache lines by which all memory is moved */
    Status status;
    Results *out;
    void *memory[64];
    int allocations;
} Pass;

static Tensor activation(Pass *pass, Tensor shape) {
    void *memory;
    size_t bytes = pass->backend->ops->layout(pass->backend, &shape);
    size_t move = (size_t)pass->shift * 64;
    if (pass->backend->ops->allocate(pass->backend, bytes + move, &memory) != STATUS_OK)
        abort();
    memset(memory, 0xff, bytes + move);
    pass->memory[pass->allocations++] = memory;
    shape.data = (float *)((char *)memory + move);
    return shape;
}

static void keep(Pass *pass, const float *values, int64_t count) {
    Results *out = pass->out;
    if (out->count + count > RESULT_ROOM) abort();
    memcpy(out->values + out->count, values, (size_t)count * sizeof *values);
    out->count += count;
}

static void fill(Tensor *x, uint32_t name) {
    Rng rng = rng_at(7, RNG_TEST, 0, 0);
    for (int64_t i = 0; i < tensor_elements(x); i++)
        x->data[i] = 2.0f * rng_uniform(rng, name, (uint32_t)i) - 1.0f;
}

/* conv 1→16, conv 16→16, batch norm + residual + relu, max pool, dropout, flatten, linear, loss,
 * and all of it backward. */
static Status train_once(Pass *pass) {
    Backend *b = pass->backend;
    const BackendOps *ops = b->ops;
    const Parameters *p = pass->parameters;
    int w = pass->worker, n = pass->samples;
    Conv2d conv = {1, 1, 1};
    Pool2d pool = {2, 2, 0};
    Tensor x = activation(pass, tensor_4d(NULL, n, 1, 12, 12));
    Tensor a = activation(pass, tensor_4d(NULL, n, 16, 12, 12)), da = activation(pass, a);
    Tensor z = activation(pass, a), dz = activation(pass, a);
    Tensor y = activation(pass, a), dy = activation(pass, a), dr = activation(pass, a);
    Tensor q = activation(pass, tensor_4d(NULL, n, 16, 6, 6)), dq = activation(pass, q);
    Tensor f = activation(pass, tensor_2d(NULL, n, 16 * 6 * 6)), df = activation(pass, f);
    Tensor l = activation(pass, tensor_2d(NULL, n, CLASSES)), dl = activation(pass, l);
    Tensor mean = activation(pass, tensor_1d(NULL, 16)), std = activation(pass, mean);
    Tensor bm = activation(pass, mean), bv = activation(pass, mean);
    Tensor dg = activation(pass, mean), db = activation(pass, mean);
    Tensor dw1 = activation(pass, tensor_2d(NULL, 16, 9));
    Tensor dw2 = activation(pass, tensor_2d(NULL, 16, 16 * 9));
    Tensor dw3 = activation(pass, p->w3), db3 = activation(pass, p->b3);
    dw1 = (Tensor){dw1.data, 4, {16, 1, 3, 3}, 0};
    dw2 = (Tensor){dw2.data, 4, {16, 16, 3, 3}, 0};
    float metrics[METRICS];
    int32_t labels[64];
    uint8_t *choice = (uint8_t *)activation(pass, q).data;
    for (int i = 0; i < n; i++)
        labels[i] = i % CLASSES;
    fill(&x, 1);
    Rng rng = rng_at(1, RNG_TEST, 3, 0);
    StepValues values = {.step = 0};
    BatchNorm norm = {&p->gamma, &p->beta, &a, true, 1e-5f};

    TRY(ops->conv2d_forward(b, w, &conv, &a, &x, &p->w1, NULL));
    TRY(ops->conv2d_forward(b, w, &conv, &z, &a, &p->w2, NULL));
    TRY(ops->batch_norm_forward(b, w, &norm, &y, &z, &mean, &std, &bm, &bv));
    TRY(ops->dropout(b, w, rng, &values, 5, 0.25f, &y, &y));
    TRY(ops->max_pool_forward(b, w, &pool, &q, choice, &y));
    TRY(ops->reorder(b, w, &f, &q));
    TRY(ops->linear_forward(b, w, &l, &f, &p->w3, &p->b3));
    TRY(ops->softmax_cross_entropy(b, w, 0.1f, 1.0f, metrics, &dl, &l, labels));
    TRY(ops->linear_backward(b, w, &df, &dw3, &db3, &dl, &f, &p->w3));
    TRY(ops->reorder(b, w, &dq, &df));
    TRY(ops->max_pool_backward(b, w, &pool, &dy, &dq, choice));
    TRY(ops->dropout(b, w, rng, &values, 5, 0.25f, &dy, &dy));
    TRY(ops->batch_norm_backward(b, w, &norm, &dz, &dg, &db, &dr, &dy, &y, &z, &mean,
                                 &std));
    TRY(ops->conv2d_backward(b, w, &conv, &da, &dw2, NULL, &dz, &a, &p->w2));
    TRY(ops->add(b, w, &da, &da, &dr));
    TRY(ops->conv2d_backward(b, w, &conv, NULL, &dw1, NULL, &da, &x, &p->w1));

    const Tensor *results[] = {&l, &dw1, &dw2, &dw3, &db3, &dg, &db, &bm, &bv};
    for (size_t i = 0; i < sizeof results / sizeof *results; i++)
        keep(pass, results[i]->data, tensor_elements(results[i]));
    keep(pass, metrics, METRICS);
    return STATUS_OK;
}

static void *pass_thread(void *argument) {
    Pass *pass = argument;
    pass->out->count = 0;
    pass->allocations = 0;
    pass->status = train_once(pass);
    while (pass->allocations > 0)
        pass->backend->ops->release(pass->backend, pass->memory[--pass->allocations]);
    return NULL;
}

static Results *new_results(void) {
    return (Results *)ops_host(sizeof(Results) / sizeof(float));
}

static Results *run_alone(Backend *backend, const Parameters *parameters, int worker,
                          int samples, int shift) {
    Pass pass = {.backend = backend,
                 .parameters = parameters,
                 .worker = worker,
                 .samples = samples,
                 .shift = shift,
                 .out = new_results()};
    pass_thread(&pass);
    assert_ok(pass.status);
    return pass.out;
}

static void assert_same(const char *what, const Results *got, const Results *want) {
    assert_int_equal(got->count, want->count);
    ops_assert_bits(what, got->values, want->values, want->count);
    for (int64_t i = 0; i < got->count; i++)
        assert_true(isfinite(got->values[i]));
}

static Parameters new_parameters(Backend *backend) {
    Tensor shapes[6] = {tensor_4d(NULL, 16, 1, 3, 3),
                        tensor_4d(NULL, 16, 16, 3, 3),
                        tensor_1d(NULL, 16),
                        tensor_1d(NULL, 16),
                        tensor_2d(NULL, CLASSES, 16 * 6 * 6),
                        tensor_1d(NULL, CLASSES)};
    for (uint32_t i = 0; i < 6; i++)
        shapes[i] = ops_canonical_of(backend, shapes[i],
                                     ops_random(tensor_elements(&shapes[i]), 100 + i));
    return (Parameters){shapes[0], shapes[1], shapes[2], shapes[3], shapes[4], shapes[5]};
}

static void bits_do_not_depend_on_neighbours_worker_history_or_addresses(void **state) {
    Backend *backend = *state;
    Parameters parameters = new_parameters(backend);
    Results *alone = run_alone(backend, &parameters, 0, 8, 0);

    assert_same("run again", run_alone(backend, &parameters, 0, 8, 0), alone);
    assert_same("on another worker", run_alone(backend, &parameters, 2, 8, 0), alone);
    run_alone(backend, &parameters, 0, 3, 0);
    run_alone(backend, &parameters, 0, 13, 0);
    assert_same("after other shapes", run_alone(backend, &parameters, 0, 8, 0), alone);
    for (int shift = 1; shift < 4; shift++)
        assert_same("at other addresses", run_alone(backend, &parameters, 0, 8, shift),
                    alone);

    assert_ok(backend->ops->parameters_changed(backend, parameters.w2.data, 16 * 16 * 9));
    Pass passes[WORKERS];
    pthread_t threads[WORKERS];
    for (int i = 0; i < WORKERS; i++) {
        passes[i] = (Pass){.backend = backend,
                           .parameters = &parameters,
                           .worker = i,
                           .samples = 8,
                           .shift = i,
                           .out = new_results()};
        assert_int_equal(pthread_create(&threads[i], NULL, pass_thread, &passes[i]), 0);
    }
    for (int i = 0; i < WORKERS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < WORKERS; i++) {
        assert_int_equal(passes[i].status, STATUS_OK);
        assert_same("four workers at once", passes[i].out, alone);
    }
}

/* ---- parameters that move */

enum { FILTER1 = 16 * 1 * 9, FILTER2 = 16 * 16 * 9, FILTERS = FILTER1 + FILTER2 };

/* Two sets of filters; the rest of the parameters is shared. */
typedef struct {
    Backend *backend;
    Parameters parameters;
    float *sets[2];
    int at;
} Moving;

static Moving new_moving(Backend *backend, const float *filters) {
    Moving moving = {.backend = backend, .parameters = new_parameters(backend)};
    for (int i = 0; i < 2; i++)
        moving.sets[i] = ops_memory(backend, FILTERS * sizeof *filters);
    memcpy(moving.sets[0], filters, FILTERS * sizeof *filters);
    moving.parameters.w1.data = moving.sets[0];
    moving.parameters.w2.data = moving.sets[0] + FILTER1;
    return moving;
}

/* The filters get other values in the other set. */
static void move(Moving *moving, const float *filters) {
    const float *from = moving->sets[moving->at];
    moving->at = 1 - moving->at;
    float *to = moving->sets[moving->at];
    memcpy(to, filters, FILTERS * sizeof *filters);
    assert_ok(moving->backend->ops->parameters_moved(moving->backend, from, to, FILTERS));
    moving->parameters.w1.data = to;
    moving->parameters.w2.data = to + FILTER1;
}

static size_t workspace_of(Backend *backend) {
    BackendMemory memory;
    backend->ops->memory(backend, &memory);
    return memory.workspace;
}

static Results *of_a_fresh_device(const float *filters) {
    Backend *fresh;
    BackendOptions options = {.workers = 1};
    assert_ok(backend_open("cpu", &options, &fresh));
    int mark = ops_allocated_count;
    Results *out = new_results();
    Moving moving = new_moving(fresh, filters);
    Results *got = run_alone(fresh, &moving.parameters, 0, 8, 0);
    memcpy(out, got, sizeof *out);
    ops_release_to(mark + 1);
    fresh->ops->close(fresh);
    return out;
}

static void parameters_that_moved_are_used_with_their_new_values(void **state) {
    Backend *backend = *state;
    Moving moving = new_moving(backend, ops_random(FILTERS, 40));
    size_t before = workspace_of(backend);
    run_alone(backend, &moving.parameters, 0, 8, 0);
    size_t workspace = workspace_of(backend);
    assert_true(workspace > before); /* there is a cache that can move */
    for (uint32_t flip = 1; flip <= 4; flip++) {
        const float *filters = ops_random(FILTERS, 40 + flip);
        move(&moving, filters);
        assert_int_equal(workspace_of(backend), workspace);
        assert_same("moved", run_alone(backend, &moving.parameters, 0, 8, 0),
                    of_a_fresh_device(filters));
        assert_int_equal(workspace_of(backend), workspace);
    }
}

static void a_cache_made_at_both_places_is_one_after_the_move(void **state) {
    Backend *backend = *state;
    const float *filters = ops_random(FILTERS, 50);
    Moving moving = new_moving(backend, filters);
    run_alone(backend, &moving.parameters, 0, 8, 0);
    size_t one = workspace_of(backend);
    Parameters there = moving.parameters;
    memcpy(moving.sets[1], filters, FILTERS * sizeof *filters);
    there.w1.data = moving.sets[1];
    there.w2.data = moving.sets[1] + FILTER1;
    run_alone(backend, &there, 0, 8, 0);
    assert_true(workspace_of(backend) > one);
    for (uint32_t flip = 1; flip <= 2; flip++) {
        const float *changed = ops_random(FILTERS, 50 + flip);
        move(&moving, changed);
        assert_int_equal(workspace_of(backend), one);
        assert_same("moved", run_alone(backend, &moving.parameters, 0, 8, 0),
                    of_a_fresh_device(changed));
    }
}

/* Caches that lie where the parameters come to, and that nothing replaces. */
static void what_was_cached_before_is_stale_when_parameters_come_back(void **state) {
    Backend *backend = *state;
    Moving moving = new_moving(backend, ops_random(FILTERS, 60));
    run_alone(backend, &moving.parameters, 0, 8, 0);
    moving.at = 1; /* where nothing was computed yet */
    const float *filters = ops_random(FILTERS, 61);
    move(&moving, filters);
    assert_same("come back", run_alone(backend, &moving.parameters, 0, 8, 0),
                of_a_fresh_device(filters));
}

static void activations_have_no_padding_and_images_stay_canonical(void **state) {
    Backend *backend = *state;
    for (int channels = 1; channels <= 33; channels++) {
        Tensor x = tensor_4d(NULL, 2, channels, 5, 7);
        assert_int_equal(backend->ops->layout(backend, &x), 2 * channels * 5 * 7 * 4);
        assert_int_equal(x.layout == 0, channels <= 3);
    }
    Tensor features = tensor_2d(NULL, 3, 100);
    assert_int_equal(backend->ops->layout(backend, &features), 3 * 100 * 4);
    assert_int_equal(features.layout, 0);
}

static void a_second_instruction_set_is_refused(void **state) {
    Backend *backend = *state, *other;
    bool is_avx2 = strstr(backend->kind, " avx2 ") != NULL;
    BackendOptions same = {.workers = 1, .isa = is_avx2 ? "avx2" : "avx512"};
    BackendOptions changed = {.workers = 1, .isa = is_avx2 ? "avx" : "avx2"};
    assert_ok(backend_open("cpu", &same, &other));
    assert_string_equal(other->kind, backend->kind);
    other->ops->close(other);
    assert_fails(backend_open("cpu", &changed, &other), STATUS_UNSUPPORTED, "is pinned to");
    assert_null(other);
}

static void other_precisions_than_fp32_are_refused(void **state) {
    (void)state;
    static const char *const devices[] = {"cpu", "reference"};
    for (int i = 0; i < 2; i++)
        for (Precision p = PRECISION_TF32; p <= PRECISION_BF16; p++) {
            Backend *other;
            BackendOptions options = {.workers = 1, .precision = p};
            assert_fails(backend_open(devices[i], &options, &other), STATUS_UNSUPPORTED,
                         p == PRECISION_TF32 ? "tf32" : "bf16");
            assert_null(other);
        }
}

static void memory_is_counted_while_it_lives(void **state) {
    Backend *backend = *state;
    BackendMemory before, with, after;
    void *memory;
    backend->ops->memory(backend, &before);
    assert_ok(backend->ops->allocate(backend, 1 << 20, &memory));
    backend->ops->memory(backend, &with);
    backend->ops->release(backend, memory);
    backend->ops->memory(backend, &after);
    assert_true(with.used - before.used >= 1 << 20);
    assert_true(with.used - before.used < (1 << 20) + 4096);
    assert_int_equal(after.used, before.used);
    assert_true(with.total > with.free && with.free > 0);
}

static void an_unknown_instruction_set_is_refused(void **state) {
    (void)state;
    Backend *other;
    BackendOptions unknown = {.workers = 1, .isa = "avx1024"};
    assert_fails(backend_open("cpu", &unknown, &other), STATUS_UNSUPPORTED, "avx1024");
}

/* Ends the child unless its convolutions agree with the reference's. */
static void child_checks_convolutions(Backend *backend, Backend *oracle) {
    Backend *both[2] = {oracle, backend};
    static const int shapes[][6] = {
        /* samples, channels, size, out channels, filter, stride */
        {4, 1, 12, 6, 5, 1},   {2, 1, 13, 16, 3, 2}, {2, 1, 9, 40, 7, 1},
        {3, 1, 7, 21, 1, 1},   {4, 3, 12, 16, 3, 1}, {4, 6, 9, 16, 5, 1},
        {4, 16, 12, 16, 3, 1}, {2, 24, 7, 40, 3, 2}, {2, 32, 5, 64, 1, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const int *s = shapes[i];
        float *got[2][4];
        int64_t counts[4];
        for (int d = 0; d < 2; d++) {
            Backend *b = both[d];
            Conv2d conv = {s[5], s[4] / 2, 1};
            int size = (s[2] + 2 * conv.padding - s[4]) / s[5] + 1;
            Tensor x = tensor_4d(NULL, s[0], s[1], s[2], s[2]);
            Tensor y = tensor_4d(NULL, s[0], s[3], size, size);
            Tensor w = tensor_4d(NULL, s[3], s[1], s[4], s[4]);
            Tensor db = ops_canonical(b, tensor_1d(NULL, s[3]));
            x = ops_activation_of(b, x, ops_random(tensor_elements(&x), 1));
            w = ops_canonical_of(b, w, ops_random(tensor_elements(&w), 2));
            Tensor dy = ops_activation_of(b, y, ops_random(tensor_elements(&y), 3));
            Tensor dx = ops_activation(b, x), dw = ops_canonical(b, w);
            y = ops_activation(b, y);
            if (b->ops->conv2d_forward(b, 0, &conv, &y, &x, &w, NULL) != STATUS_OK)
                _exit(4);
            if (b->ops->conv2d_backward(b, 0, &conv, &dx, &dw, &db, &dy, &x, &w) !=
                STATUS_OK)
                _exit(4);
            const Tensor *results[4] = {&y, &dx, &dw, &db};
            for (int r = 0; r < 4; r++) {
                got[d][r] = ops_get(b, results[r]);
                counts[r] = tensor_elements(results[r]);
            }
        }
        for (int r = 0; r < 4; r++) {
            double largest = 0.0;
            for (int64_t e = 0; e < counts[r]; e++)
                largest = fmax(largest, fabs((double)got[0][r][e]));
            for (int64_t e = 0; e < counts[r]; e++)
                if (!(fabs((double)got[0][r][e] - (double)got[1][r][e]) <= 1e-5 * largest))
                    _exit(5);
        }
    }
}

/* What a process pinned to `isa` computes for our own loops (batch norm, sums, pooling), bit by
 * bit, after it checked its convolutions against the reference. Runs in a child: a process can
 * pin only once. */
static void child_main(const char *isa, int pipe_end) {
    Backend *backend, *oracle;
    BackendOptions options = {.workers = 1, .isa = isa}, plain = {.workers = 1};
    if (backend_open("cpu", &options, &backend) != STATUS_OK) _exit(77);
    if (backend_open("reference", &plain, &oracle) != STATUS_OK) _exit(2);
    char name[32];
    snprintf(name, sizeof name, "cpu %s ", isa);
    if (strncmp(backend->kind, name, strlen(name)) != 0) _exit(3);
    child_checks_convolutions(backend, oracle);

    Tensor x = tensor_4d(NULL, 6, 20, 9, 9), c = tensor_1d(NULL, 20);
    x = ops_activation_of(backend, x, ops_random(tensor_elements(&x), 4));
    Tensor y = ops_activation(backend, x), dx = ops_activation(backend, x);
    Tensor of[8];
    for (uint32_t i = 0; i < 8; i++)
        of[i] = ops_canonical_of(backend, c, ops_random(20, 10 + i));
    BatchNorm norm = {&of[0], &of[1], NULL, true, 1e-5f};
    const BackendOps *ops = backend->ops;
    if (ops->batch_norm_forward(backend, 0, &norm, &y, &x, &of[2], &of[3], &of[4],
                                &of[5]) != STATUS_OK ||
        ops->batch_norm_backward(backend, 0, &norm, &dx, &of[6], &of[7], NULL, &x, &y, &x,
                                 &of[2], &of[3]) != STATUS_OK)
        _exit(6);
    size_t bytes = (size_t)tensor_elements(&dx) * sizeof(float);
    if (write(pipe_end, dx.data, bytes) != (ssize_t)bytes) _exit(7);
    _exit(0);
}

static void every_instruction_set_agrees_and_leaves_our_own_loops_alone(void **state) {
    (void)state;
    static const char *const sets[] = {"avx512", "avx2", "avx", "sse41"};
    enum { SETS = 4, FLOATS = 6 * 20 * 9 * 9 };
    float *first = NULL;
    int ran = 0;
    for (int i = 0; i < SETS; i++) {
        int ends[2], status;
        assert_int_equal(pipe(ends), 0);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) child_main(sets[i], ends[1]);
        close(ends[1]);
        float *values = ops_host(FLOATS);
        size_t have = 0, all = FLOATS * sizeof *values;
        for (ssize_t got = 1; have < all && got > 0; have += (size_t)(got > 0 ? got : 0))
            got = read(ends[0], (char *)values + have, all - have);
        close(ends[0]);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status));
        if (WEXITSTATUS(status) == 77) {
            print_message("SKIPPED: %s, which this processor has not\n", sets[i]);
            continue;
        }
        assert_int_equal(WEXITSTATUS(status), 0);
        assert_int_equal(have, all);
        if (first != NULL) ops_assert_bits(sets[i], values, first, FLOATS);
        first = values;
        ran++;
    }
    assert_true(ran >= 3);
}

int main(void) {
    /* before anything uses oneDNN: children must be able to pin another set */
    struct CMUnitTest before[] = {cmocka_unit_test_teardown(
        every_instruction_set_agrees_and_leaves_our_own_loops_alone, ops_release_all)};
    int failed = cmocka_run_group_tests(before, NULL, NULL);

    Backend *backend;
    BackendOptions options = {.workers = WORKERS};
    if (backend_open("cpu", &options, &backend) != STATUS_OK) {
        status_print(status_failure());
        return 1;
    }
    struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate_setup_teardown(
            bits_do_not_depend_on_neighbours_worker_history_or_addresses, NULL,
            ops_release_all, backend),
        cmocka_unit_test_prestate_setup_teardown(
            parameters_that_moved_are_used_with_their_new_values, NULL, ops_release_all,
            backend),
        cmocka_unit_test_prestate_setup_teardown(
            a_cache_made_at_both_places_is_one_after_the_move, NULL, ops_release_all,
            backend),
        cmocka_unit_test_prestate_setup_teardown(
            what_was_cached_before_is_stale_when_parameters_come_back, NULL,
            ops_release_all, backend),
        cmocka_unit_test_prestate(activations_have_no_padding_and_images_stay_canonical,
                                  backend),
        cmocka_unit_test_prestate(a_second_instruction_set_is_refused, backend),
        cmocka_unit_test_prestate(other_precisions_than_fp32_are_refused, backend),
        cmocka_unit_test_prestate(memory_is_counted_while_it_lives, backend),
        cmocka_unit_test_prestate(an_unknown_instruction_set_is_refused, backend),
    };
    failed += cmocka_run_group_tests(tests, NULL, NULL);
    backend->ops->close(backend);
    return failed;
}
