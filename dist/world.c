/* Starts and ends the ranks; decides whether MPI is needed at all. */
#include "dist/world.h"

#include "dist/collective_alone.h"
#include "dist/collective_mpi.h"
#include "dist/mpi_status.h"

#include <stdio.h>
#include <stdlib.h>

bool world_is_launched(void) {
    static const char *const set_by_launchers[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK",
                                                   "PMI_RANK"};
    for (size_t i = 0; i < sizeof set_by_launchers / sizeof *set_by_launchers; i++)
        if (getenv(set_by_launchers[i]) != NULL) return true;
    /* srun without an MPI plugin: MPI_Init then says so, where starting alone, many times over,
     * would be wrong in silence */
    const char *tasks = getenv("SLURM_STEP_NUM_TASKS");
    return tasks != NULL && atoi(tasks) > 1;
}

bool world_is_first(void) {
    static const char *const ranks[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK",
                                        "SLURM_PROCID"};
    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++) {
        const char *rank = getenv(ranks[i]);
        if (rank != NULL) return atoi(rank) == 0;
    }
    return true;
}

Status world_start(int *argc, char ***argv, Collective **out) {
    if (!world_is_launched()) return collective_alone_open(out);
    *out = NULL;
    /* a waiting rank leaves its core to the thread that saves, for 1 µs a wait */
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    int provided = MPI_THREAD_SINGLE;
    TRY_MPI(MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided));
    TRY_MPI(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
    TRY_MPI(MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN));
    if (provided < MPI_THREAD_MULTIPLE)
        return FAIL(STATUS_COMM, "use an Open MPI that was built with thread support",
                    "this MPI offers thread level %d, not MPI_THREAD_MULTIPLE", provided);
    TRY(collective_mpi_open(MPI_COMM_WORLD, out));
    char who[96];
    snprintf(who, sizeof who, "rank %d on %s", (*out)->rank, (*out)->host);
    status_set_who(who);
    return STATUS_OK;
}

void world_finish(Collective *collective) {
    if (collective == NULL) return;
    int started = 0;
    MPI_Initialized(&started);
    if (!started) {
        collective_alone_destroy(collective);
        return;
    }
    collective->ops->close(collective);
    collective_mpi_destroy(collective);
    MPI_Barrier(MPI_COMM_WORLD); /* everything is done already: a failure changes nothing */
    MPI_Finalize();
}
