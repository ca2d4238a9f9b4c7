/* How products and convolutions are made: one plan a description, chosen once and told as lines of text that
 * a checkpoint keeps, so that a resumed run multiplies in the same way. */
#include "kernels/cuda/host.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "conv fwd n32 c64 h28 w28 m64 r3 s3 stride1 pad1 g1 bf16", "gemm m32 n10 k512 nt bias tf32 f32" */
enum { KEY = 160, PLANS_MAX = 8192 };

typedef struct {
    char key[KEY];
    char text[VENDOR_PLAN_TEXT];
    VendorPlan
        *plan; /* NULL: recorded by an earlier launch, not yet asked for in this one */
} Plan;

struct CudaPlans {
    Plan *items; /* sorted by key */
    int count, room;
    char *lines; /* what cuda_plans tells: room for all items */
    size_t lines_room;
};

/* The first item that does not lie before `key`. */
static int place_of(const CudaPlans *self, const char *key) {
    int low = 0, high = self->count;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (strcmp(self->items[middle].key, key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* A new item at its place, with room for its line. */
static Status insert(CudaPlans *self, int place, const char *key, Plan **out) {
    if (self->count == self->room) {
        int room = self->room == 0 ? 64 : 2 * self->room;
        Plan *items = realloc(self->items, (size_t)room * sizeof *items);
        if (items == NULL)
            return FAIL(STATUS_MEMORY, NULL, "no memory for a table of plans");
        self->items = items;
        self->room = room;
    }
    size_t line = KEY + VENDOR_PLAN_TEXT + sizeof " = \n";
    if (((size_t)self->count + 1) * line + 1 > self->lines_room) {
        size_t room = (size_t)self->room * line + 1;
        char *lines = realloc(self->lines, room);
        if (lines == NULL)
            return FAIL(STATUS_MEMORY, NULL, "no memory for a table of plans");
        self->lines = lines;
        self->lines_room = room;
    }
    Plan *at = &self->items[place];
    memmove(at + 1, at, (size_t)(self->count - place) * sizeof *at);
    self->count++;
    *at = (Plan){.plan = NULL};
    snprintf(at->key, sizeof at->key, "%s", key);
    *out = at;
    return STATUS_OK;
}

/* ---- what an earlier launch recorded */

static bool is_plain(const char *text, size_t length, bool spaces) {
    for (size_t i = 0; i < length; i++)
        if (text[i] < (spaces ? 0x20 : 0x21) || text[i] > 0x7e || text[i] == '=')
            return false;
    return length > 0;
}

/* "KEY = TEXT", the keys rising. */
static Status read_line(CudaPlans *self, const char *line, size_t length, int number) {
    static const char fix[] =
        "restore from another checkpoint: this one was not written by "
        "Rekindle's CUDA device";
    char key[KEY], text[VENDOR_PLAN_TEXT];
    const char *middle = memmem(line, length, " = ", 3);
    size_t key_length = middle != NULL ? (size_t)(middle - line) : 0;
    size_t text_length = middle != NULL ? length - key_length - 3 : 0;
    if (middle == NULL || key_length >= sizeof key || text_length >= sizeof text ||
        !is_plain(line, key_length, true) || !is_plain(middle + 3, text_length, false))
        return FAIL(STATUS_CORRUPT, fix,
                    "line %d of the recorded plans is not \"KEY = PLAN\"", number);
    if (self->count == PLANS_MAX)
        return FAIL(STATUS_CORRUPT, fix, "more than %d recorded plans", PLANS_MAX);
    memcpy(key, line, key_length);
    memcpy(text, middle + 3, text_length);
    key[key_length] = text[text_length] = '\0';
    if (self->count > 0 && strcmp(self->items[self->count - 1].key, key) >= 0)
        return FAIL(STATUS_CORRUPT, fix,
                    "line %d of the recorded plans is out of order: %s", number, key);
    Plan *plan;
    TRY(insert(self, self->count, key, &plan));
    memcpy(plan->text, text, text_length + 1);
    return STATUS_OK;
}

Status cuda_plans_open(Cuda *cuda, const char *recorded) {
    CudaPlans *self = calloc(1, sizeof *self);
    if (self == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory for a table of plans");
    cuda->plans = self;
    int number = 0;
    for (const char *line = recorded; line != NULL && *line != '\0';) {
        size_t length = strcspn(line, "\n");
        TRY(read_line(self, line, length, ++number));
        line += length + (line[length] == '\n');
    }
    return STATUS_OK;
}

void cuda_plans_close(Cuda *cuda) {
    CudaPlans *self = cuda->plans;
    if (self == NULL) return;
    for (int i = 0; i < self->count; i++)
        vendor_plan_destroy(self->items[i].plan);
    free(self->items);
    free(self->lines);
    free(self);
    cuda->plans = NULL;
}

const char *cuda_plans(Backend *self) {
    CudaPlans *plans = cuda_of(self)->plans;
    if (plans->count == 0) return "";
    size_t length = 0;
    for (int i = 0; i < plans->count; i++)
        length += (size_t)snprintf(plans->lines + length, plans->lines_room - length,
                                   "%s = %s\n", plans->items[i].key, plans->items[i].text);
    return plans->lines;
}

/* ---- planning */

typedef struct {
    const VendorGemm *gemm; /* or */
    const VendorConvolution *convolution;
} Description;

static Status make(const Description *what, const char *recorded, VendorPlan **out) {
    return what->gemm != NULL ? vendor_plan_gemm(what->gemm, recorded, out)
                              : vendor_plan_convolution(what->convolution, recorded, out);
}

/* A recorded plan that is not to be had: going on with another one would break the promise silently. */
static Status cannot_repeat(const char *key, const char *recorded, const char *why) {
    return FAIL(
        STATUS_UNSUPPORTED,
        "resume with the GPU and the CUDA libraries that wrote the checkpoint; to go on "
        "with other bits, resume on another kind of device (device: cpu)",
        "the recorded plan %s for %s cannot be made again here, and another would give "
        "other bits: %s",
        recorded, key, why);
}

static Status plan_new(Cuda *cuda, const char *key, const Description *what,
                       const char *recorded, VendorPlan **out) {
    *out = NULL;
    TRY(cuda_not_recording(cuda, "planning"));
    Status status = make(what, recorded, out);
    if (recorded == NULL) return status;
    if (status == STATUS_UNSUPPORTED) {
        Failure why = *status_failure();
        return cannot_repeat(key, recorded, why.what);
    }
    if (status != STATUS_OK || strcmp(vendor_plan_text(*out), recorded) == 0) return status;
    char other[VENDOR_PLAN_TEXT];
    snprintf(other, sizeof other, "%s", vendor_plan_text(*out));
    vendor_plan_destroy(*out);
    *out = NULL;
    return cannot_repeat(key, recorded, other);
}

static Status find(Cuda *cuda, const char *key, const Description *what, VendorPlan **out) {
    CudaPlans *self = cuda->plans;
    int place = place_of(self, key);
    Plan *plan = NULL;
    if (place < self->count && strcmp(self->items[place].key, key) == 0)
        plan = &self->items[place];
    if (plan != NULL && plan->plan != NULL) {
        *out = plan->plan;
        return STATUS_OK;
    }
    VendorPlan *made;
    TRY(plan_new(cuda, key, what, plan != NULL ? plan->text : NULL, &made));
    if (plan == NULL) {
        Status status = insert(self, place, key, &plan);
        if (status != STATUS_OK) {
            vendor_plan_destroy(made);
            return status;
        }
        snprintf(plan->text, sizeof plan->text, "%s", vendor_plan_text(made));
    }
    *out = plan->plan = made;
    return STATUS_OK;
}

static const char *type_word(VendorType type, bool tf32) {
    return type == VENDOR_BF16 ? "bf16" : tf32 ? "tf32" : "f32";
}

Status cuda_plans_gemm(Cuda *cuda, const VendorGemm *gemm, VendorPlan **out) {
    char key[KEY];
    int length = snprintf(key, sizeof key, "gemm m%lld n%lld k%lld %c%c%s %s %s",
                          (long long)gemm->rows, (long long)gemm->columns,
                          (long long)gemm->inner, gemm->transpose_a ? 't' : 'n',
                          gemm->transpose_b ? 't' : 'n', gemm->bias ? " bias" : "",
                          type_word(gemm->type, gemm->tf32), type_word(gemm->out, false));
    assert(length < KEY);
    (void)length;
    return find(cuda, key, &(Description){.gemm = gemm}, out);
}

Status cuda_plans_convolution(Cuda *cuda, const VendorConvolution *convolution,
                              VendorPlan **out) {
    static const char *const directions[] = {
        [VENDOR_FORWARD] = "fwd",
        [VENDOR_BACKWARD_DATA] = "dx",
        [VENDOR_BACKWARD_WEIGHTS] = "dw",
    };
    const VendorConvolution *c = convolution;
    char key[KEY];
    int length = snprintf(
        key, sizeof key,
        "conv %s n%lld c%lld h%lld w%lld m%lld r%lld s%lld stride%d pad%d g%d %s",
        directions[c->direction], (long long)c->n, (long long)c->c, (long long)c->h,
        (long long)c->w, (long long)c->m, (long long)c->r, (long long)c->s, c->stride,
        c->padding, c->groups, type_word(c->type, c->tf32));
    assert(length < KEY);
    (void)length;
    return find(cuda, key, &(Description){.convolution = convolution}, out);
}
