/* What the files of the trainer share: trainer_start.c opens a launch, trainer.c steps, boundary.c evaluates and
 * decides what is saved, saving.c saves, holding.c holds, ledger.c tells what it cost. Nobody else includes
 * this. */
#pragma once

#include "src/checkpoint/mirror.h"
#include "src/checkpoint/saver.h"
#include "src/train/evaluate.h"
#include "src/train/journal.h"
#include "src/train/lineage.h"
#include "src/train/residence.h"
#include "src/train/schedule.h"
#include "src/train/setup.h"
#include "src/train/snapshot.h"
#include "src/train/step.h"

#include <jansson.h>

/* A step that is given to the device: where the run stands once it is done. */
typedef struct {
    int64_t step, epoch, position;
    int64_t ended; /* samples of the epoch that it ends; 0: it ends none */
} GivenStep;

typedef struct {
    Setup base;
    Requests requests;
    Timetable timetable; /* rank 0's counts */
    Horizon horizon;
    Owner owner; /* rank 0 */
    bool owned;
    CheckpointText text; /* rank 0, as the two below */
    char *config_yaml;
    Lineage *lineage;
    Saver *saver;
    Snapshot *snapshot;
    struct {
        UserBlock block;
        const char *why;
        bool held;    /* in memory only, that is */
        bool begun;   /* the snapshot is the saver's, which still reads it */
        double stall; /* seconds that training has waited for it */
        double
            waiting_since; /* clock_seconds(), while it waits for its end; 0: it does not */
        int deferrals;
    } saving; /* the newest one */
    struct {
        LocalPlace place; /* of a host's first rank, where it has one */
        bool opened;      /* `place` is initialised */
        bool on;          /* some host has one; the same on every rank */
        bool any;         /* since the start */
        int hosts;        /* that held the newest */
        int count, failed, skipped;
        char *lineage; /* rank 0's, on the others */
        Digest told;   /* the one that they have */
    } holding;
    bool
        overlaps; /* the update of some rank may have to wait for its saver; the same on every rank */
    const char
        *deferred;  /* why a save is due that waits for the one in flight; NULL: none is */
    int deferrals;  /* how often one fell due and waited, since the newest one */
    Mirror *mirror; /* rank 0, where one is configured */
    int mirror_failures;
    Journal *journal; /* rank 0 */
    Step *step;
    Evaluator *evaluator;
    Loader *loader;
    GivenStep given[STEPS_GIVEN]; /* and not collected, the oldest first */
    int given_count;
    size_t evaluation_bytes; /* of the device's memory */
    int64_t launch_steps, launch_samples;
    int64_t
        taken_step; /* of which a snapshot was taken last, or that was restored; -1: none */
    int64_t saved_step; /* the newest that is durable; -1: none */
    char saved_name[64];
    bool out_of_time; /* the stop is for the time limit */
    double opened;    /* clock_seconds() when the launch began, */
    double set_up;    /* … when its setup was there, */
    double started;   /* … at the first step, */
    double ended;     /* … and behind the last one */
    struct {
        double evaluating, stall, cost; /* seconds; of saves: waited for, and lost in all */
        int saves, failed, deferred;
    } spent; /* by this launch */
} Trainer;

static inline bool trainer_is_first(const Trainer *self) {
    return self->base.collective->rank == 0;
}

static inline Status trainer_agree(Trainer *self, Status mine) {
    return self->base.collective->ops->agree(self->base.collective, mine);
}

/* Writes an object (may be NULL: no memory) as a line of the journal and frees it. The journal is for
 * people: a line that cannot be written is said, and training goes on. Ranks: local; rank 0 */
void trainer_note(Status (*write)(Journal *, const char *), Journal *journal,
                  json_t *object);

/* From a setup to the first step: a fresh start's values, the run directory, all parts. Collective.
 * Memory: trainer_stop, also after a failure. Errors: the first failing rank's, on every rank */
Status trainer_start(Trainer *self);
void trainer_stop(Trainer *self);

/* Says what the device's memory is used for: once all of it is there, after the first step. */
void trainer_print_memory(const Trainer *self);

/* Whether the state of this boundary is to be evaluated: where one is configured, once. Due right after
 * a restore: a stop cut it short. */
bool boundary_evaluation_is_due(const Trainer *self);

/* Whether boundary_pass will do anything here: what the newest step came to must be known before. */
bool boundary_is_due(const Trainer *self, uint32_t bits);

/* Brings the device's state to the host, where checkpoints and digests see it. Collective where there is
 * anything to bring. Errors: the first failing rank's, on every rank */
Status boundary_fetch_state(Trainer *self);

/* ---- saving.c. Errors of all of them: the same on every rank, and the run cannot go on */

/* Takes the state of this boundary and begins to save it, once the save in flight is over. A save that fails is
 * said and counted; training goes on, and the saver turns too many in a row into a failure. `last`: waits
 * until it is durable; a failure is tried again, and then it is the launch's: nobody may be told "finished" or
 * "stopped" of a state that is lost. Collective */
Status saving_begin(Trainer *self, const char *why, bool last);

/* Once a step, with its control word: moves the save in flight on and tells what came of it. Collective */
Status saving_advance(Trainer *self, uint32_t bits);

/* Where the update of this step has to write; waits where the snapshot is in its way. Collective */
Status saving_target(Trainer *self, Arena **target);

/* Whether a save is in flight. The same on every rank between two steps. */
bool saving_is_busy(const Trainer *self);

Status saving_finish(Trainer *self); /* waits for it. Collective */

/* Takes the state of this boundary and has the hosts hold it; no save is in flight. Collective */
Status saving_hold(Trainer *self);

/* ---- holding.c: snapshots in each host's memory (checkpoint.local) */

/* Opens the place of each host, once the run directory is owned. Collective. Memory: holding_close */
Status holding_open(Trainer *self);
void holding_close(Trainer *self);
void holding_print(const Trainer *self);

/* Whether the state of this boundary is to be held, unless it is saved. The same on every rank. */
bool holding_is_due(const Trainer *self);
void holding_skip(Trainer *self); /* it is due, but a save is in flight */

/* Before a state is held: ranks that write get the texts. Without memory for them nothing is held any more.
 * Collective */
Status holding_prepare(Trainer *self);

/* What came of it. The same event on every rank. */
void holding_tell(Trainer *self, const SaverEvent *event);

/* The newest state is saved, and the launch ends: what is held serves nobody any more. Local */
void holding_finish(Trainer *self);

/* ---- ledger.c: the lines of ledger.jsonl. Local; nothing happens on other ranks than rank 0 */

/* This launch as an object: an element of the lineage. NULL: no memory. Memory: the caller's */
json_t *ledger_describe_launch(const Trainer *self, int64_t generation);

void ledger_note_start(Trainer *self); /* the launch, and its restore */
void ledger_note_save(Trainer *self, const SaverEvent *event, double cost);
void ledger_note_hold(Trainer *self, const SaverEvent *event);
void ledger_note_mirror(Trainer *self, const MirrorEvent *event);

/* How the launch ends: `status` is the outcome of train_run so far. */
void ledger_note_end(Trainer *self, Status status);

/* Tells what the mirror has done since the last call; nothing waits for it. Local */
void boundary_report_mirror(Trainer *self);

/* At a launch's end: gives the mirror checkpoint.mirror_patience seconds for its last one. Local */
void boundary_finish_mirror(Trainer *self);

/* Evaluate, update the best, save. `bits`: what any rank asked for in the step before. *stopped when a
 * stop was asked for; the state is then safe. Collective */
Status boundary_pass(Trainer *self, uint32_t bits, bool *stopped);
