/* What rank 0 shows while training: on a terminal one live line, in a file a plain line every so often. */
#pragma once

#include "src/core/config.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    int64_t epoch, epochs, step, total_steps;
    double loss, accuracy, lr;     /* of the newest step */
    int64_t launch_steps, samples; /* of this launch */
    int64_t saved_step;            /* newest durable checkpoint; −1: none yet */
} ProgressReport;

/* `mode` as log.progress; auto looks at stderr. quiet: this rank shows nothing. */
void progress_open(const char *mode, bool quiet, int64_t every_steps);
void progress_show(const ProgressReport *report);
void progress_close(void);
