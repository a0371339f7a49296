// SPDX-License-Identifier: MIT
#pragma once
// One pass of a stable counting sort, by a digit of each key. A block has a tile of consecutive values and a warp
// a segment of it. CountDigits: how often each digit comes in each tile. PlaceByDigit: a value's place is
//   slots of smaller digits + slots of its digit in earlier tiles, in earlier segments, and earlier in its own.
// Equal digits within a warp find each other by match_any. Every block sums the (few) counts of all tiles by
// itself, which costs less than another kernel. Counts are integers: their order of addition does not matter.

#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <bit>
#include <cstdint>

namespace moduleformer::kernels {

/// The bits [shift, shift + bits) of a key, taken as unsigned; at most 8 of them.
struct Digit {
  int shift = 0;
  int bits = 0;
  [[nodiscard]] constexpr int count() const { return 1 << bits; }
  [[nodiscard]] constexpr std::uint32_t of(std::int32_t key) const {
    return (static_cast<std::uint32_t>(key) >> shift) & ((1u << bits) - 1u);
  }
};

/// What one pass reads: values in their order so far, and the key of each value.
struct DigitTiles {
  static constexpr int warps = 8;
  static constexpr int keys_at_once = 4;  // of a lane: loads under way at the same time
  static constexpr Index tile_unit = Index{32} * keys_at_once * warps;

  std::int32_t const* keys = nullptr;    // by value
  std::int32_t const* values = nullptr;  // null: 0, 1, 2, ...
  Index size = 0;
  Index tile = tile_unit;  // values of a block, a multiple of tile_unit
  Digit digit{};

  /// visit(value, digit, lanes with this digit) for each value of this warp's segment, 32 at a time, in order.
  /// Lanes beyond the last value come with no lanes.
  template <class Thread, class Visit>
  MODULEFORMER_DEVICE void for_each(Thread const& thread, Visit visit) const {
    constexpr std::uint32_t no_digit = ~std::uint32_t{0};
    Index const segment = tile / warps;
    Index const begin = thread.block() * tile + thread.warp() * segment;
    Index const end = begin + segment < size ? begin + segment : size;
    for (Index first = begin; first < end; first += 32 * keys_at_once) {
      std::int32_t value[keys_at_once];
      std::uint32_t found[keys_at_once];
      MODULEFORMER_UNROLL
      for (int i = 0; i < keys_at_once; ++i) {
        Index const p = first + 32 * i + thread.lane();
        value[i] = values == nullptr || p >= end ? static_cast<std::int32_t>(p) : values[p];
      }
      MODULEFORMER_UNROLL
      for (int i = 0; i < keys_at_once; ++i)
        found[i] = first + 32 * i + thread.lane() < end ? digit.of(keys[value[i]]) : no_digit;
      MODULEFORMER_UNROLL
      for (int i = 0; i < keys_at_once; ++i) {
        std::uint32_t const same = thread.match_any(found[i]);
        visit(value[i], found[i], found[i] == no_digit ? 0u : same);
      }
    }
  }

  /// counts[warp][digit] of the block's segments, zeros before.
  template <class Thread>
  MODULEFORMER_DEVICE void count(Thread const& thread, std::int32_t* counts) const {
    std::int32_t* const own = counts + thread.warp() * digit.count();
    for_each(thread, [&](std::int32_t, std::uint32_t d, std::uint32_t same) {
      // No std::countr_zero here: nvcc makes it 32 on a device, whatever its argument.
      bool const is_first = (same & ((1u << thread.lane()) - 1u)) == 0;
      if (same != 0 && is_first) own[d] += std::popcount(same);
      thread.sync_warp();
    });
  }
};

/// counts (tiles, digits).
struct CountDigits {
  static constexpr int threads = 32 * DigitTiles::warps;
  DigitTiles tiles;
  std::int32_t* counts;

  static constexpr Index shared_bytes(Digit digit) { return Index{4} * DigitTiles::warps * digit.count(); }

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    int const digits = tiles.digit.count();
    auto* const of_warps = thread.template shared<std::int32_t>();
    for (int i = thread.index(); i < DigitTiles::warps * digits; i += threads) of_warps[i] = 0;
    thread.sync();
    tiles.count(thread, of_warps);
    thread.sync();
    if (thread.index() >= digits) return;
    std::int32_t sum = 0;
    for (int w = 0; w < DigitTiles::warps; ++w) sum += of_warps[w * digits + thread.index()];
    counts[thread.block() * digits + thread.index()] = sum;
  }
};

/// sorted: the values, stably by digit. With one tile, counts may be null.
struct PlaceByDigit {
  static constexpr int threads = 32 * DigitTiles::warps;
  DigitTiles tiles;
  std::int32_t const* counts;
  std::int32_t* sorted;
  Index* offsets;  // (keys + 1), where each digit begins; or null
  Index offset_count;

  static constexpr Index shared_bytes(Digit digit) { return Index{4} * (DigitTiles::warps + 2) * digit.count(); }

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    int const digits = tiles.digit.count();
    auto* const of_warps = thread.template shared<std::int32_t>();        // (warps, digits): counts, then places
    std::int32_t* const earlier = of_warps + DigitTiles::warps * digits;  // in earlier tiles
    std::int32_t* const begin = earlier + digits;                         // in all tiles, then where digits begin
    for (int i = thread.index(); i < (DigitTiles::warps + 2) * digits; i += threads) of_warps[i] = 0;
    thread.sync();
    tiles.count(thread, of_warps);
    thread.sync();
    add_tiles(thread, of_warps, earlier, begin);
    thread.sync();
    if (thread.warp() == 0) to_begins(thread, begin, digits);
    thread.sync();
    if (thread.block() == 0 && offsets != nullptr)
      for (Index d = thread.index(); d < offset_count; d += threads) offsets[d] = d < digits ? begin[d] : tiles.size;
    if (thread.index() < digits) {
      int const d = thread.index();
      std::int32_t place = begin[d] + earlier[d];
      for (int w = 0; w < DigitTiles::warps; ++w) {
        std::int32_t const count = of_warps[w * digits + d];
        of_warps[w * digits + d] = place;
        place += count;
      }
    }
    thread.sync();
    std::int32_t* const own = of_warps + thread.warp() * digits;
    std::uint32_t const lower_lanes = (1u << thread.lane()) - 1u;
    tiles.for_each(thread, [&](std::int32_t value, std::uint32_t d, std::uint32_t same) {
      int const rank = std::popcount(same & lower_lanes);
      if (same != 0) sorted[own[d] + rank] = value;
      thread.sync_warp();
      if (same != 0 && rank == 0) own[d] += std::popcount(same);
      thread.sync_warp();
    });
  }

 private:
  /// Counts of earlier tiles and of all: a digit's are added by threads / digits threads.
  template <class Thread>
  MODULEFORMER_DEVICE void add_tiles(Thread const& thread, std::int32_t const* of_warps, std::int32_t* earlier,
                                     std::int32_t* all) const {
    int const digits = tiles.digit.count(), groups = threads / digits;
    int const d = thread.index() % digits, group = thread.index() / digits;
    bool const alone = thread.blocks() == 1;
    std::int32_t const* const from = alone ? of_warps : counts;
    Index const rows = alone ? DigitTiles::warps : thread.blocks();
    std::int32_t before = 0, sum = 0;
    for (Index row = group; row < rows; row += groups) {
      std::int32_t const count = from[row * digits + d];
      sum += count;
      if (row < thread.block()) before += count;
    }
    (void)thread.atomic_add(earlier + d, before);
    (void)thread.atomic_add(all + d, sum);
  }

  /// Exclusive prefix sums by one warp, a lane having consecutive digits.
  template <class Thread>
  MODULEFORMER_DEVICE static void to_begins(Thread const& thread, std::int32_t* counts, int digits) {
    int const of_lane = (digits + 31) / 32, first = thread.lane() * of_lane;
    int const last = first + of_lane < digits ? first + of_lane : digits;
    std::int32_t sum = 0;
    for (int d = first; d < last; ++d) sum += counts[d];
    std::int32_t up_to_lane = sum;
    for (int step = 1; step < 32; step *= 2) {
      std::int32_t const other = thread.shuffle_up(up_to_lane, step);
      if (thread.lane() >= step) up_to_lane += other;
    }
    std::int32_t place = up_to_lane - sum;
    for (int d = first; d < last; ++d) {
      std::int32_t const count = counts[d];
      counts[d] = place;
      place += count;
    }
  }
};

/// offsets[k] = how many of the values, sorted by key (taken as unsigned), have a key below k.
struct KeyOffsets {
  static constexpr int threads = 256;
  std::int32_t const* keys;
  std::int32_t const* sorted;
  Index size;
  Index* offsets;
  Index offset_count;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const key = thread.block() * threads + thread.index();
    if (key >= offset_count) return;
    Index low = 0, high = size;
    while (low < high) {
      Index const middle = low + (high - low) / 2;
      if (static_cast<std::uint32_t>(keys[sorted[middle]]) < static_cast<std::uint32_t>(key)) low = middle + 1;
      else high = middle;
    }
    offsets[key] = low;
  }
};

}  // namespace moduleformer::kernels
