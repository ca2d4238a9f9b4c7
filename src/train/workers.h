/* The worker threads of a rank. Worker 0 is the calling thread. */
#pragma once

#include "src/core/status.h"

typedef struct Workers Workers;

/* One worker's part of a job; runs once for each worker, at the same time. */
typedef Status (*WorkerJob)(void *context, int worker);

Status workers_open(int count, Workers **out);
int workers_count(const Workers *workers);

/* Runs the job on all workers and waits for them. The result is the failure of the lowest worker
 * that failed, adopted by the calling thread. */
Status workers_run(Workers *workers, WorkerJob job, void *context);
void workers_close(Workers *workers); /* NULL is allowed */
