// SPDX-License-Identifier: MIT
#pragma once
// Pools of experts for documents on the CPU: routing/document_pool.hpp.

#include <moduleformer/backend/cpu/cpu.hpp>
#include <moduleformer/backend/pools.hpp>
#include <moduleformer/backend/primitive_checks.hpp>
#include <moduleformer/core/random.hpp>

#include <cstdint>
#include <limits>

namespace moduleformer {

/// logits (N,E) = -infinity for experts outside their document's pool. A document is a sequence's queries; its pool are the P
/// experts of the largest summed probabilities (N,E), ties to the lowest, P drawn evenly from smallest ... largest by
/// the first word of the document's number.
template <Real S>
void restrict_to_pools(Cpu<S>& backend, Vector<Sequence const> documents, Index smallest, Index largest, RandomSource random,
                       Arg<Matrix<S const>> probabilities, Arg<Matrix<S>> logits) {
  Index const experts = logits.extent(1);
  detail::check_pools(smallest, largest, probabilities, logits);
  bool const draws = largest > smallest;
  RandomKey const key = draws ? random.key() : RandomKey{};
  Scope const scope{backend.workspace()};
  auto const sums = backend.workspace().template allocate<double>(documents.size(), experts);
#pragma omp parallel for num_threads(backend.threads()) if (documents.size() > 1)
  for (Index d = 0; d < documents.size(); ++d) {
    auto const sum = sums.slice(d);
    Index const begin = documents[d].query_begin, end = begin + documents[d].query_count;
    for (Index e = 0; e < experts; ++e) sum[e] = 0;
    for (Index t = begin; t < end; ++t)
      for (Index e = 0; e < experts; ++e) sum[e] += static_cast<double>(probabilities(t, e));
    Index const pool = detail::pool_size(smallest, largest, draws ? random_words(key, static_cast<std::uint64_t>(d))[0] : 0);
    for (Index e = 0; e < experts; ++e) {
      if (detail::rank_in(sum.data(), experts, e) < pool) continue;
      for (Index t = begin; t < end; ++t) logits(t, e) = -std::numeric_limits<S>::infinity();
    }
  }
}

}  // namespace moduleformer
