/* A second view of the registry, whose arenas are the live ones until an update has written elsewhere. */
#include "src/train/snapshot.h"

#include "src/core/task.h"
#include "src/train/residence.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct Snapshot {
    State *live;
    Backend *backend;
    State view; /* the live registry, with arenas as they were when it was taken */
    Arena spare[ARENA_COUNT]; /* data NULL: there is none */
    bool has_spare;
    Task *toucher; /* of the spare set's pages; NULL where there is none */
    bool taken, whole;
};

/* What the kernel could give without swapping; 0: not known. */
static double available_bytes(void) {
    double kib = 0;
    char line[128];
    FILE *file = fopen("/proc/meminfo", "re");
    if (file == NULL) return 0;
    while (fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "MemAvailable: %lf kB", &kib) == 1) break;
    fclose(file);
    return kib * 1024;
}

static double set_bytes(const State *live) {
    double bytes = 0;
    for (int i = 0; i < ARENA_SCALAR; i++)
        bytes += (double)live->arenas[i].bytes;
    return bytes;
}

bool snapshot_spare_fits(const State *live, const Backend *backend, int ranks_here) {
    return backend->ops->host_memory &&
           2 * ranks_here * set_bytes(live) <= available_bytes();
}

static Status allocate_spare(Snapshot *self) {
    for (int i = 0; i < ARENA_SCALAR; i++) {
        size_t bytes = self->live->arenas[i].bytes;
        if (bytes == 0) continue;
        void *data = state_allocate_arena(bytes);
        if (data == NULL)
            return FAIL(STATUS_MEMORY, "set checkpoint.memory: overlap",
                        "no memory for a second set of the state (%.1f MiB)",
                        set_bytes(self->live) / 1048576.0);
        self->spare[i] = (Arena){.data = data, .device = data, .bytes = bytes};
    }
    self->has_spare = true;
    return STATUS_OK;
}

/* An update may write there meanwhile: no byte is changed. */
static void touch(void *context) {
    enum { POPULATE_WRITE = 23 }; /* MADV_POPULATE_WRITE, which older headers lack */
    const Snapshot *self = context;
    for (int i = 0; i < ARENA_SCALAR; i++)
        if (self->spare[i].data !=
            NULL) /* an older kernel refuses: then the update does it */
            madvise(self->spare[i].data, self->spare[i].bytes / STATE_PAGE * STATE_PAGE,
                    POPULATE_WRITE);
}

Status snapshot_open(State *live, Backend *backend, SnapshotMemory memory, Snapshot **out) {
    *out = NULL;
    Snapshot *self = calloc(1, sizeof *self);
    if (self == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for a snapshot");
    self->live = live;
    self->backend = backend;
    self->view = *live;
    Arena *scalars = &self->view.arenas[ARENA_SCALAR];
    scalars->data = state_allocate_arena(scalars->bytes);
    Status status = scalars->data != NULL
                        ? STATUS_OK
                        : FAIL(STATUS_MEMORY, NULL, "no memory for a snapshot");
    if (status == STATUS_OK && memory == SNAPSHOT_SPARE && backend->ops->host_memory)
        status = allocate_spare(self);
    if (status != STATUS_OK) {
        snapshot_close(self);
        return status;
    }
    if (self->has_spare && task_open(&self->toucher) == STATUS_OK)
        task_begin(self->toucher, touch, self);
    *out = self;
    return STATUS_OK;
}

void snapshot_close(Snapshot *self) {
    if (self == NULL) return;
    task_close(self->toucher);
    for (int i = 0; i < ARENA_SCALAR; i++)
        free(self->spare[i].data);
    free(self->view.arenas[ARENA_SCALAR].data);
    free(self);
}

size_t snapshot_spare_bytes(const Snapshot *self) {
    return self->has_spare ? (size_t)set_bytes(self->live) : 0;
}

Status snapshot_take(Snapshot *self) {
    for (int i = 0; i < ARENA_SCALAR; i++)
        self->view.arenas[i] = self->live->arenas[i];
    const Arena *scalars = &self->live->arenas[ARENA_SCALAR];
    if (scalars->bytes > 0)
        memcpy(self->view.arenas[ARENA_SCALAR].data, scalars->data, scalars->bytes);
    TRY(residence_fetch(self->live, self->backend));
    self->taken = true;
    self->whole = self->backend->ops->host_memory;
    return STATUS_OK;
}

void snapshot_arrived(Snapshot *self) {
    self->whole = self->taken;
}

Status snapshot_wait(Snapshot *self) {
    if (self->taken && !self->whole) TRY(residence_fetched(self->live, self->backend));
    snapshot_arrived(self);
    return STATUS_OK;
}

void snapshot_release(Snapshot *self) {
    self->taken = self->whole = false;
}

bool snapshot_is_taken(const Snapshot *self) {
    return self->taken;
}

bool snapshot_is_whole(const Snapshot *self) {
    return self->whole;
}

const State *snapshot_state(const Snapshot *self) {
    return &self->view;
}

/* Parameters are never empty: they tell whether the sets have changed places since. */
bool snapshot_is_in_the_way(const Snapshot *self) {
    return self->taken && self->backend->ops->host_memory &&
           self->view.arenas[ARENA_PARAMETER].data ==
               self->live->arenas[ARENA_PARAMETER].data;
}

Arena *snapshot_target(Snapshot *self) {
    return self->has_spare && snapshot_is_in_the_way(self) ? self->spare : NULL;
}
