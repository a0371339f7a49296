// SPDX-License-Identifier: MIT
#pragma once
// Expert choice (arXiv 2202.09368). TakeTokens, a block an expert: the capacity-th largest key of the expert's scores, bit by
// bit from the highest (a bit belongs to it if at least `capacity` keys are as large), then every token above it and the first
// of those at it. ListExperts, a thread a token: its experts in descending order of score.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/cuda/kernels/reduction.cuh>
#include <moduleformer/backend/cuda/kernels/top_k.cuh>
#include <moduleformer/core/platform.hpp>

#include <cstdint>

namespace moduleformer::kernels {

/// taken (N,E) = 1 where the expert has the token among its `capacity` best, else 0.
struct TakeTokens {
  static constexpr int threads = 256;
  static constexpr std::size_t shared_bytes = (threads + threads / 32) * sizeof(int);
  float const* scores;
  std::uint8_t* taken;
  Index tokens;
  Index experts;
  Index capacity;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const e = thread.block();
    int* const room = thread.template shared<int>();  // a sum of each warp, then a count of each thread
    std::uint32_t bound = 0;
    for (int bit = 31; bit >= 0; --bit) {
      std::uint32_t const candidate = bound | (std::uint32_t{1} << bit);
      if (count(thread, room, e, [candidate](std::uint32_t key) { return key >= candidate; }) >= capacity) bound = candidate;
    }
    Index const above = count(thread, room, e, [bound](std::uint32_t key) { return key > bound; });
    // A thread has consecutive tokens, so that the first tokens at the bound are known by counts of the threads before.
    Index const share = (tokens + threads - 1) / threads, begin = thread.index() * share;
    Index const end = begin + share < tokens ? begin + share : tokens;
    int mine = 0;
    for (Index t = begin; t < end; ++t) mine += key_of(t, e) == bound ? 1 : 0;
    int* const counts = room + threads / 32;
    counts[thread.index()] = mine;
    thread.sync();
    Index place = above;  // of the next token at the bound
    for (int i = 0; i < thread.index(); ++i) place += counts[i];
    for (Index t = begin; t < end; ++t) {
      std::uint32_t const key = key_of(t, e);
      bool const at_bound = key == bound;
      taken[t * experts + e] = key > bound || (at_bound && place < capacity) ? 1 : 0;
      if (at_bound) ++place;
    }
  }

 private:
  [[nodiscard]] MODULEFORMER_DEVICE std::uint32_t key_of(Index t, Index e) const { return score_key(scores[t * experts + e]); }

  /// How many of the expert's keys are so, in every thread.
  template <class Thread, class Is>
  MODULEFORMER_DEVICE Index count(Thread const& thread, int* room, Index e, Is is) const {
    int sum[1] = {0};
    for (Index t = thread.index(); t < tokens; t += threads) sum[0] += is(key_of(t, e)) ? 1 : 0;
    block_sums<threads>(thread, sum, room);
    thread.sync();
    return sum[0];
  }
};

/// ids (N,M) = the experts that took the token, at most M, by descending score, ties to the lowest; then -1.
struct ListExperts {
  static constexpr int threads = 128;
  float const* scores;
  std::uint8_t const* taken;
  ExpertId* ids;
  Index tokens;
  Index experts;
  Index slots;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const t = thread.block() * threads + thread.index();
    if (t >= tokens) return;
    std::uint64_t last = above_all_ranks;
    for (Index s = 0; s < slots; ++s) {
      std::uint64_t best = 0;
      for (Index e = 0; e < experts && last > 0; ++e) {
        if (taken[t * experts + e] == 0) continue;
        std::uint64_t const rank = score_rank(score_key(scores[t * experts + e]), e);
        if (rank < last && rank > best) best = rank;
      }
      ids[t * slots + s] = best == 0 ? -1 : expert_of(best);
      last = best;
    }
  }
};

}  // namespace moduleformer::kernels
