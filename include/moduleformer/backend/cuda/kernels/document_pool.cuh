// SPDX-License-Identifier: MIT
#pragma once
// Pools of experts for documents, a block a document: groups of threads sum the probabilities of every so-manieth token, the
// groups are added in order, then what ranks below the pool's size is excluded.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/pools.hpp>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/random.hpp>

#include <cstdint>

namespace moduleformer::kernels {

struct RestrictToPools {
  static constexpr int threads = 256;
  Sequence const* documents;
  float const* probabilities;
  float* logits;
  Index experts;
  Index smallest;
  Index largest;
  RandomSource random;

  /// Doubles of shared memory: a sum of each group, then of all; and whether an expert is out.
  static Index groups(Index experts) { return experts < threads ? threads / experts : 1; }
  static Index shared_bytes(Index experts) { return 8 * (groups(experts) + 1) * experts; }

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Sequence const document = documents[thread.block()];
    Index const begin = document.query_begin, end = begin + document.query_count;
    Index const count = experts < threads ? threads / experts : 1;
    auto* const partial = thread.template shared<double>();  // (groups, E)
    double* const sums = partial + count * experts;
    Index const group = thread.index() / experts;
    if (group < count)
      for (Index e = experts < threads ? thread.index() % experts : thread.index(); e < experts; e += threads) {
        double sum = 0;
        for (Index t = begin + group; t < end; t += count) sum += static_cast<double>(probabilities[t * experts + e]);
        partial[group * experts + e] = sum;
      }
    thread.sync();
    for (Index e = thread.index(); e < experts; e += threads) {
      double sum = 0;
      for (Index g = 0; g < count; ++g) sum += partial[g * experts + e];
      sums[e] = sum;
    }
    thread.sync();
    std::uint32_t const word = largest > smallest ? random_words(random.key(), static_cast<std::uint64_t>(thread.block()))[0] : 0u;
    Index const pool = detail::pool_size(smallest, largest, word);
    for (Index e = thread.index(); e < experts; e += threads) partial[e] = detail::rank_in(sums, experts, e) < pool ? 0 : 1;
    thread.sync();
    for (Index i = begin * experts + thread.index(); i < end * experts; i += threads)
      if (partial[i % experts] != 0) logits[i] = -__builtin_huge_valf();
  }
};

}  // namespace moduleformer::kernels
