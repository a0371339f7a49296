// SPDX-License-Identifier: MIT
#pragma once
// TensorProduct: products of bfloat16 tiles by mma.sync (m16n8k16, float sums); ldmatrix brings both operands from
// shared memory, transposed where they are stored so. Each warp has a block of the tile; terms go in ascending
// groups of 16.

#include <moduleformer/backend/cuda/kernels/product_operand.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cstdint>
#include <type_traits>

namespace moduleformer::kernels {

template <class T, Stored A, Stored B>
struct TensorProduct {
  using Tile = T;
  static constexpr Stored stored_a = A, stored_b = B;
  static constexpr int depth = Tile::depth, across = Tile::columns / Tile::warp_columns;  // warps of a row
  static constexpr int down = Tile::warp_rows / 16, wide = Tile::warp_columns / 8;        // fragments of a warp
  static_assert(Tile::warp_rows % 16 == 0 && Tile::warp_columns % 16 == 0 && depth % 16 == 0,
                "moduleformer: a warp has whole fragments");
  using PartA = std::conditional_t<A == Stored::plain, SharedPart<bfloat16, Tile::rows, depth>,
                                   SharedPart<bfloat16, depth, Tile::rows>>;
  using PartB = std::conditional_t<B == Stored::plain, SharedPart<bfloat16, depth, Tile::columns>,
                                   SharedPart<bfloat16, Tile::columns, depth>>;

  struct Sums {
    float at[down][wide][4];
  };

  /// sums += a b of one stage.
  template <class Thread>
  static MODULEFORMER_DEVICE void multiply(Thread const& thread, bfloat16 const* a, bfloat16 const* b, Sums& sums) {
    int const row = thread.warp() / across * Tile::warp_rows, column = thread.warp() % across * Tile::warp_columns;
    MODULEFORMER_UNROLL
    for (int k = 0; k < depth; k += 16) {
      std::uint32_t left[down][4], right[wide][2];
      MODULEFORMER_UNROLL
      for (int i = 0; i < down; ++i) load_left(thread, a, row + 16 * i, k, left[i]);
      MODULEFORMER_UNROLL
      for (int j = 0; j < wide; j += 2) load_right(thread, b, column + 8 * j, k, right[j], right[j + 1]);
      MODULEFORMER_UNROLL
      for (int i = 0; i < down; ++i)
        MODULEFORMER_UNROLL
        for (int j = 0; j < wide; ++j) thread.multiply_add(sums.at[i][j], left[i], right[j]);
    }
  }

  // A slab: 16 rows of the warp's block. The padding keeps rows that are written together in different banks.
  static constexpr int slabs = down, slab_rows = 16, slab_columns = Tile::warp_columns, slab_stride = slab_columns + 8;
  static constexpr int slab_size = slab_rows * slab_stride, row_parts = across;
  template <class Thread>
  static MODULEFORMER_DEVICE int slab_column(Thread const& thread) {
    return thread.warp() % across * Tile::warp_columns;
  }
  template <class Thread>
  static MODULEFORMER_DEVICE int row_part(Thread const& thread) {
    return thread.warp() % across;
  }
  template <class Thread>
  static MODULEFORMER_DEVICE int slab_row(Thread const& thread, int slab, int row) {
    return thread.warp() / across * Tile::warp_rows + 16 * slab + row;
  }
  template <class Thread>
  static MODULEFORMER_DEVICE void lay_out(Thread const& thread, Sums const& sums, int slab, float* to) {
    int const row = thread.lane() / 4, column = thread.lane() % 4 * 2;
    MODULEFORMER_UNROLL
    for (int j = 0; j < wide; ++j)
      MODULEFORMER_UNROLL
      for (int half = 0; half < 2; ++half) {
        float const pair[2] = {sums.at[slab][j][2 * half], sums.at[slab][j][2 * half + 1]};
        store<2>(to + (row + 8 * half) * slab_stride + 8 * j + column, 2, true, pair);
      }
  }

 private:
  /// The fragment of A at (row, k): matrices of rows 0-7 and 8-15, then the same of the next eight terms.
  template <class Thread>
  static MODULEFORMER_DEVICE void load_left(Thread const& thread, bfloat16 const* a, int row, int k,
                                            std::uint32_t (&words)[4]) {
    int const lane = thread.lane();
    if constexpr (A == Stored::plain)
      thread.load_matrices(words, a + PartA::at(row + lane % 16, k / 8 + lane / 16));
    else
      thread.load_matrices_transposed(words, a + PartA::at(k + lane / 16 * 8 + lane % 8, row / 8 + lane / 8 % 2));
  }

  /// Two fragments of B at (k, column) and (k, column + 8).
  template <class Thread>
  static MODULEFORMER_DEVICE void load_right(Thread const& thread, bfloat16 const* b, int column, int k,
                                             std::uint32_t (&first)[2], std::uint32_t (&second)[2]) {
    int const lane = thread.lane();
    std::uint32_t words[4];
    if constexpr (B == Stored::plain)
      thread.load_matrices_transposed(words, b + PartB::at(k + lane % 16, column / 8 + lane / 16));
    else
      thread.load_matrices(words, b + PartB::at(column + lane / 16 * 8 + lane % 8, k / 8 + lane / 8 % 2));
    first[0] = words[0];
    first[1] = words[1];
    second[0] = words[2];
    second[1] = words[3];
  }
};

}  // namespace moduleformer::kernels
