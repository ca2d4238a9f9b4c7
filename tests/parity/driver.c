/* The parity tests' way into our own arithmetic: runs one operation, some optimizer steps or a schedule
 * and prints the numbers, which the Python side compares with PyTorch's.
 *
 *   parity_driver layer DEVICE OP [name=value]...       < records > records
 *   parity_driver optimizer DEVICE CONFIG [steps=N]     < records > records
 *   parity_driver schedule CONFIG [total=N] [epoch=N]   > rates */
#include "tests/parity/driver.h"
#include "tests/parity/records.h"

#include <stdio.h>
#include <string.h>

static Status dispatch(int argc, char **argv) {
    options_set(argc, argv);
    if (argc >= 3 && strcmp(argv[1], "schedule") == 0) return schedule_run(argv[2]);
    if (argc < 4) return FAIL(STATUS_USAGE, NULL, "too few arguments");
    TRY(records_read());
    if (strcmp(argv[1], "layer") == 0) return layer_run(argv[2], argv[3]);
    if (strcmp(argv[1], "optimizer") == 0) return optimizer_run(argv[2], argv[3]);
    return FAIL(STATUS_USAGE, NULL, "unknown subcommand %s", argv[1]);
}

int main(int argc, char **argv) {
    Status status = dispatch(argc, argv);
    if (status == STATUS_OK && fflush(stdout) == 0) return 0;
    if (status != STATUS_OK) status_print(status_failure());
    return 1;
}
