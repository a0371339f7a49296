// SPDX-License-Identifier: MIT
#pragma once
// GpuWarpgroupProducts: the products of a warpgroup, with 32 to 256 columns, whose left operand may be in registers
// (wgmma, PTX ISA, section 9.7.15). EmulatedThread has the same members.

#include <moduleformer/backend/cuda/gpu_warpgroup.cuh>

#include <cstdint>

namespace moduleformer {

struct GpuWarpgroupProducts : GpuWarpgroup {
#if MODULEFORMER_WARPGROUPS
#define MODULEFORMER_EIGHT_SUMS(i)                                                                        \
  "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), \
      "+f"(c[i + 7])
#define MODULEFORMER_SUMS_16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define MODULEFORMER_SUMS_32 \
  MODULEFORMER_SUMS_16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define MODULEFORMER_SUMS_48 \
  MODULEFORMER_SUMS_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define MODULEFORMER_SUMS_64 \
  MODULEFORMER_SUMS_48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define MODULEFORMER_SUMS_128 \
  MODULEFORMER_SUMS_64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95" \
                       ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define MODULEFORMER_16_SUMS(i) MODULEFORMER_EIGHT_SUMS(i), MODULEFORMER_EIGHT_SUMS(i + 8)
#define MODULEFORMER_32_SUMS MODULEFORMER_16_SUMS(0), MODULEFORMER_16_SUMS(16)
#define MODULEFORMER_48_SUMS MODULEFORMER_32_SUMS, MODULEFORMER_16_SUMS(32)
#define MODULEFORMER_64_SUMS MODULEFORMER_48_SUMS, MODULEFORMER_16_SUMS(48)
#define MODULEFORMER_128_SUMS                                                                        \
  MODULEFORMER_64_SUMS, MODULEFORMER_16_SUMS(64), MODULEFORMER_16_SUMS(80), MODULEFORMER_16_SUMS(96), \
      MODULEFORMER_16_SUMS(112)
// Operands after the sums: a, b, whether to add, majors.
#define MODULEFORMER_MULTIPLY(columns, names, sums, a, b, add, major_a, major_b)                                 \
  asm volatile("{.reg .pred add; setp.ne.b32 add, %" add                                                         \
               ", 0; wgmma.mma_async.sync.aligned.m64n" columns "k16.f32.bf16.bf16 {" names "}, %" a ", %" b     \
               ", add, 1, 1, %" major_a ", %" major_b ";}"                                                       \
               : sums                                                                                            \
               : "l"(left.bits), "l"(right.bits), "r"(added), "n"(MajorA), "n"(MajorB)                           \
               : "memory")
#define MODULEFORMER_MULTIPLY_ROWS(columns, names, sums, a0, a1, a2, a3, b, add, major_b)                        \
  asm volatile("{.reg .pred add; setp.ne.b32 add, %" add                                                         \
               ", 0; wgmma.mma_async.sync.aligned.m64n" columns "k16.f32.bf16.bf16 {" names "}, {%" a0 ", %" a1  \
               ", %" a2 ", %" a3 "}, %" b ", add, 1, 1, %" major_b ";}"                                          \
               : sums                                                                                            \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(right.bits), "r"(added), "n"(MajorB)            \
               : "memory")

  /// c (64,N) += (without `add`: =) a (64,16) b (16,N), bfloat16 with float sums, N = 2 * the length of c. Warp w of the
  /// group has rows 16w to 16w+15, lane l of it (g = l/4, t = l%4) in c[4j + i] element (g + 8(i/2), 8j + 2t + i%2).
  template <int MajorA, int MajorB, int N>
  __device__ void multiply_shared(float (&c)[N], SharedMatrix left, SharedMatrix right, bool add) const {
    static_assert(N == 16 || N == 32 || N == 48 || N == 64 || N == 128);
    int const added = add ? 1 : 0;
    if constexpr (N == 16)
      MODULEFORMER_MULTIPLY("32", MODULEFORMER_SUMS_16, MODULEFORMER_16_SUMS(0), "16", "17", "18", "19", "20");
    else if constexpr (N == 32)
      MODULEFORMER_MULTIPLY("64", MODULEFORMER_SUMS_32, MODULEFORMER_32_SUMS, "32", "33", "34", "35", "36");
    else if constexpr (N == 48)
      MODULEFORMER_MULTIPLY("96", MODULEFORMER_SUMS_48, MODULEFORMER_48_SUMS, "48", "49", "50", "51", "52");
    else if constexpr (N == 64)
      MODULEFORMER_MULTIPLY("128", MODULEFORMER_SUMS_64, MODULEFORMER_64_SUMS, "64", "65", "66", "67", "68");
    else
      MODULEFORMER_MULTIPLY("256", MODULEFORMER_SUMS_128, MODULEFORMER_128_SUMS, "128", "129", "130", "131", "132");
  }
  /// The same with a's fragment in registers, each warp's as that of multiply_add; not to be changed before the wait.
  template <int MajorB, int N>
  __device__ void multiply_rows(float (&c)[N], std::uint32_t const (&a)[4], SharedMatrix right, bool add) const {
    static_assert(N == 16 || N == 32 || N == 48 || N == 64);
    int const added = add ? 1 : 0;
    if constexpr (N == 16)
      MODULEFORMER_MULTIPLY_ROWS("32", MODULEFORMER_SUMS_16, MODULEFORMER_16_SUMS(0), "16", "17", "18", "19", "20", "21", "22");
    else if constexpr (N == 32)
      MODULEFORMER_MULTIPLY_ROWS("64", MODULEFORMER_SUMS_32, MODULEFORMER_32_SUMS, "32", "33", "34", "35", "36", "37", "38");
    else if constexpr (N == 48)
      MODULEFORMER_MULTIPLY_ROWS("96", MODULEFORMER_SUMS_48, MODULEFORMER_48_SUMS, "48", "49", "50", "51", "52", "53", "54");
    else
      MODULEFORMER_MULTIPLY_ROWS("128", MODULEFORMER_SUMS_64, MODULEFORMER_64_SUMS, "64", "65", "66", "67", "68", "69", "70");
  }
#undef MODULEFORMER_SUMS_16
#undef MODULEFORMER_SUMS_32
#undef MODULEFORMER_SUMS_48
#undef MODULEFORMER_SUMS_64
#undef MODULEFORMER_SUMS_128
#undef MODULEFORMER_16_SUMS
#undef MODULEFORMER_32_SUMS
#undef MODULEFORMER_48_SUMS
#undef MODULEFORMER_64_SUMS
#undef MODULEFORMER_128_SUMS
#undef MODULEFORMER_MULTIPLY
#undef MODULEFORMER_MULTIPLY_ROWS
#undef MODULEFORMER_EIGHT_SUMS
#else
  // Never run: without the instructions nothing chooses kernels that use them.
  template <int MajorA, int MajorB, int N>
  __device__ void multiply_shared(float (&)[N], SharedMatrix, SharedMatrix, bool) const {}
  template <int MajorB, int N>
  __device__ void multiply_rows(float (&)[N], std::uint32_t const (&)[4], SharedMatrix, bool) const {}
#endif
};

}  // namespace moduleformer
