// SPDX-License-Identifier: MIT
#pragma once
// Stick-breaking attention backward by warpgroups, the two passes of stick_breaking_backward.cuh for bfloat16 heads of
// 32, 64, 96 or 128. A warpgroup forms scores and A = dy.v of 64 rows and 64 keys in registers and scans them. Here the
// pass over queries, which multiplies dl from registers with the keys; stick_breaking_warpgroup_keys.cuh: over keys.

#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_linear.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_state.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_warpgroup.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace moduleformer::kernels {

/// What a warpgroup does with its 64 rows and one block of keys.
template <int d>
struct WarpgroupBackward {
  using Tile = WarpgroupTile<d>;
  struct Row {
    int first = -1, end = 0;  // keys that it visited, of its sequence; -1: there is no such row
    RowState state{};         // before the block that comes next

    Row() = default;
    /// At the first block that the row visits. A row beyond the tile's sees all keys, but is zero itself.
    MODULEFORMER_DEVICE Row(StickBreakingBackwardCall<bfloat16> const& call, QueryTile const& tile, int row, int head)
        : end(tile.sequence.keys) {
      if (row >= tile.rows) return;
      Index const place = (tile.matrix_row() + row) * call.shape.heads + head;
      first = call.stop[place];
      end = tile.visible_end(row);
      state = {call.log_stick[place] * BinaryUnits::per_nat, 0.0f};
    }
  };

  /// Rows of q and dy from `queries` and `gradients` on, in parts of `count` rows; keys and values are a block's parts.
  /// done(half, weights, dl) takes what the lane has of its upper row, then of its lower one: weights as pairs of
  /// bfloat16, made if the pass has a use for them.
  template <int count, bool weights, class Thread, class Done>
  static MODULEFORMER_DEVICE void visit(Thread const& thread, StickBreakingBackwardCall<bfloat16> const& call,
                                        bfloat16 const* queries, bfloat16 const* gradients, bfloat16 const* keys,
                                        bfloat16 const* values, int base, int matrix_row, int head, Row (&rows)[2],
                                        Done done) {
    typename Tile::Scores logits, products;
    thread.begin_products();
    Tile::template scores<count>(thread, queries, keys, logits);
    Tile::template scores<count>(thread, gradients, values, products);
    thread.commit_products();
    thread.template wait_products<0>();
    float x[2][run_keys], score[2][run_keys];
    MODULEFORMER_UNROLL
    for (int half = 0; half < 2; ++half) {
      Tile::take_run(logits, half, x[half]);
      Tile::take_run(products, half, score[half]);
    }
    bool at_edge = false;
    MODULEFORMER_UNROLL
    for (int half = 0; half < 2; ++half)
      at_edge = at_edge || rows[half].first > base || rows[half].end < base + Tile::keys;
    if (thread.ballot(at_edge) == 0) scan<false, weights>(thread, call, base, matrix_row, head, rows, x, score, done);
    else scan<true, weights>(thread, call, base, matrix_row, head, rows, x, score, done);
  }

 private:
  template <bool masked, bool weights, class Thread, class Done>
  static MODULEFORMER_DEVICE void scan(Thread const& thread, StickBreakingBackwardCall<bfloat16> const& call, int base,
                                       int matrix_row, int head, Row (&rows)[2], float (&x)[2][run_keys], float (&score)[2][run_keys],
                                       Done done) {
    int const t = thread.lane() % 4, run = base + t * run_keys;
    int const begins[2] = {rows[0].first - run, rows[1].first - run}, ends[2] = {rows[0].end - run, rows[1].end - run};
    LinearRun runs[2];
    begin_runs<masked>(thread, x, call.logit_scale, begins, ends, runs);
    MODULEFORMER_UNROLL
    for (int half = 0; half < 2; ++half) {
      Row& row = rows[half];
      auto const used = runs[half].exchange(thread, t);
      float right = row.state.log_stick + used.all;
      if (right > 0.0f || row.end <= base + Tile::keys) right = 0.0f;  // no newer key uses any of the stick
      row.state.log_stick = right;
      if (call.shape.keep_remainder) {
        Index const place = static_cast<Index>(matrix_row + 8 * half) * call.shape.heads + head;
        float const own = row.first < 0 ? 0.0f : call.own[place];
        MODULEFORMER_UNROLL
        for (int j = 0; j < run_keys; ++j) score[half][j] -= own;
      }
      std::uint32_t words[run_keys / 2] = {};
      float newer = 0;
      runs[half].contributions(x[half], score[half], thread.exp2(right - used.newer), [&](int j, float weight) {
        if constexpr (weights) {
          if (j % 2 == 1) newer = weight;
          else words[j / 2] = thread.round_pair(weight, newer);
        }
      });
      LinearRun::differentiate(thread, t, x[half], score[half], row.state.prefix);
      done(half, words, score[half]);
    }
  }
};

template <int d>
struct StickBreakingWarpgroupQueryGradient {
  using Tile = WarpgroupTile<d>;
  using Group = WarpgroupBackward<d>;
  static constexpr int groups = 2, warps = 4 * groups, threads = 32 * warps, size = 64 * groups, stages = 2;
  static constexpr int blocks_at_once = 1;  // more would spill
  static_assert(Tile::keys == state_keys && state_rows == 64);
  static constexpr int row_part = Tile::template Part<size>::size;
  static constexpr std::size_t shared_bytes =
      (2 * row_part + stages * 2 * Tile::block_size) * sizeof(bfloat16) + warps * sizeof(int);

  StickBreakingBackwardCall<bfloat16> call;
  Index tiles;  // at least as many as there are; the other blocks clear rows of no sequence

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    if constexpr (Thread::has_warpgroups) differentiate(thread);
  }

 private:
  template <class Thread>
  MODULEFORMER_DEVICE void differentiate(Thread const& thread) const {
    AttentionShape const& shape = call.shape;
    auto const number = static_cast<std::uint32_t>(thread.block()), heads = static_cast<std::uint32_t>(shape.heads);
    std::uint32_t const from_last = number / heads;
    int const head = static_cast<int>(number - from_last * heads), t = thread.lane() % 4;
    Index const stride = shape.stride();
    if (from_last >= tiles) return call.clear_rows(thread, (thread.block() - tiles * shape.heads) * threads + thread.warp() * 32);
    QueryTile const tile = find_tile(thread, shape, tiles - 1 - from_last, size);
    if (tile.rows == 0) return;

    int const own_row = thread.warp() * 16 + thread.lane() / 4;
    int const own_rows[2] = {own_row, own_row + 8};
    Index const column = static_cast<Index>(head) * d, place = tile.matrix_row() * stride + column;
    Index const key_place = tile.sequence.key_row * stride + column;
    auto* const queries = thread.template shared<bfloat16>();
    bfloat16* const gradients = queries + row_part;
    bfloat16* const blocks = gradients + row_part;
    auto* const scratch = reinterpret_cast<int*>(blocks + stages * 2 * Tile::block_size);
    Tile::template copy_rows<threads, size, false, true>(thread, call.q + place, stride, 0, tile.rows, queries);
    Tile::template copy_rows<threads, size, false, true>(thread, call.dy + place, stride, 0, tile.rows, gradients);

    int const phase = tile.sequence.key_row % state_keys, newest = tile.visible_end(tile.rows - 1);
    if (shape.keep_remainder)
      MODULEFORMER_UNROLL
      for (int half = 0; half < 2; ++half) {
        call.template store_own<d>(thread, tile, own_rows[half], head);
        thread.sync_warp();
      }
    typename Group::Row rows[2] = {{call, tile, own_rows[0], head}, {call, tile, own_rows[1], head}};
    int block = (oldest_of(thread, tile, rows, own_rows, head, scratch) + phase) / state_keys;
    auto const copy_block = [&](int first_key, int stage) {
      bfloat16* const to = blocks + stage * 2 * Tile::block_size;
      int const begin = first_key < 0 ? -first_key : 0, end = newest - first_key;
      Index const from = key_place + first_key * stride;
      auto const copy = [&]<bool bounded>(std::bool_constant<bounded>) {
        Tile::template copy_rows<threads, Tile::keys, true, bounded>(thread, call.k + from, stride, begin, end, to);
        Tile::template copy_rows<threads, Tile::keys, true, bounded>(thread, call.v + from, stride, begin, end,
                                                                     to + Tile::block_size);
      };
      if (begin == 0 && end >= Tile::keys) copy(std::false_type{});
      else copy(std::true_type{});
    };
    if (block * state_keys - phase < newest) copy_block(block * state_keys - phase, 0);
    thread.commit_copies();
    int const step = *call.places.step;

    typename Tile::Output sums;
    MODULEFORMER_UNROLL
    for (int i = 0; i < d / 2; ++i) sums[i] = 0.0f;
    std::uint32_t words[Tile::keys / 16][4];
    int const group_rows = thread.warp() / 4 * 64 * 64;
    for (int stage = 0; block * state_keys - phase < newest; ++block, stage ^= 1) {
      int const base = block * state_keys - phase;
      thread.template wait_copies<0>();
      thread.publish_shared();
      thread.template wait_products<0>();
      thread.sync();  // the other stage is free
      if (base + state_keys < newest) copy_block(base + state_keys, stage ^ 1);
      thread.commit_copies();
      if (t == 0 && block % step == 0) {
        MODULEFORMER_UNROLL
        for (int half = 0; half < 2; ++half)
          if (own_rows[half] < tile.rows)
            *call.places.at(head, tile.sequence, block, tile.first_row + own_rows[half]) = rows[half].state;
      }
      bfloat16 const* const keys = blocks + stage * 2 * Tile::block_size;
      Group::template visit<size, false>(
          thread, call, queries + group_rows, gradients + group_rows, keys, keys + Tile::block_size, base,
          static_cast<int>(tile.matrix_row()) + own_rows[0], head, rows,
          [&](int half, std::uint32_t(&)[run_keys / 2], float const(&dl)[run_keys]) {
            Tile::round_run(thread, dl, half, words);
          });
      thread.begin_products();
      Tile::weighted(thread, words, keys, sums);
      thread.commit_products();
    }
    thread.template wait_products<0>();
    thread.template wait_copies<0>();

    MODULEFORMER_UNROLL
    for (int half = 0; half < 2; ++half) {
      if (own_rows[half] >= tile.rows) continue;
      bfloat16* const dq = call.dq + place + own_rows[half] * stride + 2 * t;
      MODULEFORMER_UNROLL
      for (int j = 0; j < d / 8; ++j)
        *reinterpret_cast<std::uint32_t*>(dq + 8 * j) =
            thread.round_pair(call.scale * sums[4 * j + 2 * half], call.scale * sums[4 * j + 2 * half + 1]);
    }
  }

  /// The oldest key that rows of the tile visited, and for the other pass that of each 64 of them.
  template <class Thread>
  MODULEFORMER_DEVICE int oldest_of(Thread const& thread, QueryTile const& tile, typename Group::Row const (&rows)[2],
                                    int const (&own_rows)[2], int head, int* scratch) const {
    constexpr int never = 0x7fffffff;
    int oldest = never;
    MODULEFORMER_UNROLL
    for (int half = 0; half < 2; ++half)
      if (own_rows[half] < tile.rows && rows[half].first < oldest) oldest = rows[half].first;
    oldest = never - static_cast<int>(thread.reduce_max(static_cast<std::uint32_t>(never - oldest)));
    if (thread.lane() == 0) scratch[thread.warp()] = oldest;
    thread.sync();
    int of_group = never;
    MODULEFORMER_UNROLL
    for (int w = 0; w < warps; ++w) {
      int const other = scratch[w];
      oldest = other < oldest ? other : oldest;
      if (w / 4 == thread.warp() / 4) of_group = other < of_group ? other : of_group;
    }
    if (thread.index() % 128 == 0 && thread.warp() * 16 < tile.rows)
      *call.places.oldest_of(head, tile.sequence.index, tile.first_row / state_rows + thread.warp() / 4) = of_group;
    return oldest;
  }
};

}  // namespace moduleformer::kernels
