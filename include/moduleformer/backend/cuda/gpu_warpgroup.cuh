// SPDX-License-Identifier: MIT
#pragma once
// GpuWarpgroup: matrix products of a warpgroup (four warps, the first one's number a multiple of 4) that read both
// operands from shared memory and run while the threads go on: wgmma (PTX ISA, section 9.7.15), in code for compute
// capability 9.0a alone. EmulatedThread has the same members.

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

#define MODULEFORMER_EIGHT_SUMS(i)                                                                        \
  "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), \
      "+f"(c[i + 7])

  /// c (64,N) += (without `add`: =) a (64,16) b (16,N), bfloat16 with float sums, N = 2 * the length of c. Warp w of the group has rows
  /// 16w to 16w+15, lane l of it (g = l/4, t = l%4) in c[4j + i] element (g + 8(i/2), 8j + 2t + i%2).
  template <int MajorA, int MajorB>
  __device__ void multiply_shared(float (&c)[64], SharedMatrix a, SharedMatrix b, bool add) const {
    asm volatile(
        "{.reg .pred add; setp.ne.b32 add, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
        "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
        "}, %64, %65, add, 1, 1, %67, %68;}"
        : MODULEFORMER_EIGHT_SUMS(0), MODULEFORMER_EIGHT_SUMS(8), MODULEFORMER_EIGHT_SUMS(16), MODULEFORMER_EIGHT_SUMS(24),
          MODULEFORMER_EIGHT_SUMS(32), MODULEFORMER_EIGHT_SUMS(40), MODULEFORMER_EIGHT_SUMS(48), MODULEFORMER_EIGHT_SUMS(56)
        : "l"(a.bits), "l"(b.bits), "r"(static_cast<int>(add)), "n"(MajorA), "n"(MajorB)
        : "memory");
  }
  template <int MajorA, int MajorB>
  __device__ void multiply_shared(float (&c)[128], SharedMatrix a, SharedMatrix b, bool add) const {
    asm volatile(
        "{.reg .pred add; setp.ne.b32 add, %130, 0; wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
        "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"
        "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"
        "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
        "}, %128, %129, add, 1, 1, %131, %132;}"
        : MODULEFORMER_EIGHT_SUMS(0), MODULEFORMER_EIGHT_SUMS(8), MODULEFORMER_EIGHT_SUMS(16), MODULEFORMER_EIGHT_SUMS(24),
          MODULEFORMER_EIGHT_SUMS(32), MODULEFORMER_EIGHT_SUMS(40), MODULEFORMER_EIGHT_SUMS(48), MODULEFORMER_EIGHT_SUMS(56),
          MODULEFORMER_EIGHT_SUMS(64), MODULEFORMER_EIGHT_SUMS(72), MODULEFORMER_EIGHT_SUMS(80), MODULEFORMER_EIGHT_SUMS(88),
          MODULEFORMER_EIGHT_SUMS(96), MODULEFORMER_EIGHT_SUMS(104), MODULEFORMER_EIGHT_SUMS(112), MODULEFORMER_EIGHT_SUMS(120)
        : "l"(a.bits), "l"(b.bits), "r"(static_cast<int>(add)), "n"(MajorA), "n"(MajorB)
        : "memory");
  }
#undef MODULEFORMER_EIGHT_SUMS
#else
  // Never run: without the instructions nothing chooses kernels that use them.
  __device__ void publish_shared() const {}
  __device__ void begin_products() const {}
  __device__ void commit_products() const {}
  template <int N>
  __device__ void wait_products() const {}
  template <int MajorA, int MajorB, int N>
  __device__ void multiply_shared(float (&)[N], SharedMatrix, SharedMatrix, bool) const {}
#endif
};

}  // namespace moduleformer
