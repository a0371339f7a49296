// SPDX-License-Identifier: MIT
#pragma once
// Rows by number, a warp for each: copying and adding chosen rows, a cache's new rows, and an embedding's gradient,
// which adds the rows of equal ids in an order that the ids decide, their positions being sorted by id before.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/backend/cuda/kernels/warp.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

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

/// What both kernels of an embedding's gradient take. order: positions t, stably sorted by their ids, in chunks of 32.
/// The rows of an id whose run lies in one chunk are added to the table in order; of longer runs, however frequent the
/// id is, each chunk's are added up first, and the sums of chunks are added in order.
struct RowsById {
  static constexpr int threads = 128;
  static constexpr int warps = threads / 32;
  static constexpr int pack = 4;
  static constexpr Index piece = 32 * pack;  // columns of a warp
  static constexpr int at_once = 8;          // rows under way together
  std::int32_t const* ids;
  std::int32_t const* order;
  float* dtable;
  float* parts;  // (chunks, 2, width): of a run that began before, and of one that goes on
  Index count;
  Index width;
  bool packed;

  [[nodiscard]] MODULEFORMER_HOST_DEVICE Index chunks() const { return (count + 31) / 32; }
  [[nodiscard]] MODULEFORMER_HOST_DEVICE Index pieces() const { return (width + piece - 1) / piece; }
  [[nodiscard]] Index blocks() const { return (chunks() * pieces() + warps - 1) / warps; }

  /// Of a place of the order; -1 beyond it.
  [[nodiscard]] MODULEFORMER_DEVICE std::int32_t id_at(Index place) const {
    return place >= 0 && place < count ? ids[order[place]] : -1;
  }
};

/// dtable[ids[t]] += dout[t] of runs within a chunk; the parts of others. A warp has a chunk and a piece of columns.
template <class T>
struct AddRowsById : RowsById {
  T const* dout;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const warp = thread.block() * warps + thread.warp(), chunk = warp / pieces(), begin = chunk * 32;
    if (chunk >= chunks()) return;
    int const lane = thread.lane(), rows = count - begin < 32 ? static_cast<int>(count - begin) : 32;
    std::int32_t const position = lane < rows ? order[begin + lane] : 0, id = lane < rows ? ids[position] : -1;
    std::int32_t const outside = lane == 0 ? id_at(begin - 1) : lane == 31 ? id_at(begin + 32) : -1;
    std::int32_t const older = thread.shuffle_up(id, 1), newer = thread.shuffle_down(id, 1);
    std::uint32_t const starts = thread.ballot(id != (lane == 0 ? outside : older));
    std::uint32_t const ends = thread.ballot(id != (lane == 31 ? outside : newer));

    Index const column = warp % pieces() * piece + lane * pack, left = width - column;
    float sum[pack] = {};
    for (int first = 0; first < rows; first += at_once) {
      Words<T, pack> row[at_once];
      Words<float, pack> old[at_once];
      MODULEFORMER_UNROLL
      for (int k = 0; k < at_once; ++k) {
        int const i = first + k;
        Index const t = thread.shuffle(position, i), e = thread.shuffle(id, i);
        bool const adds = i < rows && (starts >> i & 1) != 0 && ends >> i != 0;
        row[k] = load_words<pack>(dout + t * width + column, i < rows ? left : 0, packed);
        old[k] = load_words<pack>(dtable + (adds ? e * width + column : 0), adds ? left : 0, packed);
      }
      MODULEFORMER_UNROLL
      for (int k = 0; k < at_once; ++k) {
        int const i = first + k;
        Index const e = thread.shuffle(id, i);
        if (i >= rows) continue;
        float values[pack];
        if ((starts >> i & 1) != 0) unpack(old[k], sum);
        unpack(row[k], values);
        MODULEFORMER_UNROLL
        for (int c = 0; c < pack; ++c) sum[c] += values[c];
        bool const is_end = (ends >> i & 1) != 0, began_before = (starts & ((2u << i) - 1)) == 0;
        if (!is_end && i < 31) continue;
        float* const to = is_end && !began_before ? dtable + e * width : parts + (2 * chunk + !began_before) * width;
        store(thread, to + column, left, packed, sum);
      }
    }
  }
};

/// dtable += the parts of runs that several chunks have: a warp has a run that begins in its chunk, if there is one.
struct JoinRowsById : RowsById {
  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const warp = thread.block() * warps + thread.warp(), chunk = warp / pieces(), begin = chunk * 32;
    if (begin + 32 >= count) return;
    std::int32_t const id = id_at(begin + 31);
    if (id_at(begin + 32) != id || (id_at(begin) == id && id_at(begin - 1) == id)) return;
    Index const column = warp % pieces() * piece + thread.lane() * pack, left = width - column;
    float sum[pack], values[pack];
    float* const to = dtable + id * width + column;
    load(to, left, packed, sum);
    load(parts + (2 * chunk + 1) * width + column, left, packed, values);
    MODULEFORMER_UNROLL
    for (int c = 0; c < pack; ++c) sum[c] += values[c];
    for (Index next = chunk + 1;; next += 32) {
      std::uint32_t const others = ~thread.ballot(id_at((next + thread.lane()) * 32) == id);
      int const more = lowest_lane(others);
      for (int i = 0; i < more; i += at_once) {
        Words<float, pack> some[at_once];
        MODULEFORMER_UNROLL
        for (int k = 0; k < at_once; ++k)
          some[k] = load_words<pack>(parts + 2 * (next + i + k) * width + column, i + k < more ? left : 0, packed);
        MODULEFORMER_UNROLL
        for (int k = 0; k < at_once; ++k) {
          if (i + k >= more) continue;
          unpack(some[k], values);
          MODULEFORMER_UNROLL
          for (int c = 0; c < pack; ++c) sum[c] += values[c];
        }
      }
      if (more < 32) break;
    }
    store(thread, to, left, packed, sum);
  }
};

}  // namespace moduleformer::kernels
