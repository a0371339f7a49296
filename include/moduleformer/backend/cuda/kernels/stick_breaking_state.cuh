// SPDX-License-Identifier: MIT
#pragma once
// What the two passes of backward share. Blocks of keys are 64 rows of the key matrix, wherever sequences begin, so
// that each belongs to one block of threads. The first pass leaves, for each row and every step-th block of its
// sequence's keys, the state in which it entered the block; the second goes on from there. The step is 1 unless
// the states would need too much memory: then the second pass repeats up to step - 1 blocks.

#include <moduleformer/backend/cuda/kernels/attention_schedule.cuh>
#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_run.cuh>
#include <moduleformer/backend/cuda/kernels/warp.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cstdint>

namespace moduleformer::kernels {

inline constexpr int state_keys = 64, state_rows = 64;

/// Of a row before a block of keys: log of the stick that older keys and this block leave, in the units of the
/// scan, and the sum of G over older keys.
struct RowState {
  float log_stick;
  float prefix;
};

/// Blocks of keys that a sequence touches.
MODULEFORMER_HOST_DEVICE inline Index key_blocks(Sequence const& s) {
  return s.key_count > 0 ? (s.key_begin + s.key_count - 1) / state_keys - s.key_begin / state_keys + 1 : 0;
}

/// Where states of one head lie: a sequence's begin at offsets[sequence], those of its rows for a block together. And
/// of each tile of 64 rows, a sequence's from first_tile[sequence] on, the oldest key that it visited.
struct StatePlaces {
  RowState* states;      // (heads, capacity)
  std::int32_t* oldest;  // (heads, tiles)
  Index* offsets;        // (sequences)
  Index* first_tile;     // (sequences)
  int* step;
  Index capacity;  // for one head; at least the number of rows
  Index tiles;

  [[nodiscard]] MODULEFORMER_DEVICE RowState* at(int head, SequenceRows const& sequence, int block, int row) const {
    return states + head * capacity + offsets[sequence.index] +
           block / *step * static_cast<Index>(sequence.query_rows) + row;
  }
  [[nodiscard]] MODULEFORMER_DEVICE std::int32_t* oldest_of(int head, int sequence, int tile) const {
    return oldest + head * tiles + first_tile[sequence] + tile;
  }

  /// The first tile from `from` on, each of `group` tiles of 64 rows, that visited keys below `below`; `count` if none.
  template <int group, class Thread>
  [[nodiscard]] MODULEFORMER_DEVICE int next_tile(Thread const& thread, int head, SequenceRows const& sequence,
                                                  int from, int below) const {
    int const small = (sequence.query_rows + state_rows - 1) / state_rows, count = (small + group - 1) / group;
    std::int32_t const* const visited = oldest_of(head, sequence.index, 0);
    for (int first = from; first < count; first += 32) {
      bool sees = false;
      MODULEFORMER_UNROLL
      for (int g = 0; g < group; ++g) {
        int const tile = (first + thread.lane()) * group + g;
        sees = sees || (tile < small && visited[tile] < below);
      }
      std::uint32_t const found = thread.ballot(sees);
      if (found != 0) return first + lowest_lane(found);
    }
    return count;
  }
};

/// Chooses the step and the offsets; one warp.
struct PlanStates {
  static constexpr int threads = 32;
  AttentionShape shape;
  StatePlaces places;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    int step = 1;
    for (; step < (1 << 30); step *= 2) {
      Index total = 0;
      for (int s = thread.lane(); s < shape.sequence_count; s += 32) total += states_of(s, step);
      MODULEFORMER_UNROLL
      for (int lanes = 16; lanes > 0; lanes /= 2) total += thread.shuffle_xor(total, lanes);
      if (total <= places.capacity) break;
    }
    if (thread.lane() == 0) *places.step = step;
    lay_out(thread, places.offsets, [&](int s) { return states_of(s, step); });
    lay_out(thread, places.first_tile,
            [&](int s) { return (shape.sequences[s].query_count * shape.slots + state_rows - 1) / state_rows; });
  }

 private:
  [[nodiscard]] MODULEFORMER_DEVICE Index states_of(int s, int step) const {
    Sequence const& sequence = shape.sequences[s];
    return sequence.query_count * shape.slots * ((key_blocks(sequence) + step - 1) / step);
  }
  /// places[s] = the sum of size(r) over r < s.
  template <class Thread, class Size>
  MODULEFORMER_DEVICE void lay_out(Thread const& thread, Index* begins, Size size) const {
    Index total = 0;
    for (int first = 0; first < shape.sequence_count; first += 32) {
      int const s = first + thread.lane();
      Index const mine = s < shape.sequence_count ? size(s) : 0;
      Index sum = mine;
      MODULEFORMER_UNROLL
      for (int lanes = 1; lanes < 32; lanes *= 2) {
        Index const left = thread.shuffle_up(sum, lanes);
        if (thread.lane() >= lanes) sum += left;
      }
      if (s < shape.sequence_count) begins[s] = total + sum - mine;
      total += thread.shuffle(sum, 31);
    }
  }
};

/// The arguments of a backward call; sums in float are used where heads are wide.
template <class S>
struct StickBreakingBackwardCall {
  AttentionShape shape;
  S const *dy, *q, *k, *v;
  float const* log_stick;    // (P,H)
  std::int32_t const* stop;  // (P,H)
  S *dq, *dk, *dv;           // dk and dv may be one
  float *dq_sums, *dk_sums, *dv_sums;
  float* own;  // (P,H) dy_i.v_i, with keep_remainder
  StatePlaces places;
  float logit_scale, scale;  // of q.k: in the units of the scan, and 1 / sqrt(d)
  bool packed;               // see HeadRows
  Index key_rows;

  /// Blocks of the pass over tiles of queries: tiles of 64 rows, and some that clear rows of no sequence.
  template <int threads>
  [[nodiscard]] Index query_blocks() const {
    return places.tiles * shape.heads + (shape.rows + threads - 1) / threads;
  }
  [[nodiscard]] Index key_blocks() const { return (key_rows + state_keys - 1) / state_keys * shape.heads; }

  /// The tile of a block of that pass; without rows if there is none.
  template <class Thread>
  [[nodiscard]] MODULEFORMER_DEVICE QueryTile begin_tile(Thread const& thread) const {
    Index const number = thread.block() / shape.heads;  // backwards, as the last tiles of a sequence take longest
    if (number < places.tiles) return find_tile(thread, shape, places.tiles - 1 - number, state_rows);
    clear_rows(thread, (thread.block() - places.tiles * shape.heads) * thread.block_size() + thread.warp() * 32);
    return {};
  }

  /// Rows of dq that belong to no sequence become 0: of the 32 from `first` on, by a warp.
  template <class Thread>
  MODULEFORMER_DEVICE void clear_rows(Thread const& thread, Index first) const {
    for_rows_of_no_sequence(thread, shape, first, [&](Index row) {
      for (Index x = thread.lane(); x < shape.stride(); x += 32) dq[row * shape.stride() + x] = static_cast<S>(0.0f);
    });
  }

  /// own = dy_i.v_i of a row of a tile by the four lanes that have it, for both passes; heads of d, rows aligned.
  template <int d, class Thread>
  MODULEFORMER_DEVICE void store_own(Thread const& thread, QueryTile const& tile, int row, int head) const {
    Index const column = static_cast<Index>(head) * d;
    float sum = 0;
    if (row < tile.rows)
      MODULEFORMER_UNROLL
      for (int x = thread.lane() % 4 * 8; x < d; x += 32) {
        float gradient[8], value[8];
        load(dy + (tile.matrix_row() + row) * shape.stride() + column + x, 8, true, gradient);
        load(v + (tile.sequence.key_row + tile.position(row)) * shape.stride() + column + x, 8, true, value);
        MODULEFORMER_UNROLL
        for (int i = 0; i < 8; ++i) sum += gradient[i] * value[i];
      }
    sum += thread.shuffle_xor(sum, 1);
    sum += thread.shuffle_xor(sum, 2);
    if (row < tile.rows) own[(tile.matrix_row() + row) * shape.heads + head] = sum;
  }

  /// f(sequence) for those that have keys among the 64 rows of the key matrix from first_key on.
  template <class Thread, class F>
  MODULEFORMER_DEVICE void for_sequences(Thread const& thread, Index first_key, F f) const {
    for (int from = 0; from < shape.sequence_count; from += 32) {
      int const s = from + thread.lane();
      bool overlaps = false;
      if (s < shape.sequence_count) {
        Sequence const& sequence = shape.sequences[s];
        overlaps = sequence.query_count > 0 && sequence.key_begin < first_key + state_keys &&
                   sequence.key_begin + sequence.key_count > first_key;
      }
      for (std::uint32_t near = thread.ballot(overlaps); near != 0; near &= near - 1) f(from + lowest_lane(near));
    }
  }
};

/// Two neighbouring elements += x.
template <class Thread>
MODULEFORMER_DEVICE void add_pair(Thread const& thread, bfloat16* to, float const (&x)[2]) {
  float there[2];
  load(to, 2, true, there);
  *reinterpret_cast<std::uint32_t*>(to) = thread.round_pair(there[0] + x[0], there[1] + x[1]);
}

/// The oldest key that rows of a tile visited, for the whole block; scratch: an int for each warp.
template <class S, class Thread>
MODULEFORMER_DEVICE int oldest_key(Thread const& thread, StickBreakingBackwardCall<S> const& call,
                                   QueryTile const& tile, int head, int* scratch) {
  int oldest = 0x7fffffff;
  for (int row = thread.index(); row < tile.rows; row += thread.block_size()) {
    int const stop = call.stop[(tile.matrix_row() + row) * call.shape.heads + head];
    oldest = stop < oldest ? stop : oldest;
  }
  oldest = 0x7fffffff - static_cast<int>(thread.reduce_max(static_cast<std::uint32_t>(0x7fffffff - oldest)));
  if (thread.lane() == 0) scratch[thread.warp()] = oldest;
  thread.sync();
  for (int w = 0; w < thread.block_size() / 32; ++w) oldest = scratch[w] < oldest ? scratch[w] : oldest;
  if (thread.index() == 0) *call.places.oldest_of(head, tile.sequence.index, tile.first_row / state_rows) = oldest;
  return oldest;
}

/// One row of a tile as the lanes that have it see it.
template <class Units>
struct BackwardRow {
  int first = 0, end = 0;  // keys that it visited, of its sequence
  float own = 0;           // what A is counted from
  RowState state{};        // before the block that comes next
  float log_left = 0;      // log of the stick that all keys leave

  BackwardRow() = default;
  /// At the first block that the row visits; nothing for a row beyond the tile's.
  template <class S>
  MODULEFORMER_DEVICE BackwardRow(StickBreakingBackwardCall<S> const& call, QueryTile const& tile, int row, int head) {
    if (row >= tile.rows) return;
    Index const place = (tile.matrix_row() + row) * call.shape.heads + head;
    first = call.stop[place];
    end = tile.visible_end(row);
    if (call.shape.keep_remainder) own = call.own[place];
    log_left = call.log_stick[place] * Units::per_nat;
    state = {log_left, 0.0f};
  }

  /// Scores and A of the lane's run of the block from key `base` on: weights and dl.
  template <int lanes, class Thread>
  MODULEFORMER_DEVICE void visit(Thread const& thread, int base, int run, float (&x)[run_keys],
                                 float (&score)[run_keys]) {
    KeptRun kept;
    break_run<Units, lanes, Walk::to_newer>(thread, x, first - base - run, end - base - run, end <= base + state_keys,
                                            state.log_stick, kept);
    MODULEFORMER_UNROLL
    for (int j = 0; j < run_keys; ++j) score[j] -= own;
    differentiate_run<lanes>(thread, x, kept, score, state.prefix);
  }
};

}  // namespace moduleformer::kernels
