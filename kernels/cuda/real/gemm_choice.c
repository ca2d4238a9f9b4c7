/* Writes and reads the text that names an algorithm of cuBLASLt's and its configuration. */
#include "kernels/cuda/real/gemm.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void gemm_choice_write(const GemmChoice *choice, char text[VENDOR_PLAN_TEXT]) {
    int used = snprintf(text, VENDOR_PLAN_TEXT, "cublaslt");
    for (int i = 0; i < GEMM_ATTRIBUTES; i++)
        used += snprintf(text + used, VENDOR_PLAN_TEXT - (size_t)used, ":%" PRId32,
                         choice->value[i]);
}

bool gemm_choice_read(GemmChoice *choice, const char *text) {
    int used = 0;
    *choice = (GemmChoice){{0}};
    if (strncmp(text, "cublaslt:", 9) != 0) return false;
    const char *at = text + 8;
    for (int i = 0; i < GEMM_ATTRIBUTES; i++, at += used)
        if (strlen(at) > VENDOR_PLAN_TEXT ||
            sscanf(at, ":%9" SCNd32 "%n", &choice->value[i], &used) != 1)
            return false;
    /* one text for one choice: spaces, leading zeros and what follows are somebody else's */
    char again[VENDOR_PLAN_TEXT];
    gemm_choice_write(choice, again);
    return strcmp(again, text) == 0;
}
