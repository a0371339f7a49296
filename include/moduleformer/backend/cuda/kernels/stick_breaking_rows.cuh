// SPDX-License-Identifier: MIT
#pragma once
// Stick-breaking of whole rows of scores, for heads so wide that scores and products with values are matrix products of
// their own (attention_items.cuh). A warp has a row and breaks 512 keys at a time (stick_breaking_run.cuh), newest first;
// a block has a group of rows. Backward goes from the oldest key that forward visited to the newest.

#include <moduleformer/backend/cuda/kernels/attention_items.cuh>
#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_run.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cstdint>

namespace moduleformer::kernels {

/// What both directions do. Matrices of scores have a row for each row of queries, `stride` elements apart.
struct StickBreakingRowsBase {
  using S = bfloat16;
  using Units = BinaryUnits;
  static constexpr int threads = 512, warps = threads / 32, block = 32 * run_keys;
  static constexpr std::size_t shared_bytes = warps * sizeof(int);

  ScoreRows rows;
  int head;
  float const* scores;  // q.k
  S* weights;
  std::int32_t* oldest;  // (groups) the first key from which on rows of the group have weight, in whole 64s
  Index stride;
  float logit_scale;

  /// visit(tile, row) -> its oldest key with weight, for each row of the block's group.
  template <class Thread, class Visit>
  MODULEFORMER_DEVICE void for_rows(Thread const& thread, Visit visit) const {
    QueryTile const tile = rows.at(thread.block());
    if (tile.rows == 0) return;
    int mine = no_key;
    for (int r = thread.warp(); r < tile.rows; r += warps) {
      int const key = visit(tile, r);
      mine = key < mine ? key : mine;
    }
    leave_oldest(thread, mine, ScoreRows::keys_end(tile));
  }
  /// The run's entries of a matrix of scores; nothing of what lies beyond the row's memory.
  template <class T>
  MODULEFORMER_DEVICE void read(T const* row, int key, float (&x)[run_keys]) const {
    load(row + key, key < stride ? run_keys : 0, true, x);
  }
  /// Rounds and stores; the first key of the run that is not 0, or no_key.
  template <class Thread>
  MODULEFORMER_DEVICE int write(Thread const& thread, S* row, int key, float (&x)[run_keys]) const {
    if (key < stride) store(thread, row + key, run_keys, true, x);
    int first = no_key;
    MODULEFORMER_UNROLL
    for (int j = run_keys - 1; j >= 0; --j)
      if (x[j] > smallest || x[j] < -smallest) first = key + j;
    return first;
  }
  /// 0 for keys [0, end), end a multiple of the block.
  template <class Thread>
  MODULEFORMER_DEVICE void clear(Thread const& thread, S* row, int end) const {
    float zeros[run_keys] = {};
    for (int key = thread.lane() * run_keys; key < end; key += block) store(thread, row + key, run_keys, true, zeros);
  }

 protected:
  static constexpr int no_key = 0x7fffffff;
  static constexpr float smallest = 4.6e-41f;  // half of what a bfloat16 holds

 private:
  /// Leaves the oldest of the block's threads' keys.
  template <class Thread>
  MODULEFORMER_DEVICE void leave_oldest(Thread const& thread, int mine, int none) const {
    int* const room = thread.template shared<int>();
    int lowest = no_key - static_cast<int>(thread.reduce_max(static_cast<std::uint32_t>(no_key - mine)));
    if (thread.lane() == 0) room[thread.warp()] = lowest;
    thread.sync();
    for (int w = 0; w < warps; ++w) lowest = room[w] < lowest ? room[w] : lowest;
    if (thread.index() == 0) oldest[thread.block()] = (lowest < none ? lowest : none) / 64 * 64;
  }
};

/// Scores to weights, in a matrix of their own; those of keys that a row does not see or visit are 0 as far as rows of
/// its group see.
struct StickBreakingRows : StickBreakingRowsBase {
  float* log_stick;    // (P,H) or null
  std::int32_t* stop;  // (P,H) or null
  float log_bound;     // rows whose stick's logarithm is below are done, in the units of the scan

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    for_rows(thread, [&](QueryTile const& tile, int r) { return visit(thread, tile, r); });
  }

 private:
  template <class Thread>
  MODULEFORMER_DEVICE int visit(Thread const& thread, QueryTile const& tile, int r) const {
    AttentionShape const& shape = rows.shape;
    Index const row = tile.matrix_row() + r, place = row * shape.heads + head;
    float const* const scores = this->scores + row * stride;
    S* const weights = this->weights + row * stride;
    int const end = tile.visible_end(r), position = tile.position(r), run = thread.lane() * run_keys;
    int oldest = no_key, first = (ScoreRows::keys_end(tile) + block - 1) / block * block;
    float log_stick = 0, own = 0;
    for (bool alive = true; alive && first > 0; alive = !(log_stick < log_bound)) {  // NaN goes on
      first -= block;
      float x[run_keys];
      read(scores, first + run, x);
      MODULEFORMER_UNROLL
      for (int j = 0; j < run_keys; ++j) x[j] *= logit_scale;
      NothingKept nothing;
      break_run<Units, 32, Walk::to_older>(thread, x, 0, end - first - run, false, log_stick, nothing);
      MODULEFORMER_UNROLL
      for (int j = 0; j < run_keys; ++j)
        if (first + run + j == position) own = x[j];
      int const key = write(thread, weights, first + run, x);
      oldest = key < oldest ? key : oldest;
    }
    clear(thread, weights, first);
    if (shape.keep_remainder) {  // y_i += r_i v_i, by the lane that stored the run
      if (position / run_keys % 32 == thread.lane())
        weights[position] = static_cast<S>(own + Units::exp(thread, log_stick));
      oldest = position < oldest ? position : oldest;
    }
    if (thread.lane() == 0) {
      if (this->log_stick != nullptr) this->log_stick[place] = log_stick * (1.0f / Units::per_nat);
      if (this->stop != nullptr) this->stop[place] = first;
    }
    return oldest;
  }
};

/// Scores and A = dy.v to weights and dl, both as they multiply rows: weights with the rest of the stick at a row's own
/// key, dl scaled. Keys that a row does not see are 0 up to the end of the last 128 that rows of its group see.
struct StickBreakingRowsBackward : StickBreakingRowsBase {
  float const* log_stick;    // (P,H)
  std::int32_t const* stop;  // (P,H)
  float const* values;       // dy.v
  S* slopes;                 // scale dl
  float scale;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    for_rows(thread, [&](QueryTile const& tile, int r) { return visit(thread, tile, r); });
  }

 private:
  template <class Thread>
  MODULEFORMER_DEVICE int visit(Thread const& thread, QueryTile const& tile, int r) const {
    AttentionShape const& shape = rows.shape;
    Index const row = tile.matrix_row() + r, place = row * shape.heads + head;
    float const* const scores = this->scores + row * stride;
    float const* const values = this->values + row * stride;
    S* const weights = this->weights + row * stride;
    S* const slopes = this->slopes + row * stride;
    int const first = this->stop[place], end = tile.visible_end(r), position = tile.position(r);
    int const run = thread.lane() * run_keys, limit = (ScoreRows::keys_end(tile) + 127) / 128 * 128;
    float log_stick = this->log_stick[place] * Units::per_nat, prefix = 0;
    float const own = shape.keep_remainder ? values[position] : 0.0f;
    float const rest = shape.keep_remainder ? Units::exp(thread, log_stick) : 0.0f;
    int oldest = no_key;
    clear(thread, weights, first);
    clear(thread, slopes, first);
    for (int base = first; base < limit; base += block) {
      int const key = base + run;
      float x[run_keys], score[run_keys];
      read(scores, key, x);
      read(values, key, score);
      MODULEFORMER_UNROLL
      for (int j = 0; j < run_keys; ++j) {
        x[j] *= logit_scale;
        score[j] = key + j < end ? score[j] - own : 0.0f;  // beyond it nothing was computed
      }
      KeptRun kept;
      break_run<Units, 32, Walk::to_newer>(thread, x, 0, end - key, end <= base + block, log_stick, kept);
      differentiate_run<32>(thread, x, kept, score, prefix);
      MODULEFORMER_UNROLL
      for (int j = 0; j < run_keys; ++j) {
        if (shape.keep_remainder && key + j == position) x[j] += rest;
        score[j] *= scale;
      }
      (void)write(thread, weights, key, x);
      int const nearest = write(thread, slopes, key, score);
      oldest = nearest < oldest ? nearest : oldest;
    }
    return oldest;
  }
};

/// Rows that belong to no sequence become 0.
template <class Call>
struct ClearRowsOfNoSequence {
  static constexpr int threads = 256;
  Call call;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    call.clear_rows(thread, thread.block() * threads + thread.warp() * 32);
  }
};

/// sums += what the product gives, by every sequence that has the key.
struct KeyGradientEpilogue {
  static constexpr bool adds = true, row_sums = false;
  struct Nothing {};
  float* sums;
  int columns;
  bool packed;

  [[nodiscard]] MODULEFORMER_DEVICE float* row(ProductTile const&, int row) const {
    return sums + static_cast<Index>(row) * columns;
  }
  template <int W, class Thread>
  MODULEFORMER_DEVICE Nothing fetch(Thread const&, float const*, int, int) const {
    return {};
  }
  template <int W, class Thread>
  MODULEFORMER_DEVICE float put(Thread const& thread, float* row, Nothing, int column, int left, float const (&x)[W]) const {
    if (Thread::adds_in_memory && packed && left >= W) {
      MODULEFORMER_UNROLL
      for (int i = 0; i < W; i += 4) thread.add_to_memory(row + column + i, x[i], x[i + 1], x[i + 2], x[i + 3]);
    } else {
      MODULEFORMER_UNROLL
      for (int i = 0; i < W; ++i)
        if (i < left) (void)thread.atomic_add(row + column + i, x[i]);
    }
    return 0;
  }
};

/// to += sums.
template <class S>
struct AddSums {
  static constexpr int threads = 256, pack = 8;
  float const* sums;
  S* to;
  Index size;
  bool packed;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const at = (thread.block() * threads + thread.index()) * pack, left = size - at;
    if (left <= 0) return;
    float x[pack], there[pack];
    load(sums + at, left, packed, x);
    load(to + at, left, packed, there);
    MODULEFORMER_UNROLL
    for (int i = 0; i < pack; ++i) there[i] += x[i];
    store(thread, to + at, left, packed, there);
  }
};

}  // namespace moduleformer::kernels
