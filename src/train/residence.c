/* The way of the arenas to the device and back. */
#include "src/train/residence.h"

static bool is_elsewhere(const Arena *arena) {
    return arena->device != NULL && arena->device != arena->data;
}

Status residence_open(State *state, Backend *backend) {
    for (int i = 0; i < ARENA_COUNT; i++) {
        Arena *arena = &state->arenas[i];
        if (i == ARENA_SCALAR || arena->bytes == 0) continue;
        if (backend->ops->host_memory) {
            arena->device = arena->data;
            continue;
        }
        TRY(backend->ops->allocate(backend, arena->bytes, &arena->device));
        size_t whole = (arena->bytes + STATE_PAGE - 1) / STATE_PAGE * STATE_PAGE;
        Status pinned = backend->ops->pin(backend, arena->data, whole);
        if (pinned != STATUS_OK) {
            backend->ops->release(backend, arena->device);
            arena->device = NULL;
            return pinned;
        }
    }
    return STATUS_OK;
}

void residence_close(State *state, Backend *backend) {
    for (int i = 0; i < ARENA_COUNT; i++) {
        Arena *arena = &state->arenas[i];
        if (is_elsewhere(arena)) {
            backend->ops->unpin(backend, arena->data);
            backend->ops->release(backend, arena->device);
        }
        arena->device = NULL;
    }
}

Status residence_upload(State *state, Backend *backend) {
    for (int i = 0; i < ARENA_COUNT; i++) {
        const Arena *arena = &state->arenas[i];
        if (is_elsewhere(arena))
            TRY(backend->ops->copy_in(backend, arena->device, arena->data, arena->bytes));
    }
    const Arena *parameters = &state->arenas[ARENA_PARAMETER];
    return backend->ops->parameters_changed(backend, parameters->device,
                                            (int64_t)(parameters->bytes / sizeof(float)));
}

Status residence_fetch(State *state, Backend *backend) {
    for (int i = 0; i < ARENA_COUNT; i++) {
        const Arena *arena = &state->arenas[i];
        if (is_elsewhere(arena))
            TRY(backend->ops->fetch(backend, arena->data, arena->device, arena->bytes));
    }
    return STATUS_OK;
}

Status residence_fetched(State *state, Backend *backend) {
    (void)state;
    return backend->ops->fetch_finish(backend);
}
