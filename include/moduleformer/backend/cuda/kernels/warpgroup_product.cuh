// SPDX-License-Identifier: MIT
#pragma once
// WarpgroupProduct: C = A B by tiles of bfloat16 as product.cuh has it (same operands, schedules and epilogues), by
// instructions of whole warpgroups (wgmma, m64nNk16, float sums) that read both operands from shared memory as they are
// stored and run while the threads load what comes next. Each warpgroup has 64 rows and all columns of the tile; terms
// go in ascending groups of 16. With one block on a multiprocessor the next tile's first stages load during a tile's
// epilogue; with two the blocks overlap of themselves, and the epilogue uses the stages' memory.

#include <moduleformer/backend/cuda/kernels/expert_schedule.cuh>
#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/backend/cuda/kernels/product_operand.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cstddef>
#include <type_traits>
#include <utility>

namespace moduleformer::kernels {

template <class T, Stored A, Stored B, class Schedule, class Epilogue>
struct WarpgroupProduct {
  using Tile = T;
  using S = bfloat16;
  using Place = decltype(std::declval<Schedule const&>().template tile<Tile>(nullptr, Index{}));  // a ProductTile
  static constexpr int threads = Tile::threads, blocks_at_once = Tile::blocks;
  static constexpr int stages = Tile::stages, depth = Tile::depth, columns = Tile::columns;
  static constexpr bool gathers = Schedule::gathers_contraction, plain_a = A == Stored::plain, plain_b = B == Stored::plain;
  using PartA = std::conditional_t<plain_a, SharedPart<S, Tile::rows, depth>, SharedPart<S, depth, Tile::rows>>;
  using PartB = std::conditional_t<plain_b, SharedPart<S, depth, columns>, SharedPart<S, columns, depth>>;
  static constexpr int stage_size = PartA::size + PartB::size;
  /// Stages under way while one is multiplied and the one before may still be read.
  static constexpr int ahead = stages - 2;
  /// Rows of A and B in shared memory: of a tile's slots, or of the terms of each stage; for this tile and the next.
  static constexpr int row_numbers = gathers ? 2 * stages * depth : Tile::rows;
  static_assert(depth == 64 && Tile::rows == threads / 128 * 64 && stages > 2 && gathers == !plain_a,
                "moduleformer: a stage is one panel deep, a warpgroup has 64 rows, rows are slots or terms of both");
  static_assert(threads >= Tile::rows && (!gathers || threads >= 2 * depth),
                "moduleformer: a thread for each row of the tile, and of a stage");
  // A slab: 8 rows and 64 columns of a warp's sums on their way to the epilogue.
  static constexpr int slab_stride = 64 + 8, slab_size = 8 * slab_stride, warps = threads / 32;
  static constexpr bool loads_early = Tile::blocks == 1;
  static_assert(loads_early || static_cast<int>(sizeof(S)) * stages * stage_size >= 4 * warps * slab_size,
                "moduleformer: the stages have room for the sums");

  Schedule schedule;
  Operand<S> a;
  Operand<S> b;
  Epilogue epilogue;

  using Row = decltype(std::declval<Epilogue const&>().row(std::declval<Place const&>(), 0));
  static constexpr std::size_t shared_bytes(int experts) {
    return sizeof(S) * static_cast<std::size_t>(stages * stage_size) +
           (loads_early ? sizeof(float) * static_cast<std::size_t>(warps * slab_size) : 0) +
           2 * sizeof(Row) * Tile::rows +
           sizeof(int) * static_cast<std::size_t>(2 * row_numbers + Schedule::shared_size(experts));
  }

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    if constexpr (Thread::has_warpgroups) run(thread);
  }

 private:
  struct Sums {
    float at[columns / 2];
  };
  template <class Part>
  static constexpr int rows_at_once = threads / Part::chunks;
  template <class Part, class Thread>
  static MODULEFORMER_DEVICE int first_row(Thread const& thread) {
    return thread.index() / Part::chunks;
  }
  template <class Part, class Thread>
  static MODULEFORMER_DEVICE int chunk_column(Thread const& thread) {
    return thread.index() % Part::chunks * Part::chunk;
  }
  /// The block's shared memory; rows and numbers: of this tile (0) and the next (1), changing places.
  struct Shared {
    S* stage;
    float* slab;
    Row* rows[2];
    int* numbers[2];
    int* before;
  };

  /// This thread's part in loading a tile: a chunk of 16 bytes of every so many rows of each operand. Addresses that stay
  /// for all steps are kept: their arithmetic would take as long as the products.
  struct Loads {
    S const* a_rows[plain_a ? PartA::rows / rows_at_once<PartA> : 1];  // of slots; else the chunk's column
    S const* b_rows;                                                  // its first row; else the chunk's column
    int a_count, b_count;                                             // elements of the chunk, where columns stay
    unsigned a_exists;                                                // bit i: a_rows[i] is one
  };

  template <class Thread>
  static MODULEFORMER_DEVICE Shared places(Thread const& thread) {
    S* const stage = thread.template shared<S>();
    float* const slab = reinterpret_cast<float*>(loads_early ? stage + stages * stage_size : stage);
    Row* const rows = reinterpret_cast<Row*>(loads_early ? reinterpret_cast<S*>(slab + warps * slab_size)
                                                         : stage + stages * stage_size);
    int* const numbers = reinterpret_cast<int*>(rows + 2 * Tile::rows);
    return {stage, slab + thread.warp() * slab_size, {rows, rows + Tile::rows}, {numbers, numbers + row_numbers},
            numbers + 2 * row_numbers};
  }

  template <class Thread>
  MODULEFORMER_DEVICE void run(Thread const& thread) const {
    Shared shared = places(thread);
    schedule.template prepare<Tile>(thread, shared.before);
    thread.sync();
    Index number = thread.block();
    Place tile, next;
    if (!find_tile(thread, shared, number, tile)) return;
    note_rows(thread, tile, shared, 0);
    thread.sync();
    Loads loads;
    begin_loading(thread, tile, shared, 0, loads);
    for (;;) {
      number += thread.blocks();
      bool const more = find_tile(thread, shared, number, next);
      Sums sums;
      multiply(thread, tile, next, more, shared, loads, sums);
      thread.sync();  // nobody reads the stages any more
      if (loads_early && more) begin_loading(thread, next, shared, 1, loads);
      if (!Epilogue::adds || tile.begin < tile.end) finish(thread, tile, shared, sums);
      if (!more) return;
      if (!loads_early) {
        thread.sync();
        begin_loading(thread, next, shared, 1, loads);
      }
      tile = next;
      swap(shared.rows[0], shared.rows[1]);
      swap(shared.numbers[0], shared.numbers[1]);
    }
  }
  /// The block's first tile from `number` on that exists.
  template <class Thread>
  MODULEFORMER_DEVICE bool find_tile(Thread const& thread, Shared const& shared, Index& number, Place& tile) const {
    for (Index const tiles = schedule.template tiles<Tile>(shared.before); number < tiles; number += thread.blocks()) {
      tile = schedule.template tile<Tile>(shared.before, number);
      if (tile.exists()) return true;
    }
    return false;
  }
  template <class X>
  static MODULEFORMER_DEVICE void swap(X*& x, X*& y) {
    X* const kept = x;
    x = y;
    y = kept;
  }

  /// Row of A (operand 0) or B (1) with term p of the contraction.
  MODULEFORMER_DEVICE int term_row(int operand, int p, int end) const {
    if (p >= end) return no_row;
    return operand == 0 ? a.row(p) : b.row(p);
  }

  /// Stages of a tile; without terms one of zeros, so that products alone define the sums.
  static MODULEFORMER_DEVICE int steps_of(Place const& tile) {
    return tile.begin < tile.end ? (tile.end - tile.begin + depth - 1) / depth : 1;
  }

  /// What a tile needs to know of rows: where they are loaded from, and what the epilogue does with them.
  template <class Thread>
  MODULEFORMER_DEVICE void note_rows(Thread const& thread, Place const& tile, Shared const& shared, int which) const {
    int const i = thread.index();
    if constexpr (gathers) {
      for (int j = i; j < row_numbers; j += threads)
        shared.numbers[which][j] = term_row(j / depth % 2, tile.begin + j / (2 * depth) * depth + j % depth, tile.end);
    } else {
      if (i < Tile::rows) shared.numbers[which][i] = tile.row + i < tile.row_end ? a.row(tile.row + i) : no_row;
    }
    if (i < Tile::rows && tile.row + i < tile.row_end) shared.rows[which][i] = epilogue.row(tile, tile.row + i);
  }

  template <class Thread>
  MODULEFORMER_DEVICE void begin_loading(Thread const& thread, Place const& tile, Shared const& shared, int which,
                                         Loads& loads) const {
    int const steps = steps_of(tile);
    S const* const from_a = a.data + tile.batch * a.batch_stride - tile.a_origin;
    S const* const from_b = b.data + tile.batch * b.batch_stride;
    int const a_column = chunk_column<PartA>(thread), b_column = chunk_column<PartB>(thread);
    if constexpr (plain_a) {
      loads.a_exists = 0;
      MODULEFORMER_UNROLL
      for (int i = 0; i < PartA::rows / rows_at_once<PartA>; ++i) {
        int const row = shared.numbers[which][first_row<PartA>(thread) + i * rows_at_once<PartA>];
        loads.a_rows[i] = from_a + static_cast<Index>(row == no_row ? 0 : row) * a.stride + a_column;
        if (row != no_row) loads.a_exists |= 1u << i;
      }
    } else {
      loads.a_rows[0] = from_a + tile.row + a_column;
      loads.a_count = count_left(tile.row + a_column, tile.row_end);
    }
    if constexpr (plain_b) loads.b_count = count_left(tile.column + b_column, tile.column_end);
    if constexpr (gathers) loads.b_rows = from_b + tile.column + b_column;
    else if constexpr (plain_b)
      loads.b_rows = from_b + static_cast<Index>(tile.begin + first_row<PartB>(thread)) * b.stride + tile.column + b_column;
    else loads.b_rows = from_b + static_cast<Index>(tile.column + first_row<PartB>(thread)) * b.stride + b_column;
    MODULEFORMER_UNROLL
    for (int step = 0; step < ahead; ++step) {
      if (step < steps) load_stage(thread, tile, step, shared.stage, shared.numbers[which], loads);
      thread.commit_copies();
    }
  }
  /// Elements of a chunk at `column` that lie before `end`.
  static MODULEFORMER_DEVICE int count_left(int column, int end) {
    int const left = end - column;
    return left < 0 ? 0 : left < PartA::chunk ? left : PartA::chunk;
  }

  template <class Thread>
  MODULEFORMER_DEVICE void multiply(Thread const& thread, Place const& tile, Place const& next, bool more,
                                    Shared const& shared, Loads const& loads, Sums& sums) const {
    int const steps = steps_of(tile);
    int* const numbers = shared.numbers[0];
    MODULEFORMER_NO_UNROLL
    for (int step = 0; step < steps; ++step) {
      thread.template wait_copies<ahead - 1>();
      thread.publish_shared();
      thread.sync();
      begin_products(thread, shared.stage + step % stages * stage_size, sums, step == 0);
      if (step == 0 && more) note_rows(thread, next, shared, 1);
      thread.template wait_products<1>();  // the step before has been: after the next barrier its stage is free
      if (step + ahead < steps) load_stage(thread, tile, step + ahead, shared.stage, numbers, loads);
      thread.commit_copies();
      if constexpr (gathers)
        if (int const i = thread.index(); i < 2 * depth)  // whose stage this one is next
          numbers[step % stages * 2 * depth + i] =
              term_row(i / depth, tile.begin + (step + stages) * depth + i % depth, tile.end);
    }
    thread.template wait_products<0>();
  }

  /// Begins sums += a b of one stage; the first one sets them.
  template <class Thread>
  static MODULEFORMER_DEVICE void begin_products(Thread const& thread, S const* stage, Sums& sums, bool first) {
    constexpr int panel = depth * 64;  // elements of a panel with a row for each term
    S const* const left = stage + thread.warp() / 4 * (plain_a ? 64 * depth : panel);
    S const* const right = stage + PartA::size;
    thread.begin_products();
    MODULEFORMER_UNROLL
    for (int k = 0; k < depth; k += 16)
      thread.template multiply_shared<plain_a ? 0 : 1, plain_b ? 1 : 0>(
          sums.at, thread.shared_matrix(left + (plain_a ? k : 64 * k), panel * 2),
          thread.shared_matrix(right + (plain_b ? 64 * k : k), panel * 2), !first || k > 0);
    thread.commit_products();
  }

  template <class Thread>
  MODULEFORMER_DEVICE void load_stage(Thread const& thread, Place const& tile, int step, S* stage, int const* numbers,
                                      Loads const& loads) const {
    S* const to = stage + step % stages * stage_size;
    if (!a.packed || !b.packed)  // rows that do not begin at 16 aligned bytes
      return load_parts<PartA, PartB, plain_a, plain_b, threads>(thread, to, a, b, tile, tile.begin + step * depth,
                                                                 gathers ? numbers + step % stages * 2 * depth : numbers);
    constexpr int size = static_cast<int>(sizeof(S));
    int const term = tile.begin + step * depth, row_a = first_row<PartA>(thread), row_b = first_row<PartB>(thread);
    S* const to_a = to + PartA::at(row_a, thread.index() % PartA::chunks);  // the swizzle is that of all its rows
    S* const to_b = to + PartA::size + PartB::at(row_b, thread.index() % PartB::chunks);
    static_assert(rows_at_once<PartA> % 8 == 0 && rows_at_once<PartB> % 8 == 0, "moduleformer: rows of one place in a swizzle");
    int const a_bytes = size * (plain_a ? count_left(term + chunk_column<PartA>(thread), tile.end) : loads.a_count);
    int const b_bytes = size * (plain_b ? loads.b_count : count_left(term + chunk_column<PartB>(thread), tile.end));
    MODULEFORMER_UNROLL
    for (int i = 0; i < PartA::rows / rows_at_once<PartA>; ++i) {
      S* const place = to_a + i * rows_at_once<PartA> * 64;
      if constexpr (plain_a) {
        thread.copy_async(place, loads.a_rows[i] + term, (loads.a_exists >> i & 1) != 0 ? a_bytes : 0);
      } else {
        int const row = numbers[step % stages * 2 * depth + row_a + i * rows_at_once<PartA>];
        thread.copy_async(place, loads.a_rows[0] + static_cast<Index>(row) * a.stride, row == no_row ? 0 : a_bytes);
      }
    }
    Index const apart = static_cast<Index>(rows_at_once<PartB>) * b.stride;
    S const* const from_b = loads.b_rows + (gathers ? 0 : plain_b ? static_cast<Index>(step * depth) * b.stride : term);
    int const rows_left = plain_b ? tile.end - term - row_b : tile.column_end - tile.column - row_b;
    MODULEFORMER_UNROLL
    for (int i = 0; i < PartB::rows / rows_at_once<PartB>; ++i) {
      S* const place = to_b + i * rows_at_once<PartB> * 64;
      if constexpr (gathers) {
        int const row = numbers[step % stages * 2 * depth + depth + row_b + i * rows_at_once<PartB>];
        thread.copy_async(place, from_b + static_cast<Index>(row) * b.stride, row == no_row ? 0 : b_bytes);
      } else {
        thread.copy_async(place, from_b + i * apart, i * rows_at_once<PartB> < rows_left ? b_bytes : 0);
      }
    }
  }

  /// Each warp lays slabs of its sums into shared memory and takes them out along the rows, which eight neighbouring
  /// lanes then read and write together. What the epilogue needs from memory is on its way early.
  template <class Thread>
  MODULEFORMER_DEVICE void finish(Thread const& thread, Place const& tile, Shared const& shared, Sums const& sums) const {
    constexpr int width = pack_size<S>, across = columns / 64, at_once = 4, rounds = 8 / at_once;  // rows of a slab
    int const first = 16 * thread.warp() + thread.lane() / 8, in_slab = thread.lane() % 8 * width;
    using Fetched = decltype(epilogue.template fetch<width>(thread, shared.rows[0][0], 0, 0));
    // One slab ahead; with two blocks the registers are the other block's, which works meanwhile.
    Fetched now[rounds], then[rounds];
    auto const fetch = [&](int slab, int i, Fetched& to) {
      int const row = first + slab / across * 8 + i * at_once, column = tile.column + slab % across * 64 + in_slab;
      if (tile.row + row < tile.row_end && column < tile.column_end)
        to = epilogue.template fetch<width>(thread, shared.rows[0][row], column, tile.column_end - column);
    };
    if constexpr (loads_early) {
      MODULEFORMER_UNROLL
      for (int i = 0; i < rounds; ++i) fetch(0, i, then[i]);
    }
    float row_sums[rounds] = {};
    MODULEFORMER_NO_UNROLL  // epilogues are long: one copy of them stays in the instruction cache
    for (int slab = 0; slab < 2 * across; ++slab) {
      lay_out(thread, sums, slab, shared.slab);
      if constexpr (loads_early) {
        MODULEFORMER_UNROLL
        for (int i = 0; i < rounds; ++i) {
          now[i] = then[i];
          if (slab + 1 < 2 * across) fetch(slab + 1, i, then[i]);
        }
      }
      thread.sync_warp();
      int const column = tile.column + slab % across * 64 + in_slab;
      MODULEFORMER_UNROLL
      for (int i = 0; i < rounds; ++i) {
        int const row = first + slab / across * 8 + i * at_once;
        if constexpr (!loads_early) fetch(slab, i, now[i]);
        if (tile.row + row < tile.row_end && column < tile.column_end) {
          float values[width];
          load<width>(shared.slab + (thread.lane() / 8 + i * at_once) * slab_stride + in_slab, width, true, values);
          row_sums[i] += epilogue.put(thread, shared.rows[0][row], now[i], column, tile.column_end - column, values);
        }
      }
      thread.sync_warp();
      if constexpr (Epilogue::row_sums)
        if (slab % across == across - 1) add_row_sums(thread, tile, first + slab / across * 8, row_sums);
    }
  }

  /// Hands over sums of rows first, first + 4 ..., each spread over eight lanes, and clears them.
  template <int N, class Thread>
  MODULEFORMER_DEVICE void add_row_sums(Thread const& thread, Place const& tile, int first, float (&sums)[N]) const {
    MODULEFORMER_UNROLL
    for (int i = 0; i < N; ++i) {
      MODULEFORMER_UNROLL
      for (int other = 4; other > 0; other /= 2) sums[i] += thread.shuffle_xor(sums[i], other);
      int const row = tile.row + first + i * 4;
      if (thread.lane() % 8 == 0 && row < tile.row_end) epilogue.row_sum(row, tile.column / columns, sums[i]);
      sums[i] = 0;
    }
  }

  /// Rows 8 (slab / across) and on, columns 64 (slab % across) and on.
  template <class Thread>
  static MODULEFORMER_DEVICE void lay_out(Thread const& thread, Sums const& sums, int slab, float* to) {
    constexpr int across = columns / 64;
    to += thread.lane() / 4 * slab_stride + thread.lane() % 4 * 2;
    MODULEFORMER_UNROLL
    for (int known = 0; known < 2 * across; ++known) {  // registers have no number that a loop could count
      if (slab != known) continue;
      MODULEFORMER_UNROLL
      for (int j = 0; j < 8; ++j) {
        int const at = 4 * (8 * (known % across) + j) + 2 * (known / across);
        float const pair[2] = {sums.at[at], sums.at[at + 1]};
        store<2>(to + 8 * j, 2, true, pair);
      }
    }
  }
};

}  // namespace moduleformer::kernels
