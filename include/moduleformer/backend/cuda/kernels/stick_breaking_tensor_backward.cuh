// SPDX-License-Identifier: MIT
#pragma once
// Stick-breaking attention backward on tensor cores, the two passes of stick_breaking_backward.cuh for bfloat16 heads
// of 32, 64, 96 or 128. A warp forms scores and A = dy.v of 16 rows and 64 keys in registers and scans them.
// The pass over queries multiplies dl from registers with the keys; the pass over keys puts weights and dl, rounded
// to bfloat16, into shared memory, and each warp adds the products for its 16 keys (and columns) over all rows.

#include <moduleformer/backend/cuda/kernels/attention_tensor_tile.cuh>
#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_run.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_state.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cstddef>
#include <cstdint>
#include <utility>

namespace moduleformer::kernels {

/// What a warp does with its 16 rows and one block of keys.
template <int d>
struct TensorBackwardWarp {
  using Tile = AttentionTensorTile<d>;
  using Row = BackwardRow<BinaryUnits>;

  /// Rows first ... of the parts of q and dy; keys and values are a block's parts. done(half, weights, dl) takes the
  /// lane's runs of its upper row, then of its lower one, so that registers need not hold both.
  template <class Thread, class Done>
  static MODULEFORMER_DEVICE void visit(Thread const& thread, StickBreakingBackwardCall<bfloat16> const& call,
                                        bfloat16 const* queries, bfloat16 const* gradients, int first,
                                        bfloat16 const* keys, bfloat16 const* values, int base, Row (&rows)[2],
                                        Done done) {
    typename Tile::Scores logits, products;
    using Rows = typename Tile::template PartRows<Thread>;
    Tile::scores(thread, Rows(thread, queries, first), keys, logits);
    Tile::scores(thread, Rows(thread, gradients, first), values, products);
    MODULEFORMER_UNROLL
    for (int half = 0; half < 2; ++half) {
      float x[run_keys], score[run_keys];
      Tile::take_run(logits, half, x);
      Tile::take_run(products, half, score);
      MODULEFORMER_UNROLL
      for (int j = 0; j < run_keys; ++j) x[j] *= call.logit_scale;
      rows[half].template visit<Tile::lanes>(thread, base, thread.lane() % 4 * run_keys, x, score);
      done(half, x, score);
    }
  }
};

template <int d>
struct StickBreakingTensorQueryGradient {
  using Tile = AttentionTensorTile<d>;
  using Warp = TensorBackwardWarp<d>;
  static constexpr int warps = 4, threads = 32 * warps, size = 16 * warps, stages = 2;
  static constexpr int blocks_at_once = 2;
  static_assert(size == state_rows && Tile::keys == state_keys);
  static constexpr int row_part = size * d;
  static constexpr std::size_t shared_bytes =
      (2 * row_part + stages * 2 * Tile::block_size) * sizeof(bfloat16) + warps * sizeof(int);

  StickBreakingBackwardCall<bfloat16> call;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    if constexpr (!Thread::always_has_warpgroups) run(thread);  // code that no launch chooses need not exist
  }

 private:
  template <class Thread>
  MODULEFORMER_DEVICE void run(Thread const& thread) const {
    AttentionShape const& shape = call.shape;
    QueryTile const tile = call.begin_tile(thread);
    if (tile.rows == 0) return;
    int const head = static_cast<int>(thread.block() % shape.heads), t = thread.lane() % 4;
    int const own_rows[2] = {thread.warp() * 16 + thread.lane() / 4, thread.warp() * 16 + thread.lane() / 4 + 8};
    Index const stride = shape.stride(), place = tile.matrix_row() * stride + static_cast<Index>(head) * d;
    Index const key_place = tile.sequence.key_row * stride + static_cast<Index>(head) * d;
    auto* const queries = thread.template shared<bfloat16>();
    bfloat16* const gradients = queries + row_part;
    bfloat16* const blocks = gradients + row_part;
    auto* const scratch = reinterpret_cast<int*>(blocks + stages * 2 * Tile::block_size);
    Tile::template copy_rows<threads, size, false>(thread, call.q + place, stride, 0, tile.rows, queries);
    Tile::template copy_rows<threads, size, false>(thread, call.dy + place, stride, 0, tile.rows, gradients);

    int const phase = tile.sequence.key_row % state_keys, newest = tile.visible_end(tile.rows - 1);
    int block = (oldest_key(thread, call, tile, head, scratch) + phase) / state_keys;
    auto const copy_block = [&](int first_key, int stage) {
      bfloat16* const to = blocks + stage * 2 * Tile::block_size;
      int const begin = first_key < 0 ? -first_key : 0, end = newest - first_key;
      Index const from = key_place + first_key * stride;
      Tile::template copy_rows<threads, Tile::keys, true>(thread, call.k + from, stride, begin, end, to);
      Tile::template copy_rows<threads, Tile::keys, true>(thread, call.v + from, stride, begin, end,
                                                          to + Tile::block_size);
    };
    if (block * state_keys - phase < newest) copy_block(block * state_keys - phase, 0);
    thread.commit_copies();
    if (shape.keep_remainder)
      MODULEFORMER_UNROLL
      for (int half = 0; half < 2; ++half) call.template store_own<d>(thread, tile, own_rows[half], head);
    typename Warp::Row rows[2] = {{call, tile, own_rows[0], head}, {call, tile, own_rows[1], head}};
    typename Tile::Output sums;
    Tile::clear(sums);
    for (int stage = 0; block * state_keys - phase < newest; ++block, stage ^= 1) {
      int const base = block * state_keys - phase;
      if (base + state_keys < newest) copy_block(base + state_keys, stage ^ 1);
      thread.commit_copies();
      if (t == 0 && block % *call.places.step == 0) {  // read each time: registers are short
        MODULEFORMER_UNROLL
        for (int half = 0; half < 2; ++half)
          if (own_rows[half] < tile.rows)
            *call.places.at(head, tile.sequence, block, tile.first_row + own_rows[half]) = rows[half].state;
      }
      thread.template wait_copies<1>();
      thread.sync();
      bfloat16 const* const keys = blocks + stage * 2 * Tile::block_size;
      typename Tile::Scores dl;
      Warp::visit(
          thread, call, queries, gradients, thread.warp() * 16, keys, keys + Tile::block_size, base, rows,
          [&](int half, float const(&)[run_keys], float const(&score)[run_keys]) { Tile::put_run(score, half, dl); });
      Tile::weighted(thread, dl, keys, sums);
      thread.sync();
    }
    thread.template wait_copies<0>();

    MODULEFORMER_UNROLL
    for (int half = 0; half < 2; ++half) {
      if (own_rows[half] >= tile.rows) continue;
      bfloat16* const dq = call.dq + place + own_rows[half] * stride;
      MODULEFORMER_UNROLL
      for (int j = 0; j < d / 8; ++j)
        *reinterpret_cast<std::uint32_t*>(dq + 8 * j + 2 * t) =
            thread.round_pair(call.scale * sums[j][2 * half], call.scale * sums[j][2 * half + 1]);
    }
  }
};

template <int d>
struct StickBreakingTensorKeyGradient {
  using Tile = AttentionTensorTile<d>;
  using Warp = TensorBackwardWarp<d>;
  static constexpr int warps = 8, threads = 32 * warps, size = 16 * warps;
  static constexpr int blocks_at_once = 1;
  static constexpr int group = size / state_rows;             // tiles of the other pass in one of this
  static constexpr int wide = warps / 4, columns = d / wide;  // of a warp's sums: 16 keys, these columns
  static constexpr int row_part = size * d, score_part = size * Tile::keys;
  static constexpr std::size_t shared_bytes = (2 * Tile::block_size + 3 * row_part + 2 * score_part) * sizeof(bfloat16);
  static_assert(2 * Tile::block_size <= row_part);

  StickBreakingBackwardCall<bfloat16> call;

  struct Sums {
    float key[columns / 8][4];
    float value[columns / 8][4];
  };

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    if constexpr (!Thread::always_has_warpgroups) run(thread);  // code that no launch chooses need not exist
  }

 private:
  template <class Thread>
  MODULEFORMER_DEVICE void run(Thread const& thread) const {
    AttentionShape const& shape = call.shape;
    int const head = static_cast<int>(thread.block() % shape.heads);
    // Forwards: the first keys of a sequence are those that most tiles see.
    Index const first_key = thread.block() / shape.heads * Tile::keys;
    Sums sums;
    Tile::clear(sums.key);
    Tile::clear(sums.value);
    bool touched = false;
    call.for_sequences(thread, first_key, [&](int sequence) {
      touched = true;
      visit_sequence(thread, sequence, first_key, head, sums);
    });
    if (!touched) return;

    Index const column = static_cast<Index>(head) * d + thread.warp() / 4 * columns + 2 * (thread.lane() % 4);
    MODULEFORMER_UNROLL
    for (int half = 0; half < 2; ++half) {
      Index const row = first_key + thread.warp() % 4 * 16 + thread.lane() / 4 + 8 * half;
      if (row >= call.key_rows) continue;
      MODULEFORMER_UNROLL
      for (int j = 0; j < columns / 8; ++j) {
        float key[2] = {call.scale * sums.key[j][2 * half], call.scale * sums.key[j][2 * half + 1]};
        float value[2] = {sums.value[j][2 * half], sums.value[j][2 * half + 1]};
        Index const at = row * shape.stride() + column + 8 * j;
        if (call.dk == call.dv) {  // rounded once
          value[0] += key[0];
          value[1] += key[1];
        } else {
          add_pair(thread, call.dk + at, key);
        }
        add_pair(thread, call.dv + at, value);
      }
    }
  }

  /// Where eight keys of a row of weights or dl lie.
  static MODULEFORMER_DEVICE int score_place(int row, int chunk) { return (row * 8 + (chunk ^ (row & 7))) * 8; }

  template <class Thread>
  MODULEFORMER_DEVICE void visit_sequence(Thread const& thread, int index, Index first_key, int head,
                                          Sums& sums) const {
    AttentionShape const& shape = call.shape;
    SequenceRows const sequence{shape, index};
    Index const stride = shape.stride(), column = static_cast<Index>(head) * d;
    auto* const keys = thread.template shared<bfloat16>();
    bfloat16* const values = keys + Tile::block_size;
    bfloat16* queries = values + Tile::block_size;  // of this tile, and of the next
    bfloat16* next_queries = queries + row_part;
    bfloat16* const gradients = next_queries + row_part;
    bfloat16* const weights_part = gradients + row_part;
    bfloat16* const dl_part = weights_part + score_part;

    int const base = static_cast<int>(first_key) - sequence.key_row;
    int const phase = sequence.key_row % state_keys, step = *call.places.step;
    int const block = (base + phase) / state_keys, first_block = block / step * step;
    int const first_token = base > sequence.offset ? base - sequence.offset : 0;
    auto const next = [&](int from) {
      return call.places.template next_tile<group>(thread, head, sequence, from, base + state_keys);
    };
    auto const copy_tile = [&](bfloat16 const* matrix, int number, bfloat16* to) {
      bfloat16 const* const from = matrix + (sequence.query_row + number * size) * stride + column;
      Tile::template copy_rows<threads, size, false>(thread, from, stride, 0, sequence.query_rows - number * size, to);
    };
    auto const copy_block = [&](bfloat16 const* matrix, int first, bfloat16* to) {
      bfloat16 const* const from = matrix + (sequence.key_row + first) * stride + column;
      Tile::template copy_rows<threads, Tile::keys, true>(thread, from, stride, first < 0 ? -first : 0,
                                                          sequence.keys - first, to);
    };
    int number = next(first_token * shape.slots / size);
    if (number * size >= sequence.query_rows) return;
    thread.sync();  // what an earlier sequence used is free
    copy_block(call.k, base, keys);
    copy_block(call.v, base, values);
    copy_tile(call.q, number, queries);
    copy_tile(call.dy, number, gradients);
    thread.commit_copies();
    while (number * size < sequence.query_rows) {
      int const following = next(number + 1);
      QueryTile const tile{shape, sequence, number, size};
      int const own_rows[2] = {thread.warp() * 16 + thread.lane() / 4, thread.warp() * 16 + thread.lane() / 4 + 8};
      typename Warp::Row rows[2] = {{call, tile, own_rows[0], head}, {call, tile, own_rows[1], head}};
      int const entry = first_block * state_keys - phase;
      MODULEFORMER_UNROLL
      for (int half = 0; half < 2; ++half)
        if (entry > rows[half].first && entry < rows[half].end)
          rows[half].state = *call.places.at(head, sequence, first_block, tile.first_row + own_rows[half]);
      thread.template wait_copies<0>();
      thread.sync();
      for (int visited = first_block; visited <= block; ++visited) {
        // An older block, whose states were not kept, comes to where the next queries will.
        bool const is_older = visited < block;
        bfloat16* const part = is_older ? next_queries : keys;
        if (is_older) {
          copy_block(call.k, visited * state_keys - phase, part);
          copy_block(call.v, visited * state_keys - phase, part + Tile::block_size);
        } else if (following * size < sequence.query_rows) {
          copy_tile(call.q, following, next_queries);
        }
        thread.commit_copies();
        if (is_older) {
          thread.template wait_copies<0>();
          thread.sync();
        }
        Warp::visit(thread, call, queries, gradients, thread.warp() * 16, part, part + Tile::block_size,
                    visited * state_keys - phase, rows,
                    [&](int half, float(&x)[run_keys], float const(&score)[run_keys]) {
                      if (is_older) return;
                      int const t = thread.lane() % 4;
                      if (shape.keep_remainder && own_rows[half] < tile.rows) {  // y_i += r_i v_i
                        int const own = tile.position(own_rows[half]) - base - t * run_keys;
                        float const rest = thread.exp2(rows[half].log_left);
                        MODULEFORMER_UNROLL
                        for (int j = 0; j < run_keys; ++j) x[j] += j == own ? rest : 0.0f;
                      }
                      put_rounded(thread, x, own_rows[half], t, weights_part);
                      put_rounded(thread, score, own_rows[half], t, dl_part);
                    });
        if (is_older) thread.sync();
      }
      thread.sync();
      add_products(thread, weights_part, gradients, sums.value);
      thread.sync();
      if (following * size < sequence.query_rows) copy_tile(call.dy, following, gradients);
      thread.commit_copies();
      add_products(thread, dl_part, queries, sums.key);
      std::swap(queries, next_queries);
      number = following;
    }
  }

  template <class Thread>
  static MODULEFORMER_DEVICE void put_rounded(Thread const& thread, float const (&x)[run_keys], int row, int t,
                                              bfloat16* part) {
    MODULEFORMER_UNROLL
    for (int chunk = 0; chunk < 2; ++chunk) {
      Pack<std::uint32_t, 4> pack;
      MODULEFORMER_UNROLL
      for (int i = 0; i < 4; ++i) pack.values[i] = thread.round_pair(x[8 * chunk + 2 * i], x[8 * chunk + 2 * i + 1]);
      *reinterpret_cast<Pack<std::uint32_t, 4>*>(part + score_place(row, 2 * t + chunk)) = pack;
    }
  }

  /// sums += scores^T rows for the warp's keys and columns.
  template <class Thread>
  static MODULEFORMER_DEVICE void add_products(Thread const& thread, bfloat16 const* scores, bfloat16 const* rows,
                                               float (&sums)[columns / 8][4]) {
    int const lane = thread.opaque(thread.lane()), key_chunk = thread.warp() % 4 * 2,
              column_chunk = thread.warp() / 4 * (columns / 8);
    MODULEFORMER_UNROLL
    for (int k = 0; k < size; k += 16) {
      std::uint32_t a[4];
      thread.load_matrices_transposed(a, scores + score_place(k + lane / 16 * 8 + lane % 8, key_chunk + lane / 8 % 2));
      MODULEFORMER_UNROLL
      for (int j = 0; j < columns / 8; j += 2) {
        std::uint32_t words[4];
        thread.load_matrices_transposed(words, rows + Tile::row_place(k + lane % 16, column_chunk + j + lane / 16));
        thread.multiply_add(sums[j], a, {words[0], words[1]});
        thread.multiply_add(sums[j + 1], a, {words[2], words[3]});
      }
    }
  }
};

}  // namespace moduleformer::kernels
