// SPDX-License-Identifier: MIT
#pragma once
// Stick-breaking attention forward on tensor cores, for bfloat16 heads of 32, 64, 96 or 128: four warps with 16 query
// rows each, sums in registers, keys and values of the next block copied while this one is computed.
// The weights are rounded to bfloat16 for their product with the values.

#include <moduleformer/backend/cuda/kernels/attention_schedule.cuh>
#include <moduleformer/backend/cuda/kernels/attention_tensor_tile.cuh>
#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_run.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cstddef>
#include <cstdint>

namespace moduleformer::kernels {

template <int d>
struct StickBreakingTensorForward {
  using Tile = AttentionTensorTile<d>;
  using Units = BinaryUnits;
  static constexpr int warps = 4, threads = 32 * warps, size = 16 * warps, stages = 2;
  static constexpr int blocks_at_once = d == 64 ? 0 : d <= 32 ? 4 : d <= 96 ? 3 : 2;  // 64: as the compiler likes
  /// Wide heads leave no registers for the queries.
  static constexpr bool query_in_registers = d <= 64;
  static constexpr std::size_t shared_bytes =
      (stages * 2 * Tile::block_size + (query_in_registers ? 0 : size * d)) * sizeof(bfloat16);

  StickBreakingCall<bfloat16> call;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    if constexpr (!Thread::always_has_warpgroups) run(thread);  // code that no launch chooses need not exist
  }

 private:
  template <class Thread>
  MODULEFORMER_DEVICE void run(Thread const& thread) const {
    AttentionShape const& shape = call.shape;
    Index const tile_blocks = call.tiles * shape.heads, stride = shape.stride();
    if (thread.block() >= tile_blocks)
      return call.clear_rows(thread, (thread.block() - tile_blocks) * threads + thread.warp() * 32);
    int const head = static_cast<int>(thread.block() % shape.heads);
    QueryTile const tile = find_tile(thread, shape, call.tiles - 1 - thread.block() / shape.heads, size);
    if (tile.rows == 0) return;

    Index const column = static_cast<Index>(head) * d;
    bfloat16 const* const all_keys = call.k + tile.sequence.key_row * stride + column;
    bfloat16 const* const all_values = call.v + tile.sequence.key_row * stride + column;
    int const t = thread.lane() % 4, run = t * run_keys, newest = tile.visible_end(tile.rows - 1);
    int const rows[2] = {thread.warp() * 16 + thread.lane() / 4, thread.warp() * 16 + thread.lane() / 4 + 8};
    int const ends[2] = {rows[0] < tile.rows ? tile.visible_end(rows[0]) : 0,
                         rows[1] < tile.rows ? tile.visible_end(rows[1]) : 0};

    auto* const shared = thread.template shared<bfloat16>();
    auto const copy_block = [&](int first_key, int stage) {
      bfloat16* const to = shared + stage * 2 * Tile::block_size;
      int const end = newest - first_key;
      Tile::template copy_rows<threads, Tile::keys, true>(thread, all_keys + first_key * stride, stride, 0, end, to);
      Tile::template copy_rows<threads, Tile::keys, true>(thread, all_values + first_key * stride, stride, 0, end,
                                                          to + Tile::block_size);
    };
    int oldest = (newest + Tile::keys - 1) / Tile::keys * Tile::keys;  // of the keys visited so far
    bfloat16 const* const first_row = call.q + tile.matrix_row() * stride + column;
    bfloat16* const query_part = shared + stages * 2 * Tile::block_size;
    if constexpr (!query_in_registers)
      Tile::template copy_rows<threads, size, false>(thread, first_row, stride, 0, tile.rows, query_part);
    if (oldest > 0) copy_block(oldest - Tile::keys, 0);
    thread.commit_copies();
    typename Tile::KeptRows query;
    if constexpr (query_in_registers)
      MODULEFORMER_UNROLL
      for (int k = 0; k < d / 16; ++k)
        Tile::load_rows(thread, rows[0] < tile.rows ? first_row + rows[0] * stride : nullptr,
                        rows[1] < tile.rows ? first_row + rows[1] * stride : nullptr, k, query.words[k]);
    typename Tile::Output out;
    Tile::clear(out);
    float log_stick[2] = {0, 0};
    bool alive = true;
    for (int stage = 0; alive && oldest > 0; stage ^= 1) {
      oldest -= Tile::keys;
      if (oldest > 0) copy_block(oldest - Tile::keys, stage ^ 1);
      thread.commit_copies();
      thread.template wait_copies<1>();
      thread.sync();
      bfloat16 const* const block = shared + stage * 2 * Tile::block_size;
      typename Tile::Scores s;
      if constexpr (query_in_registers) Tile::scores(thread, query, block, s);
      else
        Tile::scores(thread, typename Tile::template PartRows<Thread>(thread, query_part, thread.warp() * 16), block,
                     s);
      alive = false;
      MODULEFORMER_UNROLL
      for (int half = 0; half < 2; ++half) {
        float x[run_keys];
        NothingKept nothing;
        Tile::take_run(s, half, x);
        MODULEFORMER_UNROLL
        for (int j = 0; j < run_keys; ++j) x[j] *= call.scale;
        break_run<Units, Tile::lanes, Walk::to_older>(thread, x, 0, ends[half] - oldest - run, false, log_stick[half],
                                                      nothing);
        Tile::put_run(x, half, s);
        alive = alive || (rows[half] < tile.rows && !(log_stick[half] < call.log_bound));  // NaN goes on
      }
      Tile::weighted(thread, s, block + Tile::block_size, out);
      alive = thread.sync_or(alive);
    }
    thread.template wait_copies<0>();

    MODULEFORMER_UNROLL
    for (int half = 0; half < 2; ++half) {
      if (rows[half] >= tile.rows) continue;
      bfloat16* const y = call.y + (tile.matrix_row() + rows[half]) * stride + column;
      float const rest = shape.keep_remainder ? Units::exp(thread, log_stick[half]) : 0.0f;
      bfloat16 const* const own = all_values + tile.position(rows[half]) * stride;
      MODULEFORMER_UNROLL
      for (int j = 0; j < d / 8; ++j) {
        float pair[2] = {out[j][2 * half], out[j][2 * half + 1]};
        if (shape.keep_remainder) {
          float value[2];
          load<2>(own + 8 * j + 2 * t, 2, true, value);
          pair[0] += rest * value[0];
          pair[1] += rest * value[1];
        }
        *reinterpret_cast<std::uint32_t*>(y + 8 * j + 2 * t) = thread.round_pair(pair[0], pair[1]);
      }
      if (t == 0) call.template leave<Units>(tile, rows[half], head, log_stick[half], oldest);
    }
  }
};

}  // namespace moduleformer::kernels
