// SPDX-License-Identifier: MIT
#pragma once
// Tiles of the products that attention of wide heads is made of (stick_breaking_rows.cuh): queries with keys, weights
// with values, transposed weights with rows. A row of scores lies where its row of the query matrix does and has an
// entry for each of its sequence's keys. No list of tiles is made: their number is bounded by the sequences' longest,
// and those that do not exist are empty.

#include <moduleformer/backend/cuda/kernels/attention_schedule.cuh>
#include <moduleformer/backend/cuda/kernels/expert_schedule.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cstdint>

namespace moduleformer::kernels {

/// A tile whose columns of scores are counted from its sequence's first key: of A or of C.
struct ScoreTile : ProductTile {
  int a_origin = 0, c_origin = 0;
};

/// Of `count` things, each with more work than the one before, that to take at a place: much and little alternate, so
/// that blocks of threads, each of which takes every so manyth place, have equal work.
MODULEFORMER_HOST_DEVICE constexpr Index alternating(Index place, Index count) {
  return place % 2 == 0 ? count - 1 - place / 2 : place / 2;
}

/// What schedules that keep no list have in common.
struct UnlistedTiles {
  [[nodiscard]] static constexpr int shared_size(int) { return 0; }
  template <class Tile, class Thread>
  MODULEFORMER_DEVICE void prepare(Thread const&, int*) const {}

 protected:
  /// Tiles of `each` that cover `count`.
  static MODULEFORMER_HOST_DEVICE constexpr Index cover(int count, int each) { return (count + each - 1) / each; }
};

/// Rows of scores go in groups, `groups` a sequence at most.
struct ScoreRows {
  static constexpr int size = 128;
  AttentionShape shape;
  int groups;

  [[nodiscard]] MODULEFORMER_HOST_DEVICE Index count() const { return static_cast<Index>(shape.sequence_count) * groups; }
  /// Without rows if there is no such group.
  [[nodiscard]] MODULEFORMER_DEVICE QueryTile at(Index number) const {
    QueryTile tile{shape, SequenceRows{shape, static_cast<int>(number / groups)}, static_cast<int>(number % groups), size};
    if (tile.rows < 0) tile.rows = 0;
    return tile;
  }
  /// One past the newest key that rows of the group see, their own tokens' at least.
  [[nodiscard]] static MODULEFORMER_DEVICE int keys_end(QueryTile const& tile) { return tile.position(tile.rows - 1) + 1; }
};

/// Scores of a group with a block of keys: rows of one matrix by rows of another. The oldest block of every group comes
/// first: with a group's blocks side by side some blocks of threads would only get newest ones, most of which do not exist.
struct ScoreSchedule : UnlistedTiles {
  static constexpr bool gathers_contraction = false;
  ScoreRows rows;
  int longest;  // keys of a sequence, at most
  int depth;

  template <class Tile>
  [[nodiscard]] MODULEFORMER_HOST_DEVICE Index blocks() const {
    return cover(longest, Tile::columns);
  }
  template <class Tile>
  [[nodiscard]] MODULEFORMER_HOST_DEVICE Index tiles(int const*) const {
    return rows.count() * parts<Tile>() * blocks<Tile>();
  }
  template <class Tile>
  [[nodiscard]] MODULEFORMER_DEVICE ScoreTile tile(int const*, Index number) const {
    Index const down = rows.count() * parts<Tile>(), part = number % down;
    QueryTile const q = rows.at(part / parts<Tile>());
    int const first = static_cast<int>(part % parts<Tile>()) * Tile::rows;
    int const keys = q.sequence.key_row, begin = static_cast<int>(number / down) * Tile::columns;
    int const row = static_cast<int>(q.matrix_row()) + first, row_end = static_cast<int>(q.matrix_row()) + q.rows;
    return {{0, row, row_end, keys + begin, keys + (q.rows > 0 ? ScoreRows::keys_end(q) : 0), 0, depth}, 0, keys};
  }
  /// Tiles that a group's rows make.
  template <class Tile>
  static constexpr int parts() {
    return ScoreRows::size / Tile::rows;
  }
};

/// Rows of weights by rows of values, from the oldest key that has weight on.
struct WeightedSchedule : UnlistedTiles {
  static constexpr bool gathers_contraction = false;
  ScoreRows rows;
  std::int32_t const* oldest;  // (groups)
  int columns;

  template <class Tile>
  [[nodiscard]] MODULEFORMER_HOST_DEVICE Index tiles(int const*) const {
    return rows.count() * ScoreSchedule::parts<Tile>() * across<Tile>();
  }
  template <class Tile>
  [[nodiscard]] MODULEFORMER_DEVICE ScoreTile tile(int const*, Index number) const {
    Index const place = number / across<Tile>() / ScoreSchedule::parts<Tile>();
    Index const group = place / rows.groups * rows.groups + alternating(place % rows.groups, rows.groups);
    QueryTile const q = rows.at(group);
    int const first = static_cast<int>(number / across<Tile>() % ScoreSchedule::parts<Tile>()) * Tile::rows;
    int const keys = q.sequence.key_row, column = static_cast<int>(number % across<Tile>()) * Tile::columns;
    int const row = static_cast<int>(q.matrix_row()) + first, row_end = static_cast<int>(q.matrix_row()) + q.rows;
    if (q.rows == 0) return {};
    return {{0, row, row_end, column, columns, keys + oldest[group], keys + ScoreRows::keys_end(q)}, keys, 0};
  }

 private:
  template <class Tile>
  [[nodiscard]] MODULEFORMER_HOST_DEVICE Index across() const {
    return cover(columns, Tile::columns);
  }
};

/// Transposed weights of a block of keys by the rows that may see it.
struct KeySchedule : UnlistedTiles {
  static constexpr bool gathers_contraction = true;
  AttentionShape shape;
  int longest;  // keys of a sequence, at most
  int columns;

  template <class Tile>
  [[nodiscard]] MODULEFORMER_HOST_DEVICE Index tiles(int const*) const {
    return shape.sequence_count * blocks<Tile>() * across<Tile>();
  }
  template <class Tile>
  [[nodiscard]] MODULEFORMER_DEVICE ScoreTile tile(int const*, Index number) const {
    Index const block = number / across<Tile>();
    SequenceRows const s{shape, static_cast<int>(block / blocks<Tile>())};
    int const first = static_cast<int>(alternating(block % blocks<Tile>(), blocks<Tile>())) * Tile::rows;
    int const column = static_cast<int>(number % across<Tile>()) * Tile::columns;
    int const token = first > s.offset ? first - s.offset : 0;
    int const begin = s.query_row + (token * shape.slots < s.query_rows ? token * shape.slots : s.query_rows);
    return {{0, s.key_row + first, s.key_row + s.keys, column, columns, begin, s.query_row + s.query_rows}, s.key_row, 0};
  }

 private:
  template <class Tile>
  [[nodiscard]] MODULEFORMER_HOST_DEVICE Index blocks() const {
    return cover(longest, Tile::rows);
  }
  template <class Tile>
  [[nodiscard]] MODULEFORMER_HOST_DEVICE Index across() const {
    return cover(columns, Tile::columns);
  }
};

}  // namespace moduleformer::kernels
