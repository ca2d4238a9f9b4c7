/* Splits the arenas into pieces that workers pass over; every piece is elementwise, so the split
 * changes no bit. A single worker is given all of them at once. */
#include "src/train/optimizer.h"

#include "src/core/elementary.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 65536 }; /* floats a piece; part of the norm's definition: never change */

struct Optimizer {
    const Config *config;
    State *state;
    Backend *backend;
    Workers *workers;
    OptimizerPiece *pieces; /* of the device */
    int piece_count;
    double *chunk_sums; /* of the device */
    int chunk_count;
    int64_t length; /* floats in the parameter arena */
    /* of the running job */
    atomic_int next;
    const float *gradient;
    OptimizerPass pass;
};

static bool is_kind(const Config *config, const char *kind) {
    return strcmp(config->optimizer.kind, kind) == 0;
}

static Status declare_moment(State *state, ArenaKind arena, const char *moment) {
    int count = state->count;
    for (int i = 0; i < count; i++) {
        const Entry entry = state->entries[i]; /* a copy: declaring moves the entries */
        if (entry.arena != ARENA_PARAMETER) continue;
        char path[2 * STATE_PATH_MAX];
        snprintf(path, sizeof path, "optimizer/%s/%s", moment,
                 entry.path + strlen("model/"));
        TRY(state_declare(state, arena, path, DTYPE_F32, entry.rank, entry.shape, NULL));
    }
    return STATUS_OK;
}

Status optimizer_declare(const Config *config, State *state) {
    if (is_kind(config, "sgd"))
        return config->optimizer.momentum > 0
                   ? declare_moment(state, ARENA_MOMENT1, "momentum")
                   : STATUS_OK;
    TRY(declare_moment(state, ARENA_MOMENT1, "moment1"));
    return declare_moment(state, ARENA_MOMENT2, "moment2");
}

/* Cuts the parameters into pieces of one weight decay. Tensors of rank 1 are norms and biases. */
static void cut_pieces(Optimizer *self, OptimizerPiece *pieces) {
    const State *state = self->state;
    for (int i = 0; i < state->count; i++) {
        const Entry *entry = &state->entries[i];
        if (entry->arena != ARENA_PARAMETER) continue;
        bool decays = entry->rank > 1 || self->config->optimizer.decay_all;
        float decay = decays ? (float)self->config->optimizer.weight_decay : 0;
        int64_t first = (int64_t)(entry->offset / sizeof(float));
        int64_t end = first + (int64_t)((entry->bytes + STATE_ALIGNMENT - 1) /
                                        STATE_ALIGNMENT * STATE_ALIGNMENT / sizeof(float));
        while (first < end) {
            OptimizerPiece *last =
                self->piece_count > 0 ? &pieces[self->piece_count - 1] : NULL;
            if (last != NULL && last->weight_decay == decay && last->count < CHUNK) {
                int64_t more =
                    CHUNK - last->count < end - first ? CHUNK - last->count : end - first;
                last->count += more;
                first += more;
                continue;
            }
            pieces[self->piece_count++] = (OptimizerPiece){first, 0, decay};
        }
    }
}

static Status place_pieces(Optimizer *self) {
    const BackendOps *ops = self->backend->ops;
    size_t room = (size_t)(self->length / CHUNK) + (size_t)self->state->count + 1;
    OptimizerPiece *pieces = calloc(room, sizeof *pieces);
    if (pieces == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for the optimizer");
    cut_pieces(self, pieces);
    size_t bytes = (size_t)self->piece_count * sizeof *pieces;
    Status status = ops->allocate(self->backend, bytes, (void **)&self->pieces);
    if (status == STATUS_OK)
        status = ops->copy_in(self->backend, self->pieces, pieces, bytes);
    free(pieces);
    TRY(status);
    return ops->allocate(self->backend, (size_t)self->chunk_count * sizeof(double),
                         (void **)&self->chunk_sums);
}

Status optimizer_open(const Config *config, State *state, Backend *backend,
                      Workers *workers, Optimizer **out) {
    *out = NULL;
    Optimizer *self = calloc(1, sizeof *self);
    if (self == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for the optimizer");
    self->config = config;
    self->state = state;
    self->backend = backend;
    self->workers = workers;
    self->length = (int64_t)(state->arenas[ARENA_PARAMETER].bytes / sizeof(float));
    self->chunk_count = (int)((self->length + CHUNK - 1) / CHUNK);
    Status status = place_pieces(self);
    if (status != STATUS_OK) {
        optimizer_close(self);
        return status;
    }
    *out = self;
    return STATUS_OK;
}

void optimizer_close(Optimizer *self) {
    if (self == NULL) return;
    self->backend->ops->release(self->backend, self->pieces);
    self->backend->ops->release(self->backend, self->chunk_sums);
    free(self);
}

StepValues optimizer_values(const Config *config, int64_t step, double lr) {
    int64_t t = step + 1;
    return (StepValues){
        .step = (uint32_t)step,
        .lr = (float)lr,
        .correction1 = (float)(1.0 - element_pow_int(config->optimizer.beta1, t)),
        .correction2_sqrt =
            (float)__builtin_sqrt(1.0 - element_pow_int(config->optimizer.beta2, t)),
    };
}

/* Others go on with what this worker has given; a single one has its own order. */
static Status hand_over(Optimizer *self, int worker) {
    if (workers_count(self->workers) == 1) return STATUS_OK;
    return self->backend->ops->finish(self->backend, worker);
}

/* The next of `count` items, one or, for a single worker, all: [*first, returned end). */
static int claim(Optimizer *self, int count, int *first) {
    if (workers_count(self->workers) == 1) {
        *first = atomic_exchange(&self->next, count);
        return count;
    }
    *first = atomic_fetch_add(&self->next, 1);
    return *first < count ? *first + 1 : count;
}

static Status sum_chunks(void *context, int worker) {
    Optimizer *self = context;
    for (;;) {
        int first, end = claim(self, self->chunk_count, &first);
        if (first >= end) return hand_over(self, worker);
        int64_t from = (int64_t)first * CHUNK, to = (int64_t)end * CHUNK;
        if (to > self->length) to = self->length;
        TRY(self->backend->ops->sum_squares(self->backend, worker, self->gradient + from,
                                            to - from, CHUNK, self->chunk_sums + first));
    }
}

Status optimizer_judge(Optimizer *self, const float *gradient, const float *metrics,
                       StepVerdict *verdict) {
    self->gradient = gradient;
    atomic_store(&self->next, 0);
    TRY(workers_run(self->workers, sum_chunks, self));
    return self->backend->ops->judge(self->backend, 0, self->chunk_sums, self->chunk_count,
                                     self->config->optimizer.clip_norm, metrics, verdict);
}

static Status apply_pieces(void *context, int worker) {
    Optimizer *self = context;
    const BackendOps *ops = self->backend->ops;
    bool adam = !is_kind(self->config, "sgd");
    for (;;) {
        int first, end = claim(self, self->piece_count, &first);
        if (first >= end) break;
        const OptimizerPiece *pieces = self->pieces + first;
        TRY(adam ? ops->adam(self->backend, worker, &self->pass, pieces, end - first)
                 : ops->sgd(self->backend, worker, &self->pass, pieces, end - first));
    }
    return hand_over(self, worker);
}

Status optimizer_apply(Optimizer *self, const float *gradient, const StepValues *values,
                       const StepVerdict *verdict, const Arena *target) {
    const Config *config = self->config;
    const BackendOps *ops = self->backend->ops;
    const Arena *from = self->state->arenas, *to = target != NULL ? target : from;
    self->pass = (OptimizerPass){
        .w = to[ARENA_PARAMETER].device,
        .m = to[ARENA_MOMENT1].device,
        .v = to[ARENA_MOMENT2].device,
        .w_from = from[ARENA_PARAMETER].device,
        .m_from = from[ARENA_MOMENT1].device,
        .v_from = from[ARENA_MOMENT2].device,
        .g = gradient,
        .values = values,
        .verdict = verdict,
        .momentum = (float)config->optimizer.momentum,
        .nesterov = config->optimizer.nesterov,
        .beta1 = config->optimizer.beta1,
        .beta2 = config->optimizer.beta2,
        .epsilon = (float)config->optimizer.epsilon,
        .decoupled = is_kind(config, "adamw"),
    };
    atomic_store(&self->next, 0);
    TRY(workers_run(self->workers, apply_pieces, self));
    if (target == NULL)
        return ops->parameters_changed(self->backend, self->pass.w, self->length);
    return ops->parameters_moved(self->backend, self->pass.w_from, self->pass.w,
                                 self->length);
}
