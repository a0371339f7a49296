// SPDX-License-Identifier: MIT
#pragma once
// Sums over a block and over an array in an order that depends on its size only: lanes by a butterfly, warps in
// ascending order; an array is cut into pieces whose sums, in double, one block adds up in ascending strides.

#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/backend/cuda/kernels/warp.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

namespace moduleformer::kernels {

/// Each of `values` becomes its sum over the block, in every thread. `room` holds Count elements for each warp in
/// shared memory; it may be used again after the next barrier.
template <int Threads, int Count, class Thread, class T>
MODULEFORMER_DEVICE void block_sums(Thread const& thread, T (&values)[Count], T* room) {
  constexpr int warps = Threads / 32;
  MODULEFORMER_UNROLL
  for (int i = 0; i < Count; ++i) values[i] = warp_sum(thread, values[i]);
  if constexpr (warps > 1) {
    if (thread.lane() == 0)
      for (int i = 0; i < Count; ++i) room[thread.warp() * Count + i] = values[i];
    thread.sync();
    MODULEFORMER_UNROLL
    for (int i = 0; i < Count; ++i) {
      values[i] = room[i];
      for (int w = 1; w < warps; ++w) values[i] += room[w * Count + i];
    }
  }
}

/// sums[piece] = <x, y> over the piece, in double; x may be y.
struct InnerProduct {
  static constexpr int threads = 256;
  static constexpr int blocks_at_once = 4;
  static constexpr int pack = pack_size<float>;
  static constexpr int at_once = 4;  // packs under way together
  static constexpr std::size_t shared_bytes = threads / 32 * sizeof(double);
  float const* x;
  float const* y;
  double* sums;
  Index size;
  Index piece;
  bool packed;  // every piece begins at 16 aligned bytes

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const begin = thread.block() * piece, end = begin + piece < size ? begin + piece : size;
    double sum[1] = {0.0};
    for (Index at = begin + thread.index() * pack; at < end; at += at_once * threads * pack) {
      Words<float, pack> left[at_once], right[at_once];
      MODULEFORMER_UNROLL
      for (int k = 0; k < at_once; ++k) {
        Index const place = at + k * threads * pack;
        left[k] = load_words<pack>(x + place, end - place, packed);
        right[k] = x == y ? left[k] : load_words<pack>(y + place, end - place, packed);
      }
      MODULEFORMER_UNROLL
      for (int k = 0; k < at_once; ++k) {
        float a[pack], b[pack];
        unpack(left[k], a);
        unpack(right[k], b);
        MODULEFORMER_UNROLL
        for (int i = 0; i < pack; ++i) sum[0] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
      }
    }
    block_sums<threads>(thread, sum, thread.template shared<double>());
    if (thread.index() == 0) sums[thread.block()] = sum[0];
  }
};

/// out[0] = or += the sum of the parts; one block.
template <class T>
struct AddUp {
  static constexpr int threads = 256;
  static constexpr std::size_t shared_bytes = threads / 32 * sizeof(double);
  double const* parts;
  Index count;
  T* out;
  bool add;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    double sum[1] = {0.0};
    for (Index i = thread.index(); i < count; i += threads) sum[0] += parts[i];
    block_sums<threads>(thread, sum, thread.template shared<double>());
    if (thread.index() == 0) out[0] = static_cast<T>(add ? static_cast<double>(out[0]) + sum[0] : sum[0]);
  }
};

}  // namespace moduleformer::kernels
