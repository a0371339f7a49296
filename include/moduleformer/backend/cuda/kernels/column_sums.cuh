// SPDX-License-Identifier: MIT
#pragma once
// Sums of columns in two kernels: each block adds up some rows of some columns; then the parts are added in an order
// that depends on their count only. The second one also adds the parts of other cut sums.

#include <moduleformer/backend/cuda/kernels/packs.cuh>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cstddef>
#include <cstdint>

namespace moduleformer::kernels {

/// parts[r][c] = sum of x[i][c] over the r-th `rows_per_block` rows. Warps take rows in turn, eight of them under way;
/// a lane has a pack of neighbouring columns, or of every 32nd where packs are not aligned.
template <class S>
struct ColumnSums {
  static constexpr int threads = 256, warps = threads / 32, pack = pack_size<S>, width = 32 * pack;
  static constexpr int blocks_at_once = 3;
  static constexpr int rows_at_once = 8, rows_per_block = 2 * rows_at_once * warps;
  static constexpr std::size_t shared_bytes = sizeof(float) * warps * width;
  S const* x;  // its first column
  Index stride;
  Index rows;
  Index columns;
  float* parts;  // (row blocks, columns)
  bool packed;   // rows begin at packs

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const across = (columns + width - 1) / width, part = thread.block() / across;
    Index const first = thread.block() % across * width;
    Index const begin = part * rows_per_block, end = begin + rows_per_block < rows ? begin + rows_per_block : rows;
    float sum[pack] = {};
    for (Index row = begin + thread.warp(); row < end; row += rows_at_once * warps) {
      Words<S, pack> some[rows_at_once];
      MODULEFORMER_UNROLL
      for (int k = 0; k < rows_at_once; ++k) some[k] = read(row + k * warps, end, first, thread.lane());
      MODULEFORMER_UNROLL
      for (int k = 0; k < rows_at_once; ++k) {
        float values[pack];
        unpack(some[k], values);
        MODULEFORMER_UNROLL
        for (int i = 0; i < pack; ++i) sum[i] += values[i];
      }
    }
    float* const sums = thread.template shared<float>();
    MODULEFORMER_UNROLL
    for (int i = 0; i < pack; ++i) sums[(thread.warp() * pack + i) * 32 + thread.lane()] = sum[i];
    thread.sync();
    int const place = thread.index(), lane = place % 32, item = place / 32;
    Index const column = first + (packed ? lane * pack + item : place);
    if (place >= width || column >= columns) return;
    float total = 0;
    MODULEFORMER_UNROLL
    for (int w = 0; w < warps; ++w) total += sums[w * width + place];
    parts[part * columns + column] = total;
  }

 private:
  /// Zeros where there is no row or column.
  [[nodiscard]] MODULEFORMER_DEVICE Words<S, pack> read(Index row, Index end, Index first, int lane) const {
    Index const left = row < end ? columns - first : 0;
    S const* const from = x + row * stride + first;
    if (packed) return load_words<pack>(from + lane * pack, left - lane * pack, true);
    Pack<S, pack> values;
    MODULEFORMER_UNROLL
    for (int i = 0; i < pack; ++i) values.values[i] = i * 32 + lane < left ? from[i * 32 + lane] : S(0.0f);
    return __builtin_bit_cast(Words<S, pack>, values);
  }
};

/// out[order[i]] (order null: out[i]) = or += sum of parts[r][i] over r, in double; some of them under way together.
struct AddParts {
  static constexpr int threads = 256;
  static constexpr int at_once = 8;
  float const* parts;  // (count, size)
  Index count;
  Index size;
  std::int32_t const* order;
  float* out;
  bool add;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    for (Index i = thread.block() * threads + thread.index(); i < size; i += thread.blocks() * threads) {
      float& to = out[order == nullptr ? i : static_cast<Index>(order[i])];
      double sum = 0;
      for (Index r = 0; r < count; r += at_once) {
        float some[at_once];
        MODULEFORMER_UNROLL
        for (int k = 0; k < at_once; ++k) some[k] = r + k < count ? parts[(r + k) * size + i] : 0.0f;
        MODULEFORMER_UNROLL
        for (int k = 0; k < at_once; ++k) sum += static_cast<double>(some[k]);
      }
      to = static_cast<float>(add ? static_cast<double>(to) + sum : sum);
    }
  }
};

/// Sums of many parts of few elements: blocks have 32 neighbouring elements, a warp adds every 16th part of them.
struct PartSums {
  static constexpr int threads = 512;
  static constexpr int warps = threads / 32;
  static constexpr int at_once = 8;
  static constexpr std::size_t shared_bytes = threads * sizeof(double);

  /// The lane's element of the parts (`stride` elements apart), in the first warp; for whole blocks.
  template <class Thread>
  static MODULEFORMER_DEVICE double of(Thread const& thread, float const* element, Index count, Index stride) {
    auto* const of_warps = thread.template shared<double>();
    double sum = 0;
    for (Index first = thread.warp(); first < count; first += at_once * warps) {
      float some[at_once];
      MODULEFORMER_UNROLL
      for (int k = 0; k < at_once; ++k) {
        Index const part = first + k * warps;
        some[k] = part < count ? element[part * stride] : 0.0f;
      }
      MODULEFORMER_UNROLL
      for (int k = 0; k < at_once; ++k) sum += static_cast<double>(some[k]);
    }
    of_warps[thread.index()] = sum;
    thread.sync();
    if (thread.warp() == 0)
      for (int w = 1; w < warps; ++w) sum += of_warps[w * 32 + thread.lane()];
    return sum;
  }
};

/// out[i] += sum of parts[r][i] over r, in double; many parts of few elements.
struct AddManyParts : PartSums {
  float const* parts;  // (count, size)
  Index count;
  Index size;
  float* out;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const i = thread.block() * 32 + thread.lane();
    double const sum = of(thread, parts + i, i < size ? count : 0, size);
    if (thread.warp() == 0 && i < size) out[i] = static_cast<float>(static_cast<double>(out[i]) + sum);
  }
};

}  // namespace moduleformer::kernels
