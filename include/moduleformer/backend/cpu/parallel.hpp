// SPDX-License-Identifier: MIT
#pragma once
// How loops are cut for threads. Tiles depend on shapes only, never on the number of threads, so that
// every sum has one order; which thread does a tile is then free. Scratch of each thread is taken from
// the workspace before the parallel region.

#include <moduleformer/backend/cpu/cpu.hpp>
#include <moduleformer/core/tensor_view.hpp>

#include <algorithm>

namespace moduleformer::detail {

/// Elements that one iteration of an elementwise loop takes.
inline constexpr Index elementwise_block = 4096;

/// `size` cut into the fewest equal parts of at most `largest`: the size of a part, a multiple of `unit`
/// unless one part is enough.
constexpr Index even_block(Index size, Index largest, Index unit) {
  if (size <= largest) return size;
  Index const parts = ceil_divide(size, largest);
  return std::min(largest, round_up(ceil_divide(size, parts), unit));
}

/// A product's output cut into tiles of rows x columns, so that there is work for several threads.
struct TileGrid {
  Index rows = 1;
  Index columns = 1;
};

/// Multiply-adds below which a tile is not cut further; products of few rows are bound by reading
/// the other factor, and count as eight.
inline constexpr Index smallest_tile_work = Index{1} << 17;
inline constexpr Index wanted_tiles = 16;
inline constexpr Index largest_row_tile = 128;
inline constexpr Index largest_column_tile = 512;

/// Tiles of an m x n output with k terms each, of which there are `copies` (experts in use).
constexpr TileGrid choose_tiles(Index m, Index n, Index k, Index copies = 1, TileGrid smallest = {32, 64}) {
  TileGrid tile{even_block(std::max<Index>(m, 1), largest_row_tile, 8),
                even_block(std::max<Index>(n, 1), largest_column_tile, 16)};
  auto const count = [&] { return copies * ceil_divide(m, tile.rows) * ceil_divide(n, tile.columns); };
  auto const can_halve = [&] {
    return std::max<Index>(tile.rows, 8) * tile.columns * std::max<Index>(k, 1) >= 2 * smallest_tile_work;
  };
  while (count() < wanted_tiles && can_halve()) {
    if (tile.columns >= 2 * tile.rows && tile.columns > smallest.columns) tile.columns = round_up(tile.columns / 2, 16);
    else if (tile.rows > smallest.rows) tile.rows = round_up(tile.rows / 2, 8);
    else break;
  }
  return tile;
}

/// One row of scratch per thread, each beginning at a cache line.
template <class T, Real S>
Matrix<T> thread_scratch(Cpu<S>& backend, Index count) {
  return backend.workspace().template allocate<T>(backend.threads(), round_up(count, Index{64}));
}

/// f(begin, end) over parts of [0, count) of `block` elements.
template <Real S, class F>
void parallel_blocks(Cpu<S>& backend, Index count, Index block, F const& f) {
  Index const blocks = ceil_divide(count, block);
#pragma omp parallel for num_threads(backend.threads()) schedule(static) if (blocks > 1)
  for (Index b = 0; b < blocks; ++b) f(b * block, std::min(count, (b + 1) * block));
}

/// Rows of `width` elements that one iteration takes: about elementwise_block elements.
constexpr Index row_block(Index width) { return std::max<Index>(1, elementwise_block / std::max<Index>(width, 1)); }

/// The sum of f(begin, end), a double, over fixed blocks, added in ascending order.
template <Real S, class F>
double sum_blocks(Cpu<S>& backend, Index count, F const& f) {
  Scope const scope{backend.workspace()};
  Index const blocks = ceil_divide(count, elementwise_block);
  auto const parts = backend.workspace().template allocate<double>(blocks);
  parallel_blocks(backend, count, elementwise_block,
                  [&](Index begin, Index end) { parts[begin / elementwise_block] = f(begin, end); });
  double sum = 0;
  for (Index b = 0; b < blocks; ++b) sum += parts[b];
  return sum;
}

/// <x, y> in double.
template <Real S>
double inner_product_in_double(S const* x, S const* y, Index count) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (Index i = 0; i < count; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(y[i]);
  return sum;
}

}  // namespace moduleformer::detail
