// SPDX-License-Identifier: MIT
#pragma once
// Which tiles a product has, from sizes that only the device knows. Blocks walk over tiles 0, 1, ...: the columns of
// one row tile first, so that the rows it gathers stay in the cache, experts in ascending order.

#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

namespace moduleformer::kernels {

/// A tile of one expert's product: its rows and columns of the result, and the terms of the contraction.
struct ProductTile {
  int batch = 0;             // the expert, or the part of a dense contraction
  int row = 0, row_end = 0;  // row_end: of the whole result, or of the expert's slots
  int column = 0, column_end = 0;
  int begin = 0, end = 0;

  [[nodiscard]] MODULEFORMER_DEVICE bool exists() const { return row < row_end && column < column_end; }
  /// The term (or row) that A's first column in memory belongs to, and the column that C's first one belongs to.
  static constexpr int a_origin = 0, c_origin = 0;
};

/// Rows of the result are slots, in runs that belong to one expert each; a tile does not cross their borders.
struct RowSchedule {
  static constexpr bool gathers_contraction = false;

  Index const* offsets;  // (experts+1), or null: all rows belong to one
  int rows;
  int experts;
  int columns;
  int depth;

  /// Integers of shared memory that it needs: the number of tiles before each expert.
  [[nodiscard]] static constexpr int shared_size(int experts) { return experts + 1; }
  [[nodiscard]] MODULEFORMER_DEVICE int begin_of(int e) const {
    return offsets == nullptr ? 0 : static_cast<int>(offsets[e]);
  }
  [[nodiscard]] MODULEFORMER_DEVICE int end_of(int e) const {
    return offsets == nullptr ? rows : static_cast<int>(offsets[e + 1]);
  }

  /// Fills `before`; the block synchronises afterwards.
  template <class Tile, class Thread>
  MODULEFORMER_DEVICE void prepare(Thread const& thread, int* before) const {
    if (thread.warp() != 0) return;
    int total = 0;
    for (int first = 0; first < experts; first += 32) {
      int const e = first + thread.lane();
      int const tiles = e < experts ? (end_of(e) - begin_of(e) + Tile::rows - 1) / Tile::rows : 0;
      int sum = tiles;
      MODULEFORMER_UNROLL
      for (int lanes = 1; lanes < 32; lanes *= 2) {
        int const left = thread.shuffle_up(sum, lanes);
        if (thread.lane() >= lanes) sum += left;
      }
      if (e < experts) before[e] = total + sum - tiles;
      total += thread.shuffle(sum, 31);
    }
    if (thread.lane() == 0) before[experts] = total;
  }

  template <class Tile>
  [[nodiscard]] MODULEFORMER_DEVICE Index tiles(int const* before) const {
    return static_cast<Index>(before[experts]) * ((columns + Tile::columns - 1) / Tile::columns);
  }

  template <class Tile>
  [[nodiscard]] MODULEFORMER_DEVICE ProductTile tile(int const* before, Index number) const {
    int const across = (columns + Tile::columns - 1) / Tile::columns;
    int const down = static_cast<int>(number / across), column = static_cast<int>(number % across) * Tile::columns;
    int low = 0, high = experts - 1;  // the last expert with before[e] <= down
    while (low < high) {
      int const middle = (low + high + 1) / 2;
      if (before[middle] <= down) low = middle;
      else high = middle - 1;
    }
    return {low, begin_of(low) + (down - before[low]) * Tile::rows, end_of(low), column, columns, 0, depth};
  }
};

/// Each batch has a whole result of rows x columns and its own terms of the contraction: an expert's slots, or a
/// part of all.
struct ContractionSchedule {
  static constexpr bool gathers_contraction = true;

  Index const* offsets;  // (batches+1), or null: batch b has terms [b part, (b+1) part) of `terms`
  int batches;
  int rows;
  int columns;
  int part;
  int terms;

  [[nodiscard]] static constexpr int shared_size(int) { return 0; }
  template <class Tile, class Thread>
  MODULEFORMER_DEVICE void prepare(Thread const&, int*) const {}

  template <class Tile>
  [[nodiscard]] MODULEFORMER_DEVICE Index tiles(int const*) const {
    return static_cast<Index>(batches) * ((rows + Tile::rows - 1) / Tile::rows) *
           ((columns + Tile::columns - 1) / Tile::columns);
  }

  template <class Tile>
  [[nodiscard]] MODULEFORMER_DEVICE ProductTile tile(int const*, Index number) const {
    int const across = (columns + Tile::columns - 1) / Tile::columns, down = (rows + Tile::rows - 1) / Tile::rows;
    int const batch = static_cast<int>(number / (static_cast<Index>(across) * down));
    int const place = static_cast<int>(number % (static_cast<Index>(across) * down));
    int const row = place / across * Tile::rows, column = place % across * Tile::columns;
    if (offsets != nullptr)
      return {batch,   row, rows, column, columns, static_cast<int>(offsets[batch]),
              static_cast<int>(offsets[batch + 1])};
    int const begin = batch * part < terms ? batch * part : terms;
    return {batch, row, rows, column, columns, begin, terms - begin < part ? terms : begin + part};
  }
};

}  // namespace moduleformer::kernels
