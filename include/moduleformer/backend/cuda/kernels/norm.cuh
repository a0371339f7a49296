// SPDX-License-Identifier: MIT
#pragma once
// Layer norm over rows (formulas: backend/cpu/norm.hpp) by teams: a warp or a block per row, a thread having packs of
// columns. A row that fits stays in registers, longer ones are read again. Statistics in float: the mean, corrected
// by the mean of the differences to it, and the variance from these differences. Rows may be sums over slots, which are
// added up as they are read. Backward: norm_backward.cuh.

#include <moduleformer/backend/cuda/kernels/elementwise.cuh>
#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/backend/cuda/kernels/reduction.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cmath>
#include <cstddef>

namespace moduleformer::kernels {

/// y = (x - mean) inverse weight + bias; mean and inverse may be null. Team: 32 threads, or all of the block.
/// With slots, x becomes x + dropout(their sum), which is kept in h.
template <class S, int Team>
struct LayerNorm {
  static constexpr int threads = Team == 32 ? 128 : Team;
  static constexpr int rows_at_once = threads / Team;
  static constexpr int blocks_at_once = 512 / threads;
  static constexpr int pack = pack_size<S>;
  static constexpr int packs = 32 / pack;                     // of a thread, in registers
  static constexpr int together = 4;                          // packs that are under way together
  static constexpr Index chunk = Index{Team} * packs * pack;  // columns that a team holds
  static constexpr std::size_t shared_bytes = Team == 32 ? 0 : 3 * threads / 32 * sizeof(float);
  S const* x;
  Index slots;      // 0: none
  S const* branch;  // (rows*slots, width)
  Dropout drop;     // of their sum; if any, every row begins at a multiple of 4
  float kept;
  S* h;  // null without slots
  S const* weight;
  S const* bias;
  float epsilon;
  S* y;
  float* mean;
  float* inverse;
  Index rows;
  Index width;
  bool packed;  // the tensors at every row, weight and bias

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const row = thread.block() * rows_at_once + thread.index() / Team;
    if (row >= rows) return;
    float values[packs][pack];
    float const count = static_cast<float>(width);
    bool const held = width <= chunk;
    auto* const room = thread.template shared<float>();

    float sum[1] = {0.0f};
    for (Index at = 0; at < width; at += chunk) {
      if (slots > 0) add_up(thread, row, at, values);
      else read(x, thread, row, at, values);
      for_each(thread, at, [&](int p, int i) { sum[0] += values[p][i]; });
    }
    team_sums(thread, sum, room);
    float centre = sum[0] / count;
    float moments[2] = {0.0f, 0.0f};  // sums of differences to the centre and of their squares
    for (Index at = 0; at < width; at += chunk) {
      if (!held) read(slots > 0 ? h : x, thread, row, at, values);
      for_each(thread, at, [&](int p, int i) {
        float const difference = values[p][i] - centre;
        moments[0] += difference;
        moments[1] += difference * difference;
      });
    }
    team_sums(thread, moments, room + threads / 32);
    float const correction = moments[0] / count;
    float const variance = moments[1] / count - correction * correction;
    float const scale = 1.0f / std::sqrt((variance > 0.0f ? variance : 0.0f) + epsilon);
    // The difference to the corrected mean, in two steps: the mean itself may not hold the correction's digits.
    for (Index at = 0; at < width; at += chunk) {
      if (!held) read(slots > 0 ? h : x, thread, row, at, values);
      MODULEFORMER_UNROLL
      for (int group = 0; group < packs; group += together) {
        Words<S, pack> ws[together], bs[together];
        MODULEFORMER_UNROLL
        for (int p = 0; p < together; ++p) {
          Index const column = first_column(thread, at, group + p), left = width - column;
          ws[p] = load_words<pack>(weight + column, left, packed);
          bs[p] = load_words<pack>(bias + column, left, packed);
        }
        MODULEFORMER_UNROLL
        for (int p = 0; p < together; ++p) {
          Index const column = first_column(thread, at, group + p), left = width - column;
          float w[pack], b[pack];
          unpack(ws[p], w);
          unpack(bs[p], b);
          MODULEFORMER_UNROLL
          for (int i = 0; i < pack; ++i) b[i] += (values[group + p][i] - centre - correction) * scale * w[i];
          store(thread, y + row * width + column, left, packed, b);
        }
      }
    }
    if (thread.index() % Team != 0) return;
    if (mean != nullptr) mean[row] = centre + correction;
    if (inverse != nullptr) inverse[row] = scale;
  }

 private:
  template <class Thread>
  MODULEFORMER_DEVICE static Index first_column(Thread const& thread, Index at, int p) {
    return at + (p * Team + thread.index() % Team) * pack;
  }
  template <class Thread>
  MODULEFORMER_DEVICE void read(S const* from, Thread const& thread, Index row, Index at,
                                float (&values)[packs][pack]) const {
    Words<S, pack> words[packs];
    MODULEFORMER_UNROLL
    for (int p = 0; p < packs; ++p) {
      Index const column = first_column(thread, at, p);
      words[p] = load_words<pack>(from + row * width + column, width - column, packed);
    }
    MODULEFORMER_UNROLL
    for (int p = 0; p < packs; ++p) unpack(words[p], values[p]);
  }
  /// Into h as well, where a thread reads again only what it wrote itself.
  template <class Thread>
  MODULEFORMER_DEVICE void add_up(Thread const& thread, Index row, Index at, float (&values)[packs][pack]) const {
    MODULEFORMER_UNROLL
    for (int group = 0; group < packs; group += together) {
      Words<S, pack> base[together], slot[2][together];  // the first two; more of them are read one by one
      MODULEFORMER_UNROLL
      for (int p = 0; p < together; ++p) {
        Index const column = first_column(thread, at, group + p), left = width - column;
        base[p] = load_words<pack>(x + row * width + column, left, packed);
        slot[0][p] = load_words<pack>(branch + row * slots * width + column, left, packed);
        slot[1][p] = load_words<pack>(branch + (row * slots + 1) * width + column, slots > 1 ? left : 0, packed);
      }
      MODULEFORMER_UNROLL
      for (int p = 0; p < together; ++p) {
        Index const column = first_column(thread, at, group + p), left = width - column;
        float(&sum)[pack] = values[group + p];
        float more[pack];
        unpack(slot[0][p], sum);
        for (Index s = 1; s < slots; ++s) {
          if (s == 1) unpack(slot[1][p], more);
          else load(branch + (row * slots + s) * width + column, left, packed, more);
          MODULEFORMER_UNROLL
          for (int i = 0; i < pack; ++i) sum[i] += more[i];
        }
        if (drop.probability > 0) drop_out(drop, kept, row * width + column, sum);
        unpack(base[p], more);
        MODULEFORMER_UNROLL
        for (int i = 0; i < pack; ++i) sum[i] += more[i];
        round_to<S>(thread, sum);
        store(thread, h + row * width + column, left, packed, sum);
      }
    }
  }
  /// f(pack, element) for the thread's columns that exist.
  template <class Thread, class F>
  MODULEFORMER_DEVICE void for_each(Thread const& thread, Index at, F f) const {
    MODULEFORMER_UNROLL
    for (int p = 0; p < packs; ++p) {
      Index const left = width - first_column(thread, at, p);
      MODULEFORMER_UNROLL
      for (int i = 0; i < pack; ++i)
        if (i < left) f(p, i);
    }
  }
  template <int Count, class Thread>
  MODULEFORMER_DEVICE static void team_sums(Thread const& thread, float (&sums)[Count], float* room) {
    block_sums<Team>(thread, sums, room);
  }
};

}  // namespace moduleformer::kernels
