/* Rewrites a checkpoint's user block as the next version's writer would: right in itself, and of a format that
 * this program does not know. usage: make_newer FILE */
#include "src/checkpoint/checkpoint.h"
#include "src/checkpoint/userblock.h"
#include "src/core/file.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv) {
    char text[CHECKPOINT_USER_BLOCK];
    UserBlock block;
    int fd = argc == 2 ? open(argv[1], O_RDWR | O_CLOEXEC) : -1;
    Status status = fd < 0 || file_read_at(fd, text, sizeof text, 0) != 0
                        ? FAIL(STATUS_USAGE, "name a checkpoint", "cannot read it")
                        : userblock_decode(text, argv[1], &block);
    if (status == STATUS_OK) {
        block.version = CHECKPOINT_FORMAT_VERSION + 1;
        snprintf(block.writer, sizeof block.writer, "rekindle 9.9.0, hdf5 1.10.8");
        status = userblock_encode(&block, text);
    }
    if (status == STATUS_OK && file_write_at(fd, text, sizeof text, 0) != 0)
        status = FAIL(STATUS_IO, NULL, "cannot write it");
    if (status != STATUS_OK) status_print(status_failure());
    if (fd >= 0) close(fd);
    return status == STATUS_OK ? 0 : 1;
}
