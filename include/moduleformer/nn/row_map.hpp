// SPDX-License-Identifier: MIT
#pragma once
// RowMap: where each row of a new parameter table comes from in an old one. Surgery on a model makes it; whatever is laid
// out by parameters (values, optimizer states) follows it.

#include <moduleformer/backend/backend.hpp>
#include <moduleformer/core/error.hpp>
#include <moduleformer/nn/parameters.hpp>

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace moduleformer {

/// A row of a new tensor that no old one has.
inline constexpr Index fresh_row = -1;

/// Of each segment of the new table: which old one it continues, and the old row of each of its rows, or fresh_row.
struct RowMap {
  static constexpr std::size_t none = static_cast<std::size_t>(-1);
  struct Tensor {
    std::size_t old = none;     // number in the old table; none: no row has an old one
    std::vector<Index> rows{};  // empty: the same rows
  };
  std::vector<Tensor> tensors;

  [[nodiscard]] Index old_row(std::size_t segment, Index row) const {
    Tensor const& of = tensors[segment];
    if (of.old == none) return fresh_row;
    return of.rows.empty() ? row : of.rows[static_cast<std::size_t>(row)];
  }
  /// The fresh rows of a segment, [begin, end). Throws Error if others lie between them.
  [[nodiscard]] std::pair<Index, Index> fresh(Segment const& s, std::size_t segment) const {
    auto const& of = tensors[segment].rows;
    auto const first = std::find(of.begin(), of.end(), fresh_row);
    auto const last = std::find_if(first, of.end(), [](Index row) { return row != fresh_row; });
    expects(std::find(last, of.end(), fresh_row) == of.end(), s.name, ": expected new rows beside each other");
    return {first - of.begin(), last - of.begin()};
  }
};

/// to[row] = from[map.old_row(segment, row)] for rows [first, last) of the segment in the new table, as far as old rows
/// [old_first, old_last) have them; others stay. `from` begins at old_first, `to` at first.
template <Backend B, class S>
void copy_rows(B& backend, RowMap const& map, std::size_t segment, Index row_size, Index old_first, Index old_last,
               Vector<S const> from, Index first, Index last, Vector<S> to) {
  for (Index row = first; row < last;) {
    Index const old = map.old_row(segment, row);
    Index count = 1;
    while (row + count < last && map.old_row(segment, row + count) == old + count && old + count < old_last) ++count;
    if (old >= old_first && old < old_last)
      copy(backend, from.rows((old - old_first) * row_size, count * row_size),
           to.rows((row - first) * row_size, count * row_size));
    else
      count = 1;
    row += count;
  }
}

}  // namespace moduleformer
