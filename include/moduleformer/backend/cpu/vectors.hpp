// SPDX-License-Identifier: MIT
#pragma once
// Lanes<S>: as many scalars as a vector register of the target machine holds, through the compilers'
// vector extension (g++ and clang; arithmetic is elementwise), and the transpose of a square of them.

#include <moduleformer/core/types.hpp>

#include <cstring>
#include <utility>

namespace moduleformer::detail {

#if defined(__AVX512F__)
inline constexpr int vector_bytes = 64, vector_registers = 32;
#elif defined(__AVX__)
inline constexpr int vector_bytes = 32, vector_registers = 16;
#elif defined(__aarch64__)
inline constexpr int vector_bytes = 16, vector_registers = 32;
#else
inline constexpr int vector_bytes = 16, vector_registers = 16;
#endif

template <Real S>
struct LanesOf {
  using Type __attribute__((vector_size(vector_bytes))) = S;
};
template <Real S>
using Lanes = typename LanesOf<S>::Type;

/// Scalars in a vector.
template <Real S>
inline constexpr Index lanes = vector_bytes / static_cast<Index>(sizeof(S));

/// The next multiple of the vector's length.
template <Real S>
constexpr Index padded(Index count) {
  return (count + lanes<S> - 1) / lanes<S> * lanes<S>;
}

template <Real S>
inline Lanes<S> load(S const* from) {
  Lanes<S> result;
  std::memcpy(&result, from, sizeof result);
  return result;
}

template <Real S>
inline void store(Lanes<S> value, S* to) {
  std::memcpy(to, &value, sizeof value);
}

/// a0 b0 a1 b1 ... of the lower (half = 0) or upper halves.
template <Real S, int half, int... I>
inline Lanes<S> interleave(Lanes<S> a, Lanes<S> b, std::integer_sequence<int, I...>) {
  constexpr int n = static_cast<int>(sizeof...(I));
  return __builtin_shufflevector(a, b, (half * n / 2 + I / 2 + (I % 2) * n)...);
}

/// to[x*to_stride + i] = from[i*from_stride + x] for a square of lanes x lanes. Interleaving row i with
/// row i + n/2 moves the lowest bit of the row number to the lowest bit of the column number; after
/// log2(n) rounds the two numbers have changed places.
template <Real S>
inline void transpose_square(S const* from, Index from_stride, S* to, Index to_stride) {
  constexpr int n = static_cast<int>(lanes<S>);
  constexpr auto all = std::make_integer_sequence<int, n>{};
  Lanes<S> rows[n], next[n];
  for (int i = 0; i < n; ++i) rows[i] = load(from + i * from_stride);
  for (int round = 1; round < n; round *= 2) {
    for (int i = 0; i < n / 2; ++i) {
      next[2 * i] = interleave<S, 0>(rows[i], rows[i + n / 2], all);
      next[2 * i + 1] = interleave<S, 1>(rows[i], rows[i + n / 2], all);
    }
    for (int i = 0; i < n; ++i) rows[i] = next[i];
  }
  for (int i = 0; i < n; ++i) store<S>(rows[i], to + i * to_stride);
}

}  // namespace moduleformer::detail
