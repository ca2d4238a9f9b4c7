/* A run directory made and thrown away by a test, with small real checkpoints in it. */
#pragma once

#include "src/checkpoint/catalog.h"
#include "src/core/file.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    char path[64];
    int directory; /* of its checkpoints */
} RunDirectory;

static inline int remove_one(const char *path, const struct stat *about, int kind,
                             struct FTW *where) {
    (void)about;
    (void)kind;
    (void)where;
    return remove(path);
}

/* In memory where there is such a place: hundreds of synced files then cost nothing. */
static inline RunDirectory run_directory_create(void) {
    RunDirectory run;
    char checkpoints[96];
    snprintf(run.path, sizeof run.path, "%s/rekindle-run-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (mkdtemp(run.path) == NULL) abort();
    snprintf(checkpoints, sizeof checkpoints, "%s/checkpoints", run.path);
    if (mkdir(checkpoints, 0755) != 0) abort();
    run.directory = open(checkpoints, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return run;
}

static inline void run_directory_remove(RunDirectory *run) {
    close(run->directory);
    nftw(run->path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* The registry of these tests: a few arenas, some values a function of the step. */
static inline State *stepped_state(int64_t step) {
    State *state;
    const int64_t weight[] = {40, 50}, bias[] = {10};
    if (state_create(&state) != STATUS_OK ||
        state_declare(state, ARENA_PARAMETER, "model/fc.weight", DTYPE_F32, 2, weight,
                      NULL) != STATUS_OK ||
        state_declare(state, ARENA_PARAMETER, "model/fc.bias", DTYPE_F32, 1, bias, NULL) !=
            STATUS_OK ||
        state_declare(state, ARENA_SCALAR, "progress/step", DTYPE_I64, 0, NULL, NULL) !=
            STATUS_OK ||
        state_allocate(state) != STATUS_OK)
        abort();
    float *values = state_data(state, 0);
    for (int i = 0; i < 2000; i++)
        values[i] = (float)step + 0.001f * (float)i;
    *(int64_t *)state_data(state, 2) = step;
    return state;
}

/* Writes generation's checkpoint of `step`, as a launch would, and gives its state_digest. */
static inline Digest write_stepped(const RunDirectory *run, int64_t generation,
                                   int64_t step) {
    State *state = stepped_state(step);
    const CheckpointText text = {"{}", "run: {}\n", "[]"};
    CheckpointPlan *plan;
    UserBlock block = {.generation = generation, .step = step, .ranks = 1};
    char name[CATALOG_NAME];
    catalog_name(generation, step, name);
    if (checkpoint_plan(state, &text, 0, &plan) != STATUS_OK ||
        checkpoint_write(plan, state, run->directory, name, &block) != STATUS_OK) {
        fprintf(stderr, "cannot write %s: %s\n", name, status_failure()->what);
        abort();
    }
    Digest digest = state_digest(state);
    checkpoint_plan_destroy(plan);
    state_destroy(state);
    return digest;
}

/* Flips one bit of a file; a negative offset counts from its end. */
static inline void flip_bit(const RunDirectory *run, int64_t generation, int64_t step,
                            long offset) {
    char name[CATALOG_NAME];
    unsigned char byte;
    struct stat about;
    catalog_name(generation, step, name);
    int fd = openat(run->directory, name, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &about) != 0) abort();
    off_t at = offset < 0 ? about.st_size + offset : offset;
    if (pread(fd, &byte, 1, at) != 1) abort();
    byte ^= 1;
    if (pwrite(fd, &byte, 1, at) != 1) abort();
    close(fd);
}

static inline int has_checkpoint(const RunDirectory *run, int64_t generation,
                                 int64_t step) {
    char name[CATALOG_NAME];
    catalog_name(generation, step, name);
    return faccessat(run->directory, name, F_OK, 0) == 0;
}

static inline OwnerClaim claim_of(int64_t generation, int64_t step, Digest digest) {
    OwnerClaim claim = {.restored_step = step, .restored_digest = digest};
    catalog_name(generation, step, claim.restored_from);
    return claim;
}
