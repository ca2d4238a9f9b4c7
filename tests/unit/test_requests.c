/* Requests on their way into the control word: a stop is never lost, a save is asked for once. */
#include "src/train/requests.h"

#include "src/collective.h"
#include "tests/support/test.h"

#include <time.h>

static uint32_t pending;

static uint32_t take(void) {
    uint32_t bits = pending;
    pending = 0;
    return bits;
}

static void each_request_is_taken_once(void **state) {
    (void)state;
    Requests requests = {.take = take};
    pending = CONTROL_SAVE | CONTROL_STOP;
    assert_int_equal(requests_take(&requests), CONTROL_SAVE | CONTROL_STOP);
    assert_int_equal(requests_take(&requests), 0);
}

static void a_save_that_another_rank_heard_of_first_is_not_asked_for_again(void **state) {
    (void)state;
    Requests requests = {.take = take};
    requests_heard(&requests, CONTROL_SAVE);
    pending = CONTROL_SAVE | CONTROL_STOP;
    assert_int_equal(requests_take(&requests), CONTROL_STOP);
}

static void a_stop_of_another_rank_hides_nothing(void **state) {
    (void)state;
    Requests requests = {.take = take};
    requests_heard(&requests, CONTROL_STOP);
    pending = CONTROL_SAVE | CONTROL_STOP;
    assert_int_equal(requests_take(&requests), CONTROL_SAVE | CONTROL_STOP);
}

static void a_later_save_is_another_one(void **state) {
    (void)state;
    Requests requests = {.take = take};
    requests_heard(&requests, CONTROL_SAVE);
    struct timespec apart = {0, 520000000};
    nanosleep(&apart, NULL);
    pending = CONTROL_SAVE;
    assert_int_equal(requests_take(&requests), CONTROL_SAVE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_request_is_taken_once),
        cmocka_unit_test(a_save_that_another_rank_heard_of_first_is_not_asked_for_again),
        cmocka_unit_test(a_stop_of_another_rank_hides_nothing),
        cmocka_unit_test(a_later_save_is_another_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
