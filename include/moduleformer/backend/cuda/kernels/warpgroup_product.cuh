// SPDX-License-Identifier: MIT
#pragma once
// WarpgroupProduct: products of bfloat16 tiles by instructions of whole warpgroups (wgmma, m64nNk16, float sums) that
// read both operands from shared memory, as they are stored, and run while the threads load what comes next. Each
// warpgroup has 64 rows and all columns of the tile; terms go in ascending groups of 16.

#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/backend/cuda/kernels/product_operand.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <type_traits>

namespace moduleformer::kernels {

template <class T, Stored A, Stored B>
struct WarpgroupProduct {
  using Tile = T;
  static constexpr Stored stored_a = A, stored_b = B;
  static constexpr bool asynchronous = true;
  static constexpr int depth = Tile::depth, columns = Tile::columns;
  static_assert(depth == 64 && Tile::rows == Tile::threads / 128 * 64,
                "moduleformer: a stage is one panel deep, a warpgroup has 64 rows");
  using PartA = std::conditional_t<A == Stored::plain, SharedPart<bfloat16, Tile::rows, depth>,
                                   SharedPart<bfloat16, depth, Tile::rows>>;
  using PartB = std::conditional_t<B == Stored::plain, SharedPart<bfloat16, depth, columns>,
                                   SharedPart<bfloat16, columns, depth>>;

  struct Sums {
    float at[columns / 2];
  };

  /// Begins sums += a b of one stage.
  template <class Thread>
  static MODULEFORMER_DEVICE void multiply(Thread const& thread, bfloat16 const* a, bfloat16 const* b, Sums& sums) {
    constexpr int major_a = A == Stored::plain ? 0 : 1, major_b = B == Stored::plain ? 1 : 0;
    constexpr int panel = depth * 64;  // elements of a panel with a row for each term
    bfloat16 const* const mine = a + thread.warp() / 4 * (major_a == 0 ? 64 * depth : panel);
    thread.begin_products();
    MODULEFORMER_UNROLL
    for (int k = 0; k < depth; k += 16)
      thread.template multiply_shared<major_a, major_b>(
          sums.at, thread.shared_matrix(mine + (major_a == 0 ? k : 64 * k), panel * 2),
          thread.shared_matrix(b + (major_b == 0 ? k : 64 * k), panel * 2));
    thread.commit_products();
  }

  // A slab: the 16 rows of a warp. The padding keeps rows that are written together in different banks.
  static constexpr int slabs = 1, slab_rows = 16, slab_columns = columns, slab_stride = columns + 8;
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
  static MODULEFORMER_DEVICE int slab_row(Thread const& thread, int, int row) {
    return 16 * thread.warp() + row;
  }
  template <class Thread>
  static MODULEFORMER_DEVICE void lay_out(Thread const& thread, Sums const& sums, int, float* to) {
    int const row = thread.lane() / 4, column = thread.lane() % 4 * 2;
    MODULEFORMER_UNROLL
    for (int j = 0; j < columns / 8; ++j)
      MODULEFORMER_UNROLL
      for (int half = 0; half < 2; ++half) {
        float const pair[2] = {sums.at[4 * j + 2 * half], sums.at[4 * j + 2 * half + 1]};
        store<2>(to + (row + 8 * half) * slab_stride + 8 * j + column, 2, true, pair);
      }
  }
};

}  // namespace moduleformer::kernels
