// SPDX-License-Identifier: MIT
#pragma once
// Product: C = A B by tiles, for dense and for ragged, gathered operands. Blocks walk over the tiles of a schedule;
// a tile's operands come through shared memory in several stages, an engine (float_product.cuh,
// tensor_product.cuh) multiplies them, and an epilogue gets the sums, 16 bytes of one row at a time, to do with
// them what the primitive says. Neither the order of a sum nor what a tile holds depends on the grid.
//
// An epilogue has `static constexpr bool adds` (a tile without terms changes nothing), `row_sums` (see below), and
//   row(ProductTile, int row)                what it needs for a row of the result
//   fetch<W>(Thread, that, int column, int left)   what it needs from memory there; the first `left` of W columns count
//   put(Thread, row, fetched, int column, int left, float const (&sums)[W]) -> float
// With row_sums, what put returns is added up over the tile's row and handed to row_sum(row, column tile, sum).

#include <moduleformer/backend/cuda/kernels/expert_schedule.cuh>
#include <moduleformer/backend/cuda/kernels/product_operand.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cstddef>
#include <utility>

namespace moduleformer::kernels {

template <class Engine, class Schedule, class Epilogue>
struct Product {
  using Tile = typename Engine::Tile;
  using S = typename Tile::Scalar;
  using Place = decltype(std::declval<Schedule const&>().template tile<Tile>(nullptr, Index{}));  // a ProductTile
  using PartA = typename Engine::PartA;
  using PartB = typename Engine::PartB;
  static constexpr int threads = Tile::threads, blocks_at_once = Tile::blocks;
  static constexpr int stages = Tile::stages, depth = Tile::depth, stage_size = PartA::size + PartB::size;
  static constexpr bool gathers = Schedule::gathers_contraction;
  /// Numbers of rows in shared memory: of a tile's slots, or of A's and B's terms of each stage.
  static constexpr int row_numbers = gathers ? 2 * stages * depth : Tile::rows;
  static_assert(gathers == (Engine::stored_a == Stored::transposed),
                "moduleformer: rows are slots, or terms of both operands");
  static_assert(!gathers || threads >= 2 * depth, "moduleformer: a thread for each row of a stage");
  static_assert(static_cast<int>(sizeof(S)) * stages * stage_size >=
                    4 * (Engine::slab_size * threads / 32 + Tile::rows * Engine::row_parts),
                "moduleformer: the stages have room for the sums");

  Schedule schedule;
  Operand<S> a;
  Operand<S> b;
  Epilogue epilogue;

  static constexpr std::size_t shared_bytes(int experts) {
    return sizeof(S) * static_cast<std::size_t>(stages * stage_size) +
           sizeof(int) * static_cast<std::size_t>(row_numbers + Schedule::shared_size(experts));
  }

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    // Code that no launch chooses need not exist.
    if constexpr (!(requires { Tile::only_without_warpgroups; } && Thread::always_has_warpgroups)) run(thread);
  }

 private:
  template <class Thread>
  MODULEFORMER_DEVICE void run(Thread const& thread) const {
    S* const stage = thread.template shared<S>();
    int* const numbers = reinterpret_cast<int*>(stage + stages * stage_size);
    int* const before = numbers + row_numbers;
    schedule.template prepare<Tile>(thread, before);
    thread.sync();
    Index const tiles = schedule.template tiles<Tile>(before);
    for (Index number = thread.block(); number < tiles; number += thread.blocks()) {
      auto const tile = schedule.template tile<Tile>(before, number);
      if (!tile.exists()) continue;
      if (Epilogue::adds && tile.begin >= tile.end) continue;
      typename Engine::Sums sums{};
      multiply(thread, tile, stage, numbers, sums);
      thread.sync();  // the stages become the epilogue's
      finish(thread, tile, reinterpret_cast<float*>(stage), sums);
    }
  }

  /// Row of A (operand 0) or B (1) with term p of the contraction.
  MODULEFORMER_DEVICE int term_row(int operand, int p, int end) const {
    if (p >= end) return no_row;
    return operand == 0 ? a.row(p) : b.row(p);
  }

  template <class Thread>
  MODULEFORMER_DEVICE void multiply(Thread const& thread, Place const& tile, S* stage, int* numbers,
                                    typename Engine::Sums& sums) const {
    int const steps = (tile.end - tile.begin + depth - 1) / depth;
    if constexpr (gathers) {
      for (int i = thread.index(); i < row_numbers; i += threads)
        numbers[i] = term_row(i / depth % 2, tile.begin + i / (2 * depth) * depth + i % depth, tile.end);
    } else {
      for (int i = thread.index(); i < Tile::rows; i += threads)
        numbers[i] = tile.row + i < tile.row_end ? a.row(tile.row + i) : no_row;
    }
    thread.sync();  // the last tile's stages are free too
    MODULEFORMER_NO_UNROLL
    for (int step = 0; step < stages - 1; ++step) {
      if (step < steps) load_stage(thread, tile, step, stage, numbers);
      thread.commit_copies();
    }
    for (int step = 0; step < steps; ++step) {
      thread.template wait_copies<stages - 2>();
      thread.sync();
      if (step + stages - 1 < steps) load_stage(thread, tile, step + stages - 1, stage, numbers);
      thread.commit_copies();
      int number = no_row;  // of the step after the one loaded now; wanted only when this one is multiplied
      if constexpr (gathers)
        if (int const i = thread.index(); i < 2 * depth)
          number = term_row(i / depth, tile.begin + (step + stages) * depth + i % depth, tile.end);
      S const* const part = stage + step % stages * stage_size;
      Engine::multiply(thread, part, part + PartA::size, sums);
      if constexpr (gathers)
        if (thread.index() < 2 * depth) numbers[step % stages * 2 * depth + thread.index()] = number;
    }
  }

  template <class Thread>
  MODULEFORMER_DEVICE void load_stage(Thread const& thread, Place const& tile, int step, S* stage,
                                      int const* numbers) const {
    load_parts<PartA, PartB, Engine::stored_a == Stored::plain, Engine::stored_b == Stored::plain, threads>(
        thread, stage + step % stages * stage_size, a, b, tile, tile.begin + step * depth,
        gathers ? numbers + step % stages * 2 * depth : numbers);
  }

  /// Each warp lays a few rows of its sums into its part of shared memory and takes them out along the rows, which
  /// neighbouring lanes then read and write together.
  template <class Thread>
  MODULEFORMER_DEVICE void finish(Thread const& thread, Place const& tile, float* shared,
                                  typename Engine::Sums const& sums) const {
    constexpr int width = pack_size<S>, lanes = Engine::slab_columns / width;  // lanes of a row
    static_assert(lanes <= 32 && 32 % lanes == 0 && Engine::slab_rows % (32 / lanes) == 0,
                  "moduleformer: a warp takes whole rows of a slab");
    float* const slab = shared + thread.warp() * Engine::slab_size;
    float* const row_sums = shared + Engine::slab_size * threads / 32;
    int const in_slab = thread.lane() % lanes * width;
    int const column = tile.column + Engine::slab_column(thread) + in_slab;
    MODULEFORMER_UNROLL
    for (int s = 0; s < Engine::slabs; ++s) {
      Engine::lay_out(thread, sums, s, slab);
      thread.sync_warp();
      for (int r = thread.lane() / lanes; r < Engine::slab_rows; r += 32 / lanes) {
        int const in_tile = Engine::slab_row(thread, s, r), row = tile.row + in_tile;
        float sum = 0;
        if (row < tile.row_end && column < tile.column_end) {
          float values[width];
          load<width>(slab + r * Engine::slab_stride + in_slab, width, true, values);
          auto const of_row = epilogue.row(tile, row);
          int const left = tile.column_end - column;
          if constexpr (requires { epilogue.put_unfetched(thread, of_row, column, left, values); })
            sum = epilogue.put_unfetched(thread, of_row, column, left, values);
          else
            sum = epilogue.put(thread, of_row, epilogue.template fetch<width>(thread, of_row, column, left), column, left, values);
        }
        if constexpr (Epilogue::row_sums) {
          MODULEFORMER_UNROLL
          for (int other = lanes / 2; other > 0; other /= 2) sum += thread.shuffle_xor(sum, other);
          if (thread.lane() % lanes == 0) row_sums[Engine::row_part(thread) * Tile::rows + in_tile] = sum;
        }
      }
      thread.sync_warp();
    }
    if constexpr (Epilogue::row_sums) {
      thread.sync();
      for (int r = thread.index(); r < Tile::rows && tile.row + r < tile.row_end; r += threads) {
        float sum = row_sums[r];
        MODULEFORMER_UNROLL
        for (int part = 1; part < Engine::row_parts; ++part) sum += row_sums[part * Tile::rows + r];
        epilogue.row_sum(tile.row + r, tile.column / Tile::columns, sum);
      }
    }
  }
};

}  // namespace moduleformer::kernels
