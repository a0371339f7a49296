// SPDX-License-Identifier: MIT
#pragma once
// Which part of an attention call a block has, from sequences that only the device knows. A tile is some rows of
// one sequence's queries (rows are slots: token*K + s); the host launches rows / tile + sequences of them and
// those beyond the last do nothing. Every warp finds its tile itself: lanes sum the tiles of a strip of sequences
// each, a scan tells the strip, and so on into it.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/cuda/kernels/warp.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cstdint>

namespace moduleformer::kernels {

/// What an attention kernel needs to know of its call's sizes.
struct AttentionShape {
  Sequence const* sequences;
  int sequence_count;
  int heads;
  int head_size;
  int slots;  // K, rows per token
  bool inclusive;
  bool keep_remainder;
  Index rows;  // P, of the query matrix

  [[nodiscard]] MODULEFORMER_HOST_DEVICE Index stride() const { return static_cast<Index>(heads) * head_size; }
};

/// A sequence in 32 bits, which the host made sure suffice.
struct SequenceRows {
  int index = 0;
  int query_row = 0, query_rows = 0;  // of the query matrix
  int key_row = 0, keys = 0;          // of the key matrix
  int offset = 0;                     // where its first query's token stands among its keys

  SequenceRows() = default;
  MODULEFORMER_DEVICE SequenceRows(AttentionShape const& shape, int number) : index(number) {
    Sequence const& s = shape.sequences[number];
    query_row = static_cast<int>(s.query_begin) * shape.slots;
    query_rows = static_cast<int>(s.query_count) * shape.slots;
    key_row = static_cast<int>(s.key_begin);
    keys = static_cast<int>(s.key_count);
    offset = keys - static_cast<int>(s.query_count);
  }
};

/// Rows [first_row, first_row + rows) of a sequence's query rows; no rows where there is nothing to do.
struct QueryTile {
  SequenceRows sequence{};
  int first_row = 0, rows = 0;
  int slots = 1;
  bool inclusive = true;

  QueryTile() = default;
  MODULEFORMER_DEVICE QueryTile(AttentionShape const& shape, SequenceRows const& own, int tile, int tile_rows)
      : sequence(own), first_row(tile * tile_rows), slots(shape.slots), inclusive(shape.inclusive) {
    rows = own.query_rows - first_row < tile_rows ? own.query_rows - first_row : tile_rows;
  }

  /// Where among its sequence's keys the row's token stands.
  [[nodiscard]] MODULEFORMER_DEVICE int position(int row) const { return sequence.offset + (first_row + row) / slots; }
  /// One past the newest key that the row sees.
  [[nodiscard]] MODULEFORMER_DEVICE int visible_end(int row) const { return position(row) + (inclusive ? 1 : 0); }
  /// The tile's first row in the query matrix.
  [[nodiscard]] MODULEFORMER_DEVICE Index matrix_row() const { return sequence.query_row + first_row; }
};

/// Tile number `number` of the call's tiles of tile_rows rows, sequence by sequence; without rows if there are fewer.
template <class Thread>
MODULEFORMER_DEVICE QueryTile find_tile(Thread const& thread, AttentionShape const& shape, Index number,
                                        int tile_rows) {
  int first = 0, count = shape.sequence_count;
  do {
    int const strip = (count + 31) / 32, begin = thread.lane() * strip;
    Index mine = 0;
    for (int s = begin; s < begin + strip && s < count; ++s)
      mine += (shape.sequences[first + s].query_count * shape.slots + tile_rows - 1) / tile_rows;
    Index sum = mine;
    MODULEFORMER_UNROLL
    for (int lanes = 1; lanes < 32; lanes *= 2) {
      Index const left = thread.shuffle_up(sum, lanes);
      if (thread.lane() >= lanes) sum += left;
    }
    std::uint32_t const beyond = thread.ballot(sum > number);
    if (beyond == 0) return {};
    int const owner = lowest_lane(beyond);
    number -= thread.shuffle(sum - mine, owner);
    first += owner * strip;
    count = count - owner * strip < strip ? count - owner * strip : strip;
  } while (count > 1);
  return {shape, SequenceRows{shape, first}, static_cast<int>(number), tile_rows};
}

/// clear(row) by the whole warp, for those of the warp's 32 rows from `first` that belong to no sequence.
template <class Thread, class Clear>
MODULEFORMER_DEVICE void for_rows_of_no_sequence(Thread const& thread, AttentionShape const& shape, Index first,
                                                 Clear clear) {
  Index const row = first + thread.lane();
  bool covered = row >= shape.rows;
  for (int from = 0; from < shape.sequence_count; from += 32) {
    int const s = from + thread.lane();
    Index const begin = s < shape.sequence_count ? shape.sequences[s].query_begin * shape.slots : 0;
    Index const end = s < shape.sequence_count ? begin + shape.sequences[s].query_count * shape.slots : 0;
    std::uint32_t near = thread.ballot(begin < first + 32 && end > first);
    for (; near != 0; near &= near - 1) {
      int const owner = lowest_lane(near);
      Index const owner_begin = thread.shuffle(begin, owner), owner_end = thread.shuffle(end, owner);
      covered = covered || (row >= owner_begin && row < owner_end);
    }
  }
  std::uint32_t left = ~thread.ballot(covered);
  for (; left != 0; left &= left - 1) clear(first + lowest_lane(left));
}

}  // namespace moduleformer::kernels
