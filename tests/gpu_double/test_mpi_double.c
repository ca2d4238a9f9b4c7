/* The double's communicators between ranks: the same program on 1, 2, 3 and 4. */
#include "kernels/cuda/vendor.h"
#include "tests/gpu_double/double.h"
#include "tests/support/test.h"

#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COUNT = 1000 };
static MPI_Comm world;
static int rank, size;
static VendorQueue *queue, *other;
static VendorComm *comm;
static float *pinned, *mine, *all; /* (size × COUNT) each */

static Status poll_until_ready(void) {
    bool ready = false;
    while (!ready)
        TRY(vendor_comm_poll(comm, &ready));
    return STATUS_OK;
}

static int open_comm(void **state) {
    (void)state;
    VendorDevice device;
    uint8_t id[VENDOR_COMM_ID];
    size_t bytes = (size_t)size * COUNT * sizeof(float);
    double_reset();
    if (vendor_open(rank, &device) != STATUS_OK) return 1;
    if (vendor_queue_create(false, &queue) != STATUS_OK) return 1;
    if (vendor_queue_create(false, &other) != STATUS_OK) return 1;
    if (vendor_allocate_pinned(bytes, (void **)&pinned) != STATUS_OK) return 1;
    if (vendor_allocate(bytes, (void **)&mine) != STATUS_OK) return 1;
    if (vendor_allocate(bytes, (void **)&all) != STATUS_OK) return 1;
    if (rank == 0 && vendor_comm_id(id) != STATUS_OK) return 1;
    MPI_Bcast(id, sizeof id, MPI_BYTE, 0, world);
    if (vendor_comm_open(id, rank, size, &comm) != STATUS_OK) return 1;
    return poll_until_ready() != STATUS_OK;
}

static int close_comm(void **state) {
    (void)state;
    vendor_comm_close(comm);
    comm = NULL;
    vendor_release(mine);
    vendor_release(all);
    vendor_release_pinned(pinned);
    vendor_queue_destroy(queue);
    vendor_queue_destroy(other);
    vendor_close();
    unsetenv("GPU_DOUBLE_HANG");
    unsetenv("GPU_DOUBLE_FAIL");
    unsetenv("GPU_DOUBLE_FAIL_LATE");
    MPI_Barrier(world);
    return double_leaks();
}

static float value_of(int of_rank, int i) {
    return (float)(of_rank * 100000 + i);
}

static void fill_mine(void) {
    for (int i = 0; i < COUNT; i++)
        pinned[i] = value_of(rank, i);
    assert_ok(vendor_copy_in(queue, mine, pinned, COUNT * sizeof(float)));
    assert_ok(vendor_wait(queue));
}

static void read_all(int ranks) {
    assert_ok(vendor_copy_out(queue, pinned, all, (size_t)(ranks * COUNT) * sizeof(float)));
    assert_ok(vendor_wait(queue));
}

static void a_group_sends_round_the_ring(void **state) {
    (void)state;
    int next = (rank + 1) % size, previous = (rank + size - 1) % size;
    fill_mine();
    assert_ok(vendor_group_begin(comm));
    assert_ok(vendor_receive(queue, comm, all, COUNT, previous));
    assert_ok(vendor_send(queue, comm, mine, COUNT, next));
    assert_ok(vendor_group_end(comm));
    assert_ok(poll_until_ready());
    read_all(1);
    for (int i = 0; i < COUNT; i++)
        assert_true(pinned[i] == value_of(previous, i));
}

static void everyone_gets_everyones_part(void **state) {
    (void)state;
    fill_mine();
    for (int in_place = 0; in_place < 2; in_place++) {
        float *place = all + rank * COUNT;
        assert_ok(vendor_zero(queue, all, (size_t)(size * COUNT) * sizeof(float)));
        if (in_place) assert_ok(vendor_copy(queue, place, mine, COUNT * sizeof(float)));
        assert_ok(vendor_all_gather(queue, comm, all, in_place ? place : mine, COUNT));
        assert_ok(poll_until_ready());
        read_all(size);
        for (int r = 0; r < size; r++)
            for (int i = 0; i < COUNT; i++)
                assert_true(pinned[r * COUNT + i] == value_of(r, i));
    }
}

static void sums_are_of_all_ranks(void **state) {
    (void)state;
    for (int in_place = 0; in_place < 2; in_place++) {
        fill_mine();
        assert_ok(vendor_all_reduce(queue, comm, in_place ? mine : all, mine, COUNT));
        assert_ok(poll_until_ready());
        assert_ok(
            vendor_copy_out(queue, pinned, in_place ? mine : all, COUNT * sizeof(float)));
        assert_ok(vendor_wait(queue));
        for (int i = 0; i < COUNT; i++)
            assert_true(pinned[i] ==
                        (float)(size * i) + 100000.0f * (float)(size * (size - 1) / 2));
    }
}

static void an_exchange_is_given_to_its_queue_by_a_poll(void **state) {
    (void)state;
    fill_mine();
    assert_ok(vendor_all_reduce(queue, comm, all, mine, COUNT));
    assert_ok(vendor_wait(queue)); /* there is nothing in it yet */
    float seen[4];
    double_peek(seen, all, sizeof seen);
    assert_true(isnan(seen[0]));
    bool ready = true;
    assert_ok(vendor_comm_poll(comm, &ready));
    assert_false(ready);
    assert_ok(poll_until_ready());
    read_all(1);
    assert_true(pinned[0] == 100000.0f * (float)(size * (size - 1) / 2));
}

static void exchanges_are_in_order_whichever_queue_is_waited_for(void **state) {
    (void)state;
    fill_mine();
    assert_ok(vendor_all_gather(queue, comm, all, mine, COUNT));
    assert_ok(poll_until_ready());
    assert_ok(vendor_all_reduce(other, comm, mine, mine, COUNT));
    assert_ok(poll_until_ready());
    assert_ok(vendor_wait(rank % 2 == 0 ? queue : other));
    assert_ok(vendor_wait(rank % 2 == 0 ? other : queue));
    read_all(size);
    for (int r = 0; r < size; r++)
        assert_true(pinned[r * COUNT + 7] == value_of(r, 7));
}

static void asking_does_not_wait_for_a_peer(void **state) {
    (void)state;
    VendorEvent *event;
    bool done = false;
    fill_mine();
    assert_ok(vendor_event_create(&event));
    assert_ok(vendor_all_gather(queue, comm, all, mine, COUNT));
    assert_ok(poll_until_ready());
    assert_ok(vendor_record(queue, event));
    if (rank == 0)
        for (int asked = 0; asked < 100; asked++) {
            assert_ok(vendor_event_done(event, &done));
            assert_true(done == (size == 1)); /* the others have not begun */
        }
    MPI_Barrier(world);
    while (!done)
        assert_ok(vendor_event_done(event, &done));
    read_all(size);
    assert_true(pinned[(size - 1) * COUNT] == value_of(size - 1, 0));
    vendor_event_destroy(event);
}

static void a_graph_exchanges_anew_each_time(void **state) {
    (void)state;
    VendorGraph *graph;
    assert_ok(vendor_capture_begin(queue));
    assert_ok(vendor_all_gather(queue, comm, all, mine, COUNT));
    assert_ok(poll_until_ready());
    assert_ok(vendor_capture_end(queue, &graph));
    for (int launch = 0; launch < 3; launch++) {
        for (int i = 0; i < COUNT; i++)
            pinned[i] = value_of(rank, i + launch);
        assert_ok(vendor_copy_in(queue, mine, pinned, COUNT * sizeof(float)));
        assert_ok(vendor_wait(queue));
        assert_ok(vendor_graph_launch(queue, graph));
        read_all(size);
        for (int r = 0; r < size; r++)
            assert_true(pinned[r * COUNT + 3] == value_of(r, 3 + launch));
    }
    vendor_graph_destroy(graph);
}

/* Ends the communicator whatever it is in, and opens a new one with the others. */
static void abort_and_open_again(void) {
    vendor_comm_abort(comm);
    uint8_t id[VENDOR_COMM_ID];
    if (rank == 0) assert_ok(vendor_comm_id(id));
    MPI_Bcast(id, sizeof id, MPI_BYTE, 0, world);
    assert_ok(vendor_comm_open(id, rank, size, &comm));
    assert_ok(poll_until_ready());
}

static void an_exchange_that_hangs_ends_with_an_abort(void **state) {
    (void)state;
    VendorEvent *event;
    bool done = true;
    if (rank == 0) setenv("GPU_DOUBLE_HANG", "vendor_all_reduce:1", 1);
    double_reset();
    fill_mine();
    assert_ok(vendor_event_create(&event));
    assert_ok(vendor_all_reduce(queue, comm, all, mine, COUNT));
    assert_ok(poll_until_ready());
    assert_ok(vendor_record(queue, event));
    for (int asked = 0; asked < 100; asked++) {
        assert_ok(vendor_event_done(event, &done));
        assert_false(done);
    }
    assert_int_equal(double_fired(), rank == 0);
    abort_and_open_again();
    assert_ok(vendor_event_done(event, &done)); /* the queue goes on */
    assert_true(done);
    vendor_event_destroy(event);
    everyone_gets_everyones_part(NULL);
}

static void a_broken_communicator_can_only_be_aborted(void **state) {
    (void)state;
    setenv("GPU_DOUBLE_FAIL", "vendor_group_end:1", 1);
    setenv("GPU_DOUBLE_FAIL_LATE", "vendor_all_gather:1", 1);
    double_reset();
    bool ready;
    assert_ok(vendor_group_begin(comm));
    assert_ok(vendor_send(queue, comm, mine, COUNT, rank));
    assert_fails(vendor_group_end(comm), STATUS_COMM, "injected");
    assert_fails(vendor_comm_poll(comm, &ready), STATUS_COMM, "injected");
    abort_and_open_again();
    assert_ok(vendor_all_gather(queue, comm, all, mine, COUNT));
    assert_fails(vendor_comm_poll(comm, &ready), STATUS_COMM, "late failure");
    abort_and_open_again();
}

static void a_call_during_another_is_refused(void **state) {
    (void)state;
    fill_mine();
    assert_ok(vendor_all_gather(queue, comm, all, mine, COUNT));
    assert_fails(vendor_group_begin(comm), STATUS_COMM, "still under way");
    abort_and_open_again();
}

static void two_ranks_on_one_device_are_refused(void **state) {
    (void)state;
    VendorDevice device;
    uint8_t id[VENDOR_COMM_ID];
    assert_ok(vendor_open(0, &device));
    if (rank == 0) assert_ok(vendor_comm_id(id));
    MPI_Bcast(id, sizeof id, MPI_BYTE, 0, world);
    assert_ok(vendor_comm_open(id, rank, size, &comm));
    if (size == 1)
        assert_ok(poll_until_ready());
    else
        assert_fails(poll_until_ready(), STATUS_COMM, "two ranks are on one device");
    vendor_comm_abort(comm);
    vendor_close();
}

int main(int argc, char **argv) {
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_dup(MPI_COMM_WORLD, &world);
    MPI_Comm_rank(world, &rank);
    MPI_Comm_size(world, &size);
#define COMM_TEST(f) cmocka_unit_test_setup_teardown(f, open_comm, close_comm)
    const struct CMUnitTest tests[] = {
        COMM_TEST(a_group_sends_round_the_ring),
        COMM_TEST(everyone_gets_everyones_part),
        COMM_TEST(sums_are_of_all_ranks),
        COMM_TEST(an_exchange_is_given_to_its_queue_by_a_poll),
        COMM_TEST(exchanges_are_in_order_whichever_queue_is_waited_for),
        COMM_TEST(asking_does_not_wait_for_a_peer),
        COMM_TEST(a_graph_exchanges_anew_each_time),
        COMM_TEST(an_exchange_that_hangs_ends_with_an_abort),
        COMM_TEST(a_broken_communicator_can_only_be_aborted),
        COMM_TEST(a_call_during_another_is_refused),
        cmocka_unit_test(two_ranks_on_one_device_are_refused),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    MPI_Comm_free(&world);
    MPI_Finalize();
    return failed;
}
