// SPDX-License-Identifier: MIT
#pragma once
// What forward and backward of stick-breaking attention share: a tile of query rows of one sequence and
// head, the blocks of keys that it visits from the newest to the oldest, and the scan that turns a block of
// scores into weights. Score blocks are stored keys x rows, so that the scan along keys is vector code over
// rows. In linear form, with e = exp(l): w_j = e_j stick / prod_{m>=j} (1 + e_m); never 1 - sigmoid.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/backend.hpp>
#include <moduleformer/backend/cpu/vectors.hpp>
#include <moduleformer/core/error.hpp>
#include <moduleformer/core/math.hpp>
#include <moduleformer/core/platform.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace moduleformer::detail {

/// The arguments of one forward call.
template <Real S>
struct ForwardCall {
  StickBreakingVariant variant;
  AttentionExtents extents;
  Matrix<S const> q, k, v;
  Matrix<S> y, log_stick;
  Matrix<std::int32_t> stop;
};

/// Keys [begin, begin + count); rows before `first` of the tile see none of them.
struct KeyBlock {
  Index begin, count, first;
};

/// Sizes of tiles and blocks; functions of shapes only, since they decide the order of sums.
struct AttentionBlocks {
  static constexpr Index keys = 64;
  /// Rows of a tile: more reuse of a block of keys, until the tile's own matrices leave the cache.
  static constexpr Index rows(Index head_size) { return head_size <= 256 ? 128 : 64; }
  /// Keys of a block that not all rows see: small, so that little is computed in vain.
  static constexpr Index diagonal_keys(Index rows_per_token) { return std::max<Index>(8, 32 / rows_per_token); }
};

/// Rows [first_row, first_row + rows) of a sequence's query rows (token*K + slot).
struct QueryTile {
  Index first_row, rows, rows_per_token;
  Index offset;       // position of query 0 among the keys
  bool inclusive;

  [[nodiscard]] Index position(Index row) const { return offset + (first_row + row) / rows_per_token; }
  /// One past the newest key that the row sees.
  [[nodiscard]] Index visible_end(Index row) const { return position(row) + (inclusive ? 1 : 0); }
  /// The first row that sees the key.
  [[nodiscard]] Index first_seeing(Index key) const {
    Index const token = key + (inclusive ? 0 : 1) - offset;
    return std::clamp<Index>(token * rows_per_token - first_row, 0, rows);
  }
  /// The block of keys that ends at `end` and does not reach below `lowest`.
  template <Real S>
  [[nodiscard]] KeyBlock block_before(Index end, Index lowest) const {
    Index const seen_by_all = std::max(lowest, visible_end(0));
    Index const begin = end > seen_by_all
                            ? std::max(seen_by_all, end - AttentionBlocks::diagonal_keys(rows_per_token))
                            : std::max(lowest, end - AttentionBlocks::keys);
    return {begin, end - begin, first_seeing(begin) / lanes<S> * lanes<S>};
  }
};

inline QueryTile query_tile(StickBreakingVariant variant, AttentionExtents const& extents, Sequence const& sequence,
                            Index tile) {
  Index const size = AttentionBlocks::rows(extents.head_size), first = tile * size;
  return {first, std::min(size, sequence.query_count * extents.rows_per_token - first), extents.rows_per_token,
          sequence.key_count - sequence.query_count, variant.inclusive};
}

inline Index query_tiles(AttentionExtents const& extents, Sequence const& sequence) {
  Index const size = AttentionBlocks::rows(extents.head_size);
  return (sequence.query_count * extents.rows_per_token + size - 1) / size;
}

/// to (rows x to_stride) = scale from (rows x width, from_stride), zeros right of it up to the padded width
/// and below it up to padded_rows.
template <Real S>
void copy_padded(Index rows, Index width, S const* from, Index from_stride, S scale, S* to, Index to_stride,
                 Index padded_rows) {
  for (Index i = 0; i < rows; ++i, from += from_stride, to += to_stride) {
    for (Index x = 0; x < width; ++x) to[x] = scale * from[x];
    for (Index x = width; x < padded<S>(width); ++x) to[x] = S(0);
  }
  for (Index i = rows; i < padded_rows; ++i, to += to_stride) std::fill_n(to, padded<S>(width), S(0));
}

/// Rows in memory and their distance.
template <Real S>
struct BlockRows {
  S const* data;
  Index stride;
};

/// The block's rows of a head's keys or values: where they lie, or a copy in `to` (keys of a block x padded d)
/// where a vector would reach into the next head.
template <Real S>
BlockRows<S> block_rows(KeyBlock const& block, Index head_size, S const* from, Index from_stride, S* to) {
  from += block.begin * from_stride;
  if (padded<S>(head_size) == head_size) return {from, from_stride};
  copy_padded(block.count, head_size, from, from_stride, S(1), to, padded<S>(head_size), block.count);
  return {to, padded<S>(head_size)};
}

/// to (columns x rows) = from (rows x columns) transposed; both sizes are multiples of the vector length.
template <Real S>
void transpose(Index rows, Index columns, S const* from, Index from_stride, S* to, Index to_stride) {
  for (Index i = 0; i < rows; i += lanes<S>)
    for (Index x = 0; x < columns; x += lanes<S>)
      transpose_square(from + i * from_stride + x, from_stride, to + x * to_stride + i, to_stride);
}

/// exp(l), bounded so that a product of four 1 + e stays finite. At the bound 1 + e is 2^30 (2^250): the
/// stick that is left is then below the precision of anything that it is added to.
template <Real S>
inline S bounded_exp(S logit) {
  constexpr S largest = std::is_same_v<S, float> ? S(20.7944) : S(173.28);
  return math::exp(math::select(logit > largest, largest, logit));
}

/// Removes from a block of scores (keys x rows, row stride `stride`) what the mask hides.
template <Real S>
void mask_scores(QueryTile const& tile, KeyBlock const& block, S* scores, Index stride) {
  for (Index j = 0; j < block.count; ++j) {
    Index const end = tile.first_seeing(block.begin + j);
    for (Index i = block.first; i < end; ++i) scores[j * stride + i] = -std::numeric_limits<S>::max();
  }
}

/// Scores to weights, from the newest key to the oldest, for rows [first, last); `stick` moves along. The
/// scores become exp(l) where `keep` says so; weights may be scores otherwise. Four keys share a division.
template <bool keep, Real S>
void break_sticks(Index keys, Index first, Index last, Index stride, S* scores, S* weights, S* stick) {
  Index j = keys;
  for (; j >= 4; j -= 4) {
    S* const s = scores + (j - 4) * stride;
    S* const w = weights + (j - 4) * stride;
#pragma omp simd
    for (Index i = first; i < last; ++i) {
      S const e0 = bounded_exp(s[i]), e1 = bounded_exp(s[stride + i]);
      S const e2 = bounded_exp(s[2 * stride + i]), e3 = bounded_exp(s[3 * stride + i]);
      S const a0 = S(1) + e0, a1 = S(1) + e1, a2 = S(1) + e2, a3 = S(1) + e3;
      S const left0 = stick[i] / ((a3 * a2) * (a1 * a0));
      S const left1 = left0 * a0, left2 = left1 * a1, left3 = left2 * a2;
      if constexpr (keep) s[i] = e0, s[stride + i] = e1, s[2 * stride + i] = e2, s[3 * stride + i] = e3;
      w[i] = e0 * left0;
      w[stride + i] = e1 * left1;
      w[2 * stride + i] = e2 * left2;
      w[3 * stride + i] = e3 * left3;
      stick[i] = left0;
    }
  }
  for (; j > 0; --j) {
    S* const s = scores + (j - 1) * stride;
    S* const w = weights + (j - 1) * stride;
#pragma omp simd
    for (Index i = first; i < last; ++i) {
      S const e = bounded_exp(s[i]);
      S const left = stick[i] / (S(1) + e);
      if constexpr (keep) s[i] = e;
      w[i] = e * left;
      stick[i] = left;
    }
  }
}

/// Whether nothing that is left can matter: every stick below the bound, or gone. NaN goes on.
template <Real S>
bool used_up(Index rows, S const* stick, double stop_below) {
  S const bound = std::max(static_cast<S>(stop_below), std::numeric_limits<S>::denorm_min());
  bool all = true;
  for (Index i = 0; i < rows; ++i) all = all && stick[i] < bound;
  return all;
}

/// Throws unless sequences, sizes and matrices fit together.
template <Real S>
void check_attention(char const* where, AttentionExtents const& extents, Vector<Sequence const> sequences,
                     Matrix<S const> q, Matrix<S const> k, Matrix<S const> v) {
  expect_attention(where, extents, q, k, v);
  for (Sequence const& s : sequences) expect_sequence(where, extents, s, q.extent(0), k.extent(0));
}

/// Whether the sequences leave out query rows.
inline bool has_gaps(Vector<Sequence const> sequences, Index rows_per_token, Index rows) {
  Index covered = 0;
  for (Sequence const& s : sequences) covered += s.query_count * rows_per_token;
  return covered < rows;
}

}  // namespace moduleformer::detail
