/* The scalars' names and types, once. */
#include "src/train/scalars.h"

#include <assert.h>
#include <stddef.h>

static const struct {
    const char *path;
    DType dtype;
    size_t field; /* of the pointer in Scalars */
} scalars[] = {
    {"progress/step", DTYPE_I64, offsetof(Scalars, step)},
    {"progress/epoch", DTYPE_I64, offsetof(Scalars, epoch)},
    {"progress/position", DTYPE_I64, offsetof(Scalars, position)},
    {"rng/seed", DTYPE_U64, offsetof(Scalars, seed)},
    {"schedule/total_steps", DTYPE_I64, offsetof(Scalars, total_steps)},
    {"evaluation/step", DTYPE_I64, offsetof(Scalars, evaluated_step)},
    {"evaluation/loss", DTYPE_F64, offsetof(Scalars, evaluated_loss)},
    {"evaluation/accuracy", DTYPE_F64, offsetof(Scalars, evaluated_accuracy)},
    {"best/accuracy", DTYPE_F64, offsetof(Scalars, best_accuracy)},
    {"best/step", DTYPE_I64, offsetof(Scalars, best_step)},
    {"epoch/loss_sum", DTYPE_F64, offsetof(Scalars, epoch_loss)},
    {"epoch/correct", DTYPE_F64, offsetof(Scalars, epoch_correct)},
    {"epoch/last_loss", DTYPE_F64, offsetof(Scalars, last_epoch_loss)},
};

enum { SCALARS = sizeof scalars / sizeof *scalars };

Status scalars_declare(State *state) {
    for (int i = 0; i < SCALARS; i++)
        TRY(state_declare(state, ARENA_SCALAR, scalars[i].path, scalars[i].dtype, 0, NULL,
                          NULL));
    return STATUS_OK;
}

Scalars scalars_find(const State *state) {
    Scalars found;
    for (int i = 0; i < SCALARS; i++) {
        int index = state_find(state, scalars[i].path);
        assert(index >= 0);
        *(void **)((char *)&found + scalars[i].field) = state_data(state, index);
    }
    return found;
}
