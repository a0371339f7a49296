// SPDX-License-Identifier: MIT
#pragma once
// Routing plans for tests of ragged experts on every backend: balanced, with empty experts, all tokens on one expert.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/core/random.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

namespace moduleformer::test {

enum class Load { balanced, some_empty, one_expert };

/// A plan and its arrays.
struct Routes {
  std::vector<ExpertId> expert;
  std::vector<std::int32_t> order;
  std::vector<Index> offsets;
  RoutingPlan plan;

  Routes(Index tokens, Index top_k, Index experts, Load load)
      : expert(static_cast<std::size_t>(tokens * top_k)),
        order(expert.size()),
        offsets(static_cast<std::size_t>(experts + 1)) {
    for (std::size_t p = 0; p < expert.size(); ++p) {
      Index const token = static_cast<Index>(p) / top_k, slot = static_cast<Index>(p) % top_k;
      Index const draw = static_cast<Index>(random_words({7}, static_cast<std::uint64_t>(token))[0] % 1000);
      Index chosen = (draw + slot) % experts;
      if (load == Load::some_empty) chosen = (draw + slot) % ((experts + 1) / 2) * 2;
      if (load == Load::one_expert) chosen = experts - 1;
      expert[p] = static_cast<ExpertId>(chosen < experts ? chosen : 0);
    }
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) {
      return expert[static_cast<std::size_t>(a)] < expert[static_cast<std::size_t>(b)];
    });
    for (ExpertId const e : expert) ++offsets[static_cast<std::size_t>(e) + 1];
    for (std::size_t e = 1; e < offsets.size(); ++e) offsets[e] += offsets[e - 1];
    plan = {tokens, top_k, experts, {expert.data(), {tokens * top_k}}, {order.data(), {tokens * top_k}},
            {offsets.data(), {experts + 1}}};
  }

  /// The row that a matrix with this map has for sorted slot p.
  [[nodiscard]] Index row(Rows rows, Index p) const {
    Index const slot = order[static_cast<std::size_t>(p)];
    return rows == Rows::sorted ? p : rows == Rows::slot ? slot : slot / plan.top_k;
  }
  [[nodiscard]] Index rows(Rows map) const { return map == Rows::token ? plan.tokens : plan.slots(); }
  [[nodiscard]] Index slot(Index p) const { return order[static_cast<std::size_t>(p)]; }
  [[nodiscard]] Index expert_of(Index p) const { return expert[static_cast<std::size_t>(slot(p))]; }
};

struct ExpertCase {
  Index tokens, top_k, experts, k, n;
  Load load;
};
/// One token; primes; one expert for all, several tiles; experts without a token; all experts for each token.
inline constexpr ExpertCase expert_cases[] = {
    {1, 1, 1, 1, 1, Load::balanced},      {1, 2, 16, 64, 130, Load::balanced}, {7, 2, 5, 19, 23, Load::some_empty},
    {131, 3, 3, 33, 17, Load::balanced},  {150, 2, 4, 40, 65, Load::one_expert}, {600, 1, 2, 16, 24, Load::balanced},
    {65, 4, 11, 31, 529, Load::some_empty}};

}  // namespace moduleformer::test
