/* The scalars of a run: where it stands. Entries of the state like any other; a fresh start sets them
 * all, a resume restores them all, and training reads its seed and its horizon from here, never from
 * the configuration, so that nothing is there twice. */
#pragma once

#include "src/state/state.h"

typedef struct {
    int64_t *step;        /* progress/step: steps done */
    int64_t *epoch;       /* progress/epoch: 0-based, of the next sample */
    int64_t *position;    /* progress/position: samples of this epoch already trained on */
    uint64_t *seed;       /* rng/seed */
    int64_t *total_steps; /* schedule/total_steps */
    int64_t *
        evaluated_step; /* evaluation/step: newest step that was evaluated; −1: none. A stop during
                                an evaluation leaves it behind: the resume repeats the evaluation */
    double *evaluated_loss;     /* evaluation/loss */
    double *evaluated_accuracy; /* evaluation/accuracy */
    double *best_accuracy;      /* best/accuracy */
    int64_t *best_step;         /* best/step */
    double *epoch_loss;         /* epoch/loss_sum: of this epoch's samples so far */
    double *epoch_correct;      /* epoch/correct */
    double *last_epoch_loss;    /* epoch/last_loss: mean over the newest whole epoch */
} Scalars;

Status scalars_declare(State *state);

/* Where they are, once the state is allocated. */
Scalars scalars_find(const State *state);
