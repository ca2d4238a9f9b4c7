/* The small exchanges between ranks: every byte arrives, in rank order, in pieces too. */
#include "dist/collective_alone.h"
#include "dist/collective_mpi.h"
#include "dist/world.h"
#include "tests/support/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static Collective *world;

static unsigned char byte_of(int rank, size_t i) {
    return (unsigned char)((size_t)rank * 101 + i * 7 + i / 251);
}

static void ranks_know_their_number_and_their_host(void **state) {
    (void)state;
    int launched = atoi(getenv("OMPI_COMM_WORLD_SIZE"));
    assert_true(world_is_launched());
    assert_int_equal(world->size, launched);
    assert_int_equal(world->rank, atoi(getenv("OMPI_COMM_WORLD_RANK")));
    assert_int_equal(world->hosts, 1);
    assert_int_equal(world->host_rank, atoi(getenv("OMPI_COMM_WORLD_LOCAL_RANK")));
    char who[96];
    snprintf(who, sizeof who, "rank %d on %s", world->rank, world->host);
    FAIL(STATUS_IO, NULL, "a failure to see who failed");
    assert_string_equal(status_failure()->who, who);
}

static void broadcast_delivers_any_size_from_any_root(void **state) {
    (void)state;
    static const size_t sizes[] = {0, 1, 3, 4096, 65537, 1000003};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        for (int root = 0; root < world->size; root++) {
            unsigned char *data = malloc(sizes[s] + 1);
            for (size_t i = 0; i <= sizes[s]; i++)
                data[i] = world->rank == root ? byte_of(root, i) : 0;
            unsigned char guard = data[sizes[s]];
            assert_ok(world->ops->broadcast(world, data, sizes[s], root));
            for (size_t i = 0; i < sizes[s]; i++)
                assert_int_equal(data[i], byte_of(root, i));
            assert_int_equal(data[sizes[s]], guard);
            free(data);
        }
    }
}

static void large_broadcasts_and_gathers_go_in_pieces(void **state) {
    (void)state;
    enum { BYTES = 1003 };
    static const size_t pieces[] = {1, 17, 1002, 1003, 1004};
    for (size_t p = 0; p < sizeof pieces / sizeof *pieces; p++) {
        unsigned char data[BYTES], mine[BYTES];
        unsigned char *all = calloc((size_t)world->size, BYTES);
        int root = world->size - 1;
        for (size_t i = 0; i < BYTES; i++) {
            mine[i] = byte_of(world->rank, i);
            data[i] = world->rank == root ? mine[i] : 0;
        }
        assert_ok(collective_mpi_broadcast(world, data, BYTES, root, pieces[p]));
        assert_ok(collective_mpi_gather(world, mine, BYTES, all, pieces[p]));
        for (size_t i = 0; i < BYTES; i++)
            assert_int_equal(data[i], byte_of(root, i));
        for (int rank = 0; rank < world->size; rank++)
            for (size_t i = 0; i < BYTES; i++)
                assert_int_equal(all[(size_t)rank * BYTES + i], byte_of(rank, i));
        free(all);
    }
}

static void gather_lists_every_rank_in_order(void **state) {
    (void)state;
    uint64_t mine = 1000003u * (uint64_t)(world->rank + 1);
    uint64_t *all = calloc((size_t)world->size, sizeof *all);
    assert_ok(world->ops->gather(world, &mine, sizeof mine, all));
    for (int rank = 0; rank < world->size; rank++)
        assert_int_equal(all[rank], 1000003u * (uint64_t)(rank + 1));
    free(all);
}

static void control_word_is_the_or_over_ranks(void **state) {
    (void)state;
    uint32_t bits = 1u << world->rank, none = 0;
    assert_ok(world->ops->control(world, &bits));
    assert_ok(world->ops->control(world, &none));
    assert_int_equal(bits, (1u << world->size) - 1);
    assert_int_equal(none, 0);
}

static void a_process_alone_needs_no_mpi(void **state) {
    (void)state;
    Collective *alone;
    assert_ok(collective_alone_open(&alone));
    assert_int_equal(alone->size, 1);
    assert_int_equal(alone->hosts, 1);
    assert_int_equal(alone->host_rank, 0);
    uint32_t bits = CONTROL_SAVE;
    uint64_t mine = 42, all = 0;
    assert_ok(alone->ops->control(alone, &bits));
    assert_int_equal(bits, CONTROL_SAVE);
    assert_ok(alone->ops->broadcast(alone, &mine, sizeof mine, 0));
    assert_ok(alone->ops->gather(alone, &mine, sizeof mine, &all));
    assert_int_equal(all, 42);
    assert_ok(alone->ops->agree(alone, STATUS_OK));
    assert_int_equal(alone->ops->agree(alone, FAIL(STATUS_IO, NULL, "disk full")),
                     STATUS_IO);
    alone->ops->close(alone);
    collective_alone_destroy(alone);
}

int main(int argc, char **argv) {
    if (world_start(&argc, &argv, &world) != STATUS_OK) {
        status_print(status_failure());
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_know_their_number_and_their_host),
        cmocka_unit_test(broadcast_delivers_any_size_from_any_root),
        cmocka_unit_test(large_broadcasts_and_gathers_go_in_pieces),
        cmocka_unit_test(gather_lists_every_rank_in_order),
        cmocka_unit_test(control_word_is_the_or_over_ranks),
        cmocka_unit_test(a_process_alone_needs_no_mpi),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    world_finish(world);
    return failed;
}
