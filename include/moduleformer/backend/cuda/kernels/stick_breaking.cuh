// SPDX-License-Identifier: MIT
#pragma once
// Stick-breaking attention forward, any head size (backend.hpp has the formula). A block has a tile of query rows of
// one sequence and head and walks over blocks of keys, newest first: scores, scan, output += weights V; it stops
// when no row has any stick left. Wide heads keep their output in memory, 64 columns at a time in registers.

#include <moduleformer/backend/cuda/kernels/attention_schedule.cuh>
#include <moduleformer/backend/cuda/kernels/head_rows.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_run.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cstdint>

namespace moduleformer::kernels {

/// The arguments of a forward call. Rows of y are S; `sums` holds them in float where a head is wide.
template <class S>
struct StickBreakingCall {
  AttentionShape shape;
  S const* q;
  S const* k;
  S const* v;
  S* y;
  float* sums;         // may be y
  float* log_stick;    // (P,H) or null
  std::int32_t* stop;  // (P,H) or null
  float scale;         // of q.k, in the units of the scan
  float log_bound;     // rows whose stick's logarithm is below are done, in the units of the scan
  bool packed;         // see HeadRows
  Index tiles;         // at least as many as there are; the other blocks clear rows of no sequence

  /// Rows that belong to no sequence become 0.
  template <class Thread>
  MODULEFORMER_DEVICE void clear_rows(Thread const& thread, Index first) const {
    for_rows_of_no_sequence(thread, shape, first, [&](Index row) {
      for (Index x = thread.lane(); x < shape.stride(); x += 32) y[row * shape.stride() + x] = static_cast<S>(0.0f);
      for (int h = thread.lane(); h < shape.heads; h += 32) {
        if (log_stick != nullptr) log_stick[row * shape.heads + h] = 0.0f;
        if (stop != nullptr) stop[row * shape.heads + h] = 0;
      }
    });
  }

  /// What a row leaves for backward; log_left in the units of the scan.
  template <class Units>
  MODULEFORMER_DEVICE void leave(QueryTile const& tile, int row, int head, float log_left, int first_key) const {
    Index const place = (tile.matrix_row() + row) * shape.heads + head;
    if (log_stick != nullptr) log_stick[place] = log_left * (1.0f / Units::per_nat);
    if (stop != nullptr) stop[place] = first_key;
  }
};

template <class Product, class Units>
struct StickBreakingForward {
  using S = typename Product::Scalar;
  using Sums = typename Product::Sums;
  static constexpr int size = Product::size, threads = Product::threads;
  static constexpr int lanes = size / run_keys;  // of a row
  static_assert(threads == size * lanes);
  static constexpr int blocks_at_once = 2;
  static constexpr int shared_floats = Product::staging_size + Product::scores_size + size;

  StickBreakingCall<S> call;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    AttentionShape const& shape = call.shape;
    Index const tile_blocks = call.tiles * shape.heads;
    if (thread.block() >= tile_blocks)
      return call.clear_rows(thread, (thread.block() - tile_blocks) * threads + thread.warp() * 32);
    int const head = static_cast<int>(thread.block() % shape.heads);
    // Backwards, as the last tiles of a sequence take longest.
    QueryTile const tile = find_tile(thread, shape, call.tiles - 1 - thread.block() / shape.heads, size);
    if (tile.rows == 0) return;

    float* const staging = thread.template shared<float>();
    float* const scores = staging + Product::staging_size;
    float* const rest = scores + Product::scores_size;  // (size) sticks left at the end
    int const d = shape.head_size, row = thread.index() / lanes, run = thread.index() % lanes * run_keys;
    Index const stride = shape.stride(), column = static_cast<Index>(head) * d;
    Index const place = tile.matrix_row() * stride + column;
    HeadRows<S> const queries{call.q + place, stride, 0, tile.rows, call.packed};
    S const* const all_keys = call.k + tile.sequence.key_row * stride + column;
    S const* const all_values = call.v + tile.sequence.key_row * stride + column;
    int const end = row < tile.rows ? tile.visible_end(row) : 0, newest = tile.visible_end(tile.rows - 1);

    Sums out;
    Product::clear(out);
    float log_stick = 0;
    int oldest = (newest + size - 1) / size * size;
    bool const any = oldest > 0;
    for (bool first = true, alive = true; alive && oldest > 0; first = false) {
      oldest -= size;
      int const keys = newest - oldest < size ? newest - oldest : size;
      Sums products;
      Product::clear(products);
      Product::scores(thread, staging, queries, HeadRows<S>{all_keys + oldest * stride, stride, 0, keys, call.packed},
                      d, products);
      Product::put_scores(thread, products, scores);
      thread.sync();
      float x[run_keys];
      NothingKept nothing;
      MODULEFORMER_UNROLL
      for (int j = 0; j < run_keys; ++j) x[j] = scores[Product::place(row, run + j)] * call.scale;
      break_run<Units, lanes, Walk::to_older>(thread, x, 0, end - oldest - run, false, log_stick, nothing);
      MODULEFORMER_UNROLL
      for (int j = 0; j < run_keys; ++j) scores[Product::place(row, run + j)] = x[j];
      alive = thread.sync_or(row < tile.rows && !(log_stick < call.log_bound));  // NaN goes on
      auto const weights = Product::template take<false>(thread, scores);
      for (int c = 0; c < d; c += size) {
        if (d > size) load_sums(thread, tile, place, c, first, out);
        HeadRows<S> const values{all_values + oldest * stride + c, stride, 0, keys, call.packed};
        Product::weighted(thread, staging, weights, values, d - c, out);
        if (d > size) store_sums(thread, tile, place, c, out);
      }
    }

    if (row < tile.rows && run == 0) {
      call.template leave<Units>(tile, row, head, log_stick, oldest);
      rest[row] = Units::exp(thread, log_stick);
    }
    thread.sync();
    for (int c = 0; c < d; c += size) {
      if (d > size) load_sums(thread, tile, place, c, !any, out);
      write(thread, tile, place, c, all_values, rest, out);
    }
  }

 private:
  /// f(row, column of the head, columns from there on, sums) for the thread's parts of rows of the tile.
  template <class Thread, class F>
  MODULEFORMER_DEVICE void for_places(Thread const& thread, QueryTile const& tile, int c, Sums& sums, F f) const {
    Product::for_rows(thread, sums, [&](int row, int x, auto& part) {
      int const left = call.shape.head_size - c - x;
      if (row < tile.rows && left > 0) f(row, c + x, left, part);
    });
  }
  template <class Thread>
  MODULEFORMER_DEVICE void load_sums(Thread const& thread, QueryTile const& tile, Index place, int c, bool zero,
                                     Sums& out) const {
    Product::clear(out);
    if (zero) return;
    for_places(thread, tile, c, out, [&](int row, int x, int left, auto& part) {
      load(call.sums + place + row * call.shape.stride() + x, left, call.packed, part);
    });
  }
  template <class Thread>
  MODULEFORMER_DEVICE void store_sums(Thread const& thread, QueryTile const& tile, Index place, int c,
                                      Sums& out) const {
    for_places(thread, tile, c, out, [&](int row, int x, int left, auto& part) {
      store(call.sums + place + row * call.shape.stride() + x, left, call.packed, part);
    });
  }
  /// y = sums, and the rest of the stick to the own value.
  template <class Thread>
  MODULEFORMER_DEVICE void write(Thread const& thread, QueryTile const& tile, Index place, int c, S const* values,
                                 float const* rest, Sums& out) const {
    for_places(thread, tile, c, out, [&](int row, int x, int left, auto& part) {
      if (call.shape.keep_remainder) {
        constexpr int count = sizeof(part) / sizeof(float);
        float own[count];
        load(values + tile.position(row) * call.shape.stride() + x, left, call.packed, own);
        MODULEFORMER_UNROLL
        for (int j = 0; j < count; ++j) part[j] += rest[row] * own[j];
      }
      store(call.y + place + row * call.shape.stride() + x, left, call.packed, part);
    });
  }
};

}  // namespace moduleformer::kernels
