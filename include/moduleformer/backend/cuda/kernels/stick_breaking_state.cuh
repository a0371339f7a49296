// SPDX-License-Identifier: MIT
#pragma once
// What the two passes of backward share. Blocks of keys are 64 rows of the key matrix, wherever sequences begin, so
// that each belongs to one block of threads. The first pass leaves, for each row and every step-th block of its
// sequence's keys, the state in which it entered the block; the second goes on from there. The step is 1 unless
// the states would need too much memory: then the second pass repeats up to step - 1 blocks.

#include <moduleformer/backend/cuda/kernels/attention_schedule.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cstdint>

namespace moduleformer::kernels {

inline constexpr int state_keys = 64;

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

/// Where states of one head lie: a sequence's begin at offsets[sequence], those of its rows for a block together.
struct StatePlaces {
  RowState* states;        // (heads, capacity)
  Index* offsets;          // (sequences)
  int* step;
  Index capacity;          // for one head; at least the number of rows

  [[nodiscard]] MODULEFORMER_DEVICE RowState* at(int head, int sequence, Index rows, int block, int row) const {
    return states + head * capacity + offsets[sequence] + block / *step * rows + row;
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
    Index total = 0;
    for (int first = 0; first < shape.sequence_count; first += 32) {
      int const s = first + thread.lane();
      Index const mine = s < shape.sequence_count ? states_of(s, step) : 0;
      Index sum = mine;
      MODULEFORMER_UNROLL
      for (int lanes = 1; lanes < 32; lanes *= 2) {
        Index const left = thread.shuffle_up(sum, lanes);
        if (thread.lane() >= lanes) sum += left;
      }
      if (s < shape.sequence_count) places.offsets[s] = total + sum - mine;
      total += thread.shuffle(sum, 31);
    }
  }

 private:
  [[nodiscard]] MODULEFORMER_DEVICE Index states_of(int s, int step) const {
    Sequence const& sequence = shape.sequences[s];
    return sequence.query_count * shape.slots * ((key_blocks(sequence) + step - 1) / step);
  }
};

}  // namespace moduleformer::kernels
