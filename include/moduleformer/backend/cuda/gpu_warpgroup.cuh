// SPDX-License-Identifier: MIT
#pragma once
// GpuWarpgroup: what surrounds matrix products of a warpgroup (four warps, the first one's number a multiple of 4) that
// read operands from shared memory and run while the threads go on: wgmma (PTX ISA, section 9.7.15), in code for compute
// capability 9.0a alone. The products are in gpu_warpgroup_products.cuh. EmulatedThread has the same members.

#include <cuda_runtime.h>

#include <cstdint>

namespace moduleformer {

// NVCC tells code for 9.0a from code for 9.0 by this macro only.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define MODULEFORMER_WARPGROUPS 1
#else
#define MODULEFORMER_WARPGROUPS 0
#endif

struct GpuWarpgroup {
  static constexpr bool has_warpgroups = MODULEFORMER_WARPGROUPS == 1, always_has_warpgroups = has_warpgroups;

  /// Where an operand begins in shared memory. It lies in panels of 64 elements (128 bytes) a row, aligned to 1024
  /// bytes, chunk c of 16 bytes of row r at place c ^ r % 8 (SharedPart). Major 0: a row holds terms of the
  /// contraction, and rows are those of A or columns of B; 1: a row is one term, and panels lie panel_bytes apart.
  struct SharedMatrix {
    std::uint64_t bits;
  };
  [[nodiscard]] __device__ SharedMatrix shared_matrix(void const* place, int panel_bytes) const {
    constexpr std::uint64_t swizzle_128 = std::uint64_t{1} << 62, eight_rows = std::uint64_t{1024 >> 4} << 32;
    auto const address = static_cast<std::uint32_t>(__cvta_generic_to_shared(place));
    return {swizzle_128 | eight_rows | static_cast<std::uint64_t>(panel_bytes >> 4) << 16 | (address & 0x3ffff) >> 4};
  }

  // Order: what threads wrote to shared memory (copy_async too, once it was waited for) is there for products after
  // publish_shared() by the writers and a barrier. begin_products(): sums may be handed over. Products between two
  // commits are a group; wait_products<N>() waits until at most the N newest groups run, and only then may their
  // sums be read and their operands be overwritten.
#if MODULEFORMER_WARPGROUPS
  __device__ void publish_shared() const { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
  __device__ void begin_products() const { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
  __device__ void commit_products() const { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
  template <int N>
  __device__ void wait_products() const {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
  }
#else
  // Never run: without the instructions nothing chooses kernels that use them.
  __device__ void publish_shared() const {}
  __device__ void begin_products() const {}
  __device__ void commit_products() const {}
  template <int N>
  __device__ void wait_products() const {}
#endif
};

}  // namespace moduleformer
