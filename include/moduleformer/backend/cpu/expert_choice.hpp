// SPDX-License-Identifier: MIT
#pragma once
// Expert choice on the CPU (arXiv 2202.09368): every expert takes the tokens with its largest scores; then each token
// lists the experts that took it.

#include <moduleformer/backend/cpu/cpu.hpp>
#include <moduleformer/backend/cpu/top_k.hpp>
#include <moduleformer/backend/primitive_checks.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace moduleformer {

/// ids (N,M): of the experts that have the token among the `capacity` tokens of largest score (N,E) (ties: the lowest
/// token; NaN counts as the smallest), the M of largest score, descending, ties to the lowest expert; then -1.
template <Real S>
void expert_choice(Cpu<S>& backend, Arg<Matrix<S const>> scores, Index capacity, Matrix<ExpertId> ids) {
  Index const tokens = scores.extent(0), experts = scores.extent(1), slots = ids.extent(1);
  detail::check_expert_choice(scores, capacity, ids);
  Scope const scope{backend.workspace()};
  auto const taken = backend.workspace().template allocate<std::uint8_t>(tokens, experts);
  auto const ranked = backend.workspace().template allocate<std::int32_t>(experts, tokens);
#pragma omp parallel for num_threads(backend.threads()) if (tokens > 64)
  for (Index e = 0; e < experts; ++e) {
    auto const row = ranked.slice(e);
    for (Index t = 0; t < tokens; ++t) row[t] = static_cast<std::int32_t>(t), taken(t, e) = 0;
    auto const before = [&](std::int32_t a, std::int32_t b) {
      S const left = detail::score_or_lowest(scores(a, e)), right = detail::score_or_lowest(scores(b, e));
      return left > right || (left == right && a < b);
    };
    std::nth_element(row.begin(), row.begin() + capacity, row.end(), before);
    for (Index i = 0; i < capacity; ++i) taken(row[i], e) = 1;
  }
#pragma omp parallel for num_threads(backend.threads()) if (tokens > 64)
  for (Index t = 0; t < tokens; ++t) {
    ExpertId* const row = ids.slice(t).data();
    std::fill(row, row + slots, ExpertId{-1});
    detail::keep_largest(
        experts, slots, [&](Index e) { return detail::score_or_lowest(scores(t, e)); }, [&](Index e) { return taken(t, e) == 0; },
        row);
  }
}

}  // namespace moduleformer
