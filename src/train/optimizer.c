/* Splits the arenas into pieces that workers pass over; every piece is elementwise, so the split
 * changes no bit. */
#include "src/train/optimizer.h"

#include "src/core/elementary.h"
#include "src/core/tree.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 65536 }; /* floats a piece; part of the norm's definition: never change */

typedef struct {
    int64_t first, count;
    float weight_decay;
} Piece;

struct Optimizer {
    const Config *config;
    State *state;
    Backend *backend;
    Workers *workers;
    Piece *pieces;
    int piece_count;
    double *chunk_sums;
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
static Status cut_pieces(Optimizer *self) {
    const State *state = self->state;
    int room = (int)(self->length / CHUNK) + state->count + 1;
    self->pieces = calloc((size_t)room, sizeof *self->pieces);
    if (self->pieces == NULL)
        return FAIL(STATUS_MEMORY, NULL, "no memory for the optimizer");
    for (int i = 0; i < state->count; i++) {
        const Entry *entry = &state->entries[i];
        if (entry->arena != ARENA_PARAMETER) continue;
        bool decays = entry->rank > 1 || self->config->optimizer.decay_all;
        float decay = decays ? (float)self->config->optimizer.weight_decay : 0;
        int64_t first = (int64_t)(entry->offset / sizeof(float));
        int64_t end = first + (int64_t)((entry->bytes + STATE_ALIGNMENT - 1) /
                                        STATE_ALIGNMENT * STATE_ALIGNMENT / sizeof(float));
        while (first < end) {
            Piece *last =
                self->piece_count > 0 ? &self->pieces[self->piece_count - 1] : NULL;
            if (last != NULL && last->weight_decay == decay && last->count < CHUNK) {
                int64_t more =
                    CHUNK - last->count < end - first ? CHUNK - last->count : end - first;
                last->count += more;
                first += more;
                continue;
            }
            self->pieces[self->piece_count++] = (Piece){first, 0, decay};
        }
    }
    return STATUS_OK;
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
    self->chunk_sums = calloc((size_t)self->chunk_count + 1, sizeof *self->chunk_sums);
    Status status = self->chunk_sums == NULL
                        ? FAIL(STATUS_MEMORY, NULL, "no memory for the optimizer")
                        : cut_pieces(self);
    if (status != STATUS_OK) {
        optimizer_close(self);
        return status;
    }
    *out = self;
    return STATUS_OK;
}

void optimizer_close(Optimizer *self) {
    if (self == NULL) return;
    free(self->pieces);
    free(self->chunk_sums);
    free(self);
}

static Status sum_chunks(void *context, int worker) {
    Optimizer *self = context;
    for (;;) {
        int chunk = atomic_fetch_add(&self->next, 1);
        if (chunk >= self->chunk_count) return STATUS_OK;
        int64_t first = (int64_t)chunk * CHUNK;
        int64_t count = self->length - first < CHUNK ? self->length - first : CHUNK;
        TRY(self->backend->ops->sum_squares(self->backend, worker, self->gradient + first,
                                            count, &self->chunk_sums[chunk]));
    }
}

static double tree_sum(const double *values, int first, int end) {
    if (end - first == 1) return values[first];
    int split = tree_split(first, end);
    return tree_sum(values, first, split) + tree_sum(values, split, end);
}

Status optimizer_norm(Optimizer *self, const float *gradient, double *norm) {
    self->gradient = gradient;
    atomic_store(&self->next, 0);
    TRY(workers_run(self->workers, sum_chunks, self));
    *norm = __builtin_sqrt(tree_sum(self->chunk_sums, 0, self->chunk_count));
    return STATUS_OK;
}

static Status apply_pieces(void *context, int worker) {
    Optimizer *self = context;
    bool adam = !is_kind(self->config, "sgd");
    for (;;) {
        int index = atomic_fetch_add(&self->next, 1);
        if (index >= self->piece_count) break;
        const Piece *piece = &self->pieces[index];
        OptimizerPass pass = self->pass;
        pass.w += piece->first;
        pass.g += piece->first;
        if (pass.m != NULL) pass.m += piece->first;
        if (pass.v != NULL) pass.v += piece->first;
        pass.count = piece->count;
        pass.weight_decay = piece->weight_decay;
        TRY(adam ? self->backend->ops->adam(self->backend, worker, &pass)
                 : self->backend->ops->sgd(self->backend, worker, &pass));
    }
    return self->backend->ops->finish(self->backend, worker);
}

Status optimizer_apply(Optimizer *self, const float *gradient, double norm, int64_t step,
                       double lr) {
    const Config *config = self->config;
    const Arena *arenas = self->state->arenas;
    double clip = config->optimizer.clip_norm;
    int64_t t = step + 1;
    self->pass = (OptimizerPass){
        .w = arenas[ARENA_PARAMETER].data,
        .m = arenas[ARENA_MOMENT1].data,
        .v = arenas[ARENA_MOMENT2].data,
        .g = gradient,
        .gradient_scale = clip > 0 && norm > clip ? (float)(clip / (norm + 1e-6)) : 1.0f,
        .lr = (float)lr,
        .momentum = (float)config->optimizer.momentum,
        .nesterov = config->optimizer.nesterov,
        .beta1 = config->optimizer.beta1,
        .beta2 = config->optimizer.beta2,
        .epsilon = (float)config->optimizer.epsilon,
        .correction1 = (float)(1.0 - element_pow_int(config->optimizer.beta1, t)),
        .correction2_sqrt =
            (float)__builtin_sqrt(1.0 - element_pow_int(config->optimizer.beta2, t)),
        .decoupled = is_kind(config, "adamw"),
    };
    atomic_store(&self->next, 0);
    TRY(workers_run(self->workers, apply_pieces, self));
    return self->backend->ops->parameters_changed(self->backend, self->pass.w,
                                                  self->length);
}
