/* One rank's failure becomes everyone's, with its text, and the ranks stay in step. */
#include "dist/world.h"
#include "tests/support/test.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

static Collective *world;

static void nobody_failed_is_agreed_on(void **state) {
    (void)state;
    assert_int_equal(world->ops->agree(world, STATUS_OK), STATUS_OK);
}

static void an_old_failure_that_was_handled_is_not_reported(void **state) {
    (void)state;
    FAIL(STATUS_CORRUPT, NULL, "handled already");
    assert_int_equal(world->ops->agree(world, STATUS_OK), STATUS_OK);
}

static void each_ranks_failure_stops_all_with_its_text(void **state) {
    (void)state;
    for (int failing = 0; failing < world->size; failing++) {
        char text[64];
        snprintf(text, sizeof text, "disk %d is full", failing);
        Status mine = STATUS_OK;
        FAIL(STATUS_MEMORY, NULL, "an older failure"); /* must not be what arrives */
        if (world->rank == failing) mine = FAIL(STATUS_IO, "free some space", "%s", text);
        assert_int_equal(world->ops->agree(world, mine), STATUS_IO);
        char who[96];
        snprintf(who, sizeof who, "rank %d on %s", failing, world->host);
        assert_string_equal(status_failure()->what, text);
        assert_string_equal(status_failure()->fix, "free some space");
        assert_string_equal(status_failure()->who, who);
        assert_int_equal(status_failure()->code, STATUS_IO);
    }
}

static void the_lowest_of_several_failing_ranks_is_heard(void **state) {
    (void)state;
    for (int lowest = 0; lowest < world->size; lowest++) {
        Status mine = STATUS_OK;
        if (world->rank >= lowest)
            mine = FAIL(world->rank == lowest ? STATUS_CORRUPT : STATUS_IO, NULL,
                        "trouble of rank %d", world->rank);
        assert_int_equal(world->ops->agree(world, mine), STATUS_CORRUPT);
        char text[64];
        snprintf(text, sizeof text, "trouble of rank %d", lowest);
        assert_string_equal(status_failure()->what, text);
    }
}

static void *fail_in_a_thread(void *failure) {
    FAIL(STATUS_IO, NULL, "a worker's disk is full");
    *(Failure *)failure = *status_failure();
    return NULL;
}

static void a_workers_failure_can_be_adopted_and_agreed_on(void **state) {
    (void)state;
    Status mine = STATUS_OK;
    if (world->rank == world->size - 1) {
        Failure carried;
        pthread_t worker;
        assert_int_equal(pthread_create(&worker, NULL, fail_in_a_thread, &carried), 0);
        assert_int_equal(pthread_join(worker, NULL), 0);
        mine = status_adopt(&carried);
    }
    assert_int_equal(world->ops->agree(world, mine), STATUS_IO);
    assert_string_equal(status_failure()->what, "a worker's disk is full");
}

int main(int argc, char **argv) {
    if (world_start(&argc, &argv, &world) != STATUS_OK) {
        status_print(status_failure());
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nobody_failed_is_agreed_on),
        cmocka_unit_test(an_old_failure_that_was_handled_is_not_reported),
        cmocka_unit_test(each_ranks_failure_stops_all_with_its_text),
        cmocka_unit_test(the_lowest_of_several_failing_ranks_is_heard),
        cmocka_unit_test(a_workers_failure_can_be_adopted_and_agreed_on),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    world_finish(world);
    return failed;
}
