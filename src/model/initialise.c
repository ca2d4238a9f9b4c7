/* First values of parameters: functions of (seed, name, element), the same on any rank. */
#include "src/core/elementary.h"
#include "src/model/graph.h"

#include <string.h>

/* A parameter's number in the initialisation stream: the low half of its path's digest. */
static uint32_t number_of(const char *path) {
    return (uint32_t)digest_of(path, strlen(path)).low;
}

/* Box and Muller: two uniforms give one normal number (the sine's twin is left unused, so that an
 * element depends on its own four words only). */
static float normal(const uint32_t words[4]) {
    float u =
        ((float)(words[0] >> 8) + 0.5f) * 0x1p-24f; /* in (0, 1): the logarithm is finite */
    float angle = 6.28318530717958647692f * rng_uniform_from(words[1]);
    return __builtin_sqrtf(-2.0f * element_log(u)) * element_cos(angle);
}

void graph_initialise(const Graph *graph, uint64_t seed) {
    Rng rng = rng_at(seed, RNG_INITIALISE, 0, 0);
    for (int i = 0; i < graph->initial_count; i++) {
        const Initial *initial = &graph->initials[i];
        const Entry *entry = &graph->state->entries[initial->entry];
        float *data = state_data(graph->state, initial->entry);
        uint32_t number = number_of(entry->path);
        float bound = initial->fan > 0 ? 1.0f / __builtin_sqrtf((float)initial->fan) : 0;
        float deviation =
            initial->fan > 0 ? __builtin_sqrtf(2.0f / (float)initial->fan) : 0;
        for (size_t j = 0; j < entry->bytes / sizeof *data; j++) {
            uint32_t words[4];
            rng_block(rng, number, (uint32_t)j, words);
            switch (initial->kind) {
            case INITIAL_UNIFORM_FAN_IN:
                data[j] = (2.0f * rng_uniform_from(words[0]) - 1.0f) * bound;
                break;
            case INITIAL_NORMAL_FAN_OUT:
                data[j] = deviation * normal(words);
                break;
            case INITIAL_ONE:
                data[j] = 1.0f;
                break;
            case INITIAL_ZERO:
                data[j] = 0.0f;
                break;
            }
        }
    }
}
