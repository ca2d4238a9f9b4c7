/* Slots that go round: each is worked at exactly once for each time it is sent, they come back in order, and
 * an end with work left over waits for nobody. */
#include "tests/support/test.h"

#include "src/checkpoint/ring.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

enum { SLOTS_MOST = 5, WORKERS_MOST = 4, SENT = 200 };

/* What lies in the slots, and who is at work. */
typedef struct {
    int asked[SLOTS_MOST], answered[SLOTS_MOST];
    atomic_int at_work[WORKERS_MOST];
    atomic_int worked, clashes;
    atomic_bool held; /* the workers wait until it is false */
} Desk;

static void answer(void *context, int worker, int slot) {
    Desk *desk = context;
    if (atomic_fetch_add(&desk->at_work[worker], 1) != 0)
        atomic_fetch_add(&desk->clashes, 1);
    while (atomic_load(&desk->held))
        sched_yield();
    if (desk->asked[slot] % 3 == 0) sched_yield(); /* so that later ones may overtake */
    desk->answered[slot] = desk->asked[slot] * 2 + 1;
    atomic_fetch_add(&desk->worked, 1);
    atomic_fetch_sub(&desk->at_work[worker], 1);
}

static void all_that_is_sent_comes_back_once_and_in_order(void **unused) {
    (void)unused;
    for (int slots = 1; slots <= SLOTS_MOST; slots++)
        for (int workers = 0; workers <= WORKERS_MOST; workers++) {
            static Desk desk;
            memset(&desk, 0, sizeof desk);
            Ring *ring;
            assert_ok(ring_open(slots, workers, answer, &desk, &ring));
            int sent = 0, taken = 0, slot;
            assert_int_equal(ring_take(ring), -1);
            while (taken < SENT) {
                while (sent < SENT && (slot = ring_next(ring)) >= 0) {
                    assert_int_equal(slot, sent % slots);
                    assert_int_equal(ring_next(ring), slot);
                    desk.asked[slot] = sent++;
                    ring_send(ring);
                }
                assert_true(sent == SENT || sent == taken + slots);
                slot = ring_take(ring);
                assert_int_equal(slot, taken % slots);
                assert_int_equal(desk.answered[slot], taken++ * 2 + 1);
            }
            assert_int_equal(ring_take(ring), -1);
            ring_close(ring);
            assert_int_equal(desk.worked, SENT);
            assert_int_equal(desk.clashes, 0);
        }
}

static void an_end_with_work_left_over_leaves_nobody_in_the_middle(void **unused) {
    (void)unused;
    static Desk desk;
    memset(&desk, 0, sizeof desk);
    desk.held = true;
    Ring *ring;
    assert_ok(ring_open(SLOTS_MOST, 1, answer, &desk, &ring));
    for (int i = 0; i < SLOTS_MOST; i++)
        ring_send(ring);
    assert_int_equal(ring_next(ring), -1);
    while (atomic_load(&desk.at_work[0]) == 0)
        sched_yield();
    atomic_store(&desk.held, false);
    ring_close(ring);
    assert_in_range(desk.worked, 1, SLOTS_MOST);
    assert_int_equal(desk.at_work[0], 0);
    ring_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_that_is_sent_comes_back_once_and_in_order),
        cmocka_unit_test(an_end_with_work_left_over_leaves_nobody_in_the_middle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
