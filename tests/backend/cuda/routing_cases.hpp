// SPDX-License-Identifier: MIT
#pragma once
// Sizes and logits that the suites of routing primitives share.

#include "../support.hpp"

#include <moduleformer/core/types.hpp>

#include <cmath>
#include <limits>
#include <vector>

namespace moduleformer::test {

/// Experts on both sides of every chunk width; a row of 300 does not stay in registers.
constexpr Index expert_counts[] = {1, 2, 5, 31, 32, 33, 64, 100, 128, 255, 256, 257, 300, 700};

/// Numbers of choices worth trying, all experts among them; fewer of the large ones.
inline std::vector<Index> choices(Index experts) {
  std::vector<Index> result;
  for (Index const k : {1, 2, 3, 4, 8})
    if (k < experts) result.push_back(k);
  result.push_back(experts);
  return result;
}

/// Logits in eighths, so that some tie, and in every third row numbers that compare in special ways.
inline std::vector<float> special_logits(Index tokens, Index experts, std::uint64_t seed) {
  std::vector<float> logits(static_cast<std::size_t>(tokens * experts));
  fill_normal(logits, seed, 1.0);
  for (float& value : logits) value = std::round(value * 8) / 8;
  constexpr float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  constexpr float specials[] = {nan, -infinity, 0.0f, -0.0f, infinity, -nan, 1e-40f, -1e-40f, 3e38f, -3e38f};
  for (std::size_t i = 0; i < logits.size(); ++i) {
    auto const words = random_words({seed + 1}, i);
    if (i / static_cast<std::size_t>(experts) % 3 == 2 && words[0] % 2 == 0) logits[i] = specials[words[1] % 10];
  }
  return logits;
}

}  // namespace moduleformer::test
