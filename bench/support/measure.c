/* What the benchmarks' programs share. */
#include "bench/support/measure.h"
#include "dist/collective_mpi.h"

#include <mpi.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double measure_median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, compare);
    return values[count / 2];
}

static MPI_Comm comm_of(const Collective *world) {
    return ((const CollectiveMpi *)world)->comm;
}

double measure_slowest(const Collective *world, double seconds) {
    MPI_Allreduce(MPI_IN_PLACE, &seconds, 1, MPI_DOUBLE, MPI_MAX, comm_of(world));
    return seconds;
}

void measure_wait_asleep(const Collective *world) {
    MPI_Request request;
    int over = 0;
    for (MPI_Ibarrier(comm_of(world), &request); !over;
         MPI_Test(&request, &over, MPI_STATUS_IGNORE))
        usleep(200);
}

void measure_processor(char *name, size_t size) {
    snprintf(name, size, "unknown");
    FILE *file = fopen("/proc/cpuinfo", "r");
    char line[256];
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || colon == NULL) continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(name, size, "%s", colon + 2);
        break;
    }
    if (file != NULL) fclose(file);
}

void measure_answer(const Collective *world, json_t *object) {
    if (world->rank == 0) {
        json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
        printf("\n");
        fflush(stdout);
    }
    json_decref(object);
}

FILE *measure_open_commands(const Collective *world, const char *control) {
    char path[512];
    snprintf(path, sizeof path, "%s.%d", control, world->rank);
    return fopen(path, "r");
}
