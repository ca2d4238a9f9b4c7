/* The convolutions of networks, as a GPU is asked for them. */
#pragma once

#include "kernels/cuda/vendor.h"

#include <stdbool.h>

enum { CONVOLUTIONS_MAX = 256 };

typedef struct {
    VendorConvolution items[CONVOLUTIONS_MAX];
    int count;
} Convolutions;

/* Adds those of one of our architectures; each shape once. False: the network cannot be built. */
bool convolutions_add(Convolutions *all, const char *arch, int channels, int size,
                      int batch);
/* Those of a ResNet of bottleneck blocks for large images, with torchvision's strides (ResNet-50). */
bool convolutions_add_resnet50(Convolutions *all, int batch);
