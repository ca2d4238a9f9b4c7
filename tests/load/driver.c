/* A driver that is asked how many GPUs there are, and has no other function. The build makes one with a
 * GPU, one without, and one that does not come up. */
int cuInit(unsigned flags);
int cuDeviceGetCount(int *count);

int cuInit(unsigned flags) {
    (void)flags;
    return INIT_RESULT;
}

int cuDeviceGetCount(int *count) {
    *count = DEVICE_COUNT;
    return 0;
}
