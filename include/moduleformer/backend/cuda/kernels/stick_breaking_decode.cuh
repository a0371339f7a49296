// SPDX-License-Identifier: MIT
#pragma once
// Stick-breaking attention forward of few query rows over many keys, as in decoding: the keys are read once, by inner
// products, for up to four rows. A run of keys maps to (o, r); older before newer is (o_new + r_new o_old, r_new
// r_old). First a block of threads for each tile and head visits the newest keys; where they leave any stick, several
// blocks share the older keys, newest first within each, and their (o, r) are put together, newest first.

#include <moduleformer/backend/cuda/kernels/attention_schedule.cuh>
#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking.cuh>
#include <moduleformer/backend/cuda/kernels/stick_breaking_run.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <bit>
#include <cstddef>

namespace moduleformer::kernels {

inline constexpr int narrow_rows = 4, narrow_threads = 128, narrow_widest = 8 * narrow_threads;

/// A call for few rows. Part 0 of a tile and head are its newest keys, parts 1 to `parts` share the others.
template <class S>
struct NarrowCall {
  StickBreakingCall<S> call;
  float* outputs;     // (tiles, heads, parts + 1, rows, d)
  float* log_sticks;  // (tiles, heads, parts + 1, rows), in the units of the scan
  int* oldest;        // (tiles, heads, parts + 1)
  int parts;
  int newest_keys;  // of part 0, a multiple of block_keys
  int block_keys;

  /// Keys [begin, end) of a part; none where begin >= end.
  struct Range {
    int begin, end;
  };
  [[nodiscard]] MODULEFORMER_DEVICE Range range(int part, int visible) const {
    int const older = visible - newest_keys;
    if (part == 0) return {older > 0 ? older : 0, visible};
    if (older <= 0) return {0, 0};
    int const share = ((older + parts - 1) / parts + block_keys - 1) / block_keys * block_keys;
    int const end = older - (part - 1) * share;
    return {end > share ? end - share : 0, end};
  }
  [[nodiscard]] MODULEFORMER_DEVICE Index place(Index tile, int head, int part) const {
    return (tile * call.shape.heads + head) * (parts + 1) + part;
  }
  /// Whether part 0 left no stick to any row of a tile.
  [[nodiscard]] MODULEFORMER_DEVICE bool used_up(Index tile, int head, int rows) const {
    bool all = true;
    for (int row = 0; row < rows; ++row)
      all = all && log_sticks[place(tile, head, 0) * narrow_rows + row] < call.log_bound;
    return all;
  }

  /// y of a row's columns [x, x + 8) from its sum and the logarithm of the stick left.
  template <class Units, class Thread>
  MODULEFORMER_DEVICE void write(Thread const& thread, QueryTile const& tile, int row, int head, int x, float (&sum)[8],
                                 float log_stick) const {
    Index const stride = call.shape.stride(), column = static_cast<Index>(head) * call.shape.head_size + x;
    int const left = call.shape.head_size - x;
    if (call.shape.keep_remainder) {
      float own[8];
      load(call.v + (tile.sequence.key_row + tile.position(row)) * stride + column, left, call.packed, own);
      float const rest = Units::exp(thread, log_stick);
      MODULEFORMER_UNROLL
      for (int j = 0; j < 8; ++j) sum[j] += rest * own[j];
    }
    store(call.y + (tile.matrix_row() + row) * stride + column, left, call.packed, sum);
  }
};

/// Part 0 of every tile and head, or the other parts.
template <class S, class Units, int block_keys, bool newest>
struct StickBreakingNarrow {
  static constexpr int threads = narrow_threads, lanes = block_keys / run_keys, batch = 4;
  static_assert(lanes <= 32 && narrow_rows * lanes <= threads);

  NarrowCall<S> narrow;

  [[nodiscard]] static std::size_t shared_bytes(int head_size) {
    return (narrow_rows * static_cast<std::size_t>(head_size) + narrow_rows * pitch + threads * narrow_rows * 8) *
           sizeof(float);
  }

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    StickBreakingCall<S> const& call = narrow.call;
    AttentionShape const& shape = call.shape;
    int const in_tile = newest ? shape.heads : shape.heads * narrow.parts;
    Index const number = thread.block() / in_tile;
    if (newest && number >= call.tiles)
      return call.clear_rows(thread, (thread.block() - call.tiles * in_tile) * threads + thread.warp() * 32);
    QueryTile const tile = find_tile(thread, shape, number, narrow_rows);
    if (tile.rows == 0) return;
    int const head = static_cast<int>(thread.block() % shape.heads), d = shape.head_size;
    int const part = newest ? 0 : 1 + static_cast<int>(thread.block() % in_tile) / shape.heads;
    int const visible = tile.visible_end(tile.rows - 1);
    auto const [lowest, highest] = narrow.range(part, visible);
    if (!newest && (lowest >= highest || narrow.used_up(number, head, tile.rows))) return;

    float* const queries = thread.template shared<float>();
    float* const scores = queries + narrow_rows * d;
    float* const sums = scores + narrow_rows * pitch;
    Index const stride = shape.stride(), column = static_cast<Index>(head) * d;
    S const* const keys = call.k + tile.sequence.key_row * stride + column;
    S const* const values = call.v + tile.sequence.key_row * stride + column;
    for (int i = thread.index(); i < narrow_rows * d; i += threads) {
      int const row = i / d;
      queries[i] = row < tile.rows
                       ? call.scale * static_cast<float>(call.q[(tile.matrix_row() + row) * stride + column + i % d])
                       : 0.0f;
    }
    int const row = thread.index() / lanes, run = thread.index() % lanes * run_keys;
    int const end = row < tile.rows ? tile.visible_end(row) : 0;
    int const vectors = (d + 7) / 8, groups = threads / vectors, group = thread.index() / vectors,
              x = thread.index() % vectors * 8;
    float log_stick = 0, out[narrow_rows][8] = {};
    int oldest = highest;
    for (bool alive = true; alive && oldest > lowest;) {
      int const last = oldest, base = last - block_keys, first = base > lowest ? base : lowest;
      thread.sync();
      score(thread, queries, keys, first, last, base, scores);
      thread.sync();
      // Every lane of a warp scans, those beyond the rows nothing.
      float logits[run_keys];
      NothingKept nothing;
      MODULEFORMER_UNROLL
      for (int j = 0; j < run_keys; ++j) logits[j] = row < narrow_rows ? scores[row * pitch + padded(run + j)] : 0.0f;
      break_run<Units, lanes, Walk::to_older>(thread, logits, first - base - run, end - base - run, false, log_stick,
                                              nothing);
      if (row < narrow_rows)
        MODULEFORMER_UNROLL
        for (int j = 0; j < run_keys; ++j) scores[row * pitch + padded(run + j)] = logits[j];
      alive = thread.sync_or(row < tile.rows && !(log_stick < call.log_bound));  // NaN goes on
      if (group < groups) add_values(values, first + group, last, groups, base, x, scores, out);
      oldest = first;
    }

    thread.sync();
    if (group < groups)
      MODULEFORMER_UNROLL
      for (int r = 0; r < narrow_rows; ++r) store(sums + (group * narrow_rows + r) * vectors * 8 + x, 8, true, out[r]);
    if (row < tile.rows && run == 0) scores[row * pitch] = log_stick;
    thread.sync();
    bool done = newest && lowest == 0;
    if (newest && !done) {
      done = true;
      for (int r = 0; r < tile.rows; ++r) done = done && scores[r * pitch] < call.log_bound;
    }
    Index const place = narrow.place(number, head, part);
    for (int i = thread.index(); i < tile.rows * vectors; i += threads) {
      int const r = i / vectors, at = i % vectors * 8;
      float sum[8] = {}, more[8];
      for (int g = 0; g < groups; ++g) {
        load(sums + (g * narrow_rows + r) * vectors * 8 + at, 8, true, more);
        MODULEFORMER_UNROLL
        for (int j = 0; j < 8; ++j) sum[j] += more[j];
      }
      if (done) narrow.template write<Units>(thread, tile, r, head, at, sum, scores[r * pitch]);
      else store(narrow.outputs + (place * narrow_rows + r) * d + at, d - at, d % 4 == 0, sum);
    }
    if (thread.index() >= tile.rows) return;
    int const r = thread.index();
    narrow.log_sticks[place * narrow_rows + r] = scores[r * pitch];
    if (r == 0) narrow.oldest[place] = oldest;
    if (done) call.template leave<Units>(tile, r, head, scores[r * pitch], oldest);
  }

 private:
  // One float of padding for each run keeps lanes in different banks.
  static constexpr int pitch = block_keys + block_keys / run_keys;
  static MODULEFORMER_DEVICE int padded(int key) { return key + key / run_keys; }

  /// scores (row, key - base) = q . k for keys [first, last); lanes of a warp share a key's columns.
  template <class Thread>
  MODULEFORMER_DEVICE void score(Thread const& thread, float const* queries, S const* keys, int first, int last,
                                 int base, float* scores) const {
    int const d = narrow.call.shape.head_size, vectors = (d + 7) / 8;
    int sharing = 32;
    while (sharing / 2 >= vectors) sharing /= 2;
    int const at_once = threads / sharing, part = thread.lane() % sharing;
    Index const stride = narrow.call.shape.stride();
    for (int key = first + thread.index() / sharing; key - thread.index() / sharing < last; key += batch * at_once) {
      float dot[batch][narrow_rows] = {};
      for (int x = part * 8; x < d; x += sharing * 8) {
        float k[batch][8];
        MODULEFORMER_UNROLL
        for (int b = 0; b < batch; ++b)
          load(keys + (key + b * at_once) * stride + x, key + b * at_once < last ? d - x : 0, narrow.call.packed, k[b]);
        MODULEFORMER_UNROLL
        for (int r = 0; r < narrow_rows; ++r) {
          float q[8];
          load(queries + r * d + x, d - x, d % 4 == 0, q);
          MODULEFORMER_UNROLL
          for (int b = 0; b < batch; ++b)
            MODULEFORMER_UNROLL
            for (int j = 0; j < 8; ++j) dot[b][r] += q[j] * k[b][j];
        }
      }
      MODULEFORMER_UNROLL
      for (int b = 0; b < batch; ++b)
        MODULEFORMER_UNROLL
        for (int r = 0; r < narrow_rows; ++r)
          for (int step = 1; step < sharing; step *= 2) dot[b][r] += thread.shuffle_xor(dot[b][r], step);
      MODULEFORMER_UNROLL
      for (int b = 0; b < batch; ++b)
        if (part == 0 && key + b * at_once < last)
          MODULEFORMER_UNROLL
          for (int r = 0; r < narrow_rows; ++r) scores[r * pitch + padded(key + b * at_once - base)] = dot[b][r];
    }
  }

  /// out += weights . values of keys first, first + step, ... below last, for the thread's eight columns.
  MODULEFORMER_DEVICE void add_values(S const* values, int first, int last, int step, int base, int x,
                                      float const* weights, float (&out)[narrow_rows][8]) const {
    int const d = narrow.call.shape.head_size;
    Index const stride = narrow.call.shape.stride();
    for (int key = first; key < last; key += batch * step) {
      float v[batch][8];
      MODULEFORMER_UNROLL
      for (int b = 0; b < batch; ++b)
        load(values + (key + b * step) * stride + x, key + b * step < last ? d - x : 0, narrow.call.packed, v[b]);
      MODULEFORMER_UNROLL
      for (int b = 0; b < batch; ++b) {
        if (key + b * step >= last) break;
        MODULEFORMER_UNROLL
        for (int r = 0; r < narrow_rows; ++r) {
          float const w = weights[r * pitch + padded(key + b * step - base)];
          MODULEFORMER_UNROLL
          for (int j = 0; j < 8; ++j) out[r][j] += w * v[b][j];
        }
      }
    }
  }
};

/// Puts the parts of a tile and head together, unless part 0 was all.
template <class S, class Units>
struct StickBreakingNarrowJoin {
  static constexpr int threads = narrow_threads;

  NarrowCall<S> narrow;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    StickBreakingCall<S> const& call = narrow.call;
    int const head = static_cast<int>(thread.block() % call.shape.heads), d = call.shape.head_size,
              vectors = (d + 7) / 8;
    Index const number = thread.block() / call.shape.heads;
    QueryTile const tile = find_tile(thread, call.shape, number, narrow_rows);
    if (tile.rows == 0) return;
    int const visible = tile.visible_end(tile.rows - 1);
    if (narrow.range(0, visible).begin == 0 || narrow.used_up(number, head, tile.rows)) return;
    // The last part that counts, the same for all rows.
    float log_sticks[narrow_rows] = {};
    int parts = 0;
    for (bool alive = true; alive && parts <= narrow.parts; ++parts) {
      auto const [begin, end] = narrow.range(parts, visible);
      if (begin >= end) break;
      alive = false;
      MODULEFORMER_UNROLL
      for (int r = 0; r < narrow_rows; ++r) {
        if (r >= tile.rows) continue;
        log_sticks[r] += narrow.log_sticks[narrow.place(number, head, parts) * narrow_rows + r];
        alive = alive || !(log_sticks[r] < call.log_bound);
      }
    }
    for (int i = thread.index(); i < tile.rows * vectors; i += threads) {
      int const r = i / vectors, x = i % vectors * 8;
      float sum[8] = {}, log_stick = 0;
      for (int p = 0; p < parts; ++p) {
        Index const place = narrow.place(number, head, p) * narrow_rows + r;
        float const stick = Units::exp(thread, log_stick);
        float part[8];
        load(narrow.outputs + place * d + x, d - x, d % 4 == 0, part);
        MODULEFORMER_UNROLL
        for (int j = 0; j < 8; ++j) sum[j] += stick * part[j];
        log_stick += narrow.log_sticks[place];
      }
      narrow.template write<Units>(thread, tile, r, head, x, sum, log_stick);
      if (x == 0)
        call.template leave<Units>(tile, r, head, log_stick, narrow.oldest[narrow.place(number, head, parts - 1)]);
    }
  }
};

}  // namespace moduleformer::kernels
