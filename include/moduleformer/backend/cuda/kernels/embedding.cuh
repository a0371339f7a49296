// SPDX-License-Identifier: MIT
#pragma once
// Rows by number, a warp for each: copying and adding chosen rows, a cache's new rows, and an embedding's gradient,
// which adds the rows of equal ids in ascending order of their positions, sorted by id before.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <bit>
#include <cstdint>

namespace moduleformer::kernels {

/// to = from, both of `width` elements, by a warp.
template <class Thread, class T>
MODULEFORMER_DEVICE void copy_row(Thread const& thread, T const* from, T* to, Index width, bool packed) {
  constexpr int pack = pack_size<T>;
  if (packed) {
    using Whole = Pack<T, pack>;
    for (Index c = thread.lane() * pack; c < width; c += 32 * pack)
      *reinterpret_cast<Whole*>(to + c) = *reinterpret_cast<Whole const*>(from + c);
  } else {
    for (Index c = thread.lane(); c < width; c += 32) to[c] = from[c];
  }
}

/// out[i] = x[rows[i]].
template <class T>
struct GatherRows {
  static constexpr int threads = 128;
  static constexpr int warps = threads / 32;
  T const* x;
  std::int32_t const* rows;
  T* out;
  Index count;
  Index width;
  bool packed;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const i = thread.block() * warps + thread.warp();
    if (i < count) copy_row(thread, x + rows[i] * width, out + i * width, width, packed);
  }
};

/// out[rows[i]] += x[i], rows distinct.
template <class T>
struct ScatterRows {
  static constexpr int threads = 128;
  static constexpr int warps = threads / 32;
  static constexpr int pack = pack_size<T>;
  T const* x;
  std::int32_t const* rows;
  T* out;
  Index count;
  Index width;
  bool packed;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const i = thread.block() * warps + thread.warp();
    if (i >= count) return;
    T const* const from = x + i * width;
    T* const to = out + rows[i] * width;
    for (Index c = thread.lane() * pack; c < width; c += 32 * pack) {
      float a[pack], b[pack];
      load(from + c, width - c, packed, a);
      load(to + c, width - c, packed, b);
      MODULEFORMER_UNROLL
      for (int k = 0; k < pack; ++k) b[k] += a[k];
      store(thread, to + c, width - c, packed, b);
    }
  }
};

/// The new rows of each sequence to the end of its rows of a cache: `pieces` blocks for each sequence.
template <class T>
struct AppendRows {
  static constexpr int threads = 128;
  static constexpr int warps = threads / 32;
  Sequence const* sequences;
  T const* x;
  T* cache;
  Index pieces;
  Index width;
  bool packed;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Sequence const sequence = sequences[thread.block() / pieces];
    Index const begin = sequence.key_begin + sequence.key_count - sequence.query_count;
    for (Index i = thread.block() % pieces * warps + thread.warp(); i < sequence.query_count; i += pieces * warps)
      copy_row(thread, x + (sequence.query_begin + i) * width, cache + (begin + i) * width, width, packed);
  }
};

/// dtable[ids[t]] += dout[t], t ascending. order: positions t, stably sorted by their ids. A warp has the run of
/// equal ids that begins at one place of the order (or none begins there), and a piece of the columns.
template <class T>
struct AddRowsById {
  static constexpr int threads = 128;
  static constexpr int warps = threads / 32;
  static constexpr int pack = 4;
  static constexpr Index piece = 32 * pack;
  static constexpr int rows_at_once = 16;  // under way together: a frequent id's warps wait for nothing else
  std::int32_t const* ids;
  std::int32_t const* order;
  T const* dout;
  float* dtable;
  Index count;
  Index width;
  Index pieces;
  bool packed;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const begin = thread.block() / pieces * warps + thread.warp();
    if (begin >= count) return;
    std::int32_t const id = ids[order[begin]];
    if (begin > 0 && ids[order[begin - 1]] == id) return;
    Index const column = thread.block() % pieces * piece + thread.lane() * pack, left = width - column;
    float sum[pack] = {};
    load(dtable + id * width + column, left, packed, sum);
    for (Index first = begin;; first += 32) {
      Index const place = first + thread.lane();
      std::int32_t const position = place < count ? order[place] : 0;
      std::uint32_t const others = ~thread.ballot(place < count && ids[position] == id);
      int const run = std::popcount((others & -others) - 1u);  // lanes below the first other; 32 where there is none
      for (int i = 0; i < run; i += rows_at_once) {
        float rows[rows_at_once][pack];
        MODULEFORMER_UNROLL
        for (int k = 0; k < rows_at_once; ++k) {
          std::int32_t const t = thread.shuffle(position, (i + k) % 32);
          load(dout + t * width + column, i + k < run ? left : 0, packed, rows[k]);
        }
        MODULEFORMER_UNROLL
        for (int k = 0; k < rows_at_once; ++k) {
          if (i + k >= run) continue;
          MODULEFORMER_UNROLL
          for (int c = 0; c < pack; ++c) sum[c] += rows[k][c];
        }
      }
      if (run < 32) break;
    }
    store(thread, dtable + id * width + column, left, packed, sum);
  }
};

}  // namespace moduleformer::kernels
