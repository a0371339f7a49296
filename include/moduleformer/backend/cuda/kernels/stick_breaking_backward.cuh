// SPDX-License-Identifier: MIT
#pragma once
// Stick-breaking attention backward, any head size, without atomics (formulas: cpu/stick_breaking_backward.hpp). Both
// passes form scores q.k and A = dy.v of a tile of rows and a block of keys and scan them, oldest block first:
//   StickBreakingQueryGradient: a tile of rows, its blocks from the oldest on; dq += dl K; leaves states
//   StickBreakingKeyGradient:   a block of keys, the tiles that saw it; dk += dl^T Q, dv += weights^T dY
// 7 products where one pass with atomics would have 5; 8 bytes per row and visited block.

#include <moduleformer/backend/cuda/kernels/attention_schedule.cuh>
#include <moduleformer/backend/cuda/kernels/head_rows.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_run.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_state.cuh>
#include <moduleformer/backend/cuda/kernels/warp.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cstdint>
#include <type_traits>

namespace moduleformer::kernels {

/// What both passes do.
template <class Product, class Units>
struct StickBreakingBackwardBase {
  using S = typename Product::Scalar;
  using Sums = typename Product::Sums;
  using Row = BackwardRow<Units>;
  static constexpr int size = Product::size, threads = Product::threads, lanes = size / run_keys;
  static_assert(threads == size * lanes && size == state_keys);
  static constexpr int blocks_at_once = 1;
  static constexpr int shared_floats = Product::staging_size + 2 * Product::scores_size + threads / 32;

  StickBreakingBackwardCall<S> call;

  [[nodiscard]] MODULEFORMER_DEVICE HeadRows<S> rows(S const* matrix, Index row, Index column, int begin,
                                                     int end) const {
    return {matrix + row * call.shape.stride() + column, call.shape.stride(), begin, end, call.packed};
  }
  /// Rows of keys or values from key `base` of the sequence on, which may be negative.
  [[nodiscard]] MODULEFORMER_DEVICE HeadRows<S> block_rows(S const* matrix, SequenceRows const& s, int base, int newest,
                                                           Index column) const {
    return rows(matrix, s.key_row + base, column, base < 0 ? -base : 0, newest - base < size ? newest - base : size);
  }

  /// Scores and A of the tile and the block to weights and dl of the thread's run, and the row's next state.
  template <class Thread>
  MODULEFORMER_DEVICE void visit(Thread const& thread, QueryTile const& tile, Index column, int base, float* staging,
                                 float* scores, float* values, Row& row, float (&x)[run_keys],
                                 float (&score)[run_keys]) const {
    int const newest = tile.visible_end(tile.rows - 1), d = call.shape.head_size;
    int const own_row = thread.index() / lanes, run = thread.index() % lanes * run_keys;
    Sums products;
    Product::clear(products);
    Product::scores(thread, staging, rows(call.q, tile.matrix_row(), column, 0, tile.rows),
                    block_rows(call.k, tile.sequence, base, newest, column), d, products);
    Product::put_scores(thread, products, scores);
    Product::clear(products);
    Product::scores(thread, staging, rows(call.dy, tile.matrix_row(), column, 0, tile.rows),
                    block_rows(call.v, tile.sequence, base, newest, column), d, products);
    Product::put_scores(thread, products, values);
    thread.sync();
    MODULEFORMER_UNROLL
    for (int j = 0; j < run_keys; ++j) {
      x[j] = scores[Product::place(own_row, run + j)] * call.logit_scale;
      score[j] = values[Product::place(own_row, run + j)];
    }
    row.template visit<lanes>(thread, base, run, x, score);
  }

  /// f(row, column of the head, columns left, sums) for the thread's parts.
  template <class Thread, class F>
  MODULEFORMER_DEVICE void for_places(Thread const& thread, int begin, int end, int c, Sums& sums, F f) const {
    Product::for_rows(thread, sums, [&](int row, int x, auto& part) {
      int const left = call.shape.head_size - c - x;
      if (row >= begin && row < end && left > 0) f(row, c + x, left, part);
    });
  }
};

template <class Product, class Units>
struct StickBreakingQueryGradient : StickBreakingBackwardBase<Product, Units> {
  using Base = StickBreakingBackwardBase<Product, Units>;
  using Base::call, Base::lanes, Base::size, Base::threads;
  using typename Base::Row;
  using typename Base::S;
  using typename Base::Sums;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    AttentionShape const& shape = call.shape;
    QueryTile const tile = call.begin_tile(thread);
    if (tile.rows == 0) return;
    int const head = static_cast<int>(thread.block() % shape.heads), d = shape.head_size;
    Index const stride = shape.stride();
    float* const staging = thread.template shared<float>();
    float* const scores = staging + Product::staging_size;
    float* const values = scores + Product::scores_size;
    int const own_row = thread.index() / lanes, run = thread.index() % lanes * run_keys;
    Index const column = static_cast<Index>(head) * d;
    if (shape.keep_remainder) store_own(thread, tile, own_row, head, column);
    Row row{call, tile, own_row, head};
    int const lowest = oldest_key(thread, call, tile, head, reinterpret_cast<int*>(values + Product::scores_size));
    int const phase = tile.sequence.key_row % size, newest = tile.visible_end(tile.rows - 1);
    int const first_block = (lowest + phase) / size;
    Sums sums;
    Product::clear(sums);
    for (int block = first_block; block * size - phase < newest; ++block) {
      int const base = block * size - phase;
      if (run == 0 && own_row < tile.rows && block % *call.places.step == 0)
        *call.places.at(head, tile.sequence, block, tile.first_row + own_row) = row.state;
      float x[run_keys], score[run_keys];
      this->visit(thread, tile, column, base, staging, scores, values, row, x, score);
      MODULEFORMER_UNROLL
      for (int j = 0; j < run_keys; ++j) scores[Product::place(own_row, run + j)] = score[j];
      thread.sync();
      auto const weights = Product::template take<false>(thread, scores);
      for (int c = 0; c < d; c += size) {
        if (d > size) load_sums(thread, tile, column, c, block == first_block, sums);
        Product::weighted(thread, staging, weights, this->block_rows(call.k, tile.sequence, base, newest, column + c),
                          d - c, sums);
        if (d > size)
          this->for_places(thread, 0, tile.rows, c, sums, [&](int i, int at, int left, auto& part) {
            store(call.dq_sums + (tile.matrix_row() + i) * stride + column + at, left, call.packed, part);
          });
      }
    }
    bool const none = first_block * size - phase >= newest;
    for (int c = 0; c < d; c += size) {
      if (d > size) load_sums(thread, tile, column, c, none, sums);
      this->for_places(thread, 0, tile.rows, c, sums, [&](int i, int at, int left, auto& part) {
        for (float& value : part) value *= call.scale;
        store(call.dq + (tile.matrix_row() + i) * stride + column + at, left, call.packed, part);
      });
    }
  }

 private:
  /// dy_i.v_i of the thread's row, for both passes.
  template <class Thread>
  MODULEFORMER_DEVICE void store_own(Thread const& thread, QueryTile const& tile, int row, int head,
                                     Index column) const {
    AttentionShape const& shape = call.shape;
    float sum = 0;
    if (row < tile.rows) {
      S const* const dy = call.dy + (tile.matrix_row() + row) * shape.stride() + column;
      S const* const v = call.v + (tile.sequence.key_row + tile.position(row)) * shape.stride() + column;
      for (int x = thread.index() % lanes; x < shape.head_size; x += lanes)
        sum += static_cast<float>(dy[x]) * static_cast<float>(v[x]);
    }
    MODULEFORMER_UNROLL
    for (int step = 1; step < lanes; step *= 2) sum += thread.shuffle_xor(sum, step);
    if (row < tile.rows) call.own[(tile.matrix_row() + row) * shape.heads + head] = sum;
  }

  template <class Thread>
  MODULEFORMER_DEVICE void load_sums(Thread const& thread, QueryTile const& tile, Index column, int c, bool zero,
                                     Sums& sums) const {
    Product::clear(sums);
    if (zero) return;
    this->for_places(thread, 0, tile.rows, c, sums, [&](int i, int at, int left, auto& part) {
      load(call.dq_sums + (tile.matrix_row() + i) * call.shape.stride() + column + at, left, call.packed, part);
    });
  }
};

template <class Product, class Units>
struct StickBreakingKeyGradient : StickBreakingBackwardBase<Product, Units> {
  using Base = StickBreakingBackwardBase<Product, Units>;
  using Base::call, Base::lanes, Base::size;
  using typename Base::Row;
  using typename Base::S;
  using typename Base::Sums;

  /// Rows of the key matrix and columns that a block of threads has.
  struct Part {
    Index first_key;
    int rows;
    int head;
    Index column;
  };

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    AttentionShape const& shape = call.shape;
    int const head = static_cast<int>(thread.block() % shape.heads), d = shape.head_size;
    // Forwards: the first keys of a sequence are those that most tiles see.
    Index const first_key = thread.block() / shape.heads * size, left = call.key_rows - first_key;
    Part const part{first_key, left < size ? static_cast<int>(left) : size, head, static_cast<Index>(head) * d};
    Sums key_sums, value_sums;
    Product::clear(key_sums);
    Product::clear(value_sums);
    bool touched = false;
    call.for_sequences(thread, first_key, [&](int sequence) {
      if (!touched && d > size) begin_wide(thread, part);
      touched = true;
      visit_sequence(thread, sequence, part, key_sums, value_sums);
    });
    if (!touched) return;
    if (d <= size) return finish(thread, part, 0, call.scale, key_sums, value_sums);
    if constexpr (!sums_are_results)
      for (int c = 0; c < d; c += size) {
        load_sums(thread, part, call.dk_sums, c, key_sums);
        load_sums(thread, part, call.dv_sums, c, value_sums);
        if (call.dk_sums == call.dv_sums) Product::clear(value_sums);
        finish(thread, part, c, 1.0f, key_sums, value_sums);
      }
  }

 private:
  static constexpr bool sums_are_results = std::is_same_v<S, float>;  // of wide heads

  template <class Thread>
  MODULEFORMER_DEVICE void visit_sequence(Thread const& thread, int index, Part const& part, Sums& key_sums,
                                          Sums& value_sums) const {
    AttentionShape const& shape = call.shape;
    SequenceRows const sequence{shape, index};
    float* const staging = thread.template shared<float>();
    float* const scores = staging + Product::staging_size;
    float* const values = scores + Product::scores_size;
    int const own_row = thread.index() / lanes, run = thread.index() % lanes * run_keys, step = *call.places.step;
    int const base = static_cast<int>(part.first_key) - sequence.key_row, phase = sequence.key_row % size;
    int const block = (base + phase) / size, first_block = block / step * step, d = shape.head_size;
    int const first_token = base > sequence.offset ? base - sequence.offset : 0;
    auto const next = [&](int from) {
      return call.places.template next_tile<1>(thread, part.head, sequence, from, base + size);
    };
    for (int number = next(first_token * shape.slots / size); number * size < sequence.query_rows;
         number = next(number + 1)) {
      QueryTile const tile{shape, sequence, number, size};
      Row row{call, tile, own_row, part.head};
      int const entry = first_block * size - phase;
      if (entry > row.first && entry < row.end)
        row.state = *call.places.at(part.head, sequence, first_block, tile.first_row + own_row);
      float x[run_keys], score[run_keys];
      for (int older = first_block; older < block; ++older)
        this->visit(thread, tile, part.column, older * size - phase, staging, scores, values, row, x, score);
      this->visit(thread, tile, part.column, base, staging, scores, values, row, x, score);
      int const own = shape.keep_remainder && own_row < tile.rows ? tile.position(own_row) - base - run : -1;
      float const rest = own >= 0 && own < run_keys ? Units::exp(thread, row.log_left) : 0.0f;  // y_i += r_i v_i
      MODULEFORMER_UNROLL
      for (int j = 0; j < run_keys; ++j) {
        scores[Product::place(own_row, run + j)] = j == own ? x[j] + rest : x[j];
        values[Product::place(own_row, run + j)] = score[j];
      }
      thread.sync();
      auto const weights = Product::template take<true>(thread, scores);
      auto const dl = Product::template take<true>(thread, values);
      for (int c = 0; c < d; c += size) {
        if (d > size) {
          Product::clear(key_sums);
          Product::clear(value_sums);
        }
        Product::weighted(thread, staging, weights,
                          this->rows(call.dy, tile.matrix_row(), part.column + c, 0, tile.rows), d - c, value_sums);
        Product::weighted(thread, staging, dl, this->rows(call.q, tile.matrix_row(), part.column + c, 0, tile.rows),
                          d - c, key_sums);
        if (d > size) {
          add_sums(thread, part, call.dv_sums, c, 1.0f, value_sums);
          add_sums(thread, part, call.dk_sums, c, call.scale, key_sums);
        }
      }
    }
  }

  /// Sums of wide heads that are not the results themselves begin as 0.
  template <class Thread>
  MODULEFORMER_DEVICE void begin_wide(Thread const& thread, Part const& part) const {
    if constexpr (!sums_are_results) {
      Sums zeros;
      Product::clear(zeros);
      auto const zero = [&](float* sums, int c) {
        this->for_places(thread, 0, part.rows, c, zeros, [&](int i, int at, int left, auto& some) {
          store(sums + (part.first_key + i) * call.shape.stride() + part.column + at, left, call.packed, some);
        });
      };
      for (int c = 0; c < call.shape.head_size; c += size) {
        zero(call.dk_sums, c);
        zero(call.dv_sums, c);
      }
    }
  }
  template <class Thread>
  MODULEFORMER_DEVICE void load_sums(Thread const& thread, Part const& part, float const* sums, int c, Sums& to) const {
    this->for_places(thread, 0, part.rows, c, to, [&](int i, int at, int left, auto& some) {
      load(sums + (part.first_key + i) * call.shape.stride() + part.column + at, left, call.packed, some);
    });
  }
  /// to += factor sums.
  template <class T, class Thread>
  MODULEFORMER_DEVICE void add_sums(Thread const& thread, Part const& part, T* to, int c, float factor,
                                    Sums& sums) const {
    this->for_places(thread, 0, part.rows, c, sums, [&](int i, int at, int left, auto& some) {
      T* const place = to + (part.first_key + i) * call.shape.stride() + part.column + at;
      constexpr int count = sizeof(some) / sizeof(float);
      float there[count];
      load(place, left, call.packed, there);
      MODULEFORMER_UNROLL
      for (int j = 0; j < count; ++j) there[j] += factor * some[j];
      store(place, left, call.packed, there);
    });
  }
  /// dk += factor key_sums, dv += value_sums.
  template <class Thread>
  MODULEFORMER_DEVICE void finish(Thread const& thread, Part const& part, int c, float factor, Sums& key_sums,
                                  Sums& value_sums) const {
    if (call.dk == call.dv) {  // rounded once
      MODULEFORMER_UNROLL
      for (int i = 0; i < Product::sums; ++i) Product::sum(value_sums, i) += factor * Product::sum(key_sums, i);
    } else {
      add_sums(thread, part, call.dk, c, factor, key_sums);
    }
    add_sums(thread, part, call.dv, c, 1.0f, value_sums);
  }
};

}  // namespace moduleformer::kernels
