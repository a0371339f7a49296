// SPDX-License-Identifier: MIT
#pragma once
// Activations over contiguous elements. The functor runs in a plain loop over a short local array, which
// compilers vectorise where its arithmetic allows that and leave alone where not (a user's own functor may
// call anything); what is done with its results is then vector code in any case.

#include <moduleformer/core/functors.hpp>
#include <moduleformer/core/types.hpp>

#include <algorithm>
#include <concepts>

namespace moduleformer::detail {

inline constexpr Index activation_block = 128;

/// out = gate act(z); out may be z.
template <class Act, Real S>
void activate(Act const& act, S gate, S const* z, S* out, Index count) {
  if constexpr (std::same_as<Act, Identity>) {
    if (gate != S(1))
#pragma omp simd
      for (Index i = 0; i < count; ++i) out[i] = gate * z[i];
    else if (out != z)
      std::copy_n(z, count, out);
  } else {
    for (Index begin = 0; begin < count; begin += activation_block) {
      Index const size = std::min(activation_block, count - begin);
      S value[activation_block];
      for (Index i = 0; i < size; ++i) value[i] = act(z[begin + i]).value;
      S* const to = out + begin;
#pragma omp simd
      for (Index i = 0; i < size; ++i) to[i] = gate * value[i];
    }
  }
}

/// dz = gate g act'(z), scaled = gate act(z); either may be null, dz may be g. Returns <g, act(z)>.
template <class Act, Real S>
S activation_gradients(Act const& act, S gate, S const* g, S const* z, S* dz, S* scaled, Index count) {
  S sum = 0;
  for (Index begin = 0; begin < count; begin += activation_block) {
    Index const size = std::min(activation_block, count - begin);
    S value[activation_block], slope[activation_block];
    for (Index i = 0; i < size; ++i) {
      auto const a = act(z[begin + i]);
      value[i] = a.value;
      slope[i] = a.derivative;
    }
    S const* const from = g + begin;
#pragma omp simd reduction(+ : sum)
    for (Index i = 0; i < size; ++i) sum += from[i] * value[i];
    if (dz != nullptr) {
      S* const to = dz + begin;
#pragma omp simd
      for (Index i = 0; i < size; ++i) to[i] = gate * from[i] * slope[i];
    }
    if (scaled != nullptr) {
      S* const to = scaled + begin;
#pragma omp simd
      for (Index i = 0; i < size; ++i) to[i] = gate * value[i];
    }
  }
  return sum;
}

}  // namespace moduleformer::detail
