// SPDX-License-Identifier: MIT
#pragma once
// FewRowsProduct: rows of a matrix times an expert's weights where each expert has a handful of rows, as in decoding:
// reading the weights is all the work. A block has up to eight rows in shared memory and some columns of the
// weights, which its threads read once, 16 bytes at a time, in pieces of the contraction whose sums are added in a
// fixed order. What can be asked of memory is asked at once: weights before the rows, and always a few packs ahead, and
// what the epilogue needs to know of rows. Schedules and epilogues are product.cuh's.

#include <moduleformer/backend/cuda/kernels/expert_schedule.cuh>
#include <moduleformer/backend/cuda/kernels/product_operand.cuh>
#include <moduleformer/backend/cuda/kernels/warp.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cstddef>

namespace moduleformer::kernels {

/// Weights stored transposed (n,k): each warp has two columns and its lanes pieces of 16 bytes along them. Stored
/// plain (k,n): each thread has 16 bytes of a row, threads that have the same columns take rows in turn.
template <class Tile, Stored B, class Epilogue>
struct FewRowsProduct {
  using S = typename Tile::Scalar;
  static constexpr int threads = Tile::threads, blocks_at_once = Tile::blocks, rows = Tile::rows;
  static constexpr int warps = threads / 32, width = pack_size<S>;
  static constexpr int at_once = B == Stored::plain ? 2 : 4;  // packs asked for while as many are multiplied
  static constexpr int chunks = Tile::columns / width;
  static_assert(!Epilogue::row_sums && rows == 8 && rows * chunks <= threads,
                "moduleformer: eight rows, no sums along them, a thread for each chunk of the result");
  static_assert(B == Stored::plain ? chunks <= 32 && 32 % chunks == 0 : Tile::columns == 2 * warps,
                "moduleformer: columns of a block");

  RowSchedule schedule;
  Operand<S> a;
  Operand<S> b;
  Epilogue epilogue;

  /// Shared memory: rows of A as floats, terms first if B is plain; sums of each warp; the schedule's numbers.
  static constexpr int padded(int depth) { return (depth + width - 1) / width * width; }
  static constexpr int sums_size = (B == Stored::plain ? warps : 1) * rows * Tile::columns;
  static constexpr std::size_t shared_bytes(int depth, int experts) {
    return sizeof(float) * static_cast<std::size_t>(rows * padded(depth) + sums_size) +
           sizeof(int) * static_cast<std::size_t>(RowSchedule::shared_size(experts));
  }

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    float* const x = thread.template shared<float>();
    float* const sums = x + rows * padded(schedule.depth);
    int* const before = reinterpret_cast<int*>(sums + sums_size);
    schedule.template prepare<Tile>(thread, before);
    thread.sync();
    Index const tiles = schedule.template tiles<Tile>(before);
    int row = -1;
    for (Index number = thread.block(); number < tiles; number += thread.blocks()) {
      ProductTile const tile = schedule.template tile<Tile>(before, number);
      int const count = tile.row_end - tile.row < rows ? tile.row_end - tile.row : rows;
      bool const is_new = tile.row != row;
      row = tile.row;
      // A chunk of results, for the first threads.
      int const r = thread.index() / chunks, in_tile = thread.index() % chunks * width, column = tile.column + in_tile;
      bool const has_result = r < count && column < tile.column_end;
      auto const of_row = epilogue.row(tile, tile.row + (has_result ? r : 0));
      if constexpr (B == Stored::plain) multiply_plain(thread, tile, count, is_new, x, sums);
      else multiply_transposed(thread, tile, count, is_new, x, sums);
      thread.sync();
      if (has_result) {
        float values[width] = {};
        for (int part = 0; part < sums_size / (rows * Tile::columns); ++part)
          MODULEFORMER_UNROLL
          for (int j = 0; j < width; ++j) values[j] += sums[(part * rows + r) * Tile::columns + in_tile + j];
        int const left = tile.column_end - column;
        epilogue.put(thread, of_row, epilogue.template fetch<width>(thread, of_row, column, left), column, left, values);
      }
    }
  }

 private:
  /// Element (r, k) of the rows in shared memory: the eight of a term together, or the terms of a row.
  MODULEFORMER_DEVICE int place(int r, int k) const {
    return B == Stored::plain ? k * rows + r : r * padded(schedule.depth) + k;
  }

  template <class Thread>
  MODULEFORMER_DEVICE void bring_rows(Thread const& thread, ProductTile const& tile, int count, float* x) const {
    thread.sync();
    for (int r = 0; r < count; ++r) {
      S const* const from = a.data + static_cast<Index>(a.row(tile.row + r)) * a.stride;
      MODULEFORMER_NO_UNROLL
      for (int k = thread.index() * width; k < schedule.depth; k += threads * width) {
        float values[width];
        load(from + k, schedule.depth - k, a.packed, values);
        MODULEFORMER_UNROLL
        for (int j = 0; j < width; ++j) x[place(r, k + j)] = values[j];
      }
    }
  }

  template <class Thread>
  MODULEFORMER_DEVICE void multiply_plain(Thread const& thread, ProductTile const& tile, int count, bool is_new, float* x,
                                          float* sums) const {
    constexpr int slices = threads / chunks, step = slices * at_once;
    int const column = thread.index() % chunks * width, slice = thread.index() / chunks;
    int const left = tile.column_end - tile.column - column;
    S const* const from = b.data + tile.batch * b.batch_stride + tile.column + column;
    Words<S, width> now[at_once], next[at_once];
    auto const ask = [&](int begin, Words<S, width>(&weight)[at_once]) {
      MODULEFORMER_UNROLL
      for (int u = 0; u < at_once; ++u) {
        int const k = begin + u * slices;
        if (k < schedule.depth && left > 0) weight[u] = load_words<width>(from + static_cast<Index>(k) * b.stride, left, b.packed);
      }
    };
    ask(slice, now);
    if (is_new) bring_rows(thread, tile, count, x);
    thread.sync();  // the last tile's sums are free too
    float sum[rows][width] = {};
    for (int begin = slice; begin < schedule.depth; begin += step) {
      ask(begin + step, next);
      MODULEFORMER_UNROLL
      for (int u = 0; u < at_once; ++u) {
        int const k = begin + u * slices;
        if (k >= schedule.depth || left <= 0) break;
        float values[rows], weight[width];
        load<rows>(x + place(0, k), rows, true, values);
        unpack(now[u], weight);
        MODULEFORMER_UNROLL
        for (int r = 0; r < rows; ++r) {
          if (r >= count) break;
          MODULEFORMER_UNROLL
          for (int j = 0; j < width; ++j) sum[r][j] += values[r] * weight[j];
        }
        now[u] = next[u];
      }
    }
    MODULEFORMER_UNROLL
    for (int r = 0; r < rows; ++r) {
      if (r >= count) break;
      MODULEFORMER_UNROLL
      for (int j = 0; j < width; ++j) {
        MODULEFORMER_UNROLL
        for (int lanes = 16; lanes >= chunks; lanes /= 2) sum[r][j] += thread.shuffle_xor(sum[r][j], lanes);
        if (thread.lane() < chunks) sums[(thread.warp() * rows + r) * Tile::columns + column + j] = sum[r][j];
      }
    }
  }

  template <class Thread>
  MODULEFORMER_DEVICE void multiply_transposed(Thread const& thread, ProductTile const& tile, int count, bool is_new, float* x,
                                               float* sums) const {
    constexpr int columns = 2, steps = at_once / columns, step = 32 * width * steps;
    int const column = thread.warp() * columns, first = thread.lane() * width;
    S const* const from = b.data + tile.batch * b.batch_stride + static_cast<Index>(tile.column + column) * b.stride;
    Words<S, width> now[steps][columns], next[steps][columns];
    auto const ask = [&](int begin, Words<S, width>(&weight)[steps][columns]) {
      MODULEFORMER_UNROLL
      for (int u = 0; u < steps; ++u)
        MODULEFORMER_UNROLL
        for (int c = 0; c < columns; ++c) {
          int const k = begin + u * 32 * width;
          weight[u][c] = {};
          if (k < schedule.depth && tile.column + column + c < tile.column_end)
            weight[u][c] = load_words<width>(from + c * static_cast<Index>(b.stride) + k, schedule.depth - k, b.packed);
        }
    };
    ask(first, now);
    if (is_new) bring_rows(thread, tile, count, x);
    thread.sync();  // the last tile's sums are free too
    float sum[rows][columns] = {};
    for (int begin = first; begin < schedule.depth; begin += step) {
      ask(begin + step, next);
      MODULEFORMER_UNROLL
      for (int u = 0; u < steps; ++u) {
        int const k = begin + u * 32 * width;
        if (k >= schedule.depth) break;
        float weight[columns][width];
        MODULEFORMER_UNROLL
        for (int c = 0; c < columns; ++c) {
          unpack(now[u][c], weight[c]);
          now[u][c] = next[u][c];
        }
        MODULEFORMER_UNROLL
        for (int r = 0; r < rows; ++r) {
          if (r >= count) break;
          float values[width];
          load<width>(x + place(r, k), width, true, values);
          MODULEFORMER_UNROLL
          for (int c = 0; c < columns; ++c)
            MODULEFORMER_UNROLL
            for (int j = 0; j < width; ++j) sum[r][c] += values[j] * weight[c][j];
        }
      }
    }
    MODULEFORMER_UNROLL
    for (int r = 0; r < rows; ++r) {
      if (r >= count) break;
      MODULEFORMER_UNROLL
      for (int c = 0; c < columns; ++c) {
        float const total = warp_sum(thread, sum[r][c]);
        if (thread.lane() == 0) sums[r * Tile::columns + column + c] = total;
      }
    }
  }
};

}  // namespace moduleformer::kernels
