// SPDX-License-Identifier: MIT
#pragma once
// Expert choice as a plain sort, for comparison with a backend's.

#include "support.hpp"

#include <moduleformer/backend/arguments.hpp>

#include <algorithm>
#include <numeric>
#include <vector>

namespace moduleformer::test {

struct ExpertChoiceCase {
  Index tokens, experts, capacity, slots;
};
inline constexpr ExpertChoiceCase expert_choice_cases[] = {{1, 1, 1, 1}, {1, 5, 0, 3},  {7, 3, 7, 3},    {64, 4, 16, 4},
                                                           {65, 9, 5, 2}, {257, 6, 86, 6}, {600, 40, 31, 40}, {1000, 3, 999, 1}};

/// Scores in eighths, so that many tie.
inline std::vector<float> tied_scores(Index size, std::uint64_t seed) {
  std::vector<float> scores(static_cast<std::size_t>(size));
  fill_normal(scores, seed, 1.0);
  for (float& s : scores) s = std::round(s * 8) / 8;
  return scores;
}

/// ids (N,M).
inline std::vector<ExpertId> choose_by_sorting(ExpertChoiceCase c, std::vector<float> const& scores) {
  auto const score = [&](Index t, Index e) { return scores[static_cast<std::size_t>(t * c.experts + e)]; };
  std::vector<std::vector<Index>> of_token(static_cast<std::size_t>(c.tokens));
  for (Index e = 0; e < c.experts; ++e) {
    std::vector<Index> tokens(static_cast<std::size_t>(c.tokens));
    std::iota(tokens.begin(), tokens.end(), 0);
    std::stable_sort(tokens.begin(), tokens.end(), [&](Index a, Index b) { return score(a, e) > score(b, e); });
    for (Index i = 0; i < c.capacity; ++i) of_token[static_cast<std::size_t>(tokens[static_cast<std::size_t>(i)])].push_back(e);
  }
  std::vector<ExpertId> ids;
  for (Index t = 0; t < c.tokens; ++t) {
    auto& experts = of_token[static_cast<std::size_t>(t)];
    std::stable_sort(experts.begin(), experts.end(), [&](Index a, Index b) { return score(t, a) > score(t, b); });
    for (Index s = 0; s < c.slots; ++s)
      ids.push_back(s < static_cast<Index>(experts.size()) ? static_cast<ExpertId>(experts[static_cast<std::size_t>(s)]) : -1);
  }
  return ids;
}

}  // namespace moduleformer::test
