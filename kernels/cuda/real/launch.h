/* What a .cu file writes its kernels with. There are two files of this name: this one for nvcc,
 * tests/gpu_double/launch.h for a C++ compiler that runs the same kernels on the CPU. The include path
 * chooses; `.cu` files include "launch.h" and no header of CUDA's.
 *
 *   KERNEL void scale(float *y, int64_t count, float by) { ... }     at file scope
 *   template <bool RELU> KERNEL void norm(...) { ... }
 *   DEVICE float square(float x) { ... }
 *   SHARED(float, partial, 32);                                      in a kernel's body
 *   TRY(LAUNCH(queue, blocks_x, blocks_y, threads, scale, y, count, 2.0f));
 *   TRY(LAUNCH(queue, blocks, 1, 256, (norm<true>), ...));           commas go into parentheses
 *
 * Both sides give: threadIdx.x; blockIdx, gridDim (.x, .y); blockDim.x; __syncthreads();
 * __shfl_xor_sync and __shfl_down_sync of float, double and int over 32 lanes (mask 0xffffffffu, all
 * lanes taking part). No atomics. Kernels use no function of libm but __builtin_fma, __builtin_fmaf,
 * __builtin_sqrtf and what src/core/elementary.h and kernels/element.h give; sums of products that
 * are not written as fma round twice.
 *
 * A launch has 1 to 1024 threads in a block, at least one block and at most 65535 blocks in y: a count
 * of zero is the caller's to skip. Arguments are copied at the launch. */
#pragma once

#include "kernels/cuda/vendor.h"

#include <cuda_runtime.h>

#include <stdint.h>
#include <string.h>

/* src/core/elementary.h and kernels/element.h are included after this header. */
#define ELEMENT_FUNCTION static __host__ __device__ __forceinline__

#define KERNEL                    static __global__
#define DEVICE                    static __device__ __forceinline__
#define SHARED(type, name, count) __shared__ alignas(16) type name[count]

/* The queue's stream, with the opened device made this thread's. */
extern "C" Status real_launch_begin(VendorQueue *queue, cudaStream_t *stream);
/* STATUS_DEVICE naming the kernel and its blocks when the launch was refused. */
extern "C" Status real_launch_end(const char *kernel, unsigned blocks_x, unsigned blocks_y,
                                  unsigned threads);

/* → Status: a refused launch is found here, what goes wrong inside the kernel by a later wait. */
#define LAUNCH(queue, blocks_x, blocks_y, threads, kernel, ...)                            \
    [&]() -> Status {                                                                      \
        const dim3 launch_blocks((unsigned)(blocks_x), (unsigned)(blocks_y));              \
        const unsigned launch_threads = (unsigned)(threads);                               \
        cudaStream_t launch_stream;                                                        \
        const Status launch_ready = real_launch_begin((queue), &launch_stream);            \
        if (launch_ready != STATUS_OK) return launch_ready;                                \
        kernel<<<launch_blocks, launch_threads, 0, launch_stream>>>(__VA_ARGS__);          \
        return real_launch_end(#kernel, launch_blocks.x, launch_blocks.y, launch_threads); \
    }()

/* ---- bfloat16: the upper half of a float */

struct Bf16 {
    uint16_t bits;
};

DEVICE float bf16_to_float(Bf16 x) {
    return __uint_as_float((uint32_t)x.bits << 16);
}

/* To nearest, ties to even; a NaN stays a NaN (which one is not said). */
DEVICE Bf16 bf16_from_float(float x) {
    Bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

/* ---- 16 bytes in one access. The address is a multiple of 16: of the first element, counted from an
 * allocation's start, its index is a multiple of 4 (float) or 8 (bf16). */

struct alignas(16) Vec4 {
    float x, y, z, w;
};

struct alignas(16) Bf16x8 {
    Bf16 at[8];
};

DEVICE Vec4 vec4_load(const float *from) {
    return *reinterpret_cast<const Vec4 *>(from);
}

DEVICE void vec4_store(float *to, Vec4 value) {
    *reinterpret_cast<Vec4 *>(to) = value;
}

DEVICE Bf16x8 bf16x8_load(const Bf16 *from) {
    return *reinterpret_cast<const Bf16x8 *>(from);
}

DEVICE void bf16x8_store(Bf16 *to, Bf16x8 value) {
    *reinterpret_cast<Bf16x8 *>(to) = value;
}
