/* An operation that runs again on the same inputs gives the same bits, whatever is in its workspace. */
#include "tests/gpu_double/cuda_everything.h"

static void all_operations_give_the_same_bits_again(void **state) {
    Backend *backend = *state;
    Everything first = everything(backend);
    for (int round = 0; round < 2; round++) {
        Everything again = everything(backend);
        assert_same_everything(&again, &first);
        free(again.bytes);
    }
    free(first.bytes);
}

int main(void) {
    const OpsTest tests[] = {OPS_TEST(all_operations_give_the_same_bits_again)};
    return cuda_ops_main(tests, sizeof tests / sizeof *tests);
}
