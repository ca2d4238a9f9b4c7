/* No operation's bits depend on the order in which its blocks and threads run: the double runs them in
 * several, and a race or a sum that follows the order would show. */
#include "tests/gpu_double/cuda_everything.h"

#include "tests/gpu_double/double.h"

static void the_order_of_blocks_and_threads_changes_no_bit(void **state) {
    Backend *backend = *state;
    const char *const seeds[] = {"1", "2", "3", "4", "99"};
    Everything first = {0};
    for (int i = 0; i < 5; i++) {
        setenv("GPU_DOUBLE_SEED", seeds[i], 1);
        double_reset();
        Everything all = everything(backend);
        if (i == 0) {
            first = all;
            continue;
        }
        assert_same_everything(&all, &first);
        free(all.bytes);
    }
    free(first.bytes);
    unsetenv("GPU_DOUBLE_SEED");
    double_reset();
}

int main(void) {
    const OpsTest tests[] = {OPS_TEST(the_order_of_blocks_and_threads_changes_no_bit)};
    return cuda_ops_main(tests, sizeof tests / sizeof *tests);
}
