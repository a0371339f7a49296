// SPDX-License-Identifier: MIT
#pragma once
// Sums and maxima over a warp, the same bits in every lane: a butterfly, whose order of addition is fixed.

#include <moduleformer/core/platform.hpp>

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

}  // namespace moduleformer::kernels
