// SPDX-License-Identifier: MIT
#pragma once
// FloatProduct: products of float tiles by fused multiply-adds, terms in ascending order, each thread with a block
// of the sums in registers. Threads form a 16 x 16 grid over the tile.

#include <moduleformer/backend/cuda/kernels/product_operand.cuh>
#include <moduleformer/core/platform.hpp>

#include <type_traits>

namespace moduleformer::kernels {

template <class T, Stored A, Stored B>
struct FloatProduct {
  using Tile = T;
  static constexpr Stored stored_a = A, stored_b = B;
  static constexpr int grid = 16, down = Tile::rows / grid, across = Tile::columns / grid, depth = Tile::depth;
  static_assert(Tile::threads == grid * grid && depth % 4 == 0, "moduleformer: a float tile has 256 threads");
  using PartA = std::conditional_t<A == Stored::plain, SharedPart<float, Tile::rows, depth>,
                                   SharedPart<float, depth, Tile::rows>>;
  using PartB = std::conditional_t<B == Stored::plain, SharedPart<float, depth, Tile::columns>,
                                   SharedPart<float, Tile::columns, depth>>;

  struct Sums {
    float at[down][across];
  };

  /// sums += a b of one stage.
  template <class Thread>
  static MODULEFORMER_DEVICE void multiply(Thread const& thread, float const* a, float const* b, Sums& sums) {
    int const x = thread.index() % grid, y = thread.index() / grid;
    for (int k = 0; k < depth; k += 4) {
      float left[4][down], right[4][across];
      four_terms<PartA, A == Stored::plain>(a, y, k, left);
      four_terms<PartB, B == Stored::transposed>(b, x, k, right);
      MODULEFORMER_UNROLL
      for (int term = 0; term < 4; ++term)
        MODULEFORMER_UNROLL
        for (int i = 0; i < down; ++i)
          MODULEFORMER_UNROLL
          for (int j = 0; j < across; ++j) sums.at[i][j] += left[term][i] * right[term][j];
    }
  }

  // A slab: one row of each of the two thread rows that a warp has, over all columns.
  static constexpr int slabs = down, slab_rows = 2, slab_columns = Tile::columns, slab_stride = slab_columns + 4;
  static constexpr int slab_size = slab_rows * slab_stride, row_parts = 1;
  template <class Thread>
  static MODULEFORMER_DEVICE int slab_column(Thread const&) {
    return 0;
  }
  template <class Thread>
  static MODULEFORMER_DEVICE int row_part(Thread const&) {
    return 0;
  }
  template <class Thread>
  static MODULEFORMER_DEVICE int slab_row(Thread const& thread, int slab, int row) {
    return place<A == Stored::transposed && down % 4 == 0>(thread.warp() * 2 + row, slab);
  }
  template <class Thread>
  static MODULEFORMER_DEVICE void lay_out(Thread const& thread, Sums const& sums, int slab, float* to) {
    MODULEFORMER_UNROLL
    for (int j = 0; j < across; ++j)
      to[thread.lane() / grid * slab_stride + place<B == Stored::plain && across % 4 == 0>(thread.index() % grid, j)] =
          sums.at[slab][j];
  }

 private:
  /// Which row or column is a thread's i-th: every 16th, or groups of four that one instruction reads.
  template <bool InFours>
  static constexpr int place(int thread, int i) {
    return InFours ? 4 * (thread + grid * (i / 4)) + i % 4 : thread + grid * i;
  }

  /// values[t][i] = term k + t of the thread's i-th row or column.
  template <class Part, bool TermsAreNeighbours, int Count>
  static MODULEFORMER_DEVICE void four_terms(float const* part, int thread, int k, float (&values)[4][Count]) {
    if constexpr (TermsAreNeighbours) {
      MODULEFORMER_UNROLL
      for (int i = 0; i < Count; ++i) {
        float terms[4];
        load<4>(part + Part::at(place<false>(thread, i), 0) + k, 4, true, terms);
        MODULEFORMER_UNROLL
        for (int t = 0; t < 4; ++t) values[t][i] = terms[t];
      }
    } else if constexpr (Count % 4 == 0) {
      MODULEFORMER_UNROLL
      for (int t = 0; t < 4; ++t)
        MODULEFORMER_UNROLL
        for (int i = 0; i < Count; i += 4) {
          float group[4];
          load<4>(part + Part::at(k + t, 0) + place<true>(thread, i), 4, true, group);
          MODULEFORMER_UNROLL
          for (int j = 0; j < 4; ++j) values[t][i + j] = group[j];
        }
    } else {
      MODULEFORMER_UNROLL
      for (int t = 0; t < 4; ++t)
        MODULEFORMER_UNROLL
        for (int i = 0; i < Count; ++i) values[t][i] = part[Part::at(k + t, 0) + place<false>(thread, i)];
    }
  }
};

}  // namespace moduleformer::kernels
