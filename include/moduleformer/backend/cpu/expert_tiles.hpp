// SPDX-License-Identifier: MIT
#pragma once
// The work list of products over ragged experts: each tile is a few rows of one expert's sorted slots and
// a range of output columns. Also gathering a tile's rows.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/cpu/parallel.hpp>
#include <moduleformer/core/error.hpp>

#include <algorithm>

namespace moduleformer::detail {

struct ExpertTile {
  Index expert;
  Index begin, end;             // sorted slots
  Index first_column, columns;  // of the output
  [[nodiscard]] Index rows() const { return end - begin; }
};

/// Rows and columns of a tile for P slots over E experts, n outputs of k terms each.
inline TileGrid expert_grid(RoutingPlan const& plan, Index n, Index k) {
  Index const mean = ceil_divide(plan.slots(), std::max<Index>(plan.experts, 1));
  TileGrid grid = choose_tiles(mean, n, k, std::min(plan.experts, plan.slots()));
  if (grid.rows >= mean) grid.rows = largest_row_tile;  // nothing was cut: experts above the mean are
  return grid;
}

/// The tiles of experts [first, first + count), in the workspace.
template <Real S>
Vector<ExpertTile> expert_tiles(Cpu<S>& backend, RoutingPlan const& plan, TileGrid grid, Index n, Index first,
                                Index count) {
  Index const across = ceil_divide(n, grid.columns);
  Index tiles = 0;
  auto const rows_of_tile = [&](Index rows) { return even_block(rows, grid.rows, 8); };
  for (Index e = first; e < first + count; ++e) {
    Index const rows = plan.offsets[e + 1] - plan.offsets[e];
    if (rows > 0) tiles += ceil_divide(rows, rows_of_tile(rows)) * across;
  }
  auto const list = backend.workspace().template allocate<ExpertTile>(tiles);
  Index at = 0;
  for (Index e = first; e < first + count; ++e) {
    Index const begin = plan.offsets[e], end = plan.offsets[e + 1];
    Index const step = std::max<Index>(1, rows_of_tile(end - begin));
    for (Index p = begin; p < end; p += step)
      for (Index c = 0; c < n; c += grid.columns)
        list[at++] = {e, p, std::min(end, p + step), c, std::min(grid.columns, n - c)};
  }
  return list;
}

/// Rows in memory, `stride` elements apart.
template <class S>
struct RowBlock {
  S const* data;
  Index stride;
};

/// Columns [first, first + columns) of the rows of sorted slots [begin, end): in place where they are
/// consecutive, else copied to `scratch`.
template <Real S>
RowBlock<S> gather(RoutingPlan const& plan, Matrix<S const> x, Rows rows, Index begin, Index end, Index first,
                   Index columns, S* scratch) {
  Index const stride = x.extent(1);
  if (rows == Rows::sorted || end - begin == 1) return {x.data() + row_of(plan, rows, begin) * stride + first, stride};
  for (Index p = begin; p < end; ++p)
    std::copy_n(x.data() + row_of(plan, rows, p) * stride + first, columns, scratch + (p - begin) * columns);
  return {scratch, columns};
}

}  // namespace moduleformer::detail
