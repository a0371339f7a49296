// SPDX-License-Identifier: MIT
#pragma once
// GpuThread: what a kernel's thread may ask and do, as one thin wrapper per instruction. Blocks and grids are
// one-dimensional, warps have 32 lanes, and warp operations need the whole warp. EmulatedThread (emulation/)
// has the same members on the host. Instructions: PTX ISA, sections 9.7.13 (ldmatrix, mma) and 9.7.9 (cp.async).

#include <moduleformer/backend/cuda/gpu_warpgroup_products.cuh>
#include <moduleformer/core/types.hpp>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "moduleformer: expected code for compute capability 8.0 or more: set CMAKE_CUDA_ARCHITECTURES, or nvcc's -arch"
#endif

namespace moduleformer {

struct GpuThread : GpuWarpgroupProducts {
  // Where this thread is.
  [[nodiscard]] __device__ int index() const { return static_cast<int>(threadIdx.x); }  // in its block
  [[nodiscard]] __device__ int block_size() const { return static_cast<int>(blockDim.x); }
  [[nodiscard]] __device__ Index block() const { return static_cast<Index>(blockIdx.x); }
  [[nodiscard]] __device__ Index blocks() const { return static_cast<Index>(gridDim.x); }
  [[nodiscard]] __device__ int lane() const { return index() % 32; }
  [[nodiscard]] __device__ int warp() const { return index() / 32; }

  /// The block's dynamic shared memory, aligned to 1024 bytes; the same address in every thread.
  template <class T>
  [[nodiscard]] __device__ T* shared() const {
    extern __shared__ __align__(1024) unsigned char moduleformer_shared[];
    return reinterpret_cast<T*>(moduleformer_shared);
  }

  // Barriers of the block; sync_or also tells whether any thread's condition holds. sync_warp: of the warp.
  __device__ void sync() const { __syncthreads(); }
  [[nodiscard]] __device__ bool sync_or(bool condition) const { return __syncthreads_or(condition) != 0; }
  __device__ void sync_warp() const { __syncwarp(); }

  // Values of other lanes. shuffle_up and shuffle_down keep the own value where there is no such lane.
  template <class T>
  [[nodiscard]] __device__ T shuffle(T value, int lane) const {
    return __shfl_sync(all_lanes, value, lane);
  }
  template <class T>
  [[nodiscard]] __device__ T shuffle_xor(T value, int lanes) const {
    return __shfl_xor_sync(all_lanes, value, lanes);
  }
  template <class T>
  [[nodiscard]] __device__ T shuffle_up(T value, int lanes) const {
    return __shfl_up_sync(all_lanes, value, lanes);
  }
  template <class T>
  [[nodiscard]] __device__ T shuffle_down(T value, int lanes) const {
    return __shfl_down_sync(all_lanes, value, lanes);
  }
  /// Bit l is lane l's condition.
  [[nodiscard]] __device__ std::uint32_t ballot(bool condition) const { return __ballot_sync(all_lanes, condition); }
  /// The lanes whose value is this lane's.
  [[nodiscard]] __device__ std::uint32_t match_any(std::uint32_t value) const { return __match_any_sync(all_lanes, value); }

  /// The largest value of the warp's lanes.
  [[nodiscard]] __device__ std::uint32_t reduce_max(std::uint32_t value) const { return __reduce_max_sync(all_lanes, value); }

  /// *place += value, in whatever order threads come; returns what was there.
  __device__ float atomic_add(float* place, float value) const { return atomicAdd(place, value); }
  __device__ int atomic_add(int* place, int value) const { return atomicAdd(place, value); }

  /// Four neighbouring floats, 16 aligned bytes, += a, b, c, d where they lie; nothing comes back to wait for.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  static constexpr bool adds_in_memory = true;
  __device__ void add_to_memory(float* place, float a, float b, float c, float d) const {
    asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(place), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
  }
#else
  static constexpr bool adds_in_memory = false;
  __device__ void add_to_memory(float*, float, float, float, float) const {}
#endif

  // Asynchronous copies of 16 aligned bytes from global to shared memory. Only the first `bytes` (0 to 16) are
  // read, the rest becomes 0; of none `global` may be anything. Issued copies form a group at commit_copies(); wait_copies<N>() waits until at
  // most the N newest groups of this thread are under way.
  __device__ void copy_async(void* shared, void const* global, int bytes = 16) const {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
                 : "memory");
  }
  __device__ void commit_copies() const { asm volatile("cp.async.commit_group;" ::: "memory"); }
  template <int N>
  __device__ void wait_copies() const {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
  }

  /// Four 8x8 matrices of 16-bit elements from shared memory: lane l gives the address of row l%8 of matrix l/8
  /// and gets of matrix i, in words[i], elements (l/4, 2(l%4)) and (l/4, 2(l%4)+1).
  __device__ void load_matrices(std::uint32_t (&words)[4], void const* row) const {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(shared_address(row))
                 : "memory");
  }
  /// The same of the transposed matrices: elements (2(l%4), l/4) and (2(l%4)+1, l/4).
  __device__ void load_matrices_transposed(std::uint32_t (&words)[4], void const* row) const {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(shared_address(row))
                 : "memory");
  }

  /// c (16,8) += a (16,16) b (16,8), bfloat16 with float sums, spread over the warp (g = lane/4, t = lane%4):
  ///   a[i]: elements (g + 8(i%2), 2t + 8(i/2)) and the next column; b[i]: (2t + 8i, g) and the next row;
  ///   c[i]: (g + 8(i/2), 2t + i%2). The lower half of a word is the first element.
  __device__ void multiply_add(float (&c)[4], std::uint32_t const (&a)[4], std::uint32_t const (&b)[2]) const {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }

  /// x, which the compiler then knows nothing of: what is computed from it in a loop is not kept in registers around it.
  [[nodiscard]] __device__ int opaque(int x) const {
    asm volatile("" : "+r"(x));
    return x;
  }

  /// Two floats rounded to bfloat16, the first in the lower half of the word.
  [[nodiscard]] __device__ std::uint32_t round_pair(float low, float high) const {
    std::uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
  }

  // Approximations to about 2 ulp of float: 2^x, log2(x), 1/x. Results below the smallest normal number are 0.
  [[nodiscard]] __device__ float exp2(float x) const {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  [[nodiscard]] __device__ float log2(float x) const {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  [[nodiscard]] __device__ float reciprocal(float x) const {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }

 private:
  static constexpr unsigned all_lanes = 0xffffffffu;
  static __device__ std::uint32_t shared_address(void const* place) {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(place));
  }
};

}  // namespace moduleformer
