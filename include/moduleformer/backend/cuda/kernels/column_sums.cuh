// SPDX-License-Identifier: MIT
#pragma once
// Sums of columns in two kernels: each block adds up some rows of 32 columns; then the parts are added in ascending
// order. The second one also adds the parts of other cut sums.

#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cstddef>
#include <cstdint>

namespace moduleformer::kernels {

/// parts[r][c] = sum of x[i][c] over the r-th `rows_per_block` rows. Warps take rows in turn, lanes columns.
template <class S>
struct ColumnSums {
  static constexpr int threads = 256, width = 32, warps = threads / 32, rows_per_block = 256;
  static constexpr std::size_t shared_bytes = sizeof(float) * threads;
  S const* x;  // its first column
  Index stride;
  Index rows;
  Index columns;
  float* parts;  // (row blocks, columns)

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const across = (columns + width - 1) / width, part = thread.block() / across;
    Index const column = thread.block() % across * width + thread.lane();
    Index const begin = part * rows_per_block, end = begin + rows_per_block < rows ? begin + rows_per_block : rows;
    float sum = 0;
    if (column < columns)
      for (Index i = begin + thread.warp(); i < end; i += warps) sum += static_cast<float>(x[i * stride + column]);
    float* const sums = thread.template shared<float>();
    sums[thread.index()] = sum;
    thread.sync();
    if (thread.warp() != 0 || column >= columns) return;
    for (int w = 1; w < warps; ++w) sum += sums[w * width + thread.lane()];
    parts[part * columns + column] = sum;
  }
};

/// out[order[i]] (order null: out[i]) = or += sum of parts[r][i] over r, in double.
struct AddParts {
  static constexpr int threads = 256;
  float const* parts;  // (count, size)
  Index count;
  Index size;
  std::int32_t const* order;
  float* out;
  bool add;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    for (Index i = thread.block() * threads + thread.index(); i < size; i += thread.blocks() * threads) {
      float& to = out[order == nullptr ? i : static_cast<Index>(order[i])];
      double sum = 0;
      for (Index r = 0; r < count; ++r) sum += static_cast<double>(parts[r * size + i]);
      to = static_cast<float>(add ? static_cast<double>(to) + sum : sum);
    }
  }
};

}  // namespace moduleformer::kernels
