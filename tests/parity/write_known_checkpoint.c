/* Writes the known state as a checkpoint (write_known_checkpoint DIRECTORY NAME [LEVEL [WRITERS]]), packed at a
 * level or (0) not, then by so many writers, and prints each entry's path, dtype, shape and bytes in hexadecimal, so that another program
 * can judge the file without any code of ours. */
#include "tests/support/checkpoint_state.h"

#include "src/core/status.h"

static Status write_known(const char *directory_path, const char *name, int level,
                          int writers, State **state) {
    int directory = open(directory_path, O_RDONLY | O_DIRECTORY);
    TRY(known_state(KNOWN_LARGE, state));
    /* values that a reader with another idea of the bytes would get wrong */
    *(int64_t *)state_data(*state, state_find(*state, "progress/step")) = -1234567890123;
    *(uint64_t *)state_data(*state, state_find(*state, "progress/seed")) = UINT64_MAX - 7;
    *(double *)state_data(*state, state_find(*state, "progress/best")) = 0.1;
    float *big = state_data(*state, state_find(*state, "optimizer/m/big"));
    size_t count =
        (*state)->entries[state_find(*state, "optimizer/m/big")].bytes / sizeof *big;
    for (size_t i = 0; i < count; i++)
        big[i] = (float)i * 0.5f; /* the script knows this rule */
    /* nothing to gain by packing here */
    uint32_t *noise = state_data(*state, state_find(*state, "optimizer/v/big"));
    Rng rng = rng_at(9, RNG_TEST, 0, 0);
    for (size_t i = count / 2; i < count; i++)
        noise[i] = rng_word(rng, 0, (uint32_t)i);
    Status status = level > 0 ? known_pack(*state, level, directory, name)
                              : known_write_by(*state, writers, directory, name);
    close(directory);
    return status;
}

static void print_entry(const State *state, int index) {
    const Entry *entry = &state->entries[index];
    const unsigned char *bytes = state_data(state, index);
    printf("%s %s [", entry->path, dtype_name(entry->dtype));
    for (int i = 0; i < entry->rank; i++)
        printf("%s%lld", i > 0 ? "," : "", (long long)entry->shape[i]);
    printf("] ");
    for (size_t i = 0; i < entry->bytes; i++)
        printf("%02x", bytes[i]);
    printf("\n");
}

int main(int count, char **arguments) {
    if (count < 3 || count > 5) return 2;
    int level = count > 3 ? atoi(arguments[3]) : 0;
    int writers = count > 4 ? atoi(arguments[4]) : 1;
    State *state = NULL;
    if (write_known(arguments[1], arguments[2], level, writers, &state) != STATUS_OK) {
        status_print(status_failure());
        return 1;
    }
    for (int i = 0; i < state->count; i++)
        print_entry(state, i);
    state_destroy(state);
    return 0;
}
