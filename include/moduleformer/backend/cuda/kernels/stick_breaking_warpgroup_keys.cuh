// SPDX-License-Identifier: MIT
#pragma once
// The pass over keys of stick_breaking_warpgroup_backward.cuh: weights and dl, rounded to bfloat16, go into shared
// memory; one warpgroup adds the products of the transposed weights with dy, the other those of dl with q.

#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_linear.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_state.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_warpgroup.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_warpgroup_backward.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace moduleformer::kernels {

/// Two warpgroups, each with half of a tile's scores; then the first one has dv, the second one dk.
template <int d>
struct StickBreakingWarpgroupKeyGradient {
  using Tile = WarpgroupTile<d>;
  using Group = WarpgroupBackward<d>;
  static constexpr int warps = 8, threads = 32 * warps, size = 16 * warps, stages = 2;
  static constexpr int blocks_at_once = 1;  // more would spill
  static constexpr int group = size / state_rows;  // tiles of the other pass in one of this
  using ScorePart = SharedPart<bfloat16, size, Tile::keys>;
  static constexpr int row_part = Tile::template Part<size>::size;
  static constexpr std::size_t shared_bytes =
      (2 * Tile::block_size + stages * 2 * row_part + 2 * ScorePart::size) * sizeof(bfloat16);
  static_assert(2 * Tile::block_size <= 2 * row_part);

  StickBreakingBackwardCall<bfloat16> call;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    if constexpr (Thread::has_warpgroups) differentiate(thread);
  }

 private:
  using Sums = typename Tile::Output;

  template <class Thread>
  MODULEFORMER_DEVICE void differentiate(Thread const& thread) const {
    AttentionShape const& shape = call.shape;
    int const head = static_cast<int>(thread.block() % shape.heads);
    // Forwards: the first keys of a sequence are those that most tiles see.
    Index const first_key = thread.block() / shape.heads * Tile::keys;
    Sums sums;
    MODULEFORMER_UNROLL
    for (int i = 0; i < d / 2; ++i) sums[i] = 0.0f;
    bool touched = false;
    call.for_sequences(thread, first_key, [&](int sequence) {
      touched = true;
      visit_sequence(thread, sequence, first_key, head, sums);
    });
    if (!touched) return;

    bool const has_values = thread.warp() < 4;
    if (!has_values)
      MODULEFORMER_UNROLL
      for (int i = 0; i < d / 2; ++i) sums[i] *= call.scale;
    if (call.dk == call.dv) {  // rounded once
      auto* const shared = thread.template shared<float>() + thread.index() % 128;
      thread.sync();
      MODULEFORMER_UNROLL
      for (int i = 0; i < d / 2; ++i)
        if (!has_values) shared[i * 128] = sums[i];
      thread.sync();
      if (!has_values) return;
      MODULEFORMER_UNROLL
      for (int i = 0; i < d / 2; ++i) sums[i] += shared[i * 128];
    }
    add(thread, sums, first_key, head, has_values ? call.dv : call.dk);
  }

  template <class Thread>
  MODULEFORMER_DEVICE void add(Thread const& thread, Sums const& sums, Index first_key, int head,
                               bfloat16* matrix) const {
    Index const column = static_cast<Index>(head) * d + 2 * (thread.lane() % 4);
    MODULEFORMER_UNROLL
    for (int half = 0; half < 2; ++half) {
      Index const row = first_key + thread.warp() % 4 * 16 + thread.lane() / 4 + 8 * half;
      if (row >= call.key_rows) continue;
      MODULEFORMER_UNROLL
      for (int j = 0; j < d / 8; ++j)
        add_pair(thread, matrix + row * call.shape.stride() + column + 8 * j, {sums[4 * j + 2 * half], sums[4 * j + 2 * half + 1]});
    }
  }

  template <class Thread>
  MODULEFORMER_DEVICE void visit_sequence(Thread const& thread, int index, Index first_key, int head,
                                          Sums& sums) const {
    AttentionShape const& shape = call.shape;
    SequenceRows const sequence{shape, index};
    Index const stride = shape.stride(), column = static_cast<Index>(head) * d;
    auto* const keys = thread.template shared<bfloat16>();
    bfloat16* const values = keys + Tile::block_size;
    bfloat16* const tiles = values + Tile::block_size;  // stages of queries and gradients
    bfloat16* const weights_part = tiles + stages * 2 * row_part;
    bfloat16* const dl_part = weights_part + ScorePart::size;

    int const base = static_cast<int>(first_key) - sequence.key_row;
    int const phase = sequence.key_row % state_keys, step = *call.places.step;
    int const block = (base + phase) / state_keys, first_block = block / step * step;
    int const first_token = base > sequence.offset ? base - sequence.offset : 0;
    auto const next = [&](int from) {
      return call.places.template next_tile<group>(thread, head, sequence, from, base + state_keys);
    };
    auto const copy_tile = [&](int number, int stage) {
      Index const from = (sequence.query_row + number * size) * stride + column;
      int const end = sequence.query_rows - number * size;
      bfloat16* const to = tiles + stage * 2 * row_part;
      auto const copy = [&]<bool bounded>(std::bool_constant<bounded>) {
        Tile::template copy_rows<threads, size, false, bounded>(thread, call.q + from, stride, 0, end, to);
        Tile::template copy_rows<threads, size, false, bounded>(thread, call.dy + from, stride, 0, end, to + row_part);
      };
      if (end >= size) copy(std::false_type{});
      else copy(std::true_type{});
    };
    auto const copy_block = [&](bfloat16 const* matrix, int first, bfloat16* to) {
      bfloat16 const* const from = matrix + (sequence.key_row + first) * stride + column;
      Tile::template copy_rows<threads, Tile::keys, true, true>(thread, from, stride, first < 0 ? -first : 0,
                                                                sequence.keys - first, to);
    };
    int number = next(first_token * shape.slots / size);
    if (number * size >= sequence.query_rows) return;
    thread.template wait_products<0>();
    thread.sync();  // what an earlier sequence used is free
    copy_block(call.k, base, keys);
    copy_block(call.v, base, values);
    copy_tile(number, 0);
    thread.commit_copies();
    int const own_row = thread.warp() * 16 + thread.lane() / 4, t = thread.lane() % 4;
    int const own_rows[2] = {own_row, own_row + 8};
    int const group_rows = thread.warp() / 4 * 64 * 64;
    int following = next(number + 1);
    for (int stage = 0; number * size < sequence.query_rows; stage ^= 1) {
      QueryTile const tile{shape, sequence, number, size};
      typename Group::Row rows[2] = {{call, tile, own_rows[0], head}, {call, tile, own_rows[1], head}};
      int const entry = first_block * state_keys - phase;
      MODULEFORMER_UNROLL
      for (int half = 0; half < 2; ++half) {
        if (entry > rows[half].first && entry < rows[half].end && own_rows[half] < tile.rows)
          rows[half].state = *call.places.at(head, sequence, first_block, tile.first_row + own_rows[half]);
      }
      bfloat16 const* const queries = tiles + stage * 2 * row_part;
      bfloat16* const next_tile = tiles + (stage ^ 1) * 2 * row_part;
      thread.template wait_copies<0>();
      thread.publish_shared();
      thread.template wait_products<0>();
      thread.sync();  // the other stage, weights and dl are free
      for (int visited = first_block; visited <= block; ++visited) {
        // An older block, whose states were not kept, comes to where the next queries will.
        bool const is_older = visited < block;
        if (is_older) {
          copy_block(call.k, visited * state_keys - phase, next_tile);
          copy_block(call.v, visited * state_keys - phase, next_tile + Tile::block_size);
          thread.commit_copies();
          thread.template wait_copies<0>();
          thread.publish_shared();
          thread.sync();
        } else {
          if (following * size < sequence.query_rows) copy_tile(following, stage ^ 1);
          thread.commit_copies();
        }
        bfloat16 const* const part = is_older ? next_tile : keys;
        Group::template visit<size, true>(
            thread, call, queries + group_rows, queries + row_part + group_rows, part, part + Tile::block_size,
            visited * state_keys - phase, static_cast<int>(tile.matrix_row()) + own_rows[0], head, rows,
            [&](int half, std::uint32_t(&weights)[run_keys / 2], float const(&dl)[run_keys]) {
              if (is_older) return;
              if (shape.keep_remainder && own_rows[half] < tile.rows)  // y_i += r_i v_i
                add_rest(thread, weights, tile.position(own_rows[half]) - base - t * run_keys,
                         thread.exp2(call.log_stick[(tile.matrix_row() + own_rows[half]) * shape.heads + head] * BinaryUnits::per_nat));
              std::uint32_t rounded[run_keys / 2];
              MODULEFORMER_UNROLL
              for (int j = 0; j < run_keys / 2; ++j) rounded[j] = thread.round_pair(dl[2 * j], dl[2 * j + 1]);
              put(weights, own_rows[half], t, weights_part);
              put(rounded, own_rows[half], t, dl_part);
            });
        if (is_older) thread.sync();
      }
      thread.publish_shared();
      thread.sync();
      thread.begin_products();
      // Chosen by address: products in branches would run one by one.
      bool const has_values = thread.warp() < 4;
      add_products(thread, has_values ? weights_part : dl_part, has_values ? queries + row_part : queries, sums);
      thread.commit_products();
      number = following;
      following = next(number + 1);
    }
    thread.template wait_products<0>();
  }

  /// Adds to the weight of one key of the run, if it is one of its keys.
  template <class Thread>
  static MODULEFORMER_DEVICE void add_rest(Thread const& thread, std::uint32_t (&words)[run_keys / 2], int key,
                                           float rest) {
    MODULEFORMER_UNROLL
    for (int j = 0; j < run_keys; ++j) {
      if (j != key) continue;
      std::uint32_t const word = words[j / 2];
      float const low = std::bit_cast<float>(word << 16), high = std::bit_cast<float>(word & 0xffff0000u);
      words[j / 2] = thread.round_pair(low + (j % 2 == 0 ? rest : 0.0f), high + (j % 2 == 1 ? rest : 0.0f));
    }
  }

  static MODULEFORMER_DEVICE void put(std::uint32_t const (&words)[run_keys / 2], int row, int t, bfloat16* part) {
    MODULEFORMER_UNROLL
    for (int chunk = 0; chunk < 2; ++chunk) {
      Pack<std::uint32_t, 4> pack;
      MODULEFORMER_UNROLL
      for (int i = 0; i < 4; ++i) pack.values[i] = words[4 * chunk + i];
      *reinterpret_cast<Pack<std::uint32_t, 4>*>(part + ScorePart::at(row, 2 * t + chunk)) = pack;
    }
  }

  /// Begins sums += scores^T rows.
  template <class Thread>
  static MODULEFORMER_DEVICE void add_products(Thread const& thread, bfloat16 const* scores, bfloat16 const* rows,
                                               Sums& sums) {
    MODULEFORMER_UNROLL
    for (int k = 0; k < size; k += 16)
      thread.template multiply_shared<1, 1>(sums, thread.shared_matrix(scores + k * 64, size * 128),
                                            thread.shared_matrix(rows + k * 64, size * 128), true);
  }
};

}  // namespace moduleformer::kernels
