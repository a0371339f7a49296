// SPDX-License-Identifier: MIT
#pragma once
// What both backends say of a document's pool of experts: how large it is, and which experts are in it.

#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/types.hpp>

#include <cstdint>

namespace moduleformer::detail {

/// One of smallest ... largest, by a random word.
MODULEFORMER_HOST_DEVICE inline Index pool_size(Index smallest, Index largest, std::uint32_t word) {
  return smallest + static_cast<Index>(static_cast<std::uint64_t>(word) * static_cast<std::uint64_t>(largest - smallest + 1) >> 32);
}

/// How many experts come before e: those with a larger sum, or an equal one and a lower number.
MODULEFORMER_HOST_DEVICE inline Index rank_in(double const* sums, Index experts, Index e) {
  Index rank = 0;
  for (Index other = 0; other < experts; ++other)
    rank += sums[other] > sums[e] || (sums[other] == sums[e] && other < e) ? 1 : 0;
  return rank;
}

}  // namespace moduleformer::detail
