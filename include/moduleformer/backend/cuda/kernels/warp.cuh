// SPDX-License-Identifier: MIT
#pragma once
// Sums and maxima over a warp, the same bits in every lane: a butterfly, whose order of addition is fixed; and the
// lowest of some lanes.

#include <moduleformer/core/platform.hpp>

#include <bit>
#include <cstdint>

namespace moduleformer::kernels {

template <class Thread, class T>
MODULEFORMER_DEVICE T warp_sum(Thread const& thread, T value) {
  MODULEFORMER_UNROLL
  for (int lanes = 16; lanes > 0; lanes /= 2) value += thread.shuffle_xor(value, lanes);
  return value;
}

/// NaN only where every lane has one.
template <class Thread, class T>
MODULEFORMER_DEVICE T warp_max(Thread const& thread, T value) {
  MODULEFORMER_UNROLL
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    T const other = thread.shuffle_xor(value, lanes);
    value = value >= other || other != other ? value : other;
  }
  return value;
}

/// The lowest bit that is set; 32 if none is. Not std::countr_zero, which nvcc 13.0 turns into 32 in device code.
MODULEFORMER_HOST_DEVICE constexpr int lowest_lane(std::uint32_t lanes) {
  return std::popcount((lanes & (~lanes + 1u)) - 1u);
}

}  // namespace moduleformer::kernels
