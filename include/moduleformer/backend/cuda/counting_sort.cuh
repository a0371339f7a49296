// SPDX-License-Identifier: MIT
#pragma once
// Stable sorting of numbers by small keys: a counting sort by at most 8 bits in one pass of two kernels (one where
// a single block suffices), larger keys by several passes from the lowest digit up. Nothing waits for the device.

#include <moduleformer/backend/checks.hpp>
#include <moduleformer/backend/cuda/cuda.cuh>
#include <moduleformer/backend/cuda/kernels/counting_sort.cuh>
#include <moduleformer/backend/workspace.hpp>

#include <bit>
#include <cstdint>
#include <limits>

namespace moduleformer::detail {

/// Values of a block. Few blocks, since each reads the counts of all; one, where it is done sooner than two kernels.
constexpr Index sort_tile(Index size) {
  constexpr Index unit = kernels::DigitTiles::tile_unit, most_blocks = 128, one_block = 2 * unit;
  if (size <= one_block) return size <= unit ? unit : one_block;
  return round_up(ceil_divide(size, most_blocks), unit);
}

/// One pass: sorted (P) = the values (P; null: 0, 1, 2, ...), stably by the digit of keys[value]. offsets (null: not
/// wanted), of any size: where each digit's values begin, and P beyond the last digit.
template <CudaScalar S, class P>
void sort_by_digit(CudaBackend<S, P>& backend, Vector<std::int32_t const> keys, kernels::Digit digit,
                   Vector<std::int32_t const> values, Vector<std::int32_t> sorted, Vector<Index> offsets) {
  Index const size = sorted.extent(0), tile = sort_tile(size);
  Index const blocks = size == 0 ? 1 : ceil_divide(size, tile);
  Scope const scope{backend.workspace()};
  kernels::DigitTiles const tiles{keys.data(), values.data(), size, tile, digit};
  Vector<std::int32_t> counts{};
  if (blocks > 1) {
    counts = backend.workspace().template allocate<std::int32_t>(blocks * digit.count());
    backend.launch(kernels::CountDigits{tiles, counts.data()}, blocks,
                   static_cast<std::size_t>(kernels::CountDigits::shared_bytes(digit)));
  }
  backend.launch(kernels::PlaceByDigit{tiles, counts.data(), sorted.data(), offsets.data(), offsets.extent(0)}, blocks,
                 static_cast<std::size_t>(kernels::PlaceByDigit::shared_bytes(digit)));
}

/// order (P): 0, 1, 2, ... stably sorted by keys (P), each in [0, key_count). offsets (key_count + 1, or null): where
/// the values of each key begin. Keys are not checked; wrong ones write nothing outside, but sort as other keys.
template <CudaScalar S, class P>
void sort_by_key(CudaBackend<S, P>& backend, Vector<std::int32_t const> keys, Index key_count,
                 Vector<std::int32_t> order, Vector<Index> offsets) {
  Index const size = keys.extent(0);
  int const bits = key_count <= 1 ? 0 : static_cast<int>(std::bit_width(static_cast<std::uint64_t>(key_count - 1)));
  int const passes = bits <= 8 ? 1 : (bits + 7) / 8;
  if (passes == 1) return sort_by_digit(backend, keys, kernels::Digit{0, bits}, {}, order, offsets);
  Scope const scope{backend.workspace()};
  Vector<std::int32_t> const other = backend.workspace().template allocate<std::int32_t>(size);
  Vector<std::int32_t const> values{};
  for (int pass = 0, shift = 0; pass < passes; ++pass) {
    int const width = (bits - shift + passes - pass - 1) / (passes - pass);
    Vector<std::int32_t> const sorted = (passes - pass) % 2 == 1 ? order : other;  // the last one writes order
    sort_by_digit(backend, keys, kernels::Digit{shift, width}, values, sorted, {});
    values = sorted;
    shift += width;
  }
  if (offsets) {
    kernels::KeyOffsets const find{keys.data(), order.data(), size, offsets.data(), offsets.extent(0)};
    backend.launch(find, ceil_divide(offsets.extent(0), kernels::KeyOffsets::threads));
  }
}

}  // namespace moduleformer::detail
