// SPDX-License-Identifier: MIT
#pragma once
// Operands of matrix products: rows of a matrix, gathered through a routing plan, and how a block brings a part of
// them into shared memory: 16 bytes at a time while it computes, or element by element where rows are not
// aligned. What lies outside of the operand becomes 0.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cstdint>

namespace moduleformer::kernels {

/// How an operand of C (m,n) = A (m,k) B (k,n) is stored: as written, or transposed.
enum class Stored { plain, transposed };

/// Where the rows that belong to sorted slots lie; a copy of a plan's part that kernels need.
struct RowMap {
  Rows rows = Rows::sorted;
  std::int32_t const* order = nullptr;
  int top_k = 1;

  MODULEFORMER_DEVICE int operator()(int p) const {
    if (rows == Rows::sorted) return p;
    int const slot = order[p];
    return rows == Rows::slot ? slot : slot / top_k;
  }
};

/// The row past the end of an operand.
inline constexpr int no_row = -1;

template <class S>
struct Operand {
  S const* data = nullptr;
  int stride = 0;          // elements from row to row
  Index batch_stride = 0;  // elements from one expert's matrix to the next; 0: one matrix for all
  RowMap row{};
  bool packed = false;  // rows begin at 16 aligned bytes
};

/// A part of Rows x Columns elements in shared memory. 16-bit elements: in panels of 64 columns, one after another;
/// eight rows of a panel that are read together have their 16-byte chunks in different banks by an exclusive or (the
/// 128-byte swizzle of wgmma). Floats: the same through chunks of padding.
template <class S, int Rows, int Columns>
struct SharedPart {
  static_assert(sizeof(S) == 4 || Columns % 64 == 0, "moduleformer: a part has whole panels");
  static constexpr int rows = Rows, columns = Columns;
  static constexpr int chunk = pack_size<S>, chunks = Columns / chunk;
  static constexpr int stride = sizeof(S) == 4 ? Columns + chunk : 64;
  static constexpr int size = sizeof(S) == 4 ? Rows * stride : Rows * Columns;

  /// Where the chunk of a row begins.
  static constexpr int at(int row, int chunk_of_row) {
    if constexpr (sizeof(S) == 4) return row * stride + chunk_of_row * chunk;
    else return chunk_of_row / 8 * Rows * stride + row * stride + (chunk_of_row % 8 ^ row % 8) * chunk;
  }
};

/// Brings columns [column, end) of the rows row_of(0..Part::rows) (no_row: zeros) to `to`. The copies are under way
/// when it returns, in the thread's current group.
template <class Part, int Threads, class Thread, class S, class RowOf>
MODULEFORMER_DEVICE void load_part(Thread const& thread, S* to, Operand<S> const& from, S const* data, int column,
                                   int end, RowOf const& row_of) {
  constexpr int chunk = Part::chunk, chunks = Part::chunks, rows_at_once = Threads / chunks;
  static_assert(Threads % chunks == 0, "moduleformer: threads take whole rows of a part");
  int const index = thread.opaque(thread.index());  // no addresses in registers that products need
  int const first = index / chunks, c = index % chunks;
  int const left = end - column - c * chunk, count = left < 0 ? 0 : left < chunk ? left : chunk;
  S const* const column_data = data + (count > 0 ? column + c * chunk : 0);  // never past the end
  if (from.packed) {
    MODULEFORMER_UNROLL
    for (int r = first; r < first + Part::rows; r += rows_at_once) {
      if (Part::rows % rows_at_once != 0 && r >= Part::rows) break;
      int const row = row_of(r), bytes = row == no_row ? 0 : count * static_cast<int>(sizeof(S));
      thread.copy_async(to + Part::at(r, c), column_data + static_cast<Index>(row < 0 ? 0 : row) * from.stride, bytes);
    }
  } else {
    for (int r = first; r < Part::rows; r += rows_at_once) {
      int const row = row_of(r);
      S const* const place = column_data + static_cast<Index>(row < 0 ? 0 : row) * from.stride;
      Pack<S, chunk> pack{};
      MODULEFORMER_UNROLL
      for (int i = 0; i < chunk; ++i)
        if (row != no_row && i < count) pack.values[i] = place[i];
      *reinterpret_cast<Pack<S, chunk>*>(to + Part::at(r, c)) = pack;
    }
  }
}

/// Brings the parts of one stage, terms from `term` on, to `to` and behind it. rows: of A where it is plain (then rows
/// are slots), else of A's and then of B's terms.
template <class PartA, class PartB, bool plain_a, bool plain_b, int Threads, class Thread, class S, class Tile>
MODULEFORMER_DEVICE void load_parts(Thread const& thread, S* to, Operand<S> const& a, Operand<S> const& b, Tile const& tile,
                                    int term, int const* rows) {
  S const* const from_a = a.data + tile.batch * a.batch_stride - tile.a_origin;
  S const* const from_b = b.data + tile.batch * b.batch_stride;
  if constexpr (!plain_a) {
    load_part<PartA, Threads>(thread, to, a, from_a, tile.row, tile.row_end, [&](int r) { return rows[r]; });
    load_part<PartB, Threads>(thread, to + PartA::size, b, from_b, tile.column, tile.column_end,
                              [&](int r) { return rows[PartA::rows + r]; });
  } else {
    load_part<PartA, Threads>(thread, to, a, from_a, term, tile.end, [&](int r) { return rows[r]; });
    if constexpr (plain_b)
      load_part<PartB, Threads>(thread, to + PartA::size, b, from_b, tile.column, tile.column_end,
                                [&](int r) { return term + r < tile.end ? term + r : no_row; });
    else
      load_part<PartB, Threads>(thread, to + PartA::size, b, from_b, term, tile.end,
                                [&](int r) { return tile.column + r < tile.column_end ? tile.column + r : no_row; });
  }
}

}  // namespace moduleformer::kernels
