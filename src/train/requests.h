/* What signals and rank 0's clock ask of this rank, on its way into the control word. A launcher passes one SIGUSR2 on to
 * every rank, and they may hear of it a step apart: that is still one request to save. */
#pragma once

#include "src/train/timetable.h"

#include <stdint.h>

typedef struct {
    uint32_t (*take)(
        void); /* gives and clears the control bits that signals have set in this process */
    Timetable *timetable; /* rank 0's, while it trains; NULL: none */
    double saved_at;      /* when a rank last asked for a save; 0: never */
} Requests;

/* This rank's share of the next control word. Ranks: local */
uint32_t requests_take(Requests *requests);

/* Told every control word once the ranks have or-ed it. Ranks: local */
void requests_heard(Requests *requests, uint32_t word);
