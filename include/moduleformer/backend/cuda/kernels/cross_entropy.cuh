// SPDX-License-Identifier: MIT
#pragma once
// Cross-entropy of one row of logits by a block: its loss, log(sum of exponentials) - logit of the label, in double,
// and d = scale (softmax - onehot). Maximum and sum come from one reading (a thread's sum is rescaled when its maximum
// grows, arXiv 1805.02867), d from a second one.

#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/backend/cuda/kernels/reduction.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cmath>
#include <cstddef>

namespace moduleformer::kernels {

/// d null: losses only. Where T is float, d may be the logits. Both begin at 16 aligned bytes. Of long rows few are
/// under way at a time, so that the second reading finds them in the cache: large blocks.
template <class T, int Threads>
struct CrossEntropyRows {
  static constexpr int threads = Threads;
  static constexpr int warps = threads / 32;
  static constexpr int pack = 4;
  static constexpr std::size_t shared_bytes = warps * (sizeof(double) + sizeof(float));
  float const* logits;
  TokenId const* labels;
  double const* scale;  // in backend memory
  T* d;
  double* losses;
  Index vocabulary;
  Index stride;  // elements from row to row of logits and d

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const row = thread.block(), begin = row * stride, end = begin + vocabulary;
    TokenId const label = labels[row];
    if (label == ignore_label) {
      if (thread.index() == 0) losses[row] = 0.0;
      if (d != nullptr) for_each_pack(thread, begin, end, [&](Index at) { write(thread, at, begin, end, {}); });
      return;
    }
    float const chosen = logits[begin + label];
    float largest = lowest, sum = 0.0f;
    for_each_pack(thread, begin, end, [&](Index at) {
      float x[pack];
      read(at, begin, end, x);
      float const before = largest;
      MODULEFORMER_UNROLL
      for (int i = 0; i < pack; ++i) largest = x[i] > largest ? x[i] : largest;
      if (largest > before) sum *= exponential(thread, before - largest);
      MODULEFORMER_UNROLL
      for (int i = 0; i < pack; ++i) sum += exponential(thread, x[i] - largest);
    });
    auto* const sums = thread.template shared<double>();
    float const of_row = block_largest(thread, largest, reinterpret_cast<float*>(sums + warps));
    double total[1] = {static_cast<double>(sum * exponential(thread, largest - of_row))};
    block_sums<threads>(thread, total, sums);
    if (thread.index() == 0)
      losses[row] = std::log(total[0]) - (static_cast<double>(chosen) - static_cast<double>(of_row));
    if (d == nullptr) return;
    float const slope = static_cast<float>(*scale), factor = static_cast<float>(static_cast<double>(slope) / total[0]);
    for_each_pack(thread, begin, end, [&](Index at) {
      float x[pack];
      read(at, begin, end, x);
      MODULEFORMER_UNROLL
      for (int i = 0; i < pack; ++i)
        x[i] = factor * exponential(thread, x[i] - of_row) - (at + i == begin + label ? slope : 0.0f);
      write(thread, at, begin, end, x);
    });
  }

 private:
  static constexpr float lowest = -3.402823466e38f;  // finite: its difference to a logit of -infinity is no NaN

  template <class Thread>
  MODULEFORMER_DEVICE static float exponential(Thread const& thread, float x) {
    return thread.exp2(1.44269504f * x);
  }

  /// f(at) for this thread's packs of the row, which begin at multiples of the pack; the first and last one may be
  /// the neighbours' too.
  template <class Thread, class F>
  MODULEFORMER_DEVICE static void for_each_pack(Thread const& thread, Index begin, Index end, F f) {
    for (Index at = begin / pack * pack + thread.index() * pack; at < end; at += threads * pack) f(at);
  }
  /// What is the neighbours' counts nothing.
  MODULEFORMER_DEVICE void read(Index at, Index begin, Index end, float (&x)[pack]) const {
    if (at >= begin && at + pack <= end) return load(logits + at, pack, true, x);
    MODULEFORMER_UNROLL
    for (int i = 0; i < pack; ++i) x[i] = at + i >= begin && at + i < end ? logits[at + i] : lowest;
  }
  template <class Thread>
  MODULEFORMER_DEVICE void write(Thread const& thread, Index at, Index begin, Index end, float const (&x)[pack]) const {
    if (at >= begin && at + pack <= end) return store(thread, d + at, pack, true, x);
    MODULEFORMER_UNROLL
    for (int i = 0; i < pack; ++i)
      if (at + i >= begin && at + i < end) d[at + i] = static_cast<T>(x[i]);
  }

  template <class Thread>
  MODULEFORMER_DEVICE static float block_largest(Thread const& thread, float value, float* room) {
    value = warp_max(thread, value);
    if (thread.lane() == 0) room[thread.warp()] = value;
    thread.sync();
    for (int w = 0; w < warps; ++w) value = room[w] > value ? room[w] : value;
    return value;
  }
};

}  // namespace moduleformer::kernels
