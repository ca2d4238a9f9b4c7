/* The words that a .cu file is written in, for plain C++: a kernel is a function, its threads run one
 * after another, and those that meet at a barrier or a shuffle wait there as fibers (block.cpp). The
 * other file of this name, for nvcc, lies in kernels/cuda/real; which one a .cu file gets is decided by
 * the include path. */
#pragma once

#include <stdint.h>
#include <string.h>

#include <memory>
#include <tuple>
#include <type_traits>

#define KERNEL           static
#define DEVICE           static inline
#define ELEMENT_FUNCTION static inline

#include "kernels/cuda/vendor.h"

/* ---- where a thread is */

struct GpuDim {
    unsigned x, y, z;
};

#define GPU_DOUBLE_OURS __attribute__((visibility("hidden")))

extern GPU_DOUBLE_OURS GpuDim threadIdx, blockIdx, blockDim, gridDim;

/* The lanes of one warp that have not begun yet: lane k of the order is (k · step + first) mod 32. */
struct GpuDoubleLanes {
    unsigned next, end;   /* places in the order */
    unsigned step, first; /* of the order */
    unsigned warp_first;  /* thread of lane 0 */
    unsigned threads;     /* of the block */
    uint8_t *exited;      /* by thread */
};
extern GPU_DOUBLE_OURS GpuDoubleLanes gpu_double_lanes;

/* ---- what a thread may call */

GPU_DOUBLE_OURS void gpu_double_barrier(int line);
#define __syncthreads() gpu_double_barrier(__LINE__)

enum GpuDoubleShuffle { GPU_DOUBLE_XOR, GPU_DOUBLE_DOWN };
GPU_DOUBLE_OURS uint64_t gpu_double_shuffle(GpuDoubleShuffle kind, unsigned mask,
                                            uint64_t bits, unsigned operand, int width);

template <class T>
static inline T gpu_double_shuffled(GpuDoubleShuffle kind, unsigned mask, T value,
                                    unsigned operand, int width) {
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = gpu_double_shuffle(kind, mask, bits, operand, width);
    memcpy(&value, &bits, sizeof value);
    return value;
}

#define GPU_DOUBLE_SHUFFLES(Type)                                                        \
    static inline Type __shfl_xor_sync(unsigned mask, Type value, int lanes,             \
                                       int width = 32) {                                 \
        return gpu_double_shuffled(GPU_DOUBLE_XOR, mask, value, (unsigned)lanes, width); \
    }                                                                                    \
    static inline Type __shfl_down_sync(unsigned mask, Type value, unsigned lanes,       \
                                        int width = 32) {                                \
        return gpu_double_shuffled(GPU_DOUBLE_DOWN, mask, value, lanes, width);          \
    }
GPU_DOUBLE_SHUFFLES(float)
GPU_DOUBLE_SHUFFLES(double)
GPU_DOUBLE_SHUFFLES(int)
#undef GPU_DOUBLE_SHUFFLES

/* Memory of one declaration in the running block, poisoned when the block's first thread comes by. */
GPU_DOUBLE_OURS void *gpu_double_shared(const char *declaration, size_t bytes);
#define SHARED(type, name, count)                      \
    static char name##_declaration;                    \
    type(&name)[count] = *static_cast<type(*)[count]>( \
        gpu_double_shared(&name##_declaration, sizeof(type) * (count)))

/* ---- bf16: the upper half of a float */

struct Bf16 {
    uint16_t bits;
};

static inline float bf16_to_float(Bf16 value) {
    uint32_t bits = (uint32_t)value.bits << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* To nearest, ties to even. NaN stays NaN: its upper half might be that of an infinity. */
static inline Bf16 bf16_from_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {(uint16_t)(bits >> 16 | 0x40u)};
    return {(uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

/* ---- 16 bytes in one access, at addresses that are multiples of 16 */

struct alignas(16) Vec4 {
    float x, y, z, w;
};

struct alignas(16) Bf16x8 {
    Bf16 at[8];
};

/* Ends the kernel: the address is not aligned. */
[[noreturn]] GPU_DOUBLE_OURS void gpu_double_misaligned(const void *address);

static inline const void *gpu_double_aligned(const void *address) {
    if (((uintptr_t)address & 15u) != 0) gpu_double_misaligned(address);
    return address;
}

static inline Vec4 vec4_load(const float *from) {
    Vec4 value;
    memcpy(&value, gpu_double_aligned(from), sizeof value);
    return value;
}

static inline void vec4_store(float *to, Vec4 value) {
    gpu_double_aligned(to);
    memcpy(to, &value, sizeof value);
}

static inline Bf16x8 bf16x8_load(const Bf16 *from) {
    Bf16x8 value;
    memcpy(&value, gpu_double_aligned(from), sizeof value);
    return value;
}

static inline void bf16x8_store(Bf16 *to, Bf16x8 value) {
    gpu_double_aligned(to);
    memcpy(to, &value, sizeof value);
}

/* ---- launches */

struct GpuDoubleGrid {
    int64_t blocks_x, blocks_y;
    int64_t threads;
    const char *kernel;
    void (*run_lanes)(const void *arguments); /* all lanes that have not begun */
    std::shared_ptr<const void> arguments;    /* as they were at the launch */
};
GPU_DOUBLE_OURS Status gpu_double_launch(VendorQueue *queue, GpuDoubleGrid grid);

template <auto Kernel, class Signature = std::decay_t<decltype(Kernel)>>
struct GpuDoubleKernel;
template <auto Kernel, class... Parameters>
struct GpuDoubleKernel<Kernel, void (*)(Parameters...)> {
    using Arguments = std::tuple<Parameters...>;

    static void run_lanes(const void *arguments) {
        const Arguments &values = *static_cast<const Arguments *>(arguments);
        GpuDoubleLanes &lanes = gpu_double_lanes;
        while (lanes.next < lanes.end) {
            unsigned lane = (lanes.next++ * lanes.step + lanes.first) & 31u;
            unsigned thread = lanes.warp_first + lane;
            if (thread >= lanes.threads) continue; /* the last warp may be short */
            threadIdx.x = thread;
            std::apply(Kernel, values);
            lanes.exited[threadIdx.x] = 1;
        }
    }

    static Status launch(VendorQueue *queue, int64_t blocks_x, int64_t blocks_y,
                         int64_t threads, const char *name, Parameters... arguments) {
        return gpu_double_launch(queue, {blocks_x, blocks_y, threads, name, run_lanes,
                                         std::make_shared<const Arguments>(arguments...)});
    }
};

#define LAUNCH(queue, blocks_x, blocks_y, threads, kernel, ...)                        \
    GpuDoubleKernel<kernel>::launch((queue), (int64_t)(blocks_x), (int64_t)(blocks_y), \
                                    (int64_t)(threads), #kernel, __VA_ARGS__)
