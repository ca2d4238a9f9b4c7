/* The part of the seam that is the same for products and convolutions. */
#include "kernels/cuda/real/plan.h"

void vendor_plan_destroy(VendorPlan *plan) {
    if (plan != NULL) plan->destroy(plan);
}

const char *vendor_plan_text(const VendorPlan *plan) {
    return plan->text;
}

size_t vendor_plan_workspace(const VendorPlan *plan) {
    return plan->workspace;
}

VendorType vendor_plan_output(const VendorPlan *plan) {
    return plan->output;
}

Status vendor_plan_run(VendorQueue *queue, const VendorPlan *plan, void *out, const void *a,
                       const void *b, const float *bias, void *workspace) {
    return plan->run(queue, plan, out, a, b, bias, workspace);
}
