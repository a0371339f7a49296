// SPDX-License-Identifier: MIT
#pragma once
// Stick-breaking attention forward by warpgroups (GpuWarpgroup), for bfloat16 heads of 32, 64, 96 or 128: each has 64
// query rows; they share the keys and values of a block, which are copied while the block before is computed. Key
// 16t + 2n + h of a block lies in row 8n + 2t + h of its parts, so that lane t of a quad has 16 neighbouring keys.

#include <moduleformer/backend/cuda/kernels/attention_schedule.cuh>
#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/backend/cuda/kernels/product_operand.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_linear.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace moduleformer::kernels {

/// What forward and backward do with blocks of 64 rows of a head of size d in shared memory, in panels of 64 columns.
template <int d>
struct WarpgroupTile {
  static_assert(d % 32 == 0 && d <= 128, "moduleformer: heads of warpgroups are multiples of 32 up to 128");
  static constexpr int keys = 64, panels = (d + 63) / 64, chunks = d / 8;
  template <int rows>
  using Part = SharedPart<bfloat16, rows, 64 * panels>;
  static constexpr int block_size = Part<keys>::size;

  using Scores = float[keys / 2];
  using Output = float[d / 2];

  /// The row of a part where a key of a block lies.
  static MODULEFORMER_DEVICE int key_row(int key) { return key / 2 % 8 * 8 + key / 16 * 2 + key % 2; }

  /// Begins to copy `count` rows of a head to a part; those outside of [begin, end), if bounded, become zeros.
  template <int threads, int count, bool by_key, bool bounded, class Thread>
  static MODULEFORMER_DEVICE void copy_rows(Thread const& thread, bfloat16 const* from, Index stride, int begin,
                                            int end, bfloat16* to) {
    constexpr int at_once = threads / chunks, passes = (count + at_once - 1) / at_once;
    int const index = thread.opaque(thread.index()), first = index / chunks, chunk = index % chunks;
    if (threads % chunks != 0 && first >= at_once) return;
    bfloat16 const* place = from + first * static_cast<int>(stride) + chunk * 8;
    MODULEFORMER_UNROLL
    for (int pass = 0; pass < passes; ++pass, place += at_once * static_cast<int>(stride)) {
      int const row = first + pass * at_once;
      if (count % at_once != 0 && row >= count) break;
      bfloat16* const target = to + Part<count>::at(by_key ? key_row(row) : row, chunk);
      if constexpr (bounded) {
        bool const exists = row >= begin && row < end;
        thread.copy_async(target, exists ? place : from, exists ? 16 : 0);
      } else {
        thread.copy_async(target, place, 16);
      }
    }
  }

  /// Begins s = 64 rows of `rows` (a part of `count` rows) . rows of `block`.
  template <int count, class Thread>
  static MODULEFORMER_DEVICE void scores(Thread const& thread, bfloat16 const* rows, bfloat16 const* block,
                                         Scores& s) {
    MODULEFORMER_UNROLL
    for (int k = 0; k < d / 16; ++k) {
      int const panel = k / 4, column = k % 4 * 16;
      thread.template multiply_shared<0, 0>(s, thread.shared_matrix(rows + panel * count * 64 + column, 0),
                                            thread.shared_matrix(block + panel * keys * 64 + column, 0), k > 0);
    }
  }
  /// Begins out += weights . rows of `block`, the weights as words for multiply_rows.
  template <class Thread>
  static MODULEFORMER_DEVICE void weighted(Thread const& thread, std::uint32_t const (&weights)[keys / 16][4],
                                           bfloat16 const* block, Output& out) {
    MODULEFORMER_UNROLL
    for (int k = 0; k < keys / 16; ++k)
      thread.template multiply_rows<1>(out, weights[k], thread.shared_matrix(block + 16 * k * 64, keys * 128), true);
  }

  /// The lane's run of its upper (0) or lower (1) row.
  static MODULEFORMER_DEVICE void take_run(Scores const& s, int half, float (&x)[run_keys]) {
    MODULEFORMER_UNROLL
    for (int j = 0; j < run_keys; ++j) x[j] = s[j / 2 * 4 + 2 * half + j % 2];
  }
  /// A run of its upper or lower row, rounded, to where it lies in words for multiply_rows.
  template <class Thread>
  static MODULEFORMER_DEVICE void round_run(Thread const& thread, float const (&x)[run_keys], int half,
                                            std::uint32_t (&words)[keys / 16][4]) {
    MODULEFORMER_UNROLL
    for (int k = 0; k < keys / 16; ++k)
      MODULEFORMER_UNROLL
      for (int i = 0; i < 2; ++i)
        words[k][2 * i + half] = thread.round_pair(x[4 * k + 2 * i], x[4 * k + 2 * i + 1]);
  }
};

/// One warpgroup a block: of more, all go on until the last one's rows have used up their sticks.
template <int d>
struct StickBreakingWarpgroupForward {
  using Tile = WarpgroupTile<d>;
  using Units = BinaryUnits;
  static constexpr int warps = 4, threads = 32 * warps, size = 64, stages = 2;
  static constexpr int blocks_at_once = d <= 64 ? 4 : 3;
  static constexpr int query_size = Tile::template Part<size>::size;
  static constexpr std::size_t shared_bytes = (query_size + stages * 2 * Tile::block_size) * sizeof(bfloat16);

  StickBreakingCall<bfloat16> call;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    if constexpr (Thread::has_warpgroups) attend(thread);
  }

 private:
  template <class Thread>
  MODULEFORMER_DEVICE void attend(Thread const& thread) const {
    AttentionShape const& shape = call.shape;
    auto const number = static_cast<std::uint32_t>(thread.block()), heads = static_cast<std::uint32_t>(shape.heads);
    std::uint32_t const from_last = number / heads;
    int const head = static_cast<int>(number - from_last * heads);
    Index const stride = shape.stride();
    if (from_last >= call.tiles)
      return call.clear_rows(thread, (thread.block() - call.tiles * shape.heads) * threads + thread.warp() * 32);
    QueryTile const tile = find_tile(thread, shape, call.tiles - 1 - from_last, size);
    if (tile.rows == 0) return;

    Index const column = static_cast<Index>(head) * d;
    bfloat16 const* const all_keys = call.k + tile.sequence.key_row * stride + column;
    bfloat16 const* const all_values = call.v + tile.sequence.key_row * stride + column;
    int const t = thread.lane() % 4, newest = tile.visible_end(tile.rows - 1);
    int const first_row = thread.warp() * 16 + thread.lane() / 4;
    int const rows[2] = {first_row, first_row + 8};
    // Rows beyond the tile's see what its last row does, and nobody looks at them.
    int ends[2];
    MODULEFORMER_UNROLL
    for (int half = 0; half < 2; ++half)
      ends[half] = (rows[half] < tile.rows ? tile.visible_end(rows[half]) : newest) - t * run_keys;
    int const all_visible = tile.visible_end(0);

    bfloat16* const queries = thread.template shared<bfloat16>();
    bfloat16* const blocks = queries + query_size;
    auto const copy_block = [&]<bool bounded>(std::bool_constant<bounded>, int first_key, int stage) {
      bfloat16* const to = blocks + stage * 2 * Tile::block_size;
      Index const from = first_key * stride;
      Tile::template copy_rows<threads, Tile::keys, true, bounded>(thread, all_keys + from, stride, 0,
                                                                   newest - first_key, to);
      Tile::template copy_rows<threads, Tile::keys, true, bounded>(thread, all_values + from, stride, 0,
                                                                   newest - first_key, to + Tile::block_size);
    };
    int oldest = (newest + Tile::keys - 1) / Tile::keys * Tile::keys;  // of the keys visited so far
    Tile::template copy_rows<threads, size, false, true>(thread, call.q + tile.matrix_row() * stride + column, stride,
                                                         0, tile.rows, queries);
    if (oldest > 0) copy_block(std::true_type{}, oldest - Tile::keys, 0);
    thread.commit_copies();

    typename Tile::Output out;
    MODULEFORMER_UNROLL
    for (int i = 0; i < d / 2; ++i) out[i] = 0.0f;
    float log_stick[2] = {0, 0};
    std::uint32_t weights[Tile::keys / 16][4];
    bool alive = true;
    int stage = 0;
    auto const visit = [&]<bool masked>(std::bool_constant<masked>) {
      bfloat16 const* const block = blocks + stage * 2 * Tile::block_size;
      typename Tile::Scores s;
      thread.begin_products();
      Tile::template scores<size>(thread, queries, block, s);
      thread.commit_products();
      thread.template wait_products<0>();
      float x[2][run_keys];
      Tile::take_run(s, 0, x[0]);
      Tile::take_run(s, 1, x[1]);
      LinearRun runs[2];
      int const none[2] = {0, 0}, last[2] = {ends[0] - oldest, ends[1] - oldest};
      begin_runs<masked>(thread, x, call.scale, none, last, runs);
      alive = false;
      MODULEFORMER_UNROLL
      for (int half = 0; half < 2; ++half) {
        auto const used = runs[half].exchange(thread, t);
        runs[half].weights(x[half], thread.exp2(log_stick[half] - used.newer));
        log_stick[half] -= used.all;
        Tile::round_run(thread, x[half], half, weights);
        alive = alive || (rows[half] < tile.rows && !(log_stick[half] < call.log_bound));  // NaN goes on
      }
      thread.begin_products();
      Tile::weighted(thread, weights, block + Tile::block_size, out);
      thread.commit_products();
    };
    while (oldest > 0) {
      thread.template wait_copies<0>();
      thread.publish_shared();
      thread.template wait_products<0>();
      if (!thread.sync_or(alive)) break;  // and the other stage is free
      oldest -= Tile::keys;
      if (oldest > 0) copy_block(std::false_type{}, oldest - Tile::keys, stage ^ 1);
      thread.commit_copies();
      if (oldest + Tile::keys <= all_visible) visit(std::false_type{});
      else visit(std::true_type{});
      stage ^= 1;
    }
    thread.template wait_products<0>();
    thread.template wait_copies<0>();

    MODULEFORMER_UNROLL
    for (int half = 0; half < 2; ++half) {
      if (rows[half] >= tile.rows) continue;
      bfloat16* const y = call.y + (tile.matrix_row() + rows[half]) * stride + column + 2 * t;
      float const rest = shape.keep_remainder ? Units::exp(thread, log_stick[half]) : 0.0f;
      bfloat16 const* const own = all_values + tile.position(rows[half]) * stride + 2 * t;
      MODULEFORMER_UNROLL
      for (int j = 0; j < d / 8; ++j) {
        float pair[2] = {out[4 * j + 2 * half], out[4 * j + 2 * half + 1]};
        if (shape.keep_remainder) {
          float value[2];
          load<2>(own + 8 * j, 2, true, value);
          pair[0] += rest * value[0];
          pair[1] += rest * value[1];
        }
        *reinterpret_cast<std::uint32_t*>(y + 8 * j) = thread.round_pair(pair[0], pair[1]);
      }
      if (t == 0) call.template leave<Units>(tile, rows[half], head, log_stick[half], oldest);
    }
  }
};

}  // namespace moduleformer::kernels
