// SPDX-License-Identifier: MIT
#pragma once
// Cross-entropy of one row of logits by a block: its loss, log(sum of exponentials) - logit of the label, in double,
// and d = scale (softmax - onehot). Maximum and sum come from one reading (a thread's sum is rescaled when its maximum
// grows, arXiv 1805.02867), d from a second one, of the row as it was kept in shared memory where it fits.

#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/backend/cuda/kernels/reduction.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cmath>
#include <cstddef>

namespace moduleformer::kernels {

/// d null: losses only. Where T is float, d may be the logits. Rows of both begin at 16 aligned bytes. Keeps: the row
/// stays in shared memory; else, of long rows, few are under way at a time, so that the second reading finds them in
/// the cache: large blocks.
template <class T, int Threads, bool Keeps>
struct CrossEntropyRows {
  static constexpr int threads = Threads;
  static constexpr int warps = threads / 32;
  static constexpr int pack = 4;
  static constexpr int at_once = 4;  // packs of a thread that are under way together
  static constexpr Index room = warps * (sizeof(double) + sizeof(float));
  float const* logits;
  TokenId const* labels;
  double const* scale;  // in backend memory
  T* d;
  double* losses;
  Index vocabulary;
  Index stride;  // elements from row to row of logits and d

  [[nodiscard]] static std::size_t shared_bytes(Index vocabulary) {
    Index const row = (vocabulary + pack - 1) / pack * pack * static_cast<Index>(sizeof(float));
    return static_cast<std::size_t>(room + (Keeps ? row : 0));
  }

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const row = thread.block(), begin = row * stride;
    TokenId const label = labels[row];
    if (label == ignore_label) {
      if (thread.index() == 0) losses[row] = 0.0;
      if (d == nullptr) return;
      float const zeros[pack] = {};
      for (Index at = thread.index() * pack; at < vocabulary; at += threads * pack)
        store(thread, d + begin + at, vocabulary - at, true, zeros);
      return;
    }
    auto* const sums = thread.template shared<double>();
    auto* const kept = reinterpret_cast<float*>(sums) + room / static_cast<Index>(sizeof(float));
    float const chosen = logits[begin + label];
    float largest = lowest, sum = 0.0f;
    auto const add = [&](Index, Words<float, pack> const(&words)[at_once]) {
      float x[at_once][pack];
      float const before = largest;
      MODULEFORMER_UNROLL
      for (int k = 0; k < at_once; ++k) {
        unpack(words[k], x[k]);
        MODULEFORMER_UNROLL
        for (int i = 0; i < pack; ++i) largest = x[k][i] > largest ? x[k][i] : largest;
      }
      if (largest > before) sum *= exponential(thread, before - largest);
      MODULEFORMER_UNROLL
      for (int k = 0; k < at_once; ++k) {
        MODULEFORMER_UNROLL
        for (int i = 0; i < pack; ++i) sum += exponential(thread, x[k][i] - largest);
      }
    };
    if constexpr (Keeps) {  // all of the row is under way at once
      for (Index part = 0; part < 4; ++part) copy(thread, logits + begin, part, kept);
      thread.template wait_copies<3>();
      for_packs(thread, kept, 0, quarter(), add);
      thread.template wait_copies<2>();
      for_packs(thread, kept, quarter(), 2 * quarter(), add);
      thread.template wait_copies<1>();
      for_packs(thread, kept, 2 * quarter(), 3 * quarter(), add);
      thread.template wait_copies<0>();
      for_packs(thread, kept, 3 * quarter(), vocabulary, add);
    } else {
      for_packs(thread, logits + begin, 0, vocabulary, add);
    }
    float const of_row = block_largest(thread, largest, reinterpret_cast<float*>(sums + warps));
    double total[1] = {static_cast<double>(sum * exponential(thread, largest - of_row))};
    block_sums<threads>(thread, total, sums);
    if (thread.index() == 0)
      losses[row] = std::log(total[0]) - (static_cast<double>(chosen) - static_cast<double>(of_row));
    if (d == nullptr) return;
    float const slope = static_cast<float>(*scale), factor = static_cast<float>(static_cast<double>(slope) / total[0]);
    // What a thread kept it reads itself: no barrier.
    for_packs(thread, Keeps ? kept : logits + begin, 0, vocabulary,
              [&](Index at, Words<float, pack> const(&words)[at_once]) {
                MODULEFORMER_UNROLL
                for (int k = 0; k < at_once; ++k) {
                  Index const here = at + k * threads * pack;
                  if (here >= vocabulary) continue;
                  float x[pack];
                  unpack(words[k], x);
                  MODULEFORMER_UNROLL
                  for (int i = 0; i < pack; ++i)
                    x[i] = factor * exponential(thread, x[i] - of_row) - (here + i == label ? slope : 0.0f);
                  store(thread, d + begin + here, vocabulary - here, true, x);
                }
              });
  }

 private:
  static constexpr float lowest = -3.402823466e38f;  // finite: its difference to a logit of -infinity is no NaN

  template <class Thread>
  MODULEFORMER_DEVICE static float exponential(Thread const& thread, float x) {
    return thread.exp2(1.44269504f * x);
  }

  /// Columns of a fourth of the row: whole steps of for_packs.
  [[nodiscard]] MODULEFORMER_DEVICE Index quarter() const {
    constexpr Index step = Index{at_once} * threads * pack;
    return (vocabulary + 4 * step - 1) / (4 * step) * step;
  }
  /// The thread's packs of a fourth of the row, as a group of copies.
  template <class Thread>
  MODULEFORMER_DEVICE void copy(Thread const& thread, float const* row, Index part, float* to) const {
    Index const end = (part + 1) * quarter() < vocabulary ? (part + 1) * quarter() : vocabulary;
    for (Index at = part * quarter() + thread.index() * pack; at < end; at += threads * pack)
      thread.copy_async(to + at, row + at, vocabulary - at < pack ? static_cast<int>(vocabulary - at) * 4 : 16);
    thread.commit_copies();
  }

  /// f(column, words) for this thread's packs among columns [begin, end) of a row, some at a time, from a column on,
  /// `threads` packs apart. What lies beyond the row is small.
  template <class Thread, class F>
  MODULEFORMER_DEVICE void for_packs(Thread const& thread, float const* row, Index begin, Index end, F f) const {
    for (Index at = begin + thread.index() * pack; at < end && at < vocabulary; at += at_once * threads * pack) {
      Words<float, pack> words[at_once];
      MODULEFORMER_UNROLL
      for (int k = 0; k < at_once; ++k) words[k] = read(row, at + k * threads * pack);
      f(at, words);
    }
  }
  MODULEFORMER_DEVICE Words<float, pack> read(float const* row, Index at) const {
    if (at + pack <= vocabulary) return *reinterpret_cast<Words<float, pack> const*>(row + at);
    Pack<float, pack> x;
    MODULEFORMER_UNROLL
    for (int i = 0; i < pack; ++i) x.values[i] = at + i < vocabulary ? row[at + i] : lowest;
    return __builtin_bit_cast(Words<float, pack>, x);
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
